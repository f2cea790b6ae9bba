"""From results to facts, verdicts and new work: a batch of results in one transaction.

Evidence is read and parsed first, outside any transaction. Then everything that follows from the batch is written
together with the end of its tasks, so that a killed worker leaves either all of it or nothing. A batch that can't be
written is done again one by one, so that a result which breaks something stops itself only.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from types import TracebackType
from typing import Any, NamedTuple, Self

import structlog
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from kattegat.checks import evaluate as checks
from kattegat.errors import KattegatError
from kattegat.evidence import vault as vaults
from kattegat.evidence.errors import EvidenceError
from kattegat.evidence.vault import Vault
from kattegat.inventory import record as inventory
from kattegat.inventory.record import Recorded, Report
from kattegat.model import assets
from kattegat.model.assets import Asset
from kattegat.model.scope import Scope
from kattegat.registry import Registry
from kattegat.scheduler import dispatch, job, plan, queue, scans
from kattegat.scheduler.dispatch import Ran
from kattegat.scheduler.queue import LEASE_SECONDS, Ending, Task
from kattegat.store.database import Database, DatabaseUnreachableError
from kattegat.store.release import WrongReleaseError
from kattegat.worker.sandbox import Sandbox

BATCH = 50
HEARTBEAT_SECONDS = 8.0
UNREADABLE = "its evidence could not be read"

Planner = Callable[[Connection, int, Collection[int], Registry], Any]
"""Gives assets of an organisation their sources; `plan_as_chosen` is one."""
Evaluator = Callable[[Connection, int, Collection[int], Registry, datetime, Collection[int]], Any]
"""Runs the checks of assets of an organisation."""

SUBJECTS = text(
    """
    SELECT r.task_id, s.asset_id, s.vantage, a.type, a.key
    FROM unnest(CAST(:tasks AS bigint[]), CAST(:organisations AS bigint[]), CAST(:sources AS bigint[]))
         AS r(task_id, organisation_id, source_id)
    JOIN source s ON s.organisation_id = r.organisation_id AND s.id = r.source_id
    JOIN asset a ON a.organisation_id = s.organisation_id AND a.id = s.asset_id
    """
)

log = structlog.get_logger()


class LeaseLostError(KattegatError):
    """Tasks of a batch that somebody else has by now; nothing of them may be written."""

    def __init__(self, task_ids: set[int]) -> None:
        self.task_ids = task_ids
        super().__init__(f"{len(task_ids)} tasks were given to another worker; their results are dropped here.")


class Read(NamedTuple):
    """A task with its result, parsed and ready to be recorded."""

    task: Task
    asset_id: int
    report: Report


def _sent_at(entry: Read) -> datetime:
    # A result that an earlier release took in does not say it.
    sent = entry.task.payload.get("sent_at")
    return datetime.fromisoformat(sent) if sent else entry.report.started_at


class Held:
    """Keeps the leases of a batch alive from a thread of its own, for as long as the batch takes."""

    def __init__(self, database: Database, tasks: Sequence[Task], seconds: float = HEARTBEAT_SECONDS) -> None:
        self._database = database
        self._leases = [(task.id, task.token) for task in tasks]
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="leases", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                with self._database.begin("kat_system") as conn:
                    # Those that were finished meanwhile are rightly "lost".
                    queue.heartbeat(conn, self._leases)
            except (SQLAlchemyError, KattegatError) as problem:
                log.warning("leases could not be kept", problem=str(problem).splitlines()[0])


def evaluate(
    conn: Connection,
    organisation_id: int,
    asset_ids: Collection[int],
    registry: Registry,
    now: datetime,
    seen: Collection[int],
) -> Any:
    """The checks of these assets under the organisation's settings; the usual `Evaluator`.

    `seen` are those of them whose facts or sources changed, which checks of others may see over a link.
    """
    in_force = job.in_force(conn, organisation_id)
    return checks.evaluate(conn, organisation_id, asset_ids, registry, now, in_force, seen=seen)


def plan_as_chosen(
    conn: Connection, organisation_id: int, asset_ids: Collection[int] | None, registry: Registry
) -> Any:
    """Plans (None: all assets) with the choice of scanners of the organisation's open scan; the usual `Planner`."""
    chosen = scans.choice(conn, organisation_id)
    return plan.plan(conn, organisation_id, asset_ids, registry, only=chosen.only, skip=chosen.skip)


