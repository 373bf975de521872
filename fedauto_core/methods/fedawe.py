"""FedAWE: echoes of missed rounds and implicit gossip against non-stationary unavailability.

Xiang, Ioannidis, Yeh, Joe-Wong, Su, NeurIPS 2024. Assumes independent arrivals with probability >= delta > 0, which may
vary over time; knows nothing of the network. Memory: none at the server, one model and one round number per client.
As in the theory and the official code, the mean of all clients' models is evaluated, not the broadcast model.
Differs from the paper in: clients commit their state only when the upload arrived (a lost upload is not an inactive
client); what is clipped is the official code's averaged echoed increment, not the text's gradient, but relative to the
updates' own length: the official bound, an L2 norm of 0.5 whatever the model, stands for a multiple of it that grows as
the step size decays. The decay is the run's, for every rule alike; the official code has 1 / sqrt(t / 10 + 1), also for
all.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .base import Arrivals, Context, Cost, LocalWork, Server, State, mixture_log
from .checks import check_choice, check_number
from .step_length import StepLength


@dataclass(frozen=True)
class FedAWE(StepLength):
    """x_k^dagger = x_k + eta_g (t - tau_k) Delta_k; x_{t+1} = mean over the arrived; only they receive it.

    clip_norm: bound on the norm of the averaged echoed increment, in mean norms of the arrived updates (None: none).
    judge: what is evaluated, the "mean" of all participants' models or the "broadcast" one.
    """

    name = "fedawe"
    source = "Xiang et al. 2024"
    family = "estimated rates"
    contest = "aggregation"
    cost = Cost(clients="(N + 1) * (P + 1)")
    assumes = "independent arrivals, q >= delta > 0"
    clip_norm: float | None = 5.0
    judge: Literal["mean", "broadcast"] = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip_norm is not None:
            allowed, remedy = "None or finite numbers > 0", "use None for no clipping"
            check_number(self, "clip_norm", lambda norm: norm > 0, allowed, remedy)
        check_choice(self, "judge", ("mean", "broadcast"))

    def init(self, context: Context) -> State:
        n = context.n_clients + 1
        return State(context, {"x": context.w0.repeat(n, 1), "tau": np.full(n, -1)})

    def local_work(self, state: State, w: Tensor, ids: np.ndarray) -> LocalWork:
        return LocalWork(start=state.memory["x"][ids])  # each client goes on from its own model

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        ids, x, tau = arrivals.ids, state.memory["x"], state.memory["tau"]
        if not len(ids):
            return w, state.next(log={})
        # Echo factor (t - tau_k): the rounds since k was last heard, this one included.
        echo = arrivals.round - tau[ids]
        factors = torch.as_tensor(echo, dtype=w.dtype, device=w.device)
        increment = (factors @ arrivals.deltas) / len(ids)
        if self.clip_norm is not None:
            longest = self.clip_norm * float(arrivals.deltas.norm(dim=1).mean())
            increment = increment * min(1.0, longest / max(float(increment.norm()), 1e-12))
        # x_{t+1} = mean_k x_k + eta_g mean_k (t - tau_k) Delta_k, sent to the arrived only (postponed multicast).
        w_next = x[ids].mean(dim=0) + self.server_lr * increment
        x, tau = x.clone(), tau.copy()
        x[ids], tau[ids] = w_next, arrivals.round
        beta = echo / len(ids)
        log = mixture_log(beta, state.context.alpha[ids], state.context.target)
        return w_next, state.next(log=log, weights=self.server_lr * beta, x=x, tau=tau)

    def judged(self, state: State, w: Tensor) -> Tensor:
        if self.judge == "broadcast":
            return w
        return state.memory["x"][int(not state.context.with_server) :].mean(dim=0)  # of all who could be heard
