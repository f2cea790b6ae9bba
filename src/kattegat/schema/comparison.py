"""What differs between two shapes, and what each difference touches: the answers that the phases of a plan ask for."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from kattegat.schema.dependents import mentions
from kattegat.schema.shape import Column, Domain, Enum, Function, Snapshot


class Comparison:
    """`mine` is the source as it is once what lay parked is back, `theirs` the target."""

    def __init__(self, mine: Snapshot, theirs: Snapshot) -> None:
        self.mine = mine
        self.theirs = theirs
        self.common = sorted(mine.tables.keys() & theirs.tables.keys())
        self.leaving = sorted(mine.tables.keys() - theirs.tables.keys())
        self.coming = sorted(theirs.tables.keys() - mine.tables.keys())
        self.types: dict[str, Enum | Domain] = {**mine.enums, **mine.domains}
        self.wanted_types: dict[str, Enum | Domain] = {**theirs.enums, **theirs.domains}
        self.changed_types: list[str] = []
        # Columns per table, functions, types whose dependents have to come off first.
        self.affected: dict[str, set[str]] = {}
        self.gone_functions: set[str] = set()

    def reasons(self) -> list[str]:
        """Why no plan is possible, one clause each; empty where one is."""
        mine, theirs = self.mine, self.theirs
        apart = sorted(set(mine.extensions) ^ set(theirs.extensions))
        reasons = [f"the extension {extension} is on one side only" for extension in apart]
        reasons += [f"{other} is on one side only" for other in sorted(set(mine.other) ^ set(theirs.other))]
        reasons += [
            f"{table} is partitioned in another way"
            for table in self.common
            if mine.tables[table].partition != theirs.tables[table].partition
        ]
        kinds = [dict.fromkeys(one.tables, "table") | dict.fromkeys(one.views, "view") for one in (mine, theirs)]
        reasons += [
            f"{name} is a {kinds[0][name]} on one side and a {kinds[1][name]} on the other"
            for name in sorted(kinds[0].keys() & kinds[1].keys())
            if kinds[0][name] != kinds[1][name]
        ]
        return reasons + [
            f"{name} is an enum on one side and a domain on the other"
            for name in sorted(self.types.keys() & self.wanted_types.keys())
            if type(self.types[name]) is not type(self.wanted_types[name])
        ]

    def find_affected(self) -> None:
        """Columns, types and functions that change so that what hangs on them has to come off first."""
        self.changed_types = [
            name
            for name in sorted(self.types.keys() & self.wanted_types.keys())
            if _without_owner(self.types[name]) != _without_owner(self.wanted_types[name])
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
        # One whose body PostgreSQL follows into tables would hold these fast where it lies parked.
        self.gone_functions = {
            name
            for name, shape in self.mine.functions.items()
            if name not in self.theirs.functions
            and any(use.rpartition(".")[0] in self.mine.tables or use in self.mine.tables for use in shape.uses)
            and not mentions(name, list(self.mine.tables))
        }
        while True:
            functions = {
                name
                for name, shape in self.mine.functions.items()
                if name not in self.gone_functions
                and (
                    self._function_goes(name, shape)
                    if name in self.theirs.functions
                    else set(shape.uses) & self.gone_functions
                )
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
        return bool(set(shape.uses) & self.touched())

    def touched(self) -> set[str]:
        """Everything that changes under those who read it: `public.task`, `public.task.note`, `public.f()`."""
        found = {f"{table}.{name}" for table, names in self.affected.items() for name in names}
        return found | set(self.leaving) | self.gone_functions | set(self.changed_types)

    @staticmethod
    def parks(mine: Column, theirs: Column | None) -> bool:
        """Whether a column of the source is parked."""
        # A plain column whose name a generated one takes is parked too.
        return mine.generated is None and (theirs is None or theirs.generated is not None)

    @staticmethod
    def makes(mine: Column | None, theirs: Column) -> bool:
        """Whether a column of the target is made, or brought back."""
        return theirs.generated is None and (mine is None or mine.generated is not None)

    def is_made(self, table: str, name: str) -> bool:
        """Whether a plain column is the target's alone."""
        return self.makes(self.mine.tables[table].columns.get(name), self.theirs.tables[table].columns[name])

    def is_remade(self, table: str, name: str) -> bool:
        """Whether a computed column of the target has to be computed anew."""
        was = self.mine.tables[table].columns.get(name)
        if self.theirs.tables[table].columns[name].generated is None:
            return False
        return was is None or was.generated is None or name in self.affected[table]

    def both(self) -> Iterator[tuple[str, str, Column, Column]]:
        """Columns that both sides have as columns of their own."""
        for table in self.common:
            mine, theirs = self.mine.tables[table].columns, self.theirs.tables[table].columns
            for name in sorted(mine.keys() & theirs.keys()):
                if mine[name].generated is None and theirs[name].generated is None:
                    yield table, name, mine[name], theirs[name]

    def still_computed(self) -> Iterator[tuple[str, str, Column, Column]]:
        """Generated columns that both sides have alike, but for NOT NULL maybe."""
        for table in self.common:
            mine, theirs = self.mine.tables[table].columns, self.theirs.tables[table].columns
            for name in sorted(mine.keys() & theirs.keys() - self.affected[table]):
                if mine[name].generated is not None and theirs[name].generated is not None:
                    yield table, name, mine[name], theirs[name]

    def leaves_its_type(self, mine: Column, theirs: Column) -> bool:
        """Whether a column gives up a type that changes, for one that is there already: while the former form is."""
        coming = [*self.changed_types, *(self.wanted_types.keys() - self.types.keys())]
        return (
            mine.type != theirs.type
            and any(is_of(mine.type, one) for one in self.changed_types)
            and not any(is_of(theirs.type, one) for one in coming)
        )

    def default_goes(self, table: str, name: str) -> bool:
        """Whether a default has to go before its column, type or function changes. A parked column's goes with it."""
        shape = self.mine.tables[table].columns[name]
        if set(shape.uses) & self.gone_functions or mentions(shape.default or "", self.changed_types):
            return True
        if table in self.leaving or self.parks(shape, self.theirs.tables[table].columns.get(name)):
            return False
        return name in self.affected[table]


def _without_owner(shape: Enum | Domain) -> Enum | Domain:
    return msgspec.structs.replace(shape, owner="")


def definition(shape: Function) -> tuple[str, str]:
    """What CREATE OR REPLACE changes."""
    return shape.definition, shape.returns


def is_of(type_: str, name: str) -> bool:
    """Whether a column's type is this one, or an array of it."""
    return mentions(type_.removesuffix("[]"), [name])


def grows(mine: Column, theirs: Column) -> bool:
    """An identity that goes on through a change from one integer type to another."""
    whole = ("smallint", "integer", "bigint")
    return bool(mine.identity and theirs.identity) and mine.type in whole and theirs.type in whole


def types_in_order(types: dict[str, Enum | Domain], chosen: object) -> list[str]:
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


def functions_in_order(functions: dict[str, Function], chosen: list[str]) -> list[str]:
    """The chosen functions, each after those it calls."""
    done: list[str] = []
    waiting = sorted(chosen)
    while waiting:
        ready = [name for name in waiting if not set(functions[name].uses) & (set(waiting) - {name})] or waiting[:1]
        done += ready
        waiting = [name for name in waiting if name not in ready]
    return done
