"""The opening of SMTP conversations: recorded ones of real servers, and what a server may say otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kattegat.plugin import (
    Blocked,
    Certificate,
    Evidence,
    Found,
    Hostname,
    IPAddress,
    Known,
    Link,
    NotMeasured,
    NotReached,
    Part,
    Service,
)
from kattegat.plugins.dns.records import DnsRecords
from kattegat.plugins.mail import SmtpBannerScanner
from kattegat.plugins.mail.facts import MailExchange, MailHost
from kattegat.plugins.mail.smtp import is_mail_server, steady
from kattegat.plugins.mail.smtp_wire import Answer, ReplyReader, Session, open_session, parse_reply, read_session
from kattegat.plugins.shared import exchange
from kattegat.plugins.shared.exchange import Exchange, Step

RECORDED = Path(__file__).parent / "recorded" / "mail"
HOST = Hostname("mx.example.org")
NOW = datetime(2026, 11, 1, tzinfo=UTC)


def parse(host: Hostname, evidence: Evidence) -> list[Found | NotMeasured]:
    return list(SmtpBannerScanner().parse(host, evidence))


def recorded(name: str) -> list[Found | NotMeasured]:
    return parse(Hostname(name), Evidence.unpack((RECORDED / f"smtp-banner--{name}.evidence").read_bytes()))


def test_a_server_with_starttls() -> None:
    said = recorded("mail.good.test")
    entry, certificate, second = said
    assert (entry.item, second.item) == ("10.77.0.25", "fd77::25")
    assert isinstance(entry, Found)
    fact: Any = entry.fact
    assert (fact.banner, fact.starttls, fact.tls_problem) == ("mail.good.test ESMTP", True, "")
    assert (fact.tls_version, fact.cipher_suite) == ("TLSv1.3", "TLS_AES_128_GCM_SHA256")
    assert "PIPELINING" in fact.extensions
    assert len(fact.chain) == 2
    address = IPAddress("10.77.0.25")
    service = Service(address, "tcp", 25)
    assert entry.links == (
        Link("resolves_to", Hostname("mail.good.test"), address),
        Link("has_service", address, service),
        Link("presents", service, Certificate(fact.chain[0].sha256)),
    )
    assert (fact.trust, fact.name_matches, fact.names, fact.tlsa) == ("trusted", True, ["mail.good.test"], True)
    assert isinstance(certificate, Found)
    assert certificate.asset == Certificate(fact.chain[0].sha256)
    details: Any = certificate.fact
    assert (details.dns_names, details.key_type) == (["mail.good.test"], "EC")


def test_an_older_recording_has_neither_roots_nor_a_time() -> None:
    evidence = Evidence.unpack((RECORDED / "smtp-banner--mail.good.test.evidence").read_bytes())
    bare = [
        Part(part.name, part.content, {name: value for name, value in part.notes.items() if name != "at"})
        for part in evidence.parts
        if part.name in ("smtp", "tls")
    ]
    entry = parse(Hostname("mail.good.test"), Evidence(tuple(bare)))[0]
    assert isinstance(entry, Found)
    fact: Any = entry.fact
    assert (fact.trust, fact.tlsa, fact.name_matches) == ("unknown", None, True)


def test_a_server_without_starttls() -> None:
    (entry,) = recorded("mail.bad.test")
    assert isinstance(entry, Found)
    fact: Any = entry.fact
    assert (fact.banner, fact.starttls, fact.tls_version) == ("mail.bad.test ESMTP Postfix 3.1.0", False, "")
    assert [link.type for link in entry.links] == ["resolves_to", "has_service"]


def test_a_host_that_is_no_mail_server() -> None:
    assert recorded("www.good.test") == []


@pytest.mark.parametrize(
    ("banner", "expected"),
    [
        ("mail.bad.test ESMTP Postfix 3.1.0", "mail.bad.test ESMTP Postfix 3.1.0"),
        ("mx1234567890.example.org ESMTP", "mx1234567890.example.org ESMTP"),
        ("mx ESMTP Exim 4.96 Sun, 22 Nov 2026 13:25:30 +0000", "mx ESMTP Exim 4.96 (varies)"),
        (
            "mx ESMTP Sendmail 8.17.1/8.17.1; Sun, 2 Nov 2026 13:25:30 GMT",
            "mx ESMTP Sendmail 8.17.1/8.17.1; (varies) GMT",
        ),
        ("mx ready at 2026-11-22T13:25:30Z", "mx ready at (varies)"),
        ("mx Sun Nov  2 13:25:30 2026", "mx (varies)"),
        ("mx ESMTP af79cd13be357-7b2dsi12qka.45 - gsmtp", "mx ESMTP (varies) - gsmtp"),
        ("mx ready [08DE29A1B2C3D4E5]", "mx ready (varies)"),
        (
            "mx Microsoft ESMTP MAIL Service, Version: 10.0.14393.2608 ready",
            "mx Microsoft ESMTP MAIL Service, Version: 10.0.14393.2608 ready",
        ),
        ("", ""),
        ("mx", "mx"),
    ],
)
def test_what_varies_with_every_visit_is_left_out_of_a_banner(banner: str, expected: str) -> None:
    assert steady(banner) == expected


@given(st.text())
def test_a_banner_made_steady_stays_as_it_is(banner: str) -> None:
    assert steady(steady(banner)) == steady(banner)


# --- whom to connect to ----------------------------------------------------------------------------------------------


def known(fact: Any) -> Mapping[str, Any]:
    return {fact.kind: (Known(Hostname("example.org"), fact, "", "x", "internet", NOW),)}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, False),
        (known(MailExchange(exists=True, null=False, hosts=[MailHost("mx.example.org", 10)])), True),
        (known(MailExchange(exists=True, null=False, hosts=[MailHost("mx2.example.org", 10)])), False),
        (known(DnsRecords(rdtype="MX", records=["10 MX.example.org."])), True),
        (known(DnsRecords(rdtype="MX", records=["10 mx2.example.org.", ""])), False),
        (known(DnsRecords(rdtype="NS", records=["mx.example.org."])), False),
    ],
)
def test_a_mail_server_is_what_a_domain_names(facts: Mapping[str, Any], expected: bool) -> None:
    assert is_mail_server(HOST, facts) is expected


# --- replies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        (b"220 mx ready\r\n", Answer(220, ("mx ready",))),
        (b"220-mx\r\n220 ready\r\n", Answer(220, ("mx", "ready"))),
        (b"220\r\n", Answer(220, ("",))),
        (b"220 mx\n", Answer(220, ("mx",))),
        (b"220 \xe9\r\n", Answer(220, ("\xe9",))),
        (b"220 mx", None),
        (b"220-mx\r\n", None),
        (b"SSH-2.0-x\r\n", None),
        (b"22\xb2 mx\r\n", None),
        (b"220_mx\r\n", None),
        (b"\r\n", None),
        (b"", None),
    ],
)
def test_replies(received: bytes, expected: Answer | None) -> None:
    assert parse_reply(received) == expected


@given(st.lists(st.sampled_from([b"250-SIZE 1\r\n", b"250-X\n", b"250-\r\n"]), max_size=4), st.data())
def test_a_reader_is_done_with_the_last_line_however_it_is_cut(lines: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(lines) + b"250 HELP\r\n"
    reader = ReplyReader()
    left, done = whole, False
    while left:
        assert not done, "it was done before the last line"
        size = data.draw(st.integers(1, len(left)))
        done, left = reader.feed(left[:size]), left[size:]
    assert done


def said(*replies: str | bytes, ended: str = "enough") -> list[Exchange]:
    last = len(replies) - 1
    return [
        Exchange("", True, b"", reply if isinstance(reply, bytes) else reply.encode() + b"\r\n",
                 ended if index == last else "enough")  # type: ignore[arg-type]
        for index, reply in enumerate(replies)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("exchanges", "expected"),
    [
        ([], Session("it gave no banner")),
        (said("554 no\x07 thanks"), Session("it turned the connection away: 554 no  thanks")),
        (said("421 busy"), Session("it turned the connection away: 421 busy")),
        (said(b"SSH-2.0-x\r\n"), Session("its banner is no reply of SMTP")),
        (
            said(b"220-", ended="timeout"),
            Session("it gave no banner, because the server did not answer in time"),
        ),
        (said("220 mx"), Session("it gave no answer to EHLO")),
        (
            said("220 mx", b"", ended="closed"),
            Session("it gave no answer to EHLO, because the server closed the connection"),
        ),
        (said("220 mx", "421 later"), Session("it turned the connection away: 421 later")),
        (said("220 mx", "502 what"), Session("", "mx")),
        (said("220-mx\r\n220 ready", "250-mx\r\n250 SIZE 1"), Session("", "mx ready", ("SIZE 1",))),
        # The first line is a greeting, not an extension.
        (said("220 mx", "250-STARTTLS\r\n250 SIZE"), Session("", "mx", ("SIZE",))),
        (said("220 mx", "250-mx\r\n250 starttls", "220 go"), Session("", "mx", ("starttls",), True)),
        (
            said("220 mx", "250-mx\r\n250 STARTTLS", "454 not now"),
            Session("", "mx", ("STARTTLS",), True, "it refused STARTTLS: 454 not now"),
        ),
        (
            said("220 mx", "250-mx\r\n250 STARTTLS", b"", ended="reset"),
            Session("", "mx", ("STARTTLS",), True, "it gave no answer to STARTTLS, because the connection was reset"),
        ),
    ],
)
def test_sessions(exchanges: list[Exchange], expected: Session) -> None:
    assert read_session(exchanges) == expected


REPLIES = [b"220 mx\r\n", b"250-mx\r\n250 STARTTLS\r\n", b"250 mx\r\n", b"454 no\r\n", b"502 no\r\n"]


@given(st.lists(st.sampled_from(REPLIES) | st.binary(max_size=60), max_size=4))
def test_an_opening_ends_and_reads_the_same_whatever_is_answered(replies: list[bytes]) -> None:
    ready: list[bool] = []
    kept: list[Exchange] = []

    def opening() -> Generator[Step, Exchange, None]:
        ready.append((yield from open_session("[192.0.2.9]")))

    steps = opening()
    step: Step | None = next(steps)
    for reply in [*replies, b"", b"", b""]:
        assert step is not None
        kept.append(Exchange(step.what, step.same_connection, step.send, reply, "enough"))
        try:
            step = steps.send(kept[-1])
        except StopIteration:
            break
    session = read_session(kept)
    assert len(kept) <= 3
    assert ready == [session.starttls and not session.refusal and not session.problem]


# --- the scanner -----------------------------------------------------------------------------------------------------


class Pipe:
    """A connection whose other end answers as it is told."""

    local, peer = "192.0.2.9", "192.0.2.1"

    def __init__(self, replies: list[bytes]) -> None:
        self.replies = list(replies)
        self.sent = b""
        self.closed = False

    async def read(self, limit: int = 65536) -> bytes:
        if not self.replies:
            raise NotReached("192.0.2.1 port 25 sent nothing for 10 seconds.")
        return self.replies.pop(0)[:limit]

    async def write(self, data: bytes) -> None:
        self.sent += data

    async def close(self) -> None:
        self.closed = True


class Mail:
    """A net with one mail server."""

    vantage = "internet"
    options: Mapping[str, Any] = {}
    known = known(MailExchange(exists=True, null=False, hosts=[MailHost("mx.example.org", 10)]))

    def __init__(self, **hosts: list[bytes] | Exception) -> None:
        self.hosts = {f"192.0.2.{name.removeprefix('n')}": replies for name, replies in hosts.items()}
        self.pipes: list[Pipe] = []

    async def resolve(self, name: str) -> list[str]:
        assert name == HOST.name
        return list(self.hosts)

    async def connect(self, host: str, port: int, **_: Any) -> Pipe:
        assert port == 25
        replies = self.hosts[host]
        if isinstance(replies, Exception):
            raise replies
        self.pipes.append(Pipe(replies))
        return self.pipes[-1]


def scan(net: Mail) -> list[Found | NotMeasured]:
    return parse(HOST, asyncio.run(SmtpBannerScanner().fetch(HOST, net)))  # type: ignore[arg-type]


EHLO = b"EHLO [192.0.2.9]\r\n"


def test_nothing_but_a_greeting_is_sent_to_a_server_without_starttls() -> None:
    net = Mail(n1=[b"220 mx\r\n", b"250-mx\r\n", b"250 SIZE\r\n", b"221 bye\r\n"])
    (entry,) = scan(net)
    assert isinstance(entry, Found)
    assert [(pipe.sent, pipe.closed) for pipe in net.pipes] == [(EHLO + b"QUIT\r\n", True)]


def test_a_server_that_starts_tls_and_closes_is_tried_with_older_versions_and_the_rest_stands() -> None:
    net = Mail(n1=[b"220 mx\r\n", b"250-mx\r\n250 STARTTLS\r\n", b"220 go\r\n", b""])
    (entry,) = scan(net)
    assert isinstance(entry, Found)
    fact: Any = entry.fact
    assert (fact.starttls, fact.tls_version, fact.chain) == (True, "", [])
    assert "the server closed the connection" in fact.tls_problem
    assert len(net.pipes) == 2
    assert all(pipe.closed and pipe.sent.startswith(EHLO + b"STARTTLS\r\n\x16\x03") for pipe in net.pipes)


def test_one_address_that_does_not_answer_is_not_measured() -> None:
    net = Mail(n1=NotReached("nobody is there."), n2=[b"220 mx\r\n", b"250 mx\r\n"], n3=[b"220-mx\r\n"])
    first, second, third = scan(net)
    assert first == NotMeasured("SmtpGreeting", "nobody is there.", "192.0.2.1", HOST)
    assert isinstance(second, Found)
    assert third == NotMeasured("SmtpGreeting", "192.0.2.1 port 25 sent nothing for 10 seconds.", "192.0.2.3", HOST)


def test_no_address_that_answers_fails_the_scan() -> None:
    with pytest.raises(NotReached, match="nobody is there"):
        scan(Mail(n1=NotReached("nobody is there."), n2=Blocked("not allowed.")))


def test_a_recording_that_can_not_be_read_is_not_measured() -> None:
    (entry,) = parse(HOST, Evidence((Part("smtp", b"\xc1", {"address": "192.0.2.1"}),)))
    assert isinstance(entry, NotMeasured)
    good = exchange.encode(tuple(said("220 mx", "250 mx")))
    (entry,) = parse(HOST, Evidence((Part("smtp", good, {"address": "no address"}),)))
    assert isinstance(entry, NotMeasured)
