"""The replication article: every number comes from a file of the report, and the checklist says what is not met."""

import csv
import html
import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from test_report import made  # noqa: F401

from fedauto_core.report import (
    article,
    checklist,
    essay,
    findings,
    latex,
    ledger,
    overview,
    passages,
    plan,
    surroundings,
)
from fedauto_core.report.evidence import Row, claim_marks, status_of, verdict_rows
from fedauto_core.report.pages import Place
from fedauto_core.report.site import Entry, Site
from fedauto_core.report.sources import CHECKOUT, NOTEBOOKS
from fedauto_core.report.verdicts import CLAIMS, TESTED_BY, Verdict, stored
from fedauto_core.report.verify import verified

REPORT = Path(__file__).parents[1] / "reports" / "standard"
needs_tex = pytest.mark.skipif(shutil.which(surroundings.TEX) is None, reason="TeX is not installed")
STRUCTURAL = re.compile(
    r"\b(?:4G|5G)\b"  # kinds of networks
    r"|\b\d\d_[\w-]+"  # names of pages
    r"|\barXiv \d{4}\.\d{5}"
    r"|\b[A-Za-z_][\w-]*\d[\w-]*"  # names: C2, F10, SHA-256, cifar10_mobilenetv2-256, MobileNetV2
)
WORDS = re.compile(r"\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen|hundred|thousand)\b", re.I)


def site_of(out):
    jobs = plan.read_profile("standard")
    statuses = sorted(status_of(job, out) for job in jobs)
    entries = tuple(Entry(s.name, s.title) for s in statuses if s.state not in ("failed", "not run"))
    return Site("standard", entries, out, NOTEBOOKS), verdict_rows(out, {job.name for job in jobs}), statuses


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The article of the committed reference run, and the folder of that."""
    out = tmp_path_factory.mktemp("written") / "standard"
    shutil.copytree(REPORT, out, ignore=shutil.ignore_patterns("*.html", "article"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(article, "pdf", lambda source: "not asked for")
        text = article.article(*site_of(out))
    (out / "article" / "article.html").write_text(text, encoding="utf-8")
    return out


def rows_of(path):
    """The rows of a file as the ledger counts them, read without pandas."""
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as lines:
            return [*csv.DictReader(lines)]
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if isinstance(found, list) else [found]


def entry(row, column):
    for part in [column] if column in row else column.split(".", 1):
        row = row[part]
    return row


def parsed(text):
    return text == "True" if text in ("True", "False") else text


def value_of(cited, out):
    """The number that a line of the ledger names, looked up anew."""
    rows = rows_of(out / cited["page"] / cited["file"])
    if cited["how"] == "cell":
        return float(entry(rows[int(cited["row"]) - 1], cited["column"]))
    where = json.loads(cited["row"])
    listed = {column: value if isinstance(value, list) else [value] for column, value in where.items()}
    kept = [row for row in rows if all(parsed(row[column]) in values for column, values in listed.items())]
    values = [row[cited["column"]] for row in kept if row[cited["column"]] != ""]
    return (
        len(values)
        if cited["how"] == "count"
        else {"sum": sum, "min": min, "max": max}[cited["how"]](map(float, values))
    )


def test_every_line_of_the_ledger_is_what_its_source_says(written):
    lines = rows_of(written / "article" / "numbers.csv")
    assert len(lines) > 500
    for cited in lines:
        if cited["how"] == "in the text":
            row = rows_of(written / cited["page"] / cited["file"])[int(cited["row"]) - 1]
            assert re.search(rf"(?<![\d.]){re.escape(cited['printed'])}(?![\d])", str(entry(row, cited["column"]))), (
                cited
            )
        else:
            value = value_of(cited, written)
            whole = int(value) if cited["look"] == "as it is" and float(value).is_integer() else value
            assert cited["printed"] == ledger.LOOKS[cited["look"]](whole), cited


def uncited(page):
    """The numerals, and the number words, of a page's main part that stand in no mark of the ledger and are none of
    the structure's."""
    main = page.partition('<main id="main" tabindex="-1">')[2].partition('<h2 id="References">')[0]
    for gone in (
        r"<data [^>]*>.*?</data>",
        r"<code>.*?</code>",
        r"<math.*?</math>",
        r'<a href="#ref-.*?</a>',
        r"<button.*?</button>",  # how many rows a table has
        r"<[^>]+>",
    ):
        main = re.sub(gone, " ", main, flags=re.DOTALL)
    text = STRUCTURAL.sub(" ", html.unescape(main))
    return re.findall(r"\S*\d\S*", text) + WORDS.findall(text)


