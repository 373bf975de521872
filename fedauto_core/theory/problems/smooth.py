"""Two losses with full-batch gradients that are no regressions: waves (PL, not convex) and a small network."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fedauto_core.errors import require_number
from fedauto_core.seeding import stream

from .curvature import largest_curvature
from .regression import FullBatch, image_features
from .split import CLASS_LOSSES, NETWORK, Provenances, Split


@dataclass(frozen=True, eq=False)
class Waves(FullBatch):
    """w^2 + 3 sin^2 w + tilt_i w in one dimension, tilt [n] of mean zero: F is not convex, yet Polyak-Lojasiewicz.

    ||F'||^2 >= 2 mu (F - 0) with mu = 1/32 (Karimi, Nutini and Schmidt 2016, section 2.2).
    """

    split: Split
    tilt: np.ndarray

    dimension = 1
    strength = 1 / 32
    provenance: ClassVar[Provenances] = FullBatch.provenance | {
        "L": ("exact", "|2 + 6 cos 2w| is at most 8"),
        "F_inf": ("exact", "F(0) = 0, and no term of F is negative"),
    }

    def smoothness(self, rows: np.ndarray) -> np.ndarray:
        return np.full(len(rows), 8.0)

    def value(self, points: np.ndarray) -> np.ndarray:
        return (points**2 + 3 * np.sin(points) ** 2)[:, 0]

    def gradients(self, rows: np.ndarray, w: np.ndarray) -> np.ndarray:
        points = np.broadcast_to(w, (len(rows), 1))
        return 2 * points + 3 * np.sin(2 * points) + (rows @ self.tilt)[:, None]


@dataclass(frozen=True, eq=False)
class SmoothNet(FullBatch):
    """Cross-entropy of softmax(tanh(x A) B), A [d, hidden], B [hidden, C], features x [n, d]. Weights flat, w = (A, B).

    It is smooth on bounded sets only, with a constant that nobody can compute: `smoothness` is the largest curvature
    met at the points `probes` [K, P], an estimate from below.
    """

    split: Split
    features: np.ndarray
    hidden: int
    probes: np.ndarray

    provenance: ClassVar[Provenances] = FullBatch.provenance | {
        "L": ("estimate", "largest |curvature| of all F_j and F at the probes, from below")
    }

    @property
    def dimension(self) -> int:
        return self.hidden * (self.features.shape[1] + self.split.counts.shape[1])

    def _loss(self, w: Tensor, row: Tensor) -> Tensor:
        size = self.hidden * self.features.shape[1]
        inner = torch.tanh(torch.as_tensor(self.features) @ w[:size].reshape(-1, self.hidden))
        logits = inner @ w[size:].reshape(self.hidden, -1)
        return row @ functional.cross_entropy(logits, torch.as_tensor(self.split.label), reduction="none")

    def smoothness(self, rows: np.ndarray) -> np.ndarray:
        """Estimate of L [J], from below."""
        probes, losses = torch.as_tensor(self.probes), [partial(self._loss, row=row) for row in torch.as_tensor(rows)]
        return np.array([max(largest_curvature(loss, probe) for probe in probes) for loss in losses])

    def value(self, points: np.ndarray) -> np.ndarray:
        row = torch.as_tensor(self.split.pooled[0])
        return torch.func.vmap(partial(self._loss, row=row))(torch.as_tensor(points)).numpy()

    def gradients(self, rows: np.ndarray, w: np.ndarray) -> np.ndarray:
        points = torch.as_tensor(np.array(np.broadcast_to(w, (len(rows), self.dimension))))
        return torch.func.vmap(torch.func.grad(self._loss))(points, torch.as_tensor(rows)).numpy()


def smooth_net(seed: int, split: Split, hidden: int = 6, probes: int = 4) -> SmoothNet:
    """A network with one layer of tanh; probes: normal points of deviation 0.3, of which the first can serve as start.

    InputError unless hidden and probes are at least 1.
    """
    for name, value in (("hidden units", hidden), ("probes", probes)):
        require_number(name, value, low=1, strict=False, whole=True)
    features = image_features(seed, split)
    size = hidden * (features.shape[1] + split.counts.shape[1])
    points = 0.3 * stream(seed, "theory", NETWORK).standard_normal((probes, size))
    return SmoothNet(split, features, hidden, points)


def waves(seed: int, split: Split) -> Waves:
    """Waves whose tilt is normal for each class, less the mean over all samples."""
    tilt = stream(seed, "theory", CLASS_LOSSES).standard_normal(split.counts.shape[1])[split.label]
    return Waves(split, tilt - tilt.mean())
