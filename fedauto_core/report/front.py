"""What the pages on top of a report say: claims with their evidence, what came out, figures, status."""

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from markupsafe import Markup

from . import article, reference
from .evidence import STATUS_COLUMNS, STATUS_NUMBERS, Row, Status, claim_marks, deciding, status_cells
from .folder import read_manifest, read_products
from .pages import Place, equation_numbers, markdown, notebook_body, picture
from .plain import plain
from .search import Found, script, sections
from .site import TITLE, Entry, Site, style, template_text
from .verdicts import CLAIMS, LEGEND, describe

MARK_CLASSES = {"[Re]": "Re", "[¬Re]": "notRe", "[=]": "even", "[own]": "own"}
SENTENCE = 50  # letters
HEADLINE = "C2"  # the claim whose figure stands on the front page, if it has one


def look(mark: str) -> str:
    """The class of a mark in the style sheet."""
    return MARK_CLASSES.get(mark, "open")


def brief(statement: str) -> str:
    """The first clauses of a statement, as many as make a sentence, without what stands in brackets."""
    clauses = re.sub(r" \([^()]*\)", "", statement).split("; ")
    whole = next(n for n in range(1, len(clauses) + 1) if n == len(clauses) or len("; ".join(clauses[:n])) >= SENTENCE)
    return "; ".join(clauses[:whole]).rstrip(".")


def _verdict(row: Row) -> dict[str, Any]:
    name, verdict, kind = row
    slug = verdict.evidence
    files = {"figure": [("figure", "svg"), ("CSV", "csv")], "table": [("CSV", "csv")]}.get(kind, [])
    return {
        "mark": f"[{verdict.mark}]",
        "look": look(f"[{verdict.mark}]"),
        "statement": verdict.statement,
        "effect": describe(verdict),
        "notebook": name,
        "evidence": slug,
        "page": f"{name}/{name}.html#{slug}",
        "files": [(word, f"{name}/{slug}.{suffix}") for word, suffix in files],
    }


def _claim(name: str, mark: str, rows: Sequence[Row]) -> dict[str, Any]:
    claim = {"name": name, "text": CLAIMS[name], "mark": mark, "look": look(mark), "verdicts": [*map(_verdict, rows)]}
    if rows:
        row = deciding(mark, rows)
        effect, seeds = describe(row.verdict).rsplit(" (", 1)[0], row.verdict.seeds
        claim["sentence"] = brief(row.verdict.statement)
        claim["effect"] = f"{effect}, {seeds} seed{'s' * (seeds != 1)}"
        claim["deciding"] = _verdict(row)
    return claim


def page(path: str, site: Site, rows: Sequence[Row], statuses: Sequence[Status]) -> str:
    """The text of the page or file at `path`, one of `overview.ON_TOP`. statuses: of all notebooks."""
    match path:
        case "index.html":
            return index(site, rows, statuses)
        case "figures.html":
            return figures(site)
        case "article/article.html":
            return article.article(site, rows, statuses)
        case "explore.html":
            return site.page(path, "Explore: FedAuto with four clients", path, by_hand=site.titles.get("03"))
        case "reference.html":
            return reference.methods(site)[0]
        case "glossary.html":
            return reference.glossary(site)[0]
        case "bibliography.html":
            return reference.bibliography(site)[0]
        case "status.html":
            return status(site, statuses)
        case "assets/style.css":
            return style()
        case "assets/search.js":
            return script(findable(site))
        case _:
            return template_text(Path(path).name)


def _body(site: Site, entry: Entry) -> tuple[str, Place]:
    """The cells of an executed notebook as HTML, and the place with its headings."""
    folder = site.out / entry.name
    executed = nbformat.read(folder / f"{entry.name}.ipynb", as_version=4)
    place = reference.place(site, folder, "../")
    place.equations = equation_numbers(cell.source for cell in executed.cells if cell.cell_type == "markdown")
    return notebook_body(executed, place, folder), place


def notebook(site: Site, name: str) -> str:
    """The page of the executed notebook `name`."""
    at = next(n for n, entry in enumerate(site.entries) if entry.name == name)
    entry = site.entries[at]
    body, place = _body(site, entry)
    return site.page(
        "notebook.html",
        entry.title,
        entry.page,
        name=name,
        variant=name.partition("-")[2],
        body=Markup(body),
        headings=[heading for heading in place.headings if heading[0] in (2, 3)],
        previous=site.entries[at - 1] if at else None,
        next=site.entries[at + 1] if at + 1 < len(site.entries) else None,
    )


