"""Corrected local steps: the improved theorem with control variates and proximal terms (docs/method.md, 5.11).

Participants step along g_j(v) + s_j + mu (v - w), with s_j known before the round: c - c_j in SCAFFOLD, -g_j in FedDyn,
0 in FedProx. These are plain steps on F_j(v) + <s_j, v> + (mu/2) ||v - w||^2, which is (L + mu)-smooth, has the slope
grad F_j(w) + s_j at w and the noise of F_j. So the improved theorem holds with L + mu for L, whoever is silent, with

    b_r = ||grad F(w) - sum_j beta_j (grad F_j(w) + s_j)||^2        and        ||grad F_j(w) + s_j|| in D_r.

**Control variates under silence.** s_j = c - c_j, c = sum_k p_k c_k over everybody. With e_k = c_k - grad F_k(w) the
inner difference is (grad F - sum_k p_k grad F_k) + sum_k (beta_k - p_k) e_k, so that

    sqrt(b_r) <= ||grad F - sum_k p_k grad F_k|| + sum_k |beta_k - p_k| ||e_k||.

If c_k = (gradients of a round from w_k, averaged) then ||e_k|| <= L ||w - w_k|| + L (mean drift there) + ||its noise||;
who was never heard has c_k = 0 and ||e_k|| = ||grad F_k(w)||. The bias vanishes, then, if p_k = n_k / n and for all k
with beta_k != p_k the model stands where they were last heard, without noise: whatever the weights, and however long
ago it was. Nothing of that can be had from somebody who was never heard (5.8).

**Everybody heard again.** Full batches, p_k = n_k / n, everybody heard at least once in any tau rounds, the first tau
among them, gamma <= 1/(49 L E tau). Then whatever the weights, with e^r = max_k ||e_k|| in round r, for all T >= tau

    sum_{r <= T} ||grad F(w_{r-1})||^2 <= 4 (F(w_0) - F_inf) / (gamma E) + 128 sum_{r <= tau} (e^r)^2 :

a rate of 1/T without a floor. Proof. Let eta = gamma E, g_r = ||grad F(w_{r-1})||, x = L eta <= 1/49. Steps start along
u_j = grad F - e_j + sum_k p_k e_k, so ||u_j|| <= g + 2 e, and a path stays within 1.72 gamma i ||u_j|| of w after i
steps (I3, no noise), eta ||u_j|| in the mean. So the error of a round, sqrt(b) + L mean drift, is at most 2 e + x (g +
2 e) <= 4 e + x g, and the model moves by at most eta (g + error) <= eta (2 g + 4 e). A control of the last tau rounds
is off by L times the moves since and the drift of its own path: e^r <= 3 x sum_{s = r - tau}^{r - 1} (g_s + 2 e^s) for
r > tau. Squared and summed, with Cauchy-Schwarz over the tau rounds, S = sum_{r > tau} (e^r)^2 <= 18 x^2 tau^2 (sum_r
g_r^2 + 4 sum_r (e^r)^2), and as 72 x^2 tau^2 <= 1/2, S <= 36 x^2 tau^2 sum_r g_r^2 + sum_{r <= tau} (e^r)^2. S1 and S2
give sum g^2 <= 2 (F_0 - F_inf)/eta + sum (4 e + x g)^2 <= 2 (F_0 - F_inf)/eta + 32 sum e^2 + 2 x^2 sum g^2, in which
the sums of g^2 on the right have the factor 1152 x^2 tau^2 + 2 x^2 <= 1/2.

"Everybody" are all with a share of F or a weight: a participant m would need a control of its own. Not proved: the same
with minibatches. The noise of a stored control enters b_r, so as stated it leaves a floor of sigma^2 sum_k (beta_k -
p_k)^2 / E, which does not fade with gamma; that it averages out over the rounds is not used.
"""

from dataclasses import replace

import numpy as np

from fedauto_core.errors import require_number

from ..problems.quadratics import Quadratics
from ..problems.split import Point
from . import terms
from .aggregation import Aggregation
from .checks import Check, round_terms
from .constants import Constants
from .improved import IMPROVED
from .theorem import ROUNDING

RATE_LIMIT = 49  # gamma <= 1/(49 L E tau)


def corrected_checks(
    problem: Quadratics, aggregation: Aggregation, known: Constants, point: Point, gamma: float, steps: int,
    shifts: np.ndarray, prox: float = 0.0,
) -> list[Check]:  # fmt: skip
    """The round of 5.11 for every aggregation from `point`, with shifts s [J, d] and prox mu >= 0."""
    require_number("prox mu", prox, strict=False, remedy="use 0 for steps without a proximal term")
    outcome = problem.round(point, aggregation.rows, aggregation.beta, gamma, steps, shifts, prox)
    smoothness = known.smoothness.value + prox
    rougher = replace(known, smoothness=replace(known.smoothness, value=smoothness))
    sides = round_terms(outcome, aggregation, rougher, gamma, steps, IMPROVED)
    covered = IMPROVED.covers(gamma, smoothness, steps)
    equation = "the improved round with L + mu, and grad F_j + s_j for grad F_j"
    return Check.each("corrected steps", equation, sides["measured"], sides["bound"], covered, abs(outcome.value))


