"""What came out, in some 150 words computed from the CSV files of a report: who wins, by how much, where, and why."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from fedauto_core.network.suite import SCENARIOS, SUITE

from .contests import PLAIN
from .evidence import WHAT, Row, claim_marks, deciding
from .ledger import MARKED, Ledger, chosen
from .verdicts import PAPER

WORDS = 150
NEEDED = ("scenario", "rival", "mean", "decides_low", "decides_high", "counts", "settled", "standing")
AHEAD, BEHIND = (["won", "won, uncorrected"], ["lost", "lost, uncorrected"])
MAIN = "C2"  # the claim whose comparisons are told first
REASONS = {
    "accuracy under F0": "how good a rule is without failures",
    "server samples": "how many of the server's samples a rule uses",
    "mixture distance": "a rule's distance from the target mixture",
}
"""Column of reasons.csv of notebook 10 -> what it measures about each rule."""


@dataclass(frozen=True)
class Contest:
    """FedAuto against its rivals on a page, as far as a claim rests on it. rows: of `file`, by their numbers there."""

    ledger: Ledger
    page: str
    file: str
    claim: str
    rows: pd.DataFrame

    def cell(self, row: int, column: str, look: str) -> str:
        """A number of the file, cited."""
        return self.ledger.cell(self.page, self.file, row, column, look)

    def count(self, **where: object) -> str:
        """How many comparisons that count are so, cited."""
        return self.ledger.of(self.page, self.file, {"counts": True} | where, "rival", "count")


def contests(ledger: Ledger, rows: Sequence[Row]) -> list[Contest]:
    """The files with comparisons that verdicts on claims rest on, those of the main claim first, the longest first."""
    found = {}
    for row in rows:
        key = (row.notebook, f"{row.verdict.evidence}.csv")
        frame = ledger.frame(*key, NEEDED)
        if frame is not None and frame["counts"].eq(True).any() and row.verdict.evidence != PAPER:
            found.setdefault(key, Contest(ledger, *key, row.verdict.claim, frame[frame["counts"].eq(True)]))
    return sorted(found.values(), key=lambda one: (one.claim != MAIN, one.claim, -len(one.rows), one.page))


def essay(ledger: Ledger, rows: Sequence[Row]) -> str:
    """Markdown with cited numbers: as many of the sentences, in their order, as make `WORDS` words."""
    held, said = contests(ledger, rows), []
    sentences = [_together(ledger), *_where(held), *_limits(held), *_others(held), _stack(ledger, rows)]
    for sentence in [*sentences, *_reason(held), _theorem(ledger, rows)]:
        if sentence and len(f"{' '.join(said)} {sentence}".split()) <= WORDS:
            said.append(sentence)
    return " ".join(said) or "No verdict of this report speaks to the paper's claims."


def bare(text: str) -> str:
    """Text without the marks of its cited numbers."""
    return MARKED.sub(r"\2", text)


def fails(scenario: str) -> str:
    """A scenario with what fails in it, where that is known; without its numbers, which are nobody's result."""
    clauses = (SCENARIOS | SUITE).get(scenario, "").split(", ")
    words = ", ".join(clause for clause in clauses if not re.search(r"\d", clause))
    return f"{scenario} ({words})" if words else scenario


def _together(ledger: Ledger) -> str:
    place = "02_problem", "losses.csv"
    frame = ledger.frame(*place, ("failures", "mode", "loss", "points"))
    if frame is None or frame.empty:
        return ""
    first = chosen(frame, {"failures": frame["failures"].iloc[0], "mode": frame["mode"].iloc[0]})
    if not {"both", "failures", "skew"} <= {*first["loss"]}:
        return ""
    at = {loss: ledger.cell(*place, row, "points", "points") for row, loss in first["loss"].items()}
    return (
        f"Failures and label skew together cost plain averaging {at['both']} points; alone {at['failures']} and "
        f"{at['skew']}."
    )


def best(one: Contest) -> str:
    """The scenario in which the median lead over the rivals is largest."""
    return str(one.rows.groupby("scenario")["mean"].median().idxmax())


def _told_first(held: Sequence[Contest]) -> list[Contest]:
    return [one for one in held if one.claim == held[0].claim]


def _best_page(held: Sequence[Contest]) -> Contest:
    """The contest with the scenario in which FedAuto gains most."""
    return max(_told_first(held), key=lambda one: one.rows.groupby("scenario")["mean"].median().max())


