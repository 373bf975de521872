"""The networks of the project, as functions over a stack of M models.

A network is its parameters' shapes and initial spread plus a chain of steps; a step takes the weights of all models and
the stack of activations. Where the first steps of a fine-tuned network are frozen, their output is computed once and
kept (`models.adapt`). No batch norm is trained: its running statistics are state that averaging and per-client training
would corrupt; GroupNorm and LayerNorm have none.
"""

from collections.abc import Callable, Iterable
from functools import partial
from math import prod, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from fedauto_core.models import minilm, mobilenet_stack

from .layers import (
    Weights,
    apply_dense,
    apply_layer_norm,
    conv2d,
    dense,
    distinct,
    group_norm,
    max_pool,
    self_attention,
)
from .mobilenet import LAST_CHANNELS, POOLED_SCALE

CHANNELS_PER_GROUP = 4  # of every GroupNorm
VIT_WIDTH, VIT_LAYERS, VIT_HEADS, VIT_GRID = 64, 4, 4, 4


class Parameter(NamedTuple):
    """Shape of one model's parameter and the normal distribution of its initial entries."""

    shape: tuple[int, ...]
    std: float
    mean: float = 0.0


class Step(NamedTuple):
    """Part of a network: it uses the parameters whose name begins with one of `prefixes`.

    apply(p, x): weights of M models, activations [M, B, ...] -> activations [M, B, ...]; the first step gets images
    [M, B, channels, H, W], the last gives logits [M, B, n_classes].
    """

    prefixes: tuple[str, ...]
    apply: Callable[[Weights, Tensor], Tensor]


