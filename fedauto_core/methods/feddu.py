"""FedDU: after the average the server trains on its public data, the more so the more skewed the arrived labels are.

Zhang, Liu, Jia, Zhou, Dai, Dou, "FedDUAP: federated learning with dynamic update and adaptive pruning using shared data
on the server", IJCAI 2022, without its pruning. Assumes uniform sampling; knows nothing of the network except the
clients' label histograms, and needs labelled public data. No memory; one histogram per client, once; `server_steps`
server steps and one pass over the public data per round.
Differs from the paper in: by default the server takes E steps, as every participant does, not 5 epochs over its data in
minibatches of 10 (`own_steps`: those of 500 samples, what one of the paper's 100 clients holds); histograms are not
rounded to three decimals (as in the published code); 0/0 is 0. Unlike the paper's, the server may also be a participant
of the average. In a round without clients the ratio below takes its limit for n_S -> 0, one.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import rel_entr
from torch import Tensor

from .base import Arrivals, Context, Cost, Server, State
from .checks import check_integer, check_positive, check_share
from .fedavg import FedAvg

ROUNDING = 1e-12  # a divergence below it is zero


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """Jensen-Shannon divergence of two histograms [C], in bits (0 to 1)."""
    middle = (p + q) / 2
    return float(np.sum(rel_entr(p, middle) + rel_entr(q, middle)) / 2 / np.log(2))


def skew_ratio(context: Context, clients: np.ndarray) -> float:
    """n_0 D(P_S) / (n_0 D(P_S) + n_S D(P_0)) for the arrived clients' ids S, in [0, 1]; D is the Jensen-Shannon
    divergence from the labels of all clients, P_S and P_0 are the labels of the arrived and of the server."""
    if not len(clients):
        return 1.0
    counts, alpha = context.counts, context.alpha
    everyone = counts[1:] @ alpha[1:] / counts[1:].sum()
    n_arrived = counts[clients].sum()
    arrived = counts[0] * jensen_shannon(counts[clients] @ alpha[clients] / n_arrived, everyone)
    if arrived <= ROUNDING * counts[0]:
        return 0.0
    return float(arrived / (arrived + n_arrived * jensen_shannon(alpha[0], everyone)))


@dataclass(frozen=True)
class FedDU(FedAvg):
    """w_{r+1/2} = FedAvg over the arrived; w_{r+1} = w_{r+1/2} + a_r (w_{r+1/2} after E public steps - w_{r+1/2}).

    scale: C in a_r. decay: by which a_r shrinks from round to round. server_steps: instead of E (0: E); own_steps: the
    paper's.
    """

    name = "feddu"
    source = "Zhang et al. 2022"
    family = "public data again"
    contest = "public data"
    assumes = "uniform sampling"
    uses_label_histograms = True
    public_data = "as a participant; scaled SGD after the average"
    needs_scores = True
    cost = Cost(once="C")
    own_steps = 250
    knob = ("scale", (0.3, 1.0, 3.0))
    scale: float = 1.0
    decay: float = 0.99
    server_steps: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "scale")
        check_share(self, "decay", "use 1 for no decay, or 0.99")
        check_integer(self, "server_steps", 0)

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        half, state = super().aggregate(state, w, arrivals, server)
        accuracy = float((server.logits(half).argmax(dim=-1) == server.labels).float().mean())
        # a_r = (1 - acc(w_{r+1/2})) * n_0 D(P_S) / (n_0 D(P_S) + n_S D(P_0)) * C * decay^r.
        a = (1 - accuracy) * skew_ratio(state.context, arrivals.ids[arrivals.ids > 0])
        a *= self.scale * self.decay**arrivals.round
        state = state.noted({"server_scale": a})
        # a E eta (mean of the E public gradients) = a (end - start of E public steps).
        steps = self.server_steps or state.context.steps
        return (half + a * server.train(half, steps) if a else half), state
