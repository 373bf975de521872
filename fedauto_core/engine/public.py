"""The server's public data and what it can do with them.

The calls of all runs in lockstep are answered as one stack (`lockstep`), each run with its own model, samples and step
size; they share the dataset, the averaging and the round. The order of the calls of a run alone decides its draws.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedauto_core.errors import require
from fedauto_core.seeding import stream

from .averaging import Averaging
from .local import local_updates, loss_gradients, predict
from .lockstep import ask
from .spec import Run, Schedule


class PublicData:
    """The server's public data, and nobody else's, and what it can do with them (the `Server` of the contract).

    shard: indices [n_0] into the training data; samples: gradient samples since the start of the round; trained: what
    the first training of the round returned.
    """

    def __init__(self, averaging: Averaging, run: Run, schedule: Schedule) -> None:
        self.dataset, self.shard = run.federation.dataset, run.federation.shards[0]
        self.labels = self.dataset.y_train[self.shard]
        self.classes = self.labels.cpu().numpy()
        self.counts_per_class = np.bincount(self.classes, minlength=self.dataset.n_classes)
        self.averaging, self.lr, self.batch, self.seed = averaging, run.lr, schedule.batch, run.seed
        self.start_round(0)

    def start_round(self, round: int) -> None:
        self.round, self.calls, self.samples = round, 0, 0
        self.trained: Tensor | None = None

    @property
    def x(self) -> Tensor:
        """The public samples [n_0, channels, H, W], a copy."""
        return self.dataset.x_train[self.shard]

    def train(self, w: Tensor, steps: int, classes: Sequence[int] | None = None) -> Tensor:
        pool = self.shard if classes is None else self.shard[np.isin(self.classes, classes)]
        require(
            len(pool) > 0,
            f"the server holds no sample of the classes {list(classes or [])}",
            allowed=f"classes {np.flatnonzero(self.counts_per_class).tolist()}",
            remedy="ask only for classes with counts_per_class > 0",
        )
        batches = pool[self._draws(steps, len(pool))]
        uploaded = ask(_trained, steps, Training(self, w, batches))
        self.trained = uploaded if self.trained is None else self.trained
        return uploaded

    def _draws(self, steps: int, pool: int) -> np.ndarray:
        """Positions [steps, B] in a pool of samples, keyed by round and call: every method that asks the same question
        gets the same minibatches."""
        draws = _uniform(self.seed, self.round, self.calls, steps, self.batch)
        self.calls, self.samples = self.calls + 1, self.samples + draws.size
        return (draws * pool).astype(np.int64)

    def gradient(self, w: Tensor, targets: Tensor | None = None) -> Tensor:
        rows = self._draws(1, len(self.shard))[0]
        if targets is None:  # labels are the soft targets that leave no doubt
            wanted = torch.eye(self.dataset.n_classes, dtype=w.dtype, device=w.device)[self.labels[rows]]
        else:
            wanted = targets[rows]
        return ask(_gradients, None, Slope(self, w, self.shard[rows], wanted))

    def logits(self, w: Tensor) -> Tensor:
        scores = ask(_scores, self.shard.tobytes(), Scoring(self, w if w.ndim == 2 else w[None]))
        return scores if w.ndim == 2 else scores[0]


@functools.lru_cache(maxsize=256)  # the methods of a seed ask for the same ones
def _uniform(seed: int, round: int, call: int, steps: int, batch: int) -> np.ndarray:
    draws = stream(seed, "server minibatches", round, call).random((steps, batch))
    draws.flags.writeable = False
    return draws


class Training(NamedTuple):
    """SGD steps from w [P] on batches [steps, B], indices into the training data."""

    server: PublicData
    w: Tensor
    batches: np.ndarray


def _trained(asked: Sequence[Training]) -> Tensor:
    """Deltas [M, P] of as many steps each."""
    servers, models, batches = zip(*asked, strict=True)
    averaging, round, dataset = servers[0].averaging, servers[0].round, servers[0].dataset
    start, held = averaging.local_start(torch.stack(models), round), averaging.held(round)
    lr = start.new_tensor([server.lr for server in servers])
    data = dataset.x_train, dataset.y_train, np.stack(batches)
    return averaging.as_upload(start, local_updates(averaging.model, start, *data, lr, frozen=held))


class Slope(NamedTuple):
    """The gradient at w [P] over the samples rows [B] of the training data, against soft targets [B, C]."""

    server: PublicData
    w: Tensor
    rows: np.ndarray
    targets: Tensor


def _gradients(asked: Sequence[Slope]) -> Tensor:
    """Gradients [M, P]: along theta, and from there through the averaging's reading of w."""
    servers, models, rows, targets = zip(*asked, strict=True)
    averaging, x = servers[0].averaging, servers[0].dataset.x_train
    v = torch.stack(models).requires_grad_()
    theta = averaging.readable(v)
    along = loss_gradients(averaging.model, theta.detach(), x, np.stack(rows), torch.stack(targets))
    return along if theta is v else torch.autograd.grad(theta, v, along)[0]


class Scoring(NamedTuple):
    """Class scores of models w [K, P] on the public samples."""

    server: PublicData
    w: Tensor


def _scores(asked: Sequence[Scoring]) -> Sequence[Tensor]:
    """Logits [K, n_0, C] for servers with the same samples."""
    servers, models = zip(*asked, strict=True)
    averaging = servers[0].averaging
    scores = predict(averaging.model, averaging.readable(torch.cat(models)), servers[0].x)
    return scores.split([len(w) for w in models])
