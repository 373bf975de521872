"""Losses with full-batch gradients, and regressions on real images.

Rows of sample weights [J, n] as in `theory.problems.split`; float64 throughout. Except for least squares the gradients
are full-batch (sigma = 0); `theory.bound.enumeration` adds minibatch noise to softmax regression.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import logsumexp, softmax

from fedauto_core.data.datasets import load_dataset
from fedauto_core.data.digits import all_digits
from fedauto_core.errors import require, require_known, require_number
from fedauto_core.seeding import stream

from .quadratics import Quadratics
from .split import SAMPLES, Point, Provenances, Round, Split, require_gamma, require_steps

IMAGES = ("digits", "fashion_mnist")


class FullBatch:
    """Losses with full-batch gradients.

    Subclasses have a split; dimension: the length P of w; provenance["L"]; smoothness(rows): L [J] of the rows' losses;
    value(points): F [K] at points [K, P]; gradients(rows, w) [J, P] of the rows' losses at w [P], or at one point per
    row, w [J, P].
    """

    provenance: ClassVar[Provenances] = {
        "sigma^2": ("exact", "full-batch gradients carry no noise"),
        "F_inf": ("certified bound", "cross-entropy and regulariser are >= 0"),
    }
    sigma2 = 0.0

    def infimum(self) -> float:
        """A lower bound of F: no term of these losses is negative."""
        return 0.0

    def round(self, point: Point, rows: np.ndarray, beta: np.ndarray, gamma: float, steps: int) -> Round:
        """One round with full-batch gradients for beta [S, J], participants rows [J, n], from point, which is known."""
        require_gamma(gamma)
        require_steps(steps)
        what, allowed = "a random model for a loss whose expectations have no closed form", "a point without covariance"
        require(point.cov is None, what, allowed=allowed, remedy="pass Point(mean)")
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

    provenance: ClassVar[Provenances] = FullBatch.provenance | {
        "L": ("certified bound", "1/2 lambda_max(mean x x') + 2 mu, largest over all F_j and F")
    }

    def __post_init__(self) -> None:
        remedy = "use 0 for plain softmax regression"
        require_number("regulariser mu", self.regulariser, strict=False, remedy=remedy)

    @property
    def n_classes(self) -> int:
        return self.split.counts.shape[1]

    @property
    def dimension(self) -> int:
        return self.features.shape[1] * self.n_classes

    def smoothness(self, rows: np.ndarray) -> np.ndarray:
        """Upper bound on L [J]: 1/2 lambda_max(sum_i weight_i x_i x_i') + 2 mu.

        The softmax Hessian diag(p) - p p' has eigenvalues in [0, 1/2]; |d2/dw2 w^2/(1+w^2)| <= 2.
        """
        roots = (np.sqrt(row[row > 0])[:, None] * self.features[row > 0] for row in rows)
        return 0.5 * np.array([np.linalg.norm(root, ord=2) ** 2 for root in roots]) + 2.0 * self.regulariser

    def value(self, points: np.ndarray) -> np.ndarray:
        logits = self.features @ points.reshape(len(points), -1, self.n_classes)
        picked = logits[:, np.arange(len(self.features)), self.split.label]
        penalty = self.regulariser * np.sum(points**2 / (1 + points**2), axis=1)
        return np.mean(logsumexp(logits, axis=2) - picked, axis=1) + penalty

    def gradients(self, rows: np.ndarray, w: np.ndarray) -> np.ndarray:
        points = np.broadcast_to(w, (len(rows), self.dimension))
        data = np.stack([self._data_slope(row, point) for row, point in zip(rows, points, strict=True)])
        return data + self.regulariser * 2 * points / (1 + points**2) ** 2

    def _data_slope(self, row: np.ndarray, point: np.ndarray) -> np.ndarray:
        held = np.flatnonzero(row)  # most rows weigh few samples
        x = self.features[held]
        error = softmax(x @ point.reshape(-1, self.n_classes), axis=1)
        error[np.arange(len(held)), self.split.label[held]] -= 1
        return (x.T @ (row[held, None] * error)).ravel()


Problem = Quadratics | FullBatch


def image_features(seed: int, split: Split, dataset: str = "digits") -> np.ndarray:
    """Features [n, d + 1] of real images for the samples of a split, drawn without replacement; last column one.

    "digits": scikit-learn's 8x8 digits, pixels in [0, 1]; "fashion_mnist": its training images, standardised.
    """
    require_known("image data set", dataset, IMAGES)
    if dataset == "digits":
        levels, labels = all_digits()
        pixels = levels.reshape(len(labels), -1) / 16.0
    else:
        data = load_dataset(dataset)
        pixels, labels = data.x_train.flatten(1).numpy().astype(np.float64), data.y_train.numpy()
    order = stream(seed, "theory", SAMPLES).permutation(len(labels))
    index = np.empty(len(split.label), dtype=np.int64)
    for c, wanted in enumerate(split.counts.sum(axis=0)):
        pool = order[labels[order] == c]
        what, remedy = f"samples of label {c} of {dataset}", "use fewer samples per class, and labels 0 to 9"
        require_number(what, wanted, high=len(pool), strict=False, whole=True, remedy=remedy)
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
    most, remedy = int(np.sum(sizes > 1e-9 * sizes[0])), "use fewer components or more images"
    require_number("principal components", components, low=1, high=most, strict=False, whole=True, remedy=remedy)
    x = np.hstack([np.sqrt(len(pixels)) * left[:, :components], np.ones((len(pixels), 1))])
    y = np.where(split.label >= split.counts.shape[1] / 2, 1.0, -1.0)
    hessian = x[:, :, None] * x[:, None, :]
    return Quadratics(split, hessian, x * (y / np.sum(x**2, axis=1))[:, None], noise)
