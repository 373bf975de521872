"""The set-up that notebooks 10 to 13 share: who takes part, what tuning may see, what is run once."""

from dataclasses import replace

import caches
import numpy as np
import pandas as pd
import pytest

from fedauto_core import InputError
from fedauto_core.data import FederationSpec
from fedauto_core.engine import Schedule
from fedauto_core.experiments import (
    SCRATCH,
    AdapterExperiment,
    Comparison,
    Experiment,
    chosen,
    comparison,
    contestants,
    in_every_scenario,
    judged_among,
    rivals,
    summarise,
    untouched,
)
from fedauto_core.methods import METHODS, make_method
from fedauto_core.models import LoRA
from fedauto_core.network import scenario

VARIANTS = {"waiting": make_method("mifa", wait=True), "weights_only": make_method("fedauto", compensation="none")}
SPEC = FederationSpec(4, 40, 30, "classes", classes_per_client=2)
SCHEDULE = Schedule(4, 2, 8, evaluate_every=2)
PLAN = Comparison(contestants("fedavg", {}, ["fedauto"]), "digits", "softmax", SCRATCH, SPEC, SCHEDULE, 60, 2)
LORA = LoRA(2, 4.0, ("hidden",))
ADAPTED = replace(PLAN, model="mlp", lora=LORA, aggregation="residual")
LRS = [0.1, 0.2]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDAUTO_DATA", str(caches.own_cache(tmp_path)))
    for name in ("FEDAUTO_FRESH", "FEDAUTO_STORE_TUNING"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def asked(monkeypatch):
    """The experiments that are asked for, none of which is run."""
    found = []
    monkeypatch.setattr(comparison, "run", lambda experiment: found.append(experiment))
    monkeypatch.setattr(comparison, "tune", lambda experiment, lrs: found.append(experiment))
    return found


def test_contestants_are_those_asked_for_and_those_that_always_run():
    named = contestants("fedprox,fedavg", VARIANTS, ["fedauto"])
    assert list(named) == ["fedauto", "fedavg", "fedavg_ideal", "server_only", "centralised", "fedprox"]
    assert named["fedprox"] == make_method("fedprox")
    everybody = contestants("all", VARIANTS, [])
    assert list(everybody) == [name for name in METHODS if name != "fednova"] + list(VARIANTS)
    assert everybody["waiting"].wait and list(contestants("waiting", VARIANTS, []))[-1] == "waiting"


@pytest.mark.parametrize("asked", ["fedavg,fedfoo", "", "fednova", "fedavg, mifa"])
def test_unknown_contestants_are_refused(asked):
    with pytest.raises(InputError, match=r"unknown method .*fedavg_ideal"):
        contestants(asked, VARIANTS, [])


def test_rivals_are_neither_ours_nor_out_of_reach():
    methods = contestants("fedprox,waiting,weights_only", VARIANTS, ["fedauto"])
    assert rivals(methods) == {"fedprox": "optimiser", "waiting": "aggregation"}
    assert rivals(methods, shown=["waiting"]) == {"fedprox": "optimiser"}
    among = judged_among(methods)
    assert {label for label, contest in among.items() if contest == "bound"} == set(untouched(methods))
    assert among["weights_only"] == among["fedauto"] == "ours" and list(among) == list(methods)
    assert untouched(methods) == ["fedavg_ideal", "server_only", "centralised"]


def test_tuning_and_results_have_no_seed_and_no_test_image_in_common(asked):
    PLAN.tune(scenario("long"), 3, 2, LRS)
    PLAN.run([PLAN.cell("fedavg", scenario("mixed"))])
    tuning, results = asked
    assert (tuning.schedule.rounds, results.schedule.rounds) == (3, 4)
    assert tuning.schedule.evaluate_every == 3  # only what is judged
    assert (tuning.schedule.test, results.schedule.test) == ((60, 90), (0, 60))
    assert (tuning.seeds, results.seeds) == ((1000, 1001), (0, 1))
    assert [cell.label for cell in tuning.cells] == list(PLAN.methods)
    assert {cell.scenario.name for cell in tuning.cells} == {"long"} and type(tuning) is Experiment


def test_what_the_schedule_says_besides_holds_for_tuning_and_results(asked):
    plan = replace(PLAN, schedule=replace(SCHEDULE, least_steps=1, batch=3))
    plan.tune(scenario("long", 3), 3, 2, LRS)
    plan.run([plan.cell("fedavg", scenario("mixed"))])
    assert [(found.schedule.least_steps, found.schedule.batch, found.schedule.steps) for found in asked] == [
        (1, 3, 2)
    ] * 2


def test_with_adapters_it_is_the_same_comparison(asked):
    ADAPTED.run([ADAPTED.cell("fedavg", scenario("mixed"))])
    assert isinstance(asked[0], AdapterExperiment) and (asked[0].lora, asked[0].aggregation) == (LORA, "residual")


def test_cells_carry_what_is_said_of_them():
    alone = Comparison(PLAN.methods, "digits", "softmax", SCRATCH, SPEC, SCHEDULE, 60, 2, with_server=False)
    cell = alone.cell("fedavg", scenario("long"), study="x")
    assert (cell.label, cell.method, cell.federation) == ("fedavg", make_method("fedavg"), SPEC)
    assert not cell.with_server and cell.tags == (("study", "x"),) and np.isnan(cell.lr)


def test_everybody_is_compared_in_every_scenario_and_the_untouched_run_once(monkeypatch):
    tuned = PLAN.tune(scenario("mixed"), 2, 1, LRS)
    best = tuned[tuned["chosen"]].set_index("label")
    ran, real = [], comparison.run
    monkeypatch.setattr(comparison, "run", lambda experiment: ran.extend(experiment.cells) or real(experiment))
    result = PLAN.compare(tuned, (scenario("none"), scenario("mixed")))
    once = [(label, "none") for label in PLAN.methods]
    assert [(c.label, c.scenario.name) for c in ran] == [*once, ("fedauto", "mixed"), ("fedavg", "mixed")]
    assert all(cell.lr == best.loc[cell.label, "lr"] for cell in ran)
    for frame in (result.curves, result.rounds):
        seen = frame.groupby(["label", "scenario"]).size().unstack()
        assert set(seen.index) == set(PLAN.methods) and seen.notna().all(axis=None)
    ideal = result.curves[result.curves["label"] == "fedavg_ideal"]
    parts = [part.drop(columns="scenario").reset_index(drop=True) for _, part in ideal.groupby("scenario")]
    pd.testing.assert_frame_equal(*parts)


def test_rules_that_are_one_rule_without_failures_end_level_there():
    """Without failures FedAuto's weights are FedAvg's, and so are FedAU's: one step size, hence the same numbers,
    whatever the noise of tuning says of each."""
    labels = ("fedauto", "fedavg", "fedau", "fedavg_ideal")
    everywhere = replace(SPEC, n_clients=10)  # every class is at some client, so that there is none to compensate
    plan = replace(PLAN, methods={label: make_method(label) for label in labels}, federation=everywhere)
    tuned = plan.tune(scenario("mixed", 3), 3, 2, LRS)
    assert chosen(tuned)["lr"].nunique() == 1 and set(chosen(tuned)["step"]) == {"shared"}
    curves = plan.compare(tuned, [scenario("F0", 4)]).curves.set_index(["seed", "round"])
    own = {label: rows for label, rows in curves.groupby("label")}
    for label in labels[1:]:
        np.testing.assert_allclose(own[label]["distance"], own["fedauto"]["distance"], rtol=1e-5)
        np.testing.assert_allclose(own[label]["loss"], own["fedauto"]["loss"], rtol=1e-5)
        assert (own[label]["accuracy"] == own["fedauto"]["accuracy"]).all()


@pytest.mark.parametrize("plan", [PLAN, ADAPTED])
def test_what_a_run_still_gains_is_what_one_planned_for_three_quarters_of_the_rounds_lacks(monkeypatch, plan):
    """Of the cells that are asked for; an untouched one's holds in every scenario, all else stays as it is."""
    schedule = replace(SCHEDULE, rounds=8, evaluate_every=1, decay=1.0)
    plan, failures = replace(plan, schedule=schedule), (scenario("none", 8), scenario("mixed", 8))
    tuned = plan.tune(scenario("mixed"), 2, 1, LRS)
    cells = plan.cells(tuned, failures)
    summary = in_every_scenario(summarise(plan.run(cells).curves), untouched(plan.methods), ["none", "mixed"])
    asked = [c for c in cells if (c.label, c.scenario.name) in {("fedavg", "mixed"), ("server_only", "none")}]
    assert len(asked) == 2
    ran, real = [], comparison.run
    monkeypatch.setattr(comparison, "run", lambda experiment: ran.append(experiment) or real(experiment))
    found = plan.settle(summary, asked)
    (shorter,) = ran
    assert shorter.schedule == replace(schedule, rounds=6, evaluate_every=6, test=(0, 60)) and shorter.seeds == (0, 1)
    assert shorter.cells == tuple(asked)
    ends = summarise(real(shorter).curves).set_index(["label", "seed"])["points"]
    for row in found.itertuples():
        again = (row.label, row.scenario) in {("fedavg", "mixed"), ("server_only", "none"), ("server_only", "mixed")}
        assert row.late_gain == (row.points - ends[row.label, row.seed] if again else row.late_slope)
    assert (found["late_gain"] != found["late_slope"]).any()
    assert found.drop(columns=["late_gain", "late_slope"]).equals(summary.drop(columns="late_gain"))
    assert found["late_slope"].tolist() == summary["late_gain"].tolist()


def test_runs_that_differ_in_what_is_said_of_them_are_told_apart():
    failures = scenario("mixed", 8)
    plan = replace(PLAN, schedule=replace(SCHEDULE, rounds=8, evaluate_every=1, decay=1.0))
    cells = [
        replace(plan.cell("fedavg", failures, radio=radio), lr=lr) for radio, lr in (("plain", 0.01), ("new", 0.3))
    ]
    summary = summarise(plan.run(cells).curves)
    found = plan.settle(summary, cells)
    for cell in cells:
        alone = plan.settle(summary, [cell])
        mine = found["radio"] == dict(cell.tags)["radio"]
        assert found[mine].equals(alone[mine]) and not found[~mine].equals(alone[~mine])
    assert found.groupby("radio")["late_gain"].mean().nunique() == 2


@pytest.mark.parametrize("rounds, labels", [(8, []), (1, ["fedavg"])])
def test_where_nothing_is_judged_or_no_shorter_run_exists_nothing_runs_again(asked, rounds, labels):
    plan = replace(PLAN, schedule=replace(SCHEDULE, rounds=rounds))
    summary = pd.DataFrame({"label": "fedavg", "scenario": "mixed", "seed": [0, 1], "late_gain": [np.nan, 0.3]})
    cells = [plan.cell(label, scenario("mixed")) for label in labels]
    assert plan.settle(summary, cells).equals(summary.assign(late_slope=summary["late_gain"])) and not asked
