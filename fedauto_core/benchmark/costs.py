"""What a method costs: traffic and memory as its class declares them, memory and server time as measured.

Measured is `aggregate` alone, on made-up updates: what the server trains on its public data is counted elsewhere, in
gradient samples (`server_samples` of a `History`).
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
import sympy
import torch
from torch import Tensor

from fedauto_core.errors import is_number
from fedauto_core.methods.base import Arrivals, Context, Method, combine
from fedauto_core.seeding import stream

BYTES = 4  # of a number sent or kept: float32
SAMPLES, PUBLIC = 500, 300  # of a client and of the server, in the made-up federation


def declared(methods: Mapping[str, Method], n: int, p: int, c: int, d: int = 784, public: int = PUBLIC) -> pd.DataFrame:
    """Bytes by label for n clients, p parameters, c classes and samples of d numbers, of which the server has `public`:
    up and down (per client and round in which it is heard), once (per client), server and clients (kept between rounds,
    in all). See `methods.base.Cost`.
    """
    sizes = {"N": n, "P": p, "C": c, "D": d, "n_0": public}

    def number(method: Method, text: str) -> int:
        values = {name: sympy.sympify(value) for name, value in (sizes | asdict(method)).items() if is_number(value)}
        return int(sympy.ceiling(sympy.sympify(text, locals=values)))

    return pd.DataFrame(
        {"label": label, "N": n, "P": p, "C": c}
        | {field: BYTES * number(method, text) for field, text in method.cost._asdict().items()}
        for label, method in methods.items()
    )


def numbers_kept(memory: Mapping[str, Any]) -> int:
    """How many numbers a method's memory holds."""
    return sum(value.numel() if isinstance(value, Tensor) else int(np.size(value)) for value in memory.values())


class _InstantServer:
    """A server whose training takes no time, so that only the method itself is measured."""

    def __init__(self, p: int, c: int) -> None:
        rng = stream(0, "theory", p, c)
        classes = np.arange(PUBLIC) % c
        self.labels = torch.from_numpy(classes)
        self.counts_per_class = np.bincount(classes, minlength=c)
        self.update = torch.from_numpy(1e-3 * rng.standard_normal(p, dtype=np.float32))
        self.scores = torch.from_numpy(rng.standard_normal((PUBLIC, c), dtype=np.float32))

    def train(self, w: Tensor, steps: int, classes: object = None) -> Tensor:
        return self.update

    def gradient(self, w: Tensor, targets: Tensor | None = None) -> Tensor:
        return self.update

    def logits(self, w: Tensor) -> Tensor:
        return self.scores.expand(*w.shape[:-1], -1, -1)


def _context(n: int, p: int, c: int) -> Context:
    alpha = stream(0, "theory", n, c).dirichlet(np.full(c, 0.3), n + 1)
    alpha[0] = 1 / c
    alpha[1:, 0] = 0.0  # no client holds class 0, so that FedAuto has something to compensate
    samples, half = np.array([PUBLIC, *[SAMPLES] * n]), np.full((8, n), 0.5)
    own = dict(steps=5, lr=0.1, with_server=True, w0=torch.zeros(p), samples=samples)
    context = Context.from_counts(alpha[1:], alpha[0], **own)
    return replace(context, success_probability=half, long_run_probability=half[0], marginal_probability=half)


def measured(methods: Mapping[str, Method], n: int, p: int, c: int, repetitions: int = 5) -> pd.DataFrame:
    """Seconds of one `aggregate` when the server and all n clients arrive (median of `repetitions`), the same for a
    plain weighted mean of the updates (plain_seconds), taken in turns, their ratio, and the bytes kept between rounds.
    """
    rng = stream(0, "theory", n, p)
    deltas = torch.from_numpy(1e-3 * rng.standard_normal((n + 1, p), dtype=np.float32))
    server, context, ids = _InstantServer(p, c), _context(n, p, c), np.arange(n + 1)
    mean = context.counts / context.counts.sum()
    rows = []
    for label, method in methods.items():
        w, state = context.w0, method.init(context)
        taken = []
        for round in range(repetitions + 1):
            begin = time.perf_counter()
            w + combine(mean, deltas)
            middle = time.perf_counter()
            w, state = method.aggregate(state, w, Arrivals(round, ids, deltas, np.full(n + 1, 5), context.lr), server)
            taken.append((time.perf_counter() - middle, middle - begin))
        own, plain = np.median(taken[1:], axis=0).tolist()  # the first round warms up
        times = {"seconds": own, "plain_seconds": plain, "ratio": own / plain}
        rows.append({"label": label, "N": n, "P": p, "C": c} | times | {"kept": BYTES * numbers_kept(state.memory)})
    return pd.DataFrame(rows)
