"""FedStale: fresh updates, and beta times what the stored ones say about those that are missing.

Rodio, Neglia, "FedStale: leveraging stale client updates in federated learning", arXiv 2405.04171 (2024); abstract and
official code read. Assumes independent arrivals with constant probabilities q_j; knows nothing of the network: fresh
updates weigh p_k / q_k, with 1 / q_k estimated by FedAU's intervals, as in the authors' code where q_k is unknown.
Memory: one update and three numbers per participant at the server; no extra traffic. Differs from the code in:
intervals are cut off at 50 rounds, as in `fedau`; a round without arrival leaves the model where it is; the weight of a
round leaves out the interval that ends in it.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .base import Arrivals, Context, Cost, Server, State, combine, data_weights, lr_factor
from .checks import check_choice, check_number
from .fedau import FedAU, intervals, no_intervals
from .step_length import StepLength
from .table import empty_table, stored, table_log


@dataclass(frozen=True)
class FedStale(StepLength):
    """w_{t+1} = w_t + eta_g v_t, v_t = beta sum_j p_j y_j + sum_{k in S_t} a_k (Delta_k - beta y_k); y_k <- Delta_k.

    rates: "estimated", a_k = p_k omega_k with FedAU's omega_k for 1 / q_k; or all "equal", a_k = p_k / sum of p over
    S_t, so that beta = 0 is FedAvg and beta = 1 FedVARP. y_j = 0 before j is first heard,
    and falls with the step size; 0 <= beta <= 1.
    """

    name = "fedstale"
    source = "Rodio & Neglia 2024"
    family = "stored updates"
    contest = "aggregation"
    cost = Cost(server="(N + 1) * (P + 4)")
    assumes = "independent arrivals, constant q > 0"
    knob = ("beta", (0.2, 0.5, 0.8))
    beta: float = 0.5
    rates: Literal["estimated", "equal"] = "estimated"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "beta", lambda beta: 0 <= beta <= 1, "numbers in [0, 1]", "use 0 for fresh updates alone")
        check_choice(self, "rates", ("estimated", "equal"))

    def init(self, context: Context) -> State:
        return State(context, empty_table(context) | no_intervals(context))

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        ids, last, p = arrivals.ids, state.memory["last"], data_weights(state.context)
        counted = intervals(state, arrivals, FedAU.cutoff)
        if not len(ids):
            return w, state.next(log={}, **counted)
        a = (p * state.memory["omega"])[ids] if self.rates == "estimated" else p[ids] / p[ids].sum()
        # v_t regrouped by factor: y_j has weight beta (p_j - a_j) (a_j = 0 for the missing), Delta_k has a_k.
        fresh, kept = self.server_lr * a, self.server_lr * self.beta * p
        kept[ids] -= self.beta * fresh
        step = lr_factor(state, arrivals) * combine(kept, state.memory["updates"]) + combine(fresh, arrivals.deltas)
        table = stored(state, arrivals)
        kept[last < 0] = 0.0  # nothing is stored of those never heard before
        kept[ids] += fresh
        log = table_log(state, kept, table["last"])
        return w + step, state.next(log=log, weights=fresh, **table, **counted)
