"""What the shapes of two schemas can't tell, told by the person who writes a revision."""

from __future__ import annotations

from msgspec import Struct, field


class DataStep(Struct, frozen=True):
    """SQL of one's own in both directions, for what no shape tells.

    It runs when every column and table of the target is there (before NOT NULL and constraints), and what the target
    does not know is parked: `{public.task.note}` in the SQL stands for where that column or table lies then.
    """

    words: str
    do: tuple[str, ...]
    undo: tuple[str, ...] = ()
    undo_words: str = ""
    tables: tuple[str, ...] = ()


class Refresh(Struct, frozen=True):
    """A column whose value follows from others: for rows whose `when` columns were changed while it was parked."""

    sql: str
    when: tuple[str, ...]


class Hints(Struct, frozen=True):
    """Names are qualified: `public.task`, `public.task.note`. In SQL, `{note}` is that column of the same table,
    wherever it lies while the SQL runs."""

    tables: dict[str, str] = field(default_factory=dict)  # renamed: source table -> target table
    columns: dict[str, str] = field(default_factory=dict)  # renamed: `target table.source column` -> target column
    # column of the target -> SQL for rows that have no value and need one; or, of the source, for the rows that the
    # target's release has made meanwhile, on the way back
    fill: dict[str, str] = field(default_factory=dict)
    refresh: dict[str, Refresh] = field(default_factory=dict)  # the same for rows changed meanwhile
    place: dict[str, dict[str, str]] = field(
        default_factory=dict
    )  # target column -> {value it can't hold: put instead}
    before: tuple[DataStep, ...] = ()  # before anything is parked
    after: tuple[DataStep, ...] = ()

    def __bool__(self) -> bool:
        return any((self.tables, self.columns, self.fill, self.refresh, self.place, self.before, self.after))
