"""Which release and revision this code is, which the database is for, and the sentence where the two differ."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable
from importlib.metadata import version

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text

from kattegat.errors import KattegatError
from kattegat.schema import fence

EXIT_CODE = 4
"""The exit code of every command and process that ends since another release is needed."""
WATCH_SECONDS = 2.0
GRACE_SECONDS = 2.0

REVISION = text("SELECT version_num FROM alembic_version")
FACT = text("SELECT lifecycle.release()")
RECORD = text(
    "INSERT INTO lifecycle.fact (name, value) VALUES ('release', CAST(:value AS jsonb))"
    " ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value, at = now()"
)
TABLES = text("SELECT to_regclass('lifecycle.epoch') IS NOT NULL, to_regclass('public.alembic_version') IS NOT NULL")


class WrongReleaseError(KattegatError):
    """The database is for another release than this one, or its release is being changed. Nothing is tried again."""

    exit_code = EXIT_CODE


class ChangeUnderWayError(WrongReleaseError):
    """A change of release has the database."""

    def __init__(self) -> None:
        super().__init__(
            "A change of release is under way in this database: wait until it has ended (kat history shows it), or type"
            " kat upgrade --resume if it was broken off."
        )


class Release(Struct, frozen=True, omit_defaults=True):
    """A release and the schema revision it works on: the fact `release` of `lifecycle.fact`.

    `oldest_reader` is the oldest release that can read what is stored, where that is known.
    """

    release: str
    revision: str
    oldest_reader: str | None = None

    def __str__(self) -> str:
        return f"Kattegat {self.release} (revision {self.revision})"


def this() -> Release:
    """What this code is."""
    return Release(version("kattegat"), _head())


@functools.cache
def _head() -> str:
    # Here, since it imports Alembic, and migrate imports the module that imports this one.
    from kattegat.store import migrate

    return migrate.head()


def record(connection: Connection, release: Release) -> None:
    """Writes down which release the database is for; by the owner, in the transaction that makes it so."""
    connection.execute(RECORD, {"value": msgspec.json.encode(release).decode()})


def recorded(connection: Connection) -> Release | None:
    """The release that the database is for, if that was written down."""
    if not fence.present(connection):
        return None
    found = connection.execute(FACT).scalar()
    return None if found is None else msgspec.convert(found, Release)


def learn(connection: Connection) -> int | None:
    """The epoch to write with; None while the database is empty. `connection` is in READ COMMITTED.

    Raises `WrongReleaseError` with the release needed and what to type.
    """
    has_epoch, has_revision = connection.execute(TABLES).one()
    if not has_epoch:
        return None
    # The epoch first: a change that ends between the two makes it the old one, with which nothing is written.
    epoch = fence.epoch(connection)
    if epoch % 2:
        raise ChangeUnderWayError
    revision = connection.execute(REVISION).scalar() if has_revision else None
    if revision is not None:
        _check(revision, recorded(connection))
    return epoch


def _check(revision: str, found: Release | None) -> None:
    if revision != _head():
        raise WrongReleaseError(mismatch(revision, found))
    if found is not None and found.oldest_reader and _order(version("kattegat")) < _order(found.oldest_reader):
        raise WrongReleaseError(
            f"What is stored in this database needs Kattegat {found.oldest_reader} or newer, and this is"
            f" {version('kattegat')}: install {found.release}, or type kat downgrade to take the database back."
        )


def mismatch(revision: str, found: Release | None) -> str:
    """The sentence for a database at a revision that is not this release's."""
    wanted = this()
    there = str(found) if found is not None and found.revision == revision else f"revision {revision}"
    if _knows(revision):
        return (
            f"The database is for {there}, and this is {wanted}: type kat upgrade to take the database there,"
            " or start the release it is for."
        )
    needed = f"Kattegat {found.release}" if found is not None and found.revision == revision else "the newer release"
    return (
        f"The database is for {there}, which is newer than this {wanted}: start {needed}, or type kat downgrade to"
        " take the database back to this one."
    )


def _knows(revision: str) -> bool:
    from alembic.script import ScriptDirectory

    from kattegat.store import migrate

    return revision in {entry.revision for entry in ScriptDirectory.from_config(migrate.config()).walk_revisions()}


def _order(release: str) -> tuple[int, ...]:
    numbers = re.match(r"\d+(?:\.\d+)*", release)
    return tuple(int(part) for part in numbers[0].split(".")) if numbers else ()


class Watch:
    """A thread that asks every `WATCH_SECONDS` whether the release is still the right one, also while all is idle.

    `check` raises `WrongReleaseError` when it is not: the error is then kept in `problem`, and `stop` is called once.
    With `deadline` the process is ended `GRACE_SECONDS` later whatever it does: what it writes is refused anyway.
    """

    def __init__(
        self,
        check: Callable[[], None],
        stop: Callable[[], object],
        *,
        deadline: Callable[[WrongReleaseError], object] | None = None,
    ) -> None:
        self.problem: WrongReleaseError | None = None
        self._check, self._stop, self._deadline = check, stop, deadline
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="release", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(1.0)

    def raise_if_wrong(self) -> None:
        """Raises what the watch has found, if anything."""
        if self.problem is not None:
            raise self.problem

    def _run(self) -> None:
        while not self._ended.wait(WATCH_SECONDS):
            try:
                self._check()
            except WrongReleaseError as problem:
                self.problem = problem
                self._stop()
                if self._deadline is not None and not self._ended.wait(GRACE_SECONDS):
                    self._deadline(problem)
                return
            except KattegatError:
                continue  # a database that is away is no other release
