"""What a notebook leaves behind is complete and tidy; that its bytes never change is tested in test_worker.py."""

import json
import math

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from fedauto_core.errors import InputError
from fedauto_core.report import folder, record, verdicts
from fedauto_core.report.verdicts import Verdict

MANIFEST = {"parameters": {}, "seconds": 1.0, "peak_mib": None, "files": {}}
FRAME = pd.DataFrame({"x": [1, 2], "y": [0.1, 1 / 3]})


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDAUTO_OUTPUT", str(tmp_path / "out"))
    return record.Page("nb", {"seeds": 3})


@pytest.fixture
def shown(monkeypatch):
    """What the page displays, as (object, metadata)."""
    items = []
    monkeypatch.setattr(record, "display", lambda item, metadata=None, **_: items.append((item, metadata)))
    return items


def figure():
    fig, ax = plt.subplots(figsize=(2, 2))
    ax.plot(FRAME["x"], FRAME["y"], marker="o")
    return fig


def verdict(**changes):
    values = dict(claim="C1", statement="s", mark="Re", effect=0.5, low=0.25, high=0.75, seeds=3, unit="points")
    return Verdict(**(values | {"evidence": "table"} | changes))


def test_figure_leaves_svg_png_csv_and_is_closed(page, shown):
    drawn = figure()
    page.figure(drawn, "line", FRAME, "A line.")
    assert {path.name for path in page.folder.iterdir()} == {"line.svg", "line.png", "line.csv", "products.json"}
    assert (page.folder / "line.csv").read_text() == "x,y\n1,0.1\n2,0.3333333\n"
    assert not plt.fignum_exists(drawn.number)
    (image, metadata), (caption, _) = shown
    assert image.data == (page.folder / "line.png").read_bytes()
    assert metadata == {"fedauto": {"slug": "line", "kind": "figure", "caption": "A line."}}
    assert caption.data == "**Figure.** A line."


def test_table_renders_markdown_and_latex_from_the_csv(page, shown):
    frame = pd.DataFrame({"a_b": ["x|y", "50 %"], "value": [1 / 3, math.nan], "n": [123456, 2]})
    page.table(frame, "table", "Numbers.")
    assert (page.folder / "table.csv").read_text() == "a_b,value,n\nx|y,0.3333333,123456\n50 %,,2\n"
    assert (page.folder / "table.md").read_text() == (
        "| a_b | value | n |\n| --- | ---: | ---: |\n| x\\|y | 0.3333 | 123456 |\n| 50 % |  | 2 |\n\nNumbers.\n"
    )
    latex = (page.folder / "table.tex").read_text()
    assert "a\\_b & value & n" in latex and "50 \\% &  & 2 \\\\" in latex
    assert '<td style="text-align: right">0.3333</td>' in shown[0][0]["text/html"]
    assert "<td>x|y</td>" in shown[0][0]["text/html"]


def test_points_have_one_decimal_and_zero_is_zero(page, shown):
    frame = pd.DataFrame({"rival": ["a", "b", "c"], "mean": [12.0, 0.0, -0.04], "p": [0.5, 0.25, math.inf]})
    page.table(frame, "table", "c", points=["mean"])
    lines = (page.folder / "table.md").read_text().splitlines()
    assert lines[2:5] == ["| a | 12.0 | 0.5 |", "| b | 0 | 0.25 |", "| c | 0.0 | inf |"]
    assert "12.0 & 0.5" in (page.folder / "table.tex").read_text()
    assert (page.folder / "table.csv").read_text() == "rival,mean,p\na,12,0.5\nb,0,0.25\nc,-0.04,inf\n"


def test_html_table_escapes_its_cells(page, shown):
    page.table(pd.DataFrame({"a": ["<b>"]}), "table", "c")
    assert "<td>&lt;b&gt;</td>" in shown[0][0]["text/html"]


@pytest.mark.parametrize("frame", [FRAME.set_index("x"), FRAME.T, FRAME.groupby("x").agg({"y": ["min"]}).reset_index()])
def test_a_frame_that_would_lose_its_index_is_refused(page, frame):
    with pytest.raises(InputError, match=r"frame of 'table'.*tidy frame.*reset_index"):
        page.table(frame, "table", "c")


def test_a_slug_is_a_file_name(page):
    with pytest.raises(InputError, match=r"slug '\.\./x'.*lower-case"):
        page.table(FRAME, "../x", "c")