def test_no_number_of_the_article_is_typed(written):
    page = (written / "article" / "article.html").read_text(encoding="utf-8")
    assert uncited(page) == []
    for typed in ("17 rivals", "by 3.5 points", "seven claims", "in 2 of 3"):
        assert uncited(page.replace("<h2", f"<p>{typed}</p><h2", 1)) != [], typed


def test_what_the_page_shows_is_what_the_ledger_says(written):
    folder = written / "article"
    lines = {line["number"]: line for line in rows_of(folder / "numbers.csv")}
    page = (folder / "article.html").read_text(encoding="utf-8")
    shown = re.findall(r'<data value="(\d+)" title="([^"]*)">(.*?)</data>', page)
    assert {number for number, _, _ in shown} == {*lines}
    for number, source, printed in shown:
        assert printed == lines[number]["printed"]
        assert html.unescape(source).startswith(f"{lines[number]['page']}/{lines[number]['file']}, row ")
    source = (folder / "article.tex").read_text(encoding="utf-8")
    in_tex = re.findall(r"\\cited\{(\d+)\}\{([^}]*)\}", source.partition("\\begin{document}")[2])
    assert [(number, text.replace("$-$", "-")) for number, text in in_tex] == [(n, text) for n, _, text in shown]


def test_it_has_the_parts_of_a_replication_article(written):
    page = (written / "article" / "article.html").read_text(encoding="utf-8")
    for heading in (
        "Reproducibility summary",
        "Scope of reproducibility",
        "Models and data",
        "Hyperparameters",
        "Experimental set-up and statistics",
        "Computational requirements",
        "Results beyond the paper",
        "What was easy",
        "What was difficult",
        "What could not be known",
        "Communication with the original authors",
        "How to obtain what",
        "Reviewer's checklist",
    ):
        assert f">{html.escape(heading, quote=False)}</h" in page or f">{heading}</h" in page, heading
    assert "(no PDF: not asked for)" in page
    marks = re.findall(r"<td>\[(Re|=|~|¬Re|own)\]</td>", page.partition("Results beyond the paper</h2>")[0])
    _, rows, _ = site_of(written)
    of_claims = [mark[1:-1] for mark in claim_marks(rows).values() if mark != "–"]
    assert Counter(marks) == Counter([*(row.verdict.mark for row in rows), *of_claims])
    assert len(rows) > 10


def test_what_was_not_run_is_named_and_nothing_else(written):
    page = html.unescape((written / "article" / "article.html").read_text(encoding="utf-8"))
    missing = {job.name for job in plan.read_profile("standard")} - {path.name for path in written.iterdir()}
    told = " ".join(re.findall(r"Missing here \([^)]*\): (.*?)\.", page))
    assert {*re.findall(r"\b\d\d_[\w-]+(?=</code>)", told)} == missing
    lacking = {name for claim in CLAIMS for name in TESTED_BY[claim] if name in missing}
    named = {*re.findall(r"\b\d\d_[\w-]+", " ".join(re.findall(r"<p>Not run: (.*?)\.</p>", page)))}
    assert lacking <= named <= missing


def test_every_citation_is_in_the_bibliography(written):
    page = (written / "article" / "article.html").read_text(encoding="utf-8")
    cited = {*re.findall(r'href="#(ref-\w+)"', page)}
    assert "ref-wang2025fedauto" in cited and cited == {*re.findall(r'<li id="(ref-\w+)"', page)}
    source = (written / "article" / "article.tex").read_text(encoding="utf-8")
    keys = {key for found in re.findall(r"\\cite\{([^}]*)\}", source) for key in found.split(",")}
    assert (
        {f"ref-{key}" for key in keys} == cited == {f"ref-{key}" for key in re.findall(r"\\bibitem\{(\w+)\}", source)}
    )
    assert "[@" not in page and not re.search(r"@\w", source)


def test_the_article_is_the_same_for_the_same_report(written, monkeypatch):
    monkeypatch.setattr(article, "pdf", lambda source: "not asked for")
    before = {path: path.read_bytes() for path in (written / "article").iterdir()}
    text = article.article(*site_of(written))
    assert text == before[written / "article" / "article.html"].decode()
    assert {path: path.read_bytes() for path in before} == before


