"""Windows, blackouts, intervals, the blocklist and limits on scans, at every level, as far as the runner's door."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, text

from kattegat.accounts import audit, groups, sets, settings
from kattegat.errors import UsageError
from kattegat.model.assets import Hostname, IPAddress, Website
from kattegat.registry import Registry
from kattegat.scheduler import blocklist, dispatch, job, listing, payload, permits, plan, queue, regime, room, waiting
from kattegat.scheduler.queue import NewTask
from kattegat.scheduler.regime import Rates
from kattegat.store import forms
from kattegat.store.database import Database


def give(conn: Connection, place: settings.Place, name: str, value: object, registry: Registry) -> None:
    regime.set_(conn, place, name, value, registry, "piet")


def closed_now() -> str:
    """A window that is closed now and opens tomorrow."""
    day = (datetime.now(UTC) + timedelta(days=1)).strftime("%a").lower()
    return f"{day} 10:00-11:00"


# --- levels ----------------------------------------------------------------------------------------------------------


def test_what_is_closer_holds_and_of_limits_the_strictest(
    conn: Connection, organisation: int, registry: Registry
) -> None:
    group = groups.create(conn, "g")
    groups.add(conn, group, organisation)
    own = sets.save(conn, organisation, "dns", {"types": ["Hostname"]})
    here, all_of = settings.organisation(organisation), settings.INSTALL
    inside = settings.asset_set(organisation, own.id)
    give(conn, all_of, "scan.every", "7d", registry)
    give(conn, settings.group(group.id), "scan.every", "3d", registry)
    give(conn, all_of, "sample-names.every", "2d", registry)
    rules = regime.load(conn)
    assert rules.every(organisation, "sample-ports") == "3d"
    # The group says it of all scanners, and is closer than what the install says of this one.
    assert rules.every(organisation, "sample-names") == "3d"
    assert rules.every(organisation + 1, "sample-names") == "2d"
    give(conn, inside, "scan.every", "1d", registry)
    rules = regime.load(conn)
    assert (rules.every(organisation, "x", [own.id]), rules.every(organisation, "x")) == ("1d", "3d")
    give(conn, here, "limit.address.connections", 5, registry)
    give(conn, all_of, "limit.address.connections", 9, registry)
    give(conn, inside, "limit.address.connections", 7, registry)
    give(conn, all_of, "limit.address.rate", 2.5, registry)
    assert regime.load(conn).rates("address", organisation, [own.id]) == Rates(5, 2.5)
    assert regime.load(conn).rates("address", organisation + 1) == Rates(9, 2.5)
    give(conn, all_of, "sample-names.key", "shodan", registry)
    give(conn, all_of, "limit.key.shodan.rate", 1, registry)
    assert regime.load(conn).permits(organisation, "sample-names")["key.shodan"] == Rates(0, 1.0)
    assert "key.shodan" not in regime.load(conn).permits(organisation, "sample-ports")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scan.every", "often"),
        ("scan.windows", ["all day"]),
        ("scan.blackouts", ["2026-01-02 2026-01-01"]),
        ("limit.scans", -1),
        ("limit.scans", "many"),
        ("limit.key.../x.rate", 1),
        ("unheard-of.every", "1d"),
    ],
)
def test_what_can_not_be_set(conn: Connection, registry: Registry, name: str, value: object) -> None:
    with pytest.raises(UsageError):
        give(conn, settings.INSTALL, name, value, registry)
    assert audit.page(conn) == []


def test_an_interval_and_a_cron_rule_stand_in_the_schedule(
    database: Database, organisation: int, add_asset: object, registry: Registry
) -> None:
    asset = add_asset(Hostname("www.example.org"), 0)  # type: ignore[operator]
    with database.begin("kat_system") as conn:
        give(conn, settings.INSTALL, "sample-names.every", "90m", registry)
        plan.plan(conn, organisation, [asset], registry)
        row = conn.execute(text("SELECT id, every, cron FROM schedule WHERE hold = ''")).one()
        assert (row.every, row.cron) == (timedelta(minutes=90), "")
        give(conn, settings.INSTALL, "sample-names.every", "cron 30 3 * * *", registry)
        plan.plan(conn, organisation, [asset], registry)
        row = conn.execute(text("SELECT id, every, cron FROM schedule WHERE hold = ''")).one()
        assert (row.every, row.cron) == (timedelta(days=1), "cron 30 3 * * *")
        dispatch.dispatch(conn)
        now = conn.execute(text("SELECT now()")).scalar_one()
        dispatch.ran(conn, [dispatch.Ran(organisation, row.id, "ok", now, now)])
        due = conn.execute(text("SELECT due_at FROM schedule WHERE id = :id"), {"id": row.id}).scalar_one()
    assert (due.hour, due.minute, due.second) == (3, 30, 0)
    assert timedelta(0) < due - now <= timedelta(days=1)


# --- windows ---------------------------------------------------------------------------------------------------------


def test_a_closed_window_keeps_it_in_the_schedule_and_says_so(
    database: Database, organisation: int, add_asset: object, registry: Registry
) -> None:
    asset = add_asset(Hostname("www.example.org"), 0)  # type: ignore[operator]
    with database.begin("kat_system") as conn:
        give(conn, settings.organisation(organisation), "scan.windows", [closed_now()], registry)
        plan.plan(conn, organisation, [asset], registry)
        (source,) = conn.execute(text("SELECT id FROM schedule WHERE hold = ''")).scalars()
        assert dispatch.dispatch(conn) == []
        why = waiting.sources(conn, organisation, [source])[source]
        assert why.code == "window"
        assert why.reason.startswith("its window is closed, next at ")
        # A person's request waits for it too, and stays a request.
        dispatch.request(conn, organisation, [source], "piet (command line)")
        assert dispatch.dispatch(conn) == []
        assert conn.execute(
            text("SELECT request_actor, request_way, priority FROM schedule WHERE wait <> ''")
        ).one() == (
            "piet",
            "command line",
            0,
        )
        regime.unset(conn, settings.organisation(organisation), "scan.windows", "piet")
        assert len(dispatch.dispatch(conn)) == 1
        (task,) = queue.claim(conn, ["scan"], "one", 9)
        assert task.payload == {"requested_by": "piet (command line)"}


def test_a_window_that_closed_meanwhile_counts_when_it_is_claimed(
    database: Database, organisation: int, add_asset: object, registry: Registry
) -> None:
    asset = add_asset(Hostname("www.example.org"), 0)  # type: ignore[operator]
    with database.begin("kat_system") as conn:
        plan.plan(conn, organisation, [asset], registry)
        dispatch.dispatch(conn)
        now = datetime.now(UTC)
        dark = f"{now - timedelta(hours=1):%Y-%m-%dT%H:%M} {now + timedelta(hours=1):%Y-%m-%dT%H:%M}"
        give(conn, settings.INSTALL, "scan.blackouts", [dark], registry)
        tasks = queue.claim(conn, ["scan"], "one", 9)
        built = job.build(conn, tasks, registry)
    assert (built.jobs, built.refused) == ([], [])
    assert [(task.id, reason.split(",")[0]) for task, _, reason in built.closed] == [(tasks[0].id, "a blackout")]


def test_a_window_of_an_asset_set(database: Database, organisation: int, add_asset: object, registry: Registry) -> None:
    ids = [add_asset(Hostname(name), 0) for name in ("a.example.org", "b.example.com")]  # type: ignore[operator]
    with database.begin("kat_system") as conn:
        only = sets.save(conn, organisation, "orgs", {"key": "*.org"})
        give(conn, settings.asset_set(organisation, only.id), "scan.windows", [closed_now()], registry)
        plan.plan(conn, organisation, ids, registry)
        dispatch.dispatch(conn)
        assert len(queue.claim(conn, ["scan"], "one", 9)) == 1


# --- limits on scans -------------------------------------------------------------------------------------------------


def test_scans_at_once(conn: Connection, organisation: int, registry: Registry) -> None:
    other = conn.execute(text("INSERT INTO organisation (code, name) VALUES ('b', 'b') RETURNING id")).scalar_one()
    group = groups.create(conn, "g")
    for member in (organisation, other):
        groups.add(conn, group, member)
    give(conn, settings.INSTALL, "sample-ports.limit.scans", 3, registry)
    give(conn, settings.group(group.id), "limit.scans", 6, registry)
    give(conn, settings.organisation(organisation), "limit.scans", 4, registry)
    limits = regime.load(conn).scans()
    names = ("sample-names", "sample-ports")
    queue.push(conn, [NewTask("scan", owner, None, name) for owner in (organisation, other) for name in names * 5])

    def running() -> tuple[int, int, int]:
        tasks = listing.tasks(conn, listing.Filter(states=["leased"]))
        count = Counter((task.organisation_id, task.scanner) for task in tasks)
        ports = sum(number for (_, scanner), number in count.items() if scanner == "sample-ports")
        return len(tasks), sum(number for (owner, _), number in count.items() if owner == organisation), ports

    taken = []
    for most in (1, 2, 50):
        ids = room.choose(conn, limits, names, ["internet"], most)
        taken += queue.claim(conn, ["scan"], "one", most, ids=ids)
    assert running()[0] == 6
    assert running()[1] <= 4
    assert running()[2] <= 3
    assert room.choose(conn, limits, names, ["internet"], 50) == []
    waits = listing.tasks(conn, listing.Filter(states=["queued"], organisations=[other]))
    assert room.full(conn, limits, waits)[waits[0].id].startswith("at most 6 scans at once in its group")
    queue.finish(conn, taken[0].id, taken[0].token)
    assert len(room.choose(conn, limits, names, ["internet"], 50)) == 1


def test_two_doors_at_once_keep_to_a_limit(database: Database, organisation: int, registry: Registry) -> None:
    with database.begin("kat_system") as conn:
        give(conn, settings.INSTALL, "limit.scans", 7, registry)
        queue.push(conn, [NewTask("scan", organisation, None, "sample-names") for _ in range(200)])
    most_seen: list[int] = []

    def claim(name: str) -> None:
        for _ in range(10):
            with database.begin("kat_system") as conn:
                ids = room.choose(conn, regime.load(conn).scans(), ["sample-names"], ["internet"], 5)
                tasks = queue.claim(conn, ["scan"], name, 5, ids=ids)
            with database.begin("kat_system") as conn:
                most_seen.append(listing.counts(conn)["scan", "leased"] if tasks else 0)
            with database.begin("kat_system") as conn:
                queue.finish_all(conn, [queue.Ending(task.id, task.token) for task in tasks])

    threads = [threading.Thread(target=claim, args=(f"door {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 < max(most_seen) <= 7


# --- the blocklist ---------------------------------------------------------------------------------------------------


def test_what_is_blocked(conn: Connection, organisation: int) -> None:
    blocklist.add(conn, "*.Example.ORG", "piet", "their wish")
    blocklist.add(conn, "192.0.2.0/24", "piet", "a hospital", organisation_id=organisation)
    entries = blocklist.in_force(conn)

    def why(asset: object, owner: int = organisation) -> str:
        return blocklist.reason(entries, owner, asset)  # type: ignore[arg-type]

    assert why(Hostname("www.example.org")) == "on the blocklist: example.org (their wish; piet)"
    assert why(Website("https://example.org:443"))
    assert not why(Hostname("notexample.org"))
    assert why(IPAddress("192.0.2.9"))
    assert why(Website("http://192.0.2.9:80"))
    assert not why(IPAddress("192.0.2.9"), organisation + 1)
    assert not why(IPAddress("192.0.2.9", "dmz"))
    assert blocklist.refused(entries, organisation, "internet")[0][0] == "192.0.2.0/24"
    blocklist.remove(conn, "example.org", "piet")
    assert not blocklist.reason(blocklist.in_force(conn), organisation, Hostname("www.example.org"))
    with pytest.raises(blocklist.BlockError):
        blocklist.remove(conn, "example.org", "piet")
    assert [act.act for act in audit.page(conn)][:2] == ["blocklist.remove", "blocklist.add"]


@pytest.mark.parametrize("what", ["", "10.0.0.1/8", "a b", "1::/300", "-x-.test"])
def test_what_can_not_be_blocked(conn: Connection, what: str) -> None:
    with pytest.raises(blocklist.BlockError):
        blocklist.add(conn, what, "piet", "")


def test_a_blocked_asset_is_held_until_the_entry_ends(
    database: Database, organisation: int, add_asset: object, registry: Registry
) -> None:
    asset = add_asset(Hostname("www.example.org"), 0)  # type: ignore[operator]
    with database.begin("kat_system") as conn:
        plan.plan(conn, organisation, [asset], registry)
        dispatch.dispatch(conn)
        blocklist.add(conn, "example.org", "piet", "not now")
        tasks = queue.claim(conn, ["scan"], "one", 9)
        ((_, reason),) = job.build(conn, tasks, registry).refused
        assert reason == "on the blocklist: example.org (not now; piet)"
        queue.cancel(conn, [tasks[0].id], "door", reason)
        dispatch.hold(conn, [(organisation, tasks[0].source_id or 0, reason)])
        plan.plan(conn, organisation, [asset], registry)
        assert reason in set(conn.execute(text("SELECT hold FROM schedule")).scalars())
        assert blocklist.tick(conn) == 0
        conn.execute(text("UPDATE blocklist SET until = now()"))
        assert blocklist.tick(conn) >= 1
        conn.execute(text("UPDATE schedule SET due_at = now()"))
        assert len(dispatch.dispatch(conn)) == 1


# --- permits ---------------------------------------------------------------------------------------------------------


def test_permits_count_over_all_runners(database: Database) -> None:
    where = {"address internet|192.0.2.1": Rates(3), "network internet|192.0.2.0/24": Rates(4)}
    other = {"address internet|192.0.2.2": Rates(3), "network internet|192.0.2.0/24": Rates(4)}
    with database.begin("kat_system") as conn:
        first = permits.grant(conn, "one", 1, where, 2).permits
        second = permits.grant(conn, "two", 2, where, 5).permits
        assert (len(first), len(second)) == (2, 1)
        assert permits.grant(conn, "two", 2, where, 1).permits == []
        third = permits.grant(conn, "two", 2, other, 5).permits
        assert len(third) == 1  # the network has room for one
        # Nobody gives back what is somebody else's.
        permits.release(conn, "two", [first[0][0]])
        assert permits.grant(conn, "two", 2, where, 1).permits == []
        permits.release(conn, "one", [first[0][0]])
        assert len(permits.grant(conn, "two", 2, where, 5).permits) == 1


def test_permits_at_once_from_many_sides(database: Database) -> None:
    where = {"address internet|192.0.2.1": Rates(5)}
    got: list[int] = []

    def ask(name: str) -> None:
        for _ in range(5):
            with database.begin("kat_system") as conn:
                got.extend(number for number, _ in permits.grant(conn, name, 1, where, 2).permits)

    threads = [threading.Thread(target=ask, args=(str(number),)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(got)) == len(got) == 5


def test_a_permit_is_free_again_after_its_time_and_a_margin(database: Database) -> None:
    where = {"address internet|192.0.2.1": Rates(1)}
    with database.begin("kat_system") as conn:
        ((number, _),) = permits.grant(conn, "one", 1, where, 1).permits
        left = conn.execute(text("SELECT extract(epoch FROM until - clock_timestamp()) FROM permit")).scalar_one()
        assert permits.SECONDS + permits.MARGIN_SECONDS - 5 < left <= permits.SECONDS + permits.MARGIN_SECONDS
        conn.execute(text("UPDATE permit_place SET until = clock_timestamp()"))
        conn.execute(text("UPDATE permit SET until = clock_timestamp()"))
        assert len(permits.grant(conn, "two", 1, where, 1).permits) == 1
        assert permits.renew(conn, "one", [number]) == []


def test_the_rate_gives_each_its_moment(database: Database) -> None:
    where = {"address internet|192.0.2.1": Rates(0, 4.0)}
    with database.begin("kat_system") as conn:
        first = permits.grant(conn, "one", 1, where, 3)
        second = permits.grant(conn, "two", 2, where, 3)
        assert [after for _, after in first.permits] == [0.0, 0.25, 0.5]
        first_of_them, *_ = times = [after for _, after in second.permits]
        assert first_of_them <= 0.75
        assert [at - first_of_them for at in times] == pytest.approx([0.0, 0.25, 0.5])
        while (granted := permits.grant(conn, "one", 1, where, 100)).permits:
            assert granted.permits[-1][1] <= permits.AHEAD_SECONDS + 0.25
        assert granted.wait_seconds >= permits.WAIT_SECONDS


def test_renewing_ends_with_the_scan(conn: Connection, organisation: int) -> None:
    queue.push(conn, [NewTask("scan", organisation, None, "x")])
    (task,) = queue.claim(conn, ["scan"], "one", 1)
    ((number, _),) = permits.grant(conn, "one", task.id, {"address z|192.0.2.1": Rates(1)}, 1).permits
    assert permits.renew(conn, "one", [number]) == [number]
    queue.cancel(conn, [task.id], "piet", "")
    assert permits.renew(conn, "one", [number]) == []


# --- payloads --------------------------------------------------------------------------------------------------------


def test_both_forms_of_a_payload_are_read(conn: Connection, organisation: int) -> None:
    queue.push(conn, [NewTask("scan", organisation, payload={"requested_by": "piet"})])
    conn.execute(
        text('UPDATE task SET payload = \'{"form": 2, "work": {"a": 1}, "requested_by": "piet", "trace": "t"}\'')
    )
    (task,) = queue.claim(conn, ["scan"], "one", 1)
    assert task.payload == {"a": 1, "requested_by": "piet", "trace": "t"}
    with pytest.raises(payload.PayloadFormError, match="form 3"):
        payload.read({"form": 3})


def test_the_new_form_is_written_once_it_is_finalized(
    database: Database, organisation: int, add_asset: object, registry: Registry
) -> None:
    asset = add_asset(Hostname("www.example.org"), 0)  # type: ignore[operator]

    def scanned() -> dict[str, object]:
        with database.begin("kat_system") as conn:
            plan.plan(conn, organisation, [asset], registry)
            sources = list(conn.execute(text("SELECT id FROM schedule WHERE hold = ''")).scalars())
            dispatch.request(conn, organisation, sources, "piet (command line)")
            dispatch.dispatch(conn)
            stored = conn.execute(text("SELECT payload FROM task ORDER BY id DESC LIMIT 1")).scalar_one()
            for task in queue.claim(conn, ["scan"], "one", 9):
                assert task.payload["requested_by"] == "piet (command line)"
                queue.finish(conn, task.id, task.token)
        return dict(stored)

    assert scanned() == {"requested_by": "piet (command line)"}
    with database.begin("kat_owner") as conn:
        forms.finalize(conn, forms.Finalized("0.4.0", "piet", datetime.now(UTC)))
    new = scanned()
    assert (new["form"], new["work"], new["requested_by"]) == (2, {}, "piet (command line)")
    assert str(new["trace"]).startswith("00-")
