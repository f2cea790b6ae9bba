"""Records what runs of sources say, a batch at a time: the one way in which facts and links change.

A successful run replaces what its own source said before, within its scope; other sources' facts, parts that were not
measured, and everything after a failed or blocked run stand as they were. What is said again unchanged is not written.
All of a batch has one recording time, later than any earlier one of its sources, so that spans of one claim never
overlap and none is empty. The number of statements does not depend on the size of the batch.

Locks are taken in one order by everybody: assets and sources made in the order of their keys, sources locked in the
order of their ids, then organisations, until the transaction ends: who judges what was recorded sees all that others
recorded before, and nobody records meanwhile. So call `record` once in a transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection, text

from kattegat.inventory import claim, planning, presence, register
from kattegat.inventory.claim import Claim, Prepared, Report, Unmeasured
from kattegat.inventory.presence import Change, Edge
from kattegat.inventory.register import Source, SourceName
from kattegat.model.scope import Scope

__all__ = ["Recorded", "Report", "record"]

Place = tuple[int, str, str]
"""(asset, kind, item) within one source."""

_CURRENT = """
    SELECT s.organisation_id, s.id, f.asset_id, f.kind, f.item, f.id, f.digest
    FROM unnest(CAST(:organisations AS bigint[]), CAST(:sources AS bigint[])) AS s(organisation_id, id)
    CROSS JOIN LATERAL (SELECT f.asset_id, f.kind, f.item, f.id, f.digest FROM fact f
                        WHERE f.organisation_id = s.organisation_id AND f.source_id = s.id AND f.ended_at IS NULL
                        ORDER BY f.asset_id, f.kind, f.item OFFSET 0) f
"""
# All links of a current fact are current; to say so would let the planner take an index that is of no use.
_LINKS = """
    SELECT e.organisation_id, e.fact_id, l.type, l.origin_id, l.target_id
    FROM unnest(CAST(:organisations AS bigint[]), CAST(:facts AS bigint[])) AS e(organisation_id, fact_id)
    CROSS JOIN LATERAL (SELECT l.type, l.origin_id, l.target_id FROM link l
                        WHERE l.organisation_id = e.organisation_id AND l.fact_id = e.fact_id OFFSET 0) l
"""
_END = """
    WITH ended AS (
        SELECT * FROM unnest(CAST(:organisations AS bigint[]), CAST(:facts AS bigint[])) AS e(organisation_id, fact_id)
    ), ended_link AS (
        UPDATE link l SET ended_at = :at
        FROM ended e WHERE l.organisation_id = e.organisation_id AND l.fact_id = e.fact_id
    )
    UPDATE fact f SET ended_at = :at
    FROM ended e WHERE f.organisation_id = e.organisation_id AND f.id = e.fact_id
"""
# Ids are given in the order of the rows, which is how the links find their fact.
_FACTS = """
    INSERT INTO fact (organisation_id, source_id, asset_id, kind, item, form, value, digest, evidence_id, recorded_at)
    SELECT r.o, r.s, r.a, r.k, r.i, r.f, r.v, decode(r.d, 'hex'), r.e, :at
    FROM ROWS FROM (json_to_recordset(CAST(:rows AS json)) AS (
        o bigint, s bigint, a bigint, k text, i text, f smallint, v jsonb, d text, e bigint)) WITH ORDINALITY
        AS r(o, s, a, k, i, f, v, d, e, place)
    ORDER BY r.place
    RETURNING id
"""
_NEW_LINKS = """
    INSERT INTO link (organisation_id, fact_id, type, origin_id, target_id, recorded_at)
    SELECT n.organisation_id, n.fact_id, n.type, n.origin_id, n.target_id, :at
    FROM unnest(CAST(:organisations AS bigint[]), CAST(:facts AS bigint[]), CAST(:types AS text[]),
                CAST(:origins AS bigint[]), CAST(:targets AS bigint[]))
         AS n(organisation_id, fact_id, type, origin_id, target_id)
