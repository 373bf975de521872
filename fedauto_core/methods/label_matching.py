"""Joint label matching, our ablation: the weights whose label mixture is nearest to the global one.

Ours: FedAuto's second module with the plain squared distance and a pull towards the data weights, without its first
module (compensation) and its variance term. Assumes nothing about participation; knows nothing of the network except
the clients' label histograms. No memory; one histogram per client, once.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .base import Arrivals, Cost, Method, Server, State, weighted_step
from .checks import check_positive
from .weights import KKT_TOLERANCE, kkt_residual, minimise


def matching_weights(alpha: np.ndarray, counts: np.ndarray, target: np.ndarray, rho: float) -> np.ndarray:
    """Weights [K] for histograms alpha [K, C], counts [K] and target [C]; see `LabelMatching`.

    ArithmeticError if they miss their optimality conditions.
    """
    if len(counts) == 1:  # all rows below are zero where the only histogram is the target
        return np.ones(1)
    # With sum_k beta_k = 1 both terms are homogeneous: sum_k beta_k (pi_k - pi_g) and (I - p 1') beta.
    p = counts / counts.sum()
    rows = np.vstack([(alpha - target).T, np.sqrt(rho) * (np.eye(len(p)) - p[:, None])])
    beta = minimise(rows)
    residual = kkt_residual(beta, rows.T @ rows)
    if not residual <= KKT_TOLERANCE:
        raise ArithmeticError(f"label matching weights miss their optimality conditions: KKT residual {residual:.2e}")
    return beta


@dataclass(frozen=True)
class LabelMatching(Method):
    """beta = argmin over the simplex of |sum_k beta_k pi_k - pi_g|^2 + rho |beta - p|^2, p_k = n_k / n_A."""

    name = "label_matching"
    source = "ours (ablation)"
    family = "label histograms"
    contest = "aggregation"
    uses_label_histograms = True
    cost = Cost(once="C")
    knob = ("rho", (0.01, 0.1, 1.0))
    rho: float = 0.1

    def __post_init__(self) -> None:
        check_positive(self, "rho")

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        context, ids = state.context, arrivals.ids
        if not len(ids):
            return w, state.next(log={})
        beta = matching_weights(context.alpha[ids], context.counts[ids], context.target, self.rho)
        return weighted_step(state, w, arrivals, beta)
