"""The worker's process: results first, then what only time makes due; gives its leases back when it is stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import structlog
from sqlalchemy.exc import SQLAlchemyError

from kattegat import logs
from kattegat import registry as registries
from kattegat.checks import evaluate as checks
from kattegat.errors import KattegatError
from kattegat.evidence import seal
from kattegat.evidence import vault as vaults
from kattegat.evidence.vault import Vault
from kattegat.registry import Registry
from kattegat.scheduler import beat, job, plan, queue, scans
from kattegat.settings import Settings
from kattegat.store import partition
from kattegat.store.database import Database, open_database
from kattegat.store.release import WrongReleaseError
from kattegat.worker.ingest import Evaluator, Ingest, Planner, evaluate, plan_as_chosen
from kattegat.worker.sandbox import Sandbox

ROLE = "worker"
IDLE_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 10.0

log = structlog.get_logger()


class Chore:
    """Something to do every so many seconds; `act` says whether there is more to do at once."""

    def __init__(self, name: str, seconds: float, act: Callable[[], bool | None]) -> None:
        self.name = name
        self._seconds = seconds
        self._act = act
        self._next = 0.0

    def run_if_due(self) -> None:
        """Acts when it is time. An error is logged and does not keep the worker from anything else."""
        if time.monotonic() < self._next:
            return
        more = None
        try:
            more = self._act()
        except WrongReleaseError:
            raise
        except (SQLAlchemyError, KattegatError) as problem:
            log.error("a chore failed", chore=self.name, problem=str(problem).splitlines()[0])
        except Exception as problem:
            log.error("a chore broke", chore=self.name, exc_info=problem)
        self._next = time.monotonic() + (0 if more else self._seconds)


def chores(database: Database, vault: Vault, registry: Registry) -> list[Chore]:
    """What a worker does beside results: checks that time makes due, sealing of evidence, partitions."""

    def recheck() -> bool:
        with database.begin("kat_system") as conn:
            done = checks.evaluate_due(conn, registry, datetime.now(UTC), options=job.in_force)
        return done.assets > 0

    def seals() -> None:
        seal.run(database, vault)

    def partitions() -> None:
        with database.begin("kat_owner") as conn:
            partition.ensure(conn)

    def forsaken() -> None:
        # What a scan left out is watched again when its command died before it could say so.
        with database.begin("kat_system") as conn:
            for organisation in sorted(scans.forsaken(conn)):
                plan_as_chosen(conn, organisation, None, registry)

    return [
        Chore("checks", 5, recheck),
        Chore("scans", 30, forsaken),
        Chore("seals", 60, seals),
        Chore("partitions", 86400, partitions),
    ]


class Worker:
    """One worker: `step` does one round and says how many results it held."""

    def __init__(
        self,
        database: Database,
        vault: Vault,
        registry: Registry,
        sandbox: Sandbox,
        *,
        planner: Planner = plan_as_chosen,
        evaluator: Evaluator = evaluate,
        beside: Sequence[Chore] | None = None,
    ) -> None:
        self.name = beat.name_of(ROLE)
        self._database = database
        self._registry = registry
        self._ingest = Ingest(database, vault, registry, sandbox, by=self.name, planner=planner, evaluator=evaluator)
        self._chores = list(chores(database, vault, registry) if beside is None else beside)

    def step(self) -> int:
        """A batch of results, and each chore whose time has come."""
        for chore in self._chores:
            chore.run_if_due()
        return self._ingest.step()

    def begin(self) -> None:
        """Gives back what an earlier process of this name held, and makes checks that are new or changed run.

        What a scan that has ended left out is planned again: whoever starts a worker wants everything watched.
        """
        with self._database.begin("kat_system") as conn:
            queue.release(conn, self.name)
            checks.recheck_changed(conn, self._registry, datetime.now(UTC))
        with self._database.begin("kat_system") as conn:
            for organisation in plan.left_out(conn):
                plan_as_chosen(conn, organisation, None, self._registry)

    def end(self) -> None:
        """Gives back what is still leased."""
        with self._database.begin("kat_system") as conn:
            queue.release(conn, self.name)


def serve(worker: Worker, database: Database, stop: threading.Event) -> None:
    """Runs until `stop` is set; a batch under way is finished first. A database that is away is waited
    for, one of another release is not.
    """
    listed: int | None = None
    beaten = 0.0
    wait = IDLE_SECONDS
    while not stop.is_set():
        done = 0
        try:
            if listed is None:
                with database.begin("kat_system") as conn:
                    listed = beat.start(conn, ROLE)
                worker.begin()
            if time.monotonic() - beaten > beat.BEAT_SECONDS:
                with database.begin("kat_system") as conn:
                    beat.seen(conn, listed)
                beaten = time.monotonic()
            done = worker.step()
            wait = IDLE_SECONDS
        except WrongReleaseError:
            raise
        except (SQLAlchemyError, KattegatError) as problem:
            log.error("the worker could not work", problem=str(problem).splitlines()[0])
            wait = min(wait * 2, LONGEST_WAIT_SECONDS)
        if not done:
            stop.wait(wait)
    try:
        worker.end()
        if listed is not None:
            with database.begin("kat_system") as conn:
                beat.stop(conn, listed)
    except (SQLAlchemyError, KattegatError) as problem:
        log.warning("the worker could not sign off; its leases run out", problem=str(problem).splitlines()[0])


def run(settings: Settings) -> None:
    """The process: until SIGTERM or SIGINT."""
    logs.to_stderr(settings.log, ROLE)
    registry = registries.load()
    database = open_database(settings)
    try:
        with (
            beat.stopped_by_signals() as stop,
            beat.right_release(database, stop.set, deadline=beat.give_up),
            Sandbox(registry) as sandbox,
        ):
            serve(Worker(database, vaults.open_vault(settings), registry, sandbox), database, stop)
    finally:
        database.close()
