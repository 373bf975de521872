"""A report is held against its CSV files and hashes: what was touched is named."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from fedauto_core.errors import InputError
from fedauto_core.report import claims, contests, evidence, overview, record, verify
from fedauto_core.report.folder import file_hashes, log_file, write_json
from fedauto_core.report.judging import judged
from fedauto_core.report.sources import NOTEBOOKS
from fedauto_core.report.verdicts import Verdict, read_verdicts

GAINS = pd.DataFrame({"seed": range(4), "gain": [1.0, 1.5, 0.9, 4 / 3]})
SAID = {"claim": "C7", "statement": "gain", "unit": "points", "evidence": "gains"}


def seal(page, **more):
    """Write the manifest of what lies there."""
    manifest = {"parameters": {}, "seconds": 1.0, "peak_mib": None, "files": file_hashes(page)}
    write_json(page / "manifest.json", manifest | more)


def summarise(out):
    rows = evidence.verdict_rows(out, [page.name for page in out.iterdir() if page.is_dir()])
    (out / "claims.md").write_text(overview.claims_page(rows, "tiny"), encoding="utf-8")


def write_page(out, name, monkeypatch, own=()):
    """A finished page with one verdict from its CSV file, and those of the notebook's `own` lines."""
    monkeypatch.setenv("FEDAUTO_OUTPUT", str(out / name))
    page = record.Page(name, {})
    page.table(GAINS, "gains", "One row per seed.")
    page.judge(claims.mean_of_column, {"table": "gains"}, **SAID, column="gain")
    for verdict in own:
        page.verdict(verdict)
    seal(page.folder)
    summarise(out)
    return page.folder


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "display", lambda *_, **__: None)
    return write_page(tmp_path, "nb", monkeypatch)


def verified(capsys, out, status=1):
    capsys.readouterr()
    assert verify.run_verify(out) == status
    return capsys.readouterr().out


def test_an_untouched_report_is_what_it_says(page, capsys):
    out = verified(capsys, page.parent, 0)
    assert out == "1 pages, 1 verdicts computed again from their CSV files: 0 differences\n"


def damage_one_value(page):
    path = page / "gains.csv"
    path.write_text(path.read_text().replace("1,1.5", "1,-1.5"))


def test_one_other_value_in_a_csv_file_is_found_twice(page, capsys):
    damage_one_value(page)
    out = verified(capsys, page.parent)
    assert "nb: gains.csv has another hash than in the manifest\n" in out
    assert "nb: verdict on C7, gains: mark, effect, low, high not as stored: [Re] +1.18" in out
    assert "the CSV files give [~] +0.433" in out and "2 differences" in out


def test_another_value_with_its_hash_mended_is_found_by_its_verdict(page, capsys):
    damage_one_value(page)
    seal(page)
    out = verified(capsys, page.parent)
    assert "has another hash" not in out and "1 differences" in out and "[~] +0.433" in out


@pytest.mark.parametrize("name", ["gains.csv", "gains.md", "products.json", "verdicts.json"])
def test_one_other_hash_is_found(page, capsys, name):
    files = file_hashes(page)
    seal(page, files=files | {name: "0" * 64})
    assert verified(capsys, page.parent).startswith(f"nb: {name} has another hash than in the manifest\n1 pages")


def test_a_missing_file_is_named_and_one_of_the_reader_is_not_looked_at(page, capsys):
    (page / "notes.md").touch()
    verified(capsys, page.parent, 0)
    (page / "gains.md").unlink()
    assert verified(capsys, page.parent).startswith("nb: gains.md is missing\n1 pages")


def test_a_page_without_its_manifest_and_a_verdict_that_is_gone_are_found(page, capsys):
    (page / "verdicts.json").write_text("[]")
    seal(page)
    gone = "claims.md: C7 does not stand there with the mark of its verdicts, –\n"
    assert verified(capsys, page.parent).startswith(f"{gone}claims.md has 1 verdicts, the pages have 0\n")
    (page / "manifest.json").unlink()
    assert "nb: its manifest.json is damaged or missing\n" in verified(capsys, page.parent)


