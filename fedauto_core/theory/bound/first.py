"""The first theorem (ours; docs/method.md, section 5), with S1..S6 for the steps of its proof (`theory.proof.first`).

For gamma <= step / (L E), with b_r, D_r and the numbers of `terms.Coefficients`,

    (gamma E/2) ||grad F||^2 <= F(w) - E F(w_r) + (gamma E/2) (bias b_r + drift L^2 D_r)
                                + noise L gamma^2 E sigma^2 sum_j beta_j^2,
    D_r = drift_noise gamma^2 (E-1) sigma^2 + drift_gradient gamma^2 (E-1)(2E-1) sum_j beta_j ||grad F_j||^2.

The symbolic proof reads the numbers below, too, so that changing one breaks both.
"""

from fractions import Fraction

from . import terms
from .terms import Coefficients
from .theorem import Theorem

GENERAL = Coefficients(Fraction(1, 2), Fraction(2), Fraction(2), Fraction(1), Fraction(2), Fraction(4, 3))
SINGLE_STEP = Coefficients(Fraction(1), Fraction(1), Fraction(0), Fraction(1, 2), Fraction(0), Fraction(0))
CHECKS = {
    "round": ("round", "(gE/2)|grad F|^2 <= F(w) - E F(w_r) + (gE/2)(2 b_r + 2 L^2 D_r) + L g^2 E s^2 sum beta^2"),
    "round, E = 1": ("round", "(g/2)|grad F|^2 <= F(w) - E F(w_r) + (g/2) b_r + (L g^2/2) s^2 sum beta^2"),
    "drift": ("S4 drift", "mean_e E|w_j^e - w|^2 <= 2 g^2 (E-1) s^2 + (4/3) g^2 (E-1)(2E-1) |grad F_j|^2"),
    "bias": ("S5 bias", "b_r <= 2 kappa^2 chi2_r + 2 sum_j beta_j delta_j^2"),
    "summed": ("S6 summed", "mean_r E|grad F|^2 <= 2 (F_0 - F_inf)/(g E T) + averages of noise, bias, drift"),
}


def first_theorem(general: Coefficients = GENERAL, single: Coefficients = SINGLE_STEP) -> Theorem:
    """With its own numbers for E > 1 and the sharper ones for E = 1, or with wrong ones, which a check must notice."""

    def numbers(steps: int) -> Coefficients:
        return single if steps == 1 else general

    return Theorem(
        name="first",
        checks=CHECKS,
        limit=lambda steps: float(numbers(steps).step),  # gamma <= 1/(2 L E); E = 1: 1/L
        drift=lambda sigma2, gradient2, gamma, _, E: terms.first_drift(sigma2, gradient2, gamma, E, numbers(E)),
        drift_limited=True,
        errors=lambda bias2, drift, smoothness, steps: terms.first_errors(bias2, drift, smoothness, numbers(steps)),
        noise=lambda *rest: terms.noise(float(numbers(rest[-1]).noise), *rest),
        bias=terms.first_bias,
    )


FIRST = first_theorem()
