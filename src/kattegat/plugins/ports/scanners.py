"""Scanners: connect scans of a visitor's and of the usual ports, live hosts of a network, greetings, and nmap."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Iterator, Sequence
from xml.etree.ElementTree import Element

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import iterparse

from kattegat.plugin import (
    Blocked,
    Evidence,
    Fact,
    Found,
    IPAddress,
    Link,
    Net,
    Network,
    NotMeasured,
    NotReached,
    Part,
    Service,
    days,
    scanner,
)
from kattegat.plugins.ports.numbers import USUAL, VISITOR, compact

__all__ = [
    "Banner",
    "BannerScanner",
    "LiveHosts",
    "NetworkHostsScanner",
    "NmapService",
    "NmapServicesScanner",
    "OpenPort",
    "PortScan",
    "UsualPortsScanner",
    "VisitorPortsScanner",
]

LARGEST_NETWORK = 4096
GREETING_BYTES = 1024
GREETING_SECONDS = 4.0
NMAP_BYTES = 8 * 1024 * 1024


class OpenPort(Fact, about=IPAddress):
    """A TCP port that accepts connections. Item: `tcp/PORT`."""

    protocol: str
    port: int


class PortScan(Fact, about=IPAddress):
    """What a connect scan asked, as ranges, and which of it gave no answer (a firewall drops it)."""

    asked: str
    silent: str
    closed: int


class LiveHosts(Fact, about=Network):
    """The addresses of a network that answered on a port that a visitor may try."""

    addresses: list[str]
    asked: int


class Banner(Fact, about=Service):
    """What a service says by itself when somebody connects: at most 1,024 bytes, undecodable ones as U+FFFD."""

    text: str
    product: str
    version: str


class NmapService(Fact, about=Service):
    """What nmap takes a service for. `confidence` is nmap's, 0 to 10."""

    name: str
    product: str
    version: str
    extra: str
    tunnel: str
    cpes: list[str]
    confidence: int


async def _ask(address: IPAddress, ports: Sequence[int], net: Net) -> Evidence:
    results = {port: answer async for port, answer in net.ports(address.address, ports)}
    if results and all(answer not in ("open", "closed") for answer in results.values()):
        first = next(iter(results.values()))
        raise NotReached(
            f"None of {len(results)} ports of {address.address} gave an answer ({first}): the host may be down or"
            " everything is filtered."
        )
    return Evidence((Part("ports", json.dumps(results).encode(), {"asked": compact(ports)}),))


def _read(address: IPAddress, evidence: Evidence) -> Iterator[Found | NotMeasured]:
    part = evidence.first("ports")
    try:
        results = {int(port): str(answer) for port, answer in json.loads(part.content).items()} if part else {}
    except (ValueError, AttributeError):
        results = {}
    if part is None or not results:
        yield NotMeasured("OpenPort", "the evidence can't be read")
        yield NotMeasured("PortScan", "the evidence can't be read")
        return
    for port, answer in sorted(results.items()):
        if answer == "open" and 0 < port < 65536:
            service = Service(address, "tcp", port)
            fact = OpenPort(protocol="tcp", port=port)
            yield Found(address, fact, f"tcp/{port}", (Link("has_service", address, service),))
        elif answer not in ("open", "closed", "no answer"):
            yield NotMeasured("OpenPort", answer, f"tcp/{port}")
    silent = compact(port for port, answer in results.items() if answer == "no answer")
    closed = sum(1 for answer in results.values() if answer == "closed")
    yield Found(address, PortScan(asked=str(part.notes.get("asked", "")), silent=silent, closed=closed))


@scanner("visitor-ports", about=IPAddress, clearance=1, every=days(1), yields=[OpenPort, PortScan])
class VisitorPortsScanner:
    """Tries the ports that a visitor may: 22, 25, 80 and 443."""

    async def fetch(self, address: IPAddress, net: Net) -> Evidence:
        return await _ask(address, VISITOR, net)

    def parse(self, address: IPAddress, evidence: Evidence) -> Iterator[Found | NotMeasured]:
        yield from _read(address, evidence)


