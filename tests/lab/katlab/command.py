"""Run the programs the laboratory is made of."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from .errors import CommandFailedError

#: Where Debian keeps servers and their tools; a plain user's or a cron job's PATH often lacks the sbin directories.
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def search_path() -> str:
    """PATH of this process with the system's directories added at the end."""
    return os.pathsep.join(filter(None, [os.environ.get("PATH"), SYSTEM_PATH]))


def environment(**more: str) -> dict[str, str]:
    """Environment for the laboratory's programs: this process's, with `search_path`, without proxies.

    A proxy of the machine around would be out of reach in here, and is not meant for the laboratory's names.
    """
    kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    return {**kept, "PATH": search_path(), **more}


def run(command: list[str], *, cwd: Path | None = None, text: str | None = None) -> str:
    """Run a program to its end, `text` as its input, and return what it printed.

    Raises:
        CommandFailedError: it ended with an error.
    """
    done = subprocess.run(
        command, cwd=cwd, input=text or "", capture_output=True, text=True, env=environment(), check=False
    )
    if done.returncode:
        raise CommandFailedError(command, done.returncode, done.stdout + done.stderr)
    return done.stdout
