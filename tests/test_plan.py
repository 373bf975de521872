"""Parameters, profiles, selection, and what makes a result current."""

import json

import pytest
from notebook_factory import jobs_of, write_notebook, write_profile

from fedauto_core.errors import InputError
from fedauto_core.report import plan
from fedauto_core.store import keys as provenance

PARAMETERS = (
    "seeds: int = 3  # repetitions\nlr: float = 1  # step size\nname: str = 'a'  # which\nfast: bool = False  # skip"
)


@pytest.fixture
def folder(tmp_path):
    write_notebook(tmp_path, "10_main", "1 + 1", parameters=PARAMETERS)
    write_notebook(tmp_path, "20_other", "2", parameters="seeds: int = 1  # repetitions")
    write_notebook(tmp_path, "30_review", "3")
    write_profile(
        tmp_path,
        "10_main: {minutes: 2, parameters: {seeds: 5}}\n20_other: {minutes: 7}\n30_review: {minutes: 9, after: all}\n",
    )
    return tmp_path


def test_parameters_cell_gives_type_default_and_help(folder):
    found = plan.read_notebook(folder / "10_main.ipynb").parameters
    assert [str(p) for p in found.values()] == [
        "seeds: int = 3 (repetitions)",
        "lr: float = 1.0 (step size)",
        "name: str = 'a' (which)",
        "fast: bool = False (skip)",
    ]


@pytest.mark.parametrize(
    "line",
    ["x = 1  # untyped", "x: int = 1", "x: list = []  # type", "x: int = f()  # call", "print(1)  # statement"],
)
def test_a_parameters_cell_is_only_a_list_of_plain_values(tmp_path, line):
    write_notebook(tmp_path, "nb", parameters=line)
    with pytest.raises(InputError, match=r"nb\.ipynb, parameters cell: cannot read .*`name: type = literal  # help`"):
        plan.read_notebook(tmp_path / "nb.ipynb")


def test_a_default_must_have_its_own_type(tmp_path):
    write_notebook(tmp_path, "nb", parameters="x: int = 'a'  # wrong")
    with pytest.raises(InputError, match="value 'a' for the parameter x"):
        plan.read_notebook(tmp_path / "nb.ipynb")


def test_cells_need_identifiers(tmp_path):
    write_notebook(tmp_path, "nb", "1")
    path = tmp_path / "nb.ipynb"
    raw = json.loads(path.read_text())
    del raw["cells"][0]["id"]
    path.write_text(json.dumps(raw))
    with pytest.raises(InputError, match=r"nb\.ipynb: cells without identifiers"):
        plan.read_notebook(path)


def test_profile_is_ordered_longest_first_and_the_review_last(folder):
    jobs = plan.read_profile("tiny", folder)
    assert [job.name for job in jobs] == ["20_other", "10_main", "30_review"]
    assert jobs[1].parameters == {"seeds": 5, "lr": 1.0, "name": "a", "fast": False}
    assert jobs[2].after == ("10_main", "20_other") and jobs[2].reads_all


def test_a_profile_may_run_a_notebook_more_than_once(folder):
    entries = "10_main: {minutes: 2}\n10_main-fast: {minutes: 1, parameters: {seeds: 9}}\n"
    (folder / "profiles" / "twice.yaml").write_text(entries)
    plain, fast = plan.read_profile("twice", folder)
    assert (plain.name, fast.name) == ("10_main", "10_main-fast") and plain.notebook == fast.notebook
    assert (plain.parameters["seeds"], fast.parameters["seeds"]) == (3, 9)
    assert [job.name for job in plan.select([plain, fast], ["10_main"])] == ["10_main"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "profile tiny.yaml without notebooks"),
        ("nope: {minutes: 1}", "unknown notebook 'nope'.*10_main, 20_other, 30_review"),
        ("10_main: {minutes: 1, colour: red}", "10_main:.*a mapping with minutes, processes, parameters"),
        ("10_main: {minutes: 1, processes: 0}", "10_main: processes 0.*whole number >= 1"),
        ("10_main: 3", "10_main: 3.*a mapping"),
        ("10_main: {minutes: 0}", "minutes 0.*a positive number"),
        ("10_main: {parameters: {}}", "minutes None"),
        (
            "10_main: {minutes: 1, parameters: {seed: 1}}",
            "unknown parameter 'seed'.*Allowed: fast, lr, name, seeds.*`python -m fedauto_core list`",
        ),
        ("10_main: {minutes: 1, parameters: {seeds: 2.5}}", "value 2.5 for the parameter seeds.*one int"),
        ("10_main: {minutes: 1, parameters: {seeds: true}}", "value True for the parameter seeds"),
        ("10_main: {minutes: 1, parameters: {lr: fast}}", "value 'fast' for the parameter lr.*one finite float"),
        ("10_main: {minutes: 1, parameters: {name: [1]}}", r"value \[1\] for the parameter name"),
        ("10_main: {minutes: 1, after: 20_other}", "unknown notebook to wait for '20_other'"),
        (
            "10_main: {minutes: 1, after: 20_other}\n20_other: {minutes: 1, after: 10_main}",
            "10_main, 20_other wait for each",
        ),
    ],
)
def test_a_wrong_profile_is_refused_with_the_remedy(folder, text, message):
    write_profile(folder, text)
    with pytest.raises(InputError, match=message):
        plan.read_profile("tiny", folder)