def run_steps(steps: Iterable[Step], weights: Weights, x: Tensor) -> Tensor:
    """What `steps` make of x [M, B, ...] one after the other."""
    for step in steps:
        x = step.apply(weights, x)
    return x


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, n_out) of a dense weight [n_in, n_out] or a kernel [n_out, ...]."""
    return shape if len(shape) == 2 else (prod(shape[1:]), shape[0])


Architecture = tuple[dict[str, Parameter], tuple[Step, ...]]


def _whole(parameters: dict[str, Parameter], forward: Callable[[Weights, Tensor], Tensor]) -> Architecture:
    """A network of a single step."""
    return parameters, (Step(("",), forward),)


def _dense(name: str, n_in: int, n_out: int, gain: float = 1.0) -> dict[str, Parameter]:
    return {f"{name}.weight": Parameter((n_in, n_out), sqrt(gain / n_in)), f"{name}.bias": Parameter((n_out,), 0.0)}


def _conv(name: str, n_in: int, n_out: int, k: int) -> dict[str, Parameter]:
    return {f"{name}.weight": Parameter((n_out, n_in, k, k), sqrt(2 / (n_in * k * k)))}


def _norm(name: str, width: int) -> dict[str, Parameter]:
    return {f"{name}.scale": Parameter((width,), 0.0, 1.0), f"{name}.shift": Parameter((width,), 0.0)}


CLASSIFIER = Step(("head.",), lambda p, x: apply_dense(p, "head", x))


def _apply_group_norm(p: Weights, name: str, x: Tensor) -> Tensor:
    return group_norm(x, p[f"{name}.scale"], p[f"{name}.shift"], x.shape[-1] // CHANNELS_PER_GROUP)


def _softmax(channels: int, side: int, n_classes: int) -> Architecture:
    """Multinomial logistic regression on the pixels."""
    parameters = _dense("head", channels * side * side, n_classes)
    return _whole(parameters, lambda p, x: apply_dense(p, "head", x.flatten(2)))


def _mlp(channels: int, side: int, n_classes: int) -> Architecture:
    """One hidden layer of 128 ReLUs."""
    parameters = _dense("hidden", channels * side * side, 128, gain=2.0) | _dense("head", 128, n_classes)
    return _whole(parameters, lambda p, x: apply_dense(p, "head", torch.relu(apply_dense(p, "hidden", x.flatten(2)))))


def _cnn(channels: int, side: int, n_classes: int) -> Architecture:
    """LeNet type (LeCun et al. 1998): two 5x5 convolutions (16, 32 channels), each with 2x2 max-pooling, GroupNorm
    (after the pooling, where it costs a quarter) and ReLU; linear classifier."""

    def forward(p: Weights, x: Tensor) -> Tensor:
        x = x.permute(0, 1, 3, 4, 2)
        for layer in ("1", "2"):
            x = max_pool(conv2d(x, p[f"conv{layer}.weight"]))
            x = torch.relu(_apply_group_norm(p, f"norm{layer}", x))
        return apply_dense(p, "head", x.flatten(2))

    final = ((side - 4) // 2 - 4) // 2
    parameters = _conv("conv1", channels, 16, 5) | _norm("norm1", 16) | _conv("conv2", 16, 32, 5) | _norm("norm2", 32)
    return _whole(parameters | _dense("head", final * final * 32, n_classes), forward)


def _cnn_small(channels: int, side: int, n_classes: int) -> Architecture:
    """Two 3x3 convolutions of stride 2 (8, 16 channels) with GroupNorm and ReLU; linear classifier. About 0.08
    million multiply-adds for a 28x28 image, so that a whole grid of methods, scenarios and seeds fits its minutes."""

    def forward(p: Weights, x: Tensor) -> Tensor:
        x = x.permute(0, 1, 3, 4, 2)
        for layer in ("1", "2"):
            x = conv2d(x, p[f"conv{layer}.weight"], stride=2, padding=1)
            x = torch.relu(_apply_group_norm(p, f"norm{layer}", x))
        return apply_dense(p, "head", x.permute(0, 2, 3, 4, 1).flatten(1, 3).mT)  # the batch stays innermost

    final = (side + 3) // 4
    parameters = _conv("conv1", channels, 8, 3) | _norm("norm1", 8) | _conv("conv2", 8, 16, 3) | _norm("norm2", 16)
    return _whole(parameters | _dense("head", final * final * 16, n_classes), forward)


def _resnet(blocks: int, channels: int, side: int, n_classes: int) -> Architecture:
    """He et al. (2016), CIFAR type: `blocks` basic blocks in each of three stages (16, 32, 64 channels), GroupNorm."""
    chain = [(f"stage{s}.{b}", 16 * 2**s, 2 if s and not b else 1) for s in range(3) for b in range(blocks)]
    parameters = _conv("stem", channels, 16, 3) | _norm("stem.norm", 16)
    for name, n_out, stride in chain:
        n_in = n_out // stride
        parameters |= _conv(f"{name}.a", n_in, n_out, 3) | _norm(f"{name}.a.norm", n_out)
        parameters |= _conv(f"{name}.b", n_out, n_out, 3) | _norm(f"{name}.b.norm", n_out)
        if stride > 1:
            parameters |= _conv(f"{name}.skip", n_in, n_out, 1)

    def conv_norm(p: Weights, name: str, x: Tensor, stride: int = 1) -> Tensor:
        return _apply_group_norm(p, f"{name}.norm", conv2d(x, p[f"{name}.weight"], stride=stride, padding=1))

    def block(name: str, stride: int, p: Weights, x: Tensor) -> Tensor:
        skip = conv2d(x, p[f"{name}.skip.weight"], stride=stride) if stride > 1 else x
        return torch.relu(skip + conv_norm(p, f"{name}.b", torch.relu(conv_norm(p, f"{name}.a", x, stride))))

    first = Step(("stem.",), lambda p, x: torch.relu(conv_norm(p, "stem", x.permute(0, 1, 3, 4, 2))))
    middle = (Step((f"{name}.",), partial(block, name, stride)) for name, _, stride in chain)
    last = Step(("head.",), lambda p, x: apply_dense(p, "head", x.mean(dim=(2, 3))))
    return parameters | _dense("head", 64, n_classes), (first, *middle, last)


def _vit(channels: int, side: int, n_classes: int) -> Architecture:
    """Vision transformer (Dosovitskiy et al. 2021): 4x4 patches as tokens, width 64, 4 pre-norm layers of 4 heads and a
    128-wide ReLU MLP, learned positions, mean over tokens instead of a class token."""
    patch, d = side // VIT_GRID, VIT_WIDTH
    parameters = _dense("embed", channels * patch * patch, d)
    parameters["position"] = Parameter((VIT_GRID**2, d), 0.02)
    for layer in range(VIT_LAYERS):
        name = f"layer{layer}"
        parameters |= _norm(f"{name}.norm1", d) | _dense(f"{name}.qkv", d, 3 * d) | _dense(f"{name}.out", d, d)
        parameters |= _norm(f"{name}.norm2", d) | _dense(f"{name}.up", d, 2 * d, 2.0) | _dense(f"{name}.down", 2 * d, d)
    parameters |= _norm("norm", d) | _dense("head", d, n_classes)

    def embed(p: Weights, x: Tensor) -> Tensor:
        patches = distinct(x).unfold(3, patch, patch).unfold(4, patch, patch)  # [M, B, channels, 4, 4, patch, patch]
        tokens = patches.permute(0, 1, 3, 4, 2, 5, 6).flatten(4).flatten(2, 3)
        return apply_dense(p, "embed", tokens.expand(len(x), -1, -1, -1)) + p["position"][:, None]

    def transform(name: str, p: Weights, x: Tensor) -> Tensor:
        qkv = apply_dense(p, f"{name}.qkv", apply_layer_norm(p, f"{name}.norm1", x))
        x = x + apply_dense(p, f"{name}.out", self_attention(qkv, VIT_HEADS))
        hidden = torch.relu(apply_dense(p, f"{name}.up", apply_layer_norm(p, f"{name}.norm2", x)))
        return x + apply_dense(p, f"{name}.down", hidden)

    first = Step(("embed.", "position"), embed)
    middle = (Step((f"layer{i}.",), partial(transform, f"layer{i}")) for i in range(VIT_LAYERS))
    last = Step(("norm.", "head."), lambda p, x: apply_dense(p, "head", apply_layer_norm(p, "norm", x).mean(dim=2)))
    return parameters, (first, *middle, last)


def _mobilenet_stage(channels: int, side: int, n_classes: int) -> Architecture:
    """Last stage of MobileNetV2 (Sandler et al. 2018), for the activations of its frozen trunk: 1x1 convolution to 1280
    channels, scale and shift, ReLU6, mean over positions, linear classifier. Batch norm as in evaluation: its running
    statistics are constants, absorbed into the start's weights, and only parameters are averaged."""

    def last_conv(p: Weights, x: Tensor) -> Tensor:
        positions = distinct(x).flatten(3).transpose(2, 3)  # [M, B, side * side, channels]
        out = dense(positions.flatten(1, 2).expand(len(x), -1, -1), p["conv.weight"])
        out = torch.addcmul(p["conv.shift"][:, None], out, p["conv.scale"][:, None]).clamp(0, 6)
        return out.unflatten(1, positions.shape[1:3]).mean(dim=2) / POOLED_SCALE

    parameters: dict[str, Parameter] = {"conv.weight": Parameter((channels, LAST_CHANNELS), sqrt(2 / channels))}
    parameters |= _norm("conv", LAST_CHANNELS) | _dense("head", LAST_CHANNELS, n_classes)
    return parameters, (Step(("conv.",), last_conv), CLASSIFIER)


