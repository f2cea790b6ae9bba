"""Plans, dispatching and jobs on a real database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from kattegat.model.assets import Hostname, IPAddress, Network
from kattegat.registry import Registry
from kattegat.scheduler import beat, dispatch, job, listing, process, queue
from kattegat.scheduler.dispatch import Ran
from kattegat.scheduler.plan import due_for_changes, plan, tools_changed
from kattegat.store.database import Database

AddAsset = Callable[..., int]
WWW = Hostname("www.example.org")


def consent(conn: Connection, organisation: int) -> None:
    conn.execute(
        text("INSERT INTO consent (organisation_id, granted_by, text) VALUES (:o, 'me', 'yes')"), {"o": organisation}
    )


def add_runner(conn: Connection, tools: str = "{}") -> None:
    conn.execute(
        text(
            "INSERT INTO runner (name, token_hash, tools, seen_at) VALUES ('r', '\\x00', CAST(:tools AS jsonb), now())"
            " ON CONFLICT (name) DO UPDATE SET tools = excluded.tools"
        ),
        {"tools": tools},
    )


def holds(conn: Connection) -> dict[tuple[str, str], str]:
    rows = conn.execute(
        text(
            "SELECT s.scanner, a.key, h.hold FROM schedule h JOIN source s ON s.id = h.id"
            " JOIN asset a ON a.id = s.asset_id ORDER BY 1, 2"
        )
    )
    return {(row.scanner, row.key): row.hold for row in rows}


def source_of(conn: Connection, scanner: str) -> int:
    found = conn.execute(text("SELECT id FROM source WHERE scanner = :scanner"), {"scanner": scanner})
    return int(found.scalar_one())


def schedule(conn: Connection, source: int) -> Any:
    return conn.execute(
        text("SELECT *, extract(epoch FROM due_at - now()) AS wait FROM schedule WHERE id = :id"), {"id": source}
    ).one()


@contextmanager
def counted(conn: Connection) -> Iterator[list[str]]:
    statements: list[str] = []

    def note(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(conn, "before_cursor_execute", note)
    yield statements
    event.remove(conn, "before_cursor_execute", note)


def test_every_scanner_of_the_type_gets_a_source_and_a_reason_if_it_may_not_run(
    conn: Connection, organisation: int, add_asset: AddAsset, registry: Registry
) -> None:
    add_asset(WWW, 0)
    add_asset(Hostname("_dmarc.example.org"), 1)
    add_asset(IPAddress("192.0.2.1"), 2)
    planned = plan(conn, organisation, None, registry)
    assert (planned.sources, planned.new, planned.held) == (4, 4, 2)
    assert holds(conn) == {
        ("sample-banner", "www.example.org"): "clearance 0, needs 1",
        ("sample-names", "_dmarc.example.org"): "",
        ("sample-names", "www.example.org"): "",
        (
            "sample-ports",
            "internet|192.0.2.1",
        ): "no consent: nobody has recorded this organisation's permission to scan",
    }
    assert plan(conn, organisation, None, registry).new == 0


def test_a_hold_goes_when_its_reason_goes(
    conn: Connection, organisation: int, add_asset: AddAsset, registry: Registry
) -> None:
    consent(conn, organisation)
    address, www = add_asset(IPAddress("192.0.2.1"), 2), add_asset(WWW, 0)
    ports, banner = ("sample-ports", "internet|192.0.2.1"), ("sample-banner", "www.example.org")
    plan(conn, organisation, [address, www], registry)
    assert holds(conn)[ports] == ""
    add_runner(conn)
    plan(conn, organisation, [address, www], registry)
    assert holds(conn)[ports] == "tool sampletool is missing: no runner has it"
    add_runner(conn, '{"sampletool": "1.0"}')
    assert tools_changed(conn, registry) == 1
    assert holds(conn)[ports] == ""
    add_runner(conn)
    assert tools_changed(conn, registry) == 1
    conn.execute(text("UPDATE asset SET clearance = 3"))
    plan(conn, organisation, [www], registry)
    assert holds(conn)[banner] == ""
    plan(conn, organisation, None, registry, only=["sample-names"], skip=["sample-names"])
    assert holds(conn)[banner] == "skipped: not among the scanners that were chosen"
    assert holds(conn)["sample-names", "www.example.org"] == "skipped on request"
    conn.execute(text("UPDATE asset SET present = false"))
    plan(conn, organisation, [www, address], registry)
    assert set(holds(conn).values()) == {"no longer present"}
    conn.execute(text("UPDATE asset SET present = true"))
    conn.execute(text("UPDATE source SET scanner = 'lost' WHERE scanner = 'sample-names'"))
    plan(conn, organisation, None, registry)
    assert holds(conn)["lost", "www.example.org"] == "scanner lost is not installed"


def test_planning_takes_the_same_number_of_statements_for_any_batch(
    conn: Connection, organisation: int, add_asset: AddAsset, registry: Registry
) -> None:
    numbers = []
    for start, size in ((0, 1), (1, 40)):
        ids = [add_asset(Hostname(f"h{number}.example.org"), 1) for number in range(start, start + size)]
        with counted(conn) as statements:
            plan(conn, organisation, ids, registry)
            due_for_changes(conn, organisation, [(asset, "Ports") for asset in ids], registry)
            dispatch.dispatch(conn)
        numbers.append(len(statements))
    assert numbers[0] == numbers[1]


def test_a_changed_fact_makes_due_who_uses_it(
    conn: Connection, organisation: int, add_asset: AddAsset, registry: Registry
) -> None:
    consent(conn, organisation)
    www, address = add_asset(WWW, 1), add_asset(IPAddress("192.0.2.1"), 2)
    plan(conn, organisation, None, registry)
    conn.execute(text("UPDATE schedule SET due_at = now() + interval '1 hour', priority = 100"))
    link(conn, organisation, www, address)
    assert due_for_changes(conn, organisation, [(address, "Banner"), (www, "Ports")], registry) == []
    assert due_for_changes(conn, organisation, [(address, "Ports")], registry) == [source_of(conn, "sample-banner")]
    assert due_for_changes(conn, organisation, [(address, "Ports")], registry) == []


def link(conn: Connection, organisation: int, origin: int, target: int) -> None:
    source = source_of(conn, "sample-names")
    fact = conn.execute(
        text(
            "INSERT INTO fact (organisation_id, source_id, asset_id, kind, value, digest)"
            " VALUES (:o, :s, :a, 'Addresses', '{}', '\\x00') RETURNING id"
        ),
        {"o": organisation, "s": source, "a": origin},
    ).scalar_one()
    conn.execute(
        text(
            "INSERT INTO link (organisation_id, fact_id, type, origin_id, target_id)"
            " VALUES (:o, :f, 'resolves_to', :a, :b)"
        ),
        {"o": organisation, "f": fact, "a": origin, "b": target},
    )


def test_dispatch_takes_requests_then_new_then_the_most_overdue(
    conn: Connection, organisation: int, add_asset: AddAsset, registry: Registry
) -> None:
    ids = [add_asset(Hostname(f"{name}.example.org"), 0) for name in "abcdef"]
    plan(conn, organisation, ids, registry)
    sources = list(conn.execute(text("SELECT id FROM source WHERE scanner = 'sample-names' ORDER BY id")).scalars())
    late, later, new, asked, undue, held = sources
    for source, due, every, priority in (
        (late, "-1 hour", "1 day", 100),
        (later, "-30 minutes", "1 hour", 100),
        (asked, "1 hour", "1 day", 100),
        (undue, "1 hour", "1 day", 100),
        (held, "-9 hours", "1 day", 50),
    ):
        conn.execute(
            text(
                "UPDATE schedule SET due_at = now() + CAST(:due AS interval), every = CAST(:every AS interval),"
                " priority = :priority WHERE id = :id"
            ),
            {"due": due, "every": every, "priority": priority, "id": source},
        )
    conn.execute(text("UPDATE schedule SET hold = 'no' WHERE id = :id"), {"id": held})
    requested = dispatch.request(conn, organisation, [asked, held], "piet")
    assert requested == ([asked], {held: "no"})
    first = dispatch.dispatch(conn, holds=1)
    assert len(first) == 1
    assert dispatch.dispatch(conn, holds=1) == []
    dispatch.dispatch(conn)
    taken = queue.claim(conn, ["scan"], "r", 9)
    assert [task.source_id for task in taken] == [asked, new, later, late]
    assert taken[0].payload == {"requested_by": "piet"}
    assert dispatch.dispatch(conn) == []


def test_a_source_with_an_open_ingest_is_not_dispatched(
    conn: Connection, organisation: int, add_asset: AddAsset, registry: Registry
) -> None:
    plan(conn, organisation, [add_asset(WWW, 0)], registry)
    source = source_of(conn, "sample-names")
    ingest = queue.push(conn, [queue.NewTask("ingest", organisation, source)])
    assert dispatch.dispatch(conn) == []
    queue.cancel(conn, ingest, "p", "x")
    assert len(dispatch.dispatch(conn)) == 1
    assert dispatch.request(conn, organisation, [source], "piet").asked == [source]
    assert [task.priority for task in listing.tasks(conn, listing.Filter(kinds=["scan"]))] == [0]
    assert dispatch.dispatch(conn) == []


def test_the_next_time_after_a_run(
    conn: Connection, organisation: int, add_asset: AddAsset, registry: Registry
) -> None:
    plan(conn, organisation, [add_asset(WWW, 0)], registry)
    source = source_of(conn, "sample-names")
    dispatch.dispatch(conn)
    now = datetime.now(UTC)
    day, waits = 86400, []
    for outcome in ("failed", "failed", "blocked", "ok"):
        dispatch.ran(conn, [Ran(organisation, source, outcome, now - timedelta(minutes=1), now)])  # type: ignore[arg-type]
        waits.append(float(schedule(conn, source).wait))
    assert waits[0] == pytest.approx(600, rel=0.1)
    assert waits[1] == pytest.approx(1200, rel=0.1)
    assert waits[2] == pytest.approx(day, rel=0.06)
    assert waits[3] == pytest.approx(day, rel=0.06)
    assert (schedule(conn, source).tries, schedule(conn, source).priority) == (0, 100)
    for _ in range(12):
        dispatch.ran(conn, [Ran(organisation, source, "failed", now, now)])
    assert float(schedule(conn, source).wait) <= day * 1.06


def test_asked_for_while_it_runs_it_runs_again(
    conn: Connection, organisation: int, add_asset: AddAsset, registry: Registry
) -> None:
    plan(conn, organisation, [add_asset(WWW, 0)], registry)
    source = source_of(conn, "sample-names")
    dispatch.dispatch(conn)
    (task,) = queue.claim(conn, ["scan"], "r", 1)
    started = datetime.now(UTC) - timedelta(minutes=1)
    dispatch.request(conn, organisation, [source], "piet")
    queue.finish(conn, task.id, task.token)
    dispatch.ran(conn, [Ran(organisation, source, "ok", started, datetime.now(UTC))])
    assert len(dispatch.dispatch(conn)) == 1


def test_due_since_it_was_sent_it_runs_again_whenever_its_scanner_began(
    database: Database, organisation: int, registry: Registry
) -> None:
    """A runner holds what it has claimed for a while before it begins; the inputs were read at the claim."""
    with database.begin("kat_system") as conn:
        conn.execute(
            text(
                "INSERT INTO asset (organisation_id, type, key, present, clearance)"
                " VALUES (:o, 'Hostname', :k, true, 0)"
            ),
            {"o": organisation, "k": "late.example"},
        )
        asset = conn.execute(text("SELECT id FROM asset WHERE key = 'late.example'")).scalar_one()
        plan(conn, organisation, [asset], registry)
        source = source_of(conn, "sample-names")
    # The transaction that makes it due began before it was sent, and says so after it was claimed.
    with database.begin("kat_system") as early:
        early.execute(text("SELECT 1"))
        with database.begin("kat_system") as conn:
            assert dispatch.dispatch(conn)
        with database.begin("kat_system") as conn:
            (task,) = queue.claim(conn, ["scan"], "r", 1)
        dispatch.request(early, organisation, [source], "piet")
    began = datetime.now(UTC) + timedelta(seconds=5)
    with database.begin("kat_system") as conn:
        queue.finish(conn, task.id, task.token)
        dispatch.ran(conn, [Ran(organisation, source, "ok", task.created_at, began)])
    with database.begin("kat_system") as conn:
        assert len(dispatch.dispatch(conn)) == 1


def test_jobs_carry_limits_options_and_known_facts(
    conn: Connection, organisation: int, add_asset: AddAsset, registry: Registry
) -> None:
    consent(conn, organisation)
    www, address = add_asset(WWW, 1), add_asset(IPAddress("10.1.0.5"), 2)
    add_asset(Network("10.0.0.0/8"), 0, declared_clearance=0)
    add_asset(Network("10.1.0.0/16"), 2, declared_clearance=2)
    add_asset(IPAddress("10.1.2.3"), 1, declared_clearance=1)
    add_asset(IPAddress("10.9.9.9", "office"), 0, declared_clearance=0)
    conn.execute(
        text(
            "INSERT INTO own_network (organisation_id, zone, network, declared_by) VALUES"
            " (:o, 'internet', '10.0.0.0/8', 'me'), (:o, 'office', '192.168.0.0/16', 'me')"
        ),
        {"o": organisation},
    )
    plan(conn, organisation, [www, address], registry)
    link(conn, organisation, www, address)
    conn.execute(
        text(
            "INSERT INTO fact (organisation_id, source_id, asset_id, kind, value, digest)"
            " VALUES (:o, :s, :a, 'Ports', '{\"ports\": [22]}', '\\x01')"
        ),
        {"o": organisation, "s": source_of(conn, "sample-ports"), "a": address},
    )
    dispatch.dispatch(conn)
    tasks = queue.claim(conn, ["scan"], "r", 9)

    def in_force(_conn: Connection, of: int) -> dict[str, Any]:
        assert of == organisation
        return {"sample-names.tries": 5, "sample-names.servers": "not a list"}

    built = job.build(conn, tasks, registry, options=in_force)
    assert built.refused == []
    by_scanner = {made.scanner: made for made in built.jobs}
    names, banner, ports = (by_scanner[f"sample-{name}"] for name in ("names", "banner", "ports"))
    assert names.options == {"servers": ("192.0.2.53",), "tries": 5}
    assert names.limits.own_networks == ["10.0.0.0/8"]
    assert names.limits.refused == []
    assert ("10.1.2.3/32", "10.1.2.3/32 has clearance 1, and this scan needs 2") in ports.limits.refused
    refused = {cidr for cidr, _ in ports.limits.refused}
    assert not refused & {"10.0.0.0/8", "10.1.0.0/16", "10.9.9.9/32"}
    assert "10.128.0.0/9" in refused
    assert [(known.kind, known.asset_key, known.value) for known in banner.known] == [
        ("Ports", "internet|10.1.0.5", {"ports": [22]})
    ]
    assert names.known == []


def test_what_may_not_run_any_more_is_refused_at_the_claim(
    conn: Connection, organisation: int, add_asset: AddAsset, registry: Registry
) -> None:
    consent(conn, organisation)
    plan(conn, organisation, [add_asset(WWW, 1)], registry)
    dispatch.dispatch(conn)
    conn.execute(text("UPDATE consent SET until = now()"))
    tasks = queue.claim(conn, ["scan"], "r", 9)
    refused = job.build(conn, tasks, registry).refused
    assert [(task.scanner, reason[:10]) for task, reason in refused] == [("sample-banner", "no consent")]
    conn.execute(text("UPDATE asset SET clearance = 0"))
    built = job.build(conn, tasks, registry)
    assert [made.scanner for made in built.jobs] == ["sample-names"]
    assert [(task.scanner, reason) for task, reason in built.refused] == [("sample-banner", "clearance 0, needs 1")]


def test_a_dead_scan_becomes_a_failed_result(
    conn: Connection, organisation: int, add_asset: AddAsset, registry: Registry
) -> None:
    plan(conn, organisation, [add_asset(WWW, 0)], registry)
    dispatch.dispatch(conn)
    queue.claim(conn, ["scan"], "r", 1)
    conn.execute(text("UPDATE task SET lease_until = now() - interval '1 hour', tries = 2"))
    (ingest,) = dispatch.settle(conn, queue.reap(conn))
    (task,) = queue.claim(conn, ["ingest"], "w", 1)
    assert task.id == ingest
    assert task.payload["outcome"] == "failed"
    assert task.payload["reason"].startswith("given up after 3 tries: the lease ran out: r did not answer since")


def test_one_scheduler_leads_and_does_the_round(
    database: Database, organisation: int, add_asset: AddAsset, registry: Registry
) -> None:
    with process.Leader(database) as first, process.Leader(database) as second:
        assert first.leads()
        assert first.leads()
        assert not second.leads()
        first.resign()
        assert second.leads()
    asset = add_asset(WWW, 0)
    with database.begin("kat_system") as conn:
        plan(conn, organisation, [asset], registry)
    assert process.Scheduler(database).tick() == (0, 1)
    stop = threading.Event()
    thread = threading.Thread(target=process.serve, args=(database, stop), kwargs={"tick_seconds": 0.05})
    thread.start()
    listed: list[beat.Running] = []
    for _ in range(200):
        with database.begin("kat_system") as conn:
            listed = beat.running(conn)
        if listed:
            break
        stop.wait(0.05)
    stop.set()
    thread.join(10)
    assert [entry.role for entry in listed] == ["scheduler"]
    with database.begin("kat_system") as conn:
        assert beat.running(conn) == []
