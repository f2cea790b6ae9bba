"""What OpenKAT's revisions do to rows and not only to shapes, told in both directions, for the planner.

A `Hop` belongs to the newer of two neighbouring revisions. Its SQL is our own. `[[public.tasks.data]]` in a data step
stands for that column or table wherever it lies while the step runs: under its own name where both revisions have it or
the one that is being made, parked where only the one that is being left has it.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct, field

from kattegat.lifecycle.openkat import facts
from kattegat.lifecycle.openkat.facts import Part
from kattegat.schema import ddl
from kattegat.schema.hints import DataStep, Hints, Refresh
from kattegat.schema.shape import Snapshot

_MARK = re.compile(r"\[\[([\w.]+)\]\]")
_LIMITED = re.compile(r"^character varying(?:\((\d+)\))?(\[\])?$")


class TwoWay(Struct, frozen=True):
    """SQL of both directions. It runs while both sides have their tables and columns (those of the side that is left
    are parked) and no constraint of the target holds yet; with `newer`, while the newer shape is whole."""

    down_words: str
    up_words: str
    down: tuple[str, ...] = ()
    up: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    newer: bool = False


class Hop(Struct, frozen=True):
    """What a revision and the one before it need besides their shapes. `fill` and `refresh` serve both directions."""

    fill: dict[str, str] = field(default_factory=dict)
    refresh: dict[str, Refresh] = field(default_factory=dict)
    steps: tuple[TwoWay, ...] = ()
    renames: tuple[tuple[str, str, str], ...] = ()  # table, name in the newer, name in the older


def entry(*words: str) -> int:
    """A number under which rows of a data step are set aside: below zero, where no plan reserves any."""
    return -1 - zlib.crc32(":".join(words).encode())


def place(number: int, table: str, keys: Sequence[str], column: str, condition: str, instead: str, why: str) -> str:
    """SQL that puts another value in the place of those that a condition (over alias t) finds, and keeps theirs."""
    listed = ", ".join(ddl.literal(key) for key in keys)
    texts = [ddl.literal(text) for text in (ddl.name(table), column, condition, instead, why)]
    return f"SELECT parked.place({number}, {texts[0]}, ARRAY[{listed}]::text[], {', '.join(texts[1:])})"


def aside(number: int, table: str, condition: str, why: str, edges: Snapshot | None = None, *, rule: str = "") -> str:
    """SQL that sets aside the rows of a table (alias t) that a condition finds, and with `edges`, the schema whose
    foreign keys count, every row that refers to them. Keys with `rule` in their definition do not count."""
    query = f"SELECT t.tableoid, t.ctid FROM {ddl.name(table)} AS t WHERE {condition}"  # noqa: S608 - names and our SQL
    found = [
        (child, edge) for child, edge, text in (_edges(edges, table) if edges else ()) if not rule or rule not in text
    ]
    tables = {table, *(child for child, _ in found)}
    keys = {ddl.name(name): list(_key(edges, name)) if edges else [] for name in sorted(tables)}
    texts = [ddl.literal(text) for text in (ddl.name(table), query, why)]
    documents = [ddl.literal(json.dumps(one)) for one in ([edge for _, edge in found], keys)]
    return f"SELECT parked.set_aside({number}, {', '.join(texts + documents)})"


def take_back(number: int) -> str:
    """SQL that brings back what was set aside."""
    return f"SELECT parked.take_back({number})"


def restore(number: int) -> str:
    """SQL that brings back the values in whose place others were put."""
    return f"SELECT parked.restore({number})"


def _key(shape: Snapshot, table: str) -> tuple[str, ...]:
    for constraint in shape.tables[table].constraints.values():
        if constraint.kind == "primary key":
            return constraint.columns
    return ()


def _edges(shape: Snapshot, table: str) -> Iterator[tuple[str, dict[str, str], str]]:
    waiting, seen = [table], {table}
    while waiting:
        parent = waiting.pop()
        for child, held in sorted(shape.tables.items()):
            for _, key in sorted(held.constraints.items()):
                if key.kind != "foreign key" or key.references != parent:
                    continue
                yield (
                    child,
                    {
                        "child": ddl.name(child),
                        "child_columns": ", ".join(f"t.{ddl.ident(column)}" for column in key.columns),
                        "parent": ddl.name(parent),
                        "parent_columns": ", ".join(f"p.{ddl.ident(column)}" for column in key.referenced),
                    },
                    key.definition,
                )
                if child not in seen:
                    seen.add(child)
                    waiting.append(child)


def newer_of(part: Part, one: str, other: str) -> str:
    """The newer of two revisions."""
    order = facts.chain(part)
    return one if order.index(one) > order.index(other) else other


def known(part: Part) -> Mapping[str, Hop]:
    """The hops of a part that need more than shapes, by the newer revision."""
    from kattegat.lifecycle.openkat.steps import bytes_, katalogus, rocky, scheduler

    return {"scheduler": scheduler.HOPS, "katalogus": katalogus.HOPS, "bytes": bytes_.HOPS, "rocky": rocky.HOPS}[part]


def hop_of(part: Part, one: str, other: str, shapes: Mapping[str, Snapshot]) -> Hop:
    """What is known of going between two neighbouring revisions, whichever way."""
    from kattegat.lifecycle.openkat.steps import rocky

    newer = newer_of(part, one, other)
    hop = known(part).get(newer, Hop())
    if part == "rocky":
        hop = rocky.with_schema(newer, hop, shapes[newer])
    return hop


def hints(part: Part, source: str, target: str, have: Snapshot, want: Snapshot) -> Hints:
    """The planner's hints for one hop, `source` to `target`, whose shapes are `have` and `want`."""
    hop = hop_of(part, source, target, {source: have, target: want})
    down = newer_of(part, source, target) == source
    newer, older = (have, want) if down else (want, have)
    columns = {}
    for table, new, old in hop.renames:
        held, wanted = newer.tables[table].columns, older.tables[table].columns
        if new in held and old in wanted:
            columns[f"{table}.{new if down else old}"] = old if down else new
    before: list[DataStep] = list(_narrowing(part, f"{source}>{target}", have, want, columns))
    after: list[DataStep] = []
    for step in hop.steps:
        there, back = (step.down, step.up) if down else (step.up, step.down)
        made = DataStep(
            words=step.down_words if down else step.up_words,
            undo_words=step.up_words if down else step.down_words,
            do=tuple(rendered(sql, have, want) for sql in there),
            undo=tuple(rendered(sql, have, want) for sql in back),
            tables=tuple(name for name in step.tables if name in have.tables and name in want.tables),
        )
        (before if step.newer and down else after).append(made)
    return Hints(columns=columns, fill=hop.fill, refresh=hop.refresh, before=tuple(before), after=tuple(after))


