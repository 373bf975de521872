"""Failures that follow from radio links: who is where, what is sent in which time, and how the bands are shared."""

from typing import NamedTuple

import numpy as np

from fedauto_core.errors import require, require_number

from .base import Setting, autoregressive, process
from .radio import STANDARDS, Placement, Wired, allocate, log_threshold, place
from .traces import Cause, Trace, make_trace

FOUR_STANDARDS = ("wired", "wifi", "lte", "nr_umi")
COMPUTE_SPREAD = 0.5  # standard deviation of the logarithm of the computing time; our choice


@process("radio")
def _radio(
    setting: Setting,
    *,
    payload_bits: float,
    window_s: float,
    standards: tuple[str, ...] = FOUR_STANDARDS,
    allocation: str = "equal",
    attempts: int = 1,
    ergodic: bool = False,
    moved_m: float = 0.0,
    compute_s: float = 0.0,
    downlink: float = 0.0,
) -> Trace:
    """Uploads of `payload_bits` over links of `standards`; the trace starts by drawing the places (`radio.place`).

    Block fading, Rician with a line of sight and Rayleigh without; or `ergodic`: the fading averages out, and
    shadowing decides. A client moves `moved_m` metres between rounds, so that its shadowing is an AR(1) with
    coefficient exp(-moved / decorrelation distance); 0: stays what it is. allocation: how each band is shared, decided
    before the first round from the shadowing there (`radio.ALLOCATIONS`). The window of `window_s` seconds begins with
    the computing, log-normal with median `compute_s`; the rest is cut into `attempts` independent tries. downlink:
    probability that the model does not reach the client in the first place.

    Public: shadowing and computing time of the round; not the fading. The long-run rate is the mean of
    success_probability over the T rounds.
    """
    require_number("payload_bits", payload_bits)
    require_number("window_s", window_s)
    require_number("moved_m", moved_m, strict=False)
    require_number("compute_s", compute_s, strict=False)
    require_number("attempts", attempts, low=1, strict=False, whole=True)
    require_number("downlink", downlink, strict=False, high=1)
    require(
        isinstance(ergodic, bool) and not (ergodic and attempts > 1),
        f"ergodic = {ergodic} with {attempts} attempts",
        allowed="true or false; with averaged fading one attempt, as others would fail alike",
        remedy="leave out one of the two",
    )
    require(
        compute_s < window_s,
        f"computing takes {compute_s} s (median) of a window of {window_s} s",
        allowed="less than the window",
        remedy="lengthen the window",
    )
    places = place(setting.rng, setting.shape[1], standards)
    shadow = _shadowing(setting, places, moved_m)
    left_s = np.full((1, 1), window_s)
    if compute_s:
        left_s = window_s - compute_s * np.exp(COMPUTE_SPREAD * setting.rng.normal(size=setting.shape))
    bandwidth = _bandwidths(places, shadow[0], payload_bits * attempts / (window_s - compute_s), allocation)
    upload = _Upload(places, bandwidth, shadow, payload_bits, attempts, ergodic)
    success = np.broadcast_to(upload.success(left_s), setting.shape)
    in_full = upload.success(np.full((1, 1), window_s)) if compute_s else success
    draw, down = setting.rng.random((2, *setting.shape))
    lost = np.where(draw < in_full, Cause.DEADLINE, Cause.TRANSIENT)
    q = (1 - downlink) * success
    cause = np.where(down < downlink, Cause.DOWNLINK, lost)
    return make_trace((draw < success) & (down >= downlink), cause, q, q.mean(axis=0))


def _shadowing(setting: Setting, places: Placement, moved_m: float) -> np.ndarray:
    """Shadowing in standard deviations, [T, N] from that of the placement on, stationary; [1, N] if nobody moves."""
    if moved_m == 0:
        return places.shadow[None]
    memory = np.exp(-moved_m / places.decorrelation_m)
    noise = setting.rng.normal(size=setting.shape) * np.sqrt(1 - memory**2)
    noise[0] = places.shadow
    return np.column_stack([autoregressive(noise[:, k], a) for k, a in enumerate(memory)])


def _bandwidths(places: Placement, shadow: np.ndarray, rate_bps: float, allocation: str) -> np.ndarray:
    """Hz of each client: `allocation` in every band by itself; a wire has none."""
    kappa, bandwidth = places.kappa * np.exp(places.loss(shadow)), np.zeros(len(shadow))
    for standard in dict.fromkeys(places.standard):
        radio = STANDARDS[standard]
        if not isinstance(radio, Wired):
            members = [client for client, name in enumerate(places.standard) if name == standard]
            bandwidth[members] = allocate(allocation, kappa[members], rate_bps, radio.bandwidth_hz)
    return bandwidth


class _Upload(NamedTuple):
    places: Placement
    bandwidth_hz: np.ndarray
    shadow: np.ndarray
    payload_bits: float
    attempts: int
    ergodic: bool

    def success(self, left_s: np.ndarray) -> np.ndarray:
        """Probability of arrival in each round, [T, N] (T = 1 if all are alike), with `left_s` seconds [T or 1, N or 1]
        left; 0 for clients that have no bandwidth."""
        rounds, n_clients = max(len(left_s), len(self.shadow)), len(self.places.standard)
        result, rate = np.zeros((rounds, n_clients)), np.zeros((len(left_s), n_clients))
        rate[:] = self.payload_bits * self.attempts / np.maximum(left_s, 1e-30)  # no time left: no rate is enough
        loss = self.places.loss(self.shadow)
        for fading in set(self.places.fading):
            alike = [k for k in range(n_clients) if self.bandwidth_hz[k] > 0 and self.places.fading[k] == fading]
            kappa, share = self.places.kappa[alike], self.bandwidth_hz[alike]
            if self.ergodic:
                carried = share * fading.efficiency(np.exp(-loss[:, alike]) / (kappa * share))
                result[:, alike] = rate[:, alike] <= carried
            else:
                outage = fading.outage(log_threshold(kappa, rate[:, alike], share) + loss[:, alike])
                result[:, alike] = 1 - outage**self.attempts
        for client, standard in enumerate(self.places.standard):
            link = STANDARDS[standard]
            if isinstance(link, Wired):
                result[:, client] = np.where(left_s[:, client % left_s.shape[1]] > 0, 1 - link.failure, 0.0)
        return result
