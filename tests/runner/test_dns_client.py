"""The DNS client against servers that answer well, badly, late, twice, or something else."""

from __future__ import annotations

import asyncio
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kattegat.model.work import Limits
from kattegat.plugin import Blocked, DnsReply, NotReached
from kattegat.runner.dns import Server

Query = dns.message.Message


def ask(lab: Any, answer: Any, name: str = "www.test", rdtype: str = "A", **options: Any) -> tuple[DnsReply, Any]:
    async def main() -> tuple[DnsReply, Any]:
        async with lab.resolving(answer) as (one, protocol):
            return await lab.net(resolvers=(one,)).dns(name, rdtype, **options), protocol

    return asyncio.run(main())


def test_answer_as_received(lab: Any) -> None:
    sent: list[bytes] = []

    def answer(query: Query) -> bytes:
        assert (query.edns, query.payload, query.ednsflags) == (0, 1232, 0)
        sent.append(lab.answering(query, 'www.test. 60 IN TXT "\\000\\255 x"').to_wire())
        return sent[-1]

    reply, _ = ask(lab, answer, rdtype="TXT")
    assert reply.wire == sent[0]
    assert (reply.name, reply.rdtype, reply.problem) == ("www.test", "TXT", "")


def test_dnssec_sets_do_and_cd(lab: Any) -> None:
    def answer(query: Query) -> Any:
        assert query.ednsflags & dns.flags.DO
        assert query.flags & dns.flags.CD
        return lab.answering(query)

    assert ask(lab, answer, dnssec=True)[0].problem == ""


def test_truncated_goes_on_over_tcp(lab: Any) -> None:
    texts = [f'www.test. 60 IN TXT "{number} {"x" * 200}"' for number in range(100)]
    reply, protocol = ask(lab, lambda query: lab.answering(query, *texts), rdtype="TXT")
    assert len(dns.message.from_wire(reply.wire).answer[0]) == 100
    assert [over for _, _, over in protocol.asked] == ["udp", "tcp"]


