"""F3AST in its arrival-rate form: inverse weights from a moving average of each client's arrivals.

Ribero, Vikalo, de Veciana, "Federated learning under intermittent client availability and time-varying communication
constraints", arXiv 2205.06730 (2022). Assumes stationary, ergodic availability; knows nothing of the network. Memory:
one number per client at the server; no extra traffic. Differs from the paper in: nobody is selected. The paper picks,
under a budget, whom to train among those it sees to be available; here an upload fails after the training, the server
does not see who will be heard, and every method may hear everyone, so what remains of the method is its weight. r_j
starts at 1 (as FedAvg over all) and not at p_j, which is a rate of selection. The official code also divides by the
number of selected clients; left out, as nobody is selected.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .base import Arrivals, Context, Cost, Method, Server, State, data_weights, weighted_step
from .checks import check_number


@dataclass(frozen=True)
class F3AST(Method):
    """r_j <- (1 - b) r_j + b 1[j arrived], then beta_j = p_j / r_j with p_j = n_j / n.

    rate: b in (0, 1). As r_j counts the arrival it divides, r_j >= b: no further floor is needed.
    """

    name = "f3ast"
    source = "Ribero et al. 2022 (without selection)"
    family = "estimated rates"
    contest = "aggregation"
    cost = Cost(server="N + 1")
    assumes = "stationary, ergodic arrivals"
    knob = ("rate", (0.01, 0.05, 0.2))
    rate: float = 0.05

    def __post_init__(self) -> None:
        remedy = "use about one over the number of rounds to be averaged, such as 0.05"
        check_number(self, "rate", lambda rate: 0 < rate < 1, "numbers between 0 and 1", remedy)

    def init(self, context: Context) -> State:
        return State(context, {"r": np.ones(context.n_clients + 1)})

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        # r_j <- (1 - b) r_j + b 1[j arrived]
        r = (1 - self.rate) * state.memory["r"]
        r[arrivals.ids] += self.rate
        # w_{t+1} = w_t + sum_{j arrived} (p_j / r_j) Delta_j
        beta = data_weights(state.context)[arrivals.ids] / r[arrivals.ids]
        w, state = weighted_step(state, w, arrivals, beta)
        return w, state.noted({}, r=r)
