"""FedAR-like: the latest update of every client, the lighter the longer the client has been silent.

After Jiang, Zhou, Zhang, Chakraborty, "FedAR: addressing client unavailability in federated learning with local update
approximation and rectification", arXiv 2407.19103 (2024); abstract and a summary read. Stated: the latest update of
each client stands for its current one, w_{t+1} = w_t - (eta_t / N_t) sum_i psi_{i,t} G_i[t] with N_t the clients that
count so far, and psi depends on the rounds of inactivity. Reconstructed, hence "-like": N_t, those heard so far, and
psi = (1 + silent rounds)^-decay. Knows nothing of the network; assumes, as MIFA does, that gaps between arrivals stay
bounded. Memory: one update per client at the server; no extra traffic. Differs from the paper also in: data weights p_j
for 1 / N_t.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .base import Arrivals, Context, Cost, Server, State, combine, data_weights, lr_factor
from .checks import check_number
from .step_length import StepLength
from .table import empty_table, stored, table_log


@dataclass(frozen=True)
class FedARLike(StepLength):
    """G_j <- Delta_j / gamma_t for the arrived; w_{t+1} = w_t + eta_g gamma_t sum_j psi_j p_j G_j / sum_j p_j over all
    heard so far.

    decay: d >= 0 in psi_j = (1 + t - t_j)^-d, with j last heard in round t_j; 0 is MIFA from the round on in which
    everybody has been heard.
    """

    name = "fedar_like"
    source = "after Jiang et al. 2024 (FedAR)"
    family = "stored updates"
    contest = "aggregation"
    cost = Cost(server="(N + 1) * (P + 1)")
    assumes = "bounded gaps between arrivals"
    knob = ("decay", (0.25, 0.5, 1.0))
    decay: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "decay", lambda decay: decay >= 0, "finite numbers >= 0", "use 0 to weigh all alike")

    def init(self, context: Context) -> State:
        return State(context, empty_table(context))

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        table = stored(state, arrivals)
        heard = table["last"] >= 0
        if not heard.any():
            return w, state.next(log={})
        p = np.where(heard, data_weights(state.context), 0.0)
        psi = (1.0 + arrivals.round - table["last"]) ** -self.decay
        beta = self.server_lr * psi * p / p.sum()
        log = table_log(state, beta, table["last"])
        step = lr_factor(state, arrivals) * combine(beta, table["updates"])
        return w + step, state.next(log=log, weights=beta[arrivals.ids], **table)
