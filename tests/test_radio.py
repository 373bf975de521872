"""Outage of a link against a rounded table, Monte Carlo and hand-computed path losses; what is refused."""

import numpy as np
import pytest
from scipy.special import exp1

from fedauto_core import InputError
from fedauto_core.network.radio import STANDARDS, Fading, Wired, ergodic_outage, ergodic_snr_db, outage, place

LORA, RESNET18 = 294_912 * 32, 374e6  # bits: adapters of rank 8 on q and v of ViT-B; 11.7 million parameters
RADIOS = [name for name, link in STANDARDS.items() if not isinstance(link, Wired)]

# Outages of 5 clients in equal shares, computed independently and rounded; rows are the uploads, columns the distances.
UPLOADS = ((LORA, 1), (LORA, 10), (RESNET18, 10), (RESNET18, 60))
TABLE = {
    "wifi": ((5, 20, 40), "3e-5 1.4e-3 1.5e-2", "2e-6 1e-4 1.3e-3", "2e-4 .011 .12", "2e-5 8e-4 9e-3"),
    "lte": ((50, 250, 500), "9e-5 .036 .39", "4e-6 1.6e-3 .021", ".014 1.0 1.0", "4e-5 .017 .21"),
    "nr_umi": ((50, 150, 300), "1.3e-3 .057 .49", "1e-4 5e-3 .057", "9e-3 .33 .99", "8e-4 .036 .35"),
    "nr_uma": ((50, 250, 500), "9e-4 .28 .99", "7e-5 .027 .34", "6e-3 .89 1.0", "5e-4 .18 .95"),
}


def half_unit(entry):
    """Half a unit of the last digit of a decimal number given as text."""
    mantissa, _, exponent = entry.partition("e")
    return 0.5 * 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


@pytest.mark.parametrize("standard", TABLE)
def test_outages_are_those_of_the_table(standard):
    distances, *rows = TABLE[standard]
    for (payload, seconds), row in zip(UPLOADS, rows, strict=True):
        eps = outage(standard, np.array(distances), payload, seconds)
        for value, entry in zip(eps, row.split(), strict=True):
            assert abs(value - float(entry)) <= half_unit(entry), (payload, seconds, entry)


@pytest.mark.parametrize(
    ("standard", "distance", "expected"),
    [
        ("wifi", 1, 40.05 + 6.6828 + 7),  # 20 log10(5.18 / 2.4) = 6.6828
        ("wifi", 100, 40.05 + 6.6828 + 20 + 35 + 7),
        ("lte", 1000, 128.1),
        ("nr_umi", 50.9952, 22.4 + 35.3 * 1.71350 + 21.3 * 0.544068),  # slant 51.6987 m
        ("nr_uma", 97.1983, 13.54 + 39.08 * 2 + 20 * 0.544068),  # slant 100 m: 100^2 = 97.1983^2 + 23.5^2
    ],
)
def test_path_loss_by_hand(standard, distance, expected):
    link = STANDARDS[standard]
    assert link.nlos.path_loss_db(distance, link.carrier_ghz) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("standard", [name for name in RADIOS if STANDARDS[name].los])
def test_line_of_sight_never_loses_more(standard):
    link, d2 = STANDARDS[standard], np.geomspace(0.1, 2e7, 500)
    sight, none = (way.path_loss_db(d2, link.carrier_ghz) for way in (link.los, link.nlos))
    assert (sight <= none).all() and (np.diff(sight) > -0.05).all()  # the two slopes meet, but for the heights


@pytest.mark.parametrize(
    ("standard", "distance", "expected"),
    [
        ("nr_umi", 50.9952, 32.4 + 21 * 1.71350 + 20 * 0.544068),  # before the breakpoint at 210.1 m
        ("nr_umi", 1000, 32.4 + 40 * 3.0000157 - 9.5 * np.log10(210.145**2 + 8.5**2) + 20 * 0.544068),
        ("nr_uma", 97.1983, 28 + 22 * 2 + 20 * 0.544068),  # slant 100 m
        ("nr_uma", 2000, 28 + 40 * 3.30106 - 9 * np.log10(560.387**2 + 23.5**2) + 20 * 0.544068),
        ("nr_inh", 9.797959, 32.4 + 17.3 * 1 + 20 * 0.544068),  # slant 10 m
    ],
)
def test_path_loss_with_a_line_of_sight_by_hand(standard, distance, expected):
    link = STANDARDS[standard]
    assert link.los.path_loss_db(distance, link.carrier_ghz) == pytest.approx(expected, abs=1e-3)