def test_parameters_are_those_that_the_parameters_cell_declares():
    """Whatever else the kernel has run, in whatever order; the last parameters cell counts."""
    cells = [
        "",
        "%time 1",
        "seeds: int = 1  # n",
        "seeds: int = 3  # n\nlr: float = 0.1  # step",
        "import math\nx: int = 1",
    ]
    namespace = {"In": [*cells, "rows: list[int] = []"], "seeds": 5, "lr": 0.1, "pi": 3.14, "rows": [], "x": 1}
    assert record.parameters(namespace) == {"seeds": 5, "lr": 0.1}
    for nothing in ({"seeds": 3}, {"In": ["", "import math"]}):
        with pytest.raises(InputError, match=r"no parameters cell has been run.*run that cell first"):
            record.parameters(nothing)


def test_parameters_are_plain_values(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDAUTO_OUTPUT", str(tmp_path))
    with pytest.raises(InputError, match=r"parameter lrs = \[1\] of page nb.*bool, int, float or str"):
        record.Page("nb", {"lrs": [1]})


def test_verdicts_accumulate_sorted_and_come_back_as_they_were(page, shown):
    page.table(FRAME, "table", "c")
    late, early = verdict(claim="C2"), verdict(low=-math.inf, high=math.inf, seeds=1)
    for item in (late, early, late):  # a cell that is run twice
        page.verdict(item)
    assert verdicts.read_verdicts(page.folder) == (early, late)
    text = (page.folder / "verdicts.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)[0]["low"] is None
    assert (
        shown[-1][0].data
        == "**[Re] C2.** s. Effect +0.5 [+0.25, +0.75] points (95 % t interval), 3 seeds; evidence: *table*."
    )


def test_open_intervals_and_one_seed_in_words():
    open_ = verdict(low=-math.inf, high=math.inf, seeds=1)
    assert verdicts.describe(open_) == "+0.5 [−∞, +∞] points (95 % t interval), 1 seed"


def test_the_spread_is_named_and_kept(page, shown):
    page.table(FRAME, "table", "c")
    ranged = verdict(spread="range over instances")
    page.verdict(ranged)
    assert verdicts.describe(ranged) == "+0.5 [+0.25, +0.75] points (range over instances), 3 seeds"
    assert verdicts.read_verdicts(page.folder) == (ranged,)


def test_evidence_must_have_been_shown(page):
    with pytest.raises(InputError, match="unknown evidence 'table'"):
        page.verdict(verdict())


def test_report_verdicts_skips_a_notebook_whose_last_run_failed(tmp_path, monkeypatch, shown):
    for name in ("good", "failed"):
        monkeypatch.setenv("FEDAUTO_OUTPUT", str(tmp_path / name))
        page = record.Page(name, {})
        page.table(FRAME, "table", "c")
        page.verdict(verdict())
        folder.write_json(page.folder / "manifest.json", MANIFEST)
    log = folder.log_file(tmp_path, "failed")
    log.parent.mkdir()
    log.touch()
    monkeypatch.setenv("FEDAUTO_REPORT", str(tmp_path))
    assert verdicts.report_verdicts() == {"good": (verdict(),)}


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"null", b"[1]", b'[{"claim": "C1"}]', b'[{"claim": "C99"', bytes(range(256)), None]
)
def test_damaged_verdicts_are_left_out_and_one_line_says_so(tmp_path, capsys, content):
    (tmp_path / "nb").mkdir()
    folder.write_json(tmp_path / "nb" / "manifest.json", MANIFEST)
    path = tmp_path / "nb" / "verdicts.json"
    path.mkdir() if content is None else path.write_bytes(content)
    for _ in range(2):
        assert verdicts.report_verdicts(tmp_path) == {"nb": ()}
    assert capsys.readouterr().err.count("verdicts.json is damaged and counts as not there") == 1


def test_provenance_has_no_path_and_no_time(page, shown):
    page.provenance(data_sha256="abc")
    saved = json.loads((page.folder / "provenance.json").read_text())
    assert set(saved) == {"notebook", "parameters", "versions", "code_sha256", "data_sha256"}
    assert saved["parameters"] == {"seeds": 3}
    assert "| seeds | 3 |" in shown[0][0].data and "| data_sha256 | abc |" in shown[0][0].data
    assert str(page.folder) not in shown[0][0].data


def test_without_the_batch_products_go_to_a_scratch_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("FEDAUTO_OUTPUT", raising=False)
    monkeypatch.setattr(record, "REPORTS", tmp_path)
    assert record.Page("nb", {}).folder == tmp_path / "scratch" / "nb"


def test_lists_of_numbers_are_parsed_or_refused_by_name():
    assert record.numbers(1, int, "arrived") == [1] and record.numbers(0.1, float, "lrs") == [0.1]  # as papermill's -p
    assert record.numbers("1, 20", int, "steps") == [1, 20] and record.numbers("0.1,inf", float, "x") == [0.1, math.inf]
    for text, kind in (("1,2.5", int), ("a", float), ("", float), ("nan", float)):
        with pytest.raises(InputError, match="parameter skews = "):
            record.numbers(text, kind, "skews")
