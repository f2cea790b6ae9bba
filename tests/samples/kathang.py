"""A plugin for tests of cancelling: its scanner holds a connection and a program that leaves children behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress

from kattegat.plugin import Evidence, Fact, Found, Hostname, Net, hours, scanner


class Held(Fact, about=Hostname):
    """A fact that is never found."""

    text: str


@scanner("hang", about=Hostname, clearance=0, every=hours(24), yields=[Held])
class Hang:
    """Connects to the port of KAT_TEST_TARGET, then runs the program `kat-test-hang` for ever; a name that begins with
    `deaf` swallows every cancellation and goes on trying.
    """

    async def fetch(self, asset: Hostname, net: Net) -> Evidence:
        """Hangs."""
        port = int(os.environ["KAT_TEST_TARGET"])
        while True:
            try:
                stream = await net.connect("127.0.0.1", port)
                await stream.write(asset.name.encode() + b"\n")
                await net.run("kat-test-hang", asset.name)
            except BaseException:
                if not asset.name.startswith("deaf"):
                    raise
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.05)

    def parse(self, asset: Hostname, evidence: Evidence) -> Iterator[Found]:
        """Never called."""
        return iter(())
