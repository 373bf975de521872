"""SCAFFOLD: control variates take the drift out of several local steps on different data.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, ICML 2020, Algorithm 1 with option II. Assumes uniform sampling of the
participants; knows nothing of the network. Memory: c at the server and c_k at every participant; model and control
variate travel up and down, twice FedAvg's traffic. Local work is plain SGD; with momentum or adaptive steps
(w - y) / (tau gamma) would not be a mean gradient.
Differs from the paper in: c_k changes only when the upload arrived (a lost upload is not an inactive client, and
c = sum_k p_k c_k would break); tau_k are the steps k really took; the network decides who takes part; data weights
p_k = n_k / n instead of uniform means, which gave the server, with its public data, as much of the objective as a
client (`uniform`: as in the paper).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .average import Composable, counted_equally
from .base import Arrivals, Context, Cost, LocalWork, Server, State, combine, data_weights
from .checks import check_choice
from .step_length import StepLength


@dataclass(frozen=True)
class Scaffold(Composable, StepLength):
    """w += eta_g sum_{k in S} p_k Delta_k / sum_{k in S} p_k with steps along g_k - c_k + c, c = sum_k p_k c_k.

    Where all settles c = 0 is the gradient of sum_k p_k F_k, with whatever weights the step is made: the average
    decides how fast and how noisily, p_k where to; but for a participant m, which has no c_m.
    uniform: p_k = 1 / N, as if all held the same number of samples.
    """

    name = "scaffold"
    source = "Karimireddy et al. 2020"
    family = "normalised or corrected steps"
    contest = "optimiser"
    cost = Cost(up="2 * P", down="2 * P", server="2 * P", clients="N * P")
    assumes = "uniform sampling"
    uniform: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "uniform", (False, True))

    def init(self, context: Context) -> State:
        context = counted_equally(context) if self.uniform else context
        c = torch.zeros_like(context.w0)
        return State(context, {"c": c, "c_own": c.repeat(context.n_clients + 1, 1)})

    def local_work(self, state: State, w: Tensor, ids: np.ndarray) -> LocalWork:
        # y <- y - gamma (g_k(y) - c_k + c)
        return LocalWork(start=w.expand(len(ids), -1), linear=state.memory["c"] - state.memory["c_own"][ids])

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        ids, context, c = arrivals.ids, state.context, state.memory["c"]
        # w += eta_g sum_{k in S} p_k (y_k - w) / sum_{k in S} p_k, or the step of another average
        step, state = self.averaged(state, w, arrivals, server, self.server_lr)
        if state.weights is None:
            return w, state
        # c_k^+ - c_k = (w - y_k) / (tau_k gamma_r) - c
        scale = torch.as_tensor(-1 / (arrivals.steps * arrivals.lr), dtype=w.dtype, device=w.device)
        change = (arrivals.deltas * scale[:, None]).sub_(c)
        c_own = state.memory["c_own"].index_add(0, torch.as_tensor(ids, device=w.device), change)
        # c += sum_{k in S} p_k (c_k^+ - c_k), with p_k of everyone who could be heard
        c = c + combine(data_weights(context)[ids], change)
        moved = context.steps * arrivals.lr * float(c.norm())  # a client by c alone in a round
        return w + step, state.noted({"correction": moved}, c=c, c_own=c_own)
