"""Instances split by label, and quadratics, for which every constant and every expectation is known exactly.

A participant's loss is a weighted mean of sample losses, so the participants, the classes, the pooled loss and the
compensation participant are all rows of sample weights [J, n] (method.md, section 3). All arithmetic is float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np

from fedauto_core.errors import require
from fedauto_core.seeding import stream

SPLIT, CLASS_LOSSES, SAMPLES, NETWORK = range(4)  # keys of the "theory" random stream

Provenance = Literal["exact", "certified bound", "estimate"]
Source = Mapping[str, tuple[Provenance, str]]
"""For L, sigma^2 and F_inf of a family of instances: what kind of number it is, and how it was obtained."""


def require_steps(steps: int) -> None:
    """InputError unless E = steps is an integer >= 1."""
    require(
        isinstance(steps, int | np.integer) and steps >= 1,
        f"E = {steps} local steps",
        allowed="integers >= 1",
        remedy="let every participant take at least one step",
    )


def require_gamma(gamma: float) -> None:
    """InputError unless the step size is a finite number > 0."""
    require(
        bool(np.isfinite(gamma) and gamma > 0),
        f"step size gamma = {gamma}",
        allowed="finite numbers > 0",
        remedy="use a fraction of step_limit(L, E)",
    )


@dataclass(frozen=True, eq=False)
class Split:
    """Who holds which labels: counts [N+1, C], row 0 = the server. Samples are ordered by owner, then class."""

    counts: np.ndarray

    def __post_init__(self) -> None:
        require(
            self.counts.ndim == 2 and bool(np.all(self.counts >= 0) and np.all(self.counts.sum(axis=1) > 0)),
            f"label counts {self.counts.tolist()}",
            allowed="a matrix [N+1, C] of counts >= 0, each row with at least one sample",
            remedy="give every participant, the server first, at least one sample",
        )

    @property
    def n_clients(self) -> int:
        return len(self.counts) - 1

    @property
    def alpha(self) -> np.ndarray:
        """Label histograms [N+1, C]."""
        return self.counts / self.counts.sum(axis=1, keepdims=True)

    @property
    def target(self) -> np.ndarray:
        """alpha_g [C]."""
        return self.counts.sum(axis=0) / self.counts.sum()

    @cached_property
    def owner(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.counts)), self.counts.sum(axis=1))

    @cached_property
    def label(self) -> np.ndarray:
        return np.repeat(np.tile(np.arange(self.counts.shape[1]), len(self.counts)), self.counts.ravel())

    def rows(self, members: np.ndarray) -> np.ndarray:
        """Sample weights [J, n], each row uniform on the samples where members[J, n] holds."""
        return members / members.sum(axis=1, keepdims=True)

    @cached_property
    def participants(self) -> np.ndarray:
        """Sample weights of the server and the clients, [N+1, n]."""
        return self.rows(self.owner == np.arange(len(self.counts))[:, None])

    @cached_property
    def pooled(self) -> np.ndarray:
        """Sample weights of F, [1, n]: sum_j (n_j/n) F_j is the mean over all samples."""
        return np.full((1, len(self.owner)), 1.0 / len(self.owner))

    def classes(self) -> np.ndarray:
        """Sample weights of f_c for the classes with alpha_g(c) > 0, [C', n]."""
        return self.rows(self.label == np.flatnonzero(self.target > 0)[:, None])

    def compensators(self, missing: np.ndarray) -> np.ndarray:
        """Sample weights [K, n] of participant m: the server's samples of the classes where missing[K, C] holds."""
        return self.rows((self.owner == 0) & missing[:, self.label])


@dataclass(frozen=True, eq=False)
class Point:
    """A model w, mean [P]; cov [P, P] is its covariance over the minibatch noise so far, None = no noise so far."""

    mean: np.ndarray
    cov: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Round:
    """Exact expectations over the minibatch noise for S aggregations from the same w; J participants.

    value: F(w); value_after [S]: F(w_r); gradient2: ||grad F(w)||^2; bias2 [S]: b_r; participant_gradient2 [J]:
    ||grad F_j(w)||^2; drift [J]: mean over e of ||w_j^e - w||^2; after: the S points w_r.
    """

    value: float
    value_after: np.ndarray
    gradient2: float
    bias2: np.ndarray
    participant_gradient2: np.ndarray
    drift: np.ndarray
    after: tuple[Point, ...]


def _squares(vectors: np.ndarray) -> np.ndarray:
    return np.sum(np.square(vectors), axis=-1)


def _traces(matrices: np.ndarray, cov: np.ndarray) -> np.ndarray:
    """trace(M cov M') for a stack of matrices M."""
    return np.sum((matrices @ cov) * matrices, axis=(-2, -1))


@dataclass(frozen=True, eq=False)
class Quadratics:
    """Sample losses 1/2 (w - u_i)' H_i (w - u_i): hessian [n, d, d] symmetric, centre [n, d].

    Minibatch gradients carry additive noise, +-noise in each coordinate with equal probability, independent over
    participants and steps. So w_j^E is linear in the noise and every expectation follows from a mean and a covariance.
    """

    split: Split
    hessian: np.ndarray
    centre: np.ndarray
    noise: float = 0.0

    source: ClassVar[Source] = {
        "L": ("exact", "largest |eigenvalue| of the Hessians of all F_j and of F"),
        "sigma^2": ("exact", "d s^2 for noise of +-s in each of d coordinates"),
        "F_inf": ("exact", "minimum of the pooled quadratic"),
    }

    def __post_init__(self) -> None:
        require(
            bool(np.isfinite(self.noise) and self.noise >= 0),
            f"noise sigma = {self.noise}",
            allowed="finite numbers >= 0",
            remedy="give the size of the gradient noise per coordinate; 0 means full-batch gradients",
        )
        require(
            bool(np.allclose(self.hessian, np.swapaxes(self.hessian, -1, -2))),
            "a Hessian is not symmetric",
            allowed="symmetric matrices",
            remedy="use (H + H') / 2",
        )

    def mix(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """H [J, d, d], h [J, d], k [J] of the losses 1/2 w'Hw - h'w + k with sample weights rows [J, n]."""
        linear = np.einsum("nab,nb->na", self.hessian, self.centre)
        constant = 0.5 * np.sum(linear * self.centre, axis=1)
        return np.einsum("jn,nab->jab", rows, self.hessian), rows @ linear, rows @ constant

    @property
    def dimension(self) -> int:
        """Length P of w."""
        return self.centre.shape[1]

    @property
    def sigma2(self) -> float:
        """Variance of a minibatch gradient, E||g - grad F_j||^2."""
        return self.dimension * self.noise**2

    def smoothness(self, rows: np.ndarray) -> np.ndarray:
        """Smallest L [J] for which each row's loss is L-smooth: the largest |eigenvalue| of its Hessian."""
        return np.max(np.abs(np.linalg.eigvalsh(self.mix(rows)[0])), axis=1)

    def minimiser(self) -> np.ndarray:
        """The shortest w [d] that minimises F; InputError where F is unbounded below."""
        (hessian,), (linear,), _ = self.mix(self.split.pooled)
        low, high = np.linalg.eigvalsh(hessian)[[0, -1]]
        best = np.linalg.lstsq(hessian, linear, rcond=1e-12)[0]
        require(
            low >= -1e-12 * abs(high) and bool(np.allclose(hessian @ best, linear, rtol=1e-9, atol=1e-9)),
            f"F is not bounded below: its lowest curvature is {low:.4g}",
            allowed="sample Hessians whose mean is positive semidefinite, without a slope where it is flat",
            remedy="raise the lowest curvature",
        )
        return best

    def infimum(self) -> float:
        """min F; InputError where F is unbounded below."""
        _, (linear,), (constant,) = self.mix(self.split.pooled)
        return float(constant - 0.5 * linear @ self.minimiser())

    def value(self, points: np.ndarray) -> np.ndarray:
        """F at points [K, d], shape [K]."""
        (hessian,), (linear,), (constant,) = self.mix(self.split.pooled)
        return 0.5 * np.sum((points @ hessian) * points, axis=1) - points @ linear + constant

    def gradients(self, rows: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Gradients [J, d] of the rows' losses at w [d]."""
        hessian, linear, _ = self.mix(rows)
        return hessian @ w - linear

    def round(self, point: Point, rows: np.ndarray, beta: np.ndarray, gamma: float, steps: int) -> Round:
        """Exact expectations of one round for beta [S, J], participants rows [J, n], from a (possibly random) point."""
        require_gamma(gamma)
        require_steps(steps)
        hessian, linear, _ = self.mix(rows)
        (hessian_f,), (linear_f,), _ = self.mix(self.split.pooled)
        mean, eye = point.mean, np.eye(len(point.mean))
        cov = np.zeros_like(eye) if point.cov is None else point.cov

        # w_j^e = map w + offset + noise of covariance `spread`.
        step = eye - gamma * hessian
        map_, offset, spread, drift = np.broadcast_to(eye, step.shape), np.zeros_like(linear), np.zeros_like(step), 0.0
        for _ in range(steps):
            shift = map_ - eye
            drift = drift + _squares(shift @ mean + offset) + _traces(shift, cov) + np.trace(spread, axis1=1, axis2=2)
            map_, offset = step @ map_, np.einsum("jab,jb->ja", step, offset) + gamma * linear
            spread = step @ spread @ step + (gamma * self.noise) ** 2 * eye

        map_s = np.einsum("sj,jab->sab", beta, map_)
        mean_s = map_s @ mean + beta @ offset
        cov_s = map_s @ cov @ np.swapaxes(map_s, 1, 2) + np.einsum("sj,jab->sab", beta**2, spread)
        wrong_hessian = hessian_f - np.einsum("sj,jab->sab", beta, hessian)
        return Round(
            value=float(self.value(mean[None])[0] + 0.5 * np.sum(hessian_f * cov)),
            value_after=self.value(mean_s) + 0.5 * np.sum(hessian_f * cov_s, axis=(1, 2)),
            gradient2=float(_squares(hessian_f @ mean - linear_f) + _traces(hessian_f, cov)),
            bias2=_squares(wrong_hessian @ mean - linear_f + beta @ linear) + _traces(wrong_hessian, cov),
            participant_gradient2=_squares(hessian @ mean - linear) + _traces(hessian, cov),
            drift=drift / steps,
            after=tuple(Point(m, c) for m, c in zip(mean_s, cov_s, strict=True)),
        )


def skewed_split(
    seed: int, n_clients: int = 8, n_classes: int = 10, per_class: int = 24, server_per_class: int = 5
) -> Split:
    """Client i holds classes 2i-2 and 2i-1 modulo C, per_class/2 to 3 per_class/2 of each; the server holds all."""
    require(
        n_clients >= 1 and n_classes >= 2,
        f"{n_clients} clients, {n_classes} classes",
        allowed="at least 1 client and 2 classes",
        remedy="raise the smaller of the two",
    )
    draw = stream(seed, "theory", SPLIT).integers(per_class // 2, 3 * per_class // 2 + 1, (n_clients, 2))
    counts = np.zeros((n_clients + 1, n_classes), dtype=np.int64)
    counts[0] = server_per_class
    for k in range(2):
        counts[np.arange(1, n_clients + 1), (2 * np.arange(n_clients) + k) % n_classes] = draw[:, k]
    return Split(counts)


def random_quadratics(
    seed: int,
    split: Split,
    dimension: int = 4,
    curvature: tuple[float, float] = (-0.2, 1.0),
    feature_shift: float = 0.0,
    noise: float = 0.3,
) -> Quadratics:
    """One quadratic per class: eigenvalues uniform in `curvature`, centre 2 normal + feature_shift * normal per sample.

    feature_shift = 0: samples of a class are alike, so delta_j = 0. A negative lowest curvature makes single
    participants non-convex while F stays bounded below.
    """
    rng = stream(seed, "theory", CLASS_LOSSES)
    n_classes = split.counts.shape[1]
    basis = np.linalg.qr(rng.standard_normal((n_classes, dimension, dimension)))[0]
    eigenvalues = rng.uniform(*curvature, (n_classes, 1, dimension))
    hessian = (basis * eigenvalues) @ np.swapaxes(basis, 1, 2)
    centre = 2.0 * rng.standard_normal((n_classes, dimension))[split.label]
    centre = centre + feature_shift * rng.standard_normal(centre.shape)
    return Quadratics(split, hessian[split.label], centre, noise)
