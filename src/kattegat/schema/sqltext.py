"""The SQL of a plan as texts that run in one transaction, for where no journal does them step by step."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import Connection, text

from kattegat.errors import KattegatError
from kattegat.schema.catalog import SETTINGS
from kattegat.schema.steps import Plan
from kattegat.schema.stored import SET_REVISION

_CONCURRENTLY = re.compile(
    r"^(\s*(?:CREATE\s+(?:UNIQUE\s+)?INDEX|DROP\s+INDEX|REINDEX\s+(?:INDEX|TABLE)|REFRESH\s+MATERIALIZED\s+VIEW))"
    r"\s+CONCURRENTLY\b",
    re.IGNORECASE,
)

# What a session that runs the texts by hand, in a transaction, has to say first.
AS_A_CHANGE = (
    *(f"SET LOCAL {name} = '{value}'" for name, value in SETTINGS.items()),
    "SET LOCAL check_function_bodies = 'off'",
    "SET LOCAL kat.change = 'on'",
    "SET LOCAL kat.change_of = 'printed'",
    "SELECT set_config('kat.epoch', last_value::text, true) FROM lifecycle.epoch",
)


class StatementError(KattegatError):
    """A statement of a plan that PostgreSQL refused; its transaction is broken, and so nothing of the plan is done."""

    def __init__(self, statement: str, reason: str) -> None:
        self.statement = statement
        self.reason = reason
        shown = " ".join(statement.split())
        shown = shown if len(shown) <= 120 else shown[:117] + "..."
        super().__init__(f"PostgreSQL refused a statement of the plan ({reason.rstrip('.')}): {shown}")


def plain(statement: str) -> str:
    """The statement without CONCURRENTLY, which refuses a transaction; alone in the database nobody misses it."""
    return _CONCURRENTLY.sub(r"\1", statement)


def repeated(statement: str) -> str:
    """One statement that repeats another until it changes no row: a data step that would be done in batches."""
    quote = "$kat_batch$"
    return (
        f"DO {quote}\nDECLARE\n    changed bigint;\nBEGIN\n    LOOP\n        {statement};\n"
        f"        GET DIAGNOSTICS changed = ROW_COUNT;\n        EXIT WHEN changed = 0;\n    END LOOP;\nEND {quote}"
    )


def in_one_transaction(plan: Plan, *, whole: bool = False) -> list[str]:
    """The statements of a plan, first to last. Unless `whole` without that on Alembic's table, which Alembic writes."""
    found: list[str] = []
    for step in plan.steps:
        do = step.do[1:] if step.kind == SET_REVISION and not whole else step.do
        found.extend(plain(statement) for statement in do)
        if step.batches is not None:
            found.append(repeated(step.batches.do))
    return found


def run(connection: Connection, statements: Iterable[str]) -> None:
    """Runs texts as they are, in the connection's transaction, with the settings that plans are written for.

    Raises `StatementError`.
    """
    with _as_a_change(connection):
        driver = connection.connection.driver_connection
        if driver is None:
            raise ValueError("the connection is closed")
        with driver.cursor() as cursor:
            for statement in statements:
                try:
                    # Without parameters, so that a % is a %.
                    cursor.execute(statement.encode(), prepare=False)
                except psycopg.Error as problem:
                    raise StatementError(statement, problem.diag.message_primary or str(problem)) from problem


@contextmanager
def _as_a_change(connection: Connection) -> Iterator[None]:
    """As the journal has it: names are qualified, and the triggers on parked things let the change itself pass."""
    wanted = {**SETTINGS, "check_function_bodies": "off", "kat.change": "on"}
    before = connection.execute(
        text("SELECT n, coalesce(current_setting(n, true), '') FROM unnest(CAST(:names AS text[])) AS n"),
        {"names": [*wanted, "kat.change_of"]},
    ).all()
    was = {str(name): str(value) for name, value in before}
    if not was["kat.change_of"]:
        wanted["kat.change_of"] = "alembic"
    _set(connection, wanted)
    yield
    # After an error the transaction is broken, and takes its settings with it.
    _set(connection, was)


def _set(connection: Connection, settings: dict[str, str]) -> None:
    statement = text("SELECT set_config(n, v, true) FROM unnest(CAST(:n AS text[]), CAST(:v AS text[])) AS s (n, v)")
    connection.execute(statement, {"n": list(settings), "v": list(settings.values())}).all()
