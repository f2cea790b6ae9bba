"""Scanner: what a domain publishes about its mail, all of it through the resolver but the one MTA-STS policy file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from kattegat.plugin import (
    Blocked,
    Evidence,
    Found,
    Hostname,
    HttpReply,
    Link,
    Net,
    NotMeasured,
    NotReached,
    Option,
    Part,
    days,
    scanner,
)
from kattegat.plugins.dns import message
from kattegat.plugins.mail import dkim, dmarc, facts, lookup, mta_sts, spf, tls_rpt
from kattegat.plugins.mail.lookup import Asker, Key, Reading
from kattegat.plugins.mail.questions import NotRecorded
from kattegat.plugins.mail.read_spf import spf_policy
from kattegat.plugins.mail.tags import decode

__all__ = ["MailPolicyScanner"]

# Those that the big mail services and the usual mail servers tell people to use.
SELECTORS = (
    "default", "dkim", "mail", "email", "smtp", "mx", "key1", "key2", "s1", "s2", "s1024", "s2048", "k1", "k2", "k3",
    "e1", "ed25519", "rsa", "google", "selector1", "selector2", "mandrill", "mailjet", "mg", "pm", "sendgrid",
    "smtpapi", "zoho", "fm1", "fm2", "fm3", "protonmail", "protonmail2", "protonmail3", "sig1", "everlytickey1",
    "mxvault", "dk", "cm", "turbo-smtp",
)  # fmt: skip
MOST_HOSTS = 20
"""Mail servers whose addresses are looked up; a domain has two or three."""
MOST_DESTINATIONS = 10
"""Domains that are asked whether they take reports; receivers need not send to more than two (RFC 7489 section 6.2)."""

Finding = Iterator[Found | NotMeasured]


@scanner(
    "mail-policy",
    about=Hostname,
    clearance=1,
    every=days(1),
    yields=[
        facts.MailExchange,
        facts.SpfPolicy,
        facts.DmarcPolicy,
        facts.DkimSelectors,
        facts.DkimKeys,
        facts.MtaStsRecord,
        facts.MtaStsPolicy,
        facts.TlsRptPolicy,
    ],
    options=[Option("selectors", SELECTORS, "DKIM selectors that are looked up; those in use can't be listed.")],
    applies=message.is_registrable,
)
class MailPolicyScanner:
    """Reads the mail servers of a domain and its SPF, DMARC, DKIM, MTA-STS and TLS-RPT records and policies.

    For registrable domains: a policy for a whole domain is published there, and DMARC makes it cover the names below.
    """

    async def fetch(self, host: Hostname, net: Net) -> Evidence:
        name = host.name
        asker = Asker(net)
        selectors = [str(selector).strip(".").lower() for selector in net.options.get("selectors", SELECTORS)]
        first = await asker.ask_all(_questions(name, selectors))
        if all(reading.problem for reading in first.values()):
            raise NotReached(next(iter(first.values())).problem)
        await asker.ask_all(
            (exchange, rdtype)
            for _, exchange in first[name, "MX"].exchanges[:MOST_HOSTS]
            for rdtype in ("A", "AAAA")
            if exchange
        )
        organisational = message.registrable(name)
        if organisational and organisational != name and not dmarc.select_records(first[f"_dmarc.{name}", "TXT"].texts):
            await asker.ask(f"_dmarc.{organisational}", "TXT")
        await asker.ask_all(_destinations(_dmarc_record(name, asker.readings)).values())
        await spf.run_async(spf.analyse(name), asker.answer)
        more: list[Part] = []
        if mta_sts.select_records(first[f"_mta-sts.{name}", "TXT"].texts):
            more = await _fetch_policy(name, asker, net)
        asked = Part("selectors", json.dumps(selectors).encode())
        return Evidence((*asker.parts, asked, *more))

    def parse(self, host: Hostname, evidence: Evidence) -> Finding:
        name = host.name
        readings = lookup.recorded(evidence.named("dns"))
        own = [readings[key] for key in ((name, "MX"), (name, "TXT")) if key in readings]
        if own and not any(reading.exists for reading in own) and not any(reading.problem for reading in own):
            # What doesn't exist has no mail and needs no policy.
            yield Found(host, facts.MailExchange(exists=False, null=False, hosts=[]))
            return
        yield from _exchange(host, readings)
        yield from self._spf(host, readings)
        yield from _dmarc(host, readings)
        yield from _dkim(host, readings, _selectors(evidence))
        yield from _sts(host, readings, evidence)
        yield from _rpt(host, readings)

    def _spf(self, host: Hostname, readings: Mapping[Key, Reading]) -> Finding:
        answers = {key: reading.answer() for key, reading in readings.items()}
        if problem := _problem(readings, (host.name, "TXT")):
            yield NotMeasured("SpfPolicy", problem, about=host)
            return
        try:
            policy = spf.run(spf.analyse(host.name), spf.recorded(answers))
        except NotRecorded as gap:
            yield NotMeasured("SpfPolicy", str(gap), about=host)
            return
        yield Found(host, spf_policy(policy))


def _questions(name: str, selectors: list[str]) -> list[Key]:
    texts = ["", "_dmarc.", "_mta-sts.", "_smtp._tls.", "_domainkey."]
    texts += [f"{selector}._domainkey." for selector in selectors]
    return [(name, "MX"), *((f"{text}{name}", "TXT") for text in texts)]


async def _fetch_policy(name: str, asker: Asker, net: Net) -> list[Part]:
    """The policy file as evidence; a site without any address is told by the look-ups alone."""
    site = f"mta-sts.{name}"
    found = await asker.ask_all([(site, "A"), (site, "AAAA")])
    if not any(reading.names for reading in found.values()):
        return []
    try:
        return [(await net.get(_url(name))).part("policy")]
    except (NotReached, Blocked) as problem:
        return [Part("policy-failed", b"", {"reason": str(problem)})]


def _url(name: str) -> str:
    return f"https://mta-sts.{name}/.well-known/mta-sts.txt"


def _problem(readings: Mapping[Key, Reading], key: Key) -> str:
    """Why a question has no answer, or ""."""
    return readings[key].problem if key in readings else f"no {key[1]} answer for {key[0]} was recorded"


def _selectors(evidence: Evidence) -> list[str]:
    part = evidence.first("selectors")
    try:
        found = json.loads(part.content) if part is not None else []
    except (ValueError, RecursionError):
        return []
    return [selector for selector in found if isinstance(selector, str)] if isinstance(found, list) else []


def _exchange(host: Hostname, readings: Mapping[Key, Reading]) -> Finding:
    if problem := _problem(readings, (host.name, "MX")):
        yield NotMeasured("MailExchange", problem, about=host)
        return
    reading = readings[host.name, "MX"]
    named = [(preference, exchange) for preference, exchange in reading.exchanges if exchange]
    fact = facts.MailExchange(
        exists=True,
        null=bool(reading.exchanges) and not named,
        hosts=[_mail_host(preference, exchange, readings) for preference, exchange in named],
    )
    targets = {message.hostname(exchange) for _, exchange in named} - {None, host}
    links = tuple(Link("mail_server", host, target) for target in sorted(t for t in targets if t is not None))
    yield Found(host, fact, links=links)


def _mail_host(preference: int, exchange: str, readings: Mapping[Key, Reading]) -> facts.MailHost:
    four = readings.get((exchange, "A"), Reading("its addresses were not asked for"))
    six = readings.get((exchange, "AAAA"), Reading("its addresses were not asked for"))
    answered = [reading for reading in (four, six) if not reading.problem]
    alias = next((reading.alias for reading in answered if reading.alias), "")
    return facts.MailHost(
        host=exchange,
        preference=preference,
        # NXDOMAIN behind an alias speaks of where the alias leads.
        exists=bool(alias) or all(reading.exists for reading in answered),
        alias=alias,
        ipv4=None if four.problem else bool(four.names),
        ipv6=None if six.problem else bool(six.names),
        problem=four.problem or six.problem,
    )


class _Published(NamedTuple):
    """Where DMARC records were looked for last, the records there, and why it isn't known, or ""."""

    domain: str
    records: tuple[bytes, ...]
    problem: str = ""