def rendered(sql: str, have: Snapshot, want: Snapshot) -> str:
    """The SQL with its marks replaced: by the planner's own for what is parked, by plain names for the rest."""

    def where(found: re.Match[str]) -> str:
        path = found[1]
        if path in have.tables or path in want.tables:
            return ddl.name(path) if path in want.tables else "{" + path + "}"
        table, _, column = path.rpartition(".")
        wanted = want.tables.get(table)
        # Of a table that is parked whole the columns keep their names.
        if wanted is None or column in wanted.columns:
            return ddl.ident(column)
        return "{" + path + "}"

    return _MARK.sub(where, sql)


def _narrowing(part: Part, hop: str, have: Snapshot, want: Snapshot, renamed: Mapping[str, str]) -> Iterator[DataStep]:
    """Rows with a text longer than the target's limit are set aside whole: a text cut short would be another's name."""
    for table in sorted(have.tables.keys() & want.tables.keys()):
        for name, shape in sorted(have.tables[table].columns.items()):
            name = renamed.get(f"{table}.{name}", name)
            wanted = want.tables[table].columns.get(name)
            if wanted is None or shape.type == wanted.type:
                continue
            mine, theirs = _LIMITED.match(shape.type), _LIMITED.match(wanted.type)
            if not mine or not theirs or not theirs[1] or (mine[1] and int(mine[1]) <= int(theirs[1])):
                continue
            column, limit = f"t.{ddl.ident(name)}", theirs[1]
            long = (
                f"EXISTS (SELECT 1 FROM unnest({column}) AS each (one) WHERE length(each.one) > {limit})"  # noqa: S608
                if theirs[2]
                else f"length({column}) > {limit}"
            )
            number = entry(part, hop, table, name)
            short = table.removeprefix("public.")
            why = f"{name} is longer than {limit} characters"
            yield DataStep(
                words=f"rows of {short} whose {name} is longer than {limit} characters are set aside, with those that "
                "refer to them",
                undo_words=f"rows of {short} that were set aside for their long {name} come back",
                do=(aside(number, table, long, why, have),),
                undo=(take_back(number),),
                tables=(table,),
            )
