"""Instances with full-batch gradients, and those made of real images: regressions and a small smooth network.

Rows of sample weights [J, n] as in `theory.instances`; float64 throughout. But for least squares the gradients are
full-batch (sigma = 0); `theory.enumeration` adds minibatch noise to softmax regression.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy.special import logsumexp
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from fedauto_core.data.datasets import load_dataset
from fedauto_core.errors import require, require_known
from fedauto_core.seeding import stream
from fedauto_core.theory.problems.curvature import largest_curvature
from fedauto_core.theory.problems.quadratics import (
    CLASS_LOSSES,
    NETWORK,
    SAMPLES,
    Point,
    Quadratics,
    Round,
    Source,
    Split,
    require_gamma,
    require_steps,
)

IMAGES = ("digits", "fashion_mnist")
NOTHING_BELOW_ZERO = ("certified bound", "cross-entropy and regulariser are >= 0")
NO_NOISE = ("exact", "full-batch gradients carry no noise")


class FullBatch:
    """Losses with full-batch gradients: subclasses have a split, `source`, smoothness, value, gradients."""

    split: Split
    source: ClassVar[Source]
    sigma2 = 0.0

    def smoothness(self, rows: np.ndarray) -> np.ndarray:
        """L [J] of the rows' losses."""
        raise NotImplementedError

    def value(self, points: np.ndarray) -> np.ndarray:
        """F at points [K, P], shape [K]."""
        raise NotImplementedError

    def gradients(self, rows: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Gradients [J, P] of the rows' losses at w [P], or at one point per row, w [J, P]."""
        raise NotImplementedError

    def infimum(self) -> float:
        """A lower bound of F: no term of these losses is negative."""
        return 0.0

    def round(self, point: Point, rows: np.ndarray, beta: np.ndarray, gamma: float, steps: int) -> Round:
        """One round with full-batch gradients for beta [S, J], participants rows [J, n], from point, which is known."""
        require_gamma(gamma)
        require_steps(steps)
        require(
            point.cov is None,
            "a random model for a loss whose expectations have no closed form",
            allowed="a point without covariance",
            remedy="pass Point(mean)",
        )
        w = point.mean
        gradients, (pooled,) = self.gradients(rows, w), self.gradients(self.split.pooled, w)
        local, drift = np.tile(w, (len(rows), 1)), 0.0
        for _ in range(steps):
            drift = drift + np.sum((local - w) ** 2, axis=1)
            local = local - gamma * self.gradients(rows, local)
        after = w + beta @ (local - w)
        return Round(
            value=float(self.value(w[None])[0]),
            value_after=self.value(after),
            gradient2=float(pooled @ pooled),
            bias2=np.sum((pooled - beta @ gradients) ** 2, axis=1),
            participant_gradient2=np.sum(gradients**2, axis=1),
            drift=drift / steps,
            after=tuple(Point(a) for a in after),
        )


@dataclass(frozen=True, eq=False)
class SoftmaxRegression(FullBatch):
    """Cross-entropy of softmax(x W), features x [n, d] (constant column included), + regulariser * sum w^2/(1 + w^2).

    Weights are flat, w [d * C].
    """

    split: Split
    features: np.ndarray
    regulariser: float = 0.0

    source: ClassVar[Source] = {
        "L": ("certified bound", "1/2 lambda_max(mean x x') + 2 mu, largest over all F_j and F"),
        "sigma^2": NO_NOISE,
        "F_inf": NOTHING_BELOW_ZERO,
    }

    def __post_init__(self) -> None:
        require(
            bool(np.isfinite(self.regulariser) and self.regulariser >= 0),
            f"regulariser mu = {self.regulariser}",
            allowed="finite numbers >= 0",
            remedy="use 0 for plain softmax regression",
        )

    @property
    def n_classes(self) -> int:
        return self.split.counts.shape[1]

    @property
    def dimension(self) -> int:
        """Length P of w."""
        return self.features.shape[1] * self.n_classes

    def smoothness(self, rows: np.ndarray) -> np.ndarray:
        """Upper bound on L [J]: 1/2 lambda_max(sum_i weight_i x_i x_i') + 2 mu.

        The softmax Hessian diag(p) - p p' has eigenvalues in [0, 1/2]; |d2/dw2 w^2/(1+w^2)| <= 2.
        """
        roots = (np.sqrt(row[row > 0])[:, None] * self.features[row > 0] for row in rows)
        return 0.5 * np.array([np.linalg.norm(root, ord=2) ** 2 for root in roots]) + 2.0 * self.regulariser

    def value(self, points: np.ndarray) -> np.ndarray:
        """F at points [K, P], shape [K]."""
        logits = self.features @ points.reshape(len(points), -1, self.n_classes)
        picked = logits[:, np.arange(len(self.features)), self.split.label]
        penalty = self.regulariser * np.sum(points**2 / (1 + points**2), axis=1)
        return np.mean(logsumexp(logits, axis=2) - picked, axis=1) + penalty

    def gradients(self, rows: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Gradients [J, P] of the rows' losses at w [P], or at one point per row, w [J, P]."""
        points = np.broadcast_to(w, (len(rows), self.dimension))
        data = np.stack([self._data_slope(row, point) for row, point in zip(rows, points, strict=True)])
        return data + self.regulariser * 2 * points / (1 + points**2) ** 2

    def _data_slope(self, row: np.ndarray, point: np.ndarray) -> np.ndarray:
        held = np.flatnonzero(row)  # most rows weigh few samples
        x = self.features[held]
        logits = x @ point.reshape(-1, self.n_classes)
        error = np.exp(logits - logits.max(axis=1, keepdims=True))  # the softmax, then minus one at the label
        error /= error.sum(axis=1, keepdims=True)
        error[np.arange(len(held)), self.split.label[held]] -= 1
        return (x.T @ (row[held, None] * error)).ravel()


@dataclass(frozen=True, eq=False)
class Waves(FullBatch):
    """w^2 + 3 sin^2 w + tilt_i w in one dimension, tilt [n] of mean zero: F is not convex, yet Polyak-Lojasiewicz.

    ||F'||^2 >= 2 mu (F - 0) with mu = 1/32 (Karimi, Nutini and Schmidt 2016, section 2.2).
    """

    split: Split
    tilt: np.ndarray

    dimension = 1
    strength = 1 / 32
    source: ClassVar[Source] = {
        "L": ("exact", "|2 + 6 cos 2w| is at most 8"),
        "sigma^2": NO_NOISE,
        "F_inf": ("exact", "F(0) = 0, and no term of F is negative"),
    }

    def smoothness(self, rows: np.ndarray) -> np.ndarray:
        """L [J], the same for all."""
        return np.full(len(rows), 8.0)

    def value(self, points: np.ndarray) -> np.ndarray:
        """F at points [K, 1], shape [K]."""
        return (points**2 + 3 * np.sin(points) ** 2)[:, 0]

    def gradients(self, rows: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Gradients [J, 1] of the rows' losses at w [1], or at one point per row, w [J, 1]."""
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

    source: ClassVar[Source] = {
        "L": ("estimate", "largest |curvature| of all F_j and F at the probes, from below"),
        "sigma^2": NO_NOISE,
        "F_inf": NOTHING_BELOW_ZERO,
    }

    @property
    def dimension(self) -> int:
        """Length P of w."""
        return self.hidden * (self.features.shape[1] + self.split.counts.shape[1])

    def _loss(self, w: Tensor, row: Tensor) -> Tensor:
        size = self.hidden * self.features.shape[1]
        inner = torch.tanh(torch.as_tensor(self.features) @ w[:size].reshape(-1, self.hidden))
        logits = inner @ w[size:].reshape(self.hidden, -1)
        return row @ functional.cross_entropy(logits, torch.as_tensor(self.split.label), reduction="none")

    def smoothness(self, rows: np.ndarray) -> np.ndarray:
        """Estimate of L [J], from below."""
        probes = torch.as_tensor(self.probes)

        def largest(row: Tensor) -> float:
            return max(largest_curvature(lambda w: self._loss(w, row), probe) for probe in probes)

        return np.array([largest(row) for row in torch.as_tensor(rows)])

    def value(self, points: np.ndarray) -> np.ndarray:
        """F at points [K, P], shape [K]."""
        row = torch.as_tensor(self.split.pooled[0])
        return torch.func.vmap(lambda w: self._loss(w, row))(torch.as_tensor(points)).numpy()

    def gradients(self, rows: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Gradients [J, P] of the rows' losses at w [P], or at one point per row, w [J, P]."""
        points = torch.as_tensor(np.array(np.broadcast_to(w, (len(rows), self.dimension))))
        return torch.func.vmap(torch.func.grad(self._loss))(points, torch.as_tensor(rows)).numpy()


Problem = Quadratics | FullBatch


def image_features(seed: int, split: Split, dataset: str = "digits") -> np.ndarray:
    """Features [n, d + 1] of real images for the samples of a split, drawn without replacement; last column one.

    "digits": scikit-learn's 8x8 digits, pixels in [0, 1]; "fashion_mnist": its training images, standardised.
    """
    require_known("image data set", dataset, IMAGES)
    if dataset == "digits":
        pixels, labels = load_digits(return_X_y=True)
        pixels = pixels / 16.0
    else:
        data = load_dataset(dataset)
        pixels, labels = data.x_train.flatten(1).numpy().astype(np.float64), data.y_train.numpy()
    order = stream(seed, "theory", SAMPLES).permutation(len(labels))
    index = np.empty(len(split.label), dtype=np.int64)
    for c, wanted in enumerate(split.counts.sum(axis=0)):
        pool = order[labels[order] == c]
        require(
            wanted <= len(pool),
            f"{wanted} samples of label {c} wanted of {dataset}",
            allowed=f"at most {len(pool)} (and labels 0 to 9)",
            remedy="use fewer samples per class",
        )
        index[split.label == c] = pool[:wanted]
    return np.hstack([pixels[index], np.ones((len(index), 1))])


def softmax_regression(seed: int, split: Split, regulariser: float = 0.0, dataset: str = "digits") -> SoftmaxRegression:
    """Softmax regression on the images of a split; with a regulariser > 0 it is not convex."""
    return SoftmaxRegression(split, image_features(seed, split, dataset), regulariser)


def least_squares(
    seed: int, split: Split, components: int = 8, noise: float = 0.0, dataset: str = "digits"
) -> Quadratics:
    """Is the label in the upper half of the classes? 1/2 (x'w - y)^2, y = +-1, on principal components, as quadratics.

    x holds the first `components` principal components of the images, each of unit variance, and a constant. Centre
    y x / |x|^2 makes the residual vanish, so the quadratic is the squared residual. Samples of a class differ:
    delta_j > 0.
    """
    pixels = image_features(seed, split, dataset)[:, :-1]
    left, sizes, _ = np.linalg.svd(pixels - pixels.mean(axis=0), full_matrices=False)
    require(
        1 <= components <= int(np.sum(sizes > 1e-9 * sizes[0])),
        f"{components} principal components",
        allowed=f"1 to {int(np.sum(sizes > 1e-9 * sizes[0]))} for {len(pixels)} images",
        remedy="use fewer components or more images",
    )
    x = np.hstack([np.sqrt(len(pixels)) * left[:, :components], np.ones((len(pixels), 1))])
    y = np.where(split.label >= split.counts.shape[1] / 2, 1.0, -1.0)
    hessian = x[:, :, None] * x[:, None, :]
    return Quadratics(split, hessian, x * (y / np.sum(x**2, axis=1))[:, None], noise)


def smooth_net(seed: int, split: Split, hidden: int = 6, probes: int = 4, dataset: str = "digits") -> SmoothNet:
    """A network with one layer of tanh; probes: normal points of deviation 0.3, of which the first can serve as start.

    InputError unless hidden and probes are at least 1.
    """
    require(
        min(hidden, probes) >= 1,
        f"{hidden} hidden units, {probes} probes",
        allowed="at least one of each",
        remedy="raise the smaller of the two",
    )
    features = image_features(seed, split, dataset)
    size = hidden * (features.shape[1] + split.counts.shape[1])
    points = 0.3 * stream(seed, "theory", NETWORK).standard_normal((probes, size))
    return SmoothNet(split, features, hidden, points)


def waves(seed: int, split: Split) -> Waves:
    """Waves whose tilt is normal for each class, less the mean over all samples."""
    tilt = stream(seed, "theory", CLASS_LOSSES).standard_normal(split.counts.shape[1])[split.label]
    return Waves(split, tilt - tilt.mean())
