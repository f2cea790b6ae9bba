"""The connect scan: tries ports of one address, many at a time, and says what came of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable

from kattegat.plugin import NotReached
from kattegat.runner.dial import Dialer, Permit
from kattegat.runner.limits import Rules, Unreached

OPEN, CLOSED, NO_ANSWER = "open", "closed", "no answer"


async def scan(
    dialer: Dialer, rules: Rules, address: str, ports: Iterable[int], permit: Permit
) -> AsyncGenerator[tuple[int, str], None]:
    """Yields (port, "open" | "closed" | "no answer" | reason) as they come; `address` has passed the guard.

    A SYN that is lost looks like a firewall, so a port that keeps silent is tried `rules.port_tries` times. Raises
    `NotReached` when this machine can't open connections: that says nothing about the ports.
    """
    waiting = iter(dict.fromkeys(ports))
    results: asyncio.Queue[tuple[int, str] | NotReached | None] = asyncio.Queue()

    async def work() -> None:
        try:
            for port in waiting:
                results.put_nowait((port, await _try(dialer, rules, address, port, permit)))
        except NotReached as problem:
            results.put_nowait(problem)
        finally:
            results.put_nowait(None)

    workers = [asyncio.create_task(work()) for _ in range(rules.attempts_per_address)]
    running = len(workers)
    try:
        while running:
            result = await results.get()
            if result is None:
                running -= 1
            elif isinstance(result, NotReached):
                raise result
            else:
                yield result
        for worker in workers:
            worker.result()  # an error that nobody foresaw must not look like ports without an answer
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def _try(dialer: Dialer, rules: Rules, address: str, port: int, permit: Permit) -> str:
    for _ in range(rules.port_tries):
        async with permit(address):
            try:
                sock = await dialer.socket(address, port, rules.port_seconds)
            except Unreached as problem:
                if problem.how == "timeout":
                    continue
                if problem.how == "refused":
                    return CLOSED
                if problem.how == "local":
                    raise
                return str(problem)
            sock.close()
            return OPEN
    return NO_ANSWER
