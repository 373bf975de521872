"""Failure processes against their laws: rates, memory, oracles; what is refused."""

import numpy as np
import pytest

from fedauto_core import InputError
from fedauto_core.network import Cause, Scenario, draw_trace

ROUNDS = 4000
HISTOGRAMS = np.random.default_rng(7).dirichlet(np.ones(5), 12)  # 12 clients, 5 classes
TIDY = np.eye(5)[[0, 0, 1, 2, 3, 4]]  # 6 clients with one class each

# Every process, with a memory lambda (lag-1 correlation of its slowest part), for the variance of a time average.
CASES = {
    "none": ({}, 0.0),
    "bernoulli": ({"probability": 0.3}, 0.0),
    "label_coupled": ({"q_min": 0.1, "q_max": 0.9}, 0.0),
    "gilbert_elliott": ({"q": 0.7, "burst": 5, "h_good": 0.95, "h_bad": 0.1}, 1 - 1 / 5 - 0.3 / (5 * 0.7)),
    "long_outage": ({"mean_on": 40, "mean_off": 10}, 1 - 1 / 40 - 1 / 10),
    "mixed": ({"mean_on": 40, "mean_off": 10, "probability": 0.8}, 1 - 1 / 40 - 1 / 10),
    "class_blackout": ({"label": 1, "start": 100, "length": 50, "probability": 0.9}, 0.0),
    "modulated": ({"shape": "interleaved_sine", "q_min": 0.05, "q_max": 0.9, "period": 16}, 0.0),
    "cyclic": ({"probability": 0.37, "period": 40}, 0.0),
    "block_cyclic": ({"groups": 4, "turn": 5}, 0.0),
    "permanent_loss": ({"share": 0.5, "start": 1000, "probability": 0.8}, 0.0),
    "late_joiners": ({"share": 0.5, "start": 1000, "probability": 0.8}, 0.0),
    "adversary": ({"budget": 0.5}, 0.0),
    "radio": ({"payload_bits": 2e7, "window_s": 1.0, "downlink": 0.05}, 0.0),
    "product": (
        {
            "parts": (
                Scenario("a", "bernoulli", (("probability", 0.7),)),
                Scenario("b", "long_outage", (("mean_on", 40), ("mean_off", 10))),
            )
        },
        1 - 1 / 40 - 1 / 10,
    ),
}
FIXED = ("none", "block_cyclic", "adversary")  # the same for every seed


def trace(process, seed=0, rounds=ROUNDS, histograms=HISTOGRAMS, **options):
    scenario = Scenario("test", process, tuple(options.items()))
    return draw_trace(scenario, rounds=rounds, histograms=histograms, seed=seed)


@pytest.mark.parametrize("process", CASES)
def test_long_run_rates_are_the_stated_ones(process):
    options, memory = CASES[process]
    drawn = trace(process, **options)
    assert drawn.arrived.shape == drawn.cause.shape == drawn.success_probability.shape == (ROUNDS, 12)
    # Variance of a time average with correlations <= memory**l; 12 clients are tested at once, hence 4 sigma.
    q = drawn.long_run_probability
    sigma = np.sqrt(q * (1 - q) / ROUNDS * (1 + memory) / (1 - memory))
    assert (np.abs(drawn.arrived.mean(axis=0) - drawn.long_run_probability) <= 4 * sigma).all()
    np.testing.assert_allclose(drawn.marginal_probability.mean(axis=0), q)
    pooled = abs((drawn.arrived.mean(axis=0) - drawn.long_run_probability).sum())
    assert pooled <= 3 * np.sqrt((sigma**2).sum())


@pytest.mark.parametrize("process", CASES)
def test_oracle_is_the_conditional_frequency(process):
    drawn = trace(process, **CASES[process][0])
    q = drawn.success_probability.round(12)
    for value in np.unique(q):
        bin_ = drawn.arrived[q == value]  # given the public state the arrivals of a bin are independent
        assert abs(bin_.mean() - value) <= 4 * np.sqrt(value * (1 - value) / bin_.size)