@pytest.mark.parametrize("change", [{"mark": "=", "statement": "lost"}, {"effect": 0.8}, {"low": None}, {"seeds": 5}])
def test_a_verdict_that_was_edited_is_found(page, capsys, change):
    path = page / "verdicts.json"
    (row,) = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, [row | change])
    seal(page)
    out = verified(capsys, page.parent)
    assert f"verdict on C7, gains: {', '.join(sorted(change, reverse=True))} not as stored" in out or all(
        key in out.partition(" not as stored")[0] for key in change
    )
    assert "claims.md: the verdict of nb on C7, gains, is not there as stored" in out


def test_what_the_front_page_says_is_held_against_the_verdicts(page, capsys):
    path = page.parent / "claims.md"
    path.write_text(path.read_text(encoding="utf-8").replace("+1.18", "+11.8"), encoding="utf-8")
    assert "claims.md: the verdict of nb on C7" in verified(capsys, page.parent)
    path.unlink()
    assert "claims.md: the verdict of nb on C7" in verified(capsys, page.parent)


@pytest.mark.parametrize(
    ("basis", "message"),
    [
        ({"rule": "luck"}, "unknown rule 'luck'. Allowed: beats_all, "),
        ({"tables": {"table": "nowhere"}}, "tables {'table': 'nowhere'}. Allowed: gains."),
        ({"tables": {"table": "../nb/gains"}}, "tables {'table': '../nb/gains'}"),
        ({"options": {}}, "TypeError"),
        ({"options": SAID | {"column": "loss"}}, "KeyError"),
    ],
)
def test_a_basis_that_does_not_hold_is_a_difference_of_its_own(page, capsys, basis, message):
    path = page / "verdicts.json"
    (row,) = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, [row | {"basis": row["basis"] | basis}])
    out = verified(capsys, page.parent)
    assert "nb: verdict on C7, gains: cannot be computed again: " in out and message in out


def test_damaged_state_is_named(page, capsys):
    (page / "verdicts.json").write_text("[")
    assert "nb: verdicts.json has another hash" in verified(capsys, page.parent)
    (page / "manifest.json").write_text("{")
    assert verified(capsys, page.parent).startswith("nb: its manifest.json is damaged or missing\n")


def test_verdicts_of_the_notebook_s_own_lines_are_counted(tmp_path, page, capsys, monkeypatch):
    own = [Verdict("C6", f"bound {k}", "Re", 0.5, 0.5, 0.5, 1, "ratio", "gains") for k in range(2)]
    write_page(tmp_path, "theory", monkeypatch, own)
    out = verified(capsys, tmp_path, 0)
    assert out.startswith("2 pages, 2 verdicts computed again")
    assert "\n2 verdicts are computed by lines of their notebook, not from CSV: 2 of theory (C6, gains)\n" in out


def test_a_page_made_from_other_verdicts_than_those_there_is_found(tmp_path, page, capsys, monkeypatch):
    review = write_page(tmp_path, "review", monkeypatch)
    read = {"nb": file_hashes(page)["verdicts.json"]}
    seal(review, verdicts_sha256=read)
    verified(capsys, tmp_path, 0)
    seal(review, verdicts_sha256=read | {"nb": "0", "gone": "0"})
    out = verified(capsys, tmp_path)
    assert "review: verdicts of gone is missing\nreview: verdicts of nb has another hash" in out


def test_pages_of_failed_notebooks_are_left_out_and_no_report_is_refused(tmp_path, page, capsys):
    log = log_file(tmp_path, "nb")
    log.parent.mkdir()
    log.touch()
    summarise(tmp_path)
    assert verified(capsys, tmp_path, 0).startswith("0 pages")
    with pytest.raises(InputError, match=r"no pages in .*nowhere\. Allowed: a report.*reports/standard"):
        verify.run_verify(tmp_path / "nowhere")


def test_what_notebooks_ask_for_is_a_rule():
    asked = {
        name
        for path in NOTEBOOKS.glob("*.ipynb")
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        for name in re.findall(r"page\.judge\(\s*\w+\.(\w+),", "".join(cell["source"]))
    }
    assert {"beats_all", "factorial"} <= asked <= verify.RULES.keys()


def write(folder, slug, frame):
    frame.to_csv(folder / f"{slug}.csv", index=False)


