"""The paper's values beside ours, with made-up values: which stand where, deviations, verdicts on values and order."""

import pandas as pd
import pytest

from fedauto_core import InputError
from fedauto_core.report import paper, record
from fedauto_core.report.plan import read_profile
from fedauto_core.report.sources import NOTEBOOKS
from fedauto_core.report.verdicts import read_verdicts

HEAD = "table,row,column,value\n"
OURS = {("fedauto", "F0"): 80.0, ("fedavg", "F0"): 79.0, ("fedauto", "F7"): 78.0, ("fedavg", "F7"): 70.0}
SUMMARY = pd.DataFrame(
    {"label": label, "scenario": scenario, "seed": seed, "points": points + (seed - 1) * 0.1}
    for (label, scenario), points in OURS.items()
    for seed in range(3)
)


@pytest.fixture
def values(tmp_path):
    def write(*rows, head=HEAD):
        path = tmp_path / "paper_values.csv"
        path.write_text(head + "".join(f"{row}\n" for row in rows), encoding="utf-8")
        return path

    return write


def test_without_the_paper_nothing_is_shown():
    assert paper.VALUES.read_text() == HEAD
    assert paper.beside(SUMMARY, "").empty
    with pytest.raises(InputError, match="unknown table of the paper 'Table 2'"):
        paper.beside(SUMMARY, "Table 2")


def test_values_stand_beside_ours_with_the_deviation(values):
    path = values("Table 2,fedavg,F7,69.5", "Table 2,fedauto,F7,79", "Table 3,fedavg,F0,1")
    held = paper.beside(SUMMARY, "Table 2", path).set_index("label")
    assert held["ours"].tolist() == pytest.approx([70, 78]) and held["n"].tolist() == [3, 3]
    assert held["deviation"].tolist() == pytest.approx([0.5, -1])
    reach = 0.1 / 3**0.5 * 4.302653  # t quantile with 2 degrees of freedom
    assert held.loc["fedavg", ["low", "high"]].tolist() == pytest.approx([0.5 - reach, 0.5 + reach])
    assert len(paper.figure(held.reset_index()).axes) == 1


def test_the_page_shows_both_and_judges_them(values, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDAUTO_OUTPUT", str(tmp_path / "page"))
    page = record.Page("10_full_parameter", {})
    paper.show(page, "C2", SUMMARY, "", "digits, mlp")
    assert not list((tmp_path / "page").iterdir())
    page.data(SUMMARY, "final", "One row per run.")
    path = values("T,fedavg,F7,70", "T,fedauto,F7,78", "T,fedavg,F0,79.5", "T,fedauto,F0,80")
    paper.show(page, "C2", SUMMARY, "T", "digits, mlp", path)
    verdicts = read_verdicts(tmp_path / "page")
    assert [(v.statement.split(": ")[1], v.mark) for v in verdicts] == [("order", "Re"), ("value", "Re")]
    assert len(pd.read_csv(tmp_path / "page" / "paper.csv")) == 4 and (tmp_path / "page" / "paper_figure.svg").exists()


@pytest.mark.parametrize(
    ("fedavg", "fedauto", "mark"), [(69.9, 78.1, "Re"), (69.0, 78.0, "~"), (60.0, 78.0, "¬Re"), (80.0, 78.0, "¬Re")]
)
def test_a_value_is_the_papers_within_the_margin(values, fedavg, fedauto, mark):
    held = paper.beside(SUMMARY, "T", values(f"T,fedavg,F7,{fedavg}", f"T,fedauto,F7,{fedauto}"))
    verdict = paper.value_verdict("C2", held, "here", "paper")
    assert verdict.mark == mark and "here: value: " in verdict.statement
    assert verdict.effect == pytest.approx(max(70 - fedavg, 78 - fedauto, key=abs))


@pytest.mark.parametrize(
    ("rows", "mark", "effect"),
    [
        (("T,fedavg,F7,1", "T,fedauto,F7,2", "T,fedavg,F0,1", "T,fedauto,F0,2"), "Re", 1),
        (("T,fedavg,F7,2", "T,fedauto,F7,1", "T,fedavg,F0,1", "T,fedauto,F0,2"), "¬Re", -8),
    ],
)
def test_the_order_is_the_papers_if_every_pair_stands_as_there(values, rows, mark, effect):
    held = paper.beside(SUMMARY, "T", values(*rows))
    verdict = paper.order_verdict("C2", SUMMARY, held, "here", "paper")
    assert verdict.mark == mark and verdict.effect == pytest.approx(effect)
    unsure = SUMMARY.assign(points=SUMMARY["points"] + 30 * (SUMMARY["seed"] == 0) * (SUMMARY["label"] == "fedavg"))
    assert paper.order_verdict("C2", unsure, held, "here", "paper").mark == "~"


def test_an_order_needs_two_values(values):
    held = paper.beside(SUMMARY, "T", values("T,fedavg,F7,1", "T,fedavg,F0,2"))
    with pytest.raises(InputError, match="no two values of the paper to order"):
        paper.order_verdict("C2", SUMMARY, held, "here", "paper")


def test_every_setting_of_the_profile_says_where_the_paper_has_it():
    lines = (NOTEBOOKS / "profiles" / "paper.yaml").read_text(encoding="utf-8").splitlines()
    settings = [line for line in lines if line.startswith("    ")]
    assert {job.name for job in read_profile("paper")} == {"10_full_parameter", "11_lora", "30_review"}
    assert len(settings) > 30 and [line for line in settings if "  # " not in line] == []


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (("T,fedavg,F7,1", "T,fedavg,F7,2"), "a value stands twice"),
        (("T,fedavg,F7,", "T,fedauto,F7,2"), "an entry is missing"),
        (("T,fedavg,F7,much",), "could not convert"),
        (("T,fedavg,F9,1",), "unknown scenario of the paper's values 'F9'"),
        (("T,fedprox,F7,1",), "unknown label of the paper's values 'fedprox'"),
    ],
)
def test_a_damaged_file_is_refused(values, rows, problem):
    with pytest.raises(InputError, match=problem):
        paper.beside(SUMMARY, "T", values(*rows))


def test_a_file_that_is_none_is_refused(values):
    for path in (values(head="table,row\n"), values(head="").with_name("missing.csv")):
        with pytest.raises(InputError, match="columns table, row, column, value"):
            paper.beside(SUMMARY, "T", path)
