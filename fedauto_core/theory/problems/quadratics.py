"""Quadratics, for which every constant and every expectation is known exactly."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from fedauto_core.errors import require, require_number
from fedauto_core.seeding import stream

from .split import CLASS_LOSSES, Point, Provenances, Round, Split, require_gamma, require_steps


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

    provenance: ClassVar[Provenances] = {
        "L": ("exact", "largest |eigenvalue| of the Hessians of all F_j and of F"),
        "sigma^2": ("exact", "d s^2 for noise of +-s in each of d coordinates"),
        "F_inf": ("exact", "minimum of the pooled quadratic"),
    }

    def __post_init__(self) -> None:
        remedy = "give the size of the gradient noise per coordinate; 0 means full-batch gradients"
        require_number("noise sigma", self.noise, strict=False, remedy=remedy)
        symmetric = np.allclose(self.hessian, np.swapaxes(self.hessian, -1, -2))
        require(symmetric, "a Hessian is not symmetric", allowed="symmetric matrices", remedy="use (H + H') / 2")

    def mix(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """H [J, d, d], h [J, d], k [J] of the losses 1/2 w'Hw - h'w + k with sample weights rows [J, n]."""
        linear, constant = self._parts
        return np.einsum("jn,nab->jab", rows, self.hessian), rows @ linear, rows @ constant

    @cached_property
    def _parts(self) -> tuple[np.ndarray, np.ndarray]:
        """h [n, d] and k [n] of the samples."""
        linear = np.einsum("nab,nb->na", self.hessian, self.centre)
        return linear, 0.5 * np.sum(linear * self.centre, axis=1)

    @cached_property
    def _pooled(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`mix` of F."""
        return self.mix(self.split.pooled)

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
        (hessian,), (linear,), _ = self._pooled
        low, high = np.linalg.eigvalsh(hessian)[[0, -1]]
        best = np.linalg.lstsq(hessian, linear, rcond=1e-12)[0]
        bounded = low >= -1e-12 * abs(high) and np.allclose(hessian @ best, linear, rtol=1e-9, atol=1e-9)
        what = f"F is not bounded below: its lowest curvature is {low:.4g}"
        allowed = "sample Hessians whose mean is positive semidefinite, without a slope where it is flat"
        require(bounded, what, allowed=allowed, remedy="raise the lowest curvature")
        return best

    def infimum(self) -> float:
        """min F; InputError where F is unbounded below."""
        _, (linear,), (constant,) = self._pooled
        return float(constant - 0.5 * linear @ self.minimiser())

    def value(self, points: np.ndarray) -> np.ndarray:
        """F at points [K, d], shape [K]."""
        (hessian,), (linear,), (constant,) = self._pooled
        return 0.5 * np.sum((points @ hessian) * points, axis=1) - points @ linear + constant

    def gradients(self, rows: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Gradients [J, d] of the rows' losses at w [d]."""
        hessian, linear, _ = self.mix(rows)
        return hessian @ w - linear

    def round(
        self, point: Point, rows: np.ndarray, beta: np.ndarray, gamma: float, steps: int,
        shifts: np.ndarray | float = 0.0, prox: float = 0.0,
    ) -> Round:  # fmt: skip
        """Exact expectations of one round for beta [S, J], participants rows [J, n], from a (possibly random) point.

        With shifts s [J, d] and prox mu participants step along g_j(v) + s_j + mu (v - w), as SCAFFOLD's and FedProx's
        do; bias2 and participant_gradient2 are then those of grad F_j(w) + s_j (docs/method.md, 5.11).
        """
        require_gamma(gamma)
        require_steps(steps)
        hessian, linear, _ = self.mix(rows)
        linear = linear - shifts
        (hessian_f,), (linear_f,), _ = self._pooled
        mean, eye = point.mean, np.eye(len(point.mean))
        cov = np.zeros_like(eye) if point.cov is None else point.cov

        # w_j^e = map w + offset + noise of covariance `spread`.
        step = eye - gamma * (hessian + prox * eye)
        map_, offset, spread, drift = np.broadcast_to(eye, step.shape), np.zeros_like(linear), np.zeros_like(step), 0.0
        for _ in range(steps):
            shift = map_ - eye
            drift = drift + _squares(shift @ mean + offset) + _traces(shift, cov) + np.trace(spread, axis1=1, axis2=2)
            map_ = step @ map_ + gamma * prox * eye
            offset = np.einsum("jab,jb->ja", step, offset) + gamma * linear
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


def random_quadratics(
    seed: int, split: Split, dimension: int = 4, curvature: tuple[float, float] = (-0.2, 1.0),
    feature_shift: float = 0.0, noise: float = 0.3,
) -> Quadratics:  # fmt: skip
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
