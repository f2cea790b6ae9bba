"""The runners of the install: each has a token of its own, of which only the SHA-256 is kept."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from datetime import datetime

import msgspec
from sqlalchemy import Connection, text

from kattegat.accounts import audit
from kattegat.errors import UsageError

TOKEN_BYTES = 32
COLUMNS = "id, name, vantage, tools, created_at, seen_at, revoked_at, drained_at, drained_by, drained_reason"


class RunnerNameError(UsageError):
    """A name that no runner can have, or that none has."""


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


def register(conn: Connection, name: str, *, vantage: str = "internet") -> str:
    """Registers a runner and gives its token, which is shown here only.

    A name that is known already gets the new token and is no longer revoked; the old token ends.
    """
    if not name.strip() or "\x00" in name or len(name) > 100:
        raise RunnerNameError("A runner needs a name of 1 to 100 characters; give it one.")
    token = secrets.token_urlsafe(TOKEN_BYTES)
    conn.execute(
        text(
            "INSERT INTO runner (name, token_hash, vantage) VALUES (:name, :hash, :vantage)"
            " ON CONFLICT (name) DO UPDATE SET token_hash = excluded.token_hash, vantage = excluded.vantage,"
            " revoked_at = NULL"
        ),
        {"name": name, "hash": _hash(token), "vantage": vantage},
    )
    return token


def revoke(conn: Connection, name: str) -> None:
    """Ends a runner's token; raises `RunnerNameError` when there is no such runner."""
    done = conn.execute(
        text("UPDATE runner SET revoked_at = coalesce(revoked_at, now()) WHERE name = :name"), {"name": name}
    )
    if not done.rowcount:
        raise RunnerNameError(f"There is no runner {name!r}; nothing was revoked.")


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
    return Runner(*row[1:])


def listed(conn: Connection) -> list[Runner]:
    """Every runner, by name."""
    return [Runner(*row) for row in conn.execute(text(f"SELECT {COLUMNS} FROM runner ORDER BY name"))]  # noqa: S608


def seen(conn: Connection, runner: Runner, tools: Mapping[str, str] | None = None) -> bool:
    """Notes that the runner called; True when its tools are news (it never called, or has others than before)."""
    conn.execute(
        text("UPDATE runner SET seen_at = now(), tools = coalesce(CAST(:tools AS jsonb), tools) WHERE id = :id"),
        {"id": runner.id, "tools": None if tools is None else msgspec.json.encode(dict(tools)).decode()},
    )
    return tools is not None and (runner.seen_at is None or dict(tools) != runner.tools)


def _hash(token: str) -> bytes:
    # The token has 256 random bits, so a slow hash would protect nothing.
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
