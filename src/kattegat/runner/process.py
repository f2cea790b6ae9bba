"""The runner process: claims jobs through the door, runs them side by side, hands their results in.

When it is told to stop it claims nothing more, ends its jobs and says no more heartbeats: their leases run out and the
work is given to somebody else. Results that are finished are handed in or kept on disk for the next start.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import threading
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import msgspec
import structlog

from kattegat.model.work import HEARTBEAT_SECONDS, Claim, Detail, Heartbeat, Job, Receipt, Result
from kattegat.registry import Registry
from kattegat.runner.door import Door, DoorAway, DoorBusy, DoorRefused
from kattegat.runner.job import run_job
from kattegat.runner.net import GuardedNet, Shared
from kattegat.runner.outbox import Lease, Outbox
from kattegat.runner.permits import Client
from kattegat.settings import Settings

STOP_SECONDS = 5.0
FAREWELL_SECONDS = 2.0
LONGEST_PAUSE = 30.0


class Runner:
    """One runner. `run` returns after `stop` has been called."""

    def __init__(
        self,
        door: Door,
        registry: Registry,
        settings: Settings,
        shared: Shared,
        outbox: Outbox,
        *,
        name: str,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        first_pause: float = 0.5,
    ) -> None:
        self._door, self._registry, self._settings, self._shared = door, registry, settings, shared
        self._outbox = outbox
        self._name = name
        self._heartbeat_seconds, self._first_pause = heartbeat_seconds, first_pause
        self._jobs: dict[Lease, asyncio.Task[None]] = {}
        self._nets: dict[Lease, GuardedNet] = {}
        self._stopping = asyncio.Event()
        self._room = asyncio.Event()
        self._tools: dict[str, str] = {}
        self._log: Any = structlog.get_logger().bind(runner=name)

    def stop(self) -> None:
        """Tells the runner to end; it is done within `STOP_SECONDS`."""
        self._stopping.set()

    async def run(self) -> None:
        """Works until it is stopped. Raises only what is a bug of the runner."""
        for spec in self._registry.scanners.values():
            if spec.tool and self._shared.tools.find(spec.tool):
                self._tools[spec.tool] = await self._shared.tools.version(spec.tool)
        self._shared.shared_permits = permits = Client(self._door)
        loops = [asyncio.create_task(loop()) for loop in (self._claiming, self._beating, self._sending)]
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([*loops, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            for loop in loops[:2]:
                loop.cancel()
            await self._end_jobs()
            await permits.aclose()
            with suppress(TimeoutError):
                async with asyncio.timeout(FAREWELL_SECONDS):
                    await self._outbox.wait_empty()
            loops[2].cancel()
            ended = await asyncio.gather(*loops, return_exceptions=True)
            lost = self._outbox.save()
            if lost:
                self._log.error("results_lost", count=lost)
        for result in ended:
            if isinstance(result, Exception):
                raise result

    async def _end_jobs(self) -> None:
        tasks = list(self._jobs.values())
        for task in tasks:
            task.cancel()
        if tasks:
            # A scanner that swallows its cancellation is left behind; it ends with the process.
            await asyncio.wait(tasks, timeout=FAREWELL_SECONDS)

    # --- claiming ----------------------------------------------------------------------------------------------------

    async def _claiming(self) -> None:
        pause = self._first_pause
        while True:
            free = self._settings.concurrency - len(self._jobs)
            if free <= 0 or self._outbox.full:
                self._room.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await self._room.wait()
                        continue
                # One that is busy asks for nothing, but still hears when the install is of another release by now.
                free = 0
            try:
                answer = await self._door.claim(self._claim(free))
            except (DoorAway, DoorRefused) as problem:
                self._log.warning("claim_failed", problem=str(problem))
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - spreads runners, hides nothing
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            pause = self._first_pause
            self._heartbeat_seconds = min(self._heartbeat_seconds, max(0.1, answer.lease_seconds / 3))
            for job in answer.jobs:
                self._start(job)
            if not answer.jobs:
                await asyncio.sleep(max(0.01, answer.wait_seconds))

    def _claim(self, free: int) -> Claim:
        able = {
            name: spec.version
            for name, spec in self._registry.scanners.items()
            if not spec.tool or spec.tool in self._tools
        }
        return Claim(self._name, version("kattegat"), self._shared.vantage, able, dict(self._tools), free)

    def _start(self, job: Job) -> None:
        lease = (job.task_id, job.lease_token)
        if lease in self._jobs:
            return
        task = asyncio.create_task(self._perform(job, lease))
        self._jobs[lease] = task
        task.add_done_callback(lambda _: self._ended(lease))

    def _ended(self, lease: Lease) -> None:
        self._jobs.pop(lease, None)
        self._nets.pop(lease, None)
        self._room.set()

    async def _perform(self, job: Job, lease: Lease) -> None:
        try:
            result = await run_job(
                job,
                self._registry,
                self._settings,
                shared=self._shared,
                opened=lambda net: self._nets.__setitem__(lease, net),
            )
        except Exception as problem:
            # A bug here, not in the scanner: the lease runs out and the task's retries count it.
            self._log.error("job_broke", task=lease[0], scanner=job.scanner, exc_info=problem)
            return
        self._log.info("job_done", task=lease[0], scanner=job.scanner, outcome=result.outcome, reason=result.reason)
        self._outbox.put(result)

    # --- heartbeats and results --------------------------------------------------------------------------------------

    async def _beating(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_seconds)
            leases = [*self._jobs, *self._outbox.leases]
            if not leases:
                continue
            try:
                answer = await self._door.heartbeat(Heartbeat(leases))
            except (DoorAway, DoorRefused) as problem:
                self._log.warning("heartbeat_failed", problem=str(problem))
                continue
            lost = set(answer.lost)
            for lease, task in list(self._jobs.items()):
                if lease[0] in lost and lease in leases:
                    self._log.warning("lease_lost", task=lease[0])
                    await self._cut(lease, task)

    async def _cut(self, lease: Lease, task: asyncio.Task[None]) -> None:
        """Ends a job that is not wanted any more: its programs, its connections, and what it would still open."""
        task.cancel()
        net = self._nets.get(lease)
        if net is not None:
            # Not left to the scanner, which may swallow its cancellation.
            await net.close()

    async def _sending(self) -> None:
        pause = self._first_pause
        while True:
            await self._outbox.wait()
            waiting = self._outbox.next()
            if waiting is None:
                continue
            lease, packed = waiting
            try:
                receipt = await self._hand_in(packed)
            except DoorBusy as problem:
                self._log.info("hand_in_postponed", task=lease[0], problem=str(problem))
                self._outbox.later(lease)
                await asyncio.sleep(self._first_pause / 2)
            except DoorAway as problem:
                self._log.warning("hand_in_failed", task=lease[0], problem=str(problem))
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - as above
                pause = min(pause * 2, LONGEST_PAUSE)
            except DoorRefused as problem:
                self._log.error("result_refused", task=lease[0], problem=str(problem))
                self._outbox.drop(lease)
            else:
                if not receipt.taken:
                    self._log.warning("result_not_taken", task=lease[0], reason=receipt.reason)
                pause = self._first_pause
                self._outbox.drop(lease)

    async def _hand_in(self, packed: bytes) -> Receipt:
        try:
            return await self._door.hand_in(packed)
        except DoorRefused as problem:
            # Without this the task would be tried again and again, and nobody told why.
            self._log.error("result_refused", problem=str(problem))
            result = msgspec.msgpack.decode(packed, type=Result)
            reason = f"The result was refused. {problem}"
            bare = msgspec.structs.replace(result, outcome="failed", reason=reason, evidence=b"", detail=Detail())
            return await self._door.hand_in(msgspec.msgpack.encode(bare))


def raise_file_limit() -> None:
    """Lets the process hold as many sockets as its hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(8192, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def serve(runner: Runner, outbox: Outbox) -> None:
    """Runs a runner until SIGTERM or SIGINT, and ends within `STOP_SECONDS` of it whatever its scanners do."""
    loop = asyncio.get_running_loop()

    def give_up() -> None:
        outbox.save()
        os._exit(1)

    # Not the loop's own handler: that one waits for a scanner that computes without end.
    def told(_number: int, _frame: object) -> None:
        watchdog = threading.Timer(STOP_SECONDS - 0.5, give_up)
        watchdog.daemon = True
        watchdog.start()
        loop.call_soon_threadsafe(runner.stop)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, told)
    await runner.run()
