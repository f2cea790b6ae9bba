"""Scanners: where a name or an address is visited on the web, a visitor's first look at ports 80 and 443."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from kattegat.plugin import (
    Asset,
    Blocked,
    Evidence,
    Fact,
    Found,
    Hostname,
    IPAddress,
    Link,
    Net,
    NotMeasured,
    NotReached,
    Part,
    Service,
    Website,
    days,
    scanner,
    via,
)
from kattegat.plugins.shared.addresses import in_order
from kattegat.plugins.web import follow

__all__ = ["AddressWebPorts", "AddressWebsitesScanner", "WebPorts", "WebsitesScanner"]

PORTS = (("http", 80), ("https", 443))
MOST_ADDRESSES = 8
# How OpenSSL words an alert that the server sent, or a version that it chose and we can't speak: both are TLS.
_SPEAKS_TLS = ("alert", "unsupported protocol", "unrecognized name", "version too low", "unsupported extension")
_OTHER_PROTOCOL = ("wrong version number", "http request", "https proxy request")


class WebPorts(Fact, about=Hostname):
    """How one address of a name answers on a port that a browser tries. Item: `https/443 192.0.2.1`.

    `state` is "open" or "closed" (refused). `answers` is "http", "tls" (a handshake or an alert, and no HTTP) or ""
    (another protocol, described by `problem`). A port that kept silent is not measured and has no fact.
    """

    scheme: str
    port: int
    address: str
    state: str
    answers: str
    problem: str = ""


class AddressWebPorts(Fact, about=IPAddress):
    """How an address answers on a port that a browser tries; see `WebPorts`. Item: `https/443`."""

    scheme: str
    port: int
    address: str
    state: str
    answers: str
    problem: str = ""


async def _look(net: Net, host: str, address: str) -> list[Part]:
    """What the web ports of one address say to a visitor of `host`."""
    numbers = [port for _, port in PORTS]
    states = {port: state async for port, state in net.ports(address, numbers)}
    parts = [Part("port", b"", {"address": address, "port": port, "state": states[port]}) for port in numbers]
    for scheme, port in PORTS:
        if states[port] != "open":
            continue
        try:
            reply = await net.get(f"{scheme}://{_in_url(host)}/", address=address)
        except (NotReached, Blocked) as problem:
            notes = {"address": address, "port": port, "problem": str(problem), "how": getattr(problem, "how", "")}
            parts.append(Part("silent", b"", notes))
        else:
            part = follow.brief(reply).part("visit")
            parts.append(Part("visit", part.content, {**part.notes, "address": address, "port": port}))
    return parts


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _read(evidence: Evidence, kind: type[WebPorts] | type[AddressWebPorts]) -> Iterator[Fact | NotMeasured]:
    """A fact, or why there is none, for each port of each address; the item of the latter is `scheme/port address`."""
    outcome = {_place(part): part for name in ("visit", "silent") for part in evidence.named(name)}
    schemes = {port: scheme for scheme, port in PORTS}
    for part in evidence.named("port"):
        address, port = _place(part)
        scheme, state = schemes.get(port), str(part.notes.get("state", ""))
        if scheme is None or not follow.is_address(address) or "%" in address:
            yield NotMeasured(kind.kind, "the recorded evidence can't be read")
            continue
        item = f"{scheme}/{port} {address}"
        after = outcome.get((address, port))
        if state == "closed":
            yield kind(scheme=scheme, port=port, address=address, state=state, answers="")
        elif state != "open":
            reason = f"{address} port {port} did not answer" if state == "no answer" else state
            yield NotMeasured(kind.kind, reason, item)
        elif after is None:
            yield NotMeasured(kind.kind, "the recorded evidence is not complete", item)
        elif after.name == "visit":
            yield kind(scheme=scheme, port=port, address=address, state=state, answers="http")
        else:
            answers, problem = _without_http(scheme, after)
            if answers is None:
                yield NotMeasured(kind.kind, problem, item)
            else:
                yield kind(scheme=scheme, port=port, address=address, state=state, answers=answers, problem=problem)


def _place(part: Part) -> tuple[str, int]:
    port = part.notes.get("port")
    return str(part.notes.get("address", "")), port if isinstance(port, int) else 0


def _without_http(scheme: str, part: Part) -> tuple[str | None, str]:
    """What an open port speaks that gave no HTTP response: (answers, problem), answers None when it can't be told."""
    problem, how = str(part.notes.get("problem", "")), str(part.notes.get("how", ""))
    if how != "malformed":
        return None, problem
    if "TLS" not in problem:
        # Over https the handshake has succeeded when the HTTP in it is what is malformed.
        return ("tls" if scheme == "https" else ""), problem
    if any(word in problem for word in _SPEAKS_TLS):
        return "tls", problem
    if any(word in problem for word in _OTHER_PROTOCOL):
        return "", problem
    return None, problem


