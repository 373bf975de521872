"""The division of a data set among the server and the clients.

A `Federation` is a dataset plus N + 1 disjoint sets of training indices: shard 0 is the server's public data, shards
1..N are the clients'.
"""

import functools
from dataclasses import dataclass, replace

import numpy as np

from fedauto_core.errors import require
from fedauto_core.seeding import stream

from .dataset import Dataset
from .partition import FederationSpec, class_counts


@dataclass(frozen=True, eq=False)
class Federation:
    """A dataset, divided.

    Parameters
    ----------
    dataset : what is divided
    shards : N + 1 disjoint int64 arrays of ascending indices into `dataset.x_train`; shard 0 is the server's
    """

    dataset: Dataset
    shards: tuple[np.ndarray, ...]

    @property
    def n_clients(self) -> int:
        return len(self.shards) - 1

    @functools.cached_property
    def class_counts(self) -> np.ndarray:
        """Samples of each participant and class, int64 [N+1, C]."""
        labels = self.dataset.y_train.cpu().numpy()
        return np.stack([np.bincount(labels[shard], minlength=self.dataset.n_classes) for shard in self.shards])

    @functools.cached_property
    def counts(self) -> np.ndarray:
        """n_j, int64 [N+1]."""
        return self.class_counts.sum(axis=1)

    @functools.cached_property
    def alpha(self) -> np.ndarray:
        """Label histograms alpha_j, float64 [N+1, C]; rows sum to one."""
        return self.class_counts / self.counts[:, None]

    @functools.cached_property
    def target(self) -> np.ndarray:
        """alpha_g = sum_j (n_j / n) alpha_j over server and clients, float64 [C]."""
        return self.class_counts.sum(axis=0) / self.counts.sum()


def build_federation(dataset: Dataset, spec: FederationSpec, seed: int) -> Federation:
    """Divide the training samples; the same arguments give the same shards.

    Parameters
    ----------
    dataset : where it has public samples, the server's are drawn from them and the clients' from the others
    spec : sizes and label proportions
    seed : of the run

    Raises
    ------
    InputError : for impossible specs (see `fedauto_core.data.partition.class_counts`)
    """
    rng = stream(seed, "partition")
    labels = dataset.y_train.cpu().numpy()

    def pools(members: np.ndarray) -> list[np.ndarray]:
        return [rng.permutation(members[labels[members] == c]) for c in range(dataset.n_classes)]

    everyone = np.arange(len(labels))
    if dataset.public is None:
        common = pools(everyone)
        shards = _dealt(common, class_counts(spec, np.array([*map(len, common)]), rng))
    else:
        private, public = pools(np.setdiff1d(everyone, dataset.public)), pools(dataset.public)
        counts = class_counts(spec, np.array([*map(len, private)]), rng, np.array([*map(len, public)]))
        shards = _dealt(public, counts[:1]) + _dealt(private, counts[1:])
    return Federation(dataset, tuple(np.sort(shard).astype(np.int64) for shard in shards))


def _dealt(pools: list[np.ndarray], counts: np.ndarray) -> list[np.ndarray]:
    """One shard per row of `counts` [n, C]: its number of each class, taken in turn from the class's pool."""
    return [
        np.concatenate([pool[end - count : end] for pool, count, end in zip(pools, *row, strict=True)])
        for row in zip(counts, counts.cumsum(axis=0), strict=True)
    ]


def share_public(federation: Federation, fraction: float, seed: int) -> Federation:
    """The federation after the server gave every client its own random `fraction` of the public samples; the shards
    then overlap (Zhao et al. 2018). InputError for a fraction outside (0, 1]."""
    require(
        0 < fraction <= 1,
        f"shared fraction of the public data = {fraction}",
        allowed="numbers in (0, 1]",
        remedy="use fedavg to share nothing",
    )
    rng, public = stream(seed, "data sharing"), federation.shards[0]
    size = max(1, round(fraction * len(public)))
    gifts = [rng.choice(public, size, replace=False) for _ in federation.shards[1:]]
    clients = [np.sort(np.append(s, gift)) for s, gift in zip(federation.shards[1:], gifts, strict=True)]
    return replace(federation, shards=(public, *clients))


def reported(federation: Federation, epsilon: float, seed: int) -> np.ndarray:
    """Label counts, float64 [N+1, C], as the server learns them: exact for epsilon = inf; else each client adds
    Laplace(2 / epsilon) noise to its class counts (epsilon-differentially private towards the replacement of one
    sample; Dwork et al. 2006), the server cuts them at zero. epsilon = 0: nothing is reported, and the
    server guesses the uniform histogram. The server knows its own. InputError for a negative epsilon or nan."""
    require(
        epsilon >= 0,
        f"epsilon = {epsilon}",
        allowed="numbers >= 0; inf: exact histograms, 0: none",
        remedy="use 0.1 (private) to 10 (nearly exact)",
    )
    counts = federation.class_counts.astype(float)
    if epsilon == 0:
        counts[1:] = 1.0
    elif epsilon < np.inf:
        noise = stream(seed, "histogram noise").laplace(0.0, 2 / epsilon, counts[1:].shape)
        counts[1:] = np.maximum(counts[1:] + noise, 0.0)
        counts[1:][~counts[1:].any(axis=1)] = 1.0  # nothing left to normalise
    return counts
