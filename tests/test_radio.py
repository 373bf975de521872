"""Outage of a link against a rounded table, Monte Carlo and hand-computed path losses; what is refused."""

import numpy as np
import pytest

from fedauto_core import InputError
from fedauto_core.radio import STANDARDS, Wired, outage

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
    assert link.path_loss_db(distance, link.carrier_ghz) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("standard", "base", "near", "far", "height_gain"), [("nr_umi", 10, 32.4, 21, 9.5), ("nr_uma", 25, 28.0, 22, 9.0)]
)
def test_line_of_sight_never_loses_more(standard, base, near, far, height_gain):
    link = STANDARDS[standard]
    d2 = np.geomspace(0.1, 2e7, 500)
    d3 = np.hypot(d2, base - 1.5)
    turn = 4 * (base - 1) * (1.5 - 1) * link.carrier_ghz * 1e9 / 299_792_458  # d_BP' of TR 38.901
    before = near + far * np.log10(d3)
    beyond = near + 40 * np.log10(d3) - height_gain * np.log10(turn**2 + (base - 1.5) ** 2)
    sight = np.where(d2 <= turn, before, beyond) + 20 * np.log10(link.carrier_ghz)
    assert (sight < link.path_loss_db(d2, link.carrier_ghz)).all()


@pytest.mark.parametrize("standard", RADIOS)
def test_closed_form_is_the_frequency_of_rates_below_the_need(standard):
    link, distance, payload, seconds, sharing, n = STANDARDS[standard], 150.0, 2e7, 2.0, 4, 400_000
    share = link.bandwidth_hz / sharing
    noise_w = 10 ** ((-174 + link.noise_figure_db - 30) / 10) * share
    gain = 10 ** (-link.path_loss_db(distance, link.carrier_ghz) / 10)
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
        ({"distance_m": 0}, r"distance_m is 0\. Allowed: finite numbers of m > 0"),
        ({"distance_m": np.array([1.0, np.nan])}, "distance_m is"),
        ({"payload_bits": 0}, r"payload_bits is 0\. Allowed: finite numbers of bits > 0"),
        ({"payload_bits": -8}, "payload_bits is -8"),
        ({"upload_s": 0.0}, r"upload_s is 0\.0\. Allowed: finite numbers of seconds > 0"),
        ({"upload_s": np.inf}, "upload_s is inf"),
        ({"sharing": 0}, r"sharing is 0\. Allowed: integers >= 1"),
        ({"sharing": 2.5}, r"sharing is 2\.5"),
    ],
)
def test_values_out_of_range_are_refused(standard, change, message):
    with pytest.raises(InputError, match=message):
        outage(standard, **{"distance_m": 100.0, "payload_bits": LORA, "upload_s": 1.0} | change)


def test_an_unknown_standard_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"unknown standard 'wimax'\. Allowed: lte, nr_uma, nr_umi, wifi, wired"):
        outage("wimax", 100.0, LORA, 1.0)
