"""A deployment: what is to happen to its links, its processes and their network, its log, and one that is real."""

import contextlib
import importlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from matplotlib import rc_context

pytest.importorskip("flwr.app", reason="needs the extra [flower]")

from flower_grid import LocalGrid
from flwr.app import Context, RecordDict

from fedauto_core.errors import InputError
from fedauto_core.flower.deploy import APP, RECORDED, as_log, deploy, describe, main, read_diary, trace_of
from fedauto_core.flower.links import draw_links
from fedauto_core.flower.local import trains
from fedauto_core.flower.sweep import of_deployment, sweep
from fedauto_core.flower.world import Namespaces, World, namespaces_refused, wait_for
from fedauto_core.network import Cause, Scenario, draw_trace, scenario

REFUSED = namespaces_refused()
needs_namespaces = pytest.mark.skipif(bool(REFUSED), reason=f"no network namespaces: {REFUSED}")


def test_three_events_lie_on_top_of_the_radio_trace():
    links = draw_links(6, 8, seed=9)
    drawn = draw_trace(scenario("F6", 8), rounds=8, histograms=np.ones((6, 1)), seed=9)
    arrived, cause = links.trace.arrived, links.trace.cause
    assert not arrived[4:, 5].any() and (cause[4:, 5] == Cause.AWAY).all()  # killed for good
    assert not arrived[:2, 4].any() and (cause[:2, 4] == Cause.AWAY).all()  # joins late
    assert not arrived[4:6, 0].any() and (cause[4:6, 0] == Cause.LONG).all() and arrived[6:, 0].all()  # comes back
    changed = np.zeros((8, 6), dtype=bool)
    changed[4:, 5] = changed[:2, 4] = changed[4:6, 0] = True
    assert (arrived | changed == drawn.arrived | changed).all() and not drawn.arrived.all()


def test_links_of_radio_differ_and_wires_are_alike():
    links = draw_links(6, 8, seed=9)
    assert links.standard == ("wired", "wifi", "lte", "nr_umi", "wired", "wifi")
    rates = links.bits_per_second
    assert rates[0] == rates[4] and len({*rates.tolist()}) == 5 and (rates > 0).all()
    assert not np.array_equal(rates, draw_links(6, 8, seed=8).bits_per_second)


