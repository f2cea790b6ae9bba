"""GET against servers that behave, and servers that do not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kattegat.plugin import Blocked, HttpReply, NotReached

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def replying(answer: bytes, seen: list[bytes] | None = None) -> Callable[..., Awaitable[None]]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if seen is not None:
            seen.append(request)
        writer.write(answer)
        await writer.drain()
        writer.write_eof()
        await reader.read()

    return handle


async def endless(writer: asyncio.StreamWriter, piece: bytes) -> None:
    while True:
        writer.write(piece)
        await writer.drain()


async def dripping(writer: asyncio.StreamWriter, text: bytes) -> None:
    for byte in text:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.02)


def visit(lab: Any, handler: Callable[..., Awaitable[None]], **rules: object) -> HttpReply:
    async def main() -> HttpReply:
        async with lab.serving(handler) as port:
            net = lab.net(rules)
            try:
                reply: HttpReply = await net.get(f"http://127.0.0.1:{port}/")
            finally:
                await net.close()
            return reply

    return asyncio.run(main())


def test_reply_as_sent(lab: Any) -> None:
    seen: list[bytes] = []
    head = b"HTTP/1.1 404 \xe9h\r\nServer: a\r\nSET-Cookie: x=1\r\nset-cookie: y=\xff\xfe\r\nContent-Length: 4\r\n\r\n"
    answer = head + b"\x00\xff\xfeA"
    reply = visit(lab, replying(answer, seen))
    assert (reply.status, reply.version, reply.cut, reply.address) == (404, "1.1", False, "127.0.0.1")
    assert reply.headers == (
        (b"Server", b"a"),
        (b"SET-Cookie", b"x=1"),
        (b"set-cookie", b"y=\xff\xfe"),
        (b"Content-Length", b"4"),
    )
    assert reply.body == b"\x00\xff\xfeA"
    assert reply.header("Set-Cookie") == ["x=1", "y=\xff\xfe"]
    assert HttpReply.from_part(reply.part("page")) == reply
    request = seen[0].decode().split("\r\n")
    assert request[0] == "GET / HTTP/1.1"
    assert sum(line.startswith("User-Agent: Kattegat/") for line in request) == 1
    assert "Accept-Encoding: identity" in request


def test_headers_of_the_scanner_replace_ours(lab: Any) -> None:
    seen: list[bytes] = []

    async def main() -> None:
        async with lab.serving(replying(OK, seen)) as port:
            net = lab.net()
            await net.get(
                f"http://127.0.0.1:{port}/a%20b?c=d#e", headers={"user-agent": "x", "Origin": "https://a.test"}
            )

    asyncio.run(main())
    head = seen[0].decode()
    assert head.startswith("GET /a%20b?c=d HTTP/1.1\r\n")
    assert "user-agent: x\r\n" in head
    assert "Origin: https://a.test" in head
    assert "Kattegat" not in head


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: a\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nT: x\r\n\r\n", b"abcde"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
)
def test_framing(lab: Any, answer: bytes, body: bytes) -> None:
    assert visit(lab, replying(answer)).body == body


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>HTTP/0.9</html>",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x00" * 100,
        b"\xff\xfe\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffffff\r\n",
        b"HTTP/1.1 200 OK\r\nA\x00: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\x00c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n no-name\r\n\r\n",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 50 + OK,
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 50_000 + b"\r\n",
        b"\r\n" * 100,
    ],
)
def test_malformed(lab: Any, answer: bytes) -> None:
    with pytest.raises(NotReached) as caught:
        visit(lab, replying(answer))
    sentence = str(caught.value)
    assert sentence.startswith("127.0.0.1 port ")
    assert sentence.endswith(".")
    assert sentence.isprintable()
    assert len(sentence) < 400


def test_closed_without_a_word(lab: Any) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    with pytest.raises(NotReached, match=r"port \d+"):
        visit(lab, handle)


def test_enormous_body_is_cut(lab: Any) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
        await endless(writer, b"x" * 10000)

    reply = visit(lab, handle, body_bytes=50_000)
    assert reply.cut
    assert reply.body == b"x" * 50_000


def test_endless_chunks_are_cut(lab: Any) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await endless(writer, b"1\r\ny\r\n")

    reply = visit(lab, handle, body_bytes=5000)
    assert reply.cut
    assert reply.body == b"y" * 5000


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nX: "])
def test_endless_headers(lab: Any, start: bytes) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        await endless(writer, b"X-A: aaaaaaaaaaaaaaaaaaaaaaa\r\n" * 100 if start.endswith(b"\n") else b"a" * 3000)

    with pytest.raises(NotReached, match="malformed HTTP"):
        visit(lab, handle)


def test_endless_trailers(lab: Any) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
        await endless(writer, b"X: aaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 100)

    with pytest.raises(NotReached, match="malformed HTTP"):
        visit(lab, handle)


def test_silent_server(lab: Any) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    with pytest.raises(NotReached, match=r"sent nothing for 0\.2 seconds"):
        visit(lab, handle, idle_seconds=0.2)


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"])
def test_slow_loris(lab: Any, start: bytes) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        await dripping(writer, b"HTTP/1.1 200 OK\r\nX: " + b"a" * 10_000)

    with pytest.raises(NotReached, match=r"still busy after the 0\.3 seconds"):
        visit(lab, handle, connection_seconds=0.3)


def test_more_than_a_connection_may_bring(lab: Any) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await endless(writer, b"a" * 1000)

    with pytest.raises(NotReached, match="more than the 20000 bytes that are read from one connection"):
        visit(lab, handle, connection_bytes=20_000)


def test_more_than_a_job_may_bring(lab: Any) -> None:
    async def main() -> None:
        async with lab.serving(replying(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"a" * 1000)) as port:
            net = lab.net({"job_bytes": 5000})
            for _ in range(4):
                await net.get(f"http://127.0.0.1:{port}/")
            with pytest.raises(NotReached, match="more than the 5000 bytes that one scan may"):
                await net.get(f"http://127.0.0.1:{port}/")

    asyncio.run(main())


@pytest.mark.parametrize(
    "location",
    [
        "http://10.0.0.5/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/",
        "http://[::1]:8480/",
        "https://192.168.1.1:8443/admin",
        "http://inside.test/",
    ],
)
def test_redirect_to_a_private_address_is_blocked(lab: Any, location: str) -> None:
    answer = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()

    async def main() -> None:
        names = lab.addresses(inside=["10.1.2.3", "fd00::1"])
        async with lab.serving(replying(answer)) as port, lab.resolving(names) as (server, _):
            net = lab.net(limits=type(lab.loopback)("internet", own_networks=["127.0.0.1/32"]), resolvers=(server,))
            reply = await net.get(f"http://127.0.0.1:{port}/")
            assert reply.status == 302
            assert net.journal.detail().refused == []
            with pytest.raises(Blocked, match="has not declared"):
                await net.get(reply.header("location")[0])
            assert len(net.journal.detail().refused) >= 1
            assert set(net.journal.detail().contacted) == {"127.0.0.1"}

    asyncio.run(main())


@pytest.mark.parametrize(
    "url",
    ["", "ftp://a.test/", "http://", "http://a b/", "http://a.test:99999/", "http://u:p@a.test/", "http://\0/", "/x"],
)
def test_what_is_no_url(lab: Any, url: str) -> None:
    async def main() -> None:
        with pytest.raises(NotReached, match="can't be visited"):
            await lab.net().get(url)

    asyncio.run(main())


def test_pinned_address_is_what_is_contacted(lab: Any) -> None:
    seen: list[bytes] = []

    async def main() -> None:
        async with lab.serving(replying(OK, seen)) as port:
            net = lab.net()
            reply = await net.get(f"http://www.example.test:{port}/", address="127.0.0.1")
            assert reply.address == "127.0.0.1"
            for wrong in ("10.0.0.1", "localhost", "www.example.test"):
                with pytest.raises(Blocked):
                    await net.get(f"http://www.example.test:{port}/", address=wrong)
            assert f"Host: www.example.test:{port}".encode() in seen[0]

    asyncio.run(main())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=300)
    | st.lists(
        st.sampled_from([b"HTTP/1.1 200 OK\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"\r\n"])
        | st.binary(max_size=20),
        max_size=8,
    ).map(b"".join)
)
def test_any_bytes_give_a_reply_or_a_sentence(lab: Any, answer: bytes) -> None:
    reply: HttpReply | None = None
    sentence = ""
    try:
        reply = visit(lab, replying(answer), idle_seconds=1.0)
    except NotReached as problem:
        sentence = str(problem)
    if reply is None:
        assert sentence
        assert sentence.isprintable()
    else:
        assert b"HTTP/1." in answer
        assert 200 <= reply.status <= 999
