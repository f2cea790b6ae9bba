"""A snapshot as it reads once tables and columns have other names: PostgreSQL follows a rename in what uses them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from sqlalchemy.dialects.postgresql.base import RESERVED_WORDS

from kattegat.schema import ddl
from kattegat.schema.shape import Snapshot

# Parts of a shape that hold bare names; all others are SQL as printed.
_BARE = ("columns", "referenced", "references", "uses", "owned_by", "function")
Swap = Callable[[str], str]


def clashes(source: Snapshot, tables: Mapping[str, str], columns: Mapping[str, str]) -> list[str]:
    """Why the source can't be renamed like this, one clause each."""
    taken = {*source.tables, *source.views, *source.sequences}
    found = []
    for old, new in tables.items():
        if old in source.tables and new in taken:
            found.append(f"{old} can't be renamed to {new}, which is there already")
        elif ddl.schema_of(old) != ddl.schema_of(new):
            found.append(f"{old} can't be renamed to {new}, which lies in another schema")
    back = {new: old for old, new in tables.items()}
    for path, new in columns.items():
        table, old = _split(path, [*source.tables, *back])
        shape = source.tables.get(back.get(table, table))
        if shape is not None and old in shape.columns and new in shape.columns:
            found.append(f"{old} of {table} can't be renamed to {new}, which is there already")
    return found


def split(path: str, tables: Mapping[str, object]) -> tuple[str, str]:
    """`public.task.note` as table and column; both may hold dots."""
    return _split(path, list(tables))


def _split(path: str, tables: list[str]) -> tuple[str, str]:
    found = [table for table in tables if path.startswith(f"{table}.")]
    if found:
        table = max(found, key=len)
        return table, path[len(table) + 1 :]
    table, _, column = path.rpartition(".")
    return table, column


def renamed(source: Snapshot, tables: Mapping[str, str], columns: Mapping[str, str]) -> Snapshot:
    """The source under its new names; `tables` maps old to new, `columns` maps `new table.old column` to the
    new column.

    The texts of definitions are changed word by word, so that they are SQL that fits the new names. Where PostgreSQL
    would print them otherwise, a definition differs from the target's, and is taken off and put on again: dearer only.
    """
    shape = msgspec.json.decode(source.document())
    for old, new in tables.items():
        if old in source.tables:
            text = _words(_qualified(old), _printed(new))
            shape = _everywhere(shape, text, _path(old, new), named=True)
            _rename_in_queries(shape, old.partition(".")[2], new)
    for path, new in columns.items():
        table, old = _split(path, list(shape.get("tables", {})))
        _rename_column(shape, table, old, new)
    return msgspec.convert(shape, Snapshot)


def _plain(name: str) -> bool:
    return re.fullmatch(r"[a-z_][a-z0-9_]*", name) is not None and name not in RESERVED_WORDS


def _word(name: str) -> str:
    return name if _plain(name) else ddl.ident(name)


def _printed(qualified: str) -> str:
    schema, _, rest = qualified.partition(".")
    return f"{_word(schema)}.{_word(rest)}"


def _qualified(qualified: str) -> list[str]:
    schema, _, rest = qualified.partition(".")
    return [f"{one}.{other}" for one in (schema, ddl.ident(schema)) for other in (rest, ddl.ident(rest))]


def _words(forms: list[str], new: str, after: str = "") -> Swap:
    """A name in the forms in which it may be printed: bare where that is a word, and in quotes."""
    usable = [one for one in forms if one.endswith('"') or re.fullmatch(r"[\w.]+", one)]
    either = "|".join(re.escape(one) for one in usable)
    # Constants and other quoted names are passed over whole.
    pattern = re.compile(rf"""(?<![\w."])({either})(?![\w"{after}])|'(?:[^']|'')*'|"(?:[^"]|"")*\"""")
    return lambda text: pattern.sub(lambda found: new if found.group(1) else found.group(0), text)


def _path(old: str, new: str) -> Swap:
    """A bare name, or that of a column below it."""

    def swap(name: str) -> str:
        return new + name[len(old) :] if name == old or name.startswith(f"{old}.") else name

    return swap


