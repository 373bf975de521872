"""What is simulated (`Run`, `Schedule`), and what comes out (`History`)."""

from dataclasses import dataclass
from math import cos, pi

import pandas as pd
from torch import Tensor

from fedauto_core.data.federation import Federation
from fedauto_core.errors import require_number
from fedauto_core.methods.base import Method
from fedauto_core.network import Trace


@dataclass(frozen=True)
class Run:
    """One method on one federation under one trace.

    Parameters
    ----------
    label : its name in the results
    method : with its hyper-parameters
    federation, trace : whose data, and who is heard in which round
    w0 : start [P] of the vectors that the method averages (`engine.averaging`)
    seed : of the minibatches and of all that the method draws
    lr : local step size gamma, before it falls (`Schedule.decay`)
    with_server : whether the server takes part with its public data
    epsilon : privacy of the label histograms that clients report (`data.federation.reported`); inf: exact
    """

    label: str
    method: Method
    federation: Federation
    trace: Trace
    w0: Tensor
    seed: int
    lr: float
    with_server: bool
    epsilon: float = float("inf")


@dataclass(frozen=True)
class Schedule:
    """How long, with which minibatches, and how the step size falls.

    Parameters
    ----------
    rounds : T
    steps : local steps E
    batch : minibatch size B
    evaluate_every : rounds between evaluations
    test : first and one past the last test image that is used (None: all); tuning and results use different ones
    least_steps : clients take between this many and E steps, drawn anew in every round (a deadline cuts slow ones
        short); 0: always E
    decay : share of the rounds, the last ones, in which the step sizes of clients and server fall, in [0, 1];
        0: they are constant

    Raises
    ------
    InputError : for a number out of range
    """

    rounds: int
    steps: int = 5
    batch: int = 32
    evaluate_every: int = 5
    test: tuple[int, int] | None = None
    least_steps: int = 0
    decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("rounds", "steps", "batch", "evaluate_every"):
            require_number(name, getattr(self, name), low=1, strict=False, whole=True)
        remedy = f"use 1..{self.steps} (the local steps E), or 0 for always E"
        require_number("least_steps", self.least_steps, high=self.steps, strict=False, whole=True, remedy=remedy)
        require_number("decay", self.decay, high=1, strict=False)

    def rate(self, round: int) -> float:
        """gamma_r / gamma of round r (0-based): 1, and in the last rounds half a cosine (Loshchilov and Hutter 2017)
        that would reach 0 in the round after the last."""
        falling = self.decay * self.rounds
        passed = max(0.0, round - (self.rounds - falling))
        return 0.5 * (1 + cos(pi * passed / falling)) if passed else 1.0

    def evaluates(self, round: int) -> bool:
        """Every `evaluate_every` rounds, and some ten times in the last 10 %, over which final values are averaged."""
        left = self.rounds - (round + 1)
        return (round + 1) % self.evaluate_every == 0 or (
            round + 1 > 0.9 * self.rounds and left % max(1, self.rounds // 100) == 0
        )


@dataclass(frozen=True)
class History:
    """Tidy frames keyed by `run` (position in the list of runs).

    curves: one row per run and evaluation (round counted from 1; accuracy, worst_class, loss; distance from w_0,
    all of the model that the method has judged;
    diverged: the round whose step was refused, or 0; the run then stands still at its last sound model).
    rounds: one row per run and round (arrived clients, nonfinite: updates left out as they were not finite,
    server_samples: gradient samples at the server, method's log).
    """

    curves: pd.DataFrame
    rounds: pd.DataFrame
