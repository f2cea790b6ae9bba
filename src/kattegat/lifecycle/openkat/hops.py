"""One part's database from a revision to its neighbour: planned, run by the journal, verified; and back the same way.

Each hop is a run in the ledger of that database. A way back over a hop that was gone before is that very plan reversed,
so the runs that are done tell, like a thread through a maze, which hops have still to be undone.
"""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection

from kattegat.errors import KattegatError
from kattegat.lifecycle.openkat import facts, place, recognise, steps
from kattegat.lifecycle.openkat.environment import Encryption
from kattegat.lifecycle.openkat.facts import Part
from kattegat.lifecycle.openkat.steps import rocky, settings
from kattegat.schema import journal, ledger, planner, runs, scratch, snapshot
from kattegat.schema.journal import Report
from kattegat.schema.ledger import Entry
from kattegat.schema.scratch import ScratchError
from kattegat.schema.shape import Snapshot, differences
from kattegat.schema.steps import Plan, Step

KIND = "openkat"

_DONE = (
    "SELECT id, from_revision, to_revision, result FROM lifecycle.run WHERE kind = %s AND state = 'done' ORDER BY id"
)
_ESTIMATES = """
    SELECT 'public.' || relname, reltuples::bigint FROM pg_catalog.pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND reltuples > 0
"""
_LITERAL = r"\s*(E?'(?:[^'\\]|''|\\.)*')"
_NOTE = re.compile(rf"parked\.note\((\d+),{_LITERAL},{_LITERAL},{_LITERAL},{_LITERAL}\)|parked\.returned\((\d+)\)")


class SchemaDiffersError(KattegatError):
    """A database whose schema is not its revision's; `differences` has one line each."""

    def __init__(self, part: Part, revision: str, found: Iterable[str]) -> None:
        self.part = part
        self.revision = revision
        self.differences = tuple(found)
        first = "; ".join(self.differences[:5])
        more = f"; and {len(self.differences) - 5} more" if len(self.differences) > 5 else ""
        super().__init__(
            f"The schema of {part} is not that of revision {revision} ({first}{more}): nothing is changed over what "
            "is not understood; undo those differences, or make a catalogue of this release with `kat openkat "
            "snapshot`."
        )


class NowhereError(KattegatError):
    """A database at a revision that nobody knows the way from."""

    def __init__(self, part: Part, words: str) -> None:
        self.part = part
        super().__init__(
            f"The database of {part} is at {words}: there is no way from there; `kat openkat status` says what would "
            "mend it."
        )


class UnparkFirstError(KattegatError):
    """OpenKAT's own migrations have gone up since a change of ours: what that has kept comes first."""

    def __init__(self, part: Part, last: str, at: str) -> None:
        self.part = part
        super().__init__(
            f"The database of {part} was left at {last} and is at {at} now, so OpenKAT has migrated it by itself: put "
            "back what was kept with `kat openkat unpark`, then type the same command again."
        )


class Done(Struct, frozen=True):
    """A hop that has been gone and not gone back."""

    run: int
    source: str
    target: str


class Shapes:
    """The schemas of revisions. The facts print as the servers do that are known; where one prints otherwise, they are
    built in a scratch database there and read again, if `admin` may make one."""

    def __init__(self, admin: str | None, folder: Path | None = None) -> None:
        self._admin = admin
        self._folder = folder
        self._known: dict[tuple[Part, str], Snapshot] = {}
        self._builds = False

    def build(self) -> bool:
        """From now on the facts are built on the server; False when that is so already, or can't be done."""
        if self._builds or self._admin is None:
            return False
        self._builds = True
        self._known.clear()
        return True

    def of(self, part: Part, revision: str) -> Snapshot:
        """The schema of a part at a revision, without owners and rights."""
        key = (part, revision)
        if key not in self._known:
            told = bare(facts.shape(part, revision, self._folder))
            if self._builds and self._admin is not None:
                try:
                    told = bare(scratch.normalise(self._admin, told))
                except ScratchError:
                    self._admin = None
            self._known[key] = told
        return self._known[key]


