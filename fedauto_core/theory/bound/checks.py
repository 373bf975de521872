"""The theorems' inequalities as checks: each returns what was measured, what the bound allows, and a status.

A check that takes a theorem is that theorem's version of the inequality; S1..S6 are the steps of docs/method.md,
section 5, I1..I6 those of `improved`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from fedauto_core.methods.base import chi2_divergence

from ..problems.regression import Problem
from ..problems.split import Point, Round
from . import constants, terms
from .aggregation import Aggregation
from .constants import Constants
from .first import FIRST
from .theorem import ROUNDING, Theorem

Status = Literal["tight", "valid", "violated", "not applicable"]
TIGHT = 1e-6  # relative distance below which a bound is called tight
NO_SHIFT = 1e-20  # delta_j^2 below this is rounding: no feature shift


@dataclass(frozen=True)
class Check:
    """One inequality measured <= bound. Inadmissible instances are "not applicable", whatever the numbers."""

    name: str
    equation: str
    measured: float
    bound: float
    status: Status

    @classmethod
    def of(
        cls, name: str, equation: str, measured: float, bound: float, applicable: bool = True, scale: float = 0.0
    ) -> "Check":
        """scale: size of the terms subtracted to get either side; what their rounding can hide counts as zero."""
        measured, bound = (0.0 if abs(side) <= ROUNDING * scale else float(side) for side in (measured, bound))
        size = max(abs(measured), abs(bound))
        if not applicable:
            status = "not applicable"
        elif not measured <= bound + ROUNDING * max(size, scale):
            status = "violated"
        else:
            status = "tight" if size > 0 and bound - measured <= TIGHT * size else "valid"
        return cls(name, equation, measured, bound, status)

    @classmethod
    def each(cls, name: str, equation: str, measured: np.ndarray, bounds: np.ndarray, *rest: float) -> "list[Check]":
        """`of` for all pairs of entries; rest: applicable and scale, the same for all."""
        return [cls.of(name, equation, *pair, *rest) for pair in zip(measured, bounds, strict=True)]

    @property
    def ratio(self) -> float:
        """measured / bound; nan for 0 <= 0, which says nothing about tightness."""
        if self.bound == 0:
            return float("nan") if self.measured == 0 else float("inf")
        return self.measured / self.bound


def round_terms(
    outcome: Round, aggregation: Aggregation, known: Constants, gamma: float, steps: int, theorem: Theorem = FIRST
) -> dict[str, np.ndarray]:
    """The per-round inequality for S aggregations: measured <= bound = progress + errors + noise, each [S]."""
    beta, smoothness, sigma2 = aggregation.beta, known.smoothness.value, known.sigma2.value
    drift = beta @ theorem.drift(sigma2, outcome.participant_gradient2, gamma, smoothness, steps)
    parts = {"progress": terms.progress(outcome.value, outcome.value_after)}
    parts |= theorem.terms(outcome.bias2, drift, sigma2, np.sum(beta**2, axis=1), gamma, smoothness, steps)
    measured = np.full(len(beta), gamma * steps / 2 * outcome.gradient2)
    return {"measured": measured, **parts, "bound": sum(parts.values())}


def round_checks(
    problem: Problem, aggregation: Aggregation, known: Constants, point: Point, gamma: float, steps: int,
    theorem: Theorem = FIRST,
) -> list[Check]:  # fmt: skip
    """The per-round inequality for every aggregation from `point`."""
    outcome = problem.round(point, aggregation.rows, aggregation.beta, gamma, steps)
    return checks_of_round(outcome, aggregation, known, gamma, steps, theorem)


def checks_of_round(
    outcome: Round, aggregation: Aggregation, known: Constants, gamma: float, steps: int, theorem: Theorem
) -> list[Check]:
    """`round_checks` of a round that is known already."""
    applicable = theorem.covers(gamma, known.smoothness.value, steps)
    sides = round_terms(outcome, aggregation, known, gamma, steps, theorem)
    return Check.each(*theorem.round_check(steps), sides["measured"], sides["bound"], applicable, abs(outcome.value))


def descent_checks(problem: Problem, known: Constants, w: np.ndarray, moves: np.ndarray) -> list[Check]:
    """S1 for F, from w along every v in moves [K, P]."""
    (value,), slope = problem.value(w[None]), problem.gradients(problem.split.pooled, w)[0]
    rise = problem.value(w + moves) - value - moves @ slope
    bounds = known.smoothness.value / 2 * np.sum(moves**2, axis=1)
    return Check.each("S1 descent", "F(w + v) - F(w) - <grad F, v> <= (L/2) |v|^2", rise, bounds, True, abs(value))


def drift_checks(
    problem: Problem, aggregation: Aggregation, known: Constants, point: Point, gamma: float, steps: int,
    theorem: Theorem = FIRST,
) -> list[Check]:  # fmt: skip
    """S4 or I3 for each participant; for E = 1 nothing has moved and it reads 0 <= 0 at any step size."""
    outcome = problem.round(point, aggregation.rows, aggregation.beta[:1], gamma, steps)
    return checks_of_drift(outcome, known, gamma, steps, theorem)


def checks_of_drift(outcome: Round, known: Constants, gamma: float, steps: int, theorem: Theorem) -> list[Check]:
    """`drift_checks` of a round that is known already."""
    smoothness = known.smoothness.value
    bounds = theorem.drift(known.sigma2.value, outcome.participant_gradient2, gamma, smoothness, steps)
    applicable = not theorem.drift_limited or steps == 1 or theorem.covers(gamma, smoothness, steps)
    return Check.each(*theorem.checks["drift"], outcome.drift, bounds, applicable)


def bias_checks(problem: Problem, aggregation: Aggregation, w: np.ndarray, *theorems: Theorem) -> list[Check]:
    """S5 at w for every aggregation: b_r <= kappa^2 chi2_r, which needs delta = 0, then each theorem's general form."""
    pooled, gradients = problem.gradients(problem.split.pooled, w), problem.gradients(aggregation.rows, w)
    measured = np.sum((pooled - aggregation.beta @ gradients) ** 2, axis=1)
    chi2 = chi2_divergence(aggregation.beta @ aggregation.alpha, problem.split.target)
    skew, deltas = constants.kappa2(problem, w).value * chi2, constants.delta2(problem, aggregation, w)
    scale = float(np.max(np.sum(gradients**2, axis=1)))
    plain = bool(np.all(deltas <= NO_SHIFT * max(scale, 1.0)))
    found = Check.each("S5 bias, no feature shift", "b_r <= kappa^2 chi2_r", measured, skew, plain, scale)
    for theorem in theorems:
        bounds = theorem.bias(skew, aggregation.beta @ deltas)
        found += Check.each(*theorem.checks["bias"], measured, bounds, True, scale)
    return found


