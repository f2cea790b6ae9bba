"""Connections within limits: raw streams of servers that say too much, too little or nonsense; shared permits."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import Any

import pytest

from kattegat.model.work import Limits
from kattegat.plugin import Blocked, NotReached
from kattegat.runner.limits import Rules, Unreached, explain
from kattegat.runner.net import Shared


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def read_all(stream: Any) -> None:
    while await stream.read():
        pass


async def write_much(stream: Any) -> None:
    for _ in range(100):
        await stream.write(b"x" * 1_000_000)


async def free_port(lab: Any) -> int:
    async with lab.serving(silent) as port:
        return int(port)


def test_stream(lab: Any) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async def main() -> None:
        async with lab.serving(echo) as port:
            net = lab.net()
            stream = await net.connect("127.0.0.1", port)
            assert (stream.local, stream.peer) == ("127.0.0.1", "127.0.0.1")
            await stream.write(b"\x00\xff\xfe hello")
            assert await stream.read(2) == b"\x00\xff"
            assert await stream.read() == b"\xfe hello"
            await stream.close()
            await stream.close()
            with pytest.raises(NotReached, match="closed already"):
                await stream.read()
            with pytest.raises(NotReached, match="closed already"):
                await stream.write(b"x")
            detail = net.journal.detail()
            assert (detail.contacted, detail.sources) == (["127.0.0.1"], ["127.0.0.1"])

    asyncio.run(main())


def test_ipv6(lab: Any) -> None:
    async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async def main() -> None:
        try:
            server = await asyncio.start_server(hello, "::1", 0)
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
        port = server.sockets[0].getsockname()[1]
        net = lab.net()
        stream = await net.connect("0:0::1", port)
        assert (stream.local, stream.peer) == ("::1", "::1")
        assert await stream.read() == b"hello"
        assert await stream.read() == b""
        await stream.close()
        assert [entry async for entry in net.ports("::1", [port])] == [(port, "open")]
        server.close()
        await server.wait_closed()

    asyncio.run(main())


def test_all_that_was_written_arrives(lab: Any) -> None:
    got = asyncio.Queue[int]()

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.put_nowait(len(await reader.read(-1)))

    async def main() -> None:
        async with lab.serving(count) as port:
            stream = await lab.net().connect("127.0.0.1", port)
            await stream.write(b"x" * 2_000_000)
            await stream.close()
            assert await got.get() == 2_000_000

    asyncio.run(main())


@pytest.mark.parametrize(
    ("banner", "said"),
    [(b"SSH-2.0-" + b"A" * 1000, "more than the 30000 bytes"), (b"\x00\xff" * 500, "more than the 30000 bytes")],
)
def test_endless_banner(lab: Any, banner: bytes, said: str) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(banner)
            await writer.drain()

    async def main() -> None:
        async with lab.serving(handle) as port:
            net = lab.net({"connection_bytes": 30_000})
            stream = await net.connect("127.0.0.1", port)
            with pytest.raises(NotReached, match=said):
                await read_all(stream)
            await net.close()

    asyncio.run(main())


def test_banner_one_letter_at_a_time(lab: Any) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"S")
            await writer.drain()
            await asyncio.sleep(0.02)

    async def main() -> None:
        async with lab.serving(handle) as port:
            net = lab.net({"connection_seconds": 0.3})
            stream = await net.connect("127.0.0.1", port)
            with pytest.raises(Unreached, match=r"still busy after the 0\.3 seconds") as caught:
                await read_all(stream)
            assert caught.value.how == "timeout"

    asyncio.run(main())


def test_server_that_never_reads(lab: Any) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(3600)

    async def main() -> None:
        async with lab.serving(handle) as port:
            net = lab.net({"idle_seconds": 0.2})
            stream = await net.connect("127.0.0.1", port)
            with pytest.raises(NotReached, match="took in nothing"):
                await write_much(stream)
            await net.close()

    asyncio.run(main())


def test_connection_that_nobody_reads_ends_by_itself(lab: Any) -> None:
    async def main() -> None:
        async with lab.serving(silent) as port:
            net = lab.net({"connection_seconds": 0.1, "connections_per_address": 1})
            held = await net.connect("127.0.0.1", port)
            second = await net.connect("127.0.0.1", port)  # comes when the first has ended by itself
            await second.close()
            with pytest.raises(NotReached, match="still busy"):
                await held.read()
            await held.close()

    asyncio.run(main())


def test_refused_and_no_such_port(lab: Any) -> None:
    async def main() -> None:
        port = await free_port(lab)
        with pytest.raises(Unreached, match=rf"^127\.0\.0\.1 port {port} refused the connection\.$") as caught:
            await lab.net().connect("127.0.0.1", port)
        assert caught.value.how == "refused"
        for wrong in (0, -1, 65536):
            with pytest.raises(NotReached, match="1 to 65535"):
                await lab.net().connect("127.0.0.1", wrong)

    asyncio.run(main())


def test_next_address_is_tried(lab: Any) -> None:
    async def main() -> None:
        names = lab.addresses(www=["127.0.0.9", "10.0.0.1", "127.0.0.1"], lost=["127.0.0.9"], none=[])
        async with lab.serving(silent) as port, lab.resolving(names) as (server, _):
            net = lab.net(resolvers=(server,))
            stream = await net.connect("www.test", port)
            assert stream.peer == "127.0.0.1"
            await stream.close()
            assert "10.0.0.1" not in net.journal.detail().contacted
            with pytest.raises(NotReached, match=r"127\.0\.0\.9 port \d+ refused"):
                await net.connect("lost.test", port)
            with pytest.raises(NotReached, match=r"none\.test has no address"):
                await net.connect("none.test", port)

    asyncio.run(main())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::ffff:127.0.0.1", "localhost"])
def test_nothing_is_sent_to_what_is_not_declared(lab: Any, host: str) -> None:
    reached: list[int] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.append(1)

    async def main() -> None:
        async with lab.serving(handle) as port:
            net = lab.net(limits=Limits("internet"))
            with pytest.raises(Blocked):
                await net.connect(host, port)
            with pytest.raises(Blocked):
                await net.get(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
            if host != "localhost":
                with pytest.raises(Blocked):
                    async for _ in net.ports(host, [port]):
                        pass
                with pytest.raises(Blocked):
                    await net.run("true", targets=[host])
            assert net.journal.detail().contacted == []
            await asyncio.sleep(0)

    asyncio.run(main())
    assert reached == []


def test_permits_per_address_are_shared_by_jobs(lab: Any) -> None:
    now = most = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await reader.read()
        now -= 1

    async def main() -> None:
        async with lab.serving(handle) as port:
            shared = Shared(Rules(connections_per_address=3), ())

            async def job() -> None:
                net = lab.net(shared=shared)
                stream = await net.connect("127.0.0.1", port)
                await asyncio.sleep(0.02)
                await stream.close()
                await asyncio.sleep(0.01)

            await asyncio.gather(*(job() for _ in range(12)))

    asyncio.run(main())
    # The server sees an end a moment after the client has given its permit back.
    assert 2 <= most <= 6


@pytest.mark.parametrize("rule", ["connections", "connections_per_scanner", "connections_per_address"])
def test_each_permit_bounds_and_is_given_back(lab: Any, rule: str) -> None:
    async def main() -> None:
        port = await free_port(lab)
        async with lab.serving(silent) as good:
            net = lab.net({rule: 1})
            for _ in range(3):
                with pytest.raises(NotReached):
                    await net.connect("127.0.0.1", port)
            first = await net.connect("127.0.0.1", good)
            second = asyncio.create_task(net.connect("127.0.0.1", good))
            await asyncio.sleep(0.1)
            assert not second.done()
            await first.close()
            await (await second).close()
            third = asyncio.create_task(net.connect("127.0.0.1", good))
            await asyncio.sleep(0)
            third.cancel()
            await asyncio.gather(third, return_exceptions=True)
            await net.connect("127.0.0.1", good)
            await net.close()

    asyncio.run(main())


def test_closing_the_net_ends_what_is_open(lab: Any) -> None:
    ended = asyncio.Queue[bytes]()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.put_nowait(await reader.read())

    async def main() -> None:
        async with lab.serving(handle) as port:
            net = lab.net()
            await net.connect("127.0.0.1", port)
            await net.close()
            assert await ended.get() == b""

    asyncio.run(main())


@pytest.mark.parametrize(
    ("code", "how"),
    [
        (errno.ECONNREFUSED, "refused"),
        (errno.ECONNRESET, "reset"),
        (errno.EMFILE, "local"),
        (errno.ENETUNREACH, "unreachable"),
        (errno.EHOSTUNREACH, "unreachable"),
        (errno.EIO, "unreachable"),
    ],
)
def test_socket_errors_are_told_apart(code: int, how: str) -> None:
    problem = explain("192.0.2.1 port 1", OSError(code, os.strerror(code)), 1)
    assert problem.how == how
    assert str(problem).endswith(".")
