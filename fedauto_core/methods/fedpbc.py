"""FedPBC-like: postponed broadcast, that is, only those whose upload arrived receive the average (implicit gossip).

After Xiang, Ioannidis, Yeh, Joe-Wong, Su, arXiv 2404.10091 (2024); abstract and official code read. Assumes independent
uplinks with probability >= delta > 0, which may vary over time; knows nothing of the network. Memory: none at the
server, one model per client; no extra traffic. As in the official code, the mean of all clients' models is evaluated.
Differs from the paper, hence "-like": there a client whose uplink fails goes on training from its own model and brings
all of it when it is heard again; here lost work is never done, and it brings E steps. So nothing makes up for the
missed rounds (FedAWE's echo does), and the rule rests where `fedavg_all` with equal weights does, nearer to those who
are heard more often. Clients commit their state only when the upload arrived.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from .base import Arrivals, Context, Cost, LocalWork, Server, State, combine, mixture_log
from .checks import check_choice
from .step_length import StepLength


@dataclass(frozen=True)
class FedPBCLike(StepLength):
    """x_k^dagger = x_k + eta_g Delta_k; x_{t+1} = mean over the arrived; only they receive it.

    judge: what is evaluated, the "mean" of all participants' models or the "broadcast" one.
    """

    name = "fedpbc_like"
    source = "after Xiang et al. 2024 (FedPBC)"
    family = "postponed broadcast"
    contest = "aggregation"
    cost = Cost(clients="(N + 1) * P")
    assumes = "independent arrivals, q >= delta > 0"
    judge: Literal["mean", "broadcast"] = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "judge", ("mean", "broadcast"))

    def init(self, context: Context) -> State:
        return State(context, {"x": context.w0.repeat(context.n_clients + 1, 1)})

    def local_work(self, state: State, w: Tensor, ids: np.ndarray) -> LocalWork:
        return LocalWork(start=state.memory["x"][ids])  # each client goes on from its own model

    def echo(self, state: State, arrivals: Arrivals) -> np.ndarray:
        """The factors of the arrived updates, [K]."""
        return np.ones(len(arrivals.ids))

    def increment(self, beta: np.ndarray, deltas: Tensor) -> Tensor:
        """sum_k beta_k Delta_k, [P]."""
        return combine(beta, deltas)

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        ids, x = arrivals.ids, state.memory["x"]
        if not len(ids):
            return w, state.next(log={})
        beta = self.echo(state, arrivals) / len(ids)
        # x_{t+1} = mean_k x_k + eta_g mean_k echo_k Delta_k, sent to the arrived only (postponed broadcast).
        w_next = x[ids].mean(dim=0) + self.server_lr * self.increment(beta, arrivals.deltas)
        x = x.clone()
        x[ids] = w_next
        log = mixture_log(beta, state.context.alpha[ids], state.context.target)
        return w_next, state.next(log=log, weights=self.server_lr * beta, x=x)

    def judged(self, state: State, w: Tensor) -> Tensor:
        if self.judge == "broadcast":
            return w
        return state.memory["x"][int(not state.context.with_server) :].mean(dim=0)  # of all who could be heard
