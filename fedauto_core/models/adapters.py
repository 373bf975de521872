"""LoRA: a smaller set of trainable parameters over a frozen model."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from fedauto_core.errors import require, require_number

from .architectures import Parameter, Step, matrix_shape, run_steps
from .layers import LowRank, Weights
from .model import Model, head_of


@dataclass(frozen=True)
class LoRA:
    """Low-rank adaptation (Hu et al. 2022): weights W + (alpha / rank) A B with trainable A and B, and a trainable
    classifier ("head.*"); everything else is frozen.

    Parameters
    ----------
    rank : r, columns of A and rows of B
    alpha : numerator of the scale
    targets : patterns (`fnmatch`) of the dense layers and convolutions that are adapted, as in "layer3.qkv", "layer3.*"
        (a text is one pattern)

    Raises
    ------
    InputError : for a rank or an alpha that is not positive
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]

    def __post_init__(self) -> None:
        require_number("LoRA rank", self.rank, low=1, strict=False, whole=True, remedy="choose a rank such as 4")
        require_number("LoRA alpha", self.alpha, remedy="choose an alpha such as twice the rank")
        patterns = (self.targets,) if isinstance(self.targets, str) else tuple(self.targets)
        object.__setattr__(self, "targets", patterns)

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def adapted_layers(model: Model, lora: LoRA) -> dict[str, tuple[int, int]]:
    """Layer -> (fan_in, n_out) of the layers that `lora` adapts, in the model's order.

    InputError if a pattern fits no layer (lists those that exist), or the rank exceeds the smaller dimension of one.
    """
    layers = {
        name.removesuffix(".weight"): matrix_shape(shape)
        for name, shape in model.shapes.items()
        if name.endswith(".weight") and not name.startswith("head.") and len(shape) in (2, 4)
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
    `input_shape`, that of the images. trunk: inputs [n, ...] -> activations [n, ...] of the frozen steps.
    layers: adapted layer -> (fan_in, n_out); n_frozen: steps that `trunk` runs.
    """

    model: Model
    trunk: Callable[[Tensor], Tensor]
    layers: Mapping[str, tuple[int, int]]
    n_frozen: int


@dataclass(frozen=True, eq=False)
class AdaptedForward:
    """All that an adapted model does, the frozen weights name -> [1, *shape] included: the `steps` of the model that is
    adapted, behind the first `n_frozen`, as a single one."""

    frozen: Mapping[str, Tensor]
    layers: tuple[str, ...]
    scale: float
    steps: tuple[Step, ...]
    n_frozen: int

    def __call__(self, p: Weights, x: Tensor) -> Tensor:
        adapted = {f"{layer}.weight": self._low_rank(p, layer) for layer in self.layers}
        return run_steps(self.steps[self.n_frozen :], {**self.frozen, **adapted, **head_of(p)}, x)

    def _low_rank(self, p: Weights, layer: str) -> LowRank:
        weight, a, b = self.frozen[f"{layer}.weight"], p[f"{layer}.A"], p[f"{layer}.B"]
        return LowRank(weight, a, b, self.scale, p.get(f"{layer}.offset"))


def adapted_forward(model: Model) -> AdaptedForward | None:
    """What `adapt` has made of a model; None for one that is not adapted."""
    first = model.steps[0].apply
    return first if isinstance(first, AdaptedForward) else None


def adapt(model: Model, theta: Tensor, lora: LoRA, *, offsets: bool = False) -> Adapted:
    """`lora` over the frozen weights theta [P] of `model`, which are kept once whatever the number of models trained.

    offsets: with an offset for each layer, for aggregates that no product of rank r can hold.
    A starts normal with PEFT's variance 1 / (3 fan_in), B with zeros. InputError as in `adapted_layers`.
    """
    layers = adapted_layers(model, lora)
    frozen = {n: part.clone() for n, part in model.unflatten(theta[None]).items() if not n.startswith("head.")}
    n_frozen = _first_trained(model, layers)
    factors: dict[str, Parameter] = {}
    for layer, (fan_in, n_out) in layers.items():
        factors[f"{layer}.A"] = Parameter((fan_in, lora.rank), sqrt(1 / (3 * fan_in)))
        factors[f"{layer}.B"] = Parameter((lora.rank, n_out), 0.0)
    offset = {f"{layer}.offset": Parameter(matrix, 0.0) for layer, matrix in layers.items()} if offsets else {}
    parameters = factors | head_of(model.parameters) | offset

    @torch.no_grad()
    def trunk(x: Tensor) -> Tensor:
        return run_steps(model.steps[:n_frozen], frozen, x[None])[0]

    name = f"{model.name}-lora"
    steps = (Step(("",), AdaptedForward(frozen, tuple(layers), lora.scale, model.steps, n_frozen)),)
    network = Model(name, model.input_shape, model.n_classes, parameters, steps, frozen=frozenset(offset))
    return Adapted(network, trunk, layers, n_frozen)


def _first_trained(model: Model, layers: Iterable[str]) -> int:
    """Index of the first step that uses an adapted layer or the head."""
    touched = (*(f"{layer}." for layer in layers), "head.")
    names = [name for name in model.parameters if name.startswith(touched)]
    return next(i for i, step in enumerate(model.steps) if any(name.startswith(step.prefixes) for name in names))