def runs_of(rng, labels, scenarios=("none", "1"), seeds=5):
    rows = [
        {"label": label, "scenario": scenario, "seed": seed, "late_gain": 0.1, "points": 70 + 3 * k * bool(i) + noise}
        for i, scenario in enumerate(scenarios)
        for k, label in enumerate(labels)
        for seed, noise in enumerate(rng.normal(0, 0.3, seeds))
    ]
    return pd.DataFrame(rows)


PLAIN = ("fedavg", "fedavg_ideal")


def test_a_contest_is_judged_from_the_runs_as_from_its_comparisons(tmp_path):
    """ "none" is harmless, in "1" FedAuto is ahead of a, whom b repeats, and level with nobody; a scenario called
    1 is a name."""
    runs = runs_of(np.random.default_rng(0), ["fedavg", "a", "fedauto", "fedavg_ideal"])
    runs = pd.concat([runs, runs[runs["label"] == "a"].assign(label="b")])
    write(tmp_path, "final", runs)
    rivals = {"fedavg": "aggregation", "a": "optimiser", "b": "optimiser"}
    harmless = contests.harmless_scenarios(runs, "points")
    assert harmless == ["none"]
    settled = contests.settled_comparisons(runs, "fedauto", rivals, "fedavg_ideal")
    comparisons = contests.against(runs, "fedauto", rivals, "points", harmless=harmless, settled=settled, pages=2)
    sizes = {family: len(rows) for family, rows in contests.families(comparisons)}
    assert sizes == {"aggregation": 1, "optimiser": 1, "all rivals": 2}
    for family, rows in contests.families(comparisons):
        here = {"claim": "C2", "where": family, "unit": "points", "evidence": "e"}
        options = here | {"method": "fedauto", "rivals": rivals, "family": family, "pages": 2}
        found = judged(tmp_path, contests.beats_all, {"runs": "final"}, options)
        expected = contests.beats_all_verdict("C2", rows, family, "points", "e")
        assert (found.statement, found.mark, found.seeds) == (expected.statement, "Re", 5)
        assert (found.effect, found.low) == pytest.approx((expected.effect, expected.low))
    write(tmp_path, "split", runs.assign(radio="best"))
    named = {key: f"{name}, best" for key, name in zip(("method", "plain", "ideal"), ("fedauto", *PLAIN), strict=True)}
    options |= named | {"labels": ["label", "radio"], "rivals": {f"{rival}, best": c for rival, c in rivals.items()}}
    again = judged(tmp_path, contests.beats_all, {"runs": "split"}, options)
    assert (again.effect, again.low, again.mark) == (found.effect, found.low, "Re")


def test_the_factorial_is_judged_from_the_runs(tmp_path):
    cells = [(failures, skewed) for failures in (False, True) for skewed in (False, True)]
    rows = [
        (failures, skewed, network, seed, 80 - 2 * failures - skewed - 4 * failures * skewed + 0.1 * seed * failures)
        for failures, skewed in cells
        for network in (("x", "y") if failures else ("none",))
        for seed in range(3)
    ]
    runs = pd.DataFrame(rows, columns=["failures", "skewed", "network", "seed", "points"])
    write(tmp_path, "runs", runs)
    said = {"claim": "C1", "case": "here", "unit": "points", "evidence": "e", "metric": "points"}
    for where in ({"network": ["none", "x"]}, {"network": ["none", "x", "y"]}):
        options = said | {"part": "interaction", "where": where}
        found = judged(tmp_path, claims.factorial, {"runs": "runs"}, options)
        assert (found.effect, found.mark, found.seeds) == (pytest.approx(4), "Re", 3)
        assert found.statement == "here, interaction. Points lost: failures 1.9, skew 1.0, both 6.9"


def test_a_difference_is_judged_from_the_runs(tmp_path):
    write(tmp_path, "runs", runs_of(np.random.default_rng(1), ["a", "b"]))
    sides = {"better": {"label": "b", "scenario": "1"}, "worse": {"label": "a", "scenario": "1"}}
    found = judged(tmp_path, claims.difference, {"runs": "runs"}, SAID | {"metric": "points"} | sides)
    runs = runs_of(np.random.default_rng(1), ["a", "b"])
    expected = claims.interval(claims.paired(runs, "points", *sides.values()))
    assert (found.effect, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high))


