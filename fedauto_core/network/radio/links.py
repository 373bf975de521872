"""How often an upload fails over the air, from its size: link budgets of each standard.

An upload of S bits in T seconds fails if the channel cannot carry R = S / T. One fading value holds for the whole
upload: for uploads longer than the channel's coherence time (milliseconds) this is the convention of the literature
rather than physics; `ergodic_outage` is the other end, where the fading averages out and the shadowing decides.
Interference is not modelled.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import elementwise
from scipy.special import ndtr

from fedauto_core.errors import require, require_known, require_number

from .fading import RAYLEIGH, Fading, Numbers

NOISE_DBM_HZ = -174.0  # thermal noise density k T at 290 K
TERMINAL_M = 1.5  # h_UT, height of the client's antenna (TR 38.901, table 7.4.1-1)
OFFICE_TERMINAL_M = 1.0  # the same indoors (TR 38.901, table 7.2-2)
LIGHT_M_S = 299_792_458.0


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


def umi_los(distance_m: Numbers, carrier_ghz: float) -> Numbers:
    """Path loss in dB of 3GPP TR 38.901, table 7.4.1-1, UMi street canyon LOS, h_BS = 10 m, horizontal distance."""
    return _two_slopes(distance_m, carrier_ghz, 10.0, 32.4, 21.0, 9.5)


def uma_los(distance_m: Numbers, carrier_ghz: float) -> Numbers:
    """Path loss in dB of 3GPP TR 38.901, table 7.4.1-1, UMa LOS, h_BS = 25 m, horizontal distance."""
    return _two_slopes(distance_m, carrier_ghz, 25.0, 28.0, 22.0, 9.0)


def inh_los(distance_m: Numbers, carrier_ghz: float) -> Numbers:
    """Path loss in dB of 3GPP TR 38.901, table 7.4.1-1, indoor office LOS, ceiling at 3 m, horizontal distance."""
    d3 = _slant(distance_m, 3.0, OFFICE_TERMINAL_M)
    return 32.4 + 17.3 * np.log10(d3) + 20 * np.log10(carrier_ghz)


def inh_nlos(distance_m: Numbers, carrier_ghz: float) -> Numbers:
    """Path loss in dB of 3GPP TR 38.901, table 7.4.1-1, indoor office NLOS, at least the LOS value."""
    d3 = _slant(distance_m, 3.0, OFFICE_TERMINAL_M)
    return np.maximum(inh_los(distance_m, carrier_ghz), 17.3 + 38.3 * np.log10(d3) + 24.9 * np.log10(carrier_ghz))


def umi_sight(distance_m: Numbers) -> Numbers:
    """Probability of a line of sight, 3GPP TR 38.901, table 7.4.2-1, UMi."""
    return _outdoor_sight(distance_m, 18.0, 36.0)


def uma_sight(distance_m: Numbers) -> Numbers:
    """Probability of a line of sight, 3GPP TR 38.901, table 7.4.2-1, UMa, terminals up to 13 m high."""
    return _outdoor_sight(distance_m, 18.0, 63.0)


def inh_sight(distance_m: Numbers) -> Numbers:
    """Probability of a line of sight, 3GPP TR 38.901, table 7.4.2-1, open office."""
    d = np.asarray(distance_m, dtype=np.float64)
    return np.select([d <= 5, d <= 49], [1.0, np.exp(-(d - 5) / 70.8)], 0.54 * np.exp(-(d - 49) / 211.7))


@dataclass(frozen=True)
class Propagation:
    """A link with, or without, a line of sight. path_loss_db(distance in m, carrier in GHz): the mean; shadowing_db:
    standard deviation around it; decorrelation_m: distance over which the shadowing's correlation falls to 1/e."""

    path_loss_db: Callable[[Numbers, float], Numbers]
    shadowing_db: float
    decorrelation_m: float
    fading: Fading = RAYLEIGH


