"""MiniLM: equal to the official encoder and tokenizer; many models at once; published weights; what is missing."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load
from sklearn.linear_model import RidgeClassifier

from fedauto_core.data.reviews import read_reviews
from fedauto_core.engine import Pretraining, checkpoint_key, local_updates, pretrained, with_fresh_head
from fedauto_core.engine.pretraining import SENTENCE_TRANSFORMERS
from fedauto_core.errors import InputError
from fedauto_core.models import LoRA, Model, adapt, build_model, minilm
from fedauto_core.models.layers import LowRank
from fedauto_core.models.minilm import minilm_parameters, token_ids
from fedauto_core.store.files import cache_folder, load_files
from fedauto_core.store.published import MINILM

Stack = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Reviews shorter and longer than 32 tokens."""
    reviews = read_reviews(cache_folder())
    return [review["text"] for review in (*reviews[:4], *reviews[-8:])]


@pytest.fixture(scope="module")
def ids(texts: list[str]) -> torch.Tensor:
    """[1, 12, 1, 1, 32], some rows with padding and some without."""
    ids = torch.from_numpy(token_ids(texts, 32)).float()[None, :, None, None]
    full = (ids != minilm.PADDING).all(dim=-1)
    assert full.any() and not full.all()
    return ids


@pytest.fixture(scope="module")
def model() -> Model:
    return build_model("minilm", (1, 1, 32), 2)


@pytest.fixture(scope="module")
def official() -> Stack:
    """The official weights, and an identity as the classifier of 384 classes."""
    parts = minilm_parameters() | {"head.weight": torch.eye(384), "head.bias": torch.zeros(384)}
    return {name: part[None] for name, part in parts.items()}


@pytest.fixture(scope="module")
def theta(model: Model) -> torch.Tensor:
    """[P]: the official weights under a drawn classifier."""
    start = pretrained(Pretraining("minilm", SENTENCE_TRANSFORMERS, epochs=0))
    return with_fresh_head(model, start, np.random.default_rng(0))


def moved(stack: Stack, models: int, share: float = 0.02) -> Stack:
    """`models` distinct neighbours of one set of weights."""
    rng = torch.Generator().manual_seed(0)
    return {
        name: part * (1 + share * torch.randn(models, *part.shape[1:], generator=rng)) for name, part in stack.items()
    }


def alone(stack: Stack, m: int) -> Stack:
    return {name: part[m : m + 1] if len(part) > 1 else part for name, part in stack.items()}


