"""Claim C5, structurally: a method works when it is handed nothing but what the contract lists."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from fedauto_core.data import FederationSpec, build_federation, load_dataset
from fedauto_core.engine import Run, Schedule, simulate
from fedauto_core.methods import METHODS, Context, Server, make_method, method_inputs
from fedauto_core.models import build_model
from fedauto_core.network import draw_trace, scenario
from fedauto_core.seeding import stream

INPUTS = method_inputs()
DIGITS = load_dataset("digits")
MODEL = build_model("softmax", (1, 8, 8), 10)
FEDERATION = build_federation(DIGITS, FederationSpec(5, 40, 30, "classes", classes_per_client=2), seed=0)
ROUNDS = 4


def listed(function, argument):
    rows = INPUTS[(INPUTS["function"] == function) & (INPUTS["argument"] == argument)]
    return set(rows["member"])


class Only:
    """`value` with some of its members, and the properties that follow from them."""

    def __init__(self, value, members):
        self._value, self._members = value, members | {n for n, v in vars(type(value)).items() if type(v) is property}

    def __getattr__(self, name):
        if name.startswith("__") or name not in self._members:
            raise AttributeError(f"the contract does not list {name!r}")
        return getattr(self._value, name)


def guarded(method):
    """The same method, handed the listed members only."""

    class Guarded(type(method)):
        def init(self, context):
            return super().init(Only(context, listed("init", "context")))

        def aggregate(self, state, w, arrivals, server):
            arrivals = Only(arrivals, listed("aggregate", "arrivals"))
            return super().aggregate(state, w, arrivals, Only(server, listed("aggregate", "server")))

    return Guarded(**{field.name: getattr(method, field.name) for field in fields(method)})


def run(method):
    trace = draw_trace(scenario("mixed"), rounds=ROUNDS, histograms=FEDERATION.alpha[1:], seed=0)
    start = MODEL.init(stream(0, "initial model"))
    return simulate(
        MODEL, [Run("x", method, FEDERATION, trace, start, 0, 0.1, True)], Schedule(ROUNDS, 2, 8, evaluate_every=1)
    )


@pytest.mark.parametrize("name", METHODS)
def test_a_method_needs_nothing_that_the_contract_does_not_list(name):
    free, fenced = run(make_method(name)), run(guarded(make_method(name)))
    assert free.curves.equals(fenced.curves)


def test_the_list_is_the_contract():
    known = (
        "counts alpha target steps lr with_server w0 seed success_probability long_run_probability marginal_probability"
    )
    assert listed("init", "context") == set(known.split())
    assert listed("aggregate", "arrivals") == {"round", "ids", "deltas", "steps", "lr"}
    assert listed("aggregate", "server") == {"labels", "counts_per_class", "train", "gradient", "logits"}
    assert set(INPUTS.loc[INPUTS["function"] == "aggregate", "argument"]) == {"state", "w", "arrivals", "server"}


def test_the_fence_holds():
    only = Only(replace(_context(), seed=3), {"counts"})
    assert only.counts.tolist() == [1, 2]
    with pytest.raises(AttributeError, match="does not list 'seed'"):
        _ = only.seed
    assert "loss" not in listed("aggregate", "server") and not hasattr(Server, "loss")


def _context():
    alpha = np.full((2, 2), 0.5)
    return Context(np.array([1, 2]), alpha, alpha[0], 1, 0.1, True, torch.zeros(2))