"""
_RUNS = """
    INSERT INTO run (organisation_id, recorded_at, source_id, task_id, evidence_id, started_at, ended_at, outcome,
                     reason, scope, unmeasured, facts_new, facts_ended, facts_same)
    SELECT r.organisation_id, :at, r.source_id, r.task_id, r.evidence_id, r.started_at, r.ended_at, r.outcome,
           r.reason, r.scope, r.unmeasured, r.facts_new, r.facts_ended, r.facts_same
    FROM ROWS FROM (json_to_recordset(CAST(:rows AS json)) AS (
        organisation_id bigint, source_id bigint, task_id bigint, evidence_id bigint, started_at timestamptz,
        ended_at timestamptz, outcome text, reason text, scope jsonb, unmeasured jsonb, facts_new integer,
        facts_ended integer, facts_same integer)) WITH ORDINALITY
        AS r(organisation_id, source_id, task_id, evidence_id, started_at, ended_at, outcome, reason, scope,
             unmeasured, facts_new, facts_ended, facts_same, place)
    ORDER BY r.place
    RETURNING id
"""
_SOURCES = """
    UPDATE source s SET
        recorded_at = :at,
        state = coalesce(n.state, s.state),
        reason = coalesce(n.reason, s.reason),
        last_started_at = coalesce(n.last_started_at, s.last_started_at),
        last_ended_at = coalesce(n.last_ended_at, s.last_ended_at),
        confirmed_started_at = coalesce(n.confirmed_started_at, s.confirmed_started_at),
        confirmed_at = coalesce(n.confirmed_at, s.confirmed_at),
        plugin_version = coalesce(n.plugin_version, s.plugin_version),
        unmeasured = coalesce(n.unmeasured, s.unmeasured)
    FROM json_to_recordset(CAST(:rows AS json)) AS n(
        organisation_id bigint, id bigint, state text, reason text, last_started_at timestamptz,
        last_ended_at timestamptz, confirmed_started_at timestamptz, confirmed_at timestamptz, plugin_version integer,
        unmeasured jsonb)
    WHERE s.organisation_id = n.organisation_id AND s.id = n.id
"""


class Recorded(msgspec.Struct):
    """What one report came to.

    `outcome` is the report's, or "superseded" when a later run of the source had been recorded: no facts changed then.
    A changed fact counts as one ended and one new. `touched` are the assets whose facts or links changed, `described`
    those of them whose facts did; `stands` are all that a source which succeeded says anything of, since what it says
    may have been unknown until now. Presence and clearance are derived once for a batch: the assets for which they
    changed stand with the organisation's first report that changed links. `problems` are sentences about what was left
    out or said twice.
    """

    source_id: int
    run_id: int
    outcome: str
    facts_new: int = 0
    facts_ended: int = 0
    facts_same: int = 0
    touched: set[int] = msgspec.field(default_factory=set)
    described: set[int] = msgspec.field(default_factory=set)
    new_assets: set[int] = msgspec.field(default_factory=set)
    presence_changed: set[int] = msgspec.field(default_factory=set)
    stands: set[int] = msgspec.field(default_factory=set)
    problems: list[str] = msgspec.field(default_factory=list)


class _Fact(msgspec.Struct):
    """What stands for a place: the row it is in, or the claim of the report (by number) that has none yet."""

    digest: bytes
    id: int = 0
    claim: Claim | None = None
    report: int = -1


class _Update(msgspec.Struct):
    """What becomes of a source's row; None leaves a column as it is."""

    organisation_id: int
    id: int
    state: str | None = None
    reason: str | None = None
    last_started_at: datetime | None = None
    last_ended_at: datetime | None = None
    confirmed_started_at: datetime | None = None
    confirmed_at: datetime | None = None
    plugin_version: int | None = None
    unmeasured: list[list[object]] | None = None