def test_line_of_sight_is_certain_nearby_and_rarer_further_away():
    for name, near in (("nr_umi", 18), ("nr_uma", 18), ("nr_inh", 5)):
        p = STANDARDS[name].sight(np.geomspace(0.1, 5000, 400))
        assert (p[np.geomspace(0.1, 5000, 400) <= near] == 1).all() and (np.diff(p) <= 0).all() and p[-1] < 0.01
    assert STANDARDS["nr_umi"].sight(100.0) == pytest.approx(0.18 + np.exp(-100 / 36) * 0.82)
    assert STANDARDS["nr_inh"].sight(100.0) == pytest.approx(0.54 * np.exp(-51 / 211.7))


FADINGS = [Fading(), Fading("rician", 5.0), Fading("rician", 0.0), Fading("nakagami", 2.0), Fading("nakagami", 0.5)]


@pytest.mark.parametrize("fading", FADINGS, ids=str)
def test_distribution_of_the_fading_is_that_of_its_waves(fading):
    n, power = 400_000, fading.power(np.random.default_rng(3), 400_000)
    assert abs(power.mean() - 1) <= 4 * power.std() / np.sqrt(n)
    for x in (0.05, 0.3, 1.0, 2.5):
        p = fading.outage(np.log(x))
        assert abs((power < x).mean() - p) <= 4 * np.sqrt(p * (1 - p) / n)
    assert fading.outage(np.array([-800.0, 800.0])).tolist() == [0, 1]


def test_fading_laws_agree_where_they_are_one():
    log_x = np.log(np.geomspace(1e-8, 20, 50))
    for same in (Fading("rician", 0.0), Fading("nakagami", 1.0)):
        np.testing.assert_allclose(same.outage(log_x), Fading().outage(log_x), rtol=1e-10)
    # Values computed independently for a threshold of x = 0.0732: 0.0706 (Rayleigh), 0.00974 (Nakagami m = 2).
    assert Fading().outage(np.log(0.0732)) == pytest.approx(0.0706, abs=5e-5)
    assert Fading("nakagami", 2.0).outage(np.log(0.0732)) == pytest.approx(0.00974, abs=5e-5)
    assert Fading("rician", 5.0).outage(np.log(0.0732)) == pytest.approx(0.00587, abs=5e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("weibull",), "unknown fading 'weibull'. Allowed: nakagami, rayleigh, rician"),
        (("rician", -1.0), "rician fading: shape = -1.0"),
        (("nakagami", 0.4), "Allowed: finite numbers >= 0.5"),
    ],
)
def test_unknown_fading_is_refused(arguments, message):
    with pytest.raises(InputError, match=message.replace(".", r"\.")):
        Fading(*arguments)


def test_shadowing_is_averaged_as_by_monte_carlo():
    n, sigma = 200_000, 8.0
    shadow_db = np.random.default_rng(5).normal(scale=sigma, size=n)
    link = STANDARDS["lte"]
    noise_w = 10 ** ((-174 + link.noise_figure_db - 30) / 10) * 4e6
    received = 10 ** ((link.power_dbm - 30 - link.nlos.path_loss_db(300.0, 2.0) - shadow_db) / 10)
    each = -np.expm1(-(2 ** (2e6 / 4e6) - 1) * noise_w / received)
    mean = outage("lte", 300.0, 4e6, 2.0, shadowing_db=sigma)
    assert abs(each.mean() - mean) <= 4 * each.std() / np.sqrt(n) + 1e-4  # 20 nodes are no integral