@pytest.mark.parametrize("process", CASES)
def test_same_seed_same_trace_and_causes_explain_every_loss(process):
    options = CASES[process][0]
    first, again = trace(process, **options), trace(process, **options)
    assert first.sha256 == again.sha256 and (first.cause == again.cause).all()
    assert (first.sha256 == trace(process, seed=1, **options).sha256) == (process in FIXED)
    assert first.cause.dtype == np.int8 and ((first.cause == Cause.OK) == first.arrived).all()


def test_every_trace_starts_in_the_stationary_law():
    many = np.full((20_000, 2), 0.5)
    for process in ("gilbert_elliott", "long_outage", "mixed"):
        drawn = trace(process, rounds=1, histograms=many, **CASES[process][0])
        q = drawn.long_run_probability[0]
        np.testing.assert_allclose(drawn.success_probability[0], q)
        np.testing.assert_allclose(drawn.marginal_probability, q)
        assert abs(drawn.arrived.mean() - q) <= 3 * np.sqrt(q * (1 - q) / 20_000)


@pytest.mark.parametrize(
    ("process", "options", "memory", "off"),
    [
        ("gilbert_elliott", {"q": 0.7, "burst": 5}, 1 - 1 / 5 - 0.3 / 3.5, 5),
        ("gilbert_elliott", {"q": 0.6, "burst": 1}, -2 / 3, 1),  # p_BG = 1, p_GB = 2/3: never two losses in a row
        ("long_outage", {"mean_on": 40, "mean_off": 10}, 0.875, 10),
    ],
)
def test_memory_and_outage_length_of_a_two_state_process(process, options, memory, off):
    drawn = trace(process, rounds=20_000, **options)
    centred = drawn.arrived - drawn.long_run_probability
    lag1 = (centred[1:] * centred[:-1]).mean() / (centred**2).mean()
    assert lag1 == pytest.approx(memory, abs=0.01)
    assert drawn.describe()["mean_off_run"].mean() == pytest.approx(off, rel=0.03)


def test_rates_may_differ_between_clients():
    drawn = trace("bernoulli", histograms=TIDY, probability=(0.0, 1.0, 0.5, 0.5, 0.5, 0.5))
    assert not drawn.arrived[:, 0].any() and drawn.arrived[:, 1].all()
    assert drawn.long_run_probability.tolist() == [0, 1, 0.5, 0.5, 0.5, 0.5]


def test_label_coupled_rates_are_evenly_spread_over_classes():
    drawn = trace("label_coupled", histograms=np.eye(5), q_min=0.1, q_max=0.9)
    assert sorted(drawn.long_run_probability) == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    blend = np.vstack([np.eye(5), [[0.5, 0.5, 0, 0, 0]]])
    q = trace("label_coupled", histograms=blend, q_min=0.1, q_max=0.9).long_run_probability
    assert q[5] == pytest.approx((q[0] + q[1]) / 2)
    drawn = [trace("label_coupled", seed=s, rounds=1, histograms=np.eye(5), q_min=0, q_max=1) for s in range(5)]
    orders = {tuple(one.long_run_probability) for one in drawn}
    assert len(orders) > 1


def test_mixed_names_both_causes_and_can_be_label_coupled():
    drawn = trace("mixed", histograms=np.eye(5), mean_on=30, mean_off=10, q_min=0.2, q_max=1.0)
    assert sorted(drawn.long_run_probability) == pytest.approx(list(0.75 * np.array([0.2, 0.4, 0.6, 0.8, 1.0])))
    sure = drawn.long_run_probability.argmax()
    assert set(np.unique(drawn.cause[:, sure])) == {Cause.OK, Cause.LONG}
    assert set(np.unique(drawn.cause)) == {Cause.OK, Cause.LONG, Cause.TRANSIENT}


def test_blackout_is_deterministic():
    drawn = trace("class_blackout", rounds=30, histograms=TIDY, label=0, start=10, length=5)
    off = np.zeros((30, 6), dtype=bool)
    off[10:15, :2] = True
    assert (drawn.arrived == ~off).all() and (drawn.cause == np.where(off, Cause.BLACKOUT, Cause.OK)).all()
    assert drawn.sha256 == trace("class_blackout", 5, 30, TIDY, label=0, start=10, length=5).sha256
    assert drawn.long_run_probability == pytest.approx([25 / 30, 25 / 30, 1, 1, 1, 1])
    forever = trace("class_blackout", rounds=30, histograms=TIDY, label=0, start=10, length=10**9)
    assert not forever.arrived[10:, :2].any() and forever.arrived[:10].all()


