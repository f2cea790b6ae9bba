"""The SSH scanner: its parser on recorded conversations with real servers, its fetch on servers of this machine."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kattegat.model.work import Job, KnownFact, Limits, Result
from kattegat.plugin import Evidence, Found, IPAddress, NotMeasured, Part, Service
from kattegat.plugins import ports, ssh
from kattegat.plugins.ports import Banner
from kattegat.plugins.shared.exchange import Ended, Exchange, encode
from kattegat.plugins.ssh import SshAlgorithms, SshHostKey, SshScanner, SshServer
from kattegat.plugins.ssh.scan import may_speak_ssh
from kattegat.plugins.ssh.wire import KexInit, build_kexinit, packet
from kattegat.registry import Plugin, Registry
from kattegat.runner.job import run_job
from kattegat.settings import load

FOLDER = Path(__file__).parent / "recorded" / "ssh"
FILES = sorted(FOLDER.glob("*.evidence"))
SERVICE = Service(IPAddress("192.0.2.1"), "tcp", 22)
KINDS = ["SshServer", "SshAlgorithms", "SshHostKey"]
HELLO = b"SSH-2.0-x_1\r\n"


def recorded(case: str) -> Evidence:
    return Evidence.unpack((FOLDER / f"ssh--{case}.evidence").read_bytes())


def parse(evidence: Evidence) -> list[Found | NotMeasured]:
    # As the worker reads it: packed and read back.
    found = list(SshScanner().parse(SERVICE, Evidence.unpack(evidence.pack())))
    assert all(isinstance(entry, Found | NotMeasured) for entry in found)
    return found


def talk(received: bytes, ended: Ended = "closed") -> Evidence:
    exchange = Exchange("identification", False, b"SSH-2.0-Kattegat\r\n", received, ended)
    return Evidence((Part("conversation", encode((exchange,))),))


def said(entries: list[Found | NotMeasured]) -> list[tuple[str, str, str]]:
    """(kind, item, reason or "" for a fact)."""
    return [
        (entry.fact.kind, entry.item, "") if isinstance(entry, Found) else (entry.kind, entry.item or "", entry.reason)
        for entry in entries
    ]


@pytest.mark.parametrize("case", ["right", "right-ipv6"])
def test_the_right_server(case: str) -> None:
    ciphers = ["chacha20-poly1305@openssh.com", "aes256-gcm@openssh.com"]
    macs = ["hmac-sha2-512-etm@openssh.com", "hmac-sha2-256-etm@openssh.com"]
    compression = ["none", "zlib@openssh.com"]
    assert [(entry.item, entry.fact) for entry in parse(recorded(case)) if isinstance(entry, Found)] == [
        ("", SshServer(protocol="2.0", software="OpenSSH_9.2p1", comments="", problems=[])),
        (
            "",
            SshAlgorithms(
                kex=["sntrup761x25519-sha512@openssh.com", "curve25519-sha256", "kex-strict-s-v00@openssh.com"],
                host_key=["ssh-ed25519"],
                ciphers_c2s=ciphers,
                ciphers_s2c=ciphers,
                macs_c2s=macs,
                macs_s2c=macs,
                compression_c2s=compression,
                compression_s2c=compression,
            ),
        ),
        (
            "ssh-ed25519",
            SshHostKey(
                type="ssh-ed25519",
                bits=256,
                fingerprint="SHA256:yZvlz26nvFMW/A0FuTPxyR4LPr7dEInyrdkIcNwYVE8",
                proven=True,
            ),
        ),
    ]


def test_the_wrong_server() -> None:
    server, algorithms, *keys = [entry for entry in parse(recorded("wrong")) if isinstance(entry, Found)]
    assert server.fact == SshServer(protocol="2.0", software="OpenSSH_9.2p1", comments="Debian-2+deb12u10", problems=[])
    assert isinstance(algorithms.fact, SshAlgorithms)
    assert algorithms.fact.kex == [
        "diffie-hellman-group1-sha1", "diffie-hellman-group14-sha1", "diffie-hellman-group-exchange-sha1",
        "curve25519-sha256", "kex-strict-s-v00@openssh.com",
    ]  # fmt: skip
    assert algorithms.fact.host_key == ["ssh-rsa", "ssh-ed25519"]
    assert algorithms.fact.ciphers_s2c == ["3des-cbc", "aes128-cbc", "aes256-cbc", "aes128-ctr"]
    assert algorithms.fact.macs_c2s == ["hmac-md5", "hmac-md5-96", "hmac-sha1", "hmac-sha1-96", "hmac-sha2-256"]
    assert [(key.item, key.fact.bits, key.fact.proven) for key in keys] == [  # type: ignore[attr-defined]
        ("ssh-rsa", 1024, True),
        ("ssh-ed25519", 256, True),
    ]


@pytest.mark.parametrize("case", ["ftp", "redis", "web", "no-greeting"])
def test_what_speaks_another_protocol_is_measured_and_has_no_fact(case: str) -> None:
    assert parse(recorded(case)) == []


def test_silence_says_nothing() -> None:
    reason = "The server's identification was not read, because the server did not answer in time."
    assert said(parse(recorded("silent"))) == [(kind, "", reason) for kind in KINDS]


@pytest.mark.parametrize(
    ("received", "ended", "wanted"),
    [
        (b"", "closed", "the server closed the connection"),
        (b"", "reset", "the connection was reset"),
        (b"Exceeded MaxStartups\r\n", "closed", "the server closed the connection after 'Exceeded MaxStartups'"),
        (b"Not allowed at this time\r\n", "closed", "the server closed the connection after 'Not allowed at this time"),
        (b"welcome\r\n" * 3, "timeout", "the server did not answer in time after 'welcome"),
        (b"SSH-nothing\r\n", "closed", "has no version"),
    ],
)
def test_an_identification_that_did_not_come_is_not_measured(received: bytes, ended: Ended, wanted: str) -> None:
    found = said(parse(talk(received, ended)))
    assert [(kind, item) for kind, item, _ in found] == [(kind, "") for kind in KINDS]
    assert all(wanted in reason for _, _, reason in found)


@pytest.mark.parametrize(
    ("received", "ended"),
    [
        (b"who are you?\r\n", "closed"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "timeout"),
        (b"\x15\x03\x03\x00\x02\x02\x46", "closed"),
        (b"x\r\n" * 2000, "enough"),  # more lines than may come ahead of an identification
    ],
)
def test_another_protocol(received: bytes, ended: Ended) -> None:
    assert parse(talk(received, ended)) == []


def test_ssh_1_has_a_version_and_no_algorithms() -> None:
    reason = "The server's algorithms were not read, because the server does not speak SSH 2."
    assert said(parse(talk(b"SSH-1.5-old\r\n", "enough"))) == [
        ("SshServer", "", ""),
        ("SshAlgorithms", "", reason),
        ("SshHostKey", "", reason),
    ]


def kexinit(**lists: tuple[str, ...]) -> bytes:
    names = ("x",)
    given_ = {"kex": names, "host_keys": ("ssh-ed25519", "rsa-sha2-256")} | lists
    rest = dict.fromkeys(KexInit.__struct_fields__[3:9], names)
    return packet(build_kexinit(KexInit(bytes(16), **given_, **rest)))  # type: ignore[arg-type]


def test_host_keys_that_did_not_come_are_named() -> None:
    assert said(parse(talk(HELLO + kexinit(), "enough"))) == [
        ("SshServer", "", ""),
        ("SshAlgorithms", "", ""),
        ("SshHostKey", "ssh-ed25519", "The host key was not read, because no key exchange is in common."),
        ("SshHostKey", "ssh-rsa", "The host key was not read, because no key exchange is in common."),
    ]


@pytest.mark.parametrize(
    "kex", [tuple(f"name{number}" for number in range(201)), ("a" * 65,), ("curve\x1b[31m",), ("null\x00",)]
)
def test_lists_that_no_server_has_are_not_believed(kex: tuple[str, ...]) -> None:
    found = said(parse(talk(HELLO + kexinit(kex=kex), "enough")))
    assert [kind for kind, _, reason in found if not reason] == ["SshServer"]
    assert next(reason for kind, _, reason in found if kind == "SshAlgorithms").startswith("the server lists ")


def test_the_server_can_not_write_to_a_terminal() -> None:
    (server, *_) = parse(talk(b"SSH-2.0-x\x1b[2J\x00 " + b"y" * 1000 + b"\r\n" + kexinit(), "enough"))
    assert isinstance(server, Found)
    assert isinstance(server.fact, SshServer)
    assert server.fact.software == "x\ufffd[2J\ufffd"
    assert server.fact.comments == "y" * 300


@pytest.mark.parametrize(
    "part", [Part("conversation", b"\xc1"), Part("other", b""), Part("conversation", encode(())), talk(b"").parts[0]]
)
def test_damaged_evidence_is_not_measured(part: Part) -> None:
    assert [kind for kind, _, reason in said(parse(Evidence((part,)))) if reason] == KINDS


@given(st.data())
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_parser_never_raises_on_mutated_evidence(data: st.DataObject) -> None:
    part = Evidence.unpack(data.draw(st.sampled_from(FILES)).read_bytes()).first("conversation")
    if part is None:
        return
    if data.draw(st.booleans()):  # the packed bytes themselves
        parse(Evidence((Part("conversation", mutated(data, part.content)),)))
        return
    conversation = list(msgspec.msgpack.decode(part.content, type=list[Exchange]))
    at = data.draw(st.integers(0, len(conversation) - 1))
    exchange = conversation[at]
    field = data.draw(st.sampled_from(["sent", "received"]))
    change: dict[str, Any] = {field: mutated(data, getattr(exchange, field))}
    change["ended"] = data.draw(st.sampled_from([exchange.ended, "closed", "timeout", "reset"]))
    conversation[at] = msgspec.structs.replace(exchange, **change)
    parse(Evidence((Part("conversation", encode(tuple(conversation))),)))


def mutated(data: st.DataObject, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, max(0, len(changed) - 1)))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert"]))
        if kind == "cut":
            del changed[at:]
        elif kind == "insert":
            changed[at:at] = data.draw(st.binary(max_size=8))
        elif changed:
            changed[at] = data.draw(st.integers(0, 255))
    return bytes(changed)


def test_the_web_s_ports_and_udp_are_left_alone() -> None:
    address = IPAddress("192.0.2.1")
    assert [port for port in (22, 80, 443, 2222, 8443, 9999) if may_speak_ssh(Service(address, "tcp", port))] == [
        22,
        2222,
        9999,
    ]
    assert not may_speak_ssh(Service(address, "udp", 22))


# --- fetch, on real connections of this machine ----------------------------------------------------------------------


@contextmanager
def server(answer: bytes | None) -> Iterator[tuple[int, list[int]]]:
    """A listener that says `answer` and closes, or None: at once resets; with the list of its visitors' ports."""
    listener = socket.create_server(("127.0.0.1", 0))
    visitors: list[int] = []

    def serve() -> None:
        while True:
            try:
                connection, peer = listener.accept()
            except OSError:
                return
            visitors.append(peer[1])
            with connection, suppress(OSError):
                if answer:
                    connection.recv(100)
                    connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1]), visitors
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def scan(port: int, banner: str | None) -> Result:
    registry = Registry([Plugin("ports", ports), Plugin("ssh", ssh)])
    key = f"internet|127.0.0.1|tcp/{port}"
    at = datetime(2026, 11, 1, tzinfo=UTC)
    value = msgspec.to_builtins(Banner(text=banner or "", product="", version=""))
    known = [KnownFact("Banner", "Service", key, "", 1, value, "banner", "internet", at)] if banner is not None else []
    job = Job(
        task_id=1,
        lease_token=1,
        organisation="test",
        scanner="ssh",
        scanner_version=registry.scanner("ssh").version,
        asset_type="Service",
        asset_key=key,
        clearance=1,
        limits=Limits("internet", own_networks=["127.0.0.0/8"]),
        known=known,
    )
    return asyncio.run(run_job(job, registry, load({"KAT_DNS_SERVER": "127.0.0.1:9"})))


@pytest.mark.parametrize("banner", [None, "220 mail ESMTP\r\n", "MySSH-2.0"])
def test_nobody_visits_another_port_without_a_greeting_of_ssh(banner: str | None) -> None:
    with server(HELLO) as (port, visitors):
        result = scan(port, banner)
    assert (result.outcome, visitors, result.detail.contacted) == ("ok", [], [])
    assert parse(Evidence.unpack(result.evidence)) == []


def test_another_port_that_greets_as_ssh_is_visited() -> None:
    with server(HELLO + kexinit()) as (port, visitors):
        result = scan(port, "SSH-2.0-x_1\r\n")
    assert (result.outcome, len(visitors)) == ("ok", 1)
    assert said(parse(Evidence.unpack(result.evidence)))[:2] == [("SshServer", "", ""), ("SshAlgorithms", "", "")]


def test_a_port_that_refuses_fails_the_scan() -> None:
    with server(None) as (port, _):
        pass
    result = scan(port, "SSH-2.0-x_1\r\n")
    assert (result.outcome, result.reason) == ("failed", f"127.0.0.1 port {port} refused the connection.")
