"""The single inequalities, each on an instance small enough to write down: as stated, and with one assumption bent.

As stated the instance shows how close to equality the inequality can come, mostly all the way. Bent, it is a
counter-example: the assumption is needed. One bend is expected to break nothing.
"""

from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np

from fedauto_core.methods.base import chi2_divergence

from ..bound.aggregation import Aggregation
from ..bound.checks import missing_class_check, run_rounds, summed, trajectory
from ..bound.constants import Constant, Constants, constants_of, delta2, kappa2
from ..bound.first import FIRST
from ..bound.improved import CONVEX_LIMIT, IMPROVED, convex_checks, polyak_checks
from ..bound.terms import noise_bound
from ..bound.theorem import Theorem
from ..problems.curvature import lora_ball_smoothness
from ..problems.quadratics import Quadratics
from ..problems.split import Point, Split
from .bent_later import LATER_BENDS
from .step_bend import Sides, StepBend

NOISE = (-1.0, 1.0)
PAIRS = list(product(NOISE, repeat=2))
FLAT = 1e-6  # curvature of a loss that is as good as linear


def _parabolas(curvature: float, noise: float = 0.0) -> tuple[Quadratics, Aggregation, Constants]:
    """One participant with curvature/2 w^2 and its noise; L = 1 is claimed."""
    problem = Quadratics(Split(np.array([[1]])), np.full((1, 1, 1), curvature), np.zeros((1, 1)), noise)
    alone = Aggregation(problem.split.participants, problem.split.alpha, np.ones((1, 1)))
    lowest = Constant("F_inf", 0.0 if curvature > 0 else float("-inf"), "exact", "at 0, if anywhere")
    claimed = Constant("L", 1.0, "certified bound", "claimed")
    return problem, alone, replace(constants_of(problem, alone, lowest), smoothness=claimed)


def _descent(bent: bool) -> Sides:
    claimed, (problem, *_) = 0.5 if bent else 1.0, _parabolas(1.0)
    here, there = problem.value(np.array([[0.0], [1.0]]))
    return float(there - here), claimed / 2, {"F": "x^2/2", "w": 0, "v": 1, "claimed L": claimed}


def _noise(outcomes: list, beta: list[float], steps: int, numbers: dict, claimed: float = 1.0) -> Sides:
    """E|G - H|^2 over equally likely outcomes of the noise, and its bound for the claimed sigma^2."""
    measured = float(np.mean(np.mean(outcomes, axis=1) ** 2))
    return measured, float(noise_bound(claimed, np.array([beta]), steps)[0]), numbers


def _variance(bent: bool) -> Sides:
    claimed = 0.25 if bent else 1.0
    return _noise([[x] for x in NOISE], [1.0], 1, {"noise": NOISE, "claimed sigma^2": claimed}, claimed)


def _independence(bent: bool) -> Sides:
    pairs = [(x, x) for x in NOISE] if bent else PAIRS
    return _noise(pairs, [0.5, 0.5], 1, {"outcomes of both": pairs, "beta": [0.5, 0.5], "E": 1})


def _zero_mean(bent: bool) -> Sides:
    paths = [(1.0, 1.0)] if bent else PAIRS
    return _noise(paths, [1.0], 2, {"noise in two steps": paths, "E": 2})


def _steep(theorem: Theorem, gamma: float, numbers: dict, claimed: float = 1.0) -> Sides:
    """Drift on the concave parabola, the largest that L = 1 allows, in five steps without noise."""
    told = {"F_j": "-x^2/2", "w": 1} | numbers | {"gamma": gamma, "E": 5}
    return *_drift(theorem, gamma, 5, 1.0, 0.0, -1.0, 0.0, claimed), told


def _drift(
    theorem: Theorem, gamma: float, steps: int, w: float, noise: float, curvature: float, sigma2: float, L: float
) -> tuple[float, float]:
    """Drift of one participant, and the theorem's bound for the claimed sigma^2 and L."""
    problem, alone, _ = _parabolas(curvature, noise)
    outcome = problem.round(Point(np.full(1, w)), alone.rows, alone.beta, gamma, steps)
    bound = theorem.drift(sigma2, outcome.participant_gradient2, gamma, L, steps)
    return float(outcome.drift[0]), float(bound[0])


