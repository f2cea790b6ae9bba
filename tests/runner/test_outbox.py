"""Results that wait for the door: in memory, on disk, across a restart, with a full disk."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog.testing

from kattegat.model.work import Detail, Result
from kattegat.runner.outbox import Outbox, SpoolTaken


def result(task: int, size: int = 100) -> Result:
    now = datetime.now(UTC)
    return Result(task, 1, "ok", "", now, now, bytes(size), Detail())


def test_outbox_on_disk_survives_and_sets_rubbish_aside(tmp_path: Path) -> None:
    async def main() -> None:
        outbox = Outbox(tmp_path)
        with pytest.raises(SpoolTaken, match="--spool"):
            Outbox(tmp_path)
        for number in range(3):
            outbox.put(result(number))
        assert outbox.save() == 0
        outbox.close()
        (tmp_path / "1-1.result").write_bytes(b"\xff\x00")
        (tmp_path / "9-9.part").write_bytes(b"half")
        (tmp_path / "x.result").write_bytes(b"no lease")
        for file in tmp_path.glob("*-1.result"):
            assert file.stat().st_mode & 0o077 == 0
        again = Outbox(tmp_path)
        seen = []
        while (entry := again.next()) is not None:
            seen.append(entry[0])
            again.drop(entry[0])
        assert sorted(seen) == [(0, 1), (2, 1)]
        assert sorted(file.name for file in tmp_path.iterdir()) == ["1-1.unreadable", "lock", "x.result"]
        again.close()

    with structlog.testing.capture_logs() as log:
        asyncio.run(main())
    assert log[0]["event"] == "spooled_result_unreadable"


def test_outbox_keeps_in_memory_what_the_disk_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    async def main() -> None:
        outbox = Outbox(tmp_path, memory=250)
        monkeypatch.setattr(os, "fsync", full)
        for number in range(5):
            outbox.put(result(number))
        assert len(outbox) == 5
        assert outbox.full
        assert list(tmp_path.glob("*.part")) == []
        assert list(tmp_path.glob("*.result")) == []
        monkeypatch.undo()
        assert outbox.save() == 0
        assert len(list(tmp_path.glob("*.result"))) == 5
        outbox.close()

    with structlog.testing.capture_logs():
        asyncio.run(main())