def test_the_encoder_equals_the_official_one(ids: torch.Tensor, official: Stack, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=30_522,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        layer_norm_eps=1e-12,
    )
    theirs = BertModel(config).eval()
    weights = load(load_files(MINILM, cache_folder())["model.safetensors"])
    theirs.load_state_dict({name: part for name, part in weights.items() if name != "embeddings.position_ids"})
    tokens = ids[0, :, 0, 0].long()
    mask = tokens != 0
    with torch.no_grad():
        states = theirs(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        x = ids
        for _, step in minilm.STEPS[:-1]:
            x = step(official, x)
        pooled = build_model("minilm", (1, 1, 32), 384).forward(official, ids)[0]
    assert torch.allclose(x[0, ..., :-1][mask], states[mask], atol=1e-4)
    assert torch.equal(x[0, ..., -1] > 0, mask)
    expected = torch.stack([row[keep].mean(dim=0) for row, keep in zip(states, mask, strict=True)])
    assert torch.allclose(pooled, expected, atol=1e-4)


def test_the_tokenizer_equals_the_official_one(texts: list[str], monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from transformers import BertTokenizerFast

    load_files(MINILM, cache_folder())
    tokenizer = BertTokenizerFast(tokenizer_file=str(cache_folder() / MINILM.name / "tokenizer.json"))
    for length in (16, 48):
        expected = tokenizer(texts, padding="max_length", truncation=True, max_length=length)["input_ids"]
        assert token_ids(texts, length).tolist() == expected


def test_token_ids_by_hand() -> None:
    """[CLS] = 101, [SEP] = 102; "hello" and "world" are words 7592 and 2088 of the vocabulary."""
    assert token_ids(["Hello WORLD", "hello hello hello hello"], 5).tolist() == [
        [101, 7592, 2088, 102, 0],
        [101, 7592, 7592, 7592, 102],
    ]


def test_more_padding_changes_nothing(texts: list[str], ids: torch.Tensor, official: Stack) -> None:
    short = ids[:, (ids == minilm.PADDING).any(dim=-1)[0, :, 0, 0]]
    longer = torch.nn.functional.pad(short, (0, 16))
    with torch.no_grad():
        one, other = (build_model("minilm", (1, 1, x.shape[-1]), 384).forward(official, x) for x in (short, longer))
    assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("same_reviews", [True, False])
@pytest.mark.parametrize("own", ["everything", "layers", "embeddings", "nothing"])
def test_many_models_equal_one_by_one(own: str, same_reviews: bool, ids, official: Stack, model: Model) -> None:
    """Weights of their own for some parameters, shared ones [1, ...] for the others."""
    prefixes = {"everything": "", "layers": "layer", "embeddings": "embed.", "nothing": "-"}[own]
    base = official | {"head.weight": torch.eye(384, 2)[None], "head.bias": torch.zeros(1, 2)}
    stack = base | {name: part for name, part in moved(base, 3).items() if name.startswith(prefixes)}
    x = ids[:, :4].expand(3, -1, -1, -1, -1) if same_reviews else ids.view(3, 4, 1, 1, 32)
    with torch.no_grad():
        together = model.forward(stack, x)
        for m in range(3):
            assert torch.allclose(together[m], model.forward(alone(stack, m), x[m : m + 1])[0], atol=1e-5)
    assert (own == "nothing" and same_reviews) or not torch.allclose(together[0], together[1], atol=1e-3)


def test_low_rank_layers_equal_their_full_matrices(ids: torch.Tensor, official: Stack, model: Model) -> None:
    rng = torch.Generator().manual_seed(0)
    stack: dict = official | {"head.weight": torch.eye(384, 2)[None], "head.bias": torch.zeros(1, 2)}
    full = dict(stack)
    for layer in ("layer0.q", "layer3.v", "layer5.up"):
        weight = official[f"{layer}.weight"]
        a, b = (torch.randn(2, *shape, generator=rng) for shape in ((384, 4), (4, weight.shape[2])))
        stack[f"{layer}.weight"] = LowRank(weight, a, b, 0.01)
        full[f"{layer}.weight"] = weight + 0.01 * a @ b
    x = ids.expand(2, -1, -1, -1, -1)
    with torch.no_grad():
        assert torch.allclose(model.forward(stack, x), model.forward(full, x), atol=1e-4)


def test_lora_adapts_the_dense_layers_and_keeps_what_precedes_them(ids, model: Model, theta: torch.Tensor) -> None:
    adapted = adapt(model, theta, LoRA(4, 8, ("layer4.[qv]", "layer5.*")))
    assert list(adapted.layers) == ["layer4.q", "layer4.v", *(f"layer5.{name}" for name in minilm.DENSE)]
    assert adapted.n_frozen == 5  # the embeddings and four layers
    kept = adapted.trunk(ids[0])
    assert kept.shape == (12, 32, 385)
    parts = adapted.model.unflatten(adapted.model.init(np.random.default_rng(0))[None])
    parts |= {name: model.unflatten(theta[None])[name] for name in ("head.weight", "head.bias")}
    with torch.no_grad():  # B starts at zero
        expected = model.forward(model.unflatten(theta[None]), ids)
        assert torch.allclose(adapted.model.forward(parts, kept[None]), expected, atol=1e-5)
    with pytest.raises(InputError, match=r"LoRA target 'embed\.word' fits no layer"):
        adapt(model, theta, LoRA(4, 8, ("embed.word",)))


def test_it_trains_alike_one_by_one_and_stacked(ids: torch.Tensor, model: Model, theta: torch.Tensor) -> None:
    """Every parameter is trained but the rows of tokens and positions that no review uses."""
    x, y = ids[0, :6], torch.arange(6) % 2
    start, batches = theta.expand(2, -1), np.arange(6).reshape(2, 1, 3)
    stacked, loop = (local_updates(model, start, x, y, batches, 0.1, backend=name) for name in ("stacked", "loop"))
    assert torch.allclose(stacked, loop, atol=1e-5)
    change = model.unflatten(stacked)
    constant = {name for name, part in change.items() if part.abs().max() < 1e-7}
    assert constant == {f"layer{layer}.k.bias" for layer in range(6)}  # it shifts all scores of a query alike
    used = {int(token) for token in x[batches[0, 0]].flatten()}
    assert set(change["embed.word"][0].abs().amax(dim=1).nonzero().flatten().tolist()) <= used


def test_published_weights_start_the_encoder(model: Model, official: Stack) -> None:
    assert model.n_parameters == 22_713_216 - (384 * 384 + 384) + 384 * 2 + 2  # the official ones but the pooler; head
    start = Pretraining("minilm", SENTENCE_TRANSFORMERS, epochs=0)
    parts = model.unflatten(pretrained(start)[None])
    assert all(torch.equal(part, official[name]) for name, part in parts.items() if not name.startswith("head."))
    assert not parts["head.weight"].any()
    assert len(checkpoint_key(start)) == 64
    for wrong in (Pretraining("vit", SENTENCE_TRANSFORMERS, 0), Pretraining("minilm", SENTENCE_TRANSFORMERS, 2)):
        for use in (pretrained, checkpoint_key):
            with pytest.raises(
                InputError, match=r"on 'sentence-transformers' for \d epochs.*models minilm with epochs"
            ):
                use(wrong)


def test_initial_weights_are_those_of_bert(model: Model) -> None:
    parts = model.unflatten(model.init(np.random.default_rng(0))[None])
    assert parts["embed.word"].std().item() == pytest.approx(0.02, rel=0.01)
    assert parts["layer3.up.weight"].std().item() == pytest.approx(0.02, rel=0.01)
    assert (parts["layer3.norm1.scale"] == 1).all() and not parts["layer3.norm1.shift"].any()
    assert not parts["layer3.up.bias"].any()


def test_frozen_features_tell_good_reviews_from_bad_ones(model: Model, theta: torch.Tensor) -> None:
    reviews = read_reviews(cache_folder())[25_000:][::18][:460]  # Rotten Tomatoes: first the positive ones
    x = torch.from_numpy(token_ids((review["text"] for review in reviews), 32)).float()[None, :, None, None]
    y = np.array([int(review["label"]) for review in reviews])
    parts = model.unflatten(theta[None])
    with torch.no_grad():
        for step in model.steps[:-1]:
            x = step.apply(parts, x)
    order = np.random.default_rng(0).permutation(len(y))
    train, test = order[:300], order[300:]
    features = x[0].numpy()
    assert RidgeClassifier(alpha=10.0).fit(features[train], y[train]).score(features[test], y[test]) > 0.6


@pytest.mark.parametrize(
    ("module", "use"), [("safetensors", minilm_parameters), ("tokenizers", lambda: token_ids([], 8))]
)
def test_a_missing_extra_is_one_clear_error(module: str, use, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == module] + [module]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=rf"extra \[text\].*'{module}'.*Remedy: pip install -e '\.\[text\]'"):
        use()


def test_images_and_texts_that_are_too_long_are_refused() -> None:
    with pytest.raises(InputError, match=r"513 tokens for model 'minilm'.*at most 512"):
        build_model("minilm", (1, 1, 513), 2)
    with pytest.raises(InputError, match=r"\(1, 1, side\) with side >= 8"):
        build_model("minilm", (1, 28, 28), 2)
    with pytest.raises(InputError, match=r"takes this shape \(minilm\)"):
        build_model("vit", (1, 1, 32), 2)
