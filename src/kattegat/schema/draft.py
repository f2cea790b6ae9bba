"""A plan while it is made: the steps so far, the ids they reserve, and what exists at this point of the way."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from kattegat.schema import ddl
from kattegat.schema.hints import DataStep, Hints
from kattegat.schema.ledger import Entry
from kattegat.schema.shape import Constraint, Snapshot, Table
from kattegat.schema.steps import Lock, Loss, Plan, Step

# Rows per second of a plain server, for the expected times: reading, rewriting a table, building an index, writing.
READ, REWRITE, BUILD, WRITE = 2_000_000.0, 400_000.0, 700_000.0, 60_000.0

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][\w.]*)\}")


class Draft:
    """Collects steps. `source` has the names of the target already where the hints say what was renamed."""

    def __init__(
        self,
        source: Snapshot,
        target: Snapshot,
        parked: Sequence[Entry],
        hints: Hints,
        rows: Mapping[str, int],
        first_id: int,
    ) -> None:
        self.source = source
        self.target = target
        self.hints = hints
        self.steps: list[Step] = []
        self.questions: dict[str, str] = {}
        self.reasons: list[str] = []
        self._rows = rows
        self._next = itertools.count(first_id)
        self._entries = [entry for entry in parked if entry.state == "parked"]
        # Foreign keys that exist at this point; which rows have to go along with others depends on them.
        self.foreign_keys: dict[tuple[str, str], Constraint] = {
            (table, name): constraint
            for table, shape in source.tables.items()
            for name, constraint in shape.constraints.items()
            if constraint.kind == "foreign key"
        }
        # The ids of columns and tables that only one side knows, and where they lie (quoted) while the other side's
        # names hold: `public.task.note` -> "_p12". There the source's are parked, on the way back the target's.
        self.ids: dict[str, int] = {}
        self.there: dict[str, str] = {}
        # Tables whose rows are read or written on the way, there or back.
        self.moved: set[str] = set()
        self.back: dict[str, str] = {}

    def id(self) -> int:
        """A fresh id."""
        return next(self._next)

    def entry(self, kind: str, was: str, shape: object = None) -> Entry | None:
        """What an earlier step has parked under this name: of several the one of this shape, or else the newest."""
        found = [entry for entry in self._entries if (entry.kind, entry.was) == (kind, was)]
        alike = [entry for entry in found if shape is not None and entry.shape == plain(shape)]
        return (alike or found)[-1] if found else None

    def watches(self, table: str, column: str) -> list[Entry]:
        """The watches over a parked column, given by the name it has while it is parked."""
        watching = [entry for entry in self._entries if (entry.kind, entry.was) == ("watch", table)]
        return [entry for entry in watching if column in entry.shape.get("columns", ())]  # type: ignore[operator]

    def add(
        self,
        kind: str,
        target: str,
        words: str,
        do: Iterable[str],
        undo: Iterable[str],
        *,
        undo_words: str = "",
        lock: Lock = "ACCESS EXCLUSIVE",
        tables: Collection[str] = (),
        rewrite: bool = False,
        scans: float = 0.0,
        undo_scans: float = 0.0,
        rows: int = 0,
        loss: Loss = "kept",
        alone: bool = False,
    ) -> None:
        """Adds a step; `scans` are the seconds that its rows take, on top of some milliseconds for the catalogue."""
        done, undone = tuple(do), tuple(undo)
        self.steps.append(
            Step(
                kind=kind,
                target=target,
                words=words,
                undo_words=undo_words,
                do=done,
                undo=undone,
                lock=lock if tables or lock != "ACCESS EXCLUSIVE" else "",
                tables=tuple(sorted(tables)),
                rewrite=rewrite,
                rows=rows,
                seconds=round(0.005 * len(done) + scans, 3),
                undo_seconds=round(0.005 * len(undone) + undo_scans, 3),
                loss=loss,
                alone=alone,
            )
        )

    def rows(self, table: str) -> int:
        """How many rows a table is thought to have."""
        return self._rows.get(table, 0)

    def may_have_rows(self, table: str) -> bool:
        """False only where it is known to be empty."""
        return self._rows.get(table, 1) > 0

    def key(self, table: str) -> list[str]:
        """The columns that tell a table's rows apart on both sides; none when nothing does."""
        mine, theirs = self.source.tables.get(table), self.target.tables.get(table)
        unique = [
            sorted(
                (c.kind != "primary key", c.columns)
                for c in shape.constraints.values()
                if c.kind in ("primary key", "unique")
            )
            for shape in (theirs, mine)
            if shape is not None
        ]
        for _, columns in unique[0] if unique else ():
            # A key of one side alone may have doubles while the other side's shape holds.
            everywhere = all(any(set(columns) == set(other) for _, other in keys) for keys in unique)
            if everywhere and all(self._stable(name, mine, theirs) for name in columns):
                return list(columns)
        return []

    @staticmethod
    def _stable(name: str, mine: Table | None, theirs: Table | None) -> bool:
        both = [shape.columns.get(name) for shape in (mine, theirs) if shape is not None]
        found = [column for column in both if column is not None]
        if len(found) != len(both):
            return False
        return all(column.not_null and column.type == found[0].type and not column.generated for column in found)

    def edges(self, table: str) -> list[dict[str, str]]:
        """Every foreign key over which a row of this table can be referred to, directly or through others."""
        found: list[dict[str, str]] = []
        seen = {table}
        waiting = [table]
        while waiting:
            parent = waiting.pop()
            for (child, _name), key in sorted(self.foreign_keys.items()):
                if key.references != parent:
                    continue
                found.append(
                    {
                        "child": ddl.name(child),
                        "child_columns": ", ".join(f"t.{ddl.ident(column)}" for column in key.columns),
                        "parent": ddl.name(parent),
                        "parent_columns": ", ".join(f"p.{ddl.ident(column)}" for column in key.referenced),
                    }
                )
                if child not in seen:
                    seen.add(child)
                    waiting.append(child)
        return found

    def set_aside(self, entry: int, table: str, condition: str, why: str) -> str:
        """SQL that sets aside the rows of a table (alias t) that a condition finds."""
        query = f"SELECT t.tableoid, t.ctid FROM {ddl.name(table)} AS t WHERE {condition}"  # noqa: S608
        return self.set_aside_found(entry, table, query, why)

    def set_aside_found(self, entry: int, table: str, query: str, why: str) -> str:
        """SQL that sets aside the rows (tableoid, ctid) that a query finds."""
        edges = self.edges(table)
        names = {
            table,
            *(
                name
                for name in self.source.tables | self.target.tables
                if ddl.name(name) in {edge["child"] for edge in edges}
            ),
        }
        keys = {ddl.name(name): self.key(name) for name in sorted(names)}
        self.moved |= names
        arguments = (ddl.name(table), query, why, json.dumps(edges), json.dumps(keys))
        return f"SELECT parked.set_aside({entry}, {', '.join(ddl.literal(each) for each in arguments)})"

    def resolve(self, sql: str, *, parked: bool) -> str:
        """SQL of a data step with `{public.task.note}` or `{public.task}` replaced by where that lies: before anything
        is parked, or when what the target does not know is."""
        tables = self.source.tables | (self.target.tables if parked else {})

        def where(match: re.Match[str]) -> str:
            named = match.group(1)
            if parked and named in self.there:
                return self.there[named]
            if named in tables:
                return ddl.name(named)
            column = ddl.split_column(named, self.target.tables) or ddl.split_column(named, self.source.tables)
            return ddl.ident(column[1]) if column else match.group(0)

        return _PLACEHOLDER.sub(where, sql)

    def column_sql(self, table: str, sql: str, *, back: bool) -> str:
        """SQL over a row of a table, with `{note}` replaced by where that column lies, there or on the way back."""
        places = self.back if back else self.there
        sides = (self.source.tables.get(table), self.target.tables.get(table))

        def where(match: re.Match[str]) -> str:
            named = match.group(1)
            if any(side is not None and named in side.columns for side in sides):
                return places.get(f"{table}.{named}", ddl.ident(named))
            # A brace may as well be an array's: '{a}'.
            return places.get(named, match.group(0))

        return _PLACEHOLDER.sub(where, sql)

    def plan(self, source: Snapshot) -> Plan:
        """The finished plan; `source` as it really is named."""
        return Plan(
            source=source.fingerprint(), target=self.target.fingerprint(), steps=tuple(self.steps), next_id=self.id()
        )


