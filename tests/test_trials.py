"""Faults, one at a time, of a whole batch in processes of its own: what was finished stays valid, the rerun completes,
and the report is the one of a batch to which nothing happens.

A trial takes ten seconds or more; so each is made once, and three times with FEDAUTO_TRIALS=3.
"""

import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import caches
import psutil
import pytest
from notebook_factory import write_notebook, write_profile

from fedauto_core.report.folder import file_hashes, read_manifest
from fedauto_core.report.progress import OUTPUT
from fedauto_core.store.keys import PACKAGE

trials = pytest.mark.parametrize("trial", range(int(os.environ.get("FEDAUTO_TRIALS", "1"))))
needs_disks = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk")
GROUPS = Path("/sys/fs/cgroup/memory")
needs_groups = pytest.mark.skipif(
    not os.access(GROUPS / "cgroup.procs", os.W_OK), reason="no control group of memory can be made here"
)
DONE = """
import pandas as pd
from fedauto_core.report import record
page = record.Page("01_done", {})
page.table(pd.DataFrame({"x": [1.5, 2.5]}), "numbers", "Two numbers.")
"""
HOOK = """
import os, pathlib, psutil, threading, time
fault = pathlib.Path(os.environ["FAULTS"], "{name}")
if fault.exists(): exec(fault.read_text())
"""
EXPERIMENT = """
from fedauto_core import Cell, Experiment, FederationSpec, Schedule, make_method, run, scenario
split = FederationSpec(4, 50, 40, "classes", classes_per_client=3)
cells = tuple(Cell(name, make_method(name), scenario("mixed", 4), split, lr=0.1) for name in ("fedauto", "fedavg"))
print(run(Experiment("digits", "softmax", None, Schedule(rounds=4), cells, seeds=(0, 1))).curves)
"""


class Fault(NamedTuple):
    """code: what the notebook does; said: of its batch then, a pattern."""

    code: str
    said: str


IN_THE_NOTEBOOK = {
    "02_raises": Fault("raise ValueError('no')", r"cell 1.*\n  ValueError: no\n"),
    "03_hangs": Fault("while True: pass", r"cell 1\n  time limit of 0.25 minutes exceeded"),
    "04_prints": Fault("print('x' * 100_000_000)", r"cell 1\n  100 MB of output, 20 MB are allowed"),
    "05_exits": Fault("os._exit(3)", r"cell 1\n  the kernel left with exit status 3"),
    "06_killed": Fault("os.kill(os.getpid(), 9)", r"cell 1\n  the kernel was ended by SIGKILL"),
}
WORKER_KILLED = "fault.unlink()\nos.kill(os.getppid(), 9)\ntime.sleep(60)"
PARENT_KILLED = "psutil.Process().parent().parent().kill()\ntime.sleep(60)"
UNIT_KILLED = """
def kill():
    found = []
    while not found:
        spawned = [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]
        found = [child for child in spawned if child.cpu_times().user > 0.5]  # at work: all units are handed over
        time.sleep(0.01)
    found[0].kill()
threading.Thread(target=kill, daemon=True).start()
"""


