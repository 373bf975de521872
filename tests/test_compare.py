"""Two reports, and a page computed anew: what is the same, and in which sense."""

import math
from dataclasses import replace

import pandas as pd
import pytest
from notebook_factory import write_notebook, write_profile

from fedauto_core.errors import InputError
from fedauto_core.report import compare, reproduce
from fedauto_core.report.folder import file_hashes, write_json
from fedauto_core.report.verdicts import Verdict, stored

FIRST = Verdict("C2", "data, optimiser: 3 comparisons", "~", 0.5, -0.5, 1.5, 5, "points", "e")
SECOND = Verdict("C2", "data, all rivals: 5 comparisons", "Re", 1.0, 0.5, 1.5, 5, "points", "e")
FRAME = pd.DataFrame({"label": ["a", "b"], "points": [70.0, -80.0], "seed": [0, 1]})


def write_page(folder, verdicts=(FIRST, SECOND), frames=None, **manifest):
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in {"final": FRAME, **(frames or {})}.items():
        frame.to_csv(folder / f"{name}.csv", index=False)
    write_json(folder / "verdicts.json", stored(verdicts))
    state = {"parameters": {"seeds": 5}, "seconds": 10.0, "peak_mib": 100, "files": file_hashes(folder)}
    write_json(folder / "manifest.json", state | manifest)


@pytest.mark.parametrize(
    ("other", "changed"),
    [
        (FIRST, ""),
        (replace(FIRST, statement="data, optimiser: 4 comparisons"), ""),
        (replace(FIRST, effect=0.6), "numbers"),
        (replace(FIRST, low=-0.4), "numbers"),
        (replace(FIRST, effect=1.6), "effect"),
        (replace(FIRST, mark="Re", effect=1.6), "mark"),
        (replace(FIRST, evidence="f"), "only in A"),
    ],
)
def test_what_changed_between_two_verdicts(tmp_path, other, changed):
    write_page(tmp_path / "a" / "10_x")
    write_page(tmp_path / "b" / "10_x", (other, SECOND))
    found = compare.verdicts_of(tmp_path / "a", tmp_path / "b").set_index("what")
    rows = found.loc[["data, optimiser"], "changed"].tolist()
    assert rows == ([changed, "only in B"] if changed == "only in A" else [changed])
    assert found.loc["data, all rivals", ["mark A", "mark B", "changed"]].tolist() == ["[Re]", "[Re]", ""]


def test_verdicts_on_one_subject_are_matched_in_their_order():
    others = [replace(FIRST, effect=effect) for effect in (1.0, 2.0, 3.0)]
    assert list(compare.pairs([FIRST, FIRST], others)) == [(FIRST, others[0]), (FIRST, others[1]), (None, others[2])]


def test_two_reports_side_by_side(tmp_path, capsys):
    write_page(tmp_path / "a" / "10_x", seconds=60.0)
    write_page(tmp_path / "b" / "10_x", (FIRST, replace(SECOND, mark="~")), seconds=20.0, parameters={"seeds": 3})
    write_page(tmp_path / "b" / "11_y", ())
    assert compare.run_compare(tmp_path / "a", tmp_path / "b", tmp_path / "out" / "deep") == 0
    out = capsys.readouterr().out
    assert "| 10_x | C2 | data, all rivals | [Re] | [~] | +1 [+0.5, +1.5] points" in out and "optimiser" not in out
    assert "| 10_x | 60 | 20 | 100 | 100 | seeds 5 → 3 |" in out and "| 11_y |  | 10 |  | 100 | only in one" in out
    assert out.endswith("2 verdicts: 1 mark; 60 and 30 seconds\n")
    assert len(pd.read_csv(tmp_path / "out" / "deep" / "pages.csv")) == 2
    assert compare.run_compare(tmp_path / "a", tmp_path / "a") == 0
    assert capsys.readouterr().out.startswith("no verdict differs\n")
    with pytest.raises(InputError, match=r"no pages in .*nowhere"):
        compare.run_compare(tmp_path / "a", tmp_path / "nowhere")


def changed(**columns):
    return FRAME.assign(**columns)


@pytest.mark.parametrize(
    ("frame", "kind", "what"),
    [
        (FRAME, "bit-identical", ""),
        (changed(points=[70.0, -80.0001]), "to rounding", "up to 1e-06 of the largest number in the column 'points'"),
        (changed(points=[70.0, -80.1]), "different", "up to 0.001 of the largest number in the column 'points'"),
        (changed(points=[70.0, math.nan]), "different", "up to inf of the largest number in the column 'points'"),
        (changed(label=["a", "c"]), "different", "other values in the column 'label'"),
        (FRAME[:1], "different", "2 x 3 then, 1 x 3 now"),
        (FRAME.rename(columns={"seed": "run"}), "different", "2 x 3 then, 2 x 3 now"),
    ],
)
def test_the_class_of_a_table(tmp_path, frame, kind, what):
    write_page(tmp_path / "old")
    write_page(tmp_path / "new", frames={"final": frame})
    first, *_ = reproduce.differences(tmp_path / "old", tmp_path / "new")
    assert first == ("final.csv", kind, what)


