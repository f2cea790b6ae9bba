"""The door: where runners fetch scans and hand in results. The messages are those of `kattegat.model.work`.

A runner is known by its token alone; what it says about itself decides nothing but which scans it can do. Whatever
comes in is from another machine and is checked before it reaches a statement.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec
import structlog
from litestar import Request, Response, Router, post
from litestar.concurrency import sync_to_thread
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.params import RawBody
from sqlalchemy import Connection, text

from kattegat.errors import KattegatError
from kattegat.evidence.errors import EntryError
from kattegat.evidence.vault import Entry
from kattegat.model import assets
from kattegat.model.work import (
    LEASE_SECONDS,
    MAXIMUM_RESULT,
    PROTOCOL,
    Claim,
    Detail,
    Heartbeat,
    Jobs,
    Leases,
    PermitCall,
    Permits,
    Receipt,
    Result,
)
from kattegat.registry import Registry
from kattegat.scheduler import beat, dispatch, job, payload, permits, plan, queue, regime, room, runners
from kattegat.scheduler.queue import NewTask
from kattegat.scheduler.runners import Runner
from kattegat.store.database import Database
from kattegat.web.errors import RequestError

MEDIA = "application/msgpack"
MAXIMUM_MESSAGE = 1024 * 1024
MAXIMUM_JOBS = 500
MAXIMUM_LEASES = 20_000
WAIT_SECONDS = 0.5
DRAINED_SECONDS = 5.0
# A result may wait in a runner's spool for long; a clock that is further off than this is broken.
OLDEST, NEWEST = timedelta(days=60), timedelta(days=1)
BIGINT = range(-(2**63), 2**63)
RUNNER = "kattegat_runner"

Keep = Callable[[Connection, int, Entry], int]
"""Puts evidence of an organisation into the vault, in the caller's transaction; gives its id."""
M = TypeVar("M")

TASK = text(
    """
    SELECT t.organisation_id, t.source_id, t.scanner, t.state, t.lease_token, t.leased_by, t.priority, t.vantage,
           t.payload, t.created_at, t.started_at AS leased_at, clock_timestamp() AS now,
           a.type AS asset_type, a.key AS asset_key,
           EXISTS (SELECT FROM task i WHERE i.organisation_id = t.organisation_id AND i.source_id = t.source_id
                   AND i.kind = 'ingest' AND i.state IN ('queued', 'leased', 'paused')) AS ingest_open
    FROM task t
    JOIN source s ON s.organisation_id = t.organisation_id AND s.id = t.source_id
    JOIN asset a ON a.organisation_id = s.organisation_id AND a.id = s.asset_id
    WHERE t.id = :id AND t.kind = 'scan'
    FOR UPDATE OF t
    """
)

LEASED = text(
    """
    SELECT t.organisation_id, t.scanner, s.asset_id, a.type, a.key FROM task t
    JOIN source s ON s.organisation_id = t.organisation_id AND s.id = t.source_id
    JOIN asset a ON a.organisation_id = s.organisation_id AND a.id = s.asset_id
    WHERE t.id = :id AND t.state = 'leased' AND t.lease_token = :token AND t.leased_by = :by
    """
)

log = structlog.get_logger()


