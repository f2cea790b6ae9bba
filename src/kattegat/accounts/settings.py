"""Settings in force: what install, groups, organisation and asset sets say, laid over one another, and who said it.

The order is install, the organisation's groups by position (then name), the organisation, the asset's sets by name: a
later one holds. Of a limit the strictest holds, whoever set it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
from sqlalchemy import Connection, text

from kattegat.accounts import audit
from kattegat.errors import UsageError
from kattegat.plugin import Option
from kattegat.registry import Registry

Level = Literal["default", "install", "group", "organisation", "asset_set"]
Strictest = Mapping[str, Callable[[Iterable[Any]], Any]]


class InForce(NamedTuple):
    """A value, the level that it comes from, and the name of the place there (a group, a code, an asset set)."""

    value: Any
    level: Level
    place: str


class Place(msgspec.Struct, frozen=True):
    """Where a setting is given; made by `install`, `group`, `organisation` and `asset_set`."""

    level: Level
    group_id: int | None = None
    organisation_id: int | None = None
    asset_set_id: int | None = None


INSTALL = Place("install")


def group(group_id: int) -> Place:
    """A group."""
    return Place("group", group_id=group_id)


def organisation(organisation_id: int) -> Place:
    """An organisation."""
    return Place("organisation", organisation_id=organisation_id)


def asset_set(organisation_id: int, asset_set_id: int) -> Place:
    """An asset set of an organisation."""
    return Place("asset_set", organisation_id=organisation_id, asset_set_id=asset_set_id)


class UnknownOptionError(UsageError):
    """No scanner and no check has this option."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"There is no setting {name!r}; `kat plugins show NAME` lists the options of a scanner or check."
        )


class OptionValueError(UsageError):
    """A value of another kind than the option has."""

    def __init__(self, name: str, value: Any, wanted: str) -> None:
        self.name = name
        self.value = value
        super().__init__(f"{name} can't be {str(value)[:80]!r}: it is {wanted}.")


def known_options(registry: Registry) -> dict[str, Option]:
    """Every option of the loaded plugins, named `<scanner or check>.<option>`."""
    found: dict[str, Option] = {}
    for specs in (registry.scanners, registry.checks):
        for name, spec in specs.items():
            for option in spec.options:
                found[f"{name}.{option.name}"] = option
    return found


def check_value(name: str, value: Any, known: Mapping[str, Option]) -> Any:
    """The value as JSON has it; raises `UnknownOptionError` or `OptionValueError`."""
    option = known.get(name)
    if option is None:
        raise UnknownOptionError(name)
    default = option.default
    if isinstance(default, bool):
        fits, wanted = isinstance(value, bool), "true or false"
    elif isinstance(default, int):
        fits, wanted = isinstance(value, int) and not isinstance(value, bool), "a whole number"
    elif isinstance(default, float):
        fits = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
        wanted = "a number"
    elif isinstance(default, str):
        fits, wanted = isinstance(value, str) and "\x00" not in value, "a text"
    else:
        fits = isinstance(value, list | tuple) and all(isinstance(item, str) and "\x00" not in item for item in value)
        wanted = "a list of texts"
    if not fits:
        raise OptionValueError(name, value, wanted)
    return list(value) if isinstance(value, tuple) else value


def set_(
    conn: Connection, place: Place, name: str, value: Any, *, known: Mapping[str, Option], actor: str = audit.SYSTEM
) -> None:
    """Gives a setting at a place, in place of the value it had there; raises `UnknownOptionError`, `OptionValueError`.

    `kat_app` may set those of its organisations, `kat_system` all.
    """
    checked = check_value(name, value, known)
    conn.execute(
        text(
            """
            INSERT INTO setting (level, group_id, organisation_id, asset_set_id, name, value, set_by)
            VALUES (:level, :group, :organisation, :asset_set, :name, CAST(:value AS jsonb), :actor)
            ON CONFLICT ON CONSTRAINT uq_setting_place
            DO UPDATE SET value = excluded.value, set_by = excluded.set_by, set_at = now()
            """
        ),
        _at(place) | {"name": name, "value": json.dumps(checked), "actor": actor},
    )
    audit.write(conn, actor, "setting.set", name, _told(place) | {"value": checked}, place.organisation_id)


def unset(conn: Connection, place: Place, name: str, *, actor: str = audit.SYSTEM) -> bool:
    """Takes a setting away, so that what lies above it holds again; False when there was none. Any name may go."""
    done = conn.execute(
        text(
            """
            DELETE FROM setting
            WHERE level = :level AND group_id IS NOT DISTINCT FROM CAST(:group AS bigint)
              AND organisation_id IS NOT DISTINCT FROM CAST(:organisation AS bigint)
              AND asset_set_id IS NOT DISTINCT FROM CAST(:asset_set AS bigint) AND name = :name
            """
        ),
        _at(place) | {"name": name},
    ).rowcount
    if done:
        audit.write(conn, actor, "setting.unset", name, _told(place), place.organisation_id)
    return bool(done)


def _at(place: Place) -> dict[str, Any]:
    return {
        "level": place.level,
        "group": place.group_id,
        "organisation": place.organisation_id,
        "asset_set": place.asset_set_id,
    }


def _told(place: Place) -> dict[str, Any]:
    return {name: value for name, value in _at(place).items() if value is not None}


def in_force(
    conn: Connection,
    organisation_id: int,
    names: Sequence[str] | None = None,
    *,
    asset_sets: Sequence[int] = (),
    strictest: Strictest | None = None,
    known: Mapping[str, Option] | None = None,
) -> dict[str, InForce]:
    """The settings that hold for an organisation (and, with `asset_sets`, for an asset in these sets); one statement.

    `names`: only these. `strictest`: for each limit `min` or `max`; of equal values the broadest place is told.
    `known`: options that nobody set are given with their default, at the level `default`.
    """
    rows = conn.execute(
        text(
            """
            SELECT s.name, s.value, s.level, coalesce(g.name, a.name, o.code, '') AS place
            FROM setting s
            LEFT JOIN organisation_group g ON g.id = s.group_id
            LEFT JOIN organisation o ON o.id = s.organisation_id
            LEFT JOIN asset_set a ON a.organisation_id = s.organisation_id AND a.id = s.asset_set_id
            WHERE (CAST(:names AS text[]) IS NULL OR s.name = ANY (CAST(:names AS text[])))
              AND (s.level = 'install'
                   OR s.level = 'group' AND s.group_id IN (
                       SELECT group_id FROM group_member WHERE organisation_id = :organisation)
                   OR s.level = 'organisation' AND s.organisation_id = :organisation
                   OR s.level = 'asset_set' AND s.organisation_id = :organisation
                      AND s.asset_set_id = ANY (CAST(:sets AS bigint[])))
            ORDER BY array_position(ARRAY['install', 'group', 'organisation', 'asset_set'], s.level),
                     g.position, coalesce(g.name, a.name) COLLATE "C"
            """
        ),
        {
            "names": None if names is None else list(names),
            "organisation": organisation_id,
            "sets": list(asset_sets),
        },
    )
    found: dict[str, InForce] = {}
    for row in rows:
        said = InForce(row.value, row.level, row.place)
        before = found.get(row.name)
        choose = (strictest or {}).get(row.name)
        if before is None or choose is None or choose((before.value, said.value)) != before.value:
            found[row.name] = said
    for name, option in (known or {}).items():
        if name not in found and (names is None or name in names):
            default = list(option.default) if isinstance(option.default, tuple) else option.default
            found[name] = InForce(default, "default", "")
    return found
