"""The theorem's inequalities as checks: each returns what was measured, what the bound allows, and a status.

Equations and step names S1..S6 are those of method.md, section 5. The numerical constants live in `Coefficients`
only: the symbolic proof (`theory.symbolic`) reads the same values, so changing one breaks both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import pandas as pd

from fedauto_core.methods.base import chi2_divergence
from fedauto_core.theory.bound.aggregation import Aggregation
from fedauto_core.theory.bound.constants import Constants, delta2, kappa2
from fedauto_core.theory.problems.quadratics import Point, Round, require_gamma, require_steps
from fedauto_core.theory.problems.regression import Problem

Status = Literal["tight", "valid", "violated", "not applicable"]
ROUNDING, TIGHT = 1e-10, 1e-6  # relative: rounding error forgiven; distance below which a bound is called tight
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
    ) -> Check:
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

    @property
    def ratio(self) -> float:
        """measured / bound; nan for 0 <= 0, which says nothing about tightness."""
        if self.bound == 0:
            return float("nan") if self.measured == 0 else float("inf")
        return self.measured / self.bound


@dataclass(frozen=True)
class Coefficients:
    """Numbers of the per-round inequality

    (gamma E/2) ||grad F||^2 <= F(w) - E F(w_r) + (gamma E/2) (bias b_r + drift L^2 D_r)
                                + noise L gamma^2 E sigma^2 sum_j beta_j^2,
    D_r = drift_noise gamma^2 (E-1) sigma^2 + drift_gradient gamma^2 (E-1)(2E-1) sum_j beta_j ||grad F_j||^2,
    for gamma <= step / (L E).
    """

    step: Fraction
    bias: Fraction
    drift: Fraction
    noise: Fraction
    drift_noise: Fraction
    drift_gradient: Fraction


GENERAL = Coefficients(Fraction(1, 2), Fraction(2), Fraction(2), Fraction(1), Fraction(2), Fraction(4, 3))
SINGLE_STEP = Coefficients(Fraction(1), Fraction(1), Fraction(0), Fraction(1, 2), Fraction(0), Fraction(0))


def coefficients(steps: int) -> Coefficients:
    """The theorem's numbers for E = steps; E = 1 has its own, sharper branch."""
    require_steps(steps)
    return SINGLE_STEP if steps == 1 else GENERAL


def step_limit(smoothness: float, steps: int) -> float:
    """Largest admissible gamma: 1/L for E = 1, 1/(2 L E) otherwise."""
    return float(coefficients(steps).step) / (smoothness * steps)


def admissible(gamma: float, smoothness: float, steps: int) -> bool:
    """Whether gamma is within its limit; InputError unless gamma is a positive number."""
    require_gamma(gamma)
    return gamma <= step_limit(smoothness, steps) * (1 + ROUNDING)


def noise_bound(sigma2: float, beta: np.ndarray, steps: int) -> np.ndarray:
    """S3: (sigma^2 / E) sum_j beta_j^2, for beta [S, J] -> [S]."""
    return sigma2 / steps * np.sum(beta**2, axis=1)


def drift_bound(
    sigma2: float, gradient2: np.ndarray, gamma: float, steps: int, numbers: Coefficients = GENERAL
) -> np.ndarray:
    """S4: bound on mean_e E||w_j^e - w||^2 from ||grad F_j(w)||^2, elementwise."""
    from_noise = float(numbers.drift_noise) * (steps - 1) * sigma2
    return gamma**2 * (from_noise + float(numbers.drift_gradient) * (steps - 1) * (2 * steps - 1) * gradient2)


def round_terms(
    outcome: Round,
    aggregation: Aggregation,
    known: Constants,
    gamma: float,
    steps: int,
    numbers: Coefficients | None = None,
) -> dict[str, np.ndarray]:
    """The per-round inequality for S aggregations: measured <= bound = progress + bias + drift + noise, each [S]."""
    numbers = numbers or coefficients(steps)
    beta, smoothness, sigma2 = aggregation.beta, known.smoothness.value, known.sigma2.value
    half = gamma * steps / 2
    drift = beta @ drift_bound(sigma2, outcome.participant_gradient2, gamma, steps, numbers)
    terms = {
        "progress": outcome.value - outcome.value_after,
        "bias": half * float(numbers.bias) * outcome.bias2,
        "drift": half * float(numbers.drift) * smoothness**2 * drift,
        "noise": float(numbers.noise) * smoothness * gamma**2 * steps * sigma2 * np.sum(beta**2, axis=1),
    }
    return {"measured": np.full(len(beta), half * outcome.gradient2), **terms, "bound": sum(terms.values())}


