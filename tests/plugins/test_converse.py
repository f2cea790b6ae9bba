"""The driver of probes against servers that answer, dribble, break off or are not there."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from kattegat.plugin import NotReached
from kattegat.plugins.shared.converse import Line, Stream, converse, os_error
from kattegat.plugins.shared.exchange import Conversation, Probe, Step, decode, encode
from kattegat.plugins.tls.probe import certificate_probe, probe
from kattegat.plugins.tls.profile import analyse, analyse_certificate

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Plain:
    """A stream of asyncio as the driver wants it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.read = reader.read
        self._writer = writer

    async def write(self, data: bytes, /) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await self._writer.wait_closed()


def run(plan: Probe, handler: Handler, *, seconds: float = 20.0, context: ssl.SSLContext | None = None) -> Conversation:
    async def main() -> Conversation:
        tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            with suppress(ConnectionError, asyncio.CancelledError):
                await handler(reader, writer)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)

        async def connect() -> Stream:
            return Plain(*await asyncio.open_connection(*server.sockets[0].getsockname()))

        try:
            return await converse(plan, connect, seconds=seconds)
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(main())


def ask(limit: int = 1000) -> Probe:
    """One step that is content with b"!" and one that goes on over the same connection."""
    exchange = yield Step("first", b"hello", lambda data: b"!" in data, limit=limit)
    if exchange.ended == "enough":
        yield Step("second", b"again", lambda data: b"!" in data, same_connection=True, limit=limit)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100):
        writer.write(data + b"!")


def test_steps_share_a_connection_and_all_bytes_are_kept() -> None:
    conversation = run(ask(), echo)
    assert [(e.same_connection, e.sent, e.received, e.ended) for e in conversation] == [
        (False, b"hello", b"hello!", "enough"),
        (True, b"again", b"again!", "enough"),
    ]
    assert decode(encode(conversation)) == conversation


@pytest.mark.parametrize("way", ["timeout", "closed", "reset", "limit"])
def test_the_end_of_a_conversation_is_told_as_it_was(way: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        if way == "timeout":
            # A byte at a time, for ever: only a limit on the whole step ends it.
            while True:
                writer.write(b".")
                await writer.drain()
                await asyncio.sleep(0.01)
        elif way == "limit":
            writer.write(b"." * 5000)
        elif way == "reset":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        else:
            writer.write(b".")

    limit = 10**6 if way == "timeout" else 1000
    conversation = run(ask(limit), answer, seconds=0.5 if way == "timeout" else 20.0)
    assert [exchange.ended for exchange in conversation] == [way]
    assert len(conversation[0].received) <= limit
    assert bool(conversation[0].received) == (way != "reset")


def test_a_server_that_is_not_there_is_unreachable() -> None:
    async def connect() -> Stream:
        raise ConnectionRefusedError

    async def never() -> Stream:
        await asyncio.sleep(1000)
        raise AssertionError

    for way in (connect, never):
        conversation = asyncio.run(converse(probe("a.example"), way, seconds=0.1))
        assert [exchange.ended for exchange in conversation] == ["unreachable"]


def test_what_is_no_failure_of_the_network_goes_on_to_the_caller() -> None:
    async def connect() -> Stream:
        raise KeyError("not allowed")

    with pytest.raises(KeyError):
        asyncio.run(converse(probe("a.example"), connect))


@pytest.fixture
def context(tmp_path: Path) -> ssl.SSLContext:
    key, name = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a.example")]),
    )
    start = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(start).not_valid_after(start + timedelta(days=9000))
    (tmp_path / "pair.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair.pem")
    context.set_alpn_protocols(["h2"])
    return context


def test_the_probes_of_tls_work_over_streams(context: ssl.SSLContext) -> None:
    found = analyse_certificate(run(certificate_probe("a.example"), echo, context=context))
    assert (found.version, found.alpn, len(found.chain_der)) == ("TLSv1.3", "h2", 1)
    conversation = run(probe("a.example"), echo, context=context)
    profile = analyse(conversation)
    assert [version.version for version in profile.versions] == ["TLSv1.3", "TLSv1.2"]
    assert profile.refused == ("TLSv1.1", "TLSv1.0", "SSLv3", "SSLv2")
    assert profile.chain_der == found.chain_der
    assert analyse(decode(encode(conversation))) == profile


class Broken:
    """A connection of the runner on which everything fails in one way."""

    local = peer = "192.0.2.1"

    def __init__(self, how: str) -> None:
        self.problem = NotReached("It is so.")
        self.problem.how = how

    async def read(self, limit: int = 65536) -> bytes:
        raise self.problem

    async def write(self, data: bytes) -> None:
        raise self.problem

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("how", "ended"),
    [("timeout", "timeout"), ("reset", "reset"), ("closed", "reset"), ("", "reset"), ("local", None), ("limit", None)],
)
def test_a_failure_of_the_runners_connection_is_kept_unless_the_runner_is_to_blame(how: str, ended: str | None) -> None:
    def plan() -> Probe:
        yield Step("hello", b"hello", lambda _: True)

    async def connect() -> Stream:
        return Line(Broken(how))

    if ended is None:
        with pytest.raises(NotReached, match="It is so"):
            asyncio.run(converse(plan(), connect))
    else:
        assert [exchange.ended for exchange in asyncio.run(converse(plan(), connect))] == [ended]
    translated = os_error(Broken(how).problem)
    assert isinstance(translated, OSError) is (ended is not None)
