"""The contract of a method: everything a method may see, and the three functions it answers with.

A method is handed `Context`, `Arrivals`, `Server`, the broadcast model and its own `State`, and nothing else
(`registry.method_inputs` lists every member); what the network does is in none of them unless
the method declares itself an oracle. Claim C5 ("no network knowledge") is thereby visible in the types. Participant 0
is the server, 1..N are the clients (docs/method.md, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from torch import Tensor, as_tensor

from fedauto_core.errors import InputError, require, require_number

Participation = Literal["network", "ideal", "server", "pooled"]
Contest = Literal["aggregation", "optimiser", "public data", "bound", "ours"]
Knob = tuple[str, tuple[Any, ...]]  # the hyper-parameter that is tuned beside the client step size, and its values


@dataclass(frozen=True)
class Context:
    """What the server knows before round 1.

    counts: samples n_j, shape [N+1]; alpha: label histograms, shape [N+1, C], rows sum to one;
    target: alpha_g = sum_j (n_j/n) alpha_j over the server and the clients, shape [C];
    steps: local SGD steps E; lr: step size gamma of round 1; with_server: the server's own update is an arrival;
    w0: pre-trained start, shape [P]; seed: of the run, for methods that draw at random (`fedauto_core.seeding`).
    success_probability: q[T, N] of each round given the past, long_run_probability: [N], marginal_probability: [T, N],
    of each round whatever the past; given to oracles only, else None.
    """

    counts: np.ndarray
    alpha: np.ndarray
    target: np.ndarray
    steps: int
    lr: float
    with_server: bool
    w0: Tensor
    seed: int = 0
    success_probability: np.ndarray | None = None
    long_run_probability: np.ndarray | None = None
    marginal_probability: np.ndarray | None = None

    @property
    def n_clients(self) -> int:
        return len(self.counts) - 1

    @classmethod
    def from_counts(
        cls,
        counts: np.ndarray,
        server_counts: np.ndarray,
        *,
        steps: int,
        lr: float,
        with_server: bool,
        w0: Tensor,
        samples: np.ndarray | None = None,
        seed: int = 0,
    ) -> Context:
        """What follows from label counts, which are checked.

        Parameters
        ----------
        counts : samples of each class at every client, as far as the server is told, [N, C]: noise may have been added
            to them for privacy, and equal ones are the guess where nothing is told
        server_counts : public samples of each class, [C]; zeros: the server has none
        steps, lr, with_server, w0, seed : see the class
        samples : n_j of the server and the clients, [N+1], where they are not the sums of these counts

        Raises
        ------
        InputError : for counts that are no histograms, which names the client (from 1), or a number out of range
        """
        told = _label_counts(counts, server_counts)
        sums = told.sum(axis=1)
        held = sums if samples is None else np.asarray(samples)
        require(
            held.shape == sums.shape and bool(np.isfinite(held).all() and (held[1:] > 0).all() and held[0] >= 0),
            f"numbers of samples {held.tolist()}",
            allowed=f"{len(sums)} finite ones, the server's >= 0, the clients' > 0",
            remedy="give one for the server and one for each client, in the order of the label counts",
        )
        require(
            bool(held.any() if not with_server else held[0] > 0 and sums[0] > 0),
            f"{held[0]:g} public samples and {len(held) - 1} clients",
            allowed="a client or public samples; the latter where the server takes part",
            remedy="give public samples, or with_server=False and a client",
        )
        require_number("steps", steps, low=1, strict=False, whole=True)
        require_number("lr", lr)
        told[0] += not sums[0]  # a mixture that weighs nothing, but is one
        alpha = told / told.sum(axis=1, keepdims=True)
        return cls(held, alpha, held @ alpha / held.sum(), steps, lr, with_server, w0, seed)


def _label_counts(counts: np.ndarray, server_counts: np.ndarray) -> np.ndarray:
    """Those of the server and the clients, float64 [N+1, C], checked."""
    own, theirs = np.asarray(server_counts, dtype=float), np.asarray(counts, dtype=float)
    require(
        own.ndim == 1 and own.size > 0 and theirs.ndim == 2 and theirs.shape[1] == own.size,
        f"label counts of shape {theirs.shape} at the clients and {own.shape} at the server",
        allowed="[clients, classes] and [classes], of the same classes",
        remedy="count all classes everywhere, np.bincount(labels, minlength=n_classes)",
    )
    told = np.vstack([own, theirs])
    sound = np.isfinite(told).all(axis=1) & (told >= 0).all(axis=1) & told.any(axis=1)
    sound[0] |= not own.any()
    for j in np.flatnonzero(~sound)[:1]:
        raise InputError(
            f"label counts {told[j].tolist()} of {f'client {j}' if j else 'the server'}",
            allowed="finite numbers >= 0, of a client not all zero",
            remedy="cut noise below zero; leave a client without samples out; guess equal counts if none are told",
        )
    return told


@dataclass(frozen=True)
class Arrivals:
    """What arrived in round `round` (0-based).

    ids: participants [K], ascending, 0 = server; deltas: [K, P], rows w_j^E - start_j;
    steps: SGD steps each of them took, [K] (E, or fewer where a deadline cut them short); lr: their size gamma_r, which
    falls towards the end of a run where the schedule says so.
    """

    round: int
    ids: np.ndarray
    deltas: Tensor
    steps: np.ndarray
    lr: float


class PublicTraining(Protocol):
    """What the server can do with its public data, as far as most methods ask: train.

    Its own update, as participant 0, is such a training too, of the broadcast model on all classes for E steps; the
    simulation trains it in one stack with the clients'.
    """

    counts_per_class: np.ndarray  # public samples of each class, shape [C]

    def train(self, w: Tensor, steps: int, classes: Sequence[int] | None = None) -> Tensor:
        """Delta [P] after `steps` SGD steps from w [P] on the public samples (of `classes` only, if given), of the size
        that participants take in this round."""


class Server(PublicTraining, Protocol):
    """All that it can do once it knows who arrived; what `Method.needs_scores` adds to `PublicTraining`."""

    labels: Tensor  # of the public samples, int64 [n_0]

    def gradient(self, w: Tensor, targets: Tensor | None = None) -> Tensor:
        """Gradient [P] at w [P] of the mean cross-entropy of the next public minibatch, against its labels or against
        soft `targets` [n_0, C]."""

    def logits(self, w: Tensor) -> Tensor:
        """Class scores [n_0, C] of w [P], or [K, n_0, C] of K models w [K, P], on the public samples."""


@dataclass(frozen=True)
class LocalWork:
    """What participant `ids[k]` minimises: F_j(w) + <linear_k, w> + prox/2 ||w - w_r||^2, from start_k.

    start: [K, P]; linear: [K, P] or None; prox >= 0, pulling towards the broadcast model.
    """

    start: Tensor
    linear: Tensor | None = None
    prox: float = 0.0


@dataclass(frozen=True)
class State:
    """Context, the method's memory between rounds, and what it logs about the last round (name -> number).

    weights: of the arrived updates in the last step, [K], and one entry more if it held what the server trained first
    in that round; None where the step has no such weights. Used for diagnostics only.
    """

    context: Context
    memory: Mapping[str, Any] = field(default_factory=dict)
    log: Mapping[str, float] = field(default_factory=dict)
    weights: np.ndarray | None = None

    def next(self, *, log: Mapping[str, float], weights: np.ndarray | None = None, **memory: Any) -> State:
        return replace(self, memory={**self.memory, **memory}, log=log, weights=weights)

    def noted(self, log: Mapping[str, float], **memory: Any) -> State:
        """The state after the same step, with more in its log and other memory."""
        return self.next(log={**self.log, **log}, weights=self.weights, **memory)


class Cost(NamedTuple):
    """What a method costs, in numbers (floats) as expressions in N clients, P parameters, C classes, n_0 public samples
    of D numbers each, and the method's own hyper-parameters.

    up, down: sent by and to each client in a round in which it is heard; once: sent by or to each client before round
    1; server, clients: kept between rounds besides the global model, in all. What a method keeps of every participant
    it keeps of the server too, where that takes part: N + 1 rows, the server's own counted with the clients'.
    """

    up: str = "P"
    down: str = "P"
    once: str = "0"
    server: str = "0"
    clients: str = "0"


@dataclass(frozen=True)
class Method:
    """A stateless description; hyper-parameters are the frozen fields of the subclass."""

    name: ClassVar[str]
    source: ClassVar[str]
    family: ClassVar[str]
    """What the method relies on, for tables."""
    contest: ClassVar[Contest]
    """Whom it is judged among: failure-robust "aggregation", an "optimiser" for heterogeneity, another use of the
    server's "public data", a "bound", or "ours" (FedAuto and what is built on it). Every class states it."""
    needs_network_knowledge: ClassVar[bool] = False
    needs_scores: ClassVar[bool] = False
    """Whether it asks of the public data for more than `PublicTraining`: labels, gradients or class scores."""
    uses_label_histograms: ClassVar[bool] = False
    public_data: ClassVar[str] = "as a participant"  # how the server's data enter where the server takes part
    cost: ClassVar[Cost] = Cost()
    assumes: ClassVar[str] = "nothing"  # about participation, in the method's own theory
    participation: ClassVar[Participation] = "network"
    """Who is heard: "network": as the trace says; "ideal": all; "server": it alone; "pooled": one learner, all data."""
    knob: ClassVar[Knob | None] = None
    public_share: ClassVar[float] = 0.0
    """Part of the public data that every client gets before round 1 (a method may make it a field)."""

    def __post_init__(self) -> None:
        """Where a subclass checks its hyper-parameters, after those of the classes before it."""

    @property
    def plain_work(self) -> bool:
        """Whether a client that is heard does what FedAvg's do: plain SGD from the model that it is sent."""
        return type(self).local_work is Method.local_work

    @property
    def client_support(self) -> str:
        """What clients must do for the method besides plain SGD from the model that they are sent, or "": read from
        what it declares, so that none is forgotten."""
        if not self.plain_work:
            return "local work of its own"
        if self.participation != "server" and (self.cost.up, self.cost.down) != ("P", "P"):
            return "other messages than a model"
        return "training on public samples" if self.public_share else ""

    def init(self, context: Context) -> State:
        return State(context)

    def local_work(self, state: State, w: Tensor, ids: np.ndarray) -> LocalWork:
        """Work of `ids`. Row k may depend on ids[k] only: the simulation asks just for those that will be heard."""
        return LocalWork(start=w.expand(len(ids), -1))

    def aggregate(self, state: State, w: Tensor, arrivals: Arrivals, server: Server) -> tuple[Tensor, State]:
        raise NotImplementedError

    def judged(self, state: State, w: Tensor) -> Tensor:
        """The model [P] that is evaluated after a round: the one to be broadcast next."""
        return w


