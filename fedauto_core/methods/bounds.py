"""The two ends of the scale: tuning on the server's data alone, and one learner on everybody's data."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .base import Arrivals, Cost, Method, Server, State, weighted_step


@dataclass(frozen=True)
class ServerOnly(Method):
    """E steps per round on the public data: a bound from below, no rival."""

    name = "server_only"
    source = "bound"
    family = "bound"
    contest = "bound"
    cost = Cost(up="0", down="0")
    participation = "server"

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        return weighted_step(state, w, arrivals, np.ones(1))


@dataclass(frozen=True)
class Centralised(ServerOnly):
    """SGD on the pooled data of server and clients, (N + 1) E steps per round: one after another as many minibatches as
    all of them take side by side in the ideal network where they take equally many.

    E steps on minibatches N + 1 times as large would be as many samples, but faster methods pass that.
    """

    name = "centralised"
    family = "bound"
    contest = "bound"
    assumes = "all data in one place"
    participation = "pooled"

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        return w + arrivals.deltas.sum(dim=0), state.next(log={})  # of one update, or none that is finite
