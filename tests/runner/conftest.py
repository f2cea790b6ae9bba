"""Servers on loopback that behave as they are told, and a net of a job that declared loopback its own."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from kattegat.model.work import Limits
from kattegat.runner.dns import Server
from kattegat.runner.limits import Rules
from kattegat.runner.net import GuardedNet, Shared

LOOPBACK = Limits("internet", own_networks=["127.0.0.0/8", "::1/128"])
QUICK = {"connect_seconds": 2.0, "dns_seconds": 0.3, "dns_tries": 2, "port_seconds": 0.3}

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Answer = Callable[[dns.message.Message], "dns.message.Message | bytes | None"]


@asynccontextmanager
async def serving(handler: Handler, **options: object) -> AsyncIterator[int]:
    """A TCP server on 127.0.0.1; gives its port."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, **options)  # type: ignore[arg-type]
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
        await asyncio.sleep(0)


class DnsServer(asyncio.DatagramProtocol):
    """A DNS server whose answers are made by a function; it gives bytes to send as they are, or None for silence."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str, str]] = []
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def reply(self, wire: bytes, over: str) -> bytes | None:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        self.asked.append((question.name.to_text(), question.rdtype.name, over))
        answer = self.answer(query)
        if isinstance(answer, dns.message.Message):
            limit = 65535 if over == "tcp" else max(512, query.payload)
            data = answer.to_wire(max_size=65535)
            if len(data) > limit:
                short = dns.message.make_response(query)
                short.flags |= dns.flags.TC
                return short.to_wire()
            return data
        return answer

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self.reply(data, "udp")
        if answer is not None and self.transport is not None:
            self.transport.sendto(answer, addr)

    async def stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = struct.unpack("!H", await reader.readexactly(2))[0]
        answer = self.reply(await reader.readexactly(size), "tcp")
        if answer is not None:
            writer.write(struct.pack("!H", len(answer)) + answer)
            await writer.drain()
            await reader.read()


@asynccontextmanager
async def resolving(answer: Answer, stream: Handler | None = None) -> AsyncIterator[tuple[Server, DnsServer]]:
    """A DNS server on 127.0.0.1, UDP and TCP on one port; `stream` takes the place of TCP."""
    protocol = DnsServer(answer)
    async with serving(stream or protocol.stream) as port:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: protocol, local_addr=("127.0.0.1", port))
        try:
            yield Server("127.0.0.1", port), protocol
        finally:
            transport.close()
            await asyncio.sleep(0)


def answering(query: dns.message.Message, *records: str, rcode: int = 0) -> dns.message.Message:
    """A response with records in the form `NAME TTL CLASS TYPE DATA`."""
    response = dns.message.make_response(query)
    response.set_rcode(dns.rcode.Rcode(rcode))
    for record in records:
        name, ttl, rdclass, rdtype, data = record.split(None, 4)
        response.answer.append(dns.rrset.from_text(name, int(ttl), rdclass, rdtype, data))
    return response


def addresses(**table: list[str]) -> Answer:
    """A zone that knows the addresses of some names under .test."""

    def answer(query: dns.message.Message) -> dns.message.Message:
        question = query.question[0]
        known = table.get(question.name.to_text().removesuffix(".test."))
        if known is None:
            return answering(query, rcode=3)
        wanted = {"A": ".", "AAAA": ":"}.get(question.rdtype.name, "none")
        return answering(
            query, *(f"{question.name} 60 IN {question.rdtype.name} {text}" for text in known if wanted in text)
        )

    return answer


def make_net(
    rules: dict[str, object] | None = None,
    limits: Limits = LOOPBACK,
    resolvers: tuple[Server, ...] = (Server("127.0.0.1", 9),),
    shared: Shared | None = None,
) -> GuardedNet:
    """The net of one job; call it inside a running loop."""
    return GuardedNet(shared or Shared(Rules(**(QUICK | (rules or {}))), resolvers), limits, scanner="test")  # type: ignore[arg-type]


class Lab:
    """The helpers above under one name: test files can't import from conftest under importlib mode."""

    serving = staticmethod(serving)
    resolving = staticmethod(resolving)
    answering = staticmethod(answering)
    addresses = staticmethod(addresses)
    net = staticmethod(make_net)
    loopback = LOOPBACK
    quick = QUICK


@pytest.fixture
def lab() -> type[Lab]:
    """Servers and nets."""
    return Lab
