"""What is told of every rule: its update in symbols, the method card, its curve in a hard scenario, where it rests."""

import csv
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from .folder import intact

RULES = Path(__file__).parent / "rules.csv"
HARD = "F10"  # the scenario whose curves are shown
BESIDE = ("fedauto", "fedavg")  # what every curve stands beside
WIDTH, HEIGHT = 420, 200  # of a drawing of curves, without its margins for the numbers
LEFT, TOP, BOTTOM = 40, 8, 20


class Rule(NamedTuple):
    """method: its name. home: its class in the core. papers: keys of references.bib. update: LaTeX of one round, from w
    to w_r. words: the same in a sentence."""

    method: str
    home: str
    papers: tuple[str, ...]
    update: str
    words: str

    @property
    def address(self) -> str:
        """Of its page, from the top of the report."""
        return f"methods/{self.method}.html"


@functools.cache
def rules() -> tuple[Rule, ...]:
    """All of rules.csv, in its order, which is that of the method card."""
    with RULES.open(encoding="utf-8", newline="") as lines:
        return tuple(Rule(**row | {"papers": tuple(row["papers"].split())}) for row in csv.DictReader(lines))


def card(notebooks_dir: Path) -> list[list[str]]:
    """Head and rows of the generated table in the notebooks' README, as text; nothing where there is none."""
    readme = notebooks_dir / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    shown = text.partition("<!-- methods:begin -->\n")[2].partition("<!-- methods:end -->")[0]
    lines = [re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in shown.splitlines()]
    return [[cell.strip().replace("\\|", "|") for cell in line] for n, line in enumerate(lines) if n != 1]


def recorded(folder: Path, name: str, needed: Iterable[str]) -> list[dict[str, str]]:
    """The rows of a page's CSV file if it is as it was written and has the columns `needed`, else none."""
    if not intact(folder, name):
        return []
    with (folder / name).open(encoding="utf-8", newline="") as lines:
        table = csv.DictReader(lines)
        return list(table) if {*needed} <= {*(table.fieldnames or ())} else []


class Curve(NamedTuple):
    """Accuracy of a rule in a scenario, mean over seeds. points: round and accuracy."""

    seeds: int
    points: tuple[tuple[int, float], ...]


def curves(folder: Path, scenario: str = HARD) -> dict[str, Curve]:
    """Label -> its curve, from curves.csv of a page (columns scenario, label, seed, then the rounds); nothing where
    there is none. A label of which a run diverged has no mean."""
    rows = [row for row in recorded(folder, "curves.csv", ("scenario", "label", "seed")) if row["scenario"] == scenario]
    rounds = [name for name in rows[0] if name.isdigit()] if rows else []
    runs: dict[str, list[list[str]]] = {}
    for row in rows:
        runs.setdefault(row["label"], []).append([row[name] for name in rounds])
    return {
        label: Curve(len(seeds), tuple((int(r), fmean(map(float, at))) for r, *at in zip(rounds, *seeds, strict=True)))
        for label, seeds in runs.items()
        if all(all(seed) for seed in seeds)
    }


def drawing(shown: Mapping[str, Curve], title: str) -> str:
    """Curves as a small SVG picture; how each looks follows from its place (`style.css`: the first one, the second,
    ...). title: for those who cannot see it."""
    every = [point for curve in shown.values() for point in curve.points]
    last, low, high = max(r for r, _ in every), min(y for _, y in every), max(y for _, y in every)

    def at(round: float, y: float) -> str:
        return f"{LEFT + WIDTH * round / last:.0f},{TOP + HEIGHT * (high - y) / ((high - low) or 1):.1f}"

    lines = [
        f'<polyline class="curve n{n}" points="{" ".join(at(*point) for point in curve.points)}"/>'
        for n, curve in enumerate(shown.values())
    ]
    ticks = [(LEFT - 6, y + 4, f"{100 * value:.0f} %", "end") for y, value in ((TOP, high), (TOP + HEIGHT, low))]
    below = TOP + HEIGHT + BOTTOM - 4
    ticks += [(LEFT, below, "round 0", "start"), (LEFT + WIDTH, below, f"{last}", "end")]
    words = [f'<text x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>' for x, y, text, anchor in ticks]
    box = f'viewBox="0 0 {LEFT + WIDTH} {TOP + HEIGHT + BOTTOM}" role="img" aria-label="{title}"'
    return f'<svg class="curves" {box}>{"".join((*lines, *words))}</svg>'


def resting(folders: Sequence[Path]) -> dict[str, list[dict[str, str]]]:
    """Method -> its rows of rest.csv (server, process, off, error) of the first page that has it."""
    for folder in folders:
        if rows := recorded(folder, "rest.csv", ("method", "server", "process", "off", "error")):
            return {name: [row for row in rows if row["method"] == name] for name in {row["method"] for row in rows}}
    return {}
