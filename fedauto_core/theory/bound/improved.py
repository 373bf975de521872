"""The improved theorem (ours): the assumptions of `bounds`, for E > 1 steps up to twice as long, and no larger a bound.

For gamma < 1/(L E) (E = 1: gamma <= 1/L), with b_r as before and expectation over the minibatch noise,

    (gamma E/2) ||grad F(w)||^2 <= F(w) - E F(w_r) + (gamma E/2) (sqrt(b_r) + L sqrt(D_r))^2
                                   + c_r L gamma^2 E sigma^2 sum_j beta_j^2,

    c_r = 1 / (2 (1 - L gamma E)) for E > 1, 1/2 for E = 1,
    D_r = sum_j beta_j (1/E) sum_{e<E} (a_e ||grad F_j(w)|| + c_e sigma)^2,
    a_e = ((1 + gamma L)^e - 1) / L,   c_e = gamma sum_{k=1..e} (sqrt(k) - sqrt(k-1)) (1 + gamma L)^{e-k}.

Proof. **Bias and drift (I1).** grad F - H = (grad F - sum_j beta_j grad F_j(w)) + sum_j beta_j mean_e (grad F_j(w) -
grad F_j(w_j^e)). In L2 over the noise the norm of a sum is at most the sum of the norms: at most sqrt(b_r) + L
sqrt(D_r), the second by Jensen and smoothness. Squared, that is never more than 2 b_r + 2 L^2 D_r: the slack is
(sqrt(b_r) - L sqrt(D_r))^2.
**Noise (I2).** |G|^2 <= (1 + h)|H|^2 + (1 + 1/h)|G - H|^2 for every h > 0. With h = 1/(L gamma E) - 1 the descent lemma
leaves no |H|^2 at all, and 1 + 1/h = 1/(1 - L gamma E). The first theorem fixes h = 1, which costs a factor up to two.
**Drift (I3).** w_j^e - w = -gamma sum_{k<e} (grad F_j(w_j^k) + noise_k). In L2 the noises add like sqrt(e) sigma, and
||grad F_j(w_j^k)|| <= ||grad F_j(w)|| + L ||w_j^k - w||, so s_e = ||w_j^e - w|| in L2 obeys s_e <= gamma (sqrt(e)
sigma + e ||grad F_j(w)|| + L sum_{k<e} s_k). Its largest solution, by induction, is the one with equality,
a_e ||grad F_j(w)|| + c_e sigma: no crude bound on the feedback, no factor for separating noise and gradient, and no
limit on gamma.
Then S6 as before. Where w is random, take the expectation: E sqrt(b_r D_r) <= sqrt(E b_r E D_r) (Cauchy-Schwarz), so
all of the above stands with E b_r and E D_r; for weights that do not depend on earlier noise (a fixed trace; for others
see `theory.adaptive`) E D_r is at most D_r with E ||grad F_j(w)||^2 in it.
**Never larger** than the first theorem's terms for gamma <= 1/(2 L E): I1 and c_r <= 1 (I2) as above, and for the drift
(a g + c sigma)^2 <= 2 a^2 g^2 + 2 c^2 sigma^2 with y = gamma L, y E <= 1/2. Gradient: a_e <= gamma e (e^{1/2} - 1) /
(1/2) <= 1.298 gamma e, so 2 mean a_e^2 <= 0.562 gamma^2 (E-1)(2E-1) < 4/3 of it. Noise: summing by parts, c_e = gamma
(sqrt(e) +
y sum_{k<e} sqrt(k) (1+y)^{e-1-k}) <= gamma sqrt(e) (1 + 0.5496 e/E), so 2 mean c_e^2 <= 1.884 gamma^2 (E-1) < 2 of it.

**S5 (I4).** b_r <= (kappa sqrt(chi2_r) + sqrt(sum_j beta_j delta_j^2))^2, by the same triangle inequality.
**Polyak-Lojasiewicz (I5).** If ||grad F||^2 >= 2 mu (F - F_inf), one round gives E F(w_r) - F_inf <= (1 - gamma E mu)
(F(w) - F_inf) + e_r, e_r the two error terms above: where e_r <= e, a linear rate down to e / (gamma E mu).
**Convex F (I6).** With a minimiser w*, R_r = ||w_r - w*|| and gamma <= 1/(8 L E): expanding R_r^2, <H, w - w*> >= F
- F_inf - ||grad F - H|| R and |G|^2 <= 4 |grad F|^2 + 4 |grad F - H|^2 + 2 |G - H|^2 <= 8 L (F - F_inf) + ... leave
gamma E (F(w) - F_inf) <= R_{r-1}^2 - E R_r^2 + 2 gamma E R_{r-1} d_r + 4 gamma^2 E^2 d_r^2
                          + 2 gamma^2 E sigma^2 sum_j beta_j^2,
d_r = sqrt(b_r) + L sqrt(D_r). R_{r-1} stands on the right. It can be measured on the way, or follow from R_0 and d_r:
without its left side the inequality gives E R_r^2 <= (R_{r-1} + 2 gamma E d_r)^2 + 2 gamma^2 E sigma^2 sum_j beta_j^2.
Where R stays bounded, this is a rate of 1/T down to a floor; along a flat direction of F the bias may push for ever.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from fedauto_core.errors import require
from fedauto_core.methods.base import chi2_divergence
from fedauto_core.theory.bound.aggregation import Aggregation
from fedauto_core.theory.bound.checks import Check, admissible, round_terms
from fedauto_core.theory.bound.constants import Constants, delta2, kappa2
from fedauto_core.theory.problems.quadratics import Point, Quadratics, Round, require_gamma, require_steps
from fedauto_core.theory.problems.regression import Problem

CONVEX_LIMIT = 8  # I6: gamma <= 1/(8 L E)


def improved_limit(smoothness: float, steps: int) -> float:
    """Supremum of the admissible gamma, 1/(L E); it is itself admissible for E = 1 only."""
    require_steps(steps)
    return 1 / (smoothness * steps)


def improved_admissible(gamma: float, smoothness: float, steps: int) -> bool:
    """Whether the improved theorem covers this step size."""
    require_gamma(gamma)
    limit = improved_limit(smoothness, steps)
    return gamma < limit or (steps == 1 and admissible(gamma, smoothness, 1))


def drift_factors(gamma: float, smoothness: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """I3: a_e and c_e for e = 0..E-1; the root mean square drift is at most a_e ||grad F_j(w)|| + c_e sigma."""
    growth, e = 1 + gamma * smoothness, np.arange(steps)
    a, c = (growth**e - 1) / smoothness, np.zeros(steps)
    for k in range(1, steps):
        c[k] = growth * c[k - 1] + gamma * (np.sqrt(k) - np.sqrt(k - 1))
    return a, c


def improved_drift(
    sigma2: float | np.ndarray, gradient2: np.ndarray, gamma: float, smoothness: float, steps: int
) -> np.ndarray:
    """I3: bound on mean_e E||w_j^e - w||^2 from sigma^2 and ||grad F_j(w)||^2, elementwise, broadcast."""
    a, c = drift_factors(gamma, smoothness, steps)
    return np.mean((a * np.sqrt(gradient2)[..., None] + c * np.sqrt(np.asarray(sigma2))[..., None]) ** 2, axis=-1)


def noise_factor(gamma: float, smoothness: float, steps: int) -> float:
    """I2: c_r; infinite at and beyond the limit."""
    if steps == 1:
        return 0.5
    left = 1 - smoothness * gamma * steps
    return 1 / (2 * left) if left > 0 else float("inf")


def improved_terms(
    outcome: Round, aggregation: Aggregation, known: Constants, gamma: float, steps: int
) -> dict[str, np.ndarray]:
    """The improved per-round inequality for S aggregations: measured <= bound = progress + error + noise, each [S]."""
    beta, smoothness, sigma2 = aggregation.beta, known.smoothness.value, known.sigma2.value
    half = gamma * steps / 2
    drift = beta @ improved_drift(sigma2, outcome.participant_gradient2, gamma, smoothness, steps)
    noise = 0.0 if sigma2 == 0 else noise_factor(gamma, smoothness, steps) * sigma2
    terms = {
        "progress": outcome.value - outcome.value_after,
        "error": half * (np.sqrt(outcome.bias2) + smoothness * np.sqrt(drift)) ** 2,
        "noise": smoothness * gamma**2 * steps * noise * np.sum(beta**2, axis=1),
    }
    return {"measured": np.full(len(beta), half * outcome.gradient2), **terms, "bound": sum(terms.values())}


def improved_checks(
    problem: Problem, aggregation: Aggregation, known: Constants, point: Point, gamma: float, steps: int
) -> list[Check]:
    """The improved per-round inequality for every aggregation from `point`."""
    outcome = problem.round(point, aggregation.rows, aggregation.beta, gamma, steps)
    terms = improved_terms(outcome, aggregation, known, gamma, steps)
    applicable = improved_admissible(gamma, known.smoothness.value, steps)
    equation = "(gE/2)|grad F|^2 <= F(w) - E F(w_r) + (gE/2)(sqrt b_r + L sqrt D_r)^2 + c_r L g^2 E s^2 sum beta^2"
    return [
        Check.of(f"improved round, E = {steps}", equation, measured, bound, applicable, abs(outcome.value))
        for measured, bound in zip(terms["measured"], terms["bound"], strict=True)
    ]


def improved_drift_checks(
    problem: Problem, aggregation: Aggregation, known: Constants, point: Point, gamma: float, steps: int
) -> list[Check]:
    """I3 for each participant, at any step size."""
    outcome = problem.round(point, aggregation.rows, aggregation.beta[:1], gamma, steps)
    smoothness = known.smoothness.value
    bounds = improved_drift(known.sigma2.value, outcome.participant_gradient2, gamma, smoothness, steps)
    equation = "mean_e E|w_j^e - w|^2 <= mean_e (a_e |grad F_j| + c_e s)^2"
    return [
        Check.of("I3 drift", equation, measured, bound) for measured, bound in zip(outcome.drift, bounds, strict=True)
    ]


def improved_bias_checks(problem: Problem, aggregation: Aggregation, w: np.ndarray) -> list[Check]:
    """I4 at w: b_r <= (kappa sqrt(chi2_r) + sqrt(sum_j beta_j delta_j^2))^2, with or without feature shift."""
    pooled, gradients = problem.gradients(problem.split.pooled, w), problem.gradients(aggregation.rows, w)
    measured = np.sum((pooled - aggregation.beta @ gradients) ** 2, axis=1)
    chi2 = chi2_divergence(aggregation.beta @ aggregation.alpha, problem.split.target)
    shift = aggregation.beta @ delta2(problem, aggregation, w)
    bounds = (np.sqrt(kappa2(problem, w).value * chi2) + np.sqrt(shift)) ** 2
    scale = float(np.max(np.sum(gradients**2, axis=1)))
    equation = "b_r <= (kappa sqrt chi2_r + sqrt(sum_j beta_j delta_j^2))^2"
    return [Check.of("I4 bias", equation, b, bound, scale=scale) for b, bound in zip(measured, bounds, strict=True)]


def improvement(outcome: Round, aggregation: Aggregation, known: Constants, gamma: float, steps: int) -> np.ndarray:
    """How many times larger the error and noise terms of the first theorem are, [S]; NaN where both vanish."""
    first = round_terms(outcome, aggregation, known, gamma, steps)
    second = improved_terms(outcome, aggregation, known, gamma, steps)
    old, new = first["bias"] + first["drift"] + first["noise"], second["error"] + second["noise"]
    return np.divide(old, new, out=np.full(len(old), np.nan), where=new > 0)


def polyak_checks(terms: pd.DataFrame, known: Constants, gamma: float, steps: int, strength: float) -> list[Check]:
    """I5 at every horizon T of a run; terms from `trajectory` with `improved_terms`; strength: mu, 0 < mu <= L."""
    require(
        bool(0 < strength <= known.smoothness.value * (1 + 1e-9)),
        f"mu = {strength}",
        allowed=f"0 < mu <= L = {known.smoothness.value:.4g}",
        remedy="use a constant with ||grad F||^2 >= 2 mu (F - F_inf)",
    )
    covered = improved_admissible(gamma, known.smoothness.value, steps)
    gap0, contraction = terms["value"].iloc[0] - known.infimum.value, 1 - gamma * steps * strength
    floor, checks = 0.0, []
    for row in terms.itertuples():
        floor = contraction * floor + row.error + row.noise
        rate, gap = contraction**row.round * gap0 + floor, row.value_after - known.infimum.value
        equation = "E F(w_T) - F_inf <= (1 - g E mu)^T gap_0 + floor"
        checks.append(Check.of("I5 PL", equation, gap, rate, covered, scale=abs(row.value)))
    return checks


def convex_checks(
    problem: Quadratics, aggregation: Aggregation, known: Constants, start: Point, gamma: float, steps: int
) -> list[Check]:
    """I6 at every horizon T of a run, round r with aggregation r, on quadratics with convex F.

    Twice: with the distance R to a minimiser of F as measured on the way, and with its bound from R_0 and the
    errors d_r ("by recursion"). InputError unless F is convex with a minimum.
    """
    smoothness, sigma2 = known.smoothness.value, known.sigma2.value
    best, infimum = problem.minimiser(), known.infimum.value
    convex = improved_admissible(gamma, smoothness, steps) and gamma * CONVEX_LIMIT * smoothness * steps <= 1 + 1e-12
    point, gaps, errors, far_errors, checks = start, 0.0, 0.0, 0.0, []
    start2 = far2 = _squared_distance(start, best)
    for index in range(len(aggregation)):
        now = aggregation.pick(index)
        outcome = problem.round(point, now.rows, now.beta, gamma, steps)
        d2 = 2 * float(improved_terms(outcome, now, known, gamma, steps)["error"][0]) / (gamma * steps)
        spread = 2 * gamma * sigma2 * float(np.sum(now.beta**2))
        alone = 4 * gamma * steps * d2 + spread
        gaps += outcome.value - infimum
        errors += 2 * np.sqrt(_squared_distance(point, best) * d2) + alone
        far_errors += 2 * np.sqrt(far2 * d2) + alone
        far2 = (np.sqrt(far2) + 2 * gamma * steps * np.sqrt(d2)) ** 2 + gamma * steps * spread
        rounds = index + 1
        equation = "mean_r F(w_r) - F_inf <= R_0^2/(g E T) + mean_r (2 R d + 4 g E d^2 + 2 g s^2 sum beta^2)"
        for name, total in (("I6 convex", errors), ("I6 convex, by recursion", far_errors)):
            bound = start2 / (gamma * steps * rounds) + total / rounds
            checks.append(Check.of(name, equation, gaps / rounds, bound, convex))
        (point,) = outcome.after
    return checks


def _squared_distance(point: Point, target: np.ndarray) -> float:
    spread = 0.0 if point.cov is None else float(np.trace(point.cov))
    return float(np.sum((point.mean - target) ** 2)) + spread
