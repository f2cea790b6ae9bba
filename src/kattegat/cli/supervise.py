"""Starts the processes of an install, starts them again when they die, and stops them cleanly."""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from kattegat.errors import KattegatError
from kattegat.settings import Settings
from kattegat.store.release import EXIT_CODE, WrongReleaseError

ROLES = ("web", "scheduler", "worker", "runner")
STOP_SECONDS = 12.0
BACK_OFF_SECONDS = (0.5, 1, 2, 5, 10, 30)
STEADY_SECONDS = 60.0


class ProcessesDiedError(KattegatError):
    """A process of the install that does not stay up."""

    def __init__(self, role: str, code: int, log: Path) -> None:
        self.role = role
        super().__init__(f"The {role} process ends again and again (exit code {code}); its last words are in {log}.")


class Child:
    """One process: what starts it, and how often it has died lately."""

    def __init__(self, role: str, command: list[str], log: Path) -> None:
        self.role = role
        self.command = command
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        self.deaths = 0
        self.start_at = 0.0
        self._file: IO[bytes] | None = None

    def start(self) -> None:
        """Starts it in a session of its own, so that Ctrl-C reaches us alone and we stop it in order."""
        if self._file is None:
            self._file = self.log.open("ab")
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=self._file, stderr=self._file, start_new_session=True
        )
        self.started_at = time.monotonic()

    def look(self, patience: int) -> None:
        """Starts it again if it died; raises `ProcessesDiedError` after `patience` deaths in a row.

        One that has ended because another release is needed is not started again: raises `WrongReleaseError`.
        """
        if self.process is None:
            if time.monotonic() >= self.start_at:
                self.start()
            return
        code = self.process.poll()
        if code == EXIT_CODE:
            raise WrongReleaseError(
                f"The {self.role} process has ended since another release of Kattegat is needed: {self._last_words()}"
            )
        if code is None:
            if time.monotonic() - self.started_at > STEADY_SECONDS:
                self.deaths = 0
            return
        self.deaths += 1
        if self.deaths > patience:
            raise ProcessesDiedError(self.role, code, self.log)
        self.process = None
        self.start_at = time.monotonic() + BACK_OFF_SECONDS[min(self.deaths, len(BACK_OFF_SECONDS)) - 1]

    def _last_words(self) -> str:
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 2000))
            lines = file.read().decode(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("kat: ").removeprefix("kat runner: ") if lines else f"its log is {self.log}."

    def close(self) -> None:
        """Closes the log."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Seat:
    """The right to start the processes of an install on this machine: one holds it, for as long as it lives.

    A lock on a file, so that whoever is killed gives it up.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, settings: Settings) -> Seat | None:
        """The seat, or None while somebody else has it."""
        folder = settings.data_dir / "run"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / "supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return cls(descriptor)

    def leave(self) -> None:
        """Gives it up."""
        os.close(self._descriptor)


class Supervisor:
    """The processes of one install on this machine."""

    def __init__(self, settings: Settings, token_file: Path, *, http: bool) -> None:
        """`http` False leaves the TCP port out: only the runner's socket is opened."""
        folder = settings.data_dir / "log"
        folder.mkdir(parents=True, exist_ok=True)
        run = settings.data_dir / "run"
        run.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.socket = socket_path(settings)
        here = [sys.executable, "-m", "kattegat.cli.child", str(os.getpid()), "process"]
        token = ["--token-file", str(token_file), "--name", "local", "--spool", str(settings.data_dir / "spool")]
        commands = {
            "web": [*here, "web", "--socket", str(self.socket), *([] if http else ["--no-http"])],
            "scheduler": [*here, "scheduler"],
            "worker": [*here, "worker"],
            "runner": [*here, "runner", "--door", f"unix:{self.socket}", *token],
        }
        self.children = [Child(role, commands[role], folder / f"{role}.log") for role in ROLES]

    def start(self) -> None:
        """Starts all of them."""
        for child in self.children:
            child.start()

    def look(self, patience: int = 5) -> None:
        """To be called often: starts again what died."""
        for child in self.children:
            child.look(patience)

    def stop(self, progress: Callable[[str], None] | None = None) -> None:
        """Stops them in order: the runner hands in what it has, the others finish what they hold."""
        for role in ("runner", "scheduler", "worker", "web"):
            child = next(child for child in self.children if child.role == role)
            if child.process is None or child.process.poll() is not None:
                continue
            if progress:
                progress(f"Stopping the {role} ...")
            child.process.terminate()
            try:
                child.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(child.process.pid, signal.SIGKILL)
                child.process.wait()
        for child in self.children:
            child.close()


def socket_path(settings: Settings) -> Path:
    """The socket of the door; in a short private folder where the data directory's path is too long for a socket."""
    path = settings.data_dir / "run" / "door.sock"
    if len(os.fsencode(path)) <= 100:
        return path
    folder = Path(os.environ.get("XDG_RUNTIME_DIR", "/tmp")) / f"kattegat-{os.getpid()}-{secrets.token_hex(4)}"  # noqa: S108
    folder.mkdir(mode=0o700)
    return folder / "door.sock"
