"""The round loop: lockstep, common randomness, divergence, bad input."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits
from torch.nn import functional

from fedauto_core import InputError
from fedauto_core.data import FederationSpec, build_federation, load_dataset
from fedauto_core.engine import Averaging, Run, Schedule, rounds, simulate
from fedauto_core.engine.lane import Lane
from fedauto_core.engine.public import PublicData
from fedauto_core.engine.rounds import Task, uploads
from fedauto_core.methods import Method, make_method
from fedauto_core.models import build_model
from fedauto_core.network import Scenario, draw_trace
from fedauto_core.seeding import stream

SCHEDULE = Schedule(rounds=6, steps=2, batch=8, evaluate_every=2)
HALF = Scenario("half", "bernoulli", (("probability", 0.5),))


@pytest.fixture(scope="module")
def make_run():
    digits = load_dataset("digits")
    model = build_model("mlp", (1, 8, 8), 10)
    spec = FederationSpec(5, 60, 40, "classes", classes_per_client=2)

    def make(name, seed=0, lr=0.1, with_server=True, **hyper):
        federation = build_federation(digits, spec, seed)
        trace = draw_trace(HALF, rounds=SCHEDULE.rounds, histograms=federation.alpha[1:], seed=seed)
        w0 = model.init(stream(seed, "initial model"))
        return Run(name, make_method(name, **hyper), federation, trace, w0, seed, lr, with_server)

    return model, make


def test_a_run_does_not_depend_on_its_company(make_run):
    model, make = make_run
    names = (
        "fedauto",
        "fedavg",
        "fedprox",
        "fedawe",
        "server_only",
        "centralised",
        "fedavg_ideal",
        "known_probability",
    )
    together = simulate(model, [make(name) for name in names], SCHEDULE).curves
    for index, name in enumerate(names):
        alone = simulate(model, [make(name)], SCHEDULE).curves
        mine = together[together["run"] == index].drop(columns="run").reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, alone.drop(columns="run"), check_exact=False, atol=1e-5, rtol=0)


def test_the_same_runs_give_the_same_bytes(make_run):
    model, make = make_run
    first, second = (simulate(model, [make("fedauto"), make("fedawe", seed=1)], SCHEDULE) for _ in range(2))
    pd.testing.assert_frame_equal(first.curves, second.curves, check_exact=True)
    pd.testing.assert_frame_equal(first.rounds, second.rounds, check_exact=True)


def test_evaluation_against_a_direct_computation(make_run):
    """One round of the server alone, evaluated by hand."""
    model, make = make_run
    run = make("server_only")
    curves = simulate(model, [replace(run, trace=_first_round(run.trace))], replace(SCHEDULE, rounds=1)).curves
    from reference import Reference

    w = Reference(model, run.federation, run.trace, run.w0, 0, 0.1, True, 2, 8).final("server_only", 1)
    data = run.federation.dataset
    logits = model.forward(model.unflatten(w[None]), data.x_test[None])[0]
    right = (logits.argmax(dim=1) == data.y_test).numpy()
    recalls = [right[data.y_test.numpy() == c].mean() for c in range(10)]
    assert curves["accuracy"].item() == pytest.approx(right.mean(), abs=1e-6)
    assert curves["worst_class"].item() == pytest.approx(min(recalls), abs=1e-6)
    assert curves["loss"].item() == pytest.approx(float(functional.cross_entropy(logits, data.y_test)), abs=1e-4)


def _first_round(trace):
    return replace(
        trace, arrived=trace.arrived[:1], cause=trace.cause[:1], success_probability=trace.success_probability[:1]
    )


def test_evaluations_and_round_log_are_complete(make_run):
    model, make = make_run
    run = make("fedauto")
    history = simulate(model, [run], replace(SCHEDULE, evaluate_every=4))
    assert history.curves["round"].tolist() == [4, 6]
    assert history.rounds["arrived"].tolist() == run.trace.arrived.sum(axis=1).tolist()
    compensated = history.rounds["compensated_classes"] > 0
    assert compensated.any() and (history.rounds["server_samples"] == 2 * 8 * (1 + compensated)).all()


@dataclass(frozen=True)
class Exploding(Method):
    """Not a method: a rule whose third step is not finite."""

    name: ClassVar[str] = "exploding"
    factor: float = float("inf")

    def aggregate(self, state, w, arrivals, server):
        return (w * self.factor if arrivals.round == 2 else w + 1), state


@pytest.mark.parametrize("factor", [float("inf"), float("nan"), 1e9])
def test_divergence_is_reported_and_stops_the_run(make_run, factor):
    model, make = make_run
    history = simulate(model, [replace(make("fedavg"), method=Exploding(factor)), make("fedavg")], SCHEDULE)
    distance = history.curves.set_index(["run", "round"])["distance"][0]
    assert distance.tolist() == pytest.approx([2 * model.n_parameters**0.5] * 3, rel=1e-4)  # stands still, still sound
    curves = history.curves.set_index(["run", "round"])["diverged"]
    assert curves[0].tolist() == [0, 3, 3] and (curves[1] == 0).all()
    assert np.isfinite(history.curves["loss"]).all()
    assert len(history.rounds[history.rounds["run"] == 0]) == 3


def test_public_data_answer_for_the_server(make_run):
    model, make = make_run
    run = make("fedauto")
    server = PublicData(Averaging(model), run, SCHEDULE)
    public = run.federation.shards[0]
    labels = run.federation.dataset.y_train[public]
    assert torch.equal(server.labels, labels)
    assert server.counts_per_class.tolist() == np.bincount(labels, minlength=10).tolist()
    logits = model.forward(model.unflatten(run.w0[None]), run.federation.dataset.x_train[public][None])[0]
    torch.testing.assert_close(server.logits(run.w0), logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(server.logits(torch.stack([run.w0, 2 * run.w0]))[0], logits, atol=1e-5, rtol=0)
    server.start_round(3)
    first, second = server.train(run.w0, 2, classes=[1]), server.train(run.w0, 2, classes=[1])
    server.start_round(3)
    assert torch.equal(server.train(run.w0, 2, classes=[1]), first) and not torch.equal(first, second)


def test_a_public_gradient_is_one_step_of_public_training(make_run):
    """Against the labels, and against soft targets that happen to be the labels; new minibatch at every call."""
    model, make = make_run
    run = make("fedauto")
    server = PublicData(Averaging(model), run, SCHEDULE)
    server.start_round(1)
    delta = server.train(run.w0, 1)
    server.start_round(1)
    gradient, other = server.gradient(run.w0), server.gradient(run.w0)
    torch.testing.assert_close(-run.lr * gradient, delta, atol=1e-6, rtol=0)
    assert server.samples == 2 * SCHEDULE.batch and not torch.equal(gradient, other)
    server.start_round(1)
    soft = server.gradient(run.w0, functional.one_hot(server.labels, 10).float())
    torch.testing.assert_close(soft, gradient, atol=1e-6, rtol=0)


def test_a_deadline_cuts_clients_short_but_not_the_server(make_run):
    model, make = make_run
    schedule = replace(SCHEDULE, steps=4, least_steps=1)
    lanes = [Lane(Averaging(model), make(name), schedule) for name in ("fedavg", "fedauto")]
    drawn = np.stack([lanes[0].steps(schedule, r, np.arange(6)) for r in range(50)])
    assert (drawn[:, 0] == 4).all() and set(drawn[:, 1:].flat) == {1, 2, 3, 4}
    assert np.array_equal(lanes[1].steps(schedule, 7, np.array([2, 5])), drawn[7, [2, 5]])  # shared by the methods
    run = replace(make("fedavg"), trace=replace(make("fedavg").trace, arrived=np.eye(6, 5, dtype=bool)))
    lane = Lane(Averaging(model), run, schedule)
    ids, steps = lane.heard(0), lane.steps(schedule, 0, lane.heard(0))
    draws = {0: stream(0, "minibatches", 0).random((7, 4, 8))}
    deltas = uploads(Averaging(model), 0, [Task(lane, ids, steps)], draws)[0]
    from reference import draw, local_sgd

    for j, count, delta in zip(ids, steps, deltas, strict=True):
        data, shard = run.federation.dataset, run.federation.shards[j]
        end = local_sgd(model, run.w0, data.x_train, data.y_train, draw(draws[0][j], shard)[:count], run.lr)
        torch.testing.assert_close(delta, end - run.w0, atol=1e-6, rtol=0)


def test_public_data_refuse_classes_the_server_does_not_hold():
    spec = FederationSpec(5, 60, 40, "iid", server_missing_classes=(3,))
    federation = build_federation(load_dataset("digits"), spec, 0)
    model = build_model("softmax", (1, 8, 8), 10)
    trace = draw_trace(HALF, rounds=1, histograms=federation.alpha[1:], seed=0)
    run = Run(
        "fedauto", make_method("fedauto"), federation, trace, model.init(stream(0, "initial model")), 0, 0.1, True
    )
    with pytest.raises(InputError, match=r"no sample of the classes \[3\]"):
        PublicData(Averaging(model), run, SCHEDULE).train(run.w0, 1, classes=[3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: replace(run, trace=_first_round(run.trace)), r"trace has shape \(1, 5\).*\(6, 5\)"),
        (lambda run: replace(run, w0=run.w0[:-1]), "the start has shape"),
        (lambda run: replace(run, lr=0.0), "step size = 0.0"),
        (lambda run: replace(run, lr=float("nan")), "step size = nan"),
    ],
)
def test_runs_that_do_not_fit_are_refused(make_run, change, message):
    model, make = make_run
    with pytest.raises(InputError, match=message):
        simulate(model, [change(make("fedavg"))], SCHEDULE)


def test_test_images_without_some_class_are_refused(make_run):
    model, make = make_run
    with pytest.raises(InputError, match=r"no test image of classes \[.*\] among \(0, 3\)"):
        simulate(model, [make("fedavg")], replace(SCHEDULE, test=(0, 3)))


def test_different_test_images_can_be_used(make_run):
    model, make = make_run
    whole, first, second = (
        simulate(model, [make("fedavg")], replace(SCHEDULE, test=part)).curves["accuracy"]
        for part in (None, (0, 200), (200, 400))
    )
    np.testing.assert_allclose(whole, (first + second) / 2, atol=1e-6)


def test_the_server_sees_only_its_own_samples(make_run):
    model, make = make_run
    run = make("fedauto")
    server = PublicData(Averaging(model), run, SCHEDULE)
    assert torch.equal(server.x, run.federation.dataset.x_train[run.federation.shards[0]])
    assert len(server.x) == len(server.labels) == run.federation.counts[0]


def test_no_runs_are_refused(make_run):
    with pytest.raises(InputError, match="no runs"):
        simulate(make_run[0], [], SCHEDULE)


@pytest.mark.parametrize("name", ["rounds", "steps", "batch", "evaluate_every"])
def test_schedule_refuses_zero(name):
    with pytest.raises(InputError, match=f"{name} = 0"):
        Schedule(**{"rounds": 5, name: 0})


@pytest.mark.parametrize("least", [-1, 6, 1.5])
def test_schedule_refuses_fewer_steps_than_none_or_more_than_all(least):
    with pytest.raises(InputError, match=f"least_steps = {least}.*integers >= 0 and <= 5.*or 0 for always E"):
        Schedule(rounds=5, steps=5, least_steps=least)


def test_what_several_methods_ask_alike_is_trained_once(make_run, monkeypatch):
    """Each method still gets what it would get alone."""
    model, make = make_run
    trained = []
    real = rounds.local_updates
    monkeypatch.setattr(
        rounds, "local_updates", lambda m, start, *a, **k: trained.append(len(start)) or real(m, start, *a, **k)
    )
    names = ("fedauto", "fedavg", "fedprox", "scaffold", "fedawe", "fedavg_ideal", "centralised")
    tasks = []
    for run in [make(name) for name in names] + [make("fedavg", lr=0.2), make("fedavg", seed=1)]:
        lane = Lane(Averaging(model), run, SCHEDULE)
        ids = lane.heard(0)
        tasks.append(Task(lane, ids, np.full(len(ids), SCHEDULE.steps)))
    draws = {seed: stream(seed, "minibatches", 0).random((7, SCHEDULE.steps, SCHEDULE.batch)) for seed in (0, 1)}
    together = uploads(Averaging(model), 0, tasks, draws)
    heard = [len(task.ids) for task in tasks]
    # fedauto's are fedavg's; everyone of fedavg_ideal who arrives is among them too; scaffold and fedprox add terms
    asked = heard[0] + (heard[5] - heard[0]) + heard[2] + heard[3] + heard[4] + heard[6] + heard[7] + heard[8]
    assert trained == [asked] and asked < sum(heard)
    for task, deltas in zip(tasks, together, strict=True):
        (alone,) = uploads(Averaging(model), 0, [task], draws)
        assert len(deltas) == len(task.ids) and torch.allclose(deltas, alone, rtol=0, atol=1e-6)
    assert torch.equal(together[0], together[1])


def test_models_told_apart_by_their_memory_give_the_same_numbers(make_run, monkeypatch):
    """As on a GPU, where no value is looked at."""
    model, make = make_run
    runs = [make(name, **hyper) for name, hyper in (("fedavg", {}), ("fedauto", {}), ("mifa", {}), ("fedprox", {}))]
    by_value = simulate(model, runs, SCHEDULE)
    monkeypatch.setattr(rounds, "_identity", rounds._address)
    by_memory = simulate(model, runs, SCHEDULE)
    pd.testing.assert_frame_equal(by_memory.curves, by_value.curves, check_exact=False, atol=1e-6, rtol=0)


def test_the_numbers_do_not_depend_on_the_threads_of_numpy_and_torch(make_run, monkeypatch):
    model, make = make_run
    seen, aggregate = [], type(make("fedavg").method).aggregate

    def looked_at(self, *arguments):
        pools = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
        seen.append((torch.get_num_threads(), *pools))
        return aggregate(self, *arguments)

    monkeypatch.setattr(type(make("fedavg").method), "aggregate", looked_at)
    with threadpool_limits(2):
        simulate(model, [make("fedavg")], SCHEDULE)
    assert {number for numbers in seen for number in numbers} == {1} and len(seen[0]) > 1
