"""The inequalities of docs/method.md, 5.7 to 5.11, on the evidence ladder: exact instances, and adversaries.

Their steps in symbols are `proof.later.LATER_PROOFS` (and "5.8", "5.10" and P1 to P3 elsewhere), their bends are among
`bent_steps.STEP_BENDS`, their mutants among `mutation.TARGETS`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from scipy.optimize import differential_evolution

from fedauto_core.errors import require_known, require_number
from fedauto_core.seeding import stream

from ..bound.aggregation import METHODS, Aggregation, aggregate, arrival_sets
from ..bound.checks import Check, as_frame, stale_checks, unseen_class_checks
from ..bound.constants import Constant, Constants, constants_of
from ..bound.corrected import RATE_LIMIT, control_checks, corrected_checks, rate_checks
from ..bound.improved import IMPROVED
from ..nets import Visit
from ..posterior import Head, certificate
from ..problems.quadratics import Quadratics, random_quadratics
from ..problems.split import Point, Split, skewed_split
from .adaptive import worst_luck
from .scalars import Worst, ratio, worst_of
from .search import ANY

LATER: Mapping[str, str] = {
    "stale bias": "rules that store updates",
    "stale step, E = 1": "rules that store updates, for one local step within the limit",
    "unseen class": "every run in which nobody who is heard has a class",
    "after the fact": "every round of the head, at any step (notebook 23)",
    "single realisations": "one local step within the limit, bounded noise",
    "corrected steps": "SCAFFOLD and FedProx with whatever average, within the limit for L + mu",
    "control bias": "SCAFFOLD, with whatever average",
    "control rate": "SCAFFOLD with full batches, where everybody is heard again and again",
}
"""The inequalities, and to which runs of this repository each applies."""
EQUATIONS = {
    "after the fact": "(s/2)|grad F|^2 <= F(w) - F(w_r) + (s/2)|grad F - G|^2 + (s/2)(L_r s - 1)|G|^2, s = g E",
    "single realisations": "P(5.10 fails at some T) <= delta",
}
LEAST = 1e-6  # a side below this is rounding
HEAD = np.array([[1.0, 0.4, 1.0], [-0.6, 1.2, 1.0], [0.3, -1.5, 1.0], [-1.1, -0.2, 1.0]])


def _of_round(told: Mapping[str, float]) -> Check:
    scale = abs(told["F"]) + abs(told["error"]) + abs(told["curvature"])
    return Check.of("after the fact", EQUATIONS["after the fact"], told["measured"], told["bound"], True, scale)


def _moved(w: np.ndarray, move: np.ndarray, scale: float) -> Check:
    """A round of softmax regression with two features and three classes, from w [9] by move [9]; scale: gamma E."""
    head = Head(SimpleNamespace(), HEAD, np.eye(3)[[0, 1, 2, 0]], np.zeros(0))
    visit = Visit(0, torch.tensor(w), np.zeros(0), None, torch.tensor(w + move), scale)
    return _of_round(certificate(head, visit, 1))


def _lucky(centre: float, start: float, gamma: float, rounds: int, delta: float) -> Check:
    failing = worst_luck((-centre, centre), start, gamma, rounds, delta)
    return Check.of("single realisations", EQUATIONS["single realisations"], failing, delta)


def later_checks(seed: int, instances: int = 20) -> pd.DataFrame:
    """Rows of `as_frame` with a column instance: every inequality of `LATER` on random exact instances."""
    require_number("instances", instances, low=1, strict=False, whole=True)
    rng, frames = stream(seed, "theory", 15), []
    for number in range(instances):
        for kind, checks in _drawn(rng, seed + number):
            frames.append(as_frame(checks, instance=kind))
    return pd.concat(frames, ignore_index=True)


def _drawn(rng: np.random.Generator, seed: int) -> Iterator[tuple[str, list[Check]]]:
    """What the instance is called, and its checks."""
    split = skewed_split(seed, n_clients=4)
    problem = random_quadratics(seed, split, feature_shift=0.5, noise=0.4)
    for rule in METHODS:
        used = aggregate(split, arrival_sets(4), rule)
        known, size = constants_of(problem, used), (len(used.rows), problem.dimension)
        w, starts = rng.normal(size=size[1]), rng.normal(size=size)
        gamma = rng.uniform(0.1, 1) / known.smoothness.value
        yield "quadratics, old models", stale_checks(problem, used, known, w, starts, gamma, rng.normal(size=size) / 4)
        heard, shares = rng.random(size[0]) < 0.7, rng.dirichlet(np.ones(size[0]))
        yield "quadratics, old controls", control_checks(problem, used, known, w, starts, heard, shares)
        for steps, prox in ((1, 0.0), (3, 0.0), (3, 2.0)):
            gamma = rng.uniform(0.1, 1) * IMPROVED.step_limit(known.smoothness.value + prox, steps)
            shifts = rng.normal(size=size)
            yield (
                "quadratics, corrected",
                corrected_checks(problem, used, known, Point(w), gamma, steps, shifts, prox),
            )
    yield "quadratics, heard in turns", _in_turns(rng, problem)
    mass, kappa2 = rng.uniform(0.05, 0.9), rng.exponential()
    yield "two problems", unseen_class_checks(mass, kappa2, rng.normal(size=(16, 3)))
    sizes = 10.0 ** np.arange(-2, 2)
    yield (
        "softmax, any step",
        [_moved(rng.normal(size=9), size * rng.normal(size=9), rng.exponential()) for size in sizes],
    )
    setting = rng.uniform(0, 2), rng.normal(), rng.uniform(0.01, 1), 5
    yield "every outcome, worst network", [_lucky(*setting, delta) for delta in (0.05, 0.5, 0.95)]


def _in_turns(rng: np.random.Generator, problem: Quadratics, rounds: int = 60) -> list[Check]:
    """SCAFFOLD with plain averages, every client heard in one of three rounds, and now and then in between."""
    clients, tau, steps = problem.split.n_clients, 3, 2
    arrived = np.arange(clients) % tau == np.arange(rounds)[:, None] % tau
    used = aggregate(problem.split, arrived | (rng.random(arrived.shape) < 0.2), "FedAvg")
    known = constants_of(problem, used)
    gamma = rng.uniform(0.1, 1) / (RATE_LIMIT * known.smoothness.value * steps * tau)
    return rate_checks(problem, used, known, rng.normal(size=problem.dimension), gamma, steps, tau)


def _world(x: np.ndarray) -> tuple[Quadratics, Aggregation, Constants]:
    """Three participants with h/2 (w - u)^2 and any weights; curvature, centre and weight from x [9]."""
    curvature, centre, beta = 2 * x[:3] - 1, 4 * x[3:6] - 2, x[6:9] + 1e-9
    split = Split(np.ones((3, 1), dtype=int))
    problem = Quadratics(split, curvature[:, None, None], centre[:, None])
    used = Aggregation(split.participants, split.alpha, beta[None] / beta.sum())
    return problem, used, constants_of(problem, used, ANY)


def _stale_at(x: np.ndarray) -> list[Check]:
    problem, used, known = _world(x)
    starts, noise, gamma = 4 * x[9:12] - 2, x[12:15] - 0.5, (0.02 + 0.98 * x[15]) / known.smoothness.value
    return stale_checks(problem, used, known, np.zeros(1), starts[:, None], gamma, noise[:, None])


def _corrected_at(x: np.ndarray) -> list[Check]:
    problem, used, known = _world(x)
    steps, prox = 1 + int(3 * x[13] * (1 - 1e-9)), 2 * x[14]
    gamma = (0.02 + 0.98 * x[15]) * IMPROVED.step_limit(known.smoothness.value + prox, steps)
    shifts = 4 * x[9:12] - 2
    return corrected_checks(problem, used, known, Point(np.zeros(1)), gamma, steps, shifts[:, None], prox)


def _control_at(x: np.ndarray) -> list[Check]:
    problem, used, known = _world(x)
    shares = x[12:15] + 1e-9
    starts = 4 * x[9:12] - 2
    heard = np.array([True, True, x[15] < 0.5])
    return control_checks(problem, used, known, np.zeros(1), starts[:, None], heard, shares / shares.sum())


def _rate_at(x: np.ndarray) -> list[Check]:
    problem, used, known = _world(np.concatenate([0.5 + x[:3] / 2, x[3:9]]))
    known = replace(known, infimum=Constant("F_inf", problem.infimum(), "exact", "minimum"))
    used = replace(used, beta=np.repeat(used.beta, 1 + int(40 * x[9]), axis=0))
    gamma = (0.02 + 0.98 * x[10]) / (RATE_LIMIT * known.smoothness.value)
    return rate_checks(problem, used, known, np.zeros(1), gamma, 1, 1)[-1:]


def _luck_at(x: np.ndarray) -> list[Check]:
    return [_lucky(2 * x[0], 2 * x[1], 0.01 + 0.99 * x[2], 1 + int(4 * x[3]), 0.01 + 0.98 * x[4])]


ATTACKS: dict[str, tuple[Callable[[np.ndarray], list[Check]], int]] = {
    "stale bias": (_stale_at, 16),
    "stale step, E = 1": (_stale_at, 16),
    "unseen class": (lambda x: unseen_class_checks(0.02 + 0.96 * x[0], 2 * x[1] + 1e-3, 4 * x[None, 2:4] - 2), 4),
    "after the fact": (lambda x: [_moved(4 * x[:9] - 2, 4 * x[9:18] - 2, 1e-2 + 4 * x[18])], 19),
    "single realisations": (_luck_at, 5),
    "corrected steps": (_corrected_at, 16),
    "control bias": (_control_at, 16),
    "control rate": (_rate_at, 11),
}
"""What an adversary moves: the checks at a point of the unit cube, and its dimension."""


def later_attack(name: str, seed: int, generations: int = 30) -> Worst:
    """Differential evolution for the largest measured / bound of an inequality of `LATER`. instance: the point of the
    cube of `ATTACKS`. InputError for another name."""
    require_known("inequality", name, ATTACKS)
    require_number("generations", generations, low=1, strict=False, whole=True)
    at, size = ATTACKS[name]

    def sides(x: np.ndarray) -> tuple[float, float]:
        (check,) = (check for check in at(x) if check.name == name)
        return (check.measured, check.bound) if check.measured > LEAST else (0.0, 0.0)

    options = {"rng": seed, "maxiter": generations, "popsize": 6, "polish": False, "tol": 0}
    found = differential_evolution(lambda x: -ratio(*sides(x)), [(0.0, 1.0)] * size, **options)
    return worst_of(*map(float, sides(found.x)), {"point": found.x.tolist()}, int(found.nfev))