def _dmarc_record(name: str, readings: Mapping[Key, Reading]) -> _Published:
    """The records of the domain; without any, those of its organisational domain (RFC 7489 section 6.6.3)."""
    published = _Published(name, ())
    for domain in dict.fromkeys([name, message.registrable(name) or name]):
        if problem := _problem(readings, (f"_dmarc.{domain}", "TXT")):
            return _Published(domain, (), problem)
        published = _Published(domain, dmarc.select_records(readings[f"_dmarc.{domain}", "TXT"].texts))
        if published.records:
            break
    return published


def _destinations(published: _Published) -> dict[str, Key]:
    """Other people's domains that reports are to go to, with the question whether they take them."""
    if len(published.records) != 1:
        return {}
    read = dmarc.parse(published.records[0])
    own = message.registrable(published.domain) or published.domain
    others = {uri.domain for uri in (*read.rua, *read.ruf) if uri.domain and message.registrable(uri.domain) != own}
    return {
        other: (dmarc.external_report_name(published.domain, other), "TXT")
        for other in sorted(other for other in others if other)[:MOST_DESTINATIONS]
    }


def _dmarc(host: Hostname, readings: Mapping[Key, Reading]) -> Finding:
    published = _dmarc_record(host.name, readings)
    if published.problem:
        yield NotMeasured("DmarcPolicy", published.problem, about=host)
        return
    unwilling = []
    for domain, key in _destinations(published).items():
        if problem := _problem(readings, key):
            yield NotMeasured("DmarcPolicy", problem, domain, host)
        elif not dmarc.select_records(readings[key].texts):
            unwilling.append(domain)
    yield Found(host, _dmarc_fact(host.name, published, unwilling))


