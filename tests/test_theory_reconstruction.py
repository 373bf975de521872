"""The reconstruction has one home: who corrects FedAuto's module 1 there corrects the method and all of the theory."""

import numpy as np
import pytest

from fedauto_core import fedauto_weights, theory
from fedauto_core.data import FederationSpec, build_federation, load_dataset
from fedauto_core.engine import Averaging, Run, Schedule, simulate
from fedauto_core.methods import fedauto, make_method
from fedauto_core.methods.base import chi2_divergence
from fedauto_core.models import build_model
from fedauto_core.network import draw_trace, scenario
from fedauto_core.seeding import stream
from fedauto_core.theory import FIRST, THEOREMS, Point, Split

SPLIT = Split(np.array([[2, 4, 2], [6, 0, 0], [0, 5, 0], [0, 0, 7]]))
SETS = theory.arrival_sets(3)
DIGITS = load_dataset("digits")
NETWORK = build_model("softmax", tuple(DIGITS.x_train.shape[1:]), DIGITS.n_classes)
FEDERATION = build_federation(DIGITS, FederationSpec(5, 60, 40, "classes", classes_per_client=2), 0)


def nothing(alpha, target, server_counts):
    """A module 1 that compensates no class."""
    return np.zeros_like(server_counts)


def everything(alpha, target, server_counts):
    """A module 1 whose participant m trains on all public samples, whoever arrived."""
    return server_counts


@pytest.fixture
def correct(monkeypatch):
    return lambda module1: monkeypatch.setattr(fedauto, "compensation", module1)


def test_without_module_1_the_theory_has_no_participant_m(correct):
    before = theory.aggregate(SPLIT, SETS, "FedAuto")
    correct(nothing)
    after = theory.aggregate(SPLIT, SETS, "FedAuto")
    assert len(before.rows) > 4 and len(after.rows) == 4
    counts = SPLIT.counts.sum(axis=1)
    for beta, arrived in zip(after.beta, SETS, strict=True):
        ids = np.append(0, 1 + np.flatnonzero(arrived))
        np.testing.assert_array_equal(beta[ids], fedauto_weights(SPLIT.alpha[ids], counts[ids], SPLIT.target))
    np.testing.assert_array_equal(before.beta[-1, :4], after.beta[-1])  # nobody is missing: nothing to compensate


def test_another_module_1_is_another_participant_m(correct):
    correct(everything)
    used = theory.aggregate(SPLIT, SETS, "FedAuto")
    np.testing.assert_array_equal(used.rows[4], SPLIT.participants[0])
    assert len(used.rows) == 5 and np.all(used.beta[:, 4] > 0)


def bounds_of(problem):
    """Both sides of all that claim C6 checks of a round: every arrival set, both theorems, and the bias."""
    used = theory.aggregate(problem.split, SETS, "FedAuto")
    known, point = theory.constants_of(problem, used), Point(np.ones(problem.dimension))
    checks = theory.bias_checks(problem, used, point.mean, *THEOREMS)
    for theorem in THEOREMS:
        checks += theory.round_checks(problem, used, known, point, 0.05, 2, theorem)
    assert "violated" not in {check.status for check in checks}
    return theory.as_frame(checks).groupby("name")[["measured", "bound"]].agg(list)


def test_every_inequality_of_claim_c6_follows(correct):
    problem = theory.random_quadratics(0, SPLIT, noise=0.2)
    before = bounds_of(problem)
    correct(nothing)
    after = bounds_of(problem)
    assert list(before.index) == list(after.index)
    for name in before.index:
        assert not np.allclose(before.loc[name, "bound"], after.loc[name, "bound"]), name


def test_the_enumeration_of_minibatches_follows(correct):
    split = Split(np.array([[1, 1, 1], [3, 0, 0], [0, 2, 1]]))
    problem = theory.softmax_regression(0, split)

    def participants():
        one = theory.aggregate(split, np.array([[True, False]]), "FedAuto").pick(0)
        gamma = FIRST.step_limit(theory.constants_of(problem, one).smoothness.value, 1)
        checks, _ = theory.enumerated_checks(
            problem, one, theory.constants_of(problem, one), np.zeros(problem.dimension), gamma, 1
        )
        return sum(check.name == "S4 drift" for check in checks)

    assert participants() == 3  # the server, client 1 and participant m
    correct(nothing)
    assert participants() == 2


def visits_of(failures="F10", rounds=4):
    """What the method itself did, round by round, in the engine."""
    trace = draw_trace(scenario(failures, rounds), rounds=rounds, histograms=FEDERATION.alpha[1:], seed=0)
    visits = []
    method = theory.recorded(make_method("fedauto"), visits)
    run = Run("fedauto", method, FEDERATION, trace, NETWORK.init(stream(0, "initial model")), 0, 0.1, True)
    simulate(Averaging(NETWORK), [run], Schedule(rounds, 3, 10, evaluate_every=1))
    return visits


def test_the_method_itself_follows(correct):
    assert any(len(visit.weights) > len(visit.ids) for visit in visits_of())  # a weight more: that of participant m
    correct(nothing)
    assert all(len(visit.weights) == len(visit.ids) for visit in visits_of())


def test_the_estimates_along_real_runs_follow(correct):
    correct(everything)
    visit = visits_of()[1]
    assert len(visit.weights) == len(visit.ids) + 1
    found = theory.estimates(NETWORK, FEDERATION, visit, 10, np.random.default_rng(0), images=20)
    mixture = visit.weights @ np.vstack([FEDERATION.alpha[visit.ids], FEDERATION.alpha[0]])
    assert found["chi2"] == pytest.approx(float(chi2_divergence(mixture, FEDERATION.target)))
