"""A plugin for tests of limits: its scanner opens twelve connections at once, and holds each for a while."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

from kattegat.plugin import Evidence, Fact, Found, Hostname, Net, Part, hours, scanner

CONNECTIONS = 12


class Hammered(Fact, about=Hostname):
    """A fact that is never found."""

    text: str


@scanner("hammer", about=Hostname, clearance=0, every=hours(24), yields=[Hammered])
class Hammer:
    """Connects to the port of KAT_TEST_TARGET."""

    async def fetch(self, asset: Hostname, net: Net) -> Evidence:
        """Connects, holds, closes."""

        async def once() -> None:
            stream = await net.connect("127.0.0.1", int(os.environ["KAT_TEST_TARGET"]))
            await stream.write(b"x")
            await asyncio.sleep(0.15)
            await stream.close()

        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(once())
        return Evidence((Part("done", b"done"),))

    def parse(self, asset: Hostname, evidence: Evidence) -> Iterator[Found]:
        """Not used."""
        return iter(())
