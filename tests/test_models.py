"""Layers against torch's own, models against their shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedauto_core.engine import local_updates, predict
from fedauto_core.errors import InputError
from fedauto_core.models import ARCHITECTURES, build_model
from fedauto_core.models.layers import (
    attention,
    conv2d,
    depthwise_conv2d,
    group_norm,
    layer_norm,
    max_pool,
    self_attention,
)
from fedauto_core.models.mobilenet import POOLED_SCALE, TRUNK_SCALE, MobileNetV2, stage_parameters


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def to_nchw(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 3, 1, 2)


@pytest.mark.parametrize("models", [1, 3])
@pytest.mark.parametrize(("k", "stride", "padding"), [(5, 1, 0), (3, 2, 1), (3, 1, 1), (1, 2, 0)])
def test_convolution_and_its_gradients_equal_torch(models: int, k: int, stride: int, padding: int) -> None:
    x = normal(models, 2, 9, 9, 3).requires_grad_()
    weight = normal(models, 4, 3, k, k, seed=1).requires_grad_()
    out = conv2d(x, weight, stride=stride, padding=padding)
    probe = normal(*out.shape, seed=2)
    expected = [F.conv2d(to_nchw(x[m]), weight[m], stride=stride, padding=padding) for m in range(models)]
    assert torch.allclose(out, torch.stack([e.permute(0, 2, 3, 1) for e in expected]), atol=1e-12)
    loss = sum((e * to_nchw(probe[m])).sum() for m, e in enumerate(expected))
    got = torch.autograd.grad((out * probe).sum(), [x, weight])
    for ours, theirs in zip(got, torch.autograd.grad(loss, [x, weight]), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("models", [1, 3])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_convolution_and_its_gradients_equal_torch(models: int, shared: bool, stride: int) -> None:
    x = normal(models, 2, 7, 7, 4).requires_grad_()
    weight, bias = normal(1 if shared else models, 4, 3, 3, seed=1), normal(1 if shared else models, 4, seed=2)
    leaves = [x, weight.requires_grad_(), bias.requires_grad_()]
    out = depthwise_conv2d(*leaves, stride=stride)
    probe = normal(*out.shape, seed=3)
    kernels, shifts = weight.expand(models, -1, -1, -1)[:, :, None], bias.expand(models, -1)
    expected = [F.conv2d(to_nchw(x[m]), kernels[m], shifts[m], stride, 1, groups=4) for m in range(models)]
    assert torch.allclose(out, torch.stack([e.permute(0, 2, 3, 1) for e in expected]), atol=1e-12)
    loss = sum((e * to_nchw(probe[m])).sum() for m, e in enumerate(expected))
    got = torch.autograd.grad((out * probe).sum(), leaves)
    for ours, theirs in zip(got, torch.autograd.grad(loss, leaves), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_over_shared_images_equals_separate_ones(stride: int) -> None:
    x, weight = normal(1, 2, 9, 9, 3), normal(3, 4, 3, 3, 3, seed=1)
    shared = conv2d(x.expand(3, -1, -1, -1, -1), weight, stride=stride)
    assert torch.equal(shared, conv2d(x.repeat(3, 1, 1, 1, 1), weight, stride=stride))


@pytest.mark.parametrize("models", [1, 3])
@pytest.mark.parametrize("batch_innermost", [False, True])
def test_group_norm_and_its_gradients_equal_torch(models: int, batch_innermost: bool) -> None:
    x = normal(models, 2, 5, 5, 8)
    x = (x.transpose(1, 4).contiguous().transpose(1, 4) if batch_innermost else x).requires_grad_()
    scale, shift = normal(models, 8, seed=1).requires_grad_(), normal(models, 8, seed=2).requires_grad_()
    out = group_norm(x, scale, shift, 2)
    probe = normal(*out.shape, seed=3)
    expected = [F.group_norm(to_nchw(x[m]), 2, scale[m], shift[m]) for m in range(models)]
    assert torch.allclose(out, torch.stack([e.permute(0, 2, 3, 1) for e in expected]), atol=1e-10)
    loss = sum((e * to_nchw(probe[m])).sum() for m, e in enumerate(expected))
    got = torch.autograd.grad((out * probe).sum(), [x, scale, shift])
    for ours, theirs in zip(got, torch.autograd.grad(loss, [x, scale, shift]), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-9)


def test_layer_norm_and_pooling_equal_torch() -> None:
    x, scale, shift = normal(2, 3, 4, 8), normal(2, 8, seed=1), normal(2, 8, seed=2)
    expected = torch.stack([F.layer_norm(x[m], (8,), scale[m], shift[m]) for m in range(2)])
    assert torch.allclose(layer_norm(x, scale, shift), expected, atol=1e-12)
    expected = torch.stack([F.layer_norm(x[m], (8,), scale[m], shift[m], 0.5) for m in range(2)])
    assert torch.allclose(layer_norm(x, scale, shift, 0.5), expected, atol=1e-12)
    images = normal(2, 3, 5, 5, 4).round()  # with ties
    pooled = torch.stack([F.max_pool2d(to_nchw(images[m]), 2).permute(0, 2, 3, 1) for m in range(2)])
    assert torch.equal(max_pool(images), pooled)


def test_attention_equals_torch() -> None:
    q, k, v = (normal(2, 3, 5, 8, seed=s) for s in range(3))
    split = [z.view(2, 3, 5, 2, 4).transpose(2, 3) for z in (q, k, v)]
    mask = torch.arange(5) < torch.tensor([[5, 3, 1], [4, 2, 5]])[..., None]
    expected = F.scaled_dot_product_attention(*split, mask[:, :, None, None]).transpose(2, 3).reshape(2, 3, 5, 8)
    assert torch.allclose(attention(q, k, v, 2, mask), expected, atol=1e-12)


def test_self_attention_equals_torch_in_value_and_gradient() -> None:
    def expected(qkv: torch.Tensor) -> torch.Tensor:
        split = (z.unflatten(-1, (2, 4)).transpose(2, 3) for z in qkv.chunk(3, dim=-1))
        return F.scaled_dot_product_attention(*split).transpose(2, 3).flatten(-2)

    qkv, weight = normal(2, 3, 5, 24).requires_grad_(), normal(2, 3, 5, 8, seed=1)
    values = [function(qkv) for function in (lambda z: self_attention(z, heads=2), expected)]
    slopes = [torch.autograd.grad((value * weight).sum(), qkv)[0] for value in values]
    for ours, torchs in (values, slopes):
        assert torch.allclose(ours, torchs, atol=1e-12)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_every_model_takes_the_shapes_it_allows(name: str, shape: tuple[int, int, int]) -> None:
    if name == "minilm" or (name == "cnn" and shape[1] == 8):
        smallest = {"minilm": 8, "cnn": 16}[name]
        with pytest.raises(InputError, match=rf"side >= {smallest}.*choose a model that takes this shape .*cnn_small"):
            build_model(name, shape, 10)
        return
    model = build_model(name, shape, 10)
    theta = torch.stack([model.init(np.random.default_rng(seed)) for seed in range(2)])
    assert theta.shape == (2, model.n_parameters)
    assert theta.dtype == torch.float32
    logits = model.forward(model.unflatten(theta), normal(2, 3, *shape).float())
    assert logits.shape == (2, 3, 10)
    assert torch.isfinite(logits).all()


def test_initial_spread_is_that_of_the_fan_in() -> None:
    model = build_model("mlp", (1, 28, 28), 10)
    parts = model.unflatten(model.init(np.random.default_rng(0))[None])
    assert parts["hidden.weight"].std().item() == pytest.approx((2 / 784) ** 0.5, rel=0.02)
    assert parts["head.weight"].std().item() == pytest.approx((1 / 128) ** 0.5, rel=0.05)
    assert not parts["hidden.bias"].any()


def test_unknown_model_and_bad_arguments_are_refused() -> None:
    names = "minilm, mlp, mobilenet_stage, mobilenet_v2, resnet20, resnet8, softmax, vit"
    with pytest.raises(InputError, match=rf"unknown model 'lenet'.*{names}"):
        build_model("lenet", (1, 28, 28), 10)
    with pytest.raises(InputError, match=r"multiple of 4.*softmax, mlp, cnn"):
        build_model("vit", (1, 30, 30), 10)
    with pytest.raises(InputError, match="n_classes = 1"):
        build_model("mlp", (1, 8, 8), 1)
    with pytest.raises(InputError, match=r"\[M, 650\]"):
        build_model("softmax", (1, 8, 8), 10).unflatten(torch.zeros(650))


def test_models_with_the_same_description_are_equal() -> None:
    assert build_model("mlp", (1, 8, 8), 10) == build_model("mlp", (1, 8, 8), 10)
    assert len({build_model("mlp", (1, 8, 8), 10), build_model("mlp", (1, 8, 8), 3)}) == 2


def test_flatten_is_the_inverse_of_unflatten_whatever_else_it_is_given() -> None:
    model = build_model("mlp", (1, 8, 8), 10)
    theta = torch.arange(3.0 * model.n_parameters).view(3, -1)
    parts = model.unflatten(theta)
    assert torch.equal(model.flatten({"other": theta} | dict(reversed(parts.items()))), theta)


def stage_start(n_classes: int) -> tuple[MobileNetV2, torch.Tensor]:
    """A last stage with arbitrary weights and statistics, and the same as theta [1, P] with an identity as its head."""
    rng = np.random.default_rng(0)
    network = MobileNetV2().eval().requires_grad_(False)
    conv, norm, _ = network.features[-1]
    for values, low, high in (
        (conv.weight, -0.8, 0.8), (norm.weight, 1, 2), (norm.bias, -1, 1),
        (norm.running_mean, -1, 1), (norm.running_var, 0.5, 2),
    ):  # fmt: skip
        values.copy_(torch.from_numpy(rng.uniform(low, high, values.shape)))
    model = build_model("mobilenet_stage", (320, 3, 3), n_classes)
    parts = stage_parameters(network) | {"head.weight": torch.eye(1280, n_classes), "head.bias": torch.zeros(n_classes)}
    return network, torch.cat([parts[name].flatten() for name in model.shapes])[None]


@pytest.mark.parametrize("models", [1, 3])
def test_the_mobilenet_stage_equals_the_network_in_evaluation_mode(models: int) -> None:
    """With an identity as its head the logits are the pooled features."""
    network, theta = stage_start(1280)
    model = build_model("mobilenet_stage", (320, 3, 3), 1280)
    x = normal(5, 320, 3, 3).float()
    expected = network.stage(x * TRUNK_SCALE) / POOLED_SCALE
    assert {0, 6} < set(network.features[-1](x * TRUNK_SCALE).unique().tolist())  # ReLU6 acts at both ends
    for images in (x.expand(models, -1, -1, -1, -1), x.repeat(models, 1, 1, 1, 1)):
        logits = model.forward(model.unflatten(theta.expand(models, -1)), images)
        assert torch.allclose(logits, expected.expand(models, -1, -1), atol=1e-5)
    assert torch.allclose(predict(model, theta, x, chunk=2)[0], expected, atol=1e-5)


def test_the_mobilenet_stage_trains_alike_one_by_one_and_stacked() -> None:
    _, theta = stage_start(10)
    model = build_model("mobilenet_stage", (320, 3, 3), 10)
    x, y = normal(12, 320, 3, 3).float(), torch.arange(12) % 10
    batches = np.random.default_rng(1).integers(0, 12, (3, 2, 4))
    start = theta.expand(3, -1)
    stacked, loop = (local_updates(model, start, x, y, batches, 0.1, backend=name) for name in ("stacked", "loop"))
    assert torch.allclose(stacked, loop, atol=1e-5)
    assert all(part.abs().max() > 1e-4 for part in model.unflatten(stacked).values())  # every parameter is trained