def test_attempts_share_the_window():
    assert outage("lte", 300.0, 1e6, 2.0, attempts=3) == pytest.approx(outage("lte", 300.0, 1e6, 2 / 3) ** 3)
    many, one = (outage("lte", 300.0, 1e5, 2.0, attempts=n) for n in (4, 1))
    assert many < one  # little to send: diversity wins
    many, one = (outage("lte", 500.0, 4e7, 2.0, attempts=n) for n in (4, 1))
    assert many > one  # much to send: the haste loses


def test_ergodic_efficiency_is_the_mean_rate():
    snr = np.geomspace(1e-3, 1e6, 12)
    power = Fading().power(np.random.default_rng(2), 400_000)
    rates = np.log2(1 + snr[:, None] * power)
    assert (np.abs(rates.mean(axis=1) - Fading().efficiency(snr)) <= 4 * rates.std(axis=1) / np.sqrt(400_000)).all()
    middle = snr[snr > 0.01]
    np.testing.assert_allclose(
        Fading().efficiency(middle), np.exp(1 / middle) * exp1(1 / middle) / np.log(2), rtol=1e-9
    )
    np.testing.assert_allclose(Fading().efficiency(10 ** (ergodic_snr_db(np.array([1e-4, 1, 20.0])) / 10)),
                               [1e-4, 1, 20], rtol=1e-8)  # fmt: skip


def test_ergodic_outage_is_the_frequency_of_shadows_too_deep():
    n, link = 100_000, STANDARDS["nr_umi"]
    shadow_db = np.random.default_rng(8).normal(scale=link.nlos.shadowing_db, size=n)
    snr = 1 / (link.kappa(250.0) * 10 ** (shadow_db / 10) * 20e6)
    p = ergodic_outage("nr_umi", 250.0, 6e7, 1.0)
    failed = (20e6 * Fading().efficiency(snr) < 6e7).mean()
    assert 0.02 < p < 0.98 and abs(failed - p) <= 4 * np.sqrt(p * (1 - p) / n)
    assert ergodic_outage("wired", 1.0, 1e6, 1.0) == 0.005


def test_clients_are_spread_evenly_over_the_ring_of_their_standard():
    places = place(np.random.default_rng(1), 6000, ("wired", "lte", "nr_umi"))
    table = places.frame()
    assert table["standard"].value_counts().tolist() == [2000] * 3
    assert (table.loc[table["standard"] == "wired", ["distance_m", "shadowing_db"]] == 0).all(axis=None)
    cell = table[table["standard"] == "lte"]
    assert cell["distance_m"].between(35, 500).all() and cell["shadowing_db"].std() == pytest.approx(8, rel=0.05)
    inner = (cell["distance_m"] < 250).mean()
    assert abs(inner - (250**2 - 35**2) / (500**2 - 35**2)) <= 3 * np.sqrt(0.25 / 2000)
    np.testing.assert_allclose(np.hypot(cell["x_m"], cell["y_m"]), cell["distance_m"])
    assert not cell["sight"].any() and 0 < table.loc[table["standard"] == "nr_umi", "sight"].mean() < 0.5
    with pytest.raises(InputError, match="no standard"):
        place(np.random.default_rng(1), 5, ())
    with pytest.raises(InputError, match="unknown standard 'wimax'"):
        place(np.random.default_rng(1), 5, ("wimax",))


@pytest.mark.parametrize("standard", RADIOS)
def test_closed_form_is_the_frequency_of_rates_below_the_need(standard):
    link, distance, payload, seconds, sharing, n = STANDARDS[standard], 150.0, 2e7, 2.0, 4, 400_000
    share = link.bandwidth_hz / sharing
    noise_w = 10 ** ((-174 + link.noise_figure_db - 30) / 10) * share
    gain = 10 ** (-link.nlos.path_loss_db(distance, link.carrier_ghz) / 10)
    snr = 10 ** ((link.power_dbm - 30) / 10) * gain / noise_w
    h = np.random.default_rng(11).normal(scale=np.sqrt(0.5), size=(n, 2))
    failed = share * np.log2(1 + snr * (h**2).sum(axis=1)) < payload / seconds
    eps = outage(standard, distance, payload, seconds, sharing)
    assert 1e-3 < eps < 1 - 1e-3
    assert abs(failed.mean() - eps) <= 3 * np.sqrt(eps * (1 - eps) / n)