@pytest.mark.parametrize(
    "clients, rounds, seed, deadline, wrong",
    [
        (2, 8, 0, 1.0, "clients = 2"),
        (6, 1, 0, 1.0, "rounds = 1"),
        (6, 8, -1, 1.0, "seed = -1"),
        (6, 8, 0, 0.0, "deadline_s = 0"),
        (6.5, 8, 0, 1.0, "clients = 6.5"),
    ],
)
def test_wrong_numbers_are_refused_before_anything_is_started(clients, rounds, seed, deadline, wrong, tmp_path):
    with pytest.raises(InputError, match=rf"{wrong}.*Allowed.*Remedy"):
        deploy(tmp_path / "out", rounds, clients, deadline, seed)
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_is_wrong(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["deploy", "--rounds", "1"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert main() == 2 and capsys.readouterr().err.startswith("rounds = 1. Allowed: ")


class Polled(LocalGrid):
    """Asks for replies as Flower's grids do; clients come and go: `there(round)`, nodes of a round from 1."""

    def __init__(self, there, **options):
        super().__init__({}, **options)
        self.there, self.round = there, 0

    def get_node_ids(self):
        return [*self.there(self.round + 1)]

    def pull_messages(self, message_ids):
        return self.replies

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        if messages and trains(messages[0]):
            self.round += 1
        self.replies = super().send_and_receive(messages, timeout=timeout)
        return self.pull_messages([])


@pytest.fixture
def example(monkeypatch, capsys):
    """run(grid, **config): the example's server on a grid."""
    monkeypatch.syspath_prepend(APP)
    client_app, server_app = (importlib.import_module(f"digits_app.{name}") for name in ("client_app", "server_app"))
    config = tomllib.loads((APP / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["flwr"]["app"]["config"]

    def run(grid, **more):
        grid.apps = dict.fromkeys(range(100, 107), client_app.app)
        grid.run_config = config | more
        server_app.main(grid, Context(0, 0, {}, RecordDict(), grid.run_config))
        said = capsys.readouterr().out.splitlines()
        return [float(line.split()[-1]) for line in said if line.startswith("after round")]

    return run


def test_the_diary_becomes_a_log_that_replay_reads(example, tmp_path):
    """Client 2 is never heard, client 3 joins in the second round."""
    heard = {1: [100, 101], 2: [100, 101, 102]}
    grid = Polled(lambda round: heard.get(round, []), reaches=lambda node, message: node != 101 or not trains(message))
    accuracies = example(grid, clients=3, rounds=2, log=str(tmp_path / "diary.csv"))
    diary = read_diary(tmp_path / "diary.csv")
    assert diary["round"].tolist() == [0, 1, 1, 2, 2, 2]
    log = as_log(diary, draw_links(3, 2, 0).trace, np.array([[1.0, 2.0, 3.0], [4.0, 5.0, np.nan]]))
    assert log["arrived"].tolist() == [1, 0, 0, 1, 0, 1]
    assert log["cause"].tolist() == ["", "silent", "not connected", "", "silent", ""]
    assert log["bytes"].tolist()[:5] == [1, 2, 3, 4, 5] and log["bytes"].isna()[5]
    np.testing.assert_allclose(log["accuracy"][::3], accuracies[1:], atol=6e-4)
    assert log["seconds"].notna().tolist() == log["arrived"].astype(bool).tolist()
    assert describe(log[log["round"] == 1]).startswith("round 2: heard 1 3; missing 2 silent (")
    trace_of(log).to_csv(tmp_path / "arrivals.csv")
    again = Scenario("again", "replay", (("path", str(tmp_path / "arrivals.csv")),))
    read = draw_trace(again, rounds=2, histograms=np.ones((3, 1)), seed=0)
    assert read.arrived.tolist() == [[True, False, False], [True, False, True]]


def test_the_cause_of_a_loss_is_the_link_s_where_it_was_down():
    planned = ["arrived", "arrived", "arrived", "long outage"]
    log = pd.DataFrame({"round": 0, "client": [1, 2, 3, 4], "arrived": [1, 0, 0, 0], "planned": planned})
    log["cause"] = ["", "silent", "not connected", "silent"]
    trace = trace_of(log[::-1])
    assert trace.cause.tolist() == [[Cause.OK, Cause.DEADLINE, Cause.AWAY, Cause.LONG]]
    assert trace.arrived.tolist() == [[True, False, False, False]]


def test_a_round_without_anybody_has_its_line(example, tmp_path):
    example(Polled(lambda round: []), clients=3, rounds=2, log=str(tmp_path / "diary.csv"))
    log = as_log(read_diary(tmp_path / "diary.csv"), draw_links(3, 2, 0).trace, np.full((2, 3), np.nan))
    assert {*log["cause"]} == {"not connected"} and not log["arrived"].any()


def test_the_recorded_deployment_is_that_of_its_provenance_and_gives_the_same_accuracies_again(example):
    log = pd.read_csv(RECORDED / "log.csv", keep_default_na=False)
    facts = json.loads((RECORDED / "provenance.json").read_text(encoding="utf-8"))
    rounds, clients = facts["parameters"]["rounds"], facts["parameters"]["clients"]
    assert trace_of(log).sha256 == facts["arrived_sha256"]
    assert draw_links(clients, rounds, facts["parameters"]["seed"]).trace.sha256 == facts["planned_sha256"]
    replay = Scenario("recorded", "replay", (("path", str(RECORDED / "arrivals.csv")),))
    arrived = draw_trace(replay, rounds=rounds, histograms=np.ones((clients, 1)), seed=0).arrived
    assert (arrived == trace_of(log).arrived).all() and not arrived.all()
    known = (log["cause"] != "not connected").to_numpy().reshape(rounds, clients)

    def reaches(node, message):
        return not trains(message) or arrived[message.content["config"]["server-round"] - 1, node - 100]

    grid = Polled(lambda r: (100 + np.flatnonzero(known[r - 1 : r].any(axis=0))).tolist(), reaches=reaches)
    again = example(grid, clients=clients, rounds=rounds)
    np.testing.assert_allclose(again[1:], log.groupby("round")["accuracy"].first(), atol=0.003)  # one image of 400


NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "16_plug_and_play.ipynb"


@pytest.fixture
def page(monkeypatch, tmp_path):
    """page(deployment): the namespace of the notebook after the cells about a deployment, with `deploy` set, where what
    it deploys leaves the files in the folder `deployment`."""

    def run(deployment):
        monkeypatch.setattr("fedauto_core.flower.deploy.deploy", lambda folder: shutil.copytree(deployment, folder))
        monkeypatch.setenv("FEDAUTO_OUTPUT", str(tmp_path / "page"))
        monkeypatch.setattr(sys, "path", [*sys.path])
        cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
        last = 1 + [cell["id"] for cell in cells].index("cell-14-gap")
        space = {"In": []}
        with rc_context():
            for cell in cells[:last]:
                if cell["cell_type"] == "code":
                    space["In"].append("".join(cell["source"]))
                    exec(compile(space["In"][-1], cell["id"], "exec"), space)
                    space |= {"deploy": True}
        return space

    flower = logging.getLogger("flwr")
    level = flower.level
    yield run
    flower.setLevel(level)  # the notebook silences it


def test_the_notebook_shows_the_deployment_that_it_makes(page, tmp_path):
    shutil.copytree(RECORDED, tmp_path / "made")
    facts = json.loads((RECORDED / "provenance.json").read_text(encoding="utf-8"))
    (tmp_path / "made" / "provenance.json").write_text(json.dumps(facts | {"links": "of this test"}))
    space = page(tmp_path / "made")
    assert space["folder"] == tmp_path / "page" / "deployment" and space["facts"]["links"] == "of this test"
    assert {"clients.csv", "arrivals.svg", "accuracy.svg"} < {path.name for path in (tmp_path / "page").iterdir()}


def test_a_client_without_a_link_is_paused_and_nothing_is_left(tmp_path):
    with World(tmp_path) as world:
        world.start("client", 1, [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(60)"])
        world.says("client", "here")
        process = psutil.Process(world.processes["client"].pid)
        world.link(1, "client", False)
        assert wait_for(lambda: process.status() == psutil.STATUS_STOPPED, 10)
        world.link(1, "client", True)
        assert wait_for(lambda: process.status() != psutil.STATUS_STOPPED, 10)
        assert world.sent(1) is None
        world.link(1, "client", False)
    assert not process.is_running()


def test_what_ends_at_once_or_fails_is_told_with_its_output(tmp_path):
    left = []
    with (
        pytest.raises(RuntimeError, match=r"broken did not say 'ready' within .* s:\nno such luck"),
        World(tmp_path) as world,
    ):
        world.start("other", 0, ["sleep", "60"])
        left.append(psutil.Process(world.processes["other"].pid))
        world.start("broken", 0, [sys.executable, "-c", "raise SystemExit('no such luck')"])
        world.says("broken", "ready")
    assert not left[0].is_running()
    (again := tmp_path.with_name("again")).mkdir()
    with pytest.raises(RuntimeError, match="job failed:\nno such luck"), World(again) as world:
        world.start("job", 0, [sys.executable, "-c", "raise SystemExit('no such luck')"])
        world.done("job")


def test_a_sweeper_that_does_not_start_is_told_and_leaves_no_folder(tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho first\necho \"No module named 'psutil'\" >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    (home := tmp_path / "home").mkdir()
    with pytest.raises(RuntimeError, match="has not started:\nfirst\nNo module named 'psutil'"), World(home):
        pass
    assert not home.exists()


def test_a_process_that_outlives_its_deployment_is_named(tmp_path, monkeypatch):
    """One whose environment does not tell whose it is."""
    monkeypatch.setattr("fedauto_core.flower.world.ENDS_S", 0.5)
    said = r"could be taken away:\nodd \(process \d+\) has not ended"
    with pytest.raises(RuntimeError, match=said), World(tmp_path) as world:
        world.start("odd", 0, ["env", "-i", "sleep", "60"])
        odd = psutil.Process(world.processes["odd"].pid)
        assert wait_for(lambda: odd.name() == "sleep", 10)
    world.processes["odd"].kill()
    world.processes["odd"].wait()


def test_what_cannot_be_taken_away_stops_nothing_else(tmp_path, monkeypatch):
    """A process that may not be killed, and the first namespace; `ip` is a stand-in."""

    class Refusing:
        pid = 7

        def kill(self):
            raise psutil.AccessDenied(self.pid)

    (home := tmp_path / "home").mkdir()
    (spaces := tmp_path / "netns").mkdir()
    for name in ("home-0", "home-1", "other-0"):
        (spaces / name).touch()
    ip = '#!/bin/sh\n[ "$3" = home-0 ] && echo busy >&2 && exit 1\nrm "$(dirname "$0")/netns/$3"\n'
    (tmp_path / "ip").write_text(ip)
    (tmp_path / "ip").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("fedauto_core.flower.sweep.SPACES", spaces)
    monkeypatch.setattr("fedauto_core.flower.sweep.LIMIT_S", 0.2)
    monkeypatch.setattr("fedauto_core.flower.sweep.of_deployment", lambda home: [Refusing()])
    with pytest.raises(SystemExit, match=r"^process 7 still runs\nnamespace home-0: busy$"):
        sweep(home)
    assert not home.exists() and {path.name for path in spaces.iterdir()} == {"home-0", "other-0"}


HOLDS = """
import sys, time
from pathlib import Path
from fedauto_core.flower.world import Namespaces, World
home = Path(sys.argv[1])
with Namespaces(home, [1e6]) if sys.argv[2] == "namespaces" else World(home) as world:
    world.start("client", 1, [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(60)"])
    world.says("client", "here")
    print("up", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["processes", pytest.param("namespaces", marks=needs_namespaces)])
def test_nothing_is_left_when_the_deployment_itself_is_killed(kind, tmp_path):
    """With all of its children, as a batch ends a notebook."""
    home = tmp_path / f"fedauto-killed-{tmp_path.parent.name[-3:]}"
    home.mkdir()
    with subprocess.Popen([sys.executable, "-c", HOLDS, home, kind], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "up\n"
        assert of_deployment(home) and (kind == "processes" or len(spaces(home)) == 2)
        for process in [*psutil.Process(holder.pid).children(recursive=True), psutil.Process(holder.pid)]:
            process.kill()
    assert wait_for(lambda: not home.exists(), 20)
    assert of_deployment(home) == [] and (kind == "processes" or spaces(home) == [])


def spaces(home):
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if line.startswith(home.name)]


ASK = "import urllib.request, sys; urllib.request.urlopen(sys.argv[1], timeout=3)"


@needs_namespaces
def test_a_link_goes_down_and_up_and_the_namespaces_go_at_the_end(tmp_path):
    home = tmp_path / f"fedauto-test-{tmp_path.parent.name[-3:]}"
    home.mkdir()
    with Namespaces(home, [1e6, 1e6]) as world:
        world.start("server", 0, [sys.executable, "-u", "-m", "http.server", "8000", "--directory", home])
        world.says("server", "Serving")

        def reaches(client):
            words = [*world.at(client), sys.executable, "-c", ASK, f"http://{world.server}:8000/"]
            return subprocess.run(words, capture_output=True).returncode == 0

        assert reaches(1) and reaches(2)
        world.link(1, "", False)
        sent = world.sent(1)
        assert not reaches(1) and reaches(2) and world.sent(1) == sent > 0
        world.link(1, "", True)
        assert reaches(1) and world.sent(1) > sent and len(spaces(home)) == 3
    assert spaces(home) == []


@needs_namespaces
def test_half_made_namespaces_are_undone(tmp_path):
    home = tmp_path / f"fedauto-half-{tmp_path.parent.name[-3:]}"
    home.mkdir()
    with pytest.raises(RuntimeError, match="tbf"), Namespaces(home, [1e6, -1.0]):
        pass
    assert spaces(home) == []


@needs_namespaces
def test_a_real_deployment(page, tmp_path, monkeypatch):
    """With so short a deadline that no update need be in time: what is sure is who cannot have arrived. The notebook
    computes the same accuracies from it."""
    said, out, homes = [], tmp_path / "out", tmp_path / "homes"
    homes.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(homes))
    log = deploy(out, rounds=2, clients=3, deadline_s=6.0, seed=9, say=said.append)
    facts = json.loads((out / "provenance.json").read_text(encoding="utf-8"))
    assert facts["links"] == "network namespaces" and said[0] == "links: network namespaces" and len(said) == 3
    heard = trace_of(log).arrived
    assert heard.shape == (2, 3) and not heard[0, 1] and not heard[1, 0] and not heard[1, 2]  # late, cut, killed
    assert (log["bytes"] >= 0).all() and (log["accuracy"] > 0.1).all() and log["bytes"][0] > 1000
    assert {path.name for path in out.iterdir()} == {"log.csv", "arrivals.csv", "provenance.json"}
    assert list(homes.iterdir()) == [] and not of_flower(homes)
    assert page(out)["gap"] < 0.003  # one image of 400


def of_flower(homes):
    """Processes whose FLWR_HOME is in `homes`; those that are dead and wait for init tell none."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            found += [process] * process.environ().get("FLWR_HOME", "").startswith(str(homes))
    return found
