"""What is set about when and how much is scanned: intervals, windows, blackouts, limits, at each level of an install.

    scan.every, SCANNER.every               an interval or a cron rule (`times`)
    scan.windows, SCANNER.windows           when scans may begin; none: always
    scan.blackouts                          when none may begin, whatever a window says: all that are set hold
    limit.scans, SCANNER.limit.scans        how many scans run at once in the place that it is set for: everywhere,
                                            in the group taken together, in the organisation
    limit.address.connections, .rate        to one address: connections at once, new ones in a second
    limit.network.connections, .rate        to one network (/24, or /56 of IPv6)
    SCANNER.key, limit.key.NAME.connections, limit.key.NAME.rate    of all scanners that use the key NAME

What is set closer to the asset holds (install, groups, organisation, asset sets); of limits the strictest holds.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, text

from kattegat.accounts import sets, settings
from kattegat.errors import UsageError
from kattegat.plugin import Option
from kattegat.registry import Registry
from kattegat.scheduler import times
from kattegat.scheduler.times import Blackout, Cron, Window

LEVELS = ("install", "group", "organisation", "asset_set")
KEY_LIMIT = re.compile(r"limit\.key\.[a-z0-9][a-z0-9-]{0,60}\.(connections|rate)")
GENERAL = (
    Option("scan.every", "", "How often every scanner runs; a scanner's own interval goes before it."),
    Option("scan.windows", (), "When scans may begin."),
    Option("scan.blackouts", (), "When no scan may begin."),
    Option("limit.scans", 0, "Scans at once in this place."),
    Option("limit.address.connections", 0, "Connections at once to one address."),
    Option("limit.address.rate", 0.0, "New connections in a second to one address."),
    Option("limit.network.connections", 0, "Connections at once to one network (/24, /56)."),
    Option("limit.network.rate", 0.0, "New connections in a second to one network (/24, /56)."),
)
PER_SCANNER = (
    Option("every", "", "How often the scanner runs."),
    Option("windows", (), "When its scans may begin."),
    Option("limit.scans", 0, "Its scans at once in this place."),
    Option("key", "", "The name of the key that it uses, for limits on the key."),
)
NAMED = r"(^|\.)(every|windows|blackouts|key)$|(^|\.)limit\."

SET = text(
    """
    SELECT s.level, s.group_id, s.organisation_id, s.asset_set_id, s.name, s.value,
           coalesce(g.position, 0) AS position, coalesce(g.name, a.name, '') AS place
    FROM setting s
    LEFT JOIN organisation_group g ON g.id = s.group_id
    LEFT JOIN asset_set a ON a.organisation_id = s.organisation_id AND a.id = s.asset_set_id
    WHERE s.name ~ :named
    ORDER BY array_position(ARRAY['install', 'group', 'organisation', 'asset_set'], s.level), position, place, s.id
    """
)
REOPEN = text("UPDATE schedule SET due_at = now(), wait = '' WHERE wait <> ''")
MEMBERS = text("SELECT group_id, organisation_id FROM group_member")


class LimitValueError(UsageError):
    """A limit that is none."""


class Rates(NamedTuple):
    """What one place allows: connections at once, new ones in a second; 0 is no limit."""

    connections: int = 0
    rate: float = 0.0

    def __bool__(self) -> bool:
        return self.connections > 0 or self.rate > 0


class Limit(NamedTuple):
    """How many scans may run at once: of these organisations (None: of all) and this scanner (None: of any)."""

    most: int
    organisations: frozenset[int] | None
    scanner: str | None
    name: str

    def counts(self, organisation_id: int | None, scanner: str) -> bool:
        """Whether a scan takes a place under this limit."""
        return (self.organisations is None or organisation_id in self.organisations) and (
            self.scanner is None or scanner == self.scanner
        )


class _Said(msgspec.Struct, frozen=True):
    level: str
    group_id: int | None
    organisation_id: int | None
    asset_set_id: int | None
    name: str
    value: Any


class Regime:
    """All that is set, read at once; made by `load`. Without settings every answer is: no rule."""

    def __init__(self, said: Iterable[_Said], members: Mapping[int, frozenset[int]]) -> None:
        self._said = list(said)
        self._members = members
        self.by_set = frozenset(
            entry.organisation_id
            for entry in self._said
            if entry.asset_set_id is not None and entry.organisation_id is not None
        )
        """The organisations with settings for asset sets: only there the sets of an asset have to be known."""

    def __bool__(self) -> bool:
        return bool(self._said)

    def every(self, organisation_id: int, scanner: str, inside: Collection[int] = ()) -> str:
        """The rule of how often; "" where nothing is set."""
        return str(self._last((f"{scanner}.every", "scan.every"), organisation_id, inside) or "")

    def windows(self, organisation_id: int, scanner: str, inside: Collection[int] = ()) -> tuple[Window, ...]:
        """When scans may begin; () is always."""
        said = self._last((f"{scanner}.windows", "scan.windows"), organisation_id, inside) or ()
        return tuple(times.window(rule) for rule in said)

    def blackouts(self, organisation_id: int, inside: Collection[int] = ()) -> tuple[Blackout, ...]:
        """When none may begin, from all levels."""
        said = self._all("scan.blackouts", organisation_id, inside)
        return tuple(times.blackout(rule) for rules in said for rule in rules)

    def closed(
        self, now: datetime, organisation_id: int, scanner: str, inside: Collection[int] = ()
    ) -> tuple[datetime, str] | None:
        """When a scan may begin and why it may not now; None when it may."""
        windows, blackouts = self.windows(organisation_id, scanner, inside), self.blackouts(organisation_id, inside)
        at = times.opens(now, windows, blackouts)
        if at == now:
            return None
        dark = any(entry.start <= now < entry.end for entry in blackouts)
        return at, f"{'a blackout' if dark else 'its window is closed'}, next at {at:%Y-%m-%d %H:%M} UTC"

    def rates(self, kind: str, organisation_id: int, inside: Collection[int] = ()) -> Rates:
        """The strictest limit on each `address`, `network` or `key.NAME`."""
        connections = [
            int(value) for value in self._all(f"limit.{kind}.connections", organisation_id, inside) if value > 0
        ]
        rate = [float(value) for value in self._all(f"limit.{kind}.rate", organisation_id, inside) if value > 0]
        return Rates(min(connections, default=0), min(rate, default=0.0))

    def key(self, organisation_id: int, scanner: str) -> str:
        """The name of the key that a scanner uses, or ""."""
        return str(self._last((f"{scanner}.key",), organisation_id, ()) or "")

    def permits(self, organisation_id: int, scanner: str, inside: Collection[int] = ()) -> dict[str, Rates]:
        """The limits that need a permit for each connection, by kind: `address`, `network`, `key.NAME`."""
        kinds = ["address", "network"]
        if key := self.key(organisation_id, scanner):
            kinds.append(f"key.{key}")
        found = {kind: self.rates(kind, organisation_id, inside) for kind in kinds}
        return {kind: rates for kind, rates in found.items() if rates}

    def scans(self) -> list[Limit]:
        """Every limit on scans at once."""
        found = []
        for entry in self._said:
            if not entry.name.endswith("limit.scans") or not entry.value or entry.asset_set_id is not None:
                continue
            scanner = entry.name.removesuffix("limit.scans").removesuffix(".") or None
            whose: frozenset[int] | None = None
            if entry.group_id is not None:
                whose = self._members.get(entry.group_id, frozenset())
            elif entry.organisation_id is not None:
                whose = frozenset({entry.organisation_id})
            where = {"install": "everywhere", "group": "in its group", "organisation": "in its organisation"}[
                entry.level
            ]
            of = f"of {scanner} " if scanner else ""
            found.append(Limit(int(entry.value), whose, scanner, f"at most {entry.value} scans {of}at once {where}"))
        return found

    def _holds(self, entry: _Said, organisation_id: int, inside: Collection[int]) -> bool:
        if entry.asset_set_id is not None:
            return entry.organisation_id == organisation_id and entry.asset_set_id in inside
        if entry.group_id is not None:
            return organisation_id in self._members.get(entry.group_id, frozenset())
        return entry.organisation_id is None or entry.organisation_id == organisation_id

    def _all(self, name: str, organisation_id: int, inside: Collection[int]) -> list[Any]:
        return [
            entry.value for entry in self._said if entry.name == name and self._holds(entry, organisation_id, inside)
        ]

    def _last(self, names: tuple[str, ...], organisation_id: int, inside: Collection[int]) -> Any:
        """What is said closest to the asset; at one level what is said of the scanner before what is said of all."""
        found: Any = None
        best = (-1, -1)
        for place, entry in enumerate(self._said):
            if entry.name not in names or not self._holds(entry, organisation_id, inside):
                continue
            rank = (LEVELS.index(entry.level) * 2 + (entry.name == names[0]), place)
            if rank >= best:
                found, best = entry.value, rank
        return found


def load(conn: Connection) -> Regime:
    """What is set now, for all organisations: one statement, and one more where a group has a setting."""
    rows = conn.execute(SET, {"named": NAMED}).all()
    members: dict[int, set[int]] = {}
    if any(row.group_id is not None for row in rows):
        for group, organisation in conn.execute(MEMBERS):
            members.setdefault(group, set()).add(organisation)
    said = [_Said(r.level, r.group_id, r.organisation_id, r.asset_set_id, r.name, r.value) for r in rows]
    return Regime(said, {group: frozenset(inside) for group, inside in members.items()})


def sets_of(conn: Connection, regime: Regime, assets: Iterable[tuple[int, int]]) -> dict[tuple[int, int], list[int]]:
    """The asset sets of assets, as (organisation, asset), where that decides anything."""
    wanted: dict[int, set[int]] = {}
    for organisation, asset in assets:
        if organisation in regime.by_set:
            wanted.setdefault(organisation, set()).add(asset)
    return {
        (organisation, asset): inside
        for organisation, ids in sorted(wanted.items())
        for asset, inside in sets.containing(conn, organisation, sorted(ids)).items()
    }


def known(registry: Registry, name: str = "") -> dict[str, Option]:
    """Every setting of this room, for `accounts.settings`; with `name` also that one, if it is a limit on a key."""
    found = {option.name: option for option in GENERAL}
    for scanner in registry.scanners:
        found |= {f"{scanner}.{option.name}": option for option in PER_SCANNER}
    if KEY_LIMIT.fullmatch(name):
        default: int | float = 0 if name.endswith("connections") else 0.0
        found[name] = Option(name, default, "A limit on all that use this key.")
    return found


def set_(conn: Connection, place: settings.Place, name: str, value: Any, registry: Registry, actor: str) -> None:
    """Gives a setting at a place; raises `UsageError` for a name or value that there can't be.

    Who sets an interval plans the assets of that place again.
    """
    options = known(registry, name)
    if name.endswith((".windows", ".blackouts")) and isinstance(value, list | tuple):
        for rule in value:
            (times.window if name.endswith(".windows") else times.blackout)(str(rule))
    elif name.endswith(".every") and isinstance(value, str):
        times.interval(value)
    elif ".limit." in f".{name}" and isinstance(value, int | float) and not isinstance(value, bool):
        if not 0 <= value <= 1_000_000:
            raise LimitValueError(f"{name} can't be {value}: it is 1 to 1000000, or 0 for none.")
        if place.level == "asset_set" and name.endswith("limit.scans"):
            raise LimitValueError("A number of scans at once is set for the install, a group or an organisation.")
    settings.set_(conn, place, name, value, known=options, actor=actor)
    reopen(conn, name)


def unset(conn: Connection, place: settings.Place, name: str, actor: str) -> bool:
    """Takes a setting away; False when there was none."""
    done = settings.unset(conn, place, name, actor=actor)
    reopen(conn, name)
    return done


def reopen(conn: Connection, name: str) -> int:
    """Makes what waits for a window due, for the dispatcher to judge by the windows there are now."""
    if not name.endswith((".windows", ".blackouts")):
        return 0
    return conn.execute(REOPEN).rowcount


def span(rule: str) -> tuple[Any, str]:
    """How long a rule takes from one time to the next, and the cron rule ("" for an interval)."""
    found = times.interval(rule)
    if isinstance(found, Cron):
        first = found.after(times.EPOCH)
        return found.after(first) - first, rule
    return found, ""