def test_the_essay_has_at_most_150_words_and_says_who_wins_where_and_why(written):
    site, rows, _ = site_of(written)
    said = article.essay_html(site, rows)
    words = re.sub(r"<[^>]+>", "", said)
    assert 100 < len(words.split()) <= essay.WORDS
    final = pd.read_csv(REPORT / "10_full_parameter-cifar10_head" / "comparisons.csv")
    best = final[final["counts"]].groupby("scenario")["mean"].median().idxmax()
    here = final[final["counts"] & (final["scenario"] == best)].set_index("rival")
    ahead = here["standing"].str.startswith("won").sum()
    assert f"FedAuto does best in {best}" in words and f"ahead of {ahead} of {len(here)} rivals" in words
    assert f"{here.at['fedavg', 'mean']:+.1f} over plain averaging" in words
    assert "rank correlation" in words and here["mean"].idxmin() in words
    counted = final[final["counts"]]
    behind = counted[counted["standing"].str.startswith("lost")]
    worst = behind["scenario"].mode()[0]
    early = f"({(~counted['settled']).sum()} unsettled, behind in {(~behind['settled']).sum()} of them)"
    assert f"it is behind in {len(behind)} of {len(counted)} comparisons {early}, mostly in {worst}" in words
    assert f": {(behind['scenario'] == worst).sum()} of {(counted['scenario'] == worst).sum()}, " in words


def comparisons(*rows):
    columns = ["scenario", "rival", "mean", "decides_low", "decides_high", "counts", "settled", "standing"]
    return pd.DataFrame(rows, columns=columns)


def test_the_essay_concedes_what_is_lost(tmp_path):
    frame = comparisons(
        ("F8", "a", -2.26, -3.0, -1.0, True, True, "lost"),
        ("F8", "b", -4.0, -5.0, -3.0, True, False, "lost, uncorrected"),
        ("F8", "fedavg", -0.5, -1.5, 0.5, True, True, "level"),
        ("F0", "a", -9.0, -9.5, -8.5, False, True, "lost"),  # does not count
    )
    said = essay_on(tmp_path / "10_full_parameter", frame, verdict_on("C2", "¬Re", -2.26))
    assert "ahead of 0 of 3 rivals (1 unsettled)." in said
    assert "Its lead there is -4.0 (`b`, lost, uncorrected) to -0.5 points (`fedavg`), -0.5 over plain" in said
    assert "Overall it is behind in 2 of 3 comparisons (1 unsettled, behind in 1 of them)" in said
    assert "mostly in F8" in said and ": 2 of 3, -4.0 points to `b`." in said and "No rival" not in said
    assert essay.essay(ledger.Ledger(tmp_path), []) == "No verdict of this report speaks to the paper's claims."


@pytest.mark.parametrize(("settled", "standing", "none"), [(True, "won", True), (True, "lost, uncorrected", False),
                                                           (False, "won", False)])  # fmt: skip
def test_nobody_is_ahead_only_where_something_is_settled(tmp_path, settled, standing, none):
    frame = comparisons(("F8", "a", 2.0, 1.0, 3.0, True, settled, standing))
    said = essay_on(tmp_path / "10_full_parameter", frame, verdict_on("C2", "~", 2.0))
    assert ("No rival is ahead of it in a settled comparison." in said) == none


def test_the_essay_tells_first_what_decides_plug_and_play(tmp_path):
    page = tmp_path / "16_plug_and_play"
    page.mkdir()
    verdicts = [verdict_on("C8", "Re", 6.44, "9 lines: its lead"), verdict_on("C8", "=", 0.0, "3 lines: its lead")]
    (page / "verdicts.json").write_text(json.dumps(stored(verdicts)), encoding="utf-8")
    (page / "manifest.json").write_text(json.dumps({"parameters": {}, "seconds": 1.0, "peak_mib": 1, "files": {}}))
    said = essay.bare(essay.essay(ledger.Ledger(tmp_path), [Row(page.name, verdict, "") for verdict in verdicts]))
    lead = "In Flower it leads plain averaging by"
    assert said == f"{lead} +0.0 points with 3 lines (equivalent); +6.4 with 9 lines."


def test_a_file_that_two_claims_rest_on_is_told_for_the_first(tmp_path):
    page = tmp_path / "10_full_parameter"
    leave_table(page, "comparisons.csv", comparisons(("F8", "a", 2.0, 1.0, 3.0, True, True, "won")))
    rows = [Row(page.name, verdict_on(claim, "Re", 2.0), "figure") for claim in ("C2", "C3")]
    assert [one.claim for one in essay.contests(ledger.Ledger(tmp_path), rows)] == ["C2"]


