"""The pages on top of a report say what lies in it."""

import json

import pytest
from notebook_factory import jobs_of, write_notebook, write_profile
from test_pages import from_elsewhere

from fedauto_core.report import folder, plan
from fedauto_core.report import overview as report
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


def leave(out, job, verdicts=(), products=(), **changed):
    page = out / job.name
    page.mkdir(parents=True)
    folder.write_json(page / "verdicts.json", list(verdicts))
    folder.write_json(page / "products.json", list(products))
    manifest = plan.inputs_of(job, out) | {"seconds": 12.3, "peak_mib": 345} | changed
    folder.write_json(page / "manifest.json", manifest | {"files": folder.file_hashes(page)})


@pytest.fixture
def made(tmp_path):
    """A report with a notebook of every state; 05_removed belongs to no profile any more."""
    notebooks, out = tmp_path / "notebooks", tmp_path / "out"
    for name in ("01_ok", "02_old", "03_failed", "04_missing"):
        write_notebook(notebooks, name, "1", parameters="seeds: int = 3  # repetitions")
    write_profile(
        notebooks,
        "".join(f"0{n}: {{minutes: {i + 1}}}\n" for i, n in enumerate(["1_ok", "2_old", "3_failed", "4_missing"])),
    )
    jobs = {job.name: job for job in jobs_of(notebooks)}
    other = {job.name: job for job in jobs_of(notebooks, "seeds=2")}
    leave(out, other["01_ok"], [FIRST, SECOND], PRODUCTS)
    leave(out, jobs["02_old"], code_sha256="other code", versions={"numpy": "1"})
    leave(out, jobs["03_failed"], [FIRST | {"claim": "C2"}], PRODUCTS)
    folder.log_file(out, "03_failed").parent.mkdir()
    folder.log_file(out, "03_failed").write_text("traceback")
    (out / "05_removed").mkdir()
    folder.write_json(out / "05_removed" / "verdicts.json", [FIRST | {"claim": "C3"}])
    report.write_overview(out, "tiny", list(jobs.values()))
    return out


def test_status_tells_ok_old_failed_and_missing(made):
    assert (made / "status.md").read_text().splitlines()[4:] == [
        "| 01_ok | ok | 12 | 345 | seeds=2 |",
        "| 02_old | out of date (code, packages) | 12 | 345 | – |",
        "| 03_failed | failed | – | – | – |",
        "| 04_missing | not run | – | – | – |",
    ]


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


def test_index_links_evidence_figures_and_logs(made):
    page = (made / "index.html").read_text()
    assert '<a href="01_ok/01_ok.html#line">01_ok: line</a>' in page
    assert '<span class="mark Re">[Re]</span>' in page and "less &lt;clear&gt;" in page
    assert '<img src="01_ok/line.png" alt="line">' in page and "01_ok: Falls like <math" in page
    assert page.count("<img") == 1  # the failed notebook's old figure is not shown
    assert '<a href="logs/03_failed.log">03_failed</a>' in page and '<a href="02_old/02_old.html">02_old</a>' in page
    assert "<td>04_missing</td>" in page and from_elsewhere(page) == []
    assert {path.name for path in made.iterdir() if path.is_file()} == {"index.html", "claims.md", "status.md"}


def test_pages_are_the_same_for_the_same_report(made, tmp_path):
    before = {path.name: path.read_bytes() for path in made.glob("*.*")}
    report.write_overview(made, "tiny", jobs_of(tmp_path / "notebooks"))
    assert {path.name: path.read_bytes() for path in made.glob("*.*")} == before
    assert json.loads((made / "01_ok" / "verdicts.json").read_text()) == [FIRST, SECOND]


def test_the_overview_of_a_check_says_that_it_is_no_evidence(made, tmp_path):
    assert "Check, not evidence" not in (made / "claims.md").read_text() + (made / "index.html").read_text()
    report.write_overview(made, "smoke", jobs_of(tmp_path / "notebooks"))
    for page in ("claims.md", "index.html"):
        assert "Check, not evidence" in (made / page).read_text()
