"""The pages of a report, all computed from what lies in the folder: HTML of every notebook, index.html, claims.md, ...

What writes HTML takes a second to import, so it is imported only where a page has to be written.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedauto_core.store.keys import code_hash
from fedauto_core.store.writing import write_atomically

from .evidence import STATUS_COLUMNS, Row, claim_marks, status_cells, status_of, verdict_rows
from .folder import content_hash, intact, read_manifest
from .papers import REFERENCES
from .plan import Job, banner
from .rules import RULES, rules
from .sources import CHECKOUT
from .surroundings import surroundings
from .tables import pipe_table
from .verdicts import CLAIMS, LEGEND, describe

if TYPE_CHECKING:
    from .rule_page import RulePages
    from .site import Site

WRITERS = ("fedauto_core.report.front", "fedauto_core.report.rule_page")
ON_TOP = (
    "index.html",
    "figures.html",
    "explore.html",
    "reference.html",
    "glossary.html",
    "bibliography.html",
    "status.html",
    "assets/style.css",
    "assets/site.js",
    "assets/explore.js",
    "assets/search.js",
    "article/article.html",
)
"""What `front.page` writes beside the pages of the notebooks."""
BESIDE = {
    "article/article.html": tuple(
        f"article/{name}" for name in ("article.tex", "article.pdf", "numbers.csv", "checklist.csv", "times.csv")
    )
}
"""Page -> the files that are written with it."""
OF_RULES = tuple(rule.address for rule in rules())
"""Those that `rule_page.RulePages` writes."""
SEALS = {".html": ("<!--", "-->"), ".css": ("/*", "*/"), ".js": ("//", "")}
"""How a comment begins and ends in each kind of file."""


def claims_page(rows: Sequence[Row], profile: str) -> str:
    """claims.md: every verdict with its effect, interval, seeds and evidence, then the short table for a README."""
    full, short = [], []
    for claim, mark in claim_marks(rows).items():
        mine = [row for row in rows if row.verdict.claim == claim]
        short.append((claim, CLAIMS[claim], mark, ", ".join(dict.fromkeys(row.notebook for row in mine)) or "–"))
        for name, verdict, kind in mine:
            suffix = {"figure": ".png", "table": ".md"}.get(kind)
            evidence = f"[{verdict.evidence}]({name}/{verdict.evidence}{suffix})" if suffix else verdict.evidence
            full.append((claim, f"[{verdict.mark}]", verdict.statement, describe(verdict), name, evidence))
    columns = ["claim", "mark", "what was found", "effect [interval]", "notebook", "evidence"]
    short_table = pipe_table(["claim", "the paper says", "mark", "notebooks"], short)
    return (
        f"# Claims, profile {profile}\n\n{_stressed(banner(profile))}{LEGEND}\n\n{pipe_table(columns, full)}\n"
        f"## Summary\n\n<!-- claims:begin -->\n{short_table}<!-- claims:end -->\n"
    )


def _stressed(text: str) -> str:
    return f"**{text}**\n\n" if text else ""


def write_overview(out: Path, profile: str, jobs: Sequence[Job], notebooks_dir: Path) -> None:
    """Write every page of a report that is not made of what lies there now; each replaces its predecessor in one step.
    No notebook is run: its page is made from its executed copy. notebooks_dir: where the links of the prose are right.
    """
    rows = verdict_rows(out, {job.name for job in jobs})
    statuses = sorted(status_of(job, out) for job in jobs)
    write_atomically(out / "claims.md", claims_page(rows, profile))
    status_table = pipe_table(STATUS_COLUMNS, map(status_cells, statuses))
    write_atomically(out / "status.md", f"# Status, profile {profile}\n\n{status_table}")
    run = [status for status in statuses if status.state not in ("failed", "not run")]
    manifests = {status.name: read_manifest(out / status.name) for status in run}
    shown = [status for status in run if intact(out / status.name, f"{status.name}.ipynb")]
    made_with = (code_hash(WRITERS), content_hash(REFERENCES), content_hash(RULES))
    common = (profile, [(status.name, status.title) for status in shown], *made_with)

    @functools.cache
    def site() -> "Site":
        from .site import Entry, Site

        return Site(profile, tuple(Entry(status.name, status.title) for status in shown), out, notebooks_dir)

    def on_top(template: str) -> str:
        from . import front

        return front.page(template, site(), rows, statuses)

    def notebook(name: str) -> str:
        from . import front

        return front.notebook(site(), name)

    @functools.cache
    def of_rules() -> "RulePages":
        from .rule_page import RulePages

        return RulePages(site())

    for name in (status.name for status in shown):
        _write(out / name / f"{name}.html", (common, manifests[name]["files"]), functools.partial(notebook, name))
    for name in ON_TOP:
        beside = [out / other for other in BESIDE.get(name, ())]
        source = (common, rows, statuses, manifests, *(surroundings(CHECKOUT, notebooks_dir) if beside else ()))
        _write(out / name, source, functools.partial(on_top, name), beside)
    for name in OF_RULES:
        _write(out / name, (common, manifests), lambda name=name: of_rules().page(name))


def _write(path: Path, source: object, make: Callable[[], str], beside: Sequence[Path] = ()) -> None:
    """Write what `make` returns, unless it stands there: the file's last line is a hash over `source`, all that it is
    made from, the file itself, and the files `beside` it, which `make` writes, too. If that is right, it stays."""
    start, end = SEALS[path.suffix]

    def seal(text: str) -> str:
        made = f"{source!r}{[*map(content_hash, beside)]}{text}"
        return f"{start} sealed {hashlib.sha256(made.encode()).hexdigest()} {end}".rstrip() + "\n"

    old = path.read_text("utf-8", "replace") if path.is_file() else ""
    body, line, _ = old.rpartition(f"{start} sealed ")
    if not line or old != body + seal(body):
        text = make()
        write_atomically(path, text + seal(text))
