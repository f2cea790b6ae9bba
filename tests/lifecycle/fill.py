"""Fills every table of a schema from what its catalogue says: boundary values, every allowed value, every column used.

Knows no table: so it fills those of a release to come as well. Rows that a constraint refuses are tried with other
values; a table that stays empty, or a column in which no row has a value, is an error of the filler's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import psycopg
from sqlalchemy import Connection, text

from kattegat.schema.shape import Column, Constraint, Snapshot, Table

ROWS = 12  # at most, of one table
TRIES = 60
ALL_BYTES = "\\x" + bytes(range(256)).hex()
# A driver's placeholder, quotes, a brace, a backslash, and characters of one to four bytes.
AWKWARD = "100% 'quoted' \"too\" {brace} \\ äöü 中文 🐚"
JSON = '{"a": [1, 2.5, null, true, "ü 🐚"], "b": {"c": {"d": []}}, "%s": "{x}", "long": "' + "y" * 500 + '"}'
NEVER = ("alembic_version",)

_LIST = re.compile(r"\(?\(?\"?(\w+)\"?\)?(?:::text)?\)? = ANY \(+ARRAY\[(.*?)\]")
_LABEL = re.compile(r"'((?:[^']|'')*)'")
_RANGE = re.compile(r"\(\"?(\w+)\"? >= (-?\d+)\) AND \(\"?\1\"? <= (-?\d+)\)")
_EQUAL = re.compile(r"^\(?\"?(\w+)\"? = (-?\d+)\)?$")

Values = Mapping[str, Sequence[str | None]]


class NotFilledError(AssertionError):
    """A table or column that no row could be made for."""


def fill(connection: Connection, snapshot: Snapshot, *, values: Values | None = None) -> dict[str, int]:
    """Adds rows to every table, in the caller's transaction; gives how many by table.

    `values` are those to use for a column (`public.fact.value`), as texts, in place of what its type suggests. The role
    must pass row-level security: the owner of the tables, or a superuser.
    """
    made: dict[str, int] = {}
    driver = connection.connection.driver_connection
    assert driver is not None
    _may_write(connection)
    with driver.cursor() as cursor:
        for name in _ordered(snapshot):
            if name.rpartition(".")[2] not in NEVER:
                made[name] = _Filler(cursor, snapshot, name, values or {}).fill()
    return made


def contents(connection: Connection, snapshot: Snapshot, tables: Iterable[str] | None = None) -> dict[str, list[str]]:
    """Every row of every table as text, sorted, with the columns by name: what has to be equal after there and back."""
    found = {}
    for name in sorted(tables if tables is not None else snapshot.tables):
        if name.rpartition(".")[2] in NEVER:
            continue
        listed = ", ".join(f'"{column}"::text' for column in sorted(snapshot.tables[name].columns))
        rows = connection.execute(text(f"SELECT ROW({listed})::text FROM {_quoted(name)}"))
        found[name] = sorted(str(row[0]) for row in rows)
    return found


class _Filler:
    def __init__(self, cursor: psycopg.Cursor[tuple[object, ...]], snapshot: Snapshot, name: str, values: Values):
        self.cursor = cursor
        self.name = name
        self.table = snapshot.tables[name]
        self.keys = [one for one in self.table.constraints.values() if one.kind == "foreign key"]
        # Those with most columns first: they decide what the shorter ones share with them.
        self.keys.sort(key=lambda key: -len(key.columns))
        self.candidates = {
            column: values.get(f"{name}.{column}") or _candidates(column, one, self.table, snapshot)
            for column, one in self.table.columns.items()
            if not one.generated and not one.identity
        }
        self.used: set[str] = set()

    def fill(self) -> int:
        before = self._count()
        wanted = min(ROWS, max([3, *(len(each) for each in self.candidates.values())]))
        made = sum(self._row(number) for number in range(wanted))
        if before:
            # What may be there once only is there.
            return made
        if not made:
            raise NotFilledError(f"no row could be made for {self.name}")
        unused = self.candidates.keys() - self.used
        if unused:
            raise NotFilledError(f"no row of {self.name} has a value in {', '.join(sorted(unused))}")
        return made

    def _count(self) -> int:
        found = self.cursor.execute(f"SELECT count(*) FROM {_quoted(self.name)}".encode()).fetchone()
        return int(str(found[0])) if found else 0

    def _row(self, number: int) -> bool:
        shift: dict[str, int] = {}
        for attempt in range(TRIES):
            row = self._values(number, shift)
            if row is None:
                return False
            refused = self._insert(row)
            if refused is None:
                self.used.update(column for column, value in row.items() if value is not None)
                return True
            # Other values for what the constraint reads: an odometer over its columns.
            columns = [c for c in refused if c in self.candidates] or list(self.candidates)
            for place, column in enumerate(sorted(columns)):
                size = len(self.candidates[column])
                before = 1
                for other in sorted(columns)[:place]:
                    before *= len(self.candidates[other])
                shift[column] = ((attempt + 1) // before) % size
        return False

    def _values(self, number: int, shift: Mapping[str, int]) -> dict[str, str | None] | None:
        row: dict[str, str | None] = {}
        for column, each in self.candidates.items():
            row[column] = each[(number + shift.get(column, 0)) % len(each)]
        fixed: dict[str, str | None] = {}
        for key in self.keys:
            parent = self._parent(key, fixed, number)
            optional = [c for c in key.columns if c not in fixed and not self.table.columns[c].not_null]
            # The last of every four leaves out a reference that may be left out.
            if parent is None or (optional and number % 4 == 3):
                if not optional:
                    return None
                fixed.update(dict.fromkeys(optional, None))
            else:
                fixed.update(parent)
        return {**row, **{column: value for column, value in fixed.items() if column in self.candidates}}

    def _parent(self, key: Constraint, fixed: Mapping[str, str | None], number: int) -> dict[str, str | None] | None:
        assert key.references is not None
        pairs = dict(zip(key.columns, key.referenced, strict=True))
        known = {theirs: fixed[mine] for mine, theirs in pairs.items() if fixed.get(mine) is not None}
        condition = " AND ".join(f'"{column}"::text = %s' for column in known) or "true"
        listed = ", ".join(f'"{theirs}"::text' for theirs in pairs.values())
        query = f"SELECT {listed} FROM {_quoted(key.references)} WHERE {condition} ORDER BY 1"
        found = self.cursor.execute(query.encode(), list(known.values())).fetchall()
        if not found:
            return None
        chosen = found[number % len(found)]
        return {mine: None if value is None else str(value) for mine, value in zip(pairs, chosen, strict=True)}

    def _insert(self, row: Mapping[str, str | None]) -> list[str] | None:
        """None when it is in; else the columns that the constraint that refused it reads."""
        types = [f"CAST(%s::text AS {self.table.columns[column].type})" for column in row]
        listed = ", ".join(f'"{column}"' for column in row)
        statement = (
            f"INSERT INTO {_quoted(self.name)} ({listed}) VALUES ({', '.join(types)})"
            if row
            else f"INSERT INTO {_quoted(self.name)} DEFAULT VALUES"
        )
        self.cursor.execute("SAVEPOINT fill")
        try:
            self.cursor.execute(statement.encode(), list(row.values()))
        except (psycopg.errors.IntegrityError, psycopg.errors.DataError) as problem:
            self.cursor.execute("ROLLBACK TO SAVEPOINT fill")
            return self._columns_of(problem)
        self.cursor.execute("RELEASE SAVEPOINT fill")
        return None

    def _columns_of(self, problem: psycopg.Error) -> list[str]:
        name = problem.diag.constraint_name or ""
        if name in self.table.constraints:
            return list(self.table.constraints[name].columns)
        if name in self.table.indexes:
            return list(self.table.indexes[name].columns)
        return [problem.diag.column_name] if problem.diag.column_name else []


def _candidates(name: str, column: Column, table: Table, snapshot: Snapshot) -> list[str | None]:
    allowed = _allowed(name, table)
    found: list[str | None] = list(allowed) if allowed else list(_of_type(name, column, table, snapshot))
    return found if column.not_null else [*found, None]


def _allowed(name: str, table: Table) -> list[str]:
    """The values that a check lists, or the ends of the range it sets."""
    for constraint in table.constraints.values():
        if constraint.kind != "check" or constraint.expression is None:
            continue
        listed = _LIST.search(constraint.expression)
        if listed and listed[1] == name:
            return [label.replace("''", "'") for label in _LABEL.findall(listed[2])]
        between = _RANGE.search(constraint.expression)
        if between and between[1] == name:
            return [between[2], between[3]]
        equal = _EQUAL.search(constraint.expression)
        if equal and equal[1] == name:
            return [equal[2]]
    return []


def _of_type(name: str, column: Column, table: Table, snapshot: Snapshot) -> list[str]:
    kind = column.type
    if kind in snapshot.enums:
        return list(snapshot.enums[kind].labels)
    if kind in snapshot.domains:
        return _of_type(name, Column(type=snapshot.domains[kind].type), table, snapshot)
    if kind.endswith("[]"):
        return ["{}", '{"1"}'] if _is_number(kind) else ["{}", '{"a","b c"}']
    sized = re.fullmatch(r"character varying\((\d+)\)|character\((\d+)\)", kind)
    if sized:
        longest = int(sized[1] or sized[2])
        return ["", "ü" * longest, *(f"{number}"[:longest] for number in range(1, 4))]
    base = kind.partition("(")[0]
    now = datetime.now(UTC).replace(microsecond=123456)
    if base.startswith("timestamp"):
        if table.partition and re.search(rf"\b{name}\b", table.partition):
            return [(now + timedelta(seconds=number)).isoformat() for number in range(4)]
        return ["2001-02-03T04:05:06.789012+00:00", *((now + timedelta(days=n)).isoformat() for n in range(1, 4))]
    known: dict[str, list[str]] = {
        "text": ["", AWKWARD, "x" * 2000, "kept", "another", "third"],
        "smallint": ["0", "1", "32767", "-32768"],
        "integer": ["0", "1", "2147483647", "-2147483648"],
        "bigint": ["0", "1", "9223372036854775807", "-9223372036854775808"],
        "numeric": ["0", "1.5", "-2.25"] if "(" in kind else ["0", "-1.00000000000000000001", "1e30"],
        "real": ["0", "1.5", "-3.4e38"],
        "double precision": ["0", "0.1", "-1.7976931348623157e308", "NaN"],
        "boolean": ["true", "false"],
        "bytea": ["\\x", ALL_BYTES, "\\x00", "\\x01", "\\x02"],
        "jsonb": ["{}", JSON, "[]", "[1, 2]"],
        "json": ["{}", JSON],
        "uuid": [f"00000000-0000-4000-8000-{number:012}" for number in range(4)],
        "date": ["2001-02-03", "2026-12-31", "9999-12-31"],
        "time without time zone": ["00:00:00", "23:59:59.999999"],
        "interval": ["0", "1 mon 2 days 03:04:05.678901", "-1 day"],
        "inet": ["127.0.0.1", "2001:db8::1/64", "10.0.0.1/8"],
        "cidr": ["10.0.0.0/8", "2001:db8::/32", "192.0.2.0/24", "198.51.100.7/32"],
        "macaddr": ["08:00:2b:01:02:03"],
        "xml": ["<a/>"],
        "tsvector": ["'a':1"],
    }
    if base not in known:
        raise NotFilledError(f"no values are known for the type {kind} of {name}")
    return known[base]


def _is_number(kind: str) -> bool:
    return kind.startswith(("smallint", "integer", "bigint", "numeric"))


def _ordered(snapshot: Snapshot) -> list[str]:
    """Tables, those first that others refer to; of a circle the one by name."""
    waiting = dict(snapshot.tables)
    done: list[str] = []
    while waiting:
        free = [
            name
            for name, table in sorted(waiting.items())
            if not any(
                one.kind == "foreign key" and one.references in waiting and one.references != name
                for one in table.constraints.values()
            )
        ]
        for name in free or sorted(waiting)[:1]:
            done.append(name)
            del waiting[name]
    return done


def _may_write(connection: Connection) -> None:
    """A session that no `Database` has opened has to say the epoch of the fence itself."""
    if connection.execute(text("SELECT to_regclass('lifecycle.epoch') IS NOT NULL")).scalar():
        connection.execute(text("SELECT set_config('kat.epoch', last_value::text, true) FROM lifecycle.epoch"))


def _quoted(name: str) -> str:
    return ".".join(f'"{part}"' for part in name.split(".", 1))
