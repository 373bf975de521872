"""LoRA as a model over a frozen one: what is frozen, what is trained, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
import pytest
import torch
from torch import Tensor

from fedauto_core.engine import local_updates
from fedauto_core.errors import InputError
from fedauto_core.models import Adapted, LoRA, Model, adapt, build_model
from fedauto_core.models.architectures import Step
from fedauto_core.models.layers import LowRank


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


# Model, inputs, what is adapted, and how many steps of how many that leaves frozen.
CASES = {
    "mlp": ((1, 8, 8), ("hidden",), 0),
    "cnn": ((1, 16, 16), ("conv2",), 0),
    "cnn_small": ((1, 8, 8), ("conv*",), 0),
    "resnet8": ((1, 8, 8), ("stage2.*",), 3),
    "vit": ((1, 8, 8), ("layer2.qkv", "layer3.*"), 3),
    "mobilenet_stage": ((8, 2, 2), ("conv",), 0),
}


def start_of(name: str) -> tuple[Model, Tensor, LoRA, Tensor]:
    shape, targets, _ = CASES[name]
    model = build_model(name, shape, 10)
    return model, model.init(np.random.default_rng(1)), LoRA(2, 3, targets), normal(12, *shape, seed=2).float()


def factors_of(adapted: Adapted, model: Model, theta: Tensor, models: int, spread: float = 0.0) -> Tensor:
    """theta [M, P] of the adapted models with the base's head; B and offsets normal with this spread, each its own."""
    drawn = adapted.model.unflatten(adapted.model.init(np.random.default_rng(2)).repeat(models, 1))
    head = {n: part.expand(models, *part.shape[1:]) for n, part in model.unflatten(theta[None]).items() if "head." in n}
    moved = {n: spread * normal(*p.shape, seed=i).float() for i, (n, p) in enumerate(drawn.items()) if n[-2:] != ".A"}
    return torch.cat([part.flatten(1) for part in (drawn | moved | head).values()], dim=1)