@dataclass(frozen=True)
class Radio:
    """Link budget of an uplink. sight(distance in m): probability that there is a line of sight (None: never); reach_m:
    nearest and farthest client."""

    carrier_ghz: float
    bandwidth_hz: float  # of the whole band, before it is shared
    power_dbm: float
    noise_figure_db: float
    reach_m: tuple[float, float]
    nlos: Propagation
    los: Propagation | None = None
    sight: Callable[[Numbers], Numbers] | None = None

    def kappa(self, distance_m: Numbers, way: Propagation | None = None) -> Numbers:
        """Noise density over mean received power, 1/Hz: the SNR over b Hz is 1 / (kappa b). way: `nlos` (default) or
        `los`."""
        loss_db = (way or self.nlos).path_loss_db(distance_m, self.carrier_ghz)
        with np.errstate(over="ignore"):  # infinite where nothing arrives
            return np.power(10.0, (NOISE_DBM_HZ + self.noise_figure_db - self.power_dbm + loss_db) / 10)


@dataclass(frozen=True)
class Wired:
    """A link that fails with a constant probability, whatever the distance and the payload."""

    failure: float


# K of a line of sight: means of TR 38.901, table 7.5-6, 9 dB outdoors, 7 dB in an office. The same table has the
# decorrelation distances of NR; 50 m is usual in studies of LTE macro cells; 5 m for Wi-Fi is ours, as in an office.
_K_OUTDOORS, _K_OFFICE = 10**0.9, 10**0.7

# Our choice of typical values (the paper's own are not known to us). Power: the usual 15 dBm of a station in IEEE TGax
# studies, 23 dBm of a 3GPP class-3 terminal. Noise figure: 7 dB for Wi-Fi (default of ns-3), 5 dB for a base station.
# Shadowing: TR 38.901, table 7.4.1-1; 8 dB for LTE (usual in studies of macro cells), 5 dB for Wi-Fi (TGax).
STANDARDS: dict[str, Radio | Wired] = {
    "wired": Wired(failure=0.005),
    "wifi": Radio(5.18, 80e6, 15.0, 7.0, (2.0, 40.0), Propagation(tgax_enterprise, 5.0, 5.0)),
    "lte": Radio(2.0, 20e6, 23.0, 5.0, (35.0, 500.0), Propagation(lte_macro, 8.0, 50.0)),
    "nr_umi": Radio(
        3.5, 100e6, 23.0, 5.0, (10.0, 300.0), Propagation(umi_nlos, 7.82, 13.0),
        Propagation(umi_los, 4.0, 10.0, Fading("rician", _K_OUTDOORS)), umi_sight,
    ),
    "nr_uma": Radio(
        3.5, 100e6, 23.0, 5.0, (35.0, 500.0), Propagation(uma_nlos, 6.0, 50.0),
        Propagation(uma_los, 4.0, 37.0, Fading("rician", _K_OUTDOORS)), uma_sight,
    ),
    "nr_inh": Radio(
        3.5, 100e6, 23.0, 5.0, (2.0, 60.0), Propagation(inh_nlos, 8.03, 6.0),
        Propagation(inh_los, 3.0, 10.0, Fading("rician", _K_OFFICE)), inh_sight,
    ),
}  # fmt: skip


def log_threshold(kappa: Numbers, rate_bps: Numbers, bandwidth_hz: Numbers) -> Numbers:
    """ln x, where an upload at R bit/s over b Hz fails if |h|^2 < x = kappa b (2^{R/b} - 1).

    ln(2^s - 1) = s ln 2 + ln(1 - 2^-s) neither overflows nor cancels, and its limits are right.
    """
    with np.errstate(divide="ignore"):
        nats = rate_bps / bandwidth_hz * np.log(2)
        return nats + np.log(-np.expm1(-nats)) + np.log(kappa * bandwidth_hz)


