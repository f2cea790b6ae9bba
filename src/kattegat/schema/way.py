"""The phases of a plan, in order: which things differ, and which step each difference becomes."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from kattegat.schema import columns, ddl, dependents, relations
from kattegat.schema.dependents import mentions
from kattegat.schema.draft import Draft, away, home, note, returned
from kattegat.schema.hints import DataStep
from kattegat.schema.shape import Column, Constraint, Domain, Enum, Function, Index, Sequence, Snapshot, Table


class Way:
    """One plan in the making. `mine` is the source, `theirs` the target."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.mine: Snapshot = draft.source
        self.theirs: Snapshot = draft.target
        self.common: list[str] = []
        self.leaving: list[str] = []
        self.coming: list[str] = []
        self.types: dict[str, Enum | Domain] = {}
        self.wanted_types: dict[str, Enum | Domain] = {**self.theirs.enums, **self.theirs.domains}
        self.changed_types: list[str] = []
        self.affected: dict[str, set[str]] = {}
        self.gone_functions: set[str] = set()
        self.kept_views: set[str] = set()
        # What is still on at each table once all that had to come off is off.
        self.on: dict[str, Table] = {}

    def go(self) -> None:
        """Drafts every step."""
        self._bring_back()
        self._refuse()
        if self.draft.reasons:
            return
        self._name()
        self._find_affected()
        self._rename()
        self._views_off()
        self._dependents_off()
        self._functions_off()
        for step in self.draft.hints.before:
            self._data(step)
        self._leave()
        self._make()
        self._alter()
        self._values()
        self._dependents_on()
        self._last()

    # -- before anything ----------------------------------------------------------------------------------------------

    def _bring_back(self) -> None:
        """What an earlier change has parked and the target knows comes back as it was; from there on it is the source's."""
        draft, mine, theirs = self.draft, self.mine, self.theirs
        enums, domains, sequences = dict(mine.enums), dict(mine.domains), dict(mine.sequences)
        tables = dict(mine.tables)
        for name in _types_in_order(self.wanted_types, self.wanted_types.keys() - enums.keys() - domains.keys()):
            shape = self.wanted_types[name]
            before = draft.entry("type", name, shape)
            if before is not None:
                was = msgspec.convert(before.shape, type(shape))
                relations.bring_back_type(draft, name, before, was)
                if isinstance(was, Enum):
                    enums[name] = was
                else:
                    domains[name] = was
        for name in sorted(theirs.sequences.keys() - sequences.keys()):
            if before := draft.entry("sequence", name):
                sequences[name] = msgspec.convert({**before.shape, "owned_by": None}, Sequence)
                relations.bring_back_sequence(draft, name, before, sequences[name])
        for name in sorted(theirs.tables.keys() - tables.keys()):
            if before := draft.entry("table", name):
                tables[name] = msgspec.convert(before.shape, Table)
                relations.bring_back_table(draft, name, before, tables[name])
        for table in sorted(theirs.tables.keys() & mine.tables.keys()):
            columns_ = dict(tables[table].columns)
            for name, shape_ in sorted(theirs.tables[table].columns.items()):
                before = draft.entry("column", f"{table}.{name}")
                if before is not None and name not in columns_ and shape_.generated is None:
                    held = msgspec.convert(before.shape, Column)
                    columns_[name] = msgspec.structs.replace(held, not_null=bool(held.identity))
                    columns.bring_back(draft, table, name, before, columns_[name])
            tables[table] = msgspec.structs.replace(tables[table], columns=columns_)
        self.mine = draft.source = msgspec.structs.replace(
            mine, enums=enums, domains=domains, sequences=sequences, tables=tables
        )
        self.common = sorted(tables.keys() & theirs.tables.keys())
        self.leaving = sorted(tables.keys() - theirs.tables.keys())
        self.coming = sorted(theirs.tables.keys() - tables.keys())
        self.types = {**enums, **domains}

    def _refuse(self) -> None:
        """What no plan of ours changes."""
        reasons = self.draft.reasons
        for extension in sorted(set(self.mine.extensions) ^ set(self.theirs.extensions)):
            reasons.append(f"the extension {extension} is on one side only")
        for other in sorted(set(self.mine.other) ^ set(self.theirs.other)):
            reasons.append(f"{other} is on one side only")
        for table in self.common:
            if self.mine.tables[table].partition != self.theirs.tables[table].partition:
                reasons.append(f"{table} is partitioned in another way")
        kinds = (
            dict.fromkeys(self.mine.tables, "table") | dict.fromkeys(self.mine.views, "view"),
            dict.fromkeys(self.theirs.tables, "table") | dict.fromkeys(self.theirs.views, "view"),
        )
        for name in sorted(kinds[0].keys() & kinds[1].keys()):
            if kinds[0][name] != kinds[1][name]:
                reasons.append(f"{name} is a {kinds[0][name]} on one side and a {kinds[1][name]} on the other")
        for name in sorted(self.types.keys() & self.wanted_types.keys()):
            if type(self.types[name]) is not type(self.wanted_types[name]):
                reasons.append(f"{name} is an enum on one side and a domain on the other")

    def _name(self) -> None:
        """Gives its id to each column and table that one side only knows."""
        draft = self.draft
        for table in self.leaving:
            draft.ids[table] = draft.id()
            draft.there[table] = f"parked.t{draft.ids[table]}"
        for table in self.coming:
            draft.ids[table] = draft.id()
            draft.back[table] = f"parked.t{draft.ids[table]}"
        for table in self.common:
            mine, theirs = self.mine.tables[table].columns, self.theirs.tables[table].columns
            for name in sorted(name for name in mine if self._parks(mine[name], theirs.get(name))):
                path = f"{table}.{name}"
                draft.ids[path] = draft.id()
                draft.there[path] = ddl.ident(f"_p{draft.ids[path]}")
            for name in sorted(name for name in theirs if self._makes(mine.get(name), theirs[name])):
                path = f"{table}.{name}"
                if path in draft.ids:
                    continue
                draft.ids[path] = draft.id()
                draft.back[path] = ddl.ident(f"_p{draft.ids[path]}")

    @staticmethod
    def _parks(mine: Column, theirs: Column | None) -> bool:
        # A plain column whose name a generated one takes is parked too.
        return mine.generated is None and (theirs is None or theirs.generated is not None)

    @staticmethod
    def _makes(mine: Column | None, theirs: Column) -> bool:
        return theirs.generated is None and (mine is None or mine.generated is not None)

    def _find_affected(self) -> None:
        """Columns, types and functions that change so that what hangs on them has to come off first."""
        self.changed_types = [
            name
            for name in sorted(self.types.keys() & self.wanted_types.keys())
            if _bare(self.types[name]) != _bare(self.wanted_types[name])
        ]
        while True:
            more = [
                name
                for name, shape in self.mine.domains.items()
                if name in self.theirs.domains
                and name not in self.changed_types
                and mentions(shape.type, self.changed_types)
            ]
            if not more:
                break
            self.changed_types += more
        for table in self.common:
            mine, theirs = self.mine.tables[table].columns, self.theirs.tables[table].columns
            self.affected[table] = {
                name
                for name, shape in mine.items()
                if name not in theirs
                or shape.type != theirs[name].type
                or shape.collation != theirs[name].collation
                or shape.generated != theirs[name].generated
                or mentions(shape.type, self.changed_types)
            }
        for table in self.leaving:
            self.affected[table] = set()
        while True:
            functions = {
                name
                for name, shape in self.mine.functions.items()
                if name not in self.gone_functions
                and name in self.theirs.functions
                and self._function_goes(name, shape)
            }
            self.gone_functions |= functions
            generated = 0
            for table in self.common:
                for name, shape in self.mine.tables[table].columns.items():
                    if shape.generated is not None and name not in self.affected[table]:
                        uses = set(shape.uses)
                        if uses & (self.affected[table] | self.gone_functions) or mentions(
                            shape.generated, self.changed_types
                        ):
                            self.affected[table].add(name)
                            generated += 1
            if not functions and not generated:
                break

    def _function_goes(self, name: str, shape: Function) -> bool:
        wanted = self.theirs.functions[name]
        if (shape.kind, shape.returns) != (wanted.kind, wanted.returns):
            return True
        if mentions(f"{name} {shape.returns}", self.changed_types):
            return True
        return bool(set(shape.uses) & self._touched())

    def _touched(self) -> set[str]:
        """Everything that changes under those who read it: `public.task`, `public.task.note`, `public.f()`."""
        found = {f"{table}.{name}" for table, names in self.affected.items() for name in names}
        return found | set(self.leaving) | self.gone_functions | set(self.changed_types)

    # -- coming off -----------------------------------------------------------------------------------------------------

    def _rename(self) -> None:
        for old, new in self.draft.hints.tables.items():
            if new not in self.mine.tables:
                continue
            there, back = (
                [f"ALTER TABLE {ddl.name(one)} RENAME TO {ddl.ident(other.partition('.')[2])}"]
                for one, other in ((old, new), (new, old))
            )
            self.draft.add(
                "rename table",
                old,
                f"{old} is renamed to {new}",
                there,
                back,
                undo_words=f"{new} is renamed to {old}",
                tables=[old],
            )
        for path, new in self.draft.hints.columns.items():
            table, _, old = path.rpartition(".")
            if table not in self.mine.tables or new not in self.mine.tables[table].columns:
                continue
            place = ddl.name(table)
            there, back = (
                [f"ALTER TABLE {place} RENAME COLUMN {ddl.ident(one)} TO {ddl.ident(other)}"]
                for one, other in ((old, new), (new, old))
            )
            self.draft.add(
                "rename column",
                path,
                f"{old} of {table} is renamed to {new}",
                there,
                back,
                undo_words=f"{new} of {table} is renamed to {old}",
                tables=[table],
            )

    def _views_off(self) -> None:
        mine, theirs = self.mine.views, self.theirs.views
        touched = self._touched()
        going = {
            name
            for name, shape in mine.items()
            if theirs.get(name) != shape or set(shape.uses) & touched or mentions(shape.definition, self.changed_types)
        }
        while more := {name for name, shape in mine.items() if name not in going and set(shape.uses) & going}:
            going |= more
        self.kept_views = mine.keys() - going
        for name in reversed(dependents.in_order(mine, going)):
            self.draft.add(
                "take off view",
                name,
                f"the view {name} is taken off",
                [ddl.drop_view(name, mine[name])],
                dependents.make_view(name, mine[name]),
                undo_words=f"the view {name} is put on",
            )

    def _dependents_off(self) -> None:
        stays = {table: self._stay(table) for table in (*self.common, *self.leaving)}
        self.on = stays
        for kinds in (("foreign key",), ("check", "exclude", "unique", "primary key")):
            for table, kept in stays.items():
                for name, shape in sorted(self.mine.tables[table].constraints.items()):
                    if shape.kind in kinds and name not in kept.constraints and not self._same(table, name, shape):
                        dependents.take_off_constraint(self.draft, table, name, shape)
            if kinds == ("foreign key",):
                self._rest_off(stays)
        for table in self.common:
            self._rename_keys(table)

    def _rest_off(self, stays: dict[str, Table]) -> None:
        for table, kept in stays.items():
            shape = self.mine.tables[table]
            for name, trigger in sorted(shape.triggers.items()):
                if name not in kept.triggers:
                    dependents.take_off_trigger(self.draft, table, name, trigger)
            for name, policy in sorted(shape.policies.items()):
                if name not in kept.policies:
                    dependents.take_off_policy(self.draft, table, name, policy)
            for name, index in sorted(shape.indexes.items()):
                if name not in kept.indexes and not self._same_index(table, name, index):
                    dependents.take_off_index(self.draft, table, name, index)

    def _stay(self, table: str) -> Table:
        """What of a table's constraints, indexes, triggers and policies stays as it is."""
        mine = self.mine.tables[table]
        theirs = self.theirs.tables.get(table, mine)
        leaves = table in self.leaving
        touched = self._touched()

        def steady(used: tuple[str, ...], uses: tuple[str, ...], text: str) -> bool:
            return (
                not self.affected[table] & set(used)
                and not set(uses) & (touched - {table})
                and not mentions(text, self.changed_types)
            )

        constraints = {
            name: shape
            for name, shape in mine.constraints.items()
            if theirs.constraints.get(name) == shape
            and steady(shape.columns, shape.uses, shape.definition)
            and self._reference_stays(table, name, shape)
        }
        if leaves:
            constraints = {name: shape for name, shape in constraints.items() if shape.kind != "foreign key"}
        return Table(
            columns={},
            constraints=constraints,
            indexes={
                name: shape
                for name, shape in mine.indexes.items()
                if theirs.indexes.get(name) == shape and steady(shape.columns, shape.uses, shape.definition)
            },
            triggers={
                name: shape
                for name, shape in mine.triggers.items()
                if theirs.triggers.get(name) == shape and steady(shape.columns, (shape.function,), shape.definition)
            },
            policies={
                name: shape
                for name, shape in mine.policies.items()
                if theirs.policies.get(name) == shape
                and steady(shape.columns, shape.uses, f"{shape.using} {shape.check}")
            },
        )

    def _reference_stays(self, table: str, name: str, shape: Constraint) -> bool:
        """A foreign key hangs on the key that it refers to."""
        if shape.kind != "foreign key":
            return True
        other = shape.references or ""
        if other not in self.common or self.affected[other] & set(shape.referenced):
            return False
        mine, theirs = self.mine.tables[other], self.theirs.tables[other]
        keys = [
            (n, c, theirs.constraints.get(n))
            for n, c in mine.constraints.items()
            if c.kind in ("primary key", "unique")
        ]
        for key, held, wanted in keys:
            if set(held.columns) == set(shape.referenced) and (wanted == held or self._same(other, key, held)):
                return True
        uniques = [(i, theirs.indexes.get(n)) for n, i in mine.indexes.items() if i.unique]
        return any(set(i.columns) == set(shape.referenced) and i == wanted for i, wanted in uniques)

    def _same(self, table: str, name: str, shape: Constraint) -> str | None:
        """The name under which the target has this very constraint, where the source's is free to be renamed."""
        if table not in self.common or self.affected[table] & set(shape.columns):
            return None
        mine, theirs = self.mine.tables[table].constraints, self.theirs.tables[table].constraints
        if name in theirs or not self._reference_stays(table, name, shape):
            return None
        if set(shape.uses) & self._touched() or mentions(shape.definition, self.changed_types):
            return None
        twins = sorted(n for n, c in mine.items() if c == shape and n not in theirs)
        others = sorted(n for n, c in theirs.items() if c == shape and n not in mine)
        return dict(zip(twins, others, strict=False)).get(name)

    def _same_index(self, table: str, name: str, shape: Index) -> str | None:
        if table not in self.common or self.affected[table] & set(shape.columns):
            return None
        mine, theirs = self.mine.tables[table].indexes, self.theirs.tables[table].indexes
        if name in theirs or set(shape.uses) & self._touched() or mentions(shape.definition, self.changed_types):
            return None

        def plain(index: str, each: Index) -> Index:
            return msgspec.structs.replace(each, definition=each.definition.replace(f" {index} ON ", " ON ", 1))

        twins = sorted(n for n, i in mine.items() if plain(n, i) == plain(name, shape) and n not in theirs)
        others = sorted(n for n, i in theirs.items() if plain(n, i) == plain(name, shape) and n not in mine)
        return dict(zip(twins, others, strict=False)).get(name)

    def _rename_keys(self, table: str) -> None:
        kept = self.on[table]
        for name, shape in sorted(self.mine.tables[table].constraints.items()):
            new = None if name in kept.constraints else self._same(table, name, shape)
            if new:
                dependents.rename_constraint(self.draft, table, name, new)
                kept.constraints[new] = shape
        for name, index in sorted(self.mine.tables[table].indexes.items()):
            new = None if name in kept.indexes else self._same_index(table, name, index)
            if new:
                dependents.rename_index(self.draft, table, name, new)
                kept.indexes[new] = index

    def _functions_off(self) -> None:
        for table in (*self.common, *self.leaving):
            for name, shape in sorted(self.mine.tables[table].columns.items()):
                if shape.default is not None and shape.generated is None and self._default_off(table, name):
                    columns.change_default(self.draft, table, name, shape.default, None)
            for name, shape in sorted(self.mine.tables[table].columns.items()):
                if shape.generated is not None and name in self.affected[table]:
                    columns.drop_generated(self.draft, table, name, shape)
        for name in sorted(self.gone_functions):
            shape_ = self.mine.functions[name]
            self.draft.add(
                "take off function",
                name,
                f"the function {name} is taken off",
                [ddl.drop_function(name, shape_)],
                dependents.make_function(name, shape_),
                undo_words=f"the function {name} is put on",
            )

    def _default_off(self, table: str, name: str) -> bool:
        """Whether a default has to go before its column, type or function changes. A parked column's goes with it."""
        shape = self.mine.tables[table].columns[name]
        if set(shape.uses) & self.gone_functions or mentions(shape.default or "", self.changed_types):
            return True
        if table in self.leaving or f"{table}.{name}" in self.draft.there:
            return False
        return name in self.affected[table]

    # -- leaving --------------------------------------------------------------------------------------------------------

    def _data(self, step: DataStep) -> None:
        self.draft.add(
            "data",
            ", ".join(step.tables),
            step.words,
            [self.draft.resolve(sql) for sql in step.do],
            [self.draft.resolve(sql) for sql in step.undo],
            undo_words=step.undo_words,
            lock="SHARE ROW EXCLUSIVE",
            tables=step.tables,
            loss="set-aside",
        )

    def _leave(self) -> None:
        draft = self.draft
        for name, sequence in sorted(self.mine.sequences.items()):
            wanted = self.theirs.sequences.get(name)
            if wanted is None or wanted.owned_by != sequence.owned_by:
                relations.free_sequence(draft, name, sequence)
        for table in self.leaving:
            relations.park_table(draft, table, self._bare(table))
        for table in self.common:
            mine = self.mine.tables[table].columns
            parked = {
                name: self._parked_shape(table, name) for name in sorted(mine) if f"{table}.{name}" in draft.there
            }
            for name in parked:
                if mine[name].not_null and not mine[name].identity:
                    columns.allow_null(draft, table, name, mine[name], parked=True)
            if parked:
                columns.park(draft, table, parked)

    def _parked_shape(self, table: str, name: str) -> Column:
        """A column as it is when it is parked: its default may have gone before."""
        shape = self.mine.tables[table].columns[name]
        return msgspec.structs.replace(shape, default=None) if self._default_off(table, name) else shape

    def _bare(self, table: str) -> Table:
        on = self.on[table]
        return msgspec.structs.replace(
            self.mine.tables[table],
            constraints=on.constraints,
            indexes=on.indexes,
            triggers=on.triggers,
            policies=on.policies,
        )

    # -- making ---------------------------------------------------------------------------------------------------------

    def _make(self) -> None:
        draft = self.draft
        for schema in sorted(self._schemas(self.theirs) - self._schemas(self.mine)):
            draft.add(
                "make schema",
                schema,
                f"the schema {schema} is made",
                [f"CREATE SCHEMA IF NOT EXISTS {ddl.ident(schema)}"],
                [],
                undo_words=f"the schema {schema} stays",
            )
        for name in _types_in_order(self.wanted_types, self.wanted_types.keys() - self.types.keys()):
            relations.make_type(draft, name, self.wanted_types[name])
        for type_ in _types_in_order(self.types, self.changed_types):
            held = [
                (table, name, mine)
                for table, name, mine, theirs in self._both()
                if mine.type == theirs.type and _is_of(mine.type, type_)
            ]
            relations.exchange_type(draft, type_, self.types[type_], self.wanted_types[type_], held)
        for name in sorted(self.theirs.sequences.keys() - self.mine.sequences.keys()):
            relations.make_sequence(draft, name, self.theirs.sequences[name])
        waiting = self._functions(early=True)
        for name in waiting:
            self._put_function(name)
        for table in self.coming:
            relations.make_table(draft, table, self._coming(table))
        for table in self.common:
            theirs = self.theirs.tables[table].columns
            for name in sorted(name for name in theirs if self._is_made(table, name)):
                columns.make(draft, table, name, theirs[name])
        for table in self.coming:
            self._catch_up(table)

    @staticmethod
    def _schemas(snapshot: Snapshot) -> set[str]:
        everything = (*snapshot.tables, *snapshot.sequences, *snapshot.enums, *snapshot.domains, *snapshot.views)
        return {ddl.schema_of(name) for name in (*everything, *snapshot.functions)}

    def _is_made(self, table: str, name: str) -> bool:
        return self._makes(self.mine.tables[table].columns.get(name), self.theirs.tables[table].columns[name])

    def _coming(self, table: str) -> Table:
        """A table to be made; one that has been parked comes back in the shape that it had."""
        shape = self.theirs.tables[table]
        plain = {name: column for name, column in shape.columns.items() if column.generated is None}
        return msgspec.structs.replace(shape, columns=plain)

    def _catch_up(self, table: str) -> None:
        """Generated columns of a table that is made: they may read any other column."""
        for name, shape in sorted(self.theirs.tables[table].columns.items()):
            if shape.generated is not None:
                columns.add_generated(self.draft, table, name, shape)

    def _functions(self, *, early: bool) -> list[str]:
        """Functions to make or replace; those that read tables or columns which are only coming wait for these."""
        mine, theirs = self.mine.functions, self.theirs.functions
        chosen = [
            name
            for name, shape in theirs.items()
            if name not in mine or name in self.gone_functions or _definition(mine[name]) != _definition(shape)
        ]
        tables = self.theirs.tables
        late: set[str] = set()
        while True:
            more = {
                name
                for name in chosen
                if name not in late
                and (
                    set(theirs[name].uses) & (late | tables.keys() | self.theirs.views.keys())
                    or any(use.rpartition(".")[0] in tables for use in theirs[name].uses)
                    or mentions(f"{name} {theirs[name].returns}", self.coming)
                    or mentions(f"{name} {theirs[name].returns}", self.changed_types)
                )
            }
            if not more:
                break
            late |= more
        return _functions_in_order(theirs, [name for name in chosen if (name in late) != early])

    def _put_function(self, name: str) -> None:
        mine, shape = self.mine.functions.get(name), self.theirs.functions[name]
        make = dependents.make_function(name, shape)
        if mine is not None and name not in self.gone_functions:
            words = f"the function {name} is replaced"
            rights = ddl.grants(name, shape.kind, mine.grants, shape.grants)
            back = ddl.grants(name, shape.kind, shape.grants, mine.grants)
            self.draft.add(
                "replace function",
                name,
                words,
                [*ddl.create_function(shape), *rights],
                [*ddl.create_function(mine), *back],
                undo_words=f"the function {name} is replaced by the former",
            )
            return
        self.draft.add(
            "put on function",
            name,
            f"the function {name} is put on",
            make,
            [ddl.drop_function(name, shape)],
            undo_words=f"the function {name} is taken off",
        )

    # -- altering -------------------------------------------------------------------------------------------------------

    def _alter(self) -> None:
        draft = self.draft
        for table, name, mine, theirs in self._both():
            if mine.identity and (not theirs.identity or mine.type != theirs.type) and not _grows(mine, theirs):
                plain = msgspec.structs.replace(theirs, identity="")
                columns.change_identity(draft, table, name, mine, plain)
        for table, name, mine, theirs in self._both():
            if (mine.type, mine.collation) != (theirs.type, theirs.collation):
                columns.alter_type(draft, table, name, mine, theirs)

    def _both(self) -> Iterator[tuple[str, str, Column, Column]]:
        """Columns that both sides have as columns of their own."""
        for table in self.common:
            mine, theirs = self.mine.tables[table].columns, self.theirs.tables[table].columns
            for name in sorted(mine.keys() & theirs.keys()):
                if mine[name].generated is None and theirs[name].generated is None:
                    yield table, name, mine[name], theirs[name]

    def _values(self) -> None:
        draft = self.draft
        for step in draft.hints.after:
            self._data(step)
        for path, values in sorted(draft.hints.place.items()):
            table, _, name = path.rpartition(".")
            if table in self.common and name in self.theirs.tables[table].columns:
                columns.place_values(draft, table, name, self.theirs.tables[table].columns[name], values)
        for table in self.common:
            for name, shape in sorted(self.theirs.tables[table].columns.items()):
                if self._is_made(table, name) and shape.not_null and not shape.identity:
                    columns.forbid_null(draft, table, name, shape, made=True)
        for table, name, mine, theirs in self._both():
            if theirs.not_null and not mine.not_null:
                columns.forbid_null(draft, table, name, theirs, made=False)
            elif mine.not_null and not theirs.not_null and not mine.identity:
                columns.allow_null(draft, table, name, mine, parked=False)
        for table, name, mine, theirs in self._both():
            former = None if self._default_off(table, name) and mine.default is not None else mine.default
            if former != theirs.default:
                columns.change_default(draft, table, name, former, theirs.default)
            if mine.identity and not theirs.identity and mine.not_null and not theirs.not_null:
                columns.allow_null(draft, table, name, mine, parked=False)
            gone = mine.identity and (not theirs.identity or mine.type != theirs.type) and not _grows(mine, theirs)
            held = msgspec.structs.replace(mine, identity="" if gone else mine.identity)
            if theirs.identity != held.identity:
                columns.change_identity(draft, table, name, held, theirs)
        for table in self.common:
            mine_, theirs_ = self.mine.tables[table].columns, self.theirs.tables[table].columns
            for name, shape in sorted(theirs_.items()):
                was = mine_.get(name)
                if shape.generated is not None and (
                    was is None or was.generated is None or name in self.affected[table]
                ):
                    columns.add_generated(draft, table, name, shape)

    # -- putting on -----------------------------------------------------------------------------------------------------

    def _dependents_on(self) -> None:
        draft = self.draft
        for name in self._functions(early=False):
            self._put_function(name)
        tables = [*self.common, *self.coming]
        for kinds in (("check",), ("primary key", "unique", "exclude")):
            for table in tables:
                for name, shape in sorted(self.theirs.tables[table].constraints.items()):
                    if shape.kind in kinds and not self._is_on(table, name):
                        dependents.put_on_constraint(draft, table, name, shape)
        for table in tables:
            for name, index in sorted(self.theirs.tables[table].indexes.items()):
                if table not in self.on or name not in self.on[table].indexes:
                    dependents.put_on_index(draft, table, name, index)
        for table in tables:
            for name, shape in sorted(self.theirs.tables[table].constraints.items()):
                if shape.kind == "foreign key" and not self._is_on(table, name):
                    dependents.put_on_constraint(draft, table, name, shape)

    def _is_on(self, table: str, name: str) -> bool:
        return table in self.on and name in self.on[table].constraints

    def _last(self) -> None:
        draft = self.draft
        for name in sorted(self.mine.functions.keys() - self.theirs.functions.keys()):
            shape = self.mine.functions[name]
            entry = draft.id()
            bare, arguments = name[: name.rindex("(")], name[name.rindex("(") :]
            final = f"f{entry}"
            there = away("ROUTINE", bare, entry, final, arguments)
            there.append(note(entry, "function", name, f"parked.{final}{arguments}", shape))
            back = [*home("ROUTINE", bare, entry, final, arguments), returned(entry)]
            draft.add(
                "park function",
                name,
                f"the function {name} is parked",
                there,
                back,
                undo_words=f"the function {name} comes back",
                loss="parked",
            )
        for name in sorted(self.mine.sequences.keys() - self.theirs.sequences.keys()):
            relations.park_sequence(draft, name, self.mine.sequences[name])
        for name in reversed(_types_in_order(self.types, self.types.keys() - self.wanted_types.keys())):
            relations.park_type(draft, name, self.types[name])
        for name in sorted(self.theirs.sequences):
            mine, theirs = self.mine.sequences.get(name), self.theirs.sequences[name]
            if mine is not None:
                relations.alter_sequence(draft, name, mine, theirs)
            if mine is None or mine.owned_by != theirs.owned_by:
                relations.own_sequence(draft, name, theirs)
        for table in [*self.common, *self.coming]:
            made = self.theirs.tables[table]
            on = self.on.get(table)
            for name, policy in sorted(made.policies.items()):
                if on is None or name not in on.policies:
                    dependents.put_on_policy(draft, table, name, policy)
            for name, trigger in sorted(made.triggers.items()):
                if on is None or name not in on.triggers:
                    dependents.put_on_trigger(draft, table, name, trigger)
        for table in self.common:
            relations.alter_table(draft, table, self.mine.tables[table], self.theirs.tables[table])
        for table in self.coming:
            full = self.theirs.tables[table]
            if full.row_security or full.forced:
                bare = msgspec.structs.replace(full, row_security=False, forced=False)
                relations.alter_table(draft, table, bare, full)
        for name in dependents.in_order(self.theirs.views, self.theirs.views.keys() - self.kept_views):
            view = self.theirs.views[name]
            draft.add(
                "put on view",
                name,
                f"the view {name} is put on",
                dependents.make_view(name, view),
                [ddl.drop_view(name, view)],
                undo_words=f"the view {name} is taken off",
                loss="derived",
            )
        self._owners()

    def _owners(self) -> None:
        for kind, mine, theirs in (
            ("type", self.mine.enums, self.theirs.enums),
            ("domain", self.mine.domains, self.theirs.domains),
            ("sequence", self.mine.sequences, self.theirs.sequences),
        ):
            for name in sorted(mine.keys() & theirs.keys()):
                one, other = mine[name].owner, theirs[name].owner
                if one != other and name not in self.changed_types and one and other:
                    self.draft.add(
                        "change owner",
                        name,
                        f"{name} belongs to {other}",
                        [ddl.set_owner(name, kind, other)],
                        [ddl.set_owner(name, kind, one)],
                    )
        for name in sorted(self.mine.functions.keys() & self.theirs.functions.keys() - self.gone_functions):
            former, wanted = self.mine.functions[name], self.theirs.functions[name]
            replaced = _definition(former) != _definition(wanted)
            there = [] if replaced else ddl.grants(name, wanted.kind, former.grants, wanted.grants)
            back = [] if replaced else ddl.grants(name, wanted.kind, wanted.grants, former.grants)
            if former.owner != wanted.owner and former.owner and wanted.owner:
                there.append(ddl.set_owner(name, wanted.kind, wanted.owner))
                back.append(ddl.set_owner(name, wanted.kind, former.owner))
            if there:
                self.draft.add("change rights", name, f"owner or rights of {name} change", there, back)


