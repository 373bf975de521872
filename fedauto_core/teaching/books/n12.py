"""Exercises of notebook 12: outages, what a shorter window costs, equal outages, and what accuracy follows."""

import numpy as np
import pandas as pd
from scipy import stats

from fedauto_core.network.base import Scenario, draw_trace
from fedauto_core.network.radio.allocation import allocate
from fedauto_core.teaching.exercises import Book, Exercise, choice_is, number_is
from fedauto_core.teaching.judges import formula_is, function_is

STANDARDS = ("wired", "wifi", "lte", "nr_umi")
USERS = pd.DataFrame(
    {
        "standard": ["wifi", "wifi", "lte", "lte", "wifi", "lte"],
        "allocation": ["equal"] * 4 + ["min_max"] * 2,
        "outage": [0.1, 0.3, 0.5, 0.2, 0.9, 0.4],
    }
)
PLACES = [(where, share) for where in ("F6", "F8") for share in ("equal", "min_max")]
MIXTURE = pd.Series(
    [0.05, 0.12, 0.04, 0.17], index=pd.MultiIndex.from_tuples(PLACES, names=["scenario", "allocation"]), name="chi2"
)
RUNS = pd.DataFrame(PLACES, columns=MIXTURE.index.names).assign(points=[80.0, 78.0, 79.5, 77.0])


def at_half_the_window(payload_bits: float, window_s: float, clients: int) -> float:
    """Mean outage of seed 0's clients in equal shares: twice the payload needs the rate that half the time needs."""
    options = {"payload_bits": 2 * payload_bits, "window_s": window_s, "standards": STANDARDS, "allocation": "equal"}
    alike = np.full((clients, 2), 0.5)  # the radio does not look at labels
    trace = draw_trace(Scenario("radio", "radio", tuple(options.items())), rounds=1, histograms=alike, seed=0)
    return float(1 - trace.long_run_probability.mean())


def joined(mixture: pd.Series, runs: pd.DataFrame) -> pd.DataFrame:
    """Distance of the mixture and mean final accuracy of each scenario and allocation."""
    return mixture.rename("chi2").to_frame().join(runs.groupby(["scenario", "allocation"])["points"].mean())


def equal_outage(kappa: np.ndarray, rate: float, bandwidth: float) -> np.ndarray:
    """The core's *min_max* for clients that all need one rate."""
    return allocate("min_max", kappa, np.full(len(kappa), rate), bandwidth)


def draw_band(rng: np.random.Generator) -> tuple[np.ndarray, float, float]:
    """kappa [n] in 1/Hz over two decades, a rate in bit/s and a bandwidth in Hz."""
    n = int(rng.integers(2, 7))
    return 1e-8 * 10 ** rng.uniform(0, 2, n), 2e6 * rng.uniform(0.5, 2), 1e6 * n * rng.uniform(0.5, 2)


book = Book(
    Exercise(
        "12.1",
        1,
        5,
        **choice_is(
            right=lambda users: users[users["allocation"] == "equal"].groupby("standard")["outage"].mean().idxmax(),
            among=lambda users: set(users["standard"]),
            hint="Look at equal shares alone, and at the mean over the clients of a standard, not at its worst client.",
        ),
        pitfalls="The largest outage of a single client is read, or another allocation than equal shares.",
        example={"users": USERS},
    ),
    Exercise(
        "12.2",
        2,
        15,
        **number_is(
            right=at_half_the_window,
            hint="Every client must send the same payload in half the time; the places and bands stay as they are.",
            also_wrong=lambda payload_bits, window_s, clients: [
                at_half_the_window(payload_bits / 2, window_s, clients),
                at_half_the_window(payload_bits / 4, window_s, clients),
                2 * at_half_the_window(payload_bits / 2, window_s, clients),
            ],
        ),
        pitfalls="The outage is doubled; it is the rate that doubles, and the power needed grows exponentially.",
        example={"payload_bits": 9.4e6, "window_s": 0.6, "clients": 8},
    ),
    Exercise(
        "12.3",
        3,
        15,
        **formula_is(
            vanishes=lambda answer, x: answer - (2 ** (2 * x) - 1) / (2**x - 1),
            symbols="x",
            hint="It differs. Take the ratio at 2x and x, and factor the numerator as a difference of two squares.",
            wrong=["2", "2**x", "2**(2*x)", "2**x - 1"],
        ),
        pitfalls="The minus one is forgotten, so that the ratio looks like a power of two.",
    ),
    Exercise(
        "12.4",
        3,
        30,
        **function_is(
            right=equal_outage,
            case=draw_band,
            expects="a function of (kappa, rate, bandwidth) that returns the shares in Hz, one for each client",
            hint="On some bands it differs. Two things to check: the shares add up to the bandwidth, and "
            "kappa b (2^(R/b) - 1) is the same for all clients.",
            wrong=[
                lambda kappa, rate, bandwidth: np.full(len(kappa), bandwidth / len(kappa)),
                lambda kappa, rate, bandwidth: bandwidth * kappa / kappa.sum(),
                lambda kappa, rate, bandwidth: bandwidth / kappa / (1 / kappa).sum(),
            ],
        ),
        pitfalls="Bandwidth is shared in proportion to kappa; but the outage is not inverse to the share.",
    ),
    Exercise(
        "12.5",
        2,
        15,
        **number_is(
            right=lambda mixture, runs: float(stats.spearmanr(joined(mixture, runs)).statistic),
            hint="Rank both columns, then take the correlation of the ranks. Mind the sign.",
            also_wrong=lambda mixture, runs: [float(joined(mixture, runs).corr().iloc[0, 1])],
        ),
        pitfalls="The correlation of the values is taken instead of that of their ranks.",
        example={"mixture": MIXTURE, "runs": RUNS},
    ),
)
check = book.check
