"""Consent: an organisation's recorded permission to scan what is its own."""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import Connection, text

from kattegat.accounts import audit
from kattegat.errors import UsageError


class ConsentError(UsageError):
    """A consent that can't be recorded."""


class Consent(msgspec.Struct, frozen=True):
    """Who permitted what, and how long. `text` is what the person agreed to, word for word."""

    id: int
    granted_by: str
    granted_at: datetime
    until: datetime | None
    text: str
    revoked_at: datetime | None


_COLUMNS = "id, granted_by, granted_at, until, text, revoked_at"


def grant(
    conn: Connection, organisation_id: int, granted_by: str, words: str, *, until: datetime | None = None
) -> Consent:
    """Records a consent given by a person; raises `ConsentError` for empty words or an end without zone."""
    if not granted_by.strip() or not words.strip() or "\x00" in granted_by + words:
        raise ConsentError("A consent needs the name of who gives it and the words agreed to; give both.")
    if until is not None and until.tzinfo is None:
        raise ConsentError("The end of a consent needs a time zone; write it like 2027-01-01T00:00:00Z.")
    row = conn.execute(
        text(
            "INSERT INTO consent (organisation_id, granted_by, until, text)"  # noqa: S608 - a constant list
            f" VALUES (:organisation, :by, :until, :words) RETURNING {_COLUMNS}"
        ),
        {"organisation": organisation_id, "by": granted_by.strip(), "until": until, "words": words.strip()},
    ).one()
    made = Consent(*row)
    detail = {"until": until.isoformat() if until else None, "text": made.text}
    audit.write(conn, made.granted_by, "consent.grant", str(made.id), detail, organisation_id)
    return made


def revoke(conn: Connection, organisation_id: int, consent_id: int, *, actor: str) -> bool:
    """Ends a consent from now on; False when it had ended or never was."""
    done = conn.execute(
        text(
            "UPDATE consent SET revoked_at = now()"
            " WHERE organisation_id = :organisation AND id = :id AND revoked_at IS NULL"
        ),
        {"organisation": organisation_id, "id": consent_id},
    ).rowcount
    if done:
        audit.write(conn, actor, "consent.revoke", str(consent_id), None, organisation_id)
    return bool(done)


def in_force(conn: Connection, organisation_id: int, *, at: datetime | None = None) -> list[Consent]:
    """The consents that hold at a time (by default now), oldest first; none means: no permission to scan."""
    rows = conn.execute(
        text(
            f"""
            SELECT {_COLUMNS} FROM consent
            WHERE organisation_id = :organisation
              AND granted_at <= coalesce(:at, now())
              AND (until IS NULL OR until > coalesce(:at, now()))
              AND (revoked_at IS NULL OR revoked_at > coalesce(:at, now()))
            ORDER BY granted_at, id
            """  # noqa: S608 - a constant list of columns
        ),
        {"organisation": organisation_id, "at": at},
    )
    return [Consent(*row) for row in rows]