class _Fold(msgspec.Struct):
    """The batch applied in order, in memory: per source what stood, what stands, and what becomes of its row."""

    before: dict[int, dict[Place, _Fact]] = {}
    after: dict[int, dict[Place, _Fact]] = {}
    updates: dict[int, _Update] = {}
    last: dict[int, int] = {}


def record(connection: Connection, batch: Sequence[Report]) -> list[Recorded]:
    """Records the reports in order and gives what each came to. For the role `kat_system`; commits nothing itself.

    Raises `KeyFormatError` for a subject whose key can't be stored; nothing else in a report can break the batch.
    """
    if not batch:
        return []
    prepared = [claim.prepare(report) for report in batch]
    with planning.by_index(connection):
        return _record(connection, batch, prepared)


def _record(connection: Connection, batch: Sequence[Report], prepared: Sequence[Prepared]) -> list[Recorded]:
    names = {
        (report.organisation_id, name)
        for report, ready in zip(batch, prepared, strict=True)
        for name in ready.assets | {about for *_, about in ready.unmeasured if about is not None}
    }
    ids, made = register.assets(connection, names)
    by_organisation: dict[int, dict[claim.Identity, int]] = {}
    for (organisation, name), id_ in ids.items():
        by_organisation.setdefault(organisation, {})[name] = id_
    source_names: list[SourceName] = [
        (
            report.organisation_id,
            claim.storable(report.scanner),
            by_organisation[report.organisation_id][ready.subject],
            claim.storable(report.vantage),
        )
        for report, ready in zip(batch, prepared, strict=True)
    ]
    locked = register.sources(
        connection, ((name, report.kind) for name, report in zip(source_names, batch, strict=True))
    )
    planning.in_order(connection)
    sources = [locked[name] for name in source_names]
    clock = presence.now(connection)
    after = max((source.recorded_at for source in sources if source.recorded_at is not None), default=None)
    fold = _Fold()
    _read(connection, fold, {(report.organisation_id, s.id) for report, s in zip(batch, sources, strict=True)})

    results: list[Recorded] = []
    for number, (report, ready, source) in enumerate(zip(batch, prepared, sources, strict=True)):
        known = by_organisation[report.organisation_id]
        result = _apply(fold, number, report, ready, source, known, clock)
        result.new_assets = {known[name] for name in ready.assets if (report.organisation_id, name) in made}
        results.append(result)
        made -= {(report.organisation_id, name) for name in ready.assets}

    organisations = {source.id: report.organisation_id for report, source in zip(batch, sources, strict=True)}
    _write(connection, fold, batch, prepared, results, organisations, by_organisation, after)
    return results


def _read(connection: Connection, fold: _Fold, sources: set[tuple[int, int]]) -> None:
    ordered = sorted(sources)
    parameters = {"organisations": [pair[0] for pair in ordered], "sources": [pair[1] for pair in ordered]}
    for _, source in ordered:
        fold.before[source] = {}
    for _, source, asset, kind, item, id_, digest in connection.execute(text(_CURRENT), parameters):
        fold.before[source][asset, kind, item] = _Fact(digest, id_)
    fold.after = {source: dict(facts) for source, facts in fold.before.items()}


def _apply(
    fold: _Fold,
    number: int,
    report: Report,
    ready: Prepared,
    source: Source,
    ids: dict[claim.Identity, int],
    clock: datetime,
) -> Recorded:
    """Applies one report to the fold, and to `source` for the reports after it."""
    result = Recorded(source.id, 0, report.outcome, problems=ready.problems)
    update = fold.updates.setdefault(source.id, _Update(report.organisation_id, source.id))
    # A runner whose clock is ahead must not make every later run look old.
    started_at, ended_at = min(report.started_at, clock), min(report.ended_at, clock)
    if started_at != report.started_at:
        result.problems.append(f"The run started at {report.started_at.isoformat()}, which is still to come.")
    if report.outcome == "ok" and source.confirmed_started_at and started_at < source.confirmed_started_at:
        result.outcome = "superseded"
        return result
    if source.last_started_at is None or started_at >= source.last_started_at:
        source.last_started_at = started_at
        update.state, update.reason = report.outcome, claim.storable(report.reason)
        update.last_started_at, update.last_ended_at = started_at, ended_at
    if report.outcome != "ok":
        return result
    source.confirmed_started_at = started_at
    update.confirmed_started_at, update.confirmed_at = started_at, ended_at
    update.plugin_version = report.plugin_version
    update.unmeasured = [_gap(gap) for gap in ready.unmeasured]
    _replace(fold, number, ready, ids, result)
    return result


