"""One notebook over a grid: its points, their verdicts in one frame, one page that compares them."""

import re

import numpy as np
import pandas as pd
import pytest
from notebook_factory import write_notebook, write_profile

from fedauto_core.errors import InputError
from fedauto_core.report import plan, sweep
from fedauto_core.report.batch import INTERRUPTED
from fedauto_core.report.folder import write_json
from fedauto_core.report.sources import read_notebooks
from fedauto_core.report.verdicts import Verdict, stored, subject

PARAMETERS = "skew: int = 2  # classes\nlr: float = 0.1  # step\nname: str = 'a'  # which\nsafe: bool = True  # safe"


@pytest.fixture
def folder(tmp_path):
    write_notebook(tmp_path / "notebooks", "01_a", "1", parameters=PARAMETERS)
    write_notebook(tmp_path / "notebooks", "02_b", "1")
    write_profile(tmp_path / "notebooks", "01_a-head: {minutes: 1, parameters: {skew: 3}}\n02_b: {minutes: 1}\n")
    return tmp_path


def points(folder, *grids):
    return plan.spread(plan.select(plan.read_profile("tiny", folder / "notebooks"), ["01_a-head"]), grids)


def test_the_points_are_the_product_and_the_rest_is_as_the_profile_says(folder):
    found = points(folder, "lr=0.1,1e-3", "name=x/../y,z")
    assert [(job.parameters["lr"], job.parameters["name"]) for job in found] == [
        (0.1, "x/../y"), (0.1, "z"), (0.001, "x/../y"), (0.001, "z")
    ]  # fmt: skip
    assert {job.parameters["skew"] for job in found} == {3}
    assert [job.name for job in found][:2] == ["01_a-head-lr_0.1-name_x_.._y", "01_a-head-lr_0.1-name_z"]
    assert all(re.fullmatch(r"[\w.+-]+", job.name) for job in found)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("skew", "--grid 'skew'. Allowed: name=value,value"),
        ("skew=", "--grid 'skew='. Allowed: name=value,value"),
        ("skw=1", "--grid, 01_a: unknown parameter 'skw'. Allowed: lr, name, safe, skew"),
        ("skew=1,b", "--grid: value 'b' for the parameter skew"),
        ("skew=1,,2", "--grid: value '' for the parameter skew"),
        ("skew=1,2,1", "--grid gives two pages the name 01_a-head-skew_1. "),
        ("name=a:b,a;b", "--grid gives two pages the name 01_a-head-name_a_b. "),
    ],
)
def test_a_grid_that_does_not_fit_is_refused(folder, grid, message):
    with pytest.raises(InputError, match=re.escape(message)):
        points(folder, grid)


def verdict(claim, statement, effect, reach=1.0, mark="~"):
    return Verdict(claim, statement, mark, effect, effect - reach, effect + reach, 3, "points", "e")


def leave(out, jobs, left=lambda job: True):
    """The pages of `jobs`: with the effect skew x lr on two families."""
    for job in jobs:
        if left(job):
            effect = job.parameters["skew"] * job.parameters["lr"]
            found = [
                verdict(
                    "C2", f"data, optimiser: {job.name} in 3 comparisons", effect, mark="Re" if effect > 1 else "~"
                ),
                verdict("C2", "data, all rivals: 5 comparisons", -effect, reach=np.inf),
            ]
            write_json(out / job.name / "verdicts.json", stored(found))


@pytest.fixture
def swept(folder, monkeypatch):
    """`run_sweep` with a batch that leaves pages in no time."""
    calls = []

    def batch(profile, *, out, grids, only, notebooks_dir, **options):
        calls.append({"profile": profile, "only": only, "grids": grids} | options)
        out.mkdir(exist_ok=True)
        leave(out, points(folder, *grids))
        return options.get("jobs") or 0

    monkeypatch.setattr(sweep, "run_report", batch)

    def run(*grids, **options):
        where = {"out": folder / "out", "notebooks_dir": folder / "notebooks"}
        return sweep.run_sweep("01_a-head", "tiny", grids, **where | options), calls

    return run


