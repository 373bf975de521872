"""The steps P1..P3 of the bound after the fact (`theory.posterior`) in SymPy."""

from collections.abc import Callable

import sympy as sp

from .first import F, G, Proof, dot

SCALE, REMAINDER, CURVATURE = sp.symbols("s R K", positive=True)  # gamma E; what a round gains less its slope; L_r


def after_the_fact() -> Proof:
    """P1. With Delta = -s G and F(w_r) - F(w) = <grad F, Delta> + R the slack of the inequality is (L_r/2) |Delta|^2 -
    R, in each coordinate: nothing but the curvature is estimated."""
    rise = -SCALE * F * G + REMAINDER
    bound = -rise + SCALE / 2 * (F - G) ** 2 + SCALE / 2 * (CURVATURE * SCALE - 1) * G**2
    slack = bound - SCALE / 2 * F**2
    return Proof("P1", "the slack is (L_r/2) |Delta|^2 - R", (slack - (CURVATURE / 2 * (SCALE * G) ** 2 - REMAINDER),))


def softmax_curvature() -> Proof:
    """P2. int_0^1 (1 - t) v exp(t s) dt = v (exp(s) - 1 - s)/s^2; for two outcomes the variance is q (1 - q) z^2, at
    most z^2/4 with slack (q - 1/2)^2 z^2 (Popoviciu); and int_0^1 (1 - t)/4 dt = 1/8."""
    t, q = sp.symbols("t q", real=True)
    s, v, z = sp.symbols("s v z", positive=True)
    grown = sp.integrate((1 - t) * v * sp.exp(t * s), (t, 0, 1)) - v * (sp.exp(s) - 1 - s) / s**2
    variance = q * z**2 - (q * z) ** 2
    widest = z**2 / 4 - variance - (q - sp.Rational(1, 2)) ** 2 * z**2
    return Proof(
        "P2",
        "growth of the variance, and its limit",
        (grown, widest, sp.integrate((1 - t) / 4, (t, 0, 1)) - sp.Rational(1, 8)),
    )


def parts_of_a_round() -> Proof:
    """P3. sum_j beta_j g_j = grad F + labels + features + noise and drift + other, in one coordinate, for two
    participants and two classes; then the costs sum to the loss, as <M, .> is linear."""
    first, second, a, q1, q2 = sp.symbols("beta1 beta2 a q1 q2", positive=True)
    f, own, got, move = (sp.symbols(f"{name}1:3", real=True) for name in ("f", "F_", "g", "D"))
    mixed = dot((a, 1 - a), f)
    beta, alpha = (first, second), ((q1, 1 - q1), (q2, 1 - q2))
    mixture = [sum(b * row[c] for b, row in zip(beta, alpha, strict=True)) for c in range(2)]
    labels = dot((m - sum(beta) * target for m, target in zip(mixture, (a, 1 - a), strict=True)), f)
    features = sum(b * (slope - dot(row, f)) for b, slope, row in zip(beta, own, alpha, strict=True))
    local = sum(b * (g - slope) for b, g, slope in zip(beta, got, own, strict=True))
    other = sum(move) - dot(beta, got) + (sum(beta) - 1) * mixed
    return Proof("P3", "the parts are the step", (mixed + labels + features + local + other - sum(move),))


POSTERIOR_PROOFS: dict[str, Callable[[], Proof]] = {
    "P1 after the fact": after_the_fact,
    "P2 curvature of softmax": softmax_curvature,
    "P3 parts of a round": parts_of_a_round,
}
