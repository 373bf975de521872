"""The processes of a deployment and the network between them, in one of two ways; all of it goes when it is left."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

STARTS_S = 90.0
ENDS_S = 10.0  # of a process that was killed
RATE_BURST, RATE_QUEUE = "32kb", "1mb"  # of tbf


def wait_for(done: Callable[[], bool], seconds: float) -> bool:
    """Whether it was `done` in time."""
    until = time.monotonic() + seconds
    while not (ready := done()) and time.monotonic() < until:
        time.sleep(0.1)
    return ready


def tail(output: Path, lines: int = 30) -> str:
    return "\n".join(output.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


class World:
    """Processes by name, their output in `home`, a folder that goes with them. Place 0 is the server's, k that of
    client k; here all on the loopback, where a client without a link is paused.

    server: address of the server, as clients know it; sent(client): bytes that have left its interface, or None.
    """

    name, server = "pausing processes", "127.0.0.1"

    def __init__(self, home: Path) -> None:
        self.home, self.processes = home, {}
        kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # Flower calls them by name
        quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1"}
        self.environment = kept | quiet | {"PATH": programs, "FLWR_HOME": str(home)}

    def __enter__(self) -> World:
        words = [sys.executable, "-I", Path(__file__).with_name("sweep.py"), self.home]
        plain = {"PATH": os.environ.get("PATH", "")}  # without what marks it as a part of whatever is run here
        self._sweeper = subprocess.Popen(
            words,
            env=plain,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        if (said := self._sweeper.stdout.readline()) != "ready\n":
            said += self._swept()
            if self.home.exists():  # nobody else is there to take it away
                shutil.rmtree(self.home)
            raise RuntimeError(f"the process that takes the deployment away has not started:\n{said}")
        try:
            self.lay()
        except BaseException:  # what it has left half made
            self.__exit__()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        said = self._swept()
        for name, process in self.processes.items():
            try:
                process.wait(ENDS_S)
            except subprocess.TimeoutExpired:
                said += f"{name} (process {process.pid}) has not ended within {ENDS_S:g} s\n"
        if said:
            raise RuntimeError(f"not all of the deployment could be taken away:\n{said}")

    def _swept(self) -> str:
        """Close the sweeper's input, and wait until it is done; the rest of what it says."""
        with self._sweeper as sweeper:
            sweeper.stdin.close()
            return sweeper.stdout.read()  # communicate() would lose what came together with the line that was read

    def lay(self) -> None:
        """Make the network."""

    def at(self, place: int) -> list[str]:
        """The words that start a command at `place`."""
        return []

    def start(self, name: str, place: int, words: Sequence[object]) -> None:
        with (self.home / f"{name}.log").open("w") as output:
            self.processes[name] = subprocess.Popen(
                [*self.at(place), *map(str, words)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def says(self, name: str, text: str) -> None:
        """Wait until `text` is in the output of a process. RuntimeError if it ends before, or takes too long."""
        output = self.home / f"{name}.log"
        wait_for(lambda: text in output.read_text() or self.processes[name].poll() is not None, STARTS_S)
        if text not in output.read_text():
            raise RuntimeError(f"{name} did not say {text!r} within {STARTS_S:.0f} s:\n{tail(output)}")

    def done(self, name: str) -> None:
        """Wait for a process to end. RuntimeError if it failed."""
        process = self.processes[name]
        if not wait_for(lambda: process.poll() is not None, STARTS_S) or process.returncode:
            said = "failed" if process.returncode else f"has not ended within {STARTS_S:.0f} s"
            raise RuntimeError(f"{name} {said}:\n{tail(self.home / f'{name}.log')}")

    def kill(self, name: str) -> None:
        """A process and all that it has started."""
        for process in self._tree(name):
            with suppress(psutil.NoSuchProcess):  # Flower's processes for single messages come and go
                process.kill()
        self.processes[name].wait()

    def link(self, client: int, name: str, up: bool) -> None:
        for process in self._tree(name):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT if up else signal.SIGSTOP)

    def sent(self, client: int) -> int | None:
        return None

    def _tree(self, name: str) -> list[psutil.Process]:
        first = psutil.Process(self.processes[name].pid)
        return [first, *first.children(recursive=True)]


class Namespaces(World):
    """A network namespace for the server and for each client, with cables (pairs of veth) to a bridge at the server's.

    The clients' ends go down and up, and send at a limited rate (tbf). rates: bit/s of each client.
    """

    name, server = "network namespaces", "10.77.0.1"

    def __init__(self, home: Path, rates: Sequence[float]) -> None:
        super().__init__(home)
        self.rates = rates

    def lay(self) -> None:
        for place in range(1 + len(self.rates)):
            _run("ip", "netns", "add", self._space(place))
            self._ip(place, "link", "set", "lo", "up")
        self._ip(0, "link", "add", "hub", "type", "bridge")
        self._ip(0, "addr", "add", f"{self.server}/16", "dev", "hub")
        self._ip(0, "link", "set", "hub", "up")
        for client, rate in enumerate(self.rates, start=1):
            cable = f"client{client}"
            self._ip(0, "link", "add", cable, "type", "veth", "peer", "name", "uplink", "netns", self._space(client))
            self._ip(0, "link", "set", cable, "master", "hub", "up")
            self._ip(client, "addr", "add", f"10.77.{1 + client // 250}.{1 + client % 250}/16", "dev", "uplink")
            self._ip(client, "link", "set", "uplink", "up")
            limit = ("rate", f"{rate:.0f}bit", "burst", RATE_BURST, "limit", RATE_QUEUE)
            _run(*self.at(client), "tc", "qdisc", "add", "dev", "uplink", "root", "tbf", *limit)

    def at(self, place: int) -> list[str]:
        return ["ip", "netns", "exec", self._space(place)]

    def link(self, client: int, name: str, up: bool) -> None:
        self._ip(client, "link", "set", "uplink", "up" if up else "down")

    def sent(self, client: int) -> int | None:
        return int(_run(*self.at(client), "cat", "/sys/class/net/uplink/statistics/tx_bytes"))

    def _space(self, place: int) -> str:
        return f"{self.home.name}-{place}"

    def _ip(self, place: int, *words: str) -> None:
        _run("ip", "-n", self._space(place), *words)


def namespaces_refused() -> str:
    """Why no network namespace can be made here, or ""."""
    if os.geteuid() != 0:
        return "namespaces need root"
    for program in ("ip", "tc"):
        if not shutil.which(program):
            return f"there is no program {program} (package iproute2)"
    name = f"fedauto-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"ip netns add: {made.stderr.strip()}"
    _run("ip", "netns", "delete", name)
    return ""


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
