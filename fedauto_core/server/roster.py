"""Who takes part: the participants behind Flower's nodes, and what the server knows of each."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor, is_tensor

from fedauto_core.methods.base import Context, Method, State


@dataclass
class Roster:
    """Participants 1..N in the order in which they came. A node is new at every start of a client, its name is not:
    who comes back under a name is who left. Whoever leaves stays in the roster, as a client that is not heard.

    public: samples of each class at the server, [C]; names: of the participants; ids: node -> participant;
    counts: n_i, NaN until known; histograms: label counts [C], None where unknown.
    """

    public: np.ndarray
    names: list[str] = field(default_factory=list)
    ids: dict[Hashable, int] = field(default_factory=dict)
    counts: list[float] = field(default_factory=list)
    histograms: list[np.ndarray | None] = field(default_factory=list)

    def enrol(self, node: Hashable, name: str, labels: Sequence[float] | None) -> str:
        """Take in the participant `name` behind `node`, or know it again, with its label counts. What is wrong with
        these, or ""."""
        if name not in self.names:
            self.names.append(name)
            self.counts.append(np.nan)
            self.histograms.append(None)
        index = self.names.index(name)
        self.ids[node] = index + 1
        counts, why = _label_counts(labels, len(self.public))
        if not why:
            self.histograms[index] = counts
            if np.isnan(self.counts[index]):
                self.counts[index] = counts.sum()
        guessed = self.histograms[index] is None
        return why and why + ("; its histogram is guessed to be uniform" if guessed else "; the ones before stay")

    def name_of(self, node: Hashable) -> str:
        return self.names[self.ids[node] - 1] if node in self.ids else f"node {node}"

    def context(self, w0: Tensor, steps: int, lr: float, with_server: bool) -> Context:
        """What the server knows by now. Of whom it knows no labels it guesses the uniform histogram, of whom it knows
        no number of samples the mean of the others'."""
        counts = np.array([self.public.sum(), *self.counts], dtype=float)
        known = counts[counts > 0]
        counts[np.isnan(counts)] = known.mean() if len(known) else 1.0
        told = [np.ones(len(self.public)) if row is None else row for row in self.histograms]
        return Context.from_counts(
            np.reshape(told, (-1, len(self.public))),
            self.public,
            steps=steps,
            lr=lr,
            with_server=with_server,
            w0=w0,
            samples=counts,
        )


def _label_counts(told: Sequence[float] | None, n_classes: int) -> tuple[np.ndarray, str]:
    """Label counts [C], cut at zero, below which the noise of a private histogram may lead; what is wrong, or ""."""
    if told is None:
        return np.zeros(n_classes), "no label counts"
    counts = np.asarray(told, dtype=float)
    if counts.shape != (n_classes,):
        return counts, f"label counts of shape {counts.shape}, for {n_classes} classes"
    if not np.isfinite(counts).all():
        return counts, "label counts that are not finite"
    counts = np.maximum(counts, 0.0)
    return counts, "" if counts.any() else "label counts without a sample"


def with_context(method: Method, state: State, context: Context) -> State:
    """The state when more is known: whoever is new gets the memory that `method` starts with, all others keep theirs.

    Memory of participants are arrays with an axis, or axes, of N + 1.
    """
    if context.n_clients == state.context.n_clients:
        return replace(state, context=context)
    fresh = method.init(context).memory
    return replace(state, context=context, memory={k: _grown(v, fresh.get(k)) for k, v in state.memory.items()})


def _grown(old: Any, fresh: Any) -> Any:
    if fresh is None or not (is_tensor(old) or isinstance(old, np.ndarray)):
        return old
    grown = fresh.clone() if is_tensor(fresh) else fresh.copy()
    grown[tuple(map(slice, old.shape))] = old
    return grown
