"""How many samples of each class the server and every client get."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from fedauto_core.errors import require, require_known, require_number


@dataclass(frozen=True)
class FederationSpec:
    """How training samples are divided.

    Parameters
    ----------
    n_clients : N
    samples_per_client : mean over clients
    server_samples : public samples, as even over the classes as possible
    partition : "iid" (uniform draw), "classes" or "dirichlet"
    classes_per_client : for "classes": every client holds exactly this many, equally
    concentration : for "dirichlet": label proportions ~ Dir(concentration * 1_C) (Hsu et al. 2019)
    size_ratio : largest / smallest client; sizes are geometric from client 1 (smallest) to client N
    server_missing_classes : the server has none of these
    """

    n_clients: int
    samples_per_client: int
    server_samples: int
    partition: str
    classes_per_client: int | None = None
    concentration: float | None = None
    size_ratio: float = 1.0
    server_missing_classes: tuple[int, ...] = ()


def class_counts(
    spec: FederationSpec, exist: np.ndarray, rng: Generator, public: np.ndarray | None = None
) -> np.ndarray:
    """Samples of each participant and class, int64 [N+1, C] (row 0 = server), out of `exist` [C] samples of each class.

    public [C]: the server's come out of these instead, and `exist` is the clients' alone.

    InputError for an unknown partition, parameters missing or out of range, a client without samples, an empty server
    set, more samples of a class than exist.
    """
    _check(spec, len(exist))
    server = np.zeros(len(exist), dtype=np.int64)
    present = rng.permutation([c for c in range(len(exist)) if c not in spec.server_missing_classes])
    server[present] = _apportion(np.ones(len(present)), spec.server_samples)
    _require_supply("the server", server, exist if public is None else public)
    sizes = _client_sizes(spec)
    left = exist - server if public is None else exist
    require(
        sizes.sum() <= left.sum(),
        f"the clients ask for {sizes.sum()} samples, but only {left.sum()} are left beside the server's",
        allowed=f"at most {exist.sum()} in all; there are {exist.tolist()} per class",
        remedy="lower samples_per_client, n_clients or server_samples",
    )
    clients = np.zeros((len(sizes), len(left)), dtype=np.int64)
    draw, _ = PARTITIONS[spec.partition]
    draw(clients, rng, sizes, left.copy(), spec)
    _require_supply("the clients", clients.sum(axis=0), left)
    return np.vstack([server, clients])


def _check(spec: FederationSpec, n_classes: int) -> None:
    require_known("partition", spec.partition, PARTITIONS)
    for field in ("n_clients", "samples_per_client", "server_samples"):
        remedy = "every client and the server need at least one sample"
        require_number(field, getattr(spec, field), low=1, strict=False, whole=True, remedy=remedy)
    remedy = "it is the largest / smallest client: use 1 for equal sizes"
    require_number("size_ratio", spec.size_ratio, low=1, strict=False, remedy=remedy)
    require(
        set(spec.server_missing_classes) < set(range(n_classes)),
        f"server_missing_classes = {spec.server_missing_classes}",
        allowed=f"some, not all, of the classes 0..{n_classes - 1}",
        remedy="leave the server at least one class",
    )
    _, wanted = PARTITIONS[spec.partition]
    for field in ("classes_per_client", "concentration"):
        value = getattr(spec, field)
        require(
            (value is not None) == (field == wanted),
            f"{field} = {value} for partition {spec.partition!r}",
            allowed=f"a value for {wanted} only" if wanted else "neither classes_per_client nor concentration",
            remedy="set exactly the parameter the partition uses",
        )
    if wanted == "classes_per_client":
        remedy, value = "choose a number of classes the dataset has", spec.classes_per_client
        require_number(wanted, value, low=1, high=n_classes, strict=False, whole=True, remedy=remedy)
    if wanted == "concentration":
        remedy = "use for instance 0.1 (skewed), 1 or 100 (nearly iid)"
        require_number(wanted, spec.concentration, remedy=remedy)


def _require_supply(who: str, asked: np.ndarray, exist: np.ndarray) -> None:
    require(
        bool((asked <= exist).all()),
        f"{who} would need {asked.tolist()} samples per class, but {exist.tolist()} exist",
        allowed="at most the existing number in every class",
        remedy="lower samples_per_client, n_clients, server_samples or size_ratio",
    )


def _apportion(shares: np.ndarray, total: int) -> np.ndarray:
    """Integers proportional to `shares` that sum to `total` (largest remainders, ties to the first)."""
    exact = total * shares / shares.sum()
    result = np.floor(exact).astype(np.int64)
    result[np.argsort(result - exact, kind="stable")[: total - result.sum()]] += 1
    return result


def _client_sizes(spec: FederationSpec) -> np.ndarray:
    sizes = _apportion(np.geomspace(1, spec.size_ratio, spec.n_clients), spec.n_clients * spec.samples_per_client)
    least = spec.classes_per_client or 1
    require(
        sizes.min() >= least,
        f"the smallest client would get {sizes.min()} samples",
        allowed=f"at least {least} for every client",
        remedy="raise samples_per_client or lower size_ratio",
    )
    return sizes


def _iid(counts: np.ndarray, rng: Generator, sizes: np.ndarray, left: np.ndarray, spec: FederationSpec) -> None:
    for row, size in zip(counts, sizes, strict=True):
        row[:] = rng.multivariate_hypergeometric(left, size)
        left -= row


def _by_classes(counts: np.ndarray, rng: Generator, sizes: np.ndarray, left: np.ndarray, spec: FederationSpec) -> None:
    holders = np.zeros(len(left))
    for client in rng.permutation(len(sizes)):
        # Least held classes first, ties at random: holders differ by at most one, so all classes get covered.
        chosen = np.lexsort((rng.random(len(left)), holders))[: spec.classes_per_client]
        holders[chosen] += 1
        counts[client, chosen] = _apportion(np.ones(len(chosen)), sizes[client])


def _dirichlet(counts: np.ndarray, rng: Generator, sizes: np.ndarray, left: np.ndarray, spec: FederationSpec) -> None:
    proportions = rng.dirichlet(np.full(len(left), spec.concentration), len(sizes))
    for client in rng.permutation(len(sizes)):
        missing = sizes[client]
        # A class that runs out is replaced in proportion to the client's other classes (Hsu et al. 2019).
        while missing:
            shares = np.where(left > 0, proportions[client], 0.0)
            wanted = _apportion(shares if shares.sum() > 0 else left.astype(np.float64), missing)
            taken = np.minimum(wanted, left)
            counts[client] += taken
            left -= taken
            missing -= taken.sum()


PARTITIONS: Mapping[str, tuple[Callable[..., None], str | None]] = {
    "iid": (_iid, None),
    "classes": (_by_classes, "classes_per_client"),
    "dirichlet": (_dirichlet, "concentration"),
}
"""Name -> what fills the clients' counts [N, C] (and may use up `left`), and the parameter it needs."""
