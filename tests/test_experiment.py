"""Specs, the content-keyed cache, tuning and summaries."""

import importlib
import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import caches
import numpy as np
import pandas as pd
import pytest
import torch
from reference_marks import late_slope

from fedauto_core import InputError
from fedauto_core.data import FederationSpec
from fedauto_core.engine import Pretraining, Schedule
from fedauto_core.experiments import (
    SCRATCH,
    AdapterExperiment,
    Cell,
    Experiment,
    in_every_scenario,
    key,
    run,
    running,
    summarise,
    unit,
)
from fedauto_core.experiments.spec import groups
from fedauto_core.methods import METHODS, make_method
from fedauto_core.models import LoRA
from fedauto_core.network import PROCESSES, Scenario
from fedauto_core.network.traces import make_trace
from fedauto_core.store import writing
from fedauto_core.store.cores import cpus
from fedauto_core.store.frames import read_frames, write_frames
from fedauto_core.store.keys import used_modules
from fedauto_core.store.saved import read_saved
from fedauto_core.store.writing import locked, replace_folder

HALF = Scenario("half", "bernoulli", (("probability", 0.5),))
SPEC = FederationSpec(4, 50, 40, "classes", classes_per_client=3)


def content_key(experiment):
    """The key of the whole experiment, whether its traces have been drawn or not."""
    units = running.units(experiment)
    return key.joint_key(key.known_key(u) or key.drawn_key(u, unit.build_world(u)) for u in units)


def cell(label, lr=0.1, **hyper):
    return Cell(label, make_method(label, **hyper), HALF, SPEC, lr)