@pytest.mark.parametrize("offsets", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_with_b_at_zero_an_adapted_model_is_the_frozen_one(name: str, offsets: bool) -> None:
    model, theta, lora, x = start_of(name)
    adapted = adapt(model, theta, lora, offsets=offsets)
    assert adapted.n_frozen == CASES[name][2]
    behind = adapted.trunk(x)
    expected = model.forward(model.unflatten(theta[None]), x[None])
    for models in (1, 3):
        parts = adapted.model.unflatten(factors_of(adapted, model, theta, models))
        logits = adapted.model.forward(parts, behind.expand(models, *behind.shape))
        torch.testing.assert_close(logits, expected.expand(models, -1, -1), atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_an_adapted_model_is_the_base_with_the_products_in_its_weights(name: str) -> None:
    model, theta, lora, x = start_of(name)
    adapted = adapt(model, theta, lora, offsets=True)
    values = factors_of(adapted, model, theta, 3, spread=0.1)
    parts, whole = adapted.model.unflatten(values), model.unflatten(theta.repeat(3, 1))
    for layer in adapted.layers:
        product = lora.scale * parts[f"{layer}.A"] @ parts[f"{layer}.B"] + parts[f"{layer}.offset"]
        shape = model.shapes[f"{layer}.weight"]
        whole[f"{layer}.weight"] = whole[f"{layer}.weight"] + (product.mT if shape[2:] else product).reshape(3, *shape)
    behind, stack = adapted.trunk(x), x.expand(3, *x.shape)
    logits = adapted.model.forward(parts, behind.expand(3, *behind.shape))
    torch.testing.assert_close(logits, model.forward(whole, stack), atol=1e-4, rtol=1e-4)
    assert (logits - model.forward(model.unflatten(theta.repeat(3, 1)), stack)).abs().max() > 0.01


def test_the_trunk_runs_the_steps_before_the_first_adapted_one() -> None:
    model, theta, lora, x = start_of("resnet8")
    ran: list[int] = []

    def noted(index: int, step: Step) -> Step:
        return Step(step.prefixes, lambda p, z: ran.append(index) or step.apply(p, z))

    watched = replace(model, steps=tuple(noted(i, step) for i, step in enumerate(model.steps)))
    adapted = adapt(watched, theta, lora)
    behind = adapted.trunk(x)
    assert ran == [0, 1, 2] and behind.shape == (12, 4, 4, 32) and not behind.requires_grad
    adapted.model.forward(adapted.model.unflatten(factors_of(adapted, model, theta, 1)), behind[None])
    assert ran == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("models", [1, 3])
def test_the_frozen_weights_are_kept_once_and_detached_from_their_origin(models: int) -> None:
    """However many models are trained, and whatever happens to theta afterwards."""
    model, theta, lora, x = start_of("mlp")
    seen: list[dict[str, Tensor | LowRank]] = []
    watched = replace(model, steps=tuple(Step(s.prefixes, lambda p, z: seen.append(p) or z) for s in model.steps))
    adapted = adapt(watched, theta, lora)
    kept = theta.clone()
    for count in (models, 1):
        adapted.model.forward(
            adapted.model.unflatten(factors_of(adapted, model, theta, count)), x.expand(count, *x.shape)
        )
        theta.zero_()
    for frozen in (lambda p: p["hidden.weight"].weight, lambda p: p["hidden.bias"]):
        assert frozen(seen[0]).shape[0] == 1 and frozen(seen[0]).data_ptr() == frozen(seen[1]).data_ptr()
    assert torch.equal(seen[1]["hidden.weight"].weight[0], model.unflatten(kept[None])["hidden.weight"][0])


@pytest.mark.parametrize("name", CASES)
def test_trainable_are_the_factors_and_the_head(name: str) -> None:
    model, theta, lora, _ = start_of(name)
    chosen = {
        n.removesuffix(".weight"): shape
        for n, shape in model.shapes.items()
        if n.endswith(".weight") and any(fnmatchcase(n.removesuffix(".weight"), target) for target in lora.targets)
    }
    sides = {n: s if len(s) == 2 else (s[1] * s[2] * s[3], s[0]) for n, s in chosen.items()}
    head = sum(int(np.prod(shape)) for n, shape in model.shapes.items() if n.startswith("head."))
    factors = sum(2 * (fan_in + n_out) for fan_in, n_out in sides.values())
    adapted = adapt(model, theta, lora)
    assert adapted.layers == sides and adapted.model.n_parameters == factors + head
    products = sum(fan_in * n_out for fan_in, n_out in sides.values())
    assert adapt(model, theta, lora, offsets=True).model.n_parameters == factors + head + products


def test_factors_start_with_the_spread_of_peft() -> None:
    """Uniform within 1 / sqrt(fan_in) there (kaiming_uniform with a = sqrt(5)), normal here: the same variance."""
    model = build_model("mlp", (1, 28, 28), 10)
    adapted = adapt(model, torch.zeros(model.n_parameters), LoRA(64, 1, ("hidden",)))
    parts = adapted.model.unflatten(adapted.model.init(np.random.default_rng(0))[None])
    assert parts["hidden.A"].var().item() == pytest.approx(1 / (3 * 784), rel=0.02)
    assert not parts["hidden.B"].any()


@pytest.mark.parametrize("name", CASES)
def test_training_moves_factors_and_head_alike_stacked_and_one_by_one(name: str) -> None:
    model, theta, lora, x = start_of(name)
    adapted = adapt(model, theta, lora, offsets=True)
    start, behind, y = factors_of(adapted, model, theta, 3, spread=0.1), adapted.trunk(x), torch.arange(12) % 10
    batches = np.random.default_rng(3).integers(0, 12, (3, 2, 4))

    def trained(backend: str, **options: object) -> Tensor:
        return local_updates(adapted.model, start, behind, y, batches, 0.05, backend=backend, **options)

    stacked = trained("stacked")
    torch.testing.assert_close(stacked, trained("loop"), atol=1e-5, rtol=0)
    moved = adapted.model.unflatten(stacked)
    assert all(bool(part.any()) is not n.endswith(".offset") for n, part in moved.items())
    held = {f"{layer}.A" for layer in adapted.layers}
    for backend in ("stacked", "loop"):  # with a pull along all parameters, the held ones included
        delta = trained(backend, frozen=held, prox=0.5, reference=start + 1, linear=torch.ones_like(start))
        parts = adapted.model.unflatten(delta)
        assert all(bool(part.any()) is not n.endswith((".offset", ".A")) for n, part in parts.items())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LoRA(0, 1, ("hidden",)), r"LoRA rank = 0\..*integers >= 1"),
        (lambda: LoRA(1.5, 1, ("hidden",)), r"LoRA rank = 1\.5"),
        (lambda: LoRA(2, 0.0, ("hidden",)), r"LoRA alpha = 0\.0\..*finite numbers > 0"),
        (lambda: LoRA(2, -1.0, ("hidden",)), r"LoRA alpha = -1\.0"),
        (lambda: LoRA(2, float("nan"), ("hidden",)), r"LoRA alpha = nan"),
        (lambda: LoRA(2, float("inf"), ("hidden",)), r"LoRA alpha = inf"),
    ],
)
def test_lora_of_no_meaning_is_refused(build: Callable[[], LoRA], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()


@pytest.mark.parametrize(
    ("name", "lora", "message"),
    [
        ("mlp", LoRA(65, 1, ("hidden",)), r"rank = 65 for layer 'hidden' of 64 x 128\. Allowed: 1\.\.64\..*targets"),
        ("cnn_small", LoRA(9, 1, ("*",)), r"rank = 9 for layer 'conv1' of 9 x 8\. Allowed: 1\.\.8\."),
        (
            "vit",
            LoRA(2, 1, ("layer3.qkv", "layer4.*")),
            r"'layer4\.\*' fits no layer of model 'vit'.*embed, layer0\.qkv",
        ),
        ("mlp", LoRA(2, 1, ("head",)), r"'head' fits no layer.*patterns of hidden\."),
        ("resnet8", LoRA(2, 1, ("stem.norm",)), r"'stem\.norm' fits no layer.*patterns of stem, stage0\.0\.a,"),
        ("mlp", LoRA(2, 1, ()), r"LoRA without targets\. Allowed: hidden\."),
        (
            "softmax",
            LoRA(2, 1, ("*",)),
            r"'\*' fits no layer of model 'softmax'.*no layer: it has none besides its head",
        ),
    ],
)
def test_layers_that_cannot_be_adapted_are_refused(name: str, lora: LoRA, message: str) -> None:
    model = build_model(name, (1, 8, 8), 10)
    with pytest.raises(InputError, match=message):
        adapt(model, torch.zeros(model.n_parameters), lora)


def test_the_largest_rank_that_fits_is_taken() -> None:
    model = build_model("mlp", (1, 8, 8), 10)
    assert adapt(model, torch.zeros(model.n_parameters), LoRA(64, 1, ("hidden",))).layers == {"hidden": (64, 128)}


def test_one_target_may_be_a_text_and_several_a_list():
    assert LoRA(2, 3, "layer3.*") == LoRA(2, 3, ("layer3.*",)) == LoRA(np.int64(2), 3, ["layer3.*"])
    assert hash(LoRA(2, 3, ["layer3.*"])) == hash(LoRA(2, 3, "layer3.*"))
