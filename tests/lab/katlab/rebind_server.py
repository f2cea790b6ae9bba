"""A name server for rebind.test that changes its answer with every question, as a DNS rebinding attack does.

``www.rebind.test`` is first the address given as third argument, then the fourth, then the third again; TTL 0, so that
no resolver keeps it. Run as a program: ``rebind_server.py LISTEN4 LISTEN6 FIRST SECOND``.
"""

from __future__ import annotations

import itertools
import socketserver
import sys
import threading
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset

ZONE = dns.name.from_text("rebind.test.")
NAME = dns.name.from_text("www.rebind.test.")
SOA = "rebind.nic.test. hostmaster.nic.test. 1 7200 3600 1209600 0"


class Rebinder:
    """Answers DNS messages; each question for the A record of `NAME` gets the next address of the cycle."""

    def __init__(self, addresses: list[str]) -> None:
        self._next = itertools.cycle(addresses)
        self._lock = threading.Lock()

    def answer(self, wire: bytes) -> bytes:
        """The response to one query, wire format to wire format (RFC 1035, section 4).

        Raises:
            dns.exception.DNSException: not a DNS query.
        """
        query = dns.message.from_wire(wire)
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA
        if query.opcode() != dns.opcode.QUERY or not query.question:
            response.set_rcode(dns.rcode.NOTIMP)
            return response.to_wire()
        name, kind = query.question[0].name, query.question[0].rdtype
        soa = dns.rrset.from_text(ZONE, 0, "IN", "SOA", SOA)
        if not name.is_subdomain(ZONE):
            response.set_rcode(dns.rcode.REFUSED)
        elif name == NAME and kind == dns.rdatatype.A:
            with self._lock:
                address = next(self._next)
            response.answer.append(dns.rrset.from_text(name, 0, "IN", "A", address))
        elif name == ZONE and kind == dns.rdatatype.SOA:
            response.answer.append(soa)
        elif name == ZONE and kind == dns.rdatatype.NS:
            response.answer.append(dns.rrset.from_text(name, 300, "IN", "NS", "rebind.nic.test."))
        else:
            response.authority.append(soa)
            if name not in (ZONE, NAME):
                response.set_rcode(dns.rcode.NXDOMAIN)
        return response.to_wire()


def serve(listen: list[str], addresses: list[str]) -> None:
    """Answer on UDP and TCP port 53 of every listening address until the process is ended."""
    rebinder = Rebinder(addresses)

    class Udp(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            wire, sock = self.request
            sock.sendto(rebinder.answer(wire), self.client_address)

    class Tcp(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            length = int.from_bytes(self.rfile.read(2), "big")
            wire = rebinder.answer(self.rfile.read(length))
            self.wfile.write(len(wire).to_bytes(2, "big") + wire)

    threads = []
    for address in listen:
        family = socketserver.socket.AF_INET6 if ":" in address else socketserver.socket.AF_INET  # type: ignore[attr-defined]
        for base, handler in ((socketserver.ThreadingUDPServer, Udp), (socketserver.ThreadingTCPServer, Tcp)):
            kind: Any = type("Server", (base,), {"address_family": family, "allow_reuse_address": True})
            server = kind((address, 53), handler)
            threads.append(threading.Thread(target=server.serve_forever))
    for thread in threads:
        thread.start()


if __name__ == "__main__":
    serve(sys.argv[1:3], sys.argv[3:])
