"""Fast fading: how often the power gain of a channel, of unit mean, falls below a threshold."""

from dataclasses import dataclass

import numpy as np
from scipy import special

from fedauto_core.errors import require_known, require_number

Numbers = float | np.ndarray

KINDS = ("rayleigh", "rician", "nakagami")


@dataclass(frozen=True)
class Fading:
    """Law of |h|^2, E|h|^2 = 1. shape: Rician K (power of the direct path over that of all others, linear) or
    Nakagami m; unused for Rayleigh. InputError for an unknown kind, K < 0 or m < 1/2."""

    kind: str = "rayleigh"
    shape: float = 0.0

    def __post_init__(self) -> None:
        require_known("fading", self.kind, KINDS)
        least = {"rayleigh": 0.0, "rician": 0.0, "nakagami": 0.5}[self.kind]
        remedy = "K of Rician fading is >= 0, m of Nakagami fading >= 0.5"
        require_number(f"{self.kind} fading: shape", self.shape, low=least, strict=False, remedy=remedy)

    def outage(self, log_x: Numbers) -> Numbers:
        """P(|h|^2 < x) for ln x (any shape; a logarithm, because x itself over- and underflows).

        Rayleigh 1 - e^-x; Rician 1 - Q_1(sqrt(2K), sqrt(2(K+1)x)), a noncentral chi-square law; Nakagami P(m, m x), the
        regularised lower incomplete gamma function (Simon and Alouini 2005, table 2.2).
        """
        with np.errstate(over="ignore"):
            x = np.exp(log_x)
        if self.kind == "rician":
            k = self.shape
            return special.chndtr(np.minimum(2 * (k + 1) * x, np.finfo(float).max), 2, 2 * k)
        return special.gammainc(self.shape, self.shape * x) if self.kind == "nakagami" else -np.expm1(-x)

    def efficiency(self, snr: Numbers) -> Numbers:
        """E log2(1 + snr |h|^2), bit/s/Hz: what an upload gets that is long compared with the coherence time.

        Rayleigh: e^{1/snr} E_1(1/snr) / ln 2 (Alouini and Goldsmith 1999); else the mean over the quantiles of |h|^2 at
        2,000 midpoints, interpolated between 1,000 values of ln snr.
        """
        snr = np.asarray(snr, dtype=np.float64)
        if self.kind == "rayleigh":
            return special.hyperu(1, 1, 1 / snr) / np.log(2)
        share = (np.arange(2000) + 0.5) / 2000
        if self.kind == "rician":
            power = special.chndtrix(share, 2, 2 * self.shape) / (2 * (self.shape + 1))
        else:
            power = special.gammaincinv(self.shape, share) / self.shape
        grid = np.linspace(np.log(snr.min()), np.log(snr.max()), 1000)
        return np.interp(np.log(snr), grid, np.log2(1 + np.exp(grid)[:, None] * power).mean(axis=1))

    def power(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """`size` draws of |h|^2, from the definition of the channel rather than from its distribution function."""
        if self.kind == "nakagami":
            return rng.gamma(self.shape, 1 / self.shape, size)
        direct, scattered = self.shape / (self.shape + 1), 1 / (self.shape + 1)
        waves = rng.normal(scale=np.sqrt(scattered / 2), size=(2, size))
        return (np.sqrt(direct) + waves[0]) ** 2 + waves[1] ** 2


RAYLEIGH = Fading()
