"""The order: a person first, then rounds between organisations; in each what never ran, the most overdue, the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest
from sqlalchemy import Connection, text

from kattegat.scheduler import acts, catchup, dispatch, pauses, queue, waiting
from kattegat.scheduler.pauses import Scope
from kattegat.scheduler.queue import NewTask

INTERVALS = {"hourly": 3600, "daily": 86400, "weekly": 604800}


def organisation_named(conn: Connection, code: str) -> int:
    return int(
        conn.execute(
            text("INSERT INTO organisation (code, name) VALUES (:code, :code) RETURNING id"), {"code": code}
        ).scalar_one()
    )


def sources(
    conn: Connection, organisation: int, count: int, *, scanner: str = "daily", late: float = 10, priority: int = 100
) -> list[int]:
    """Makes assets with a source of a scanner each, due `late` seconds ago."""
    return list(
        conn.execute(
            text(
                """
                WITH a AS (
                  INSERT INTO asset (organisation_id, type, key, present)
                  SELECT :o, 'Hostname', :scanner || :priority || :late || n || '.test', true
                  FROM generate_series(1, :count) n
                  RETURNING id
                ), s AS (
                  INSERT INTO source (organisation_id, scanner, asset_id) SELECT :o, :scanner, id FROM a RETURNING id
                )
                INSERT INTO schedule (organisation_id, id, every, due_at, priority)
                SELECT :o, id, make_interval(secs => :every), now() - make_interval(secs => :late), :priority FROM s
                RETURNING id
                """
            ),
            {
                "o": organisation,
                "count": count,
                "scanner": scanner,
                "every": INTERVALS[scanner],
                "late": float(late),
                "priority": priority,
            },
        ).scalars()
    )


def claimed(conn: Connection, most: int = 1000) -> list[queue.Task]:
    return queue.claim(conn, ["scan"], "one", most)


def owners(tasks: Iterable[queue.Task]) -> list[int | None]:
    return [task.organisation_id for task in tasks]


def test_inside_an_organisation(conn: Connection, organisation: int) -> None:
    routine = sources(conn, organisation, 2, scanner="weekly", late=3600)
    slightly = sources(conn, organisation, 1, scanner="daily", late=86400 * 0.2)
    much = sources(conn, organisation, 1, scanner="hourly", late=3600 * 3)
    older = sources(conn, organisation, 1, scanner="weekly", late=7200)
    never = sources(conn, organisation, 1, late=1, priority=dispatch.NEVER_RUN)
    asked = sources(conn, organisation, 1, scanner="weekly", late=-1000)
    assert dispatch.request(conn, organisation, asked, "piet").asked == asked
    dispatch.dispatch(conn)
    assert [task.source_id for task in claimed(conn)] == [*asked, *never, *much, *slightly, *older, *routine]


def test_one_with_many_does_not_starve_one_with_few(conn: Connection, organisation: int) -> None:
    small = organisation_named(conn, "small")
    sources(conn, organisation, 3000, late=86400 * 30, priority=dispatch.NEVER_RUN)
    dispatch.dispatch(conn, holds=500)
    mine = sources(conn, small, 10, late=5)
    served: Counter[int | None] = Counter()
    for _ in range(6):
        dispatch.dispatch(conn, holds=500)
        tasks = claimed(conn, 50)
        queue.finish_all(conn, [queue.Ending(task.id, task.token) for task in tasks])
        served.update(owners(tasks))
    # 500 of the other were queued before; ten rounds of two serve them all.
    assert served[small] == len(mine)


def test_organisations_take_turns(conn: Connection, organisation: int) -> None:
    others = [organisation_named(conn, code) for code in "abc"]
    for number, owner in enumerate([organisation, *others]):
        sources(conn, owner, 5, late=10 + number)
    dispatch.dispatch(conn)
    order = owners(claimed(conn))
    for start in range(0, 20, 4):
        assert set(order[start : start + 4]) == {organisation, *others}


def test_a_small_share_left_over_is_used_by_others(conn: Connection, organisation: int) -> None:
    small = organisation_named(conn, "small")
    sources(conn, organisation, 100)
    sources(conn, small, 3)
    assert Counter(owners(claimed_after(conn, 50))) == {organisation: 47, small: 3}


def claimed_after(conn: Connection, holds: int) -> list[queue.Task]:
    assert len(dispatch.dispatch(conn, holds=holds)) == holds
    return claimed(conn)


def test_a_person_goes_before_all_and_persons_take_turns(conn: Connection, organisation: int) -> None:
    other = organisation_named(conn, "other")
    dispatch.dispatch(conn)
    sources(conn, organisation, 50, priority=dispatch.NEVER_RUN)
    dispatch.dispatch(conn)
    for owner, count in ((organisation, 20), (other, 2)):
        dispatch.request(conn, owner, sources(conn, owner, count, scanner="weekly", late=-50), "piet")
    dispatch.dispatch(conn)
    order = claimed(conn)
    assert [task.priority for task in order[:22]] == [queue.PERSON] * 22
    assert owners(order[:4]).count(other) == 2


def test_due_work_waits_in_its_schedule(conn: Connection, organisation: int) -> None:
    sources(conn, organisation, 300)
    assert len(dispatch.dispatch(conn, holds=100)) == 100
    assert dispatch.dispatch(conn, holds=100) == []
    assert waiting.due(conn, [organisation]) == 200
    assert waiting.due(conn, [organisation], most=50) == 51
    tasks = claimed(conn, 30)
    assert len(dispatch.dispatch(conn, holds=100)) == 30
    # What runs is not due again, and what waits to be read counts as much as what waits to be scanned.
    queue.finish_all(conn, [queue.Ending(task.id, task.token) for task in tasks])
    queue.push(conn, [NewTask("ingest", organisation, task.source_id) for task in tasks])
    assert dispatch.dispatch(conn, holds=100) == []


def test_moving_a_task(conn: Connection, organisation: int) -> None:
    one, two, three = queue.push(conn, [NewTask("scan", organisation, None, "daily") for _ in range(3)])
    assert acts.prioritise(conn, [one], "last", "piet", "").tasks == [one]
    assert acts.prioritise(conn, [three], "first", "piet", "").tasks == [three]
    assert [task.id for task in claimed(conn)] == [three, two, one]
    done = acts.prioritise(conn, [one, 10**9], "first", "piet", "")
    assert done.tasks == []
    assert done.refused[one].startswith("it is leased")
    assert done.refused[10**9] == "there is no such task"


def due_in(conn: Connection) -> list[float]:
    return [
        float(value)
        for value in conn.execute(text("SELECT extract(epoch FROM due_at - now()) FROM schedule ORDER BY 1")).scalars()
    ]


def test_after_an_outage_re_scans_are_spread(conn: Connection, organisation: int) -> None:
    never = sources(conn, organisation, 5, late=86400 * 3, priority=dispatch.NEVER_RUN)
    sources(conn, organisation, 400, scanner="weekly", late=86400 * 3)
    sources(conn, organisation, 100, scanner="hourly", late=86400 * 3)
    assert catchup.tick(conn) == 0
    conn.execute(text("UPDATE pulse SET at = now() - interval '7 days'"))
    assert [catchup.tick(conn, batch=300) for _ in range(4)] == [300, 200, 0, 0]
    dues = due_in(conn)
    assert sum(1 for due in dues if due <= 0) == len(never)
    hourly = sum(1 for due in dues if 0 < due <= 900)
    assert hourly >= 100
    # The weekly ones take a day: no hour holds more than a few times its share.
    assert max(dues) <= 86400 + 1
    by_hour = Counter(int(due // 3600) for due in dues if due > 900)
    assert max(by_hour.values()) < 60
    assert len(by_hour) > 20
    assert len(dispatch.dispatch(conn)) == len(never)


def test_no_outage_moves_nothing(conn: Connection, organisation: int) -> None:
    sources(conn, organisation, 10, late=600)
    catchup.tick(conn)
    conn.execute(text("UPDATE pulse SET at = now() - interval '10 minutes'"))
    assert catchup.tick(conn) == 0
    assert len(dispatch.dispatch(conn)) == 10


@pytest.mark.parametrize("level", ["install", "group", "organisation", "scanner", "asset"])
def test_pausing_and_resuming(conn: Connection, organisation: int, level: str) -> None:
    other = organisation_named(conn, "other")
    group = conn.execute(text("INSERT INTO organisation_group (name) VALUES ('g') RETURNING id")).scalar_one()
    conn.execute(text("INSERT INTO group_member VALUES (:g, :o)"), {"g": group, "o": organisation})
    mine = sources(conn, organisation, 2)
    sources(conn, organisation, 1, scanner="weekly")
    theirs = sources(conn, other, 1, scanner="weekly")
    asset = conn.execute(text("SELECT asset_id FROM source WHERE id = :id"), {"id": mine[0]}).scalar_one()
    scope, free = {
        "install": (pauses.INSTALL, 0),
        "group": (Scope("group", group_id=group), 1),
        "organisation": (Scope("organisation", organisation_id=organisation), 1),
        "scanner": (Scope("scanner", scanner="daily"), 2),
        "asset": (Scope("asset", organisation_id=organisation, asset_id=asset), 3),
    }[level]
    (queued,) = queue.push(conn, [NewTask("scan", organisation, mine[0], "daily")])
    assert pauses.pause(conn, scope, "piet", "a change") == [queued]
    assert len(dispatch.dispatch(conn)) == free
    assert queued not in [task.id for task in claimed(conn)]
    why = waiting.tasks(conn, [paused_task(conn, queued)], {})[queued]
    assert (why.code, why.reason) == ("paused", "paused by piet: a change")
    # Nothing is queued a second time, and what was cut off runs when it is resumed.
    assert dispatch.dispatch(conn) == []
    assert pauses.resume(conn, scope, "piet", "done") == [queued]
    dispatch.dispatch(conn)
    assert queued in [task.id for task in claimed(conn)]
    assert conn.execute(text("SELECT count(*) FROM task")).scalar_one() == 4
    assert len(theirs) == 1
    trail = conn.execute(text("SELECT act, actor, detail->>'reason' AS why FROM audit ORDER BY at, id")).all()
    assert [tuple(row) for row in trail] == [("pause.set", "piet", "a change"), ("pause.end", "piet", "done")]
    with pytest.raises(pauses.NotPausedError):
        pauses.resume(conn, scope, "piet")


def paused_task(conn: Connection, task_id: int) -> queue.Task:
    row = conn.execute(text(f"SELECT {queue.COLUMNS} FROM task t WHERE t.id = :id"), {"id": task_id}).one()
    return queue.task_of(row)


def test_a_pause_ends_by_itself(conn: Connection, organisation: int) -> None:
    (queued,) = queue.push(conn, [NewTask("scan", organisation, None, "daily")])
    now = conn.execute(text("SELECT now()")).scalar_one()
    assert pauses.pause(conn, pauses.INSTALL, "piet", "x", now) == [queued]
    assert pauses.tick(conn) == [queued]
    assert pauses.listed(conn) == []


def test_a_scan_that_comes_back_while_paused_waits(conn: Connection, organisation: int) -> None:
    (queued,) = queue.push(conn, [NewTask("scan", organisation, None, "daily")])
    (task,) = claimed(conn)
    assert pauses.pause(conn, Scope("scanner", scanner="daily"), "piet", "") == []
    queue.fail(conn, [(task.id, task.token, "no answer")])
    conn.execute(text("UPDATE task SET run_after = now()"))
    assert claimed(conn) == []
    assert pauses.tick(conn) == [queued]
