"""Specs, the content-keyed cache, tuning and summaries."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fedauto_core import InputError, experiment
from fedauto_core.data import FederationSpec, load_dataset
from fedauto_core.experiment import Cell, Experiment, content_key, run, summarise, tune, with_lrs
from fedauto_core.methods import make_method
from fedauto_core.network import Scenario
from fedauto_core.simulation import Schedule

HALF = Scenario("half", "bernoulli", (("probability", 0.5),))
SPEC = FederationSpec(4, 50, 40, "classes", classes_per_client=3)


def cell(label, lr=0.1, **hyper):
    return Cell(label, make_method(label, **hyper), HALF, SPEC, lr)


PLAN = Experiment(
    "digits",
    "softmax",
    experiment.SCRATCH,
    Schedule(rounds=4, steps=2, batch=8, evaluate_every=2),
    (cell("fedauto"), cell("fedavg")),
    (0, 1),
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDAUTO_DATA", str(tmp_path))
    monkeypatch.delenv("FEDAUTO_FRESH", raising=False)
    return tmp_path


@pytest.fixture
def count_simulations(monkeypatch):
    calls = []
    real = experiment._simulate
    monkeypatch.setattr(experiment, "_simulate", lambda *args: calls.append(args) or real(*args))
    return calls


def test_frames_are_tidy_and_paired():
    result = run(PLAN)
    assert len(result.curves) == 2 * 2 * 2 and len(result.rounds) == 2 * 2 * 4
    assert result.curves.groupby("seed")["trace"].nunique().tolist() == [1, 1]  # all methods met the same failures
    assert set(result.curves["label"]) == {"fedauto", "fedavg"}


def test_a_second_run_is_served_from_the_cache_and_equal(count_simulations):
    first = run(PLAN)
    second = run(PLAN)
    assert len(count_simulations) == 2  # one call per seed, once
    pd.testing.assert_frame_equal(first.curves, second.curves, check_exact=True)
    pd.testing.assert_frame_equal(first.rounds, second.rounds, check_exact=True)


def test_the_number_of_processes_does_not_change_a_byte(monkeypatch, own_cache):
    alone = run(PLAN)
    monkeypatch.setenv("FEDAUTO_PROCESSES", "2")
    monkeypatch.setenv("FEDAUTO_FRESH", "1")
    together = run(PLAN)
    pd.testing.assert_frame_equal(alone.curves, together.curves, check_exact=True)
    pd.testing.assert_frame_equal(alone.rounds, together.rounds, check_exact=True)


def test_fresh_computes_again(count_simulations, monkeypatch):
    first = run(PLAN)
    monkeypatch.setenv("FEDAUTO_FRESH", "1")
    pd.testing.assert_frame_equal(first.curves, run(PLAN).curves, check_exact=True)
    assert len(count_simulations) == 4


def test_a_damaged_cache_is_reported_and_computed_again(count_simulations, own_cache, capsys):
    first = run(PLAN)
    (path,) = own_cache.glob("experiments/*/curves.csv")
    path.write_text(path.read_text().replace("fedavg", "fedwrong"))
    pd.testing.assert_frame_equal(first.curves, run(PLAN).curves, check_exact=True)
    assert len(count_simulations) == 4 and "is damaged" in capsys.readouterr().err
    assert not list(own_cache.glob("experiments/.writing-*"))


def test_an_interrupted_run_leaves_nothing(own_cache, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "_simulate", stop)
    with pytest.raises(KeyboardInterrupt):
        run(PLAN)
    assert not list(own_cache.glob("experiments/*"))


@pytest.mark.parametrize(
    "change",
    [
        lambda p: replace(p, seeds=(0, 2)),
        lambda p: replace(p, schedule=replace(p.schedule, steps=3)),
        lambda p: replace(p, cells=(cell("fedauto", lr=0.2), cell("fedavg"))),
        lambda p: replace(p, cells=(cell("fedauto", lam=0.2), cell("fedavg"))),
        lambda p: replace(p, model="mlp"),
    ],
)
def test_any_change_of_the_spec_changes_the_key(change):
    digits = load_dataset("digits")
    assert content_key(change(PLAN), digits) != content_key(PLAN, digits)


def test_data_code_and_versions_are_in_the_key(monkeypatch):
    digits = load_dataset("digits")
    keys = {content_key(PLAN, digits), content_key(PLAN, replace(digits, sha256="other"))}
    monkeypatch.setattr(experiment, "core_hash", lambda scope: "edited")
    keys.add(content_key(PLAN, digits))
    monkeypatch.setattr(experiment, "versions", lambda: {"torch": "0"})
    keys.add(content_key(PLAN, digits))
    assert len(keys) == 4


def test_cells_that_cannot_be_told_apart_are_refused():
    with pytest.raises(InputError, match="cannot be told apart"):
        replace(PLAN, cells=(cell("fedauto"), cell("fedauto", lr=0.2)))
    with pytest.raises(InputError, match="0 seeds"):
        replace(PLAN, seeds=())


def test_summary_by_hand():
    curves = pd.DataFrame(
        {
            "label": "a",
            "seed": 0,
            "round": [2, 10, 19, 20],
            "accuracy": [0.1, 0.5, 0.7, 0.9],
            "worst_class": [0.0, 0.1, 0.2, 0.4],
            "loss": [2.0, 1.0, 0.6, 0.4],
            "diverged": [0, 0, 0, 0],
        }
    )
    row = summarise(curves, target=0.5).iloc[0]
    assert row["accuracy"] == pytest.approx(0.8) and row["worst_class"] == pytest.approx(0.3)
    assert row["area"] == pytest.approx(0.55) and row["rounds_to_target"] == 10
    assert np.isnan(summarise(curves, target=0.95).iloc[0]["rounds_to_target"])


def test_tuning_picks_the_best_of_the_grid_for_each_label():
    tuned = tune(PLAN, [1e-6, 0.2])
    assert tuned.groupby("label")["chosen"].sum().tolist() == [1, 1]
    assert tuned[tuned["chosen"]]["lr"].tolist() == [0.2, 0.2]  # a step of 1e-6 learns nothing in four rounds
    assert [c.lr for c in with_lrs(PLAN.cells, tuned)] == [0.2, 0.2]
