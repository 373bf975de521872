"""Tuning: the same grid for every method; stored choices serve exactly what they were made for."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import caches
import numpy as np
import pandas as pd
import pytest

from fedauto_core.data import FederationSpec
from fedauto_core.engine import Schedule
from fedauto_core.experiments import SCRATCH, Cell, Experiment, chosen, sensitivity, tune, tuned_cells, tuning, unit
from fedauto_core.methods import METHODS, make_method
from fedauto_core.network import scenario

SPEC = FederationSpec(4, 40, 30, "classes", classes_per_client=2)
LRS = [0.1, 0.2, 0.4]


def cell(label, method=None):
    return Cell(label, method or make_method(label), scenario("mixed"), SPEC, float("nan"))


PLAN = Experiment(
    "digits", "softmax", SCRATCH, Schedule(4, 2, 8, 2), (cell("server_only"), cell("fedavg"), cell("fedprox")), (7, 8)
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDAUTO_DATA", str(caches.own_cache(tmp_path / "cache")))
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


SHARING = {"fedavg", "fedavg_all", "fedavg_ideal", "fedauto", "label_matching", "known_probability", "fedau", "mifa"}
SHARING |= {"server_finetuning", "fedavgm", "fedadam", "fedlaw", "feddf", "fedvarp", "fl_fdms", "feddu"}
OWN = {"fedprox", "scaffold", "feddyn", "fedawe", "data_sharing", "server_only", "centralised"}


def test_who_shares_a_step_size_follows_from_the_local_work():
    assert {name for name in SHARING | OWN if tuning.same_local_work(make_method(name))} == SHARING


def test_no_rule_has_a_step_length_to_tune_but_server_optimisers():
    tuned = {name for name, method in METHODS.items() if method.knob and method.knob[0] == "server_lr"}
    assert tuned == {"fedavgm", "fedadam", "fedyogi"}


def twin_as_good(points):
    """Plain loops over settings and seeds."""
    seeds = len(points[0])

    def mean(values):
        return sum(values) / seeds

    def error(values):
        return (sum((value - mean(values)) ** 2 for value in values) / (seeds - 1) / seeds) ** 0.5

    best = max(points, key=mean)
    good = []
    for setting in points:
        behind = [b - own for b, own in zip(best, setting, strict=True)]
        good.append(mean(behind) <= min(error(behind), error(best)))
    return good


def test_as_good_as_the_best_is_within_one_standard_error_of_it():
    rng = np.random.default_rng(0)
    seen = []
    for _ in range(100):
        points = rng.normal(70, 1, (6, 4)) + rng.normal(0, 0.3, (6, 1))
        seen.append(tuning.as_good(points).tolist())
        assert seen[-1] == twin_as_good(points.tolist())
    assert {sum(good) for good in seen} > {1, 2, 3}  # not always the best alone
    steady, collapsed = [70.0, 71.0, 70.5, 70.2], [70.1, 71.1, 70.4, 10.0]
    assert tuning.as_good(np.array([steady, collapsed])).tolist() == [True, False]
    assert tuning.as_good(np.array([[1.0], [1.0], [0.9]])).tolist() == [True, True, False]  # one seed: ties only


def measured_as(points, samples=lambda value: 0.0):
    """In the place of the simulations: `points(label, lr, value)` of each seed, `samples(value)` of the server."""

    def measured(experiment, trials):
        rows = {}
        for trial in trials:
            by_seed = points(*(trial.row[name] for name in ("label", "lr", "value")))
            outcome = {"points": by_seed, "samples": samples(trial.row["value"]), "diverged": 0}
            rows[trial.row["key"]] = trial.row | outcome
        return rows

    return measured


def plan_of(*labels):
    return replace(PLAN, cells=tuple(map(cell, labels)))


def picked(table):
    return {row["label"]: (row["lr"], row["on_edge"]) for _, row in chosen(table).iterrows()}


def test_rules_with_the_same_local_work_share_the_step_size_that_is_best_for_their_mean(own_cache, monkeypatch):
    """By itself fedavg would take 0.4 and fedavg_all 0.2, by less than they differ in the mean; fedprox has its own."""
    accuracy = {
        "fedavg": {0.1: 60.0, 0.2: 70.0, 0.4: 70.5, 0.8: 50.0},
        "fedavg_all": {0.1: 60.0, 0.2: 75.0, 0.4: 70.0, 0.8: 50.0},
        "fedprox": {0.1: 60.0, 0.2: 50.0, 0.4: 61.0, 0.05: 2.0, 0.8: 3.0},
    }

    monkeypatch.setattr(tuning, "_measured", measured_as(lambda label, lr, value: (accuracy[label][lr],)))
    table = tune(plan_of("fedavg", "fedavg_all", "fedprox"), LRS, own_cache)
    assert picked(table) == {"fedavg": (0.2, ""), "fedavg_all": (0.2, ""), "fedprox": (0.4, "")}
    assert chosen(table)["step"].tolist() == ["shared", "shared", "own"]
    assert table[table["label"] == "fedavg_all"].groupby("lr").size().to_dict() == {0.1: 1, 0.2: 1, 0.4: 1}
    assert sorted(table.loc[table["label"] == "fedprox", "lr"].unique()) == [0.1, 0.2, 0.4, 0.8]


def test_the_largest_step_size_within_one_standard_error_is_taken(own_cache, monkeypatch):
    by_lr = {0.1: (71.0, 70.0), 0.2: (70.0, 70.6), 0.4: (60.0, 69.0)}
    monkeypatch.setattr(tuning, "_measured", measured_as(lambda label, lr, value: by_lr[lr]))
    assert picked(tune(plan_of("server_only"), LRS, own_cache)) == {"server_only": (0.2, "")}


def test_a_step_size_on_an_end_widens_the_grid_once_for_all_that_share_it(own_cache, monkeypatch):
    monkeypatch.setattr(tuning, "_measured", measured_as(lambda label, lr, value: (10 + lr, 10 + lr)))
    table = tune(plan_of("fedavg", "fedavg_all"), LRS, own_cache)
    assert set(table.groupby("label")["lr"].agg(tuple)) == {(0.1, 0.2, 0.4, 0.8)}
    assert picked(table) == {"fedavg": (0.8, "lr"), "fedavg_all": (0.8, "lr")}
    monkeypatch.setattr(tuning, "_measured", measured_as(lambda label, lr, value: (10 - lr, 10 - lr)))
    assert picked(tune(plan_of("fedavg"), LRS, own_cache / "other")) == {"fedavg": (0.05, "lr")}
    assert picked(tune(plan_of("fedavg"), [0.2], own_cache / "other")) == {"fedavg": (0.2, "lr")}  # nowhere to go


@pytest.mark.parametrize(
    ("label", "points", "best", "edge"),
    [
        ("server_finetuning", lambda value: (70 + value / 200, 71 - value / 400), 5, ""),  # 80 is best, 5 is as good
        ("server_finetuning", lambda value: (70 + value, 70.1 + value), 80, "knob"),
        ("fedauto", lambda value: (70.1 - value / 10, 71 + value / 20), 0.1, ""),  # 0.02 is best, 0.1 is as good
        ("fedauto", lambda value: (70 - 10 * value, 70.1 - 10 * value), 0.02, "knob"),
    ],
)
def test_of_knobs_that_are_as_good_the_cheapest_is_taken(own_cache, monkeypatch, label, points, best, edge):
    """The fewest samples at the server, then the nearest to the default; on an end only where all others are worse."""
    at_middle = measured_as(lambda label, lr, value: tuple(point - 30 * (lr != 0.2) for point in points(value)), int)
    monkeypatch.setattr(tuning, "_measured", at_middle)
    table = tune(plan_of(label), LRS, own_cache)
    assert chosen(table)[["lr", "value", "on_edge"]].to_numpy().tolist() == [[0.2, best, edge]]
    (tuned,) = tuned_cells(plan_of(label).cells, table)
    assert (tuned.lr, getattr(tuned.method, tuned.method.knob[0])) == (0.2, best)


def test_sensitivity_by_hand():
    table = pd.DataFrame({"label": ["a", "a", "a", "b"], "points": [1.0, 5.0, 3.0, 2.0]})
    rows = sensitivity(table).set_index("label")
    assert rows.loc["a"].tolist() == [5, 3, 1, 3] and rows.loc["b"].tolist() == [2, 2, 2, 1]


def test_a_seed_that_diverged_counts_for_nothing(own_cache):
    table = tune(plan_of("server_only"), [1e20, 0.2, 0.1], own_cache)
    assert table["lr"].tolist() == [0.1, 0.2, 1e20] and table["diverged"].tolist() == [0, 0, 2]
    assert table["points"].iloc[2] == 0 < table["points"].iloc[:2].min() and not table["chosen"].iloc[2]
    assert (table["samples"] == 2 * 8).all()  # two steps of eight samples


def test_stored_choices_are_used_for_exactly_what_they_were_made_for(own_cache, monkeypatch, simulated):
    monkeypatch.setenv("FEDAUTO_STORE_TUNING", "1")
    made = tune(PLAN, LRS, own_cache)
    assert set(made["stored"]) == {"no"} and len(simulated) == 2 * len(made)
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
        assert ages.map(list).to_dict() == {"fedprox": ["by older code"], "fedavg": ["yes"], "server_only": ["yes"]}

    renamed = tune(replace(PLAN, cells=(cell("prox", make_method("fedprox")),)), LRS, own_cache)
    assert set(renamed["stored"]) == {"yes"} and set(renamed["label"]) == {"prox"}
    finer = tune(replace(PLAN, cells=(cell("fedprox"),)), [0.2, 0.15], own_cache)
    assert finer[finer["lr"] == 0.2]["stored"].tolist() == ["yes"] * 3 and "no" in set(finer["stored"])
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
        {
            "key": key,
            "label": "a",
            "lr": 0.1,
            "knob": "",
            "value": np.nan,
            "points": (1.5, 2.25),
            "samples": 40.0,
            "diverged": 0,
        }
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
    rows = {
        key: row(key, knob="mu", value=0.001, points=(66.6667, 100.0))
        for key in ("0000000000000012", "123456789012e345")
    }
    tuning._keep(path, rows)
    before = path.read_bytes()
    assert tuning._stored(path) == rows
    tuning._keep(path, {})
    assert path.read_bytes() == before


WHOLE = """key,label,lr,knob,value,points,samples,diverged,code
0123456789abcdef,server_only,0.2,,,50.5 51,16,0,0123456789ab
"""
DAMAGED = {
    "empty": b"",
    "binary": bytes(range(256)),
    "truncated in a row": WHOLE[:-20].encode(),
    "truncated in the header": WHOLE[:30].encode(),
    "a column missing": WHOLE.replace(",points", "").replace(",50.5 51", "").encode(),
    "text for a number": WHOLE.replace("50.5", "much").encode(),
    "no number": WHOLE.replace("50.5 51", "").encode(),
    "half merged": f"<<<<<<< ours\n{WHOLE}>>>>>>> theirs\n".encode(),
    "another encoding": WHOLE.replace("server_only", "é").encode("latin-1"),
    "a folder": None,
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_counts_as_not_there_and_is_named(own_cache, monkeypatch, capsys, content):
    path, plan = own_cache / "digits-softmax.csv", replace(PLAN, cells=(cell("server_only"),))
    monkeypatch.setattr(tuning, "_measured", measured_as(lambda *trial: (50.0, 49.5)))
    own_cache.mkdir()
    path.mkdir() if content is None else path.write_bytes(content)
    assert tune(plan, [0.2], own_cache)["stored"].tolist() == ["no"]
    assert capsys.readouterr().err.splitlines() == [
        f"fedauto: the stored tuning {path} is damaged; it counts as not there"
    ]
    monkeypatch.setenv("FEDAUTO_STORE_TUNING", "1")
    tune(plan, [0.2], own_cache)
    assert str(path) in capsys.readouterr().err
    assert [found["points"] for found in tuning._stored(path).values()] == [(50.0, 49.5)]
    aside = path.with_suffix(".damaged")  # somebody may still want the rows that can be read
    assert content is None or aside.read_bytes() == content
