"""The inequalities of docs/method.md, 5.7 to 5.11, each on an instance small enough to write down: as stated, and bent.

See `bent_steps`. That a network sees the noise to come or that no price is paid for the probability breaks no single
run for sure: measured is the probability that the inequality fails, bound is delta.
"""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch

from ..bound.aggregation import Aggregation
from ..bound.checks import stale_checks, unseen_class_checks
from ..bound.constants import Constant, Constants
from ..bound.corrected import RATE_LIMIT, control_checks, corrected_checks, rate_checks
from ..nets import Visit
from ..posterior import Head, certificate
from ..problems.quadratics import Quadratics
from ..problems.split import Point, Split
from .adaptive import worst_luck
from .step_bend import Sides, StepBend

W = np.ones(1)


def _bowls(centres: list[float], curvature: float, beta: list[float]) -> tuple[Quadratics, Aggregation]:
    """One participant for each centre u, with curvature/2 (w - u)^2."""
    counts = np.ones((len(centres), 1), dtype=int)
    problem = Quadratics(Split(counts), np.full((len(centres), 1, 1), curvature), np.array(centres)[:, None])
    return problem, Aggregation(problem.split.participants, problem.split.alpha, np.array([beta]))


def _claimed(smoothness: float) -> Constants:
    return Constants(*(Constant(name, value, "certified bound", "claimed")
                       for name, value in (("L", smoothness), ("sigma^2", 0.0), ("F_inf", float("-inf")))))  # fmt: skip


def _stale(which: int, bent: bool, smoothness: float = 1.0, gamma: float = 1.0, noise: float = 0.0) -> Sides:
    """Bias or round of F = w^2/2 at w = 1 with an update from w = 3. Bent: L claimed, gamma, or noise that is real and
    not counted."""
    problem, alone = _bowls([0.0], 1.0, [1.0])
    claimed, step = (smoothness, gamma) if bent else (1.0, 1.0)
    found = stale_checks(problem, alone, _claimed(claimed), W, np.full((1, 1), 3.0), step)[which]
    measured = found.measured if not bent or which else (2.0 + noise) ** 2
    numbers = {"F": "w^2/2", "w": 1, "update from": 3, "its noise": noise if bent else 0, "gamma": step}
    return measured, found.bound, numbers | {"claimed L": claimed}


def _unseen(bent: bool, kappa2: float = 1.0, seen: bool = False) -> Sides:
    """A class of mass 1/5, from the minimum of what is seen; bent: kappa^2 claimed, or from the minimum of F, which
    only who sees the class can tell."""
    mass, w = 0.2, np.zeros((1, 1))
    (check,) = unseen_class_checks(mass, kappa2 if bent else 1.0, w)
    (true,) = unseen_class_checks(mass, 1.0, w)
    numbers = {"mass": mass, "w": "argmin F" if bent and seen else 0, "claimed kappa^2": kappa2 if bent else 1.0}
    return check.measured, 0.0 if bent and seen else true.bound, numbers


def _after_the_fact(bent: bool, scale: float = 1.0, at_w: bool = False) -> Sides:
    """One sample of two classes, moved by a small step; bent: gamma E claimed at `scale` times its value, or the
    curvature taken at w only, where it is smaller than on the way."""
    p, move, gamma = 0.1, np.array([0.15, -0.15]), 2.0
    w = np.array([np.log(p / (1 - p)), 0.0])
    head = Head(SimpleNamespace(), np.ones((1, 1)), np.eye(2)[:1], np.zeros(0))
    visit = Visit(0, torch.tensor(w), np.zeros(0), None, torch.tensor(w + move), gamma * (scale if bent else 1.0))
    told = certificate(head, visit, 1)
    bound = told["bound"]
    if bent and at_w:
        remainder = told["curvature"] + move @ move / (2 * gamma)
        bound += p * (1 - p) * (move[0] - move[1]) ** 2 / 2 - remainder
    numbers = {"p at w": p, "move of the logits": move.tolist(), "gamma E": visit.lr}
    return told["measured"], bound, numbers | {"curvature": "at w" if bent and at_w else "on the way"}


def _rate(bent: bool, silent: bool = False) -> Sides:
    """SCAFFOLD from the minimum of w^2/2, the other half of F being (w - 2)^2/2. Bent: its owner is never heard."""
    problem, rounds = _bowls([0.0, 2.0], 1.0, [0.5, 0.5])[0], 1000
    beta = np.tile([1.0, 0.0] if bent and silent else [0.5, 0.5], (rounds, 1))
    used = Aggregation(problem.split.participants, problem.split.alpha, beta)
    known = _claimed(1.0)
    known = replace(known, infimum=replace(known.infimum, value=problem.infimum()))
    last = rate_checks(problem, used, known, np.zeros(1), 1 / RATE_LIMIT, 1, 1)[-1]
    numbers = {"centres": [0, 2], "w": 0, "gamma": f"1/{RATE_LIMIT}", "E": 1, "T": rounds, "beta": beta[0].tolist()}
    return last.measured, last.bound, numbers


Setting = tuple[tuple[float, float], float, float, int]  # centres, start, gamma, T


