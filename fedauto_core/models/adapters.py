"""LoRA: a smaller set of trainable parameters over a frozen model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod, sqrt
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedauto_core.errors import require
from fedauto_core.models.architectures import Parameter, Step
from fedauto_core.models.layers import LowRank, Weights
from fedauto_core.models.model import Model


@dataclass(frozen=True)
class LoRA:
    """Low-rank adaptation (Hu et al. 2022): weights W + (alpha / rank) A B with trainable A and B, and a trainable
    classifier ("head.*"); everything else is frozen.

    targets: patterns (`fnmatch`) of the layers that are adapted, as in "layer3.qkv" or "layer3.*"; dense layers and
    convolutions are, norms are passed over.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]

    def __post_init__(self) -> None:
        require(
            isinstance(self.rank, int) and self.rank >= 1,
            f"LoRA rank = {self.rank}",
            allowed="integers >= 1",
            remedy="choose a rank such as 4",
        )
        require(
            0 < self.alpha < np.inf,
            f"LoRA alpha = {self.alpha}",
            allowed="finite numbers > 0",
            remedy="choose an alpha such as twice the rank",
        )

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def _matrix_shape(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """(fan_in, n_out) of a dense weight [n_in, n_out] or a kernel [n_out, n_in, k, k]; None for anything else."""
    return shape if len(shape) == 2 else (prod(shape[1:]), shape[0]) if len(shape) == 4 else None


def adapted_layers(model: Model, lora: LoRA) -> dict[str, tuple[int, int]]:
    """Layer -> (fan_in, n_out) of the layers that `lora` adapts, in the model's order.

    InputError if a pattern fits no layer (lists those that exist), or the rank exceeds the smaller dimension of one.
    """
    layers = {
        name.removesuffix(".weight"): matrix
        for name, shape in model.shapes.items()
        if name.endswith(".weight") and not name.startswith("head.") and (matrix := _matrix_shape(shape))
    }
    for pattern in lora.targets:
        require(
            any(fnmatchcase(layer, pattern) for layer in layers),
            f"LoRA target {pattern!r} fits no layer of model {model.name!r}",
            allowed=f"patterns of {', '.join(layers) or 'no layer: it has none besides its head'}",
            remedy="name a layer of the list, or a pattern such as 'layer3.*'",
        )
    require(len(lora.targets) > 0, "LoRA without targets", allowed=", ".join(layers), remedy="name at least one layer")
    chosen = {n: m for n, m in layers.items() if any(fnmatchcase(n, pattern) for pattern in lora.targets)}
    for layer, matrix in chosen.items():
        require(
            lora.rank <= min(matrix),
            f"LoRA rank = {lora.rank} for layer {layer!r} of {matrix[0]} x {matrix[1]}",
            allowed=f"1..{min(matrix)}",
            remedy="lower the rank or leave this layer out of the targets",
        )
    return chosen


class Adapted(NamedTuple):
    """A model whose trainable parameters are the factors and the head, and its frozen beginning.

    model: parameters "<layer>.A" [fan_in, r], "<layer>.B" [r, n_out] of each adapted layer, then the head's, then,
    where asked for, "<layer>.offset" [fan_in, n_out], which is never trained. Its inputs are what `trunk` gives, not
    `input_shape`, that of the images.
    layers: adapted layer -> (fan_in, n_out); n_frozen: steps that `trunk` runs.
    """

    model: Model
    trunk: Callable[[Tensor], Tensor]
    layers: Mapping[str, tuple[int, int]]
    n_frozen: int


def adapt(model: Model, theta: Tensor, lora: LoRA, *, offsets: bool = False) -> Adapted:
    """`lora` over the frozen weights theta [P] of `model`, which are kept once whatever the number of models trained.

    offsets: with an offset for each layer, for aggregates that no product of rank r can hold.
    A starts normal with PEFT's variance 1 / (3 fan_in), B with zeros. InputError as in `adapted_layers`.
    """
    layers = adapted_layers(model, lora)
    parts = model.unflatten(theta[None])
    frozen = {name: part.clone() for name, part in parts.items() if not name.startswith("head.")}
    touched = (*(f"{layer}." for layer in layers), "head.")
    n_frozen = next(
        index
        for index, step in enumerate(model.steps)
        if any(name.startswith(step.prefixes) and name.startswith(touched) for name in model.parameters)
    )

    factors: dict[str, Parameter] = {}
    for layer, (fan_in, n_out) in layers.items():
        factors[f"{layer}.A"] = Parameter((fan_in, lora.rank), sqrt(1 / (3 * fan_in)))
        factors[f"{layer}.B"] = Parameter((lora.rank, n_out), 0.0)
    head = {name: parameter for name, parameter in model.parameters.items() if name.startswith("head.")}
    offset = {f"{layer}.offset": Parameter(matrix, 0.0) for layer, matrix in layers.items()} if offsets else {}

    def weights(p: Weights) -> dict[str, Tensor | LowRank]:
        adapted = {
            f"{layer}.weight": LowRank(
                frozen[f"{layer}.weight"],
                p[f"{layer}.A"],
                p[f"{layer}.B"],
                lora.scale,
                p.get(f"{layer}.offset"),
            )
            for layer in layers
        }
        return frozen | adapted | {name: p[name] for name in head}

    def behind_trunk(p: Weights, x: Tensor) -> Tensor:
        w = weights(p)
        for step in model.steps[n_frozen:]:
            x = step.apply(w, x)
        return x

    @torch.no_grad()
    def trunk(x: Tensor) -> Tensor:
        x = x[None]
        for step in model.steps[:n_frozen]:
            x = step.apply(frozen, x)
        return x[0]

    network = Model(
        f"{model.name}-lora",
        model.input_shape,
        model.n_classes,
        factors | head | offset,
        (Step(("",), behind_trunk),),
        frozen=frozenset(offset),
    )
    return Adapted(network, trunk, layers, n_frozen)
