"""A Dask cluster is used only if all its workers can do the work; with one, pages are those of a single machine. Once
with a stand-in for the cluster, once with a scheduler and workers in processes of their own."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from types import MappingProxyType

import caches
import psutil
import pytest
from notebook_factory import write_notebook, write_profile
from test_faults import await_text

from fedauto_core.errors import InputError
from fedauto_core.report import batch, cluster, progress
from fedauto_core.report.folder import file_hashes
from fedauto_core.report.plan import WORKER
from fedauto_core.store import workers
from fedauto_core.store.keys import PACKAGE

distributed = pytest.importorskip("distributed", reason="needs the extra [cluster]")


class Client:
    """Has the workers in `workers`: name -> what changes in its answer."""

    workers = MappingProxyType({})

    def __init__(self, address, timeout):
        if address == "tcp://nobody":
            raise OSError("nobody there")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def wait_for_workers(self, n_workers, timeout):
        if not self.workers:
            raise TimeoutError

    def run(self, function, *arguments):
        return {name: function(*arguments) | changes for name, changes in self.workers.items()}

    def subscribe_topic(self, topic, handler):
        pass

    def cancel(self, futures):
        assert futures == []


@pytest.fixture
def connect(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "Client", Client)
    monkeypatch.setenv("FEDAUTO_DATA", str(caches.own_cache(tmp_path / "cache")))
    progress.token_file(tmp_path).parent.mkdir()
    progress.token_file(tmp_path).write_text("mine", encoding="utf-8")

    def connect(workers, address="tcp://host:1"):
        monkeypatch.setattr(Client, "workers", workers)
        with cluster.cluster(address, tmp_path, [WORKER]) as executor:
            return executor

    return connect


def test_workers_with_the_same_files_and_code_are_taken(connect):
    assert isinstance(connect({"a": {}, "b": {}}), workers.Workers)


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({}, "no worker has come within 20 seconds.*dask worker tcp://host:1 --nthreads 1"),
        ({"a": {}, "b": {"token": "[Errno 2] No such file"}}, "worker b does not see .*token as .*Errno 2.*--out"),
        ({"a": {"token": "of another"}}, "worker a does not see .*token as .*of another instead of mine"),
        ({"a": {"identity": "of another"}}, "worker a does not see .*cache/identity as .*FEDAUTO_DATA"),
        ({"a": {"code": "0" * 64}}, "worker a has other code of fedauto_core .*from this checkout"),
        ({"a": {"code": "ModuleNotFoundError: No module named 'fedauto_core'"}}, "worker a .*No module named"),
        ({"a": {"packages": "{'numpy': '1'}"}}, "worker a has other packages .*: {'numpy': '1'} instead of"),
    ],
)
def test_others_are_refused_with_one_clear_error(connect, tmp_path, there, said):
    paths = {"token": progress.token_file(tmp_path), "identity": tmp_path / "cache" / "identity"}
    there = {name: {str(paths.get(k, k)): v for k, v in answer.items()} for name, answer in there.items()}
    with pytest.raises(InputError, match=said):
        connect(there)


def test_a_scheduler_that_does_not_answer_is_refused(connect):
    with pytest.raises(InputError, match=r"tcp://nobody: nobody there.*dask scheduler"):
        connect({"a": {}}, "tcp://nobody")


def test_a_cache_that_cannot_be_written_is_refused(connect, monkeypatch):
    monkeypatch.setenv("FEDAUTO_DATA", "/proc/nowhere")
    with pytest.raises(InputError, match=r"cannot use the cache /proc/nowhere: .*set FEDAUTO_DATA"):
        connect({"a": {}})


def test_a_worker_says_why_it_cannot_look(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fedauto_core.store.keys", None)
    monkeypatch.delattr("fedauto_core.store.keys")
    path = str(tmp_path / "token")
    answer = workers.look_around([path], [WORKER], [])
    assert "No such file" in answer[path] and answer["code"].startswith("ModuleNotFoundError")


def test_code_that_was_written_after_the_worker_had_loaded_it_is_not_its_own(monkeypatch):
    assert workers.look_around([], [WORKER], []) == workers.Wanted.as_here([], [WORKER]).answers
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: 0.0)
    assert workers.look_around([], [WORKER], [])["code"].endswith("as it was before it was written")


def test_variables_are_set_for_a_task_alone(monkeypatch):
    monkeypatch.setenv("A", "mine")
    monkeypatch.delenv("B", raising=False)
    with workers._environment({"A": "its", "B": "too"}):
        assert (os.environ["A"], os.environ["B"]) == ("its", "too")
    assert os.environ["A"] == "mine" and "B" not in os.environ


class Dask:
    """A scheduler and its workers, each in a process of its own."""

    def __init__(self, folder):
        self.folder, self.started = folder, []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self.scheduler = self.start("scheduler", "--host", self.address)

    def start(self, kind, *words, package=PACKAGE.parent, **variables):
        path = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | variables
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *words, "--no-dashboard"]
        with (self.folder / f"{kind}-{len(self.started)}.log").open("wb") as log:
            process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)
        self.started.append(process)
        return process

    def work(self, n=1, **options):
        """n more workers of one thread; without nannies, which would start them anew."""
        return [self.start("worker", self.address, "--nthreads", "1", "--no-nanny", **options) for _ in range(n)]

    def end(self):
        for process in self.started:
            process.kill()
            process.wait()


@pytest.fixture
def dask(tmp_path):
    started = Dask(tmp_path)
    yield started
    started.end()


SOURCES = {"01_a": "import os, pathlib, time\n", "02_b": "import time\ntime.sleep(1)\n1 + 1", "03_c": "2 + 2"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three notebooks, of which the first one waits for a file `go` beside it."""
    monkeypatch.setenv("FEDAUTO_DATA", str(caches.own_cache(tmp_path / "cache")))
    pid, go = str(tmp_path / "pid"), str(tmp_path / "go")
    waits = f"pathlib.Path({pid!r}).write_text(str(os.getpid()))\nwhile not os.path.exists({go!r}): time.sleep(.1)"
    for name, source in (SOURCES | {"01_a": SOURCES["01_a"] + waits}).items():
        write_notebook(tmp_path / "notebooks", name, source)
    write_profile(tmp_path / "notebooks", "01_a: {minutes: 3}\n02_b: {minutes: 2}\n03_c: {minutes: 1}\n")
    return tmp_path


