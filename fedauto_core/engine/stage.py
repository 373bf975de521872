"""The last stage of MobileNetV2 with LoRA that `stage_kernels` knows: what it reads besides theta and the images.

The frozen convolution comes first, so what it makes of an image depends on the data only. It is computed when the image
is first drawn, and kept: a step then costs what the factors and the classifier cost.
"""

from collections import OrderedDict
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedauto_core.models.adapters import adapted_forward
from fedauto_core.models.mobilenet import POOLED_SCALE
from fedauto_core.models.model import Model

from .chains import starts, whole_lanes

ABSENT = -1
KEPT = 3  # sets of images whose products are kept: for training, for evaluation, and public ones that are scored


class Stage(NamedTuple):
    """relu6(x (W + scale A B + offset) * channel scale + shift), its mean over positions, a linear classifier. Places
    are in theta [P]."""

    channels: int
    positions: int
    width: int
    classes: int
    padded: int  # classes as a multiple of LANES
    rank: int
    padded_rank: int
    lora_scale: float
    share: float  # of a position in what the classifier reads
    a_at: int  # [channels, rank]
    b_at: int  # [rank, width]
    offset_at: int  # [channels, width], or ABSENT
    head_at: int  # [width, classes]
    bias_at: int


class Frozen(NamedTuple):
    """weight: [channels * width], times the channels' scales; scale, shift: [width]; kept: [n * positions * width],
    what the convolution makes of n images, of those that are `ready` [n]."""

    weight: NDArray
    scale: NDArray
    shift: NDArray
    kept: NDArray
    ready: NDArray[np.bool_]


def fits(model: Model, theta: Tensor) -> bool:
    """Whether it is the stage with LoRA on its convolution, frozen in theta's type."""
    base = adapted_forward(model)
    return base is not None and model.name == "mobilenet_stage-lora" and base.frozen["conv.weight"].dtype == theta.dtype


def input_shape(model: Model) -> tuple[int, ...]:
    return tuple(model.input_shape)


def _stage(model: Model) -> Stage:
    shapes, at = model.shapes, starts(model.shapes)
    channels, rank = shapes["conv.A"]
    width, classes = shapes["head.weight"]
    positions = prod(model.input_shape[1:])
    return Stage(
        channels=channels,
        positions=positions,
        width=width,
        classes=classes,
        padded=whole_lanes(classes),
        rank=rank,
        padded_rank=whole_lanes(rank),
        lora_scale=float(adapted_forward(model).scale),
        share=1 / (positions * POOLED_SCALE),
        a_at=at["conv.A"],
        b_at=at["conv.B"],
        offset_at=at.get("conv.offset", ABSENT),
        head_at=at["head.weight"],
        bias_at=at["head.bias"],
    )


_frozen: OrderedDict[tuple, tuple[tuple[Tensor, ...], Frozen]] = OrderedDict()  # the latest used last


def arguments(model: Model, x: Tensor) -> tuple[Stage, Frozen]:
    """The last two arguments of a kernel for images x [n, ...].

    What is kept takes positions * width numbers (46 KB) for each image that was drawn. It belongs to the memory of the
    images and of the frozen parts, to which it holds on, so that no other tensor can come to lie there; torch counts
    what is written into them (what NumPy writes, it does not see). That of other frozen parts is given up.
    """
    weights, stage = adapted_forward(model).frozen, _stage(model)
    parts = [weights[f"conv.{name}"].detach()[0] for name in ("weight", "scale", "shift")]
    images, network = _identity(x), tuple(map(_identity, parts))
    if (images, network) not in _frozen:
        for other in [key for key in _frozen if key[1] != network] or list(_frozen)[: len(_frozen) + 1 - KEPT]:
            del _frozen[other]
        weight, scale, shift = parts
        kept = np.empty(len(x) * stage.positions * stage.width, scale.numpy().dtype)
        numbers = (weight * scale).flatten().numpy(), scale.numpy(), shift.numpy(), kept, np.zeros(len(x), np.bool_)
        _frozen[images, network] = (x, *parts), Frozen(*numbers)
    _frozen.move_to_end((images, network))
    return stage, _frozen[images, network][1]


def _identity(tensor: Tensor) -> tuple[object, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor._version
