"""The server's public data in a deployment: how many of each class, and a function that trains on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedauto_core.errors import require, require_number
from fedauto_core.methods.public import PublicSamples

from .arrays import Parameters

Config = Mapping[str, Any]
Trainer = Callable[[Parameters, Sequence[int] | None, int, Config], Parameters]
"""train(parameters, classes, steps, config): the parameters after SGD steps on the public samples of `classes` (None:
all of them); config: what the clients are told in this round, "server-round" (from 1) among it."""


class ServerData(NamedTuple):
    """counts_per_class: public samples of each class, [C]; all zero, with no `train`: the server has none."""

    counts_per_class: np.ndarray
    train: Trainer | None = None


class _TorchTrainer:
    """SGD on a module."""

    def __init__(self, module: nn.Module, x: Tensor, y: Tensor, lr: float, public: PublicSamples) -> None:
        self.module, self.x, self.y, self.lr, self.public = module, x, y, lr, public

    def __call__(
        self, parameters: Parameters, classes: Sequence[int] | None, steps: int, config: Config
    ) -> dict[str, np.ndarray]:
        if (round := config["server-round"] - 1) != self.public.round:
            self.public.start_round(round)
        state = self.module.state_dict()
        self.module.load_state_dict(state | {name: torch.from_numpy(a.copy()) for name, a in parameters.items()})
        self.module.train()
        optimiser = torch.optim.SGD(self.module.parameters(), lr=float(config.get("lr", self.lr)))
        for rows in self.public.minibatches(steps, classes):
            optimiser.zero_grad()
            functional.cross_entropy(self.module(self.x[rows]), self.y[rows]).backward()
            optimiser.step()
        after = self.module.state_dict()
        return {name: after[name].detach().cpu().numpy().copy() for name in parameters}


def torch_data(
    module: nn.Module, x: Tensor, y: Tensor, n_classes: int, *, lr: float, batch: int = 32, seed: int = 0
) -> ServerData:
    """Public samples of a plain torch module, trained by SGD on the mean cross-entropy.

    Parameters
    ----------
    module : whose state_dict has the arrays that are sent, or more (a frozen base below adapters). Its parameters with
        requires_grad are trained; it is changed
    x, y : samples [n_0, ...] and their labels, int64 [n_0], on the module's device
    n_classes : C
    lr : step size in rounds whose config has no "lr"
    batch, seed : of the minibatches, drawn uniformly with replacement

    Raises
    ------
    InputError : for no samples, labels outside 0..C-1, or a number out of range
    """
    require_number("lr", lr)
    require(
        len(x) == len(y),
        f"{len(x)} samples with {len(y)} labels",
        allowed="one label for each sample",
        remedy="give the labels of the public samples",
    )
    public = PublicSamples(y.cpu().numpy(), n_classes, batch, seed)
    return ServerData(public.counts_per_class, _TorchTrainer(module, x, y, lr, public))
