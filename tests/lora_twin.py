"""The slow, obvious twin of federated LoRA on an MLP: every product written out, one participant after another.

Shares with the core only the data, the random streams and the start; `World` drives the core itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedauto_core.data import Federation, FederationSpec, build_federation, load_dataset
from fedauto_core.engine import Run, Schedule, aggregation, initial_vector, lora_averaging
from fedauto_core.engine.averaging import Factor
from fedauto_core.engine.lane import Lane
from fedauto_core.engine.rounds import Task, uploads
from fedauto_core.methods import Method
from fedauto_core.models import LoRA, adapt, build_model
from fedauto_core.network import Scenario, draw_trace
from fedauto_core.seeding import stream

ROUNDS, STEPS, BATCH, SEED, LR = 3, 8, 8, 3, 0.15
SCHEDULE = Schedule(rounds=ROUNDS, steps=STEPS, batch=BATCH)
LORA = LoRA(2, 4, ("hidden",))
SPEC = FederationSpec(4, 60, 40, "classes", classes_per_client=3, size_ratio=2.0)
HALF = Scenario("half", "bernoulli", (("probability", 0.5),))
ARRIVED = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [1, 0, 1, 1]], dtype=bool)  # nobody in the second round


class World:
    """Digits, four clients with three classes each, an MLP at a random start, and the core's round loop by hand."""

    def __init__(self) -> None:
        self.digits = load_dataset("digits")
        self.federation = build_federation(self.digits, SPEC, SEED)
        self.base = build_model("mlp", (1, 8, 8), 10)
        self.w0 = self.base.init(self.stream("initial model"))

    def stream(self, purpose: str, *keys: int) -> np.random.Generator:
        return stream(SEED, purpose, *keys)

    def averaging(self, name: str | type[Factor], double: bool = False) -> tuple[Factor, Tensor]:
        cls, w0 = aggregation(name) if isinstance(name, str) else name, self.w0.double() if double else self.w0
        adapted = adapt(self.base, w0, LORA, offsets=cls.offsets)
        averaging = cls(adapted.model, LORA, adapted.layers, SEED)
        if isinstance(name, str):
            assert lora_averaging(name, adapted, LORA, SEED) == averaging
        return averaging, initial_vector(averaging, w0, self.base)

    def runs(
        self, name: str | type[Factor], methods: Sequence[Method], servers: Sequence[bool] = (True, False)
    ) -> tuple[Factor, list[Run]]:
        averaging, v0 = self.averaging(name)
        return averaging, [self._run(v0, m, self.federation, ARRIVED, server) for m in methods for server in servers]

    def _run(self, v0: Tensor, method: Method, federation: Federation, arrived: np.ndarray, with_server: bool) -> Run:
        trace = draw_trace(HALF, rounds=ROUNDS, histograms=federation.alpha[1:], seed=SEED)
        trace.arrived[:] = arrived[:, : federation.n_clients]
        return Run(method.name, method, federation, trace, v0, SEED, LR, with_server)

    def lane(
        self,
        name: str | type[Factor],
        method: Method,
        arrived: np.ndarray = ARRIVED,
        with_server: bool = True,
        federation: Federation | None = None,
    ) -> tuple[Factor, Lane]:
        averaging, v0 = self.averaging(name)
        run = self._run(v0, method, federation or self.federation, arrived, with_server)
        return averaging, Lane(averaging, run, SCHEDULE)

    def advance(self, lane: Lane, r: int, common: bool = False) -> dict[str, float]:
        """Round r of the core, and its log. common: all participants draw the same minibatches."""
        draws = self.stream("minibatches", r).random((lane.run.federation.n_clients + 2, STEPS, BATCH))
        draws[:] = draws[0] if common else draws
        task = Task(lane, lane.heard(r), lane.steps(SCHEDULE, r, lane.heard(r)))
        (arrivals,) = uploads(lane.averaging, r, [task], {SEED: draws})
        return lane.step(arrivals)


def product(averaging: Factor, v: Tensor, layer: str = "hidden") -> Tensor:
    """The update of the weights that v [P] stands for; without offset it is in the factors alone."""
    parts = averaging.model.unflatten(v[None])
    if averaging.offsets and parts[f"{layer}.offset"].any():
        return parts[f"{layer}.offset"][0]
    return averaging.lora.scale * parts[f"{layer}.A"][0] @ parts[f"{layer}.B"][0]


def factor_log(averaging: Factor, v: Tensor, beta: np.ndarray, deltas: Tensor) -> dict[str, float]:
    """Loss of averaged factors against averaged products, over all layers, by its definition."""
    lost, exact, step = [], [], []
    start, moves = averaging.model.unflatten(v[None]), averaging.model.unflatten(deltas)
    for layer in averaging.layers:
        a, b = (start[f"{layer}.{side}"][0].double().numpy() for side in "AB")
        da, db = (moves[f"{layer}.{side}"].double().numpy() for side in "AB")
        change = sum(w * ((a + p) @ (b + q) - a @ b) for w, p, q in zip(beta, da, db, strict=True))
        averaged = (a + np.tensordot(beta, da, 1)) @ (b + np.tensordot(beta, db, 1))
        lost.append(a @ b + change - averaged)
        exact.append(a @ b + change)
        step.append(change)
    norms = [np.sqrt(sum(np.sum(part**2) for part in parts)) for parts in (lost, exact, step)]
    return {"residual": norms[0] / norms[1], "residual_step": norms[0] / norms[2]}


