"""The forms of the documents that are kept: which there are, since which release each is read, and which is written.

A document changes its form by rule, not by rewriting what is stored: the reader of form n + 1 ships one release before
anything writes it, and it is written only after `kat finalize` has said that nobody wants to go back. So going back one
release finds nothing that it can't read.
"""

from __future__ import annotations

import re
from datetime import datetime

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text

FACT = "fact "
_FINALIZED = text("SELECT value FROM lifecycle.fact WHERE name = 'finalized'")
_FINALIZE = text(
    "INSERT INTO lifecycle.fact (name, value) VALUES ('finalized', CAST(:value AS jsonb))"
    " ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value, at = now()"
)
_STORED_FACT = text("SELECT EXISTS (SELECT FROM public.fact WHERE kind = :kind AND form >= :number)")


class Form(Struct, frozen=True):
    """A form of a kind of document. `number` counts from 1. `reader` is the first release that reads it, `writer` the
    first that writes it, once it is finalized. The kind of a fact is `fact dns-records`."""

    kind: str
    number: int
    reader: str
    writer: str


# Nothing is taken off this list: some row may hold such a form. A kind that is not on it has form 1 since 0.1.0.
FORMS: tuple[Form, ...] = (
    Form("evidence", 1, "0.1.0", "0.1.0"),
    Form("evidence key", 1, "0.1.0", "0.1.0"),
    Form("leaf", 1, "0.1.0", "0.1.0"),
    Form("fact", 1, "0.1.0", "0.1.0"),
    Form("task payload", 1, "0.1.0", "0.1.0"),
    Form("task payload", 2, "0.3.0", "0.4.0"),
)


class Finalized(Struct, frozen=True):
    """The release whose forms may be written, and who said so."""

    release: str
    by_whom: str
    at: datetime


def finalized(connection: Connection) -> Finalized | None:
    """The last `kat finalize`, if there was one."""
    found = connection.execute(_FINALIZED).scalar()
    return None if found is None else msgspec.convert(found, Finalized)


def finalize(connection: Connection, record: Finalized) -> None:
    """Lets the newest forms of a release be written; by the owner."""
    connection.execute(_FINALIZE, {"value": msgspec.json.encode(record).decode()})


def writable(kind: str, last: Finalized | None, forms: tuple[Form, ...] = FORMS) -> int:
    """The form that a document of this kind is written in: the newest that the finalized release writes."""
    upto = _order(last.release) if last is not None else (0,)
    numbers = [form.number for form in forms if form.kind == kind and (form.number == 1 or _order(form.writer) <= upto)]
    return max(numbers, default=1)


def waiting(last: Finalized | None, release: str, forms: tuple[Form, ...] = FORMS) -> list[Form]:
    """The forms that this release would write if it were finalized, and does not write yet."""
    return [
        form
        for form in forms
        if form.number > writable(form.kind, last, forms) and _order(form.writer) <= _order(release)
    ]


def oldest_reader(connection: Connection, forms: tuple[Form, ...] = FORMS) -> str:
    """The oldest release that reads every form that is stored (facts are looked at; of the rest, what may be written).

    Asks the table of facts only where a kind of fact has more than one form.
    """
    last = finalized(connection)
    found = ["0.1.0"]
    for form in forms:
        if form.number == 1 or form.number > writable(form.kind, last, forms):
            continue
        kind = form.kind.removeprefix(FACT)
        if (
            form.kind.startswith(FACT)
            and not connection.execute(_STORED_FACT, {"kind": kind, "number": form.number}).scalar()
        ):
            continue
        found.append(form.reader)
    return max(found, key=_order)


def _order(release: str) -> tuple[int, ...]:
    numbers = re.match(r"\d+(?:\.\d+)*", release)
    return tuple(int(part) for part in numbers[0].split(".")) if numbers else ()
