"""A model as a function of flat parameter vectors: one set of weights is theta [P], a stack of them theta [M, P]."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from fedauto_core.errors import require, require_known, require_number

from .architectures import ARCHITECTURES, DENSE_CHAINS, Parameter, Step, run_steps
from .layers import Weights

T = TypeVar("T")


@dataclass(frozen=True)
class Model:
    """One architecture. `parameters` fixes the order of the flat vector theta [P]; dense weights are stored
    [n_in, n_out], convolution kernels [n_out, n_in, k, k].

    steps: the network as a chain. frozen: parameters that no training changes.
    """

    name: str
    input_shape: tuple[int, int, int]
    n_classes: int
    parameters: Mapping[str, Parameter] = field(compare=False, repr=False)
    steps: tuple[Step, ...] = field(compare=False, repr=False)
    dense_chain: tuple[str, ...] = ()
    """The layers' names where the model is dense layers with ReLUs between and nothing else (its gradient is short)."""
    frozen: frozenset[str] = frozenset()

    def forward(self, weights: Weights, x: Tensor) -> Tensor:
        """Logits [M, B, n_classes]; weights: name -> [M, *shape], x [M, B, *input_shape]."""
        return run_steps(self.steps, weights, x)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: parameter.shape for name, parameter in self.parameters.items()}

    @property
    def n_parameters(self) -> int:
        return sum(prod(shape) for shape in self.shapes.values())

    def init(self, rng: np.random.Generator) -> Tensor:
        """Random start theta [P], float32: normal weights with variance gain / fan_in (gain 2 before a ReLU, He et al.
        2015, else 1), biases 0, norm scales 1."""
        drawn = [
            mean + std * rng.standard_normal(prod(shape), dtype=np.float32)
            for shape, std, mean in self.parameters.values()
        ]
        return torch.from_numpy(np.concatenate(drawn))

    def unflatten(self, theta: Tensor) -> dict[str, Tensor]:
        """Views name -> [M, *shape] of theta [M, P]."""
        require(
            theta.ndim == 2 and theta.shape[1] == self.n_parameters,
            f"theta of shape {tuple(theta.shape)} for model {self.name!r}",
            allowed=f"[M, {self.n_parameters}]",
            remedy="pass one flat parameter vector per model",
        )
        parts = theta.split([prod(shape) for shape in self.shapes.values()], dim=1)
        return {name: part.unflatten(1, shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def flatten(self, parts: Mapping[str, Tensor]) -> Tensor:
        """theta [M, P], a copy, of name -> [M, *shape]; other names are passed over."""
        return torch.cat([parts[name].flatten(1) for name in self.shapes], dim=1)


def head_of(parts: Mapping[str, T]) -> dict[str, T]:
    """What is held of the classifier ("head.*"), of things by parameter name."""
    return {name: part for name, part in parts.items() if name.startswith("head.")}


def build_model(name: str, input_shape: tuple[int, int, int], n_classes: int) -> Model:
    """The model called `name`.

    Parameters
    ----------
    name : one of `ARCHITECTURES`
    input_shape : of one image, (channels, side, side); of a text (1, 1, tokens)
    n_classes : C >= 2

    Raises
    ------
    InputError : lists the names or the sides allowed
    """
    require_known("model", name, ARCHITECTURES)
    entry = ARCHITECTURES[name]
    suitable = [known for known, other in ARCHITECTURES.items() if other.takes(input_shape)]
    require(
        entry.takes(input_shape),
        f"input shape {tuple(input_shape)} for model {name!r}",
        allowed=entry.inputs,
        remedy=f"choose a model that takes this shape ({', '.join(suitable) or 'none does'}) or resize the images",
    )
    remedy = "pass the dataset's number of classes"
    require_number("n_classes", n_classes, low=2, strict=False, whole=True, remedy=remedy)
    parameters, steps = entry.build(input_shape[0], input_shape[2], n_classes)
    return Model(name, tuple(input_shape), n_classes, parameters, steps, DENSE_CHAINS.get(name, ()))
