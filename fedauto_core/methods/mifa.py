"""MIFA: the latest update of every client is kept and applied in every round.

Gu, Huang, Zhang, Huang, "Fast federated learning in the presence of arbitrary device unavailability", NeurIPS 2021.
Assumes only that gaps between two arrivals of a client stay bounded (they may be deterministic); knows nothing of the
network. Memory: one update per client at the server (or at the clients, who would then send differences and the server
keep one sum); no extra traffic. Stored is delta / eta (in units of the first step size), as in the paper and the
official code. Differs from both in: data weights p_j = n_j / n instead of 1 / N; by default the table starts at zero
and the model moves at once (the official "no wait" variant): clients not heard yet count as zero. With wait=True it
waits as in the paper, but with the updates that the clients sent in the meantime, all trained from w_0; the official
code trains everybody anew in the last waiting round, whether available or not.
"""

from dataclasses import dataclass

from torch import Tensor

from .base import Arrivals, Context, Cost, Server, State, combine, data_weights, lr_factor
from .checks import check_choice
from .step_length import StepLength
from .table import empty_table, stored, table_log


@dataclass(frozen=True)
class MIFA(StepLength):
    """G_j <- Delta_j / gamma_t for the arrived; w_{t+1} = w_t + eta_g gamma_t sum_j p_j G_j over all, in rounds without
    arrival too.

    wait: stay at w_0 until every participant has been heard once.
    """

    name = "mifa"
    source = "Gu et al. 2021"
    family = "stored updates"
    contest = "aggregation"
    cost = Cost(server="(N + 1) * (P + 1)")
    assumes = "bounded gaps between arrivals"
    wait: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "wait", (False, True))

    def init(self, context: Context) -> State:
        return State(context, empty_table(context))

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        p, table = data_weights(state.context), stored(state, arrivals)
        if self.wait and (table["last"][p > 0] < 0).any():
            return w, state.next(log={}, **table)
        # w_{t+1} = w_t + eta_g gamma_t sum_j p_j G_j
        beta = self.server_lr * p
        log = table_log(state, beta, table["last"])
        step = lr_factor(state, arrivals) * combine(beta, table["updates"])
        return w + step, state.next(log=log, weights=beta[arrivals.ids], **table)
