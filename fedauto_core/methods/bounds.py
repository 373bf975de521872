"""The two ends of the scale: tuning on the server's data alone, and one learner on everybody's data."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from .base import Arrivals, Cost, Method, Participation, Server, State, weighted_step


@dataclass(frozen=True)
class ServerOnly(Method):
    """E steps per round on the public data: what every federated method must beat."""

    name: ClassVar[str] = "server_only"
    source: ClassVar[str] = "bound"
    family: ClassVar[str] = "bound"
    cost: ClassVar[Cost] = Cost(up="0", down="0")
    participation: ClassVar[Participation] = "server"

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        return weighted_step(state, w, arrivals, np.ones(1))


@dataclass(frozen=True)
class Centralised(ServerOnly):
    """E steps per round on the pooled data of server and clients: same number of gradient steps, no federation."""

    name: ClassVar[str] = "centralised"
    family: ClassVar[str] = "bound"
    assumes: ClassVar[str] = "all data in one place"
    participation: ClassVar[Participation] = "pooled"

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        return w + arrivals.deltas[0], state.next(log={})
