"""FedVARP: the average of the arrived, corrected by the stored updates of everybody (as in SAGA).

Jhunjhunwala, Sharma, Nagarkatti, Joshi, "FedVARP: tackling the variance due to partial client participation in
federated learning", UAI 2022. Assumes uniform sampling; knows nothing of the network. Memory: one update per client at
the server; no extra traffic. Differs from the paper in: data weights p_j for 1 / N, and p_k over their sum for 1 / |S|;
the mean of the stored updates is computed anew instead of being carried along; stored is y_k / gamma (in units of the
first step size), as the step size, constant in the paper, may fall. As in the code of Wang & Ji (FedAU), a round
without arrival leaves the model where it is (the stored mean is not applied).
"""

from dataclasses import dataclass

from torch import Tensor

from .base import Arrivals, Context, Cost, Server, State, combine, data_weights, lr_factor
from .step_length import StepLength
from .table import empty_table, stored, table_log


@dataclass(frozen=True)
class FedVARP(StepLength):
    """w_{t+1} = w_t + eta_g v_t, v_t = sum_j p_j y_j + sum_{k in S_t} a_k (Delta_k - y_k); then y_k <- Delta_k.

    a_k = p_k / sum_{l in S_t} p_l; y_j = 0 before j is first heard, and falls with the step size.
    """

    name = "fedvarp"
    source = "Jhunjhunwala et al. 2022"
    family = "stored updates"
    contest = "aggregation"
    cost = Cost(server="(N + 1) * (P + 1)")
    assumes = "uniform sampling"

    def init(self, context: Context) -> State:
        return State(context, empty_table(context))

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        ids, last = arrivals.ids, state.memory["last"]
        if not len(ids):
            return w, state.next(log={})
        fresh = data_weights(state.context)
        kept = fresh.copy()
        fresh = self.server_lr * fresh[ids] / fresh[ids].sum()
        # v_t regrouped by factor: y_j has weight p_j - a_j (a_j = 0 for the missing), Delta_k has a_k.
        kept *= self.server_lr
        kept[ids] -= fresh
        step = lr_factor(state, arrivals) * combine(kept, state.memory["updates"]) + combine(fresh, arrivals.deltas)
        table = stored(state, arrivals)
        kept[last < 0] = 0.0  # nothing is stored of those never heard before
        kept[ids] += fresh
        log = table_log(state, kept, table["last"])
        return w + step, state.next(log=log, weights=fresh, **table)
