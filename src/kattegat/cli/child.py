"""`python -m kattegat.cli.child PARENT ARGUMENTS...`: `kat` for as long as the process PARENT lives.

A `kat up` or `kat scan` that is killed with -9 can stop nobody; so what it started looks for itself.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from kattegat.cli.main import main

LOOK_SECONDS = 1.0


def end_with(parent: int) -> None:
    """Has this process end as by SIGTERM when its parent is no longer this one."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, name="parent", daemon=True).start()


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