def _dmarc_fact(name: str, published: _Published, unwilling: list[str]) -> facts.DmarcPolicy:
    read = dmarc.parse(published.records[0]) if published.records else None
    counts = read if read is not None and len(published.records) == 1 else None
    # For a name below the domain that has the record, the policy for subdomains is the one that is applied.
    policy = counts and (counts.policy if published.domain == name else counts.subdomain_policy)
    return facts.DmarcPolicy(
        domain=published.domain,
        records=[decode(record) for record in published.records],
        policy=policy or "",
        subdomain_policy=(counts and counts.subdomain_policy) or "",
        percent=counts.percent if counts else 100,
        adkim=counts.adkim if counts else "r",
        aspf=counts.aspf if counts else "r",
        rua=[uri.uri for uri in counts.rua] if counts else [],
        ruf=[uri.uri for uri in counts.ruf] if counts else [],
        unwilling=unwilling,
        problems=list(read.problems) if read else [],
    )


def _dkim(host: Hostname, readings: Mapping[Key, Reading], selectors: list[str]) -> Finding:
    above = f"_domainkey.{host.name}"
    found = False
    asked = list(dict.fromkeys(selectors))
    for selector in asked:
        key = (f"{selector}.{above}", "TXT")
        if problem := _problem(readings, key):
            yield NotMeasured("DkimKeys", problem, selector, host)
            continue
        records = dkim.select_records(readings[key].texts)
        if records:
            found = True
            yield Found(host, _dkim_key(selector, records), selector)
    if found:
        # A server that answers NXDOMAIN for a name with others below it breaks RFC 8020; the selector is there.
        yield Found(host, facts.DkimSelectors(exists=True, asked=asked))
    elif problem := _problem(readings, (above, "TXT")):
        yield NotMeasured("DkimSelectors", problem, about=host)
    else:
        yield Found(host, facts.DkimSelectors(exists=readings[above, "TXT"].exists, asked=asked))