def stale_checks(
    problem: Problem, aggregation: Aggregation, known: Constants, w: np.ndarray, starts: np.ndarray, gamma: float,
    noise: np.ndarray | float = 0.0,
) -> list[Check]:  # fmt: skip
    """5.7 at w, where participant j's gradient stems from starts [J, P] and had some noise [J, P] there: its bias, and
    the round of one such step, in which nothing is left to chance."""
    (pooled,), fresh = problem.gradients(problem.split.pooled, w), problem.gradients(aggregation.rows, w)
    stale = np.vstack([problem.gradients(row[None], s) for row, s in zip(aggregation.rows, starts, strict=True)])
    beta, smoothness, stale = aggregation.beta, known.smoothness.value, stale + noise
    moved, noise2 = np.linalg.norm(w - starts, axis=1), np.sum((beta @ (0 * stale + noise)) ** 2, axis=1)
    measured = np.sum((pooled - beta @ stale) ** 2, axis=1)
    bounds = terms.stale_bias(np.sum((pooled - beta @ fresh) ** 2, axis=1), beta, moved, smoothness, noise2)
    scale = float(np.max(np.sum(stale**2, axis=1)))
    found = Check.each(
        "stale bias", "(sqrt b_r + L sum_j beta_j |w - w_j| + |sum_j beta_j xi_j|)^2", measured, bounds, True, scale
    )
    before, after = problem.value(w[None]), problem.value(w - gamma * beta @ stale)
    progress = terms.progress(before, after) + gamma / 2 * bounds
    left = np.full(len(beta), gamma / 2 * np.sum(pooled**2))
    applicable = gamma * smoothness <= 1 + ROUNDING
    return found + Check.each("stale step, E = 1", "F(w) - F(w_r) + (gamma/2) bias", left, progress, applicable, scale)


def missing_class_check(mixture: np.ndarray, target: np.ndarray) -> Check:
    """5.3, a lower bound on chi2: `measured` is a_c/(1-a_c) for the missing mass a_c, `bound` is chi2 itself."""
    mass = float(target[(mixture == 0) & (target > 0)].sum())
    divergence = float(chi2_divergence(mixture, target))
    return Check.of("missing class", "a_c / (1 - a_c) <= chi2", terms.missing_class(mass), divergence, mass > 0)


