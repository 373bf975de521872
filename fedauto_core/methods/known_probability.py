"""Averaging with known success probabilities (inverse-probability weights): oracles that see the network.

Unbiased in every round for independent arrivals with q > 0; the variance grows like 1/q. Used as "known probability"
by Gu et al. 2021 (MIFA), Wang & Ji 2024 (FedAU), Xiang et al. 2024 (FedAWE). No memory, no extra traffic.
Where arrivals have a memory there are two true probabilities. The papers' is the marginal one of the round, the default
here. The one conditional on what was seen in the round before is nearly one for whoever was just heard: divided by it,
a client that stays connected weighs as in plain averaging over all, and one that returns from an outage 1 / (the chance
to return) as much, once.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from .base import Arrivals, Method, Server, State, data_weights, weighted_step
from .checks import check_choice, check_positive, check_share


@dataclass(frozen=True)
class KnownProbability(Method):
    """beta_j = eta_g p_j / q_j^r with q_j^r the true success probability of round r (server: 1), p_j = n_j / n.

    probability: q_j^r "marginal", or "conditional" on what the network has shown before round r.
    normalise="self" divides by the sum of the weights: less variance, but biased. q_floor bounds 1/q_j.
    """

    name = "known_probability"
    source = "inverse-probability weights"
    family = "knows the network"
    contest = "aggregation"
    assumes = "independent arrivals, q > 0"
    needs_network_knowledge = True
    normalise: Literal["none", "self"] = "none"
    q_floor: float = 0.01
    server_lr: float = 1.0
    probability: Literal["marginal", "conditional"] = "marginal"

    def __post_init__(self) -> None:
        check_choice(self, "normalise", ("none", "self"))
        check_choice(self, "probability", ("marginal", "conditional"))
        check_positive(self, "server_lr")
        check_share(self, "q_floor", "use 0.01 to bound the weights by 100")

    def success(self, state: State, round: int) -> np.ndarray:
        """q_j of the clients, shape [N]."""
        context = state.context
        q = context.marginal_probability if self.probability == "marginal" else context.success_probability
        return q[round]

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        q = np.concatenate([[1.0], np.maximum(self.success(state, arrivals.round), self.q_floor)])
        beta = (data_weights(state.context) / q)[arrivals.ids]
        if self.normalise == "self" and len(beta):
            beta = beta / beta.sum()
        return weighted_step(state, w, arrivals, self.server_lr * beta)


@dataclass(frozen=True)
class TFAggregationLike(KnownProbability):
    """beta_j = p_j / U_j with U_j the long-run success probability of link j, all clients scheduled.

    After Salehi & Hossain, IEEE TCOM 2021 (TF-Aggregation); abstract read only, the weights are the one unbiased
    choice, hence "-like". Under stationary failures U_j is the true long-run rate, an oracle in the method's favour;
    under a blackout it is the mean over the whole run, so that those who will fall silent weigh too much before they
    do.
    """

    name = "tf_aggregation_like"
    source = "after Salehi & Hossain 2021"
    family = "knows the network"
    contest = "aggregation"

    def success(self, state: State, round: int) -> np.ndarray:
        return state.context.long_run_probability