def plain(shape: object) -> object:
    """A part of a snapshot as it lies in the ledger."""
    return msgspec.json.decode(msgspec.json.encode(shape))


def note(entry: int, kind: str, was: str, now_is: str, shape: object) -> str:
    """SQL that records a thing as parked."""
    document = msgspec.json.encode(shape, order="deterministic").decode()
    texts = ", ".join(ddl.literal(each) for each in (kind, was, now_is, document))
    return f"SELECT parked.note({entry}, {texts})"


def returned(entry: int) -> str:
    """SQL that records it as back."""
    return f"SELECT parked.returned({entry})"


def away(word: str, qualified: str, entry: int, final: str, arguments: str = "") -> list[str]:
    """SQL that moves a thing (`word` as in ALTER) to schema `parked` under its id. It gets a name of ours before it
    moves and its own after, since either schema may have one of the other name."""
    schema, short = ddl.schema_of(qualified), qualified.partition(".")[2]
    between = f"_kat_{entry}"
    return [
        f"ALTER {word} {ddl.ident(schema)}.{ddl.ident(short)}{arguments} RENAME TO {between}",
        f"ALTER {word} {ddl.ident(schema)}.{between}{arguments} SET SCHEMA parked",
        f"ALTER {word} parked.{between}{arguments} RENAME TO {final}",
    ]