def round_checks(
    problem: Problem,
    aggregation: Aggregation,
    known: Constants,
    point: Point,
    gamma: float,
    steps: int,
    numbers: Coefficients | None = None,
) -> list[Check]:
    """The per-round inequality for every aggregation from `point`; `numbers` replaces the theorem's own."""
    applicable = admissible(gamma, known.smoothness.value, steps)
    outcome = problem.round(point, aggregation.rows, aggregation.beta, gamma, steps)
    terms = round_terms(outcome, aggregation, known, gamma, steps, numbers)
    equation = "(gE/2)|grad F|^2 <= F(w) - E F(w_r) + (gE/2)(2 b_r + 2 L^2 D_r) + L g^2 E s^2 sum beta^2"
    if steps == 1:
        equation = "(g/2)|grad F|^2 <= F(w) - E F(w_r) + (g/2) b_r + (L g^2/2) s^2 sum beta^2"
    return [
        Check.of(f"round, E = {steps}", equation, measured, bound, applicable, abs(outcome.value))
        for measured, bound in zip(terms["measured"], terms["bound"], strict=True)
    ]


def descent_checks(problem: Problem, known: Constants, w: np.ndarray, moves: np.ndarray) -> list[Check]:
    """S1 for F, from w along every v in moves [K, P]."""
    (value,), slope = problem.value(w[None]), problem.gradients(problem.split.pooled, w)[0]
    rise = problem.value(w + moves) - value - moves @ slope
    bounds = known.smoothness.value / 2 * np.sum(moves**2, axis=1)
    equation = "F(w + v) - F(w) - <grad F, v> <= (L/2) |v|^2"
    return [
        Check.of("S1 descent", equation, measured, bound, scale=abs(value))
        for measured, bound in zip(rise, bounds, strict=True)
    ]


def drift_checks(
    problem: Problem, aggregation: Aggregation, known: Constants, point: Point, gamma: float, steps: int
) -> list[Check]:
    """S4 for each participant; for E = 1 nothing has moved and it reads 0 <= 0 at any step size."""
    outcome = problem.round(point, aggregation.rows, aggregation.beta[:1], gamma, steps)
    bounds = drift_bound(known.sigma2.value, outcome.participant_gradient2, gamma, steps)
    applicable = admissible(gamma, known.smoothness.value, steps) or steps == 1
    equation = "mean_e E|w_j^e - w|^2 <= 2 g^2 (E-1) s^2 + (4/3) g^2 (E-1)(2E-1) |grad F_j|^2"
    return [
        Check.of("S4 drift", equation, measured, bound, applicable)
        for measured, bound in zip(outcome.drift, bounds, strict=True)
    ]


def bias_checks(problem: Problem, aggregation: Aggregation, w: np.ndarray) -> list[Check]:
    """S5 at w: b_r <= kappa^2 chi2_r (needs delta = 0), and b_r <= 2 kappa^2 chi2_r + 2 sum_j beta_j delta_j^2."""
    pooled, gradients = problem.gradients(problem.split.pooled, w), problem.gradients(aggregation.rows, w)
    measured = np.sum((pooled - aggregation.beta @ gradients) ** 2, axis=1)
    skew = kappa2(problem, w).value * chi2_divergence(aggregation.beta @ aggregation.alpha, problem.split.target)
    deltas = delta2(problem, aggregation, w)
    scale = float(np.max(np.sum(gradients**2, axis=1)))
    plain = bool(np.all(deltas <= NO_SHIFT * max(scale, 1.0)))
    shift = 2 * aggregation.beta @ deltas
    checks = []
    for b, label, feature in zip(measured, skew, shift, strict=True):
        checks.append(Check.of("S5 bias, no feature shift", "b_r <= kappa^2 chi2_r", b, label, plain, scale))
        equation = "b_r <= 2 kappa^2 chi2_r + 2 sum_j beta_j delta_j^2"
        checks.append(Check.of("S5 bias", equation, b, 2 * label + feature, scale=scale))
    return checks