@scanner("usual-ports", about=IPAddress, clearance=2, every=days(3), yields=[OpenPort, PortScan])
class UsualPortsScanner:
    """Tries about a thousand usual TCP ports with plain connections."""

    async def fetch(self, address: IPAddress, net: Net) -> Evidence:
        return await _ask(address, USUAL, net)

    def parse(self, address: IPAddress, evidence: Evidence) -> Iterator[Found | NotMeasured]:
        yield from _read(address, evidence)


@scanner("network-hosts", about=Network, clearance=1, every=days(1), yields=[LiveHosts])
class NetworkHostsScanner:
    """Finds the addresses of a network (at most 4,096) that answer on a visitor's port."""

    async def fetch(self, network: Network, net: Net) -> Evidence:
        if network.network.num_addresses > LARGEST_NETWORK:
            raise Blocked(
                f"{network.cidr} has {network.network.num_addresses:,} addresses, more than {LARGEST_NETWORK:,};"
                " declare smaller networks."
            )
        hosts = [str(host) for host in network.network.hosts()]
        gate = asyncio.Semaphore(64)
        live: dict[str, dict[int, str]] = {}
        refused: list[str] = []

        async def one(host: str) -> None:
            async with gate:
                try:
                    live[host] = {port: answer async for port, answer in net.ports(host, VISITOR)}
                except Blocked as problem:
                    refused.append(str(problem))

        await asyncio.gather(*(one(host) for host in hosts))
        if refused and not live:
            raise Blocked(refused[0])
        found = {host: answers for host, answers in live.items() if {"open", "closed"} & set(answers.values())}
        notes = {"asked": len(live), "refused": len(refused)}
        return Evidence((Part("hosts", json.dumps(found).encode(), notes),))

    def parse(self, network: Network, evidence: Evidence) -> Iterator[Found | NotMeasured]:
        part = evidence.first("hosts")
        try:
            found = [IPAddress(host, network.zone) for host in json.loads(part.content)] if part else None
        except ValueError:
            found = None
        if part is None or found is None:
            yield NotMeasured("LiveHosts", "the evidence can't be read")
            return
        links = tuple(Link("contains", network, host) for host in sorted(found))
        fact = LiveHosts(addresses=[host.address for host in sorted(found)], asked=int(part.notes.get("asked", 0)))
        yield Found(network, fact, links=links)


PRODUCTS = (
    re.compile(r"^SSH-[\d.]+-(?P<product>[A-Za-z]+)[_-](?P<version>[^\s\r\n]+)"),
    re.compile(
        r"^220[ -][^\r\n]*?\b(?P<product>Postfix|Exim|Sendmail|vsFTPd|ProFTPD|Pure-FTPd)\b[ (]*(?P<version>[\d.]*)"
    ),
    re.compile(r"^\* OK [^\r\n]*?\b(?P<product>Dovecot|Cyrus|Courier)\b[^\r\n\d]*(?P<version>[\d.]*)"),
    re.compile(r"(?P<version>[\d.]+)-(?P<product>MariaDB)"),
)


def greets(service: Service) -> bool:
    """Whether to wait for a greeting: on the ports of the web the client speaks first."""
    return service.protocol == "tcp" and service.port not in (80, 443, 8080, 8443)


