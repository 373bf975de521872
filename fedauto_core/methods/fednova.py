"""FedNova: updates are divided by the work behind them, so that unequal local work does not shift the objective.

Wang, Liu, Liang, Joshi, Poor, NeurIPS 2020, for plain SGD, where ||a_k||_1 = tau_k. Assumes full or uniform
participation; knows nothing of the network; no memory; one more number up, the steps taken. For equal steps it is
FedAvg.
Differs from the paper and the official code in: weights n_j / n_A over the arrived (there, all are assumed present).
"""

from dataclasses import dataclass

from torch import Tensor

from .base import Arrivals, Cost, Server, State, weighted_step
from .fedavg import FedAvg


@dataclass(frozen=True)
class FedNova(FedAvg):
    """beta_j = eta_g p_j tau_eff / tau_j with p_j = n_j / n_A over the arrived and tau_eff = sum_j p_j tau_j."""

    name = "fednova"
    source = "Wang et al. 2020"
    family = "normalised or corrected steps"
    contest = "optimiser"
    cost = Cost(up="P + 1")
    assumes = "uniform sampling"

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        counts = state.context.counts[arrivals.ids]
        p = counts / counts.sum()
        tau_eff = p @ arrivals.steps
        return weighted_step(state, w, arrivals, self.server_lr * p * tau_eff / arrivals.steps)
