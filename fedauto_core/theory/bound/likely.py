"""The theorem that speaks of single realisations, of failures *and* noise, for one local step (docs/method.md, 5.10).

Assumptions of `first` for E = 1 and gamma <= 1/L, except that minibatch noise is bounded, ||g_j - grad F_j(w)|| <= B,
in place of its variance. Arrivals and weights may look at everything before their round, earlier noise included. Then
with probability at least 1 - delta, for all T at once,

    (gamma/4) sum_r ||grad F(w_{r-1})||^2 <= F(w_0) - F(w_T) + (gamma/2) (1 + L gamma/2) sum_r b_r
                                             + (L gamma^2/2) T B^2 + 2 gamma B^2 log(1/delta).

Proof. With N = G - H and d = grad F - H, ||d||^2 = b_r, S1 and S2 give for gamma <= 1/L

    F(w_r) <= F(w) - (gamma/2) ||grad F||^2 + (gamma/2) b_r + X_r + (L gamma^2/2) ||N||^2

with X_r = -gamma <v, N>, v = grad F - L gamma H, and ||N|| <= B. Given the past v is fixed and N a sum of independent
beta_j xi_j of mean zero with |<v, xi_j>| <= ||v|| B, so by Hoeffding's lemma E exp(s X_r) <= exp(s^2 gamma^2 B^2
||v||^2 sum_j beta_j^2 / 2). Hence exp(sum_r (s X_r - s^2 gamma^2 B^2 ||v_r||^2 / 2)) is a supermartingale, as sum_j
beta_j^2 <= 1, and exceeds 1/delta for some T with probability delta at most (Ville). Otherwise sum_r X_r <= (s/2)
gamma^2 B^2 sum_r ||v_r||^2 + log(1/delta)/s for all T. Take s = 1/(2 gamma B^2); and ||v||^2 <= (1 - L gamma) ||grad
F||^2 + L gamma b_r, as v = (1 - L gamma) grad F + L gamma d.
"""

import numpy as np

from fedauto_core.errors import require_number

from ..problems.split import require_gamma
from .terms import Array
from .theorem import ROUNDING


def likely_sides(
    values: Array, gradient2: Array, bias2: Array, gamma: float, smoothness: float, noise: float, delta: float
) -> tuple[Array, Array]:
    """Both sides [..., T] at every horizon of realised runs: values = F(w_0), .., F(w_T) [..., T+1], gradient2 =
    ||grad F(w_{r-1})||^2 and bias2 = b_r [..., T]; noise: B.

    With probability at least 1 - delta a run has measured <= bound at all of its horizons. InputError for gamma beyond
    1/L, B < 0 or delta outside (0, 1]."""
    require_gamma(gamma)
    limit = (1 + ROUNDING) / smoothness
    require_number("step size gamma", gamma, high=limit, remedy="use at most 1/L: nothing is promised beyond")
    require_number("noise bound B", noise, strict=False, remedy="use the largest norm of the noise")
    require_number("delta", delta, high=1, remedy="use the probability with which the bound may fail, such as 0.05")
    rounds = np.arange(1, values.shape[-1])
    measured = gamma / 4 * np.cumsum(gradient2, axis=-1)
    bias = gamma / 2 * (1 + smoothness * gamma / 2) * np.cumsum(bias2, axis=-1)
    spread = smoothness * gamma**2 / 2 * rounds * noise**2 + 2 * gamma * noise**2 * np.log(1 / delta)
    return measured, values[..., :1] - values[..., 1:] + bias + spread
