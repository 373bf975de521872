"""The pages on top of a report say what lies in it."""

import json
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from notebook_factory import jobs_of, write_notebook, write_profile
from test_pages import PIXEL, SVG, from_elsewhere

from fedauto_core.report import folder, plan
from fedauto_core.report import overview as report
from fedauto_core.report.front import brief
from fedauto_core.report.verdicts import CLAIMS

FIRST = {"claim": "C1", "statement": "a | b", "mark": "Re", "effect": 0.5, "low": 0.25, "high": 0.75, "seeds": 3}
FIRST |= {"unit": "points", "evidence": "line", "spread": "95 % t interval"}
SECOND = FIRST | {
    "statement": "less <clear>",
    "mark": "~",
    "low": None,
    "high": None,
    "seeds": 1,
    "evidence": "numbers",
    "spread": "range over instances",
}
PRODUCTS = [
    {"slug": "line", "kind": "figure", "caption": "Falls like $1/T$."},
    {"slug": "numbers", "kind": "table", "caption": "Numbers."},
]
ROWS = "".join(f"<tr><td>{n}</td></tr>" for n in range(12))
TABLE = f"<table><thead><tr><th></th><th>n</th></tr></thead><tbody>{ROWS}</tbody></table>"
COMPARISONS = (
    "scenario,rival,mean,decides_low,decides_high,counts,settled,standing\n"
    'F2,"a, b",1.26,1,2,True,True,won\nF2,c,-0.5,-1,0,True,False,"lost, uncorrected"\nF0,c,-9,-9,-9,False,True,lost\n'
)


