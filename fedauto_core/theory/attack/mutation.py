"""Deliberate errors in the theory code, and the check that notices each: what the checks are worth.

A mutant puts a wrong piece (a function, or a field of a theorem) in the place of a right one, as a slip of the pen
would. It is caught by the first of the named checks whose outcome it changes from right to wrong. A mutant that no
check notices is a hole in the ladder.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from fedauto_core.errors import require

from ..bound import checks, constants, terms
from ..bound.aggregation import aggregate, arrival_sets
from ..bound.constants import Constant, Constants
from ..bound.first import FIRST, GENERAL, SINGLE_STEP
from ..bound.improved import IMPROVED, THEOREMS, convex_checks, polyak_checks
from ..bound.terms import Coefficients
from ..bound.theorem import Theorem
from ..problems import curvature
from ..problems.quadratics import Quadratics, random_quadratics
from ..problems.regression import Problem
from ..problems.split import Point, Split
from ..proof import first as proof


@dataclass(frozen=True)
class Mutant:
    """wrong(right, *arguments) in the place of owner.attribute, the right piece, which everybody looks up there.

    inequalities: names of the checks that rest on it. what: the slip in words, "place: formula -> formula".
    """

    inequalities: tuple[str, ...]
    owner: object
    attribute: str
    wrong: Callable[..., object]
    what: str


@contextmanager
def mutated(mutant: Mutant) -> Iterator[None]:
    """The package with the error in it."""
    put = type.__setattr__ if isinstance(mutant.owner, type) else object.__setattr__  # a theorem is frozen
    right = getattr(mutant.owner, mutant.attribute)
    put(mutant.owner, mutant.attribute, lambda *arguments: mutant.wrong(right, *arguments))
    try:
        yield
    finally:
        put(mutant.owner, mutant.attribute, right)


def _kappa2_from_sums(right: Callable[..., Constant], problem: Problem, w: np.ndarray) -> Constant:
    """sum_c alpha_g(c) ||grad f_c + grad F||^2 has 4 ||grad F||^2 more, as F is the mean of the f_c."""
    (pooled,), known = problem.gradients(problem.split.pooled, w), right(problem, w)
    return replace(known, value=known.value + 4 * float(pooled @ pooled))


def _summed_not_averaged(right: Callable[..., pd.DataFrame], *run: object) -> pd.DataFrame:
    frame = right(*run)
    sums = frame.drop(columns=["start", "bound", "round"]).mul(frame["round"], axis=0)
    return frame.assign(**sums, bound=frame["start"] + sums.drop(columns="measured").sum(axis=1))


def _summed_from_minus(right: Callable[..., pd.DataFrame], run: pd.DataFrame, known: Constants, *at: float) -> object:
    return right(run, replace(known, infimum=replace(known.infimum, value=-known.infimum.value)), *at)


ROUND, IMPROVED_ROUND = (tuple(f"{t.checks['round'][0]}, E {which}" for which in ("= 1", "> 1")) for t in THEOREMS)
BIAS = ("S5 bias", "S5 bias, no feature shift", "I4 bias")
CONVEX = ("I6 convex", "I6 convex, by recursion")
SUMMED = ("S6 summed", "S6 summed, improved")

MUTANTS = (
    Mutant(ROUND, terms, "progress", lambda right, value, after: right(after, value),
           "bounds.round_terms: outcome.value - outcome.value_after -> outcome.value_after - outcome.value"),
    Mutant(ROUND[1:], FIRST, "errors", lambda right, b, drift, L, E: right(b, drift / L, L, E),
           "bounds.round_terms: smoothness**2 -> smoothness"),
    Mutant(ROUND, FIRST, "noise", lambda right, sigma2, beta2, gamma, L, E: right(sigma2 / gamma, beta2, gamma, L, E),
           "bounds.round_terms: smoothness * gamma**2 -> smoothness * gamma"),
    Mutant(ROUND, FIRST, "noise", lambda right, sigma2, beta2, *at: right(sigma2, np.ones_like(beta2), *at),
           "bounds.round_terms: np.sum(beta**2, axis=1) -> np.sum(beta, axis=1)"),
    Mutant(ROUND[1:], FIRST, "errors", lambda right, b, drift, L, E: right(b / E, drift / E, L, E),
           "bounds.round_terms: half = gamma * steps / 2 -> half = gamma / 2"),
    Mutant(("S3 noise",), terms, "noise_bound", lambda right, sigma2, beta, E: right(sigma2 / E, beta, E),
           "bounds.noise_bound: sigma2 / steps -> sigma2 / steps**2"),
    Mutant(("S4 drift",), FIRST, "drift",
           lambda right, sigma2, gradient2, gamma, L, E: right(sigma2, gradient2 * (E - 1) / (2 * E - 1), gamma, L, E),
           "bounds.drift_bound: (2 * steps - 1) -> (steps - 1)"),
    Mutant(("S4 drift",), FIRST, "drift", lambda right, sigma2, gradient2, gamma, *at:
           right(sigma2 / gamma, gradient2 / gamma, gamma, *at), "bounds.drift_bound: gamma**2 -> gamma"),
    Mutant(ROUND[1:], FIRST, "limit", lambda right, E: right(E) * E,
           "bounds.step_limit: smoothness * steps -> smoothness"),
    Mutant(("S5 bias",), FIRST, "bias", lambda right, skew, shift: right(skew, shift / 8),
           "bounds.bias_checks: 2 * aggregation.beta @ deltas -> aggregation.beta @ deltas / 4"),
    Mutant(BIAS, constants, "kappa2", _kappa2_from_sums,
           "constants.kappa2: problem.gradients(split.classes(), w) -  -> problem.gradients(split.classes(), w) + "),
    Mutant(BIAS, constants, "delta2",
           lambda right, problem, used, w: right(problem, replace(used, alpha=used.alpha[::-1]), w),
           "constants.delta2: aggregation.alpha[ -> aggregation.alpha[::-1]["),
    Mutant(("I3 drift",), terms, "drift_factors",
           lambda right, gamma, *at: np.subtract(right(gamma, *at), [[gamma], [0]]),
           "improved.drift_factors: growth**e - 1 -> growth**e - growth"),
    Mutant(("I3 drift",), terms, "drift_factors", lambda right, *at: np.multiply(right(*at), [[1], [-1]]),
           "improved.drift_factors: np.sqrt(k) - np.sqrt(k - 1) -> np.sqrt(k - 1) - np.sqrt(k)"),
    Mutant(IMPROVED_ROUND[1:], terms, "noise_factor",
           lambda right, gamma, L, E: right(gamma, L, E) if E == 1 else 1 / (4 * right(gamma, L, E)),
           "improved.noise_factor: 1 / (2 * left) -> left / 2"),
    Mutant(IMPROVED_ROUND[:1], terms, "noise_factor", lambda right, gamma, L, E: 1.0 if E == 1 else right(gamma, L, E),
           "improved.noise_factor: return 0.5 -> return 1.0"),
    Mutant(IMPROVED_ROUND[1:], IMPROVED, "errors",
           lambda right, b, drift, L, E: {"error": (np.sqrt(b) - L * np.sqrt(drift)) ** 2},
           "improved.improved_terms: np.sqrt(outcome.bias2) +  -> np.sqrt(outcome.bias2) - "),
    Mutant(IMPROVED_ROUND[1:], IMPROVED, "noise", lambda right, sigma2, *at: right(sigma2 / at[-1], *at),
           "improved.improved_terms: steps * noise -> noise"),
    Mutant(IMPROVED_ROUND, IMPROVED, "errors", lambda right, b, drift, L, E: right(2 * b, 2 * drift, L, E),
           "improved.improved_terms: half = gamma * steps / 2 -> half = gamma * steps"),
    Mutant(IMPROVED_ROUND, IMPROVED, "noise", lambda right, sigma2, beta2, *at: right(sigma2, np.ones_like(beta2), *at),
           "improved.improved_terms: np.sum(beta**2, axis=1) -> np.sum(beta, axis=1)"),
    Mutant(IMPROVED_ROUND, IMPROVED, "noise",
           lambda right, sigma2, beta2, gamma, L, E: right(sigma2 / gamma, beta2, gamma, L, E),
           "improved.improved_terms: smoothness * gamma**2 -> smoothness * gamma"),
    Mutant(IMPROVED_ROUND[1:], IMPROVED, "limit", lambda right, E: right(E) * E,
           "improved.improved_limit: smoothness * steps -> smoothness"),
    Mutant(IMPROVED_ROUND[1:], Theorem, "covers", lambda right, theorem, gamma, L, E:
           right(theorem, gamma if theorem.closed(E) else gamma / 5, L, E),
           "improved.improved_admissible: gamma < limit -> gamma < 5 * limit"),
    Mutant(ROUND + IMPROVED_ROUND[:1], Theorem, "covers", lambda right, theorem, gamma, L, E:
           right(theorem, gamma / 9 if theorem.closed(E) else gamma, L, E),
           "bounds.admissible: step_limit(smoothness, steps) -> 9 * step_limit(smoothness, steps)"),
    Mutant(CONVEX, terms, "convex_errors",
           lambda right, radius2, d2, noise2, gamma, E: right(radius2, d2, noise2, gamma, E) - 4 * gamma * E * d2,
           "improved.convex_checks: 4 * gamma * steps * d2 -> 0 * d2"),
    Mutant(("I6 convex",), terms, "convex_errors", lambda right, radius2, *at: right(0.0, *at),
           "improved.convex_checks: 2 * np.sqrt(_squared_distance(point, best) * d2) -> 0 * d2"),
    Mutant(("I5 PL",), terms, "contraction", lambda right, gamma, E, strength: right(gamma, E, 2 * strength),
           "improved.polyak_checks: 1 - gamma * steps * strength -> 1 - 2 * gamma * steps * strength"),
    Mutant(("I6 convex, by recursion",), terms, "convex_distance",
           lambda right, radius2, d2, noise2, gamma, E: right(radius2, d2, noise2 / (gamma * E), gamma, E),
           "improved.convex_checks: + gamma * steps * spread -> + spread"),
    Mutant(("I4 bias",), IMPROVED, "bias", lambda right, skew, shift: (np.sqrt(skew) - np.sqrt(shift)) ** 2,
           "improved.improved_bias_checks: + np.sqrt(shift) -> - np.sqrt(shift)"),
    Mutant(("LoRA smoothness",), curvature, "lora_smoothness", lambda right, *numbers: right(*numbers[:-1], 0.0),
           "curvature.lora_smoothness: a**2 + b**2 -> a**2"),
    Mutant(("LoRA smoothness",), curvature, "lora_ball_smoothness",
           lambda right, scale, L, gradient, rank, radius: right(scale, L, gradient, 1, radius),
           "curvature.lora_ball_smoothness: np.sqrt(rank) -> 1"),
    Mutant(SUMMED, checks, "summed", _summed_not_averaged,
           "bounds.summed: .div(scale * rounds, axis=0) -> .div(scale, axis=0)"),
    Mutant(SUMMED, checks, "summed", _summed_from_minus,
           "bounds.summed: - known.infimum.value -> + known.infimum.value"),
    Mutant(("missing class",), terms, "missing_class", lambda right, mass: mass,
           "bounds.missing_class_check: mass / (1 - mass) -> mass"),
    Mutant(("S1 descent",), Quadratics, "smoothness",
           lambda right, problem, rows: np.min(np.abs(np.linalg.eigvalsh(problem.mix(rows)[0])), axis=1),
           "instances.Quadratics.smoothness: np.max( -> np.min("),
    Mutant(SUMMED, Quadratics, "infimum", lambda right, problem:
           2 * float(problem.value(np.zeros((1, problem.dimension)))[0]) - right(problem),
           "instances.Quadratics.infimum: constant - 0.5 -> constant + 0.5"),
)  # fmt: skip

COEFFICIENT_MUTANTS: tuple[tuple[str, Coefficients, Coefficients], ...] = tuple(
    (f"{kind}: {name} x 2", right, replace(right, **{name: 2 * number}))
    for kind, right in (("E > 1", GENERAL), ("E = 1", SINGLE_STEP))
    for name, number in vars(right).items()
    if number
)
"""The numbers of the first theorem, each doubled: name, right, wrong."""

SMALL = Split(np.array([[2, 2, 2], [3, 0, 1], [0, 4, 0]]))


def _problem(noise: float, shift: float = 0.0) -> Quadratics:
    return random_quadratics(0, SMALL, dimension=2, feature_shift=shift, noise=noise)


def _reference() -> bool:
    """Both bounds on one instance, written out once more with loops over participants, steps and coordinates."""
    problem, gamma, steps = _problem(0.4), 0.21, 3
    used = aggregate(problem.split, arrival_sets(2)[2:3], "FedAuto")
    known, point = constants.constants_of(problem, used), Point(np.ones(2))
    outcome = problem.round(point, used.rows, used.beta, gamma, steps)
    first, second = (checks.round_terms(outcome, used, known, gamma, steps, theorem) for theorem in THEOREMS)
    smoothness, sigma = known.smoothness.value, float(np.sqrt(known.sigma2.value))
    d_first = d_second = beta2 = 0.0
    for weight, gradient2 in zip(used.beta[0], outcome.participant_gradient2, strict=True):
        beta2 += weight * weight
        d_first += weight * gamma * gamma * (2 * 2 * sigma * sigma + 4 / 3 * 2 * 5 * gradient2)
        rooted = [0.0]
        for e in range(1, steps):  # the recursion itself: s_e = gamma (sqrt(e) sigma + e g + L sum_{k<e} s_k)
            rooted.append(gamma * (e**0.5 * sigma + e * gradient2**0.5 + smoothness * sum(rooted)))
        d_second += weight * sum(s * s for s in rooted) / steps
    progress, half = outcome.value - outcome.value_after[0], 0.5 * 3 * gamma
    noise = smoothness * 3 * gamma * gamma * sigma * sigma * beta2
    old = progress + half * (2 * outcome.bias2[0] + 2 * smoothness * smoothness * d_first) + noise
    factor = 1 / (2 - 2 * smoothness * gamma * 3)
    new = progress + half * (outcome.bias2[0] ** 0.5 + smoothness * d_second**0.5) ** 2 + factor * noise
    pairs = ((first["bound"][0], old), (second["bound"][0], new), (first["measured"][0], half * outcome.gradient2))
    return all(np.isclose(value, by_hand, rtol=1e-9) for value, by_hand in pairs)


def _tight() -> bool:
    """E = 1 at gamma = 1/L on isotropic quadratics: an equality, so every slip in either direction shows."""
    problem = _problem(0.4)
    problem = replace(problem, hessian=np.broadcast_to(np.eye(2), problem.hessian.shape))
    used = aggregate(problem.split, arrival_sets(2), "FedAvg")
    known = constants.constants_of(problem, used)
    at = problem, used, known, Point(np.zeros(2)), FIRST.step_limit(1.0, 1), 1
    return all(check.status == "tight" for theorem in THEOREMS for check in checks.round_checks(*at, theorem))


def _noise_equality() -> bool:
    """S3 is an equality for additive noise: E|G - H|^2 = (sigma^2/E) sum beta^2, from the variance of one sum."""
    beta, steps = np.array([[0.25, 0.75]]), 3
    return bool(np.isclose(terms.noise_bound(2.0, beta, steps)[0], 2.0 * (0.25**2 + 0.75**2) * steps / steps**2))


def _bias_with_shift() -> bool:
    """S5 and I4 under feature shift at several points: nothing violated; without shift delta vanishes."""
    shifted, plain = _problem(0.0, shift=1.5), _problem(0.0)
    used = aggregate(SMALL, arrival_sets(2), "FedAvg")
    points = [np.array(w) for w in ((0.0, 0.0), (3.0, -1.0), (-2.0, 2.0))]
    found = [c for w in points for c in checks.bias_checks(shifted, used, w, *THEOREMS)]
    violated = any(check.status == "violated" for check in found)
    return not violated and bool(np.all(constants.delta2(plain, used, points[1]) < 1e-20))


def _kappa_equality() -> bool:
    """S5 is an equality for two classes in one dimension: |grad F - grad f_1| = 1 everywhere, chi2 of (1, 0) is 1."""
    problem = Quadratics(Split(np.array([[1, 0], [0, 1]])), np.ones((2, 1, 1)), np.array([[1.0], [-1.0]]))
    return bool(np.isclose(constants.kappa2(problem, np.full(1, 3.0)).value, 1))


def _limits() -> bool:
    """Step limits by hand: 1/L for one step, 1/(2 L E) for more; the improved one 1/(L E), excluded if E > 1."""
    first = FIRST.step_limit(2.0, 1) == 0.5 and FIRST.step_limit(2.0, 5) == 0.05
    first &= FIRST.covers(0.05, 2.0, 5) and not FIRST.covers(0.0501, 2.0, 5)
    inside, outside = (IMPROVED.covers(gamma, 2.0, 5) for gamma in (0.0999, 0.1))
    return first and IMPROVED.step_limit(2.0, 5) == 0.1 and inside and not outside


def _along_a_run() -> bool:
    """S6, I5 and I6 over two rounds, written out from the terms of each round."""
    problem, gamma, steps = random_quadratics(1, SMALL, 2, curvature=(0.2, 1.0), noise=0.3), 0.05, 2
    used = aggregate(problem.split, arrival_sets(2)[1:3], "FedAvg")
    known, start = constants.constants_of(problem, used), Point(np.array([2.0, -1.0]))
    frame, _ = checks.trajectory(problem, used, known, start, gamma, steps)
    total = checks.summed(frame, known, gamma, steps).iloc[-1]
    errors = frame[["bias", "drift", "noise"]].to_numpy().sum()
    by_hand = (frame["value"][0] - known.infimum.value + errors) / (gamma * steps)
    good = np.allclose(total[["bound", "measured"]], [by_hand, frame["measured"].sum() / (gamma * steps)])
    (hessian,), (linear,), _ = problem.mix(problem.split.pooled)
    best, strength, point = np.linalg.solve(hessian, linear), np.linalg.eigvalsh(hessian)[0], start
    away, gap, right = np.sum((start.mean - best) ** 2), frame["value"][0] - known.infimum.value, 0.0
    convex, distance = away / (2 * gamma * steps), np.sqrt(away)
    far = convex
    for now in map(used.pick, range(2)):
        outcome = problem.round(point, now.rows, now.beta, gamma, steps)
        parts = checks.round_terms(outcome, now, known, gamma, steps, IMPROVED)
        d = np.sqrt(2 * parts["error"][0] / (gamma * steps))
        spread = point.cov.trace() if point.cov is not None else 0.0
        radius = np.sqrt(np.sum((point.mean - best) ** 2) + spread)
        sigma2 = known.sigma2.value * np.sum(now.beta**2)
        alone = 4 * gamma * steps * d**2 + 2 * gamma * sigma2
        convex += (2 * radius * d + alone) / 2
        far += (2 * distance * d + alone) / 2
        distance = np.sqrt((distance + 2 * gamma * steps * d) ** 2 + 2 * gamma**2 * steps * sigma2)
        right = (1 - gamma * steps * strength) * right + parts["error"][0] + parts["noise"][0]
        (point,) = outcome.after
    right += (1 - gamma * steps * strength) ** 2 * gap
    run = checks.run_rounds(problem, used, start, gamma, steps)
    rates = [check.bound for check in convex_checks(problem, run, known, gamma, steps)[-2:]]
    second = checks.terms_of_run(run, known, gamma, steps, IMPROVED)
    rates.append(polyak_checks(second, known, gamma, steps, strength)[-1].bound)
    return bool(good and np.allclose(np.concatenate([np.ravel(x) for x in (convex, far, right)]), rates))


def _largest_curvature() -> bool:
    """L of one quadratic with curvatures 1 and -3 is 3."""
    one = Quadratics(Split(np.array([[1]])), np.diag([1.0, -3.0])[None], np.zeros((1, 2)))
    return one.smoothness(one.split.participants)[0] == 3


def _missing_mass() -> bool:
    """A class of mass 1/4 is missing from an otherwise proportional mixture: chi^2 = (1/4) / (3/4)."""
    check = checks.missing_class_check(np.array([0.0, 1 / 3, 2 / 3]), np.array([0.25, 0.25, 0.5]))
    return bool(np.isclose(check.measured, 1 / 3) and check.status == "tight")


def _minimum() -> bool:
    """F_inf is the value at the point where the gradient vanishes."""
    problem = _problem(0.0)
    (hessian,), (linear,), _ = problem.mix(problem.split.pooled)
    return bool(np.isclose(problem.infimum(), problem.value(np.linalg.solve(hessian, linear)[None])[0]))


def _lora_by_hand() -> bool:
    """(ab)^2/2 on |a|, |b| <= 1 has curvature 3; scale 2, L 3, gradient 1, rank 4, radius 1/2 give 6 + 2 (1 + 3)."""
    bound = curvature.lora_ball_smoothness
    return bool(np.isclose(bound(1.0, 1.0, 0.0, 1, 1.0), 3) and np.isclose(bound(2.0, 3.0, 1.0, 4, 0.5), 14))


CHECKS: dict[str, Callable[[], bool]] = {
    "equality on isotropic quadratics": _tight,
    "bound written out again": _reference,
    "equality of S3": _noise_equality,
    "S5 and I4 under feature shift": _bias_with_shift,
    "equality of S5 for two classes": _kappa_equality,
    "step limits by hand": _limits,
    "S6, I5, I6 written out for two rounds": _along_a_run,
    "largest curvature by hand": _largest_curvature,
    "LoRA's smoothness by hand": _lora_by_hand,
    "mass of a missing class": _missing_mass,
    "F_inf at the stationary point": _minimum,
}


def caught_by(mutant: Mutant) -> str | None:
    """The first check that fails under the mutant (an exception is a failure); None if none does."""
    with mutated(mutant):
        for name, check in CHECKS.items():
            with suppress(ArithmeticError, ValueError):
                if check():
                    continue
            return name
    return None


def coefficient_caught_by(right: Coefficients, wrong: Coefficients) -> str | None:
    """The symbolic step that does not close with a wrong number of the first theorem; None if all do."""
    steps = {"S1+S2 one round": proof.one_round, "S4 drift": proof.drift, "S6 telescoping": proof.telescoping,
             "5.4 best lambda": proof.best_lambda}  # fmt: skip
    if right == SINGLE_STEP:
        del steps["S4 drift"]
    closed = all(prove(right).holds for prove in steps.values())
    what = "the theorem's own numbers do not close the proof"
    require(closed, what, allowed="a proof that holds", remedy="mend theory.proof.first")
    return next((name for name, prove in steps.items() if not prove(wrong).holds), None)
