"""The passages of the replication article that are computed: Markdown in which every number is cited."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from .checklist import Check
from .essay import AHEAD, BEHIND, Contest, contests, essay, fails, verdict_row
from .evidence import WHAT, Row, Status, claim_marks, deciding
from .findings import beyond
from .ledger import Ledger, between, chosen, plain_text, table
from .site import Site
from .verdicts import CLAIMS, LEGEND, TESTED_BY, subject

FOLDER = "article"
SETTINGS = {
    "dataset": "data",
    "model": "model",
    "source": "pre-trained on",
    "clients": "clients",
    "samples": "samples of each",
    "server_samples": "server's samples",
    "skew": "classes of a client",
    "rounds": "rounds",
    "seeds": "seeds",
}
"""Parameter of a notebook -> what the article calls it."""
STANDINGS: Mapping[str, Mapping[str, object]] = {
    "rivals": {},
    "ahead": {"standing": AHEAD},
    "equivalent": {"standing": "equivalent"},
    "behind": {"standing": BEHIND},
    "unsettled": {"settled": False},
}
"""Column of the table by scenario -> the comparisons that it counts."""


@dataclass(frozen=True)
class Passages:
    """What the template article.md asks for: passages of Markdown with cited numbers. `ledger` fills as they are
    made."""

    site: Site
    rows: Sequence[Row]
    statuses: Sequence[Status]
    ledger: Ledger

    @cached_property
    def marks(self) -> Mapping[str, str]:
        """Claim -> mark."""
        return claim_marks(self.rows)

    @property
    def tested(self) -> list[str]:
        """The claims with a verdict."""
        return [claim for claim in CLAIMS if any(row.verdict.claim == claim for row in self.rows)]

    @property
    def legend(self) -> str:
        """What the marks mean."""
        return plain_text(LEGEND)

    def says(self, claim: str) -> str:
        """A claim in words."""
        return CLAIMS[claim]

    def essay(self) -> str:
        """What came out."""
        return essay(self.ledger, self.rows)

    def coverage(self) -> str:
        """Which notebooks it rests on, and which are missing."""
        missing: dict[str, list[str]] = {}
        for status in self.statuses:
            if status.name not in self._shown:
                missing.setdefault(status.state, []).append(f"`{status.name}`")
        absent = [f"Missing here ({state}): {', '.join(names)}." for state, names in missing.items()]
        pages = self._of("times.csv", {"page": True}, "notebook", "count")
        return " ".join([f"It was written by code from {pages} pages of the profile `{self.site.profile}`.", *absent])

    def claims(self) -> str:
        """The claims and what tests them."""
        rows = [(c, text, ", ".join(f"`{name}`" for name in TESTED_BY[c])) for c, text in CLAIMS.items()]
        return table(["claim", "the paper says", "tested by"], rows)

    def runs(self) -> str:
        """The settings of every notebook that trains for a claim."""
        lines = []
        for name in dict.fromkeys(row.notebook for row in self.rows):
            frame = self.ledger.frame(name, "manifest.json", ["parameters.dataset"])
            if frame is not None:
                lines.append((linked(name), *(self._setting(name, frame, key) for key in SETTINGS)))
        return table(["page", *SETTINGS.values()], lines) if lines else "No notebook that trains was run."

    def _setting(self, page: str, frame: pd.DataFrame, key: str) -> str:
        column = f"parameters.{key}"
        if column not in frame.columns:
            return "–"
        value = frame.loc[1, column]
        return f"`{value}`" if isinstance(value, str) else self.ledger.cell(page, "manifest.json", 1, column)

    def rivals(self) -> str:
        """Every rule that is compared, with its source."""
        columns = ["label", "contest", "source", "network knowledge", "public data"]
        return self._listing("methods.csv", columns, ["rule", "family", "source", "knows the network", "public data"])

    def failures(self) -> str:
        """The failure processes, as measured on a trace."""
        columns = ["scenario", "failures", "mean arrival rate", "lowest arrival rate", "longest gap"]
        return self._listing("scenarios.csv", [*columns, "rounds without some class"])

    def tuning(self) -> str:
        """How step sizes and knobs were chosen, and which."""
        columns = ["label", "lr", "knob", "value", "points"]
        page = self._longest("tuning.csv", [*columns, "on_edge"])
        if page is None or self.ledger.frame(page, "manifest.json", ["parameters.lrs"]) is None:
            return "No tuning in this report."
        grid = self.ledger.quoted(page, "manifest.json", 1, "parameters.lrs")
        seeds, rounds = (
            self.ledger.cell(page, "manifest.json", 1, f"parameters.tuning_{what}") for what in ("seeds", "rounds")
        )
        edge = self.ledger.of(page, "tuning.csv", {}, "on_edge", "count")
        every = self.ledger.of(page, "tuning.csv", {}, "label", "count")
        return (
            f"On `{page}` the step sizes {grid}, and one more where the best was at an end, and the knobs of every "
            f"rule were tried on {seeds} tuning seeds for {rounds} rounds; {edge} of {every} rules ended at the edge "
            "of a grid. " + self._listing("tuning.csv", columns, ["rule", "step size", "knob", "value", "accuracy"])
        )

    def computing(self) -> str:
        """The time that all takes."""
        total = self._of("times.csv", {}, "seconds fresh", "sum", "minutes of seconds")
        known, every = (self._of("times.csv", {}, column, "count") for column in ("seconds fresh", "notebook"))
        devices = sorted({str(value) for name in self._shown for value in self._device(name)})
        on = f" on {' and '.join(devices)}" if devices else ""
        return f"Computed afresh{on}, the {known} of {every} notebooks whose time is known take {total} minutes."

    def _device(self, name: str) -> list[object]:
        frame = self.ledger.frame(name, "manifest.json", ["parameters.device"])
        return [] if frame is None else [*frame["parameters.device"]]

    def times(self) -> str:
        """Machine, time and memory of every notebook."""
        machine = ""
        for name in self._shown:
            if self.ledger.frame(name, "manifest.json", ["machine.processor"]) is not None:
                at = name, "manifest.json", 1
                cores, memory = self.ledger.cell(*at, "machine.cores"), self.ledger.cell(*at, "machine.memory_gib")
                processor = self.ledger.frame(name, "manifest.json").loc[1, "machine.processor"]
                machine = f" `{name}` was run on `{processor}`, {cores} cores, {memory} GiB of memory."
                break
        frame = self.ledger.frame(FOLDER, "times.csv")
        lines = [
            (linked(line.notebook), *(self._time(row, what) for what in ("seconds fresh", "peak MiB")))
            for row, line in frame[frame["page"]].iterrows()
        ]
        return f"{self.computing()}{machine}\n\n{table(['notebook', 'seconds', 'MiB'], lines)}"

    def _time(self, row: int, column: str) -> str:
        known = self.ledger.frame(FOLDER, "times.csv").loc[row, column]
        return "–" if math.isnan(known) else self.ledger.cell(FOLDER, "times.csv", row, column, "whole")

    def overview(self) -> str:
        """A row per claim: the verdict that decides it."""
        lines = []
        for claim, mark in self.marks.items():
            mine = [row for row in self.rows if row.verdict.claim == claim]
            if mine:
                row = deciding(mark, mine)
                lines.append((claim, mark, WHAT[mark], *self._effect(row), linked(row.notebook)))
            else:
                lines.append((claim, mark, "not tested in this report", "–", "–", "–", "–", "–"))
        return table(["claim", "mark", "reading", "effect", "interval", "unit", "seeds", "page"], lines)

    def result(self, claim: str) -> str:
        """A claim's mark, what decides it, its verdicts, and its comparisons scenario by scenario."""
        mark, mine = self.marks[claim], [row for row in self.rows if row.verdict.claim == claim]
        missing = [f"`{name}`" for name in TESTED_BY[claim] if name not in self._shown]
        parts = [f"**{mark}** {WHAT[mark]}."]
        if mark != "–":  # values of the paper alone decide nothing
            row = deciding(mark, mine)
            parts[0] += f" Decided by: {self.ledger.quoted(*self._entry(row), 'statement')} (`{row.notebook}`)."
        parts += [f"Not run: {', '.join(missing)}."] if missing else []
        heads = ["verdict", "mark", "effect", "interval", "unit", "seeds", "page"]
        lines = [(self._subject(r), f"[{r.verdict.mark}]", *self._effect(r), linked(r.notebook)) for r in mine]
        parts.append(table(heads, lines))
        for one in (one for one in self._contests if one.claim == claim):
            parts.append(
                f"By scenario on `{one.page}`, in points, with the interval that decides:\n\n{by_scenario(one)}"
            )
        return "\n\n".join(parts)

    def figure(self) -> str:
        """The figure of the first contest that has one, with its caption."""
        for one in self._contests:
            slug = one.file.removesuffix(".csv")
            frame = self.ledger.frame(one.page, "products.json", ["slug", "kind", "caption"])
            at = [] if frame is None else chosen(frame, {"slug": slug, "kind": "figure"}).index
            if len(at) and (self.site.out / one.page / f"{slug}.png").is_file():
                caption = self.ledger.quoted(one.page, "products.json", at[0], "caption")
                return f"![{slug}](../{one.page}/{slug}.png)\n\n*{slug}*, `{one.page}`. {caption}"
        return "No comparison with a figure in this report."

    def beyond(self) -> str:
        """What was found that the paper does not ask."""
        return beyond(self.ledger, self._shown)

    def lines(self) -> str:
        """The lines that FedAuto takes in Flower."""
        place = "16_plug_and_play", "lines.csv"
        if self.ledger.frame(*place, ["where"]) is None:
            return ""
        server, client = (
            self.ledger.of(*place, {"where": where}, "where", "count") for where in ("server", "client, optional")
        )
        return f"In Flower it takes {server} lines at the server, and {client} at a client that tells its labels."

    def cost(self) -> str:
        """The server's time beside that of plain averaging."""
        place = "14_cost", "fedauto.csv"
        if self.ledger.frame(*place, ["ratio"]) is None:
            return ""
        low, high = (self.ledger.of(*place, {}, "ratio", how, "points") for how in ("min", "max"))
        return f"The server's part of a round takes {low} to {high} times as long as that of plain averaging."

    def unsettled(self) -> str:
        """How many comparisons longer runs might still change."""
        said = [f"{one.count(settled=False)} of {one.count()} on `{one.page}`" for one in self._contests]
        return f"Comparisons that longer runs might still change: {', '.join(said)}." if said else "No comparisons."

    def hardest(self) -> str:
        """Which rival is hardest to beat, on each page, and of which family it is."""
        said = []
        for one in (one for one in self._contests if "contest" in one.rows.columns):
            row = one.rows.loc[one.rows["mean"].idxmin()]
            said.append(f"`{row['rival']}` ({row['contest']}) in {row['scenario']} on `{one.page}`")
        return f"Hardest to beat is {', '.join(said)}." if said else "No comparisons."

    def margin(self) -> str:
        """The margin of equivalence."""
        found = [one for one in self._contests if "margin" in one.rows.columns]
        if not found:
            return "the margin"
        return f"{found[0].cell(found[0].rows.index[0], 'margin', 'as it is')} points on either side of zero"

    def power(self) -> str:
        """How wide the intervals are."""
        counting = {"counts": True}
        said = [
            f"{self.ledger.of(one.page, one.file, counting, 'half_width', 'max', 'points')} points on `{one.page}`"
            for one in self._contests
            if "half_width" in one.rows.columns
        ]
        return f"Largest half-width of an interval: {', '.join(said)}." if said else "No comparisons."

    def checklist(self) -> str:
        """The reviewer's checklist."""
        frame = self.ledger.frame(FOLDER, "checklist.csv")
        found = [self.ledger.quoted(FOLDER, "checklist.csv", row, "found") for row in frame.index]
        return table(Check._fields, zip(frame["badge"], frame["asked"], found, frame["met"], strict=True))

    @cached_property
    def _shown(self) -> list[str]:
        return [entry.name for entry in self.site.entries]

    @cached_property
    def _contests(self) -> list[Contest]:
        return contests(self.ledger, self.rows)

    def _of(self, file: str, where: Mapping[str, object], column: str, how: str, look: str = "as it is") -> str:
        return self.ledger.of(FOLDER, file, where, column, how, look)

    def _entry(self, row: Row) -> tuple[str, str, int]:
        return row.notebook, "verdicts.json", verdict_row(self.ledger, row)

    def _subject(self, row: Row) -> str:
        return self.ledger.quoted(*self._entry(row), "statement", part=lambda _: subject(row.verdict))

    def _effect(self, row: Row) -> tuple[str, str, str, str]:
        """Effect, interval, unit with its kind, seeds."""
        at, verdict = self._entry(row), row.verdict
        sides = [
            self.ledger.cell(*at, side, "effect") if math.isfinite(value) else "−∞" if value < 0 else "+∞"
            for side, value in (("low", verdict.low), ("high", verdict.high))
        ]
        unit, spread = (self.ledger.quoted(*at, column) for column in ("unit", "spread"))
        effect, seeds = self.ledger.cell(*at, "effect", "effect"), self.ledger.cell(*at, "seeds")
        return effect, between(*sides), f"{unit} ({spread})", seeds

    def _longest(self, file: str, columns: Sequence[str]) -> str | None:
        """The page whose `file` has the most rows."""
        frames = {name: self.ledger.frame(name, file, columns) for name in self._shown}
        held = {name: len(frame) for name, frame in frames.items() if frame is not None}
        return max(held, key=lambda name: held[name]) if held else None

    def _listing(self, file: str, columns: Sequence[str], heads: Sequence[str] = ()) -> str:
        """These columns of the longest such file, all numbers cited, names as code."""
        page = self._longest(file, columns)
        if page is None:
            return f"No page of this report has {file}."
        frame = self.ledger.frame(page, file)
        lines = [
            [f"`{frame.loc[row, columns[0]]}`", *(self._cell(page, file, row, column) for column in columns[1:])]
            for row in frame.index
        ]
        return f"From `{page}`, {file}:\n\n{table(heads or columns, lines)}"

    def _cell(self, page: str, file: str, row: int, column: str) -> str:
        value = self.ledger.frame(page, file).loc[row, column]
        if isinstance(value, str):
            return self.ledger.quoted(page, file, row, column)
        return "–" if pd.isna(value) else self.ledger.cell(page, file, row, column)


def linked(page: str) -> str:
    """The name of a page that leads to it."""
    return f"[{page}](../{page}/{page}.html)"


def by_scenario(one: Contest) -> str:
    """A row per scenario: how many rivals, where FedAuto stands, and the rival that is hardest to beat."""
    lines = []
    for name in one.rows["scenario"].unique():
        hardest = one.rows.loc[one.rows["scenario"] == name, "mean"].idxmin()
        low, high = (one.cell(hardest, side, "signed points") for side in ("decides_low", "decides_high"))
        counts = [one.count(scenario=name, **more) for more in STANDINGS.values()]
        rival = one.rows.at[hardest, "rival"]
        lines.append(
            (fails(name), *counts, f"`{rival}`", one.cell(hardest, "mean", "signed points"), between(low, high))
        )
    return table(["scenario", *STANDINGS, "hardest rival", "difference", "interval"], lines)