def bare(shape: Snapshot) -> Snapshot:
    """The schema without owners and rights, which an install decides for itself."""
    plain: dict[str, Any] = {"owner": "", "grants": {}}
    return replace(
        shape,
        tables={name: replace(one, column_grants={}, options=(), **plain) for name, one in shape.tables.items()},
        sequences={name: replace(one, **plain) for name, one in shape.sequences.items()},
        enums={name: replace(one, owner="") for name, one in shape.enums.items()},
        domains={name: replace(one, owner="") for name, one in shape.domains.items()},
        views={name: replace(one, **plain) for name, one in shape.views.items()},
        functions={name: replace(one, **plain) for name, one in shape.functions.items()},
        extensions=(),
        other=tuple(one for one in shape.other if not one.startswith("the rights ")),
    )


def read(connection: Connection) -> Snapshot:
    """The schema that a part's database really has, without owners and rights."""
    return bare(snapshot.read(connection))


def check(connection: Connection, part: Part, revision: str, shapes: Shapes) -> Snapshot:
    """The schema as it is; raises `SchemaDiffersError` when it is not the revision's."""
    have = read(connection)
    found = compared(have, part, revision, shapes)
    if found:
        raise SchemaDiffersError(part, revision, found)
    return have


def compared(have: Snapshot, part: Part, revision: str, shapes: Shapes) -> list[str]:
    """What a schema has otherwise than its revision should."""
    found = differences(have, shapes.of(part, revision))
    if found and shapes.build():
        found = differences(have, shapes.of(part, revision))
    return found


def thread(connection: Connection) -> list[Done]:
    """The hops to go back over, the last one last; none where there is no ledger."""
    if not ledger.present(connection):
        return []
    found: list[Done] = []
    for run, source, target, result in connection.exec_driver_sql(_DONE, (KIND,)):
        if found and (result or {}).get("undoes") == found[-1].run:
            found.pop()
        else:
            found.append(Done(run, source, target))
    return found


def _follow(part: Part, way: list[Done], at: str) -> None:
    if way and way[-1].target != at:
        raise UnparkFirstError(part, way[-1].target, at)


def next_hop(at: str, goal: str, part: Part) -> str | None:
    """The revision to go to next, or None at the goal."""
    way = recognise.path(part, at, goal)
    return way[1] if len(way) > 1 else None


def draw(
    part: Part,
    at: str,
    to: str,
    have: Snapshot,
    shapes: Shapes,
    *,
    parked: Iterable[Entry] = (),
    rows: Mapping[str, int] | None = None,
    first_id: int = 1,
) -> Plan:
    """The plan of one hop that has not been gone before, with the step that sets the part's own version at its end."""
    want = shapes.of(part, to)
    plan = planner.plan(
        have,
        want,
        parked=list(parked),
        hints=steps.hints(part, at, to, have, want),
        rows=rows,
        first_id=first_id,
    )
    return replace(plan, steps=(*plan.steps, _version(part, at, to)))


def _version(part: Part, at: str, to: str) -> Step:
    if part == "rocky":
        release = recognise.releases_at("rocky", to)
        do, undo = rocky.history(at, to, [name for name in release if name != "main"][-1])
        words, target = f"the migrations recorded are those of Rocky {to}", "public.django_migrations"
    else:
        one, other = (
            f"UPDATE public.alembic_version SET version_num = '{new}' WHERE version_num = '{old}'"  # noqa: S608 - facts
            for old, new in ((at, to), (to, at))
        )
        do, undo = (one,), (other,)
        words, target = f"the revision recorded is {to}", "public.alembic_version"
    return Step(
        kind="set revision",
        target=target,
        words=words,
        undo_words=words.replace(to, at),
        do=do,
        undo=undo,
        lock="SHARE ROW EXCLUSIVE",
        tables=(target,),
        seconds=0.005,
        undo_seconds=0.005,
    )


def preview(connection: Connection, part: Part, at: str, goal: str, shapes: Shapes) -> list[tuple[str, str, Plan]]:
    """Every hop from a revision to another as it will be planned, without changing anything.

    Exact but for estimates and the conversion of settings, which is worked out when its hop is about to run.
    """
    have, way = read(connection), thread(connection)
    _follow(part, way, at)
    parked = ledger.entries(connection) if ledger.present(connection) else []
    first = ledger.next_id(connection) if ledger.present(connection) else 1
    rows = estimates(connection)
    found = []
    while (to := next_hop(at, goal, part)) is not None:
        if way and (way[-1].source, way[-1].target) == (to, at):
            plan = runs.load(connection, way.pop().run).plan().reverse()
        else:
            plan = draw(part, at, to, have, shapes, parked=parked, rows=rows, first_id=first)
        first = max(first, plan.next_id)
        parked = _parked_after(parked, plan)
        found.append((at, to, plan))
        at, have = to, shapes.of(part, to)
    return found


