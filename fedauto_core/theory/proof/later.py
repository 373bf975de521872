"""Steps of what came later (docs/method.md, 5.7 and 5.11) in SymPy: stale updates and corrected local steps."""

from collections.abc import Callable

import sympy as sp

from ..bound.corrected import RATE_LIMIT
from .first import F, G, Proof, dot, young
from .improved import error_split


def stale_bias() -> Proof:
    """5.7. sum_j beta_j (grad F_j(w_j) + xi_j) = sum_j beta_j grad F_j(w) + moved + noise, for two participants in one
    coordinate; then the triangle inequality (I1) twice, and ||grad F_j(w) - grad F_j(w_j)|| <= L ||w - w_j||."""
    beta, here, there, noise = (sp.symbols(f"{name}1:3", real=True) for name in ("beta", "f", "g", "xi"))
    fresh, moved = dot(beta, here), dot(beta, [a - b for a, b in zip(here, there, strict=True)])
    stale = dot(beta, [g + x for g, x in zip(there, noise, strict=True)])
    split = (F - stale) - ((F - fresh) + moved - dot(beta, noise))
    return Proof("5.7", "bias, distance and noise; triangle inequality", (split, *error_split().residuals))


def stale_step() -> Proof:
    """5.7 for E = 1: S1 and S2 with a G that is known before; for gamma = theta/L what is left is -(1 - theta)
    (gamma/2) |G|^2."""
    gamma, theta = sp.symbols("gamma theta", positive=True)
    rise = -gamma * F * G + theta / gamma / 2 * gamma**2 * G**2
    claimed = -gamma / 2 * F**2 + gamma / 2 * (F - G) ** 2
    return Proof(
        "5.7", "what is left is -(1 - theta) (gamma/2) |G|^2", (rise - claimed + gamma / 2 * (1 - theta) * G**2,)
    )


def corrected_steps() -> Proof:
    """5.11. The slope of F_j(v) + s v + (mu/2) (v - w)^2 is that of F_j, plus s + mu (v - w), for any F_j: at w the
    prox is gone, and the second derivative grows by mu."""
    v, w, s, mu = sp.symbols("v w s mu", real=True)
    loss = sp.Function("F_j")
    corrected = loss(v) + s * v + mu / 2 * (v - w) ** 2
    slope = sp.diff(corrected, v) - (sp.diff(loss(v), v) + s + mu * (v - w))
    at_w = (mu * (v - w)).subs(v, w)
    curvature = sp.diff(corrected, v, 2) - sp.diff(loss(v), v, 2) - mu
    return Proof("5.11", "plain steps on a loss that is (L + mu)-smooth", (slope, at_w, curvature))


def control_variates() -> Proof:
    """5.11. With c_k = grad F_k + e_k, c = sum_k p_k c_k and weights that sum to one: grad F - sum_j beta_j (grad F_j -
    c_j + c) = (grad F - sum_k p_k grad F_k) + sum_k (beta_k - p_k) e_k, for three participants in one coordinate."""
    slopes, off, shares = (sp.symbols(f"{name}1:4", real=True) for name in ("f", "e", "p"))
    first, second = sp.symbols("beta1 beta2", real=True)
    beta = (first, second, 1 - first - second)
    controls = [f + e for f, e in zip(slopes, off, strict=True)]
    step = dot(beta, [f - c + dot(shares, controls) for f, c in zip(slopes, controls, strict=True)])
    told = F - dot(shares, slopes) + dot([b - p for b, p in zip(beta, shares, strict=True)], off)
    return Proof("5.11", "what the step misses of grad F", (sp.expand(F - step - told),))


def participant_m() -> Proof:
    """5.11, participant m steps without correction: with the weight beta_m on it what is left is (1 - beta_m) (grad F -
    sum_k p_k grad F_k) + beta_m (grad F - grad F_m) + sum_k (beta_k - (1 - beta_m) p_k) e_k, here for two others."""
    slopes, off, shares = (sp.symbols(f"{name}1:3", real=True) for name in ("f", "e", "p"))
    first, third, own = sp.symbols("beta1 beta_m f_m", real=True)
    beta = (first, 1 - third - first)
    controls = [f + e for f, e in zip(slopes, off, strict=True)]
    step = dot(beta, [f - c + dot(shares, controls) for f, c in zip(slopes, controls, strict=True)]) + third * own
    rest = dot([b - (1 - third) * p for b, p in zip(beta, shares, strict=True)], off)
    told = (1 - third) * (F - dot(shares, slopes)) + third * (F - own) + rest
    return Proof("5.11", "the part of m keeps its bias", (sp.expand(F - step - told),))


def controls_heard_again() -> Proof:
    """5.11, the rate. (a + b)^2 <= 2 a^2 + 2 b^2 (young) for the error 4 e + x g and for g + 2 e; then the constants:
    with x tau = 1/49 and tau >= 1, 72 x^2 tau^2 <= 1/2 and 1152 x^2 tau^2 + 2 x^2 <= 1/2; and a path of E steps with x
    <= 1 stays within (exp(1) - 1)/2 < 1 of eta |u| in the mean, as (exp(y) - 1)/y grows."""
    e, g, x, y = sp.symbols("e g x y", positive=True)
    squares = young(4 * e, x * g), young(g, 2 * e)
    error = 32 * e**2 + 2 * x**2 * g**2 - (2 * (4 * e) ** 2 + 2 * (x * g) ** 2)
    most = sp.Rational(1, RATE_LIMIT) ** 2
    slacks = sp.Rational(1, 2) - 72 * most, sp.Rational(1, 2) - (1152 + 2) * most, 1 - (sp.exp(1) - 1) / 2
    grows = sp.diff((sp.exp(y) - 1) / y, y) * y**2 - (1 + (y - 1) * sp.exp(y))  # >= 0: its slope is y exp(y)
    slope = sp.diff(1 + (y - 1) * sp.exp(y), y) - y * sp.exp(y)
    signs = tuple(slack - sp.Abs(slack) for slack in slacks)
    return Proof("5.11", "constants of the rate", (*squares, error, *signs, grows, slope))


LATER_PROOFS: dict[str, Callable[[], Proof]] = {
    "5.7 stale bias": stale_bias,
    "5.7 stale step, E = 1": stale_step,
    "5.11 corrected steps": corrected_steps,
    "5.11 control variates": control_variates,
    "5.11 participant m": participant_m,
    "5.11 everybody heard again": controls_heard_again,
}