def _bare(shape: Enum | Domain) -> Enum | Domain:
    return msgspec.structs.replace(shape, owner="")


def _definition(shape: Function) -> tuple[str, str]:
    return shape.definition, shape.returns


def _is_of(type_: str, name: str) -> bool:
    return mentions(type_.removesuffix("[]"), [name])


def _grows(mine: Column, theirs: Column) -> bool:
    """An identity that goes on through a change from one integer type to another."""
    whole = ("smallint", "integer", "bigint")
    return bool(mine.identity and theirs.identity) and mine.type in whole and theirs.type in whole


def _types_in_order(types: dict[str, Enum | Domain], chosen: object) -> list[str]:
    """Types, each after the one it is made of."""
    wanted = set(chosen)  # type: ignore[call-overload]
    done: list[str] = []

    def visit(name: str) -> None:
        if name in done:
            return
        shape = types[name]
        if isinstance(shape, Domain):
            for other in sorted(wanted):
                if other != name and mentions(shape.type, [other]):
                    visit(other)
        done.append(name)

    for name in sorted(wanted):
        visit(name)
    return done


def _functions_in_order(functions: dict[str, Function], chosen: list[str]) -> list[str]:
    done: list[str] = []
    waiting = sorted(chosen)
    while waiting:
        ready = [name for name in waiting if not set(functions[name].uses) & (set(waiting) - {name})] or waiting[:1]
        done += ready
        waiting = [name for name in waiting if name not in ready]
    return done