def test_one_row_for_every_verdict_and_point(folder, swept):
    status, calls = swept("skew=1,2,5", "lr=0.5,1", settings=["safe=false"])
    assert status == 0 and calls[0]["only"] == ["01_a-head"] and calls[0]["settings"] == ["safe=false"]
    frame = pd.read_csv(folder / "out" / "sweep.csv")
    assert list(frame.columns) == ["skew", "lr", *sweep.COLUMNS] and len(frame) == 12
    ahead = frame[frame["what"] == "data, optimiser"]
    assert (ahead["effect"] == ahead["skew"] * ahead["lr"]).all() and ahead["page"].nunique() == 6
    assert np.isinf(frame[frame["what"] == "data, all rivals"]["high"]).all()
    text = (folder / "out" / "sweep.html").read_text(encoding="utf-8")
    assert "C2, data, optimiser: [~] at 3 of 6, [Re] at 3 of 6; points from +0.5 (skew = 1, lr = 0.5) to +5 (" in text
    assert text.count('/01_a-head-skew_5-lr_1.0.html">page</a>') == 2
    assert '<link rel="stylesheet" href="assets/style.css">' in text and "<style" not in text
    assert text.count('<span class="mark open">[~]</span>') == 9 and '<a href="sweep.csv" download>CSV</a>' in text


def test_a_swept_text_does_not_make_two_things_of_one(folder):
    jobs = points(folder, "name=mlp,cnn")
    for job in jobs:
        found = verdict("C2", f"{job.parameters['name']}, all rivals: 5 comparisons", 1.0)
        write_json(folder / job.name / "verdicts.json", stored([found]))
    assert set(sweep.side_by_side(folder, jobs, ["name"])["what"]) == {"name, all rivals"}


def test_the_same_sweep_gives_the_same_bytes(folder, swept):
    once = []
    for _ in range(2):
        swept("skew=1,2", "lr=0.5,1")
        once.append([(folder / "out" / f"sweep.{suffix}").read_bytes() for suffix in ("csv", "svg", "html")])
    assert once[0] == once[1]


@pytest.mark.parametrize(
    ("grids", "panels", "lines"),
    [(["skew=1,2"], 2, 1), (["skew=1,2", "lr=1,2,3"], 2, 3), (["skew=1,2", "lr=1,2,3", "name=a,b"], 4, 3)],
)
def test_a_panel_for_every_verdict_and_further_parameter(folder, grids, panels, lines):
    jobs = points(folder, *grids)
    leave(folder, jobs, lambda job: job.parameters["skew"] * job.parameters["lr"] != 6)  # one has not finished
    names = [grid.partition("=")[0] for grid in grids]
    chart = sweep.small_multiples(sweep.side_by_side(folder, jobs, names), names)
    assert len(chart.axes) == panels
    assert all(len(axes.containers) == lines for axes in chart.axes)
    assert [text.get_text() for text in chart.axes[0].get_xticklabels()] == ["1", "2"]


def test_nothing_to_compare_is_said_and_what_stops_a_batch_stops_the_sweep(folder, swept, monkeypatch, capsys):
    assert swept("skew=1", dry_run=True)[0] == 0 and swept("skew=1", jobs=INTERRUPTED)[0] == INTERRUPTED
    assert not (folder / "out" / "sweep.csv").exists()
    assert swept("skew=1,2", jobs=1)[0] == 1 and (folder / "out" / "sweep.csv").exists()  # a failed point: the others
    monkeypatch.setattr(sweep, "run_report", lambda *_, **__: 0)
    assert sweep.run_sweep("02_b", "tiny", [], out=folder / "new", notebooks_dir=folder / "notebooks") == 0
    assert "none of these pages has a verdict" in capsys.readouterr().out


def test_no_parameter_is_called_like_a_column():
    named = {name for notebook in read_notebooks().values() for name in notebook.parameters}
    assert {"seeds", "rounds"} <= named and not named & {*sweep.COLUMNS}


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("digits, mlp, optimiser: 3 comparisons with 2 rivals: ahead in 1", "digits, mlp, optimiser"),
        ("mean over F1,F2, interaction. Points lost: failures 1.2", "mean over F1,F2, interaction"),
        ("mlp: fine-tuning against the server's data", "mlp: fine-tuning against the server's data"),
    ],
)
def test_a_verdict_is_about_what_stands_before_the_numbers(statement, what):
    assert subject(verdict("C1", statement, 1.0)) == what
