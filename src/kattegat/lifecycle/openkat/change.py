"""A whole install to another release: every part, or none is let in again.

Each part's database has its own ledger, and in it a note of the change that it belongs to. Doors are closed before the
first step and opened only by `open_all`, when every part of the change is where it should be: so an install is never in
use between two releases, wherever a change was interrupted. Going on is typing the same command again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

import msgspec
from msgspec import Struct, field
from sqlalchemy import Connection

from kattegat.errors import KattegatError
from kattegat.lifecycle.openkat import doors, facts, hops, place, recognise
from kattegat.lifecycle.openkat.doors import Door
from kattegat.lifecycle.openkat.environment import Encryption
from kattegat.lifecycle.openkat.facts import Part
from kattegat.lifecycle.openkat.hops import Shapes
from kattegat.lifecycle.openkat.place import Place
from kattegat.lifecycle.openkat.recognise import At
from kattegat.lifecycle.openkat.steps import scheduler, settings
from kattegat.schema import ledger, runs
from kattegat.schema.journal import Progress
from kattegat.schema.steps import Plan

FACT = "openkat-change"

_OLD_IDS = r"SELECT count(*) FROM public.schedules WHERE scheduler_id ~ '^(boefje|normalizer|report)-'"
_NEW_IDS = "SELECT count(*) FROM public.schedules WHERE scheduler_id IN ('boefje', 'normalizer', 'report')"
_PARKED = "SELECT kind, was FROM parked.entry WHERE state = 'parked' AND kind IN ('column', 'table') ORDER BY was"
_ASIDE = """
    SELECT table_name, column_name, reason, count(*) FROM parked.quarantine WHERE state IN ('held', 'conflict')
    GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""

Tell = Callable[[Part, str], None]
Report = Callable[[Part, Progress], None]


class Change(Struct, frozen=True):
    """The note of a change in one part's database. `start` is the revision it had, `state` is running or done."""

    id: str
    target: str
    parts: tuple[Part, ...]
    start: str
    state: str = "running"


class Aside(Struct, frozen=True):
    """Rows, or values of a column, that the release in force can't hold, and why."""

    table: str
    column: str | None
    reason: str
    rows: int


class Kept(Struct, frozen=True):
    """What is kept in a database out of the sight of its release."""

    parked: tuple[str, ...] = ()
    aside: tuple[Aside, ...] = ()


class Looked(Struct, frozen=True):
    """A part as it was found. `differences` is what its schema has otherwise than its revision should."""

    part: Part
    database: str
    at: At
    door: Door
    differences: tuple[str, ...] = ()
    kept: Kept = field(default_factory=Kept)
    run: int | None = None  # of the ledger, begun and not ended
    change: Change | None = None
    remarks: tuple[str, ...] = ()


class Install(Struct, frozen=True):
    """The databases of an install that a command has been given."""

    places: dict[Part, Place]
    shapes: dict[Part, Shapes]
    encryption: Encryption | None = None


class UnderWayError(KattegatError):
    """Another change is under way."""

    def __init__(self, part: Part, change: Change) -> None:
        self.part = part
        self.change = change
        super().__init__(
            f"A change of {', '.join(change.parts)} to OpenKAT {change.target} is under way in the database of "
            f"{part}: type the same command again to go on with it, or `kat openkat cancel` to go back."
        )


class NotTogetherError(KattegatError):
    """The doors stay closed: the parts are not of one release, or a change has not ended."""


def look(install: Install, part: Part) -> Looked:
    """A part as it is."""
    where = install.places[part]
    with closing(where.connect_inside()) as login:
        door = doors.look(where, login)
    with where.session() as connection, connection.begin():
        at = place.recorded(connection, part)
        found: list[str] = []
        if at.known and at.revision:
            found = hops.compared(hops.read(connection), part, at.revision, install.shapes[part])
        known = ledger.present(connection)
        run = runs.open_run(connection) if known else None
        return Looked(
            part,
            str(where.dsn),
            at,
            door,
            tuple(found),
            kept(connection) if known else Kept(),
            run.id if run else None,
            noted(connection) if known else None,
            tuple(_remarks(connection, part, at)),
        )


def _remarks(connection: Connection, part: Part, at: At) -> list[str]:
    if part != "scheduler" or at.revision not in facts.chain("scheduler"):
        return []
    # In the middle of a change the table may be out of its place while the version is still the former one.
    if connection.exec_driver_sql("SELECT to_regclass('public.schedules') IS NULL").scalar_one():
        return []
    order = facts.chain("scheduler")
    if order.index(at.revision) >= order.index("0009"):
        count = connection.exec_driver_sql(_OLD_IDS).scalar_one()
        if count:
            return [
                f"{count} schedules have scheduler ids of before 1.19 (boefje-<organisation>), which this release "
                "never picks up: `kat openkat repair` gives them their present form."
            ]
    elif order.index(at.revision) >= order.index("0008"):
        count = connection.exec_driver_sql(_NEW_IDS).scalar_one()
        if count:
            return [f"{count} schedules have scheduler ids of 1.19 and later, which this release never picks up."]
    return []