def _where(held: Sequence[Contest]) -> Iterator[str]:
    """Where FedAuto gains most, and by how much: against plain averaging, the hardest rival, and the easiest."""
    if not held:
        return
    one = _best_page(held)
    name = best(one)
    here = one.rows[one.rows["scenario"] == name].sort_values("mean")
    early = f" ({one.count(scenario=name, settled=False)} unsettled)" if not here["settled"].all() else ""
    yield (
        f"FedAuto does best in {fails(name)} on `{one.page}`: ahead of {one.count(scenario=name, standing=AHEAD)} of "
        f"{one.count(scenario=name)} rivals{early}."
    )
    plain, least, most = here.index[here["rival"] == PLAIN], here.index[0], here.index[-1]
    over = "".join(f", {one.cell(row, 'mean', 'signed points')} over plain averaging" for row in plain)
    yield (
        f"Its lead there is {one.cell(least, 'mean', 'signed points')} (`{here.at[least, 'rival']}`, "
        f"{here.at[least, 'standing']}) to {one.cell(most, 'mean', 'signed points')} points "
        f"(`{here.at[most, 'rival']}`){over}."
    )


def _reason(held: Sequence[Contest]) -> Iterator[str]:
    """What decides where FedAuto gains most."""
    if not held:
        return
    one = _best_page(held)
    name, place = best(one), (one.page, "reasons.csv")
    frame = one.ledger.frame(*place, ("scenario", *REASONS))
    here = None if frame is None else frame.loc[frame["scenario"] == name, [*REASONS]].dropna(axis=1)
    if here is not None and not here.empty:
        column = here.iloc[0].abs().idxmax()
        number = one.ledger.cell(*place, here.index[0], column, "two decimals")
        yield f"Accuracy in {name} goes with {REASONS[column]} (rank correlation {number})."


def _limits(held: Sequence[Contest]) -> Iterator[str]:
    """Who is ahead of FedAuto in the claim that is told first; counted as in `_where`, unsettled ones too."""
    main = _told_first(held)
    for one in main:
        behind = one.rows[one.rows["standing"].isin(BEHIND)]
        if len(behind):
            name = behind["scenario"].mode()[0]
            place = "Overall" if one is _best_page(held) else f"On `{one.page}`"
            row = behind.loc[behind["scenario"] == name, "mean"].idxmin()
            yield (
                f"{place} it is behind in {one.count(standing=BEHIND)} of {one.count()} comparisons "
                f"({one.count(settled=False)} unsettled, behind in {one.count(settled=False, standing=BEHIND)} of "
                f"them), mostly in {fails(name)}: "
                f"{one.count(scenario=name, standing=BEHIND)} of {one.count(scenario=name)}, "
                f"{one.cell(row, 'mean', 'signed points')} points to `{behind.at[row, 'rival']}`."
            )
    settled = [standing for one in main for standing in one.rows.loc[one.rows["settled"], "standing"]]
    if settled and not {*settled} & {*BEHIND}:
        yield "No rival is ahead of it in a settled comparison."


def _others(held: Sequence[Contest]) -> Iterator[str]:
    where = {"C3": "With LoRA", "C4": "On radios"}
    for one in held:
        if one.claim in where and one.claim != held[0].claim:
            counted = f"ahead in {one.count(standing=AHEAD)} of {one.count()}, behind in {one.count(standing=BEHIND)}"
            yield f"{where[one.claim]}: {counted} ({one.count(settled=False)} unsettled)."


def _stack(ledger: Ledger, rows: Sequence[Row]) -> str:
    """What the lines in an unmodified stack buy; the verdict that decides the claim comes first."""
    mine = [row for row in rows if row.verdict.claim == "C8" and row.verdict.evidence != PAPER]
    if not mine:
        return ""
    first = deciding(claim_marks(mine)["C8"], mine)
    said = []
    for row in (first, *(row for row in mine if row is not first)):
        place = row.notebook, "verdicts.json", verdict_row(ledger, row)
        lines = ledger.quoted(*place, "statement", part=lambda text: text.partition(":")[0])
        unit = " points" if row is first else ""
        said.append(f"{ledger.cell(*place, 'effect', 'signed points')}{unit} with {lines}")
    said[0] += f" ({WHAT[f'[{first.verdict.mark}]']})"
    return f"In Flower it leads plain averaging by {'; '.join(said)}."


def _theorem(ledger: Ledger, rows: Sequence[Row]) -> str:
    pages = [row.notebook for row in rows if (row.verdict.claim, row.verdict.evidence) == ("C6", "ladder")]
    if not pages or ledger.frame(pages[0], "ladder.csv", ["violated", "tried"]) is None:
        return ""
    violated, tried = (ledger.of(pages[0], "ladder.csv", {}, what, "sum") for what in ("violated", "tried"))
    return f"Our own theorem was violated in {violated} of {tried} checks."


def verdict_row(ledger: Ledger, row: Row) -> int:
    """The number of a verdict's entry in its page's verdicts.json."""
    frame = ledger.frame(row.notebook, "verdicts.json")
    same = {"claim": row.verdict.claim, "evidence": row.verdict.evidence, "statement": row.verdict.statement}
    return int(chosen(frame, same).index[0])
