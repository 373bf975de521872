"""Slow twins of the rules with the server's data or the clients' label histograms; mixed into `reference.Reference`."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import log, log2

import numpy as np
import torch
import torch.nn.functional as F

from fedauto_core.seeding import stream


def adam(parameters, gradients_of, lr, steps, beta1, eps):
    """Kingma & Ba 2015, Algorithm 1; gradients_of(step, parameters) -> one gradient per parameter."""
    first, second = [0.0 * p for p in parameters], [0.0 * p for p in parameters]
    for step in range(1, steps + 1):
        gradients = gradients_of(step - 1, parameters)
        first = [beta1 * m + (1 - beta1) * g for m, g in zip(first, gradients, strict=True)]
        second = [0.999 * v + 0.001 * g**2 for v, g in zip(second, gradients, strict=True)]
        parameters = [
            p - lr * (m / (1 - beta1**step)) / ((v / (1 - 0.999**step)) ** 0.5 + eps)
            for p, m, v in zip(parameters, first, second, strict=True)
        ]
    return parameters


def divergence(p, q):
    """Kullback-Leibler, in nats, class by class."""
    return sum(float(a) * log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def best_on_simplex(alpha, target, p, rho):
    """Label matching by trying every support: the equality-constrained optimum on it, if it is non-negative."""
    best = None
    hessian = alpha @ alpha.T + rho * np.eye(len(p))
    linear = alpha @ target + rho * p
    for size in range(1, len(p) + 1):
        for support in map(list, combinations(range(len(p)), size)):
            system = np.block([[hessian[np.ix_(support, support)], np.ones((size, 1))], [np.ones((1, size)), 0]])
            part = np.linalg.solve(system, np.append(linear[support], 1.0))[:size]
            beta = np.zeros(len(p))
            beta[support] = part
            value = np.sum((beta @ alpha - target) ** 2) + rho * np.sum((beta - p) ** 2)
            if part.min() >= 0 and (best is None or value < best[0]):
                best = value, beta
    return best[1]


def onto_capped_simplex(r, total):
    """Nearest point with entries in [0, 1] and the given sum."""
    low, high = r.min() - 1, r.max()
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(r - middle, 0, 1).sum() > total else (low, middle)
    return np.clip(r - low, 0, 1)


class PublicRules:
    def public_batch(self, r, call):
        """Rows of the public data used by the server's gradient number `call` of round r."""
        shard = self.federation.shards[0]
        return (stream(self.seed, "server minibatches", r, call).random((1, self.batch))[0] * len(shard)).astype(int)

    def scores(self, w, rows=slice(None)):
        x = self.x[self.federation.shards[0]][rows]
        return self.model.forward(self.model.unflatten(w[None]), x[None])[0]

    def fedlaw(self, r, w):
        ids = self.arrived(r)
        if not ids:
            return w
        deltas = torch.stack([self.train(r, j, w) - w for j in ids])
        labels = self.y[self.federation.shards[0]]

        def model_of(z, x):
            return w + torch.exp(x) * sum(share * delta for share, delta in zip(F.softmax(z, 0), deltas, strict=True))

        def gradients_of(step, parameters):
            z, x = (p.detach().requires_grad_() for p in parameters)
            rows = self.public_batch(r, step)
            return torch.autograd.grad(F.cross_entropy(self.scores(model_of(z, x), rows), labels[rows]), (z, x))

        shares = torch.tensor([float(self.federation.counts[j]) for j in ids])
        start = [torch.log(shares / shares.sum()), torch.tensor(0.0)]
        return model_of(*adam(start, gradients_of, 0.1, 10, 0.5, 1e-8)).detach()

    def feddf(self, r, w):
        ids = self.arrived(r)
        student = self.fedavg(r, w)
        if len(ids) < 2:
            return student
        teachers = [self.scores(self.train(r, j, w)) for j in ids]
        ensemble = F.softmax(sum(teachers) / len(teachers), dim=1).detach()

        def gradients_of(step, parameters):
            rows = self.public_batch(r, step)
            leaf = parameters[0].detach().requires_grad_()
            mistrust = F.kl_div(F.log_softmax(self.scores(leaf, rows), dim=1), ensemble[rows], reduction="batchmean")
            return torch.autograd.grad(mistrust, [leaf])

        return adam([student], gradients_of, 0.0003 * self.lr / self.first_lr, 10, 0.9, 3e-5)[0].detach()

    def feddu(self, r, w):
        labels, shards = self.y.numpy(), self.federation.shards
        n_classes = self.federation.dataset.n_classes

        def histogram(members):
            pooled = [int(c) for j in members for c in labels[shards[j]]]
            return [pooled.count(c) / len(pooled) for c in range(n_classes)]

        def skew(p, q):
            """Jensen-Shannon divergence as entropy of the mean minus mean entropy, base 2."""
            middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
            entropy = [sum(-a * log2(a) for a in h if a > 0) for h in (middle, p, q)]
            return entropy[0] - (entropy[1] + entropy[2]) / 2

        half, clients = self.fedavg(r, w), [j for j in self.arrived(r) if j > 0]
        accuracy = float((self.scores(half).argmax(dim=1) == self.y[shards[0]]).float().mean())
        ratio = 1.0
        if clients:
            everyone = histogram(range(1, self.n + 1))
            of_clients = len(shards[0]) * skew(histogram(clients), everyone)
            of_server = sum(len(shards[j]) for j in clients) * skew(histogram([0]), everyone)
            ratio = 0.0 if of_clients < 1e-9 else of_clients / (of_clients + of_server)
        end = half
        for row in stream(self.seed, "server minibatches", r, 0).random((self.steps, self.batch)):
            batch = torch.from_numpy(shards[0][(row * len(shards[0])).astype(int)])
            leaf = end.detach().requires_grad_()
            logits = self.model.forward(self.model.unflatten(leaf[None]), self.x[batch][None])[0]
            end = end - self.lr * torch.autograd.grad(F.cross_entropy(logits, self.y[batch]), leaf)[0]
        return half + (1 - accuracy) * ratio * 0.99**r * (end - half)

    def data_sharing(self, r, w):
        if r == 0:
            rng, (public, *own) = stream(self.seed, "data sharing"), self.federation.shards
            received = [rng.choice(public, round(0.3 * len(public)), replace=False) for _ in own]
            shards = [np.array(sorted([*a, *b])) for a, b in zip(own, received, strict=True)]
            self.federation = replace(self.federation, shards=(public, *shards))
        return self.fedavg(r, w)

    def weighted(self, r, w, weights):
        total = sum(weights.values())
        return sum((weight / total * self.train(r, j, w) for j, weight in weights.items()), torch.zeros_like(w))

    def feddisco(self, r, w):
        ids = self.arrived(r)
        if not ids:
            return w
        counts = {j: float(self.federation.counts[j]) for j in ids}
        skew = {j: divergence(self.federation.alpha[j], self.federation.target) for j in ids}
        raw = {j: counts[j] / sum(counts.values()) - 0.5 * skew[j] / sum(skew.values()) + 0.1 for j in ids}
        positive = {j: value for j, value in raw.items() if value > 0}
        return self.weighted(r, w, positive or counts)

    def label_matching(self, r, w):
        ids = self.arrived(r)
        if not ids:
            return w
        counts = self.federation.counts[ids]
        beta = best_on_simplex(self.federation.alpha[ids], self.federation.target, counts / counts.sum(), 0.1)
        return self.weighted(r, w, dict(zip(ids, map(float, beta), strict=True)))

    def selection(self):
        """FedCote-like's probabilities by projected gradient descent."""
        n, counts, alpha, target = self.n, self.federation.counts, self.federation.alpha, self.federation.target
        q = self.trace.long_run_probability
        mass = [float(counts[0]) * self.with_server] + [q[k] * counts[k + 1] for k in range(n)]
        r = np.full(n, 0.75)
        for _ in range(300):
            total = mass[0] + sum(r[k] * mass[k + 1] for k in range(n))
            mixture = (mass[0] * alpha[0] + sum(r[k] * mass[k + 1] * alpha[k + 1] for k in range(n))) / total
            slope = [2 * mass[k + 1] / total * (alpha[k + 1] - mixture) @ (mixture - target) for k in range(n)]
            r = onto_capped_simplex(r - 2.0 * (np.array(slope) + 2e-3 * (r - 0.75) / n), 0.75 * n)
        return r

    def fedcote_like(self, r, w):
        if r == 0:
            self.chance = [1.0, *self.selection()]
        luck = [0.0, *stream(self.seed, "selection", r).random(self.n)]
        heard = [j for j in self.arrived(r) if luck[j] < self.chance[j]]
        return self.weighted(r, w, {j: float(self.federation.counts[j]) for j in heard}) if heard else w
