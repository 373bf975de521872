"""FedDyn: a linear and a proximal term per participant make the local minima agree with the global one.

Acar, Zhao, Matas, Mattina, Whatmough, Saligrama, ICLR 2021, Algorithm 1. Assumes uniform sampling; knows nothing of the
network. Memory: h at the server, g_k at every participant; no extra traffic.
Differs from the paper in: the local problem is solved by a few SGD steps, not to its minimum; g_k changes only when
the upload arrived (a lost upload is not an inactive client); data weights p_k = n_k / n instead of uniform means, which
gave the server, with its public data, as much of the objective as a client (`uniform`: as in the paper); where the step
size falls, so does the step -h / alpha, and g_k and h learn from w_k - w per unit of it (else the model would still
drift by an old h / alpha when nobody's steps can correct it). Differs from the official code in: alpha is the same for
all (there it is divided by the relative amount of data, to the same end); no clipping and no weight decay, as in the
paper's text (h can outgrow the models when few arrive; such runs are reported as diverged); the cloud model w is
evaluated, as in the paper's algorithm (there: mean of the local models).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .average import Composable, counted_equally
from .base import Arrivals, Context, Cost, LocalWork, Server, State, combine, data_weights, lr_factor
from .checks import check_choice, check_positive


@dataclass(frozen=True)
class FedDyn(Composable):
    """k minimises F_k(v) - <g_k, v> + alpha/2 ||v - w||^2; w = sum_{k in S} beta_k (w_k - h / alpha), beta_k = p_k over
    their sum, h = sum_k p_k g_k.

    Where all settles w_k = w and h = 0 is the gradient of sum_k p_k F_k, with whatever weights the step is made.
    h / alpha is taken off the models that were made with a g_k only: not off that of a participant m.
    uniform: p_k = 1 / N, as if all held the same number of samples.
    """

    name = "feddyn"
    source = "Acar et al. 2021"
    family = "normalised or corrected steps"
    contest = "optimiser"
    cost = Cost(server="2 * P", clients="N * P")
    assumes = "uniform sampling"
    knob = ("alpha", (0.01, 0.1, 1.0))
    alpha: float = 0.1
    uniform: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "alpha")
        check_choice(self, "uniform", (False, True))

    def init(self, context: Context) -> State:
        context = counted_equally(context) if self.uniform else context
        h = torch.zeros_like(context.w0)
        return State(context, {"h": h, "g": h.repeat(context.n_clients + 1, 1)})

    def local_work(self, state: State, w: Tensor, ids: np.ndarray) -> LocalWork:
        return LocalWork(start=w.expand(len(ids), -1), linear=-state.memory["g"][ids], prox=self.alpha)

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        ids, context = arrivals.ids, state.context
        step, state = self.averaged(state, w, arrivals, server)
        if state.weights is None:
            return w, state
        # g_k <- g_k - alpha gamma_1 / gamma_r (w_k - w)
        rate, rows = lr_factor(state, arrivals), torch.as_tensor(ids, device=w.device)
        g = state.memory["g"].index_add(0, rows, arrivals.deltas, alpha=-self.alpha / rate)
        # h <- h - alpha gamma_1 / gamma_r sum_{k in S} p_k (w_k - w), with p_k of everyone who could be heard:
        # h = sum_k p_k g_k
        h = state.memory["h"] - self.alpha / rate * combine(data_weights(context)[ids], arrivals.deltas)
        # w <- sum_{k in S} beta_k (w_k - gamma_r / gamma_1 h / alpha), beta of sum one or what the average leaves to S
        corrected = float(state.weights[: len(ids)].sum())
        correction = rate / self.alpha * h
        log = {"correction": float(correction.norm())}
        return w + step - corrected * correction, state.noted(log, h=h, g=g)