class Ingest:
    """What a worker does with results. `by` is the name under which it leases tasks."""

    def __init__(
        self,
        database: Database,
        vault: Vault,
        registry: Registry,
        sandbox: Sandbox,
        *,
        by: str,
        planner: Planner = plan_as_chosen,
        evaluator: Evaluator = evaluate,
    ) -> None:
        self._database = database
        self._vault = vault
        self._registry = registry
        self._sandbox = sandbox
        self._by = by
        self._planner = planner
        self._evaluator = evaluator

    def step(self, most: int = BATCH) -> int:
        """Claims a batch and brings it to its end; gives how many tasks it held (0: there is nothing to do)."""
        with self._database.begin("kat_system") as conn:
            tasks = queue.claim(conn, ["ingest"], self._by, most, lease_seconds=LEASE_SECONDS)
        if tasks:
            with Held(self._database, tasks):
                self._work(tasks)
        return len(tasks)

    def _work(self, tasks: Sequence[Task]) -> None:
        ready, broken = self._read(tasks)
        for task, problem in broken:
            self._give_back(task, problem)
        if not ready:
            return
        try:
            self._write(ready)
        except (DatabaseUnreachableError, WrongReleaseError):
            raise
        except Exception as problem:
            if len(ready) > 1 or isinstance(problem, LeaseLostError):
                log.warning("a batch is done one by one", size=len(ready), problem=repr(problem))
            self._one_by_one(ready)

    def _one_by_one(self, ready: Sequence[Read]) -> None:
        for entry in ready:
            try:
                self._write([entry])
            except (DatabaseUnreachableError, WrongReleaseError):
                raise
            except LeaseLostError:
                log.warning("a result is dropped: its lease was lost", task=entry.task.id)
            except Exception as problem:
                log.error("a result could not be recorded", task=entry.task.id, exc_info=problem)
                self._give_back(entry.task, _told(problem))

    def _give_back(self, task: Task, reason: str) -> None:
        with self._database.begin("kat_system") as conn:
            returned = queue.fail(conn, [(task.id, task.token, f"its result could not be recorded: {reason}")])
            dispatch.settle(conn, returned)

    # --- reading -----------------------------------------------------------------------------------------------------

    def _read(self, tasks: Sequence[Task]) -> tuple[list[Read], list[tuple[Task, str]]]:
        with self._database.begin("kat_system") as conn:
            subjects = {
                row.task_id: row
                for row in conn.execute(
                    SUBJECTS,
                    {
                        "tasks": [task.id for task in tasks],
                        "organisations": [task.organisation_id for task in tasks],
                        "sources": [task.source_id for task in tasks],
                    },
                )
            }
        ready: list[Read] = []
        broken: list[tuple[Task, str]] = []
        with ThreadPoolExecutor(self._sandbox.size) as threads:
            for task, answer in zip(
                tasks, threads.map(lambda task: self._report(task, subjects.get(task.id)), tasks), strict=True
            ):
                if isinstance(answer, str):
                    broken.append((task, answer))
                else:
                    ready.append(Read(task, subjects[task.id].asset_id, answer))
        return ready, broken

    def _report(self, task: Task, row: Any) -> Report | str:
        """The report of one result, or why there is none this time."""
        try:
            if row is None:
                return "its source is gone"
            payload = task.payload
            spec = self._registry.scanners.get(task.scanner)
            report = Report(
                organisation_id=task.organisation_id or 0,
                scanner=task.scanner,
                asset=assets.parse(row.type, row.key),
                started_at=datetime.fromisoformat(payload["started_at"]),
                ended_at=datetime.fromisoformat(payload["ended_at"]),
                scope=Scope.of(*(fact.kind for fact in spec.yields)) if spec is not None else Scope({}),
                vantage=row.vantage,
                plugin_version=spec.version if spec is not None else int(payload.get("plugin_version") or 1),
                outcome=payload["outcome"],
                reason=payload.get("reason") or "",
                task_id=payload.get("scan_task_id"),
                evidence_id=payload.get("evidence_id"),
            )
            return self._parsed(report, report.asset) if report.outcome == "ok" else report
        except (DatabaseUnreachableError, WrongReleaseError):
            raise
        except (KattegatError, KeyError, ValueError, TypeError, SQLAlchemyError) as problem:
            return _told(problem)

    def _parsed(self, report: Report, subject: Asset) -> Report:
        if report.evidence_id is None:
            return _failed(report, f"{UNREADABLE}: the scan brought none")
        try:
            with self._database.begin("kat_system") as conn:
                stored = vaults.get(conn, self._vault, report.organisation_id, report.evidence_id)
        except EvidenceError as problem:
            return _failed(report, f"{UNREADABLE}: {problem}")
        parsed = self._sandbox.parse(report.scanner, subject, stored.content)
        if parsed.problem:
            return _failed(report, f"{UNREADABLE}: {parsed.problem}")
        return _with(report, found=parsed.found, unmeasured=parsed.unmeasured)

    # --- writing -----------------------------------------------------------------------------------------------------

    def _write(self, ready: Sequence[Read]) -> None:
        """Everything that follows from these results, in one transaction; raises `LeaseLostError`."""
        with self._database.begin("kat_system") as conn:
            began: datetime = conn.execute(text("SELECT clock_timestamp()")).scalar_one()
            recorded = inventory.record(conn, [entry.report for entry in ready])
            for organisation_id, results in sorted(_by_organisation(ready, recorded).items()):
                self._follow(conn, organisation_id, results, began)
            dispatch.ran(
                conn,
                [
                    Ran(
                        entry.report.organisation_id,
                        result.source_id,
                        entry.report.outcome,
                        _sent_at(entry),
                        min(entry.report.ended_at, began),
                    )
                    for entry, result in zip(ready, recorded, strict=True)
                ],
            )
            endings = [
                Ending(entry.task.id, entry.task.token, "done", _summary(entry.report, result))
                for entry, result in zip(ready, recorded, strict=True)
            ]
            lost = {entry.task.id for entry in ready} - queue.finish_all(conn, endings)
            if lost:
                raise LeaseLostError(lost)

    def _follow(
        self, conn: Connection, organisation_id: int, results: list[tuple[Read, Recorded]], began: datetime
    ) -> None:
        planned: set[int] = set()
        judged: set[int] = set()
        seen: set[int] = set()
        unmeasured: set[int] = set()
        changed: set[tuple[int, str]] = set()
        for entry, result in results:
            planned |= result.new_assets | result.presence_changed
            if entry.report.outcome == "ok":
                # Also what did not change: since the last success it may have been unknown, or time has passed.
                seen |= {entry.asset_id} | result.described | result.stands | result.presence_changed
                judged |= seen | result.touched | result.new_assets
            else:
                unmeasured.add(entry.asset_id)
            spec = self._registry.scanners.get(entry.report.scanner)
            if spec is not None and (result.facts_new or result.facts_ended):
                # More than what changed, since the record says assets and not kinds; it costs a scan now and then.
                changed |= {(asset, fact.kind) for asset in result.touched for fact in spec.yields}
            for problem in result.problems:
                log.warning("a part of a result was left out", task=entry.task.id, problem=problem)
        if planned:
            self._planner(conn, organisation_id, planned, self._registry)
        plan.due_for_changes(conn, organisation_id, changed, self._registry, since=began)
        now: datetime = conn.execute(text("SELECT clock_timestamp()")).scalar_one()
        # What failed changes what is seen of an asset, also of one that another result names.
        seen |= unmeasured & judged
        if judged:
            self._evaluator(conn, organisation_id, judged, self._registry, now, seen)
        if unmeasured - judged:
            try:
                with conn.begin_nested():
                    failed = unmeasured - judged
                    self._evaluator(conn, organisation_id, failed, self._registry, now, failed)
            except (SQLAlchemyError, WrongReleaseError):
                raise
            except Exception as problem:
                # That the scan failed must get into its source, also when it is the checks that are broken.
                log.error("checks broke after a failed scan", assets=sorted(unmeasured), exc_info=problem)


def _by_organisation(ready: Sequence[Read], recorded: Sequence[Recorded]) -> dict[int, list[tuple[Read, Recorded]]]:
    found: dict[int, list[tuple[Read, Recorded]]] = defaultdict(list)
    for entry, result in zip(ready, recorded, strict=True):
        found[entry.report.organisation_id].append((entry, result))
    return found


def _with(report: Report, **changes: Any) -> Report:
    return type(report)(**{**{name: getattr(report, name) for name in report.__struct_fields__}, **changes})


def _failed(report: Report, reason: str) -> Report:
    return _with(report, outcome="failed", reason=queue.clean(reason))


def _summary(report: Report, result: Recorded) -> str:
    if result.outcome == "ok":
        return f"{result.facts_new} new facts, {result.facts_ended} ended, {result.facts_same} unchanged"
    if result.outcome == "superseded":
        return "superseded: a later run of this source had been recorded"
    return f"{result.outcome}: {report.reason}"


def _told(problem: BaseException) -> str:
    lines = str(problem).strip().splitlines() or [""]
    return lines[0] if isinstance(problem, KattegatError) else f"{type(problem).__name__}: {lines[0]}"