def outage(
    standard: str,
    distance_m: Numbers,
    payload_bits: Numbers,
    upload_s: Numbers,
    sharing: int = 5,
    *,
    fading: Fading = RAYLEIGH,
    shadowing_db: float = 0.0,
    attempts: int = 1,
) -> Numbers:
    """Probability that an upload of `payload_bits` in `upload_s` seconds fails without a line of sight; common shape.

    b = bandwidth / `sharing` (clients that upload at once in equal shares of the band); shadowing_db: standard
    deviation in dB of log-normal shadowing, averaged over by 20 Gauss-Hermite nodes; attempts: the window is cut into
    this number of independent tries. A wired link fails alike whatever the values. InputError for an unknown standard,
    or a value out of range.
    """
    require_known("standard", standard, STANDARDS)
    distance = _positive("distance_m", distance_m, "m")
    payload = _positive("payload_bits", payload_bits, "bits")
    time = _positive("upload_s", upload_s, "seconds")
    require_number("shadowing_db", shadowing_db, strict=False, remedy="give the standard deviation, or 0 for none")
    remedy = "count the client itself among those that share the band, and the first try among the attempts"
    for name, value in (("sharing", sharing), ("attempts", attempts)):
        require_number(name, value, low=1, strict=False, whole=True, remedy=remedy)
    link = STANDARDS[standard]
    if isinstance(link, Wired):
        return np.full(np.broadcast_shapes(distance.shape, payload.shape, time.shape), link.failure)[()]
    with np.errstate(over="ignore"):
        rate = payload * attempts / time
    log_x = log_threshold(link.kappa(distance), rate, link.bandwidth_hz / sharing)
    nodes, weights = np.polynomial.hermite_e.hermegauss(20 if shadowing_db else 1)
    shadows = shadowing_db * np.log(10) / 10 * nodes
    return sum(
        weight / weights.sum() * fading.outage(log_x + shadow) ** attempts
        for weight, shadow in zip(weights, shadows, strict=True)
    )


def ergodic_outage(
    standard: str, distance_m: Numbers, payload_bits: Numbers, upload_s: Numbers, sharing: int = 5
) -> Numbers:
    """The same for an upload over which Rayleigh fading averages out: P(b E log2(1 + snr |h|^2) < R), over shadowing.

    With g the SNR that just carries R, it is Phi((g - snr) / sigma), both in dB. A wired link fails as in `outage`.
    """
    block = outage(standard, distance_m, payload_bits, upload_s, sharing)  # checks the arguments, too
    link = STANDARDS[standard]
    if isinstance(link, Wired):
        return block
    share_hz = link.bandwidth_hz / sharing
    snr_db = -10 * np.log10(link.kappa(np.asarray(distance_m, dtype=np.float64)) * share_hz)
    needed_db = ergodic_snr_db(np.asarray(payload_bits) / np.asarray(upload_s) / share_hz)
    return ndtr((needed_db - snr_db) / link.nlos.shadowing_db)


def ergodic_snr_db(efficiency: Numbers) -> Numbers:
    """Mean SNR in dB at which Rayleigh fading carries `efficiency` bit/s/Hz on average; infinite beyond 100."""
    wanted = np.asarray(efficiency, dtype=np.float64)

    def excess(snr_db: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        return np.log(RAYLEIGH.efficiency(10 ** (snr_db / 10))) - np.log(wanted)

    found = elementwise.find_root(excess, (-100.0, 400.0), args=(np.minimum(wanted, 100.0),))
    return np.where(wanted <= 100, found.x, np.inf)


def _two_slopes(
    distance_m: Numbers, carrier_ghz: float, base_m: float, offset: float, slope: float, gain: float
) -> Numbers:
    """LOS path loss in dB with the breakpoint d_BP' = 4 (h_BS - 1)(h_UT - 1) f / c; beyond it 40 log10 d_3D."""
    turn = 4 * (base_m - 1) * (TERMINAL_M - 1) * carrier_ghz * 1e9 / LIGHT_M_S
    d3 = _slant(distance_m, base_m)
    near = offset + slope * np.log10(d3)
    beyond = offset + 40 * np.log10(d3) - gain * np.log10(turn**2 + (base_m - TERMINAL_M) ** 2)
    return np.where(np.asarray(distance_m) <= turn, near, beyond) + 20 * np.log10(carrier_ghz)


def _outdoor_sight(distance_m: Numbers, sure_m: float, scale_m: float) -> Numbers:
    d = np.maximum(distance_m, sure_m)  # certain up to here
    return sure_m / d + np.exp(-d / scale_m) * (1 - sure_m / d)


def _slant(distance_m: Numbers, base_m: float, terminal_m: float = TERMINAL_M) -> Numbers:
    """d_3D in m between the antennas at horizontal distance d_2D, the base station's at height `base_m`."""
    return np.hypot(distance_m, base_m - terminal_m)


def _positive(name: str, value: Numbers, unit: str) -> np.ndarray:
    values = np.asarray(value, dtype=np.float64)
    require(
        bool(((values > 0) & np.isfinite(values)).all()),
        f"{name} = {value}",
        allowed=f"finite numbers of {unit} > 0",
        remedy=f"give {name} as a positive number of {unit}, or an array of them",
    )
    return values
