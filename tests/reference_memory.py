"""Slow twins of the rules that remember: estimated rates, stored updates, friends; mixed into `reference.Reference`."""

from __future__ import annotations

import torch


class MemoryRules:
    def deltas(self, r, w):
        return {j: self.train(r, j, w) - w for j in self.arrived(r)}

    def fedau(self, r, w, cutoff=50):
        p = self.potential()
        if r == 0:
            self.intervals, self.since = {j: [] for j in p}, dict.fromkeys(p, 0)
        deltas, step = self.deltas(r, w), torch.zeros_like(w)
        for j in p:
            self.since[j] += 1
            if j in deltas:
                past = self.intervals[j]
                step += p[j] * (sum(past) / len(past) if past else 1.0) * deltas[j]
            if j in deltas or self.since[j] == cutoff:
                self.intervals[j].append(self.since[j])
                self.since[j] = 0
        return w + step

    def f3ast(self, r, w):
        p = self.potential()
        if r == 0:
            self.rates = dict.fromkeys(p, 1.0)
        deltas = self.deltas(r, w)
        for j in p:
            self.rates[j] = 0.95 * self.rates[j] + 0.05 * (j in deltas)
        return w + sum((p[j] / self.rates[j] * delta for j, delta in deltas.items()), torch.zeros_like(w))

    def mifa(self, r, w, wait=False):
        p = self.potential()
        if r == 0:
            self.table = {}
        self.table.update({j: delta / self.lr for j, delta in self.deltas(r, w).items()})
        if wait and len(self.table) < len(p):
            return w
        return w + sum((p[j] * self.lr * update for j, update in self.table.items()), torch.zeros_like(w))

    def fedvarp(self, r, w):
        p = self.potential()
        if r == 0:
            self.stored = {j: torch.zeros_like(w) for j in p}
        deltas = self.deltas(r, w)
        if not deltas:
            return w
        arrived, old = sum(p[j] for j in deltas), {j: self.lr * update for j, update in self.stored.items()}
        v = sum(p[j] * old[j] for j in p) + sum(p[j] / arrived * (deltas[j] - old[j]) for j in deltas)
        self.stored.update({j: delta / self.lr for j, delta in deltas.items()})
        return w + v

    def fl_fdms(self, r, w):
        p = self.potential()
        if r == 0:
            self.alike = {(i, j): [] for i in p for j in p}
        deltas = self.deltas(r, w)
        total, weight = torch.zeros_like(w), 0.0
        for i in p:
            friends = {j: sum(past) / len(past) for j in deltas if j > 0 and (past := self.alike[i, j])}
            if i in deltas or friends:
                total += p[i] * deltas[i if i in deltas else max(friends, key=friends.get)]
                weight += p[i]
        for i in deltas:
            for j in deltas:
                cosine = float(deltas[i] @ deltas[j] / (deltas[i].norm() * deltas[j].norm()))
                self.alike[i, j].append((cosine + 1) / 2)
        return w + total / weight if deltas else w
