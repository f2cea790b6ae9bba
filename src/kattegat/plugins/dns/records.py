"""Scanners: the records of a name, the names of an address, and what each name server of a zone says by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

import dns.reversename

from kattegat.plugin import (
    Asset,
    Blocked,
    DnsReply,
    Evidence,
    Fact,
    Found,
    Hostname,
    IPAddress,
    Link,
    Net,
    NotMeasured,
    NotReached,
    Part,
    days,
    hours,
    scanner,
)
from kattegat.plugins.dns import message

__all__ = [
    "DnsName",
    "DnsRecords",
    "DnsRecordsScanner",
    "NameServerAnswer",
    "NameServersScanner",
    "ReverseDns",
    "ReverseDnsScanner",
]

TYPES = ("A", "AAAA", "MX", "NS", "SOA", "TXT", "CAA")
# Services that a domain announces under well-known names (RFC 6186, RFC 8314, RFC 6120, RFC 3263, RFC 6764).
SERVICES = (
    "_submission._tcp", "_submissions._tcp", "_imap._tcp", "_imaps._tcp", "_pop3s._tcp", "_sip._tls", "_sips._tcp",
    "_xmpp-client._tcp", "_xmpp-server._tcp", "_caldavs._tcp", "_carddavs._tcp", "_autodiscover._tcp",
)  # fmt: skip
FOLLOWED = ("A", "AAAA", "CAA")
# More would not fit into a referral of 512 bytes (RFC 1035 section 4.2.1), and 13 is what the root has.
MOST_SERVERS = 16
MOST_ADDRESSES = 4


class DnsName(Fact, about=Hostname):
    """Whether a name exists in the DNS, and the chain of its aliases."""

    exists: bool
    aliases: list[str]
    dangling: bool
    domain: str | None


class DnsRecords(Fact, about=Hostname):
    """The records of one type at a name, in presentation form. Item: the type, for SRV `SRV _service._tcp.name`.

    There is no fact for a type that the name has no records of. Records behind an alias are the target's; only
    addresses and CAA are followed, as browsers and certificate authorities do (RFC 8659 section 3).
    """

    rdtype: str
    records: list[str]


class ReverseDns(Fact, about=IPAddress):
    """The names that an address has by its PTR records (RFC 1035 section 3.5)."""

    names: list[str]


class NameServerAnswer(Fact, about=Hostname):
    """What one address of one name server says of the zone when it is asked itself. Item: `server|address`.

    `problem` is "" or why the server is no use for the zone: it refuses, answers without authority (lame), or has no
    address at all (then `address` is "").
    """

    server: str
    address: str
    problem: str
    serial: int | None
    servers: list[str]


@scanner(
    "dns-records", about=Hostname, clearance=0, every=hours(12), yields=[DnsName, DnsRecords], version=1,
)  # fmt: skip
class DnsRecordsScanner:
    """Asks the resolver for A, AAAA, MX, NS, SOA, TXT, CAA and the usual SRV records of a name."""

    async def fetch(self, host: Hostname, net: Net) -> Evidence:
        questions = [(host.name, rdtype) for rdtype in TYPES]
        if host.name.startswith("_"):
            questions.append((host.name, "SRV"))
        elif message.is_registrable(host):
            questions += [(f"{service}.{host.name}", "SRV") for service in SERVICES]
        replies = await asyncio.gather(*(net.dns(name, rdtype) for name, rdtype in questions))
        _some_answer(replies)
        return Evidence(tuple(message.part(reply) for reply in replies))

    def parse(self, host: Hostname, evidence: Evidence) -> Iterator[Found | NotMeasured]:
        answers = {message.asked(part): message.read(part) for part in evidence.named("dns")}
        yield from self._name(host, {rdtype: answer for (name, rdtype), answer in answers.items() if name == host.name})
        for (name, rdtype), answer in answers.items():
            item = rdtype if name == host.name else f"{rdtype} {name}"
            if answer.problem:
                yield NotMeasured("DnsRecords", answer.problem, item, host)
            elif answer.records and (not answer.aliases or rdtype in FOLLOWED):
                fact = DnsRecords(rdtype=rdtype, records=list(answer.records))
                yield Found(host, fact, item, tuple(_links(host, rdtype, answer.records)))

    def _name(self, host: Hostname, own: dict[str, message.Answer]) -> Iterator[Found | NotMeasured]:
        read = [answer for answer in own.values() if not answer.problem]
        if not read:
            reasons = [answer.problem for answer in own.values()] or ["the name was not asked for"]
            yield NotMeasured("DnsName", reasons[0], about=host)
            return
        aliases = next((answer.aliases for answer in read if answer.aliases), ())
        # NXDOMAIN behind an alias speaks of the alias's target; the name itself is there. Some servers answer it for
        # single types of a name that exists, against RFC 8020; one other answer outweighs that.
        missing = all(answer.rcode == "NXDOMAIN" for answer in read)
        domain = message.registrable(host.name)
        fact = DnsName(
            exists=not missing or bool(aliases),
            aliases=list(aliases),
            dangling=bool(aliases) and missing,
            domain=domain,
        )
        links: list[Link] = []
        target = message.hostname(aliases[0]) if aliases else None
        if target is not None:
            links.append(Link("alias_of", host, target))
        if domain is not None and domain != host.name:
            links.append(Link("part_of", host, Hostname(domain)))
        yield Found(host, fact, links=tuple(links))


def _links(host: Hostname, rdtype: str, records: tuple[str, ...]) -> Iterator[Link]:
    for record in records:
        words = record.split()
        target: Asset | None = None
        type_ = ""
        if rdtype in ("A", "AAAA"):
            type_, target = "resolves_to", IPAddress(record)
        elif rdtype == "MX" and len(words) == 2:
            type_, target = "mail_server", message.hostname(words[1])
        elif rdtype == "NS":
            type_, target = "name_server", message.hostname(record)
        elif rdtype == "SRV" and len(words) == 4:
            type_, target = "service_host", message.hostname(words[3])
        if target is not None and target != host:
            yield Link(type_, host, target)


def _some_answer(replies: list[DnsReply]) -> None:
    """A scan in which no question got an answer has measured nothing: raises `NotReached`."""
    if replies and all(reply.problem for reply in replies):
        raise NotReached(replies[0].problem)


@scanner("reverse-dns", about=IPAddress, clearance=0, every=days(1), yields=[ReverseDns])
class ReverseDnsScanner:
    """Asks the resolver which names an address has (PTR)."""

    async def fetch(self, address: IPAddress, net: Net) -> Evidence:
        reply = await net.dns(_reverse(address), "PTR")
        _some_answer([reply])
        return Evidence((message.part(reply),))

    def parse(self, address: IPAddress, evidence: Evidence) -> Iterator[Found | NotMeasured]:
        for part in evidence.named("dns"):
            answer = message.read(part)
            if answer.problem:
                yield NotMeasured("ReverseDns", answer.problem)
                continue
            hosts = [host for host in map(message.hostname, answer.records) if host is not None]
            links = tuple(Link("reverse_name", address, host) for host in hosts)
            if hosts:
                yield Found(address, ReverseDns(names=[host.name for host in hosts]), links=links)


def _reverse(address: IPAddress) -> str:
    return message.text(dns.reversename.from_address(address.address))


@scanner(
    "name-servers", about=Hostname, clearance=1, every=days(1), yields=[NameServerAnswer],
    applies=message.is_registrable,
)  # fmt: skip
class NameServersScanner:
    """Asks each address of each name server of a domain for its SOA and NS records, without recursion being needed."""

    async def fetch(self, host: Hostname, net: Net) -> Evidence:
        listed = await net.dns(host.name, "NS")
        _some_answer([listed])
        parts = [message.part(listed)]
        asked: set[str] = set()
        # A server may name others than the resolver was told: they are asked too, so that the result is the same
        # whichever server the resolver happened to ask.
        while new := sorted(_named(parts) - asked)[: MOST_SERVERS - len(asked)]:
            asked.update(new)
            for found in await asyncio.gather(*(self._ask(host, server, net) for server in new)):
                parts.extend(found)
        return Evidence(tuple(parts))

    async def _ask(self, host: Hostname, server: str, net: Net) -> list[Part]:
        replies = await asyncio.gather(net.dns(server, "A"), net.dns(server, "AAAA"))
        parts = [Part("address", reply.wire, message.part(reply).notes) for reply in replies]
        addresses = [address for part in parts for address in message.read(part).records]
        for address in addresses[:MOST_ADDRESSES]:
            for rdtype in ("SOA", "NS"):
                try:
                    reply = await net.dns(host.name, rdtype, server=address)
                except Blocked as refusal:
                    parts.append(Part("refused", b"", {"of": server, "server": address, "reason": str(refusal)}))
                    break
                parts.append(Part("server", reply.wire, {**message.part(reply).notes, "of": server, "server": address}))
        return parts

    def parse(self, host: Hostname, evidence: Evidence) -> Iterator[Found | NotMeasured]:
        first = evidence.first("dns")
        listed = _listed(first) if first is not None else message.Answer("the name servers were not asked for")
        if listed.problem:
            yield NotMeasured("NameServerAnswer", listed.problem)
            return
        asked = {message.asked(part)[0] for part in evidence.named("address")}
        for server in sorted(_named(evidence.parts) - asked):
            yield NotMeasured("NameServerAnswer", f"{server} was not asked: there are too many", f"{server}|")
        yield from self._addresses(host, evidence)
        for part in evidence.named("refused"):
            server, address = _place(part)
            reason = f"{server} was not asked: {part.notes.get('reason', '')}"
            yield NotMeasured("NameServerAnswer", reason, f"{server}|{address}")
        places: dict[tuple[str, str], dict[str, message.Answer]] = {}
        for part in evidence.named("server"):
            places.setdefault(_place(part), {})[message.asked(part)[1]] = message.read(part)
        for (server, address), answers in places.items():
            soa = answers.get("SOA", message.Answer("it was not asked"))
            if soa.problem and not soa.rcode:  # silence proves nothing; an answer that refuses does
                yield NotMeasured("NameServerAnswer", f"{server} ({address}): {soa.problem}", f"{server}|{address}")
            else:
                yield Found(host, _answer(server, address, answers), f"{server}|{address}")

    def _addresses(self, host: Hostname, evidence: Evidence) -> Iterator[Found | NotMeasured]:
        """The servers that could not be asked for want of an address, or because nobody could say one."""
        answers: dict[str, list[message.Answer]] = {}
        for part in evidence.named("address"):
            answers.setdefault(message.asked(part)[0], []).append(message.read(part))
        for server, told in answers.items():
            problem = next((answer.problem for answer in told if answer.problem), "")
            if problem:
                yield NotMeasured("NameServerAnswer", f"{server}: {problem}", f"{server}|")
            elif not any(answer.records for answer in told):
                fact = NameServerAnswer(
                    server=server, address="", problem="its name has no address", serial=None, servers=[]
                )
                yield Found(host, fact, f"{server}|")


def _place(part: Part) -> tuple[str, str]:
    return str(part.notes.get("of", "")), str(part.notes.get("server", ""))


def _named(parts: Iterable[Part]) -> set[str]:
    """Every server that the zone's NS records name, as the resolver and the servers themselves tell them."""
    told = [_listed(part) for part in parts if part.name in ("dns", "server") and message.asked(part)[1] == "NS"]
    return {name.rstrip(".") for answer in told for name in answer.records} - {""}


def _listed(part: Part) -> message.Answer:
    """The zone's name servers. A name that is an alias is no zone: those behind it are the target's."""
    answer = message.read(part)
    return message.Answer(rcode=answer.rcode) if answer.aliases and not answer.problem else answer


def _answer(server: str, address: str, answers: dict[str, message.Answer]) -> NameServerAnswer:
    soa, listed = answers.get("SOA", message.Answer("not asked")), answers.get("NS", message.Answer("not asked"))
    problem = soa.problem
    if not problem and not soa.authoritative:
        problem = "it answers without authority for the zone"
    elif not problem and not soa.records:
        problem = "it has no SOA record for the zone"
    serial = None
    if not problem:
        words = soa.records[0].split()
        serial = int(words[2]) if len(words) > 2 and words[2].isdigit() else None
    names = sorted({name.rstrip(".").lower() for name in listed.records})
    return NameServerAnswer(server=server, address=address, problem=problem, serial=serial, servers=names)
