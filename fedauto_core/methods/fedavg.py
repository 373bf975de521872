"""FedAvg under missing uploads: averaging those that arrived, averaging over all, and the ideal network.

McMahan, Moore, Ramage, Hampson, Aguera y Arcas, AISTATS 2017. Assumes homogeneous participation; knows nothing of
the network; no memory, no extra traffic. Under heterogeneous arrival rates q_j its fixed point is that of
sum_j q_j F_j, not of sum_j F_j (Xiang et al. 2024, eq. 3).
"""

from dataclasses import dataclass

from torch import Tensor

from .base import Arrivals, Server, State, data_weights, weighted_step
from .step_length import StepLength


@dataclass(frozen=True)
class FedAvg(StepLength):
    """beta_j = eta_g n_j / sum_{k in S_r} n_k over the arrived; eta_g = 1 averages the models.

    Unlike in the paper, the network decides who takes part.
    """

    name = "fedavg"
    source = "McMahan et al. 2017"
    family = "plain"
    contest = "aggregation"
    assumes = "equal success probabilities"

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        counts = state.context.counts[arrivals.ids]
        return weighted_step(state, w, arrivals, self.server_lr * counts / counts.sum())


@dataclass(frozen=True)
class FedAvgAll(StepLength):
    """beta_j = eta_g n_j / n: a missing upload counts as zero, so the step shrinks ("average all", Wang & Ji 2024)."""

    name = "fedavg_all"
    source = "Wang & Ji 2024"
    family = "plain"
    contest = "aggregation"
    assumes = "equal success probabilities"

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        return weighted_step(state, w, arrivals, self.server_lr * data_weights(state.context)[arrivals.ids])


@dataclass(frozen=True)
class FedAvgIdeal(FedAvg):
    """FedAvg when nothing is lost: a bound, not a rival."""

    name = "fedavg_ideal"
    family = "bound"
    contest = "bound"
    assumes = "nothing is lost"
    participation = "ideal"
