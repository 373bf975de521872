"""Parameters, profiles, selection, and what makes a result current."""

import json
from pathlib import Path

import pytest
from notebook_factory import jobs_of, write_notebook, write_profile

from fedauto_core.errors import InputError
from fedauto_core.report import plan, sources
from fedauto_core.report.overview import WRITERS
from fedauto_core.store import keys

PARAMETERS = (
    "seeds: int = 3  # repetitions\nlr: float = 1  # step size\nname: str = 'a'  # which\nfast: bool = False  # skip"
)

NAMES = ["10_main", "20_other", "30_review"]


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
    found = sources.read_notebook(folder / "10_main.ipynb").parameters
    assert [str(p) for p in found.values()] == [
        "seeds: int = 3 (repetitions)",
        "lr: float = 1.0 (step size)",
        "name: str = 'a' (which)",
        "fast: bool = False (skip)",
    ]


@pytest.mark.parametrize(
    "line", ["x = 1  # untyped", "x: int = 1", "x: list = []  # type", "x: int = f()  # call", "print(1)  # statement"]
)
def test_a_parameters_cell_is_only_a_list_of_plain_values(tmp_path, line):
    write_notebook(tmp_path, "nb", parameters=line)
    with pytest.raises(InputError, match=r"nb\.ipynb, parameters cell: cannot read .*`name: type = literal  # help`"):
        sources.read_notebook(tmp_path / "nb.ipynb")


def test_a_default_must_have_its_own_type(tmp_path):
    write_notebook(tmp_path, "nb", parameters="x: int = 'a'  # wrong")
    with pytest.raises(InputError, match="value 'a' for the parameter x"):
        sources.read_notebook(tmp_path / "nb.ipynb")


def test_cells_need_identifiers(tmp_path):
    write_notebook(tmp_path, "nb", "1")
    path = tmp_path / "nb.ipynb"
    raw = json.loads(path.read_text())
    del raw["cells"][0]["id"]
    path.write_text(json.dumps(raw))
    with pytest.raises(InputError, match=r"nb\.ipynb: cells without identifiers"):
        sources.read_notebook(path)


@pytest.mark.parametrize(
    ("code", "modules"),
    [
        ("from fedauto_core import theory\nimport numpy", {"fedauto_core.theory"}),
        ("%matplotlib inline\nfiles = !ls\nfrom fedauto_core.methods import fedlaw", {"fedauto_core.methods.fedlaw"}),
        ("from fedauto_core.methods import METHODS", {"fedauto_core.methods.registry"}),
        ("%%time\nfrom fedauto_core.store import keys", {"fedauto_core.store.keys"}),
        ("def f():\n    %time 1\n    import fedauto_core.errors", {"fedauto_core.errors"}),
        ("x = (7\n  % 2)\nimport fedauto_core.errors", {"fedauto_core.errors"}),
        ("%%bash\nfor x in *; do echo $x; done", set()),
        ("import fedauto_core.nope, fedauto_core.errors", {"fedauto_core.errors"}),
        ("from fedauto_core.nope import x", set()),
    ],
)
def test_the_imports_of_a_notebook_are_found_among_magics(tmp_path, code, modules):
    write_notebook(tmp_path, "nb", code)
    found = sources.read_notebook(tmp_path / "nb.ipynb").modules
    assert set(found) == modules and keys.code_hash(found)


CELL = b'{"cells": [{"cell_type": "code", "id": "a", "metadata": %s}]}'
DAMAGED = {
    "empty": b"",
    "conflict": b'<<<<<<< HEAD\n{"cells": []}\n=======\n{}\n>>>>>>> other\n',
    "cut": b'{"cells": [{"cell_type": "code"',
    "a list": b"[]",
    "null": b"null",
    "format 3": b'{"worksheets": []}',
    "null tags": CELL % b'{"tags": null}, "source": ""',
    "no source": CELL % b"{}",
    "a number as source": CELL % b'{}, "source": 3',
    "binary": bytes(range(256)),
    "UTF-16": '{"cells": []}'.encode("utf-16"),
    "a magic as parameter": CELL % b'{"tags": ["parameters"]}, "source": "%time 1"',
}