def _dkim_key(selector: str, records: tuple[bytes, ...]) -> facts.DkimKeys:
    key = dkim.parse(records[0])
    return facts.DkimKeys(
        selector=selector,
        records=[decode(record) for record in records],
        key_type=key.key_type,
        bits=key.bits,
        usable=key.usable,
        revoked=key.revoked,
        testing=key.testing,
        problems=list(key.problems),
    )


def _sts(host: Hostname, readings: Mapping[Key, Reading], evidence: Evidence) -> Finding:
    key = (f"_mta-sts.{host.name}", "TXT")
    if problem := _problem(readings, key):
        yield NotMeasured("MtaStsRecord", problem, about=host)
        yield NotMeasured("MtaStsPolicy", problem, about=host)
        return
    records = mta_sts.select_records(readings[key].texts)
    read = mta_sts.parse_record(records[0]) if records else None
    id_ = read.id if read is not None and len(records) == 1 else None
    problems = list(read.problems) if read else []
    fact = facts.MtaStsRecord(records=[decode(record) for record in records], id=id_ or "", problems=problems)
    yield Found(host, fact)
    if records:
        yield from _sts_policy(host, readings, evidence)


def _sts_policy(host: Hostname, readings: Mapping[Key, Reading], evidence: Evidence) -> Finding:
    def fact(unavailable: str, policy: mta_sts.StsPolicy | None = None) -> Found:
        return Found(
            host,
            facts.MtaStsPolicy(
                url=_url(host.name),
                unavailable=unavailable,
                mode=(policy and policy.mode) or "",
                max_age=policy.max_age if policy else None,
                mx=list(policy.mx) if policy else [],
                valid=policy is not None and policy.valid,
                problems=list(policy.problems) if policy else [],
            ),
        )

    part, failed = evidence.first("policy"), evidence.first("policy-failed")
    if failed is not None:
        yield NotMeasured("MtaStsPolicy", str(failed.notes.get("reason", "it could not be fetched")), about=host)
    elif part is not None:
        yield from _visited(host, part, fact)
    else:
        site = f"mta-sts.{host.name}"
        problem = _problem(readings, (site, "A")) or _problem(readings, (site, "AAAA"))
        if problem:
            yield NotMeasured("MtaStsPolicy", problem, about=host)
        else:
            yield fact(f"the host {site} has no address")


def _visited(host: Hostname, part: Part, fact: Callable[..., Found]) -> Finding:
    try:
        reply = HttpReply.from_part(part)
    except ValueError as error:  # msgspec's errors, and bytes that are no text
        yield NotMeasured("MtaStsPolicy", f"the recorded response can't be read ({type(error).__name__})", about=host)
        return
    if reply.status == 200:
        yield fact("", mta_sts.parse_policy(reply.body))
    elif reply.status in (408, 425, 429) or reply.status >= 500:
        # The site is in trouble now; what it publishes is not known.
        yield NotMeasured("MtaStsPolicy", f"{_url(host.name)} answered with status {reply.status}", about=host)
    else:  # also a redirect, which a sender must not follow (RFC 8461 section 3.3)
        yield fact(f"it answers with status {reply.status}")


def _rpt(host: Hostname, readings: Mapping[Key, Reading]) -> Finding:
    key = (f"_smtp._tls.{host.name}", "TXT")
    if problem := _problem(readings, key):
        yield NotMeasured("TlsRptPolicy", problem, about=host)
        return
    records = tls_rpt.select_records(readings[key].texts)
    read = tls_rpt.parse(records[0]) if records else None
    yield Found(
        host,
        facts.TlsRptPolicy(
            records=[decode(record) for record in records],
            rua=list(read.rua) if read is not None and len(records) == 1 else [],
            problems=list(read.problems) if read else [],
        ),
    )
