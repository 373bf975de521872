"""What a theorem is: `first.FIRST` and `improved.IMPROVED` are two of them, and a third would be one more object."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..problems.split import require_gamma, require_steps
from .terms import Array

ROUNDING = 1e-10  # relative rounding error that is forgiven


@dataclass(frozen=True, eq=False)
class Theorem:
    """For every step size that it covers (gamma E/2) ||grad F||^2 <= F(w) - E F(w_r) + the sum of `terms`.

    name: in tables. checks: name and equation of its inequalities "round", "round, E = 1", "drift",
    "bias" and "summed".
    limit(E): gamma L E at the step limit, which gamma may reach.
    drift(sigma2, gradient2, gamma, L, E): what a participant may drift; drift_limited: within the step limit only.
    errors(b, D, L, E): by name, over gamma E / 2. noise(sigma2, beta2, gamma, L, E): the noise term.
    bias(skew, shift): bound on b_r. All arrays as in `terms`.
    """

    name: str
    checks: Mapping[str, tuple[str, str]]
    limit: Callable[[int], float]
    drift: Callable[..., Array]
    drift_limited: bool
    errors: Callable[..., dict[str, Array]]
    noise: Callable[..., Array]
    bias: Callable[[Array, Array], Array]

    def round_check(self, steps: int) -> tuple[str, str]:
        """Name and equation of the per-round inequality for E = steps."""
        name, equation = self.checks["round, E = 1" if steps == 1 else "round"]
        return f"{name}, E = {steps}", equation

    def step_limit(self, smoothness: float, steps: int) -> float:
        """The largest step size that is covered."""
        require_steps(steps)
        return self.limit(steps) / (smoothness * steps)

    def covers(self, gamma: float, smoothness: float, steps: int) -> bool:
        """Whether gamma is within the step limit; InputError unless it is a number > 0."""
        require_gamma(gamma)
        return gamma <= self.step_limit(smoothness, steps) * (1 + ROUNDING)

    def terms(
        self, bias2: Array, drift: Array, sigma2: Array, beta2: Array, gamma: float, smoothness: float, steps: int
    ) -> dict[str, Array]:
        """Errors and noise by name, in the units of F."""
        half = gamma * steps / 2
        errors = {name: half * error for name, error in self.errors(bias2, drift, smoothness, steps).items()}
        return errors | {"noise": self.noise(sigma2, beta2, gamma, smoothness, steps)}

    def total(
        self, bias2: Array, gradient2: Array, sigma2: Array, beta: Array, gamma: float, smoothness: float, steps: int
    ) -> Array:
        """The sum of `terms` [...], for bias2 and sigma2 [...], gradient2 and beta [..., J]."""
        drift = np.sum(beta * self.drift(sigma2[..., None], gradient2, gamma, smoothness, steps), axis=-1)
        beta2 = np.sum(beta**2, axis=-1)
        return sum(self.terms(bias2, drift, sigma2, beta2, gamma, smoothness, steps).values())
