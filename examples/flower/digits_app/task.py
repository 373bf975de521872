"""What client and server share: the model, and who holds which digits."""

import functools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from fedauto_core import Federation, FederationSpec, build_federation, load_dataset


@functools.cache
def federation(clients: int) -> Federation:
    """Shard 0 is the server's."""
    spec = FederationSpec(clients, 80, 60, "classes", classes_per_client=2)
    return build_federation(load_dataset("digits"), spec, seed=0)


def samples(clients: int, participant: int) -> tuple[Tensor, Tensor]:
    """Images [n, 1, 8, 8] and labels [n] of a participant, 0 being the server."""
    divided = federation(clients)
    rows = divided.shards[participant]
    return divided.dataset.x_train[rows], divided.dataset.y_train[rows]


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def minibatches(n: int, steps: int, batch: int, seed: int) -> Iterator[np.ndarray]:
    yield from np.random.default_rng(seed).integers(0, n, (steps, batch))
