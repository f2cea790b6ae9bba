"""The way from the release that a database is for to the one that is wanted."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from alembic.config import Config
from msgspec import Struct
from sqlalchemy import Connection

from kattegat.errors import KattegatError, UsageError
from kattegat.lifecycle import releases
from kattegat.lifecycle.backup import reach
from kattegat.lifecycle.releases import Target
from kattegat.lifecycle.situation import Kind
from kattegat.schema import stored
from kattegat.schema.steps import Plan, UnknownPlanError
from kattegat.schema.stored import PlanKey
from kattegat.settings import Settings
from kattegat.store import forms, migrate, revisions
from kattegat.store import release as this_code
from kattegat.store.database import Database
from kattegat.store.revisions import Known


class SameError(UsageError):
    """The database is where it should go."""


class WrongDirectionError(UsageError):
    """An upgrade that would go back, or a downgrade that would go forth."""


class FormatError(KattegatError):
    """A stored plan of a format that only a newer release reads."""


class FinalizedError(KattegatError):
    """What is stored needs a newer release than the target."""


class BrokenChainError(KattegatError):
    """The database is at a revision that nobody knows."""


class Ends(Struct, frozen=True):
    """Where the database is, where it should go, and the revisions known here, oldest first."""

    start: Target
    end: Target
    order: tuple[str, ...]


class Way(Struct, frozen=True):
    """What is to be done."""

    kind: Kind
    start: Target
    end: Target
    plan: Plan


def ends(connection: Connection, kind: Kind, wanted: str | None, *, config: Config | None = None) -> Ends:
    """Both ends of `kat upgrade` or `kat downgrade`; `wanted` is a release or revision, None for the usual one.

    Raises `UnknownTargetError`, `NothingOlderError`, `SameError`, `WrongDirectionError`, `BrokenChainError` or
    `FinalizedError`.
    """
    known = revisions.listing(connection, config)
    order = [entry.revision for entry in known]
    rows = stored.everything(connection)
    own = [entry.revision for entry in known if entry.file]
    current = migrate.current(connection) or ""
    found = this_code.recorded(connection)
    recorded = found.release if found is not None and found.revision == current else None
    start = Target(release=recorded or releases.of_revision(current, releases.known(rows)), revision=current)
    if wanted is not None:
        end = releases.resolve(wanted, rows, own)
    elif kind == "upgrade":
        here = this_code.this()
        end = Target(release=here.release, revision=own[-1])
    else:
        end = releases.before(current, recorded, own)
    _check_known(kind, current, end, known)
    _check_direction(kind, start, end, order)
    if kind == "downgrade":
        _check_forms(connection, end, found)
    return Ends(start=start, end=end, order=tuple(order))


def find(
    settings: Settings,
    database: Database,
    kind: Kind,
    where: Ends,
    *,
    accept: Collection[str] = (),
    make_key: bool = True,
    config: Config | None = None,
) -> Way:
    """The plan between both ends. `accept` are SHA-256 of stored plans to be trusted without their key.

    Without `make_key` an install that has lost its key gets a plan that is signed with one that is kept nowhere.

    Changes nothing in the database. Raises `FormatError`, and what `revisions.way_back` and `way_up` raise.
    """
    to, place = where.end.revision, migrate.key_path(settings)
    admin = reach.of(settings, database).conninfo()
    try:
        if kind == "downgrade":
            key = PlanKey.load(place)
            plan = revisions.way_back(database, to, key=key, accept=accept, admin=admin, config=config)
        else:
            signer = PlanKey.open(place) if make_key else PlanKey.load(place) or PlanKey.generate()
            plan = revisions.way_up(database, to, admin=admin, key=signer, accept=accept, config=config)
    except UnknownPlanError as problem:
        raise FormatError(
            f"The way to {where.end} can't be read by this release ({problem}): type kat {kind} with {where.start}, or"
            " with a newer one."
        ) from problem
    return Way(kind=kind, start=where.start, end=where.end, plan=plan)


def _check_known(kind: Kind, current: str, end: Target, known: Sequence[Known]) -> None:
    by_name = {entry.revision: entry for entry in known}
    if current not in by_name:
        raise BrokenChainError(
            f"The database is at revision {current or '(none)'}, which neither this release nor the plans stored in the"
            " database know: use the release that made it, or restore a backup."
        )
    if kind == "upgrade" and not by_name[end.revision].file:
        raise releases.NotHereError(end)


def _check_direction(kind: Kind, start: Target, end: Target, order: Sequence[str]) -> None:
    same = None in (start.release, end.release) or releases.number(start.release or "") == releases.number(
        end.release or ""
    )
    if start.revision == end.revision and same:
        raise SameError(f"The database is for {start} already: there is nothing to do.")
    one, other = order.index(start.revision), order.index(end.revision)
    if one == other and start.release is not None and end.release is not None:
        a, b = releases.number(start.release), releases.number(end.release)
        one, other = int(a > b), int(b > a)
    if kind == "upgrade" and other < one:
        raise WrongDirectionError(f"{end} is older than {start}, which the database is for: type `kat downgrade`.")
    if kind == "downgrade" and other > one:
        raise WrongDirectionError(f"{end} is newer than {start}, which the database is for: type `kat upgrade`.")


def _check_forms(connection: Connection, end: Target, found: this_code.Release | None) -> None:
    needed = (found.oldest_reader if found is not None else None) or forms.oldest_reader(connection)
    if end.release is not None and releases.number(end.release) < releases.number(needed):
        raise FinalizedError(
            f"What is stored in this database needs Kattegat {needed} or newer, since `kat finalize` was typed:"
            f" downgrade to {needed} at most, or restore a backup made before that."
        )