def leave(out, job, verdicts=(), products=(), **changed):
    page = out / job.name
    page.mkdir(parents=True)
    cells = [new_markdown_cell(f"# Title of {job.name}\n\n$\\mathbb E x$, notebook 02\n\n## Part\n\nwaterfall")]
    for product in products:
        data = {"text/html": TABLE} if product["kind"] == "table" else {"image/png": PIXEL}
        shown = new_output("display_data", data, metadata={"fedauto": product})
        cells.append(new_code_cell("x = 1  # of the machine", outputs=[shown]))
    nbformat.write(new_notebook(cells=cells), page / f"{job.name}.ipynb")
    (page / "line.svg").write_text(SVG)
    (page / "line.csv").write_text(COMPARISONS)
    folder.write_json(page / "verdicts.json", list(verdicts))
    folder.write_json(page / "products.json", list(products))
    manifest = plan.inputs_of(job, out) | {"seconds": 12.3, "fresh_seconds": 99.5, "peak_mib": 345} | changed
    folder.write_json(page / "manifest.json", manifest | {"files": folder.file_hashes(page)})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report with a notebook of every state; 05_removed belongs to no profile any more."""
    tmp_path = tmp_path_factory.mktemp("report")
    notebooks, out = tmp_path / "notebooks", tmp_path / "out"
    for name in ("01_ok", "02_old", "03_failed", "04_missing"):
        write_notebook(notebooks, name, f"# Title of {name}", "1", parameters="seeds: int = 3  # repetitions")
    write_profile(
        notebooks,
        "".join(f"0{n}: {{minutes: {i + 1}}}\n" for i, n in enumerate(["1_ok", "2_old", "3_failed", "4_missing"])),
    )
    jobs = {job.name: job for job in jobs_of(notebooks)}
    other = {job.name: job for job in jobs_of(notebooks, "seeds=2")}
    machine = {"processor": "A <chip>", "cores": 1, "threads": 2, "memory_gib": 3, "system": "S"}
    leave(out, other["01_ok"], [FIRST, SECOND], PRODUCTS, machine=machine)
    leave(out, jobs["02_old"], code_sha256="other code", versions={"numpy": "1"})
    leave(out, jobs["03_failed"], [FIRST | {"claim": "C2"}], PRODUCTS)
    folder.log_file(out, "03_failed").parent.mkdir()
    folder.log_file(out, "03_failed").write_text("traceback")
    (out / "05_removed").mkdir()
    folder.write_json(out / "05_removed" / "verdicts.json", [FIRST | {"claim": "C3"}])
    report.write_overview(out, "tiny", list(jobs.values()), notebooks)
    return out


def test_status_tells_ok_old_failed_and_missing(made):
    assert (made / "status.md").read_text().splitlines()[4:] == [
        "| 01_ok | ok | 12 | 100 | 345 | seeds=2 |",
        "| 02_old | out of date (code, packages) | 12 | 100 | 345 | – |",
        "| 03_failed | failed | – | – | – | – |",
        "| 04_missing | not run | – | – | – | – |",
    ]
    page = (made / "status.html").read_text()
    assert "<td>A &lt;chip&gt;, 1 cores, 2 CPUs to use, 3 GiB, S</td><td>01_ok</td>" in page
    assert "<td>numpy</td><td>1</td><td>02_old</td>" in page and "2 of 4 notebooks have a page" in page


def test_claims_page_has_every_verdict_and_a_summary(made):
    full, short = (made / "claims.md").read_text().split("<!-- claims:begin -->\n")
    effect = "+0.5 [+0.25, +0.75] points (95 % t interval), 3 seeds"
    assert f"| C1 | [Re] | a \\| b | {effect} | 01_ok | [line](01_ok/line.png) |" in full
    effect = "+0.5 [−∞, +∞] points (range over instances), 1 seed"
    assert f"| C1 | [~] | less <clear> | {effect} | 01_ok | [numbers](01_ok/numbers.md) |" in full
    assert full.count("| C") == 2  # neither the failed nor the removed notebook has a say
    rows = short.splitlines()
    assert rows[2] == f"| C1 | {CLAIMS['C1']} | [~] | 01_ok |"
    assert rows[3] == f"| C2 | {CLAIMS['C2']} | – | – |"
    assert len(rows) == 2 + len(CLAIMS) + 1 and rows[-1] == "<!-- claims:end -->"


def test_the_front_page_has_a_row_for_each_claim_that_opens_its_evidence(made):
    page = (made / "index.html").read_text()
    assert page.count('<li id="C') == len(CLAIMS) and page.count("Not tested in this report.") == len(CLAIMS) - 1
    assert '<span class="mark open">[~]</span> <b>C1</b>' in page  # over both of its verdicts
    assert "less &lt;clear&gt;. " in page and "Effect +0.5 [−∞, +∞] points, 1 seed." in page  # what it is decided by
    assert '<a href="01_ok/01_ok.html#numbers">Evidence' in page and "2 verdicts" in page
    assert '<a href="01_ok/01_ok.html#line">01_ok: line</a>' in page
    assert '<a class="chip" href="01_ok/line.svg">figure</a> <a class="chip" href="01_ok/line.csv">CSV</a>' in page
    assert '<a href="logs/03_failed.log">Title of 03_failed</a>' in page
    assert '<a href="02_old/02_old.html">Title of 02_old</a>' in page and "<li>Title of 04_missing" in page
    where = "in F2 (Bernoulli, coupled to the labels) on <code>01_ok</code>"
    said = f"FedAuto does best {where}: ahead of 1 of 2 rivals (1 unsettled)."
    lead = "Its lead there is -0.5 (<code>c</code>, lost, uncorrected) to +1.3 points (<code>a, b</code>)."
    assert f'<p class="essay">{said} {lead} Overall it is behind in 1 of 2 comparisons' in page
    assert '<a href="article/article.html">article</a>' in page
    assert from_elsewhere(page) == [] and len(page) < 300_000
    tops = {path.name for path in made.iterdir() if path.is_file()}
    assert tops == {"claims.md", "status.md", *(name for name in report.ON_TOP if "/" not in name)}


def test_a_damaged_comparison_says_nothing(made):
    path = made / "01_ok" / "line.csv"
    before = path.read_bytes()
    path.write_bytes(before[:-30])
    try:
        report.write_overview(made, "tiny", jobs_of(made.parent / "notebooks"), made.parent / "notebooks")
        assert "No verdict of this report speaks to the paper's claims." in (made / "index.html").read_text()
    finally:
        path.write_bytes(before)
        report.write_overview(made, "tiny", jobs_of(made.parent / "notebooks"), made.parent / "notebooks")


def test_one_figure_stands_in_front_and_all_on_a_page_of_their_own(made):
    for name, others in (("index.html", 0), ("figures.html", 0)):
        page = (made / name).read_text()
        (picture,) = re.findall(r"<img [^>]*>", page)  # the failed notebook's old figure is not shown
        alt = 'alt="Figure line: Falls like 1/T."'
        assert picture == f'<img src="01_ok/line.svg" width="40" height="20" loading="lazy" {alt}>', others
        assert "Falls like <math" in page


def test_a_statement_is_told_in_brief():
    assert brief("0 found; 3 checks (of 4) of rounds and runs on very many instances; more.") == (
        "0 found; 3 checks of rounds and runs on very many instances"
    )
    assert brief("short (a)") == "short"


def test_every_page_knows_its_place(made):
    first, second = ((made / name / f"{name}.html").read_text() for name in ("01_ok", "02_old"))
    assert "<title>Title of 01_ok · FedAuto, replicated</title>" in first
    assert '<a rel="next" href="../02_old/02_old.html">Title of 02_old →</a>' in first and 'rel="prev"' not in first
    assert '<a rel="prev" href="../01_ok/01_ok.html">← Title of 01_ok</a>' in second and 'rel="next"' not in second
    assert '<li class="level2"><a href="#Part">Part</a></li>' in first and '<h2 id="Part">' in first
    assert 'notebook <a href="../02_old/02_old.html" title="Title of 02_old">02</a>' in first
    assert not (made / "03_failed" / "03_failed.html").exists()


def test_the_search_knows_prose_products_methods_scenarios_and_symbols(made):
    script = (made / "assets" / "search.js").read_text()
    rows = json.loads(script.removeprefix("window.SEARCH = ").partition(";\n")[0])
    by_kind = {}
    for url, title, kind, text in rows:
        by_kind.setdefault(kind, []).append((url, title, text))
    assert ("02_old/02_old.html#Part", "Part (Title of 02_old)", "waterfall") in by_kind["section"]
    assert not any("of the machine" in text for _, _, text in by_kind["section"])  # code is no prose
    assert by_kind["figure"] == [("01_ok/01_ok.html#line", "line (Title of 01_ok)", "Falls like 1/T.")]
    looked_up = (("scenario", "F10"), ("symbol", "lambda"), ("term", "Holm's correction"), ("paper", "Holm 1979"))
    for kind, name in looked_up:
        (url,) = [url for url, title, _ in by_kind[kind] if title == name]
        page, _, anchor = url.partition("#")
        assert f'id="{anchor}"' in (made / page).read_text()
    assert "method" not in by_kind  # these notebooks have no method card


def test_pages_are_the_same_for_the_same_report(made):
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in made.rglob("*.*") if path.suffix != ".md"}
    report.write_overview(made, "tiny", jobs_of(made.parent / "notebooks"), made.parent / "notebooks")
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before
    assert json.loads((made / "01_ok" / "verdicts.json").read_text()) == [FIRST, SECOND]


def test_the_pages_of_a_check_say_that_it_is_no_evidence(made, tmp_path):
    names = ("claims.md", "index.html", "01_ok/01_ok.html")
    assert not any("Check, not evidence" in (made / name).read_text() for name in names)
    try:
        report.write_overview(made, "smoke", jobs_of(made.parent / "notebooks"), made.parent / "notebooks")
        assert all("Check, not evidence" in (made / name).read_text() for name in names)
    finally:
        report.write_overview(made, "tiny", jobs_of(made.parent / "notebooks"), made.parent / "notebooks")