class Door:
    """What is behind the three paths; every method is one transaction."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        keep: Keep,
        *,
        options: job.Options = job.in_force,
        seconds: int = 300,
    ) -> None:
        """`keep` stores evidence, `options` gives the settings in force, `seconds` is how long a scan may take."""
        self._database = database
        self._registry = registry
        self._keep = keep
        self._options = options
        self._seconds = seconds
        self._tools = {spec.tool for spec in registry.scanners.values() if spec.tool}

    def runner(self, authorization: str) -> Runner:
        """The runner of an Authorization header; raises `RequestError` with 401 or 403."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise RequestError(401, "no_token", "The door needs a runner's token: send Authorization: Bearer TOKEN.")
        with self._database.begin("kat_system") as conn:
            found = runners.by_token(conn, token.strip())
        if found is None:
            raise RequestError(401, "unknown_token", "No runner has this token; register the runner and use its token.")
        if found.revoked_at is not None:
            raise RequestError(
                403, "revoked", f"The token of runner {found.name!r} was revoked; register the runner again."
            )
        return found

    def claim(self, runner: Runner, message: Claim) -> Jobs:
        """Leases scans that this runner can do; raises `RequestError` with 409 for another protocol or release."""
        _agree(runner, message)
        able = [
            name
            for name, version in message.scanners.items()
            if name in self._registry.scanners
            and self._registry.scanners[name].version == version
            and (not runner.scope.scanners or name in runner.scope.scanners)
        ]
        tools = {name: queue.clean(version)[:200] for name, version in message.tools.items() if name in self._tools}
        most = min(max(message.most, 0), MAXIMUM_JOBS)
        with self._database.begin("kat_system") as conn:
            if runners.seen(conn, runner, tools, queue.clean(message.release)[:40]):
                plan.tools_changed(conn, self._registry)
            if runner.drained_at is not None:
                return Jobs([], LEASE_SECONDS, DRAINED_SECONDS)
            rules, scope = regime.load(conn), runner.scope
            limits = rules.scans()
            places = {runner.vantage, *runner.labels}
            chosen = None
            if limits or scope.organisations or scope.networks:
                chosen = room.choose(
                    conn,
                    limits,
                    able,
                    places,
                    most,
                    organisations=scope.organisations or None,
                    networks=scope.networks or None,
                )
            tasks = queue.claim(
                conn,
                ["scan"],
                runner.name,
                most,
                scanners=able,
                vantage=places,
                lease_seconds=LEASE_SECONDS,
                ids=chosen,
            )
            built = job.build(
                conn,
                tasks,
                self._registry,
                options=self._options,
                seconds=self._seconds,
                only=scope.networks,
                rules=rules,
            )
            for task, reason in built.refused:
                queue.cancel(conn, [task.id], "door", reason)
            for task, at, reason in built.closed:
                queue.cancel(conn, [task.id], "door", reason)
                if task.organisation_id is not None and task.source_id is not None:
                    dispatch.postpone(conn, [(task.organisation_id, task.source_id, at, reason)])
            dispatch.hold(
                conn,
                [
                    (task.organisation_id, task.source_id, reason)
                    for task, reason in built.refused
                    if task.organisation_id is not None and task.source_id is not None
                ],
            )
        return Jobs(built.jobs, LEASE_SECONDS, WAIT_SECONDS)

    def heartbeat(self, runner: Runner, message: Heartbeat) -> Leases:
        """Prolongs leases and names those that are lost."""
        if len(message.leases) > MAXIMUM_LEASES:
            raise RequestError(400, "bad_request", f"A heartbeat holds at most {MAXIMUM_LEASES} leases.")
        possible: list[tuple[int, int]] = []
        odd: list[int] = []
        for lease in message.leases:
            if lease[0] in BIGINT and lease[1] in BIGINT:
                possible.append(lease)
            else:
                odd.append(lease[0])
        with self._database.begin("kat_system") as conn:
            runners.seen(conn, runner)
            return Leases([*queue.heartbeat(conn, possible, lease_seconds=LEASE_SECONDS), *odd])

    def permits(self, runner: Runner, message: PermitCall) -> Permits:
        """Grants connections of a scan that this runner holds, within the limits that all runners share."""
        if len(message.renew) + len(message.release) > MAXIMUM_LEASES:
            raise RequestError(400, "bad_request", f"A call holds at most {MAXIMUM_LEASES} permits.")
        renew = [number for number in message.renew if number in BIGINT]
        release = [number for number in message.release if number in BIGINT]
        with self._database.begin("kat_system") as conn:
            permits.release(conn, runner.name, release)
            answer = Permits([], permits.renew(conn, runner.name, renew), permits.SECONDS)
            if message.most <= 0:
                return answer
            return self._grant(conn, runner, message, answer)

    def _grant(self, conn: Connection, runner: Runner, message: PermitCall, answer: Permits) -> Permits:
        row = None
        if message.task_id in BIGINT and message.lease_token in BIGINT:
            asked = {"id": message.task_id, "token": message.lease_token, "by": runner.name}
            row = conn.execute(LEASED, asked).one_or_none()
        if row is None:
            return msgspec.structs.replace(answer, lost=True)
        try:
            address = str(ipaddress.ip_address(message.address))
            subject = assets.parse(row.type, row.key)
        except (ValueError, KattegatError):
            raise RequestError(400, "bad_request", f"{message.address[:60]!r} is no address.") from None
        if runner.scope.networks and not any(
            ipaddress.ip_address(address) in ipaddress.ip_network(network) for network in runner.scope.networks
        ):
            raise RequestError(403, "scope", f"Runner {runner.name!r} may not contact {address}.")
        rules = regime.load(conn)
        inside = regime.sets_of(conn, rules, [(row.organisation_id, row.asset_id)])
        mine = inside.get((row.organisation_id, row.asset_id), [])
        where = permits.places(job.zone_of(subject), address, rules.permits(row.organisation_id, row.scanner, mine))
        granted = permits.grant(conn, runner.name, message.task_id, where, min(message.most, permits.MOST))
        if not where:
            # The limits were lifted since the scan began: it goes on as if it had what it asks for.
            granted = permits.Granted([(0, 0.0)] * min(message.most, permits.MOST))
        return msgspec.structs.replace(answer, permits=granted.permits, wait_seconds=granted.wait_seconds)

    def hand_in(self, runner: Runner, result: Result) -> Receipt:
        """Takes a result: evidence kept, the scan ended, its ingest queued, together or not at all.

        One that was handed in before (the answer was lost on the way) is answered as taken, and changes nothing.
        """
        _check_times(result)
        if result.task_id not in BIGINT or result.lease_token not in BIGINT:
            return Receipt(False, "There is no such task.")
        with self._database.begin("kat_system") as conn:
            row = conn.execute(TASK, {"id": result.task_id}).one_or_none()
            if row is None:
                return Receipt(False, "There is no such task.")
            mine = row.lease_token == result.lease_token and row.leased_by == runner.name
            if mine and row.state in ("done", "failed"):
                return Receipt(True, "It was handed in before.")
            if not mine or row.state != "leased":
                return Receipt(False, f"The lease is lost: the task is {row.state} now.")
            if row.ingest_open:
                raise RequestError(
                    503, "busy", "An earlier result of this source is still being read; hand this one in again later."
                )
            self._take(conn, runner, result, row)
        return Receipt(True)

    def _take(self, conn: Connection, runner: Runner, result: Result, row: Any) -> None:
        reason = queue.clean(result.reason)
        scan = payload.read(row.payload)
        started_at, ended_at = by_our_clock(result.started_at, result.ended_at, row.leased_at, row.now)
        spec = self._registry.scanners.get(row.scanner)
        version = spec.version if spec is not None else 1
        evidence_id = None
        if result.evidence:
            entry = Entry(
                content=result.evidence,
                scanner=row.scanner,
                plugin_version=version,
                asset_type=row.asset_type,
                asset_key=row.asset_key,
                vantage=row.vantage,
                runner=runner.name,
                started_at=started_at,
                ended_at=ended_at,
                detail={**_storable(result.detail), "outcome": result.outcome, "reason": reason},
            )
            try:
                evidence_id = self._keep(conn, row.organisation_id, entry)
            except EntryError as problem:
                raise RequestError(400, "bad_request", str(problem)) from None
        queue.push(
            conn,
            [
                NewTask(
                    "ingest",
                    row.organisation_id,
                    row.source_id,
                    row.scanner,
                    priority=row.priority,
                    payload=payload.write(
                        payload.form(conn),
                        {
                            "evidence_id": evidence_id,
                            "outcome": result.outcome,
                            "reason": reason,
                            "sent_at": row.created_at.isoformat(),
                            "started_at": started_at.isoformat(),
                            "ended_at": ended_at.isoformat(),
                            "scan_task_id": result.task_id,
                            "plugin_version": version,
                        },
                        requested_by=str(scan.get("requested_by", "")),
                        trace=str(scan.get("trace", "")),
                    ),
                )
            ],
            by=f"runner {runner.name}",
        )
        ended = "done" if result.outcome == "ok" else "failed"
        if not queue.finish(conn, result.task_id, result.lease_token, ended, reason):  # type: ignore[arg-type]
            raise RequestError(409, "lost", "The lease was lost while the result was handed in.")


