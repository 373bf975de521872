"""FedProx: a proximal term keeps local models near the broadcast one.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, MLSys 2020. Assumes uniform sampling; knows nothing of the network; no
memory, no extra traffic. Differs from the paper in: weights n_j / n_A over the arrived (as in the authors' code),
no partial work of stragglers. With E steps of size gamma the term shortens an update by about mu gamma E / 2 of
itself: for mu = 0.01 the rule is FedAvg in all but name, no rival of its own.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .average import Composable
from .base import Arrivals, LocalWork, Server, State
from .checks import check_number
from .step_length import StepLength


@dataclass(frozen=True)
class FedProx(Composable, StepLength):
    """Participant j minimises F_j(w) + mu/2 ||w - w_r||^2; the server averages the arrived. mu = 0 is FedAvg."""

    name = "fedprox"
    source = "Li et al. 2020"
    family = "plain"
    contest = "optimiser"
    assumes = "uniform sampling"
    knob = ("mu", (0.01, 0.1, 1.0))
    mu: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        remedy = "use 0 for FedAvg, or a value such as 0.01 to 1"
        check_number(self, "mu", lambda mu: mu >= 0, "finite numbers >= 0", remedy)

    def local_work(self, state: State, w: Tensor, ids: np.ndarray) -> LocalWork:
        return LocalWork(start=w.expand(len(ids), -1), prox=self.mu)

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        step, state = self.averaged(state, w, arrivals, server, self.server_lr)
        return w + step, state
