"""The way from one shape to another that loses nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct, field

from kattegat.errors import KattegatError
from kattegat.schema.ledger import Entry
from kattegat.schema.shape import Snapshot
from kattegat.schema.steps import Plan


class DataStep(Struct, frozen=True):
    """SQL of one's own in both directions: what no shape tells. Runs with the parked columns and tables still named as
    the source names them (`before`), or with the target's shape whole but for its constraints (`after`)."""

    words: str
    do: tuple[str, ...]
    undo: tuple[str, ...] = ()
    undo_words: str = ""
    tables: tuple[str, ...] = ()


class Hints(Struct, frozen=True):
    """What shapes can't tell. Names are qualified: `public.task`, `public.task.note`."""

    tables: dict[str, str] = field(default_factory=dict)  # renamed: source table -> target table
    columns: dict[str, str] = field(default_factory=dict)  # renamed: `target table.source column` -> target column
    fill: dict[str, str] = field(default_factory=dict)  # target column -> SQL for rows that have no value and need one
    place: dict[str, dict[str, str]] = field(
        default_factory=dict
    )  # target column -> {value it can't hold: put instead}
    before: tuple[DataStep, ...] = ()
    after: tuple[DataStep, ...] = ()


class CannotPlanError(KattegatError):
    """No plan that loses nothing is known; `reasons` says why, one sentence each."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__("No plan can be made: " + "; ".join(reasons) + ".")


class AnswerNeededError(KattegatError):
    """The shapes leave open what the rows should hold; `questions` maps `public.task.note` to what has to be known."""

    def __init__(self, questions: Mapping[str, str]) -> None:
        self.questions = dict(questions)
        super().__init__(
            "The plan needs answers: " + "; ".join(f"{name}: {what}" for name, what in questions.items()) + "."
        )


def plan(
    source: Snapshot,
    target: Snapshot,
    *,
    parked: Sequence[Entry] = (),
    hints: Hints = Hints(),  # noqa: B008 - frozen
    rows: Mapping[str, int] | None = None,
    first_id: int = 1,
) -> Plan:
    """Steps from `source` to `target`. `rows` are estimates per table; `first_id` the first free id for what is parked.

    Raises `CannotPlanError` or `AnswerNeededError`.
    """
    raise NotImplementedError
