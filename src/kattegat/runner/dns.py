"""A DNS client (RFC 1035, EDNS RFC 6891): one question, one answer, the bytes as received.

The resolver that the install names is the runner's own infrastructure and is asked without the guard; any other server
is a target like others, and its address must have passed the guard before it comes here.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import msgspec

from kattegat.errors import UsageError
from kattegat.plugin import DnsReply
from kattegat.runner.guard import plain, printable
from kattegat.runner.limits import Journal, Rules, Unreached, explain

PORT = 53
EDNS_PAYLOAD = 1232  # the size that needs no fragments on any usual path (DNS Flag Day 2020)
MOST_STRAYS = 200  # datagrams that are not the answer, before the server counts as hostile
LONGEST_CHAIN = 8

Permit = Callable[[str], AbstractAsyncContextManager[None]]


class Server(msgspec.Struct, frozen=True):
    """A DNS server: its address in normal form and port."""

    address: str
    port: int = PORT

    def __str__(self) -> str:
        if self.port == PORT:
            return self.address
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def server(text: str) -> Server:
    """Reads `ADDRESS`, `ADDRESS:PORT`, `[ADDRESS]` or `[ADDRESS]:PORT`; raises `UsageError`."""
    host, port = text.strip(), ""
    if host.startswith("["):
        host, bracket, rest = host[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise UsageError(f"{text!r} is no DNS server; write 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:5353.")
        port = rest[1:]
    elif host.count(":") == 1:
        host, _, port = host.partition(":")
    try:
        number = plain(host)
        chosen = int(port) if port else PORT
    except ValueError:
        chosen = 0
    if not 1 <= chosen <= 65535:
        raise UsageError(f"{text!r} is no DNS server; write 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:5353.")
    return Server(str(number), chosen)


def resolvers(setting: str, file: Path = Path("/etc/resolv.conf")) -> tuple[Server, ...]:
    """The resolvers to ask: of `KAT_DNS_SERVER` (several are separated by commas), else the machine's own."""
    if setting:
        return tuple(server(text) for text in setting.split(","))
    found: list[Server] = []
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                found.append(server(words[1]))
            except UsageError:
                continue
    # What the C library does when the file names none (resolv.conf(5)).
    return tuple(found[:3]) or (Server("127.0.0.1"),)


class Malformed(Unreached):
    """An answer to our question that can't be read."""