def verdict_on(claim, mark, effect, statement="x"):
    return Verdict(claim, statement, mark, effect, effect - 1, effect + 1, 3, "points", "comparisons")


def leave_table(page, file, frame):
    page.mkdir()
    frame.to_csv(page / file, index=False)
    manifest = {"parameters": {}, "seconds": 1.0, "peak_mib": 1, "files": {file: overview.content_hash(page / file)}}
    (page / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def essay_on(page, frame, verdict):
    leave_table(page, "comparisons.csv", frame)
    rows = [Row(page.name, verdict, "figure")]
    return essay.bare(essay.essay(ledger.Ledger(page.parent), rows))


def test_a_number_is_cited_from_what_is_as_it_was_written(tmp_path):
    leave_table(tmp_path / "a", "t.csv", pd.DataFrame({"x": [1.26, -float("inf")], "what": ["one", "of 3 or -0.5"]}))
    cited = ledger.Ledger(tmp_path)
    assert essay.bare(cited.cell("a", "t.csv", 1, "x", "signed points")) == "+1.3"
    assert cited.cell("a", "t.csv", 2, "x") == "−∞"  # the open side of an interval is no number
    assert essay.bare(cited.quoted("a", "t.csv", 2, "what")) == "of 3 or -0.5"
    assert [(line.printed, line.row, line.how) for line in cited.cited] == [
        ("+1.3", "1", "cell"),
        ("3", "2", "in the text"),
        ("-0.5", "2", "in the text"),
    ]
    for whole in ("2.20GHz", "2.5x", "2.14.1"):  # a name or a version is no number, nor is its beginning
        assert ledger.NUMERAL.findall(f"by {whole}.") == []
    assert ledger.NUMERAL.findall("by 2.5.") == ["2.5"]
    assert cited.frame("a", "t.csv", ["y"]) is None and cited.frame("a", "u.csv") is None
    (tmp_path / "a" / "t.csv").write_text("x,what\n9,changed\n")
    assert ledger.Ledger(tmp_path).frame("a", "t.csv") is None
    with pytest.raises(LookupError, match=r"a/t\.csv is not in the report"):
        ledger.Ledger(tmp_path).cell("a", "t.csv", 1, "x")


def test_a_table_without_rows_is_a_table():
    assert ledger.table(["a", "b"], []) == "| a | b |\n| --- | --- |\n"


UNEXPECTED = {  # notebook -> file, and a row of it that its passage does not look for
    "10_full_parameter": ("ours.csv", {"family": "optimiser", "scenario": "F2", "mark": "Re", "decided by": "a",
                                       "difference": 1.0, "low": 0.5, "high": 1.5, "method": "b"}),
    "14_cost": ("exponents.csv", {"varied": "N", "cost": "bytes", "exponent": 1.0, "low": 0.9, "high": 1.1}),
    "21_any_failure_law": ("floors.csv", {"rule": "FedAvg", "floor |grad F|²": 1.0}),
    "22_tight_or_loose": ("gain.csv", {"E": 2, "step": 0.5, "median": float("nan")}),
}  # fmt: skip


@pytest.mark.parametrize("notebook", UNEXPECTED)
def test_a_page_without_the_rows_of_its_passage_has_none(tmp_path, notebook):
    file, row = UNEXPECTED[notebook]
    leave_table(tmp_path / notebook, file, pd.DataFrame([row]))
    assert findings.PASSAGES[notebook](ledger.Ledger(tmp_path), notebook) == ""


def test_a_composition_without_gains_has_its_table_alone(tmp_path):
    page = tmp_path / "15_composition"
    leave_table(page, "tally.csv", pd.DataFrame([{"scenario": "F2", "helps": 1, "harms": 0}]))
    gains = pd.DataFrame([{"scenario": "F2", "X": "a", "arm": "plain", "mean": 1.0, "low": 0.5, "high": 1.5}])
    gains.to_csv(page / "gains.csv", index=False)
    manifest = json.loads((page / "manifest.json").read_text())
    manifest["files"]["gains.csv"] = overview.content_hash(page / "gains.csv")
    (page / "manifest.json").write_text(json.dumps(manifest))
    text = findings.PASSAGES[page.name](ledger.Ledger(tmp_path), page.name)
    assert "| F2 |" in text and "largest gain" not in text


def test_a_page_that_was_not_run_is_named(made):  # noqa: F811
    page = (made / "article" / "article.html").read_text(encoding="utf-8")
    assert "Missing here (failed): <code>03_failed</code>. Missing here (not run): <code>04_missing</code>." in page
    assert "Not run: <code>02_problem</code>" in page  # which tests C1, of which another page has verdicts
    assert "<td>a | b</td>" in page  # a statement with what separates cells
    assert "not tested in this report" in page and "Check, not evidence" not in page
    assert uncited(page) == []


def test_the_article_of_a_check_says_so(made, tmp_path):  # noqa: F811
    out, notebooks = tmp_path / "out", made.parent / "notebooks"
    shutil.copytree(made, out)
    jobs = plan.read_profile("tiny", notebooks)
    overview.write_overview(out, "smoke", jobs, notebooks)
    for name in ("article.html", "article.tex"):
        assert "Check, not evidence" in (out / "article" / name).read_text(encoding="utf-8")


def test_what_stands_beside_the_article_is_written_anew_when_it_was_changed(made, tmp_path):  # noqa: F811
    out, notebooks = tmp_path / "out", made.parent / "notebooks"
    shutil.copytree(made, out)
    jobs, path = plan.read_profile("tiny", notebooks), out / "article" / "numbers.csv"
    before = path.read_bytes()
    path.write_bytes(before[:-20])
    overview.write_overview(out, "tiny", jobs, notebooks)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["CITATION.cff", "docs/b.md", "tests/test_b.py", "notebooks/02_b.ipynb"])
