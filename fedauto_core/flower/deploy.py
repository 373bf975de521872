"""`make deploy`: the example app on a SuperLink and SuperNodes, each a process of its own, over links that really fail.

As root each of them gets a network namespace of its own, with a cable to the server's: its link is taken down and up
after the trace of `links`, and its rate is limited. Elsewhere all of them share the loopback, a client without a link
is one that is paused, and rates are not limited. Either way no packet leaves the machine, and processes, namespaces and
temporary files are gone at the end, on Ctrl-C, on failure, and after its own process was killed (`sweep`).
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from fedauto_core.errors import InputError, require, require_number
from fedauto_core.network import CAUSES, Cause, Trace
from fedauto_core.network.traces import make_trace

from .links import Links, draw_links
from .world import Namespaces, World, free_ports, namespaces_refused, tail, wait_for

HERE = Path(__file__).parent
_BESIDE = HERE.parents[1] / "examples" / "flower"
APP = _BESIDE if _BESIDE.is_dir() else HERE.parent / "_examples" / "flower"
"""The example app: beside the package in a checkout, inside an installed one."""
RECORDED = HERE / "recorded"
"""A deployment that comes with the project, as `deploy` writes it."""
NOT_CONNECTED = "not connected"
SLACK_S = 60.0  # of a round, beyond its deadlines: for the server's part of it


def deploy(
    folder: Path,
    rounds: int = 8,
    clients: int = 6,
    deadline_s: float = 25.0,
    seed: int = 9,
    namespaces: bool = True,
    say: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Deploy the example and write what happened to `folder`; gives the log.

    log.csv: round (from 0), client (from 1), arrived (0 or 1), cause (why not, as the server saw it), planned (what the
    links were to do, in the words of `CAUSES`), seconds (from the start of the round until the server had it, in steps
    of Flower's three), bytes (that left the client's interface in the round; none without namespaces), round_seconds,
    accuracy (after the round). arrivals.csv: the same arrivals, as the failure process "replay" reads them.
    provenance.json: everything else.

    Parameters
    ----------
    folder : made if it is not there
    rounds, clients, seed : T, N, and that of the trace, see `links.draw_links`
    deadline_s : after which a round is closed. Flower starts a process for each message, which takes some seconds
    namespaces : whether to use them where they are allowed
    say : takes a line of progress

    Raises
    ------
    InputError : for a number out of range, or where Flower's programs are missing
    RuntimeError : when the deployment does not come to its end; with the end of its log
    """
    require_number("deadline_s", deadline_s)
    links = draw_links(clients, rounds, seed)
    programs = Path(sys.executable).parent
    require(
        (programs / "flower-superlink").exists(),
        f"no program flower-superlink in {programs}",
        allowed="an environment with Flower",
        remedy="install the extra [flower]",
    )
    why = namespaces_refused() if namespaces else "asked for"
    home = Path(tempfile.mkdtemp(prefix="fedauto-deploy-"))
    with World(home) if why else Namespaces(home, links.bits_per_second.tolist()) as world:
        say(f"links: {world.name}" + (f", rates unlimited ({why})" if why else ""))
        began = time.monotonic()
        log = _Run(world, links, deadline_s, say).log()
        facts = {"links": world.name, "seconds": round(time.monotonic() - began, 1)}
    facts |= {
        "parameters": {"rounds": rounds, "clients": clients, "deadline_s": deadline_s, "seed": seed},
        "standards": links.standard,
        "bits_per_second": None if why else links.bits_per_second.round().tolist(),
        "events": {name: getattr(links, name) for name in ("killed", "kill", "cut", "away", "late", "join")},
        "planned_sha256": links.trace.sha256,
        "arrived_sha256": trace_of(log).sha256,
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("flwr", "torch", "numpy")},
    }
    folder.mkdir(parents=True, exist_ok=True)
    log.to_csv(folder / "log.csv", index=False, lineterminator="\n")
    trace_of(log).to_csv(folder / "arrivals.csv")
    (folder / "provenance.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return log


class _Run:
    """The app on `world`, round by round after `links`."""

    def __init__(self, world: World, links: Links, deadline_s: float, say: Callable[[str], None]) -> None:
        self.world, self.links, self.deadline_s, self.say = world, links, deadline_s, say
        self.rounds, self.clients = links.trace.arrived.shape
        self.diary, self.data = world.home / "diary.csv", world.home / "data"
        self.port, *self.own_ports = free_ports(1 + self.clients)

    def log(self) -> pd.DataFrame:
        """Start everything, and set the links at the start of each round."""
        self.world.start("data", 0, [sys.executable, APP / "digits_app" / "task.py", self.clients, self.data])
        host = ("--host", "0.0.0.0" if self.world.server != "127.0.0.1" else "127.0.0.1", "--port", self.port)
        self.world.start(
            "superlink", 0, ["flower-superlink", "--insecure", "--disable-runtime-dependency-installation", *host]
        )
        self.world.says("superlink", "Uvicorn running")
        self.world.done("data")
        first = [client for client in range(1, 1 + self.clients) if client != self.links.late]
        for client in first:
            self._start_node(client)
        for client in first:
            self.world.says(self._node(client), "SuperNode ID")
        self._start_app()
        sent = [self._sent()]
        for t in range(self.rounds):
            self._until_noted(t)
            self._set_links(t)
            self._until_noted(t + 1)
            sent.append(self._sent())
            log = as_log(read_diary(self.diary), self.links.trace, np.diff(sent, axis=0))
            self.say(describe(log[log["round"] == t]))
        return log

    def _start_node(self, client: int) -> None:
        words = ["flower-supernode", "--insecure", "--superlink", f"{self.world.server}:{self.port}"]
        node = f'partition-id={client - 1} data="{self.data}"'
        words += ["--port", self.own_ports[client - 1], "--node-config", node]
        self.world.start(self._node(client), client, words)

    def _start_app(self) -> None:
        here = f'[superlink.here]\naddress = "127.0.0.1:{self.port}"\ninsecure = true\n'
        (self.world.home / "config.toml").write_text(here, encoding="utf-8")
        config = {"rounds": self.rounds, "clients": self.clients, "deadline-s": float(self.deadline_s)}
        words = [*(f"{name}={value}" for name, value in config.items()), f'log="{self.diary}"']
        self.world.start("app", 0, ["flwr", "run", APP, "here", "--stream", "--run-config", " ".join(words)])

    def _set_links(self, t: int) -> None:
        """As the trace has them in round t; who is to join in the next one is started, and connected, by now."""
        links = self.links
        if t == links.kill:
            self.world.kill(self._node(links.killed))
        present = {*range(1, 1 + self.clients)} - {links.late}
        present -= {links.killed} if t >= links.kill else set()
        if t == links.join - 1:
            self._start_node(links.late)
        for client in present | ({links.late} if t >= links.join else set()):
            self.world.link(client, self._node(client), bool(links.trace.arrived[t, client - 1]))

    def _until_noted(self, round: int) -> None:
        """Until the diary has a round (from 1; 0: the start)."""
        app, limit_s = self.world.processes["app"], 3 * self.deadline_s + SLACK_S

        def noted() -> bool:
            begun = self.diary.exists() and self.diary.stat().st_size > 0
            return begun and bool((read_diary(self.diary)["round"] >= round).any())

        wait_for(lambda: noted() or app.poll() is not None, limit_s)
        if not noted():
            output = tail(self.world.home / "app.log")
            raise RuntimeError(f"the app has not finished round {round} within {limit_s:.0f} s:\n{output}")

    def _sent(self) -> np.ndarray:
        """Bytes by now, [N], NaN where unknown."""
        return np.array([self.world.sent(client) for client in range(1, 1 + self.clients)], dtype=float)

    @staticmethod
    def _node(client: int) -> str:
        return f"supernode-{client}"


def read_diary(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"client": str, "cause": str}, keep_default_na=False, na_values={"seconds": [""]})


