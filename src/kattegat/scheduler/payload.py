"""The forms of a task's payload, which is kept as JSON.

Form 1 is the work alone: `{"evidence_id": 7, "requested_by": "piet", ...}`. Form 2 is an envelope around it, so that
what belongs to the task (who asked for it, the trace that it is part of) can't be taken for the work:
`{"form": 2, "work": {...}, "requested_by": "piet", "trace": "00-..."}`. Both are read; form 2 is written once
`kat finalize` has said that nobody goes back to a release that reads form 1 only. A trace is kept in form 2 only.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, text

from kattegat.errors import KattegatError
from kattegat.store import forms

KIND = "task payload"
# Revision 0004 gives the right to look; before it nothing newer than form 1 is written.
READABLE = text("SELECT coalesce(has_table_privilege(to_regclass('lifecycle.fact'), 'SELECT'), false)")


class PayloadFormError(KattegatError):
    """A payload of a form that this release can't read."""

    def __init__(self, form: object) -> None:
        self.form = form
        super().__init__(f"A task has a payload of form {form!r}, and this release reads 1 and 2; install a newer one.")


def read(document: dict[str, Any]) -> dict[str, Any]:
    """The work of a payload of any form, with `requested_by` and `trace` beside it where they are known."""
    form = document.get("form", 1)
    if form == 1:
        return document
    if form != 2:
        raise PayloadFormError(form)
    beside = {name: document[name] for name in ("requested_by", "trace") if document.get(name)}
    return {**document.get("work", {}), **beside}


def form(conn: Connection) -> int:
    """The form to write now."""
    return forms.writable(KIND, forms.finalized(conn) if conn.execute(READABLE).scalar() else None)


def write(number: int, work: dict[str, Any], *, requested_by: str = "", trace: str = "") -> dict[str, Any]:
    """A payload in this form: `read` gives the same of each, but for the trace, which form 1 has no place for."""
    asked = {"requested_by": requested_by} if requested_by else {}
    if number == 1:
        return {**work, **asked}
    return {"form": 2, "work": work, **asked, **({"trace": trace} if trace else {})}