def kept(connection: Connection) -> Kept:
    """What a part's ledger keeps."""
    parked = tuple(f"{kind} {was.removeprefix('public.')}" for kind, was in connection.exec_driver_sql(_PARKED))
    aside = tuple(Aside(_plain(row[0]), row[1], row[2], row[3]) for row in connection.exec_driver_sql(_ASIDE))
    return Kept(parked, aside)


def _plain(table: str) -> str:
    return table.replace('"', "").removeprefix("public.")


def noted(connection: Connection) -> Change | None:
    """The note of the change that this database belongs to."""
    row = connection.exec_driver_sql("SELECT value::text FROM lifecycle.fact WHERE name = %s", (FACT,)).scalar()
    return msgspec.json.decode(row, type=Change) if row is not None else None


def _note(connection: Connection, change: Change) -> None:
    connection.exec_driver_sql(
        "INSERT INTO lifecycle.fact (name, value) VALUES (%s, %s::jsonb)"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value, at = now()",
        (FACT, msgspec.json.encode(change).decode()),
    )


def goals(install: Install, release: str) -> dict[Part, str]:
    """The revision of each part at a release; raises `UnknownReleaseError` or `NoSnapshotError`."""
    return {part: facts.revision_of(part, release) for part in install.places}


def plans(install: Install, release: str) -> dict[Part, list[tuple[str, str, Plan]]]:
    """What would be done to each part; changes nothing. Raises what stands in the way."""
    found: dict[Part, list[tuple[str, str, Plan]]] = {}
    for part, goal in goals(install, release).items():
        with install.places[part].session() as connection, connection.begin():
            at = place.recorded(connection, part)
            if not at.known or not at.revision:
                raise hops.NowhereError(part, at.words)
            hops.check(connection, part, at.revision, install.shapes[part])
            way = recognise.path(part, at.revision, goal)
            if part == "katalogus" and {"cd34fdfafdaf", "197672984df0"} <= set(way):
                settings.check(connection, install.encryption)
            found[part] = hops.preview(connection, part, at.revision, goal, install.shapes[part])
    return found


def close_all(install: Install, *, terminate: bool = False) -> list[Door]:
    """Closes every door; raises `SessionsLeftError` for the first with somebody inside (the doors stay closed)."""
    found = []
    for where in install.places.values():
        place.prepare(where)
        with closing(where.connect_inside()) as login:
            found.append(doors.close(where, login, terminate=terminate))
    return found


def go(
    install: Install,
    release: str,
    *,
    terminate: bool = False,
    before: Callable[[], None] = lambda: None,
    tell: Tell = lambda _part, _said: None,
    report: Report = lambda _part, _progress: None,
) -> dict[Part, list[str]]:
    """Takes every part to a release, or on with a change to it that was interrupted; gives the revisions passed.

    The doors are closed first and stay closed. `before` is called behind them, before anything is changed, unless this
    is the rest of a change that was interrupted. Raises what stands in the way, each with what to do.
    """
    goal = goals(install, release)
    changes = _changes(install)
    running = {part: change for part, change in changes.items() if change and change.state == "running"}
    for part, change in running.items():
        missing = [one for one in change.parts if one not in install.places]
        if change.target != release or missing:
            raise UnderWayError(part, change)
    if not running:
        plans(install, release)
    close_all(install, terminate=terminate)
    if not running:
        before()
        _begin(install, release)
    passed: dict[Part, list[str]] = {}
    for part, where in install.places.items():
        tell(part, f"to {goal[part]}")
        passed[part] = _part(install, where, goal[part], release, lambda one, p=part: report(p, one))  # type: ignore[misc]
    _end(install, goal)
    return passed


def _changes(install: Install) -> dict[Part, Change | None]:
    found: dict[Part, Change | None] = {}
    for part, where in install.places.items():
        with where.session() as connection, connection.begin():
            found[part] = noted(connection) if ledger.present(connection) else None
    return found


def _begin(install: Install, release: str) -> None:
    number = secrets.token_hex(8)
    parts = tuple(install.places)
    for part, where in install.places.items():
        with where.session() as connection, connection.begin():
            at = place.recorded(connection, part)
            _note(connection, Change(number, release, parts, at.revision))


