"""A plugin for tests: one harmless scanner per asset type, and one whose parser does what its evidence says."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from kattegat.plugin import (
    Evidence,
    Fact,
    Found,
    Hostname,
    IPAddress,
    Link,
    Net,
    NotMeasured,
    Option,
    hours,
    scanner,
    via,
)


class Addresses(Fact, about=Hostname):
    """The addresses of a name."""

    addresses: list[str]


class Ports(Fact, about=IPAddress):
    """Ports that answer."""

    ports: list[int]


class Banner(Fact, about=Hostname):
    """A text."""

    text: str


@scanner(
    "sample-names",
    about=Hostname,
    clearance=0,
    every=hours(24),
    yields=[Addresses],
    options=[Option("servers", ("192.0.2.53",), "Whom to ask."), Option("tries", 2, "How often.")],
)
class Names:
    """Looks names up."""

    async def fetch(self, asset: Hostname, net: Net) -> Evidence:
        """Not used: the tests bring their evidence."""
        raise NotImplementedError

    def parse(self, asset: Hostname, evidence: Evidence) -> Iterator[Found | NotMeasured]:
        """One address per part."""
        addresses = [part.content.decode() for part in evidence.named("address")]
        links = tuple(Link("resolves_to", asset, IPAddress(address)) for address in addresses)
        yield Found(asset, Addresses(addresses=addresses), links=links)
        for part in evidence.named("silent"):
            yield NotMeasured("Addresses", part.content.decode(), "AAAA")


@scanner("sample-ports", about=IPAddress, clearance=2, every=timedelta(days=2), yields=[Ports], tool="sampletool")
class PortScan:
    """Tries ports."""

    async def fetch(self, asset: IPAddress, net: Net) -> Evidence:
        """Not used."""
        raise NotImplementedError

    def parse(self, asset: IPAddress, evidence: Evidence) -> Iterator[Found]:
        """The port in each part's name."""
        yield Found(asset, Ports(ports=[int(part.name) for part in evidence.parts]))


@scanner(
    "sample-banner",
    about=Hostname,
    clearance=1,
    every=hours(2),
    yields=[Banner],
    uses=[via("resolves_to", Ports)],
    applies=lambda asset: not asset.name.startswith("_"),
)
class BannerScan:
    """Does in `parse` what its evidence says, good or bad."""

    async def fetch(self, asset: Hostname, net: Net) -> Evidence:
        """Not used."""
        raise NotImplementedError

    def parse(self, asset: Hostname, evidence: Evidence) -> Iterator[Found]:
        """Obeys the first part's name."""
        what, detail = evidence.parts[0].name, evidence.parts[0].content.decode()
        if what == "loop":
            while True:
                pass
        if what == "memory":
            hoard = [bytearray(1 << 24) for _ in range(1000)]
            raise ValueError(str(len(hoard)))
        if what == "fork":
            os.fork()
        if what == "spawn":
            os.execv("/bin/true", ["/bin/true"])
        if what == "write":
            Path(detail).write_text("I was here")
        if what == "exit":
            os._exit(3)
        if what == "socket":
            socket.socket()
        if what == "sleep":
            time.sleep(float(detail))
        if what == "raise":
            raise ValueError(detail)
        if what == "print":
            print("noise on stdout", flush=True)
            os.write(1, b"more noise")
            sys.stdin.read()
        if what == "recurse":
            return (yield from self.parse(asset, evidence))
        if what == "foreign":
            yield Found(asset, Addresses(addresses=[]))
            return None
        if what == "huge":
            yield Found(asset, Banner(text="x" * (80 << 20)))
            return None
        yield Found(asset, Banner(text=detail))
        return None