@pytest.mark.parametrize(
    ("by", "margin", "mark"), [(3.0, 1.0, "Re"), (0.5, 1.0, "="), (0.5, 0.1, "Re"), (-3, 1, "¬Re")]
)
def test_a_mean_lead_is_that_over_the_scenarios_named(tmp_path, by, margin, mark):
    shift = {"F0": 99.0, "x": by - 1, "y": by + 1}
    rows = [
        (where, label, seed, 70.0 + seed + (label == "b") * (shift[where] + 0.01 * seed))
        for where in shift
        for label in "ab"
        for seed in range(4)
    ]
    write(tmp_path, "runs", pd.DataFrame(rows, columns=["scenario", "label", "seed", "points"]))
    sides = {"better": {"label": "b"}, "worse": {"label": "a"}, "scenarios": ["x", "y"], "margin": margin}
    found = judged(tmp_path, claims.mean_lead, {"runs": "runs"}, SAID | {"metric": "points"} | sides)
    assert (found.mark, found.effect, found.seeds) == (mark, pytest.approx(by + 0.015), 4)


@pytest.mark.parametrize(("own", "told", "mark"), [(0.0, 0.2, "own"), (0.1, 0.2, "¬Re"), (0.0, 0.0, "~")])
def test_nothing_changes_for_who_is_not_told(tmp_path, own, told, mark):
    write(tmp_path, "told", pd.DataFrame({"fedauto": [0, own], "oracle": [told, 1.0]}))
    options = {"claim": "C5", "where": "here", "unit": "loss", "evidence": "told", "seeds": 2, "method": "fedauto"}
    found = judged(tmp_path, claims.untouched, {"changes": "told"}, options | {"told": ["oracle"]})
    assert (found.mark, found.effect, found.low, found.high) == (mark, own, own, own)


LADDER = {"inequality": "S3 noise", "tried": 5, "violated": 0, "worst ratio": 0.9, "largest attained": 1.0}
LADDER |= {"assumptions needed": "A3 variance, none", "counter-examples": 1, "mutants caught": "2 of 3"}


@pytest.mark.parametrize(
    ("change", "mark"),
    [
        ({}, "own"),
        ({"violated": 1}, "¬Re"),
        ({"largest attained": 1.001}, "¬Re"),
        ({"largest attained": 1 + 1e-9}, "own"),
        ({"assumptions needed": "A3 variance, nothing"}, "¬Re"),
        ({"tried": 0}, "~"),
    ],
)
def test_an_inequality_is_judged_from_its_rung(tmp_path, change, mark):
    write(tmp_path, "ladder", pd.DataFrame([LADDER | {"inequality": "S1", "worst ratio": 0.1}, LADDER | change]))
    options = {"claim": "C6", "unit": "ratio", "evidence": "ladder", "inequality": "S3 noise", "applies": "every run"}
    found = judged(tmp_path, claims.rung, {"ladder": "ladder"}, options)
    assert (found.mark, found.effect, found.high) == (mark, 0.9, 0.9)
    assert found.statement.startswith("S3 noise: ") and found.statement.endswith("of 3; applies to: every run")


@pytest.mark.parametrize(("counts", "mark"), [((0, 0), "own"), ((1, 0), "¬Re"), ((0, 2), "~"), ((1, 2), "¬Re")])
def test_many_checks_are_judged_from_their_extremes_and_counts(tmp_path, counts, mark):
    write(tmp_path, "worst", pd.DataFrame({"ratio": [0.5, 0.9, 0.7]}))
    write(tmp_path, "counts", pd.DataFrame([counts], columns=["refuting", "open"]))
    options = {"claim": "C6", "statement": "s", "unit": "ratio", "evidence": "e", "ratio": "ratio"}
    tables = {"worst": "worst", "counts": "counts"}
    found = judged(tmp_path, claims.bounded, tables, options | {"spread": "range", "seeds": 3})
    assert (found.mark, found.effect, found.low, found.high) == (mark, 0.9, 0.5, 0.9)


def test_a_basis_comes_back_as_it_was(page):
    (verdict,) = read_verdicts(page)
    assert verdict.basis == {
        "rule": "mean_of_column",
        "tables": {"table": "gains"},
        "options": SAID | {"column": "gain"},
    }
