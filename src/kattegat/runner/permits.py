"""The runner's side of permits: asked for before dialling, counted on this machine's monotonic clock, given back after.

A permit begins when it is asked for and ends after its duration, whatever any clock on a wall says. A connection that
lasts has its permit prolonged in time; where that fails (the door is away, the scan was cancelled) the connection is
closed when the permit ends. Nothing is dialled without one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from kattegat.model.work import START_SECONDS, PermitCall, Permits
from kattegat.runner.limits import Unreached

LEAST_SECONDS = 5.0
"""A permit with less left than this is not begun with: connecting takes time."""
BATCH_SECONDS = 0.02


class Asking(Protocol):
    """What permits are asked of: the door."""

    async def permits(self, message: PermitCall) -> Permits:
        """Asks; raises `DoorAway` and the like."""
        ...


class Held:
    """A permit that is in use. `lost` is called when it ends while the connection is open."""

    def __init__(self, number: int, starts: float, expires: float) -> None:
        self.number = number
        self.starts = starts
        self.expires = expires
        self.over = False
        self.lost: Callable[[], object] = lambda: None

    def end(self) -> None:
        """It is over: whoever holds a connection under it is told."""
        if not self.over:
            self.over = True
            self.lost()


class Client:
    """Permits for all jobs of a runner process. Made inside a running event loop."""

    def __init__(self, door: Asking, *, least_seconds: float = LEAST_SECONDS) -> None:
        self._door = door
        self._least = least_seconds
        self._held: dict[int, Held] = {}
        self._spent: list[int] = []
        self._keeper: asyncio.Task[None] | None = None
        self._seconds = 30.0

    @asynccontextmanager
    async def connection(self, lease: tuple[int, int], address: str) -> AsyncIterator[Held]:
        """The right to one connection of a scan to an address; waits for it. Raises `NotReached` when there is none."""
        held = await self._take(lease, address)
        self._held[held.number] = held
        self._keep()
        try:
            yield held
        finally:
            self._held.pop(held.number, None)
            self._give_back(held.number)

    async def _take(self, lease: tuple[int, int], address: str) -> Held:
        loop = asyncio.get_running_loop()
        while True:
            asked = loop.time()
            spent, self._spent = self._spent, []
            call = PermitCall(*lease, address, 1, release=spent)
            try:
                answer = await self._door.permits(call)
            except Exception as problem:
                self._spent += spent
                raise Unreached(
                    f"Nothing was sent to {address}: no permit could be had ({problem}).", "local"
                ) from None
            if answer.lost:
                raise Unreached(f"Nothing was sent to {address}: the scan is not this runner's any more.", "local")
            if not answer.permits:
                await asyncio.sleep(max(0.05, answer.wait_seconds))
                continue
            self._seconds = answer.seconds
            number, after = answer.permits[0]
            held = Held(number, loop.time() + after, asked + answer.seconds)
            await asyncio.sleep(max(0.0, held.starts - loop.time()))
            late = loop.time() - (asked + after)
            if late <= START_SECONDS and held.expires - loop.time() >= self._least:
                return held
            self._give_back(number)

    def _give_back(self, number: int) -> None:
        if number:
            self._spent.append(number)
            self._keep()

    def _keep(self) -> None:
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.get_running_loop().create_task(self._keeping())

    async def _keeping(self) -> None:
        """Prolongs what is in use, gives back what is not, and ends what could not be prolonged."""
        loop = asyncio.get_running_loop()
        while self._held or self._spent:
            await asyncio.sleep(BATCH_SECONDS if self._spent else 0.5)
            now = loop.time()
            due = [held for held in self._held.values() if held.number and held.expires - now < self._seconds / 2]
            spent, self._spent = self._spent, []
            if due or spent:
                try:
                    answer = await self._door.permits(PermitCall(renew=[held.number for held in due], release=spent))
                except Exception:
                    self._spent += spent
                    await asyncio.sleep(0.5)
                else:
                    kept = set(answer.renewed)
                    for held in due:
                        if held.number in kept:
                            held.expires = now + answer.seconds
                        else:
                            held.end()
            for held in list(self._held.values()):
                if held.number and held.expires <= loop.time():
                    held.end()

    async def aclose(self) -> None:
        """Ends every permit and gives back what can be given back."""
        for held in list(self._held.values()):
            held.end()
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
        if self._spent:
            with suppress(Exception):
                async with asyncio.timeout(1.0):
                    await self._door.permits(PermitCall(release=self._spent))
