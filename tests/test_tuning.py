"""Tuning: the same grid for every method; stored choices serve exactly what they were made for."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fedauto_core.data import FederationSpec
from fedauto_core.engine import Schedule
from fedauto_core.experiments import SCRATCH, Cell, Experiment, chosen, sensitivity, tune, tuned_cells, tuning, unit
from fedauto_core.methods import METHODS, make_method
from fedauto_core.network import scenario

SPEC = FederationSpec(4, 40, 30, "classes", classes_per_client=2)
LRS = [1e-6, 0.2, 1e-7]


def cell(label, method=None):
    return Cell(label, method or make_method(label), scenario("mixed"), SPEC, float("nan"))


PLAN = Experiment(
    "digits",
    "softmax",
    SCRATCH,
    Schedule(4, 2, 8, 2),
    (cell("server_only"), cell("fedavg_all"), cell("fedprox")),
    (7, 8),
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDAUTO_DATA", str(tmp_path / "cache"))
    for name in ("FEDAUTO_FRESH", "FEDAUTO_STORE_TUNING"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "tuned"


@pytest.fixture
def simulated(monkeypatch):
    """Labels of the runs that are really simulated."""
    labels, real = [], unit.simulate
    monkeypatch.setattr(
        unit,
        "simulate",
        lambda model, runs, schedule: labels.extend(r.label for r in runs) or real(model, runs, schedule),
    )
    return labels


def test_no_method_gets_a_larger_grid_than_another():
    """Claim of the comparison: at most one knob of three values beside the client step size, FedAuto included."""
    for name, method in METHODS.items():
        field, values = method.knob or ("", (None,) * 3)
        assert len(set(values)) in (1, 3), name
        assert all(getattr(make_method(name, **{field: value}), field) == value for value in values if field), name


def test_the_best_of_the_grid_is_chosen_for_each_label(own_cache):
    table = tune(PLAN, LRS, own_cache)
    assert table.groupby("label", sort=False).size().to_dict() == {"server_only": 3, "fedavg_all": 9, "fedprox": 9}
    for _, rows in table.groupby("label"):
        assert rows["points"][rows["chosen"]].tolist() == [rows["points"].max()]
    best = table[table["chosen"]]
    assert (
        best["lr"].tolist() == [0.2] * 3 and best["on_edge"].str.contains("lr").all()
    )  # smaller steps learn nothing in four rounds
    server_only, fedavg_all, fedprox = tuned_cells(PLAN.cells, table)
    assert server_only.lr == fedprox.lr == 0.2 and server_only.method == make_method("server_only")
    assert fedavg_all.method.server_lr == best["value"].iloc[1] and fedprox.method.mu == best["value"].iloc[2]


def test_ties_go_to_the_middle_of_the_grid(own_cache):
    """MIFA that waits for a client that never comes stays where it started, whatever its step sizes."""
    silent = replace(scenario("mixed"), name="silent", process="bernoulli", options=(("probability", 1e-9),))
    waiting = replace(cell("mifa", make_method("mifa", wait=True)), scenario=silent)
    best = tune(replace(PLAN, cells=(waiting,)), [0.01, 0.1, 1.0], own_cache).query("chosen")
    assert (best["lr"].item(), best["value"].item()) == (0.1, 1.0)


def test_sensitivity_by_hand():
    table = pd.DataFrame({"label": ["a", "a", "a", "b"], "points": [1.0, 5.0, 3.0, 2.0]})
    rows = sensitivity(table).set_index("label")
    assert rows.loc["a"].tolist() == [5, 3, 1, 3] and rows.loc["b"].tolist() == [2, 2, 2, 1]


def measured_as(*outcomes):
    """In the place of the simulations: points and diverged runs, trial by trial."""

    def measured(experiment, trials):
        rows = [{"points": points, "diverged": diverged} for points, diverged in outcomes]
        return {trial.row["key"]: trial.row | row for trial, row in zip(trials, rows, strict=True)}

    return measured


def test_a_trial_that_diverged_is_not_chosen(own_cache, monkeypatch):
    monkeypatch.setattr(tuning, "_measured", measured_as((90.0, 1), (60.0, 0), (50.0, 0)))
    table = tune(replace(PLAN, cells=(cell("server_only"),)), LRS, own_cache)
    assert table["chosen"].tolist() == [False, True, False] and table["on_edge"].tolist() == ["", "lr", ""]
    assert chosen(table)[["label", "lr", "points"]].to_numpy().tolist() == [["server_only", 0.2, 60.0]]


def test_stored_choices_are_used_for_exactly_what_they_were_made_for(own_cache, monkeypatch, simulated):
    monkeypatch.setenv("FEDAUTO_STORE_TUNING", "1")
    made = tune(PLAN, LRS, own_cache)
    assert set(made["stored"]) == {"no"} and len(simulated) == 42
    monkeypatch.delenv("FEDAUTO_STORE_TUNING")
    monkeypatch.setenv("FEDAUTO_DATA", str(own_cache / "another cache"))
    simulated.clear()
    again = tune(PLAN, LRS, own_cache)
    assert set(again["stored"]) == {"yes"} and not simulated
    pd.testing.assert_frame_equal(again.drop(columns="stored"), made.drop(columns="stored"))
    with monkeypatch.context() as patch:  # the code of one method is edited: the others' rows are as good as new
        real = tuning.method_code
        patch.setattr(tuning, "method_code", lambda method: "edited" if method.name == "fedprox" else real(method))
        ages = tune(PLAN, LRS, own_cache).groupby("label")["stored"].unique()
        assert ages.map(list).to_dict() == {"fedprox": ["by older code"], "fedavg_all": ["yes"], "server_only": ["yes"]}

    renamed = tune(replace(PLAN, cells=(cell("prox", make_method("fedprox")),)), LRS, own_cache)
    assert set(renamed["stored"]) == {"yes"} and set(renamed["label"]) == {"prox"}
    finer = tune(replace(PLAN, cells=(cell("fedprox"),)), [0.2, 0.1], own_cache)
    assert finer["stored"].tolist() == ["yes"] * 3 + ["no"] * 3 and np.isfinite(finer["points"]).all()
    other = tune(replace(PLAN, seeds=(9,), cells=(cell("server_only"),)), [0.2], own_cache)
    assert set(other["stored"]) == {"no"}


def test_storing_adds_rows_and_loses_none(own_cache, monkeypatch):
    path = own_cache / "digits-softmax.csv"
    tune(replace(PLAN, cells=(cell("server_only"),)), [0.2], own_cache)
    assert not path.exists()  # only when asked to
    monkeypatch.setenv("FEDAUTO_STORE_TUNING", "1")
    for label, rows in (("server_only", 1), ("fedprox", 4), ("fedprox", 4)):
        tune(replace(PLAN, cells=(cell(label),)), [0.2], own_cache)
        assert len(pd.read_csv(path)) == rows
    assert [file.name for file in own_cache.iterdir()] == [path.name]


def row(key, **changes):
    return (
        {"key": key, "label": "a", "lr": 0.1, "knob": "", "value": np.nan, "points": 1.5, "diverged": 0}
        | {"code": "0123456789ab"}
        | changes
    )


def test_those_who_store_at_the_same_time_lose_no_row(own_cache):
    path, keys = own_cache / "digits-softmax.csv", [f"{i:016x}" for i in range(24)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: tuning._keep(path, {key: row(key)}), keys))
    assert sorted(tuning._stored(path)) == keys


def test_what_is_read_is_what_was_stored(own_cache):
    """Keys and codes that look like numbers included."""
    path = own_cache / "digits-softmax.csv"
    rows = {key: row(key, knob="mu", value=0.001, points=66.6667) for key in ("0000000000000012", "123456789012e345")}
    tuning._keep(path, rows)
    before = path.read_bytes()
    assert tuning._stored(path) == rows
    tuning._keep(path, {})
    assert path.read_bytes() == before


WHOLE = "key,label,lr,knob,value,points,diverged,code\n0123456789abcdef,server_only,0.2,,,50.5,0,0123456789ab\n"
DAMAGED = {
    "empty": b"",
    "binary": bytes(range(256)),
    "truncated in a row": WHOLE[:-20].encode(),
    "truncated in the header": WHOLE[:30].encode(),
    "a column missing": WHOLE.replace(",points", "").replace(",50.5", "").encode(),
    "text for a number": WHOLE.replace("50.5", "much").encode(),
    "no number": WHOLE.replace("50.5", "").encode(),
    "half merged": f"<<<<<<< ours\n{WHOLE}>>>>>>> theirs\n".encode(),
    "another encoding": WHOLE.replace("server_only", "é").encode("latin-1"),
    "a folder": None,
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_counts_as_not_there_and_is_named(own_cache, monkeypatch, capsys, content):
    path, plan = own_cache / "digits-softmax.csv", replace(PLAN, cells=(cell("server_only"),))
    monkeypatch.setattr(tuning, "_measured", measured_as((50.0, 0)))
    own_cache.mkdir()
    path.mkdir() if content is None else path.write_bytes(content)
    assert tune(plan, [0.2], own_cache)["stored"].tolist() == ["no"]
    assert capsys.readouterr().err.splitlines() == [
        f"fedauto: the stored tuning {path} is damaged; it counts as not there"
    ]
    monkeypatch.setenv("FEDAUTO_STORE_TUNING", "1")
    tune(plan, [0.2], own_cache)
    assert str(path) in capsys.readouterr().err
    assert [found["points"] for found in tuning._stored(path).values()] == [50.0]
    aside = path.with_suffix(".damaged")  # somebody may still want the rows that can be read
    assert content is None or aside.read_bytes() == content