@pytest.mark.parametrize("content", [*DAMAGED.values(), None], ids=[*DAMAGED, "folder"])
def test_a_damaged_notebook_is_named_and_the_others_go_on(folder, content):
    path = folder / "10_main.ipynb"
    path.unlink()
    path.mkdir() if content is None else path.write_bytes(content)
    found = sources.read_notebooks(folder)
    assert list(found) == NAMES and found["20_other"].problem is None
    assert str(found["10_main"].problem).startswith("10_main.ipynb")
    assert [job.name for job in jobs_of(folder, "seeds=2")] == ["20_other", "10_main", "30_review"]


def test_a_byte_order_mark_is_no_damage(folder):
    before = plan.read_profile("tiny", folder)
    for path in (folder / "10_main.ipynb", folder / "profiles" / "tiny.yaml"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert plan.read_profile("tiny", folder) == before


@pytest.mark.parametrize(
    "content", [b"a: [", b"<<<<<<< HEAD\na: 1\n=======\n", b"a:\n\t- 1", bytes(range(128, 256)), None]
)
def test_a_damaged_profile_is_named_and_the_others_can_be_used(folder, content):
    path = folder / "profiles" / "broken.yaml"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match=r"profile broken\.yaml cannot be read: .*mend the file"):
        plan.read_profile("broken", folder)
    assert len(plan.read_profile("tiny", folder)) == 3


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (
            "10_main:\n  minutes: 1\n  parameters:\n    seeds: 3\n    lr: 0.5\n    seeds: 2\n",
            "line 6: key 'seeds' .*line 4",
        ),
        ("10_main: {minutes: 1}\n20_x: {minutes: 1}\n10_main: {minutes: 2}\n", "line 3: key '10_main' .*line 1"),
        ("10_main: [{minutes: 1, minutes: 2}]\n", "line 1: key 'minutes' .*line 1"),
        ("10_main: &x [*x]\n", "broken.yaml cannot be read"),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_its_lines(folder, text, place):
    (folder / "profiles" / "broken.yaml").write_text(text)
    with pytest.raises(InputError, match=place):
        plan.read_profile("broken", folder)


def test_a_merged_mapping_may_be_overridden(folder):
    first, second = "minutes: &m 1, parameters: &p {seeds: 3}", "minutes: *m, parameters: {<<: *p, seeds: 2}"
    text = f"10_main: {{{first}}}\n10_main-b: {{{second}}}\n"
    (folder / "profiles" / "merged.yaml").write_text(text)
    assert [job.parameters["seeds"] for job in plan.read_profile("merged", folder)] == [3, 2]


def test_a_folder_without_notebooks_or_profiles_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(InputError, match=r"no profiles in .*--notebooks"):
        plan.read_profile("smoke", tmp_path)
    with pytest.raises(InputError, match=r"no notebooks in .*--notebooks"):
        sources.read_notebooks(tmp_path)


def test_notebooks_that_share_all_cores_come_first(folder):
    write_profile(folder, "10_main: {minutes: 1, parallel: true}\n20_other: {minutes: 5}\n")
    assert [job.name for job in plan.read_profile("tiny", folder)] == ["10_main", "20_other"]


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
        ("10_main: {minutes: 1, colour: red}", "10_main:.*a mapping with minutes, parallel, parameters"),
        ("10_main: {minutes: 1, parallel: 2}", "10_main: parallel = 2.*true or false"),
        ("1: {minutes: 1}", "profile tiny.yaml without notebooks"),
        ("10_main: 3", "10_main: 3.*a mapping"),
        ("10_main: {minutes: 0}", "minutes = 0.*finite numbers > 0"),
        ("10_main: {parameters: {}}", "minutes = None"),
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


def inputs(folder, name="10_main", settings=()):
    (job,) = plan.select(jobs_of(folder, *settings), [name])
    return plan.inputs_of(job, folder / "out")


