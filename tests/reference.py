"""The slow, obvious twin of the engine: one participant after another, one gradient at a time, the paper's loop.

Shares with the core only the data, the trace, the random streams and the models' forward function.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from reference_composition import ComposedRules
from reference_control import ControlRules
from reference_memory import MemoryRules
from reference_public import PublicRules
from reference_stale import StaleRules
from scipy.optimize import minimize

from fedauto_core.seeding import stream


def local_sgd(model, w, x, y, batches, lr, prox=0.0, anchor=None, linear=None):
    """w after one SGD step per row of batches [E, B] on F(w) + <linear, w> + prox/2 ||w - anchor||^2."""
    anchor = w if anchor is None else anchor
    for batch in batches:
        w = w.detach().requires_grad_()
        loss = F.cross_entropy(model.forward(model.unflatten(w[None]), x[batch][None])[0], y[batch])
        if prox:
            loss = loss + prox / 2 * ((w - anchor) ** 2).sum()
        if linear is not None:
            loss = loss + (linear * w).sum()
        (gradient,) = torch.autograd.grad(loss, w)
        w = w.detach() - lr * gradient
    return w.detach()


def draw(rng_values, shard):
    return torch.from_numpy(shard[(rng_values * len(shard)).astype(np.int64)])


def weights_by_slsqp(alpha, counts, target, lam):
    """FedAuto's weights from a general-purpose solver."""
    held = target > 0

    def objective(beta):
        mismatch = beta @ alpha - target
        return np.sum(mismatch[held] ** 2 / target[held]) + lam * np.sum(beta**2 * counts.sum() / counts)

    def gradient(beta):
        mismatch = np.where(held, (beta @ alpha - target) / np.where(held, target, 1), 0)
        return 2 * alpha @ mismatch + 2 * lam * beta * counts.sum() / counts

    k = len(counts)
    solution = minimize(
        objective,
        np.full(k, 1 / k),
        jac=gradient,
        method="SLSQP",
        bounds=[(0, 1)] * k,
        constraints={"type": "eq", "fun": lambda beta: beta.sum() - 1},
        options={"ftol": 1e-13, "maxiter": 2000},
    )
    assert solution.success or solution.status == 8, solution.message  # 8: line search at machine precision
    return solution.x


