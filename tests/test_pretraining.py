"""Pre-training against torch.optim; checkpoints are found by content, without the images, and checked for damage."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedauto_core.data import Dataset
from fedauto_core.engine import (
    Pretraining,
    accuracy,
    checkpoint_key,
    pretrain,
    pretrained,
    pretraining,
    with_fresh_head,
)
from fedauto_core.engine.pretraining import IMAGENET
from fedauto_core.errors import InputError
from fedauto_core.models import build_model
from fedauto_core.models.mobilenet import load_mobilenet_v2, stage_parameters
from fedauto_core.models.mobilenet_stack import network_parameters

SETTINGS = {"epochs": 2, "lr": 0.1, "batch": 8, "momentum": 0.9, "seed": 3}
TOY = Pretraining("softmax", "toy", **SETTINGS)


@pytest.fixture
def dataset() -> Dataset:
    """Two classes told apart by the sign of the mean pixel."""
    y = torch.arange(64) % 2
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((64, 1, 4, 4)))
    x = (noise + (2.0 * y - 1.0)[:, None, None, None]).float()
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
    for name, value, message in (
        ("epochs", 0, "integers >= 1"),
        ("batch", 65, "integers >= 1 and <= 64"),
        ("lr", 0.0, "finite numbers > 0"),
        ("momentum", 1.0, r"numbers in \[0, 1\)"),
    ):
        with pytest.raises(InputError, match=f"{name} = {value}.*{message}"):
            pretrain(model, dataset, **SETTINGS | {name: value})
    with pytest.raises(InputError, match="build the model for this dataset"):
        pretrain(build_model("softmax", (1, 8, 8), 2), dataset, **SETTINGS)


def test_fresh_head_changes_the_head_alone() -> None:
    model = build_model("mlp", (1, 8, 8), 10)
    theta = model.init(np.random.default_rng(0))
    fresh = with_fresh_head(model, theta, np.random.default_rng(1))
    before, after = model.unflatten(theta[None]), model.unflatten(fresh[None])
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"head.weight"}  # biases start at 0, before and after


@pytest.fixture
def calls(dataset, tmp_path, monkeypatch) -> list[str]:
    """What `pretrained` does, with the toy data as a known source and an empty cache."""
    made = []
    monkeypatch.setattr(pretraining, "pretrain", lambda *a, **k: made.append("train") or pretrain(*a, **k))
    monkeypatch.setattr(pretraining, "load_dataset", lambda name, cache: made.append("load") or dataset)
    monkeypatch.setattr(pretraining, "dataset_sha256", lambda name: f"hash of {name}")
    monkeypatch.setenv("FEDAUTO_DATA", str(tmp_path))
    monkeypatch.delenv("FEDAUTO_FRESH", raising=False)
    return made


def test_checkpoint_is_found_without_loading_the_images(dataset, calls, capsys) -> None:
    first = pretrained(TOY)
    assert torch.equal(first, pretrain(build_model("softmax", (1, 4, 4), 2), dataset, **SETTINGS))
    assert calls == ["load", "train"]
    assert torch.equal(first, pretrained(TOY))
    assert calls == ["load", "train"] and capsys.readouterr().err == ""


def test_a_damaged_checkpoint_is_computed_again(calls, tmp_path, capsys) -> None:
    first = pretrained(TOY)
    (path,) = (tmp_path / "checkpoints").glob("*.sha256")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    for damaged in (bytes(content), b""):
        path.write_bytes(damaged)
        assert torch.equal(first, pretrained(TOY))
        assert "is damaged; it is computed again" in capsys.readouterr().err
    assert calls.count("train") == 3


def test_fresh_computes_again(calls, monkeypatch, capsys) -> None:
    first = pretrained(TOY)
    monkeypatch.setenv("FEDAUTO_FRESH", "0")
    pretrained(TOY)
    assert calls.count("train") == 1
    monkeypatch.setenv("FEDAUTO_FRESH", "1")
    assert torch.equal(first, pretrained(TOY))
    assert calls.count("train") == 2 and capsys.readouterr().err == ""


def test_checkpoint_key_changes_with_every_input(calls, monkeypatch) -> None:
    changed = [replace(TOY, **{name: value * 2}) for name, value in asdict(TOY).items()]
    keys = [checkpoint_key(one) for one in (TOY, *changed)]
    for module, name, value in (
        (pretraining, "dataset_sha256", lambda name: "another hash"),
        (pretraining, "code_hash", lambda roots, without, wording: "another hash"),
        (torch, "__version__", "0"),
        (np, "__version__", "0"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            keys.append(checkpoint_key(TOY))
    assert len(set(keys)) == len(keys) == 12
    assert checkpoint_key(TOY) == keys[0]


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(InputError, match="unknown dataset 'toy'"):
        checkpoint_key(TOY)


@pytest.mark.parametrize(
    ("name", "shape", "loader"),
    [("mobilenet_stage", (320, 3, 3), stage_parameters), ("mobilenet_v2", (3, 32, 32), network_parameters)],
)
def test_imagenet_weights_start_the_network_and_its_last_stage(name, shape, loader) -> None:
    start = Pretraining(name, IMAGENET, epochs=0)
    model = build_model(name, shape, 10)
    theta, expected = pretrained(start), loader(load_mobilenet_v2())
    assert set(expected) == {name for name in model.shapes if not name.startswith("head.")}
    parts = model.unflatten(with_fresh_head(model, theta, np.random.default_rng(0))[None])
    assert all(torch.equal(parts[name][0], value) for name, value in expected.items())
    assert parts["head.weight"].std().item() == pytest.approx(1280**-0.5, rel=0.05)
    keys = {checkpoint_key(replace(start, model=other)) for other in ("mobilenet_stage", "mobilenet_v2", "softmax")}
    assert len(keys) == 3


@pytest.mark.parametrize("features", [1280, 256])
def test_imagenet_weights_leave_a_classifier_nothing_but_its_fresh_head(features: int) -> None:
    model = build_model("softmax", (features, 1, 1), 10)
    theta = pretrained(Pretraining("softmax", IMAGENET, epochs=0))
    fresh = with_fresh_head(model, theta, np.random.default_rng(0))
    assert torch.equal(fresh, model.init(np.random.default_rng(0)))


@pytest.mark.parametrize(("model", "epochs"), [("cnn", 0), ("mobilenet_stage", 3)])
def test_imagenet_weights_for_other_models_or_epochs_are_refused(model: str, epochs: int) -> None:
    with pytest.raises(InputError, match=rf"model '{model}' on 'imagenet' for {epochs} epochs.*mobilenet_v2 with"):
        pretrained(Pretraining(model, IMAGENET, epochs))