def classes(method: Method) -> list[type[Method]]:
    """Of the method and of those it is composed with: whose code decides its numbers."""
    parts = [getattr(method, field.name) for field in fields(method)]
    return [type(method), *(kind for part in parts if isinstance(part, Method) for kind in classes(part))]


def combine(beta: np.ndarray, deltas: Tensor) -> Tensor:
    """sum_k beta_k Delta_k, shape [P]: one product of weights [1, K] and deltas [K, P]."""
    return as_tensor(beta, dtype=deltas.dtype, device=deltas.device) @ deltas


def chi2_divergence(mixture: np.ndarray, target: np.ndarray) -> np.ndarray:
    """sum_c (mixture_c - target_c)^2 / target_c over classes with target_c > 0 (docs/method.md, section 4), [..., C] ->
    [...]."""
    held = target > 0
    return np.sum((mixture[..., held] - target[held]) ** 2 / target[held], axis=-1)


def mixture_log(beta: np.ndarray, alpha: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Diagnostics of weights beta [K] over histograms alpha [K, C]: chi2 of the mixture, sum beta^2, sum beta."""
    total = float(np.sum(beta))
    chi2 = float(chi2_divergence(beta @ alpha / total, target)) if total > 0 else float("nan")
    return {"chi2": chi2, "sum_beta2": float(np.sum(np.square(beta))), "sum_beta": total}


def data_weights(context: Context) -> np.ndarray:
    """p_j = n_j / n over everyone who could be heard (the server only where it takes part), shape [N+1]."""
    counts = context.counts.astype(float)
    if not context.with_server:
        counts[0] = 0.0
    return counts / counts.sum()


def lr_factor(state: State, arrivals: Arrivals) -> float:
    """gamma_r / gamma_1, what is left of the first round's step size. What a method adds to the model besides updates
    of this round (stored updates, momentum, a step of fixed length) must fall with it as they do."""
    return arrivals.lr / state.context.lr


def weighted_step(state: State, w: Tensor, arrivals: Arrivals, beta: np.ndarray) -> tuple[Tensor, State]:
    """w_r = w + sum_j beta_j Delta_j; with no arrival the model stays."""
    if not len(arrivals.ids):
        return w, state.next(log={})
    log = mixture_log(beta, state.context.alpha[arrivals.ids], state.context.target)
    return w + combine(beta, arrivals.deltas), state.next(log=log, weights=beta)
