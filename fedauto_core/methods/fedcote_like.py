"""FedCote-like: clients are selected with probabilities that make the labels expected to arrive resemble the target.

After Wang, Ji, Zhou, Xiao, Chang, arXiv 2502.17260 (IEEE TMC); only the abstract could be read, hence "-like". It
states that failures distort the effective label distribution and that selection probabilities are optimised, without
control of the radio. Reconstructed: the objective below. An oracle: knows the long-run success probabilities q_k, and
the label histograms; assumes independent arrivals with stationary q. Server memory: N probabilities; one histogram per
client, once. Traffic is what the method would send: only the selected train, `fraction` of the clients on average. (The
simulation trains all that the network lets through, and the method drops the uploads of those it did not select.)
With `fraction` 1 everybody is selected and the rule is FedAvg, run for run: no rival of its own.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from torch import Tensor

from fedauto_core.seeding import stream

from .base import Arrivals, Context, Cost, Method, Server, State, weighted_step
from .checks import check_share

RIDGE = 1e-3  # makes the probabilities unique: of equally good ones, those nearest to uniform


def selection_probabilities(mass: np.ndarray, alpha: np.ndarray, target: np.ndarray, fraction: float) -> np.ndarray:
    """r [N] in [0, 1] with mean `fraction` that minimises |m(r) - target|^2 + RIDGE mean_k (r_k - fraction)^2 for the
    mixture m(r) of alpha [N+1, C] in proportion to mass_0, r_1 mass_1, ..., r_N mass_N; target: [C].

    The optimum is never farther from the target than r = fraction. Raises ArithmeticError if the solver fails.
    """
    n = len(mass) - 1
    pull = mass[:, None] * (alpha - target)

    def objective(r: np.ndarray) -> tuple[float, np.ndarray]:
        r, shift = np.append(1.0, r), r - fraction
        total = max(mass @ r, np.finfo(float).tiny)  # zero if none of the selected can ever arrive
        error = r @ pull / total
        slope = 2 * (pull @ error - error @ error * mass) / total
        return error @ error + RIDGE * shift @ shift / n, slope[1:] + 2 * RIDGE * shift / n

    solution = minimize(
        objective,
        np.full(n, fraction),
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * n,
        constraints={"type": "eq", "fun": lambda r: r.mean() - fraction, "jac": lambda r: np.full(n, 1 / n)},
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    if not solution.success:
        raise ArithmeticError(f"no selection probabilities found: {solution.message}")
    return np.clip(solution.x, 0.0, 1.0)


@dataclass(frozen=True)
class FedCoteLike(Method):
    """Client k is selected with probability r_k; the server averages whoever is selected and arrives, as FedAvg.

    r minimises |sum_k r_k q_k n_k pi_k / sum_k r_k q_k n_k - pi_g|^2 over 0 <= r_k <= 1, sum_k r_k = fraction * N: the
    distance of the labels expected to arrive from the global ones. The server, where it takes part, is a term with
    r = q = 1. fraction: share of the clients selected per round, on average.
    """

    name = "fedcote_like"
    source = "after Wang et al. 2025 (FedCote)"
    family = "knows the network"
    contest = "aggregation"
    assumes = "independent arrivals, stationary q"
    needs_network_knowledge = True
    uses_label_histograms = True
    cost = Cost(up="fraction * P", down="fraction * P", once="C", server="N")
    knob = ("fraction", (0.5, 0.75, 1.0))
    fraction: float = 0.75

    def __post_init__(self) -> None:
        check_share(self, "fraction", "use 1 to select every client")

    def init(self, context: Context) -> State:
        mass = context.counts * np.append(float(context.with_server), context.long_run_probability)
        r = selection_probabilities(mass, context.alpha, context.target, self.fraction)
        return State(context, {"selection": r})

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        r, ids = state.memory["selection"], arrivals.ids
        selected = np.append(True, stream(state.context.seed, "selection", arrivals.round).random(len(r)) < r)[ids]
        if not selected.any():
            return w, state.next(log={})
        # beta_j = n_j / sum_k n_k over the selected that arrived; the others weigh zero.
        counts = np.where(selected, state.context.counts[ids], 0)
        w, state = weighted_step(state, w, arrivals, counts / counts.sum())
        return w, state.noted({"kept": float(np.count_nonzero(ids[selected]))})
