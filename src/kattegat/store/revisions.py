"""The revisions of our schema, those of a newer release included, and the plan from one to another.

A revision that this release has no file of is known from `lifecycle.plan`: Alembic gets it as a script whose
`downgrade()` runs the stored plan, so that its `current`, `history`, `show` and `downgrade` work as with the file.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import ResolutionError
from alembic.util import CommandError
from msgspec import Struct
from sqlalchemy import Connection

from kattegat.errors import KattegatError, UsageError
from kattegat.schema import operations, scratch, snapshot, steps, stored
from kattegat.schema.operations import NotReversibleError
from kattegat.schema.shape import Snapshot, differences
from kattegat.schema.steps import Plan
from kattegat.schema.stored import NoStoredPlanError, PlanKey, SchemaDriftError, Stored
from kattegat.store import migrate, release
from kattegat.store.database import Database

PLACE = "table lifecycle.plan of the database"
BASE = (
    "Before the first revision there is no install, and nothing to go back to: drop the database, or remove the data"
    " directory, to be rid of it."
)


class NoSuchRevisionError(UsageError):
    """A revision that neither this release nor the database knows."""

    def __init__(self, revision: str, known: Collection[str]) -> None:
        self.revision = revision
        self.known = tuple(known)
        super().__init__(f"There is no revision {revision}; there are: {', '.join(self.known) or 'none'}.")


class WrongDirectionError(UsageError):
    """A revision that lies the other way."""


class Known(Struct, frozen=True):
    """A revision. `release` is the one that stored its way back, `file` whether this release has it itself, `stored`
    whether the database has its way back, `back` whether it is taken back now, its things parked."""

    revision: str
    follows: str | None
    title: str
    release: str | None
    file: bool
    stored: bool
    back: bool
    current: bool


# -- what Alembic is told -------------------------------------------------------------------------------------------


class Directory(ScriptDirectory):
    """Alembic's scripts, with those that are stored; an unknown revision is answered with those there are."""

    _asked = False

    @contextmanager
    def _catch_revision_errors(self, *args: Any, **kw: Any) -> Iterator[None]:
        try:
            with super()._catch_revision_errors(*args, **kw):
                yield
        except CommandError as problem:
            cause = problem.__cause__
            if isinstance(cause, ResolutionError):
                raise CommandError(str(NoSuchRevisionError(str(cause.argument), names(self)))) from cause
            raise

    def get_revisions(self, id_: Any) -> tuple[Script, ...]:
        """As Alembic's. `show` looks here without the environment ever being run, so the database is asked here too."""
        try:
            return super().get_revisions(id_)
        except CommandError:
            if self._asked:
                raise
            self._asked = True
            offer(self, _of_install())
            return super().get_revisions(id_)


def adopt(script: ScriptDirectory) -> None:
    """Makes a directory that Alembic has made one of ours."""
    if not isinstance(script, Directory):
        script.__class__ = Directory


def offer(script: ScriptDirectory, rows: Sequence[Stored]) -> None:
    """Makes the stored revisions known to Alembic that it has no file of."""
    adopt(script)
    have = set(names(script))
    for row in rows:
        if row.revision not in have and (row.follows is None or row.follows in have):
            script.revision_map.add_revision(_script(row))
            have.add(row.revision)


def names(script: ScriptDirectory) -> list[str]:
    """The revisions that a directory knows, oldest first."""
    found = script.revision_map.iterate_revisions("heads", "base", inclusive=True, assert_relative_length=False)
    return [one.revision for one in found][::-1]


def _script(row: Stored) -> Script:
    module = ModuleType(f"stored_{row.revision}")
    try:
        way = "\n".join(f"- {step.words}" for step in row.plan().steps)
    except steps.UnknownPlanError as problem:
        way = str(problem)
    module.__doc__ = (
        f"stored by Kattegat {row.release}{', taken back' if row.back else ''}\n\nThe way back to"
        f" {row.follows or 'nothing'}:\n{way}\n\nSHA-256 {row.sha256}, signed with key {row.key_id or '(none)'}"
    )

    def upgrade() -> None:
        raise NoStoredPlanError(row.revision)

    def downgrade() -> None:
        operations.way_back(row.revision)

    module.__dict__.update(
        revision=row.revision, down_revision=row.follows, upgrade=upgrade, downgrade=downgrade, branch_labels=None
    )
    return Script(module, row.revision, PLACE)


def _of_install() -> list[Stored]:
    """What is stored in the database of this environment's install; nothing if there is none, or it does not answer."""
    from kattegat.settings import load
    from kattegat.store import server
    from kattegat.store.database import open_database

    try:
        chosen = load()
        if not chosen.database_url and server.status(chosen.data_dir).state == server.State.ABSENT:
            return []
        database = open_database(chosen)
        try:
            with database.engine("kat_owner").connect() as connection:
                return stored.everything(connection)
        finally:
            database.close()
    except KattegatError:
        return []


# -- what there is --------------------------------------------------------------------------------------------------


def files(config: Config | None = None) -> dict[str, Script]:
    """The revisions that this release has files of, oldest first."""
    script = ScriptDirectory.from_config(config or migrate.config())
    return {one.revision: one for one in reversed(list(script.walk_revisions()))}


def listing(connection: Connection, config: Config | None = None) -> list[Known]:
    """Every revision that this release or the database knows, oldest first."""
    own = files(config)
    rows = {row.revision: row for row in stored.everything(connection)}
    at = migrate.current(connection)
    found = []
    for revision in [*own, *(revision for revision in rows if revision not in own)]:
        row, script = rows.get(revision), own.get(revision)
        found.append(
            Known(
                revision=revision,
                follows=row.follows if row is not None else operations.linear(revision, own[revision].down_revision),
                title=script.doc if script is not None else "",
                release=row.release if row is not None else None,
                file=script is not None,
                stored=row is not None,
                back=row is not None and row.back,
                current=revision == at,
            )
        )
    return found


