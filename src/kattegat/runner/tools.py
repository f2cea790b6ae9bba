"""External programs as limited sub-processes: own process group, few resources, little environment, bounded output."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress

from kattegat.plugin import ToolReply
from kattegat.runner.limits import MEBIBYTE, Rules, Unreached

MEMORY = 4096 * MEBIBYTE  # of address space, of which programs in Go reserve much and use little
FILE_SIZE = 64 * MEBIBYTE
OPEN_FILES = 256
VERSION_SECONDS = 10.0
_NUMBER = re.compile(r"\d+(?:\.\d+)+[\w.-]*")

# Runs in a fresh interpreter that becomes the program: setting limits between fork and exec in this process could
# deadlock on a lock that another thread held. The kernel ends the program when the runner dies (prctl, option 1).
_LAUNCH = """
import ctypes, os, resource, sys
cpu, memory, size, files, path = *map(int, sys.argv[1:5]), sys.argv[5]
for name, most in (("CPU", cpu), ("AS", memory), ("FSIZE", size), ("NOFILE", files), ("CORE", 0)):
    kind = getattr(resource, "RLIMIT_" + name)
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))
try:
    ctypes.CDLL(None).prctl(1, 9)
except (AttributeError, OSError):
    pass
os.execv(path, sys.argv[5:])
"""


class Tools:
    """The external programs of this machine. One object per process: versions are asked for once."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._versions: dict[str, str] = {}

    def find(self, tool: str) -> str | None:
        """The path of a program on PATH, or None; never a path that a caller made up."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", tool):
            return None
        return shutil.which(tool)

    async def version(self, tool: str) -> str:
        """The version that `TOOL --version` names, its first line when there is no number, "" when it says nothing."""
        path = self.find(tool)
        if path is None:
            return ""
        if path not in self._versions:
            try:
                _, stdout, stderr = await self._run(path, ("--version",), b"", VERSION_SECONDS)
            except Unreached:
                stdout = stderr = b""
            text = (stdout or stderr).decode(errors="replace").strip()
            number = _NUMBER.search(text)
            self._versions[path] = number.group() if number else text.partition("\n")[0][:100]
        return self._versions[path]

    async def run(self, tool: str, arguments: Sequence[str], stdin: bytes = b"") -> ToolReply:
        """Runs a program to its end. Raises `NotReached` when it is missing, takes too long or says too much."""
        path = self.find(tool)
        if path is None:
            raise Unreached(f"{tool} is not installed on this runner.", "local")
        if any("\0" in argument for argument in arguments):
            raise Unreached(f"{tool} can't be run with a NUL character in its arguments.", "local")
        version = await self.version(tool)
        code, stdout, stderr = await self._run(path, arguments, stdin, self._rules.tool_seconds)
        return ToolReply(tool, version, tuple(arguments), code, stdout, stderr)

    async def _run(self, path: str, arguments: Sequence[str], stdin: bytes, seconds: float) -> tuple[int, bytes, bytes]:
        name = os.path.basename(path)
        limits = (int(seconds) + 1, MEMORY, FILE_SIZE, OPEN_FILES)
        with tempfile.TemporaryDirectory(prefix="kat-tool-") as folder:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                "-c",
                _LAUNCH,
                *map(str, limits),
                path,
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd=folder,
                env={
                    "PATH": os.environ.get("PATH", os.defpath),
                    "LANG": "C.UTF-8",
                    "HOME": folder,
                    "TMPDIR": folder,
                },
                start_new_session=True,
            )
            try:
                async with asyncio.timeout(seconds):
                    _, stdout, stderr = await asyncio.gather(
                        self._feed(process, stdin),
                        self._collect(process.stdout, name),
                        self._collect(process.stderr, name),
                    )
                    code = await process.wait()
            except TimeoutError:
                raise Unreached(f"{name} was ended after {seconds:g} seconds.", "timeout") from None
            finally:
                # Also after a good end: what the program left running in its group goes with it.
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                # Again while there are some: one may have started another while it was looked for.
                for _ in range(5):
                    if not kill_marked(folder):
                        break
                await asyncio.shield(_reaped(process))
        return code, stdout, stderr

    async def _feed(self, process: asyncio.subprocess.Process, data: bytes) -> None:
        if process.stdin is None:
            return
        with suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(data)
            await process.stdin.drain()
        process.stdin.close()

    async def _collect(self, stream: asyncio.StreamReader | None, name: str) -> bytes:
        got = bytearray()
        while stream is not None and (piece := await stream.read(65536)):
            got += piece
            if len(got) > self._rules.tool_bytes:
                raise Unreached(f"{name} wrote more than {self._rules.tool_bytes} bytes.", "limit")
        return bytes(got)


def kill_marked(folder: str) -> list[int]:
    """Ends every process whose environment names this folder as its HOME: what a program started, also what left its
    group or was orphaned. Gives their numbers. Linux only; elsewhere the process group has to do.
    """
    mark = f"HOME={folder}".encode()
    ended: list[int] = []
    try:
        numbers = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return ended
    for number in numbers:
        try:
            with open(f"/proc/{number}/environ", "rb") as file:
                if mark not in file.read().split(b"\0"):
                    continue
            os.kill(number, signal.SIGKILL)
        except OSError:  # it has ended, or is somebody else's
            continue
        ended.append(number)
    return ended


async def _reaped(process: asyncio.subprocess.Process) -> None:
    await process.wait()
    # Closes the pipes also when something outside the group still holds their other ends.
    transport = getattr(process, "_transport", None)
    if transport is not None:
        transport.close()
