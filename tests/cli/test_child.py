"""What a killed `kat scan` or `kat up` started ends by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from kattegat.cli import child

PARENT = f"""
import subprocess, sys, os, time
command = [sys.executable, "-c", '''
import os, sys, time
sys.path[:0] = {sys.path!r}
from kattegat.cli import child
child.end_with(int(sys.argv[1]))
print("ready", flush=True)
time.sleep(60)
''', str(os.getpid())]
started = subprocess.Popen(command)
print(started.pid, flush=True)
time.sleep(60)
"""


def alive(pid: int) -> bool:
    """Whether it runs; a zombie that nobody has reaped does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_child_ends_when_its_parent_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
        assert parent.stdout.readline().strip() == "ready"
        assert alive(pid)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        end = time.monotonic() + 30 * child.LOOK_SECONDS
        while alive(pid):
            assert time.monotonic() < end, "it is still there"
            time.sleep(0.1)