def missing_class_check(mixture: np.ndarray, target: np.ndarray) -> Check:
    """5.3, a lower bound on chi2: `measured` is a_c/(1-a_c) for the missing mass a_c, `bound` is chi2 itself."""
    absent = (mixture == 0) & (target > 0)
    mass = float(target[absent].sum())
    equation = "a_c / (1 - a_c) <= chi2"
    divergence = float(chi2_divergence(mixture, target))
    return Check.of("missing class", equation, mass / (1 - mass) if mass < 1 else np.inf, divergence, mass > 0)


def trajectory(
    problem: Problem,
    aggregation: Aggregation,
    known: Constants,
    start: Point,
    gamma: float,
    steps: int,
    terms_of: Callable[..., dict[str, np.ndarray]] = round_terms,
) -> tuple[pd.DataFrame, Point]:
    """`round_terms` (or those of the improved theorem) along a run, round r with aggregation r, and the last point.

    Further columns: round, value = F(w_{r-1}), value_after = F(w_r). Expectations are over the minibatch noise of all
    rounds so far; the arrivals are a fixed (deterministic) trace.
    """
    rows, point = [], start
    for index in range(len(aggregation)):
        now = aggregation.pick(index)
        outcome = problem.round(point, now.rows, now.beta, gamma, steps)
        terms = {name: float(value[0]) for name, value in terms_of(outcome, now, known, gamma, steps).items()}
        rows.append({"round": index + 1, "value": outcome.value, "value_after": float(outcome.value_after[0])} | terms)
        (point,) = outcome.after
    return pd.DataFrame(rows), point


def summed(terms: pd.DataFrame, known: Constants, gamma: float, steps: int) -> pd.DataFrame:
    """S6: the averages over rounds 1..T of both sides, divided by gamma E / 2, for every T; terms from `trajectory`.

    The progress telescopes to F(w_0) - E F(w_T) and is replaced by F(w_0) - F_inf.
    """
    rounds = np.arange(1, len(terms) + 1)
    scale = gamma * steps / 2
    errors = [name for name in ("bias", "drift", "error", "noise") if name in terms]
    frame = terms[["measured", *errors]].cumsum().div(scale * rounds, axis=0)
    frame.insert(1, "start", (terms["value"].iloc[0] - known.infimum.value) / (scale * rounds))
    bound = frame[["start", *errors]].sum(axis=1)
    return frame.assign(bound=bound, round=rounds)


def summed_checks(
    terms: pd.DataFrame,
    known: Constants,
    gamma: float,
    steps: int,
    covers: Callable[[float, float, int], bool] = admissible,
) -> list[Check]:
    """S6 at every horizon T = 1, 2, ...; covers(gamma, L, E): whether the theorem that made the terms applies."""
    applicable = covers(gamma, known.smoothness.value, steps)
    equation = "mean_r E|grad F|^2 <= 2 (F_0 - F_inf)/(g E T) + averages of noise, bias, drift"
    scale = abs(terms["value"].iloc[0]) * 2 / (gamma * steps)
    return [
        Check.of("S6 summed", equation, row.measured, row.bound, applicable, scale / row.round)
        for row in summed(terms, known, gamma, steps).itertuples()
    ]


def as_frame(checks: Iterable[Check], **case: object) -> pd.DataFrame:
    """One row per check: name, equation, measured, bound, status, ratio, and the constant columns `case`."""
    return pd.DataFrame([case | asdict(check) | {"ratio": check.ratio} for check in checks])


def tally(frame: pd.DataFrame, by: Sequence[str] = ("name",)) -> pd.DataFrame:
    """One row per group of `as_frame` rows: how many of each status; worst and median ratio of the applicable ones."""
    ratio = frame["ratio"].where(frame["status"] != "not applicable")
    counts = {status.replace(" ", "_"): frame["status"].eq(status) for status in Status.__args__}
    columns = frame[list(by)].assign(tried=1, **counts, worst_ratio=ratio, median_ratio=ratio)
    total = dict.fromkeys(("tried", *counts), "sum") | {"worst_ratio": "max", "median_ratio": "median"}
    return columns.groupby(list(by), sort=False).agg(total).reset_index()
