"""Runs one process as a container would: `python box.py` as root with a JSON document on its first argument.

A root of its own that is read-only but for its volumes and tmpfs, a host name, a process table, a network namespace, no
capabilities, no new privileges, a user that is not root. It stands in for a container engine; images, layers, seccomp
profiles and the engine's own name server are what it does not have. Standard library only.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
LIBC = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: Path | str, kind: str, flags: int, data: str = "") -> None:
    """mount(2)."""
    if LIBC.mount(source.encode(), str(target).encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def bind(source: str, target: Path, *, writable: bool = False) -> None:
    """The folder or file `source` at `target`, made if it is not there."""
    if Path(source).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount(source, target, "", MS_BIND | MS_REC)
    if not writable:
        mount("", target, "", MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID)


def build(spec: dict[str, Any]) -> None:
    """The root file system at spec["root"]."""
    root = Path(spec["root"])
    mount("", "/", "", MS_REC | MS_PRIVATE)
    mount("root", root, "tmpfs", MS_NOSUID, "mode=0755")
    for name in ("usr", "bin", "sbin", "lib", "lib64"):
        here = Path("/") / name
        if here.is_symlink():
            (root / name).symlink_to(os.readlink(here))
        elif here.exists():
            bind(str(here), root / name)
    for name in ("ssl", "ld.so.cache", "alternatives", "localtime"):
        if (Path("/etc") / name).exists():
            bind(str((Path("/etc") / name).resolve()), root / "etc" / name)
    for name, content in spec["etc"].items():
        (root / "etc" / name).write_text(content)
    # Before the binds, one of which may lie below /tmp, as a checkout may.
    for target, mode in (*spec["tmpfs"], ("/dev", "0755"), ("/dev/shm", "1777")):
        place = root / target.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        mount(
            "tmpfs",
            place,
            "tmpfs",
            MS_NOSUID | MS_NODEV if not target.startswith("/dev") else MS_NOSUID,
            f"mode={mode}",
        )
    for source, target, writable in spec["binds"]:
        bind(source, root / target.lstrip("/"), writable=writable)
    for name in ("null", "zero", "full", "random", "urandom"):
        bind(f"/dev/{name}", root / "dev" / name, writable=True)
    (root / "dev" / "fd").symlink_to("/proc/self/fd")
    (root / "proc").mkdir()
    mount("proc", root / "proc", "proc", MS_NOSUID | MS_NODEV)
    if spec["read_only"]:
        mount("", root, "", MS_REMOUNT | MS_RDONLY | MS_NOSUID)


def main() -> None:
    """Process 1 of the box: starts the command, passes on signals, ends with its exit code (as an init would)."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    build(spec)
    socket.sethostname(spec["hostname"])
    os.chroot(spec["root"])
    os.chdir("/")
    setpriv = ["/usr/bin/setpriv", f"--reuid={spec['uid']}", f"--regid={spec['uid']}", "--clear-groups"]
    setpriv += ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--"]
    child = subprocess.Popen([*setpriv, *spec["command"]], env=spec["environment"])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: child.send_signal(number))
    sys.exit(child.wait() % 256)


if __name__ == "__main__":
    main()
