"""Names to addresses: aliases, rebinding, what is left out; and which servers are asked."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import dns.message
import pytest

from kattegat.errors import UsageError
from kattegat.model.work import Limits
from kattegat.plugin import Blocked, NotReached
from kattegat.runner.dns import Server, resolvers, server

Query = dns.message.Message


def test_resolve(lab: Any) -> None:
    async def main() -> None:
        table = lab.addresses(www=["127.0.0.1", "::1", "127.0.0.2"], half=["127.0.0.1", "10.0.0.1"], none=[])
        async with lab.resolving(table) as (one, protocol):
            net = lab.net(resolvers=(one,))
            assert await net.resolve("www.test") == ["127.0.0.1", "127.0.0.2", "::1"]
            assert await net.resolve("WWW.test.") == ["127.0.0.1", "127.0.0.2", "::1"]
            assert len(protocol.asked) == 2  # A and AAAA, once
            assert await net.resolve("half.test") == ["127.0.0.1"]
            assert net.journal.detail().refused[0].startswith("10.0.0.1 is a private address")
            assert await net.resolve("none.test") == []
            assert await net.resolve("missing.test") == []
            assert await net.resolve("127.0.0.1") == ["127.0.0.1"]
            assert await net.resolve("localhost") == ["127.0.0.1", "::1"]

    asyncio.run(main())


def test_resolve_of_private_addresses_only_is_blocked(lab: Any) -> None:
    async def main() -> None:
        async with lab.resolving(lab.addresses(inside=["10.0.0.1", "fd00::1"])) as (one, _):
            net = lab.net(resolvers=(one,))
            with pytest.raises(Blocked, match=r"^inside\.test resolves to 10\.0\.0\.1, but 10\.0\.0\.1 is a private"):
                await net.resolve("inside.test")
            with pytest.raises(Blocked):
                await net.resolve("10.0.0.1")

    asyncio.run(main())


def test_aliases_are_followed_and_loops_end(lab: Any) -> None:
    def answer(query: Query) -> Any:
        question = query.question[0]
        name = question.name.to_text()
        if name == "a.test.":  # the whole chain in one answer
            chain = ["a.test. 1 IN CNAME b.test.", "b.test. 1 IN CNAME c.test."]
            return lab.answering(query, *chain, *(["c.test. 1 IN A 127.0.0.1"] if question.rdtype.name == "A" else []))
        if name == "out.test.":  # the chain leaves the zone
            return lab.answering(query, "out.test. 1 IN CNAME a.test.")
        if name == "loop.test.":
            return lab.answering(query, "loop.test. 1 IN CNAME pool.test.", "pool.test. 1 IN CNAME loop.test.")
        if name == "c.test.":
            return lab.answering(query)
        number = int(name.split(".")[0])
        return lab.answering(query, f"{name} 1 IN CNAME {number + 1}.test.")

    async def main() -> None:
        async with lab.resolving(answer) as (one, _):
            net = lab.net(resolvers=(one,))
            assert await net.resolve("a.test") == ["127.0.0.1"]
            assert await net.resolve("out.test") == ["127.0.0.1"]
            assert await net.resolve("loop.test") == []
            with pytest.raises(NotReached, match="alias of an alias"):
                await net.resolve("0.test")

    asyncio.run(main())


def test_rebinding_reaches_nothing_that_is_refused(lab: Any) -> None:
    """The first look-up gives an allowed address, every later one the address of something inside."""
    asked: list[str] = []

    def answer(query: Query) -> Any:
        if query.question[0].rdtype.name == "AAAA":
            return lab.answering(query)
        asked.append("A")
        address = "127.0.0.1" if len(asked) == 1 else "127.9.9.9"
        return lab.answering(query, f"evil.test. 0 IN A {address}")

    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        await reader.read()

    async def main() -> None:
        async with lab.serving(web) as port, lab.resolving(answer) as (one, _):
            limits = Limits("internet", own_networks=["127.0.0.1/32"])
            net = lab.net(limits=limits, resolvers=(one,))
            for _ in range(3):
                assert (await net.get(f"http://evil.test:{port}/")).address == "127.0.0.1"
            assert len(asked) == 1
            # The next job looks the name up again, and the address that it gets now is judged anew.
            later = lab.net(limits=limits, resolvers=(one,))
            with pytest.raises(Blocked, match=r"evil\.test resolves to 127\.9\.9\.9"):
                await later.get(f"http://evil.test:{port}/")
            assert later.journal.detail().contacted == ["127.0.0.1"]  # the resolver

    asyncio.run(main())


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST.", "a.localhost"])
def test_localhost_is_loopback_and_blocked(lab: Any, name: str) -> None:
    async def main() -> None:
        with pytest.raises(Blocked, match="loopback"):
            await lab.net(limits=Limits("internet")).connect(name, 80)

    asyncio.run(main())


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a..b",
        "nul\0.test",
        "esc\x1b[31m.test",
        "x" * 64,
        "a." * 200,
        "b\udcff.test",
        "a b",
        "[::1]",
        "fe80::1%lo",
    ],
)
def test_names_that_are_none(lab: Any, name: str) -> None:
    async def main() -> None:
        async with lab.resolving(lambda query: lab.answering(query, rcode=3)) as (one, _):
            net = lab.net(resolvers=(one,))
            for attempt in (net.connect(name, 80), net.get(f"http://{name}/")):
                with pytest.raises((NotReached, Blocked)) as caught:
                    await attempt
                assert str(caught.value).isprintable()
                assert str(caught.value).endswith(".")
            reply = await net.dns(name, "A")
            assert reply.problem.isprintable()

    asyncio.run(main())


@pytest.mark.parametrize(
    "name", ["www.test", "www.test.", "WWW.TEST", "_dmarc.www.test", "xn--bcher-kva.test", "*.test"]
)
def test_names_that_are_odd_and_right(lab: Any, name: str) -> None:
    async def main() -> None:
        def answer(query: Query) -> Any:
            question = query.question[0]
            found = [f"{question.name} 1 IN A 127.0.0.1"] if question.rdtype.name == "A" else []
            return lab.answering(query, *found)

        async with lab.resolving(answer) as (one, _):
            assert await lab.net(resolvers=(one,)).resolve(name) == ["127.0.0.1"]

    asyncio.run(main())


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address", "port", "shown"),
    [
        ("192.0.2.53", "192.0.2.53", 53, "192.0.2.53"),
        ("192.0.2.53:5353", "192.0.2.53", 5353, "192.0.2.53:5353"),
        ("2001:db8::53", "2001:db8::53", 53, "2001:db8::53"),
        ("[2001:DB8::53]", "2001:db8::53", 53, "2001:db8::53"),
        ("[2001:db8::53]:5353", "2001:db8::53", 5353, "[2001:db8::53]:5353"),
    ],
)
def test_server(text: str, address: str, port: int, shown: str) -> None:
    assert server(text) == Server(address, port)
    assert str(server(text)) == shown
    assert server(shown) == server(text)


@pytest.mark.parametrize(
    "text", ["", "dns.example", "1.2.3.4:0", "1.2.3.4:99999", "[::1", "[::1]5", "1.2.3.4:x", "fe80::1%eth0"]
)
def test_what_is_no_server(text: str) -> None:
    with pytest.raises(UsageError, match="is no DNS server"):
        server(text)


def test_resolvers_of_the_machine(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_bytes(
        b"# x\nsearch a.test\nnameserver 192.0.2.1\nnameserver \xff\nnameserver fe80::1%eth0\nnameserver ::1\n"
    )
    assert resolvers("", file) == (Server("192.0.2.1"), Server("::1"))
    assert resolvers("", tmp_path / "missing") == (Server("127.0.0.1"),)
    assert resolvers("192.0.2.9:5300", file) == (Server("192.0.2.9", 5300),)
