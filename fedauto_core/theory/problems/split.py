"""What all problems share: who holds which labels, a model, and what one round makes of it.

A participant's loss is a weighted mean of sample losses, so the participants, the classes, the pooled loss and the
compensation participant are all rows of sample weights [J, n] (docs/method.md, section 3). All arithmetic is float64.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from fedauto_core.errors import require, require_number
from fedauto_core.seeding import stream

SPLIT, CLASS_LOSSES, SAMPLES, NETWORK = range(4)  # keys of the "theory" random stream

Provenance = Literal["exact", "certified bound", "estimate"]
Provenances = Mapping[str, tuple[Provenance, str]]
"""For L, sigma^2 and F_inf of a family of problems: what kind of number it is, and how it was obtained."""


def require_steps(steps: int) -> None:
    """InputError unless E = steps is an integer >= 1."""
    remedy = "let every participant take at least one step"
    require_number("local steps E", steps, low=1, strict=False, whole=True, remedy=remedy)


def require_gamma(gamma: float) -> None:
    """InputError unless the step size is a finite number > 0."""
    require_number("step size gamma", gamma, remedy="use a fraction of the theorem's step_limit(L, E)")


@dataclass(frozen=True, eq=False)
class Split:
    """Who holds which labels: counts [N+1, C], row 0 = the server. Samples are ordered by owner, then class."""

    counts: np.ndarray

    def __post_init__(self) -> None:
        fits = self.counts.ndim == 2 and np.all(self.counts >= 0) and np.all(self.counts.sum(axis=1) > 0)
        allowed = "a matrix [N+1, C] of counts >= 0, each row with at least one sample"
        remedy = "give every participant, the server first, at least one sample"
        require(fits, f"label counts {self.counts.tolist()}", allowed=allowed, remedy=remedy)

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


def skewed_split(seed: int, n_clients: int = 8, per_class: int = 24) -> Split:
    """Client i holds classes 2i-2 and 2i-1 modulo 10, per_class/2 to 3 per_class/2 of each; the server 5 of each."""
    require_number("n_clients", n_clients, low=1, strict=False, whole=True)
    draw = stream(seed, "theory", SPLIT).integers(per_class // 2, 3 * per_class // 2 + 1, (n_clients, 2))
    counts = np.zeros((n_clients + 1, 10), dtype=np.int64)
    counts[0] = 5
    for k in range(2):
        counts[np.arange(1, n_clients + 1), (2 * np.arange(n_clients) + k) % 10] = draw[:, k]
    return Split(counts)
