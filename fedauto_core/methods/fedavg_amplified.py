"""Generalised FedAvg: the average of the arrived, and every P rounds what they have moved the model by is amplified.

Wang & Ji, "A unified analysis of federated learning with arbitrary client participation", NeurIPS 2022 (arXiv
2205.13648), Algorithm 1; abstract and official code read. Assumes that over P rounds everybody takes part alike, as in
turns whose cycle is P; knows nothing of the network beyond P, which is chosen. With small client steps the model
hardly drifts to those whose turn it is, and the amplification makes up for the small steps. Memory: one model at the
server; no extra traffic. Differs from the paper in: weights n_j / n_A over the arrived for 1 / |S| (as `fedavg` here).
"""

from dataclasses import dataclass

from torch import Tensor

from .base import Arrivals, Context, Cost, Method, Server, State, weighted_step
from .checks import check_integer, check_number


@dataclass(frozen=True)
class FedAvgAmplified(Method):
    """w_{r+1} = FedAvg over the arrived; after each P-th round w <- w_s + eta (w - w_s), with w_s of P rounds before.

    amplification: eta >= 1; 1 is FedAvg (in the paper's experiments: 10). period: P in rounds.
    """

    name = "fedavg_amplified"
    source = "Wang & Ji 2022"
    family = "plain"
    contest = "aggregation"
    cost = Cost(server="P")
    assumes = "equal participation over a period"
    knob = ("amplification", (1.5, 3.0, 10.0))
    amplification: float = 3.0
    period: int = 10

    def __post_init__(self) -> None:
        remedy = "use 1 for FedAvg, or a value such as 1.5 to 10"
        check_number(self, "amplification", lambda eta: eta >= 1, "finite numbers >= 1", remedy)
        check_integer(self, "period", 1)

    def init(self, context: Context) -> State:
        return State(context, {"start": context.w0})

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        counts = state.context.counts[arrivals.ids]
        w, state = weighted_step(state, w, arrivals, counts / counts.sum())
        if (arrivals.round + 1) % self.period:
            return w, state
        w = state.memory["start"] + self.amplification * (w - state.memory["start"])
        return w, state.noted({}, start=w)
