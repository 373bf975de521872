"""A Dask cluster is used only if all its workers can do the work. The cluster here is a stand-in."""

import sys
from types import MappingProxyType, ModuleType

import pytest

from fedauto_core.errors import InputError
from fedauto_core.report import cluster, progress
from fedauto_core.report.plan import WORKER


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

    def get_executor(self):
        return self

    def shutdown(self, wait):
        pass


@pytest.fixture
def connect(tmp_path, monkeypatch):
    fakes = {"distributed": ModuleType("distributed"), "cloudpickle": ModuleType("cloudpickle")}
    fakes["distributed"].Client = Client
    fakes["cloudpickle"].register_pickle_by_value = fakes["cloudpickle"].unregister_pickle_by_value = lambda module: (
        None
    )
    for name, module in fakes.items():
        monkeypatch.setitem(sys.modules, name, module)
    progress.token_file(tmp_path).parent.mkdir()
    progress.token_file(tmp_path).write_text("mine", encoding="utf-8")

    def connect(workers, address="tcp://host:1"):
        monkeypatch.setattr(Client, "workers", workers)
        with cluster.cluster(address, tmp_path, [WORKER]) as executor:
            return executor

    return connect


def test_workers_with_the_same_files_and_code_are_taken(connect):
    assert isinstance(connect({"a": {}, "b": {}}), Client)


@pytest.mark.parametrize(
    ("workers", "said"),
    [
        ({}, "no worker has come within 20 seconds.*dask worker tcp://host:1"),
        ({"a": {}, "b": {"token": "[Errno 2] No such file"}}, "worker b does not see the report folder .*Errno 2"),
        ({"a": {"token": "of another"}}, "worker a does not see the report folder"),
        ({"a": {"code": "0" * 64}}, "worker a has other code of fedauto_core .*from this checkout"),
        ({"a": {"code": "ModuleNotFoundError: No module named 'fedauto_core'"}}, "worker a .*No module named"),
        ({"a": {"packages": "{'numpy': '1'}"}}, "worker a has the packages {'numpy': '1'} instead of"),
    ],
)
def test_others_are_refused_with_one_clear_error(connect, workers, said):
    with pytest.raises(InputError, match=said):
        connect(workers)


def test_a_scheduler_that_does_not_answer_is_refused(connect):
    with pytest.raises(InputError, match=r"tcp://nobody: nobody there.*dask scheduler"):
        connect({"a": {}}, "tcp://nobody")


def test_a_worker_says_why_it_cannot_look(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fedauto_core.store.keys", None)
    monkeypatch.delattr("fedauto_core.store.keys")
    answer = cluster.look_around(str(tmp_path / "token"), [WORKER], [])
    assert "No such file" in answer["token"] and answer["code"].startswith("ModuleNotFoundError")
