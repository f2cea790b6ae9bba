"""The forms of a task's payload, which is kept as JSON.

Form 1 is the work alone: `{"evidence_id": 7, "requested_by": "piet", ...}`. Form 2 is an envelope around it, so that
what belongs to the task (who asked for it, the trace that it is part of) can't be taken for the work:
`{"form": 2, "work": {...}, "requested_by": "piet", "trace": "00-..."}`. This release reads both and writes form 1.
"""

from __future__ import annotations

from typing import Any

from kattegat.errors import KattegatError

KIND = "task payload"


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
