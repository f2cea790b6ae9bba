"""The queue on a real server: leases, tokens, retries, and that no task is ever given twice."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from kattegat.scheduler import acts, listing, pauses, queue
from kattegat.scheduler.queue import Ending, NewTask
from kattegat.store.database import Database


def scan(organisation: int, source: int | None = None, **more: Any) -> NewTask:
    return NewTask("scan", organisation, source, more.pop("scanner", "dns-records"), **more)


def expire(conn: Connection, *ids: int) -> None:
    conn.execute(
        text("UPDATE task SET lease_until = now() - interval '1 second' WHERE id = ANY(:ids)"), {"ids": list(ids)}
    )


def make_ready(conn: Connection) -> None:
    conn.execute(text("UPDATE task SET run_after = now()"))


def state(conn: Connection, task_id: int) -> tuple[str, str]:
    row = conn.execute(text("SELECT state, reason FROM task WHERE id = :id"), {"id": task_id}).one()
    return row.state, row.reason


def test_claims_by_priority_then_age(conn: Connection, organisation: int) -> None:
    usual, urgent, later = queue.push(
        conn, [scan(organisation), scan(organisation, priority=queue.PERSON), scan(organisation)]
    )
    assert [task.id for task in queue.claim(conn, ["scan"], "one", 2)] == [urgent, usual]
    assert [task.id for task in queue.claim(conn, ["scan"], "one", 2)] == [later]
    assert queue.claim(conn, ["scan"], "one", 2) == []


def test_claims_only_what_fits(conn: Connection, organisation: int) -> None:
    queue.push(conn, [scan(organisation, scanner="ports"), NewTask("sweep"), scan(organisation, vantage="dmz")])
    assert queue.claim(conn, ["ingest"], "one", 9) == []
    assert [t.scanner for t in queue.claim(conn, ["scan"], "one", 9, scanners=["ports"])] == ["ports"]
    assert queue.claim(conn, ["scan"], "one", 9, vantage="internet") == []
    assert len(queue.claim(conn, ["scan"], "one", 9, vantage="dmz")) == 1
    assert [t.kind for t in queue.claim(conn, ["scan", "sweep"], "one", 9)] == ["sweep"]


def test_not_before_its_time(conn: Connection, organisation: int) -> None:
    queue.push(conn, [scan(organisation)])
    conn.execute(text("UPDATE task SET run_after = now() + interval '1 hour'"))
    assert queue.claim(conn, ["scan"], "one", 1) == []


def test_one_open_task_per_source_and_kind(conn: Connection, organisation: int) -> None:
    ids = queue.push(conn, [scan(organisation, 1), scan(organisation, 1), NewTask("ingest", organisation, 1)])
    assert len(ids) == 2
    assert queue.push(conn, [scan(organisation, 1), scan(organisation, 2)]) != []
    (task,) = queue.claim(conn, ["ingest"], "w", 1)
    assert queue.push(conn, [NewTask("ingest", organisation, 1)]) == []
    assert queue.finish(conn, task.id, task.token)
    assert len(queue.push(conn, [NewTask("ingest", organisation, 1)])) == 1


def test_a_result_after_the_lease_was_taken_away_is_refused(conn: Connection, organisation: int) -> None:
    (task_id,) = queue.push(conn, [scan(organisation)])
    (first,) = queue.claim(conn, ["scan"], "one", 1)
    expire(conn, task_id)
    (back,) = queue.reap(conn)
    assert (back.task.id, back.became, back.task.tries) == (task_id, "queued", 1)
    assert "one did not answer since" in back.task.reason
    make_ready(conn)
    (second,) = queue.claim(conn, ["scan"], "two", 1)
    assert second.token != first.token
    assert not queue.finish(conn, task_id, first.token)
    assert queue.fail(conn, [(task_id, first.token, "late")]) == []
    assert queue.heartbeat(conn, [(task_id, first.token), (task_id, second.token)]) == []
    assert queue.finish(conn, task_id, second.token)
    assert not queue.finish(conn, task_id, second.token)


def test_heartbeat_keeps_a_lease_and_names_the_lost(conn: Connection, organisation: int) -> None:
    kept, gone = queue.push(conn, [scan(organisation), scan(organisation)])
    tokens = {task.id: task.token for task in queue.claim(conn, ["scan"], "one", 2)}
    queue.cancel(conn, [gone], "person", "not wanted")
    expire(conn, kept)
    assert queue.heartbeat(conn, [(kept, tokens[kept]), (gone, tokens[gone]), (10**12, 1)]) == [gone, 10**12]
    assert queue.reap(conn) == []


def test_failing_backs_off_and_ends_dead_with_the_reason(conn: Connection, organisation: int) -> None:
    (task_id,) = queue.push(conn, [scan(organisation, max_tries=3)])
    waits = []
    for number in range(3):
        make_ready(conn)
        (task,) = queue.claim(conn, ["scan"], "one", 1)
        (back,) = queue.fail(conn, [(task_id, task.token, f"disk full \x00 {number}")], base_seconds=100)
        now = conn.execute(text("SELECT now()")).scalar_one()
        waits.append((back.task.run_after - now).total_seconds())
    assert 75 <= waits[0] <= 125
    assert 150 <= waits[1] <= 250
    assert state(conn, task_id) == ("dead", "disk full \ufffd 2")
    assert queue.claim(conn, ["scan"], "one", 1) == []
    assert queue.retry(conn, [task_id], "person") == [task_id]
    assert [task.tries for task in queue.claim(conn, ["scan"], "one", 1)] == [0]


def test_reaping_ends_dead_too(conn: Connection, organisation: int) -> None:
    (task_id,) = queue.push(conn, [scan(organisation, max_tries=1)])
    queue.claim(conn, ["scan"], "one", 1)
    expire(conn, task_id)
    assert [back.became for back in queue.reap(conn)] == ["dead"]
    assert queue.reap(conn) == []


def test_release_gives_back_without_a_try(conn: Connection, organisation: int) -> None:
    queue.push(conn, [scan(organisation), scan(organisation), scan(organisation)])
    queue.claim(conn, ["scan"], "one", 2)
    queue.claim(conn, ["scan"], "two", 1)
    assert len(queue.release(conn, "one")) == 2
    assert [task.tries for task in queue.claim(conn, ["scan"], "two", 9)] == [0, 0]


def test_retry_leaves_out_what_is_open_again(conn: Connection, organisation: int) -> None:
    first = queue.push(conn, [scan(organisation, 5)])
    queue.cancel(conn, first, "p", "x")
    second = queue.push(conn, [scan(organisation, 5)])
    assert queue.retry(conn, [*first, *second], "p") == []
    queue.cancel(conn, second, "p", "x")
    assert queue.retry(conn, [*first, *second], "p") == second


@pytest.mark.parametrize("was", queue.State.__args__)  # type: ignore[attr-defined]
def test_the_database_takes_the_steps_that_there_are_and_no_other(
    database: Database, organisation: int, was: str
) -> None:
    for became in queue.State.__args__:  # type: ignore[attr-defined]
        with database.begin("kat_system") as conn:
            (task_id,) = queue.push(conn, [scan(organisation)])
        step = text("UPDATE task SET state = :state, lease_until = now(), lease_token = 7 WHERE id = :id")
        for state in path(was):
            with database.begin("kat_system") as conn:
                conn.execute(step, {"state": state, "id": task_id})
        if became == was or (was, became) in queue.TRANSITIONS:
            with database.begin("kat_system") as conn:
                conn.execute(step, {"state": became, "id": task_id})
        else:
            with pytest.raises(IntegrityError, match=f"is {was}, and can not become {became}"), database.begin(
                "kat_system"
            ) as conn:  # fmt: skip
                conn.execute(step, {"state": became, "id": task_id})


def path(state: str) -> list[str]:
    """Steps that lead from queued to a state."""
    return {"queued": [], "leased": ["leased"], "paused": ["paused"], "cancelled": ["cancelled"]}.get(
        state, ["leased", state]
    )


def test_a_lease_has_a_time_and_a_token(database: Database, organisation: int) -> None:
    with database.begin("kat_system") as conn:
        queue.push(conn, [scan(organisation)])
    with pytest.raises(IntegrityError, match="ck_task_lease"), database.begin("kat_system") as conn:
        conn.execute(text("UPDATE task SET state = 'leased'"))


def test_finishing_with_another_state_is_refused(conn: Connection) -> None:
    with pytest.raises(queue.QueueError, match="done or failed"):
        queue.finish_all(conn, [Ending(1, 1, "queued")])  # type: ignore[arg-type]


def test_every_step_is_an_event_and_a_batch_is_one_statement(conn: Connection, organisation: int) -> None:
    ids = queue.push(conn, [scan(organisation) for _ in range(20)], by="plan")
    taken = queue.claim(conn, ["scan"], "one", 20)
    assert queue.finish_all(conn, [Ending(t.id, t.token, "failed", "no answer") for t in taken]) == set(ids)
    for task_id in ids:
        steps = [(e.was, e.became, e.by, e.reason) for e in listing.events(conn, task_id)]
        assert steps == [
            ("", "queued", "plan", ""),
            ("queued", "leased", "one", ""),
            ("leased", "failed", "one", "no answer"),
        ]


def test_listing_pages_and_counts_agree(conn: Connection, organisation: int) -> None:
    ids = queue.push(conn, [scan(organisation) for _ in range(7)])
    queue.push(conn, [NewTask("sweep")])
    which = listing.Filter(organisations=[organisation], kinds=["scan"])
    first = listing.tasks(conn, which, limit=4)
    second = listing.tasks(conn, which, limit=4, before=first[-1].id)
    assert [t.id for t in [*first, *second]] == sorted(ids, reverse=True)
    assert listing.count(conn, which) == 7
    assert listing.count(conn, which, limit=3) == 4
    assert listing.counts(conn) == {("scan", "queued"): 7, ("sweep", "queued"): 1}
    assert listing.tasks(conn, listing.Filter(organisations=[])) == []


CLAIMER = """
import json, sys
from kattegat.scheduler import queue
from kattegat.store.database import Database
database = Database(json.loads(sys.argv[1]), login=True)
mine = []
while True:
    with database.begin("kat_system") as conn:
        taken = queue.claim(conn, ["scan"], sys.argv[2], 17)
    if not taken:
        break
    with database.begin("kat_system") as conn:
        done = queue.finish_all(conn, [queue.Ending(task.id, task.token) for task in taken])
    if done != {task.id for task in taken}:
        sys.exit("a lease was lost")
    mine += [task.id for task in taken]
