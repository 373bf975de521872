"""Arrival sets and the weights that the two methods give them (docs/method.md, section 4), for many sets at once."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedauto_core.errors import require, require_known
from fedauto_core.methods import fedauto
from fedauto_core.methods.weights import fedauto_weights

from ..problems.split import Split


@dataclass(frozen=True, eq=False)
class Aggregation:
    """S aggregations over J participants: beta [S, J], sample weights rows [J, n], label histograms alpha [J, C].

    Participants 0..N come first (0 = server), then one compensation participant m per distinct set of missing classes.
    """

    rows: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray

    def __post_init__(self) -> None:
        simplex = bool(np.all(self.beta >= 0) and np.allclose(self.beta.sum(axis=1), 1.0, rtol=0, atol=1e-9))
        allowed, remedy = "non-negative weights that sum to one in every row", "divide the weights by their sum"
        require(simplex, "beta is not in the simplex", allowed=allowed, remedy=remedy)

    def __len__(self) -> int:
        return len(self.beta)

    def pick(self, index: int) -> "Aggregation":
        """Aggregation `index` alone, without the participants it gives no weight."""
        used = self.beta[index] > 0
        return Aggregation(self.rows[used], self.alpha[used], self.beta[index : index + 1, used])


def arrival_sets(n_clients: int) -> np.ndarray:
    """All 2^N arrival sets, bool [2^N, N]; row 0 is "nobody", the last row "everybody"."""
    return (np.arange(2**n_clients)[:, None] >> np.arange(n_clients) & 1).astype(bool)


def _fedavg(split: Split, arrived: np.ndarray, lam: float) -> Aggregation:
    """beta_j = n_j / n_A over the arrived, the server among them."""
    counts = np.hstack([np.ones((len(arrived), 1)), arrived]) * split.counts.sum(axis=1)
    return Aggregation(split.participants, split.alpha, counts / counts.sum(axis=1, keepdims=True))


def _fedauto(split: Split, arrived: np.ndarray, lam: float) -> Aggregation:
    """Module 1: participant m trains on the server's samples of the missing classes. Module 2: the weights."""
    alpha, target = split.alpha, split.target
    n_m = np.array([fedauto.compensation(alpha[1:][clients], target, split.counts[0]) for clients in arrived])  # [S, C]
    distinct, which = np.unique(n_m, axis=0, return_inverse=True)
    useful = distinct.any(axis=1)
    position = np.cumsum(useful) + split.n_clients  # row of participant m for each distinct n_m that is not zero
    counts = split.counts.sum(axis=1)
    for samples in distinct[useful]:
        alpha, counts = fedauto.with_m(alpha, counts, samples)
    rows = np.vstack([split.participants, split.compensators(distinct[useful] > 0)])

    beta = np.zeros((len(arrived), len(rows)))
    for s, (clients, kind) in enumerate(zip(arrived, which, strict=True)):
        ids = np.append(0, 1 + np.flatnonzero(clients))
        ids = np.append(ids, position[kind]) if useful[kind] else ids
        beta[s, ids] = fedauto_weights(alpha[ids], counts[ids], target, lam)
    return Aggregation(rows, alpha, beta)


METHODS: dict[str, Callable[[Split, np.ndarray, float], Aggregation]] = {"FedAvg": _fedavg, "FedAuto": _fedauto}


def aggregate(split: Split, arrived: np.ndarray, method: str, lam: float = 0.1) -> Aggregation:
    """Weights of `method` ("FedAuto" or "FedAvg") for arrived [S, N]; lam is FedAuto's lambda, unused by FedAvg."""
    require_known("aggregation method", method, METHODS)
    allowed = f"[S, {split.n_clients}], one column per client"
    remedy = "leave the server out of the arrivals: it is always there"
    fits = arrived.ndim == 2 and arrived.shape[1] == split.n_clients
    require(fits, f"arrivals of shape {arrived.shape}", allowed=allowed, remedy=remedy)
    return METHODS[method](split, arrived.astype(bool), lam)
