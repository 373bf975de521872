"""Layers against torch's own, models against their shapes, checkpoints against damage."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedauto_core import pretraining
from fedauto_core.data import Dataset
from fedauto_core.errors import InputError
from fedauto_core.layers import attention, conv2d, group_norm, layer_norm, max_pool
from fedauto_core.models import ARCHITECTURES, build_model, nonconvex_softmax_loss
from fedauto_core.pretraining import Pretraining, accuracy, checkpoint_key, pretrain, pretrained, with_fresh_head

SETTINGS = {"epochs": 2, "lr": 0.1, "batch": 8, "momentum": 0.9, "seed": 3}


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


def test_convolution_over_shared_images_equals_separate_ones() -> None:
    x, weight = normal(1, 2, 9, 9, 3), normal(3, 4, 3, 3, 3, seed=1)
    shared = conv2d(x.expand(3, -1, -1, -1, -1), weight)
    assert torch.equal(shared, conv2d(x.repeat(3, 1, 1, 1, 1), weight))


@pytest.mark.parametrize("models", [1, 3])
def test_group_norm_and_its_gradients_equal_torch(models: int) -> None:
    x = normal(models, 2, 5, 5, 8).requires_grad_()
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
    images = normal(2, 3, 5, 5, 4).round()  # with ties
    pooled = torch.stack([F.max_pool2d(to_nchw(images[m]), 2).permute(0, 2, 3, 1) for m in range(2)])
    assert torch.equal(max_pool(images), pooled)


def test_attention_equals_torch() -> None:
    q, k, v = (normal(2, 3, 5, 8, seed=s) for s in range(3))
    split = [z.view(2, 3, 5, 2, 4).transpose(2, 3) for z in (q, k, v)]
    expected = F.scaled_dot_product_attention(*split).transpose(2, 3).reshape(2, 3, 5, 8)
    assert torch.allclose(attention(q, k, v, heads=2), expected, atol=1e-12)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_every_model_takes_the_shapes_it_allows(name: str, shape: tuple[int, int, int]) -> None:
    if name == "cnn" and shape[1] == 8:
        with pytest.raises(InputError, match=r"side >= 16.*choose a model that takes this shape .*cnn_small"):
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
    with pytest.raises(InputError, match=r"unknown model 'lenet'.*cnn, cnn_small, mlp, resnet8, softmax, vit"):
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


def test_fresh_head_changes_the_head_alone() -> None:
    model = build_model("mlp", (1, 8, 8), 10)
    theta = model.init(np.random.default_rng(0))
    fresh = with_fresh_head(model, theta, np.random.default_rng(1))
    before, after = model.unflatten(theta[None]), model.unflatten(fresh[None])
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"head.weight"}  # biases start at 0, before and after


def test_nonconvex_objective_by_hand() -> None:
    """One feature, two classes: theta = (w0, w1, b0, b1) = (1, 0, 0, 0), x = 2, y = 0: loss log(1 + e^-2) + mu / 2."""
    theta = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    x, y = torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([0])
    loss = nonconvex_softmax_loss(theta, x, y, 0.3)
    assert loss.item() == pytest.approx(np.log1p(np.exp(-2)) + 0.15, abs=1e-15)
    stacked = nonconvex_softmax_loss(torch.stack([theta, 2 * theta]), x, y, 0.3)
    assert stacked.tolist() == pytest.approx([loss.item(), np.log1p(np.exp(-4)) + 0.3 * 0.8], abs=1e-15)
    assert torch.autograd.gradcheck(lambda t: nonconvex_softmax_loss(t, x, y, 0.3), theta)


@pytest.fixture
def dataset() -> Dataset:
    """Two classes told apart by the sign of the mean pixel."""
    y = torch.arange(64) % 2
    x = (normal(64, 1, 4, 4) + (2.0 * y - 1.0)[:, None, None, None]).float()
    return Dataset("toy", x, y, x, y, class_names=("dark", "light"), sha256="00")


def test_pretraining_learns_and_repeats(dataset: Dataset) -> None:
    model = build_model("softmax", (1, 4, 4), 2)
    theta = pretrain(model, dataset, **SETTINGS)
    logits = model.forward(model.unflatten(theta[None]), dataset.x_train[None])[0]
    assert (logits.argmax(1) == dataset.y_train).float().mean() > 0.95
    assert accuracy(model, theta, dataset) == (logits.argmax(1) == dataset.y_train).double().mean().item()
    assert torch.equal(theta, pretrain(model, dataset, **SETTINGS))


def test_pretraining_equals_torchs_momentum_sgd(dataset: Dataset) -> None:
    """One full-batch step per epoch: torch.optim.SGD with its cosine schedule gives the same weights."""
    model = build_model("softmax", (1, 4, 4), 2)
    settings = SETTINGS | {"batch": 64, "epochs": 5}
    start = model.init(pretraining.stream(3, "pretraining"))
    layer = torch.nn.Linear(16, 2)
    with torch.no_grad():
        layer.weight.copy_(start[:32].view(16, 2).T)
        layer.bias.copy_(start[32:])
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 5)
    for _ in range(5):
        optimiser.zero_grad()
        F.cross_entropy(layer(dataset.x_train.flatten(1)), dataset.y_train).backward()
        optimiser.step()
        schedule.step()
    expected = torch.cat([layer.weight.detach().T.flatten(), layer.bias.detach()])
    assert torch.allclose(pretrain(model, dataset, **settings), expected, atol=1e-6)


def test_bad_pretraining_settings_are_refused(dataset: Dataset) -> None:
    model = build_model("softmax", (1, 4, 4), 2)
    with pytest.raises(InputError, match=r"batch = 65.*1 <= batch <= 64"):
        pretrain(model, dataset, **SETTINGS | {"batch": 65})
    with pytest.raises(InputError, match="build the model for this dataset"):
        pretrain(build_model("softmax", (1, 8, 8), 2), dataset, **SETTINGS)


def test_checkpoint_is_reused_and_a_damaged_one_recomputed(dataset, tmp_path, monkeypatch, capsys) -> None:
    description, calls = Pretraining("softmax", "toy", **SETTINGS), []
    monkeypatch.setattr(pretraining, "pretrain", lambda *a, **k: calls.append(1) or pretrain(*a, **k))
    monkeypatch.setattr(pretraining, "load_dataset", lambda name, cache: dataset)
    monkeypatch.setenv("FEDAUTO_DATA", str(tmp_path))
    first = pretrained(description)
    assert torch.equal(first, pretrain(build_model("softmax", (1, 4, 4), 2), dataset, **SETTINGS))
    assert torch.equal(first, pretrained(description))
    assert len(calls) == 1
    assert capsys.readouterr().err == ""

    (path,) = (tmp_path / "checkpoints").glob("*.sha256")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    for damaged in (bytes(content), b""):
        path.write_bytes(damaged)
        assert torch.equal(first, pretrained(description))
        assert "is damaged; it is computed again" in capsys.readouterr().err
    assert len(calls) == 3


def test_checkpoint_key_changes_with_every_input(monkeypatch) -> None:
    description = Pretraining("softmax", "toy", **SETTINGS)
    changed = [replace(description, **{name: value * 2}) for name, value in asdict(description).items()]
    keys = [checkpoint_key(one, "00") for one in (description, *changed)] + [checkpoint_key(description, "01")]
    monkeypatch.setattr(pretraining, "SOURCES", ("models.py",))
    keys.append(checkpoint_key(description, "00"))
    monkeypatch.setattr(torch, "__version__", "0")
    keys.append(checkpoint_key(description, "00"))
    assert len(set(keys)) == len(keys) == 11
