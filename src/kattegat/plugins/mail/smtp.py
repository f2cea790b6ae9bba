"""Scanner: how the mail servers of domains answer on port 25, up to the certificate that STARTTLS shows."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Generator, Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from kattegat.errors import KeyFormatError
from kattegat.plugin import (
    Blocked,
    Certificate,
    Evidence,
    Found,
    Hostname,
    IPAddress,
    Link,
    Net,
    NotMeasured,
    NotReached,
    Part,
    Service,
    Stream,
    days,
    scanner,
    via,
)
from kattegat.plugins.dns import message
from kattegat.plugins.dns.records import DnsRecords
from kattegat.plugins.mail.facts import MailExchange, SmtpCertificate, SmtpGreeting
from kattegat.plugins.mail.smtp_wire import Session, open_session, read_session
from kattegat.plugins.shared import exchange
from kattegat.plugins.shared.addresses import in_order
from kattegat.plugins.shared.exchange import Ended, Exchange, Step, WireError
from kattegat.plugins.tls import certificate as x509facts
from kattegat.plugins.tls.facts import CertificateDetails
from kattegat.plugins.tls.handshake import MOST_NAMES, ROOTS, chain_trust, details, roots_part
from kattegat.plugins.tls.probe import certificate_probe
from kattegat.plugins.tls.profile import Handshake, analyse_certificate

__all__ = ["SmtpBannerScanner"]

PORT = 25
MOST_ADDRESSES = 4

VARIES = "(varies)"
_DATE = re.compile(
    r"(?:[A-Z][a-z]{2}, )?\d{1,2} [A-Z][a-z]{2} \d{4}(?: \d\d:\d\d(?::\d\d)?)?(?: [+-]\d{4})?(?: \([A-Z]{1,5}\))?"
    r"|\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?(?:Z|[+-]\d\d:?\d\d)?"
    r"|[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d(?: [A-Z]{1,5})? \d{4}"
)
_IDENTIFIER = re.compile(r"[\[(<]?[A-Za-z0-9_.:=-]{12,}[\])>]?|[0-9]{7,}")

T = TypeVar("T")


@scanner(
    "smtp-banner",
    about=Hostname,
    clearance=1,
    every=days(1),
    yields=[SmtpGreeting, CertificateDetails],
    # The records of any domain make a host a mail server, also of one whose mail policy is not scanned.
    uses=[via("mail_server", MailExchange, backwards=True), via("mail_server", DnsRecords, backwards=True)],
)
class SmtpBannerScanner:
    """Greets each address of a mail server on port 25, asks for its extensions and, with STARTTLS, its certificate.

    A host that no known domain names as its mail server is not connected to. No mail is sent, no sender named.
    """

    async def fetch(self, host: Hostname, net: Net) -> Evidence:
        if not is_mail_server(host, net.known):
            return Evidence()
        addresses = in_order(await net.resolve(host.name))
        parts: list[Part] = []
        for address in addresses[:MOST_ADDRESSES]:
            parts += await _visit(host, address, net)
        if parts and all(part.name == "refused" for part in parts):
            raise NotReached(str(parts[0].notes["reason"]))
        chains = [handshake.chain_der for part in parts if part.name == "tls" and (handshake := _handshake(part))]
        if any(chains):
            parts.append(message.part(await net.dns(f"_{PORT}._tcp.{host.name}", "TLSA")))
            parts.append(await asyncio.to_thread(roots_part, chains, str(net.options.get("ca_file") or "")))
        return Evidence(tuple(parts))

    def parse(self, host: Hostname, evidence: Evidence) -> Iterator[Found | NotMeasured]:
        tls = {str(part.notes.get("address", "")): part for part in evidence.named("tls")}
        seen: set[str] = set()
        for part in evidence.named("refused"):
            address = str(part.notes.get("address", ""))
            yield NotMeasured("SmtpGreeting", str(part.notes.get("reason", "it was not contacted")), address, host)
        for part in evidence.named("smtp"):
            address = str(part.notes.get("address", ""))
            try:
                session = read_session(exchange.decode(part.content))
                handshake = _handshake(tls.get(address))
                asset = IPAddress(address)
            except (KeyFormatError, WireError, ValueError) as error:
                yield NotMeasured("SmtpGreeting", f"the recorded conversation can't be read: {error}", address, host)
                continue
            if session.problem:
                yield NotMeasured("SmtpGreeting", str(part.notes.get("problem") or session.problem), address, host)
                continue
            leaf, unreadable = _leaf(handshake)
            fact = _greeting(address, session, handshake)
            if fact.chain:
                fact = _judged(fact, host, handshake, leaf, evidence, tls[address])
            yield Found(host, fact, address, _links(host, asset, fact))
            if fact.chain and fact.chain[0].sha256 not in seen:
                seen.add(fact.chain[0].sha256)
                certificate = Certificate(fact.chain[0].sha256)
                if leaf is None:
                    yield NotMeasured("CertificateDetails", unreadable, about=certificate)
                else:
                    yield Found(certificate, details(leaf))


def is_mail_server(host: Hostname, known: Any) -> bool:
    """Whether the facts that came with the job have a domain whose MX records name the host."""
    for entry in known.get("MailExchange", ()):
        if any(mail.host == host.name for mail in entry.fact.hosts):
            return True
    return any(
        entry.fact.rdtype == "MX" and any(_target(record) == host.name for record in entry.fact.records)
        for entry in known.get("DnsRecords", ())
    )


def _target(record: str) -> str:
    return record.split()[-1].rstrip(".").lower() if record.split() else ""


# --- the conversation ------------------------------------------------------------------------------------------------


class _Line:
    """One connection: performs steps and keeps what came of them. `problem` is the last sentence of the net."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.kept: list[Exchange] = []
        self.problem = ""

    async def perform(self, step: Step) -> Exchange:
        received = bytearray()
        ended: Ended = "enough"
        try:
            if step.send:
                await self.stream.write(step.send)
            while True:
                if len(received) >= step.limit:
                    ended = "limit"
                    break
                piece = await self.stream.read(step.limit - len(received))
                received += piece
                if not piece:
                    ended = "closed"
                    break
                if step.enough(piece):
                    break
        except NotReached as problem:
            self.problem = str(problem)
            ended = _ended(problem)
        done = Exchange(step.what, step.same_connection, step.send, bytes(received), ended)
        self.kept.append(done)
        return done


