"""The door of a part's database: closed while it is changed, so that a container that restarts can't migrate it.

A superuser closes it by taking CONNECT from every role and PUBLIC; so do those who run the database but log in as
somebody else. Where there is only the part's own login, which owns the database, nobody can be told from us by name:
then the database takes no connection at all (CONNECTION LIMIT), and we come in through another database of the server.
What was before is kept in the ledger of the database, and opening restores exactly that.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Literal

import msgspec
import psycopg
from msgspec import Struct
from psycopg import errors, sql

from kattegat.errors import KattegatError
from kattegat.lifecycle.openkat.environment import CannotConnectError, Dsn
from kattegat.lifecycle.openkat.place import APPLICATION, Place

FACT = "openkat-door"
_ENDED_SECONDS = 10.0
_TRIES = 20

# Rights to connect as they are, those by default included; PUBLIC has the oid 0.
_GRANTS = """
    SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END, a.is_grantable
    FROM pg_database AS d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) AS a
    WHERE d.datname = %s AND a.privilege_type = 'CONNECT' ORDER BY 1
"""
_LIMIT = "SELECT datconnlimit FROM pg_database WHERE datname = %s"
_OURS = "SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = %s"
_LEFT = """
    SELECT rolname FROM pg_roles WHERE rolcanlogin AND NOT rolsuper AND rolname <> %s
        AND has_database_privilege(oid, %s, 'CONNECT') ORDER BY 1
"""
_SESSIONS = """
    SELECT pid, coalesce(usename, ''), coalesce(application_name, ''), coalesce(client_addr::text, 'here'),
           coalesce(state, ''), coalesce(CAST(extract(epoch FROM clock_timestamp() - backend_start) AS bigint), 0)
    FROM pg_stat_activity
    -- Of other roles' sessions an ordinary login sees neither the type nor the name; servers' own have no user.
    WHERE datname = %s AND coalesce(backend_type, 'client backend') = 'client backend' AND usesysid IS NOT NULL
        AND coalesce(application_name, '') <> %s
    ORDER BY pid
"""
_PREPARED = "SELECT gid, owner FROM pg_prepared_xacts WHERE database = %s ORDER BY 1"


class Session(Struct, frozen=True):
    """A session of somebody else in the database."""

    pid: int
    user: str
    application: str
    address: str
    state: str
    seconds: int

    def __str__(self) -> str:
        named = f", {self.application}" if self.application else ""
        return f"process {self.pid} ({self.user}{named}) from {self.address}, {self.state or 'unknown'}"


class Before(Struct, frozen=True):
    """The door as it was: who had CONNECT (and might grant it), the connection limit; and how it was closed."""

    method: Literal["connect", "limit"]
    connect: tuple[tuple[str, bool], ...]
    limit: int


class Door(Struct, frozen=True):
    """The door now. `past` are roles that no door keeps out: superusers that own the tables."""

    closed: bool
    sessions: tuple[Session, ...]
    past: tuple[str, ...] = ()
    before: Before | None = None


class DoorError(KattegatError):
    """The door can't be closed or opened by this login."""


class SessionsLeftError(KattegatError):
    """Others are still connected; `sessions` names them."""

    def __init__(self, place: Place, sessions: Sequence[Session], prepared: Sequence[str] = ()) -> None:
        self.part = place.part
        self.sessions = tuple(sessions)
        self.prepared = tuple(prepared)
        if prepared:
            super().__init__(
                f"The database of {place.part} has prepared transactions ({', '.join(prepared)}): commit them or roll "
                "them back first."
            )
        else:
            super().__init__(
                f"The database of {place.part} is still in use by {'; '.join(map(str, sessions))}: stop what holds "
                "them, or give --terminate to end them."
            )


def look(place: Place, connection: psycopg.Connection[Any]) -> Door:
    """The state of the door and who is inside, ourselves left out."""
    before = _remembered(connection)
    return Door(before is not None, _sessions(place, connection), _past(place, connection), before)


def close(place: Place, connection: psycopg.Connection[Any], *, terminate: bool = False) -> Door:
    """Closes the door and sees to it that nobody else is inside. Closing a closed one is no error.

    `connection` is a session of the login in the database, in autocommit mode; the ledger is there already. Raises
    `DoorError`, or `SessionsLeftError` for sessions that are left (the door stays closed behind them).
    """
    name = place.dsn.database
    before = _remembered(connection)
    if before is None:
        before = _before(place, connection)
        # Remembered before anything is taken away: killed in between, opening gives back what was never taken.
        connection.execute(
            "INSERT INTO lifecycle.fact (name, value) VALUES (%s, %s::jsonb)",
            [FACT, msgspec.json.encode(before).decode()],
        )
    _shut(place, connection, before)
    prepared = [f"{gid} of {owner}" for gid, owner in connection.execute(_PREPARED, [name]).fetchall()]
    if prepared:
        raise SessionsLeftError(place, (), prepared)
    left = _ended(place, connection) if terminate else _sessions(place, connection)
    if left:
        raise SessionsLeftError(place, left)
    return look(place, connection)


def open_(place: Place, connection: psycopg.Connection[Any]) -> bool:
    """Restores exactly what was before the door was closed; False when it was not closed."""
    before = _remembered(connection)
    if before is None:
        return False
    name = sql.Identifier(place.dsn.database)
    with connection.transaction():
        for role, grantable in before.connect:
            whom = sql.SQL("PUBLIC") if role == "PUBLIC" else sql.Identifier(role)
            option = sql.SQL(" WITH GRANT OPTION" if grantable else "")
            if before.method == "connect" and (role == "PUBLIC" or _exists(connection, role)):
                connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(name, whom) + option)
        if before.method == "limit":
            connection.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(name, sql.Literal(before.limit)))
        connection.execute("DELETE FROM lifecycle.fact WHERE name = %s", [FACT])
    return True