PLAN = Experiment(
    "digits",
    "softmax",
    SCRATCH,
    Schedule(rounds=4, steps=2, batch=8, evaluate_every=2),
    (cell("fedauto"), cell("fedavg")),
    (0, 1),
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDAUTO_DATA", str(caches.own_cache(tmp_path)))
    monkeypatch.delenv("FEDAUTO_FRESH", raising=False)
    return tmp_path


@pytest.fixture
def count_simulations(monkeypatch):
    calls = []
    real = running.simulate_units
    monkeypatch.setattr(running, "simulate_units", lambda *args: calls.append(args) or real(*args))
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


def test_the_seconds_that_the_cache_saves_are_told(own_cache, monkeypatch, tmp_path):
    told = tmp_path / "saved.txt"
    monkeypatch.setenv("FEDAUTO_SAVED", str(told))
    run(PLAN)
    assert read_saved(told) == 0  # nothing was in the cache
    entries = list((own_cache / "experiments").glob("*/seconds.txt"))
    assert len(entries) == len(running.units(PLAN)) and all(float(entry.read_text()) > 0 for entry in entries)
    for entry in entries:
        entry.write_text("6\n")
    monkeypatch.setenv("FEDAUTO_PROCESSES", "2")
    run(PLAN)
    assert read_saved(told) == 6 * len(entries) / 2
    entries[0].unlink()  # a cache of before
    run(PLAN)
    assert math.isnan(read_saved(told))


def test_the_number_of_processes_does_not_change_a_byte(monkeypatch, own_cache):
    alone = run(PLAN)
    monkeypatch.setenv("FEDAUTO_PROCESSES", "2")
    monkeypatch.setenv("FEDAUTO_FRESH", "1")
    together = run(PLAN)
    pd.testing.assert_frame_equal(alone.curves, together.curves, check_exact=True)
    pd.testing.assert_frame_equal(alone.rounds, together.rounds, check_exact=True)


def test_threads_do_not_change_a_byte_and_are_left_as_they_were(monkeypatch):
    monkeypatch.setenv("FEDAUTO_FRESH", "1")
    start = Pretraining("mlp", "digits_shifted", epochs=1)
    plan = replace(PLAN, model="mlp", start=start, seeds=(0,))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            running._checkpoint.cache_clear()
            results.append(run(plan))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    pd.testing.assert_frame_equal(results[0].curves, results[1].curves, check_exact=True)
    assert results[0].key == results[1].key


def test_processes_are_the_cores_unless_others_could_not_find_what_the_units_name(monkeypatch):
    def mine(context):
        raise AssertionError

    foreign = replace(PLAN, cells=(replace(cell("fedavg"), scenario=Scenario("mine", "mine")),))
    own = type("Own", (METHODS["fedavg"],), {"__module__": "__main__"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setitem(PROCESSES, "mine", mine)
    monkeypatch.delenv("FEDAUTO_PROCESSES", raising=False)
    assert running.available([PLAN]) == 1  # the program that runs these tests is a script
    for asked, expected in ((None, 8), ("2", 2)):
        monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
        if asked:
            monkeypatch.setenv("FEDAUTO_PROCESSES", asked)
        assert running.available([PLAN]) == expected
        assert running.available([foreign]) == 1
        assert running.available([replace(PLAN, cells=(replace(cell("fedavg"), method=own()),))]) == 1
        assert running.available([replace(PLAN, device="cuda")]) == 1


def test_processes_without_affinity_are_all_of_the_machine(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert cpus() == 5


@pytest.mark.parametrize("asked", ["two", "0", "-1", ""])
def test_a_wrong_number_of_processes_is_named(monkeypatch, asked):
    monkeypatch.setenv("FEDAUTO_PROCESSES", asked)
    with pytest.raises(InputError, match=r"FEDAUTO_PROCESSES = .*integers >= 1.*cores you can spare"):
        running.available([PLAN])


def test_a_device_that_is_not_there_is_named(monkeypatch):
    with pytest.raises(InputError, match=r"unknown device 'gpu'.*cpu, cuda"):
        replace(PLAN, device="gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"device 'cuda'.*no GPU.*Allowed: cpu"):
        run(replace(PLAN, device="cuda"))


def test_units_in_lockstep_are_what_they_are_alone():
    both = running.units(replace(PLAN, cells=(*PLAN.cells, replace(cell("fedavg"), scenario=Scenario("none", "none")))))
    worlds = {one: unit.build_world(one) for one in both}
    together = unit.simulate_units(worlds, None)
    for one, frames in zip(both, together, strict=True):
        (alone,) = unit.simulate_units({one: worlds[one]}, None)
        for name, frame in frames.items():
            assert frame.drop(columns=alone[name].columns).isna().all(axis=None)  # what only another unit's methods log
            mine = frame[alone[name].columns]
            pd.testing.assert_frame_equal(mine, alone[name], check_exact=False, atol=1e-6, rtol=0)


def test_a_gpu_gets_all_units_at_once_and_with_lora_those_of_a_seed():
    todo = running.units(replace(PLAN, device="cuda"))
    assert groups(todo) == [todo] and groups(running.units(PLAN)) == [[one] for one in running.units(PLAN)]
    adapters = AdapterExperiment(**vars(replace(PLAN, device="cuda")), lora=LoRA(1, 1.0, ("head",)))
    assert [len(group) for group in groups(running.units(adapters))] == [1, 1]


def test_fresh_computes_again(count_simulations, monkeypatch):
    first = run(PLAN)
    monkeypatch.setenv("FEDAUTO_FRESH", "1")
    pd.testing.assert_frame_equal(first.curves, run(PLAN).curves, check_exact=True)
    assert len(count_simulations) == 4


def test_a_damaged_cache_is_reported_and_computed_again(count_simulations, own_cache, capsys):
    first = run(PLAN)
    path = next(own_cache.glob("experiments/*/curves.csv"))
    path.write_text(path.read_text().replace("fedavg", "fedwrong"))
    pd.testing.assert_frame_equal(first.curves, run(PLAN).curves, check_exact=True)
    assert len(count_simulations) == 3 and "is damaged" in capsys.readouterr().err
    assert not list(own_cache.glob("experiments/.writing-*"))


def test_an_interrupted_run_keeps_what_was_finished_and_nothing_else(own_cache, monkeypatch, count_simulations):
    counted = running.simulate_units

    def stop_at_the_second(worlds, *rest):
        if any(unit.seeds == (1,) for unit in worlds):
            raise KeyboardInterrupt
        return counted(worlds, *rest)

    monkeypatch.setattr(running, "simulate_units", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(PLAN)
    assert len(list(own_cache.glob("experiments/*"))) == 1
    monkeypatch.setattr(running, "simulate_units", counted)
    run(PLAN)
    assert len(count_simulations) == 2  # the first seed once, the second once


@pytest.mark.parametrize(
    "change",
    [
        lambda p: replace(p, seeds=(0, 2)),
        lambda p: replace(p, schedule=replace(p.schedule, steps=3)),
        lambda p: replace(p, cells=(cell("fedauto", lr=0.2), cell("fedavg"))),
        lambda p: replace(p, cells=(cell("fedauto", lam=0.2), cell("fedavg"))),
        lambda p: replace(p, model="mlp"),
        lambda p: replace(p, device="cuda"),
        lambda p: replace(p, start=Pretraining("softmax", "digits_shifted", 1)),
        lambda p: replace(p, cells=(replace(cell("fedauto"), federation=replace(SPEC, server_samples=50)),)),
        lambda p: replace(
            p, cells=(replace(cell("fedauto"), scenario=Scenario("half", "bernoulli", (("probability", 0.4),))),)
        ),
    ],
)
def test_any_change_of_the_spec_changes_the_key(change):
    assert content_key(change(PLAN)) != content_key(PLAN)


def test_data_code_and_versions_are_in_the_key(monkeypatch):
    keys = {content_key(PLAN)}
    for name, value in (
        ("cell_code", lambda method: "edited"),
        ("versions", lambda: {"torch": "0"}),
        ("dataset_sha256", lambda name: "other"),
    ):
        monkeypatch.setattr(key, name, value)
        keys.add(content_key(PLAN))
    assert len(keys) == 4


@pytest.mark.parametrize("part", ["arrived", "success_probability", "long_run_probability", "marginal_probability"])
def test_what_the_network_did_is_in_the_key(part, monkeypatch):
    """Its code is not: a run meets the network through the trace."""
    before, real = content_key(PLAN), unit.draw_trace

    def other(*args, **kwargs):
        trace = real(*args, **kwargs)
        return replace(trace, **{part: np.zeros_like(getattr(trace, part))})

    monkeypatch.setattr(unit, "draw_trace", other)
    assert content_key(PLAN) == before  # remembered, as long as the code that draws it is the same
    monkeypatch.setattr(key, "_trace_code", lambda: "edited")
    assert content_key(PLAN) != before


@pytest.mark.parametrize("kind", [str, Path])
def test_an_edited_recording_changes_the_key(kind, tmp_path):
    path = tmp_path / "trace.csv"
    lines = ["round,client,arrived"] + [f"{t},{k},1" for t in range(4) for k in range(1, 5)]
    path.write_text("\n".join(lines) + "\n")
    plan = replace(PLAN, cells=(replace(cell("fedavg"), scenario=Scenario("r", "replay", (("path", str(path)),))),))
    before = content_key(plan)
    path.write_text("\n".join([*lines[:-1], "3,4,0"]) + "\n")
    assert content_key(plan) != before


def test_an_edited_recording_inside_a_product_changes_the_key(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("before", encoding="utf-8")
    replayed = Scenario("replayed", "replay", (("path", str(path)),))
    product = Scenario("both", "product", (("of", (HALF, replayed)),))
    piece = replace(PLAN, cells=(replace(cell("fedavg"), scenario=product),), seeds=(0,))
    before = key._remembered(piece, SPEC)
    path.write_text("after", encoding="utf-8")
    assert key._remembered(piece, SPEC) != before


def test_a_failure_process_from_outside_is_drawn_anew(monkeypatch):
    """Its code is not known, so nothing of it is remembered."""
    for arrives in (True, False):

        def process(setting, arrives=arrives):
            q = np.full(setting.shape, float(arrives))
            return make_trace(q > 0, 1, q, q[0])

        monkeypatch.setitem(PROCESSES, "mine", process)
        plan = replace(PLAN, cells=(replace(cell("fedavg"), scenario=Scenario("mine", "mine")),))
        assert set(run(plan).rounds["arrived"]) == {4.0 * arrives}


def test_the_code_of_a_method_from_outside_is_in_the_key(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    seen = set()
    for factor in (1, 2):
        text = f"from fedauto_core.methods.fedavg import FedAvg\n\nclass Mine(FedAvg):\n    factor = {factor}\n"
        (tmp_path / f"mine{factor}.py").write_text(text, encoding="utf-8")
        method = importlib.import_module(f"mine{factor}").Mine
        seen.add(key.cell_code(method))
        assert len(run(replace(PLAN, cells=(replace(cell("fedavg"), method=method()),))).curves) == 4
    assert len(seen) == 2


def test_a_method_without_code_is_refused():
    space = {"FedAvg": METHODS["fedavg"], "__name__": "nowhere"}
    exec("class Mine(FedAvg): pass", space)
    with pytest.raises(InputError, match=r"the code of method Mine cannot be read.*write the class into a file"):
        key.cell_code(space["Mine"])


def test_an_unused_method_is_not_in_the_key_and_a_used_one_is():
    fedavg = used_modules(["fedauto_core.experiments.unit", "fedauto_core.methods.fedavg"], [key.NETWORK])
    assert {"fedauto_core.methods.fedavg", "fedauto_core.engine.rounds", "fedauto_core.data.federation"} <= {*fedavg}
    foreign = ("fedauto_core.methods.fedlaw", "fedauto_core.theory", "fedauto_core.report", key.NETWORK)
    assert not any(name.startswith(foreign) for name in fedavg)
    assert key.cell_code(METHODS["fedlaw"]) != key.cell_code(METHODS["fedavg"])


def test_a_fully_cached_run_loads_no_data(monkeypatch):
    first = run(PLAN)

    def refuse(*_):
        raise AssertionError("data were loaded")

    for name in ("_dataset", "_federation", "draw_trace"):
        monkeypatch.setattr(unit, name, refuse)
    pd.testing.assert_frame_equal(first.curves, run(PLAN).curves, check_exact=True)


def test_federation_and_trace_are_built_once_for_key_and_run(monkeypatch):
    drawn, real = [], unit.draw_trace
    monkeypatch.setattr(unit, "draw_trace", lambda *args, **kwargs: drawn.append(args) or real(*args, **kwargs))
    run(PLAN)
    assert len(drawn) == len(PLAN.seeds)


def test_a_changed_network_that_fails_alike_costs_no_training(count_simulations, monkeypatch):
    run(PLAN)
    monkeypatch.setattr(key, "_trace_code", lambda: "edited")
    run(PLAN)
    assert len(count_simulations) == 2


DAMAGE = {
    "cut short": b'{"curves": "0',
    "binary": bytes(range(128, 256)),
    "list": b"[]",
    "null": b"null",
    "empty": b"",
    "other types": b'{"curves": 1, "rounds": {}}',
    "folder": None,
}


@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.parametrize("pattern", ["experiments/*/hashes.json", "experiments/*/rounds.csv", "traces/*"])
def test_whatever_became_of_a_stored_file_the_same_numbers_come_out(what, pattern, own_cache):
    first = run(PLAN)
    path = next(own_cache.glob(pattern))
    path.unlink()
    if DAMAGE[what] is None:
        path.mkdir()
    else:
        path.write_bytes(DAMAGE[what])
    pd.testing.assert_frame_equal(first.curves, run(PLAN).curves, check_exact=True)
    pd.testing.assert_frame_equal(first.curves, run(PLAN).curves, check_exact=True)


def test_texts_that_look_like_numbers_stay_texts(own_cache):
    frame = pd.DataFrame({"label": ["None", "NA"], "trace": ["012345678901", "1234567e8901"], "value": [1.5, np.nan]})
    write_frames(own_cache / "entry", {"curves": frame})
    (back,) = read_frames(own_cache / "entry", ["curves"])
    assert back["label"].tolist() == ["None", "NA"] and back["trace"].tolist() == frame["trace"].tolist()
    assert back["value"].tolist()[0] == 1.5 and np.isnan(back["value"].tolist()[1])
    assert (own_cache / "entry").stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_two_processes_may_finish_the_same_result(tmp_path, monkeypatch):
    """The one whose rename comes second finds the place taken, by the same content."""
    folder = tmp_path / "results"
    frames = {"curves": pd.DataFrame({"a": [1]})}
    real = Path.rename

    def late(self, target):
        if Path(target).name == "entry" and not Path(target).exists():
            monkeypatch.setattr(Path, "rename", real)
            write_frames(folder / "entry", frames)
        return real(self, target)

    monkeypatch.setattr(Path, "rename", late)
    write_frames(folder / "entry", frames)
    assert read_frames(folder / "entry", ["curves"])[0]["a"].tolist() == [1]
    assert [path.name for path in folder.iterdir()] == ["entry"]


def test_what_stood_there_comes_back_when_its_successor_cannot(own_cache, monkeypatch):
    for name in ("old", "new"):
        (own_cache / name).mkdir()
        (own_cache / name / "file").write_text(name, encoding="utf-8")
    real = Path.rename

    def refuse(self, target):
        if self.name == "new":
            raise PermissionError("no")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError):
        replace_folder(own_cache / "old", own_cache / "new")
    assert (own_cache / "old" / "file").read_text(encoding="utf-8") == "old"


def test_a_lock_that_cannot_be_had_is_one_sentence(own_cache, monkeypatch):
    monkeypatch.setattr(writing.FileLock, "acquire", lambda self: (_ for _ in ()).throw(OSError(37, "No locks")))
    with pytest.raises(InputError, match=r"no lock can be had on .*No locks"), locked(own_cache / "x.lock"):
        pass


def test_cells_that_cannot_be_told_apart_are_refused():
    with pytest.raises(InputError, match="cannot be told apart"):
        replace(PLAN, cells=(cell("fedauto"), cell("fedauto", lr=0.2)))
    for seeds in ((), (0, 0)):
        with pytest.raises(InputError, match=rf"{len(seeds)} seeds.*every seed once"):
            replace(PLAN, seeds=seeds)


def test_summary_by_hand():
    curves = pd.DataFrame(
        {
            "label": "a",
            "seed": 0,
            "round": [2, 10, 19, 20],
            "accuracy": [0.1, 0.5, 0.7, 0.9],
            "worst_class": [0.0, 0.1, 0.2, 0.4],
            "loss": [2.0, 1.0, 0.6, 0.4],
            "distance": [0.5, 1.0, 1.5, 2.0],
            "diverged": [0, 0, 0, 0],
        }
    )
    row = summarise(curves, target=0.5).iloc[0]
    assert row["points"] == pytest.approx(80) and row["worst_class"] == pytest.approx(30)
    assert (
        row["distance"] == 2
        and row["area"] == pytest.approx(100 * (8 * 0.3 + 9 * 0.6 + 0.8) / 18)
        and row["rounds_to_target"] == 10
    )
    assert np.isnan(summarise(curves, target=0.95).iloc[0]["rounds_to_target"])


def test_rows_of_bounds_are_copied_to_every_scenario():
    frame = pd.DataFrame({"label": ["bound", "a", "a"], "scenario": ["none", "none", "mixed"], "value": [1, 2, 3]})
    wide = in_every_scenario(frame, ["bound"], ["none", "mixed"])
    assert sorted(zip(wide["label"], wide["scenario"], wide["value"], strict=True)) == [
        ("a", "mixed", 3),
        ("a", "none", 2),
        ("bound", "mixed", 1),
        ("bound", "none", 1),
    ]


def test_cells_with_different_tags_all_reach_the_summary():
    plan = replace(PLAN, cells=(replace(cell("fedauto"), tags=(("k", 1),)), cell("fedavg")))
    assert sorted(summarise(run(plan).curves)["label"]) == ["fedauto"] * 2 + ["fedavg"] * 2


def test_a_bad_value_found_by_a_worker_process_is_one_input_error(monkeypatch):
    monkeypatch.setenv("FEDAUTO_PROCESSES", "2")
    schedule = replace(PLAN.schedule, test=(0, 1))
    with pytest.raises(InputError, match=r"no test image of classes .* Remedy: use more test images"):
        run(replace(PLAN, schedule=schedule))


def test_late_gain_is_the_slope_over_the_last_quarter():
    """What happened before the last quarter does not count."""
    rounds, values = [10, 20, 29, 30, 35, 38, 40], [0.1, 0.3, 0.9, 0.50, 0.52, 0.51, 0.53]
    curves = pd.DataFrame({"label": "a", "seed": 0, "round": rounds, "accuracy": values, "worst_class": 0.0})
    curves = curves.assign(loss=1.0, distance=1.0, diverged=0)
    found = summarise(curves)["late_gain"].item()
    assert found == pytest.approx(100 * late_slope(rounds[3:], values[3:], 10))
    assert np.isnan(summarise(curves[curves["round"].isin([10, 40])])["late_gain"].item())
