"""The networks that `kernels` and `dense_kernels` know, and where in its flat arrays everything lies.

Images are channels last, with a margin of zeros where the convolution pads. An offset is the distance of a number from
the start of its array.
"""

import functools
from collections.abc import Collection, Mapping
from itertools import accumulate
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from fedauto_core.models.model import Model

LANES = 8  # numbers of a vector
SAMPLES = 16  # S, that run forward and backward together: their activations fit the second cache
LINE = 64  # bytes of a line of the caches
EPSILON = 1e-5  # of the norms, as in torch


def starts(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Where each begins that has one of these shapes, if they lie one behind the other."""
    return dict(zip(shapes, accumulate(map(prod, shapes.values()), initial=0), strict=False))


def whole_lanes(count: int) -> int:
    """The next multiple of LANES."""
    return -(-count // LANES) * LANES


class Chain(NamedTuple):
    """Both convolutions of a network: k x k, with 2x2 maxima behind them or not."""

    k: int
    stride: int
    margin: int
    pooled: bool


CHAINS = {"cnn": Chain(5, 1, 0, True), "cnn_small": Chain(3, 2, 1, False)}

Span = tuple[int, int]  # start and size of a part of one flat array; of each sample's part, where there are several


class Layer(NamedTuple):
    """Convolution to `width` channels, pooling, norm and ReLU: parts of the flat arrays of offsets and numbers.

    Positions of the convolution's output are p < P, after pooling q < Q; a tap is (row, column, channel) of a patch.
    A part is told by numbers: with an array for each, compiling would take minutes.
    """

    width: int
    pooled: bool
    channels: int
    margin: int
    weight_at: int  # first number of [width, channels, k, k] in theta
    scale_at: int
    shift_at: int
    # Offsets
    taps: Span  # [T] from the corner of a patch
    tap_blocks: Span  # every LANES-th of them
    corners: Span  # [P] of the patches, in the input with its margin
    rows: Span  # [P] of the positions in [P, width]
    tap_rows: Span  # [T] the same of [T, width]
    lanes: Span  # [width / LANES] of the channel blocks
    channel: Span  # [width] of the channels
    places: Span  # [Q] of the positions in the next layer's input
    candidates: Span  # [4, Q] in [P, width], of the positions whose maximum is taken
    # Numbers
    images: Span  # [S, input], with margins of zeros
    normed: Span  # [S, Q * width], normalised
    chosen: Span  # [S, Q * width], which candidate is the maximum
    deviations: Span  # [S, width], inverse
    out: Span  # [P * width], before pooling
    grad_out: Span  # [P * width]
    grad_normed: Span  # [Q * width]
    grad_image: Span  # [input]
    weight: Span  # [T * width]
    transposed: Span  # [width * T]
    scale: Span  # [width]
    shift: Span
    grad_weight: Span  # [T * width]
    grad_scale: Span
    grad_shift: Span


class Head(NamedTuple):
    """The linear classifier from F features; classes are padded to `width`, a multiple of LANES."""

    classes: int
    width: int
    samples: int  # S
    weight_at: int  # first number of [F, classes] in theta
    bias_at: int
    # Offsets
    features: Span  # [F]
    feature_rows: Span  # [F] in [F, width]
    sample_rows: Span  # [S] of the samples' features
    class_rows: Span  # [S] of the samples' logits
    class_columns: Span  # [classes]
    # Numbers
    images: Span  # [S, F], what the last layer leaves
    grad_images: Span  # [S, F]
    logits: Span  # [S, width], later the gradient with respect to them
    weight: Span  # [F * width]
    transposed: Span  # [classes * F]
    bias: Span  # [width]
    grad_weight: Span  # [F * width]
    grad_bias: Span  # [width]
    sums: Span  # all grad_weight, grad_bias, grad_scale and grad_shift


class Layout(NamedTuple):
    """layers: both; table: all offsets; size: how many numbers the scratch array has."""

    layers: tuple[Layer, Layer]
    head: Head
    table: NDArray[np.uint64]
    size: int

    def arguments(self, dtype: DTypeLike) -> tuple:
        """The last four arguments of a kernel."""
        return self.layers, self.head, self.table, scratch(self.size, dtype)


def scratch(size: int, dtype: DTypeLike) -> NDArray:
    """Zeros [size] from the start of a line of the caches."""
    item = np.dtype(dtype).itemsize
    work = np.zeros(size + LINE // item, dtype)
    return work[(-work.ctypes.data % LINE) // item :][:size]


class Builder:
    """Hands out the parts of both flat arrays."""

    def __init__(self) -> None:
        self.tables: list[NDArray[np.uint64]] = []
        self.size = 0

    def offsets(self, *axes: tuple[int, int], start: int = 0) -> Span:
        """start plus all sums of one multiple of each axis (count, stride), the last axis varying fastest."""
        total = np.array([start])
        for count, stride in axes:
            total = np.add.outer(total, stride * np.arange(count)).ravel()
        self.tables.append(total.astype(np.uint64))
        return sum(map(len, self.tables[:-1])), len(total)

    def numbers(self, size: int, samples: int = 1) -> Span:
        """Each sample's part begins with a line of the caches, and nothing else shares its last line."""
        size = size if samples == 1 else -(-size // LINE) * LINE
        start, self.size = self.size, -(-(self.size + samples * size) // LINE) * LINE
        return start, size


@functools.lru_cache(maxsize=8)
def layout(model: Model) -> Layout:
    """For a model of `CHAINS`."""
    k, stride, margin, pooled = CHAINS[model.name]
    at = starts(model.shapes)
    features, classes = model.shapes["head.weight"]
    padded = whole_lanes(classes)
    sizes = {name: prod(shape) for name, shape in model.shapes.items()}
    sizes |= {"head.weight": features * padded, "head.bias": padded}

    new = Builder()
    offsets, numbers = new.offsets, new.numbers
    gradient = {name: numbers(size) for name, size in sizes.items()}
    sums = (0, new.size)
    channels, side, _ = model.input_shape
    images = numbers((side + 2 * margin) ** 2 * channels, SAMPLES)
    layers = []
    for i in (1, 2):
        conv, norm = f"conv{i}.weight", f"norm{i}"
        width, wide = model.shapes[conv][0], side + 2 * margin
        before = (wide - k) // stride + 1  # side of the output before pooling
        after = before // 2 if pooled else before
        around = margin if i == 1 else 0
        next_wide = after + 2 * around
        next_images = numbers(next_wide**2 * width, SAMPLES)
        layers.append(
            Layer(
                width=width,
                pooled=pooled,
                channels=channels,
                margin=margin,
                weight_at=at[conv],
                scale_at=at[f"{norm}.scale"],
                shift_at=at[f"{norm}.shift"],
                taps=offsets((k, wide * channels), (k * channels, 1)),
                tap_blocks=offsets((k, wide * channels), (k * channels // LANES, LANES)),
                corners=offsets((before, stride * wide * channels), (before, stride * channels)),
                rows=offsets((before**2, width)),
                tap_rows=offsets((k * k * channels, width)),
                lanes=offsets((width // LANES, LANES)),
                channel=offsets((width, 1)),
                places=offsets((after, next_wide * width), (after, width), start=around * (next_wide + 1) * width),
                candidates=offsets((2, before * width), (2, width), (after, 2 * before * width), (after, 2 * width)),
                images=images,
                normed=numbers(after**2 * width, SAMPLES),
                chosen=numbers(after**2 * width, SAMPLES),
                deviations=numbers(width, SAMPLES),
                out=numbers(before**2 * width),
                grad_out=numbers(before**2 * width),
                grad_normed=numbers(after**2 * width),
                grad_image=numbers(wide**2 * channels),
                weight=numbers(sizes[conv]),
                transposed=numbers(sizes[conv]),
                scale=numbers(width),
                shift=numbers(width),
                grad_weight=gradient[conv],
                grad_scale=gradient[f"{norm}.scale"],
                grad_shift=gradient[f"{norm}.shift"],
            )
        )
        channels, side, images = width, after, next_images
    logits = numbers(padded, SAMPLES)
    head = Head(
        classes=classes,
        width=padded,
        samples=SAMPLES,
        weight_at=at["head.weight"],
        bias_at=at["head.bias"],
        features=offsets((features, 1)),
        feature_rows=offsets((features, padded)),
        sample_rows=offsets((SAMPLES, images[1])),
        class_rows=offsets((SAMPLES, logits[1])),
        class_columns=offsets((classes, 1)),
        images=images,
        grad_images=numbers(features, SAMPLES),
        logits=logits,
        weight=numbers(sizes["head.weight"]),
        transposed=numbers(classes * features),
        bias=numbers(padded),
        grad_weight=gradient["head.weight"],
        grad_bias=gradient["head.bias"],
        sums=sums,
    )
    return Layout((layers[0], layers[1]), head, np.concatenate(new.tables), new.size)


class Dense(NamedTuple):
    """A layer [n_in, n_out]: where its parts begin in theta [P], and in the padded copy of it."""

    n_in: int
    n_out: int
    width: int  # n_out as a multiple of LANES
    weight_at: int
    bias_at: int
    weight: int  # [n_in, width]
    bias: int  # [width]
    before: int  # numbers that the outputs of all layers before have for a sample


@functools.lru_cache(maxsize=8)
def dense_layers(model: Model) -> tuple[Dense, ...]:
    """Those of a model's `dense_chain`; hidden layers have to fill whole blocks of lanes."""
    at = starts(model.shapes)
    found: list[Dense] = []
    size = before = 0
    for name in model.dense_chain:
        n_in, n_out = model.shapes[f"{name}.weight"]
        width = whole_lanes(n_out)
        parts = size, size + n_in * width
        found.append(Dense(n_in, n_out, width, at[f"{name}.weight"], at[f"{name}.bias"], *parts, before))
        size, before = -(-(parts[1] + width) // LINE) * LINE, before + width
    return tuple(found)


def trained_spans(model: Model, held: Collection[str]) -> Tensor:
    """Start and end in theta of every parameter that is not `held`, [n, 2]."""
    at = starts(model.shapes)
    spans = [(at[name], at[name] + prod(shape)) for name, shape in model.shapes.items() if name not in held]
    return torch.tensor(spans, dtype=torch.int64).reshape(-1, 2)
