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
from fedauto_core.engine.rounds import Task, uploads
from fedauto_core.methods import METHODS, Method, make_method
from fedauto_core.models import build_model
from fedauto_core.network import Scenario, draw_trace
from fedauto_core.seeding import stream

SCHEDULE = Schedule(rounds=6, steps=2, batch=8, evaluate_every=2)
BOUNDS = "centralised", "fedavg_ideal"
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


def test_what_the_method_has_judged_is_evaluated(make_run):
    """FedAWE takes the same path whichever of its models is judged."""
    model, make = make_run
    mean, broadcast = (simulate(model, [make("fedawe", judge=judge)], SCHEDULE) for judge in ("mean", "broadcast"))
    pd.testing.assert_frame_equal(mean.rounds, broadcast.rounds)
    for column in ("loss", "distance"):
        assert (mean.curves[column] != broadcast.curves[column]).all()


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
    server = Lane(Averaging(model), run, SCHEDULE).server
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
    server = Lane(Averaging(model), run, SCHEDULE).server
    server.start_round(1)
    delta = server.train(run.w0, 1)
    server.start_round(1)
    gradient, other = server.gradient(run.w0), server.gradient(run.w0)
    torch.testing.assert_close(-run.lr * gradient, delta, atol=1e-6, rtol=0)
    assert server.samples == 2 * SCHEDULE.batch and not torch.equal(gradient, other)
    server.start_round(1)
    soft = server.gradient(run.w0, functional.one_hot(server.labels, 10).float())
    torch.testing.assert_close(soft, gradient, atol=1e-6, rtol=0)