def _ended(problem: NotReached) -> Ended:
    how = getattr(problem, "how", "timeout")
    endings: dict[str, Ended] = {"reset": "reset", "refused": "reset", "closed": "closed", "limit": "limit"}
    return endings.get(how, "timeout")


async def _drive(steps: Generator[Step, Exchange, T], line: _Line) -> T:
    """Performs every step over one connection; returns what the steps return."""
    try:
        step = next(steps)
        while True:
            step = steps.send(await line.perform(step))
    except StopIteration as stop:
        result: T = stop.value
        return result


async def _connect(address: str, net: Net) -> tuple[_Line, bool]:
    """A connection with its opening done: (line, whether the server waits for a TLS handshake)."""
    line = _Line(await net.connect(address, PORT))
    return line, await _drive(open_session(_literal(line.stream.local)), line)


def _literal(local: str) -> str:
    """Our address as EHLO wants it of a client without a name (RFC 5321 section 4.1.3)."""
    return f"[IPv6:{local}]" if ":" in local else f"[{local}]"


async def _visit(host: Hostname, address: str, net: Net) -> list[Part]:
    try:
        line, ready = await _connect(address, net)
    except (NotReached, Blocked) as problem:
        return [Part("refused", b"", {"address": address, "reason": str(problem)})]
    notes = {"address": address, "problem": line.problem}
    parts = [Part("smtp", exchange.encode(tuple(line.kept)), notes)]
    try:
        if ready:
            tls = await _handshakes(host, address, net, line)
            at = datetime.now(UTC).isoformat(timespec="seconds")
            parts.append(Part("tls", exchange.encode(tuple(tls)), {"address": address, "at": at}))
        else:
            await line.perform(Step("QUIT", b"QUIT\r\n", lambda _: True, same_connection=True))
    finally:
        await line.stream.close()
    return parts


async def _handshakes(host: Hostname, address: str, net: Net, first: _Line) -> list[Exchange]:
    """The certificate probe behind STARTTLS: every connection of it is opened by another SMTP conversation."""
    kept: list[Exchange] = []
    line: _Line | None = first
    steps = certificate_probe(host.name, alpn=())
    try:
        step = next(steps)
        while True:
            if not step.same_connection and kept:
                line = await _again(address, net, line)
            if line is None:
                done = Exchange(step.what, step.same_connection, step.send, b"", "unreachable")
            else:
                done = await line.perform(step)
            kept.append(done)
            step = steps.send(done)
    except StopIteration:
        return kept
    finally:
        if line is not None and line is not first:
            await line.stream.close()