def path(connection: Connection, to: str, config: Config | None = None) -> tuple[list[str], bool]:
    """The revisions between the current one and `to`, in the order in which they are undone or done, and whether the
    way goes up. Raises `NoSuchRevisionError`, or `NotReversibleError` for `base`."""
    known = {one.revision: one for one in listing(connection, config)}
    if to == "base":
        raise NotReversibleError(BASE)
    if to == "head":
        to = list(files(config))[-1]
    if to not in known:
        raise NoSuchRevisionError(to, known)
    at = migrate.current(connection)
    if at is None or at not in known:
        raise NoSuchRevisionError(at or "(none)", known)
    down = _walk(known, at, to)
    if down is not None:
        return down, False
    up = _walk(known, to, at)
    if up is not None:
        return up[::-1], True
    raise WrongDirectionError(f"No way leads from revision {at} to {to}: they are not on one line.")


def _walk(known: dict[str, Known], high: str, low: str) -> list[str] | None:
    found: list[str] = []
    at: str | None = high
    while at is not None and at in known and at not in found:
        if at == low:
            return found
        found.append(at)
        at = known[at].follows
    return None


# -- the plans ------------------------------------------------------------------------------------------------------


def way_back(
    database: Database,
    to: str,
    *,
    key: PlanKey | None,
    accept: Collection[str] = frozenset(),
    admin: str | None = None,
    config: Config | None = None,
) -> Plan:
    """The plan from the current revision back to `to`: the stored ones, verified, one after the other.

    `accept` are SHA-256 sums of plans to take although `key` has not signed them. `admin` is the conninfo of a login
    that may create databases: with it, shapes stored on another version of PostgreSQL are compared as this one prints
    them. Reads only. Raises `NoSuchRevisionError`, `WrongDirectionError`, `NoStoredPlanError`, `UntrustedPlanError`,
    `SchemaDriftError` or `steps.UnknownPlanError`.
    """
    with database.engine("kat_owner").connect() as connection:
        way, up = path(connection, to, config)
        if up:
            raise WrongDirectionError(f"Revision {to} is newer than that of the database: that way is kat upgrade.")
        rows = {row.revision: row for row in stored.everything(connection)}
        have = snapshot.read(connection)
    for revision in way:
        if revision not in rows:
            raise NoStoredPlanError(revision)
        stored.verify(rows[revision], key, accept)
    if not way:
        return Plan(source=have.fingerprint(), target=have.fingerprint())
    _check_start(way[0], have, rows[way[0]].shape_after(), admin)
    for newer, older in itertools.pairwise(way):
        if rows[newer].before != rows[older].after:
            raise SchemaDriftError(older, differences(rows[newer].shape_before(), rows[older].shape_after()))
    return joined([rows[revision].plan() for revision in way])


def way_up(
    database: Database,
    to: str,
    *,
    admin: str,
    key: PlanKey,
    accept: Collection[str] = frozenset(),
    config: Config | None = None,
) -> Plan:
    """The plan from the current revision up to `to`, with the SQL that will run, and nothing of it run.

    A revision that was taken back comes back by the reverse of its stored plan; for another, its `upgrade()` is
    rendered to SQL in a scratch database (`admin` is the conninfo of a login that may make one), where the way back is
    planned too. Reads only. Raises what `way_back` raises, `scratch.ScratchError`, and what the planner raises.
    """
    from kattegat.store import rendering

    mine = release.this().release
    with database.engine("kat_owner").connect() as connection:
        way, up = path(connection, to, config)
        if way and not up:
            raise WrongDirectionError(f"Revision {to} is older than that of the database: that way is kat downgrade.")
        rows = {row.revision: row for row in stored.everything(connection)}
        at = migrate.current(connection)
        live = rendering.live(connection)
        have = live.shape
    own = files(config)
    for revision in way:
        if revision not in own:
            raise NoSuchRevisionError(revision, own)
        if revision in rows and rows[revision].back:
            stored.verify(rows[revision], key, accept)
    if not way or at is None:
        return Plan(source=have.fingerprint(), target=have.fingerprint())
    plans: list[Plan] = []
    with rendering.workshop(admin, at, live, config) as shop:
        drift = differences(have, shop.shape())
        if drift:
            raise SchemaDriftError(at, drift)
        for revision in way:
            row = rows.get(revision)
            rendered = shop.render(own[revision], key, mine)
            if row is None or not row.back:
                plans.append(rendered)
                continue
            changed = differences(shop.shape(), row.shape_after())
            if changed:
                raise SchemaDriftError(revision, changed)
            plans.append(row.plan().reverse())
    return joined(plans)


def joined(plans: Sequence[Plan]) -> Plan:
    """Plans one after the other as one."""
    return Plan(
        source=plans[0].source,
        target=plans[-1].target,
        steps=tuple(step for plan in plans for step in plan.steps),
        next_id=max(plan.next_id for plan in plans),
        format=plans[0].format,
    )


def _check_start(revision: str, have: Snapshot, wanted: Snapshot, admin: str | None) -> None:
    drift = differences(have, wanted)
    if drift and admin is not None:
        # Another version of the server may print an expression in other words.
        drift = differences(have, scratch.normalise(admin, wanted))
    if drift:
        raise SchemaDriftError(revision, drift)
