"""A method's rounds at the server, whatever stack brings the updates."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedauto_core.errors import is_number, require, require_number
from fedauto_core.methods.base import Arrivals, Context, Method, State
from fedauto_core.methods.guard import is_sound
from fedauto_core.methods.registry import METHODS

from .arrays import Layout, Parameters
from .public import Config, ServerData
from .roster import Roster, with_context

LOG = logging.getLogger(__name__)


class Lost(ValueError):
    """Why an update does not count."""


class Update(NamedTuple):
    """Of a client: its parameters after local work, its number of samples, and the label counts [C] that it tells."""

    parameters: Parameters
    samples: float
    labels: Sequence[float] | None = None


def obstacle(method: Method) -> str:
    """Why `method` cannot run with plain clients and a server that trains, or ""."""
    if method.client_support:
        return f"it needs the support of clients: {method.client_support}"
    if type(method).judged != Method.judged:
        return "it judges another model than the one that it sends"
    if method.participation != "network":
        return "it does not average what arrives"
    if method.needs_network_knowledge:
        return "it must know the network"
    if method.needs_scores:
        return "it must evaluate models on the public data"
    return ""


@dataclass
class _Round:
    """What was sent, and what has come in by now.

    number: from 1; w: the model that was sent, [P]; rows: memory for the updates, [1 + asked, P], of which those of
    `ids` are written.
    """

    number: int
    config: Config
    layout: Layout
    w: np.ndarray
    rows: np.ndarray
    ids: list[int] = field(default_factory=list)

    @property
    def lr(self) -> float:
        return float(self.config.get("lr", 1.0))

    def take(self, participant: int, after: Parameters) -> None:
        """The update of a participant whose parameters are now `after`; participants come in ascending order. Lost: it
        is not finite, or a second one. Names or shapes that differ are an InputError."""
        if participant in self.ids:
            raise Lost("a second one in the round")
        total = self.layout.difference(after, self.w, self.rows[len(self.ids)])
        if not math.isfinite(total):
            raise Lost("it is not finite")
        self.ids.append(participant)

    def arrivals(self, steps: int) -> Arrivals:
        """As a method sees them. The rows are memory of this round alone: a method must not keep them."""
        taken = len(self.ids)
        deltas = torch.from_numpy(self.rows[:taken])
        return Arrivals(self.number - 1, np.array(self.ids, dtype=np.int64), deltas, np.full(taken, steps), self.lr)


class _Training:
    """The public data as a method sees them: the `PublicTraining` of the contract."""

    def __init__(self, data: ServerData, round: _Round) -> None:
        self.data, self.round, self.counts_per_class = data, round, data.counts_per_class

    def trained(self, w: Tensor, steps: int, classes: Sequence[int] | None = None) -> Parameters:
        parameters = self.round.layout.unflatten(w.numpy().copy())  # which it may change
        return self.data.train(parameters, classes, steps, self.round.config)

    def train(self, w: Tensor, steps: int, classes: Sequence[int] | None = None) -> Tensor:
        update = np.empty(self.round.layout.size, self.round.layout.dtype)
        self.round.layout.difference(self.trained(w, steps, classes), w.numpy(), update)
        return torch.from_numpy(update)


class Coordinator:
    """A method and what it remembers between rounds.

    A round is `open`, `train`, a `take` for each update that has come, and `close`; or all of it, `round`. An update
    counts once and only if it is finite, has the names and shapes of the model and samples behind it; a step that is
    not finite or leads far off is refused (`methods.guard`).

    Parameters
    ----------
    method : its clients must be plain; `METHODS` are made by `make_method`
    data : the server's; `torch_data` for a torch module
    steps : of the server's own training, E; as many as a client takes
    with_server : whether the server takes part with the public data, if it has any
    say : is told what is left out, and why

    Raises
    ------
    InputError : for a method that needs the support of clients, or public data that are not there

    Attributes
    ----------
    roster : who is who, and what is known of each
    """

    def __init__(
        self,
        method: Method,
        data: ServerData,
        steps: int = 5,
        with_server: bool = True,
        say: Callable[[str], None] = LOG.warning,
    ) -> None:
        fitting = ", ".join(name for name, cls in METHODS.items() if not obstacle(cls()))
        why = obstacle(method)
        remedy = "use one of these, or simulate it"
        require(not why, f"method {method.name!r}: {why}", allowed=fitting, remedy=remedy)
        counts = np.asarray(data.counts_per_class)
        require(
            counts.ndim == 1 and len(counts) > 0 and bool(np.isfinite(counts).all() and (counts >= 0).all()),
            f"public samples of each class {counts.tolist()}",
            allowed="one number >= 0 for each class",
            remedy="count the labels of the public samples, np.bincount(y, minlength=n_classes)",
        )
        require(
            (data.train is not None) == bool(counts.any()),
            f"{counts.sum():g} public samples, and {'no' if data.train is None else 'a'} function that trains on them",
            allowed="both or neither",
            remedy="give ServerData(counts_per_class, train), or ServerData(np.zeros(n_classes)) for none",
        )
        require(
            data.train is not None or method.public_data == Method.public_data,
            f"method {method.name!r} without public data",
            allowed="public data and a function that trains on them",
            remedy="give ServerData(counts_per_class, train), or use fedavg",
        )
        require_number("steps", steps, low=1, strict=False, whole=True)
        self.method, self.data, self.steps = method, data._replace(counts_per_class=counts), steps
        self.with_server, self.say = with_server and data.train is not None, say
        self.forget()

    def forget(self) -> None:
        """Begin anew: nobody is known, nothing is remembered."""
        self.roster = Roster(self.data.counts_per_class)
        self._state: State | None = None
        self._round: _Round | None = None

    @property
    def context(self) -> Context:
        """What was known in the last round. There must have been one."""
        return self._state.context

    def open(self, number: int, parameters: Parameters, config: Config, asked: int) -> None:
        """Round `number` (from 1), in which at most `asked` clients are sent `parameters` and `config`; its "lr" is the
        round's step size, if there is one."""
        layout = Layout.of(parameters)
        w = layout.flatten(parameters)
        self._round = round = _Round(number, config, layout, w, self._memory(1 + asked, layout))
        self._training = _Training(self.data, round)

    def _memory(self, count: int, layout: Layout) -> np.ndarray:
        """Of the last round, [count, P], where it fits: to get new memory takes as long as to average."""
        last = self._round and self._round.rows
        fits = last is not None and (last.shape, last.dtype) == ((count, layout.size), layout.dtype)
        return last if fits else np.empty((count, layout.size), layout.dtype)

    def train(self) -> None:
        """The server's own update, if it takes part: the first of the round."""
        if self.with_server:
            try:
                self._round.take(0, self._training.trained(torch.from_numpy(self._round.w), self.steps))
            except Lost as why:
                self.say(f"round {self._round.number}: the server's own update is left out: {why}")

    def take(self, participant: int, parameters: Parameters, samples: float) -> None:
        """The update of a participant of the roster, whose `parameters` come from `samples`; they come in ascending
        order. Lost: it is not finite, comes twice, or has no samples behind it. Names or shapes that differ from those
        of the model are an InputError."""
        if not is_number(samples) or samples <= 0:
            raise Lost(f"number of samples {samples!r}")
        self._round.take(participant, parameters)
        self.roster.counts[participant - 1] = float(samples)

    def close(self) -> tuple[dict[str, np.ndarray] | None, Mapping[str, float]]:
        """The method's step from what came, also from nothing; and what it logs. None: the model stays, since the step
        is refused, or nobody is known and the method has nothing of its own."""
        round = self._round
        if not (self.roster.names or self.with_server or self.method.public_data != Method.public_data):
            return None, {}
        w = torch.from_numpy(round.w)
        w, state = self.method.aggregate(self._known(w), w, round.arrivals(self.steps), self._training)
        layout = round.layout
        with np.errstate(over="ignore"):
            sent = layout.rounded(w.numpy())
        if not is_sound(torch.from_numpy(sent)[layout.floats], state.context.w0[layout.floats]):
            self.say(f"round {round.number}: the step diverges and is refused; the model stays as it was")
            return None, state.log
        self._state = state
        return layout.unflatten(sent), state.log

    def _known(self, w: Tensor) -> State:
        """The method's state, with what is known by now."""
        first = self._state.context if self._state else None
        w0, lr = (first.w0, first.lr) if first else (w, self._round.lr)
        context = self.roster.context(w0, self.steps, lr, self.with_server)
        return with_context(self.method, self._state, context) if self._state else self.method.init(context)

    def round(
        self, parameters: Parameters, updates: Mapping[str, Update], config: Config = MappingProxyType({})
    ) -> Parameters:
        """The model after the round in which `parameters` and `config` were sent and `updates`, by the names of
        clients, came."""
        number = 1 + (self._round.number if self._round else 0)
        self.open(number, parameters, {**config, "server-round": number}, len(updates))
        for name, update in updates.items():
            new = name not in self.roster.ids or update.labels is not None
            if new and (why := self.roster.enrol(name, name, update.labels)):
                self.say(f"{name}: {why}")
        self.train()
        for name in sorted(updates, key=self.roster.ids.get):
            try:
                self.take(self.roster.ids[name], updates[name].parameters, updates[name].samples)
            except ValueError as fault:
                self.say(f"round {number}: an update of {name} is lost: {fault}")
        after, _ = self.close()
        return parameters if after is None else after
