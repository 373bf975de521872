"""What befalls the links of a deployment: a trace of the four standards, with one client killed, one cut, one late."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedauto_core.errors import require_number
from fedauto_core.network import Cause, Trace, draw_trace, scenario
from fedauto_core.network.physical import FOUR_STANDARDS
from fedauto_core.network.radio import STANDARDS, Wired, place
from fedauto_core.network.traces import make_trace
from fedauto_core.seeding import stream

WIRED_BPS = 100e6
SLOWED = 60  # the example's model is that much smaller than the payload for which the suite's radio links are drawn
LEAST = 3  # clients: one for each event


class Links(NamedTuple):
    """What is to happen to N clients in T rounds.

    trace: what is to arrive; standard: of each client; bits_per_second: of its uplink, [N]; killed, cut, late: clients,
    from 1; kill, join: rounds, from 0; away: first and last round in which one is cut.
    """

    trace: Trace
    standard: tuple[str, ...]
    bits_per_second: np.ndarray
    killed: int
    kill: int
    cut: int
    away: tuple[int, int]
    late: int
    join: int


def draw_links(clients: int, rounds: int, seed: int) -> Links:
    """Scenario F6 of the suite (a wire, Wi-Fi, LTE and NR in turn, block fading), and three events on top: the last
    client is killed for good in the middle of the run; the one before it joins after a quarter; the first is cut for a
    quarter from the middle on, and comes back.

    A client's rate is the capacity of its own place without fading, an equal share of the band, over `SLOWED`.

    Raises
    ------
    InputError : for fewer than three clients, fewer than two rounds, or a seed below zero
    """
    require_number("clients", clients, low=LEAST, strict=False, whole=True, remedy="one for each of the three events")
    require_number("rounds", rounds, low=2, strict=False, whole=True)
    require_number("seed", seed, strict=False, whole=True)
    unlabelled = np.ones((clients, 1))  # no failure here depends on the labels
    drawn = draw_trace(scenario("F6", rounds), rounds=rounds, histograms=unlabelled, seed=seed)
    places = place(stream(seed, "trace"), clients, FOUR_STANDARDS)  # as the trace draws them first
    kill, join, spell = rounds // 2, max(1, rounds // 4), max(1, rounds // 4)
    killed, late, cut = clients, clients - 1, 1
    away = (rounds // 2, rounds // 2 + spell - 1)
    arrived, cause = drawn.arrived.copy(), drawn.cause.copy()
    for client, lost, why in (
        (killed, slice(kill, None), Cause.AWAY),
        (late, slice(0, join), Cause.AWAY),
        (cut, slice(away[0], away[1] + 1), Cause.LONG),
    ):
        arrived[lost, client - 1], cause[lost, client - 1] = False, why
    rate = arrived.mean(axis=0)
    trace = make_trace(arrived, cause, np.broadcast_to(rate, arrived.shape).copy(), rate)
    loss = np.exp(places.loss(places.shadow))
    rates = [_capacity(name, places.kappa[k] * loss[k], places.standard) for k, name in enumerate(places.standard)]
    return Links(trace, places.standard, np.array(rates) / SLOWED, killed, kill, cut, away, late, join)


def _capacity(standard: str, kappa: float, standards: tuple[str, ...]) -> float:
    link = STANDARDS[standard]
    if isinstance(link, Wired):
        return WIRED_BPS
    share = link.bandwidth_hz / standards.count(standard)
    return share * float(np.log2(1 + 1 / (kappa * share)))