database.close()
print(json.dumps(mine))
"""


def test_four_processes_claim_two_thousand_tasks_none_twice(database: Database, organisation: int) -> None:
    import json

    with database.begin("kat_system") as conn:
        ids = queue.push(conn, [scan(organisation) for _ in range(2000)])
    conninfo = json.dumps({"kat_system": database.conninfo("kat_system")})
    processes = [
        subprocess.Popen([sys.executable, "-c", CLAIMER, conninfo, f"claimer {n}"], stdout=subprocess.PIPE, text=True)
        for n in range(4)
    ]
    answers = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0, 0]
    claimed = [task_id for answer in answers for task_id in json.loads(answer)]
    assert sorted(claimed) == sorted(ids)
    with database.begin("kat_system") as conn:
        assert listing.counts(conn) == {("scan", "done"): 2000}


def test_no_sequence_of_steps_loses_or_doubles_a_task(database: Database, organisation: int) -> None:
    class Machine(RuleBasedStateMachine):
        """A model of the queue beside the queue: states, tries and who holds which token."""

        @initialize()
        def begin(self) -> None:
            self.states: dict[int, str] = {}
            self.tries: dict[int, int] = {}
            self.sources: dict[int, int | None] = {}
            self.tokens: list[tuple[int, int]] = []
            self.held: dict[int, int] = {}
            self.scanners: dict[int, str] = {}
            self.paused: set[str] = set()
            with database.begin("kat_system") as conn:
                conn.execute(text("DELETE FROM task"))
                conn.execute(text("DELETE FROM task_event"))
                conn.execute(text("DELETE FROM pause"))

        def covered(self, task_id: int) -> bool:
            return "everything" in self.paused or self.scanners[task_id] in self.paused

        def follow(self, moved: list[int]) -> None:
            """What the pauses do to the tasks that wait."""
            expected = {
                i: "paused" if s == "queued" else "queued"
                for i, s in self.states.items()
                if s in ("queued", "paused") and (s == "paused") != self.covered(i)
            }
            assert sorted(moved) == sorted(expected)
            self.states.update(expected)

        @rule(name=st.sampled_from(["everything", "dns-records", "ports"]))
        def pause(self, name: str) -> None:
            scope = pauses.INSTALL if name == "everything" else pauses.Scope("scanner", scanner=name)
            self.paused.add(name)
            with database.begin("kat_system") as conn:
                self.follow(pauses.pause(conn, scope, "person", "a change"))

        @rule(name=st.sampled_from(["everything", "dns-records", "ports"]))
        def resume(self, name: str) -> None:
            if name not in self.paused:
                return
            scope = pauses.INSTALL if name == "everything" else pauses.Scope("scanner", scanner=name)
            self.paused.discard(name)
            with database.begin("kat_system") as conn:
                self.follow(pauses.resume(conn, scope, "person"))

        @rule()
        def tick(self) -> None:
            with database.begin("kat_system") as conn:
                self.follow(pauses.tick(conn))

        @rule(data=st.data(), place=st.sampled_from(["first", "usual", "last"]))
        def move(self, data: st.DataObject, place: str) -> None:
            if self.states:
                task_id = data.draw(st.sampled_from(sorted(self.states)))
                with database.begin("kat_system") as conn:
                    done = acts.prioritise(conn, [task_id], place, "person", "")
                assert bool(done.tasks) == (self.states[task_id] in ("queued", "paused"))

        def open_sources(self) -> set[int | None]:
            return {self.sources[i] for i, s in self.states.items() if s in queue.OPEN}

        @rule(
            sources=st.lists(st.one_of(st.none(), st.integers(1, 3)), min_size=1, max_size=4),
            scanner=st.sampled_from(["dns-records", "ports"]),
        )
        def push(self, sources: list[int | None], scanner: str) -> None:
            with database.begin("kat_system") as conn:
                ids = queue.push(conn, [scan(organisation, s, scanner=scanner, max_tries=2) for s in sources])
            expected = []
            taken = self.open_sources()
            for source in sources:
                if source is None or source not in taken:
                    expected.append(source)
                    taken.add(source)
            assert len(ids) == len(expected)
            for task_id, source in zip(ids, expected, strict=True):
                self.states[task_id], self.tries[task_id], self.sources[task_id] = "queued", 0, source
                self.scanners[task_id] = scanner

        @rule(most=st.integers(0, 4))
        def claim(self, most: int) -> None:
            with database.begin("kat_system") as conn:
                make_ready(conn)
                taken = queue.claim(conn, ["scan"], "one", most)
            queued = sorted(i for i, s in self.states.items() if s == "queued" and not self.covered(i))
            assert {t.id for t in taken} <= set(queued)
            assert len(taken) == min(most, len(queued))
            for task in taken:
                assert self.states[task.id] == "queued"
                assert (task.id, task.token) not in self.tokens
                self.states[task.id] = "leased"
                self.held[task.id] = task.token
                self.tokens.append((task.id, task.token))

        @rule(data=st.data(), how=st.sampled_from(["done", "failed", "fail", "heartbeat"]))
        def hand_in(self, data: st.DataObject, how: str) -> None:
            """With any token that was ever given, so also with old ones."""
            if not self.tokens:
                return
            task_id, token = data.draw(st.sampled_from(self.tokens))
            valid = self.states[task_id] == "leased" and self.held.get(task_id) == token
            with database.begin("kat_system") as conn:
                if how == "heartbeat":
                    assert (queue.heartbeat(conn, [(task_id, token)]) == []) == valid
                elif how == "fail":
                    back = queue.fail(conn, [(task_id, token, "broken")])
                    assert len(back) == valid
                    if valid:
                        self.come_back(task_id, back[0].became)
                else:
                    assert queue.finish(conn, task_id, token, how) == valid  # type: ignore[arg-type]
                    if valid:
                        self.states[task_id] = how

        def come_back(self, task_id: int, became: str) -> None:
            self.tries[task_id] += 1
            self.states[task_id] = "dead" if self.tries[task_id] >= 2 else "queued"
            assert became == self.states[task_id]

        @rule(data=st.data())
        def expire(self, data: st.DataObject) -> None:
            leased = sorted(i for i, s in self.states.items() if s == "leased")
            if not leased:
                return
            chosen = data.draw(st.lists(st.sampled_from(leased), unique=True))
            with database.begin("kat_system") as conn:
                expire(conn, *chosen)
                back = queue.reap(conn)
            assert sorted(entry.task.id for entry in back) == sorted(chosen)
            for entry in back:
                self.come_back(entry.task.id, entry.became)

        @rule()
        def stop_cleanly(self) -> None:
            with database.begin("kat_system") as conn:
                back = queue.release(conn, "one")
            assert set(back) == {i for i, s in self.states.items() if s == "leased"}
            self.states.update(dict.fromkeys(back, "queued"))

        @rule(data=st.data())
        def cancel(self, data: st.DataObject) -> None:
            if self.states:
                task_id = data.draw(st.sampled_from(sorted(self.states)))
                with database.begin("kat_system") as conn:
                    ended = queue.cancel(conn, [task_id], "person", "not wanted")
                assert bool(ended) == (self.states[task_id] in queue.OPEN)
                self.states.update(dict.fromkeys(ended, "cancelled"))

        @rule(data=st.data())
        def retry(self, data: st.DataObject) -> None:
            if self.states:
                task_id = data.draw(st.sampled_from(sorted(self.states)))
                allowed = self.states[task_id] in ("failed", "dead", "cancelled") and (
                    self.sources[task_id] is None or self.sources[task_id] not in self.open_sources()
                )
                with database.begin("kat_system") as conn:
                    assert queue.retry(conn, [task_id], "person") == ([task_id] if allowed else [])
                if allowed:
                    self.states[task_id], self.tries[task_id] = "queued", 0

        @invariant()
        def as_in_the_model(self) -> None:
            with database.begin("kat_system") as conn:
                rows = conn.execute(text("SELECT id, state, tries FROM task")).all()
                steps = conn.execute(text("SELECT task_id, was, became FROM task_event ORDER BY at, id")).all()
            assert {row.id: (row.state, row.tries) for row in rows} == {
                task_id: (state, self.tries[task_id]) for task_id, state in self.states.items()
            }
            last: dict[int, str] = {}
            for task_id, was, became in steps:
                assert last.get(task_id, "") == was
                assert (was, became) in queue.TRANSITIONS
                last[task_id] = became
            assert last == self.states

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
