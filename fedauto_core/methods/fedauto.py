"""FedAuto: adaptive aggregation against connection failures and label skew.

Wang, Dai, Wang, Zhou, Xiao, Quek, Chang, arXiv 2512.22035 (2025).

* Stated by the abstract: adaptive aggregation from server-side and client-side data, no prior knowledge of the network.
* Reconstructed (method.md, section 4): module 1, compensation, below; module 2, the weights, in `weights.py`.
* Open choices of the reconstruction: the fields of `FedAuto` other than `lam`. Their defaults are the reconstruction,
  the other values its declared variants. Whether the server is a participant as well is the run's `with_server`.

If the paper's text says otherwise, these two files are to be corrected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from fedauto_core.methods.base import Arrivals, Context, Cost, Knob, Method, Server, State, combine, mixture_log
from fedauto_core.methods.checks import check_choice, check_integer, check_positive
from fedauto_core.methods.weights import DIVERGENCES, fedauto_weights

CHOICES = {
    "compensation": ("missing", "none", "underweighted"),
    "adaptive": (True, False),
    "divergence": DIVERGENCES,
    "target": ("all", "clients"),
}
UNDERWEIGHTED = 0.5  # a class is under-weighted below this part of its target


def compensation(
    alpha: np.ndarray, target: np.ndarray, server_counts: np.ndarray, counts: np.ndarray | None = None
) -> np.ndarray:
    """Module 1: samples per class [C] on which the server trains participant m; all zero if nothing can be compensated.

    alpha: label histograms of the arrived *clients* [K, C]; target: alpha_g [C]; server_counts: public samples [C].
    Missing classes M_r = {c : alpha_g(c) > 0, no arrived client holds c}; n_m(c) = the server's samples of c in M_r.
    counts: with the samples n_j of those clients [K], under-weighted classes instead, the missing ones among them:
    {c : sum_j n_j alpha_j(c) / sum_j n_j < alpha_g(c) / 2}, all of alpha_g's classes if no client arrived.
    """
    if counts is None:
        lacking = (target > 0) & ~(alpha > 0).any(axis=0)
    else:
        lacking = counts @ alpha < UNDERWEIGHTED * target * counts.sum() if len(counts) else target > 0
    return np.where(lacking, server_counts, 0)


def clients_target(context: Context) -> np.ndarray:
    """alpha_g without the server: sum_i (n_i/n) alpha_i over the clients 1..N, shape [C]."""
    return context.counts[1:] @ context.alpha[1:] / context.counts[1:].sum()


@dataclass(frozen=True)
class FedAuto(Method):
    """Module 1 (compensation) + module 2 (weights).

    Knows: arrivals, label histograms, public data; nothing of the network. Participation assumption: none. Server
    memory: nothing beyond the arrivals. Extra traffic: one histogram per client, once. Even where the server is no
    participant (client-only mode) the compensation trains on its public data: up to E more steps in a round.

    lam: lambda of module 2, > 0.
    compensation: the classes participant m trains on: "missing" from the arrived clients, "underweighted" (below half
        of alpha_g(c) in the data-weighted mixture of the arrived clients, missing ones included), or "none". In noisy
        histograms (`data.federation.reported`) a class that a client lacks may have a small positive entry, so that
        hardly any is "missing"; "underweighted" has a margin. The rule itself makes no exception for noise.
    adaptive: False: plain weights n_j / n_A instead of module 2.
    divergence: of module 2, "chi2", "l2" or "kl" (`weights.py`).
    target: alpha_g of both modules, over "all" participants or the "clients" only. The log's chi2 is against all.
    server_steps: SGD steps on the public data after the average as well (0: none), as in `server_finetuning`.
    """

    name: ClassVar[str] = "fedauto"
    source: ClassVar[str] = "Wang et al. 2025 (reconstructed)"
    family: ClassVar[str] = "label histograms"
    uses_label_histograms: ClassVar[bool] = True
    cost: ClassVar[Cost] = Cost(once="C")
    knob: ClassVar[Knob] = ("lam", (0.02, 0.1, 0.5))
    lam: float = 0.1
    compensation: str = "missing"
    adaptive: bool = True
    divergence: str = "chi2"
    target: str = "all"
    server_steps: int = 0

    def __post_init__(self) -> None:
        check_positive(self, "lam")
        for name, choices in CHOICES.items():
            check_choice(self, name, choices)
        check_integer(self, "server_steps", 0)

    @property
    def public_data(self) -> str:
        uses = ["as a participant"]
        uses += [f"as participant m for {self.compensation} classes"] * (self.compensation != "none")
        return "; ".join(uses + ["SGD after the average"] * (self.server_steps > 0))

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        context, ids = state.context, arrivals.ids
        target = context.target if self.target == "all" else clients_target(context)
        alpha, counts, log, beta = context.alpha[ids], context.counts[ids], {}, None

        # Module 1. Participant m: E steps from the same w on the server's samples of the classes to compensate.
        n_m = np.zeros_like(target)
        if self.compensation != "none":
            clients = ids[ids > 0]
            sizes = context.counts[clients] if self.compensation == "underweighted" else None
            n_m = compensation(context.alpha[clients], target, server.counts_per_class, sizes)
        if n_m.any():
            delta_m = server.train(w, context.steps, classes=np.flatnonzero(n_m).tolist())
            alpha, counts = np.vstack([alpha, n_m / n_m.sum()]), np.append(counts, n_m.sum())

        # Module 2. w_r = w + sum_{j in A_r} beta_j Delta_j; delta_m apart, as appending it would copy all of [K, P].
        if len(counts):
            beta = counts / counts.sum()
            if self.adaptive:
                beta = fedauto_weights(alpha, counts, target, self.lam, divergence=self.divergence)
            log = mixture_log(beta, alpha, context.target) | {"compensated_classes": float(np.count_nonzero(n_m))}
            step = combine(beta[: len(ids)], arrivals.deltas)
            w = w + (step.add(delta_m, alpha=float(beta[-1])) if n_m.any() else step)
        if self.server_steps:
            w = w + server.train(w, self.server_steps)
        return w, state.next(log=log, weights=beta)
