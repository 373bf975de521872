"""The improved theorem (ours): the assumptions of `first`, for E > 1 steps up to twice as long, and no larger a bound.

For gamma <= 1/(L E), with b_r as before and expectation over the minibatch noise,

    (gamma E/2) ||grad F(w)||^2 <= F(w) - E F(w_r) + (gamma E/2) (sqrt(b_r) + L sqrt(D_r))^2
                                   + c_r L gamma^2 E sigma^2 sum_j beta_j^2,

    c_r = 1/2 + (L/E) sum_{e<E} sqrt(e) c_e,
    D_r = sum_j beta_j (1/E) sum_{e<E} (a_e ||grad F_j(w)|| + c_e sigma)^2,
    a_e = ((1 + gamma L)^e - 1) / L,   c_e = gamma sum_{k=1..e} (sqrt(k) - sqrt(k-1)) (1 + gamma L)^{e-k}.

Proof. **Bias and drift (I1).** grad F - H = (grad F - sum_j beta_j grad F_j(w)) + sum_j beta_j mean_e (grad F_j(w) -
grad F_j(w_j^e)). In L2 over the noise the norm of a sum is at most the sum of the norms: at most sqrt(b_r) + L
sqrt(D_r), the second by Jensen and smoothness. Squared, that is never more than 2 b_r + 2 L^2 D_r: the slack is
(sqrt(b_r) - L sqrt(D_r))^2.
**Noise (I2).** Without noise a participant would go from w to v_j^e, which is known before. With noise it is at most
c_e sigma away from there in L2 (I3 for the difference, which starts at 0 and has no gradient in it), so its gradient
deviates by at most L c_e sigma from a known one. With N = G - H and E|G|^2 = E|H|^2 + 2 E<H, N> + E|N|^2 the known part
of H drops out of <H, N>; of the rest only pairs of the same participant's noise and later deviation are left (A3), at
most L c_e sigma sqrt(e) sigma each. So E|G|^2 <= E|H|^2 + (sigma^2/E) sum_j beta_j^2 (1 + (2 L/E) sum_e sqrt(e) c_e),
and the descent lemma's |H|^2 is paid for up to gamma = 1/(L E). The first theorem has |G|^2 <= 2|H|^2 + 2|N|^2, which
costs half of the step size.
**Drift (I3).** w_j^e - w = -gamma sum_{k<e} (grad F_j(w_j^k) + noise_k). In L2 the noises add like sqrt(e) sigma, and
||grad F_j(w_j^k)|| <= ||grad F_j(w)|| + L ||w_j^k - w||, so s_e = ||w_j^e - w|| in L2 obeys s_e <= gamma (sqrt(e)
sigma + e ||grad F_j(w)|| + L sum_{k<e} s_k). Its largest solution, by induction, is the one with equality,
a_e ||grad F_j(w)|| + c_e sigma: no crude bound on the feedback, no factor for separating noise and gradient, and no
limit on gamma.
Then S6 as before. Where w is random, take the expectation: E sqrt(b_r D_r) <= sqrt(E b_r E D_r) (Cauchy-Schwarz), so
all of the above stands with E b_r and E D_r; for weights that do not depend on earlier noise (a fixed trace; for others
see `theory.attack.adaptive`) E D_r is at most D_r with E ||grad F_j(w)||^2 in it.
**Never larger** than the first theorem's terms for gamma <= 1/(2 L E): I1; c_r <= 1/2 + y E (1/2 + 0.5496/3) < 1, with
the bound on c_e below; and for the drift
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

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from fedauto_core.errors import require_number

from ..problems.quadratics import Quadratics
from ..problems.split import Point, Round
from . import terms
from .aggregation import Aggregation
from .checks import Check, Run, round_terms
from .constants import Constants
from .first import FIRST
from .theorem import Theorem

CONVEX_LIMIT = 8  # I6: gamma <= 1/(8 L E)
CHECKS = {
    "round": (
        "improved round",
        "(gE/2)|grad F|^2 <= F(w) - E F(w_r) + (gE/2)(sqrt b_r + L sqrt D_r)^2 + c_r L g^2 E s^2 sum beta^2",
    ),
    "round, E = 1": ("improved round", "(g/2)|grad F|^2 <= F(w) - E F(w_r) + (g/2) b_r + (L g^2/2) s^2 sum beta^2"),
    "drift": ("I3 drift", "mean_e E|w_j^e - w|^2 <= mean_e (a_e |grad F_j| + c_e s)^2"),
    "bias": ("I4 bias", "b_r <= (kappa sqrt chi2_r + sqrt(sum_j beta_j delta_j^2))^2"),
    "summed": ("S6 summed, improved", "mean_r E|grad F|^2 <= 2 (F_0 - F_inf)/(g E T) + averages of noise and error"),
}

IMPROVED = Theorem(
    name="improved",
    checks=CHECKS,
    limit=lambda steps: 1.0,  # gamma <= 1/(L E)
    drift=terms.improved_drift,
    drift_limited=False,
    errors=lambda bias2, drift, smoothness, _: terms.improved_errors(bias2, drift, smoothness),
    noise=lambda sigma2, beta2, *rest: terms.noise(terms.noise_factor(*rest), sigma2, beta2, *rest),
    bias=terms.improved_bias,
)
THEOREMS = (FIRST, IMPROVED)


def improved_at(theta: float) -> Theorem:
    """The improved theorem with an error that is linear in b_r and D_r and never less; for E = 1 nothing is split."""
    split = partial(terms.split_errors, theta)
    return replace(IMPROVED, errors=lambda b, D, L, E: FIRST.errors(b, D, L, E) if E == 1 else split(b, D, L))


def improvement(outcome: Round, aggregation: Aggregation, known: Constants, gamma: float, steps: int) -> np.ndarray:
    """How many times larger the error and noise terms of the first theorem are, [S]; NaN where both vanish."""
    first, second = (round_terms(outcome, aggregation, known, gamma, steps, theorem) for theorem in THEOREMS)
    old, new = first["bias"] + first["drift"] + first["noise"], second["error"] + second["noise"]
    return np.divide(old, new, out=np.full(len(old), np.nan), where=new > 0)


def polyak_checks(run: pd.DataFrame, known: Constants, gamma: float, steps: int, strength: float) -> list[Check]:
    """I5 at every horizon T of a run; run from `terms_of_run` with `IMPROVED`; strength: mu, 0 < mu <= L."""
    remedy = "use a constant with ||grad F||^2 >= 2 mu (F - F_inf): it is at most L"
    require_number("mu", strength, high=known.smoothness.value * (1 + 1e-9), remedy=remedy)
    covered = IMPROVED.covers(gamma, known.smoothness.value, steps)
    gap0, factor = run["value"].iloc[0] - known.infimum.value, terms.contraction(gamma, steps, strength)
    floor, checks = 0.0, []
    for row in run.itertuples():
        floor = factor * floor + row.error + row.noise
        rate, gap = factor**row.round * gap0 + floor, row.value_after - known.infimum.value
        equation = "E F(w_T) - F_inf <= (1 - g E mu)^T gap_0 + floor"
        checks.append(Check.of("I5 PL", equation, gap, rate, covered, scale=abs(row.value)))
    return checks


def convex_checks(problem: Quadratics, run: Run, known: Constants, gamma: float, steps: int) -> list[Check]:
    """I6 at every horizon T of a run from `run_rounds`, on quadratics with convex F.

    Twice: with the distance R to a minimiser of F as measured on the way, and with its bound from R_0 and the
    errors d_r ("by recursion"). InputError unless F is convex with a minimum.
    """
    smoothness, best, infimum = known.smoothness.value, problem.minimiser(), known.infimum.value
    convex = IMPROVED.covers(gamma, smoothness, steps) and gamma * CONVEX_LIMIT * smoothness * steps <= 1 + 1e-12
    gaps, errors, far_errors, checks = 0.0, 0.0, 0.0, []
    start2 = far2 = _squared_distance(run[0][0], best)
    for rounds, (point, now, outcome) in enumerate(run, 1):
        error = float(round_terms(outcome, now, known, gamma, steps, IMPROVED)["error"][0])
        rest = 2 * error / (gamma * steps), known.sigma2.value * float(np.sum(now.beta**2)), gamma, steps
        gaps += outcome.value - infimum
        errors += terms.convex_errors(_squared_distance(point, best), *rest)
        far_errors += terms.convex_errors(far2, *rest)
        far2 = terms.convex_distance(far2, *rest)
        equation = "mean_r F(w_r) - F_inf <= R_0^2/(g E T) + mean_r (2 R d + 4 g E d^2 + 2 g s^2 sum beta^2)"
        for name, total in (("I6 convex", errors), ("I6 convex, by recursion", far_errors)):
            bound = start2 / (gamma * steps * rounds) + total / rounds
            checks.append(Check.of(name, equation, gaps / rounds, bound, convex))
    return checks


def _squared_distance(point: Point, target: np.ndarray) -> float:
    spread = 0.0 if point.cov is None else float(np.trace(point.cov))
    return float(np.sum((point.mean - target) ** 2)) + spread
