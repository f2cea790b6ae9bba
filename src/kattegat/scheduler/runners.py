"""The runners of the install: each has a token of its own, of which only the SHA-256 is kept."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, text

from kattegat.accounts import audit
from kattegat.errors import UsageError
from kattegat.scheduler import queue

TOKEN_BYTES = 32
COLUMNS = (
    "id, name, vantage, tools, created_at, seen_at, revoked_at, drained_at, drained_by, drained_reason, labels, scope,"
    " release"
)


class RunnerNameError(UsageError):
    """A name that no runner can have, or that none has."""


class RunnerScopeError(UsageError):
    """A scope that no runner can have."""


class Scope(msgspec.Struct, frozen=True):
    """What a runner may serve, whatever its token is used for; an empty part allows all.

    `organisations` are numbers, `networks` CIDRs in the zone of its vantage: it gets scans of assets in them only, and
    may contact nothing else.
    """

    organisations: tuple[int, ...] = ()
    networks: tuple[str, ...] = ()
    scanners: tuple[str, ...] = ()


class Runner(msgspec.Struct, frozen=True):
    """A registered runner. `tools` are the external programs it said it has, with their versions."""

    id: int
    name: str
    vantage: str
    tools: dict[str, str]
    created_at: datetime
    seen_at: datetime | None
    revoked_at: datetime | None
    drained_at: datetime | None = None
    drained_by: str = ""
    drained_reason: str = ""
    labels: tuple[str, ...] = ()
    scope: Scope = Scope()
    release: str = ""


def register(
    conn: Connection,
    name: str,
    *,
    vantage: str = "internet",
    labels: Sequence[str] = (),
    scope: Scope | None = None,
    by: str = audit.SYSTEM,
) -> str:
    """Registers a runner and gives its token, which is shown here only. `labels` are places besides `vantage`.

    A name that is known already gets the new token and is no longer revoked; the old token ends.
    """
    if not name.strip() or "\x00" in name or len(name) > 100:
        raise RunnerNameError("A runner needs a name of 1 to 100 characters; give it one.")
    token = secrets.token_urlsafe(TOKEN_BYTES)
    conn.execute(
        text(
            "INSERT INTO runner (name, token_hash, vantage, labels, scope)"
            " VALUES (:name, :hash, :vantage, CAST(:labels AS jsonb), CAST(:scope AS jsonb))"
            " ON CONFLICT (name) DO UPDATE SET token_hash = excluded.token_hash, vantage = excluded.vantage,"
            " labels = excluded.labels, scope = excluded.scope, revoked_at = NULL"
        ),
        {
            "name": name,
            "hash": _hash(token),
            "vantage": vantage,
            "labels": msgspec.json.encode(list(dict.fromkeys((vantage, *labels)))).decode(),
            "scope": msgspec.json.encode(_checked(scope or Scope())).decode(),
        },
    )
    detail = {"vantage": vantage, "labels": list(labels), "scope": msgspec.to_builtins(scope or Scope())}
    audit.write(conn, by, "runner.register", name, detail)
    return token


def revoke(conn: Connection, name: str, by: str = audit.SYSTEM, reason: str = "") -> None:
    """Ends a runner's token at once; raises `RunnerNameError` when there is no such runner."""
    done = conn.execute(
        text("UPDATE runner SET revoked_at = coalesce(revoked_at, now()) WHERE name = :name"), {"name": name}
    )
    if not done.rowcount:
        raise RunnerNameError(f"There is no runner {name!r}; nothing was revoked.")
    # What it has is given to others now, not when its leases run out.
    queue.release(conn, name)
    conn.execute(text("DELETE FROM permit WHERE runner = :name"), {"name": name})
    audit.write(conn, by, "runner.revoke", name, {"reason": reason})


def drain(conn: Connection, name: str, by: str, reason: str) -> None:
    """Gives a runner no more work: what it has it finishes and hands in. Raises `RunnerNameError`."""
    done = conn.execute(
        text(
            "UPDATE runner SET drained_at = coalesce(drained_at, now()), drained_by = :by, drained_reason = :reason"
            " WHERE name = :name"
        ),
        {"name": name, "by": by, "reason": reason},
    )
    if not done.rowcount:
        raise RunnerNameError(f"There is no runner {name!r}; kat runner list names those there are.")
    audit.write(conn, by, "runner.drain", name, {"reason": reason})


def undrain(conn: Connection, name: str, by: str, reason: str = "") -> None:
    """Gives a drained runner work again; raises `RunnerNameError`."""
    done = conn.execute(
        text("UPDATE runner SET drained_at = NULL, drained_by = '', drained_reason = '' WHERE name = :name"),
        {"name": name},
    )
    if not done.rowcount:
        raise RunnerNameError(f"There is no runner {name!r}; kat runner list names those there are.")
    audit.write(conn, by, "runner.undrain", name, {"reason": reason})


def by_token(conn: Connection, token: str) -> Runner | None:
    """The runner with this token, also a revoked one; None when nobody has it."""
    digest = _hash(token)
    row = conn.execute(
        text(f"SELECT token_hash, {COLUMNS} FROM runner WHERE token_hash = :hash"),  # noqa: S608 - a constant
        {"hash": digest},
    ).one_or_none()
    if row is None or not hmac.compare_digest(bytes(row.token_hash), digest):
        return None
    return _runner(row[1:])


def listed(conn: Connection) -> list[Runner]:
    """Every runner, by name."""
    return [_runner(row) for row in conn.execute(text(f"SELECT {COLUMNS} FROM runner ORDER BY name"))]  # noqa: S608


def seen(conn: Connection, runner: Runner, tools: Mapping[str, str] | None = None, release: str = "") -> bool:
    """Notes that the runner called; True when its tools are news (it never called, or has others than before)."""
    conn.execute(
        text(
            "UPDATE runner SET seen_at = now(), tools = coalesce(CAST(:tools AS jsonb), tools),"
            " release = CASE WHEN :release = '' THEN release ELSE :release END WHERE id = :id"
            # Not for each of many calls in a second: it is one row, and all of them would wait for it.
            " AND (seen_at IS NULL OR seen_at < now() - interval '2 seconds'"
            " OR tools IS DISTINCT FROM coalesce(CAST(:tools AS jsonb), tools)"
            " OR :release <> '' AND release <> :release)"
        ),
        {
            "release": release,
            "id": runner.id,
            "tools": None if tools is None else msgspec.json.encode(dict(tools)).decode(),
        },
    )
    return tools is not None and (runner.seen_at is None or dict(tools) != runner.tools)


def _hash(token: str) -> bytes:
    # The token has 256 random bits, so a slow hash would protect nothing.
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _runner(row: Sequence[Any]) -> Runner:
    named = dict(zip(COLUMNS.split(", "), row, strict=True))
    return msgspec.convert(named, Runner)


def _checked(scope: Scope) -> Scope:
    try:
        networks = tuple(str(ipaddress.ip_network(network)) for network in scope.networks)
    except ValueError as problem:
        raise RunnerScopeError(f"A runner's network can't be read: {problem}.") from None
    return Scope(tuple(sorted(set(scope.organisations))), networks, tuple(sorted(set(scope.scanners))))
