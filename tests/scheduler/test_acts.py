"""What a person does to tasks, and what each waits for; all of it with who and why."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import Connection, text

from kattegat.accounts import audit
from kattegat.errors import UsageError
from kattegat.model.assets import Hostname
from kattegat.registry import Registry
from kattegat.scheduler import acts, dispatch, listing, queue, runners, waiting
from kattegat.scheduler.plan import plan
from kattegat.scheduler.queue import NewTask, Task
from kattegat.store.database import Database


def one(conn: Connection, task_id: int) -> Task:
    return listing.tasks(conn, listing.Filter(ids=[task_id]))[0]


def test_cancel_and_retry_say_who_and_why(conn: Connection, organisation: int) -> None:
    waits, runs, over = queue.push(conn, [NewTask("scan", organisation, None, name) for name in "abc"])
    tasks = {task.id: task for task in queue.claim(conn, ["scan"], "runner one", 3, scanners=["b", "c"])}
    queue.finish(conn, over, tasks[over].token)
    done = acts.cancel(conn, [waits, runs, over, 10**9], "piet", "wrong target")
    assert done.tasks == [waits, runs]
    assert done.refused == {
        over: "it is done: only what waits or runs can be cancelled",
        10**9: "there is no such task",
    }
    assert one(conn, runs).reason == "cancelled by piet: wrong target"
    assert queue.heartbeat(conn, [(runs, tasks[runs].token)]) == [runs]
    assert acts.retry(conn, [runs, over], "anna", "right after all").tasks == [runs]
    assert [(e.became, e.by, e.reason) for e in listing.events(conn, runs)][-2:] == [
        ("cancelled", "piet", "cancelled by piet: wrong target"),
        ("queued", "anna", "right after all"),
    ]
    trail = [(act.act, act.actor, act.object, act.detail["reason"]) for act in audit.page(conn)]
    assert sorted(trail) == [
        ("task.cancel", "piet", str(waits), "wrong target"),
        ("task.cancel", "piet", str(runs), "wrong target"),
        ("task.retry", "anna", str(runs), "right after all"),
    ]


def test_acts_reach_the_organisations_they_are_for(conn: Connection, organisation: int) -> None:
    (mine,) = queue.push(conn, [NewTask("scan", organisation)])
    assert acts.cancel(conn, [mine], "piet", "", organisations=[organisation + 1]).refused == {
        mine: "there is no such task"
    }
    assert acts.cancel(conn, [mine], "piet", "", organisations=[organisation]).tasks == [mine]


def test_reviving_a_dead_task_gives_it_all_its_tries(conn: Connection, organisation: int) -> None:
    (dead,) = queue.push(conn, [NewTask("deliver", organisation, max_tries=1)])
    (task,) = queue.claim(conn, ["deliver"], "worker", 1)
    (back,) = queue.fail(conn, [(dead, task.token, "no mail server")])
    assert (back.became, one(conn, dead).reason) == ("dead", "no mail server")
    assert acts.retry(conn, [dead], "piet", "it is back").tasks == [dead]
    assert (one(conn, dead).state, one(conn, dead).tries) == ("queued", 0)


def test_run_now(database: Database, organisation: int, add_asset: object, registry: Registry) -> None:
    asset = add_asset(Hostname("www.example.org"), 0)  # type: ignore[operator]
    with database.begin("kat_system") as conn:
        plan(conn, organisation, [asset], registry)
        conn.execute(text("UPDATE schedule SET due_at = now() + interval '5 days', priority = 100"))
        done = acts.run_now(conn, organisation, asset, "piet", "it was mended", scanners=["sample-names"])
        assert len(done.asked) == 1
        dispatch.dispatch(conn)
        (task,) = queue.claim(conn, ["scan"], "one", 9)
        assert (task.scanner, task.priority, task.payload) == ("sample-names", queue.PERSON, {"requested_by": "piet"})
        assert audit.page(conn)[0].detail["reason"] == "it was mended"
        with pytest.raises(UsageError, match="No scanner is about this asset"):
            acts.run_now(conn, organisation, asset + 99, "piet")


def test_why_a_task_waits(conn: Connection, organisation: int, registry: Registry) -> None:
    first, second = queue.push(conn, [NewTask("scan", organisation, None, "sample-names", "dmz") for _ in range(2)])

    def why(task_id: int) -> tuple[str, str]:
        said = waiting.tasks(conn, [one(conn, task_id)], registry.scanners)[task_id]
        return said.code, said.reason

    assert why(first) == ("runner", "no runner has been heard from at dmz just now")
    token = runners.register(conn, "near", vantage="dmz")
    runner = runners.by_token(conn, token)
    assert runner is not None
    runners.seen(conn, runner, {})
    assert why(first) == ("turn", "next in the queue")
    assert why(second) == ("turn", "1 before it in the queue")
    runners.drain(conn, "near", "piet", "new disk")
    assert why(second) == ("drained", "runner near is drained: new disk")
    runners.undrain(conn, "near", "piet")
    (task,) = queue.claim(conn, ["scan"], "near", 1)
    assert waiting.tasks(conn, [one(conn, task.id)], registry.scanners) == {}
    queue.fail(conn, [(task.id, task.token, "no answer")], base_seconds=600)
    code, reason = why(task.id)
    assert code == "retry"
    assert reason.endswith("UTC after try 1 of 3: no answer")
    with pytest.raises(runners.RunnerNameError):
        runners.drain(conn, "far", "piet", "")


def test_why_a_source_waits(database: Database, organisation: int, add_asset: object, registry: Registry) -> None:
    asset = add_asset(Hostname("www.example.org"), 0)  # type: ignore[operator]
    with database.begin("kat_system") as conn:
        plan(conn, organisation, [asset], registry)
        rows = conn.execute(text("SELECT id, hold FROM schedule ORDER BY id")).all()
        assert rows
        conn.execute(text("UPDATE schedule SET due_at = now() + interval '5 days' WHERE id = :id"), {"id": rows[0].id})
        said = waiting.sources(conn, organisation, [row.id for row in rows])
    assert {row.id: row.hold for row in rows if row.hold} == {
        key: why.reason for key, why in said.items() if why.code == "held"
    }
    assert said[rows[0].id].code in ("not-due", "held")


def test_a_drained_runner_gets_nothing_and_hands_in(conn: Connection, organisation: int) -> None:
    runners.register(conn, "one")
    runners.drain(conn, "one", "piet", "x")
    (listed,) = runners.listed(conn)
    assert (listed.drained_by, listed.drained_reason) == ("piet", "x")
    assert timedelta(0) <= listed.drained_at - listed.created_at  # type: ignore[operator]
