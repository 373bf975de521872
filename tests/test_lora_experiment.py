"""Experiments with LoRA: what precedes the first adapted step runs once, and everything is in the key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import caches
import numpy as np
import pandas as pd
import pytest
from test_experiment import content_key
from torch import Tensor

from fedauto_core import InputError
from fedauto_core.data import FederationSpec
from fedauto_core.engine import Pretraining, Schedule
from fedauto_core.experiments import SCRATCH, AdapterExperiment, Cell, Experiment, run, running, unit
from fedauto_core.methods import make_method
from fedauto_core.models import Adapted, LoRA, Model, adapt, build_model
from fedauto_core.models.architectures import Step
from fedauto_core.network import Scenario

HALF = Scenario("half", "bernoulli", (("probability", 0.5),))
SPEC = FederationSpec(4, 50, 40, "classes", classes_per_client=3)
SCHEDULE = Schedule(rounds=3, steps=2, batch=8, evaluate_every=1)
CELLS = tuple(Cell(name, make_method(name), HALF, SPEC, 0.1) for name in ("fedauto", "fedavg"))
START = Pretraining("vit", "digits_shifted", 1)
PLAN = AdapterExperiment(
    "digits", "vit", START, SCHEDULE, CELLS, (0, 1), lora=LoRA(2, 4, ("layer3.*",)), aggregation="residual"
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDAUTO_DATA", str(caches.own_cache(tmp_path)))
    monkeypatch.delenv("FEDAUTO_FRESH", raising=False)
    monkeypatch.setattr(unit, "_BEHIND_TRUNK", {})
    theta = build_model("vit", (1, 8, 8), 10).init(np.random.default_rng(1))  # in place of a minute of pre-training
    monkeypatch.setattr(running, "_checkpoint", lambda start: theta)
    return tmp_path


@pytest.fixture
def trunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of each call of a trunk."""
    calls: list[int] = []

    def watched(*args: object, **options: object) -> Adapted:
        adapted = adapt(*args, **options)
        return adapted._replace(trunk=lambda x: calls.append(len(x)) or adapted.trunk(x))

    monkeypatch.setattr(unit, "adapt", watched)
    return calls


def unsplit(model: Model, theta: Tensor, lora: LoRA, *, offsets: bool = False) -> Adapted:
    """`adapt` for the same network as a single step, which leaves nothing to run in advance."""
    return adapt(replace(model, steps=(Step(("",), model.forward),)), theta, lora, offsets=offsets)


@pytest.mark.parametrize("start", [START, SCRATCH])
def test_running_the_trunk_once_changes_no_number(
    start: Pretraining | None, monkeypatch: pytest.MonkeyPatch, trunks: list[int]
) -> None:
    plan = replace(PLAN, start=start)
    behind = run(plan)
    assert sum(trunks) == 1400 * (2 if start is SCRATCH else 1)  # every image once, or once per seed
    del trunks[:]
    monkeypatch.setattr(unit, "adapt", unsplit)
    monkeypatch.setenv("FEDAUTO_FRESH", "1")
    whole = run(plan)
    assert not trunks
    options = {"check_exact": False, "atol": 1e-4, "rtol": 1e-4}
    pd.testing.assert_frame_equal(behind.curves, whole.curves, **options)
    pd.testing.assert_frame_equal(behind.rounds, whole.rounds, **options)
    assert behind.curves["distance"].min() > 0.01


def test_activations_are_kept_for_all_that_share_the_trunk(
    own_cache: Path, trunks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def files() -> list[Path]:
        return list(own_cache.glob("activations/vit-*.npy.sha256"))

    run(PLAN)
    assert len(files()) == 1 and sum(trunks) == 1400
    for other in (replace(PLAN, lora=LoRA(3, 1, ("layer3.up",))), replace(PLAN, aggregation="factor")):
        monkeypatch.setattr(unit, "_BEHIND_TRUNK", {})  # as in a new process
        run(other)
        assert len(files()) == 1 and sum(trunks) == 1400
    run(replace(PLAN, lora=LoRA(2, 4, ("layer2.up",))))  # a shorter trunk
    assert len(files()) == 2 and sum(trunks) == 2800


def test_a_second_run_comes_from_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    first, calls = run(PLAN), []
    real = running.simulate_units
    monkeypatch.setattr(running, "simulate_units", lambda *args: calls.append(args) or real(*args))
    second = run(PLAN)
    assert not calls
    pd.testing.assert_frame_equal(first.curves, second.curves, check_exact=True)
    pd.testing.assert_frame_equal(first.rounds, second.rounds, check_exact=True)
    run(replace(PLAN, aggregation="factor"))
    assert len(calls) == 2


@pytest.mark.parametrize("name", ["factor", "one_sided", "residual", "stacked", "truncated"])
def test_what_averaging_the_factors_loses_is_in_the_frames(name: str) -> None:
    """Of the ways that average them; the others have nothing to say."""
    rounds = run(replace(PLAN, aggregation=name, seeds=(0,))).rounds
    assert ("residual" in rounds) == (name in ("factor", "one_sided", "residual"))


@pytest.mark.parametrize(
    "change",
    [
        lambda p: replace(p, lora=LoRA(3, 4, p.lora.targets)),
        lambda p: replace(p, lora=LoRA(2, 5, p.lora.targets)),
        lambda p: replace(p, lora=LoRA(2, 4, ("layer3.up",))),
        lambda p: replace(p, aggregation="factor"),
        lambda p: Experiment(p.dataset, p.model, p.start, p.schedule, p.cells, p.seeds, p.device),
    ],
)
def test_whatever_is_adapted_and_however_averaged_is_in_the_key(change: Callable[..., Experiment]) -> None:
    assert content_key(change(PLAN)) != content_key(PLAN)


def test_an_experiment_without_lora_is_described_as_before() -> None:
    """Keys of stored tunings are hashes of this description."""
    plain = Experiment("digits", "vit", START, SCHEDULE, CELLS, (0,))
    fields = ("dataset='digits'", "model='vit'", f"start={START!r}", f"schedule={SCHEDULE!r}", f"cells={CELLS!r}")
    assert repr(plain) == f"Experiment({', '.join(fields)}, seeds=(0,), device='cpu')"


def test_an_unknown_way_of_averaging_is_refused_at_once() -> None:
    with pytest.raises(InputError, match="unknown LoRA aggregation 'sum'"):
        replace(PLAN, aggregation="sum")
    with pytest.raises(InputError, match="0 seeds"):
        replace(PLAN, seeds=())
