"""Slow twins of what is composed with FedAuto and of FedAuto with a memory, for `reference.Reference`."""

from __future__ import annotations

from functools import partial


class ComposedRules:
    def __getattr__(self, name):
        """fedauto_on_X: the twin of X with FedAuto's aggregation for its mean."""
        if not name.startswith("fedauto_on_"):
            raise AttributeError(name)
        return partial(getattr(self, name.removeprefix("fedauto_on_")), average="by_labels")

    def fedauto_memory(self, r, w, decay=0.9):
        if r == 0:
            self.last = {}  # participant -> last update, per unit of the step size, and its round
        for j in self.arrived(r):
            self.last[j] = (self.train(r, j, w) - w) / self.lr, r
        worth = {j: float(self.federation.counts[j]) * decay ** (r - heard) for j, (_, heard) in self.last.items()}
        models = {j: w + self.lr * self.last[j][0] for j in sorted(worth) if worth[j] >= 1}
        mean, _ = self.by_labels(r, w, models, worth)
        return w if mean is None else mean
