"""How often an upload fails over the air, from its size: outage of a link under Rayleigh block fading.

An upload of S bits in T seconds fails if the channel cannot carry R = S / T. Shadowing, interference and
retransmission are not modelled, and one fading value holds for the whole upload: for uploads longer than the channel's
coherence time (milliseconds) this is the convention of the literature rather than physics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedauto_core.errors import require, require_known

__all__ = ["STANDARDS", "Radio", "Wired", "lte_macro", "outage", "tgax_enterprise", "uma_nlos", "umi_nlos"]

Numbers = float | np.ndarray

NOISE_DBM_HZ = -174.0  # thermal noise density k T at 290 K
TERMINAL_M = 1.5  # h_UT, height of the client's antenna (TR 38.901, table 7.4.1-1)


def tgax_enterprise(distance_m: Numbers, carrier_ghz: float) -> Numbers:
    """Path loss in dB of IEEE 802.11-14/0980, enterprise: one wall of 7 dB, exponent 2 up to 10 m and 3.5 beyond."""
    breakpoint_m, wall_db = 10.0, 7.0
    near, beyond = np.minimum(distance_m, breakpoint_m), np.maximum(distance_m, breakpoint_m) / breakpoint_m
    return 40.05 + 20 * np.log10(carrier_ghz / 2.4) + 20 * np.log10(near) + 35 * np.log10(beyond) + wall_db


def lte_macro(distance_m: Numbers, carrier_ghz: float) -> Numbers:
    """Path loss in dB of 3GPP TR 36.942, macro cell, antenna 15 m above the roofs: 128.1 + 37.6 log10 d_km at 2 GHz."""
    return 128.1 + 21 * np.log10(carrier_ghz / 2) + 37.6 * (np.log10(distance_m) - 3)


def umi_nlos(distance_m: Numbers, carrier_ghz: float) -> Numbers:
    """Path loss in dB of 3GPP TR 38.901, table 7.4.1-1, UMi street canyon NLOS, h_BS = 10 m, horizontal distance.

    The table's max(LOS, .) is left out: at 3.5 GHz the LOS value is the smaller one below 20,000 km. So in `uma_nlos`.
    """
    return 22.4 + 35.3 * np.log10(_slant(distance_m, 10.0)) + 21.3 * np.log10(carrier_ghz)


def uma_nlos(distance_m: Numbers, carrier_ghz: float) -> Numbers:
    """Path loss in dB of 3GPP TR 38.901, table 7.4.1-1, UMa NLOS, h_BS = 25 m, horizontal distance."""
    return 13.54 + 39.08 * np.log10(_slant(distance_m, 25.0)) + 20 * np.log10(carrier_ghz)


@dataclass(frozen=True)
class Radio:
    """Link budget of an uplink; path_loss_db(distance in m, carrier in GHz) may be vectorised over the distance."""

    carrier_ghz: float
    bandwidth_hz: float  # of the whole band, before it is shared
    power_dbm: float
    noise_figure_db: float
    path_loss_db: Callable[[Numbers, float], Numbers]


@dataclass(frozen=True)
class Wired:
    """A link that fails with a constant probability, whatever the distance and the payload."""

    failure: float


# Our choice of typical values (the paper's own are not known to us). Power: the usual 15 dBm of a station in IEEE TGax
# studies, 23 dBm of a 3GPP class-3 terminal. Noise figure: 7 dB for Wi-Fi (default of ns-3), 5 dB for a base station.
STANDARDS: dict[str, Radio | Wired] = {
    "wired": Wired(failure=0.005),
    "wifi": Radio(5.18, 80e6, 15.0, 7.0, tgax_enterprise),
    "lte": Radio(2.0, 20e6, 23.0, 5.0, lte_macro),
    "nr_umi": Radio(3.5, 100e6, 23.0, 5.0, umi_nlos),
    "nr_uma": Radio(3.5, 100e6, 23.0, 5.0, uma_nlos),
}


def outage(standard: str, distance_m: Numbers, payload_bits: Numbers, upload_s: Numbers, sharing: int = 5) -> Numbers:
    """Probability that an upload of `payload_bits` in `upload_s` seconds fails; the arguments' common shape.

    eps = 1 - exp(-x), x = (2^{R/b} - 1) / gbar, where R = payload / time, b = bandwidth / `sharing` (clients that
    upload at once in equal shares of the band) and gbar the mean SNR over b; |h|^2 has unit mean. A wired link fails
    alike whatever their values. InputError for an unknown standard, or a value out of range.
    """
    require_known("standard", standard, STANDARDS)
    distance = _positive("distance_m", distance_m, "m")
    payload = _positive("payload_bits", payload_bits, "bits")
    time = _positive("upload_s", upload_s, "seconds")
    require(
        isinstance(sharing, int | np.integer) and sharing >= 1,
        f"sharing is {sharing}",
        allowed="integers >= 1",
        remedy="count the client itself among those that share the band",
    )
    link = STANDARDS[standard]
    if isinstance(link, Wired):
        return np.full(np.broadcast_shapes(distance.shape, payload.shape, time.shape), link.failure)[()]
    share_hz = link.bandwidth_hz / sharing
    noise_dbm = NOISE_DBM_HZ + link.noise_figure_db + 10 * np.log10(share_hz)
    snr_db = link.power_dbm - link.path_loss_db(distance, link.carrier_ghz) - noise_dbm
    # ln x rather than x: ln(2^s - 1) = s ln 2 + ln(1 - 2^-s) neither overflows nor cancels, and its limits are right.
    with np.errstate(over="ignore", divide="ignore"):
        nats = payload / time / share_hz * np.log(2)
        log_x = nats + np.log(-np.expm1(-nats)) - snr_db * np.log(10) / 10
        return -np.expm1(-np.exp(log_x))


def _slant(distance_m: Numbers, base_m: float) -> Numbers:
    """d_3D in m between the antennas at horizontal distance d_2D, the base station's at height `base_m`."""
    return np.hypot(distance_m, base_m - TERMINAL_M)


def _positive(name: str, value: Numbers, unit: str) -> np.ndarray:
    values = np.asarray(value, dtype=np.float64)
    require(
        bool(((values > 0) & np.isfinite(values)).all()),
        f"{name} is {value}",
        allowed=f"finite numbers of {unit} > 0",
        remedy=f"give {name} as a positive number of {unit}, or an array of them",
    )
    return values
