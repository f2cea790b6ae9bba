"""From claimed scan tasks to the jobs that a runner gets: where it may go, with which options, knowing what.

All of it is read when the task is claimed, not when it was queued: a clearance that was taken back in between counts.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from kattegat.accounts import settings
from kattegat.errors import KattegatError
from kattegat.inventory import planning
from kattegat.model import assets, keys
from kattegat.model.assets import Asset, IPAddress, Network, Service
from kattegat.model.work import Job, KnownFact, Limits
from kattegat.plugin import Option, ScannerSpec
from kattegat.registry import Registry
from kattegat.scheduler import blocklist, regime
from kattegat.scheduler.plan import GONE, NO_CONSENT
from kattegat.scheduler.queue import Task

Options = Callable[[Connection, int], Mapping[str, Any]]
"""What is set for an organisation, as `<scanner>.<option>`."""
AnyNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

SUBJECTS = text(
    """
    SELECT r.task_id, o.code, s.asset_id, a.type, a.key, a.present, a.clearance, coalesce(h.hold, '') AS hold,
           EXISTS (SELECT FROM consent c WHERE c.organisation_id = r.organisation_id AND c.revoked_at IS NULL
                   AND c.granted_at <= now() AND (c.until IS NULL OR c.until > now())) AS consent
    FROM unnest(CAST(:tasks AS bigint[]), CAST(:organisations AS bigint[]), CAST(:sources AS bigint[]))
         AS r(task_id, organisation_id, source_id)
    JOIN organisation o ON o.id = r.organisation_id
    JOIN source s ON s.organisation_id = r.organisation_id AND s.id = r.source_id
    JOIN asset a ON a.organisation_id = s.organisation_id AND a.id = s.asset_id
    LEFT JOIN schedule h ON h.organisation_id = s.organisation_id AND h.id = s.id
    """
)
SPECIAL = text(
    """
    SELECT organisation_id FROM setting WHERE organisation_id = ANY(CAST(:organisations AS bigint[]))
    UNION
    SELECT g.organisation_id FROM group_member g JOIN setting s ON s.group_id = g.group_id
    WHERE g.organisation_id = ANY(CAST(:organisations AS bigint[]))
    """
)
OWN = text(
    """
    SELECT organisation_id, zone, CAST(network AS text) AS network FROM own_network
    WHERE organisation_id = ANY(CAST(:organisations AS bigint[])) ORDER BY network
    """
)
DECLARED = text(
    """
    SELECT organisation_id, type, key, declared_clearance FROM asset
    WHERE organisation_id = ANY(CAST(:organisations AS bigint[])) AND type IN ('IPAddress', 'Network')
      AND declared AND declared_clearance IS NOT NULL
    ORDER BY organisation_id, type, key
    """
)
KNOWN = text(
    """
    WITH need AS (
      SELECT * FROM unnest(CAST(:tasks AS bigint[]), CAST(:organisations AS bigint[]), CAST(:assets AS bigint[]),
                           CAST(:kinds AS text[]), CAST(:links AS text[]), CAST(:backwards AS boolean[]))
        AS n(task_id, organisation_id, asset_id, kind, link, backwards)
    ), at AS (
      SELECT task_id, organisation_id, asset_id, kind FROM need WHERE link = ''
      UNION
      SELECT n.task_id, n.organisation_id, l.target_id, n.kind FROM need n
      JOIN link l ON l.organisation_id = n.organisation_id AND l.origin_id = n.asset_id AND l.type = n.link
        AND l.ended_at IS NULL
      WHERE n.link <> '' AND NOT n.backwards
      UNION
      SELECT n.task_id, n.organisation_id, l.origin_id, n.kind FROM need n
      JOIN link l ON l.organisation_id = n.organisation_id AND l.target_id = n.asset_id AND l.type = n.link
        AND l.ended_at IS NULL
      WHERE n.backwards
    )
    SELECT at.task_id, f.kind, a.type, a.key, f.item, f.form, f.value, s.scanner, s.vantage,
           coalesce(s.confirmed_at, f.recorded_at) AS confirmed_at
    FROM at
    JOIN fact f ON f.organisation_id = at.organisation_id AND f.asset_id = at.asset_id AND f.kind = at.kind
      AND f.ended_at IS NULL
    JOIN asset a ON a.organisation_id = f.organisation_id AND a.id = f.asset_id AND a.present
    JOIN source s ON s.organisation_id = f.organisation_id AND s.id = f.source_id
    ORDER BY at.task_id, f.kind, a.type, a.key, f.item, s.id
    """
)


def in_force(conn: Connection, organisation_id: int) -> dict[str, Any]:
    """What is set for an organisation, at any place above it; the usual `Options`."""
    return {name: said.value for name, said in settings.in_force(conn, organisation_id).items()}


class Built(NamedTuple):
    """The jobs; the tasks that may not be done any more, each with the reason; those that may begin later, and when."""

    jobs: list[Job]
    refused: list[tuple[Task, str]]
    closed: list[tuple[Task, datetime, str]]


class Declared(NamedTuple):
    """An address or network whose clearance a person has declared."""

    network: AnyNetwork
    clearance: int


def zone_of(asset: Asset) -> str:
    """The named address space that an asset lies in."""
    if isinstance(asset, Service):
        return asset.address.zone
    return asset.zone if isinstance(asset, IPAddress | Network) else keys.DEFAULT_ZONE


def build(
    conn: Connection,
    tasks: Sequence[Task],
    registry: Registry,
    *,
    options: Options = in_force,
    seconds: int = 300,
    only: Sequence[str] = (),
    rules: regime.Regime | None = None,
) -> Built:
    """The jobs of claimed scan tasks, in the order of the tasks; four statements and what `options` does."""
    wanted = [task for task in tasks if task.organisation_id is not None and task.source_id is not None]
    refused: list[tuple[Task, str]] = [(task, "it names no source") for task in tasks if task not in wanted]
    if not wanted:
        return Built([], refused, [])
    organisations = sorted({_of(task) for task in wanted})
    subjects = {
        row.task_id: row
        for row in conn.execute(
            SUBJECTS,
            {
                "tasks": [task.id for task in wanted],
                "organisations": [task.organisation_id for task in wanted],
                "sources": [task.source_id for task in wanted],
            },
        )
    }
    rules = regime.load(conn) if rules is None else rules
    blocked = blocklist.in_force(conn, organisations)
    inside = regime.sets_of(
        conn, rules, [(_of(task), row.asset_id) for task in wanted if (row := subjects.get(task.id))]
    )
    now = conn.execute(text("SELECT now()")).scalar_one()
    closed: list[tuple[Task, datetime, str]] = []
    allowed: list[tuple[Task, ScannerSpec, Any, Asset]] = []
    for task in wanted:
        row, spec = subjects.get(task.id), registry.scanners.get(task.scanner)
        reason = _refusal(task, row, spec)
        if not reason and row is not None and spec is not None:
            until = rules.closed(now, _of(task), spec.name, inside.get((_of(task), row.asset_id), ()))
            if until is not None:
                closed.append((task, *until))
                continue
            try:
                subject = assets.parse(row.type, row.key)
            except KattegatError as problem:
                reason = str(problem)
            else:
                reason = blocklist.reason(blocked, _of(task), subject)
                if not reason:
                    allowed.append((task, spec, row, subject))
        if reason:
            refused.append((task, reason))
    own: dict[tuple[int, str], list[str]] = defaultdict(list)
    for row in conn.execute(OWN, {"organisations": organisations}):
        own[row.organisation_id, row.zone].append(row.network)
    declared = _declared(conn, organisations)
    known = _known(conn, [(task, spec, row.asset_id) for task, spec, row, _ in allowed])
    in_force = _in_force(conn, organisations, options)
    jobs = []
    for task, spec, row, subject in allowed:
        place = _of(task), zone_of(subject)
        jobs.append(
            Job(
                task_id=task.id,
                lease_token=task.token,
                organisation=row.code,
                scanner=spec.name,
                scanner_version=spec.version,
                asset_type=row.type,
                asset_key=row.key,
                clearance=row.clearance,
                limits=Limits(
                    place[1],
                    own.get(place, []),
                    [
                        *blocklist.refused(blocked, place[0], place[1]),
                        *below(declared.get(place, []), spec.clearance),
                    ],
                    only=list(only),
                    permits=bool(
                        permits := rules.permits(place[0], spec.name, inside.get((place[0], row.asset_id), ()))
                    ),
                    rate=min((rates.rate for rates in permits.values() if rates.rate), default=0.0),
                ),
                options=options_of(spec, in_force[place[0]]),
                known=known.get(task.id, []),
                seconds=seconds,
            )
        )
    return Built(jobs, refused, closed)


def _in_force(conn: Connection, organisations: Sequence[int], options: Options) -> dict[int, Mapping[str, Any]]:
    """The options of each organisation; all for which nothing is set but for the whole install share one answer."""
    special = set(conn.execute(SPECIAL, {"organisations": list(organisations)}).scalars())
    usual = [organisation for organisation in organisations if organisation not in special]
    found = {organisation: options(conn, organisation) for organisation in organisations if organisation in special}
    return found | dict.fromkeys(usual, options(conn, usual[0]) if usual else {})


def options_of(spec: ScannerSpec, in_force: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of the scanner: what is set for it, or its default. A value of another type does not count."""
    return {option.name: _value(option, in_force.get(f"{spec.name}.{option.name}")) for option in spec.options}