def routes(door: Door) -> Router:
    """The router for /door/v1. The token is checked before any of the body is read."""

    async def known(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        header = connection.headers.get("authorization", "")
        connection.scope["state"][RUNNER] = await sync_to_thread(door.runner, header)

    @post("/claim", status_code=200, sync_to_thread=True, request_max_body_size=MAXIMUM_MESSAGE)
    def claim(request: Request[Any, Any, Any], body: RawBody) -> Response[bytes]:
        return _pack(door.claim(request.scope["state"][RUNNER], _read(body, Claim)))

    @post("/heartbeat", status_code=200, sync_to_thread=True, request_max_body_size=MAXIMUM_MESSAGE)
    def heartbeat(request: Request[Any, Any, Any], body: RawBody) -> Response[bytes]:
        return _pack(door.heartbeat(request.scope["state"][RUNNER], _read(body, Heartbeat)))

    @post("/permits", status_code=200, sync_to_thread=True, request_max_body_size=MAXIMUM_MESSAGE)
    def permits(request: Request[Any, Any, Any], body: RawBody) -> Response[bytes]:
        return _pack(door.permits(request.scope["state"][RUNNER], _read(body, PermitCall)))

    @post("/hand-in", status_code=200, sync_to_thread=True, request_max_body_size=MAXIMUM_RESULT + MAXIMUM_MESSAGE)
    def hand_in(request: Request[Any, Any, Any], body: RawBody) -> Response[bytes]:
        return _pack(door.hand_in(request.scope["state"][RUNNER], _read(body, Result)))

    return Router(
        "/door/v1", route_handlers=[claim, heartbeat, permits, hand_in], guards=[known], include_in_schema=False
    )


def _agree(runner: Runner, message: Claim) -> None:
    if message.protocol != PROTOCOL:
        raise RequestError(
            409, "protocol", f"This door speaks protocol {PROTOCOL} and the runner {message.protocol}; install the"
            f" release {beat.release()} on the runner.",
        )  # fmt: skip
    if message.release != beat.release():
        raise RequestError(
            409, "release", f"This install is release {beat.release()} and the runner"
            f" {queue.clean(message.release)[:40]!r}; install {beat.release()} on the runner.",
        )  # fmt: skip
    if message.vantage != runner.vantage:
        raise RequestError(
            409, "vantage", f"Runner {runner.name!r} is registered for vantage {runner.vantage!r}; start it with that"
            " or register it anew.",
        )  # fmt: skip


def by_our_clock(
    started_at: datetime, ended_at: datetime, leased_at: datetime, now: datetime
) -> tuple[datetime, datetime]:
    """The times of a scan by the clock of the database: it was made between the lease and now.

    With a runner's clock that is behind, its results would look older than those before, and be due again at once.
    """
    shift = min(now - ended_at, timedelta(0))
    if started_at + shift < leased_at:
        shift = leased_at - started_at
    return started_at + shift, min(ended_at + shift, now)


def _check_times(result: Result) -> None:
    for name in ("started_at", "ended_at"):
        at: datetime = getattr(result, name)
        if at.tzinfo is None:
            raise RequestError(400, "bad_request", f"{name} needs a time zone.")
        now = datetime.now(UTC)
        if not now - OLDEST <= at <= now + NEWEST:
            raise RequestError(400, "bad_request", f"{name} is {at.isoformat()}; set the clock of the runner right.")
    if result.ended_at < result.started_at:
        raise RequestError(400, "bad_request", "ended_at is before started_at.")


def _storable(detail: Detail) -> Mapping[str, Any]:
    return {
        name: [queue.clean(entry) for entry in value] if isinstance(value, list) else queue.clean(value)
        for name, value in msgspec.to_builtins(detail).items()
    }


def _read(body: bytes, kind: type[M]) -> M:
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as problem:
        raise RequestError(400, "bad_request", f"The body is no {kind.__name__} in MessagePack: {problem}.") from None


def _pack(message: Any) -> Response[bytes]:
    return Response(msgspec.msgpack.encode(message), media_type=MEDIA)
