"""Exercises of notebook 04: networks."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import rankdata

from fedauto_core.network.radio.links import outage
from fedauto_core.teaching.exercises import Book, Exercise, choice_is, number_is


def _worse(rows: Sequence[Mapping[str, float]]) -> int:
    table = pd.DataFrame(rows)
    return int((table["three attempts"] - table["Rayleigh"]).gt(0).sum())


def _window(payload_mbit: float, window_s: float) -> float:
    """By root finding on the logarithm of the outage, which falls with the window."""
    goal = np.log(outage("lte", 250.0, payload_mbit * 1e6, window_s))
    return brentq(
        lambda seconds: np.log(outage("lte", 250.0, payload_mbit * 1e7, seconds)) - goal, window_s, 1000 * window_s
    )


def _most_left(by_scenario: pd.DataFrame) -> str:
    return max((row["left of it"], row["scenario"]) for _, row in by_scenario.dropna().iterrows())[1]


def _rank_correlation(suite: pd.DataFrame, by_scenario: pd.DataFrame) -> float:
    names = list(suite["name"])
    plain = by_scenario.set_index("scenario")["plain"].loc[names]
    return float(np.corrcoef(rankdata(-suite["arrive"]), rankdata(plain))[0, 1])


def _misread(suite: pd.DataFrame, by_scenario: pd.DataFrame) -> list[float]:
    plain = by_scenario["plain"].to_numpy()
    return [-_rank_correlation(suite, by_scenario), float(np.corrcoef(1 - suite["arrive"], plain)[0, 1])]


def _judge_bursts(answer: Callable[..., np.ndarray]) -> str | None:
    q, burst = 0.7, 5.0
    one = np.asarray(answer(np.random.default_rng(0), 3, 20_000, q, burst))
    if one.shape != (3, 20_000) or one.dtype != bool:
        return f"It returns {one.dtype} of shape {one.shape}; asked is bool of shape (rounds, clients)."
    if abs(one[0].mean() - q) > 0.02:
        return f"In the first round a share {one[0].mean():.2f} of the links is good; step (c) asks for another one."
    arrived = np.asarray(answer(np.random.default_rng(1), 2000, 300, q, burst))
    before, now, then = arrived[:-2], arrived[1:-1], arrived[2:]
    if _largest_correlation(arrived) > 0.3:
        return "Some clients share their fate; step (d) gives each a chain of its own."
    for bad, which in ((~now, "A bad link"), (~now & ~before, "A link that was bad for two rounds")):
        if abs(then[bad].mean() * burst - 1) > 0.1:
            return f"{which} is good in the next round with probability {then[bad].mean():.2f}; look at step (a)."
    if abs(arrived.mean() - q) > 0.02:
        return f"In the long run a share {arrived.mean():.2f} of the uploads arrives; look at step (b)."
    return None


def _largest_correlation(arrived: np.ndarray) -> float:
    """Of two clients [rounds, clients]; a client that never changes is left out."""
    changing = arrived[:, arrived.std(axis=0) > 0]
    return float((np.corrcoef(changing.T) - np.eye(changing.shape[1])).max(initial=0.0))


def _fixed_bursts(rng: np.random.Generator, rounds: int, clients: int, q: float, burst: float) -> np.ndarray:
    """The misconception: all bursts are of the same length, not only of that mean."""
    arrived = np.empty((rounds, clients), dtype=bool)
    left = np.where(rng.random(clients) < q, 0, rng.integers(1, int(burst) + 1, clients))  # rounds still bad
    for t in range(rounds):
        arrived[t] = left == 0
        fails = arrived[t] & (rng.random(clients) < (1 - q) / q / burst)
        left = np.where(fails, int(burst), np.maximum(left - 1, 0))
    return arrived


def _some_processes() -> list[Callable[..., np.ndarray]]:
    """A coin for every round; all start good; the two probabilities swapped; one chain for all, for two neighbours,
    for ten; bursts of one length; clients for rounds."""

    def chain(rng, rounds, clients, fail, recover, start):
        arrived = np.empty((rounds, clients), dtype=bool)
        good = rng.random(clients) < start
        for t in range(rounds):
            arrived[t] = good
            good = rng.random(clients) < np.where(good, 1 - fail, recover)
        return arrived

    def shared(chains: Callable[[np.ndarray], np.ndarray]) -> Callable[..., np.ndarray]:
        """chains: the chain of each of the clients [clients]."""
        return lambda rng, rounds, clients, q, burst: chain(rng, rounds, clients, (1 - q) / q / burst, 1 / burst, q)[
            :, chains(np.arange(clients))
        ]

    return [
        lambda rng, rounds, clients, q, burst: rng.random((rounds, clients)) < q,
        lambda rng, rounds, clients, q, burst: chain(rng, rounds, clients, (1 - q) / q / burst, 1 / burst, 1.0),
        lambda rng, rounds, clients, q, burst: chain(rng, rounds, clients, 1 / burst, (1 - q) / q / burst, q),
        shared(lambda client: 0 * client),
        shared(lambda client: client // 2),
        shared(lambda client: client // 10),
        _fixed_bursts,
        lambda rng, rounds, clients, q, burst: chain(rng, clients, rounds, (1 - q) / q / burst, 1 / burst, q),
    ]


ROWS = [{"Rayleigh": 0.1, "three attempts": 0.02}, {"Rayleigh": 0.4, "three attempts": 0.9}]
SUITE = pd.DataFrame({"name": ["F0", "F1", "F9", "F10"], "arrive": [1.0, 0.5, 0.67, 0.51]})
LEFT = pd.DataFrame(
    {"scenario": ["F0", "F1", "F9", "F10"], "plain": [0, 0.15, 0.17, 0.42], "left of it": [np.nan, 0.11, 0.1, 0.04]}
)

book = Book(
    Exercise(
        number="04.1",
        grade=1,
        minutes=5,
        **number_is(
            right=_worse,
            hint="Count the rows in which the entry under three attempts is larger than that under Rayleigh.",
            also_wrong=lambda rows: [len(rows), len(rows) + 0.5],
        ),
        pitfalls="Comparing with the column that averages over shadowing, which the three attempts leave out.",
        example={"rows": ROWS},
    ),
    Exercise(
        number="04.2",
        grade=2,
        minutes=10,
        **number_is(
            right=_window,
            hint="The outage depends on R, the rate that the upload needs. How do you keep R with the larger payload?",
            also_wrong=lambda payload_mbit, window_s: [window_s, window_s * np.log2(10)],
        ),
        pitfalls="Looking for a logarithm: the rate stands in an exponent, but it is the same rate on both sides.",
        example={"payload_mbit": 9.4, "window_s": 0.6},
    ),
    Exercise(
        number="04.3",
        grade=1,
        minutes=5,
        **choice_is(
            right=_most_left,
            among=lambda by_scenario: list(by_scenario.dropna()["scenario"]),
            hint="In another scenario a larger part is left. The distance itself is another column.",
        ),
        pitfalls="Reading the largest distance instead of the largest part of it.",
        example={"by_scenario": LEFT},
    ),
    Exercise(
        number="04.4",
        grade=2,
        minutes=10,
        **number_is(
            right=_rank_correlation,
            hint="Correlate ranks, not values, and the share that is lost, not the share that arrives.",
            also_wrong=_misread,
        ),
        pitfalls="The sign (arrived instead of lost), or the usual correlation, which large values dominate.",
        example={"suite": SUITE, "by_scenario": LEFT},
    ),
    Exercise(
        number="04.5",
        grade=3,
        minutes=20,
        judge=_judge_bursts,
        expects="a function of (rng, rounds, clients, q, burst) that returns bool [rounds, clients]",
        wrong=_some_processes,
        pitfalls="All links start good, so that early rounds lose too little, or the two probabilities are swapped.",
    ),
)
check = book.check