def test_missing_values_that_stay_missing_are_the_same(tmp_path):
    for name, last in (("old", 1.0), ("new", 1.0 + 1e-9)):
        write_page(tmp_path / name, frames={"gaps": pd.DataFrame({"x": [math.nan, math.inf, last]})})
    found = {one.file: one.kind for one in reproduce.differences(tmp_path / "old", tmp_path / "new")}
    assert found["gaps.csv"] == "to rounding" and found["final.csv"] == "bit-identical"


@pytest.mark.parametrize(
    ("verdicts", "frames", "kind"),
    [
        ((FIRST, SECOND), {}, "bit-identical"),
        ((replace(FIRST, effect=0.5 + 1e-9), SECOND), {}, "to rounding"),
        ((FIRST, SECOND), {"final": changed(points=[70.0, -80.0001])}, "to rounding"),
        ((replace(FIRST, effect=1.4), SECOND), {"final": changed(points=[1, 2])}, "statistical"),
        ((replace(FIRST, effect=1.6), SECOND), {}, "different"),
        ((replace(FIRST, effect=0.4, mark="="), SECOND), {}, "statistical"),
        ((replace(FIRST, effect=0.4, mark="¬Re"), SECOND), {}, "different"),
        ((FIRST,), {}, "different"),
        ((FIRST, SECOND), {"new": FRAME}, "statistical"),
    ],
)
def test_the_class_of_a_page(tmp_path, verdicts, frames, kind):
    write_page(tmp_path / "old")
    write_page(tmp_path / "new", verdicts, frames)
    assert reproduce.page_class(reproduce.differences(tmp_path / "old", tmp_path / "new")) == kind


def test_a_page_without_verdicts_whose_numbers_moved_is_different(tmp_path):
    write_page(tmp_path / "old", ())
    write_page(tmp_path / "new", (), {"final": changed(points=[1, 2])})
    assert reproduce.page_class(reproduce.differences(tmp_path / "old", tmp_path / "new")) == "different"


@pytest.fixture
def anew(tmp_path, monkeypatch):
    """`run_reproduce` of a page whose run takes no time and gives `verdicts`."""
    parameters = "seeds: int = 3  # repetitions\nname: str = 'a'  # which"
    write_notebook(tmp_path / "notebooks", "10_x", "1", parameters=parameters)
    write_notebook(tmp_path / "notebooks", "30_review", "1")
    write_profile(tmp_path / "notebooks", "10_x: {minutes: 1}\n30_review: {minutes: 1, after: all}\n")
    write_page(tmp_path / "report" / "10_x", parameters={"seeds": 5, "name": "a"}, versions={"numpy": "1"})
    calls = []

    def run(verdicts=(FIRST, SECOND), status=0, name="10_x", **options):
        def batch(profile, *, out, **options):
            calls.append(options)
            write_page(out / name, verdicts, versions={"numpy": "2"})
            return status

        monkeypatch.setattr(reproduce, "run_report", batch)
        where = {"report": tmp_path / "report", "out": tmp_path / "new", "notebooks_dir": tmp_path / "notebooks"}
        return reproduce.run_reproduce(name, "tiny", **where | options), calls

    return run


def test_a_page_is_run_afresh_with_the_parameters_it_was_made_with(anew, capsys):
    status, calls = anew(jobs=1)
    assert status == 0 and calls[0]["fresh"] and calls[0]["only"] == ["10_x"] and calls[0]["settings"] == ["seeds=5"]
    out = capsys.readouterr().out
    assert "10_x: bit-identical (3 of 3 files and verdicts bit-identical; asked for: statistical)\n" in out
    assert out.endswith("other packages than then: numpy 1 → 2\n")


@pytest.mark.parametrize(
    ("effect", "at_least", "status"), [(1.0, "statistical", 0), (1.0, "to rounding", 1), (9.0, "statistical", 1)]
)
def test_the_exit_status_says_whether_what_was_asked_for_is_reached(anew, capsys, effect, at_least, status):
    assert anew((replace(FIRST, effect=effect), SECOND), at_least=at_least)[0] == status
    kind = "statistical" if effect < 9 else "different"
    said = f"verdict on C2, data, optimiser: {kind}, [~] 0.5 [-0.5, 1.5] then, [~] {effect:g} now"
    assert said in capsys.readouterr().out


def test_a_run_that_fails_is_no_reproduction(anew):
    assert anew(status=1)[0] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "30_review"}, "unknown page that reads no others '30_review'. Allowed: 10_x"),
        ({"name": "10_*"}, "unknown page that reads no others"),
        ({"at_least": "roughly"}, "unknown class 'roughly'. Allowed: bit-identical, statistical, to rounding"),
    ],
)
def test_what_cannot_be_reproduced_is_refused(anew, options, message):
    with pytest.raises(InputError) as error:
        anew(**options)
    assert message in str(error.value)


def test_a_page_that_was_never_run_is_refused_with_the_remedy(anew, tmp_path):
    with pytest.raises(InputError, match=r"no finished page 10_x in .*`report --profile tiny --only 10_x` first"):
        anew(report=tmp_path / "elsewhere")
