"""Which methods the theorems cover, and what the others break: found by asking each method, not by its description.

A method is taken through a few rounds with made-up uploads, and then asked what it does with others. Its step is
w + sum_j beta_j Delta_j with weights that do not look at the uploads only if it is affine in them, which random
midpoints tell; what is left where all of them vanish is participant m, memory, or work of the server's.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fedauto_core.methods.base import Arrivals, Context, Method, State

CLIENTS, CLASSES, SIZE, STEPS, LR = 4, 3, 12, 2, 0.1
HEARD = ([0, 1, 2, 3, 4], [0, 1, 3], [0, 2], [0, 1, 2], [0, 3, 4], [0, 4]) * 2  # in each round
ASKED = (1, 3, 5, 6, 9)  # rounds in which a method is asked; the tenth closes a period of FedAvg's amplified updates
COUNTS = np.array([[3, 3, 3], [8, 4, 0], [0, 7, 2], [4, 0, 6], [9, 0, 0]])
NO = {
    "steps": "corrected local steps",
    "start": "local steps from another model",
    "affine": "weights or step look at the round's uploads (A4)",
    "memory": "adds updates of earlier rounds, whose noise w depends on (A3)",
    "simplex": "a step that is not a sum with weights >= 0 that sum to one at most",
}
"""What a method can break, in the order in which it is named."""
CORRECTED = "not by these, but by 5.11 given the past: with L + mu, and grad F_j + s_j in b_r and D_r"


class _Server:
    """Public data whose training leads a part of the way towards a fixed model; notes where it was asked to train."""

    def __init__(self) -> None:
        self.labels = torch.arange(CLASSES).repeat_interleave(3)
        self.counts_per_class = COUNTS[0]
        self.trained: list[tuple[Tensor, Tensor]] = []  # from where, and the update
        self.others = 0

    def train(self, w: Tensor, steps: int, classes: Sequence[int] | None = None) -> Tensor:
        self.trained.append((w, 0.1 * steps * (sum(classes or [7]) - w)))
        return self.trained[-1][1]

    def gradient(self, w: Tensor, targets: Tensor | None = None) -> Tensor:
        self.others += 1
        return w - 1 if targets is None else w - targets.double().var()

    def logits(self, w: Tensor) -> Tensor:
        models = w if w.ndim == 2 else w[None]
        scores = models.reshape(len(models), 1, CLASSES, -1).mean(dim=3) * self.labels.double()[:, None].add(1)
        return scores if w.ndim == 2 else scores[0]


def _context(w0: Tensor) -> Context:
    counts, chance = COUNTS.sum(axis=1), np.array([0.9, 0.5, 0.7, 0.4])
    every = np.tile(chance, (len(HEARD), 1))
    alpha, target = COUNTS / counts[:, None], COUNTS.sum(axis=0) / counts.sum()
    return Context(counts, alpha, target, STEPS, LR, True, w0, 0, every, chance, every)


def _arrived(round: int, deltas: Tensor) -> Arrivals:
    ids = np.array(HEARD[round])
    return Arrivals(round, ids, deltas[torch.from_numpy(ids)], np.full(len(ids), STEPS), LR)


def _history(method: Method, uploads: Tensor, rounds: int) -> tuple[Tensor, State]:
    """Model and state after some rounds with uploads [rounds, N+1, P]."""
    w = torch.zeros(SIZE, dtype=torch.float64)
    state = method.init(_context(w))
    for round in range(rounds):
        method.local_work(state, w, np.array(HEARD[round]))
        w, state = method.aggregate(state, w, _arrived(round, uploads[round]), _Server())
    return w, state


def _broken(method: Method, round: int, uploads: Tensor, others: Tensor) -> tuple[set[str], bool, bool, bool]:
    """Keys of `NO` that the method breaks in a round; whether the server goes on from the average; whether the weights
    sum to one; whether they follow the uploads of earlier rounds."""
    w, state = _history(method, uploads, round)
    found, server, none = set(), _Server(), torch.zeros_like(uploads[round])

    def step(deltas: Tensor, state: State = state) -> tuple[Tensor, State]:
        after, following = method.aggregate(state, w, _arrived(round, deltas), server)
        return after - w, following

    work = method.local_work(state, w, np.array(HEARD[round]))
    corrected = work.linear is not None and bool(work.linear.any())
    if work.prox or corrected:
        found.add("steps")
    if bool((work.start != w).any()):
        found.add("start")
    for one, other in zip(uploads[:4], others[:4], strict=True):
        ends = [step(deltas)[0] for deltas in (one, other, (one + other) / 2)]
        if not torch.allclose((ends[0] + ends[1]) / 2, ends[2], atol=1e-9):
            found.add("affine")
    rest, following = step(none)
    elsewhere, instead = step(none, _history(method, others, round)[1])
    onward = server.others > 0 or any(not torch.equal(start, w) for start, _ in server.trained)
    weights = np.zeros(0) if following.weights is None else following.weights
    arrived = _arrived(round, uploads[round]).deltas
    if not torch.allclose(elsewhere, rest, atol=1e-9):
        found.add("memory")
    elif following.weights is None or weights.sum() > 1 + 1e-9 or (weights < 0).any():
        found.add("simplex")
    elif not onward and "affine" not in found:  # the step must be what these weights make of the updates, and no more
        expected = torch.as_tensor(weights[: len(arrived)]) @ arrived
        if len(weights) > len(arrived):  # participant m
            rest = rest - float(weights[-1]) * server.trained[0][1]
        if not torch.allclose(step(uploads[round])[0] - step(none)[0], expected, atol=1e-9) or rest.abs().max() > 1e-9:
            found.add("simplex")
    follows = instead.weights is not None and not np.allclose(instead.weights, weights)
    return found, onward, abs(weights.sum() - 1) < 1e-9, follows


def coverage(methods: Mapping[str, Method]) -> pd.DataFrame:
    """One row per labelled method: whether the theorems cover it as it stands, and what it breaks, in any of a few
    rounds with some clients silent.

    Columns label, covered ("yes", or "no"), breaks, remark. The server's SGD after the average is a round of its own,
    from there, with A = {0}: a method whose average is covered is covered with it. A method that breaks no more than
    the plain local steps falls under `bound.corrected`.
    """
    rng = np.random.default_rng(0)
    shape = (len(HEARD), CLIENTS + 1, SIZE)
    uploads, others = (torch.from_numpy(rng.normal(scale=0.1, size=shape)) for _ in range(2))
    rows = []
    for label, method in methods.items():
        broken, onward, whole, follows = zip(*(_broken(method, round, uploads, others) for round in ASKED), strict=True)
        found = set().union(*broken)
        breaks = "; ".join(text for key, text in NO.items() if key in found)
        remark = ["the server's steps afterwards are a second half-round, A = {0}"] * any(onward)
        remark += ["on average over noise only: the weights follow past uploads"] * any(follows)
        remark += ["S5 not: the weights sum to less than one"] * (not all(whole))
        covered = {"covered": "no" if breaks else "yes", "breaks": breaks}
        told = [CORRECTED] * (found == {"steps"}) if breaks else remark
        rows.append({"label": label, **covered, "remark": "; ".join(told)})
    return pd.DataFrame(rows)
