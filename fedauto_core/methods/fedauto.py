"""FedAuto: adaptive aggregation against connection failures and label skew.

Wang, Dai, Wang, Zhou, Xiao, Quek, Chang, arXiv 2512.22035 (2025).

* Stated by the abstract: adaptive aggregation from server-side and client-side data, no prior knowledge of the network.
* Reconstructed (docs/method.md, section 4): `fedauto` below, with module 1 in `compensation` and module 2 in
  `weights.py`. Whoever corrects these two files corrects the theory's FedAuto and the notebooks', too.
* Open choices of the reconstruction: the fields of `FedAuto` other than `lam`. Their defaults are the reconstruction,
  the other values its declared variants. Whether the server is a participant as well is the run's `with_server`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from .base import Arrivals, Context, Cost, Method, Server, State, combine, mixture_log
from .checks import check_choice, check_positive
from .weights import DIVERGENCES, fedauto_weights


def compensation(alpha: np.ndarray, target: np.ndarray, server_counts: np.ndarray) -> np.ndarray:
    """Module 1: the samples n_m(c) of participant m [C], who trains on the server's samples of the classes where they
    are not zero and weighs with their sum; all zero if nothing can be compensated.

    alpha: label histograms of the arrived *clients* [K, C]; target: alpha_g [C]; server_counts: public samples [C].
    Missing classes M_r = {c : alpha_g(c) > 0, no arrived client holds c}; n_m(c) = the server's samples of c in M_r.
    """
    missing = (target > 0) & ~(alpha > 0).any(axis=0)
    return np.where(missing, server_counts, 0)


def with_m(alpha: np.ndarray, counts: np.ndarray, n_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """alpha [K, C] and counts [K] with those of participant m behind them, who has n_m [C] samples, if any."""
    return (np.vstack([alpha, n_m / n_m.sum()]), np.append(counts, n_m.sum())) if n_m.any() else (alpha, counts)


def fedauto(
    context: Context,
    w: Tensor,
    arrivals: Arrivals,
    server: Server,
    target: np.ndarray,
    compensate: Callable[..., np.ndarray],
    weigh: Callable[..., np.ndarray],
) -> tuple[Tensor, np.ndarray | None, np.ndarray]:
    """One round, plain: w_r [P], weights beta of the arrived and behind them of participant m if there is one (None if
    nobody is averaged), and n_m [C]. compensate, weigh: module 1 and 2, `compensation` and `fedauto_weights`."""
    ids = arrivals.ids
    alpha, counts = context.alpha[ids], context.counts[ids]

    # Module 1. Participant m: E steps from the same w on the server's samples of the classes to compensate.
    n_m = compensate(context.alpha[ids[ids > 0]], target, server.counts_per_class)
    if n_m.any():
        delta_m = server.train(w, context.steps, classes=np.flatnonzero(n_m).tolist())
    alpha, counts = with_m(alpha, counts, n_m)
    if not len(counts):
        return w, None, n_m

    # Module 2. w_r = w + sum_{j in A_r} beta_j Delta_j; delta_m apart, as appending it would copy all of [K, P].
    beta = weigh(alpha, counts, target)
    step = combine(beta[: len(ids)], arrivals.deltas)
    return w + (step.add(delta_m, alpha=float(beta[-1])) if n_m.any() else step), beta, n_m


CHOICES = {
    "compensation": ("missing", "none", "underweighted"),
    "adaptive": (True, False),
    "divergence": DIVERGENCES,
    "target": ("all", "clients"),
}
UNDERWEIGHTED = 0.5  # a class is under-weighted below this part of its target


def underweighted(alpha: np.ndarray, target: np.ndarray, server_counts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The variant of `compensation` for under-weighted classes, the missing ones among them: with the samples n_j of
    the clients [K], {c : sum_j n_j alpha_j(c) / sum_j n_j < alpha_g(c) / 2}, all of alpha_g's if no client arrived."""
    lacking = counts @ alpha < UNDERWEIGHTED * target * counts.sum() if len(counts) else target > 0
    return np.where(lacking, server_counts, 0)


def plain_weights(alpha: np.ndarray, counts: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The variant of module 2 that does not adapt: n_j / n_A, whatever the labels, shape [K]."""
    return counts / counts.sum()


def no_compensation(alpha: np.ndarray, target: np.ndarray, server_counts: np.ndarray) -> np.ndarray:
    """The variant of `compensation` that leaves all classes as they arrive."""
    return np.zeros_like(server_counts)


def clients_target(context: Context) -> np.ndarray:
    """alpha_g without the server: sum_i (n_i/n) alpha_i over the clients 1..N, shape [C]."""
    return context.counts[1:] @ context.alpha[1:] / context.counts[1:].sum()


@dataclass(frozen=True)
class FedAuto(Method):
    """`fedauto`, and its declared variants.

    Knows: arrivals, label histograms, public data; nothing of the network. Participation assumption: none. Server
    memory: nothing beyond the arrivals. Extra traffic: one histogram per client, once. Even where the server is no
    participant (client-only mode) the compensation trains on its public data: up to E more steps in a round.

    lam: lambda of module 2, > 0.
    compensation: the classes participant m trains on: "missing" from the arrived clients, "underweighted", or "none".
        In noisy histograms (`data.federation.reported`) a class that a client lacks may have a small positive entry, so
        that hardly any is "missing"; "underweighted" has a margin. The method makes no exception for noise.
    adaptive: False: plain weights n_j / n_A instead of module 2.
    divergence: of module 2, "chi2", "l2" or "kl" (`weights.py`).
    target: alpha_g of both modules, over "all" participants or the "clients" only. The log's chi2 is against all.
    SGD on the public data after the average as well is `ServerFinetuning` with this as its average.
    """

    name = "fedauto"
    source = "Wang et al. 2025 (reconstructed)"
    family = "label histograms"
    contest = "ours"
    uses_label_histograms = True
    cost = Cost(once="C")
    knob = ("lam", (0.02, 0.1, 0.5))
    lam: float = 0.1
    compensation: str = "missing"
    adaptive: bool = True
    divergence: str = "chi2"
    target: str = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "lam")
        for name, choices in CHOICES.items():
            check_choice(self, name, choices)

    @property
    def public_data(self) -> str:
        uses = ["as a participant"]
        uses += [f"as participant m for {self.compensation} classes"] * (self.compensation != "none")
        return "; ".join(uses)

    def modules(
        self, context: Context, ids: np.ndarray
    ) -> tuple[np.ndarray, Callable[..., np.ndarray], Callable[..., np.ndarray]]:
        """What `fedauto` asks for, in the declared variant, when `ids` arrived: target, compensate, weigh."""
        target = context.target if self.target == "all" else clients_target(context)
        compensate = {
            "missing": compensation,
            "underweighted": partial(underweighted, counts=context.counts[ids[ids > 0]]),
            "none": no_compensation,
        }[self.compensation]
        adaptive = partial(fedauto_weights, lam=self.lam, divergence=self.divergence)
        return target, compensate, adaptive if self.adaptive else plain_weights

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        context = state.context
        w, beta, n_m = fedauto(context, w, arrivals, server, *self.modules(context, arrivals.ids))
        if beta is None:
            return w, state.next(log={})
        alpha, _ = with_m(context.alpha[arrivals.ids], context.counts[arrivals.ids], n_m)
        log = mixture_log(beta, alpha, context.target) | {"compensated_classes": float(np.count_nonzero(n_m))}
        return w, state.next(log=log, weights=beta)
