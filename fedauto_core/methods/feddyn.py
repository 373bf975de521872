"""FedDyn: a linear and a proximal term per participant make the local minima agree with the global one.

Acar, Zhao, Matas, Mattina, Whatmough, Saligrama, ICLR 2021, Algorithm 1. Assumes uniform sampling; knows nothing of the
network. Memory: h at the server, g_k at every participant; no extra traffic.
Differs from the paper in: the local problem is solved by a few SGD steps, not to its minimum; g_k changes only when
the upload arrived (a lost upload is not an inactive client); where the step size falls, so does the step -h / alpha,
and g_k and h learn from w_k - w per unit of it (else an old h / alpha would carry the model on while the steps that
correct it vanish). Differs from the official code in: alpha is the same for all (there it is divided by the relative
amount of data); no clipping and no weight decay, as in the paper's text (h can outgrow the models when few arrive; such
runs are reported as diverged); the cloud model w is evaluated, as in the paper's algorithm (there: mean of the local
models).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .base import Arrivals, Context, Cost, LocalWork, Method, Server, State, combine, lr_factor, mixture_log
from .checks import check_positive


@dataclass(frozen=True)
class FedDyn(Method):
    """k minimises F_k(v) - <g_k, v> + alpha/2 ||v - w||^2; w = mean_{k in S} w_k - h / alpha.

    Uniform means, as in the paper (no n_j / n).
    """

    name = "feddyn"
    source = "Acar et al. 2021"
    family = "normalised or corrected steps"
    cost = Cost(server="2 * P", clients="N * P")
    assumes = "uniform sampling"
    knob = ("alpha", (0.01, 0.1, 1.0))
    alpha: float = 0.1

    def __post_init__(self) -> None:
        check_positive(self, "alpha")

    def init(self, context: Context) -> State:
        h = torch.zeros_like(context.w0)
        return State(context, {"h": h, "g": h.repeat(context.n_clients + 1, 1)})

    def local_work(self, state: State, w: Tensor, ids: np.ndarray) -> LocalWork:
        return LocalWork(start=w.expand(len(ids), -1), linear=-state.memory["g"][ids], prox=self.alpha)

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        ids, context = arrivals.ids, state.context
        if not len(ids):
            return w, state.next(log={})
        # g_k <- g_k - alpha gamma_1 / gamma_r (w_k - w)
        rate, rows = lr_factor(state, arrivals), torch.as_tensor(ids, device=w.device)
        g = state.memory["g"].index_add(0, rows, arrivals.deltas, alpha=-self.alpha / rate)
        # h <- h - alpha/N gamma_1 / gamma_r sum_{k in S} (w_k - w), with N everyone who could be heard: h = mean_k g_k
        beta = np.full(len(ids), 1 / len(ids))
        mean = combine(beta, arrivals.deltas)
        h = state.memory["h"] - self.alpha / rate * len(ids) / (context.n_clients + context.with_server) * mean
        # w <- mean_{k in S} w_k - gamma_r / gamma_1 h / alpha
        log = mixture_log(beta, context.alpha[ids], context.target)
        return w + mean - rate * h / self.alpha, state.next(log=log, weights=beta, h=h, g=g)
