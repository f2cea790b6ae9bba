"""Finished tasks move to the history, are listed and counted from there, and come back to be tried again."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import Connection, text

from kattegat.scheduler import acts, history, listing, queue
from kattegat.scheduler.listing import Filter
from kattegat.scheduler.process import Scheduler
from kattegat.scheduler.queue import Ending, NewTask
from kattegat.store.database import Database


@pytest.fixture
def ended(conn: Connection, organisation: int) -> dict[str, list[int]]:
    """Twelve tasks that ended an hour ago in four ways, and three that are open."""
    queue.push(conn, [NewTask("scan", organisation, None, "abc"[number % 3]) for number in range(12)])
    tasks = queue.claim(conn, ["scan"], "one", 12)
    states: dict[str, list[int]] = {"done": [], "failed": [], "cancelled": [], "dead": []}
    for number, task in enumerate(tasks):
        name = list(states)[number % 4]
        states[name].append(task.id)
        if name == "cancelled":
            queue.cancel(conn, [task.id], "piet", "")
        elif name == "dead":
            conn.execute(text("UPDATE task SET tries = 9 WHERE id = :id"), {"id": task.id})
            queue.fail(conn, [(task.id, task.token, "no")])
        else:
            queue.finish_all(conn, [Ending(task.id, task.token, name)])  # type: ignore[arg-type]
    conn.execute(
        text("UPDATE task SET ended_at = ended_at - interval '1 hour', started_at = started_at - interval '62 minutes'")
    )
    states["queued"] = queue.push(conn, [NewTask("scan", organisation, None, "a") for _ in range(3)])
    return states


def live(conn: Connection) -> int:
    return int(conn.execute(text("SELECT count(*) FROM task")).scalar_one())


def test_what_has_ended_moves_and_is_still_listed_and_counted(
    conn: Connection, organisation: int, ended: dict[str, list[int]]
) -> None:
    which = [
        Filter(),
        Filter(organisations=[organisation]),
        Filter(states=["failed"]),
        Filter(scanners=["a"], kinds=["scan"]),
        Filter(ids=[*ended["done"], *ended["queued"]]),
        Filter(organisations=[organisation + 1]),
    ]
    before = [(listing.tasks(conn, one), listing.count(conn, one), listing.counts(conn, one)) for one in which]
    numbers = history.statistics(conn, datetime.now(UTC) - timedelta(days=1))
    assert history.months(conn)
    assert history.move(conn, batch=5) == 5
    assert history.move(conn) == 4
    assert history.move(conn) == 0
    assert live(conn) == 6  # the dead wait for somebody to look at them
    assert [(listing.tasks(conn, one), listing.count(conn, one), listing.counts(conn, one)) for one in which] == before
    assert history.statistics(conn, datetime.now(UTC) - timedelta(days=1)) == numbers
    assert sum(tally.tasks for tally in numbers) == 12
    assert sum(tally.seconds for tally in numbers) == pytest.approx(12 * 120, abs=60)
    pages = []
    last: int | None = None
    while page := listing.tasks(conn, Filter(), limit=4, before=last, oldest_first=True):
        pages += page
        last = page[-1].id
    assert [task.id for task in pages] == sorted(task.id for task in before[0][0])


def test_trying_again_out_of_the_history(conn: Connection, ended: dict[str, list[int]], organisation: int) -> None:
    history.move(conn)
    again = acts.retry(conn, [*ended["failed"], *ended["done"]], "piet", "")
    assert again.tasks == ended["failed"]
    assert set(again.refused) == set(ended["done"])
    assert acts.retry(conn, ended["cancelled"], "piet", "", organisations=[organisation + 1]).tasks == []
    assert listing.counts(conn)["scan", "queued"] == 6
    assert ("scan", "failed") not in listing.counts(conn)
    taken = queue.claim(conn, ["scan"], "one", 99)
    assert set(ended["failed"]) < {task.id for task in taken}


def test_the_scheduler_moves_and_makes_the_partitions_that_are_missing(database: Database, organisation: int) -> None:
    with database.begin("kat_system") as conn:
        queue.push(conn, [NewTask("scan", organisation, None, "a")])
        (task,) = queue.claim(conn, ["scan"], "one", 1)
        queue.finish(conn, task.id, task.token)
        conn.execute(text("UPDATE task SET ended_at = now() - interval '200 days'"))
    Scheduler(database).tick()
    with database.begin("kat_system") as conn:
        assert live(conn) == 0
        assert [found.id for found in listing.tasks(conn, Filter())] == [task.id]


def test_old_partitions_are_forgotten_and_the_tallies_stay(database: Database, organisation: int) -> None:
    with database.begin("kat_system") as conn:
        queue.push(conn, [NewTask("scan", organisation, None, "a")])
        (task,) = queue.claim(conn, ["scan"], "one", 1)
        queue.finish(conn, task.id, task.token)
        conn.execute(text("UPDATE task SET ended_at = '2024-05-05'"))
    Scheduler(database, keep_months=1200).tick()
    with database.begin("kat_owner") as conn:
        assert "task_history_2024_05" in history.forget(conn, 13, today=date(2026, 11, 22))
        assert history.forget(conn, 13, today=date(2026, 11, 22)) == []
    with database.begin("kat_system") as conn:
        assert listing.tasks(conn, Filter()) == []
        assert listing.counts(conn) == {("scan", "done"): 1}


def test_pages_and_claims_do_not_read_the_history(conn: Connection, organisation: int) -> None:
    """With a long history each is answered from the end of an index: a bounded number of pages is read."""
    conn.execute(
        text(
            f"""
            INSERT INTO task_history ({history.NAMES})
            SELECT {", ".join(SAMPLE.get(name, name) for name in history.NAMES.split(", "))} FROM (
              SELECT -n AS id, now() - n * interval '1 second' AS ended_at FROM generate_series(1, 100000) n
            ) AS made
            """
        ),
        {"o": organisation},
    )
    conn.execute(text("ANALYZE task_history"))
    queue.push(conn, [NewTask("scan", organisation, None, "a") for _ in range(50)])
    conn.execute(text("ANALYZE task"))
    for which in (Filter(), Filter(organisations=[organisation]), Filter(states=["failed"])):
        plan = read(conn, which)
        assert "Seq Scan on task_history" not in plan, plan
        assert buffers(plan) < 500, plan


SAMPLE = {
    "organisation_id": ":o",
    "kind": "'scan'",
    "source_id": "NULL::bigint",
    "scanner": "'a'",
    "vantage": "''",
    "state": "CASE WHEN id % 10 = 0 THEN 'failed' ELSE 'done' END",
    "priority": "100",
    "turn": "1",
    "run_after": "ended_at",
    "lease_until": "NULL::timestamptz",
    "lease_token": "7",
    "leased_by": "'one'",
    "tries": "0",
    "max_tries": "3",
    "reason": "''",
    "payload": "'{}'::jsonb",
    "created_at": "ended_at",
    "started_at": "ended_at",
}


def read(conn: Connection, which: Filter) -> str:
    where = which.where()
    query = " UNION ALL ".join(
        f"(SELECT {listing.COLUMNS} FROM {table} t WHERE {where} ORDER BY t.id DESC LIMIT 100)"
        for table in listing.TABLES
    )
    rows = conn.execute(text(f"EXPLAIN (ANALYZE, BUFFERS) {query}"), which.parameters()).scalars()
    return "\n".join(rows)


def buffers(plan: str) -> int:
    first = next(line for line in plan.splitlines() if "Buffers:" in line)
    return sum(int(part.rpartition("=")[2]) for part in first.split() if part.startswith(("hit=", "read=")))
