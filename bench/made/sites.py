"""Made scan results for the benchmark: one site is a registrable domain and its `www` name.

Fourteen facts a site, as `dns-records` and `mail-policy` would find them, about four assets of its own (domain, `www`,
two addresses) and mail and name servers that many sites share. The texts differ from site to site.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from kattegat.inventory.record import Report
from kattegat.model.assets import Asset, Hostname, IPAddress
from kattegat.model.facts import Found, Link
from kattegat.model.scope import Scope
from kattegat.plugins.dns.records import DnsName, DnsRecords
from kattegat.plugins.mail.facts import DmarcPolicy, MailExchange, MailHost, SpfPolicy

FACTS = 14
"""Facts of one site."""
SERVERS = 50
"""Providers that the sites share: each has a mail server and two name servers."""


def domain(number: int) -> Hostname:
    """The site's registrable domain."""
    return Hostname(f"site{number}.org")


def reports(organisation: int, number: int, turn: int, changed: int, now: datetime) -> list[Report]:
    """What the scans of one site say: the domain's records, its mail policy and the `www` name's records.

    `changed` goes into one TXT record of the domain, and into nothing else.
    """
    name, www = domain(number), Hostname(f"www.site{number}.org")
    started = now - timedelta(hours=1) + timedelta(minutes=turn)
    ended = started + timedelta(seconds=2)

    def report(scanner: str, subject: Asset, kinds: tuple[str, ...], found: list[Found]) -> Report:
        return Report(
            organisation_id=organisation,
            scanner=scanner,
            asset=subject,
            started_at=started,
            ended_at=ended,
            scope=Scope.of(*kinds),
            found=found,
        )

    dns = ("DnsName", "DnsRecords")
    return [
        report("dns-records", name, dns, list(_domain(name, number, changed))),
        report("mail-policy", name, ("MailExchange", "SpfPolicy", "DmarcPolicy"), list(_mail(name, number))),
        report("dns-records", www, dns, list(_www(www, name, number))),
    ]


def _addresses(number: int) -> tuple[IPAddress, IPAddress]:
    return IPAddress(f"10.{number // 65536}.{number // 256 % 256}.{number % 256}"), IPAddress(
        f"2001:db8::{number >> 16:x}:{number & 0xFFFF:x}"
    )


def _records(host: Hostname, rdtype: str, records: list[str], link: str = "", targets: tuple[Asset, ...] = ()) -> Found:
    links = tuple(Link(link, host, target) for target in targets)
    return Found(host, DnsRecords(rdtype=rdtype, records=records), rdtype, links)


def _domain(name: Hostname, number: int, changed: int) -> Iterator[Found]:
    provider = f"provider{number % SERVERS}.net"
    four, six = _addresses(number)
    mail, servers = f"mx.{provider}", (f"ns1.{provider}", f"ns2.{provider}")
    yield Found(name, DnsName(exists=True, aliases=[], dangling=False, domain=name.name))
    yield _records(name, "A", [four.address], "resolves_to", (four,))
    if number % 3:
        yield _records(name, "AAAA", [six.address], "resolves_to", (six,))
    else:
        yield _records(name, "SRV _imaps._tcp", [f"0 1 993 {mail}."], "service_host", (Hostname(mail),))
    yield _records(name, "MX", [f"10 {mail}."], "mail_server", (Hostname(mail),))
    yield _records(name, "NS", [f"{server}." for server in servers], "name_server", tuple(map(Hostname, servers)))
    yield _records(name, "SOA", [f"{servers[0]}. hostmaster.{provider}. {number + 1} 10800 3600 604800 3600"])
    yield _records(name, "TXT", [f'"v=spf1 include:spf.{provider} -all"', f'"verification={number * 7919 + changed}"'])
    yield _records(name, "CAA", ['0 issue "letsencrypt.org"', f'0 iodef "mailto:ca@{name.name}"'])


def _mail(name: Hostname, number: int) -> Iterator[Found]:
    provider = f"provider{number % SERVERS}.net"
    host = MailHost(host=f"mx.{provider}", preference=10, ipv4=True, ipv6=bool(number % 2))
    yield Found(name, MailExchange(exists=True, null=False, hosts=[host]))
    yield Found(
        name,
        SpfPolicy(
            status="ok",
            records=[f"v=spf1 include:spf.{provider} -all"],
            domains=[name.name, f"spf.{provider}"],
            lookups=1,
            void_lookups=0,
            exact=True,
            all_qualifier="-",
            open=[],
            problems=[],
            unanswered=[],
        ),
    )
    yield Found(
        name,
        DmarcPolicy(
            domain=name.name,
            records=[f"v=DMARC1; p=none; rua=mailto:dmarc@{name.name}"],
            policy="none" if number % 4 else "reject",
            subdomain_policy="none",
            percent=100,
            adkim="r",
            aspf="r",
            rua=[f"mailto:dmarc@{name.name}"],
            ruf=[],
            unwilling=[],
            problems=[],
        ),
    )


def _www(www: Hostname, name: Hostname, number: int) -> Iterator[Found]:
    four, six = _addresses(number)
    part = (Link("part_of", www, name),)
    yield Found(www, DnsName(exists=True, aliases=[], dangling=False, domain=name.name), "", part)
    yield _records(www, "A", [four.address], "resolves_to", (four,))
    yield _records(www, "AAAA", [six.address], "resolves_to", (six,))
