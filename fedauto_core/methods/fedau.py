"""FedAU: weights from each client's observed participation intervals, instead of unknown arrival rates.

Wang & Ji, "A lightweight method for tackling unknown participation statistics in federated averaging", ICLR 2024.
Assumes independent arrivals with constant probabilities q_j; knows nothing of the network. Memory: three numbers per
client at the server; no extra traffic. The first weights are 1, so the first 1 / q_j rounds or so are biased.
Differs from the paper in: data weights p_j = n_j / n instead of 1 / N; the server is a participant (its interval is
always 1). As in the official code, the weight of round t leaves out the interval that ends in t, so that it is
independent of the arrival it multiplies.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from .base import Arrivals, Context, Cost, Method, Server, State, data_weights, weighted_step
from .checks import check_integer, check_positive


def no_intervals(context: Context) -> dict[str, Any]:
    """omega: mean length of the closed intervals, one before the first; closed: their number; misses: [N+1] each."""
    n = context.n_clients + 1
    return {"omega": np.ones(n), "closed": np.zeros(n, int), "misses": np.zeros(n, int)}


def intervals(state: State, arrivals: Arrivals, cutoff: int) -> dict[str, Any]:
    """The same after a round. An interval ends with an arrival, or after `cutoff` rounds without one: its length is the
    rounds since the last end."""
    memory, omega = state.memory, state.memory["omega"]
    length = memory["misses"] + 1
    ends = length >= cutoff
    ends[arrivals.ids] = True
    closed = memory["closed"] + ends
    # omega_j <- omega_j + (length_j - omega_j) / M_j, the running mean of the M_j intervals closed so far.
    omega = np.where(ends, omega + (length - omega) / np.maximum(closed, 1), omega)
    return {"omega": omega, "closed": closed, "misses": np.where(ends, 0, length)}


@dataclass(frozen=True)
class FedAU(Method):
    """beta_j = eta_g p_j omega_j, omega_j the mean of j's closed intervals (1 before the first is closed).

    cutoff: K, the longest interval in rounds; it bounds omega_j at the price of E[omega_j] = (1 - (1 - q_j)^K) / q_j.
    """

    name = "fedau"
    source = "Wang & Ji 2024"
    family = "estimated rates"
    contest = "aggregation"
    cost = Cost(server="3 * (N + 1)")
    assumes = "independent arrivals, constant q > 0"
    knob = ("cutoff", (5, 15, 50))
    cutoff: int = 50
    server_lr: float = 1.0

    def __post_init__(self) -> None:
        check_positive(self, "server_lr")
        check_integer(self, "cutoff", 1)

    def init(self, context: Context) -> State:
        return State(context, no_intervals(context))

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        beta = self.server_lr * (data_weights(state.context) * state.memory["omega"])[arrivals.ids]
        w, state = weighted_step(state, w, arrivals, beta)
        return w, state.noted({}, **intervals(state, arrivals, self.cutoff))
