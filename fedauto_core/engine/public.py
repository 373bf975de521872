"""The server's public data and what it can do with them.

The calls of all runs in lockstep are answered as one stack (`lockstep`), each run with its own model, public rows and
step size; they share the samples, the averaging and the round. The order of the calls of a run alone decides its draws.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedauto_core.errors import require_number
from fedauto_core.methods.public import PublicSamples
from fedauto_core.models.model import Model

from .averaging import Averaging
from .local import local_updates, loss_gradients, predict
from .lockstep import ask


class PublicData:
    """The server's public data, and nobody else's, and what it can do with them (the `Server` of the contract).

    Parameters
    ----------
    averaging : the model whose parameters are the vectors w, or what w holds instead (`engine.averaging`)
    x, y : samples [n, channels, H, W] and their labels, int64 [n]
    lr : step size of the first round
    batch, seed : of the minibatches
    rows : which of the samples are public, int64 [n_0]; None: all

    Raises
    ------
    InputError : for no samples, labels that the model does not know, or a number out of range

    Attributes
    ----------
    lr : step size of the round; samples : gradient samples since its start; trained : what its first training returned
    """

    def __init__(
        self,
        averaging: Model | Averaging,
        x: Tensor,
        y: Tensor,
        lr: float,
        batch: int,
        seed: int,
        *,
        rows: np.ndarray | None = None,
    ) -> None:
        require_number("lr", lr)
        self.averaging = Averaging(averaging) if isinstance(averaging, Model) else averaging
        self.all_x, self.all_y, self.rows = x, y, np.arange(len(y)) if rows is None else rows
        self.labels = y[self.rows]
        self.n_classes = self.averaging.model.n_classes
        self.public = PublicSamples(self.labels.cpu().numpy(), self.n_classes, batch, seed)
        self.counts_per_class, self.first_lr = self.public.counts_per_class, lr
        self.start_round(0)

    def start_round(self, round: int, rate: float = 1.0) -> None:
        """Rounds count from 0; rate: what is left of the first round's step size."""
        self.public.start_round(round)
        self.lr, self.samples = self.first_lr * rate, 0
        self.trained: Tensor | None = None

    @property
    def round(self) -> int:
        return self.public.round

    @property
    def x(self) -> Tensor:
        """The public samples [n_0, channels, H, W], a copy."""
        return self.all_x[self.rows]

    def train(self, w: Tensor, steps: int, classes: Sequence[int] | None = None) -> Tensor:
        batches = self.rows[self._minibatches(steps, classes)]
        uploaded = ask(_trained, steps, Training(self, w, batches))
        self.trained = uploaded if self.trained is None else self.trained
        return uploaded

    def _minibatches(self, steps: int, classes: Sequence[int] | None = None) -> np.ndarray:
        drawn = self.public.minibatches(steps, classes)
        self.samples += drawn.size
        return drawn

    def gradient(self, w: Tensor, targets: Tensor | None = None) -> Tensor:
        drawn = self._minibatches(1)[0]
        if targets is None:  # labels are the soft targets that leave no doubt
            wanted = torch.eye(self.n_classes, dtype=w.dtype, device=w.device)[self.labels[drawn]]
        else:
            wanted = targets[drawn]
        return ask(_gradients, None, Slope(self, w, self.rows[drawn], wanted))

    def logits(self, w: Tensor) -> Tensor:
        scores = ask(_scores, self.rows.tobytes(), Scoring(self, w if w.ndim == 2 else w[None]))
        return scores if w.ndim == 2 else scores[0]


class Training(NamedTuple):
    """SGD steps from w [P] on batches [steps, B], indices into all samples."""

    server: PublicData
    w: Tensor
    batches: np.ndarray


def _trained(asked: Sequence[Training]) -> Tensor:
    """Deltas [M, P] of as many steps each."""
    servers, models, batches = zip(*asked, strict=True)
    averaging, round = servers[0].averaging, servers[0].round
    start, held = averaging.local_start(torch.stack(models), round), averaging.held(round)
    lr = start.new_tensor([server.lr for server in servers])
    data = servers[0].all_x, servers[0].all_y, np.stack(batches)
    return averaging.as_upload(start, local_updates(averaging.model, start, *data, lr, frozen=held))


class Slope(NamedTuple):
    """The gradient at w [P] over the samples rows [B] of all, against soft targets [B, C]."""

    server: PublicData
    w: Tensor
    rows: np.ndarray
    targets: Tensor


def _gradients(asked: Sequence[Slope]) -> Tensor:
    """Gradients [M, P]: along theta, and from there through the averaging's reading of w."""
    servers, models, rows, targets = zip(*asked, strict=True)
    averaging, x = servers[0].averaging, servers[0].all_x
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