async def _again(address: str, net: Net, old: _Line | None) -> _Line | None:
    if old is not None:
        await old.stream.close()
    try:
        line, ready = await _connect(address, net)
    except (NotReached, Blocked):
        return None
    if ready:
        return line
    await line.stream.close()
    return None


# --- what it says ----------------------------------------------------------------------------------------------------


def _handshake(part: Part | None) -> Handshake | None:
    return analyse_certificate(exchange.decode(part.content)) if part is not None else None


def _leaf(handshake: Handshake | None) -> tuple[x509facts.Certificate | None, str]:
    """The first certificate of the chain as read; else None and why it can't be read, or "" where there is none."""
    if handshake is None or not handshake.chain_der:
        return None, ""
    try:
        return x509facts.read_certificate(handshake.chain_der[0]), ""
    except WireError as error:
        return None, str(error)


def _judged(
    fact: SmtpGreeting,
    host: Hostname,
    handshake: Handshake | None,
    leaf: x509facts.Certificate | None,
    evidence: Evidence,
    part: Part,
) -> SmtpGreeting:
    """The fact with what its certificate is worth to a sender that verifies it."""
    at = _moment(part.notes.get("at"))
    if at is None:
        trust, reason = "unknown", "It was not recorded when the certificate was shown."
    else:
        chain = handshake.chain_der if handshake else ()
        trust, reason = chain_trust(chain, leaf, at, evidence.first(ROOTS))
    asked = evidence.first("dns")
    answer = message.read(asked) if asked is not None else message.Answer("it was not asked")
    return msgspec.structs.replace(
        fact,
        trust=trust,
        trust_reason=reason,
        name_matches=x509facts.matches(host.name, leaf) if leaf else None,
        names=[*leaf.dns_names, *leaf.ip_names][:MOST_NAMES] if leaf else [],
        tlsa=None if answer.problem else bool(answer.records),
    )


def _moment(recorded: object) -> datetime | None:
    """A recorded time; None for what is none, and for one without a zone, which is no moment."""
    try:
        at = datetime.fromisoformat(str(recorded))
    except ValueError:
        return None
    return at if at.tzinfo is not None else None


def steady(banner: str) -> str:
    """The banner without what is another at every visit: dates, times, identifiers of the session. The evidence has
    them; as a fact they would look like a change of the server every day.
    """
    first, space, rest = banner.partition(" ")
    words = _DATE.sub(VARIES, rest).split(" ")
    return first + space + " ".join(VARIES if _identifies(word) else word for word in words)


def _identifies(word: str) -> bool:
    digits = sum(letter in "0123456789" for letter in word)
    mixed = digits >= 3 and any(letter.isalpha() for letter in word)
    return (mixed or word.isdigit()) and _IDENTIFIER.fullmatch(word) is not None


def _greeting(address: str, session: Session, handshake: Handshake | None) -> SmtpGreeting:
    problem = session.refusal
    if session.starttls and not problem:
        if handshake is None:
            problem = "no handshake was tried"
        elif not handshake.chain_der:
            problem = next((gap.reason for gap in handshake.not_measured), "it sent no certificate")
    done = handshake or Handshake()
    return SmtpGreeting(
        address=address,
        banner=steady(session.banner),
        extensions=list(session.extensions),
        starttls=session.starttls,
        tls_problem=problem,
        tls_version=done.version or "",
        cipher_suite=done.suite or "",
        chain=[
            SmtpCertificate(hashlib.sha256(der).hexdigest(), base64.b64encode(der).decode("ascii"))
            for der in done.chain_der
        ],
    )


def _links(host: Hostname, address: IPAddress, fact: SmtpGreeting) -> tuple[Link, ...]:
    service = Service(address, "tcp", PORT)
    links = [Link("resolves_to", host, address), Link("has_service", address, service)]
    # As a visitor sees it: the first certificate is the server's, the others are on the way to a root.
    if fact.chain:
        links.append(Link("presents", service, Certificate(fact.chain[0].sha256)))
    return tuple(links)