def command(folder):
    """All but the address at its end."""
    words = ["--profile", "tiny", "--notebooks", f"{folder}/notebooks", "--out", f"{folder}/out", "--jobs", "3"]
    return [sys.executable, "-m", "fedauto_core", "report", *words, "--scheduler"]


def start_batch(folder, dask):
    pipe = subprocess.PIPE
    return subprocess.Popen([*command(folder), dask.address], stdout=pipe, stderr=pipe, text=True)


def pages(report):
    return {name: file_hashes(report / name) for name in SOURCES}


def alone(folder):
    """The pages as this machine makes them."""
    (folder / "go").touch()
    assert batch.run_report("tiny", jobs=1, out=folder / "alone", notebooks_dir=folder / "notebooks") == 0
    return pages(folder / "alone")


def test_a_worker_that_joins_late_with_other_code_leaves_and_the_pages_are_as_without_a_cluster(folder, dask, capfd):
    """Its notebooks are run by the others."""
    shutil.copytree(PACKAGE, folder / "other" / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "other" / PACKAGE.name / "report" / "worker.py").open("a", encoding="utf-8") as file:
        file.write("# other\n")
    dask.work()
    process = start_batch(folder, dask)
    await_text(folder / "pid")  # one notebook runs, two wait: there is one worker
    (late,) = dask.work(package=folder / "other")
    assert late.wait(timeout=60) == 0
    (folder / "go").touch()
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert re.search(
        r"^worker tcp://\S+ leaves: it has other files, code or packages \(code: [0-9a-f]{64}\)$", out, re.M
    )
    assert out.count("  ok  ") == 3 and pages(folder / "out") == alone(folder)


def test_a_worker_that_is_lost_is_named_and_its_notebook_runs_again(folder, dask):
    first, second = dask.work(2)
    process = start_batch(folder, dask)
    kernel = psutil.Process(int(await_text(folder / "pid")))
    lost = next(worker for worker in (first, second) if kernel.ppid() == worker.pid)
    time.sleep(2 * batch.TICK_S)  # until the batch has looked who runs it
    (folder / "pid").unlink()
    lost.kill()
    await_text(folder / "pid")
    time.sleep(2 * batch.TICK_S)  # and who runs it then
    (folder / "go").touch()
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert re.search(rf"^01_a  worker \S+:{lost.pid} was lost; runs again on \S+$", out, re.M)
    assert pages(folder / "out") == alone(folder)


