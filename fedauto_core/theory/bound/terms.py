"""The terms of both theorems, each told once, as pure functions of arrays (docs/method.md, section 5; `improved`).

b: bias2, b_r; D: drift, D_r = sum_j beta_j times what `first_drift` or `improved_drift` allows participant j; beta2:
sum_j beta_j^2. These and sigma2 have one entry for each round or instance, gradient2 = ||grad F_j(w)||^2 one more axis
for the participants. The errors are over gamma E / 2, so in the units of ||grad F||^2; the noise is not.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Coefficients:
    """The numbers of the first theorem, in the order in which `first_errors`, `noise` and `first_drift` use them; it
    asks for gamma <= step / (L E)."""

    step: Fraction
    bias: Fraction
    drift: Fraction
    noise: Fraction
    drift_noise: Fraction
    drift_gradient: Fraction


def progress(value: float, after: Array) -> Array:
    """F(w) - E F(w_r)."""
    return value - after


def noise_bound(sigma2: float, beta: Array, steps: int) -> Array:
    """S3: bound on E||G - H||^2, for beta [S, J] -> [S]."""
    return sigma2 / steps * np.sum(beta**2, axis=1)


def noise(factor: float, sigma2: Array, beta2: Array, gamma: float, smoothness: float, steps: int) -> Array:
    """What the noise costs in one round."""
    return factor * smoothness * gamma**2 * steps * beta2 * sigma2


def first_errors(bias2: Array, drift: Array, smoothness: float, numbers: Coefficients) -> dict[str, object]:
    """bias b_r + drift L^2 D_r."""
    return {"bias": float(numbers.bias) * bias2, "drift": float(numbers.drift) * smoothness**2 * drift}


def first_drift(sigma2: Array, gradient2: Array, gamma: float, steps: int, numbers: Coefficients) -> Array:
    """S4: bound on mean_e E||w_j^e - w||^2."""
    from_noise = float(numbers.drift_noise) * gamma**2 * (steps - 1) * sigma2
    return from_noise + float(numbers.drift_gradient) * gamma**2 * (steps - 1) * (2 * steps - 1) * gradient2


def first_bias(skew: Array, shift: Array) -> Array:
    """S5: bound on b_r from skew = kappa^2 chi2_r and shift = sum_j beta_j delta_j^2."""
    return 2 * skew + 2 * shift


def improved_errors(bias2: Array, drift: Array, smoothness: float) -> dict[str, Array]:
    """I1: the triangle inequality in L2."""
    return {"error": (np.sqrt(bias2) + smoothness * np.sqrt(drift)) ** 2}


def split_errors(theta: float, bias2: object, drift: object, smoothness: float) -> dict[str, object]:
    """Linear in b_r and D_r and never less than `improved_errors`, which is the least of these over theta > 0."""
    return {"error": (1 + theta) * bias2 + (1 + 1 / theta) * smoothness**2 * drift}


def drift_factors(gamma: float, smoothness: float, steps: int) -> tuple[list[float], list[float]]:
    """I3: a_e and c_e for e = 0..E-1; the root mean square drift is at most a_e ||grad F_j(w)|| + c_e sigma."""
    growth, c = 1 + gamma * smoothness, [0.0]
    for k in range(1, steps):
        c.append(growth * c[-1] + gamma * (math.sqrt(k) - math.sqrt(k - 1)))
    return [(growth**e - 1) / smoothness for e in range(steps)], c


def noise_factor(gamma: float, smoothness: float, steps: int) -> float:
    """I2: c_r = 1/2 + (L/E) sum_e sqrt(e) c_e."""
    _, c = drift_factors(gamma, smoothness, steps)
    return 0.5 + smoothness / steps * sum(math.sqrt(e) * spread for e, spread in enumerate(c))


def improved_drift(sigma2: Array, gradient2: Array, gamma: float, smoothness: float, steps: int) -> Array:
    """I3: bound on mean_e E||w_j^e - w||^2."""
    g, sigma, total = np.sqrt(gradient2), np.sqrt(sigma2), 0.0
    for a, c in zip(*drift_factors(gamma, smoothness, steps), strict=True):
        size = a * g + c * sigma
        total = total + size * size
    return total / steps


def improved_bias(skew: Array, shift: Array) -> Array:
    """I4: bound on b_r from skew = kappa^2 chi2_r and shift = sum_j beta_j delta_j^2."""
    return (np.sqrt(skew) + np.sqrt(shift)) ** 2


def stale_bias(bias2: Array, beta: Array, moved: Array, smoothness: float, noise2: Array | float) -> Array:
    """5.7: bound on ||grad F(w) - sum_j beta_j (grad F_j(w - v_j) + xi_j)||^2 from b_r [S] at w, for beta [S, J], the
    lengths moved [J] of v_j, by which the model has moved since j's update was made, and noise2 = ||sum_j beta_j
    xi_j||^2 of the noise that it had."""
    return (np.sqrt(bias2) + smoothness * (beta @ moved) + np.sqrt(noise2)) ** 2


def control_bias(objective2: float, beta: Array, shares: Array, off: Array) -> Array:
    """5.11: bound on b_r of steps along grad F_j - c_j + c with c = sum_k p_k c_k, for beta [S, J], shares p [J],
    objective2 = ||grad F - sum_k p_k grad F_k||^2 and off [J], how far c_k is from grad F_k."""
    return (np.sqrt(objective2) + np.abs(beta - shares) @ off) ** 2


def missing_class(mass: float) -> float:
    """5.3: the least chi2_r of a mixture without classes of this mass."""
    return mass / (1 - mass) if mass < 1 else float("inf")


def unseen_class(mass: float, kappa2: float) -> float:
    """5.8: the least max ||grad F||^2 that any algorithm is sure of if it sees nothing of classes of this mass."""
    return kappa2 * missing_class(mass)


def contraction(gamma: float, steps: int, strength: float) -> float:
    """I5: by what one round multiplies F - F_inf, for ||grad F||^2 >= 2 strength (F - F_inf)."""
    return 1 - gamma * steps * strength


def convex_errors(radius2: float, d2: float, noise2: float, gamma: float, steps: int) -> float:
    """I6, over gamma E: what one round adds, with R^2, d_r^2 and sigma^2 sum_j beta_j^2."""
    return 2 * np.sqrt(radius2 * d2) + (4 * gamma * steps * d2 + 2 * gamma * noise2)


def convex_distance(radius2: float, d2: float, noise2: float, gamma: float, steps: int) -> float:
    """I6, by recursion: bound on E R_r^2 from R_{r-1}^2, d_r^2 and sigma^2 sum_j beta_j^2."""
    return (np.sqrt(radius2) + 2 * gamma * steps * np.sqrt(d2)) ** 2 + gamma * steps * (2 * gamma * noise2)