def test_the_article_is_written_anew_when_the_checkout_or_tex_changed(tmp_path, monkeypatch, name):
    for folder in ("docs", "tests", "notebooks"):
        (tmp_path / folder).mkdir()

    def now():
        return surroundings.surroundings(tmp_path, tmp_path / "notebooks")

    monkeypatch.setenv("PATH", str(tmp_path))
    before = now()
    assert now() == before
    (tmp_path / name).write_text("a")
    changed = now()
    assert changed != before
    (tmp_path / surroundings.TEX).touch(0o755)
    assert now() != changed


def test_the_article_is_sealed_over_what_surrounds_it(made, tmp_path, monkeypatch):  # noqa: F811
    out, notebooks = tmp_path / "out", made.parent / "notebooks"
    shutil.copytree(made, out)
    jobs = plan.read_profile("tiny", notebooks)
    path, text = out / "article" / "article.html", "no PDF: TeX came"
    monkeypatch.setattr(article, "pdf", lambda source: "TeX came")
    overview.write_overview(out, "tiny", jobs, notebooks)
    assert text not in path.read_text(encoding="utf-8")
    monkeypatch.setattr(overview, "surroundings", lambda *_: ("other",))
    overview.write_overview(out, "tiny", jobs, notebooks)
    assert text in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["", "a: [", "- a", None])
def test_a_citation_file_that_says_nothing_is_not_met(tmp_path, text):
    if text is not None:
        (tmp_path / "CITATION.cff").write_text(text)
    found = {check.asked: check for check in checklist._available(tmp_path)}
    assert found["it says how to cite it"][2:] == ("no readable CITATION.cff", "no")


def test_the_checklist_counts_what_is_there(written):
    found = {row["asked"]: row for row in rows_of(written / "article" / "checklist.csv")}
    tests = len([*(CHECKOUT / "tests").glob("test_*.py")])
    assert found["tested"]["found"] == f"{tests} files of tests" and found["tested"]["met"] == "yes"
    same = found["hashes and verdicts are those of the files"]
    assert same["met"] == "yes" and same["found"].startswith("0 differences")
    assert found["an archive with a DOI"] == {
        "badge": "available",
        "asked": "an archive with a DOI",
        "found": "none in CITATION.cff",
        "met": "no",
    }
    assert {row["badge"] for row in found.values()} == {"available", "functional", "reusable", "results reproduced"}


def test_the_checklist_sees_a_changed_report(written, tmp_path):
    out = tmp_path / "standard"
    shutil.copytree(written, out)
    path = out / "02_problem" / "runs.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    site, rows, statuses = site_of(out)
    found = {check.asked: check for check in checklist.checks(site, rows, statuses)}
    same = found["hashes and verdicts are those of the files"]
    assert same.met == "no" and same.found.startswith(f"{len(verified(out).differences)} differences")
    assert not same.found.startswith("0 ")