class Place:
    """Notebooks that run after 01_done, each with a fault once `arm` gives it one; a cache and a temporary folder."""

    def __init__(self, folder, names=("02_hit",), *sources):
        self.folder, self.out, self.names = folder, folder / "out", ("01_done", *names)
        write_notebook(folder / "notebooks", "01_done", DONE)
        for name in names:
            write_notebook(folder / "notebooks", name, HOOK.format(name=name), *sources)
        minutes = {name: 0.025 if name == "03_hangs" else 1 for name in self.names}  # a tenth of the time limit
        after = f", after: 01_done, parallel: {str(bool(sources)).lower()}"
        lines = (f"{name}: {{minutes: {minutes[name]}{after if name in names else ''}}}\n" for name in self.names)
        write_profile(folder / "notebooks", "".join(lines))
        for name in ("t", "faults"):
            (folder / name).mkdir()
        caches.own_cache(folder / "cache")

    def arm(self, code, name="02_hit"):
        (self.folder / "faults" / name).write_text(code)

    def disarm(self):
        for path in (self.folder / "faults").iterdir():
            path.unlink()

    def run(self, *words):
        """Exit status of a batch, and all that it says."""
        command = [
            "report",
            "--profile",
            "tiny",
            "--notebooks",
            self.folder / "notebooks",
            "--out",
            self.out,
            "--jobs=2",
        ]
        paths = {"TMPDIR": "t", "FEDAUTO_DATA": "cache", "FAULTS": "faults"}
        environment = os.environ | {name: str(self.folder / path) for name, path in paths.items()}
        done = subprocess.run(
            [sys.executable, "-m", "fedauto_core", *command, *words],
            env=environment | {"PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def page(self, name):
        """Hashes of the files of a page; none that the manifest does not vouch for."""
        manifest = read_manifest(self.out / name)
        return file_hashes(self.out / name) if manifest and manifest["files"] == file_hashes(self.out / name) else None

    def completes(self, undisturbed, first="up to date"):
        """The next batch does, with the report of one that nothing disturbs; nothing is left of the one before."""
        status, said = self.run()
        assert status == 0 and f"01_done  {first}" in said, said
        assert {name: self.page(name) for name in undisturbed} == undisturbed
        assert not (self.out / ".work").exists() and list((self.folder / "t").iterdir()) == []
        assert not [p for p in psutil.process_iter() if str(self.out) in environment_of(p).get(OUTPUT, "")]


def environment_of(process):
    try:
        return process.environ()
    except psutil.Error:
        return {}


def calm(place):
    status, said = place.run()
    assert status == 0, said
    return {name: place.page(name) for name in place.names}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return calm(Place(tmp_path_factory.mktemp("calm")))


@pytest.fixture(scope="module")
def undisturbed_experiment(tmp_path_factory):
    return calm(Place(tmp_path_factory.mktemp("calm"), ("02_hit",), EXPERIMENT))


@trials
def test_notebooks_that_fail_each_in_its_way(trial, tmp_path, tmp_path_factory):
    place, undisturbed = Place(tmp_path, IN_THE_NOTEBOOK), calm(Place(tmp_path_factory.mktemp("calm"), IN_THE_NOTEBOOK))
    for name, fault in IN_THE_NOTEBOOK.items():
        place.arm(fault.code, name)
    status, said = place.run()
    assert status == 1 and all(re.search(f"{name}: {fault.said}", said) for name, fault in IN_THE_NOTEBOOK.items()), (
        said
    )
    assert place.page("01_done") == undisturbed["01_done"] and all(place.page(name) is None for name in IN_THE_NOTEBOOK)
    place.disarm()
    place.completes(undisturbed)


@trials
@pytest.mark.parametrize(
    ("code", "status", "last"),
    [(WORKER_KILLED, 0, "02_hit  its worker process was killed; runs again"), (PARENT_KILLED, -9, "01_done  ok")],
    ids=["worker", "parent"],
)
def test_a_killed_process(code, status, last, trial, tmp_path, undisturbed):
    place = Place(tmp_path)
    place.arm(code)
    found, said = place.run()
    assert found == status and last in said, said
    assert place.page("01_done") == undisturbed["01_done"]
    place.disarm()
    place.completes(undisturbed)


@trials
def test_a_killed_unit_of_an_experiment(trial, tmp_path, undisturbed_experiment):
    place = Place(tmp_path, ("02_hit",), EXPERIMENT)
    place.arm(UNIT_KILLED)
    status, said = place.run()
    assert status == 1 and re.search(r"02_hit: cell 2, line .*\n  BrokenProcessPool: ", said), said
    place.disarm()
    place.completes(undisturbed_experiment)


@needs_groups
@trials
@pytest.mark.parametrize("who", ["kernel", "unit"])
def test_one_whom_the_system_kills_for_memory(who, trial, tmp_path, undisturbed_experiment):
    """The system's own killer, let loose on a control group in which there is too little for the one process in it."""
    group = GROUPS / f"fedauto-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text("1M")
        place = Place(tmp_path, ("02_hit",), EXPERIMENT)
        joins = f"pathlib.Path({str(group / 'cgroup.procs')!r}).write_text(str("
        if who == "kernel":
            place.arm(f"{joins}os.getpid()))\nx = b'x' * 100_000_000")
        else:
            place.arm(UNIT_KILLED.replace("found[0].kill()", f"{joins}found[0].pid))"))
        status, said = place.run()
        assert status == 1 and re.search("02_hit: .*\n  out of memory: the system has killed a process for it", said), (
            said
        )
        place.disarm()
        place.completes(undisturbed_experiment)
    finally:
        group.rmdir()


@contextmanager
def disk(folder, size):
    """A disk of so many bytes in the place of a folder, and what makes it read-only ("ro") or not ("rw")."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield lambda how: subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@needs_disks
@trials
def test_a_full_disk(trial, tmp_path, undisturbed):
    place = Place(tmp_path)
    with disk(place.out, 4_000_000):
        filler = place.out / "filler"
        place.arm(f"fault.unlink()\nopen({str(filler)!r}, 'wb', 0).write(bytes(4_000_000))")
        status, said = place.run()
        assert status == 2 and re.search(r"02_hit: .*\n  disk full: OSError: \[Errno 28\]", said), said
        assert place.page("01_done") == undisturbed["01_done"]
        filler.unlink()
        place.completes(undisturbed)


@needs_disks
@trials
def test_a_read_only_report(trial, tmp_path, undisturbed):
    place = Place(tmp_path)
    with disk(place.out, 4_000_000) as remount:
        place.arm("raise ValueError")
        place.run()
        place.disarm()
        remount("ro")
        status, said = place.run()
        assert status == 2 and re.search(r"^error: .*Read-only file system.*--out", said), said
        assert place.page("01_done") == undisturbed["01_done"]
        remount("rw")
        place.completes(undisturbed)


@needs_disks
@trials
def test_a_read_only_cache(trial, tmp_path, undisturbed_experiment):
    place = Place(tmp_path, ("02_hit",), EXPERIMENT)
    with disk(tmp_path / "cache", 8_000_000) as remount:
        remount("ro")
        status, said = place.run()
        assert status != 0 and re.search(r"02_hit: cell 2.*\n  .*set FEDAUTO_DATA to", said), said
        remount("rw")
        place.completes(undisturbed_experiment)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@trials
def test_a_damaged_file_of_a_page(trial, tmp_path, undisturbed):
    place = Place(tmp_path)
    assert calm(place) == undisturbed
    for file in ("manifest.json", "numbers.csv", "products.json", "01_done.ipynb"):
        cut(place.out / "01_done" / file)
        place.completes(undisturbed, "ok")
    html = (place.out / "01_done" / "01_done.html").read_bytes()
    cut(place.out / "01_done" / "01_done.html")
    place.completes(undisturbed)
    assert (place.out / "01_done" / "01_done.html").read_bytes() == html


@trials
def test_a_damaged_cache(trial, tmp_path, undisturbed_experiment):
    place = Place(tmp_path, ("02_hit",), EXPERIMENT)
    (tmp_path / "cache" / "kernels").unlink()  # compiled code of its own, to be damaged as well
    assert calm(place) == undisturbed_experiment
    for path in [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]:
        cut(path)
    (place.out / "02_hit" / "manifest.json").unlink()
    place.completes(undisturbed_experiment)
