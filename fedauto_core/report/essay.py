"""What came out, in some 150 words computed from the CSV files of a report: who wins, by how much, where, and why."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from fedauto_core.network.suite import SCENARIOS, SUITE

from .evidence import Row
from .ledger import MARKED, Ledger, chosen
from .verdicts import PAPER

WORDS = 150
NEEDED = ("scenario", "rival", "mean", "decides_low", "decides_high", "counts", "settled", "standing")
AHEAD, BEHIND = (["won", "won, uncorrected"], ["lost", "lost, uncorrected"])
PLAIN = "fedavg"  # plain averaging
MAIN = "C2"  # the claim whose comparisons are told first
REASONS = {
    "accuracy under F0": "how good it is without failures",
    "server samples": "how many of the server's samples it uses",
    "mixture distance": "how far the label mixture of its average is from the target",
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
            found[key] = Contest(ledger, *key, row.verdict.claim, frame[frame["counts"].eq(True)])
    return sorted(found.values(), key=lambda one: (one.claim != MAIN, one.claim, -len(one.rows), one.page))


def essay(ledger: Ledger, rows: Sequence[Row]) -> str:
    """Markdown with cited numbers: as many of the sentences, in their order, as make `WORDS` words."""
    held, said = contests(ledger, rows), []
    sentences = [_together(ledger), *_where(held), *_limits(held), *_others(held), *_stack(ledger, rows)]
    for sentence in [*sentences, _theorem(ledger, rows)]:
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
        f"Failures and label skew together cost plain averaging {at['both']} points of accuracy; failures alone cost "
        f"{at['failures']}, skew alone {at['skew']}."
    )


def best(one: Contest) -> str:
    """The scenario in which the median lead over the rivals is largest."""
    return str(one.rows.groupby("scenario")["mean"].median().idxmax())


def _where(held: Sequence[Contest]) -> Iterator[str]:
    """Where FedAuto gains most, by how much, what decides there, and who comes closest."""
    if not held:
        return
    main = (one for one in held if one.claim == held[0].claim)
    one = max(main, key=lambda each: each.rows.groupby("scenario")["mean"].median().max())
    name = best(one)
    here = one.rows[one.rows["scenario"] == name].sort_values("mean")
    rivals = f"{one.count(scenario=name, standing=AHEAD)} of {one.count(scenario=name)} rivals"
    text = f"FedAuto does best in {fails(name)} on `{one.page}`: ahead of {rivals}"
    plain = here.index[here["rival"] == PLAIN]
    if len(plain):
        text += f", of plain averaging by {one.cell(plain[0], 'mean', 'points')} points"
    most, least = here.index[-1], here.index[0]
    yield f"{text}, at most by {one.cell(most, 'mean', 'points')} (`{here.at[most, 'rival']}`)."
    yield _reason(one, name)
    yield (
        f"Closest comes `{here.at[least, 'rival']}` ({one.cell(least, 'mean', 'signed points')}, "
        f"{here.at[least, 'standing']})."
    )


def _reason(one: Contest, name: str) -> str:
    place = one.page, "reasons.csv"
    frame = one.ledger.frame(*place, ("scenario", *REASONS))
    here = None if frame is None else frame.loc[frame["scenario"] == name, [*REASONS]].dropna(axis=1)
    if here is None or here.empty:
        return ""
    column = here.iloc[0].abs().idxmax()
    number = one.ledger.cell(*place, here.index[0], column, "two decimals")
    return f"A rule's accuracy there goes, above all, with {REASONS[column]} (rank correlation {number})."


def _limits(held: Sequence[Contest]) -> Iterator[str]:
    """Who is ahead of FedAuto in the claim that is told first."""
    main = [one for one in held if one.claim == held[0].claim]
    for one in main:
        lost = one.rows[one.rows["settled"] & (one.rows["standing"] == "lost")].sort_values("mean")
        if len(lost):
            row, settled = lost.index[0], one.count(settled=True)
            where = fails(lost.at[row, "scenario"])
            yield (
                f"After the correction it is behind in {one.count(settled=True, standing='lost')} of {settled} settled "
                f"comparisons, most behind `{lost.at[row, 'rival']}` in {where}, "
                f"{one.cell(row, 'mean', 'signed points')} points."
            )
    if main and not any((one.rows["settled"] & (one.rows["standing"] == "lost")).any() for one in main):
        yield "No rival is ahead of it after the correction."


def _others(held: Sequence[Contest]) -> Iterator[str]:
    where = {"C3": "With LoRA", "C4": "On optimised radios"}
    for one in held:
        if one.claim in where and one.claim != held[0].claim:
            counted = f"ahead in {one.count(standing=AHEAD)} of {one.count()}, behind in {one.count(standing=BEHIND)}"
            yield f"{where[one.claim]} it is {counted} ({one.count(settled=False)} unsettled)."


def _stack(ledger: Ledger, rows: Sequence[Row]) -> Iterator[str]:
    """What the lines in an unmodified stack buy."""
    for row in rows:
        if row.verdict.claim == "C8" and row.verdict.mark == "Re":
            place = row.notebook, "verdicts.json", verdict_row(ledger, row)
            lines = ledger.quoted(*place, "statement", part=lambda text: text.partition(":")[0])
            yield f"In Flower, with {lines}, it leads plain averaging by {ledger.cell(*place, 'effect', 'points')}."


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