def _replace(fold: _Fold, number: int, ready: Prepared, ids: dict[claim.Identity, int], result: Recorded) -> None:
    stands = fold.after[result.source_id]
    fold.last[result.source_id] = number
    said: set[Place] = set()
    for (about, kind, item), claimed in ready.claims.items():
        place = (ids[about], kind, item)
        said.add(place)
        standing = stands.get(place)
        if standing is not None and standing.digest == claimed.digest:
            result.facts_same += 1
            continue
        result.facts_new += 1
        result.facts_ended += standing is not None
        result.touched.add(place[0])
        result.described.add(place[0])
        result.touched.update(ids[end] for _, origin, target in claimed.links for end in (origin, target))
        stands[place] = _Fact(claimed.digest, 0, claimed, number)
    result.stands.update(asset for asset, _, _ in stands)
    if len(stands) == len(said):
        return
    gaps = {(kind, item, ids[about] if about is not None else None) for kind, item, _, about in ready.unmeasured}
    for place in [place for place in stands if place not in said]:
        asset, kind, item = place
        if ready.scope.covers(kind, item) and not gaps.intersection(
            {(kind, None, None), (kind, item, None), (kind, None, asset), (kind, item, asset)}
        ):
            del stands[place]
            result.facts_ended += 1
            result.touched.add(asset)
            result.described.add(asset)


def _write(
    connection: Connection,
    fold: _Fold,
    batch: Sequence[Report],
    prepared: Sequence[Prepared],
    results: Sequence[Recorded],
    organisations: dict[int, int],
    ids: dict[int, dict[claim.Identity, int]],
    after: datetime | None,
) -> None:
    """Writes the difference that the whole batch makes."""
    ended: dict[int, int] = {}
    new: list[tuple[int, Place, _Fact, Claim]] = []
    for source, before in fold.before.items():
        now = fold.after[source]
        for place, fact in before.items():
            standing = now.get(place)
            if standing is None or standing.digest != fact.digest:
                ended[fact.id] = source
        for place, fact in now.items():
            if fact.claim is not None:
                was = before.get(place)
                if was is None or was.digest != fact.digest:
                    new.append((source, place, fact, fact.claim))
    removed, ending = _links_of(connection, ended, organisations)
    edges: list[tuple[int, Edge]] = []
    added: dict[Edge, int] = {}
    for index, (source, _, fact, claimed) in enumerate(new):
        organisation = organisations[source]
        known = ids[organisation]
        for type_, origin, target in claimed.links:
            edge = (organisation, type_, known[origin], known[target])
            edges.append((index, edge))
            added.setdefault(edge, fact.report)
    change = Change(added=added.keys() - removed.keys(), removed=removed.keys() - added.keys())
    first: dict[int, int] = {}
    for edge in change.added | change.removed:
        number = added[edge] if edge in added else fold.last[removed[edge]]
        results[number].touched.update(edge[2:])
        first[edge[0]] = min(first.get(edge[0], number), number)
    presence.lock(connection, {report.organisation_id for report in batch})
    # Only now, so that the order of recording times is the order in which graphs change.
    at = presence.now(connection, after)
    if ended:
        connection.execute(text(_END), ending | {"at": at})
    if new:
        facts = _insert_facts(connection, new, batch, organisations, at)
        _insert_links(connection, edges, facts, at)
    _insert_runs(connection, batch, prepared, results, at)
    updates = msgspec.json.encode(list(fold.updates.values())).decode()
    connection.execute(text(_SOURCES), {"rows": updates, "at": at})
    if first:
        for organisation, asset in presence.derive(connection, change, at):
            results[first[organisation]].presence_changed.add(asset)


