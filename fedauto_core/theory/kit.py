"""A reviewer's kit: somebody else's instance against every inequality (notebook 31).

Instances come as text (label counts, curvatures, centres), so that they can be parameters of a page. Constants can be
claimed at a part of their true values: what a bound then says is no longer a theorem, and shows where it needs them.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from fedauto_core.errors import require, require_known, require_number

from .attack.bent_steps import STEP_BENDS
from .attack.bent_theorem import BENDS
from .bound.aggregation import Aggregation
from .bound.checks import (
    Check,
    as_frame,
    bias_checks,
    checks_of_drift,
    checks_of_round,
    descent_checks,
    missing_class_check,
    run_rounds,
    stale_checks,
    summed_checks,
    terms_of_run,
)
from .bound.constants import Constants
from .bound.corrected import control_checks, corrected_checks
from .bound.improved import IMPROVED, THEOREMS, convex_checks, polyak_checks
from .problems.quadratics import Quadratics, random_quadratics
from .problems.regression import Problem, softmax_regression
from .problems.split import Point, Split

KINDS = ("quadratics", "softmax")
PART = {"A1 smoothness": "smoothness", "A3 variance": "sigma2"}


def split_of(text: str) -> Split:
    """Label counts of a text such as "4,4; 9,0; 0,9", the server first. InputError for anything else."""
    try:
        counts = [[int(number) for number in row.split(",")] for row in text.split(";")]
    except ValueError:
        counts = []
    fits = len(counts) > 1 and len({len(row) for row in counts}) == 1
    allowed = "whole numbers, commas between classes and semicolons between the server and the clients"
    require(fits, f"label counts {text!r}", allowed=allowed, remedy="write for instance '4,4; 9,0; 0,9'")
    return Split(np.array(counts))


def problem_of(
    kind: str,
    split: Split,
    seed: int,
    curvature: Sequence[float] = (),
    centre: Sequence[float] = (),
    noise: float = 0.5,
) -> Problem:
    """Quadratics, drawn or with a curvature and a centre of each class on a line; or softmax regression on digits."""
    require_known("instance", kind, KINDS)
    classes = split.counts.shape[1]
    for name, given in (("curvature", curvature), ("centre", centre)):
        what, allowed = f"{name} of {len(given)} classes", f"one number for each of the {classes} classes, or none"
        require(len(given) in (0, classes), what, allowed=allowed, remedy=f"give {classes} numbers")
    require(len(curvature) == len(centre), "only one of curvature and centre", allowed="both or none",
            remedy="give both")  # fmt: skip
    if kind == "softmax":
        return softmax_regression(seed, split)
    if not len(curvature):
        return random_quadratics(seed, split, curvature=(0.1, 1.0), noise=noise)
    h, u = (np.asarray(values, dtype=float)[split.label] for values in (curvature, centre))
    return Quadratics(split, h[:, None, None], u[:, None], noise)


def weighed(split: Split, arrived: np.ndarray, weights: Sequence[float]) -> Aggregation:
    """Somebody's own weights [N+1] of the server and the clients, divided by their sum over the arrived, [S, N]."""
    own = np.asarray(weights, dtype=float)
    fits = own.shape == (split.n_clients + 1,) and bool(np.all(own >= 0)) and own[0] > 0
    allowed = f"{split.n_clients + 1} numbers >= 0, the server's above 0, since it is always heard"
    require(fits, f"weights {list(weights)}", allowed=allowed, remedy="give one for the server and one for each client")
    beta = np.hstack([np.ones((len(arrived), 1)), arrived]) * own
    return Aggregation(split.participants, split.alpha, beta / beta.sum(axis=1, keepdims=True))


def claim(known: Constants, assumption: str, part: float) -> Constants:
    """The constants with L ("A1 smoothness") or sigma^2 ("A3 variance") claimed at a part of its value."""
    require_known("assumption", assumption, PART)
    require_number("claimed part", part, remedy="use 1 for the truth, less for a lie")
    constant = getattr(known, PART[assumption])
    how = constant.how if part == 1 else f"claimed at {part:g} of its value"
    return replace(known, **{PART[assumption]: replace(constant, value=part * constant.value, how=how)})


