"""MobileNetV2 (Sandler et al. 2018) over a stack of M models, as steps that LoRA can adapt and fine-tuning can cut.

Batch norm as in evaluation: its running statistics are constants, absorbed into weights, scales and shifts, and only
parameters are averaged. Activations are [M, B, H, W, channels] with the channels innermost, so that a 1x1
convolution is one matrix product.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import LowRank, Weight, Weights, conv2d, dense, depthwise_conv2d, distinct
from .mobilenet import BLOCKS, LAST_CHANNELS, POOLED_SCALE, SIDE, STEM_CHANNELS, MobileNetV2


class Layer(NamedTuple):
    """A convolution without bias, followed by a scale and a shift per channel, and ReLU6 unless `linear`.

    shape of its weight: kernel [n_out, n_in, k, k], 1x1 convolution [n_in, n_out], depthwise kernel [n_out, k, k].
    """

    name: str
    shape: tuple[int, ...]
    linear: bool = False


class Block(NamedTuple):
    """Inverted residual: 1x1 expansion to `wide` channels unless it has them, 3x3 depthwise, linear 1x1 projection."""

    name: str
    n_in: int
    wide: int
    n_out: int
    stride: int

    def layers(self) -> Iterator[Layer]:
        if self.wide > self.n_in:
            yield Layer(f"{self.name}.expand", (self.n_in, self.wide))
        yield Layer(f"{self.name}.depthwise", (self.wide, 3, 3))
        yield Layer(f"{self.name}.project", (self.wide, self.n_out), linear=True)


def _blocks() -> Iterator[Block]:
    n_in = STEM_CHANNELS
    rows = [(*row[:2], row[3] if first else 1) for row in BLOCKS for first in (True, *[False] * (row[2] - 1))]
    for index, (expansion, n_out, stride) in enumerate(rows):
        yield Block(f"block{index}", n_in, expansion * n_in, n_out, stride)
        n_in = n_out


CHAIN = tuple(_blocks())


def layers(channels: int) -> list[Layer]:
    """All layers except the classifier, in order, for images of this many channels."""
    middle = [layer for block in CHAIN for layer in block.layers()]
    return [Layer("stem", (STEM_CHANNELS, channels, 3, 3)), *middle, Layer("last", (CHAIN[-1].n_out, LAST_CHANNELS))]


def enlarged(x: Tensor) -> Tensor:
    """Images [M, B, channels, H, W] as [M, B, SIDE, SIDE, channels], bilinear as in `mobilenet.prepare`; images
    that all models share are enlarged once."""
    source = distinct(x)
    images = source.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    large = F.interpolate(images, size=(SIDE, SIDE), mode="bilinear").permute(0, 2, 3, 1).unflatten(0, source.shape[:2])
    return large.expand(len(x), *large.shape[1:])


def _scaled(weight: Weight, scale: Tensor) -> Weight:
    """The weight of the layer times `scale` [M, n_out]: cheaper than to scale its activations."""
    if isinstance(weight, LowRank):
        offset = None if weight.offset is None else weight.offset * scale[:, None]
        return weight._replace(weight=_scaled(weight.weight, scale), b=weight.b * scale[:, None], offset=offset)
    if weight.ndim == 3:
        return weight * scale[:, None]
    return weight * scale.reshape(*scale.shape, *[1] * (weight.ndim - 2))


def _parts(p: Weights, name: str) -> tuple[Weight, Tensor]:
    return _scaled(p[f"{name}.weight"], p[f"{name}.scale"]), p[f"{name}.shift"]


def _relu6(x: Tensor) -> Tensor:
    """In place unless a gradient or an expanded view forbids it: frozen steps take a quarter less time."""
    return F.relu6(x, inplace=not (x.requires_grad or x.stride(0) == 0))


def _stem(p: Weights, x: Tensor) -> Tensor:
    weight, shift = _parts(p, "stem")
    return _relu6(conv2d(enlarged(x), weight, stride=2, padding=1) + shift[:, None, None, None])


def _block(block: Block, p: Weights, x: Tensor) -> Tensor:
    wide = _relu6(dense(x, *_parts(p, f"{block.name}.expand"))) if block.wide > block.n_in else x
    wide = _relu6(depthwise_conv2d(wide, *_parts(p, f"{block.name}.depthwise"), stride=block.stride))
    out = dense(wide, *_parts(p, f"{block.name}.project"))
    return x + out if block.stride == 1 and block.n_in == block.n_out else out


def _last(p: Weights, x: Tensor) -> Tensor:
    return _relu6(dense(x, *_parts(p, "last"))).mean(dim=(2, 3)) / POOLED_SCALE


STEPS: tuple[tuple[str, Callable[[Weights, Tensor], Tensor]], ...] = (
    ("stem", _stem),
    *((block.name, partial(_block, block)) for block in CHAIN),
    ("last", _last),
)
"""What precedes the classifier, images [M, B, channels, H, W] -> [M, B, 1280], by how its layers' names begin."""


def network_parameters(network: MobileNetV2) -> dict[str, Tensor]:
    """`network` as the parameters of model "mobilenet_v2" except its head, by name: the standard deviations of the
    batch norms in the weights, their means in the shifts."""
    modules, kinds = list(network.features.modules()), (nn.Conv2d, nn.BatchNorm2d)
    convolutions, norms = ([module for module in modules if isinstance(module, kind)] for kind in kinds)
    parts = {}
    for layer, conv, norm in zip(layers(convolutions[0].in_channels), convolutions, norms, strict=True):
        deviation = torch.sqrt(norm.running_var + norm.eps)
        rows = conv.weight.flatten(1) / deviation[:, None]
        parts[f"{layer.name}.weight"] = rows.T if len(layer.shape) == 2 else rows.view(layer.shape)
        parts[f"{layer.name}.scale"] = norm.weight
        parts[f"{layer.name}.shift"] = norm.bias - norm.weight * norm.running_mean / deviation
    return parts