def home(word: str, qualified: str, entry: int, final: str, arguments: str = "") -> list[str]:
    """SQL that moves it back."""
    schema, short = ddl.schema_of(qualified), qualified.partition(".")[2]
    between = f"_kat_{entry}"
    return [
        f"ALTER {word} parked.{final}{arguments} RENAME TO {between}",
        f"ALTER {word} parked.{between}{arguments} SET SCHEMA {ddl.ident(schema)}",
        f"ALTER {word} {ddl.ident(schema)}.{between}{arguments} RENAME TO {ddl.ident(short)}",
    ]


def either(entry: int, parked: Sequence[str], absent: Sequence[str]) -> str:
    """One statement that brings a thing back where it is parked, and makes it where it has never been."""
    back, make = (
        "".join(f"        {_perform(sql)};\n" for sql in each) or "        NULL;\n" for each in (parked, absent)
    )
    return f"DO $kat_do$\nBEGIN\n    IF parked.is({entry}) THEN\n{back}    ELSE\n{make}    END IF;\nEND $kat_do$"


def where_constraint(table: str, name: str, there: bool, sql: str) -> str:
    """One statement that does something only where a constraint is there, or is not: an undo may find it either way."""
    found = (
        f"EXISTS (SELECT 1 FROM pg_catalog.pg_constraint WHERE conrelid = {ddl.literal(ddl.name(table))}::regclass"  # noqa: S608
        f" AND conname = {ddl.literal(name)})"
    )
    return f"DO $kat_do$ BEGIN IF {'' if there else 'NOT '}{found} THEN {sql}; END IF; END $kat_do$"


def _perform(sql: str) -> str:
    return "PERFORM" + sql[6:] if sql.startswith("SELECT ") else sql


def data_step(draft: Draft, step: DataStep, *, parked: bool) -> None:
    """Adds SQL of the revision's own."""
    draft.moved |= set(step.tables)
    draft.add(
        "data",
        ", ".join(step.tables),
        step.words,
        [draft.resolve(sql, parked=parked) for sql in step.do],
        [draft.resolve(sql, parked=parked) for sql in step.undo],
        undo_words=step.undo_words,
        lock="SHARE ROW EXCLUSIVE",
        tables=step.tables,
        loss="set-aside",
    )