class Reference(ComposedRules, MemoryRules, StaleRules, ControlRules, PublicRules):
    """Runs one method by name over one federation and trace; `final()` is w after the last round.

    least_steps: clients take between this many and all steps in a round (0: always all), as `Schedule` has it; lrs:
    step size of every round (None: always lr).
    """

    def __init__(self, model, federation, trace, w0, seed, lr, with_server, steps, batch, least_steps=0, lrs=None):
        self.model, self.federation, self.trace, self.seed = model, federation, trace, seed
        self.lr, self.first_lr, self.lrs = lr, lr, lrs
        self.with_server, self.steps, self.batch, self.w0 = with_server, steps, batch, w0
        self.x, self.y = federation.dataset.x_train, federation.dataset.y_train
        self.n, self.least_steps = federation.n_clients, least_steps

    def taken(self, r, j):
        """SGD steps that participant j takes in round r."""
        if j == 0 or not self.least_steps:
            return self.steps
        rng = stream(self.seed, "local work", r)
        return int(rng.integers(self.least_steps, self.steps, self.n + 1, endpoint=True)[j])

    def train(self, r, j, w, **kwargs):
        draws = stream(self.seed, "minibatches", r).random((self.n + 1, self.steps, self.batch))[j]
        draws = draws[: self.taken(r, j)]
        return local_sgd(self.model, w, self.x, self.y, draw(draws, self.federation.shards[j]), self.lr, **kwargs)

    def compensate(self, r, w, missing):
        server = self.federation.shards[0]
        pool = server[np.isin(self.y[server].numpy(), missing)]
        draws = stream(self.seed, "server minibatches", r, 0).random((self.steps, self.batch))
        self.calls = 1
        return local_sgd(self.model, w, self.x, self.y, draw(draws, pool), self.lr), pool

    def arrived(self, r):
        clients = [1 + k for k in range(self.n) if self.trace.arrived[r, k]]
        return [0, *clients] if self.with_server else clients

    def potential(self):
        """n_j / n of everyone who could be heard."""
        counts = {j: float(self.federation.counts[j]) for j in range(0 if self.with_server else 1, self.n + 1)}
        return {j: count / sum(counts.values()) for j, count in counts.items()}

    def by_counts(self, r, w, models):
        """The mean model and the share of `models` in it; None if there is none."""
        total = sum(self.federation.counts[j] for j in models)
        return sum(float(self.federation.counts[j] / total) * models[j] for j in models) if models else None, 1.0

    def fedavg(self, r, w, prox=0.0, average="by_counts"):
        mean, _ = getattr(self, average)(r, w, {j: self.train(r, j, w, prox=prox, anchor=w) for j in self.arrived(r)})
        return w if mean is None else mean

    def server_finetuning(self, r, w, average="by_counts"):
        self.calls = 0
        w = self.fedavg(r, w, average=average)
        draws = stream(self.seed, "server minibatches", r, self.calls).random((5, self.batch))
        return local_sgd(self.model, w, self.x, self.y, draw(draws, self.federation.shards[0]), self.lr)

    def fedprox(self, r, w, average="by_counts"):
        return self.fedavg(r, w, 0.1, average)

    def fedavg_ideal(self, r, w):
        everyone = range(0 if self.with_server else 1, self.n + 1)
        return sum(self.potential()[j] * self.train(r, j, w) for j in everyone)

    def fedavg_all(self, r, w):
        p = self.potential()
        return w + sum((p[j] * (self.train(r, j, w) - w) for j in self.arrived(r)), torch.zeros_like(w))

    def known_probability(self, r, w):
        p, q = self.potential(), [1.0, *self.trace.marginal_probability[r]]
        return w + sum(
            (p[j] / max(q[j], 0.01) * (self.train(r, j, w) - w) for j in self.arrived(r)), torch.zeros_like(w)
        )

    def tf_aggregation_like(self, r, w):
        p, q = self.potential(), [1.0, *self.trace.long_run_probability]
        return w + sum(
            (p[j] / max(q[j], 0.01) * (self.train(r, j, w) - w) for j in self.arrived(r)), torch.zeros_like(w)
        )

    def server_only(self, r, w):
        return self.train(r, 0, w)

    def centralised(self, r, w):
        draws = stream(self.seed, "minibatches", r).random((self.n + 1, self.steps, self.batch))
        everything = np.concatenate(self.federation.shards)
        who = range(0 if self.with_server else 1, self.n + 1)
        batches = [draw(draws[j, step], everything) for j in who for step in range(self.steps)]
        return local_sgd(self.model, w, self.x, self.y, batches, self.lr)

    def fedauto(self, r, w):
        return self.fedavg(r, w, average="by_labels")

    def by_labels(self, r, w, models, worth=None):
        """FedAuto's aggregation, where model j weighs as worth[j] samples (None: all are fresh)."""
        fresh = self.arrived(r)
        ids, models = list(models), list(models.values())
        alpha = [self.federation.alpha[j] for j in ids]
        counts = [float(self.federation.counts[j]) if worth is None else worth[j] for j in ids]
        held = set(np.concatenate([self.y[self.federation.shards[j]].numpy() for j in fresh if j > 0] or [[]]))
        public = self.y[self.federation.shards[0]].numpy()
        missing = [c for c in np.unique(public) if c not in held]
        if missing:
            model, pool = self.compensate(r, w, missing)
            models.append(model)
            alpha.append(np.bincount(self.y[pool].numpy(), minlength=len(alpha[0]) if alpha else 10) / len(pool))
            counts.append(float(len(pool)))
        if not models:
            return None, 0.0
        beta = weights_by_slsqp(np.array(alpha), np.array(counts), self.federation.target, 0.1)
        return sum(float(b) * m for b, m in zip(beta, models, strict=True)), float(sum(beta[: len(ids)]))

    def fedawe(self, r, w):
        if r == 0:
            self.own = {j: self.w0 for j in range(self.n + 1)}
            self.tau = dict.fromkeys(range(self.n + 1), -1)
        ids = self.arrived(r)
        if not ids:
            return w
        deltas = [self.train(r, j, self.own[j]) - self.own[j] for j in ids]
        increment = sum((r - self.tau[j]) * delta for j, delta in zip(ids, deltas, strict=True)) / len(ids)
        longest = 5 * sum(float(delta.norm()) for delta in deltas) / len(ids)
        increment = increment * min(1.0, longest / float(increment.norm()))
        w = sum(self.own[j] for j in ids) / len(ids) + increment
        for j in ids:
            self.own[j], self.tau[j] = w, r
        return w

    def mean_of_all(self):
        """Of the models that everybody holds, the server too where it takes part."""
        everyone = range(0 if self.with_server else 1, self.n + 1)
        return sum(self.own[j] for j in everyone) / len(everyone)

    def final(self, name, rounds):
        w = self.w0
        for r in range(rounds):
            self.lr = self.lrs[r] if self.lrs else self.lr
            w = getattr(self, name)(r, w)
        return w
