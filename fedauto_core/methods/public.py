"""Labelled public samples: how many of each class, and which of them the server trains on."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from fedauto_core.errors import require, require_number
from fedauto_core.seeding import stream


class PublicSamples:
    """Labels of the server's samples, and minibatches of them, uniform with replacement.

    The round and the order of the calls in it alone decide the draws: every method that asks the same question gets the
    same minibatches.

    Parameters
    ----------
    labels : int64 [n_0], in 0..C-1
    n_classes : C
    batch, seed : size B of the minibatches, and seed of their draws

    Raises
    ------
    InputError : for no samples, labels out of range, or a batch that is none

    Attributes
    ----------
    counts_per_class : samples of each class, int64 [C]
    round, calls : the round (from 0), and how often minibatches were drawn in it
    """

    def __init__(self, labels: np.ndarray, n_classes: int, batch: int, seed: int) -> None:
        require_number("batch", batch, low=1, strict=False, whole=True)
        require(
            len(labels) > 0 and labels.min() >= 0 and labels.max() < n_classes,
            f"{len(labels)} public samples with labels {sorted({*labels.tolist()})}",
            allowed=f"at least one, labels in 0..{n_classes - 1}",
            remedy="give the labels of the public samples, and the number of all classes",
        )
        self.labels, self.batch, self.seed = labels, batch, seed
        self.counts_per_class = np.bincount(labels, minlength=n_classes)
        self.start_round(0)

    def start_round(self, round: int) -> None:
        self.round, self.calls = round, 0

    def minibatches(self, steps: int, classes: Sequence[int] | None = None) -> np.ndarray:
        """Positions [steps, B] among the samples (of `classes` only, if given). InputError where there are none."""
        pool = np.arange(len(self.labels)) if classes is None else np.flatnonzero(np.isin(self.labels, classes))
        require(
            len(pool) > 0,
            f"the server holds no sample of the classes {list(classes or [])}",
            allowed=f"classes {np.flatnonzero(self.counts_per_class).tolist()}",
            remedy="ask only for classes with counts_per_class > 0",
        )
        draws = _uniform(self.seed, self.round, self.calls, steps, self.batch)
        self.calls += 1
        return pool[(draws * len(pool)).astype(np.int64)]


@functools.lru_cache(maxsize=256)  # the methods of a seed ask for the same ones
def _uniform(seed: int, round: int, call: int, steps: int, batch: int) -> np.ndarray:
    draws = stream(seed, "server minibatches", round, call).random((steps, batch))
    draws.flags.writeable = False
    return draws
