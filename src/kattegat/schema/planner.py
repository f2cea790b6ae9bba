"""The way from one shape to another that loses nothing.

The order is that of a careful removal: what hangs on things comes off, things that the target does not know are parked,
what it needs is made or comes back, values follow, and what hangs on things is put on again, last of all what others
see.
Every step is exactly reversed by its undo, so the way back is the same list read from its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kattegat.errors import KattegatError
from kattegat.schema import way
from kattegat.schema.draft import Draft
from kattegat.schema.hints import DataStep, Hints, Refresh
from kattegat.schema.ledger import Entry
from kattegat.schema.renaming import clashes, renamed
from kattegat.schema.shape import Snapshot
from kattegat.schema.steps import Plan

__all__ = ["AnswerNeededError", "CannotPlanError", "DataStep", "Hints", "Refresh", "plan"]


class CannotPlanError(KattegatError):
    """No plan that loses nothing is known; `reasons` says why, one clause each."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__("No plan can be made: " + "; ".join(reasons) + ".")


class AnswerNeededError(KattegatError):
    """The shapes leave open what rows should hold; `questions` maps `public.task.note` to what has to be known."""

    def __init__(self, questions: Mapping[str, str]) -> None:
        self.questions = dict(questions)
        asked = "; ".join(f"{name}: {what}" for name, what in questions.items())
        super().__init__(f"The plan needs answers: {asked}.")


def plan(
    source: Snapshot,
    target: Snapshot,
    *,
    parked: Sequence[Entry] = (),
    hints: Hints | None = None,
    rows: Mapping[str, int] | None = None,
    first_id: int = 1,
) -> Plan:
    """Steps from `source` to `target`.

    `parked` is what lies in the ledger, to be brought back where the target knows it; `rows` are estimates per table
    (0: known to be empty; missing: unknown); `first_id` is the first free id. Raises `CannotPlanError` or
    `AnswerNeededError`.
    """
    given = hints or Hints()
    if reasons := clashes(source, given.tables, given.columns):
        raise CannotPlanError(reasons)
    draft = Draft(renamed(source, given.tables, given.columns), target, parked, given, rows or {}, first_id)
    way.go(draft)
    if draft.reasons:
        raise CannotPlanError(draft.reasons)
    if draft.questions:
        raise AnswerNeededError(draft.questions)
    return draft.plan(source)