def test_the_authors_are_those_to_cite():
    assert f"name: {article.AUTHORS}\n" in (CHECKOUT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_template_types_no_number():
    source = (Path(article.__file__).parent / "templates" / "article.md").read_text(encoding="utf-8")
    for gone in (r"\{#.*?#\}", r"\{[{%].*?[%}]\}", r"`[^`]*`", r"\$\$?.*?\$\$?", r"\[@[^\]]*\]"):
        source = re.sub(gone, " ", source, flags=re.DOTALL)
    text = STRUCTURAL.sub(" ", source)
    assert re.findall(r"\d+", text) + WORDS.findall(text) == []


def test_markdown_becomes_latex():
    text = "## A *b*\n\nx_y & 5 % of **c** `d_e`, [f](https://g.h/?i=1&j), $\\alpha_1$ χ² ≥ ✓\n\n$$k$$\n\n* l\n\n1. m\n"
    assert latex.latex(text) == (
        "\\section{A \\emph{b}}\n\n"
        "x\\_\\allowbreak{}y \\& 5 \\% of \\textbf{c} \\texttt{d\\_\\allowbreak{}e}, "
        "\\href{https://g.h/?i=1\\&j}{f}, $\\alpha_1$ $\\chi$$^2$ $\\ge$ U+2713\n\n"
        "\\[k\\]\n\n\\begin{itemize}\n\\item l\n\\end{itemize}\n\n\\begin{enumerate}\n\\item m\n\\end{enumerate}\n\n"
    )
    rows = latex.latex("| a | n |\n| --- | ---: |\n| [x] | 1 |\n| a cell that has many letters | 2 |\n")
    assert "\\toprule\na & n \\\\\n\\midrule" in rows and "\n{[}x{]} & 1 \\\\\n" in rows and "\\linewidth}r@{}" in rows


def test_marks_of_the_ledger_do_not_widen_a_column():
    def columns(number):
        return re.search(r"longtable\}\{(.*)\}", latex.latex(f"| a |\n| --- |\n| {number} |\n"))[1]

    assert columns("\ue00012345678\ue0013.5 of 20 points\ue002") == columns("3.5 of 20 points")
    assert columns("3.5 of 20 points" * 9) != columns("3.5 of 20 points")


def test_a_claim_with_nothing_but_values_of_the_paper_is_not_decided(tmp_path):
    page = tmp_path / "10_full_parameter"
    page.mkdir()
    verdict = replace(verdict_on("C2", "Re", 2.0, "of the paper: 2"), evidence="paper")
    (page / "verdicts.json").write_text(json.dumps(stored([verdict])), encoding="utf-8")
    (page / "manifest.json").write_text(json.dumps({"parameters": {}, "seconds": 1.0, "peak_mib": 1, "files": {}}))
    site = Site("standard", (Entry(page.name, "x"),), tmp_path, NOTEBOOKS)
    text = passages.Passages(site, [Row(page.name, verdict, "")], [], ledger.Ledger(tmp_path)).result("C2")
    assert text.startswith("**–** not tested.\n") and "Decided by" not in text and "of the paper" in text


def test_text_of_a_report_shows_as_it_is_in_markdown():
    odd = "a*b*_c_ $x$ | \\ `d_e`"
    shown = article.markdown(ledger.plain_text(odd), Place(Path(), Path()), escape=True)
    assert re.sub("<[^>]+>", "", html.unescape(shown)).strip() == odd.replace("`", "")


def test_without_tex_the_reason_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "article.pdf").write_text("old")
    monkeypatch.setenv("PATH", "")
    assert latex.pdf(tmp_path / "article.tex") == "no pdflatex is at hand here"
    assert not (tmp_path / "article.pdf").exists()


@needs_tex
def test_tex_that_cannot_be_set_is_told_in_one_line(tmp_path):
    source = tmp_path / "article.tex"
    source.write_text("\\documentclass{article}\\begin{document}\\nonsense\\end{document}")
    assert latex.pdf(source) == "pdflatex: ! Undefined control sequence."


@needs_tex
def test_the_article_can_be_set_and_is_the_same_each_time(written):
    source = written / "article" / "article.tex"
    try:
        assert latex.pdf(source) == ""
        first = source.with_suffix(".pdf").read_bytes()
        assert first.startswith(b"%PDF") and latex.pdf(source) == ""
        assert source.with_suffix(".pdf").read_bytes() == first
    finally:
        source.with_suffix(".pdf").unlink(missing_ok=True)