def test_a_cluster_whose_scheduler_is_lost_is_a_failure_of_its_notebooks(folder, dask):
    dask.work()
    process = start_batch(folder, dask)
    await_text(folder / "pid")
    dask.scheduler.kill()
    out, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (1, "")
    assert out.count("does its scheduler still run?") == 3


@pytest.fixture
def taken(dask):
    """The workers of `dask`, for tasks from here."""
    dask.work()
    with distributed.Client(dask.address) as client:
        yield workers.Workers(client, workers.Wanted.as_here([], [WORKER]))


def test_a_result_that_cannot_be_read_here_is_the_error_of_its_task(taken):
    unreadable = "type('Odd', (), {'__reduce__': lambda self: (int, ('no number',))})()"
    with pytest.raises(ValueError, match="no number"):
        taken.submit(eval, unreadable).result(60)
    assert taken.submit(eval, "6 * 7").result(60) == 42


@pytest.mark.filterwarnings("error")
def test_a_large_argument_outlives_the_workers_that_have_it(taken, dask):
    """Ten times as large as Dask likes those that go with every task."""
    large = bytes(100_000_000)
    assert taken.submit(len, large).result(60) == len(large)
    dask.started[-1].kill()
    dask.work()
    assert taken.submit(len, large).result(60) == len(large)


SBATCH = """#!/bin/sh
# Runs a job here and now, as Slurm does somewhere at some time.
cp "$1" "$(dirname "$0")/job.sh"
setsid sh "$(dirname "$0")/job.sh" > "$(dirname "$0")/job.log" 2>&1 &
echo $! > "$(dirname "$0")/job.pid"
echo Submitted batch job 1
"""
README = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")


def test_the_slurm_recipe(folder):
    """The lines of the README with two cores instead of sixteen, one node instead of two."""
    pytest.importorskip("dask_jobqueue", reason="needs the extra [cluster]")
    lines = re.findall(r"^>>> (.*)$", README[README.index(">>> from dask_jobqueue") :], re.M)[:4]
    recipe = re.sub(r"\b16\b", "2", "\n".join(lines)).replace("64GB", "2GB").replace("jobs=2", "jobs=1")
    (folder / "bin").mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", '#!/bin/sh\nkill -- -$(cat "$(dirname "$0")/job.pid")\n')):
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    (folder / "go").touch()
    run = f"subprocess.run([*{command(folder)}, cluster.scheduler_address], check=True)\ncluster.close()\n"
    (folder / "recipe.py").write_text(f"import subprocess\n{recipe}\n{run}")
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    done = subprocess.run(
        [sys.executable, folder / "recipe.py"],
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    job = (folder / "bin" / "job.sh").read_text()
    for asked in ("#SBATCH -n 1", "#SBATCH --cpus-per-task=2", "#SBATCH --mem=2G", "#SBATCH -t 08:00:00"):
        assert asked in job
    worker = job.splitlines()[-1]
    assert worker.startswith(sys.executable) and "--nthreads 1 " in worker and "--nworkers 2 " in worker
    assert pages(folder / "out") == alone(folder)


UNITS = """
from fedauto_core import Cell, Experiment, FederationSpec, Schedule, make_method, run, scenario
from fedauto_core.experiments.pool import map_units
pathlib.Path({folder!r}, "host").write_text(str(os.getppid()))
where = "[__import__('pathlib').Path({folder!r}, str(__import__('os').getpid())).write_text('here')"
map_units(eval, [where + ", __import__('time').sleep(1)]"] * 6, 2)
split = FederationSpec(4, 50, 40, "classes", classes_per_client=3)
cells = tuple(Cell(name, make_method(name), scenario("mixed", 4), split, lr=0.1) for name in ("fedauto", "fedavg"))
print(run(Experiment("digits", "softmax", None, Schedule(rounds=4), cells, seeds=(0, 1, 2))).curves)
"""


def test_units_are_tasks_of_the_cluster_one_of_which_is_lost_and_the_page_is_as_without_one(folder, dask):
    write_notebook(folder / "notebooks", "02_b", SOURCES["01_a"] + UNITS.format(folder=str(folder)))
    write_profile(folder / "notebooks", "01_a: {minutes: 3}\n02_b: {minutes: 2, parallel: true}\n03_c: {minutes: 1}\n")
    (folder / "go").touch()
    started = {str(worker.pid): worker for worker in dask.work(2)}
    process = start_batch(folder, dask)
    host = await_text(folder / "host")
    assert host in started and all(await_text(folder / pid) == "here" for pid in started)
    next(worker for pid, worker in started.items() if pid != host).kill()
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    assert pages(folder / "out") == alone(folder)
