"""Slow twins of stale updates, postponed broadcast and amplified updates; mixed into `reference.Reference`."""

from __future__ import annotations

import torch


class StaleRules:
    def fedstale(self, r, w, beta=0.5, rates="estimated"):
        p = self.potential()
        if r == 0:
            self.stale = {j: torch.zeros_like(w) for j in p}
            self.lengths, self.silent = {j: [] for j in p}, dict.fromkeys(p, 0)
        fresh = {j: self.train(r, j, w) - w for j in self.arrived(r)}
        arrived = sum(p[j] for j in fresh)
        stale = {j: self.lr * unit for j, unit in self.stale.items()}
        step = sum(beta * p[j] * stale[j] for j in p) if fresh else torch.zeros_like(w)
        for j, delta in fresh.items():
            past = self.lengths[j]
            estimated = p[j] * (sum(past) / len(past) if past else 1.0)
            step = step + (estimated if rates == "estimated" else p[j] / arrived) * (delta - beta * stale[j])
        self.stale.update({j: delta / self.lr for j, delta in fresh.items()})
        for j in p:
            self.silent[j] += 1
            if j in fresh or self.silent[j] == 50:
                self.lengths[j].append(self.silent[j])
                self.silent[j] = 0
        return w + step

    def fedar_like(self, r, w, decay=0.5):
        p = self.potential()
        if r == 0:
            self.latest, self.heard_in = {}, {}
        for j in self.arrived(r):
            self.latest[j], self.heard_in[j] = (self.train(r, j, w) - w) / self.lr, r
        if not self.latest:
            return w
        everyone = sum(p[j] for j in self.latest)
        psi = {j: p[j] / everyone / (1 + r - heard) ** decay for j, heard in self.heard_in.items()}
        return w + self.lr * sum(psi[j] * unit for j, unit in self.latest.items())

    def fedpbc_like(self, r, w):
        if r == 0:
            self.holds = {j: self.w0 for j in range(self.n + 1)}
        ids = self.arrived(r)
        if not ids:
            return w
        w = sum(self.train(r, j, self.holds[j]) for j in ids) / len(ids)
        self.holds.update(dict.fromkeys(ids, w))
        return w

    def fedavg_amplified(self, r, w, amplification=3.0, period=10):
        if r == 0:
            self.before = self.w0
        w = self.fedavg(r, w)
        if r % period == period - 1:
            w = self.before = self.before + amplification * (w - self.before)
        return w
