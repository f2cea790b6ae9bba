"""What became of each row between two releases: equal, written by the other, or on record; and nothing told falsely."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from kattegat.schema.draft import Draft
from kattegat.schema.hints import Hints
from kattegat.schema.shape import Snapshot, Table

Row = dict[str, Any]
Rows = Mapping[str, list[Row]]
# Their text in a record differs from that of the value.
_UNTOLD = ("json", "jsonb", "[]")


def key_of(source: Snapshot, target: Snapshot, table: str) -> list[str]:
    """The columns that tell rows apart on both sides and do not change, as the planner finds them."""
    return Draft(source, target, (), Hints(), {}, 1).key(table)


def keyed(listed: list[Row], key: list[str]) -> dict[tuple[Any, ...], Row]:
    """The rows by their key."""
    return {tuple(row[name] for name in key): row for row in listed}


def _keyed_where(listed: list[Row], key: list[str]) -> dict[tuple[Any, ...], Row]:
    return keyed([row for row in listed if set(key) <= row.keys()], key)


@dataclass
class Story:
    """The rows of every table before, in the other release (as they came there, and as it left them), and after."""

    source: Snapshot
    target: Snapshot
    before: Rows
    there: Rows
    written: Sequence[Rows]  # after each of its writes
    after: Rows
    further: Sequence[Sequence[Rows]] = ()  # what releases further on wrote, each in its turn

    def late(self) -> Rows:
        """As the other release left them."""
        return self.written[-1]


def account(connection: Connection, story: Story) -> None:
    """Fails with the first row of which nothing says why it is what it is."""
    records = Records(connection)
    for table in story.source.tables:
        key = key_of(story.source, story.target, table)
        if key:
            _account_keyed(story, records, table, key)
        else:
            _account_keyless(story, records, table)


def _account_keyed(story: Story, records: Records, table: str, key: list[str]) -> None:
    was, now = keyed(story.before[table], key), keyed(story.after[table], key)
    mid, late = keyed(story.there.get(table, []), key), keyed(story.late().get(table, []), key)
    shape, other = story.source.tables[table], story.target.tables.get(table)
    for k, row in was.items():
        if k not in now:
            gone = k in mid and k not in late
            assert gone or records.row_aside(table, key, k), f"{table} {k} is gone, and nothing says why: {row}"
            continue
        for name, column in shape.columns.items():
            if column.generated is None and now[k][name] != row[name]:
                _account_value(records, table, other, key, k, name, mid.get(k), late.get(k), row, now[k])
    for k in now.keys() - was.keys():
        assert k in late, f"{table} {k} came from nowhere: {now[k]}"
    if other is None:
        return
    told_keys = all(not shape.columns[name].type.endswith(_UNTOLD) for name in key)
    parked = [
        name
        for name, column in shape.columns.items()
        if column.generated is None and (name not in other.columns or other.columns[name].generated is not None)
    ]
    changed = {
        k
        for seen in ((story.there, *story.written), *story.further)
        for one, next_ in itertools.pairwise([_keyed_where(each.get(table, []), key) for each in seen])
        for k in one.keys() | next_.keys()
        if one.get(k) != next_.get(k)
    }
    if told_keys:
        _account_records(records, table, shape, key, parked, was, mid, late, changed)
    for held in records.aside(table, None):
        one = tuple(held.key.get(name) for name in key)
        if one in now and held.state in ("held", "conflict"):
            kept = {name: held.contents.get(name) for name in shape.columns}
            assert kept != now[one], f"{table} {one} is told to be set aside, and is there"


def _account_value(
    records: Records,
    table: str,
    other: Table | None,
    key: list[str],
    k: tuple[Any, ...],
    name: str,
    mid: Row | None,
    late: Row | None,
    was: Row,
    now: Row,
) -> None:
    said = f"{table} {k}: {name} was {was[name]}, is {now[name]}, and nothing says why"
    assert late is not None, said
    if mid is None:
        return  # set aside there, and the other release has made one of this key
    if other is not None and name in other.columns:
        written = mid.get(name) != late.get(name)
        assert written or records.value_aside(table, key, k, name), said
    else:
        # Parked: only a row that was given this key meanwhile may hold another value.
        assert records.given_key(table, key, k), said


def _account_records(
    records: Records,
    table: str,
    shape: Table,
    key: list[str],
    parked: list[str],
    was: Mapping[tuple[Any, ...], Row],
    mid: Mapping[tuple[Any, ...], Row],
    late: Mapping[tuple[Any, ...], Row],
    changed: set[tuple[Any, ...]],
) -> None:
    told = collections.defaultdict(list)
    for touch in records.touched(table):
        if set(touch.key) == set(key):
            told[tuple(_plain(touch.key[name], shape.columns[name].type) for name in key)].append(touch)
    plain = {k: tuple(_plain(v, shape.columns[name].type) for name, v in zip(key, k, strict=True)) for k in changed}
    if parked:
        for k in changed & mid.keys() & was.keys():
            contents = [touch.contents or {} for touch in records.touched(table) if touch.act in ("U", "D", "T")]
            kept = any(all(one.get(p) == was[k][n] for n, p in records.places(table, parked)) for one in contents)
            assert kept, f"{table} {k} was changed by the other release, and what lay parked in it is not on record"
        for k in mid.keys() - late.keys():
            if k in was:
                assert any(t.act in ("D", "U", "T") for t in told[plain[k]]) or _moved(records, table, key), (
                    f"{table} {k} was deleted by the other release, and nothing says so"
                )
    for k, touches in told.items():
        for touch in touches:
            assert touch.act not in ("U", "D") or k in plain.values(), f"{table}: {touch.act} {k} is told falsely"


def _moved(records: Records, table: str, key: list[str]) -> bool:
    """Whether a row got another key, under which it is told then."""
    return any(touch.act == "U" and set(touch.key) == set(key) for touch in records.touched(table))


def _account_keyless(story: Story, records: Records, table: str) -> None:
    def counted(listed: list[Row]) -> collections.Counter[str]:
        return collections.Counter(repr(sorted(row.items())) for row in listed)

    missing = counted(story.before[table]) - counted(story.after[table])
    changes = counted(story.there.get(table, [])) - counted(story.late().get(table, []))
    recorded = len(records.aside(table, None)) + len([t for t in records.touched(table) if t.act in ("D", "M", "T")])
    lost = missing.total() - changes.total() - recorded
    assert lost <= 0, f"{table}: {lost} rows are gone, and nothing says why: {list(missing)[:3]}"


def _unlike(told: Any, value: Any) -> bool:
    return str(told).isalnum() and str(value).isalnum() and str(told) != str(value)


def _plain(value: Any, type_: str) -> str:
    """The value of a key, whether it was read as text or from a record's JSON."""
    found = {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
    if type_.startswith("timestamp"):
        found = found.replace("T", " ").removesuffix(":00") if "T" in found else found
    if type_ == "inet":
        found = found.removesuffix("/128" if ":" in found else "/32")
    return found.rstrip() if type_.startswith("character(") else found


@dataclass
class Touch:
    """One row of parked.touched."""

    act: str
    key: Row
    contents: Row | None
    columns: list[str]


@dataclass
class Aside:
    """One row of parked.quarantine."""

    column: str | None
    key: Row
    contents: Row
    state: str


class Records:
    """What the database says of itself."""

    def __init__(self, connection: Connection) -> None:
        touched = connection.execute(
            text(
                "SELECT e.was, t.act, t.key, t.contents, e.shape FROM parked.touched t"
                " JOIN parked.entry e ON e.id = t.entry ORDER BY t.id"
            )
        )
        self._touched: dict[str, list[Touch]] = collections.defaultdict(list)
        for row in touched:
            act = row.act.decode() if isinstance(row.act, bytes) else row.act
            columns = list(row.shape.get("columns", []))
            self._touched[row.was].append(Touch(act, row.key, row.contents, columns))
        self._aside: dict[str, list[Aside]] = collections.defaultdict(list)
        for row in connection.execute(text("SELECT * FROM parked.quarantine ORDER BY id")):
            self._aside[row.table_name.replace('"', "")].append(
                Aside(row.column_name, row.key, row.contents, row.state)
            )
        places = connection.execute(text("SELECT was, now_is FROM parked.entry WHERE kind = 'column'"))
        self._places = {row.was: row.now_is.rpartition(".")[2] for row in places}

    def touched(self, table: str) -> list[Touch]:
        """What the other release is said to have done to rows of a table."""
        return self._touched[table]

    def aside(self, table: str, column: str | None) -> list[Aside]:
        """Rows of a table, or values of a column, that are set aside or were."""
        return [one for one in self._aside[table.replace('"', "")] if one.column == column]

    def row_aside(self, table: str, key: list[str], k: tuple[Any, ...]) -> bool:
        """Whether this row is on record as set aside."""
        return any(
            all(str({**one.contents, **one.key}.get(n)) == str(v) for n, v in zip(key, k, strict=True))
            for one in self.aside(table, None)
        )

    def value_aside(self, table: str, key: list[str], k: tuple[Any, ...], column: str) -> bool:
        """Whether a value of this row is on record as kept beside it, or the row itself."""
        return self.row_aside(table, key, k) or any(
            all(str(one.key.get(n)) == str(v) for n, v in zip(key, k, strict=True)) for one in self.aside(table, column)
        )

    def given_key(self, table: str, key: list[str], k: tuple[Any, ...]) -> bool:
        """Whether a change that gave a row this key, or one whose key can't be compared, is on record."""
        return any(
            touch.act == "U"
            and (set(touch.key) != set(key) or not all(_unlike(touch.key[n], v) for n, v in zip(key, k, strict=True)))
            for touch in self.touched(table)
        )

    def places(self, table: str, names: list[str]) -> list[tuple[str, str]]:
        """Each with the name that it has while it is parked."""
        return [(name, self._places[f"{table}.{name}"]) for name in names if f"{table}.{name}" in self._places]