def _mobilenet_v2(channels: int, side: int, n_classes: int) -> Architecture:
    """The whole MobileNetV2 for small images, which it enlarges: see `mobilenet_stack`."""
    parameters: dict[str, Parameter] = {}
    for layer in mobilenet_stack.layers(channels):
        fan_in, n_out = matrix_shape(layer.shape)
        parameters[f"{layer.name}.weight"] = Parameter(layer.shape, sqrt((1 if layer.linear else 2) / fan_in))
        parameters |= _norm(layer.name, n_out)
    steps = (Step((f"{name}.",), apply) for name, apply in mobilenet_stack.STEPS)
    return parameters | _dense("head", LAST_CHANNELS, n_classes), (*steps, CLASSIFIER)


def _minilm(channels: int, side: int, n_classes: int) -> Architecture:
    """MiniLM-L6 for token ids: see `minilm`."""
    parameters: dict[str, Parameter] = {}
    for name, shape in minilm.shapes(side).items():
        std = 0.0 if name.endswith((".bias", ".scale", ".shift")) else minilm.INITIAL_STD
        parameters[name] = Parameter(shape, std, float(name.endswith(".scale")))
    steps = (Step((f"{name}.",), apply) for name, apply in minilm.STEPS)
    return parameters | _dense("head", minilm.WIDTH, n_classes), (*steps, CLASSIFIER)


DENSE_CHAINS = {"softmax": ("head",), "mlp": ("hidden", "head")}


class Entry(NamedTuple):
    """build(channels, side, n_classes), and the inputs it takes: images (channels, side, side) whose side is a multiple
    of `multiple` and at least `smallest`, or `text`: (1, 1, number of tokens)."""

    build: Callable[[int, int, int], Architecture]
    smallest: int = 1
    multiple: int = 1
    text: bool = False

    def takes(self, input_shape: tuple[int, ...]) -> bool:
        if len(input_shape) != 3 or min(input_shape) < 1:
            return False
        channels, height, side = input_shape
        fits = channels == height == 1 if self.text else height == side
        return fits and side >= self.smallest and side % self.multiple == 0

    @property
    def inputs(self) -> str:
        shape = "(1, 1, side)" if self.text else "(channels, side, side)"
        return f"{shape} with side >= {self.smallest} and a multiple of {self.multiple}"


ARCHITECTURES: dict[str, Entry] = {
    "softmax": Entry(_softmax),
    "mlp": Entry(_mlp),
    "cnn": Entry(_cnn, 16),
    "cnn_small": Entry(_cnn_small, 4),
    "resnet8": Entry(partial(_resnet, 1), 8),
    "resnet20": Entry(partial(_resnet, 3), 8),
    "vit": Entry(_vit, 2 * VIT_GRID, VIT_GRID),
    "mobilenet_stage": Entry(_mobilenet_stage),
    "mobilenet_v2": Entry(_mobilenet_v2),
    "minilm": Entry(_minilm, 8, text=True),
}
