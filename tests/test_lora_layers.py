"""LoRA as layers: against explicit weights, and against PEFT."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedauto_core.models import LoRA
from fedauto_core.models.layers import LowRank, conv2d, dense, group_norm

SCALE = 1.5


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def leaves(*tensors: Tensor) -> list[Tensor]:
    return [tensor.requires_grad_() for tensor in tensors]


def assert_same_function(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], inputs: Sequence[Tensor], tolerance: float = 1e-12
) -> None:
    """Equal outputs and equal gradients along `inputs`."""
    out, expected = ours(*inputs), theirs(*inputs)
    probe = normal(*expected.shape, seed=9).to(expected.dtype)
    torch.testing.assert_close(out, expected, atol=tolerance, rtol=0)
    got, wanted = (torch.autograd.grad((z * probe).sum(), inputs) for z in (out, expected))
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=10 * tolerance, rtol=0)


def kernels(matrices: Tensor, n_in: int, k: int) -> Tensor:
    """Matrices [M, n_in * k * k, n_out] as kernels [M, n_out, n_in, k, k], entry by entry."""
    models, _, n_out = matrices.shape
    return matrices.reshape(models, n_in, k, k, n_out).permute(0, 4, 1, 2, 3)


def images(models: int, shared: bool, *shape: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """What is differentiated, and the stack of `models` that a layer gets: a view on one where they share it."""
    x = normal(1 if shared else models, *shape)
    return x, lambda leaf: leaf.expand(models, *shape) if shared else leaf


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("models", "n_out"), [(1, 6), (3, 6), (3, 15)])
def test_a_dense_layer_of_low_rank_equals_the_one_with_its_product(
    models: int, n_out: int, biased: bool, offset: bool, shared: bool
) -> None:
    x, stack = images(models, shared, 4, 5)
    weight, bias = normal(1, 5, n_out, seed=1), normal(1, n_out, seed=2) if biased else None
    a, b, extra = normal(models, 5, 2, seed=3), normal(models, 2, n_out, seed=4), normal(models, 5, n_out, seed=5)

    def ours(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return dense(stack(x), LowRank(weight, a, b, SCALE, extra if offset else None), bias)

    def explicit(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        matrix = weight + SCALE * a @ b + (extra if offset else 0)
        return torch.stack([stack(x)[m] @ matrix[m] + (bias[0] if biased else 0) for m in range(models)])

    assert_same_function(ours, explicit, leaves(x, a, b))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("models", [1, 3])
@pytest.mark.parametrize("n_in", [2, 5])  # few channels take another path
@pytest.mark.parametrize(("k", "stride", "padding"), [(1, 1, 0), (1, 2, 0), (3, 1, 1), (3, 2, 1), (5, 1, 0), (5, 2, 2)])
def test_a_convolution_of_low_rank_equals_the_one_with_its_product(
    k: int, stride: int, padding: int, n_in: int, models: int, offset: bool, shared: bool
) -> None:
    x, stack = images(models, shared, 2, 7, 7, n_in)
    fan_in, weight = n_in * k * k, normal(1, 4, n_in, k, k, seed=1)
    a, b, extra = normal(models, fan_in, 2, seed=3), normal(models, 2, 4, seed=4), normal(models, fan_in, 4, seed=5)

    def ours(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        layer = LowRank(weight, a, b, SCALE, extra if offset else None)
        return conv2d(stack(x), layer, stride=stride, padding=padding)

    def explicit(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        kernel = weight + kernels(SCALE * a @ b + (extra if offset else 0), n_in, k)
        pairs = zip(stack(x).permute(0, 1, 4, 2, 3), kernel, strict=True)
        return torch.stack([F.conv2d(z, w, stride=stride, padding=padding).permute(0, 2, 3, 1) for z, w in pairs])

    assert_same_function(ours, explicit, leaves(x, a, b))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    ("layer", "shapes", "image"),
    [
        (dense, [(5, 6), (6,)], (4, 5)),
        (lambda x, w: conv2d(x, w, stride=2, padding=1), [(4, 3, 3, 3)], (2, 7, 7, 3)),
        (lambda x, w: conv2d(x, w), [(4, 5, 3, 3)], (2, 7, 7, 5)),
        (lambda x, scale, shift: group_norm(x, scale, shift, 2), [(8,), (8,)], (2, 5, 5, 8)),
    ],
    ids=["dense", "strided convolution", "convolution", "group norm"],
)
def test_one_frozen_weight_equals_a_copy_for_each_model(
    layer: Callable[..., Tensor], shapes: list[tuple[int, ...]], image: tuple[int, ...], shared: bool
) -> None:
    x, stack = images(3, shared, *image)
    weights = [normal(1, *shape, seed=seed) for seed, shape in enumerate(shapes, start=1)]
    copies = [weight.repeat(3, *[1] * (weight.ndim - 1)) for weight in weights]
    assert_same_function(lambda x: layer(stack(x), *weights), lambda x: layer(stack(x), *copies), leaves(x))


@pytest.mark.parametrize("kind", ["dense", "1x1 convolution", "3x3 convolution"])
def test_adapted_layers_equal_those_of_peft(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from peft import LoraConfig, inject_adapter_in_model

    k = 3 if kind.startswith("3x3") else 1
    plain = nn.Linear(5, 4) if kind == "dense" else nn.Conv2d(5, 4, k, stride=2, padding=k // 2, bias=False)
    module = inject_adapter_in_model(LoraConfig(r=2, lora_alpha=3, target_modules=["0"]), nn.Sequential(plain))
    base, theirs_a, theirs_b = (part.weight for part in (plain, module[0].lora_A.default, module[0].lora_B.default))
    fan_in = 5 * k * k
    a, b = leaves(normal(1, fan_in, 2, seed=1).float(), normal(1, 2, 4, seed=2).float())
    with torch.no_grad():  # peft's A are kernels [r, n_in, k, k], its dense weights [n_out, n_in]
        theirs_a.copy_(a[0].T.view_as(theirs_a))
        theirs_b.copy_(b[0].T.view_as(theirs_b))
    (x,) = leaves(normal(*((3, 5) if kind == "dense" else (3, 5, 6, 6)), seed=3).float())
    factors = {"a": a, "b": b, "scale": LoRA(2, 3, ("0",)).scale}
    if kind == "dense":
        ours = dense(x[None], LowRank(base.T[None], **factors), plain.bias[None])[0]
    else:
        layer = LowRank(base[None], **factors)
        ours = conv2d(x.permute(0, 2, 3, 1)[None], layer, stride=2, padding=k // 2)[0].permute(0, 3, 1, 2)
    theirs = module(x)
    assert not torch.allclose(theirs, plain(x) if kind == "dense" else module[0].base_layer(x))  # the factors matter
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    probe = normal(*theirs.shape, seed=4).float()
    got = torch.autograd.grad((ours * probe).sum(), [x, a, b])
    wanted = torch.autograd.grad((theirs * probe).sum(), [x, theirs_a, theirs_b])
    expected = [wanted[0], wanted[1].reshape(2, fan_in).T[None], wanted[2].reshape(4, 2).T[None]]
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
