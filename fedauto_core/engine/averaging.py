"""How local models become the vectors that a method averages: all parameters, or LoRA's factors in one of six ways.

A method (`methods/`) combines vectors. With LoRA it is a choice which: the mean of the factors is not the factor of the
mean. With weights beta_k, factors A + dA_k, B + dB_k of what arrived, and W = scale A B, the update that the uploads
stand for and the one that averaged factors give differ by

    R = scale (sum_k beta_k dA_k dB_k - (sum_k beta_k dA_k) (sum_k beta_k dB_k))

which for sum_k beta_k = 1 is their weighted covariance: second order in the local drift. A method whose weights do not
sum to one scales the last term by their square, so its factor average is not even a multiple of what it means to do.
Every way of averaging below runs with every method, because a method sees only vectors.

Vectors of "residual", "stacked" and "truncated" end with the dense update W [fan_in, n_out] of each layer, in
which averaging is linear; the factors are a chart around it and what they cannot hold is a frozen offset. Such a run
needs memory for the adapted layers of each participant, the others for their factors only.

"Exact" is meant for sums of fresh uploads from a common start. It does not cover methods with a memory: stored updates
of a factor (MIFA, FedVARP, FedStale, FedAR-like, FedAuto with a memory) belong to older partners; a factor that is held
or new in each round uploads nothing, which leaves SCAFFOLD's and FedDyn's corrections to the head, and under
"alternating" reads as a zero gradient; clients of FedAWE and FedPBC-like start from models of their own, taken before
anything is held or cut, as is the model from which amplified FedAvg amplifies.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedauto_core.errors import require_known
from fedauto_core.models.adapters import Adapted, LoRA
from fedauto_core.models.model import Model, head_of
from fedauto_core.seeding import stream


@dataclass(frozen=True)
class Averaging:
    """All parameters: a method averages the parameters themselves. Those of LoRA override what they do otherwise.

    In a round: `held` and `local_start` before local work, `as_upload` after it, `log` and `after_step` when the method
    has stepped; `readable` wherever a vector is evaluated.
    model: what local training trains, its parameters theta [P]; the method's vectors v have the same length.
    """

    model: Model

    def held(self, round: int) -> frozenset[str]:
        """Parameters that nobody trains in this round."""
        return frozenset()

    def local_start(self, v: Tensor, round: int) -> Tensor:
        """theta [M, P] from which local work starts at the vectors v [M, P]."""
        return v

    def as_upload(self, theta: Tensor, delta: Tensor) -> Tensor:
        """The change of v [M, P] that a participant uploads, who went from theta to theta + delta."""
        return delta

    def log(self, v: Tensor, weights: np.ndarray, deltas: Tensor) -> dict[str, float]:
        """Diagnostics of a step from v [P] that gave `weights` [K] to the uploads deltas [K, P]."""
        return {}

    def after_step(self, v: Tensor, v_next: Tensor, round: int) -> Tensor:
        """The vector [P] that is broadcast next when the method went from v to v_next."""
        return v_next

    def readable(self, v: Tensor) -> Tensor:
        """theta [M, P] of the model that v [M, P] stands for; differentiable, and flat along what v does not use."""
        return v


@dataclass(frozen=True)
class Factor(Averaging):
    """Averages A and B apart, as FedIT does (Zhang et al. 2024); what that loses is logged in every round.

    layers: adapted layer -> (fan_in, n_out); seed: for those that draw factors anew.
    """

    lora: LoRA
    layers: Mapping[str, tuple[int, int]]
    seed: int

    offsets: ClassVar[bool] = False
    exact: ClassVar[bool] = False  # whether nothing is lost of fresh uploads from a common start

    def log(self, v: Tensor, weights: np.ndarray, deltas: Tensor) -> dict[str, float]:
        """residual: ||R||_F over all layers, as a part of the norm of the factors' exact product, and of
        the exact step (residual_step)."""
        beta = torch.as_tensor(weights, dtype=deltas.dtype, device=deltas.device)
        now, moves = self.model.unflatten(v[None]), self.model.unflatten(deltas)
        lost = product = step = 0.0
        for layer in self.layers:
            (a,), (b,) = now[f"{layer}.A"], now[f"{layer}.B"]
            da, db = moves[f"{layer}.A"], moves[f"{layer}.B"]
            mean_a, mean_b = torch.tensordot(beta, da, 1), torch.tensordot(beta, db, 1)
            left = (da * beta[:, None, None]).transpose(0, 1).flatten(1), mean_a, a
            squared = _squared_norms(left, ((db - mean_b).flatten(0, 1), b, mean_b))
            lost, step, product = lost + squared[0], step + squared[1], product + squared[2]
        wholes = {"residual": product, "residual_step": step}
        return {name: (lost / whole) ** 0.5 if whole > 0 else 0.0 for name, whole in wholes.items()}

    def traffic(self, arrived: int) -> tuple[int, int]:
        """Numbers each client sends and gets per round if `arrived` are heard, for a method that sends one vector."""
        size = self.factor_size() + self.head_size()
        return size, size

    def factor_size(self) -> int:
        return sum(self.lora.rank * (fan_in + n_out) for fan_in, n_out in self.layers.values())

    def head_size(self) -> int:
        return sum(prod(shape) for shape in head_of(self.model.shapes).values())

    def _put(self, v: Tensor, blocks: Mapping[str, Tensor]) -> Tensor:
        """Copy of v [M, P] with some parameters replaced."""
        return self.model.flatten(self.model.unflatten(v) | blocks)


@dataclass(frozen=True)
class OneSided(Factor):
    """A stays at its common random start, B is trained (FFA-LoRA, Sun et al. 2024): exact for any weights."""

    exact: ClassVar[bool] = True

    def held(self, round: int) -> frozenset[str]:
        return frozenset(f"{layer}.A" for layer in self.layers)

    def after_step(self, v: Tensor, v_next: Tensor, round: int) -> Tensor:
        """Without what a method with a memory would do to the held factors."""
        old = self.model.unflatten(v[None])
        return self._put(v_next[None], {name: old[name] for name in self.held(round)})[0]

    def traffic(self, arrived: int) -> tuple[int, int]:
        size = self.head_size() + sum(self.lora.rank * n_out for _, n_out in self.layers.values())
        return size, size


@dataclass(frozen=True)
class Alternating(OneSided):
    """B in the first round, A in the next, and so on (RoLoRA, Chen et al. 2025): exact in each, as the other factor is
    common. The parity is the round's, not the client's: whoever missed rounds gets both factors anew."""

    def held(self, round: int) -> frozenset[str]:
        return frozenset(f"{layer}.{'B' if round % 2 else 'A'}" for layer in self.layers)

    def traffic(self, arrived: int) -> tuple[int, int]:
        """Up: half of the factors, on average over two rounds; down: both, for those who missed the last round."""
        return self.factor_size() // 2 + self.head_size(), self.factor_size() + self.head_size()


@dataclass(frozen=True)
class Residual(Factor):
    """Averages the factors and puts what that loses into the frozen weights (FedEx-LoRA, Singhal et al. 2025): exact.

    The residual travels to the clients: at most a product of rank `arrived` times r per layer.
    """

    offsets: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    def local_start(self, v: Tensor, round: int) -> Tensor:
        if len(v) > 1 and v.stride(0) == 0:  # one vector for all
            return self.local_start(v[:1], round).expand(len(v), -1)
        parts = self.model.unflatten(v)
        offsets = {f"{k}.offset": parts[f"{k}.offset"] - self._product(parts, k) for k in self.layers}
        return self._put(v, offsets)

    def as_upload(self, theta: Tensor, delta: Tensor) -> Tensor:
        before, after = self.model.unflatten(theta), self.model.unflatten(theta + delta)
        dense = {f"{k}.offset": self._product(after, k) - self._product(before, k) for k in self.layers}
        return self._put(delta, dense | self._unused(delta))

    def readable(self, v: Tensor) -> Tensor:
        """Factors zero and W as the offset: the gradient along the factors is zero, along W it is that of the layer."""
        return self._put(v, self._zero_factors(v))

    def traffic(self, arrived: int) -> tuple[int, int]:
        r, up = self.lora.rank, self.factor_size() + self.head_size()
        residual = sum(min(arrived * r * (fan_in + n_out), fan_in * n_out) for fan_in, n_out in self.layers.values())
        return up, up + residual

    def _product(self, parts: Mapping[str, Tensor], layer: str) -> Tensor:
        return self.lora.scale * (parts[f"{layer}.A"] @ parts[f"{layer}.B"])

    def _zero_factors(self, v: Tensor) -> dict[str, Tensor]:
        parts = self.model.unflatten(v)
        return {name: torch.zeros_like(parts[name]) for k in self.layers for name in (f"{k}.A", f"{k}.B")}

    def _unused(self, delta: Tensor) -> dict[str, Tensor]:
        """Blocks of an upload that the method is not to see."""
        return {}


@dataclass(frozen=True)
class Stacked(Residual):
    """Stacks the factors of all uploads, which multiplies out to the mean of the products, merges it into the frozen
    weights and starts the next round with new factors (FLoRA, Wang et al. 2024): exact."""

    def local_start(self, v: Tensor, round: int) -> Tensor:
        rng, fresh = stream(self.seed, "adapters", 1 + round), self._zero_factors(v)
        for name in (f"{layer}.A" for layer in self.layers):
            spread = self.model.parameters[name].std
            drawn = spread * rng.standard_normal(fresh[name].shape[1:], dtype=np.float32)
            fresh[name] = torch.from_numpy(drawn).to(v).expand_as(fresh[name])
        return self._put(v, fresh)

    log = Averaging.log

    def traffic(self, arrived: int) -> tuple[int, int]:
        up, down = super().traffic(arrived)
        return up, down - self.factor_size()

    def _unused(self, delta: Tensor) -> dict[str, Tensor]:
        return self._zero_factors(delta)


@dataclass(frozen=True)
class Truncated(Residual):
    """The mean of the products, cut back to rank r by its singular values (FlexLoRA, Bai et al. 2024), split evenly
    between the factors. What is cut is lost, and not logged; exact where the mean has rank r already. The offset is
    zero except for methods that keep vectors of their own."""

    exact: ClassVar[bool] = False

    def after_step(self, v: Tensor, v_next: Tensor, round: int) -> Tensor:
        parts = self.model.unflatten(v_next[None])
        blocks: dict[str, Tensor] = {}
        for layer in self.layers:
            dense = parts[f"{layer}.offset"][0]
            if dense.any():  # the bare start has no singular vectors: it keeps its random A
                u, s, vh = torch.linalg.svd(dense / self.lora.scale, full_matrices=False)
                root, r = s.sqrt(), self.lora.rank
                blocks[f"{layer}.A"] = (u * root)[None, :, :r]
                blocks[f"{layer}.B"] = (root[:, None] * vh)[None, :r]
                blocks[f"{layer}.offset"] = self._product(blocks, layer)
        return self._put(v_next[None], blocks)[0]

    log, traffic, _unused = Averaging.log, Factor.traffic, Stacked._unused


AGGREGATIONS: Mapping[str, type[Factor]] = {
    "factor": Factor,
    "one_sided": OneSided,
    "alternating": Alternating,
    "residual": Residual,
    "stacked": Stacked,
    "truncated": Truncated,
}


def _squared_norms(left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> tuple[float, ...]:
    """Squared norms of what is lost, of the exact step and of the product after it, all [n, m].

    left: beta_k dA_k side by side [n, K r], their sum dA, and A [n, r]; right: dB_k - dB one under the other [K r, m],
    B, and dB [r, m], the mean. As sum_k beta_k dA_k dB_k = left[0] right[0] + dA dB, the first is left[0] right[0], to
    which the others add dA B + dA dB + A dB, and A B. With U = left, V = right and a C that says what is multiplied,
    ||U C V||^2 = <C' U'U C, V V'>: no matrix is [n, m]. In double precision, as these are sums of both signs.
    """
    u, v = torch.cat(left, dim=1).double(), torch.cat(right).double()
    inner_u, inner_v = u.mT @ u, v @ v.mT
    size, rank = left[0].shape[1], left[1].shape[1]
    one, lost = (torch.eye(count, dtype=u.dtype, device=u.device) for count in (rank, len(v)))
    first, second = slice(size, size + rank), slice(size + rank, None)
    lost[size:, size:] = 0
    step = lost.clone()
    step[first, first] = step[first, second] = step[second, second] = one
    product = step.clone()
    product[second, first] = one
    return tuple(float((c.mT @ inner_u @ c).mul(inner_v).sum().clamp_min(0)) for c in (lost, step, product))


def aggregation(name: str) -> type[Factor]:
    """The averaging of LoRA called `name`; InputError lists those that exist."""
    require_known("LoRA aggregation", name, AGGREGATIONS)
    return AGGREGATIONS[name]


def initial_vector(averaging: Factor, w0: Tensor, base: Model) -> Tensor:
    """v_0 [P]: random A, B = 0, the head of the base model's start w0, no update of the weights."""
    model = averaging.model
    drawn = model.unflatten(model.init(stream(averaging.seed, "adapters"))[None].to(w0))
    return model.flatten(drawn | head_of(base.unflatten(w0[None])))[0]


def lora_averaging(name: str, adapted: Adapted, lora: LoRA, seed: int) -> Factor:
    """The averaging `name` over what `models.adapt` gave."""
    return aggregation(name)(adapted.model, lora, adapted.layers, seed)
