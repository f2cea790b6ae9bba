"""Lets nmap say what listens on open ports, and reads its XML."""

from __future__ import annotations

import io
from collections.abc import Iterator
from xml.etree.ElementTree import Element

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import iterparse

from kattegat.plugin import (
    Evidence,
    Found,
    IPAddress,
    Link,
    Net,
    NotMeasured,
    NotReached,
    Part,
    Service,
    days,
    scanner,
)
from kattegat.plugins.ports.facts import NmapService, OpenPort
from kattegat.plugins.ports.numbers import compact

__all__ = ["NmapServicesScanner"]

NMAP_BYTES = 8 * 1024 * 1024
MOST_CPES = 20
LONGEST_TEXT = 300


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
        ports, problem = _elements(part.content)
        if problem:
            yield NotMeasured("NmapService", problem)
        seen: set[Service] = set()
        for element in ports:
            found = _service(address, element)
            if found is not None and found not in seen:
                seen.add(found)
                yield from _said(address, found, element)


def _elements(content: bytes) -> tuple[list[Element], str]:
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
    except (SyntaxError, ValueError, LookupError, DefusedXmlException) as error:  # what came before it stands
        return ports, f"nmap's output can't be read to its end ({str(error)[:LONGEST_TEXT]})"
    return ports, ""


def _service(address: IPAddress, element: Element) -> Service | None:
    number = element.get("portid", "")
    if element.get("protocol") != "tcp" or not number.isdecimal() or len(number) > 5 or not 0 < int(number) < 65536:
        return None
    return Service(address, "tcp", int(number))


def _said(address: IPAddress, about: Service, element: Element) -> Iterator[Found | NotMeasured]:
    state, service = element.find("state"), element.find("service")
    word = state.get("state", "") if state is not None else ""
    if word != "open":
        # It was open when the ports were asked. Closed is an answer; dropped packets are none.
        if word != "closed":
            yield NotMeasured("NmapService", f"nmap got no answer from port {about.port}", about=about)
        return
    if service is None:
        return
    confidence = service.get("conf", "0")
    fact = NmapService(
        name=_text(service, "name"),
        product=_text(service, "product"),
        version=_text(service, "version"),
        extra=_text(service, "extrainfo"),
        tunnel=_text(service, "tunnel"),
        cpes=[cpe.text[:LONGEST_TEXT] for cpe in service.findall("cpe") if cpe.text][:MOST_CPES],
        confidence=int(confidence) if confidence in {str(number) for number in range(11)} else 0,
    )
    yield Found(about, fact, links=(Link("has_service", address, about),))


def _text(service: Element, name: str) -> str:
    return service.get(name, "")[:LONGEST_TEXT]
