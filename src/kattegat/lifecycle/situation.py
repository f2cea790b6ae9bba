"""What the checks before a change of release look at, and what a check is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

from msgspec import Struct
from sqlalchemy import Connection, text

from kattegat.schema.steps import Plan
from kattegat.settings import Settings

Kind = Literal["upgrade", "downgrade"]


class Situation(Struct, frozen=True):
    """What the checks look at; `plan` once there is one."""

    connection: Connection
    settings: Settings
    kind: Kind
    plan: Plan | None = None
    scratch: bool = False  # whether scratch databases will be made

    def rows(self, sql: str, **values: Any) -> list[Any]:
        """The rows of a query."""
        return list(self.connection.execute(text(sql), values))

    def value(self, sql: str, **values: Any) -> Any:
        """The single value of a query."""
        return self.connection.execute(text(sql), values).scalar()


Check = Callable[[Situation], Iterator[str]]
