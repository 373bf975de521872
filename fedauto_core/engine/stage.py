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
KEPT = 3  # sets of images whose products are kept: those of training, those of evaluation, and one more


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


_frozen: OrderedDict[tuple, tuple[tuple[Tensor, Tensor], Frozen]] = OrderedDict()


def arguments(model: Model, x: Tensor) -> tuple[Stage, Frozen]:
    """The last two arguments of a kernel for images x [n, ...].

    What is kept belongs to the memory of the images and of the frozen weights; it is held on to, so that no other
    tensor can come to lie there.
    """
    weights, stage = adapted_forward(model).frozen, _stage(model)
    weight, scale, shift = (weights[f"conv.{name}"][0] for name in ("weight", "scale", "shift"))
    owners = x, weight
    key = tuple((tensor.data_ptr(), tuple(tensor.shape), tensor._version) for tensor in owners)
    if key not in _frozen:
        flat = (weight * scale).flatten().numpy()
        kept = np.empty(len(x) * stage.positions * stage.width, flat.dtype)
        parts = Frozen(flat, scale.numpy(), shift.numpy(), kept, np.zeros(len(x), np.bool_))
        _frozen[key] = owners, parts
    _frozen.move_to_end(key)
    while len(_frozen) > KEPT:
        _frozen.popitem(last=False)
    return stage, _frozen[key][1]
