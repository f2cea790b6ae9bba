"""A shape with one thing less, or one more: what a revision asks for, as the target of a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from kattegat.errors import KattegatError
from kattegat.schema.ledger import Entry
from kattegat.schema.shape import Column, Constraint, Snapshot, Table

T = TypeVar("T")


class NoSuchThingError(KattegatError):
    """A table or column that the schema does not have, or already has."""


def without_column(shape: Snapshot, table: str, column: str) -> Snapshot:
    """The shape without a column (`public.task`, `note`) and all that reads it.

    These are constraints, indexes, triggers, policies, foreign keys to it, generated columns, and views.
    Raises `NoSuchThingError`.
    """
    if table not in shape.tables:
        raise NoSuchThingError(f"There is no table {table} to park a column of.")
    if column not in shape.tables[table].columns:
        raise NoSuchThingError(f"Table {table} has no column {column} to park.")
    gone = {column}
    columns = shape.tables[table].columns
    while True:
        more = {name for name, one in columns.items() if one.generated and gone.intersection(one.uses)} - gone
        if not more:
            break
        gone |= more
    if not columns.keys() - gone:
        raise NoSuchThingError(f"{column} is the only column of {table}: park the table.")
    names = {f"{table}.{name}" for name in gone}
    cut = _table_without(shape.tables[table], gone)
    tables = {name: cut if name == table else one for name, one in shape.tables.items()}
    return _settle(replace(shape, tables=tables), names)


def without_table(shape: Snapshot, table: str) -> Snapshot:
    """The shape without a table, the foreign keys to it, and the views and policies that read it.

    Raises `NoSuchThingError`.
    """
    if table not in shape.tables:
        raise NoSuchThingError(f"There is no table {table} to park.")
    names = {table, *(f"{table}.{column}" for column in shape.tables[table].columns)}
    return _settle(replace(shape, tables=_kept(shape.tables, lambda name, _: name != table)), names)


def with_entry(shape: Snapshot, entry: Entry) -> Snapshot:
    """The shape with a parked column or table back where it was, as it was. Raises `NoSuchThingError`."""
    if entry.kind == "table":
        if entry.was in shape.tables:
            raise NoSuchThingError(f"There is a table {entry.was} already, so the parked one can't come back.")
        return replace(shape, tables={**shape.tables, entry.was: msgspec.convert(entry.shape, Table)})
    if entry.kind != "column":
        raise NoSuchThingError(f"{entry.was} is parked as {entry.kind}, and only columns and tables come back by name.")
    table, _, column = entry.was.rpartition(".")
    if table not in shape.tables:
        raise NoSuchThingError(f"There is no table {table} for its parked column {column} to come back to.")
    have = shape.tables[table]
    if column in have.columns:
        raise NoSuchThingError(f"Table {table} has a column {column} already, so the parked one can't come back.")
    back = replace(have, columns={**have.columns, column: msgspec.convert(entry.shape, Column)})
    return replace(shape, tables={**shape.tables, table: back})


def _table_without(table: Table, gone: set[str]) -> Table:
    return replace(
        table,
        columns=_kept(table.columns, lambda name, _: name not in gone),
        constraints=_kept(table.constraints, lambda _, one: not gone.intersection(one.columns)),
        indexes=_kept(table.indexes, lambda _, one: not gone.intersection(one.columns)),
        triggers=_kept(table.triggers, lambda _, one: not gone.intersection(one.columns)),
        policies=_kept(table.policies, lambda _, one: not gone.intersection(one.columns)),
        column_grants=_kept(table.column_grants, lambda name, _: name not in gone),
    )


def _settle(shape: Snapshot, gone: set[str]) -> Snapshot:
    """Takes out what still reads one of the names that are gone, until nothing does."""
    while True:
        views = {name for name, one in shape.views.items() if gone.intersection(one.uses)}
        gone = gone | views | {f"{view}.{column}" for view in views for column in shape.views[view].columns}
        shape = replace(
            shape,
            views=_kept(shape.views, lambda name, _, views=views: name not in views),  # type: ignore[misc]
            sequences=_kept(shape.sequences, lambda _, one, gone=gone: one.owned_by not in gone),  # type: ignore[misc]
            tables={name: _table_settled(one, gone) for name, one in shape.tables.items()},
        )
        if not views:
            return shape


def _table_settled(table: Table, gone: set[str]) -> Table:
    def stands(constraint: Constraint) -> bool:
        if constraint.kind != "foreign key" or constraint.references is None:
            return True
        refers_to = {constraint.references, *(f"{constraint.references}.{name}" for name in constraint.referenced)}
        return not gone & refers_to

    return replace(
        table,
        constraints=_kept(table.constraints, lambda _, one: stands(one)),
        policies=_kept(table.policies, lambda _, one: not gone.intersection(one.uses)),
    )


def _kept(things: Mapping[str, T], stays: Callable[[str, T], bool]) -> dict[str, T]:
    return {name: thing for name, thing in things.items() if stays(name, thing)}