@scanner(
    "banner", about=Service, clearance=1, every=days(1), yields=[Banner],
    applies=greets,
)  # fmt: skip
class BannerScanner:
    """Connects, sends nothing, and keeps what the service says by itself."""

    async def fetch(self, service: Service, net: Net) -> Evidence:
        stream = await net.connect(service.address.address, service.port)
        said = b""
        try:
            async with asyncio.timeout(GREETING_SECONDS):
                while len(said) < GREETING_BYTES and b"\n" not in said:
                    piece = await stream.read(GREETING_BYTES - len(said))
                    if not piece:
                        break
                    said += piece
        except (TimeoutError, NotReached):
            pass  # silence is an answer too: the service waits for its client
        finally:
            await stream.close()
        return Evidence((Part("banner", said),))

    def parse(self, service: Service, evidence: Evidence) -> Iterator[Found | NotMeasured]:
        part = evidence.first("banner")
        if part is None:
            yield NotMeasured("Banner", "the evidence can't be read")
            return
        if not part.content:
            return
        text = part.content[:GREETING_BYTES].decode("utf-8", "replace")
        match = next((found for pattern in PRODUCTS if (found := pattern.search(text))), None)
        product, version = (match["product"], match["version"]) if match else ("", "")
        yield Found(service, Banner(text=text, product=product, version=version))


@scanner(
    "nmap-services", about=IPAddress, clearance=2, every=days(7), yields=[NmapService], uses=[OpenPort], tool="nmap",
)  # fmt: skip
class NmapServicesScanner:
    """Lets nmap, where it is installed, say what listens on the ports that are known to be open."""

    async def fetch(self, address: IPAddress, net: Net) -> Evidence:
        ports = sorted({known.fact.port for known in net.known.get("OpenPort", ())})
        if not ports:
            return Evidence((Part("none", b""),))
        arguments = ["-sT", "-sV", "--version-light", "-Pn", "-n", "-oX", "-", "-p", compact(ports)]
        if ":" in address.address:
            arguments.append("-6")
        reply = await net.run("nmap", *arguments, address.address, targets=[address.address])
        if reply.code != 0:
            last = (reply.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"])[-1]
            raise NotReached(f"nmap ended with code {reply.code}: {last[:200]}")
        return Evidence((Part("nmap", reply.stdout, {"version": reply.version, "arguments": list(reply.arguments)}),))

    def parse(self, address: IPAddress, evidence: Evidence) -> Iterator[Found | NotMeasured]:
        part = evidence.first("nmap")
        if part is None:
            if evidence.first("none") is None:
                yield NotMeasured("NmapService", "the evidence can't be read")
            return
        ports, problem = _nmap(part.content)
        if problem:
            yield NotMeasured("NmapService", problem)
        for element in ports:
            found = _nmap_port(address, element)
            if found is not None:
                yield found


def _nmap(content: bytes) -> tuple[list[Element], str]:
    """The `port` elements of nmap's XML, as far as it can be read, and what is wrong with the rest.

    Read element by element, so that output that was cut off still gives what it holds.
    """
    if len(content) > NMAP_BYTES:
        return [], f"nmap wrote {len(content)} bytes, more than is read"
    ports: list[Element] = []
    try:
        for _, element in iterparse(io.BytesIO(content), ["end"]):
            if element.tag == "port":
                ports.append(element)
    except (SyntaxError, DefusedXmlException) as error:  # what came before it stands
        return ports, f"nmap's output can't be read to its end ({error})"
    return ports, ""


def _nmap_port(address: IPAddress, element: Element) -> Found | None:
    state, service = element.find("state"), element.find("service")
    number = element.get("portid", "")
    if state is None or state.get("state") != "open" or service is None or not number.isdigit():
        return None
    if not 0 < int(number) < 65536 or element.get("protocol") != "tcp":
        return None
    confidence = service.get("conf", "0")
    fact = NmapService(
        name=service.get("name", ""),
        product=service.get("product", ""),
        version=service.get("version", ""),
        extra=service.get("extrainfo", ""),
        tunnel=service.get("tunnel", ""),
        cpes=[cpe.text for cpe in service.findall("cpe") if cpe.text],
        confidence=int(confidence) if confidence.isdigit() else 0,
    )
    found = Service(address, "tcp", int(number))
    return Found(found, fact, links=(Link("has_service", address, found),))