def unseen_class_checks(mass: float, kappa2: float, ends: np.ndarray) -> list[Check]:
    """5.8, a lower bound on any algorithm that sees nothing of a class of this mass and ends at one of `ends` [K, P].

    Two problems that agree on all that is seen: f = |w|^2/2 for every class that is seen, |w -+ u|^2/2 for the other
    one, with |u|^2 = kappa^2 / (mass (1 - mass)), along the first axis. `measured` is the floor, `bound` the larger of
    both ||grad F(w)||^2, which the algorithm cannot tell apart.
    """
    move = np.zeros(ends.shape[1])
    move[0] = np.sqrt(kappa2 * mass / (1 - mass))  # mass u
    larger = np.maximum(*(np.sum((ends - sign * move) ** 2, axis=1) for sign in (1, -1)))
    floor = np.full(len(ends), terms.unseen_class(mass, kappa2))
    return Check.each("unseen class", "kappa^2 a / (1 - a) <= max |grad F|^2", floor, larger)


Run = Sequence[tuple[Point, Aggregation, Round]]  # of each round: from where, the weights, what came of it


def run_rounds(problem: Problem, aggregation: Aggregation, start: Point, gamma: float, steps: int) -> Run:
    """A run, round r with aggregation r. Expectations are over the minibatch noise of all rounds so far; the arrivals
    are a fixed (deterministic) trace."""
    rounds, point = [], start
    for now in map(aggregation.pick, range(len(aggregation))):
        rounds.append((point, now, problem.round(point, now.rows, now.beta, gamma, steps)))
        (point,) = rounds[-1][-1].after
    return rounds


def terms_of_run(run: Run, known: Constants, gamma: float, steps: int, theorem: Theorem) -> pd.DataFrame:
    """`round_terms` of every round; further columns: round, value = F(w_{r-1}), value_after = F(w_r)."""
    rows = []
    for number, (_, now, outcome) in enumerate(run, 1):
        parts = round_terms(outcome, now, known, gamma, steps, theorem)
        row = {"round": number, "value": outcome.value, "value_after": float(outcome.value_after[0])}
        rows.append(row | {name: float(value[0]) for name, value in parts.items()})
    return pd.DataFrame(rows)


def trajectory(
    problem: Problem, aggregation: Aggregation, known: Constants, start: Point, gamma: float, steps: int,
    theorem: Theorem = FIRST,
) -> tuple[pd.DataFrame, Point]:  # fmt: skip
    """`terms_of_run` of `run_rounds`, and the last point."""
    run = run_rounds(problem, aggregation, start, gamma, steps)
    (end,) = run[-1][-1].after
    return terms_of_run(run, known, gamma, steps, theorem), end


def summed(run: pd.DataFrame, known: Constants, gamma: float, steps: int) -> pd.DataFrame:
    """S6: the averages over rounds 1..T of both sides, divided by gamma E / 2, for every T; run from `terms_of_run`.

    The progress telescopes to F(w_0) - E F(w_T) and is replaced by F(w_0) - F_inf.
    """
    rounds = np.arange(1, len(run) + 1)
    scale = gamma * steps / 2
    errors = [name for name in ("bias", "drift", "error", "noise") if name in run]
    frame = run[["measured", *errors]].cumsum().div(scale * rounds, axis=0)
    frame.insert(1, "start", (run["value"].iloc[0] - known.infimum.value) / (scale * rounds))
    return frame.assign(bound=frame[["start", *errors]].sum(axis=1), round=rounds)


def summed_checks(
    run: pd.DataFrame, known: Constants, gamma: float, steps: int, theorem: Theorem = FIRST
) -> list[Check]:
    """S6 at every horizon T = 1, 2, ...; run from `terms_of_run` with the same theorem."""
    applicable = theorem.covers(gamma, known.smoothness.value, steps)
    scale = abs(run["value"].iloc[0]) * 2 / (gamma * steps)
    return [
        Check.of(*theorem.checks["summed"], row.measured, row.bound, applicable, scale / row.round)
        for row in summed(run, known, gamma, steps).itertuples()
    ]


def as_frame(checks: Iterable[Check], **case: object) -> pd.DataFrame:
    """One row per check: name, equation, measured, bound, status, ratio, and the constant columns `case`."""
    return pd.DataFrame([case | vars(check) | {"ratio": check.ratio} for check in checks])


def tally(frame: pd.DataFrame, by: Sequence[str] = ("name",)) -> pd.DataFrame:
    """One row per group of `as_frame` rows: how many of each status; worst and median ratio of the applicable ones."""
    ratio = frame["ratio"].where(frame["status"] != "not applicable")
    counts = {status.replace(" ", "_"): frame["status"].eq(status) for status in Status.__args__}
    columns = frame[list(by)].assign(tried=1, **counts, worst_ratio=ratio, median_ratio=ratio)
    total = dict.fromkeys(("tried", *counts), "sum") | {"worst_ratio": "max", "median_ratio": "median"}
    return columns.groupby(list(by), sort=False).agg(total).reset_index()
