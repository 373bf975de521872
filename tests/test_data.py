"""Datasets: content, standardisation, hashes; federations: disjoint shards that hold what their histograms say."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from fedauto_core import InputError
from fedauto_core.data import (
    FederationSpec,
    build_federation,
    dataset_sha256,
    datasets,
    load_dataset,
    reported,
    share_public,
)
from fedauto_core.data import digits as digits_module
from fedauto_core.data import images as images_module
from fedauto_core.models.mobilenet import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    SIDE,
    load_mobilenet_v2,
    pooled_features,
    trunk_activations,
)
from fedauto_core.store.files import cache_folder, load_files
from fedauto_core.store.published import CIFAR10, FASHION_MNIST, MINILM, MOBILENET_V2

SPEC = FederationSpec(6, 60, 50, "classes", classes_per_client=3, size_ratio=3.0, server_missing_classes=(4,))


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def shifted():
    return load_dataset("digits_shifted")


def if_cached(collection):
    missing = [name for name in collection.sha256 if not (cache_folder() / collection.name / name).is_file()]
    return pytest.mark.skipif(bool(missing), reason=f"{collection.name} is not in the data cache; tests never download")


def test_digits_are_the_balanced_target_split(digits):
    assert digits.x_train.shape == (1000, 1, 8, 8) and digits.x_test.shape == (400, 1, 8, 8)
    assert digits.x_train.dtype == torch.float32 and digits.y_train.dtype == torch.int64
    assert digits.y_train.bincount().tolist() == [100] * 10 and digits.y_test.bincount().tolist() == [40] * 10
    assert digits.n_classes == 10 and digits.class_names[3] == "3"


def test_digits_train_test_and_source_divide_the_images():
    bunch = load_digits()
    target, source = digits_module._digits_split()
    parts = [(target.x_train, target.y_train), (target.x_test, target.y_test)]
    parts += [(source.x_train, source.y_train), (source.x_test, source.y_test)]
    rows = [np.column_stack([x.reshape(len(x), 64) // 15, y]) for x, y in parts]
    whole = np.column_stack([bunch.data, bunch.target])
    # Every published image occurs exactly once (as multisets of pixels with label).
    assert sorted(map(tuple, np.concatenate(rows))) == sorted(map(tuple, whole))


def test_digits_are_standardised_by_the_source(digits):
    target, source = digits_module._digits_split()
    pixels = source.x_train.astype(np.float64)
    expected = (target.x_train - pixels.mean()) / pixels.std()
    np.testing.assert_allclose(digits.x_train.numpy(), expected, atol=1e-5)


def test_digits_shifted_are_moved_copies_of_the_source(shifted):
    _, source = digits_module._digits_split()
    assert len(shifted.x_train) == digits_module.COPIES * len(source.x_train)
    assert shifted.y_train.tolist() == np.repeat(source.y_train, digits_module.COPIES).tolist()
    assert shifted.y_test.bincount().tolist() == [digits_module.COPIES * digits_module.SOURCE_TEST_PER_CLASS] * 10
    assert len(torch.unique(shifted.x_train[: digits_module.COPIES], dim=0)) == digits_module.COPIES


def test_class_means_of_the_source_recognise_the_target(digits, shifted):
    means = torch.stack([shifted.x_train[shifted.y_train == c].mean(dim=0).flatten() for c in range(10)])
    nearest = torch.cdist(digits.x_test.flatten(1), means).argmin(dim=1)
    assert (nearest == digits.y_test).float().mean() > 0.8


def test_rotation_and_shift_move_a_point_as_told(monkeypatch):
    class Fixed:
        def uniform(self, low, high, size):
            return np.zeros(size) if isinstance(size, int) else np.tile([1.0, -1.0], (size[0], 1))

    pixels = np.zeros((1, 1, 8, 8), dtype=np.uint8)
    pixels[0, 0, 3, 4] = 240
    moved, labels = digits_module._augmented(pixels, np.array([7]), Fixed())
    assert labels.tolist() == [7] * digits_module.COPIES
    assert (np.argwhere(moved[:, 0] == 240)[:, 1:] == [4, 3]).all() and moved.sum() == 240 * digits_module.COPIES


def test_content_hash_is_stable_and_distinguishes(digits, shifted):
    target, source = digits_module._digits_split()
    digits_module.digits_images.cache_clear()
    moved = digits_module.digits_images()["digits_shifted"]
    assert digits.sha256 == images_module.content_sha256(target) == dataset_sha256("digits")
    assert shifted.sha256 == images_module.content_sha256(moved) == dataset_sha256("digits_shifted")
    assert len({images_module.content_sha256(images) for images in (target, source, moved)}) == 3
    changed = target._replace(y_test=target.y_test[::-1])
    assert images_module.content_sha256(changed) != digits.sha256


def test_hashes_need_no_files(monkeypatch):
    monkeypatch.setattr(images_module, "load_files", lambda *_: pytest.fail("files were read"))
    dataset_sha256.cache_clear()
    hashes = {name: dataset_sha256(name) for name in datasets.DATASETS}
    assert len(set(hashes.values())) == len(hashes) == 10
    changed = {name: value.replace("0", "1") for name, value in CIFAR10.sha256.items()}
    entries = datasets.DATASETS
    monkeypatch.setitem(entries, "cifar10", entries["cifar10"]._replace(files=replace(CIFAR10, sha256=changed)))
    stage = "cifar10_mobilenetv2_stage"
    monkeypatch.setitem(entries, stage, entries[stage]._replace(settings=("other",)))
    dataset_sha256.cache_clear()
    assert {name for name in hashes if dataset_sha256(name) != hashes[name]} == {"cifar10", stage}


def test_the_settings_name_what_the_features_depend_on():
    settings = {name: " ".join(entry.settings) for name, entry in datasets.DATASETS.items()}
    features = ("cifar10_mobilenetv2", "cifar10_mobilenetv2-256", "cifar10_mobilenetv2_stage")
    for name in (*features, "cifar10_imagenet"):
        for value in (images_module.FEATURES_TRAIN, images_module.FEATURES_TEST, IMAGENET_MEAN, IMAGENET_STD):
            assert str(value) in settings[name]
    assert all(repr(SIDE) in settings[name] for name in features)
    for value in (images_module.COMPONENTS, images_module.COMPONENTS_FROM):
        assert str(value) in settings["cifar10_mobilenetv2-256"]
    assert MINILM.sha256["tokenizer.json"] in settings["movie_reviews"]


def test_an_unknown_dataset_has_no_hash():
    dataset_sha256.cache_clear()
    with pytest.raises(InputError, match="unknown dataset 'mnist'"):
        dataset_sha256("mnist")


def test_statistics_are_those_of_numpy():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 3, 4, 5)).astype(np.uint8)
    mean, std = images_module._statistics(pixels)
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(std, pixels.std(axis=(0, 2, 3)))


@if_cached(FASHION_MNIST)
def test_fashion_mnist_has_the_published_content():
    fashion = load_dataset("fashion_mnist")
    assert fashion.x_train.shape == (60_000, 1, 28, 28) and fashion.x_test.shape == (10_000, 1, 28, 28)
    assert fashion.y_train.bincount().tolist() == [6000] * 10 and fashion.y_test.bincount().tolist() == [1000] * 10
    # Published mean .2860 and standard deviation .3530 of the training pixels: black and white become these.
    assert fashion.x_train.min().item() == pytest.approx(-0.2860 / 0.3530, abs=2e-3)
    assert fashion.x_train.max().item() == pytest.approx((1 - 0.2860) / 0.3530, abs=2e-3)
    assert fashion.class_names[fashion.y_train[0]] == "ankle boot"
    assert fashion.sha256 == dataset_sha256("fashion_mnist")


@if_cached(CIFAR10)
def test_cifar10_has_the_published_content():
    images = images_module.cifar10_images(cache_folder())
    mean, std = images_module._statistics(images.x_train)
    np.testing.assert_allclose(mean / 255, [0.4914, 0.4822, 0.4465], atol=1e-4)  # published values
    np.testing.assert_allclose(std / 255, [0.2470, 0.2435, 0.2616], atol=1e-4)
    assert images.x_train.shape == (50_000, 3, 32, 32) and images.x_test.shape == (10_000, 3, 32, 32)
    assert np.bincount(images.y_train).tolist() == [5000] * 10 and np.bincount(images.y_test).tolist() == [1000] * 10
    assert images_module.CIFAR10_CLASSES[images.y_train[0]] == "frog"


def test_grey_version_agrees_with_pillow():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, 32, 32)).astype(np.uint8)
    grey = images_module._grey28(pixels)
    assert grey.shape == (20, 1, 28, 28)
    for small, colour in zip(grey[:, 0], pixels, strict=True):
        picture = Image.fromarray(colour.transpose(1, 2, 0)).convert("L").resize((28, 28), Image.Resampling.BILINEAR)
        assert np.abs(small.astype(int) - np.asarray(picture).astype(int)).max() <= 2  # Pillow rounds twice


def test_unknown_dataset_is_refused():
    with pytest.raises(InputError, match=r"unknown dataset 'mnist'\. Allowed: cifar10, cifar10_grey28, cifar10_image"):
        load_dataset("mnist")


@pytest.mark.parametrize("partition", [{"partition": "iid", "classes_per_client": None}, {}])
def test_shards_are_disjoint_and_match_their_histograms(digits, partition):
    spec = FederationSpec(**{**SPEC.__dict__, **partition})
    federation = build_federation(digits, spec, seed=1)
    assert federation.n_clients == 6 and len(federation.shards) == 7
    everything = np.concatenate(federation.shards)
    assert len(np.unique(everything)) == len(everything) == 50 + 6 * 60
    labels = digits.y_train.numpy()
    for j, shard in enumerate(federation.shards):
        slow = [int((labels[shard] == c).sum()) for c in range(10)]
        assert shard.dtype == np.int64 and federation.class_counts[j].tolist() == slow
        assert federation.counts[j] == len(shard)
        np.testing.assert_allclose(federation.alpha[j], np.array(slow) / len(shard))
    assert federation.alpha[0, 4] == 0
    np.testing.assert_allclose(federation.target, np.bincount(labels[everything], minlength=10) / len(everything))


def test_same_seed_same_shards(digits):
    first, again, other = (build_federation(digits, SPEC, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first.shards, again.shards, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first.shards, other.shards, strict=True))


def test_missing_files_are_refused_with_the_cache_folder(tmp_path, monkeypatch):
    (tmp_path / "fashion_mnist").write_text("a file where the folder should be")
    with pytest.raises(InputError, match="fashion_mnist"):
        load_dataset("fashion_mnist", tmp_path)


def test_shared_public_samples_join_every_client():
    federation = build_federation(load_dataset("digits"), FederationSpec(4, 50, 40, "iid"), 0)
    shared = share_public(federation, 0.25, seed=0)
    public = set(federation.shards[0])
    for before, after in zip(federation.shards[1:], shared.shards[1:], strict=True):
        gift = set(after) - set(before)
        assert len(gift) == 10 and gift <= public and len(after) == len(before) + 10
    assert shared.counts.tolist() == [40, 60, 60, 60, 60]
    with pytest.raises(InputError, match=r"fraction of the public data = 1\.5"):
        share_public(federation, 1.5, seed=0)


def test_reported_histograms_run_from_exact_to_unknown():
    spec = FederationSpec(4, 50, 40, "classes", classes_per_client=2)
    federation = build_federation(load_dataset("digits"), spec, 0)
    true = federation.class_counts
    error = [np.abs(reported(federation, e, 0) - true).max() for e in (np.inf, 1e6, 1.0, 0.1)]
    assert error[0] == 0 < error[1] < 1e-2 < error[2] < error[3]
    for epsilon in (0, 0.1, 1.0):
        counts = reported(federation, epsilon, 0)
        assert (counts >= 0).all() and counts.any(axis=1).all()
        assert np.array_equal(counts[0], true[0])  # the server knows its own
    assert (reported(federation, 0, 0)[1:] == 1).all()
    with pytest.raises(InputError, match="epsilon = -1"):
        reported(federation, -1, 0)


def test_noise_on_histograms_has_the_scale_of_its_privacy():
    """Counts far above zero are not cut: the mean absolute error of a count is the Laplace scale 2 / epsilon."""
    federation = build_federation(load_dataset("digits"), FederationSpec(8, 90, 10, "iid"), 0)
    errors = [np.abs(reported(federation, 2.0, seed) - federation.class_counts)[1:].mean() for seed in range(40)]
    assert np.mean(errors) == pytest.approx(1.0, rel=0.15)


def test_mobilenet_features_belong_to_the_first_images_of_cifar10(tmp_path, monkeypatch):
    for collection in (CIFAR10, MOBILENET_V2):
        load_files(collection, cache_folder())
        (tmp_path / collection.name).symlink_to(cache_folder() / collection.name)
    monkeypatch.setattr(images_module, "FEATURES_TRAIN", 24)
    monkeypatch.setattr(images_module, "FEATURES_TEST", 8)
    stage, pooled = (load_dataset(name, tmp_path) for name in ("cifar10_mobilenetv2_stage", "cifar10_mobilenetv2"))
    assert stage.x_train.shape == (24, 320, 3, 3) and stage.x_test.shape == (8, 320, 3, 3)
    assert pooled.x_train.shape == (24, 1280, 1, 1) and pooled.x_test.shape == (8, 1280, 1, 1)
    assert {x.dtype for x in (stage.x_train, pooled.x_test)} == {torch.float32}
    network, images = load_mobilenet_v2(), images_module.cifar10_images(cache_folder())
    assert torch.equal(stage.x_test, trunk_activations(network, images.x_test[:8]))
    assert torch.equal(pooled.x_train[:, :, 0, 0], pooled_features(network, stage.x_train))
    for dataset in (stage, pooled):
        assert dataset.y_train.tolist() == images.y_train[:24].tolist()
        assert dataset.y_test.tolist() == images.y_test[:8].tolist()
        assert dataset.class_names[6] == "frog" and dataset.sha256 == dataset_sha256(dataset.name)


def test_components_are_those_of_a_slow_twin():
    """By the singular values of the centred features; the sign is that of the largest entry."""
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.standard_normal((50, 6)) * [1, 5, 2, 4, 3, 0.5] + 7).float()
    mean, vectors = images_module.principal_components(features, 3)
    assert vectors.dtype == torch.float64 and vectors.shape == (6, 3)
    centred = features.double().numpy() - features.double().numpy().mean(axis=0)
    expected = np.linalg.svd(centred)[2][:3]
    expected *= np.sign([row[np.abs(row).argmax()] for row in expected])[:, None]
    np.testing.assert_allclose(vectors.T.numpy(), expected, atol=1e-10)
    np.testing.assert_allclose(mean.numpy(), features.double().numpy().mean(axis=0), atol=1e-12)
    assert np.argmax(np.abs(expected), axis=1).tolist() == [1, 3, 4]


def test_components_are_fitted_on_images_that_nobody_has(tmp_path, monkeypatch):
    """They do not change with the features of clients, server and test; and they are kept."""
    for collection in (CIFAR10, MOBILENET_V2):
        load_files(collection, cache_folder())
        (tmp_path / collection.name).symlink_to(cache_folder() / collection.name)
    begin, end = images_module.COMPONENTS_FROM
    assert begin >= images_module.FEATURES_TRAIN and end <= 50_000
    for name, value in {"FEATURES_TRAIN": 24, "FEATURES_TEST": 8, "COMPONENTS_FROM": (24, 64), "COMPONENTS": 5}.items():
        monkeypatch.setattr(images_module, name, value)
    whole, few = (load_dataset(name, tmp_path) for name in ("cifar10_mobilenetv2", "cifar10_mobilenetv2-256"))
    assert few.x_train.shape == (24, 5, 1, 1) and few.x_test.shape == (8, 5, 1, 1) and few.x_test.dtype == torch.float32
    network, images = load_mobilenet_v2(), images_module.cifar10_images(cache_folder())
    public = pooled_features(network, trunk_activations(network, images.x_train[24:64]))
    mean, vectors = images_module.principal_components(public, 5)
    for part, features in ((few.x_train, whole.x_train), (few.x_test, whole.x_test)):
        expected = (features.flatten(1).double() - mean) @ vectors
        assert (part.flatten(1) - expected).abs().max() < 1e-5 and expected.abs().max() > 1
    assert few.name == "cifar10_mobilenetv2-256" and few.sha256 == dataset_sha256(few.name)
    assert few.y_train.tolist() == whole.y_train.tolist() and few.y_test.tolist() == whole.y_test.tolist()
    monkeypatch.setattr(images_module, "principal_components", lambda *_: pytest.fail("fitted again"))
    assert torch.equal(load_dataset("cifar10_mobilenetv2-256", tmp_path).x_test, few.x_test)


@if_cached(CIFAR10)
def test_images_for_the_whole_mobilenet_are_the_same_ones(monkeypatch):
    """Pixels p become (p / 255 - mean) / std with the statistics of ImageNet."""
    monkeypatch.setattr(images_module, "FEATURES_TRAIN", 24)
    monkeypatch.setattr(images_module, "FEATURES_TEST", 8)
    dataset, images = load_dataset("cifar10_imagenet"), images_module.cifar10_images(cache_folder())
    assert dataset.x_train.shape == (24, 3, 32, 32) and dataset.x_test.dtype == torch.float32
    for channel, (mean, std) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
        expected = (images.x_train[:24, channel] / 255 - mean) / std
        np.testing.assert_allclose(dataset.x_train[:, channel].numpy(), expected, atol=1e-5)
    assert dataset.y_train.tolist() == images.y_train[:24].tolist()
    assert dataset.y_test.tolist() == images.y_test[:8].tolist()
    assert dataset.class_names[6] == "frog" and dataset.sha256 == dataset_sha256("cifar10_imagenet")