def _luck(bent: bool, delta: float, setting: Setting, paid: bool = True, **how: object) -> Sides:
    """The probability that a run fails under the worst network, and delta. paid: with the term in log(1/delta)."""
    priced = delta if paid or not bent else 1.0
    measured = worst_luck(*setting, priced, **(how if bent else {}))
    numbers = dict(zip(("centres", "w", "gamma", "T"), setting, strict=True)) | {"delta": delta}
    return measured, delta, numbers | ({name: str(value) for name, value in how.items()} if bent else {})


def _corrected(bent: bool, prox: float, smoothness: float, gamma: float, steps: int) -> Sides:
    """A round on F = F_1 = w^2/2 with a shift and a prox; bent: at a step size, for an L or with a prox that are not
    those claimed. As stated: E = 1, gamma = 1/L, an equality."""
    problem, alone = _bowls([0.0], 1.0, [1.0])
    mu, gamma, steps = (prox, gamma, steps) if bent else (0.0, 1.0, 1)
    known = _claimed(smoothness if bent else 1.0)
    shift, point = np.full((1, 1), 0.5), Point(W)
    (check,) = corrected_checks(problem, alone, known, point, gamma, steps, shift)
    outcome = problem.round(point, alone.rows, alone.beta, gamma, steps, shift, mu)
    lower = float(problem.round(point, alone.rows, alone.beta, gamma, steps, shift).value_after[0])
    bound = check.bound + lower - float(outcome.value_after[0])
    numbers = {"F": "w^2/2", "w": 1, "shift": 0.5, "mu": mu, "gamma": gamma, "E": steps}
    return check.measured, bound, numbers | {"claimed L": known.smoothness.value}


def _control(bent: bool, smoothness: float = 1.0, heard: bool = True, uniform: bool = False) -> Sides:
    """F = mean of w^2/2, who is heard, and (w + 2)^2/2, at w = 1, with controls from 2 and 1. Bent: L claimed, a
    participant counted as heard that never was, or shares that are not those of F counted as if they were."""
    problem, used = _bowls([0.0, -2.0], 1.0, [1.0, 0.0])
    starts, asked = np.array([[2.0], [1.0]]), np.array([True, heard or not bent])
    shares = np.array([0.9, 0.1]) if bent and uniform else np.array([0.5, 0.5])
    (true,) = control_checks(problem, used, _claimed(1.0), W, starts, asked, shares)
    (told,) = control_checks(
        problem, used, _claimed(smoothness if bent else 1.0), W, starts, np.ones(2, bool), np.array([0.5, 0.5])
    )
    numbers = {"centres": [0, -2], "w": 1, "controls from": [2, 1], "heard": asked.tolist(), "p": shares.tolist()}
    return true.measured, told.bound, numbers | {"claimed L": smoothness if bent else 1.0}


NEAR = (-0.5, 0.5), 0.5, 1.0, 5
HALF = "L claimed at half its value"
LATER_BENDS = (
    StepBend("stale bias", "A1 smoothness", HALF, partial(_stale, 0, smoothness=0.5)),
    StepBend("stale bias", "noise of the past", "it is there, and not counted", partial(_stale, 0, noise=0.5)),
    StepBend("stale step, E = 1", "step size", "twice the limit", partial(_stale, 1, gamma=2.0)),
    StepBend("unseen class", "kappa^2", "claimed at twice its value", partial(_unseen, kappa2=2.0)),
    StepBend("unseen class", "nothing of the class is seen", "it is seen", partial(_unseen, seen=True)),
    StepBend("after the fact", "curvature on the way", "taken at w only", partial(_after_the_fact, at_w=True)),
    StepBend("after the fact", "step size", "claimed at twenty times its value", partial(_after_the_fact, scale=20.0),
             needed=False),
    StepBend("single realisations", "noise bound", "B claimed at a quarter of its value",
             partial(_luck, delta=0.05, setting=NEAR, claimed=0.25)),
    StepBend("single realisations", "price of probability", "log(1/delta) left out",
             partial(_luck, delta=0.05, setting=NEAR, paid=False)),
    StepBend("single realisations", "A3 zero mean", "noise that is always B",
             partial(_luck, delta=0.5, setting=((-0.5, 0.5), 0.0, 0.3, 6), noises=(1.0,))),
    StepBend("single realisations", "A4 arrivals before noise", "the network sees the noise to come",
             partial(_luck, delta=0.9, setting=((-0.5, 0.5), 0.5, 1.0, 1), foresight=True)),
    StepBend("corrected steps", "step size", "twice the limit",
             partial(_corrected, prox=0.0, smoothness=1.0, gamma=2.0, steps=1)),
    StepBend("corrected steps", "L + mu", "mu = 9, and not counted",
             partial(_corrected, prox=9.0, smoothness=1.0, gamma=0.5, steps=2)),
    StepBend("control bias", "A1 smoothness", HALF, partial(_control, smoothness=0.5)),
    StepBend("control bias", "everybody was heard", "half of F was not", partial(_control, heard=False)),
    StepBend("control bias", "c has the shares of F", "it has others", partial(_control, uniform=True)),
    StepBend("control rate", "everybody heard again", "half of F never is", partial(_rate, silent=True)),
)  # fmt: skip