def _part(install: Install, where: Place, goal: str, release: str, report: Callable[[Progress], None]) -> list[str]:
    shapes = install.shapes[where.part]
    _rest(install, where, report)
    passed: list[str] = []
    while True:
        with where.session() as connection:
            with connection.begin():
                change = noted(connection)
            to = hops.hop(
                connection,
                where,
                goal,
                shapes,
                change=change.id if change else "",
                encryption=install.encryption,
                releases=(None, release),
                report=report,
            )
        if to is None:
            return passed
        passed.append(to)


def _rest(install: Install, where: Place, report: Callable[[Progress], None]) -> None:
    """Finishes a hop that was interrupted, in the direction that it had."""
    with where.session() as connection:
        with connection.begin():
            run = runs.open_run(connection)
        if run is not None:
            hops.finish(connection, where, run.id, install.shapes[where.part], report=report)


def _end(install: Install, goal: Mapping[Part, str]) -> None:
    for part, where in install.places.items():
        with where.session() as connection, connection.begin():
            hops.check(connection, part, goal[part], install.shapes[part])
    for where in install.places.values():
        with where.session() as connection, connection.begin():
            change = noted(connection)
            if change is not None:
                _note(connection, msgspec.structs.replace(change, state="done"))


def cancel(install: Install, *, report: Report = lambda _part, _progress: None) -> dict[Part, str]:
    """Takes every part back to where it was when the change began; gives those revisions. Doors stay closed."""
    changes = {part: change for part, change in _changes(install).items() if change}
    if not changes:
        raise NotTogetherError("No change has been begun in these databases: there is nothing to cancel.")
    for change in changes.values():
        missing = [part for part in change.parts if part not in install.places]
        if missing:
            raise NotTogetherError(f"The change is one of {', '.join(missing)} too: give their DSNs as well.")
    back: dict[Part, str] = {}
    for part, change in changes.items():
        where = install.places[part]

        def say(one: Any, p: Part = part) -> None:
            report(p, one)

        with where.session() as connection:
            with connection.begin():
                run = runs.open_run(connection)
            if run is not None:
                hops.turn(connection, run.id, report=say)
        _rest(install, where, say)
        _part(install, where, change.start, change.target, say)
        back[part] = change.start
    for where in install.places.values():
        with where.session() as connection, connection.begin():
            connection.exec_driver_sql("DELETE FROM lifecycle.fact WHERE name = %s", (FACT,))
    return back


def repair(install: Install) -> int:
    """Gives schedules and queued tasks that have a scheduler id of before 1.19 the one that the scheduler reads since;
    gives how many schedules. For an install that went up by itself."""
    where = install.places.get("scheduler")
    if where is None:
        raise NotTogetherError("Only the scheduler's database has scheduler ids: give --scheduler or --env-file.")
    place.prepare(where)
    with where.session() as connection, connection.begin():
        at = place.recorded(connection, "scheduler")
        order = facts.chain("scheduler")
        if at.revision not in order or order.index(at.revision) < order.index("0009"):
            raise NotTogetherError(f"The scheduler is at {at.words}: ids have an organisation in them there.")
        count = int(connection.exec_driver_sql(_OLD_IDS).scalar_one())
        for statement in scheduler.REPAIR:
            connection.exec_driver_sql(statement.replace("%", "%%"))
    return count


def open_all(install: Install, *, force: bool = False) -> list[Part]:
    """Opens the doors when every part is where it should be; gives those that were closed. Raises `NotTogetherError`.

    `force` opens them all the same, but never with a step half done.
    """
    found = [look(install, part) for part in install.places]
    for one in found:
        if one.run is not None:
            raise NotTogetherError(
                f"A step of the change of {one.part} has not ended: go on with the change, or `kat openkat cancel`."
            )
        change = one.change
        if change and change.state == "running" and not force:
            raise NotTogetherError(
                f"The change to OpenKAT {change.target} has not ended in the database of {one.part}: type the same "
                "command again to go on with it, or `kat openkat cancel` to go back."
            )
        missing = [part for part in (change.parts if change else ()) if part not in install.places]
        if missing and not force:
            raise NotTogetherError(f"The change was one of {', '.join(missing)} too: give their DSNs as well.")
    verdict = recognise.verdict([one.at for one in found])
    if verdict.state != "one" and not force:
        raise NotTogetherError(f"The doors stay closed: {verdict.words.rstrip('.')}; --force opens them all the same.")
    opened: list[Part] = []
    for part, where in install.places.items():
        with closing(where.connect_inside()) as login:
            if doors.open_(where, login):
                opened.append(part)
        with where.session() as connection, connection.begin():
            if ledger.present(connection):
                connection.exec_driver_sql("DELETE FROM lifecycle.fact WHERE name = %s", (FACT,))
    return opened
