"""The same runs read at equal rounds, equal work, equal traffic: differences where both sides have spent the same."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from .claims import interval

RUN = ["scenario", "label", "seed"]


def leads_at_equal(curves: pd.DataFrame, spent: pd.DataFrame, method: str) -> pd.DataFrame:
    """`method` minus each other label where both have spent the same, in every run, in points.

    Parameters
    ----------
    curves : of a `Result`
    spent : columns scenario, label, seed, round, spent: what a run has used up to and with that round, never falling

    Returns
    -------
    DataFrame : columns scenario, rival, seed, budget (what the one that spends less used in the whole run), lead; the
        accuracies lie on the straight line between two evaluations. NaN where one side had spent more than the budget
        before its first evaluation
    """
    runs = curves.merge(spent, on=[*RUN, "round"]).sort_values("round")
    paths = {key: (run["spent"].to_numpy(), 100 * run["accuracy"].to_numpy()) for key, run in runs.groupby(RUN)}
    rows = []
    for (scenario, rival, seed), theirs in paths.items():
        if rival != method:
            mine = paths[scenario, method, seed]
            budget = min(mine[0][-1], theirs[0][-1])
            own, other = (float(np.interp(budget, *path, left=np.nan)) for path in (mine, theirs))
            rows.append({"scenario": scenario, "rival": rival, "seed": seed, "budget": budget, "lead": own - other})
    return pd.DataFrame(rows)


def views(
    curves: pd.DataFrame, rounds: pd.DataFrame, costs: Iterable[str], method: str, rivals: Mapping[str, str]
) -> pd.DataFrame:
    """`method` minus each rival at equal budgets of several kinds: one row per rival, the mean over the scenarios of
    `rounds`, paired by seed.

    rounds: of a `Result`, with the columns `costs` (what each round costs); rivals: label -> contest. For each cost its
    mean per round, the lead at equal spending ("equal ...") and the half-width of its 95 % interval ("± ..."), in
    points; NaN where a run cannot be read there (`leads_at_equal`).
    """
    table = pd.DataFrame({"rival": list(rivals), "contest": list(rivals.values())}).set_index("rival", drop=False)
    for cost in costs:
        used = rounds.assign(spent=rounds.groupby(RUN, sort=False)[cost].cumsum())
        found = leads_at_equal(curves, used[[*RUN, "round", "spent"]], method)
        by_seed = found.pivot_table(
            "lead", "rival", "seed", aggfunc=lambda leads: leads.mean(skipna=False), dropna=False
        )
        readable = by_seed.reindex(list(rivals)).dropna()
        ends = {rival: interval(leads) for rival, leads in readable.iterrows()}
        table[f"{cost} a round"] = rounds.groupby("label")[cost].mean()
        table[f"equal {cost}"] = pd.Series({rival: end.mean for rival, end in ends.items()}, dtype=float)
        table[f"± {cost}"] = pd.Series({rival: (end.high - end.low) / 2 for rival, end in ends.items()}, dtype=float)
    return table.reset_index(drop=True)
