"""FedDisco: data weights, less for clients whose labels are skewed; each client is judged alone.

Ye, Xu, Wang, Xu, Chen, Wang, "FedDisco: federated learning with discrepancy-aware collaboration", ICML 2023. Assumes
full or uniform participation; knows nothing of the network except the clients' label histograms. No memory; one
histogram per client, once.
Differs from the paper in: discrepancies are measured from the global label histogram, which a run here knows, not from
the uniform one; p_k and d_k are normalised over the arrived; data weights where no weight is positive (the authors'
code fails there). As in that code, Kullback-Leibler divergences are divided by their sum: its a and b presume it.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import rel_entr
from torch import Tensor

from .base import Arrivals, Cost, Method, Server, State, weighted_step
from .checks import check_number


def disco_weights(alpha: np.ndarray, counts: np.ndarray, target: np.ndarray, a: float, b: float) -> np.ndarray:
    """Weights [K], of sum one, of participants with histograms alpha [K, C] and counts [K] samples; target [C] is
    positive wherever a histogram is."""
    p = counts / counts.sum()
    # d_k = KL(pi_k || pi_g) / sum_j KL(pi_j || pi_g).
    d = rel_entr(alpha, target).sum(axis=1)
    d = d / d.sum() if d.any() else d
    # beta_k ~ max(p_k - a d_k + b, 0).
    weights = np.maximum(p - a * d + b, 0.0)
    return weights / weights.sum() if weights.any() else p


@dataclass(frozen=True)
class FedDisco(Method):
    """beta_k ~ max(p_k - a d_k + b, 0), p_k = n_k / n_A, d_k the label discrepancy; a = b = 0 is FedAvg."""

    name = "feddisco"
    source = "Ye et al. 2023"
    family = "label histograms"
    contest = "optimiser"
    assumes = "uniform sampling"
    uses_label_histograms = True
    cost = Cost(once="C")
    knob = ("a", (0.2, 0.5, 1.0))
    a: float = 0.5
    b: float = 0.1

    def __post_init__(self) -> None:
        remedy = "use a = b = 0 for FedAvg, or the authors' a = 0.5, b = 0.1"
        for name in ("a", "b"):
            check_number(self, name, lambda value: value >= 0, "finite numbers >= 0", remedy)

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        context, ids = state.context, arrivals.ids
        beta = disco_weights(context.alpha[ids], context.counts[ids], context.target, self.a, self.b)
        return weighted_step(state, w, arrivals, beta)