def test_truncated_and_no_tcp_is_a_problem(lab: Any) -> None:
    def answer(query: Query) -> Any:
        response = lab.answering(query)
        response.flags |= dns.flags.TC
        return response

    async def main() -> None:
        loop = asyncio.get_running_loop()

        class Udp(asyncio.DatagramProtocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport

            def datagram_received(self, data: bytes, addr: Any) -> None:
                self.transport.sendto(answer(dns.message.from_wire(data)).to_wire(), addr)

        transport, _ = await loop.create_datagram_endpoint(Udp, local_addr=("127.0.0.1", 0))
        port = transport.get_extra_info("sockname")[1]
        reply = await lab.net(resolvers=(Server("127.0.0.1", port),)).dns("www.test", "A")
        assert reply.wire == b""
        assert "was cut off, and over TCP: " in reply.problem
        assert "refused the connection" in reply.problem
        transport.close()
        await asyncio.sleep(0)

    asyncio.run(main())


def test_silence_is_a_problem_after_every_try(lab: Any) -> None:
    reply, protocol = ask(lab, lambda query: None)
    assert reply.wire == b""
    assert reply.problem.endswith("did not answer within 0.3 seconds.")
    assert len(protocol.asked) == lab.quick["dns_tries"]


def test_nobody_there_is_a_problem(lab: Any) -> None:
    async def main() -> None:
        async with lab.serving(lambda reader, writer: None) as free:
            pass
        reply = await lab.net(resolvers=(Server("127.0.0.1", free),)).dns("www.test", "A")
        assert "refused" in reply.problem

    asyncio.run(main())


def test_second_resolver_is_asked(lab: Any) -> None:
    async def main() -> None:
        failing = lambda query: lab.answering(query, rcode=2)  # noqa: E731
        async with lab.resolving(failing) as (bad, _), lab.resolving(lab.addresses(www=["127.0.0.1"])) as (good, _):
            net = lab.net(resolvers=(bad, good))
            reply = await net.dns("www.test", "A")
            assert reply.server == str(good)
            assert dns.message.from_wire(reply.wire).rcode() == dns.rcode.NOERROR
            only_bad = lab.net(resolvers=(bad,))
            assert dns.message.from_wire((await only_bad.dns("www.test", "A")).wire).rcode() == dns.rcode.SERVFAIL
            with pytest.raises(NotReached, match="SERVFAIL"):
                await only_bad.resolve("www.test")

    asyncio.run(main())


def test_wrong_answers_are_passed_over(lab: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        class Liar(asyncio.DatagramProtocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport

            def datagram_received(self, data: bytes, addr: Any) -> None:
                query = dns.message.from_wire(data)
                other_id = lab.answering(query, "www.test. 60 IN A 192.0.2.66")
                other_id.id ^= 1
                other_name = dns.message.make_query("evil.test", "A")
                other_name.id = query.id
                for wire in (
                    b"",
                    b"\0",
                    other_id.to_wire(),
                    lab.answering(other_name, "evil.test. 60 IN A 192.0.2.66").to_wire(),
                    data,  # our own question come back
                    lab.answering(query).to_wire()[:14],
                    lab.answering(query, "www.test. 60 IN A 192.0.2.1").to_wire(),
                ):
                    self.transport.sendto(wire, addr)
                stranger.sendto(lab.answering(query, "www.test. 60 IN A 192.0.2.66").to_wire(), addr)

        stranger, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
        transport, _ = await loop.create_datagram_endpoint(Liar, local_addr=("127.0.0.1", 0))
        port = transport.get_extra_info("sockname")[1]
        reply = await lab.net(resolvers=(Server("127.0.0.1", port),)).dns("www.test", "A")
        assert dns.message.from_wire(reply.wire).answer[0][0].address == "192.0.2.1"
        for one in (transport, stranger):
            one.close()
        await asyncio.sleep(0)

    asyncio.run(main())


def test_endless_strays_come_to_an_end(lab: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        class Flood(asyncio.DatagramProtocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport

            def datagram_received(self, data: bytes, addr: Any) -> None:
                for _ in range(100):
                    self.transport.sendto(b"\xff" * 100, addr)

        transport, _ = await loop.create_datagram_endpoint(Flood, local_addr=("127.0.0.1", 0))
        port = transport.get_extra_info("sockname")[1]
        reply = await lab.net(resolvers=(Server("127.0.0.1", port),)).dns("www.test", "A")
        assert reply.wire == b""
        assert reply.problem
        transport.close()
        await asyncio.sleep(0)

    asyncio.run(main())


def test_server_without_edns(lab: Any) -> None:
    def answer(query: Query) -> Any:
        if query.edns >= 0:
            response = dns.message.make_response(query)
            response.use_edns(False)
            response.set_rcode(dns.rcode.FORMERR)
            return response
        return lab.answering(query, "www.test. 60 IN A 192.0.2.1")

    reply, _ = ask(lab, answer)
    assert dns.message.from_wire(reply.wire).answer
    # Without EDNS there are no signatures, and going on without would make a signed zone look unsigned.
    reply, _ = ask(lab, answer, dnssec=True)
    assert dns.message.from_wire(reply.wire).rcode() == dns.rcode.FORMERR


@pytest.mark.parametrize(
    "tail", [b"\xc0", b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x01\xff\xff", b"\xc0\xff" * 20, b"\x3f" + b"\0" * 5]
)
def test_malformed_answer_is_a_problem(lab: Any, tail: bytes) -> None:
    def answer(query: Query) -> bytes:
        wire = bytearray(lab.answering(query).to_wire())
        wire[6:8] = b"\x00\x05"
        del wire[-11:]
        return bytes(wire) + tail

    reply, _ = ask(lab, answer)
    assert reply.wire == b""
    assert "can't be read" in reply.problem


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.integers(0, 3))
def test_any_bytes_give_an_answer_or_a_problem(lab: Any, noise: bytes, kind: int) -> None:
    def answer(query: Query) -> bytes:
        wire = lab.answering(query, "www.test. 60 IN A 192.0.2.1").to_wire()
        cut = len(noise) % len(wire)
        return (noise, wire[:2] + noise, wire[:cut] + noise, wire + noise)[kind]

    async def main() -> None:
        async with lab.resolving(answer) as (one, _):
            net = lab.net({"dns_seconds": 0.02, "dns_tries": 1}, resolvers=(one,))
            reply = await net.dns("www.test", "A")
            assert bool(reply.wire) != bool(reply.problem)
            assert reply.problem.isprintable()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("wire", "said"),
    [
        (b"\x01\x00abc", "amid its answer"),
        (b"", "amid its answer"),
        (b"\x00\x00", "another question"),
        (b"\x00\x0c" + b"\xff" * 12, "another question"),
        (None, "did not answer within"),
    ],
)
def test_tcp_answers_that_end_early_or_never(lab: Any, wire: bytes | None, said: str) -> None:
    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2)
        writer.write(b"\xff\xff" if wire is None else wire)
        while wire is None:  # a slow loris
            writer.write(b"\xff")
            await writer.drain()
            await asyncio.sleep(0.05)
        await writer.drain()
        writer.write_eof()
        await reader.read()

    def short(query: Query) -> Any:
        response = lab.answering(query)
        response.flags |= dns.flags.TC
        return response

    async def main() -> None:
        async with lab.resolving(short, stream) as (one, _):
            reply = await lab.net(resolvers=(one,)).dns("www.test", "A")
            assert reply.wire == b""
            assert "was cut off, and over TCP: " in reply.problem
            assert said in reply.problem

    asyncio.run(main())


@pytest.mark.parametrize(
    ("name", "rdtype"), [("a..b", "A"), ("x" * 64 + ".test", "A"), ("www.test", "NOPE"), ("a." * 200, "A")]
)
def test_what_can_not_be_asked(lab: Any, name: str, rdtype: str) -> None:
    async def main() -> None:
        reply = await lab.net().dns(name, rdtype)
        assert reply.wire == b""
        assert "can't be asked for" in reply.problem

    asyncio.run(main())


def test_given_server_passes_the_guard(lab: Any) -> None:
    async def main() -> None:
        async with lab.resolving(lab.addresses(www=["127.0.0.1"])) as (one, protocol):
            net = lab.net()
            reply = await net.dns("www.test", "A", server=str(one))
            assert reply.wire
            assert reply.server == str(one)
            # The resolver itself is ours and needs no declaration; the same address as a target does.
            bare = lab.net(limits=Limits("internet"), resolvers=(one,))
            assert (await bare.dns("www.test", "A")).wire
            with pytest.raises(Blocked, match="loopback"):
                await bare.dns("www.test", "A", server=str(one))
            assert len(protocol.asked) == 2

    asyncio.run(main())
