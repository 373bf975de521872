"""FedAuto on another method: when it is that method, what the instance tells, what is refused, and what a key holds."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from test_methods import ALWAYS, HALF, SCHEDULE, SPEC, advance, lane, world  # noqa: F401 (a fixture)

from fedauto_core import InputError
from fedauto_core.benchmark.costs import declared, measured
from fedauto_core.experiments import Experiment, key
from fedauto_core.experiments.spec import Cell
from fedauto_core.methods import METHODS, Arrivals, Method, fedauto_on, make_method
from fedauto_core.methods.average import is_average
from fedauto_core.methods.base import classes
from fedauto_core.methods.composition import HOSTS
from fedauto_core.methods.fedauto import FedAuto

each_host = pytest.mark.parametrize("name", HOSTS)


@each_host
def test_for_large_lambda_and_without_compensation_it_is_the_method_itself(world, name):  # noqa: F811
    plain = FedAuto(lam=1e9, compensation="none")
    expected, same, other = (
        advance(world, lane(world, method)) for method in (make_method(name), fedauto_on(name, plain), fedauto_on(name))
    )
    torch.testing.assert_close(same, expected, atol=1e-5, rtol=0)
    assert (other - expected).abs().max() > 1e-3


@each_host
def test_where_all_arrive_a_large_lambda_is_enough(world, name):  # noqa: F811
    """The six clients hold all classes: nothing is missing, and there is nothing to compensate."""
    runner = lane(world, fedauto_on(name, FedAuto(lam=1e9)), ALWAYS)
    expected = advance(world, lane(world, make_method(name), ALWAYS))
    torch.testing.assert_close(advance(world, runner), expected, atol=1e-5, rtol=0)
    assert runner.state.log["compensated_classes"] == 0


@pytest.mark.parametrize("arrivals", [[], [4]])
@pytest.mark.parametrize("with_server", [True, False])
@each_host
def test_zero_and_one_arrival_are_finite(world, name, with_server, arrivals):  # noqa: F811
    runner = lane(world, fedauto_on(name), with_server=with_server)
    runner.run.trace.arrived[:] = False
    runner.run.trace.arrived[:, [k - 1 for k in arrivals]] = True
    w = advance(world, runner, rounds=3)
    assert torch.isfinite(w).all() and not runner.diverged
    assert not torch.equal(w, world[2])  # participant m is there in any case


def test_feddyn_stands_still_but_for_m_where_nobody_is_heard(world):  # noqa: F811
    """h / alpha belongs to models with a g_k: a round of m alone is FedAuto's."""
    runner, other = (lane(world, method, with_server=False) for method in (fedauto_on("feddyn"), FedAuto()))
    for one in (runner, other):
        one.run.trace.arrived[1:] = False
    advance(world, runner, rounds=1)
    assert bool(runner.state.memory["h"].any())
    other.w = runner.w
    for one in (runner, other):
        one.server.start_round(1)
    ids = np.zeros(0, dtype=np.int64)
    nobody = Arrivals(1, ids, torch.zeros(0, len(runner.w)), ids, 0.1)
    w = [one.run.method.aggregate(one.state, one.w, nobody, one.server)[0] for one in (runner, other)]
    torch.testing.assert_close(*w)


def test_the_instance_tells_what_it_is():
    method = fedauto_on("server_finetuning", server_steps=3)
    assert (method.name, method.contest, method.server_steps) == ("fedauto_on_server_finetuning", "ours", 3)
    assert method.public_data == "as a participant; as participant m for missing classes; SGD after the average"
    assert method.uses_label_histograms and method.cost.once == "C" and not method.needs_network_knowledge
    assert replace(method, server_steps=4).name == method.name
    assert METHODS["server_finetuning"].name == make_method("server_finetuning").name == "server_finetuning"
    assert make_method("server_finetuning").contest == METHODS["server_finetuning"].contest != "ours"
    twice = make_method("fedavgm", average=method)
    assert (twice.name, twice.contest) == ("fedauto_on_server_finetuning_on_fedavgm", "ours")


def test_another_average_makes_it_not_ours_and_may_make_it_an_oracle():
    method = make_method("scaffold", average=make_method("known_probability"))
    assert (method.name, method.contest) == ("known_probability_on_scaffold", METHODS["scaffold"].contest)
    assert method.needs_network_knowledge and not make_method("scaffold").needs_network_knowledge


@pytest.mark.parametrize("name", ["label_matching", "feddisco", "known_probability", "fedavg_all", "fedlaw"])
def test_other_averages_run(world, name):  # noqa: F811
    """FedAvgM without momentum is its average."""
    average = make_method(name)
    ends = [advance(world, lane(world, m)) for m in (average, make_method("fedavgm", momentum=0.0, average=average))]
    torch.testing.assert_close(*ends, atol=1e-5, rtol=0)


def test_what_can_stand_for_an_average():
    able = {name for name in METHODS if is_average(make_method(name))}
    assert able == {
        *("fedavg", "fedauto", "fedavg_all", "known_probability", "tf_aggregation_like", "label_matching", "feddisco"),
        *("server_finetuning", "fedlaw", "feddf", "feddu"),
    }


@pytest.mark.parametrize("name", ["fedauto", "fedauto_memory", "known_probability", "mifa", "fedavg", "nobody"])
def test_what_makes_no_sense_is_refused_with_what_does(name):
    with pytest.raises(InputError, match=f"FedAuto on '{name}'. Allowed: fedprox, server_finetuning, scaffold"):
        fedauto_on(name)


@pytest.mark.parametrize("average", ["mifa", "fedprox", "fedavg_ideal", "data_sharing", "fedcote_like", "scaffold"])
def test_an_average_with_a_memory_or_work_of_its_own_is_refused(average):
    with pytest.raises(InputError, match=r"scaffold: average = .*Allowed: methods without memory.*FedAuto\(\)"):
        make_method("scaffold", average=make_method(average))


@each_host
def test_declared_memory_is_the_memory_kept(name):
    one = {name: fedauto_on(name)}
    (row,), (kept,) = declared(one, 7, 50, 4).to_dict("records"), measured(one, 7, 50, 4, repetitions=1)["kept"]
    assert row["server"] + row["clients"] == kept and row["once"] > 0


@dataclass(frozen=True)
class Mine(FedAuto):
    """An average from outside the core."""


def test_the_key_of_a_result_holds_the_code_of_the_average(monkeypatch):
    cell = Cell("x", make_method("scaffold", average=Mine()), HALF, SPEC, 0.1)
    unit = Experiment("digits", "softmax", None, SCHEDULE, (cell,), (0,))
    assert classes(cell.method) == [METHODS["scaffold"], Mine] and issubclass(Mine, Method)
    codes = [key.unit_key(unit, ["trace"]), key.method_code(cell.method)]
    real = key.cell_code
    monkeypatch.setattr(key, "cell_code", lambda kind: "edited" if kind is Mine else real(kind))
    assert not {key.unit_key(unit, ["trace"]), key.method_code(cell.method)} & {*codes}