def test_everything_that_a_result_depends_on_is_an_input(folder, monkeypatch):
    first = inputs(folder)
    assert inputs(folder) == first
    assert inputs(folder, settings=["seeds=4"])["parameters"] != first["parameters"]
    write_notebook(folder, "20_other", "another source")
    assert inputs(folder) == first
    write_notebook(folder, "10_main", "1 + 2", parameters=PARAMETERS)
    edited = inputs(folder)
    assert {key for key in first if edited[key] != first[key]} == {"notebook_sha256"}
    monkeypatch.setattr(plan, "versions", lambda optional: keys.versions(optional) | {"numpy": "0"})
    assert inputs(folder)["versions"]["numpy"] == "0"


def test_a_notebook_depends_on_the_code_that_it_imports_and_on_the_code_that_runs_it(folder, monkeypatch):
    write_notebook(folder, "10_main", "from fedauto_core.methods import fedlaw", parameters=PARAMETERS)
    before = {name: inputs(folder, name)["code_sha256"] for name in NAMES}
    real = keys.file_hash

    def touched(file):
        monkeypatch.setattr(keys, "file_hash", lambda path: "edited" if path.name == file else real(path))
        return [name for name in NAMES if inputs(folder, name)["code_sha256"] != before[name]]

    assert touched("fedlaw.py") == ["10_main"] and touched("search.py") == []
    assert touched("worker.py") == touched("machine.py") == NAMES
    assert touched("batch.py") == touched("overview.py") == []
    pages = keys.code_hash(WRITERS)
    for file in ("pages.py", "front.py", "style.css", "symbols.csv"):  # its HTML page is written anew, without a run
        assert touched(file) == [] and keys.code_hash(WRITERS) != pages


def test_a_changed_method_touches_only_the_notebooks_that_use_it():
    """Of the real notebooks: the theory of 20 knows no methods, notebook 10 no theory."""
    used = {
        name: keys.used_modules(notebook.modules)
        for name, notebook in sources.read_notebooks().items()
        if name[0] != "3"
    }
    assert "fedauto_core.methods.fedlaw" in used["10_full_parameter"]
    assert not any(module.startswith("fedauto_core.theory") for module in used["10_full_parameter"])
    assert "fedauto_core.methods.fedlaw" not in used["20_bound_step_by_step"]


def test_the_verdicts_that_a_review_reads_are_inputs(folder):
    main = inputs(folder)
    assert inputs(folder, "30_review")["verdicts_sha256"] == {}
    leave_verdicts(folder / "out" / "10_main", "[]")
    first = inputs(folder, "30_review")["verdicts_sha256"]
    leave_verdicts(folder / "out" / "10_main", "[ ]")
    assert first.keys() == {"10_main"} and first != inputs(folder, "30_review")["verdicts_sha256"]
    assert inputs(folder) == main


def leave_verdicts(page, text):
    page.mkdir(parents=True, exist_ok=True)
    manifest = {"parameters": {}, "seconds": 1.0, "peak_mib": None, "files": {}}
    (page / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (page / "verdicts.json").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("variant", ["../../x", "a/b", "a b", "..\\x"])
def test_a_variant_is_the_name_of_a_folder_and_leads_nowhere_else(folder, variant):
    write_profile(folder, json.dumps({f"10_main-{variant}": {"minutes": 1}}))
    with pytest.raises(InputError, match="rename the variant: its page is a folder of this name"):
        plan.read_profile("tiny", folder)


def test_what_many_notebooks_share_is_hashed_once_until_it_is_written_again(folder, monkeypatch):
    hashed = []
    monkeypatch.setattr(keys, "file_hash", lambda path: hashed.append(path) or "hash")
    jobs = jobs_of(folder)
    for _ in range(3):
        assert len({plan.inputs_of(job, folder)["code_sha256"] for job in jobs}) == 1
    assert len(hashed) == len(set(hashed)) > 0
    path = folder / "module.py"
    for text in ("one", "longer"):
        path.write_text(text, encoding="utf-8")
        assert keys._unchanged(Path.read_text, path) == text