class Twin:
    """One averaging of LoRA, round by round. p: the current factors, head, and frozen "offset"; product: W."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.base = {n: part[0] for n, part in world.base.unflatten(world.w0[None]).items()}
        drawn = np.sqrt(1 / (3 * 64)) * world.stream("adapters").standard_normal((64, 2), dtype=np.float32)
        self.p = {"hidden.A": torch.from_numpy(drawn).float(), "hidden.B": torch.zeros(2, 128)}
        self.p |= {n: part for n, part in self.base.items() if n.startswith("head.")}
        self.p["offset"] = torch.zeros(64, 128)
        self.fresh(0)

    def fresh(self, r: int) -> None:
        """Stacking begins every round with factors of its own."""
        if self.name == "stacked":
            drawn = np.sqrt(1 / (3 * 64)) * self.world.stream("adapters", 1 + r).standard_normal((64, 2), np.float32)
            self.p |= {"hidden.A": torch.from_numpy(drawn).float(), "hidden.B": torch.zeros(2, 128)}

    @property
    def product(self) -> Tensor:
        return _multiplied(self.p) + self.p["offset"]

    def logits(self, x: Tensor, p: Mapping[str, Tensor] | None = None) -> Tensor:
        p = self.p if p is None else p
        weight = self.base["hidden.weight"] + _multiplied(p) + p["offset"]
        hidden = torch.relu(x.flatten(1) @ weight + self.base["hidden.bias"])
        return hidden @ p["head.weight"] + p["head.bias"]

    def trained(self, r: int) -> list[str]:
        held = {"one_sided": "hidden.A", "alternating": "hidden.B" if r % 2 else "hidden.A"}.get(self.name)
        return [n for n in self.p if n not in (held, "offset")]

    def sgd(self, r: int, batches: np.ndarray) -> dict[str, Tensor]:
        data, p = self.world.digits, dict(self.p)
        for batch in batches:
            leaves = {n: p[n].clone().requires_grad_() for n in self.trained(r)}
            loss = F.cross_entropy(self.logits(data.x_train[batch], p | leaves), data.y_train[batch])
            slopes = torch.autograd.grad(loss, list(leaves.values()))
            p |= {n: leaf.detach() - LR * slope for (n, leaf), slope in zip(leaves.items(), slopes, strict=True)}
        return p

    def train(self, r: int, j: int) -> dict[str, Tensor]:
        """What participant j has after round r."""
        shard = self.world.federation.shards[j]
        draws = self.world.stream("minibatches", r).random((6, STEPS, BATCH))[j]
        return self.sgd(r, shard[(draws * len(shard)).astype(np.int64)])

    def compensate(self, r: int, clients: list[int]) -> dict[str, Tensor]:
        """The server's training on those of its samples whose class no client in `clients` holds."""
        federation = self.world.federation
        labels = self.world.digits.y_train.numpy()
        known = set(np.concatenate([labels[federation.shards[j]] for j in clients]).tolist())
        pool = np.array([i for i in federation.shards[0] if labels[i] not in known])
        draws = self.world.stream("server minibatches", r, 0).random((STEPS, BATCH))
        return self.sgd(r, pool[(draws * len(pool)).astype(np.int64)])

    def round(self, r: int, ends: Mapping[object, dict[str, Tensor]], beta: np.ndarray) -> Tensor:
        """Average the `ends` with weights beta; returns the exact W, old W + sum beta (W_k - old W)."""
        pairs = [(float(w), end) for w, end in zip(beta, ends.values(), strict=True)]
        old = self.p
        exact = self.product + sum(w * (_multiplied(end) - _multiplied(old)) for w, end in pairs)
        self.p = {n: part + sum(w * (end[n] - part) for w, end in pairs) for n, part in old.items()}
        if self.name == "residual":
            self.p["offset"] = exact - _multiplied(self.p)
        elif self.name == "stacked":
            self.fresh(r + 1)
            self.p["offset"] = exact
        elif self.name == "truncated":
            u, s, vh = np.linalg.svd(exact.double().numpy() / LORA.scale)
            self.p["hidden.A"] = torch.from_numpy(u[:, :2] * np.sqrt(s[:2])).float()
            self.p["hidden.B"] = torch.from_numpy(np.sqrt(s[:2])[:, None] * vh[:2]).float()
        return exact


def _multiplied(p: Mapping[str, Tensor]) -> Tensor:
    return LORA.scale * p["hidden.A"] @ p["hidden.B"]