def one_round(
    problem: Problem, used: Aggregation, known: Constants, w: np.ndarray, gamma: float, steps: int, seed: int = 0
) -> pd.DataFrame:
    """Rows of `as_frame` for every inequality that speaks of one round from w, with a column set: the number of the
    aggregation, -1 where the inequality does not depend on it. Old models, shifts and controls are drawn."""
    outcome = problem.round(Point(w), used.rows, used.beta, gamma, steps)
    rng, size = np.random.default_rng(seed), (len(used.rows), len(w))
    each, alone = [], descent_checks(problem, known, w, rng.normal(size=(20, len(w))))
    for theorem in THEOREMS:
        each += checks_of_round(outcome, used, known, gamma, steps, theorem)
        alone += checks_of_drift(outcome, known, gamma, steps, theorem)
    each += bias_checks(problem, used, w, *THEOREMS) + stale_checks(
        problem, used, known, w, w + 0.3 * rng.normal(size=size), gamma
    )
    each += _after_the_fact(problem, used, known, w, gamma, steps)
    each += [missing_class_check(mixture, problem.split.target) for mixture in used.beta @ used.alpha]
    if isinstance(problem, Quadratics):
        shifts, starts = 0.3 * rng.normal(size=size), w + 0.3 * rng.normal(size=size)
        shares = np.append(problem.split.counts.sum(axis=1), np.zeros(size[0] - len(problem.split.counts)))
        each += corrected_checks(problem, used, known, Point(w), gamma, steps, shifts)
        heard = np.ones(size[0], dtype=bool)
        each += control_checks(problem, used, known, w, starts, heard, shares / shares.sum())
    numbers = np.tile(np.arange(len(used)), len(each) // len(used))
    rows = [as_frame(each).assign(set=numbers), as_frame(alone).assign(set=-1)]
    frame = pd.concat(rows, ignore_index=True)
    return frame.assign(slack=frame["bound"] - frame["measured"])


def _after_the_fact(
    problem: Problem, used: Aggregation, known: Constants, w: np.ndarray, gamma: float, steps: int
) -> list[Check]:
    """5.9 for the round without noise, with L on the segment; it needs no step limit."""
    still = replace(problem, noise=0.0) if isinstance(problem, Quadratics) else problem
    outcome, scale = still.round(Point(w), used.rows, used.beta, gamma, steps), gamma * steps
    (slope,) = still.gradients(problem.split.pooled, w)
    mean = np.array([w - after.mean for after in outcome.after]) / scale  # G
    errors, size2 = np.sum((slope - mean) ** 2, axis=1), np.sum(mean**2, axis=1)
    bounds = outcome.value - outcome.value_after + scale / 2 * errors
    bounds += scale / 2 * (known.smoothness.value * scale - 1) * size2
    equation = "(s/2)|grad F|^2 <= F(w) - F(w_r) + (s/2)|grad F - G|^2 + (s/2)(L s - 1)|G|^2, s = g E"
    measured = np.full(len(mean), scale / 2 * slope @ slope)
    return Check.each("after the fact", equation, measured, bounds, True, abs(outcome.value))


def whole_run(
    problem: Problem, used: Aggregation, known: Constants, w: np.ndarray, gamma: float, steps: int
) -> pd.DataFrame:
    """Rows of `as_frame` for every inequality that speaks of a run, round r with aggregation r, with a column T."""
    run, checks = run_rounds(problem, used, Point(w), gamma, steps), []
    for theorem in THEOREMS:
        terms = terms_of_run(run, known, gamma, steps, theorem)
        checks += summed_checks(terms, known, gamma, steps, theorem)
    if isinstance(problem, Quadratics):
        (low, *_) = np.linalg.eigvalsh(problem.mix(problem.split.pooled)[0][0])
        if low > 1e-9:
            checks += polyak_checks(terms, known, gamma, steps, min(float(low), known.smoothness.value))
        both = convex_checks(problem, run, known, gamma, steps) if low > -1e-9 else []
        checks += both[::2] + both[1::2]
    frame = as_frame(checks)
    horizons = np.tile(np.arange(1, len(used) + 1), len(frame) // len(used))
    return frame.assign(T=horizons, slack=frame["bound"] - frame["measured"])


def expected(values: np.ndarray, chances: Sequence[float]) -> float:
    """The mean of values [2^N] of all arrival sets (`bound.aggregation.arrival_sets`) for independent arrivals."""
    table = np.asarray(values, dtype=float)
    require(
        len(table) == 2 ** len(chances) and all(0 <= p <= 1 for p in chances),
        f"chances {list(chances)} of {len(table)} arrival sets",
        allowed="a number from 0 to 1 for each client",
        remedy="give one for each client",
    )
    for p in chances:  # client k is bit k of the set's number
        pairs = table.reshape(-1, 2)
        table = pairs[:, 0] * (1 - p) + pairs[:, 1] * p
    return float(table[0])


def falsifiers(known: Constants, gamma: float, steps: int, names: Sequence[str]) -> pd.DataFrame:
    """What would have to be false for each of some inequalities to fail: one row per assumption that was seen to be
    needed (`attack.bent_steps`, `attack.bent_theorem`), and how it is known here."""
    limit = IMPROVED.step_limit(known.smoothness.value, steps)
    here: dict[str, Callable[[], str]] = {
        "A1 smoothness": lambda: f"L = {known.smoothness.value:.4g}, {_source(known, 'smoothness')}",
        "A3 variance": lambda: f"sigma^2 = {known.sigma2.value:.4g}, {_source(known, 'sigma2')}",
        "A2 lower bound": lambda: f"F_inf = {known.infimum.value:.4g}, {_source(known, 'infimum')}",
        "kappa^2": lambda: "exact, from all class gradients at w",
        "delta^2": lambda: "exact, from all gradients at w",
        "step size": lambda: f"gamma = {gamma:.4g}, {gamma / limit:.2f} of 1/(L E)",
    }
    rows = []
    for name in names:
        bends = [(b.assumption, b.how) for b in STEP_BENDS if b.inequality == name and b.needed]
        if name.startswith(("round", "improved round")):
            bends = [(b.assumption, b.how) for b in BENDS if b.needed]
        for assumption, how in bends:
            known_here = here.get(assumption, lambda: "by construction of the instance")()
            rows.append({"inequality": name, "assumption": assumption, "broken by": how, "here": known_here})
    return pd.DataFrame(rows, columns=["inequality", "assumption", "broken by", "here"])


def _source(known: Constants, name: str) -> str:
    constant = getattr(known, name)
    return f"{constant.provenance}: {constant.how}"