class Client:
    """Asks questions for one job. `permit(address)` gives the right to a socket."""

    def __init__(self, servers: Sequence[Server], rules: Rules, journal: Journal, permit: Permit) -> None:
        self._servers = tuple(servers)
        self._rules = rules
        self._journal = journal
        self._permit = permit
        self._known: dict[str, list[str]] = {}

    async def ask(self, name: str, rdtype: str, target: Server | None = None, *, dnssec: bool = False) -> DnsReply:
        """One question, to the resolvers in turn or to `target`, by UDP and by TCP when truncated. Never raises
        because of what a server does; the reply's `problem` says what went wrong.
        """
        asked = (target,) if target is not None else self._servers
        try:
            query = self._query(name, rdtype, dnssec=dnssec)
        except (dns.exception.DNSException, ValueError, UnicodeError) as problem:
            return DnsReply(
                name, rdtype, str(asked[0]), b"", printable(f"{name!r} {rdtype} can't be asked for: {problem}.")
            )
        failure = DnsReply(name, rdtype, str(asked[0]), b"", "No DNS server is set.")
        for turn in range(self._rules.dns_tries):
            for one in asked:
                try:
                    wire = await self._exchange(query, one, dnssec=dnssec)
                except Unreached as problem:
                    failure = DnsReply(name, rdtype, str(one), b"", str(problem))
                    if target is None or problem.how in ("timeout", "reset", "malformed"):
                        continue
                    return failure
                reply = DnsReply(name, rdtype, str(one), wire)
                # A resolver that could not find out may be one of several, or be luckier the next time.
                if target is None and turn == 0 and (wire[3] & 0xF) in (2, 5):
                    failure = reply
                    continue
                return reply
        return failure

    def _query(self, name: str, rdtype: str, *, dnssec: bool) -> dns.message.QueryMessage:
        query = dns.message.make_query(
            dns.name.from_text(name),
            dns.rdatatype.from_text(rdtype),
            use_edns=0,
            payload=EDNS_PAYLOAD,
            want_dnssec=dnssec,
        )
        if dnssec:
            query.flags |= dns.flags.CD
        return query

    async def _exchange(self, query: dns.message.QueryMessage, one: Server, *, dnssec: bool) -> bytes:
        answer, wire = await self._udp(query, one)
        # A server from before EDNS; with DNSSEC asked for, going on without would make signed data look unsigned.
        old = answer.rcode() in (dns.rcode.FORMERR, dns.rcode.NOTIMP) and answer.edns < 0
        if old and not dnssec and query.edns >= 0:
            bare = dns.message.make_query(query.question[0].name, query.question[0].rdtype, use_edns=False)
            bare.flags = query.flags
            query = bare
            answer, wire = await self._udp(query, one)
        if answer.flags & dns.flags.TC:
            try:
                _, wire = await self._tcp(query, one)
            except Unreached as problem:
                raise Unreached(f"The answer of {one} was cut off, and over TCP: {problem}", problem.how) from problem
        return wire

    async def _udp(self, query: dns.message.QueryMessage, one: Server) -> tuple[dns.message.Message, bytes]:
        loop = asyncio.get_running_loop()
        # A new identifier and, as the kernel chooses it, a new port for every try (RFC 5452).
        query.id = secrets.randbelow(1 << 16)
        malformed: Malformed | None = None
        async with self._permit(one.address):
            family = socket.AF_INET6 if ":" in one.address else socket.AF_INET
            try:
                with socket.socket(family, socket.SOCK_DGRAM) as sock:
                    sock.setblocking(False)
                    # Connected, the kernel drops what comes from elsewhere and hands on "port unreachable".
                    await loop.sock_connect(sock, (one.address, one.port))
                    self._journal.contacted(one.address)
                    self._journal.source(sock.getsockname()[0])
                    async with asyncio.timeout(self._rules.dns_seconds):
                        await loop.sock_sendall(sock, query.to_wire())
                        for _ in range(MOST_STRAYS):
                            wire = await loop.sock_recv(sock, 65535)
                            self._journal.count(len(wire))
                            try:
                                answer = _matching(query, wire, one)
                            except Malformed as problem:
                                # Perhaps not from the server at all; a good answer may still come.
                                malformed = problem
                                continue
                            if answer is not None:
                                return answer, wire
            except OSError as error:
                if malformed is not None and isinstance(error, TimeoutError):
                    raise malformed from None
                raise explain(f"DNS server {one}", error, self._rules.dns_seconds) from None
        raise malformed or Unreached(f"DNS server {one} sent {MOST_STRAYS} answers that nobody asked for.", "malformed")

    async def _tcp(self, query: dns.message.QueryMessage, one: Server) -> tuple[dns.message.Message, bytes]:
        loop = asyncio.get_running_loop()
        query.id = secrets.randbelow(1 << 16)
        async with self._permit(one.address):
            family = socket.AF_INET6 if ":" in one.address else socket.AF_INET
            try:
                with socket.socket(family, socket.SOCK_STREAM) as sock:
                    sock.setblocking(False)
                    self._journal.contacted(one.address)
                    async with asyncio.timeout(self._rules.dns_seconds * 2):
                        await loop.sock_connect(sock, (one.address, one.port))
                        wire = query.to_wire()
                        await loop.sock_sendall(sock, struct.pack("!H", len(wire)) + wire)
                        size = struct.unpack("!H", await self._exactly(sock, 2, one))[0]
                        answer = await self._exactly(sock, size, one)
            except OSError as error:
                raise explain(f"DNS server {one}", error, self._rules.dns_seconds * 2) from None
        message = _matching(query, answer, one)
        if message is None:
            raise Malformed(f"DNS server {one} answered another question than was asked.", "malformed")
        return message, answer

    async def _exactly(self, sock: socket.socket, size: int, one: Server) -> bytes:
        loop = asyncio.get_running_loop()
        got = b""
        while len(got) < size:
            piece = await loop.sock_recv(sock, size - len(got))
            if not piece:
                raise Unreached(f"DNS server {one} ended the connection amid its answer.", "closed")
            self._journal.count(len(piece))
            got += piece
        return got

    async def addresses(self, name: str) -> list[str]:
        """The addresses of a name, A then AAAA, unfiltered and without repeats; [] when it has none.

        Answers are kept for the job. Raises `NotReached` when nobody could tell.
        """
        key = name.rstrip(".").lower()
        if key == "localhost" or key.endswith(".localhost"):
            return ["127.0.0.1", "::1"]  # never asked for (RFC 6761 section 6.3)
        if key not in self._known:
            four, six = await asyncio.gather(self._addresses(key, "A"), self._addresses(key, "AAAA"))
            found = list(dict.fromkeys([*four[0], *six[0]]))
            problem = four[1] or six[1]
            if not found and problem:
                raise Unreached(f"The addresses of {name} could not be looked up: {problem}", "unreachable")
            self._known[key] = found
        return list(self._known[key])

    async def _addresses(self, name: str, rdtype: str) -> tuple[list[str], str]:
        wanted = dns.rdatatype.from_text(rdtype)
        for _ in range(LONGEST_CHAIN):
            reply = await self.ask(name, rdtype)
            if reply.problem:
                return [], reply.problem
            message = parse(reply.wire)
            if message.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                return [], f"DNS server {reply.server} answered {dns.rcode.to_text(message.rcode())}."
            current, found = message.question[0].name, []
            for _ in range(LONGEST_CHAIN):
                found = [
                    str(plain(rdata.address))
                    for rrset in message.answer
                    if rrset.name == current and rrset.rdtype == wanted
                    for rdata in rrset
                ]
                alias = message.get_rrset(message.answer, current, dns.rdataclass.IN, dns.rdatatype.CNAME)
                if found or not alias:
                    break
                current = alias[0].target
            complete = message.rcode() == dns.rcode.NXDOMAIN or message.flags & dns.flags.RA
            if found or complete or current == message.question[0].name:
                return found, ""
            # A server without recursion leaves the chain where its own zones end.
            name = current.to_text()
        return [], f"{name} is an alias of an alias more than {LONGEST_CHAIN} times over."


def parse(wire: bytes) -> dns.message.Message:
    """The message in `wire`; raises `dns.exception.DNSException` or ValueError for bytes that are none."""
    return dns.message.from_wire(wire, ignore_trailing=True)


def _matching(query: dns.message.QueryMessage, wire: bytes, one: Server) -> dns.message.Message | None:
    """The answer, or None when these bytes answer something else; raises `Malformed`."""
    if len(wire) < 12 or wire[:2] != struct.pack("!H", query.id) or not wire[2] & 0x80:
        return None
    try:
        message = parse(wire)
    except (dns.exception.DNSException, ValueError, IndexError, struct.error) as problem:
        reason = str(problem).rstrip(".") or type(problem).__name__
        raise Malformed(f"The answer of DNS server {one} can't be read: {reason}.", "malformed") from None
    question, asked = message.question, query.question[0]
    if not question and message.rcode() in (dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.SERVFAIL):
        return message  # a server that gave up before it had read the question
    if len(question) != 1 or (question[0].name, question[0].rdtype, question[0].rdclass) != (
        asked.name,
        asked.rdtype,
        asked.rdclass,
    ):
        return None
    return message