def as_log(diary: pd.DataFrame, planned: Trace, sent: np.ndarray) -> pd.DataFrame:
    """The lines of a `diary` for every client in the rounds of which there is a number of bytes `sent`, [t, N].

    Client k is who calls itself "site k-1". Who has no line was not connected, or has not told yet who it is.
    """
    known = {(row.round, row.client): row for row in diary.itertuples()}
    whole = diary.groupby("round")[["round_seconds", "accuracy"]].first()
    lines = []
    for t, k in np.ndindex(sent.shape):
        row = known.get((t + 1, f"site {k}"))
        lines.append(
            {
                "round": t,
                "client": k + 1,
                "arrived": row.arrived if row else 0,
                "cause": row.cause if row else NOT_CONNECTED,
                "planned": CAUSES[planned.cause[t, k]],
                "seconds": row.seconds if row else np.nan,
                "bytes": sent[t, k],
                "round_seconds": whole["round_seconds"][t + 1],
                "accuracy": whole["accuracy"][t + 1],
            }
        )
    return pd.DataFrame(lines).astype({"bytes": "Int64"})


def describe(round: pd.DataFrame) -> str:
    """A line about one round of a log."""
    first, lost = round.iloc[0], round[round["arrived"] == 0]
    missing = "; ".join(f"{row.client} {row.cause[:40]} ({row.planned})" for row in lost.itertuples()) or "nobody"
    heard = " ".join(map(str, round[round["arrived"] == 1]["client"])) or "nobody"
    ends = f"{first.round_seconds:.0f} s, accuracy {first.accuracy:.3f}"
    return f"round {first['round'] + 1}: heard {heard}; missing {missing}; {ends}"


def trace_of(log: pd.DataFrame) -> Trace:
    """What arrived, of a log of `deploy`. The cause of a loss is what the link was to do; where it was up, either the
    server did not know that the client was there (`Cause.AWAY`), or the update was late (`Cause.DEADLINE`)."""
    log, shape = log.sort_values(["round", "client"]), (log["round"].nunique(), log["client"].nunique())
    planned = log["planned"].map({name: code for code, name in enumerate(CAUSES)})
    missed = np.where(log["cause"] == NOT_CONNECTED, Cause.AWAY, Cause.DEADLINE)
    cause = np.where(planned == Cause.OK, missed, planned).reshape(shape)
    arrived = log["arrived"].to_numpy(dtype=bool).reshape(shape)
    rate = arrived.mean(axis=0)
    return make_trace(arrived, cause, np.broadcast_to(rate, shape).copy(), rate)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fedauto_core.flower.deploy", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--out", type=Path, default=Path("reports/scratch/deployment"), help="folder of what is written"
    )
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--deadline", type=float, default=25.0, help="seconds after which a round is closed")
    parser.add_argument("--seed", type=int, default=9, help="of the links")
    parser.add_argument("--pause", action="store_true", help="pause processes, also where namespaces are allowed")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is undone, as on Ctrl-C
    try:
        deploy(asked.out, asked.rounds, asked.clients, asked.deadline, asked.seed, not asked.pause)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"the deployment failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; processes, namespaces and temporary files are gone", file=sys.stderr)
        return 130
    print(f"written: {asked.out}/log.csv, arrivals.csv, provenance.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
