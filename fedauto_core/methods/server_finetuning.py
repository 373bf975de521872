"""FedAvg, then the server tunes the average on its public data: the server's data used *after* the average.

The "server-finetune" baseline of Li et al., ICML 2023 (FedLAW). Participation assumption: none of its own; knows
nothing of the network; no memory, no extra traffic, E_s server steps per round. Differs from there in: server work is
counted in steps, not epochs (20 there). Among equally good E_s the cheapest is the fair one: each step is a minibatch
more than the rules that only average have seen.
"""

from dataclasses import dataclass

from torch import Tensor

from .average import Composable
from .base import Arrivals, Server, State
from .checks import check_integer
from .step_length import StepLength


@dataclass(frozen=True)
class ServerFinetuning(Composable, StepLength):
    """w_{r+1/2} = FedAvg over the arrived; w_{r+1} = w_{r+1/2} after `server_steps` SGD steps on the public data."""

    name = "server_finetuning"
    source = "baseline of Li et al. 2023"
    family = "public data again"
    contest = "public data"
    assumes = "nothing"
    public_data = "as a participant; SGD after the average"
    knob = ("server_steps", (5, 20, 80))
    server_steps: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "server_steps", 1)

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        step, state = self.averaged(state, w, arrivals, server, self.server_lr)
        half = w + step
        return half + server.train(half, self.server_steps), state
