"""A database for a moment, on the server whose schemas are compared: only there do expressions print alike."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
from msgspec.structs import replace
from psycopg import sql
from psycopg.conninfo import make_conninfo
from sqlalchemy import Connection, Engine, create_engine, pool

from kattegat.errors import KattegatError
from kattegat.schema import ddl, snapshot
from kattegat.schema.catalog import settled
from kattegat.schema.shape import Function, Policy, Sequence, Snapshot, Table, View

PREFIX = "kat_scratch_"
# Beside the hash of the scratch database's name: the advisory lock that its maker holds.
_LOCK = 0x6B617473


class ScratchError(KattegatError):
    """No scratch database can be made; `reason` is what the server said."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"No scratch database can be made ({reason}): give the login of KAT_DATABASE_URL the right CREATEDB."
        )


@dataclass(frozen=True)
class Scratch:
    """A scratch database: its name, how to get there (maybe with a password), and an engine for it, closed with it."""

    name: str
    conninfo: str = field(repr=False)
    engine: Engine = field(repr=False)


@contextmanager
def database(admin: str, *, template: str | None = None, owner: str | None = None) -> Iterator[Scratch]:
    """A new database, empty or a copy of `template`, dropped at the end whoever is connected to it.

    `admin` is a libpq conninfo or URL of a login that may create databases; whatever a killed process left behind goes
    first. `owner` is given the database where the login may do so. Raises `ScratchError`.
    """
    name = PREFIX + secrets.token_hex(6)
    with psycopg.connect(admin, autocommit=True) as connection:
        sweep(connection)
        # Held until this connection ends, however: that is how others know that the database is in use.
        connection.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", [_LOCK, name])
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
            sql.Identifier(name), sql.Identifier(template or "template0")
        )
        try:
            connection.execute(create)
            if owner is not None:
                change = sql.SQL("ALTER DATABASE {} OWNER TO {}")
                connection.execute(change.format(sql.Identifier(name), sql.Identifier(owner)))
        except psycopg.Error as problem:
            _drop(connection, name)
            raise ScratchError(str(problem).strip().splitlines()[0]) from problem
        conninfo = make_conninfo(admin, dbname=name)
        engine = create_engine(
            "postgresql+psycopg://", creator=lambda: psycopg.connect(conninfo), poolclass=pool.NullPool
        )
        try:
            yield Scratch(name, conninfo, engine)
        finally:
            engine.dispose()
            if connection.closed:
                with psycopg.connect(admin, autocommit=True) as another:
                    _drop(another, name)
            else:
                _drop(connection, name)


def sweep(connection: psycopg.Connection[Any]) -> list[str]:
    """Drops scratch databases whose maker's connection is gone; their names. One that is not ours to drop stays."""
    gone = []
    for found in leftovers(connection):
        # Two may sweep at once, and one that can't be dropped is no reason to make none.
        with suppress(psycopg.Error):
            _drop(connection, found)
            gone.append(found)
    return gone


def leftovers(connection: psycopg.Connection[Any]) -> list[str]:
    """The scratch databases whose maker's connection is gone."""
    query = (
        "SELECT datname FROM pg_database d WHERE datname LIKE %s AND pg_has_role(datdba, 'MEMBER') "
        "AND NOT EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.classid::bigint = %s "
        "AND l.objid::bigint = hashtext(d.datname)::bigint & 4294967295)"
    )
    found = connection.execute(query, [PREFIX.replace("_", r"\_") + "%", _LOCK]).fetchall()
    return [str(name) for (name,) in found]


def _drop(connection: psycopg.Connection[tuple[object, ...]], name: str) -> None:
    connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def run(connection: Connection, statements: Iterable[str]) -> None:
    """Runs SQL texts as they are, in the connection's transaction."""
    for statement in statements:
        connection.exec_driver_sql(statement.replace("%", "%%"))


def make(connection: Connection, shape: Snapshot) -> None:
    """Builds a schema in an empty database, in the connection's transaction."""
    with settled(connection):
        run(connection, ddl.build(shape))


def normalise(admin: str, shape: Snapshot) -> Snapshot:
    """The snapshot as this server prints it, whatever version it was read on.

    Owners, rights and the roles of policies are not built (a role may be missing here) but taken over as they are.
    Raises `ScratchError`, or `ddl.CannotBuildError` for what a shape has no words for.
    """
    nobody = _without_roles(shape)
    schemas = sorted({ddl.schema_of(one) for kind in _kinds(shape) for one in kind} | {"public"})
    with database(admin) as scratch, scratch.engine.connect() as connection:
        make(connection, nobody)
        built = snapshot.read(connection, schemas)
    return _with_roles(built, shape)


def _kinds(shape: Snapshot) -> list[Mapping[str, object]]:
    return [shape.tables, shape.sequences, shape.enums, shape.domains, shape.views, shape.functions]


def _without_roles(shape: Snapshot) -> Snapshot:
    usual = ddl.usual_grants("function")

    def table(one: Table) -> Table:
        policies = {key: replace(policy, roles=("PUBLIC",)) for key, policy in one.policies.items()}
        return replace(one, owner="", grants={}, column_grants={}, policies=policies)

    return replace(
        shape,
        tables={key: table(one) for key, one in shape.tables.items()},
        sequences={key: replace(one, owner="", grants={}) for key, one in shape.sequences.items()},
        enums={key: replace(one, owner="") for key, one in shape.enums.items()},
        domains={key: replace(one, owner="") for key, one in shape.domains.items()},
        views={key: replace(one, owner="", grants={}) for key, one in shape.views.items()},
        functions={key: replace(one, owner="", grants=usual) for key, one in shape.functions.items()},
    )


def _with_roles(built: Snapshot, shape: Snapshot) -> Snapshot:
    def granted(like: Sequence | View | Function) -> dict[str, object]:
        return {"owner": like.owner, "grants": like.grants}

    def table(one: Table, like: Table) -> Table:
        policies: dict[str, Policy] = {
            key: replace(policy, roles=like.policies[key].roles) for key, policy in one.policies.items()
        }
        return replace(one, owner=like.owner, grants=like.grants, column_grants=like.column_grants, policies=policies)

    # A function's name holds its types, and those print alike in every version: names never differ.
    return replace(
        built,
        tables={key: table(one, shape.tables[key]) for key, one in built.tables.items()},
        sequences={key: replace(one, **granted(shape.sequences[key])) for key, one in built.sequences.items()},
        enums={key: replace(one, owner=shape.enums[key].owner) for key, one in built.enums.items()},
        domains={key: replace(one, owner=shape.domains[key].owner) for key, one in built.domains.items()},
        views={key: replace(one, **granted(shape.views[key])) for key, one in built.views.items()},
        functions={key: replace(one, **granted(shape.functions[key])) for key, one in built.functions.items()},
    )