def findable(site: Site) -> list[Found]:
    """All that the search finds."""
    pages = (reference.methods, reference.glossary, reference.bibliography)
    entries = [found for page in pages for found in page(site)[1]]
    for entry in site.entries:
        entries += sections(_body(site, entry)[0], entry.page, entry.title)
        for product in read_products(site.out / entry.name):
            slug, caption = product["slug"], plain(product["caption"])
            entries.append(Found(f"{entry.page}#{slug}", f"{slug} ({entry.title})", product["kind"], caption))
    return entries


def index(site: Site, rows: Sequence[Row], statuses: Sequence[Status]) -> str:
    """index.html: the question, the claims, what came out, the notebooks."""
    marks, pages = claim_marks(rows), {entry.name: entry.page for entry in site.entries}
    failed = {status.name: f"logs/{status.name}.log" for status in statuses if status.state == "failed"}
    return site.page(
        "index.html",
        TITLE,
        "index.html",
        claims=[_claim(name, mark, [r for r in rows if r.verdict.claim == name]) for name, mark in marks.items()],
        legend=LEGEND,
        essay=Markup(article.essay_html(site, rows)),
        figure=_headline(site.out, marks, rows),
        statuses=[{"title": s.title, "state": s.state, "page": (pages | failed).get(s.name)} for s in statuses],
    )


def _headline(out: Path, marks: Mapping[str, str], rows: Sequence[Row]) -> dict[str, Any] | None:
    """The figure that the headline claim rests on, or else the first that any claim rests on."""
    for claim in sorted(CLAIMS, key=lambda name: name != HEADLINE):
        shown = [row for row in rows if row.verdict.claim == claim and row.kind == "figure"]
        if shown:
            row = deciding(marks[claim], shown)
            found = {p["slug"]: p["caption"] for p in read_products(out / row.notebook)}
            return _figure(out, row.notebook, row.verdict.evidence, found[row.verdict.evidence])
    return None


def _figure(out: Path, name: str, slug: str, caption: str) -> dict[str, Any]:
    text = Markup(markdown(caption, Place(out / name, out), escape=True))
    shown = Markup(picture(out / name, slug, caption, f"{name}/"))
    return {"page": f"{name}/{name}.html#{slug}", "picture": shown, "caption": text}


def figures(site: Site) -> str:
    """figures.html: every figure of the report, by notebook."""
    groups = []
    for entry in site.entries:
        products = [p for p in read_products(site.out / entry.name) if p["kind"] == "figure"]
        if products:
            groups.append((entry, [_figure(site.out, entry.name, p["slug"], p["caption"]) for p in products]))
    return site.page("figures.html", "All figures", "figures.html", groups=groups)


def status(site: Site, statuses: Sequence[Status]) -> str:
    """status.html: state, time and memory of every notebook, on which machine, with which versions."""
    linked = {entry.name: f'<a href="{entry.page}">{entry.name}</a>' for entry in site.entries}
    lines = [tuple(map(html.escape, status_cells(status))) for status in statuses]
    cells = [(linked.get(status.name, name), *rest) for status, (name, *rest) in zip(statuses, lines, strict=True)]
    machines: dict[str, list[str]] = {}
    versions: dict[tuple[str, str], list[str]] = {}
    for entry in site.entries:
        manifest = read_manifest(site.out / entry.name) or {}
        if "machine" in manifest:
            machines.setdefault(_words(manifest["machine"]), []).append(entry.name)
        for package in manifest.get("versions", {}).items():
            versions.setdefault(package, []).append(entry.name)

    def of(names: Sequence[str]) -> str:
        return "all" if len(names) == len(site.entries) else html.escape(", ".join(names))

    ran_on = [(html.escape(machine), of(names)) for machine, names in machines.items()]
    return site.page(
        "status.html",
        "Status",
        "status.html",
        summary=f"Profile {site.profile}: {len(site.entries)} of {len(statuses)} notebooks have a page.",
        notebooks=reference.table("notebooks", STATUS_COLUMNS, cells, STATUS_NUMBERS),
        machines=reference.table("machines", ["machine", "notebooks"], ran_on),
        versions=reference.table(
            "versions",
            ["package", "version", "notebooks"],
            [(*map(html.escape, package), of(names)) for package, names in sorted(versions.items())],
        ),
    )


def _words(machine: Mapping[str, Any]) -> str:
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} CPUs to use, "
        f"{machine['memory_gib']} GiB, {machine['system']}"
    )