@pytest.mark.parametrize("standard", RADIOS)
def test_outage_grows_with_distance_payload_and_sharing_and_falls_with_time(standard):
    distance, payload = np.geomspace(5, 300, 40)[:, None], np.geomspace(1e5, 1e8, 30)
    eps = outage(standard, distance, payload, 10.0)
    assert eps.shape == (40, 30)
    inner = eps < 1 - 1e-9  # strictly, short of saturation
    assert (np.diff(eps, axis=0)[inner[:-1]] > 0).all() and (np.diff(eps, axis=1)[inner[:, :-1]] > 0).all()
    assert (outage(standard, distance, payload, 20.0) < eps)[inner].all()
    assert (outage(standard, distance, payload, 10.0, sharing=6) > eps)[inner].all()


@pytest.mark.parametrize("standard", RADIOS)
def test_extreme_arguments_give_the_limits(standard):
    tiny = outage(standard, 50.0, np.array([1e-6, 2e-6]), 1.0)
    assert tiny[0] > 0 and tiny[1] / tiny[0] == pytest.approx(2)  # linear in the payload: nothing cancelled
    assert outage(standard, 50.0, [1e12, 1e300], [1.0, 1e-300]).tolist() == [1, 1]
    assert outage(standard, 1e300, [1.0, 1e300], 1.0).tolist() == [1, 1]
    assert outage(standard, 50.0, 1e-300, 1e300) == 0
    assert outage(standard, 50.0, LORA, 1.0, sharing=10**9) == 1


def test_a_wired_link_ignores_distance_and_payload():
    assert outage("wired", 1.0, LORA, 1.0) == 0.005
    assert (outage("wired", np.ones((3, 1)), np.array([1.0, 1e12]), 1.0) == np.full((3, 2), 0.005)).all()


@pytest.mark.parametrize("standard", ["wired", "lte"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distance_m": 0}, r"distance_m = 0\. Allowed: finite numbers of m > 0"),
        ({"distance_m": np.array([1.0, np.nan])}, "distance_m ="),
        ({"payload_bits": 0}, r"payload_bits = 0\. Allowed: finite numbers of bits > 0"),
        ({"payload_bits": -8}, "payload_bits = -8"),
        ({"upload_s": 0.0}, r"upload_s = 0\.0\. Allowed: finite numbers of seconds > 0"),
        ({"upload_s": np.inf}, "upload_s = inf"),
        ({"sharing": 0}, r"sharing = 0\. Allowed: integers >= 1"),
        ({"sharing": 2.5}, r"sharing = 2\.5"),
        ({"attempts": 0}, r"attempts = 0\. Allowed: integers >= 1"),
    ],
)
def test_values_out_of_range_are_refused(standard, change, message):
    with pytest.raises(InputError, match=message):
        outage(standard, **{"distance_m": 100.0, "payload_bits": LORA, "upload_s": 1.0} | change)


def test_an_unknown_standard_is_refused_with_the_known_ones():
    with pytest.raises(
        InputError, match=r"unknown standard 'wimax'\. Allowed: lte, nr_inh, nr_uma, nr_umi, wifi, wired"
    ):
        outage("wimax", 100.0, LORA, 1.0)


def test_mean_rate_with_a_line_of_sight_is_that_of_draws():
    snr = np.geomspace(1e-2, 1e5, 9)
    for fading in (Fading("rician", 8.0), Fading("nakagami", 2.0)):
        rates = np.log2(1 + snr[:, None] * fading.power(np.random.default_rng(6), 200_000))
        error = 4 * rates.std(axis=1) / np.sqrt(200_000) + 1e-3
        assert (np.abs(rates.mean(axis=1) - fading.efficiency(snr)) <= error).all()
        assert fading.efficiency(snr[4]) == pytest.approx(fading.efficiency(snr)[4], rel=1e-4)