def test_unknown_profile_lists_the_known_ones(folder):
    with pytest.raises(InputError, match=r"unknown profile 'huge'\. Allowed: tiny"):
        plan.read_profile("huge", folder)


def test_scientific_notation_in_a_profile_is_a_number(folder):
    """YAML reads 1e-3 as text."""
    write_profile(folder, "10_main: {minutes: 1, parameters: {lr: 1e-3}}")
    assert plan.read_profile("tiny", folder)[0].parameters["lr"] == 0.001


def test_a_setting_reaches_every_notebook_that_has_the_parameter(folder):
    by_name = {job.name: job.parameters for job in jobs_of(folder, "seeds=2", "lr=1e-2", "fast=True")}
    assert by_name["10_main"] == {"seeds": 2, "lr": 0.01, "name": "a", "fast": True}
    assert by_name["20_other"] == {"seeds": 2} and by_name["30_review"] == {}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sedes=2", "unknown parameter 'sedes'.*Allowed: fast, lr, name, seeds.*list"),
        ("seeds=two", "value 'two' for the parameter seeds. Allowed: one int"),
        ("seeds=1.5", "value '1.5' for the parameter seeds"),
        ("lr=nan", "value 'nan' for the parameter lr. Allowed: one finite float"),
        ("fast=1", "value '1' for the parameter fast. Allowed: true or false"),
        ("seeds", "--set 'seeds'. Allowed: name=value"),
    ],
)
def test_a_wrong_setting_is_refused(folder, setting, message):
    with pytest.raises(InputError, match=message):
        jobs_of(folder, setting)


def test_only_takes_patterns(folder):
    jobs = plan.read_profile("tiny", folder)
    assert [job.name for job in plan.select(jobs, ["1*", "30_review"])] == ["10_main", "30_review"]
    assert plan.select(jobs, []) == jobs
    with pytest.raises(InputError, match=r"--only '4\*' matches no notebook.*10_main, 20_other, 30_review"):
        plan.select(jobs, ["1*", "4*"])


def key(folder, name="10_main", settings=(), threads=1):
    (job,) = plan.select(jobs_of(folder, *settings), [name])
    return plan.job_key(job, threads, folder / "out")


def test_the_key_changes_with_everything_a_result_depends_on(folder, monkeypatch):
    first = key(folder)
    assert key(folder) == first
    assert key(folder, settings=["seeds=4"]) != first
    assert key(folder, threads=2) != first
    write_notebook(folder, "20_other", "another source")
    assert key(folder) == first
    write_notebook(folder, "10_main", "1 + 2", parameters=PARAMETERS)
    assert key(folder) != first
    edited = key(folder)
    with monkeypatch.context() as patch:
        patch.setattr(plan, "versions", lambda: provenance.versions() | {"numpy": "0"})
        assert key(folder) != edited
    with monkeypatch.context() as patch:
        patch.setattr(plan, "core_hash", lambda: "another core")
        assert key(folder) != edited


def test_the_key_of_a_review_follows_the_verdicts_it_reads(folder):
    review, main = key(folder, "30_review"), key(folder)
    verdicts = folder / "out" / "10_main" / "verdicts.json"
    verdicts.parent.mkdir(parents=True)
    verdicts.write_text("[]")
    assert key(folder, "30_review") != review and key(folder) == main
