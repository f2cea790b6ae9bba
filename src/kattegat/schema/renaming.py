"""A snapshot as it reads once tables and columns have other names: PostgreSQL follows a rename in what uses them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from kattegat.schema.shape import Snapshot


def renamed(source: Snapshot, tables: Mapping[str, str], columns: Mapping[str, str]) -> Snapshot:
    """The source under its new names; `tables` maps old to new, `columns` maps `new table.old column` to the
    new column.

    The texts of definitions are changed word by word. Where a word was meant otherwise, the definition differs from the
    target's, and is taken off and put on again: dearer, never wrong.
    """
    shape = msgspec.json.decode(source.document())
    for old, new in tables.items():
        swap = _words(old, new)
        shape = _everywhere(shape, swap, skip=("functions",))
    for path, new in columns.items():
        table, _, old = path.rpartition(".")
        _rename_column(shape, table, old, new)
    return msgspec.convert(shape, Snapshot)


def _words(old: str, new: str) -> Callable[[str], str]:
    pattern = re.compile(rf'(?<![\w."]){re.escape(old)}(?![\w"])')
    return lambda text: pattern.sub(lambda _: new, text)


def _everywhere(value: Any, swap: Callable[[str], str], skip: tuple[str, ...] = ()) -> Any:
    if isinstance(value, str):
        return swap(value)
    if isinstance(value, list):
        return [_everywhere(each, swap) for each in value]
    if isinstance(value, dict):
        return {swap(key): each if key in skip else _everywhere(each, swap) for key, each in value.items()}
    return value


def _rename_column(shape: dict[str, Any], table: str, old: str, new: str) -> None:
    mine = shape.get("tables", {}).get(table)
    if mine is None or old not in mine["columns"]:
        return
    swap = _words(old, new)
    mine["columns"] = {new if name == old else name: column for name, column in mine["columns"].items()}
    for part in ("constraints", "indexes", "triggers", "policies"):
        # The name of a constraint or index stays what it was.
        mine[part] = {name: _everywhere(each, swap) for name, each in mine.get(part, {}).items()}
    for column in mine["columns"].values():
        if column.get("generated"):
            column["generated"] = swap(column["generated"])
            column["uses"] = [swap(each) for each in column.get("uses", [])]
    if old in mine.get("column_grants", {}):
        mine["column_grants"][new] = mine["column_grants"].pop(old)
    for other in shape["tables"].values():
        for constraint in other.get("constraints", {}).values():
            if constraint.get("references") == table:
                constraint["referenced"] = [new if each == old else each for each in constraint["referenced"]]
                head, _, tail = constraint["definition"].partition(" REFERENCES ")
                constraint["definition"] = f"{head} REFERENCES {swap(tail)}"
    for view in shape.get("views", {}).values():
        if f"{table}.{old}" in view.get("uses", []):
            view["definition"] = swap(view["definition"])
            view["uses"] = [f"{table}.{new}" if each == f"{table}.{old}" else each for each in view["uses"]]
    for sequence in shape.get("sequences", {}).values():
        if sequence.get("owned_by") == f"{table}.{old}":
            sequence["owned_by"] = f"{table}.{new}"