def _everywhere(value: Any, text: Swap, bare: Swap, named: bool = False) -> Any:
    if isinstance(value, str):
        return text(value)
    if isinstance(value, list):
        return [_everywhere(each, text, bare) for each in value]
    if not isinstance(value, dict):
        return value
    found: dict[str, Any] = {}
    for key, each in value.items():
        if key in _BARE and isinstance(each, str):
            found[key] = bare(each)
        elif key in _BARE and isinstance(each, list):
            found[key] = [bare(one) for one in each]
        elif named and key in ("tables", "views", "sequences"):
            found[key] = {bare(name): _everywhere(one, text, bare) for name, one in each.items()}
        elif named and key == "functions":
            found[key] = {text(name): _function(one, text, bare) for name, one in each.items()}
        else:
            found[key] = _everywhere(each, text, bare)
    return found


def _rename_in_queries(shape: dict[str, Any], old: str, new: str) -> None:
    """In a query a table's columns go by its name alone."""
    before = re.compile(rf"""(?<![\w."])((?:{re.escape(old)}|{re.escape(ddl.ident(old))})(?=\.))|'(?:[^']|'')*'""")
    word = _word(new.partition(".")[2])
    for kind in ("views", "functions"):
        for each in shape.get(kind, {}).values():
            if new in each.get("uses", []):
                each["definition"] = before.sub(
                    lambda found: word if found.group(1) else found.group(0), each["definition"]
                )


def _function(shape: dict[str, Any], text: Swap, bare: Swap) -> dict[str, Any]:
    """Signatures and parsed bodies follow; the text of other bodies stays what it was."""
    found = {**shape, "uses": [bare(one) for one in shape.get("uses", [])]}
    found["returns"] = text(shape.get("returns", ""))
    head, mark, body = shape["definition"].partition("\nAS ")
    found["definition"] = text(head) + mark + body
    return found


def _rename_column(shape: dict[str, Any], table: str, old: str, new: str) -> None:
    mine = shape.get("tables", {}).get(table)
    if mine is None or old not in mine["columns"]:
        return
    # Before a bracket it is a function.
    text = _words([old, ddl.ident(old)], _word(new), after="(")

    def bare(name: str) -> str:
        return new if name == old else name

    mine["columns"] = {bare(name): column for name, column in mine["columns"].items()}
    for part in ("constraints", "indexes", "triggers", "policies"):
        # The name of a constraint or index stays what it was.
        mine[part] = {name: _part(each, text, bare) for name, each in mine.get(part, {}).items()}
    for column in mine["columns"].values():
        if column.get("generated"):
            column["generated"] = text(column["generated"])
            column["uses"] = [bare(each) for each in column.get("uses", [])]
    if old in mine.get("column_grants", {}):
        mine["column_grants"][new] = mine["column_grants"].pop(old)
    for other in shape["tables"].values():
        for constraint in other.get("constraints", {}).values():
            if constraint.get("references") == table:
                constraint["referenced"] = [bare(each) for each in constraint["referenced"]]
                head, _, tail = constraint["definition"].partition(" REFERENCES ")
                constraint["definition"] = f"{head} REFERENCES {text(tail)}"
    path = _path(f"{table}.{old}", f"{table}.{new}")
    below = re.compile(rf'(?<=\.)(?:{re.escape(old)}|{re.escape(ddl.ident(old))})(?![\w"])')
    for view in shape.get("views", {}).values():
        if f"{table}.{old}" in view.get("uses", []):
            view["definition"] = below.sub(lambda _: _word(new), text(view["definition"]))
            view["uses"] = [path(each) for each in view["uses"]]
    for function in shape.get("functions", {}).values():
        if f"{table}.{old}" in function.get("uses", []):
            function["definition"] = below.sub(lambda _: _word(new), text(function["definition"]))
            function["uses"] = [path(each) for each in function["uses"]]
    for sequence in shape.get("sequences", {}).values():
        if sequence.get("owned_by"):
            sequence["owned_by"] = path(sequence["owned_by"])


def _part(shape: dict[str, Any], text: Swap, bare: Swap) -> dict[str, Any]:
    """A constraint, index, trigger or policy: its own columns are bare names, the rest is SQL."""
    found: dict[str, Any] = {}
    for key, each in shape.items():
        if key == "columns":
            found[key] = [bare(one) for one in each]
        elif key == "definition" and shape.get("kind") == "foreign key":
            head, mark, tail = each.partition(" REFERENCES ")
            found[key] = text(head) + mark + tail
        elif key in ("definition", "expression", "predicate", "using", "check") and isinstance(each, str):
            found[key] = text(each)
        elif key == "keys":
            found[key] = [text(one) for one in each]
        else:
            found[key] = each
    return found