def _links_of(
    connection: Connection, ended: dict[int, int], organisations: dict[int, int]
) -> tuple[dict[Edge, int], dict[str, object]]:
    """The links that the ended facts claimed, with the source of each."""
    ordered = sorted(ended)
    parameters: dict[str, object] = {
        "organisations": [organisations[ended[fact]] for fact in ordered],
        "facts": ordered,
    }
    if not ended:
        return {}, parameters
    rows = connection.execute(text(_LINKS), parameters)
    return {(row[0], row[2], row[3], row[4]): ended[row[1]] for row in rows}, parameters


def _insert_facts(
    connection: Connection,
    new: Sequence[tuple[int, Place, _Fact, Claim]],
    batch: Sequence[Report],
    organisations: dict[int, int],
    at: datetime,
) -> list[int]:
    rows = [
        {
            "o": organisations[source],
            "s": source,
            "a": asset,
            "k": kind,
            "i": item,
            "f": claimed.form,
            "v": claimed.value,
            "d": claimed.digest.hex(),
            "e": batch[fact.report].evidence_id,
        }
        for source, (asset, kind, item), fact, claimed in new
    ]
    found = connection.execute(text(_FACTS), {"rows": msgspec.json.encode(rows).decode(), "at": at})
    return sorted(found.scalars())


def _insert_links(
    connection: Connection, edges: Sequence[tuple[int, Edge]], facts: Sequence[int], at: datetime
) -> None:
    parameters = {
        "organisations": [edge[0] for _, edge in edges],
        "facts": [facts[index] for index, _ in edges],
        "types": [edge[1] for _, edge in edges],
        "origins": [edge[2] for _, edge in edges],
        "targets": [edge[3] for _, edge in edges],
    }
    connection.execute(text(_NEW_LINKS), parameters | {"at": at})


def _insert_runs(
    connection: Connection,
    batch: Sequence[Report],
    prepared: Sequence[Prepared],
    results: Sequence[Recorded],
    at: datetime,
) -> None:
    rows = [
        {
            "organisation_id": report.organisation_id,
            "source_id": result.source_id,
            "task_id": report.task_id,
            "evidence_id": report.evidence_id,
            "started_at": report.started_at,
            "ended_at": report.ended_at,
            "outcome": result.outcome,
            "reason": claim.storable(report.reason),
            "scope": _scope(ready.scope),
            "unmeasured": [_gap(gap) for gap in ready.unmeasured],
            "facts_new": result.facts_new,
            "facts_ended": result.facts_ended,
            "facts_same": result.facts_same,
        }
        for report, ready, result in zip(batch, prepared, results, strict=True)
    ]
    found = connection.execute(text(_RUNS), {"rows": msgspec.json.encode(rows).decode(), "at": at})
    for result, id_ in zip(results, sorted(found.scalars()), strict=True):
        result.run_id = id_


def _scope(scope: Scope) -> dict[str, object]:
    """As `model.scope.Scope` says."""
    return {
        "kinds": {kind: None if items is None else sorted(items) for kind, items in scope.kinds.items()},
        "except": sorted(scope.except_, key=lambda part: (part[0], part[1] or "")),
    }


def _gap(gap: Unmeasured) -> list[object]:
    """`[kind, item | null, reason]`, with `[type, key]` as a fourth when it is about one asset."""
    kind, item, reason, about = gap
    return [kind, item, reason] if about is None else [kind, item, reason, list(about)]
