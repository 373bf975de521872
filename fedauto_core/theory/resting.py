"""Where a rule comes to rest when uploads fail: on a line, where every loss is a parabola and nothing is estimated.

Class c has the loss f_c(x) = (x - u_c)^2 / 2 wherever it is held, so participant j has F_j(x) = (x - u_j)^2 / 2 and a
constant, with u_j = sum_c alpha_j(c) u_c: label skew without feature shift. F is smallest at sum_c alpha_g(c) u_c. A
rule with a wrong weight, or one that keeps a wrong row, comes to rest elsewhere.

No network is trained: E steps of size gamma on F_j + <l, x> + a/2 |x - w|^2 from w move by
(1 - (1 - gamma (1 + a))^E) / (1 + a) (u_j - l - w).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fedauto_core.errors import require
from fedauto_core.methods.base import Arrivals, Context, Method


class Network(Protocol):
    """What a trace of T rounds and N clients tells (`network.Trace`): arrived bool [T, N], and for oracles the
    probabilities of arrival, [T, N], [N] and [T, N]."""

    arrived: np.ndarray
    success_probability: np.ndarray
    long_run_probability: np.ndarray
    marginal_probability: np.ndarray


class _Public:
    """The server's public data. size: of its steps in this round."""

    def __init__(self, counts_per_class: np.ndarray, optima: np.ndarray) -> None:
        self.counts_per_class, self.optima, self.size = counts_per_class, optima, 0.0

    def train(self, w: Tensor, steps: int, classes: Sequence[int] | None = None) -> Tensor:
        chosen = slice(None) if classes is None else list(classes)
        goal = np.average(self.optima[chosen], weights=self.counts_per_class[chosen])
        return (1 - (1 - self.size) ** steps) * (float(goal) - w)


@dataclass(frozen=True)
class Line:
    """A federation on a line.

    Parameters
    ----------
    counts : samples of each class, [N+1, C]; row 0 are the server's public ones, zeros if it has none
    optima : u_c, where the loss of each class is smallest, [C]
    steps, lr : local steps E, and their size gamma in the first round
    with_server : whether the server is a participant that never fails
    """

    counts: np.ndarray
    optima: np.ndarray
    steps: int = 2
    lr: float = 0.025
    with_server: bool = False

    @property
    def context(self) -> Context:
        """What every rule knows before round 1; the start is 0."""
        told = {"steps": self.steps, "lr": self.lr, "with_server": self.with_server, "w0": torch.zeros(1)}
        return Context.from_counts(self.counts[1:], self.counts[0], **told)

    @property
    def optimum(self) -> float:
        """Where F is smallest."""
        return float(self.context.target @ self.optima)

    def why_not(self, method: Method) -> str:
        """What a rule needs that this line has not, in words; "" for one that can be run."""
        if method.participation != "network":
            return "no network decides who is heard"
        if method.needs_scores:
            return "it asks for scores or gradients of a classifier"
        if method.public_share:
            return "it hands out samples"
        return "it tunes on public data" if method.contest == "public data" and not self.counts[0].any() else ""

    def path(self, method: Method, network: Network, rates: Sequence[float] | None = None) -> np.ndarray:
        """The judged model after each round, [T].

        rates: gamma_r / gamma of each round, [T]; None: the step size is constant. Raises InputError for a rule that
        asks for what a line has not, `why_not` says what.
        """
        reason = self.why_not(method)
        require(not reason, f"{method.name} on a line: {reason}", allowed="other rules", remedy="leave it out")
        context, server = self.context, _Public(self.counts[0], self.optima)
        u, w, path = torch.from_numpy(context.alpha @ self.optima).float()[:, None], context.w0, []
        if method.needs_network_knowledge:
            names = ("success_probability", "long_run_probability", "marginal_probability")
            context = replace(context, **{name: getattr(network, name) for name in names})
        state = method.init(context)
        for r, heard in enumerate(network.arrived):
            ids = np.flatnonzero(np.append(self.with_server, heard))
            gamma = server.size = self.lr * (1.0 if rates is None else rates[r])
            work = method.local_work(state, w, ids)
            linear, steep = (0.0 if work.linear is None else work.linear), 1 + work.prox
            deltas = (1 - (1 - gamma * steep) ** self.steps) / steep * (u[ids] - linear - work.start)
            arrivals = Arrivals(r, ids, deltas, np.full(len(ids), self.steps), gamma)
            w, state = method.aggregate(state, w, arrivals, server)
            path.append(float(method.judged(state, w)[0]))
        return np.array(path)


def rest(path: np.ndarray, share: float = 0.5, batches: int = 10) -> tuple[float, float]:
    """Where a path [T] stays: the mean of the last `share` of it, and the standard error of that from the means of
    `batches` parts, each of which should be long against the memory 1 / (gamma E) of the model."""
    late = path[len(path) - round(share * len(path)) :]
    means = np.array([part.mean() for part in np.array_split(late, batches)])
    return float(late.mean()), float(means.std(ddof=1) / np.sqrt(batches))
