"""What hangs on columns, taken off before these change and put on after: constraints, indexes, triggers, views.

Taking a constraint off is followed by bringing back the rows once set aside for its sake; putting it on is preceded by
setting aside those it does not hold for. So each of the two exactly reverses the other.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from kattegat.schema import ddl
from kattegat.schema.draft import BUILD, READ, Draft, where_constraint
from kattegat.schema.shape import Constraint, Function, Index, Policy, Trigger, View


def mentions(text: str, names: Collection[str]) -> bool:
    """Whether a definition speaks of one of these qualified names, which it may print in quotes."""
    bare = text.replace('"', "")
    return any(re.search(rf"(?<![\w.]){re.escape(name.replace(chr(34), ''))}(?!\w)", bare) for name in names)


# -- constraints ----------------------------------------------------------------------------------------------------


def take_off_constraint(draft: Draft, table: str, name: str, shape: Constraint) -> None:
    """Drops a constraint of the source that the target does not have like this."""
    entry = draft.id()
    draft.foreign_keys.pop((table, name), None)
    aside = _aside_constraint(draft, entry, table, name, shape)
    if shape.kind == "foreign key":
        draft.foreign_keys.pop((table, name), None)
    # On the way back in two steps: what takes long is done without keeping readers waiting.
    first, second = _in_two(draft, table, name, shape)
    count = draft.rows(table)
    words = f"the {shape.kind} {name} of {table} is taken off"
    if second:
        # What comes first here is the end of the way back; broken off in between, it finds nothing to do.
        draft.add("take off constraint later", f"{table}.{name}",
                  f"the {shape.kind} {name} of {table} will be proven on the way back", [], second,
                  undo_words=f"every row of {table} is checked against the {shape.kind} {name}",
                  lock="SHARE UPDATE EXCLUSIVE" if shape.kind in ("check", "foreign key") else "ACCESS EXCLUSIVE",
                  tables=_locked(table, shape), undo_scans=count / READ)  # fmt: skip
    drop = [ddl.drop_constraint(table, name)]
    if second and shape.kind in ("primary key", "unique"):
        # Broken off on the way back, there may be its index alone.
        drop = _drop_key(table, name)
    back = [f"SELECT parked.take_back({entry})"] if aside else []
    draft.add("take off constraint", f"{table}.{name}", words, [*drop, *back],
              [*aside, *first],
              undo_words=f"rows of {table} that do not hold to the {shape.kind} {name} are set aside",
              tables=_locked(table, shape), undo_scans=count / READ)  # fmt: skip


def _drop_key(table: str, name: str) -> list[str]:
    return [
        f"ALTER TABLE {ddl.name(table)} DROP CONSTRAINT IF EXISTS {ddl.ident(name)}",
        f"DROP INDEX IF EXISTS {ddl.beside(table, name)}",
    ]


def _in_two(draft: Draft, table: str, name: str, shape: Constraint) -> tuple[list[str], list[str]]:
    """SQL that adds a constraint of the source, what is to be done first, and what then."""
    shaped = draft.source.tables.get(table)
    partitioned = shaped is None or shaped.partition is not None
    if shape.kind == "check" or (shape.kind == "foreign key" and not partitioned):
        look = [ddl.validate_constraint(table, name)] if shape.valid else []
        return [ddl.add_constraint(table, name, shape, not_valid=True)], look
    if shape.kind in ("primary key", "unique") and not partitioned:
        build, attach = _by_index(table, name, shape)
        return [build], [where_constraint(table, name, False, attach)]
    return [ddl.add_constraint(table, name, shape, not_valid=not shape.valid)], []


def put_on_constraint(draft: Draft, table: str, name: str, shape: Constraint) -> None:
    """Adds a constraint of the target; rows that it does not hold for are set aside first."""
    entry = draft.id()
    count = draft.rows(table)
    partitioned = draft.target.tables[table].partition is not None
    aside = _aside_constraint(draft, entry, table, name, shape)
    draft.add(
        "set aside",
        f"{table}.{name}",
        f"rows of {table} that do not hold to the {shape.kind} {name} are set aside, with those that refer to them",
        aside,
        [f"SELECT parked.take_back({entry})"],
        undo_words=f"rows of {table} that were set aside for the {shape.kind} {name} come back",
        lock="SHARE ROW EXCLUSIVE",
        tables=[table],
        scans=count / READ,
        rows=count,
        loss="set-aside",
    )
    words = f"the {shape.kind} {name} of {table} is put on"
    drop = ddl.drop_constraint(table, name)
    if shape.kind in ("check", "foreign key") and not (partitioned and shape.kind == "foreign key"):
        add = ddl.add_constraint(table, name, shape, not_valid=True)
        draft.add("put on constraint", f"{table}.{name}", words, [add], [drop], tables=_locked(table, shape))
        if shape.valid:
            draft.add(
                "validate constraint",
                f"{table}.{name}",
                f"every row of {table} is checked against {name}; readers and writers go on",
                [ddl.validate_constraint(table, name)],
                [],
                lock="SHARE UPDATE EXCLUSIVE",
                tables=[table],
                scans=count / READ,
                rows=count,
            )
    elif shape.kind in ("primary key", "unique") and not partitioned:
        # Built first and attached then: readers wait for the second only, which is short.
        build, attach = _by_index(table, name, shape)
        draft.add("build index", f"{table}.{name}", f"the index of {name} of {table} is built; readers go on", [build],
                  _drop_key(table, name), undo_words=f"the {shape.kind} {name} of {table} is taken off",
                  lock="SHARE", tables=[table],
                  scans=count / BUILD, rows=count, loss="made")  # fmt: skip
        draft.add("put on constraint", f"{table}.{name}", words, [where_constraint(table, name, False, attach)], [],
                  undo_words=f"the {shape.kind} {name} of {table} is about to go", tables=[table])  # fmt: skip
    else:
        draft.add(
            "put on constraint",
            f"{table}.{name}",
            words,
            [ddl.add_constraint(table, name, shape)],
            [drop],
            tables=_locked(table, shape),
            scans=count / BUILD,
            rows=count,
        )
    if shape.kind == "foreign key":
        draft.foreign_keys[table, name] = shape


def rename_constraint(draft: Draft, table: str, old: str, new: str) -> None:
    """The same constraint under another name."""
    words = f"the constraint {old} of {table} is renamed to {new}"
    there, back = (
        f"ALTER TABLE {ddl.name(table)} RENAME CONSTRAINT {ddl.ident(one)} TO {ddl.ident(other)}"
        for one, other in ((old, new), (new, old))
    )
    draft.add("rename constraint", f"{table}.{old}", words, [there], [back], tables=[table])
    if (table, old) in draft.foreign_keys:
        draft.foreign_keys[table, new] = draft.foreign_keys.pop((table, old))


def _locked(table: str, shape: Constraint) -> set[str]:
    return {table, shape.references} if shape.references else {table}


def _by_index(table: str, name: str, shape: Constraint) -> tuple[str, str]:
    """CREATE UNIQUE INDEX, which readers do not wait for, and the constraint that uses it."""
    word = "PRIMARY KEY" if shape.kind == "primary key" else "UNIQUE"
    rest = shape.definition.removeprefix(word).strip()
    distinct = " NULLS NOT DISTINCT" if rest.startswith("NULLS NOT DISTINCT") else ""
    rest = rest.removeprefix("NULLS NOT DISTINCT").strip()
    columns, deferral = rest, ""
    for mark in (" DEFERRABLE", " INITIALLY DEFERRED"):
        if mark in columns:
            cut = columns.index(mark)
            columns, deferral = columns[:cut], columns[cut:] + deferral
    build = f"CREATE UNIQUE INDEX {ddl.ident(name)} ON {ddl.name(table)} {columns}{distinct}"
    attach = (
        f"ALTER TABLE {ddl.name(table)} ADD CONSTRAINT {ddl.ident(name)} {word} USING INDEX {ddl.ident(name)}{deferral}"
    )
    return build, attach


def _aside_constraint(draft: Draft, entry: int, table: str, name: str, shape: Constraint) -> list[str]:
    """SQL that sets aside the rows of a table for which a constraint does not hold."""
    why = f"does not hold to the {shape.kind} {name}"
    if not shape.valid:
        return []
    if shape.kind == "check":
        return [draft.set_aside(entry, table, f"NOT ({shape.expression})", why)]
    if shape.kind == "foreign key":
        parts = [f"t.{ddl.ident(column)}" for column in shape.columns]
        same = " AND ".join(
            f"p.{ddl.ident(there)} = {mine}" for there, mine in zip(shape.referenced, parts, strict=True)
        )
        held = " AND ".join(f"{part} IS NOT NULL" for part in parts)
        parent = ddl.name(shape.references or "")
        condition = f"{held} AND NOT EXISTS (SELECT 1 FROM {parent} AS p WHERE {same})"  # noqa: S608
        # A set-aside row may have been the one that others refer to by the very same key: until nothing changes.
        draft.foreign_keys[table, name] = shape
        return [draft.set_aside(entry, table, condition, why)]
    if shape.kind == "exclude":
        return _aside_exclusion(draft, entry, table, shape, why)
    keys = [ddl.ident(column) for column in shape.columns]
    return [_aside_doubles(draft, entry, table, keys, None, shape.nulls_not_distinct, why)]


def _aside_doubles(
    draft: Draft, entry: int, table: str, keys: list[str], predicate: str | None, nulls: bool, why: str
) -> str:
    terms = ([] if nulls else [f"({key}) IS NOT NULL" for key in keys]) + ([f"({predicate})"] if predicate else [])
    where = f" WHERE {' AND '.join(terms)}" if terms else ""
    query = (
        "SELECT d.tableoid, d.ctid FROM (SELECT tableoid, ctid, row_number() OVER"  # noqa: S608
        f" (PARTITION BY {', '.join(keys)} ORDER BY tableoid, ctid) AS n FROM {ddl.name(table)}{where}) AS d"
        " WHERE d.n > 1"
    )
    return draft.set_aside_found(entry, table, query, why)


_EXCLUDE = re.compile(
    r"^EXCLUDE USING \w+ \((.*?)\)(?: INCLUDE \(.*?\))?(?: WHERE \((.*)\))?(?: DEFERRABLE.*)?$", re.DOTALL
)


# One element of it: a column (no expression), maybe with its collation, operator class and order.
_ELEMENT = re.compile(
    r'(?:^|, )("(?:[^"]|"")+"|\w+)(?: COLLATE \S+)?(?: [\w."]+_ops)?(?: ASC| DESC)?(?: NULLS \w+)?'
    r" WITH (OPERATOR\([^)]*\)|[^\s,]+)"
)


def _aside_exclusion(draft: Draft, entry: int, table: str, shape: Constraint, why: str) -> list[str]:
    found = _EXCLUDE.match(shape.definition)
    elements = list(_ELEMENT.finditer(found.group(1))) if found else []
    if found is None or "".join(each.group(0) for each in elements) != found.group(1):
        draft.reasons.append(f"the exclusion constraint {shape.definition} of {table} can't be checked beforehand")
        return []
    terms = [each.group(1, 2) for each in elements]
    clash = " AND ".join(f"o.{column} {operator} t.{column}" for column, operator in terms)
    within = f" AND {found.group(2)}" if found.group(2) else ""
    condition = (
        f"EXISTS (SELECT 1 FROM (SELECT o.*, o.ctid AS tid FROM {ddl.name(table)} AS o WHERE true{within}) AS o"  # noqa: S608
        f" WHERE o.tid < t.ctid AND {clash}){within}"
    )
    return [draft.set_aside(entry, table, condition, why)]


# -- indexes --------------------------------------------------------------------------------------------------------


def take_off_index(draft: Draft, table: str, name: str, shape: Index) -> None:
    """Drops an index; the way back builds it again."""
    entry = draft.id()
    count = draft.rows(table)
    aside = _aside_index(draft, entry, table, name, shape)
    draft.add(
        "take off index",
        f"{table}.{name}",
        f"the index {name} of {table} is taken off",
        [ddl.drop_index(table, name), *([f"SELECT parked.take_back({entry})"] if aside else [])],
        [*aside, ddl.create_index(shape)],
        undo_words=f"the index {name} of {table} is built again",
        tables=[table],
        undo_scans=count / BUILD,
        loss="derived",
    )


def put_on_index(draft: Draft, table: str, name: str, shape: Index) -> None:
    """Builds an index of the target; doubles that a unique one forbids are set aside first."""
    entry = draft.id()
    count = draft.rows(table)
    aside = _aside_index(draft, entry, table, name, shape)
    draft.add(
        "build index",
        f"{table}.{name}",
        f"the index {name} of {table} is built; readers go on",
        [*aside, ddl.create_index(shape)],
        [ddl.drop_index(table, name), *([f"SELECT parked.take_back({entry})"] if aside else [])],
        undo_words=f"the index {name} of {table} is taken off",
        lock="SHARE ROW EXCLUSIVE" if aside else "SHARE",
        tables=[table],
        scans=count / BUILD,
        rows=count,
        loss="set-aside" if aside else "made",
    )


def rename_index(draft: Draft, table: str, old: str, new: str) -> None:
    """The same index under another name."""
    there = f"ALTER INDEX {ddl.beside(table, old)} RENAME TO {ddl.ident(new)}"
    back = f"ALTER INDEX {ddl.beside(table, new)} RENAME TO {ddl.ident(old)}"
    draft.add("rename index", f"{table}.{old}", f"the index {old} is renamed to {new}", [there], [back])


def _aside_index(draft: Draft, entry: int, table: str, name: str, shape: Index) -> list[str]:
    if not shape.unique:
        return []
    why = f"a double that the unique index {name} does not allow"
    keys = list(shape.keys)
    return [_aside_doubles(draft, entry, table, keys, shape.predicate, shape.nulls_not_distinct, why)]


# -- triggers, policies, views, functions: no data of their own --------------------------------------------------------


def take_off_trigger(draft: Draft, table: str, name: str, shape: Trigger) -> None:
    """Drops a trigger."""
    words = f"the trigger {name} of {table} is taken off"
    draft.add(
        "take off trigger",
        f"{table}.{name}",
        words,
        [ddl.drop_trigger(table, name)],
        ddl.create_trigger(table, name, shape),
        undo_words=f"the trigger {name} of {table} is put on",
        tables=[table],
    )


def put_on_trigger(draft: Draft, table: str, name: str, shape: Trigger) -> None:
    """Makes a trigger."""
    words = f"the trigger {name} of {table} is put on"
    draft.add(
        "put on trigger",
        f"{table}.{name}",
        words,
        ddl.create_trigger(table, name, shape),
        [ddl.drop_trigger(table, name)],
        undo_words=f"the trigger {name} of {table} is taken off",
        tables=[table],
    )


def take_off_policy(draft: Draft, table: str, name: str, shape: Policy) -> None:
    """Drops a row-level security policy."""
    words = f"the policy {name} of {table} is taken off"
    draft.add(
        "take off policy",
        f"{table}.{name}",
        words,
        [ddl.drop_policy(table, name)],
        [ddl.create_policy(table, name, shape)],
        undo_words=f"the policy {name} of {table} is put on",
        tables=[table],
    )


def put_on_policy(draft: Draft, table: str, name: str, shape: Policy) -> None:
    """Makes a row-level security policy."""
    words = f"the policy {name} of {table} is put on"
    draft.add(
        "put on policy",
        f"{table}.{name}",
        words,
        [ddl.create_policy(table, name, shape)],
        [ddl.drop_policy(table, name)],
        undo_words=f"the policy {name} of {table} is taken off",
        tables=[table],
    )


def view_kind(shape: View) -> str:
    """The word of ALTER and GRANT."""
    return "materialized view" if shape.materialized else "view"


def make_view(name: str, shape: View) -> list[str]:
    """A view with its indexes, owner and grants."""
    kind = view_kind(shape)
    return [
        ddl.create_view(name, shape),
        *(ddl.create_index(index) for index in shape.indexes.values()),
        *([ddl.set_owner(name, kind, shape.owner)] if shape.owner else []),
        *ddl.grants(name, kind, {}, shape.grants),
    ]


def make_function(name: str, shape: Function) -> list[str]:
    """A function with its owner and grants."""
    return [
        *ddl.create_function(shape),
        *([ddl.set_owner(name, shape.kind, shape.owner)] if shape.owner else []),
        *ddl.grants(name, shape.kind, ddl.usual_grants(shape.kind), shape.grants),
    ]


def in_order(views: dict[str, View], chosen: Collection[str]) -> list[str]:
    """The chosen views, each after those it reads."""
    done: list[str] = []

    def visit(name: str) -> None:
        if name in done or name not in chosen:
            return
        for used in views[name].uses:
            if used != name and used in views:
                visit(used)
        done.append(name)

    for name in sorted(chosen):
        visit(name)
    return done
