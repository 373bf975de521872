"""The verdicts of the first reference run beside those of today's report.

`first_verdicts.csv` holds them as they stood: each rival's step size and knob tuned by itself on two seeds, a constant
step size, 8 to 30 rounds, all rivals in one pot, and one correction within each scenario.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from .verdicts import Verdict, combine_marks, describe, speaking_to

FIRST = Path(__file__).parent / "first_verdicts.csv"


def then_and_now(found: Mapping[str, Iterable[Verdict]]) -> pd.DataFrame:
    """One row per page of the first reference that judged C2 to C4: its mark and where it lost, today's mark, and what
    decides today; found: of `verdicts.report_verdicts`."""
    rows = []
    for (claim, page), first in pd.read_csv(FIRST).groupby(["claim", "page"], sort=False):
        lost = [f"{row.scenario} ({row.closest})" for row in first[first["mark"] == "¬Re"].itertuples()]
        now = speaking_to(claim, found.get(page, ()))
        rows.append(
            {
                "claim": claim,
                "page": page,
                "first": f"[{combine_marks(first['mark'])}]",
                "after rounds": first["rounds"].iloc[0],
                "lost then in (to)": ", ".join(lost) or "none",
                "now": f"[{combine_marks(v.mark for v in now)}]" if now else "not in this report",
                "decided by": "; ".join(f"[{v.mark}] {v.statement.rpartition('; ')[2]}: {describe(v)}" for v in now),
            }
        )
    return pd.DataFrame(rows)
