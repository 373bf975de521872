"""A method at the server of any stack: the coordinator by itself, and APPFL's own simulation on it."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedauto_core.errors import InputError
from fedauto_core.methods import make_method
from fedauto_core.server import Coordinator, ServerData, Update, torch_data

EXAMPLES = Path(__file__).parents[1] / "examples"
START = {"weight": np.zeros((2, 2)), "steps": np.array(0)}
NOTHING = ServerData(np.zeros(2))


def model(value, steps=1):
    return {"weight": np.full((2, 2), float(value)), "steps": np.array(steps)}


def coordinator(name="fedavg", data=NOTHING, **options):
    said = []
    return Coordinator(make_method(name), data, say=said.append, **options), said


def test_a_round_is_the_mean_of_what_came():
    core, said = coordinator()
    updates = {"a": Update(model(1, 10), 30, [30, 0]), "b": Update(model(5, 20), 10, [5, 5])}
    after = core.round(START, updates)
    np.testing.assert_allclose(after["weight"], 2.0)
    assert after["steps"] == 12 and after["steps"].dtype == START["steps"].dtype and said == []
    assert core.context.alpha[1:].tolist() == [[1, 0], [0.5, 0.5]]
    assert core.round(after, {})["weight"].tolist() == after["weight"].tolist()  # nobody: the model stays


def test_mifa_remembers_who_is_silent_by_name():
    core, _ = coordinator("mifa")
    first = core.round(START, {"a": Update(model(1), 10, [1, 1]), "b": Update(model(3), 10, [1, 1])})
    np.testing.assert_allclose(first["weight"], 2.0)
    second = core.round(first, {"b": Update(model(2), 10)})  # it stands still; a moved by 1 when it was heard
    np.testing.assert_allclose(second["weight"], 2.5)


def test_labels_may_be_told_later_and_stay_known():
    core, said = coordinator()
    for labels in (None, [9, 1], None, [float("nan"), 1]):
        core.round(START, {"a": Update(model(1), 10, labels)})
    assert core.context.alpha[1].tolist() == [0.9, 0.1]
    assert said == [
        "a: no label counts; its histogram is guessed to be uniform",
        "a: label counts that are not finite; the ones before stay",
    ]


BAD = {
    "not finite": (Update(model(np.nan), 10), "it is not finite"),
    "no sample": (Update(model(1), 0), "number of samples 0"),
    "another shape": (Update({"weight": np.zeros(3), "steps": np.array(1)}, 10), r"shape \(3,\)"),
    "a name too few": (Update({"weight": np.zeros((2, 2))}, 10), r"\['steps'\]"),
}


@pytest.mark.parametrize("bad, why", BAD.values(), ids=BAD)
def test_a_bad_update_is_left_out_by_name(bad, why):
    core, said = coordinator()
    after = core.round(START, {"bad": bad, "good": Update(model(4), 10, [5, 5])})
    np.testing.assert_allclose(after["weight"], 4.0)
    assert re.fullmatch(f"round 1: an update of bad is lost: .*{why}.*", said[-1])
    assert said[0] == "bad: no label counts; its histogram is guessed to be uniform"


def test_a_step_that_diverges_is_refused_and_forgotten():
    core, said = coordinator("mifa")
    assert core.round(START, {"a": Update(model(1e9), 10, [1, 1])}) == START
    assert said == ["round 1: the step diverges and is refused; the model stays as it was"]
    assert not core.round(START, {"a": Update(START, 10)})["weight"].any()


def test_fedauto_stands_in_for_a_missing_class():
    """Only class 0 comes from the client: class 1 is learnt from the public data; the trainer is told the round."""
    torch.manual_seed(0)
    module, rounds = nn.Linear(2, 2), []
    start = {name: part.detach().numpy().copy() for name, part in module.state_dict().items()}
    data = torch_data(module, torch.eye(2).repeat(5, 1), torch.arange(2).repeat(5), 2, lr=1.0, batch=8)

    def train(parameters, classes, steps, config):
        rounds.append((config["server-round"], classes))
        return data.train(parameters, classes, steps, config)

    core, _ = coordinator("fedauto", data._replace(train=train), with_server=False)
    state = start
    for _ in range(2):
        state = core.round(state, {"a": Update(state, 10, [10, 0])})
    assert rounds == [(1, [1]), (2, [1])]
    assert state["bias"][1] > start["bias"][1] + 0.1 and state["bias"][0] < start["bias"][0] - 0.1


def test_methods_that_need_clients_are_refused():
    with pytest.raises(InputError, match="method 'scaffold': it needs the support of clients: local work of its own"):
        coordinator("scaffold")


def test_the_aggregator_for_appfl_has_ten_lines():
    text = (EXAMPLES / "appfl" / "fedauto_aggregator.py").read_text(encoding="utf-8")
    assert len([line for line in text[text.index("class ") :].splitlines() if line.strip()]) <= 10


def test_appfl_runs_it_and_closes_rounds_by_deadline(monkeypatch, tmp_path):
    """The two slow sites are never heard."""
    pytest.importorskip("appfl.vsim", reason="needs the extra [appfl]")
    monkeypatch.syspath_prepend(EXAMPLES / "flower")
    monkeypatch.syspath_prepend(EXAMPLES / "appfl")
    simulate = importlib.import_module("simulate")
    monkeypatch.setattr(simulate, "ROUNDS", 3)
    monkeypatch.setattr(simulate.tempfile, "tempdir", str(tmp_path))  # for APPFL's log
    driver = simulate.simulate("fedauto")
    heard = [f"site {number}" for number in range(1, 5)]
    assert [sorted(entry["accepted_cids"]) for entry in driver.history] == 3 * [heard]
    before, after = simulate.network().state_dict(), driver.server.get_parameters(serial_run=True)
    assert simulate.accuracy(after) > simulate.accuracy(before) + 0.2
    assert sorted(driver.server.aggregator.server.roster.names) == heard