def test_the_step_size_falls_for_clients_and_server_alike(make_run):
    """Half a cosine over the last half of 6 rounds: 1, 3/4, 1/4 (and 0 in a seventh)."""
    model, make = make_run
    schedule = replace(SCHEDULE, decay=0.5)
    assert [schedule.rate(r) for r in range(7)] == pytest.approx([1, 1, 1, 1, 0.75, 0.25, 0])
    assert all(replace(SCHEDULE, rounds=7, decay=d).rate(6) > 0 for d in (0.0, 0.01, 0.3, 1.0))
    run, ids = make("fedavg"), np.arange(6)
    lane, steps = Lane(Averaging(model), run, replace(schedule, steps=1)), np.ones(6, dtype=int)
    draws = {0: stream(0, "minibatches", 0).random((6, 1, 8))}
    server, trained = lane.server, {}
    for r in (0, 4, 5):
        arrivals = uploads(Averaging(model), r, [Task(lane, ids, steps)], draws)[0]
        server.start_round(r, schedule.rate(r))
        trained[r] = torch.cat([arrivals.deltas, server.train(run.w0, 1)[None]])
        torch.testing.assert_close(trained[r][:6], schedule.rate(r) * trained[0][:6], atol=1e-7, rtol=1e-3)
        assert arrivals.lr == pytest.approx(run.lr * schedule.rate(r))
        server.start_round(r, schedule.rate(r))
        torch.testing.assert_close(trained[r][6], -arrivals.lr * server.gradient(run.w0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("decay", [-0.1, 1.5, float("nan"), True])
def test_schedule_refuses_a_decay_that_is_no_share(decay):
    with pytest.raises(InputError, match=f"decay = {decay}.*>= 0 and <= 1"):
        Schedule(rounds=5, decay=decay)


@pytest.mark.parametrize("with_server", [True, False])
@pytest.mark.parametrize("name", METHODS)
def test_an_upload_that_is_not_finite_is_a_lost_one(make_run, name, with_server, caplog):
    """One client's features are infinite: the run ends as the one in whose trace that client is never heard."""
    model, make = make_run
    run = make(name, with_server=with_server)
    data, client = run.federation.dataset, 3
    poisoned, features = run.federation.shards[client], data.x_train.clone()
    features[poisoned] = float("inf")
    broken = replace(run, federation=replace(run.federation, dataset=replace(data, x_train=features)))
    silent = run.trace.arrived.copy()
    silent[:, client - 1] = False
    lost = replace(run, trace=replace(run.trace, arrived=silent))
    ends = [simulate(model, [one], replace(SCHEDULE, decay=0.5)) for one in (broken, lost)]
    assert all(np.isfinite(end.curves["loss"]).all() and not end.curves["diverged"].any() for end in ends)
    heard = run.trace.arrived[:, client - 1].astype(float)
    if run.method.participation == "network":
        columns = [name for name in ends[0].rounds if name != "nonfinite"]
        for frame, shown in (("curves", list(ends[0].curves)), ("rounds", columns)):
            pd.testing.assert_frame_equal(*(getattr(end, frame)[shown] for end in ends), atol=1e-5, rtol=1e-4)
    else:  # whom no network can touch
        heard[:] = run.method.participation != "server"
    assert ends[0].rounds["nonfinite"].tolist() == heard.tolist() and not ends[1].rounds["nonfinite"].any()
    told = [record for record in caplog.records if "not finite" in record.message]
    assert len(told) == bool(heard.any()) and all(f"{name!r} {heard.sum():.0f}" in one.message for one in told)


def test_the_servers_own_update_may_be_lost_as_well(make_run):
    model, make = make_run
    run = make("fedavg")
    features = run.federation.dataset.x_train.clone()
    features[run.federation.shards[0]] = float("inf")
    dataset = replace(run.federation.dataset, x_train=features)
    broken = replace(run, federation=replace(run.federation, dataset=dataset))
    ends = [simulate(model, [one], SCHEDULE) for one in (broken, make("fedavg", with_server=False))]
    pd.testing.assert_frame_equal(*(end.curves for end in ends), atol=1e-6)
    assert (ends[0].rounds["nonfinite"] == 1).all()
    assert (ends[0].rounds["server_samples"] == SCHEDULE.steps * SCHEDULE.batch).all()  # it worked all the same


def test_one_learner_on_all_data_draws_what_all_draw_in_the_ideal_network(make_run):
    model, make = make_run
    draws = stream(0, "minibatches", 0).random((6, SCHEDULE.steps, SCHEDULE.batch))
    for with_server, everyone in ((True, 6), (False, 5)):
        bound, ideal = (Lane(Averaging(model), make(n, with_server=with_server), SCHEDULE) for n in BOUNDS)
        samples = [lane.batches(lane.heard(0), draws) for lane in (bound, ideal)]
        steps = bound.steps(SCHEDULE, 0, bound.heard(0))
        assert samples[0].shape == (1, *steps, SCHEDULE.batch) and len(samples[1]) == everyone
        assert samples[0].size == samples[1].size
        assert set(samples[0].flat) <= set(np.concatenate(bound.run.federation.shards))


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
    deltas = uploads(Averaging(model), 0, [Task(lane, ids, steps)], draws)[0].deltas
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
        Lane(Averaging(model), run, SCHEDULE).server.train(run.w0, 1, classes=[3])


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
    server = Lane(Averaging(model), run, SCHEDULE).server
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
        tasks.append(Task(lane, ids, lane.steps(SCHEDULE, 0, ids)))
    draws = {seed: stream(seed, "minibatches", 0).random((7, SCHEDULE.steps, SCHEDULE.batch)) for seed in (0, 1)}
    together = uploads(Averaging(model), 0, tasks, draws)
    heard = [len(task.ids) for task in tasks]
    # fedauto's are fedavg's; everyone of fedavg_ideal who arrives is among them too; scaffold and fedprox add terms
    asked = heard[0] + (heard[5] - heard[0]) + heard[2] + heard[3] + heard[4] + heard[7] + heard[8]
    # and centralised takes more steps, by itself
    assert trained == [asked, heard[6]] and asked < sum(heard)
    for task, arrived in zip(tasks, together, strict=True):
        (alone,) = uploads(Averaging(model), 0, [task], draws)
        assert np.array_equal(arrived.ids, task.ids) and torch.allclose(arrived.deltas, alone.deltas, rtol=0, atol=1e-6)
    assert torch.equal(together[0].deltas, together[1].deltas)


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
