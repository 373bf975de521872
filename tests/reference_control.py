"""Slow twins of the corrected local objectives, normalised steps and server optimisers, for `reference.Reference`."""

from __future__ import annotations

import torch


class ControlRules:
    def everyone(self):
        return range(0 if self.with_server else 1, self.n + 1)

    def memory_weights(self, uniform):
        p = self.potential()
        return {j: 1 / len(p) if uniform else p[j] for j in p}

    def scaffold(self, r, w, average="by_counts", uniform=False):
        p = self.memory_weights(uniform)
        if r == 0:
            self.c = torch.zeros_like(w)
            self.own_c = {j: torch.zeros_like(w) for j in self.everyone()}
        models = {j: self.train(r, j, w, linear=self.c - self.own_c[j]) for j in self.arrived(r)}
        mean, _ = getattr(self, "uniformly" if uniform else average)(r, w, models)
        c = self.c
        for j, y in models.items():
            new = self.own_c[j] - c + (w - y) / (self.taken(r, j) * self.lr)  # option II
            self.c = self.c + p[j] * (new - self.own_c[j])
            self.own_c[j] = new
        return w if mean is None else mean

    def uniformly(self, r, w, models):
        return sum(models.values()) / len(models) if models else None, 1.0

    def feddyn(self, r, w, average="by_counts", uniform=False):
        alpha, p = 0.1, self.memory_weights(uniform)
        if r == 0:
            self.h = torch.zeros_like(w)
            self.own_g = {j: torch.zeros_like(w) for j in self.everyone()}
        models = {j: self.train(r, j, w, linear=-self.own_g[j], prox=alpha) for j in self.arrived(r)}
        mean, share = getattr(self, "uniformly" if uniform else average)(r, w, models)
        fallen = self.lr / self.first_lr
        for j, model in models.items():
            self.own_g[j] = self.own_g[j] - alpha * (model - w) / fallen
            self.h = self.h - alpha * p[j] * (model - w) / fallen
        return w if mean is None else mean - fallen * share * self.h / alpha

    def fednova(self, r, w):
        ids = self.arrived(r)
        if not ids:
            return w
        total = sum(self.federation.counts[j] for j in ids)
        p = {j: float(self.federation.counts[j] / total) for j in ids}
        directions = {j: (w - self.train(r, j, w)) / (self.lr * self.taken(r, j)) for j in ids}
        tau_eff = sum(p[j] * self.taken(r, j) for j in ids)
        return w - self.lr * tau_eff * sum(p[j] * directions[j] for j in ids)

    def fedavgm(self, r, w, average="by_counts"):
        if r == 0:
            self.m = torch.zeros_like(w)
        update = self.mean_update(r, w, average)
        if update is None:
            return w
        fallen = self.lr / self.first_lr
        self.m = 0.9 * self.m + update / fallen
        return w + fallen * self.m

    def mean_update(self, r, w, average):
        mean, _ = getattr(self, average)(r, w, {j: self.train(r, j, w) for j in self.arrived(r)})
        return None if mean is None else mean - w

    def fedadam(self, r, w, average="by_counts", yogi=False):
        if r == 0:
            self.m, self.v = torch.zeros_like(w), torch.full_like(w, 1e-6)
        update = self.mean_update(r, w, average)
        if update is None:
            return w
        fallen = self.lr / self.first_lr
        update = update / fallen
        self.m = 0.9 * self.m + 0.1 * update
        if yogi:
            self.v = self.v - 0.01 * update**2 * torch.sign(self.v - update**2)
        else:
            self.v = 0.99 * self.v + 0.01 * update**2
        return w + fallen * 0.01 * self.m / (torch.sqrt(self.v) + 1e-3)

    def fedyogi(self, r, w, average="by_counts"):
        return self.fedadam(r, w, average, yogi=True)
