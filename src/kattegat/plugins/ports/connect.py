"""Connect scans: a visitor's ports and the usual ports of an address, and the live hosts of a network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence

from kattegat.errors import KeyFormatError
from kattegat.plugin import (
    Blocked,
    Evidence,
    Found,
    IPAddress,
    Link,
    Net,
    Network,
    NotMeasured,
    NotReached,
    Option,
    Part,
    Service,
    days,
    scanner,
)
from kattegat.plugins.ports.facts import LiveHosts, OpenPort, PortScan
from kattegat.plugins.ports.numbers import USUAL, VISITOR, compact

__all__ = ["NetworkHostsScanner", "UsualPortsScanner", "VisitorPortsScanner"]

LARGEST_NETWORK = 4096
HOSTS_AT_ONCE = 64
OPEN, CLOSED, SILENT = "open", "closed", "no answer"
# How the runner words an ICMP "unreachable". From a host that answers on other ports it is a firewall that rejects.
REJECTED = "no route to the host"


async def _ask(address: IPAddress, ports: Sequence[int], net: Net) -> Evidence:
    results = {port: answer async for port, answer in net.ports(address.address, ports)}
    answered = [port for port, answer in results.items() if answer in (OPEN, CLOSED)]
    if results and not answered:
        # Some ports may be told of and others not: the reason is to be the same at every scan of the same host.
        rejected = any(REJECTED in answer for answer in results.values())
        why = REJECTED if rejected else results[min(results)]
        raise NotReached(
            f"None of {len(results)} ports of {address.address} gave an answer ({why}): the host may be down or"
            " everything is filtered."
        )
    if SILENT in results.values():
        await _still_there(address, next((port for port in answered if results[port] == OPEN), answered[0]), net)
    return Evidence((Part("ports", json.dumps(results).encode(), {"asked": compact(ports)}),))


async def _still_there(address: IPAddress, port: int, net: Net) -> None:
    """Raises `NotReached` when a port that answered no longer does.

    A host that shuts a scanner out midway leaves all later ports silent, and open ones among them would seem closed.
    """
    async for _, answer in net.ports(address.address, [port]):
        if answer not in (OPEN, CLOSED):
            raise NotReached(
                f"{address.address} stopped answering during the scan (port {port} did answer): it may shut scanners"
                " out, so what gave no answer is not known."
            )


def _read(address: IPAddress, evidence: Evidence) -> Iterator[Found | NotMeasured]:
    results = _results(evidence)
    if not results:
        yield NotMeasured("OpenPort", "the evidence can't be read")
        yield NotMeasured("PortScan", "the evidence can't be read")
        return
    silent: list[int] = []
    for port, answer in sorted(results.items()):
        if answer == OPEN:
            service = Service(address, "tcp", port)
            fact = OpenPort(protocol="tcp", port=port)
            yield Found(address, fact, f"tcp/{port}", (Link("has_service", address, service),))
        elif answer == SILENT or REJECTED in answer:
            silent.append(port)
        elif answer != CLOSED:
            yield NotMeasured("OpenPort", answer, f"tcp/{port}")
    closed = sum(1 for answer in results.values() if answer == CLOSED)
    yield Found(address, PortScan(asked=compact(results), silent=compact(silent), closed=closed))


def _results(evidence: Evidence) -> dict[int, str]:
    """The answer of each port; {} for evidence that can't be read."""
    part = evidence.first("ports")
    try:
        found = json.loads(part.content) if part is not None else {}
        results = {int(port): str(answer) for port, answer in found.items()}
    except (ValueError, AttributeError, RecursionError):
        return {}
    return results if all(0 < port < 65536 for port in results) else {}


@scanner("visitor-ports", about=IPAddress, clearance=1, every=days(1), yields=[OpenPort, PortScan])
class VisitorPortsScanner:
    """Tries the ports that a visitor may: 22, 25, 80 and 443."""

    async def fetch(self, address: IPAddress, net: Net) -> Evidence:
        return await _ask(address, VISITOR, net)

    def parse(self, address: IPAddress, evidence: Evidence) -> Iterator[Found | NotMeasured]:
        yield from _read(address, evidence)


@scanner(
    "usual-ports", about=IPAddress, clearance=2, every=days(3), yields=[OpenPort, PortScan],
    options=[Option("more", (), "TCP ports that are asked beside the usual ones.")],
)  # fmt: skip
class UsualPortsScanner:
    """Tries about a thousand usual TCP ports with plain connections, and those of the option `more`."""

    async def fetch(self, address: IPAddress, net: Net) -> Evidence:
        more = [int(port) for port in net.options.get("more", ()) if str(port).isdecimal()]
        return await _ask(address, list(dict.fromkeys([*USUAL, *(port for port in more if 0 < port < 65536)])), net)

    def parse(self, address: IPAddress, evidence: Evidence) -> Iterator[Found | NotMeasured]:
        yield from _read(address, evidence)


@scanner("network-hosts", about=Network, clearance=1, every=days(1), yields=[LiveHosts])
class NetworkHostsScanner:
    """Finds the addresses of a network (at most 4,096) that answer on a visitor's port.

    The first and last address are asked too: in a range that is routed to somebody they are hosts like others.
    """

    async def fetch(self, network: Network, net: Net) -> Evidence:
        if network.network.num_addresses > LARGEST_NETWORK:
            raise Blocked(
                f"{network.cidr} has {network.network.num_addresses:,} addresses, more than {LARGEST_NETWORK:,};"
                " declare smaller networks."
            )
        gate = asyncio.Semaphore(HOSTS_AT_ONCE)
        answers: dict[str, dict[int, str]] = {}
        refused: list[str] = []
        failed: list[NotReached] = []

        async def one(host: str) -> None:
            async with gate:
                if failed:
                    return
                try:
                    answers[host] = {port: answer async for port, answer in net.ports(host, VISITOR)}
                except Blocked as problem:
                    refused.append(str(problem))
                except NotReached as problem:  # this machine can't go on: the rest would fail alike
                    failed.append(problem)

        await asyncio.gather(*(one(str(host)) for host in network.network))
        if failed:
            raise failed[0]
        if refused and not answers:
            raise Blocked(refused[0])
        live = {host: found for host, found in answers.items() if {OPEN, CLOSED} & set(found.values())}
        notes = {"asked": len(answers), "refused": len(refused)}
        return Evidence((Part("hosts", json.dumps(live).encode(), notes),))

    def parse(self, network: Network, evidence: Evidence) -> Iterator[Found | NotMeasured]:
        part = evidence.first("hosts")
        try:
            named = list(json.loads(part.content)) if part is not None else None
            found = sorted(IPAddress(host, network.zone) for host in named) if named is not None else None
        except (ValueError, TypeError, AttributeError, RecursionError, KeyFormatError):
            found = None
        if part is None or found is None or any(host.ip not in network.network for host in found):
            yield NotMeasured("LiveHosts", "the evidence can't be read")
            return
        asked = part.notes.get("asked")
        if not found:
            # Our own line being down looks just like this, and must not take the hosts away that are known.
            yield NotMeasured(
                "LiveHosts", f"none of {asked} addresses of {network.cidr} gave an answer on a visitor's port"
            )
            return
        links = tuple(Link("contains", network, host) for host in found)
        fact = LiveHosts(addresses=[host.address for host in found], asked=asked if isinstance(asked, int) else 0)
        yield Found(network, fact, links=links)
