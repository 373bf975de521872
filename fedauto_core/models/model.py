"""A model as a function of flat parameter vectors.

A set of weights is one flat vector theta [P], a stack of them theta [M, P].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedauto_core.errors import require, require_known
from fedauto_core.models.architectures import ARCHITECTURES, DENSE_CHAINS, Parameter, Step
from fedauto_core.models.layers import Weights


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
        for step in self.steps:
            x = step.apply(weights, x)
        return x

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: parameter.shape for name, parameter in self.parameters.items()}

    @property
    def n_parameters(self) -> int:
        return sum(prod(shape) for shape in self.shapes.values())

    def init(self, rng: np.random.Generator) -> Tensor:
        """Random start theta [P], float32: normal weights with variance gain / fan_in (gain 2 before a ReLU, He et al.
        2015, else 1), biases 0, norm scales 1."""
        return torch.cat([_draw(parameter, rng) for parameter in self.parameters.values()])

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


def _draw(parameter: Parameter, rng: np.random.Generator) -> Tensor:
    values = rng.standard_normal(prod(parameter.shape), dtype=np.float32)
    return torch.from_numpy(parameter.mean + parameter.std * values)


def build_model(name: str, input_shape: tuple[int, int, int], n_classes: int) -> Model:
    """Model `name` for images (channels, side, side). InputError lists the names or the sides allowed."""
    require_known("model", name, ARCHITECTURES)
    entry = ARCHITECTURES[name]
    suitable = [known for known, other in ARCHITECTURES.items() if other.takes(input_shape)]
    require(
        entry.takes(input_shape),
        f"input shape {tuple(input_shape)} for model {name!r}",
        allowed=entry.inputs,
        remedy=f"choose a model that takes this shape ({', '.join(suitable) or 'none does'}) or resize the images",
    )
    require(
        n_classes >= 2,
        f"n_classes = {n_classes}",
        allowed="integers >= 2",
        remedy="pass the dataset's number of classes",
    )
    parameters, steps = entry.build(input_shape[0], input_shape[2], n_classes)
    return Model(name, tuple(input_shape), n_classes, parameters, steps, DENSE_CHAINS.get(name, ()))


def nonconvex_softmax_loss(theta: Tensor, x: Tensor, y: Tensor, mu: float) -> Tensor:
    """The theory's objective: mean cross-entropy of softmax regression + mu * sum_k theta_k^2 / (1 + theta_k^2).

    theta: [..., n_features * C + C] as of model "softmax" (weights, then biases; both are regularised);
    x: [n, n_features]; y: int64 [n]. Returns [...], differentiable at any order, in the dtype of theta.
    """
    d = x.shape[1]
    n_classes = theta.shape[-1] // (d + 1)
    logits = x @ theta[..., : d * n_classes].unflatten(-1, (d, n_classes)) + theta[..., None, d * n_classes :]
    losses = F.cross_entropy(logits.flatten(0, -2), y.repeat(theta[..., 0].numel()), reduction="none")
    square = theta.square()
    return losses.view(*theta.shape[:-1], -1).mean(dim=-1) + mu * (square / (1 + square)).sum(dim=-1)
