"""Organisations: the tenants, each with a code that never changes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection, text

from kattegat.accounts import audit
from kattegat.errors import UsageError

_CODE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


class CodeError(UsageError):
    """A text that is no code of an organisation."""

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(
            f"{code[:80]!r} is no code of an organisation: use 1 to 63 lower-case letters, digits and hyphens,"
            " with no hyphen at the edges."
        )


class OrganisationNameError(UsageError):
    """A name that can't be shown."""

    def __init__(self, what: str, name: str) -> None:
        self.name = name
        super().__init__(f"{name[:80]!r} is no name of {what}: use 1 to 200 visible characters.")


class OrganisationExistsError(UsageError):
    """The code is taken."""

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(f"There is an organisation {code} already; choose another code.")


class UnknownOrganisationError(UsageError):
    """No organisation has this code or id."""

    def __init__(self, code: str | int) -> None:
        self.code = code
        super().__init__(f"There is no organisation {code!s}; `kat organisations` lists them.")


class Organisation(msgspec.Struct, frozen=True):
    """A tenant."""

    id: int
    code: str
    name: str
    created_at: datetime


def check_code(code: str) -> str:
    """The code as it is; raises `CodeError`."""
    if not _CODE.fullmatch(code):
        raise CodeError(code)
    return code


def check_name(what: str, name: str) -> str:
    """The name without spaces around it; raises `OrganisationNameError` for an empty, endless or invisible one."""
    bare = name.strip()
    if not 1 <= len(bare) <= 200 or not bare.isprintable():
        raise OrganisationNameError(what, name)
    return bare


def create(conn: Connection, code: str, name: str, *, actor: str = audit.SYSTEM) -> Organisation:
    """Makes one (as `kat_system`); raises `OrganisationExistsError`, `CodeError`, `OrganisationNameError`."""
    made = _insert(conn, code, name, actor)
    if made is None:
        raise OrganisationExistsError(code)
    return made


def ensure(conn: Connection, code: str, name: str | None = None, *, actor: str = audit.SYSTEM) -> Organisation:
    """The organisation of this code, made if there is none (with the code as its name, if none is given)."""
    return find(conn, code) or _insert(conn, code, name or code, actor) or get(conn, code)


def _insert(conn: Connection, code: str, name: str, actor: str) -> Organisation | None:
    row = conn.execute(
        text(
            "INSERT INTO organisation (code, name) VALUES (:code, :name) ON CONFLICT (code) DO NOTHING"
            " RETURNING id, code, name, created_at"
        ),
        {"code": check_code(code), "name": check_name("an organisation", name)},
    ).one_or_none()
    if row is None:
        return None
    made = Organisation(*row)
    audit.write(conn, actor, "organisation.create", made.code, {"name": made.name}, made.id)
    return made


def find(conn: Connection, code: str) -> Organisation | None:
    """The organisation of this code, or None; raises `CodeError`."""
    row = conn.execute(
        text("SELECT id, code, name, created_at FROM organisation WHERE code = :code"), {"code": check_code(code)}
    ).one_or_none()
    return None if row is None else Organisation(*row)


def get(conn: Connection, code: str) -> Organisation:
    """The organisation of this code; raises `UnknownOrganisationError` or `CodeError`."""
    found = find(conn, code)
    if found is None:
        raise UnknownOrganisationError(code)
    return found


def by_id(conn: Connection, ids: Sequence[int]) -> dict[int, Organisation]:
    """The organisations of these ids that exist."""
    rows = conn.execute(
        text("SELECT id, code, name, created_at FROM organisation WHERE id = ANY (CAST(:ids AS bigint[]))"),
        {"ids": list(ids)},
    )
    return {row.id: Organisation(*row) for row in rows}


def page(conn: Connection, *, after: str = "", limit: int = 1000) -> list[Organisation]:
    """Organisations in the order of their codes, at most `limit` after the code `after`."""
    rows = conn.execute(
        text(
            'SELECT id, code, name, created_at FROM organisation WHERE code COLLATE "C" > :after'
            ' ORDER BY code COLLATE "C" LIMIT :limit'
        ),
        {"after": after, "limit": limit},
    )
    return [Organisation(*row) for row in rows]
