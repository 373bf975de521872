"""Slow twins of the corrected local objectives, normalised steps and server optimisers, for `reference.Reference`."""

from __future__ import annotations

import torch


class ControlRules:
    def everyone(self):
        return range(0 if self.with_server else 1, self.n + 1)

    def scaffold(self, r, w):
        if r == 0:
            self.c = torch.zeros_like(w)
            self.own_c = {j: torch.zeros_like(w) for j in self.everyone()}
        ids = self.arrived(r)
        if not ids:
            return w
        c, moves, changes = self.c, [], []
        for j in ids:
            y = self.train(r, j, w, linear=c - self.own_c[j])
            new = self.own_c[j] - c + (w - y) / (self.taken(r, j) * self.lr)  # option II
            moves.append(y - w)
            changes.append(new - self.own_c[j])
            self.own_c[j] = new
        self.c = c + sum(changes) / len(self.everyone())
        return w + sum(moves) / len(moves)

    def feddyn(self, r, w):
        alpha = 0.1
        if r == 0:
            self.h = torch.zeros_like(w)
            self.own_g = {j: torch.zeros_like(w) for j in self.everyone()}
        models = {j: self.train(r, j, w, linear=-self.own_g[j], prox=alpha) for j in self.arrived(r)}
        if not models:
            return w
        fallen = self.lr / self.first_lr
        for j, model in models.items():
            self.own_g[j] = self.own_g[j] - alpha * (model - w) / fallen
            self.h = self.h - alpha / len(self.everyone()) * (model - w) / fallen
        return sum(models.values()) / len(models) - fallen * self.h / alpha

    def fednova(self, r, w):
        ids = self.arrived(r)
        if not ids:
            return w
        total = sum(self.federation.counts[j] for j in ids)
        p = {j: float(self.federation.counts[j] / total) for j in ids}
        directions = {j: (w - self.train(r, j, w)) / (self.lr * self.taken(r, j)) for j in ids}
        tau_eff = sum(p[j] * self.taken(r, j) for j in ids)
        return w - self.lr * tau_eff * sum(p[j] * directions[j] for j in ids)

    def fedavgm(self, r, w):
        if r == 0:
            self.m = torch.zeros_like(w)
        if not self.arrived(r):
            return w
        fallen = self.lr / self.first_lr
        self.m = 0.9 * self.m + (self.fedavg(r, w) - w) / fallen
        return w + fallen * self.m

    def fedadam(self, r, w, yogi=False):
        if r == 0:
            self.m, self.v = torch.zeros_like(w), torch.full_like(w, 1e-6)
        if not self.arrived(r):
            return w
        fallen = self.lr / self.first_lr
        update = (self.fedavg(r, w) - w) / fallen
        self.m = 0.9 * self.m + 0.1 * update
        if yogi:
            self.v = self.v - 0.01 * update**2 * torch.sign(self.v - update**2)
        else:
            self.v = 0.99 * self.v + 0.01 * update**2
        return w + fallen * 0.01 * self.m / (torch.sqrt(self.v) + 1e-3)

    def fedyogi(self, r, w):
        return self.fedadam(r, w, yogi=True)