def control_checks(
    problem: Quadratics, aggregation: Aggregation, known: Constants, w: np.ndarray, starts: np.ndarray,
    heard: np.ndarray, shares: np.ndarray,
) -> list[Check]:  # fmt: skip
    """The bias of control variates at w for every aggregation: c_k = grad F_k(starts_k) of those heard so far, starts
    [J, d] and heard [J], 0 of all others; c = sum_k shares_k c_k."""
    (pooled,), own = problem.gradients(problem.split.pooled, w), problem.gradients(aggregation.rows, w)
    controls = np.vstack([problem.gradients(row[None], s) for row, s in zip(aggregation.rows, starts, strict=True)])
    controls = np.where(heard[:, None], controls, 0.0)
    biased = aggregation.beta @ (own - controls + shares @ controls)
    measured = np.sum((pooled - biased) ** 2, axis=1)
    moved = known.smoothness.value * np.linalg.norm(w - starts, axis=1)
    off = np.where(heard, moved, np.linalg.norm(own, axis=1))
    bounds = terms.control_bias(np.sum((pooled - shares @ own) ** 2), aggregation.beta, shares, off)
    scale = float(np.max(np.sum(own**2, axis=1)))
    equation = "(|grad F - sum_k p_k grad F_k| + sum_k |beta_k - p_k| |e_k|)^2"
    return Check.each("control bias", equation, measured, bounds, True, scale)


def control_run(
    problem: Quadratics, aggregation: Aggregation, w: np.ndarray, gamma: float, steps: int, shares: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """SCAFFOLD with full batches, round r with the weights of aggregation r; who has weight is heard. In each round
    ||grad F||^2 [T], and ||c_k - grad F_k|| [T, J]."""
    rows = aggregation.rows
    hessian, linear, _ = problem.mix(rows)
    controls, gradient2, off = np.zeros((len(rows), len(w))), [], []
    for beta in aggregation.beta:
        own = hessian @ w - linear
        gradient2.append(np.sum(problem.gradients(problem.split.pooled, w) ** 2))
        off.append(np.linalg.norm(controls - own, axis=1))
        shifts, local, met = shares @ controls - controls, np.tile(w, (len(rows), 1)), np.zeros_like(controls)
        for _ in range(steps):
            slopes = np.einsum("jab,jb->ja", hessian, local) - linear
            met, local = met + slopes / steps, local - gamma * (slopes + shifts)
        controls = np.where(beta[:, None] > 0, met, controls)
        w = w + beta @ (local - w)
    return np.array(gradient2), np.array(off)


def rate_checks(
    problem: Quadratics, aggregation: Aggregation, known: Constants, w: np.ndarray, gamma: float, steps: int, tau: int
) -> list[Check]:
    """The rate of 5.11 at every horizon T >= tau of `control_run` with the shares of F; not applicable beyond the step
    limit, or where somebody with a share or weight is not heard in some tau rounds. InputError unless 1 <= tau <= T."""
    rounds = len(aggregation)
    require_number("tau", tau, low=1, high=rounds, strict=False, whole=True, remedy="give a run of at least tau rounds")
    sizes = problem.split.counts.sum(axis=1)
    shares = np.append(sizes, np.zeros(len(aggregation.rows) - len(sizes))) / sizes.sum()
    gradient2, off = control_run(problem, aggregation, w, gamma, steps, shares)
    times = np.cumsum(np.vstack([np.zeros(len(shares)), aggregation.beta > 0]), axis=0)
    everybody = (shares > 0) | (times[-1] > 0)
    again, off = bool(np.all((times[tau:] - times[:-tau])[:, everybody] > 0)), off[:, everybody].max(axis=1)
    covered = again and gamma * RATE_LIMIT * known.smoothness.value * steps * tau <= 1 + ROUNDING
    gap = float(problem.value(w[None])[0]) - known.infimum.value
    horizons = np.arange(tau, rounds + 1)
    bounds = (4 * gap / (gamma * steps) + 128 * np.sum(off[:tau] ** 2)) / horizons
    measured = np.cumsum(gradient2)[tau - 1 :] / horizons
    equation = "mean_r |grad F|^2 <= (4 (F_0 - F_inf)/(g E) + 128 sum_{r <= tau} max_k |e_k|^2)/T"
    return Check.each("control rate", equation, measured, bounds, covered)
