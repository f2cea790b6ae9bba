"""Visits over TLS: servers that are old, wrong, silent or no TLS servers at all."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kattegat.plugin import NotReached

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def dripping(writer: asyncio.StreamWriter, text: bytes) -> None:
    for byte in text:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.02)


@pytest.fixture
def server_tls(tmp_path: Path) -> ssl.SSLContext:
    """A server with an expired certificate for another name, which a visit has to accept."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "other.test")])
    then = datetime(2020, 1, 1, tzinfo=UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(then)
        .not_valid_after(then + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + certificate.public_bytes(serialization.Encoding.PEM)
    (tmp_path / "server.pem").write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    return context


def test_tls_visit_sends_the_name_and_trusts_nothing(lab: Any, server_tls: ssl.SSLContext) -> None:
    names: list[str | None] = []
    server_tls.sni_callback = lambda _socket, name, _context: names.append(name)

    async def main() -> None:
        async with lab.serving(replying_tls(OK), ssl=server_tls) as port:
            net = lab.net()
            reply = await net.get(f"https://shop_1.example.test:{port}/", address="127.0.0.1")
            assert reply.body == b"ok"
            assert (await net.get(f"https://127.0.0.1:{port}/")).body == b"ok"
            stream = await net.connect("127.0.0.1", port, tls="mail.example.test")
            await stream.write(b"GET / HTTP/1.1\r\n\r\n")
            assert await stream.read() == OK
            await stream.close()
            await net.close()

    asyncio.run(main())
    assert names == ["shop_1.example.test", None, "mail.example.test"]


def replying_tls(answer: bytes) -> Callable[..., Awaitable[None]]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        await reader.read()

    return handle


def test_old_tls_can_be_visited(lab: Any, server_tls: ssl.SSLContext) -> None:
    server_tls.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):  # to offer only TLS 1.1 is what is meant here
        server_tls.maximum_version = ssl.TLSVersion.TLSv1_1
    server_tls.set_ciphers("ALL:@SECLEVEL=0")

    async def main() -> None:
        async with lab.serving(replying_tls(OK), ssl=server_tls) as port:
            assert (await lab.net().get(f"https://127.0.0.1:{port}/")).body == b"ok"

    asyncio.run(main())


def test_body_without_length_ends_with_the_tls_connection(lab: Any, server_tls: ssl.SSLContext) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nall of it")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        async with lab.serving(handle, ssl=server_tls) as port:
            assert (await lab.net().get(f"https://127.0.0.1:{port}/")).body == b"all of it"

    asyncio.run(main())


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00" * 4000,
        b"\x16\x03\x03\xff\xff" + b"\x02" * 70_000,
        b"\x15\x03\x03\x00\x02\x02\x28",
    ],
)
def test_malformed_tls(lab: Any, answer: bytes) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(answer)
        await writer.drain()

    async def main() -> None:
        async with lab.serving(handle) as port:
            with pytest.raises(NotReached, match=r"^127\.0\.0\.1 port \d+ .*TLS handshake.*\.$"):
                await lab.net({"tls_seconds": 2.0}).get(f"https://127.0.0.1:{port}/")

    asyncio.run(main())


def test_tls_handshake_that_never_ends(lab: Any) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Empty handshake records, for ever.
        while True:
            await dripping(writer, b"\x16\x03\x03\x40\x00" + b"\x02\x00\x3f\xfc" + b"\0" * 1000)

    async def main() -> None:
        for server in (silent, handle):
            async with lab.serving(server) as port:
                with pytest.raises(NotReached, match=r"no TLS handshake within 0\.3 seconds"):
                    await lab.net({"tls_seconds": 0.3}).get(f"https://127.0.0.1:{port}/")

    asyncio.run(main())


@pytest.mark.parametrize("name", ["a..b", "x" * 70 + ".test", "nul\0.test", "ü" * 300])
def test_tls_names_that_can_not_be_sent(lab: Any, server_tls: ssl.SSLContext, name: str) -> None:
    async def main() -> None:
        async with lab.serving(replying_tls(OK), ssl=server_tls) as port:
            with pytest.raises(NotReached, match="can't be sent as a TLS server name"):
                await lab.net().connect("127.0.0.1", port, tls=name)

    asyncio.run(main())
