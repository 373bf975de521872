"""What client and server share: the model, and who holds which samples, two classes at each client.

The data are digits, or features of CIFAR-10 from a frozen ImageNet MobileNetV2, whose head is the model then.
`python task.py CLIENTS FOLDER` lays the samples of each client into FOLDER, where a SuperNode finds its own.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from fedauto_core import Federation

SIZES = {"digits": (80, 60), "cifar10_mobilenetv2-256": (500, 300)}
"""Data set -> samples of a client and of the server."""


@functools.cache
def federation(clients: int, dataset: str = "digits") -> Federation:
    """Shard 0 is the server's."""
    from fedauto_core import FederationSpec, build_federation, load_dataset  # a client with files of its own needs none

    spec = FederationSpec(clients, *SIZES[dataset], "classes", classes_per_client=2)
    return build_federation(load_dataset(dataset), spec, seed=0)


def samples(clients: int, participant: int, dataset: str = "digits") -> tuple[Tensor, Tensor]:
    """Samples [n, ...] and labels [n] of a participant, 0 being the server."""
    divided = federation(clients, dataset)
    rows = divided.shards[participant]
    return divided.dataset.x_train[rows], divided.dataset.y_train[rows]


def laid(folder: str, participant: int) -> tuple[Tensor, Tensor]:
    """The same from the file that was laid for it."""
    with np.load(Path(folder) / f"{participant}.npz") as file:
        return torch.from_numpy(file["x"]), torch.from_numpy(file["y"])


def network(dataset: str = "digits") -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if dataset == "digits":
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        return nn.Sequential(nn.Flatten(), nn.Linear(256, 10))


def minibatches(n: int, steps: int, batch: int, seed: int) -> Iterator[np.ndarray]:
    yield from np.random.default_rng(seed).integers(0, n, (steps, batch))


if __name__ == "__main__":
    number, place = int(sys.argv[1]), Path(sys.argv[2])
    place.mkdir(exist_ok=True)
    for site in range(1, 1 + number):
        images, labels = samples(number, site)
        np.savez(place / f"{site}.npz", x=images.numpy(), y=labels.numpy())
