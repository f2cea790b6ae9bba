"""With `kat up` running, what is due is scanned again without anybody asking, and changes by themselves are found."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest
from kat import Kat

from lab import Lab

pytestmark = [pytest.mark.lab]

DUE = "UPDATE schedule SET due_at = now() FROM source s WHERE s.id = schedule.id AND s.scanner = %s AND hold = ''"
RUNS = """
    SELECT count(*) FROM run r JOIN source s ON s.organisation_id = r.organisation_id AND s.id = r.source_id
    WHERE s.scanner = %s AND r.outcome = 'ok'
"""


def runs(kat: Kat, scanner: str) -> int:
    with kat.database() as connection:
        row = connection.execute(RUNS, (scanner,)).fetchone()
        return int(row[0]) if row else 0


def test_what_is_due_is_scanned_again_by_itself(lab: Lab, run_dir: Path) -> None:
    kat = Kat(lab, run_dir / "watch")
    up = kat.start("up", "--port", "8482")
    try:
        end = time.monotonic() + 60
        out = kat.data.parent / f"{kat.data.name}.out"
        while "is up at http://127.0.0.1:8482/" not in out.read_text():
            assert up.poll() is None, out.read_text()
            assert time.monotonic() < end, out.read_text()
            time.sleep(0.2)
        health = lab.run(["curl", "-s", "http://127.0.0.1:8482/health"])
        assert '"status":"ok"' in health.stdout
        kat.scan("www.good.test", "--scanner", "dns-records")
        before = runs(kat, "dns-records")
        assert before >= 1
        with kat.database() as connection:
            # The fence lets in who says for which state of the database he writes.
            connection.execute("SELECT set_config('kat.epoch', last_value::text, false) FROM lifecycle.epoch")
            connection.execute(DUE, ("dns-records",))
        while runs(kat, "dns-records") <= before:
            assert time.monotonic() < end + 60, "nothing was scanned again"
            time.sleep(0.5)
        with kat.database() as connection:
            asked = connection.execute("SELECT count(*) FROM audit WHERE act = 'scan.start'").fetchone()
        assert asked == (1,)
    finally:
        up.send_signal(signal.SIGTERM)
        try:
            assert up.wait(60) == 0
        except subprocess.TimeoutExpired:
            up.kill()
            raise
        finally:
            kat.remove()
