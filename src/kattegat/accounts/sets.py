"""Asset sets: saved queries over an organisation's assets, which settings can be given to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from sqlalchemy import Connection, text

from kattegat.accounts import audit
from kattegat.accounts.organisations import check_name
from kattegat.errors import UsageError

Clearance = Annotated[int, msgspec.Meta(ge=0, le=4)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100, pattern=r"^[^\x00]*\Z")]
Pattern = Annotated[str, msgspec.Meta(min_length=1, max_length=500, pattern=r"^[^\x00]*\Z")]


class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which assets: of these types (none: all), whose key fits the pattern (`*` any text, `?` one character), and
    whose clearance lies between the two, both included."""

    types: tuple[Name, ...] = ()
    key: Pattern = "*"
    clearance_min: Clearance = 0
    clearance_max: Clearance = 4


class QueryError(UsageError):
    """A query that can't be read."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"This is no query for an asset set: {reason[:1].lower()}{reason[1:]}.")


class UnknownSetError(UsageError):
    """No asset set of the organisation has this name."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"There is no asset set {name!r} in this organisation; save it first.")


class AssetSet(msgspec.Struct, frozen=True):
    """A saved query."""

    id: int
    name: str
    query: Query


def read(query: Mapping[str, Any]) -> Query:
    """A query from JSON; raises `QueryError` with what is wrong and where."""
    try:
        found = msgspec.convert(dict(query), Query)
    except msgspec.ValidationError as problem:
        raise QueryError(str(problem)) from None
    if found.clearance_min > found.clearance_max:
        raise QueryError("clearance_min is above clearance_max, so nothing can be in it")
    return found


def save(
    conn: Connection, organisation_id: int, name: str, query: Mapping[str, Any], *, actor: str = audit.SYSTEM
) -> AssetSet:
    """Saves a query under a name, in place of one that had it; raises `QueryError`."""
    parsed = read(query)
    row = conn.execute(
        text(
            "INSERT INTO asset_set (organisation_id, name, query)"
            " VALUES (:organisation, :name, CAST(:query AS jsonb))"
            " ON CONFLICT (organisation_id, name) DO UPDATE SET query = excluded.query RETURNING id, name"
        ),
        {
            "organisation": organisation_id,
            "name": check_name("an asset set", name),
            "query": msgspec.json.encode(parsed).decode(),
        },
    ).one()
    audit.write(conn, actor, "asset_set.save", row.name, msgspec.to_builtins(parsed), organisation_id)
    return AssetSet(row.id, row.name, parsed)


def delete(conn: Connection, organisation_id: int, name: str, *, actor: str = audit.SYSTEM) -> None:
    """Removes an asset set with its settings; raises `UnknownSetError`."""
    done = conn.execute(
        text("DELETE FROM asset_set WHERE organisation_id = :organisation AND name = :name"),
        {"organisation": organisation_id, "name": name.strip()},
    ).rowcount
    if not done:
        raise UnknownSetError(name)
    audit.write(conn, actor, "asset_set.delete", name.strip(), None, organisation_id)


def all_sets(conn: Connection, organisation_id: int) -> list[AssetSet]:
    """The organisation's asset sets, in the order in which their settings are laid over one another."""
    rows = conn.execute(
        text('SELECT id, name, query FROM asset_set WHERE organisation_id = :organisation ORDER BY name COLLATE "C"'),
        {"organisation": organisation_id},
    )
    return [AssetSet(row.id, row.name, read(row.query)) for row in rows]


def containing(conn: Connection, organisation_id: int, assets: Sequence[int]) -> dict[int, list[int]]:
    """For each of these assets the ids of the asset sets it is in, in the order of the sets; one statement."""
    rows = conn.execute(
        text(
            r"""
            SELECT a.id, s.id AS set_id
            FROM unnest(CAST(:assets AS bigint[])) AS wanted (id)
            JOIN asset a ON a.organisation_id = :organisation AND a.id = wanted.id
            JOIN asset_set s ON s.organisation_id = :organisation
            WHERE (jsonb_array_length(s.query -> 'types') = 0 OR s.query -> 'types' ? a.type)
              AND a.clearance BETWEEN CAST(s.query ->> 'clearance_min' AS integer)
                                  AND CAST(s.query ->> 'clearance_max' AS integer)
              AND a.key LIKE translate(
                  replace(replace(replace(s.query ->> 'key', '\', '\\'), '%', '\%'), '_', '\_'), '*?', '%_')
            ORDER BY a.id, s.name COLLATE "C"
            """
        ),
        {"organisation": organisation_id, "assets": list(assets)},
    )
    found: dict[int, list[int]] = {asset: [] for asset in assets}
    for row in rows:
        found[row.id].append(row.set_id)
    return found
