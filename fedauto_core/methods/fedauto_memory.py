"""FedAuto with an ageing memory: the last update of a silent client takes part in the weighing, worth less every round.

Ours, from FedAuto's two modules and the table of stored updates of MIFA (Gu et al. 2021). Clients are unmodified: they
send what FedAvg's send, and one label histogram, once. Knows: arrivals, label histograms, public data; nothing of the
network. Participation assumption: none. Memory: one update per client at the server.

A stored update was right for the model it started from. Used a rounds later it errs, beyond the label skew of the
mixture, by at most L ||w_{r-1} - w_{r-1-a}|| (docs/method.md, section 5.7): hence its sample count falls with its age,
which in module 2 raises the price of its weight. The weights then trade what is stale against what is missing.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .base import Arrivals, Context, Cost, Server, State, lr_factor, mixture_log
from .checks import check_number
from .fedauto import FedAuto, fedauto, with_m
from .table import empty_table, stored

FORGOTTEN = 1.0  # samples: who is worth fewer is left out, which also keeps the quadratic programme well conditioned


@dataclass(frozen=True)
class FedAutoMemory(FedAuto):
    """Module 2 over the arrived, participant m and every silent participant j ever heard, with n_j decay^(r - r_j)
    samples, r_j the round of its last update; the step is sum_j beta_j Delta_j, stored updates included.

    Module 1 sees the arrived clients only: m's update is fresh, and the weights choose between it and what is stored.
    In a round in which no client arrives the stored updates act beside m, which then trains on all classes, until they
    are worth less than one sample.
    decay: 0: FedAuto; 1: updates do not age (for lam -> infinity and without m: MIFA over those heard so far).
    """

    name = "fedauto_memory"
    source = "ours (FedAuto with MIFA's memory)"
    family = "stored updates"
    contest = "ours"
    cost = Cost(once="C", server="(N + 1) * (P + 1)")
    knob = ("decay", (0.7, 0.9, 1.0))
    decay: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        remedy = "use 0.9 to halve a memory's worth in seven rounds, or fedauto for none"
        check_number(self, "decay", lambda decay: 0 <= decay <= 1, "numbers in [0, 1]", remedy)

    def init(self, context: Context) -> State:
        return State(context, empty_table(context))

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        context, table = state.context, stored(state, arrivals)
        age = arrivals.round - table["last"]
        worth = self.decay ** age.astype(float)  # of a sample
        ids = np.flatnonzero((table["last"] >= 0) & (context.counts * worth >= FORGOTTEN))
        silent = age[ids] > 0
        target, compensate, weigh = self.modules(context, arrivals.ids)
        arrived = context.alpha[arrivals.ids[arrivals.ids > 0]]

        def compensate_for_arrived(alpha: np.ndarray, *known: np.ndarray) -> np.ndarray:
            return compensate(arrived, *known)

        def weigh_by_age(alpha: np.ndarray, counts: np.ndarray, target: np.ndarray) -> np.ndarray:
            aged = counts.astype(float)
            aged[: len(ids)] *= worth[ids]
            return weigh(alpha, aged, target)

        updates = lr_factor(state, arrivals) * table["updates"][ids]
        remembered = Arrivals(arrivals.round, ids, updates, np.full(len(ids), context.steps), arrivals.lr)
        w, beta, n_m = fedauto(context, w, remembered, server, target, compensate_for_arrived, weigh_by_age)
        if beta is None:
            return w, state.next(log={}, **table)
        alpha, _ = with_m(context.alpha[ids], context.counts[ids], n_m)
        stored_weights = beta[: len(ids)][silent]
        log = mixture_log(beta, alpha, context.target) | {
            "compensated_classes": float(np.count_nonzero(n_m)),
            "remembered": float(len(stored_weights)),
            "stale": float(stored_weights.sum()),
            "age": float(stored_weights @ age[ids][silent]),
        }
        fresh = np.delete(beta, np.flatnonzero(silent))
        return w, state.next(log=log, weights=fresh, **table)
