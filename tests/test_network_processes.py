"""Failures by a timetable, shared, adversarial, recorded and physical: what makes each what it is."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from fedauto_core import InputError
from fedauto_core.network import SCENARIOS, SUITE, Cause, Scenario, draw_trace, recorded, scenario
from fedauto_core.network.radio import ALLOCATIONS, place
from fedauto_core.seeding import stream

TIDY = np.eye(5)[[0, 0, 1, 2, 3, 4]]  # 6 clients with one class each
MANY = np.random.default_rng(7).dirichlet(np.ones(5), 40)


def trace(process, seed=0, rounds=400, histograms=TIDY, **options):
    return draw_trace(
        Scenario("test", process, tuple(options.items())), rounds=rounds, histograms=histograms, seed=seed
    )


def test_rates_follow_the_sine_the_stairs_and_the_cut():
    q = {
        shape: trace("modulated", rounds=40, shape=shape, q_min=0.05, q_max=0.9).success_probability
        for shape in ("sine", "staircase", "interleaved_sine")
    }
    base = q["staircase"][0]
    assert (base == trace("label_coupled", rounds=1, q_min=0.05, q_max=0.9).success_probability[0]).all()
    t = np.arange(40)
    np.testing.assert_allclose(q["sine"], base * (0.3 * np.sin(2 * np.pi * t / 20) + 0.7)[:, None])
    np.testing.assert_allclose(q["staircase"], base * np.where(t % 20 < 10, 1, 0.4)[:, None])
    assert (q["interleaved_sine"] == np.where(q["sine"] >= 0.1, q["sine"], 0)).all()
    assert (q["interleaved_sine"] == 0).any() and (q["interleaved_sine"][:, base > 0.3] > 0).all()


def test_cyclic_clients_are_on_for_their_share_of_every_period():
    drawn = trace("cyclic", histograms=MANY, probability=0.3, period=20)
    for start in range(0, 380, 7):
        assert (drawn.arrived[start : start + 20].sum(axis=0) == 6).all()
    phases = {tuple(column) for column in drawn.arrived[:20].T}
    assert len(phases) > 10  # drawn over the whole period
    assert (trace("cyclic", probability=0.001, period=20).arrived[:20].sum(axis=0) == 1).all()


def test_groups_of_like_labels_take_turns():
    drawn = trace("block_cyclic", rounds=12, groups=3, turn=2)
    assert drawn.arrived[0].tolist() == [True, True, False, False, False, False]
    assert drawn.arrived[2].tolist() == [False, False, True, True, False, False]
    assert (drawn.arrived.sum(axis=1) == 2).all() and (drawn.arrived[:6] == drawn.arrived[6:]).all()
    assert set(np.unique(drawn.cause)) == {Cause.OK, Cause.TIMETABLE}


def test_members_come_late_or_leave_for_good():
    gone, late = (trace(name, histograms=MANY, share=0.25, start=100) for name in ("permanent_loss", "late_joiners"))
    assert gone.arrived[:100].all() and (~gone.arrived[100:]).all(axis=0).sum() == 10
    assert late.arrived[100:].all() and (~late.arrived[:100]).all(axis=0).sum() == 10
    assert set(np.unique(gone.cause)) == {Cause.OK, Cause.AWAY}
    flaky = trace("permanent_loss", share=0.5, start=10, probability=0.5)
    assert set(np.unique(flaky.cause)) == {Cause.OK, Cause.AWAY, Cause.TRANSIENT}


@pytest.mark.parametrize("aligned", [True, False])
def test_an_access_point_takes_all_its_clients_down(aligned):
    pi = np.eye(4)[np.repeat(np.arange(4), 5)]  # 5 clients per class
    drawn = trace("access_points", rounds=8000, histograms=pi, groups=4, mean_on=30, mean_off=10, aligned=aligned)
    alike = (drawn.arrived.T[:, None] == drawn.arrived.T[None]).all(axis=2)
    assert (alike.sum(axis=1) == 5).all()  # each client goes with the five of its access point, and no other
    assert (alike == (pi @ pi.T > 0)).all() == aligned
    share = drawn.arrived.mean(axis=0)
    sigma = np.sqrt(0.75 * 0.25 / 8000 * (1 + 13 / 15) / (1 - 13 / 15))
    assert (np.abs(share - 0.75) <= 4 * sigma).all() and (drawn.long_run_probability == 0.75).all()
    on = drawn.arrived[:-1]  # what is public before the next round
    assert np.allclose(drawn.success_probability[1:], np.where(on, 1 - 1 / 30, 1 / 10))
    assert set(np.unique(drawn.cause)) == {Cause.OK, Cause.SHARED}


def test_copula_keeps_each_rate_and_correlates_the_clients():
    q, n = (0.2, 0.2, 0.5, 0.5, 0.9, 0.9), 40_000
    drawn = trace("copula", rounds=n, probability=q, rho=0.6)
    assert (np.abs(drawn.arrived.mean(axis=0) - q) <= 4 * np.sqrt(np.multiply(q, np.subtract(1, q)) / n)).all()
    for i, j in ((0, 1), (0, 2), (2, 4)):
        both = multivariate_normal.cdf(norm.ppf([q[i], q[j]]), cov=[[1, 0.6], [0.6, 1]])
        measured = (drawn.arrived[:, i] & drawn.arrived[:, j]).mean()
        assert abs(measured - both) <= 4 * np.sqrt(both * (1 - both) / n)
    assert (drawn.success_probability == np.array(q)).all()
    assert set(np.unique(drawn.cause)) == {Cause.OK, Cause.SHARED, Cause.TRANSIENT}
    alone = trace("copula", probability=q, rho=0.0)
    assert not (alone.cause == Cause.SHARED).any()


def test_the_shock_of_a_copula_lasts():
    n = 40_000
    drawn = trace("copula", rounds=n, histograms=np.eye(2), probability=0.5, rho=0.9, memory=0.8)
    both = multivariate_normal.cdf([0, 0], cov=[[1, 0.9 * 0.8], [0.9 * 0.8, 1]])  # lag 1 of one client
    lag1 = (drawn.arrived[1:] & drawn.arrived[:-1]).mean()
    assert lag1 == pytest.approx(both, abs=4 * np.sqrt(both * (1 - both) / n * 10))  # some 10 rounds of memory
    first = [trace("copula", s, 1, np.eye(2), probability=0.3, rho=0.9, memory=0.99).arrived[0, 0] for s in range(2000)]
    assert abs(np.mean(first) - 0.3) <= 4 * np.sqrt(0.21 / 2000)


def test_the_adversary_takes_the_worst_client_at_every_step():
    pi = np.random.default_rng(3).dirichlet(np.ones(4) * 0.4, 7)
    kept, target = set(range(7)), pi.mean(axis=0)
    for drop in range(1, 4):
        far = {k: np.linalg.norm(pi[sorted(kept - {k})].mean(axis=0) - target) for k in kept}
        kept -= {max(far, key=far.get)}
        drawn = trace("adversary", rounds=3, histograms=pi, budget=drop / 7)
        assert (drawn.arrived == np.isin(np.arange(7), sorted(kept))).all()
    worst = max(
        np.linalg.norm(pi[list(rest)].mean(axis=0) - target) for rest in combinations(range(7), 4)
    )  # greedy is not far from the best set of three
    assert np.linalg.norm(pi[sorted(kept)].mean(axis=0) - target) >= 0.8 * worst
    assert trace("adversary", rounds=3, histograms=pi, budget=0.0).arrived.all()


def test_a_product_starts_with_its_first_part_and_names_who_lost_it():
    first = Scenario("a", "gilbert_elliott", (("q", 0.6), ("burst", 5.0)))
    second = Scenario("b", "long_outage", (("mean_on", 20.0), ("mean_off", 10.0)))
    alone = draw_trace(first, rounds=400, histograms=TIDY, seed=3)
    both = trace("product", 3, parts=(first, second))
    assert (both.arrived <= alone.arrived).all() and (both.cause[~alone.arrived] == Cause.LONG).all()
    assert (both.cause[alone.arrived & ~both.arrived] == Cause.LONG).all()
    assert (both.success_probability <= alone.success_probability).all()
    np.testing.assert_allclose(both.long_run_probability, 0.6 * 2 / 3)
    np.testing.assert_allclose(both.marginal_probability, 0.6 * 2 / 3)
    sine = trace("modulated", rounds=40, shape="sine", q_min=0.05, q_max=0.9)
    assert (sine.marginal_probability == sine.success_probability).all()
    assert trace("product", 3, parts=(first,)).sha256 == alone.sha256


def test_sessions_become_rounds(tmp_path):
    path = tmp_path / "sessions.csv"
    recorded.write_sessions({"a": np.array([[0, 100], [300, 400]])}, path)
    drawn = trace("sessions", rounds=5000, histograms=MANY, round_s=7, path=str(path))
    assert (drawn.long_run_probability == 0.5).all() and drawn.arrived.mean() == pytest.approx(0.5, abs=0.01)
    assert np.nanmean(drawn.describe()["mean_off_run"]) == pytest.approx(200 / 7, rel=0.1)
    # the last session touches the first across the end: on for 200 s, off for 200 s
    assert np.nanmean(drawn.describe()["mean_on_run"]) == pytest.approx(200 / 7, rel=0.1)


def test_the_example_recording_is_what_its_generator_draws(tmp_path):
    recorded.write_sessions(recorded.nightly_sessions(np.random.default_rng(0), 40, 3), tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text() == recorded.EXAMPLE.read_text()
    shares = trace("sessions", histograms=MANY, round_s=600.0).long_run_probability
    assert 0.1 < shares.min() < shares.max() < 0.6


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["device,from,to"], "line 1: columns are 'device,from,to'"),
        (["device,on_s,off_s"], "line 1: no session"),
        (["device,on_s,off_s", "\xe4\udcff,1,2"], "cannot read the recording"),
        (["device,on_s,off_s", "a,1"], "line 2: 2 values instead of 3"),
        (["device,on_s,off_s", "a,0,5", "a,soon,9"], "line 3: 'soon' and '9' are not both numbers"),
        (["device,on_s,off_s", "a,5,5"], "line 2: a session from 5 to 5"),
        (["device,on_s,off_s", "a,-5,5"], "line 2: a session from -5 to 5"),
        (["device,on_s,off_s", "a,nan,5"], "line 2: a session from nan"),
        (
            ["device,on_s,off_s", "a,0,5", "b,0,5", "a,4,9"],
            "line 4: device 'a' is on again at 4, before it went off (5)",
        ),
        (
            ["device,on_s,off_s", "a,20240701,20240703", "b,20240702,20240703"],
            "line 2: all times could be dates or sec",
        ),
        (["device,on_s,off_s", "a,0,2024-07-02"], "line 2: '0' and '2024-07-02': numbers and dates are mixed"),
        (["device,on_s,off_s", "a,1719849600000,1719853200000"], "milliseconds must be divided by 1000"),
        (["device,on_s,off_s,period_s", "a,0,5,9", "a,6,8,7"], "line 3: device 'a' has the period_s '7', above '9'"),
        (["device,on_s,off_s,period_s", "a,0,5,week"], "line 2: period_s = 'week' is no number"),
        (["device,on_s,off_s,period_s", "a,0,5,4"], "line 2: period_s = 4 is less than 5, the last off_s"),
    ],
)
def test_a_broken_recording_is_refused_with_its_line(tmp_path, lines, message):
    path = tmp_path / "sessions.csv"
    path.write_bytes(("\n".join(lines) + "\n").encode("latin-1", "replace"))
    with pytest.raises(InputError) as error:
        recorded.read_sessions(path)
    assert message in str(error.value) and str(path) in str(error.value)


def sessions_of(path, text, rounds=5000, **options):
    path.write_text(text, encoding="utf-8")
    return trace("sessions", rounds=rounds, histograms=MANY, path=str(path), **options)


UNIX = "device,on_s,off_s\na,1719849600,1719853200\nb,1719849600,1719936000\n"


@pytest.mark.parametrize(
    "text",
    [
        UNIX,
        "\ufeff" + UNIX + "\n",
        "device,on_s,off_s\na,2024-07-01T16:00,2024-07-01 17:00:00\nb,2024-07-01T16:00:00Z,2024-07-02T18:00+02:00\n",
    ],
    ids=["Unix time", "byte-order mark, empty line", "ISO 8601"],
)
def test_times_of_day_are_taken_relative_to_the_earliest_and_the_trace_says_so(tmp_path, text):
    relative = sessions_of(tmp_path / "s.csv", "device,on_s,off_s\na,0,3600\nb,0,86400\n", round_s=60)
    drawn = sessions_of(tmp_path / "s.csv", text, round_s=60)
    assert drawn.sha256 == relative.sha256
    assert {*drawn.long_run_probability} == {1 / 24, 1} and drawn.arrived.mean() > 0.2
    said = "times are relative to the earliest on_s, 2024-07-01 16:00:00 UTC"
    assert (relative.note, drawn.note, drawn.describe().attrs["note"]) == ("", said, said)


def test_a_late_first_session_is_no_time_of_day(tmp_path):
    drawn = sessions_of(tmp_path / "s.csv", "device,on_s,off_s\na,900,1000\n", round_s=7)
    assert drawn.note == "" and (drawn.long_run_probability == 0.1).all()


def test_seconds_that_look_like_a_date_by_chance_are_seconds(tmp_path):
    (tmp_path / "s.csv").write_text("device,on_s,off_s\na,0,20240701\nb,20240701,20240799\n")
    assert recorded.read_sessions(tmp_path / "s.csv").sessions["b"].tolist() == [[20240701, 20240799]]


FEDSCALE_ON = [12788, 100044, 188992, 271372, 276663, 352625, 356267, 441193]
FEDSCALE_OFF = [65881, 133574, 208292, 276575, 295006, 356236, 400906, 475099]


@pytest.mark.parametrize("stated", ["by the file", "by the scenario"])
def test_a_stated_length_is_the_period(tmp_path, stated):
    extra, option = (",518400", {}) if stated == "by the file" else ("", {"period_s": 518400})
    head = "device,on_s,off_s" + ",period_s" * bool(extra)
    rows = [f"3834,{on},{off}{extra}" for on, off in zip(FEDSCALE_ON, FEDSCALE_OFF, strict=True)]
    drawn = sessions_of(tmp_path / "s.csv", "\n".join([head, *rows]), round_s=600, **option)
    assert drawn.long_run_probability[0] == pytest.approx(0.408, abs=5e-4)


def test_a_phone_recorded_for_two_days_comes_on_every_two_days(tmp_path):
    text = "device,on_s,off_s,period_s\nphone,79200,100800,172800\n"
    arrived = sessions_of(tmp_path / "s.csv", text, rounds=480, round_s=3600).arrived
    starts = np.flatnonzero(~arrived[:-1, 0] & arrived[1:, 0])
    assert (np.diff(starts) == 48).all() and arrived[:480].mean() == 0.125
    with pytest.raises(InputError, match=r"period_s = 9\. Allowed: finite numbers >= 100800"):
        sessions_of(tmp_path / "s.csv", "device,on_s,off_s\nphone,79200,100800\n", round_s=3600, period_s=9)


@pytest.mark.parametrize(
    ("process", "options"),
    [
        ("class_blackout", {"label": np.int64(0), "start": np.int64(5), "length": np.int16(10)}),
        ("block_cyclic", {"groups": np.int32(2), "turn": np.int8(3)}),
        ("permanent_loss", {"share": np.float32(0.5), "start": np.int64(3)}),
    ],
)
def test_numpy_numbers_are_numbers(process, options):
    plain = {name: value.item() for name, value in options.items()}
    assert trace(process, rounds=40, **options).sha256 == trace(process, rounds=40, **plain).sha256


def test_true_is_no_class():
    with pytest.raises(InputError, match="blackout of class True"):
        trace("class_blackout", label=True, start=0, length=9)


RADIO = {"payload_bits": 2e7, "window_s": 1.0}


def test_a_radio_trace_starts_with_the_places_and_wires_ignore_the_air():
    places = place(stream(4, "trace"), 40, ("wired", "wifi", "lte", "nr_umi"))
    drawn = trace("radio", 4, histograms=MANY, **RADIO)
    wired = np.array(places.standard) == "wired"
    assert (drawn.success_probability[:, wired] == 0.995).all() and (
        drawn.success_probability[:, ~wired] != 0.995
    ).all()
    lte = np.array(places.standard) == "lte"
    worse = (places.kappa * np.exp(places.loss(places.shadow)))[lte]
    assert (np.argsort(worse) == np.argsort(-drawn.success_probability[0, lte])).all()


def test_all_allocations_meet_the_same_users_and_the_same_luck():
    drawn = {rule: trace("radio", 4, histograms=MANY, allocation=rule, **RADIO) for rule in ALLOCATIONS}
    equal = drawn["equal"]
    for other in drawn.values():
        up = other.success_probability >= equal.success_probability
        assert (other.arrived >= equal.arrived)[up].all() and (other.arrived <= equal.arrived)[~up].all()
    assert drawn["min_max"].success_probability.min() > equal.success_probability.min()
    assert (drawn["resource_blocks"].success_probability[0] == 0).sum() == 3 * 4  # four of ten in each of three bands
    rates = {name: one.long_run_probability.mean() for name, one in drawn.items()}
    assert rates["scheduled"] >= max(rates.values())


def test_attempts_and_computing_change_what_is_lost_and_why():
    plain = trace("radio", histograms=MANY, **RADIO)
    busy = trace("radio", histograms=MANY, compute_s=0.3, **RADIO)
    assert busy.long_run_probability.mean() < plain.long_run_probability.mean()
    assert set(np.unique(busy.cause)) == {Cause.OK, Cause.TRANSIENT, Cause.DEADLINE}
    late = trace("radio", histograms=MANY, compute_s=0.999, **RADIO)
    assert 0.4 < (late.cause[:, ::4] == Cause.DEADLINE).mean() < 0.6  # wires: half of the time nothing is left
    down = trace("radio", histograms=MANY, downlink=0.3, **RADIO)
    assert (down.cause == Cause.DOWNLINK).mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / 16000))
    np.testing.assert_allclose(down.success_probability, 0.7 * plain.success_probability)


def test_shadowing_of_a_moving_client_forgets_at_its_own_pace():
    drawn = trace("radio", rounds=20_000, histograms=np.eye(2), standards=("lte",), moved_m=10.0, **RADIO)
    q = drawn.success_probability  # a monotone function of the shadowing: its ranks are those of an AR(1)
    z = norm.ppf((q.argsort(axis=0).argsort(axis=0) + 0.5) / len(q))
    lag1 = (z[1:] * z[:-1]).mean(axis=0)
    assert lag1 == pytest.approx(np.exp(-10 / 50), abs=0.02)


def test_without_block_fading_only_the_shadow_decides():
    still = trace("radio", histograms=MANY, ergodic=True, standards=("lte", "nr_uma"), **RADIO)
    assert set(np.unique(still.success_probability)) <= {0.0, 1.0} and (still.arrived == still.arrived[0]).all()
    moving = trace("radio", histograms=MANY, ergodic=True, moved_m=20.0, standards=("lte", "nr_uma"), **RADIO)
    assert 0 < moving.arrived.mean() < 1 and (moving.arrived != moving.arrived[0]).any()


@pytest.mark.parametrize("rounds", [20, 200])
def test_the_suite_runs_by_name_and_keeps_its_shares(rounds):
    pi = np.eye(10)[np.arange(20) // 2]
    drawn = {name: draw_trace(scenario(name, rounds), rounds=rounds, histograms=pi, seed=1) for name in SUITE}
    assert drawn["F0"].arrived.all()
    assert (drawn["F7"].arrived <= drawn["F6"].arrived).all()  # the same radio
    assert (drawn["F8"].arrived <= drawn["F8b"].arrived).all()
    off = drawn["F8b"].cause == Cause.BLACKOUT
    assert off.any(axis=1).mean() == 0.5 and (drawn["F10"].arrived.mean(axis=1) == 0.5).all()


def test_an_unknown_scenario_lists_both_kinds():
    with pytest.raises(InputError, match=r"unknown scenario 'F12'\. Allowed: F0, F1, F10.*blackout.*transient"):
        scenario("F12")


@pytest.mark.parametrize("rounds", [20, 60, 200, 600])
@pytest.mark.parametrize(("name", "lost"), [("F9", 1 / 3), ("long", 1 / 3), ("F3", 0.3), ("bursty", 0.5)])
def test_random_durations_are_shares_of_the_run(name, lost, rounds):
    """A run of any length loses the same part of its uploads, in spells of the same part of its rounds: none that lasts
    one round, and none that a short run never sees the end of."""
    pi = np.eye(10)[np.arange(100) // 10]
    drawn = [draw_trace(scenario(name, rounds), rounds=rounds, histograms=pi, seed=seed) for seed in range(40)]
    assert np.mean([~trace.arrived for trace in drawn]) == pytest.approx(lost, abs=0.04)
    spells = dict(scenario(name, 200).options)
    mean_off = spells.get("mean_off", spells.get("burst"))
    ends = np.mean([(~t.arrived[:-1] & t.arrived[1:]).sum() / (~t.arrived[:-1]).sum() for t in drawn])
    assert 1 / ends == pytest.approx(max(mean_off * rounds / 200, 2), rel=0.25)


@pytest.mark.parametrize("rounds", [8, 20, 200, 300])
@pytest.mark.parametrize("name", [*SCENARIOS, *SUITE])
def test_every_scenario_can_be_drawn_at_every_length(name, rounds):
    trace = draw_trace(scenario(name, rounds), rounds=rounds, histograms=TIDY, seed=0)
    assert trace.arrived.shape == (rounds, 6) and (name in ("none", "F0")) == trace.arrived.all()
