"""The vision transformer with LoRA that `transformer_kernels` knows, and where in its flat arrays everything lies.

Activations are [samples, tokens, width], in short [rows, width]. An offset is the distance of a number from the start
of its array.
"""

from math import prod
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedauto_core.models.adapters import adapted_forward
from fedauto_core.models.architectures import VIT_HEADS, VIT_LAYERS
from fedauto_core.models.model import Model

from .chains import LANES, Builder, Span, scratch, starts, whole_lanes

ABSENT = -1
DENSE = "qkv", "out", "up", "down"  # of a block, in the order in which it is passed
NORM_BEFORE = {"qkv": "norm1", "up": "norm2"}
SAMPLES = 5  # that run together: what a block keeps of them fits the second cache


class BlockLayer(NamedTuple):
    """A dense layer x W + bias: parts of the frozen weights [Q] and, where it is adapted, of theta [P]."""

    n_in: int
    n_out: int
    weight: int  # [n_in, n_out] in the frozen weights
    bias: int
    scale: int  # of the norm before it, or ABSENT
    shift: int
    rank: int  # 0: not adapted
    a_at: int  # [n_in, rank] in theta
    b_at: int  # [rank, n_out]
    offset_at: int  # [n_in, n_out], or ABSENT
    padded_at: int  # its padded factors: A [n_in, padded rank], A's gradient, scale B' [n_out, padded rank]


class Net(NamedTuple):
    """A chain of pre-norm blocks, h + out(attention(qkv(norm h))) and then h + down(relu(up(norm h))), a norm, the mean
    over tokens, and a linear classifier. A span that several share is each one's (`products.part`)."""

    blocks: int
    first: int  # block that is run, and those behind it
    lowest: int  # of the first block's dense layers: below it nobody needs a gradient
    tokens: int
    width: int
    heads: int
    classes: int
    padded: int  # classes as a multiple of LANES
    rank: int  # as a multiple of LANES
    lora_scale: float
    scale: int  # of the last norm, in the frozen weights
    shift: int
    head_weight: int  # [width, classes] in theta
    head_bias: int
    # Offsets: 0, s, 2 s, ... for a stride s
    ones: Span
    ranks: Span
    by_token: Span
    by_class: Span
    widths: Span  # of one, two and three widths
    # Numbers of each norm, two of every block and the last, or of each block
    normed: Span  # [rows * width], before scale and shift
    deviations: Span  # [rows], inverse
    inputs: Span  # [rows * width], after scale and shift
    qkv: Span  # [rows * 3 width]
    attended: Span  # [samples * heads * tokens * tokens], weights of the attention
    mixed: Span  # [rows * width], what it gives
    hidden: Span  # [rows * 2 width], after the ReLU
    # Numbers
    stream: Span  # [rows * width], on the way back the gradient with respect to it
    wide: Span  # [rows * 3 width], gradients
    below: Span  # [rows * width], gradients
    slopes: Span  # [tokens * tokens]
    turned: Span  # [width * tokens], keys or values of a head, transposed
    narrow: Span  # [rows * padded rank], of the input and of the gradient
    pooled: Span  # [samples * width]
    scores: Span  # [samples * padded classes]
    weights: Span  # [Q], the frozen ones, those of adapted layers as they are now
    transposed: Span  # [Q], every layer's transposed
    factors: Span  # of all adapted layers, padded: see `BlockLayer`
    head: Span  # [width * padded classes]
    head_transposed: Span  # [classes * width]
    bias: Span  # [padded classes]
    head_sums: Span  # [width * padded classes]


class TransformerLayout(NamedTuple):
    """layers [blocks * 4, fields of `BlockLayer`]; table: all offsets; size: how many numbers the scratch array has."""

    net: Net
    layers: NDArray[np.int64]
    table: NDArray[np.uint64]
    size: int


def fits(model: Model, theta: Tensor) -> bool:
    """Whether it is a ViT with LoRA whose embedding is frozen, in theta's type, and whose rows are whole vectors."""
    base = adapted_forward(model)
    if base is None or model.name != "vit-lora" or base.n_frozen == 0 or base.frozen["position"].dtype != theta.dtype:
        return False
    tokens, width = input_shape(model)
    return tokens % LANES == 0 and width % (VIT_HEADS * LANES) == 0


def input_shape(model: Model) -> tuple[int, ...]:
    """(tokens, width) of what the frozen steps give."""
    return tuple(adapted_forward(model).frozen["position"].shape[1:])