def test_blackout_spares_clients_below_the_share():
    pi = np.array([[0.04, 0.96], [0.06, 0.94], [1.0, 0.0]])
    drawn = trace("class_blackout", rounds=3, histograms=pi, label=0, start=1, length=1)
    assert drawn.arrived[1].tolist() == [True, False, False]


def test_replay_gives_the_recorded_arrivals(tmp_path):
    recorded = trace("bernoulli", rounds=9, histograms=TIDY, probability=0.5)
    path = str(tmp_path / "trace.csv")
    recorded.to_csv(path)
    replayed = trace("replay", rounds=9, histograms=TIDY, path=path)
    assert replayed.sha256 == recorded.sha256
    assert np.array_equal(replayed.cause, recorded.cause) and (replayed.cause == Cause.TRANSIENT).any()
    with pytest.raises(InputError, match=r"9 rounds x 6 clients recorded\. Allowed: 8 rounds x 6 clients"):
        trace("replay", rounds=8, histograms=TIDY, path=path)
    with pytest.raises(InputError, match="line 7: unknown client 6"):
        trace("replay", rounds=9, histograms=TIDY[:5], path=path)


@pytest.mark.parametrize(
    ("process", "options", "message"),
    [
        ("weather", {}, "unknown failure process 'weather'. Allowed: access_points, adversary, bernoulli"),
        ("bernoulli", {"q": 0.5}, "unknown option 'q' of failure process 'bernoulli'. Allowed: probability"),
        ("none", {"q": 0.5}, "Allowed: no options"),
        ("long_outage", {"mean_on": 5}, "failure process 'long_outage' lacks mean_off"),
        ("bernoulli", {"probability": 1.5}, "probability = 1.5. Allowed: probabilities in [0, 1]"),
        ("bernoulli", {"probability": float("nan")}, "probability = nan"),
        ("bernoulli", {"probability": "often"}, "probability = often. Allowed: one number, or one for each of the 12"),
        ("bernoulli", {"probability": (0.5, 0.5)}, "or one for each of the 12 clients"),
        ("label_coupled", {"q_min": -0.1, "q_max": 1}, "q_min = -0.1"),
        ("label_coupled", {"q_min": 0.9, "q_max": 0.1}, "q_min = 0.9 exceeds q_max = 0.1"),
        ("gilbert_elliott", {"q": 0.3, "burst": 2}, "no Gilbert-Elliott channel has q = 0.3 and bursts of 2 rounds"),
        ("gilbert_elliott", {"q": 0.0, "burst": 2}, "burst >= (1 - q) / q, with q > 0"),
        ("gilbert_elliott", {"q": 0.9, "burst": 0.5}, "burst = 0.5. Allowed: mean durations >= 1 round"),
        ("gilbert_elliott", {"q": 0.9, "burst": 2, "h_bad": 2}, "h_bad = 2"),
        ("modulated", {"shape": "square", "q_min": 0, "q_max": 1}, "unknown shape 'square'. Allowed: interleaved_sine"),
        ("modulated", {"shape": "sine", "q_min": 0, "q_max": 1, "period": 1}, "period = 1. Allowed: integers >= 2"),
        ("modulated", {"shape": "sine", "q_min": 0, "q_max": 1, "depth": 1.5}, "depth = 1.5"),
        ("cyclic", {"probability": 0.5, "period": 0}, "period = 0"),
        ("block_cyclic", {"groups": 13, "turn": 5}, "groups = 13. Allowed: integers >= 1 and <= 12"),
        ("block_cyclic", {"groups": 3, "turn": 0}, "turn = 0"),
        ("permanent_loss", {"share": 1.5, "start": 0}, "share = 1.5"),
        ("late_joiners", {"share": 0.5, "start": ROUNDS}, "start is round 4000"),
        ("access_points", {"groups": 0, "mean_on": 9, "mean_off": 2}, "groups = 0"),
        ("copula", {"probability": 0.5, "rho": 1.1}, "rho = 1.1"),
        (
            "copula",
            {"probability": 0.5, "rho": 0.5, "memory": 1.0},
            "memory = 1.0. Allowed: finite numbers >= 0 and < 1",
        ),
        ("adversary", {"budget": 1.0}, "budget 1.0 silences all 12 clients"),
        ("product", {"parts": ()}, "one or more scenarios"),
        ("product", {"parts": (Scenario("a", "weather"),)}, "unknown failure process 'weather'"),
        ("radio", {"payload_bits": -1, "window_s": 1}, "payload_bits = -1. Allowed: finite numbers > 0"),
        ("radio", {"payload_bits": 1e6, "window_s": 0}, "window_s = 0"),
        ("radio", {"payload_bits": 1e6, "window_s": 1, "moved_m": -1}, "moved_m = -1"),
        ("radio", {"payload_bits": 1e6, "window_s": 1, "attempts": 0}, "attempts = 0"),
        ("radio", {"payload_bits": 1e6, "window_s": 1, "downlink": 2}, "downlink = 2"),
        (
            "radio",
            {"payload_bits": 1e6, "window_s": 1, "compute_s": 1},
            "computing takes 1 s (median) of a window of 1",
        ),
        ("radio", {"payload_bits": 1e6, "window_s": 1, "standards": ("wimax",)}, "unknown standard 'wimax'"),
        ("radio", {"payload_bits": 1e6, "window_s": 1, "allocation": "auction"}, "unknown allocation 'auction'"),
        ("radio", {"payload_bits": 1e15, "window_s": 1, "allocation": "min_max"}, "infeasible allocation 'min_max'"),
        ("radio", {"payload_bits": "9", "window_s": 1}, "payload_bits = '9'"),
        (
            "radio",
            {"payload_bits": 1e6, "window_s": 1, "ergodic": True, "attempts": 2},
            "ergodic = True with 2 attempts",
        ),
        ("label_coupled", {"q_min": (0.1,) * 12, "q_max": 1}, "q_min = (0.1, 0.1"),
        ("class_blackout", {"label": 1.5, "start": 0, "length": 1}, "blackout of class 1.5"),
        ("product", {"parts": Scenario("a", "none")}, "a tuple of one or more scenarios"),
        ("sessions", {"round_s": 0}, "round_s = 0"),
        ("sessions", {"round_s": 600, "path": "nowhere.csv"}, "cannot read the recording nowhere.csv"),
        ("long_outage", {"mean_on": 0, "mean_off": 5}, "mean_on = 0"),
        ("mixed", {"mean_on": 9, "mean_off": 5}, "choose one transient part"),
        ("mixed", {"mean_on": 9, "mean_off": 5, "q_min": 0.1}, "choose one transient part"),
        ("mixed", {"mean_on": 9, "mean_off": 5, "probability": 1, "q_min": 0, "q_max": 1}, "choose one transient part"),
        ("class_blackout", {"label": 5, "start": 0, "length": 1}, "blackout of class 5. Allowed: classes 0..4"),
        ("class_blackout", {"label": 0, "start": ROUNDS, "length": 1}, "start is round 4000. Allowed: integers 0"),
        ("class_blackout", {"label": 0, "start": 0, "length": 0}, "length = 0. Allowed: integers >= 1"),
        ("class_blackout", {"label": 0, "start": 0, "length": 9, "min_share": 1.0}, "no client holds a share >= 1.0"),
        ("replay", {"path": "nowhere.csv"}, "cannot read the recording nowhere.csv"),
    ],
)
def test_bad_scenarios_are_refused(process, options, message):
    with pytest.raises(InputError) as error:
        trace(process, **options)
    assert message in str(error.value)


@pytest.mark.parametrize("histograms", [np.ones(5) / 5, np.ones((2, 5)), [[1.5, -0.5]], np.empty((0, 5))])
def test_bad_histograms_are_refused(histograms):
    with pytest.raises(InputError, match="label histograms of shape"):
        trace("none", histograms=histograms)


def test_a_run_has_at_least_one_round():
    with pytest.raises(InputError, match="rounds = 0"):
        trace("none", rounds=0)
