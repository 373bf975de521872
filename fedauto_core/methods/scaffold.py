"""SCAFFOLD: control variates take the drift out of several local steps on different data.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, ICML 2020, Algorithm 1 with option II. Assumes uniform sampling of the
participants; knows nothing of the network. Memory: c at the server and c_k at every participant; model and control
variate travel up and down, twice FedAvg's traffic. Local work is plain SGD; with momentum or adaptive steps
(w - y) / (tau gamma) would not be a mean gradient.
Differs from the paper in: c_k changes only when the upload arrived (a lost upload is not an inactive client, and
c = mean_k c_k would break); tau_k are the steps k really took; the network decides who takes part.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .base import Arrivals, Context, Cost, LocalWork, Server, State, combine, mixture_log
from .step_length import StepLength


@dataclass(frozen=True)
class Scaffold(StepLength):
    """w += eta_g mean_{k in S} Delta_k with steps along g_k - c_k + c: uniform means, as in the paper (no n_j / n)."""

    name = "scaffold"
    source = "Karimireddy et al. 2020"
    family = "normalised or corrected steps"
    contest = "optimiser"
    cost = Cost(up="2 * P", down="2 * P", server="2 * P", clients="N * P")
    assumes = "uniform sampling"

    def init(self, context: Context) -> State:
        c = torch.zeros_like(context.w0)
        return State(context, {"c": c, "c_own": c.repeat(context.n_clients + 1, 1)})

    def local_work(self, state: State, w: Tensor, ids: np.ndarray) -> LocalWork:
        # y <- y - gamma (g_k(y) - c_k + c)
        return LocalWork(start=w.expand(len(ids), -1), linear=state.memory["c"] - state.memory["c_own"][ids])

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        ids, context, c = arrivals.ids, state.context, state.memory["c"]
        if not len(ids):
            return w, state.next(log={})
        # c_k^+ - c_k = (w - y_k) / (tau_k gamma_r) - c
        scale = torch.as_tensor(-1 / (arrivals.steps * arrivals.lr), dtype=w.dtype, device=w.device)
        change = (arrivals.deltas * scale[:, None]).sub_(c)
        c_own = state.memory["c_own"].index_add(0, torch.as_tensor(ids, device=w.device), change)
        # c += |S|/N mean_{k in S} (c_k^+ - c_k), with N everyone who could be heard
        c = c + change.sum(dim=0) / (context.n_clients + context.with_server)
        # w += eta_g mean_{k in S} (y_k - w)
        beta = np.full(len(ids), self.server_lr / len(ids))
        log = mixture_log(beta, context.alpha[ids], context.target)
        return w + combine(beta, arrivals.deltas), state.next(log=log, weights=beta, c=c, c_own=c_own)
