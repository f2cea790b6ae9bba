"""One server program of the laboratory: started inside its host's namespace, awaited, stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from .command import environment, run
from .errors import ServerNotReadyError
from .netns import pids
from .topology import Host

#: Seconds a server may take until it listens; far more than any needs, for machines under load.
PATIENCE = 60.0


@dataclass
class Server:
    """A server that runs in the foreground.

    `listens` are the sockets it must hold before it counts as started: ("tcp" or "udp", address, port).
    """

    name: str
    host: Host
    argv: list[str]
    listens: list[tuple[str, str, int]]
    log: Path
    env: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start the program; `wait_ready` says when it can be used."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.host.netns, *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(**self.env),
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Wait until the kernel shows all its listening sockets.

        Raises:
            ServerNotReadyError: it ended, or does not listen within `PATIENCE` seconds.
        """
        wanted = set(self.listens)
        until = time.monotonic() + PATIENCE
        while missing := wanted - listening(self.host.netns):
            if self.process is None or self.process.poll() is not None:
                raise ServerNotReadyError(self.name, "ended while starting", self.tail())
            if time.monotonic() > until:
                raise ServerNotReadyError(self.name, f"does not listen on {sorted(missing)}", self.tail())
            time.sleep(0.03)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the program (no error when it has ended already) and wait until its sockets are gone."""
        if self.process is None:
            return
        if self.process.poll() is None:
            # A program started by a shell script (postfix) is reached as the script's child only.
            for pid in (*_children(self.process.pid), self.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        # What it forked (nginx workers, postfix daemons) shares its session; the leader's id stays the group's.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process = None
        until = time.monotonic() + 5
        while set(self.listens) & listening(self.host.netns) and time.monotonic() < until:
            time.sleep(0.02)

    @property
    def running(self) -> bool:
        """Whether the program runs, and in its namespace."""
        return self.process is not None and self.process.poll() is None and self.process.pid in pids(self.host.netns)

    def tail(self) -> str:
        """The end of what the program printed."""
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def listening(netns: str) -> set[tuple[str, str, int]]:
    """Listening sockets of a namespace, as ("tcp" or "udp", address, port)."""
    found = set()
    for line in run(["ip", "netns", "exec", netns, "ss", "-Hlntu"]).splitlines():
        parts = line.split()
        if len(parts) < 5:
            continue
        address, _, port = parts[4].rpartition(":")
        found.add((parts[0], address.strip("[]").partition("%")[0], int(port)))
    return found


def tcp(port: int, *addresses: str) -> list[tuple[str, str, int]]:
    """`listens` entries for one TCP port on some addresses."""
    return [("tcp", address, port) for address in addresses]


def dns_sockets(*addresses: str) -> list[tuple[str, str, int]]:
    """`listens` entries for DNS (UDP and TCP port 53) on some addresses."""
    return [(protocol, address, 53) for address in addresses for protocol in ("udp", "tcp")]