def enter(place: Place, others: Sequence[str] = ()) -> psycopg.Connection[Any]:
    """A session of the login, also behind a closed door: where the database takes no connection, room for one is made
    from another database of the server (`others`, then `postgres` and `template1`), and taken away again."""
    try:
        return place.connect()
    except CannotConnectError as problem:
        if not _full(problem):
            raise
    with _lobby(place, others) as lobby:
        name = sql.Identifier(place.dsn.database)
        count = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND usesysid IS NOT NULL"
        for _ in range(_TRIES):
            present = lobby.execute(count, [place.dsn.database]).fetchone()
            room = int(present[0] if present else 0) + 1
            lobby.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(name, sql.Literal(room)))
            try:
                entered = place.connect()
            except CannotConnectError as problem:
                if not _full(problem):
                    raise
                # Somebody was faster: out with them, and once more.
                for session in _sessions(place, lobby):
                    lobby.execute("SELECT pg_terminate_backend(%s)", [session.pid])
                time.sleep(0.1)
                continue
            finally:
                lobby.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 0").format(name))
            return entered
    raise DoorError(
        f"The database of {place.part} is taken by others as soon as there is room: stop OpenKAT's containers first."
    )


@contextmanager
def room(place: Place, connections: int) -> Iterator[None]:
    """Room for some more sessions of ours, such as pg_dump's, behind a door that lets nobody in; whoever else took it
    is ended afterwards. Where the door is one of rights, there is room already."""
    with _inside(place) as inside:
        before = _remembered(inside)
        if before is None or before.method == "connect":
            yield
            return
        name = sql.Identifier(place.dsn.database)
        row = inside.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND usesysid IS NOT NULL", [place.dsn.database]
        ).fetchone()
        limit = int(row[0] if row else 1) + connections
        inside.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(name, sql.Literal(limit)))
        try:
            yield
        finally:
            inside.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 0").format(name))
            _ended(place, inside)


def _inside(place: Place) -> closing[psycopg.Connection[Any]]:
    return closing(enter(place))


def _before(place: Place, connection: psycopg.Connection[Any]) -> Before:
    name = place.dsn.database
    ours = connection.execute(_OURS, [name]).fetchone()
    if not place.superuser and not (ours and ours[0]):
        raise DoorError(
            f"The login {place.dsn.user} does not own the database of {place.part} and can't close it: give a "
            "superuser's DSN with --admin."
        )
    rows = connection.execute(_GRANTS, [name]).fetchall()
    grants = tuple((str(role), bool(grantable)) for role, grantable in rows)
    limit = connection.execute(_LIMIT, [name]).fetchone()
    return Before("connect" if place.superuser else "limit", grants, int(limit[0]) if limit else -1)


def _shut(place: Place, connection: psycopg.Connection[Any], before: Before) -> None:
    name = sql.Identifier(place.dsn.database)
    if before.method == "limit":
        connection.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 0").format(name))
        return
    with connection.transaction():
        for role, _ in before.connect:
            whom = sql.SQL("PUBLIC") if role == "PUBLIC" else sql.Identifier(role)
            if role == "PUBLIC" or _exists(connection, role):
                connection.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM {}").format(name, whom))
        left = [str(row[0]) for row in connection.execute(_LEFT, ["", place.dsn.database]).fetchall()]
        if left:
            raise DoorError(
                f"{', '.join(left)} can still connect to the database of {place.part}, by a right that somebody else "
                "than its owner gave: revoke it first."
            )


def _ended(place: Place, connection: psycopg.Connection[Any]) -> tuple[Session, ...]:
    end = time.monotonic() + _ENDED_SECONDS
    while True:
        left = _sessions(place, connection)
        if not left or time.monotonic() > end:
            return left
        for session in left:
            try:
                connection.execute("SELECT pg_terminate_backend(%s)", [session.pid])
            except errors.InsufficientPrivilege:
                raise SessionsLeftError(place, [session]) from None
        time.sleep(0.05)


def _sessions(place: Place, connection: psycopg.Connection[Any]) -> tuple[Session, ...]:
    rows = connection.execute(_SESSIONS, [place.dsn.database, APPLICATION]).fetchall()
    return tuple(Session(*row) for row in rows)


def _past(place: Place, connection: psycopg.Connection[Any]) -> tuple[str, ...]:
    row = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", [place.owner]).fetchone()
    return (place.owner,) if row and row[0] else ()


def _exists(connection: psycopg.Connection[Any], role: str) -> bool:
    return connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone() is not None


def _remembered(connection: psycopg.Connection[Any]) -> Before | None:
    there = connection.execute("SELECT to_regclass('lifecycle.fact') IS NOT NULL").fetchone()
    if not (there and there[0]):
        return None
    row = connection.execute("SELECT value::text FROM lifecycle.fact WHERE name = %s", [FACT]).fetchone()
    return msgspec.json.decode(row[0], type=Before) if row else None


def _full(problem: CannotConnectError) -> bool:
    return "too many connections for database" in str(problem)


def _lobby(place: Place, others: Sequence[str]) -> psycopg.Connection[Any]:
    for name in (*others, "postgres", "template1"):
        if name == place.dsn.database:
            continue
        where: Dsn = place.dsn.with_(dbname=name)
        try:
            return psycopg.connect(where.conninfo(), autocommit=True, connect_timeout=10, application_name=APPLICATION)
        except psycopg.OperationalError:
            continue
    raise DoorError(
        f"The database of {place.part} takes no connection, and {place.dsn.user} has no other database on that server "
        "to open it from: give a superuser's DSN with --admin."
    )