def _drift_claim(theorem: Theorem, part: float, bent: bool) -> Sides:
    """Bent: L claimed at this part of its value. The step size is allowed for the claimed L."""
    claimed = part if bent else 1.0
    gamma = FIRST.step_limit(claimed, 5) if theorem is FIRST else 0.1
    return _steep(theorem, gamma, {"claimed L": claimed}, claimed)


def _drift_step(theorem: Theorem, bent: bool) -> Sides:
    return _steep(theorem, FIRST.step_limit(1.0, 5) * (20 if bent else 1), {})


def _first_drift_noise(bent: bool) -> Sides:
    claimed, steps = 0.25 if bent else 1.0, 50
    gamma = FIRST.step_limit(1.0, steps)
    numbers = {"F_j": "-x^2/2", "w": 0, "noise": NOISE, "claimed sigma^2": claimed, "gamma": gamma, "E": steps}
    return *_drift(FIRST, gamma, steps, 0.0, 1.0, -1.0, claimed, 1.0), numbers


def _improved_drift_noise(bent: bool) -> Sides:
    claimed = 0.25 if bent else 1.0
    numbers = {"slope": 0, "noise": NOISE, "claimed sigma^2": claimed, "gamma": 1, "E": 3}
    return *_drift(IMPROVED, 1.0, 3, 0.0, 1.0, FLAT, claimed, FLAT), numbers


def _drift_mean(theorem: Theorem, steps: int, bent: bool) -> Sides:
    """On a loss without slope, from noise +-1 or from noise that is always 1."""
    measured, bound = _drift(theorem, 1.0, steps, 0.0, 1.0, FLAT, 1.0, FLAT)
    measured = float(np.mean(np.arange(steps) ** 2.0)) if bent else measured
    return measured, bound, {"slope": 0, "noise": [1.0] if bent else NOISE, "gamma": 1, "E": steps}


def _bias(shift: float) -> tuple[float, float, float, float, dict[str, object]]:
    """b, kappa^2, chi^2, delta^2 and the numbers: only one of two owners arrives, and it holds one of two classes.

    Gradients: -shift and +shift of class 0 at its two owners, 2 of class 1.
    """
    split, gradients = Split(np.array([[1, 0], [1, 2]])), np.array([-shift, shift, 2.0, 2.0])
    problem, w = Quadratics(split, np.ones((4, 1, 1)), -gradients[:, None]), np.zeros(1)
    first = Aggregation(split.participants[:1], split.alpha[:1], np.ones((1, 1)))
    (pooled,), (own,) = problem.gradients(split.pooled, w), problem.gradients(first.rows, w)
    numbers = {"counts": split.counts.tolist(), "gradients": gradients.tolist(), "beta": [1, 0]}
    chi2 = float(chi2_divergence(first.alpha[0], split.target))
    b, delta2_ = float(np.sum((pooled - own) ** 2)), float(delta2(problem, first, w)[0])
    return b, kappa2(problem, w).value, chi2, delta2_, numbers


def _plain_bias(kappa: float, shift: float, bent: bool) -> Sides:
    """Bent: kappa^2 claimed at this fraction of its value, a class that looks different at its two owners."""
    kappa, shift = (kappa, shift) if bent else (1.0, 0.0)
    b, kappa2_, chi2, _, numbers = _bias(shift)
    return b, kappa * kappa2_ * chi2, numbers | {"claimed kappa^2": kappa * kappa2_}


def _bias_claim(theorem: Theorem, kappa: float, delta: float, bent: bool) -> Sides:
    """Bent: kappa^2 and delta^2 claimed at these fractions of their values."""
    kappa, delta = (kappa, delta) if bent else (1.0, 1.0)
    b, kappa2_, chi2, delta2_, numbers = _bias(1.0)
    claimed = {"claimed kappa^2": kappa * kappa2_, "claimed delta^2": delta * delta2_}
    return b, float(theorem.bias(kappa * kappa2_ * chi2, delta * delta2_)), numbers | claimed


def _missing(bent: bool) -> Sides:
    mixture, target = np.array([0.0, 0.75 if bent else 1.0]), np.array([0.25, 0.75])
    check = missing_class_check(mixture, target)
    return check.measured, check.bound, {"mixture": mixture.tolist(), "alpha_g": target.tolist()}


