"""OpenKAT's releases and the schema of each part at each revision, as data.

`data/releases.json` maps a release to the revision that each part's database is at. `data/<part>.json` holds, per
revision, which one it follows and its shape as a JSON merge patch (RFC 7396) on the shape of the (first) one followed:
names and types of tables, columns, constraints, indexes, enums and sequences as PostgreSQL prints them with its default
search_path. Facts only.
"""

from __future__ import annotations

import functools
import re
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
from msgspec import Struct, field

from kattegat.errors import UsageError
from kattegat.schema.shape import Column, Constraint, Enum, Index, Sequence, Snapshot, Table

Part = Literal["scheduler", "katalogus", "bytes", "rocky"]
PARTS: tuple[Part, ...] = get_args(Part)
OWN_APPS = ("account", "crisis_room", "fmea", "tools")  # of Rocky; the others are Django's and its libraries'


class Release(Struct, frozen=True, forbid_unknown_fields=True):
    """One release: revisions of the Alembic parts, the last migration of each of Rocky's apps, the graph store."""

    scheduler: str
    katalogus: str
    bytes: str
    rocky: dict[str, str]
    xtdb: str
    graph: str | None = None  # what a person has to do about the graph store when coming to this release


class Revision(Struct, frozen=True, forbid_unknown_fields=True):
    """One revision: those it follows (two for a merge), and its shape as a patch on the first of them."""

    follows: tuple[str, ...]
    shape: dict[str, Any]
    title: str = ""


class Catalogue(Struct, frozen=True, forbid_unknown_fields=True):
    """All that is known of one part. Rocky's `revisions` are named after the first release with that schema."""

    revisions: dict[str, Revision]
    migrations: dict[str, dict[str, str]] = field(default_factory=dict)  # app -> migration -> first release, or ""
    replaces: dict[str, tuple[str, ...]] = field(default_factory=dict)  # squashed migration -> those it stands for


class UnknownReleaseError(UsageError):
    """No such release in the table."""

    def __init__(self, release: str) -> None:
        self.release = release
        known = list(releases())
        super().__init__(
            f"OpenKAT {release} is not in the table of releases; name one of {known[0]} to {known[-2]}, or {known[-1]}."
        )


class NoSnapshotError(UsageError):
    """The part's schema at this release is not known, so nothing can be taken there."""

    def __init__(self, part: str, release: str) -> None:
        self.part = part
        self.release = release
        super().__init__(
            f"The schema of {part} at OpenKAT {release} is not known: run `kat openkat snapshot {part} --release "
            f"{release}` on such an install (an empty one will do) and give the folder with --catalogue."
        )


def _read(name: str) -> bytes:
    return resources.files(__package__).joinpath("data", name).read_bytes()


@functools.cache
def releases() -> dict[str, Release]:
    """Every release known, oldest first; the last is `main` of 2026-02-13."""
    return msgspec.json.decode(_read("releases.json"), type=dict[str, Release])


@functools.cache
def catalogue(part: Part) -> Catalogue:
    """What is known of a part."""
    return msgspec.json.decode(_read(f"{part}.json"), type=Catalogue)


def release(name: str) -> Release:
    """A release by its name, with or without a leading v; raises `UnknownReleaseError`."""
    found = releases().get(name.removeprefix("v"))
    if found is None:
        raise UnknownReleaseError(name)
    return found


def revision_of(part: Part, name: str) -> str:
    """The revision (for Rocky: the schema's name) of a part at a release; raises `NoSnapshotError` where unknown."""
    if part != "rocky":
        return str(getattr(release(name), part))
    order = list(releases())
    release(name)
    at = order.index(name.removeprefix("v"))
    shapes = [first for first in catalogue("rocky").revisions if order.index(f"{first}.0") <= at]
    if not shapes:
        raise NoSnapshotError(part, name)
    return shapes[-1]


