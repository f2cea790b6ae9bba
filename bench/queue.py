"""The task queue under load: push, claim, lists and statistics, at several depths and lengths of history.

    python bench/queue.py [--depths 1000,100000] [--history 0,100000] [--seconds 3] [--no-http]

PostgreSQL, the load and (over HTTP) the web process share this machine. Each row of the table is one measurement of at
most so many seconds with a depth of queued scans in 100 organisations and a history of finished tasks. `claim` takes
and commits; over HTTP it is the door's: token, lease, permissions, the job of each scan, in MessagePack. A depth is
made again before each measurement. The server is an embedded one in a temporary folder with fsync on.

The issue's aims are at 1,000,000 and 10,000,000: python bench/queue.py --depths 10000,1000000 --history 0,10000000
(making ten million rows takes minutes).
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# This file has the name of a module of the standard library, and must not be taken for it.
sys.path[:] = [str(HERE / "made"), *(entry for entry in sys.path if Path(entry or ".").resolve() != HERE)]

if __name__ == "__main__":
    import tasks

    tasks.main(__doc__ or "")