def estimates(connection: Connection) -> dict[str, int]:
    """Rows per table as the server thinks; a table that it knows nothing of is missing."""
    return {str(name): int(count) for name, count in connection.exec_driver_sql(_ESTIMATES)}


def hop(
    connection: Connection,
    where: place.Place,
    goal: str,
    shapes: Shapes,
    *,
    change: str,
    encryption: Encryption | None = None,
    releases: tuple[str | None, str | None] = (None, None),
    report: Report = lambda _: None,
) -> str | None:
    """Goes the next hop towards a revision; gives the revision arrived at, or None when it is the goal already.

    `connection` is outside a transaction and is spent afterwards: close it. Raises what the planner and the journal
    raise, and `SchemaDiffersError`.
    """
    part = where.part
    with connection.begin():
        found = place.recorded(connection, part)
        if not found.known or not found.revision:
            raise NowhereError(part, found.words)
        at = found.revision
        to = next_hop(at, goal, part)
        if to is None:
            return None
        have = check(connection, part, at, shapes)
        way = thread(connection)
        _follow(part, way, at)
        undoes = None
        if way and (way[-1].source, way[-1].target) == (to, at):
            undoes = way[-1].run
            plan = runs.load(connection, undoes).plan().reverse()
        else:
            plan = draw(
                part,
                at,
                to,
                have,
                shapes,
                parked=ledger.entries(connection),
                rows=estimates(connection),
                first_id=ledger.next_id(connection),
            )
        if settings.marked(plan):
            plan = settings.settle(plan, connection, encryption)
        run_id = runs.begin(
            connection,
            KIND,
            plan,
            by_whom=_who(),
            host=socket.gethostname(),
            releases=releases,
            revisions=(at, to),
            result={"change": change, "undoes": undoes},
        )
        ledger.reserve(connection, max(plan.next_id, ledger.next_id(connection)))
    finish(connection, where, run_id, shapes, report=report)
    return to


def finish(
    connection: Connection,
    where: place.Place,
    run_id: int,
    shapes: Shapes,
    *,
    report: Report = lambda _: None,
) -> None:
    """Does what is left of a hop, or of undoing it, and ends its run once the schema is what it should be."""
    journal.go(connection, run_id, report=report)
    with connection.begin():
        run = runs.load(connection, run_id)
        back = run.state == "cancelling"
        expected = run.from_revision if back else run.to_revision
        found = place.recorded(connection, where.part)
        if found.revision != expected:
            raise NowhereError(where.part, f"{found.words}, though its change should have ended at {expected}")
        check(connection, where.part, str(expected), shapes)
        runs.end(connection, run_id)


def turn(connection: Connection, run_id: int, *, report: Callable[..., None] = lambda _: None) -> None:
    """Undoes what is done of a hop that has not ended."""
    journal.cancel(connection, run_id, report=report)


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"


# -- what will be parked after a plan ---------------------------------------------------------------------------------


def _parked_after(parked: Iterable[Entry], plan: Plan) -> list[Entry]:
    """The entries of the ledger as they will be once a plan has run, told from its SQL."""
    found = {entry.id: entry for entry in parked}
    for step in plan.steps:
        for sql in step.do:
            for match in _NOTE.finditer(sql):
                if match[6]:
                    found.pop(int(match[6]), None)
                else:
                    kind, was, now_is, shape = (_text(match[number]) for number in (2, 3, 4, 5))
                    number = int(match[1])
                    found[number] = Entry(number, kind, was, now_is, msgspec.json.decode(shape))
    return [found[number] for number in sorted(found)]


def _text(literal: str) -> str:
    escaped = literal.startswith("E")
    text = literal[2:-1] if escaped else literal[1:-1]
    text = text.replace("''", "'")
    return text.replace("\\\\", "\\") if escaped else text