def below(declared: Iterable[Declared], needed: int) -> list[tuple[str, str]]:
    """Where a scan that needs this clearance must not go, as (CIDR, reason): the closest declaration decides.

    A network declared with less is refused but for the parts of it that are declared with enough.
    """
    entries = list(declared)
    allowed = [entry.network for entry in entries if entry.clearance >= needed]
    found: list[tuple[str, str]] = []
    for entry in entries:
        if entry.clearance >= needed:
            continue
        parts: list[AnyNetwork] = [entry.network]
        for hole in allowed:
            if hole != entry.network and _inside(hole, entry.network):
                parts = [piece for part in parts for piece in _less(part, hole)]
        reason = f"{entry.network} has clearance {entry.clearance}, and this scan needs {needed}"
        found += [(str(part), reason) for part in parts]
    return found


def _of(task: Task) -> int:
    return task.organisation_id or 0


def _refusal(task: Task, row: Any, spec: ScannerSpec | None) -> str:
    if row is None:
        return "its source is gone"
    if spec is None:
        return f"scanner {task.scanner} is not installed"
    if not row.present:
        return GONE
    if row.clearance < spec.clearance:
        return f"clearance {row.clearance}, needs {spec.clearance}"
    # A consent ends by time alone, with nobody there to plan anew.
    if spec.clearance > 0 and not row.consent:
        return NO_CONSENT
    return str(row.hold)