def _infimum(theorem: Theorem, bent: bool) -> Sides:
    problem, alone, known = _parabolas(1.0)
    known = replace(known, infimum=Constant("F_inf", 0.05 if bent else 0.0, "exact", "claimed"))
    run, _ = trajectory(problem, alone, known, Point(np.ones(1)), 1.0, 1, theorem)
    (row,) = summed(run, known, 1.0, 1).to_dict("records")
    numbers = {"F": "x^2/2", "w": 1, "gamma": 1, "T": 1, "claimed F_inf": known.infimum.value}
    return row["measured"], row["bound"], numbers


def _seen_noise(bent: bool) -> Sides:
    """F_A = F_B = F = w^2/2, so that nothing is biased: in round 2 B gets through and not A if round 1's noise was
    negative. On average over noise and arrivals; bent: given that B got through."""
    gamma, w, alone, sides = 0.25, 0.5, np.ones((1, 1)), []
    errors = float(FIRST.total(np.zeros(1), w**2 * alone, np.ones(1), alone, gamma, 1.0, 1)[0])
    for noise in NOISE:
        after = w - gamma * (w + noise)
        end2 = ((1 - gamma) * after) ** 2 + gamma**2  # E w_2^2
        sides.append((gamma / 2 * (w**2 + after**2), (w**2 - end2) / 2 + 2 * errors))
    measured, bound = sides[NOISE.index(-1.0)] if bent else np.mean(sides, axis=0)
    return float(measured), float(bound), {"F": "x^2/2", "w": w, "noise": NOISE, "gamma": gamma, "E": 1, "T": 2}


def _polyak_round(curvature: float, gamma: float, mu: float, bent: bool) -> Sides:
    gamma, mu = (gamma, mu) if bent else (0.01, curvature)
    problem, alone, known = _parabolas(curvature)
    run, _ = trajectory(problem, alone, known, Point(np.ones(1)), gamma, 1, IMPROVED)
    (check,) = polyak_checks(run, known, gamma, 1, mu)
    numbers = {"F": f"{curvature} x^2/2", "w": 1, "L": 1, "gamma": gamma, "E": 1, "claimed mu": mu}
    return check.measured, check.bound, numbers


def _polyak(bent: bool) -> Sides:
    """A step on F = 1 - cos x. |F'|^2 = (1 + cos x) F makes it PL for |x| <= 1/2, where the step stays; not on top."""
    gamma, w = 1.0, np.pi - 0.01 if bent else 0.5
    mu = (1 + np.cos(0.5)) / 2
    after = w - gamma * np.sin(w)
    numbers = {"F": "1 - cos x", "w": w, "gamma": gamma, "claimed mu": float(mu)}
    return float(1 - np.cos(after)), float((1 - gamma * mu) * (1 - np.cos(w))), numbers


def _convexity(bent: bool) -> Sides:
    """Gradient descent on Huber's loss, or from close to the top of the wave 1 - cos x, which is not convex."""
    gamma, w, rounds = 1 / CONVEX_LIMIT, np.pi - 0.01 if bent else 100.0, 60 if bent else 800
    values, x = [], w
    for _ in range(rounds):
        values.append(1 - np.cos(x) if bent else x**2 / 2 if abs(x) <= 1 else abs(x) - 0.5)
        x -= gamma * (np.sin(x) if bent else np.clip(x, -1, 1))
    numbers = {"F": "1 - cos x" if bent else "Huber", "w": w, "gamma": gamma, "T": rounds}
    return float(np.mean(values)), float(w**2 / (gamma * rounds)), numbers


def _convex_step(name: str, bent: bool) -> Sides:
    gamma, rounds = (16 if bent else 1) / CONVEX_LIMIT, 2
    problem, alone, known = _parabolas(1.0)
    both = Aggregation(alone.rows, alone.alpha, np.ones((rounds, 1)))
    checks = convex_checks(problem, run_rounds(problem, both, Point(np.ones(1)), gamma, 1), known, gamma, 1)
    last = [check for check in checks if check.name == name][-1]
    return last.measured, last.bound, {"F": "x^2/2", "w": 1, "gamma": gamma, "T": rounds}


