"""Movie reviews: what is selected, for whom; federations whose server has a domain of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedauto_core import InputError
from fedauto_core.data import (
    DATASETS,
    Dataset,
    Federation,
    FederationSpec,
    build_federation,
    dataset_sha256,
    load_dataset,
    reviews,
)
from fedauto_core.models.minilm import token_ids
from fedauto_core.store.files import cache_folder
from fedauto_core.store.published import MOVIE_REVIEWS

SPEC = FederationSpec(8, 200, 300, "dirichlet", concentration=0.5, size_ratio=2.0)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset("movie_reviews")


@pytest.fixture(scope="module")
def table() -> list[dict[str, str]]:
    return reviews.read_reviews(cache_folder())


@pytest.fixture(scope="module")
def federation(dataset: Dataset) -> Federation:
    return build_federation(dataset, SPEC, seed=1)


def test_the_table_has_the_published_content(table: list[dict[str, str]]) -> None:
    kinds = [(review["source"], review["label"]) for review in table]
    counts = {kind: kinds.count(kind) for kind in set(kinds)}
    assert counts == {
        ("imdb", "0"): 12_500,
        ("imdb", "1"): 12_500,
        ("rotten_tomatoes", "0"): 4_265,
        ("rotten_tomatoes", "1"): 4_265,
    }


def test_the_selection_is_balanced_disjoint_and_by_domain(table: list[dict[str, str]]) -> None:
    selection = reviews._selection(table)
    sizes = {
        part: [sum(table[i]["label"] == label for i in rows) for label in "01"] for part, rows in selection.items()
    }
    assert sizes == {"public": [500, 500], "private": [2_000, 2_000], "test": [750, 750]}
    sources = {part: {table[i]["source"] for i in rows} for part, rows in selection.items()}
    assert sources == {"public": {"imdb"}, "private": {"rotten_tomatoes"}, "test": {"rotten_tomatoes"}}
    texts = [table[i]["text"] for rows in selection.values() for i in rows]
    assert len(set(texts)) == len(texts) == 6_500
    positive = np.array([table[i]["label"] == "1" for i in selection["test"]])
    assert all(0.3 < share.mean() < 0.7 for share in np.array_split(positive, 10)), "any range holds both classes"
    again = reviews._selection(table)
    assert all(np.array_equal(selection[part], again[part]) for part in selection)


def test_the_dataset_holds_the_selection_as_token_ids(dataset: Dataset, table: list[dict[str, str]]) -> None:
    assert dataset.x_train.shape == (5_000, 1, 1, 32) and dataset.x_test.shape == (1_500, 1, 1, 32)
    assert dataset.x_train.dtype == dataset.x_test.dtype == torch.float32
    assert dataset.y_train.bincount().tolist() == [2_500] * 2 and dataset.y_test.bincount().tolist() == [750] * 2
    assert dataset.class_names == ("negative", "positive") and dataset.y_train.dtype == torch.int64
    assert dataset.public.tolist() == list(range(1_000))
    assert dataset.sha256 == dataset_sha256("movie_reviews")
    selection = reviews._selection(table)
    for part, start, x, y in (
        ("public", 0, dataset.x_train, dataset.y_train),
        ("private", 1_000, dataset.x_train, dataset.y_train),
        ("test", 0, dataset.x_test, dataset.y_test),
    ):
        rows = selection[part][::250]
        places = slice(start, start + len(selection[part]), 250)
        assert x[places, 0, 0].tolist() == token_ids([table[i]["text"] for i in rows], 32).tolist()
        assert y[places].tolist() == [int(table[i]["label"]) for i in rows]


def test_the_hash_covers_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = [dataset_sha256("movie_reviews")]
    entry = DATASETS["movie_reviews"]
    for change in ({"settings": ("other",)}, {"files": replace(MOVIE_REVIEWS, sha256={"table": "00"})}):
        monkeypatch.setitem(DATASETS, "movie_reviews", entry._replace(**change))
        dataset_sha256.cache_clear()
        hashes.append(dataset_sha256("movie_reviews"))
    dataset_sha256.cache_clear()
    assert len(set(hashes)) == 3


def test_the_server_has_its_domain_and_the_clients_theirs(dataset: Dataset, federation: Federation) -> None:
    public = set(dataset.public)
    assert set(federation.shards[0]) <= public and len(federation.shards[0]) == 300
    assert federation.class_counts[0].tolist() == [150, 150]
    everything = np.concatenate(federation.shards)
    assert len(np.unique(everything)) == len(everything) == 300 + 8 * 200
    assert all(public.isdisjoint(shard) for shard in federation.shards[1:])
    labels = dataset.y_train.numpy()
    for shard, counts in zip(federation.shards, federation.class_counts, strict=True):
        assert np.bincount(labels[shard], minlength=2).tolist() == counts.tolist() and (np.diff(shard) > 0).all()


def test_the_same_seed_gives_the_same_shards(dataset: Dataset, federation: Federation) -> None:
    again, other = (build_federation(dataset, SPEC, seed) for seed in (1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(again.shards, federation.shards, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(other.shards, federation.shards, strict=True))


def test_all_of_both_domains_can_be_dealt_and_no_more(dataset: Dataset) -> None:
    federation = build_federation(dataset, FederationSpec(10, 400, 1_000, "iid"), 0)
    assert sorted(np.concatenate(federation.shards)) == list(range(5_000))
    with pytest.raises(InputError, match=r"the server would need \[501, 501\].*\[500, 500\] exist"):
        build_federation(dataset, FederationSpec(10, 400, 1_002, "iid"), 0)
    with pytest.raises(InputError, match=r"clients ask for 4010 samples, but only 4000 are left.*\[2000, 2000\]"):
        build_federation(dataset, FederationSpec(10, 401, 500, "iid"), 0)


def test_without_a_public_domain_everyone_draws_from_all(dataset: Dataset) -> None:
    federation = build_federation(replace(dataset, public=None), SPEC, seed=1)
    assert not set(federation.shards[0]) <= set(dataset.public)