def _frozen_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape[1:]) for name, weight in adapted_forward(model).frozen.items()}


def _dense_layers(model: Model) -> list[BlockLayer]:
    shapes, at, padded_at = model.shapes, starts(model.shapes), 0
    frozen, found = _frozen_shapes(model), []
    place = starts(frozen)
    for block in (f"layer{i}" for i in range(VIT_LAYERS)):
        for part in DENSE:
            name, norm = f"{block}.{part}", f"{block}.{NORM_BEFORE.get(part)}"
            before = (place.get(f"{norm}.{what}", ABSENT) for what in ("scale", "shift"))
            rank = shapes.get(f"{name}.A", (0, 0))[1]
            trained = (at.get(f"{name}.{what}", ABSENT) for what in ("A", "B", "offset"))
            n_in, n_out = frozen[f"{name}.weight"]
            own = place[f"{name}.weight"], place[f"{name}.bias"]
            found.append(BlockLayer(n_in, n_out, *own, *before, rank, *trained, padded_at))
            padded_at += (2 * n_in + n_out) * whole_lanes(rank)
    return found


def layout(model: Model) -> TransformerLayout:
    """For a model that `fits`. Not kept: adapted models are equal whatever their adapted layers."""
    layers, at = _dense_layers(model), starts(model.shapes)
    frozen = _frozen_shapes(model)
    place, size = starts(frozen), sum(map(prod, frozen.values()))
    first = adapted_forward(model).n_frozen - 1  # behind the embedding
    lowest = next(i for i, layer in enumerate(layers[len(DENSE) * first :]) if layer.rank)
    tokens, width = input_shape(model)
    rank, padded = max(whole_lanes(layer.rank) for layer in layers), whole_lanes(model.n_classes)
    rows, norms = SAMPLES * tokens, 2 * VIT_LAYERS + 1
    size_of_factors = sum((2 * layer.n_in + layer.n_out) * whole_lanes(layer.rank) for layer in layers)

    new, count = Builder(), max(rows, 3 * width, padded)
    widths, *_ = (new.offsets((count, n * width)) for n in (1, 2, 3))  # one behind the other
    net = Net(
        blocks=VIT_LAYERS,
        first=first,
        lowest=lowest,
        tokens=tokens,
        width=width,
        heads=VIT_HEADS,
        classes=model.n_classes,
        padded=padded,
        rank=rank,
        lora_scale=float(adapted_forward(model).scale),
        scale=place["norm.scale"],
        shift=place["norm.shift"],
        head_weight=at["head.weight"],
        head_bias=at["head.bias"],
        ones=new.offsets((count, 1)),
        ranks=new.offsets((count, rank)),
        by_token=new.offsets((tokens, tokens)),
        by_class=new.offsets((width, padded)),
        widths=widths,
        normed=new.numbers(rows * width, norms),
        deviations=new.numbers(rows, norms),
        inputs=new.numbers(rows * width, norms),
        qkv=new.numbers(rows * 3 * width, VIT_LAYERS),
        attended=new.numbers(rows * VIT_HEADS * tokens, VIT_LAYERS),
        mixed=new.numbers(rows * width, VIT_LAYERS),
        hidden=new.numbers(rows * 2 * width, VIT_LAYERS),
        stream=new.numbers(rows * width),
        wide=new.numbers(rows * 3 * width),
        below=new.numbers(rows * width),
        slopes=new.numbers(tokens**2),
        turned=new.numbers(width * tokens),
        narrow=new.numbers(rows * rank, 2),
        pooled=new.numbers(SAMPLES * width),
        scores=new.numbers(SAMPLES * padded),
        weights=new.numbers(size),
        transposed=new.numbers(size),
        factors=new.numbers(size_of_factors),
        head=new.numbers(width * padded),
        head_transposed=new.numbers(width * model.n_classes),
        bias=new.numbers(padded),
        head_sums=new.numbers(width * padded),
    )
    return TransformerLayout(net, np.array(layers, dtype=np.int64), np.concatenate(new.tables), new.size)


def arguments(model: Model, x: Tensor) -> tuple:
    """The last five arguments of a kernel, for any images x: net, layers, table, the frozen weights [Q], scratch."""
    net, layers, table, size = layout(model)
    frozen = torch.cat([weight.flatten() for weight in adapted_forward(model).frozen.values()]).detach().numpy()
    return net, layers, table, frozen, scratch(size, frozen.dtype)