def _links(subject: Asset, host: str, address: IPAddress, fact: WebPorts | AddressWebPorts) -> tuple[Link, ...]:
    if fact.state != "open":
        return ()
    service = Service(address, "tcp", fact.port)
    links = [Link("has_service", address, service)]
    if fact.answers:
        site = Website(f"{fact.scheme}://{_in_url(host)}:{fact.port}")
        links += [Link("has_website", subject, site), Link("serves", service, site)]
    return tuple(links)


def visitable(host: Hostname) -> bool:
    """Not wildcards, and not the `_service` names that only the DNS uses (RFC 8552)."""
    return not host.name.startswith(("*", "_"))


@scanner("websites", about=Hostname, clearance=1, every=days(1), yields=[WebPorts], applies=visitable)
class WebsitesScanner:
    """Visits a name like a browser: http on port 80 and https on port 443 of each of its addresses (at most 8)."""

    async def fetch(self, host: Hostname, net: Net) -> Evidence:
        addresses = in_order(await net.resolve(host.name))
        looked, left = addresses[:MOST_ADDRESSES], addresses[MOST_ADDRESSES:]
        parts = [Part("addresses", b"", {"looked": looked, "left": left})]
        for found in await asyncio.gather(*(_look(net, host.name, address) for address in looked)):
            parts.extend(found)
        return Evidence(tuple(parts))

    def parse(self, host: Hostname, evidence: Evidence) -> Iterator[Found | NotMeasured]:
        for result in _read(evidence, WebPorts):
            if isinstance(result, WebPorts):
                item = f"{result.scheme}/{result.port} {result.address}"
                links = _links(host, host.name, IPAddress(result.address), result)
                yield Found(host, result, item, links)
            elif isinstance(result, NotMeasured):
                yield result
        listed = evidence.first("addresses")
        for address in _texts(listed.notes.get("left")) if listed is not None else ():
            for scheme, port in PORTS:
                reason = f"only the first {MOST_ADDRESSES} addresses are visited"
                yield NotMeasured("WebPorts", reason, f"{scheme}/{port} {address}")


def _texts(value: object) -> Sequence[str]:
    return [str(entry) for entry in value] if isinstance(value, list | tuple) else []


@scanner(
    "address-websites",
    about=IPAddress,
    clearance=1,
    every=days(1),
    yields=[AddressWebPorts],
    uses=[via("resolves_to", WebPorts, backwards=True)],
)
class AddressWebsitesScanner:
    """Visits an address that no scanned name leads to: http on port 80 and https on port 443, no name given.

    Where names lead to it, its websites are scanned by their names: the same pages judged twice would be noise.
    """

    async def fetch(self, address: IPAddress, net: Net) -> Evidence:
        names = sorted({known.asset.key for known in net.known.get("WebPorts", ())})
        if names:
            return Evidence((Part("named", b"", {"names": names}),))
        return Evidence(tuple(await _look(net, address.address, address.address)))

    def parse(self, address: IPAddress, evidence: Evidence) -> Iterator[Found | NotMeasured]:
        for result in _read(evidence, AddressWebPorts):
            if isinstance(result, AddressWebPorts):
                links = _links(address, address.address, address, result)
                yield Found(address, result, f"{result.scheme}/{result.port}", links)
            elif isinstance(result, NotMeasured):
                yield NotMeasured(result.kind, result.reason, result.item and result.item.partition(" ")[0])