def _ball(bent: bool) -> Sides:
    radius = 0.5 if bent else 1.0
    curvature = float(np.linalg.eigvalsh(np.array([[1.0, 2.0], [2.0, 1.0]]))[-1])  # of (a b)^2 / 2 at a = b = 1
    bound = float(lora_ball_smoothness(1.0, 1.0, 0.0, 1, radius))
    return curvature, bound, {"F": "(a b)^2 / 2", "a": 1, "b": 1, "claimed radius": radius}


QUARTER = "claimed at a quarter of its value"
STEP_BENDS = (
    StepBend("S1 descent", "A1 smoothness", "L claimed at half its value", _descent),
    StepBend("S3 noise", "A3 variance", f"sigma^2 {QUARTER}", _variance),
    StepBend("S3 noise", "A3 independence", "two participants share their noise", _independence),
    StepBend("S3 noise", "A3 zero mean", "noise that is always sigma", _zero_mean),
    StepBend("S4 drift", "A1 smoothness", "L claimed at a twentieth of its value", partial(_drift_claim, FIRST, 0.05)),
    StepBend("S4 drift", "step size", "twenty times the limit", partial(_drift_step, FIRST)),
    StepBend("S4 drift", "A3 variance", f"sigma^2 {QUARTER}", _first_drift_noise),
    StepBend("S4 drift", "A3 zero mean", "noise that is always sigma", partial(_drift_mean, FIRST, 16)),
    StepBend("I3 drift", "A1 smoothness", "L claimed at half its value", partial(_drift_claim, IMPROVED, 0.5)),
    StepBend("I3 drift", "step size", "twenty times the first limit", partial(_drift_step, IMPROVED), needed=False),
    StepBend("I3 drift", "A3 variance", f"sigma^2 {QUARTER}", _improved_drift_noise),
    StepBend("I3 drift", "A3 zero mean", "noise that is always sigma", partial(_drift_mean, IMPROVED, 3)),
    StepBend("S5 bias, no feature shift", "kappa^2", "claimed at half its value", partial(_plain_bias, 0.5, 0.0)),
    StepBend("S5 bias, no feature shift", "delta = 0", "a class looks different at its two owners",
             partial(_plain_bias, 1.0, 1.0)),
    StepBend("S5 bias", "kappa^2", QUARTER, partial(_bias_claim, FIRST, 0.25, 1.0)),
    StepBend("S5 bias", "delta^2", QUARTER, partial(_bias_claim, FIRST, 1.0, 0.25)),
    StepBend("I4 bias", "kappa^2", QUARTER, partial(_bias_claim, IMPROVED, 0.25, 1.0)),
    StepBend("I4 bias", "delta^2", QUARTER, partial(_bias_claim, IMPROVED, 1.0, 0.25)),
    StepBend("missing class", "mixture sums to one", "it sums to three quarters", _missing),
    StepBend("S6 summed", "A2 lower bound", "F_inf claimed too high", partial(_infimum, FIRST)),
    StepBend("S6 summed", "fixed trace, or on average", "given arrivals that looked at past noise", _seen_noise),
    StepBend("S6 summed, improved", "A2 lower bound", "F_inf claimed too high", partial(_infimum, IMPROVED)),
    StepBend("I5 PL", "mu", "claimed at twice its value", partial(_polyak_round, 0.5, 0.5, 1.0)),
    StepBend("I5 PL", "step size", "two and a half times the limit", partial(_polyak_round, 1.0, 2.5, 1.0)),
    StepBend("I5 PL", "Polyak-Lojasiewicz", "from the top of a wave", _polyak),
    StepBend("I6 convex", "convexity", "from the top of a wave", _convexity),
    StepBend("I6 convex", "step size", "sixteen times the limit", partial(_convex_step, "I6 convex")),
    StepBend("I6 convex, by recursion", "convexity", "from the top of a wave", _convexity),
    StepBend("I6 convex, by recursion", "step size", "sixteen times the limit",
             partial(_convex_step, "I6 convex, by recursion")),
    StepBend("LoRA smoothness", "bounded factors", "radius claimed at half its value", _ball),
    *LATER_BENDS,
)  # fmt: skip
