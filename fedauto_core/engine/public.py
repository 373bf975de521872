"""The server's public data and what it can do with them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fedauto_core.errors import require
from fedauto_core.seeding import stream

from .averaging import Averaging
from .local import local_updates, predict
from .spec import Run, Schedule


class PublicData:
    """The server's public data, and nobody else's, and what it can do with them (the `Server` of the contract).

    samples: gradient samples since the start of the round; trained: what the first training of the round returned.
    """

    def __init__(self, averaging: Averaging, run: Run, schedule: Schedule) -> None:
        dataset, shard = run.federation.dataset, run.federation.shards[0]
        self.x, self.labels = dataset.x_train[shard], dataset.y_train[shard]
        self.classes = self.labels.cpu().numpy()
        self.counts_per_class = np.bincount(self.classes, minlength=dataset.n_classes)
        self.averaging, self.lr, self.batch, self.seed = averaging, run.lr, schedule.batch, run.seed
        self.start_round(0)

    def start_round(self, round: int) -> None:
        self.round, self.calls, self.samples = round, 0, 0
        self.trained: Tensor | None = None

    def train(self, w: Tensor, steps: int, classes: Sequence[int] | None = None) -> Tensor:
        pool = np.arange(len(self.classes)) if classes is None else np.flatnonzero(np.isin(self.classes, classes))
        require(
            len(pool) > 0,
            f"the server holds no sample of the classes {list(classes or [])}",
            allowed=f"classes {np.flatnonzero(self.counts_per_class).tolist()}",
            remedy="ask only for classes with counts_per_class > 0",
        )
        batches = torch.from_numpy(pool[(self._draws(steps) * len(pool)).astype(np.int64)])[None]
        start, held = self.averaging.local_start(w[None], self.round), self.averaging.held(self.round)
        delta = local_updates(self.averaging.model, start, self.x, self.labels, batches, self.lr, frozen=held)
        uploaded = self.averaging.as_upload(start, delta)[0]
        self.trained = uploaded if self.trained is None else self.trained
        return uploaded

    def _draws(self, steps: int) -> np.ndarray:
        """Uniform numbers [steps, B], keyed by round and call: every method that asks the same question gets the same
        minibatches."""
        draws = stream(self.seed, "server minibatches", self.round, self.calls).random((steps, self.batch))
        self.calls, self.samples = self.calls + 1, self.samples + draws.size
        return draws

    def gradient(self, w: Tensor, targets: Tensor | None = None) -> Tensor:
        rows = torch.from_numpy((self._draws(1)[0] * len(self.classes)).astype(np.int64)).to(w.device)
        leaf = w.detach()[None].requires_grad_()
        model = self.averaging.model
        logits = model.forward(model.unflatten(self.averaging.readable(leaf)), self.x[rows][None])[0]
        loss = functional.cross_entropy(logits, (self.labels if targets is None else targets)[rows])
        return torch.autograd.grad(loss, leaf)[0][0]

    def logits(self, w: Tensor) -> Tensor:
        scores = predict(self.averaging.model, self.averaging.readable(w if w.ndim == 2 else w[None]), self.x)
        return scores if w.ndim == 2 else scores[0]
