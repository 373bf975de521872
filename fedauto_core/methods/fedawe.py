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

import numpy as np
from torch import Tensor

from .base import Arrivals, Context, Cost, Server, State
from .checks import check_number
from .fedpbc import FedPBCLike


@dataclass(frozen=True)
class FedAWE(FedPBCLike):
    """x_k^dagger = x_k + eta_g (t - tau_k) Delta_k; x_{t+1} = mean over the arrived; only they receive it.

    judge: what is evaluated, the "mean" of all participants' models or the "broadcast" one.
    clip_norm: bound on the norm of the averaged echoed increment, in mean norms of the arrived updates (None: none).
    The default leaves independent arrivals alone and shortens the first echo after a long outage.
    """

    name = "fedawe"
    source = "Xiang et al. 2024"
    family = "postponed broadcast"
    contest = "aggregation"
    cost = Cost(clients="(N + 1) * (P + 1)")
    clip_norm: float | None = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip_norm is not None:
            allowed, remedy = "None or finite numbers > 0", "use None for no clipping"
            check_number(self, "clip_norm", lambda norm: norm > 0, allowed, remedy)

    def init(self, context: Context) -> State:
        return super().init(context).noted({}, tau=np.full(context.n_clients + 1, -1))

    def echo(self, state: State, arrivals: Arrivals) -> np.ndarray:
        """t - tau_k: the rounds since k was last heard, this one included, [K]."""
        return arrivals.round - state.memory["tau"][arrivals.ids]

    def increment(self, beta: np.ndarray, deltas: Tensor) -> Tensor:
        """sum_k beta_k Delta_k, clipped, [P]."""
        increment = super().increment(beta, deltas)
        if self.clip_norm is None:
            return increment
        longest = self.clip_norm * float(deltas.norm(dim=1).mean())
        return increment * min(1.0, longest / max(float(increment.norm()), 1e-12))

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        w, after = super().aggregate(state, w, arrivals, server)
        tau = state.memory["tau"].copy()
        tau[arrivals.ids] = arrivals.round
        return w, after.noted({}, tau=tau)