def patched(value: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """The document with a merge patch applied (RFC 7396); neither argument changes."""
    result = dict(value)
    for key, change in patch.items():
        if change is None:
            result.pop(key, None)
        elif isinstance(change, dict) and isinstance(result.get(key), dict):
            result[key] = patched(result[key], change)
        else:
            result[key] = change
    return result


@functools.cache
def raw(part: Part, revision: str) -> dict[str, Any]:
    """The shape of a part at a revision as the facts have it: tables, enums, sequences by unqualified name."""
    found = catalogue(part).revisions[revision]
    base = raw(part, found.follows[0]) if found.follows else {"tables": {}, "enums": {}, "sequences": {}}
    return patched(base, found.shape)


def shape(part: Part, revision: str, folder: Path | None = None) -> Snapshot:
    """The schema of a part at a revision; raises `KeyError` for a revision that is not in the catalogue.

    `folder` is a catalogue made by `kat openkat snapshot`, asked first. Expressions are as the facts print them: build
    the result in a scratch database and read it there before comparing.
    """
    if folder is not None and (path := folder / part / f"{revision}.json").is_file():
        return msgspec.json.decode(path.read_bytes(), type=Snapshot)
    return _snapshot(raw(part, revision), part)


def chain(part: Part) -> tuple[str, ...]:
    """The revisions of a part from first to last, in one line. Two that follow the same one (Bytes' 0011 and 0011_2)
    both stand in it: neighbours are compared by shape, so it does not matter that the one never came from the other."""
    return tuple(catalogue(part).revisions)


# -- from facts to a snapshot ---------------------------------------------------------------------------------------

_NEXT = re.compile(r"nextval\('(\w+)'")
_TYPED = re.compile(r"::(\"?)(\w+)\1")
_KEY = re.compile(r"\(([^()]*)\)")
_FOREIGN = re.compile(r"FOREIGN KEY \((?P<here>[^)]*)\) REFERENCES (?P<table>[\w.\"]+)\((?P<there>[^)]*)\)")
_KINDS: dict[str, Literal["primary key", "unique", "check", "foreign key"]] = {
    "PRIMARY": "primary key",
    "UNIQUE": "unique",
    "CHECK": "check",
    "FOREIGN": "foreign key",
}
VERSION_TABLE = Table(
    columns={"version_num": Column("character varying(32)", not_null=True)},
    constraints={
        "alembic_version_pkc": Constraint("primary key", "PRIMARY KEY (version_num)", columns=("version_num",))
    },
)


def _names(listed: str) -> tuple[str, ...]:
    return tuple(name.strip().strip('"') for name in listed.split(","))


def _snapshot(facts: dict[str, Any], part: Part) -> Snapshot:
    enums = set(facts["enums"])
    tables = {f"public.{name}": _table(table, enums) for name, table in facts["tables"].items()}
    if part != "rocky":
        tables["public.alembic_version"] = VERSION_TABLE
    identities = {
        f"public.{table}.{column}"
        for table, held in facts["tables"].items()
        for column, kind in held["columns"].items()
        if kind.get("identity")
    }
    sequences = {
        f"public.{name}": Sequence(
            type=kind["type"],
            maximum=2147483647 if kind["type"] == "integer" else 9223372036854775807,
            owned_by=f"public.{kind['owned_by']}",
        )
        for name, kind in facts["sequences"].items()
        if f"public.{kind['owned_by']}" not in identities
    }
    return Snapshot(
        tables=tables,
        sequences=sequences,
        enums={f"public.{name}": Enum(labels=tuple(labels)) for name, labels in facts["enums"].items()},
    )


def _table(facts: dict[str, Any], enums: set[str]) -> Table:
    columns = {
        name: Column(
            type=_type(kind["type"], enums),
            not_null=kind.get("not_null", False),
            default=_expression(kind["default"], enums) if "default" in kind else None,
            identity=kind.get("identity", ""),
            uses=tuple(f"public.{name}" for name in _NEXT.findall(kind.get("default", ""))),
        )
        for name, kind in facts["columns"].items()
    }
    return Table(
        columns=columns,
        constraints={name: _constraint(text, columns) for name, text in facts["constraints"].items()},
        indexes={name: _index(text, columns, enums) for name, text in facts["indexes"].items()},
    )


def _type(name: str, enums: set[str]) -> str:
    return f"public.{name}" if name.removesuffix("[]") in enums else name


def _expression(text: str, enums: set[str]) -> str:
    text = re.sub(r"nextval\('(?!public\.)", "nextval('public.", text)
    return _TYPED.sub(lambda m: f"::public.{m[2]}" if m[2] in enums else m[0], text)


def _read_by(text: str, columns: dict[str, Column]) -> tuple[str, ...]:
    words = set(re.findall(r"\w+", re.sub(r"'[^']*'(::\w+)?", "", text)))
    return tuple(sorted(name for name in columns if name in words))


def _constraint(text: str, columns: dict[str, Column]) -> Constraint:
    kind = _KINDS[text.split()[0]]
    if kind == "foreign key":
        found = _FOREIGN.match(text)
        if found is None:
            raise ValueError(f"a foreign key that can't be read: {text}")
        return Constraint(
            kind,
            text.replace(f"REFERENCES {found['table']}(", f"REFERENCES public.{found['table']}("),
            columns=_names(found["here"]),
            references=f"public.{found['table']}",
            referenced=_names(found["there"]),
        )
    if kind == "check":
        return Constraint(
            kind, text, columns=_read_by(text, columns), expression=text.removeprefix("CHECK (").removesuffix(")")
        )
    key = _KEY.search(text)
    return Constraint(kind, text, columns=_names(key[1]) if key else ())


def _index(text: str, columns: dict[str, Column], enums: set[str]) -> Index:
    text = _expression(text, enums)
    body, _, predicate = text.split(" USING ", 1)[1].partition(" WHERE ")
    return Index(
        definition=text,
        columns=_read_by(body.partition("(")[2] + " " + predicate, columns),
        unique=text.startswith("CREATE UNIQUE"),
        keys=_keys(body.partition("(")[2].rpartition(")")[0]),
        predicate=predicate or None,
        uses=tuple(f"public.{name}" for name in sorted(enums) if f"::public.{name}" in text),
    )


def _keys(listed: str) -> tuple[str, ...]:
    """Key expressions at the top level of the list, without order and operator class."""
    found, depth, start = [], 0, 0
    for at, character in enumerate(f"{listed},"):
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            found.append(listed[start:at].strip())
            start = at + 1
    return tuple(re.sub(r"\s+(varchar_pattern_ops|text_pattern_ops|DESC|ASC)$", "", key) for key in found)
