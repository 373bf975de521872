"""Server optimisers: the mean update of the arrived is a gradient for momentum (FedAvgM), Adam or Yogi at the server.

Hsu, Qi, Brown, arXiv 1909.06335, 2019 (FedAvgM); Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan, ICLR
2021, Algorithm 2 (FedAdam, FedYogi). Assume uniform sampling; know nothing of the network. Memory: one (FedAvgM) or two
models at the server; no extra traffic.
Differ from the papers in: the network decides who takes part; a round in which nobody arrives is no round (no step, no
decay), because its mean is not zero but unknown; where the clients' step size falls, means are remembered per unit of
it and the server's step falls with it: Adam's length does not depend on the update's and would not fall by itself.
Like the papers and unlike many codes: no bias correction, and v starts at tau^2.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .average import Composable
from .base import Arrivals, Context, Cost, Server, State, lr_factor
from .checks import check_number, check_positive
from .step_length import StepLength


@dataclass(frozen=True)
class _ServerOptimiser(Composable, StepLength):
    """w += step(D) with D = sum_{k in S} n_k / n_A Delta_k, the mean update of the arrived, shape [P]; with a step size
    that falls, w += gamma_r / gamma_1 step(D gamma_1 / gamma_r)."""

    assumes = "uniform sampling"
    decays: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        super().__post_init__()
        remedy = "use 0.9 to remember about ten rounds, or 0 for no memory"
        for name in self.decays:
            check_number(self, name, lambda decay: 0 <= decay < 1, "numbers in [0, 1)", remedy)

    def step(self, memory: Mapping[str, Tensor], update: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The step [P] for this round's D, and the memory after it."""
        raise NotImplementedError

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        update, state = self.averaged(state, w, arrivals, server)
        if state.weights is None:
            return w, state
        rate = lr_factor(state, arrivals)
        step, memory = self.step(state.memory, update / rate)
        return w + rate * step, state.noted({}, **memory)


@dataclass(frozen=True)
class FedAvgM(_ServerOptimiser):
    """m <- momentum m + D; w += eta_g m. Momentum 0 is FedAvg.

    A lasting D moves the model by eta_g / (1 - momentum) D per round. The tuned eta_g go from 1 - momentum, FedAvg's
    step, to the paper's 1; shorter steps than FedAvg's are a matter of the client step size.
    """

    name = "fedavgm"
    source = "Hsu et al. 2019"
    family = "server optimiser"
    contest = "optimiser"
    cost = Cost(server="P")
    knob = ("server_lr", (0.1, 0.3, 1.0))
    decays = ("momentum",)
    momentum: float = 0.9

    def init(self, context: Context) -> State:
        return State(context, {"m": torch.zeros_like(context.w0)})

    def step(self, memory: Mapping[str, Tensor], update: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        m = self.momentum * memory["m"] + update
        return self.server_lr * m, {"m": m}


@dataclass(frozen=True)
class FedAdam(_ServerOptimiser):
    """m <- beta1 m + (1 - beta1) D; v <- beta2 v + (1 - beta2) D^2; w += eta_g m / (sqrt(v) + tau)."""

    name = "fedadam"
    source = "Reddi et al. 2021"
    family = "server optimiser"
    contest = "optimiser"
    cost = Cost(server="2 * P")
    knob = ("server_lr", (0.001, 0.01, 0.1))
    decays = ("beta1", "beta2")
    server_lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "tau")

    def init(self, context: Context) -> State:
        return State(context, {"m": torch.zeros_like(context.w0), "v": torch.full_like(context.w0, self.tau**2)})

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        return torch.lerp(square, v, self.beta2)  # beta2 v + (1 - beta2) D^2

    def step(self, memory: Mapping[str, Tensor], update: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        m = torch.lerp(update, memory["m"], self.beta1)  # beta1 m + (1 - beta1) D
        v = self.second_moment(memory["v"], update.square())
        return self.server_lr * m / (v.sqrt() + self.tau), {"m": m, "v": v}


@dataclass(frozen=True)
class FedYogi(FedAdam):
    """FedAdam with v <- v - (1 - beta2) D^2 sign(v - D^2): v moves by at most (1 - beta2) D^2 in a round."""

    name = "fedyogi"
    family = "server optimiser"
    contest = "optimiser"

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        return v - (1 - self.beta2) * square * torch.sign(v - square)
