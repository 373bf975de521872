"""LoRA as a problem: the product of two factors on softmax regression, with a constant certified on a ball."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedauto_core.errors import require, require_number
from fedauto_core.seeding import stream

from .curvature import lora_ball_smoothness
from .regression import FullBatch, SoftmaxRegression
from .split import NETWORK, Provenances, Split


@dataclass(frozen=True, eq=False)
class LowRankRegression(FullBatch):
    """LoRA on softmax regression: W = scale * A B, A [d, rank], B [rank, C], trained on ||A||, ||B|| <= radius.

    Weights are flat, w = (A, B). The loss is smooth on that ball only (`theory.problems.curvature`), so a value or a
    gradient asked for outside of it is an InputError: nothing can be claimed there.
    """

    base: SoftmaxRegression
    rank: int = 4
    scale: float = 2.0
    radius: float = 2.0

    provenance: ClassVar[Provenances] = FullBatch.provenance | {
        "L": ("certified bound", "2 s^2 L rho^2 + s (|grad l(0)| + L s sqrt(r) rho^2) on the ball of radius rho")
    }

    def __post_init__(self) -> None:
        for name in ("rank", "scale", "radius"):
            require_number(name, getattr(self, name), remedy=f"choose a positive {name}")

    @property
    def split(self) -> Split:
        return self.base.split

    @property
    def dimension(self) -> int:
        return self.rank * (self.base.features.shape[1] + self.base.n_classes)

    def start(self, seed: int) -> np.ndarray:
        """LoRA's usual start: A normal with deviation 1/10, B = 0."""
        size = self.rank * self.base.features.shape[1]
        a = 0.1 * stream(seed, "theory", NETWORK).standard_normal(size)
        return np.pad(a, (0, self.dimension - size))

    def factors(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A [K, d, rank] and B [K, rank, C] of points [K, P]."""
        size = self.rank * self.base.features.shape[1]
        a, b = points[:, :size], points[:, size:]
        return a.reshape(len(points), -1, self.rank), b.reshape(len(points), self.rank, -1)

    def _products(self, points: np.ndarray) -> np.ndarray:
        a, b = self.factors(points)
        farthest = max(float(np.linalg.norm(factor, ord=2, axis=(1, 2)).max()) for factor in (a, b))
        what, allowed = f"a factor of norm {farthest:.4g} outside the ball of", f"spectral norms up to {self.radius}"
        remedy = "raise the radius or lower the step size"
        require(farthest <= self.radius, f"{what} radius {self.radius}", allowed=allowed, remedy=remedy)
        return self.scale * (a @ b).reshape(len(points), -1)

    def smoothness(self, rows: np.ndarray) -> np.ndarray:
        """Upper bound on L [J] on the ball."""
        slopes = self.base.gradients(rows, np.zeros(self.base.dimension)).reshape(len(rows), -1, self.base.n_classes)
        at_start = np.linalg.norm(slopes, ord=2, axis=(1, 2))
        pairs = zip(self.base.smoothness(rows), at_start, strict=True)
        return np.array([lora_ball_smoothness(self.scale, L, g, self.rank, self.radius) for L, g in pairs])

    def value(self, points: np.ndarray) -> np.ndarray:
        return self.base.value(self._products(points))

    def gradients(self, rows: np.ndarray, w: np.ndarray) -> np.ndarray:
        points = np.broadcast_to(w, (len(rows), self.dimension))
        a, b = self.factors(points)
        slope = self.base.gradients(rows, self._products(points)).reshape(len(rows), -1, self.base.n_classes)
        down, up = slope @ np.swapaxes(b, 1, 2), np.swapaxes(a, 1, 2) @ slope
        return self.scale * np.hstack([down.reshape(len(rows), -1), up.reshape(len(rows), -1)])