def _declared(conn: Connection, organisations: list[int]) -> dict[tuple[int, str], list[Declared]]:
    found: dict[tuple[int, str], list[Declared]] = defaultdict(list)
    for row in conn.execute(DECLARED, {"organisations": organisations}):
        zone, _, cidr = row.key.rpartition("|")
        found[row.organisation_id, zone].append(Declared(ipaddress.ip_network(cidr), row.declared_clearance))
    return found


def _known(conn: Connection, asked: Sequence[tuple[Task, ScannerSpec, int]]) -> dict[int, list[KnownFact]]:
    needs = [(task, need, asset_id) for task, spec, asset_id in asked for need in spec.uses]
    found: dict[int, list[KnownFact]] = defaultdict(list)
    if not needs:
        return found
    parameters = {
        "tasks": [task.id for task, _, _ in needs],
        "organisations": [task.organisation_id for task, _, _ in needs],
        "assets": [asset_id for _, _, asset_id in needs],
        "kinds": [need.fact.kind for _, need, _ in needs],
        "links": [need.link for _, need, _ in needs],
        "backwards": [need.backwards for _, need, _ in needs],
    }
    with planning.by_index(conn):
        for row in conn.execute(KNOWN, parameters).all():
            found[row.task_id].append(KnownFact(*row[1:]))
    return found


def _value(option: Option, value: Any) -> Any:
    if isinstance(option.default, tuple):
        return tuple(value) if isinstance(value, list | tuple) else option.default
    if type(value) is type(option.default):
        return value
    if isinstance(option.default, float) and type(value) is int:
        return float(value)
    return option.default


def _inside(inner: AnyNetwork, outer: AnyNetwork) -> bool:
    if isinstance(inner, ipaddress.IPv4Network) and isinstance(outer, ipaddress.IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(inner, ipaddress.IPv6Network) and isinstance(outer, ipaddress.IPv6Network):
        return inner.subnet_of(outer)
    return False


def _less(part: AnyNetwork, hole: AnyNetwork) -> list[AnyNetwork]:
    if _inside(part, hole):
        return []
    if not _inside(hole, part):
        return [part]
    if isinstance(part, ipaddress.IPv4Network) and isinstance(hole, ipaddress.IPv4Network):
        return list(part.address_exclude(hole))
    if isinstance(part, ipaddress.IPv6Network) and isinstance(hole, ipaddress.IPv6Network):
        return list(part.address_exclude(hole))
    return [part]
