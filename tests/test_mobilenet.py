"""MobileNetV2: the official weights fit, the features are worth something, and they are cached safely."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifier

from fedauto_core.data import images
from fedauto_core.errors import InputError
from fedauto_core.models import build_model, mobilenet
from fedauto_core.models.mobilenet import (
    InvertedResidual,
    MobileNetV2,
    cached_activations,
    load_mobilenet_v2,
    pooled_features,
    prepare,
    stage_parameters,
    trunk_activations,
)
from fedauto_core.store.files import Route, cache_folder
from fedauto_core.store.published import MOBILENET_V2


@pytest.fixture(scope="module")
def network() -> MobileNetV2:
    return load_mobilenet_v2()


@pytest.fixture(scope="module")
def cifar() -> images.Images:
    return images.cifar10_images(cache_folder())


def probe(network: MobileNetV2, cifar: images.Images, n_train: int, n_test: int) -> float:
    """Test accuracy of a linear classifier on the frozen features of the first images."""
    x_train, x_test = (
        pooled_features(network, trunk_activations(network, pixels)).numpy()
        for pixels in (cifar.x_train[:n_train], cifar.x_test[:n_test])
    )
    return RidgeClassifier(alpha=30.0).fit(x_train, cifar.y_train[:n_train]).score(x_test, cifar.y_test[:n_test])


def test_the_official_weights_fit_and_are_frozen(network: MobileNetV2) -> None:
    assert sum(parameter.numel() for parameter in network.parameters()) == 3_504_872
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in network.modules())


def test_the_stem_by_hand(network: MobileNetV2) -> None:
    """Output (5, 7) of the first convolution, batch norm and ReLU6, from the formula."""
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 96, 96))).float()
    conv, norm, _ = network.features[0]
    sums = (conv.weight * x[:, :, 9:12, 13:16]).sum(dim=(1, 2, 3))  # stride 2, padding 1
    expected = norm.weight * (sums - norm.running_mean) / (norm.running_var + 1e-5).sqrt() + norm.bias
    assert torch.allclose(network.features[0](x)[0, :, 5, 7], expected.clamp(0, 6), atol=1e-5)


def test_a_block_without_projection_is_the_identity_where_it_may_be() -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 8, 6, 6))).float()
    same, strided = InvertedResidual(8, 8, 1, 6).eval(), InvertedResidual(8, 8, 2, 6).eval()
    for block in (same, strided):
        torch.nn.init.zeros_(block.conv[-2].weight)
    assert torch.equal(same(x), x)
    assert torch.equal(strided(x), torch.zeros(2, 8, 3, 3))


def test_the_parts_make_the_whole(network: MobileNetV2, cifar: images.Images) -> None:
    images = prepare(cifar.x_test[:2])
    assert network.trunk(images).shape == (2, *mobilenet.TRUNK_SHAPE)
    pooled = network.features(images).mean(dim=(2, 3))
    assert torch.allclose(network(images), network.classifier[1](pooled), atol=1e-5)
    activations = trunk_activations(network, cifar.x_test[:2])
    assert torch.allclose(pooled_features(network, activations) * mobilenet.POOLED_SCALE, pooled, atol=1e-5)


def test_the_stage_to_be_tuned_starts_as_the_official_one(network: MobileNetV2, cifar: images.Images) -> None:
    """Model "mobilenet_stage" with an identity as its head gives the pooled features."""
    activations = trunk_activations(network, cifar.x_test[:4])
    head = {"head.weight": torch.eye(1280), "head.bias": torch.zeros(1280)}
    parts = {name: part[None] for name, part in (stage_parameters(network) | head).items()}
    logits = build_model("mobilenet_stage", mobilenet.TRUNK_SHAPE, 1280).forward(parts, activations[None])
    assert torch.allclose(logits[0], pooled_features(network, activations), atol=1e-5)


def test_images_are_enlarged_and_normalised() -> None:
    pixels = np.full((1, 3, 32, 32), 255, dtype=np.uint8)
    pixels[0, 1] = 0
    images = prepare(pixels)
    assert images.shape == (1, 3, 96, 96)
    expected = torch.tensor([(1 - 0.485) / 0.229, -0.456 / 0.224, (1 - 0.406) / 0.225])
    assert torch.allclose(images, expected[None, :, None, None].expand_as(images), atol=1e-5)


def test_a_linear_probe_recognises_cifar10_and_random_weights_do_not(
    network: MobileNetV2, cifar: images.Images
) -> None:
    assert probe(network, cifar, 1_000, 1_000) > 0.70
    torch.manual_seed(0)
    assert probe(MobileNetV2().eval().requires_grad_(False), cifar, 300, 300) < 0.25


def test_activations_have_about_unit_scale(network: MobileNetV2, cifar: images.Images) -> None:
    assert trunk_activations(network, cifar.x_train[:64]).square().mean().sqrt().item() == pytest.approx(1, abs=0.05)


def test_activations_do_not_depend_on_the_callers_threads(network: MobileNetV2, cifar: images.Images) -> None:
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(trunk_activations(network, cifar.x_train[:40]))
            with ThreadPoolExecutor(1) as later:
                assert later.submit(torch.get_num_threads).result() == torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


@pytest.fixture
def cache(network: MobileNetV2, tmp_path: Path) -> Path:
    """A data cache that holds the weights alone."""
    shutil.copytree(cache_folder() / MOBILENET_V2.name, tmp_path / MOBILENET_V2.name)
    return tmp_path


def test_activations_are_computed_once_and_again_after_damage(
    network: MobileNetV2, cifar: images.Images, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    made = []
    monkeypatch.setattr(mobilenet, "trunk_activations", lambda *a: made.append(1) or trunk_activations(*a))
    pixels = cifar.x_train[:20]
    first = cached_activations(pixels, cache)
    assert torch.equal(first, trunk_activations(network, pixels))
    assert torch.equal(first, cached_activations(pixels, cache))
    assert len(made) == 1 and capsys.readouterr().err == ""  # no bar either: stderr is no terminal
    (path,) = (cache / "activations").glob("*.sha256")
    path.write_bytes(path.read_bytes()[:-1])
    assert torch.equal(first, cached_activations(pixels, cache))
    assert len(made) == 2 and "is damaged; it is computed again" in capsys.readouterr().err


def test_other_images_settings_or_versions_are_other_activations(
    cifar: images.Images, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached_activations(cifar.x_train[:2], cache)
    cached_activations(cifar.x_train[1:3], cache)
    for module, name in ((mobilenet, "SETTINGS"), (torch, "__version__")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, "other")
            cached_activations(cifar.x_train[:2], cache)
    assert len(list((cache / "activations").glob("*.sha256"))) == 4


def test_weights_with_another_hash_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = Route("a mirror", lambda scratch: dict.fromkeys(MOBILENET_V2.sha256, b"other weights"))
    monkeypatch.setattr(mobilenet, "MOBILENET_V2", replace(MOBILENET_V2, routes=(mirror,)))
    with pytest.raises(InputError, match=r"a mirror: SHA-256 differs for mobilenet_v2-b0353104\.pth"):
        load_mobilenet_v2(tmp_path)
