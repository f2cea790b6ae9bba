"""Facts about the mail of a domain. What a domain does not publish is said by a fact with nothing in it."""

from __future__ import annotations

import msgspec

from kattegat.plugin import Fact, Hostname
from kattegat.plugins.mail.tags import TagProblem

__all__ = [
    "DkimKeys",
    "DkimSelectors",
    "DmarcPolicy",
    "MailExchange",
    "MtaStsPolicy",
    "MtaStsRecord",
    "SmtpGreeting",
    "SpfPolicy",
    "TlsRptPolicy",
]


class MailHost(msgspec.Struct, frozen=True):
    """One mail server (RFC 5321 section 5.1): where an MX record leads.

    `alias`: where a CNAME at the name leads, "" without one. `ipv4`, `ipv6`: whether it has an address of that family;
    None when the look-up got no answer, and `problem` then has the reason.
    """

    host: str
    preference: int
    exists: bool = True
    alias: str = ""
    ipv4: bool | None = None
    ipv6: bool | None = None
    problem: str = ""


class MailExchange(Fact, about=Hostname):
    """Where mail for the domain goes: its MX records, most preferred first.

    `exists`: whether the DNS knows the domain. `null`: it says that it takes no mail (RFC 7505). With neither, no mail
    server is named.
    """

    exists: bool
    null: bool
    hosts: list[MailHost]


class SpfProblem(msgspec.Struct, frozen=True):
    """Something wrong with the SPF policy: in the record at `domain`, at `term` ("" for all of it), in words."""

    code: str
    domain: str
    term: str
    detail: str


class SpfPolicy(Fact, about=Hostname):
    """The SPF policy with everything that it includes (RFC 7208).

    `status`: "ok", "none", "multiple" or "syntax-error". `records`: the SPF records at the domain. `domains`: every
    domain whose record belongs to the policy. `lookups`, `void_lookups`: terms, in the worst case, as section 4.6.4
    counts; with `exact` False there may be more. `all_qualifier`: of the "all" that ends the policy, "" for none.
    `open`: the terms by which every host may send. `unanswered`: look-ups ("TYPE name") without an answer.
    """

    status: str
    records: list[str]
    domains: list[str]
    lookups: int
    void_lookups: int
    exact: bool
    all_qualifier: str
    open: list[SpfProblem]
    problems: list[SpfProblem]
    unanswered: list[str]


class DmarcPolicy(Fact, about=Hostname):
    """The DMARC policy that receivers apply to mail from the domain (RFC 7489).

    `domain`: where it was found: the domain, or its organisational domain (section 6.6.3). `records`: the DMARC records
    there; other than one is no policy. `policy`, `subdomain_policy`: "none", "quarantine", "reject", or "" when there
    is none that counts; `percent` of the mail that it is applied to. `rua`, `ruf`: where reports go. `unwilling`:
    domains of these that are another's and don't say that they take reports on this one (section 7.1).
    """

    domain: str
    records: list[str]
    policy: str
    subdomain_policy: str
    percent: int
    adkim: str
    aspf: str
    rua: list[str]
    ruf: list[str]
    unwilling: list[str]
    problems: list[TagProblem]


class DkimSelectors(Fact, about=Hostname):
    """What the DNS shows of a domain's DKIM selectors, which it has no list of.

    `exists`: whether there is a name below `_domainkey`: when not, there is no selector at all (RFC 8020). `asked`: the
    selectors that were tried; those that got no answer are not measured.
    """

    exists: bool
    asked: list[str]


class DkimKeys(Fact, about=Hostname):
    """The key record of one selector (RFC 6376 section 3.6.1). Item: the selector.

    `key_type`: "rsa", "ed25519" or as written; `bits`: the size of the key, None when there is none that can be read.
    `records` has more than one where the DNS does; the first is then described.
    """

    selector: str
    records: list[str]
    key_type: str
    bits: int | None
    usable: bool
    revoked: bool
    testing: bool
    problems: list[TagProblem]


class MtaStsRecord(Fact, about=Hostname):
    """The TXT record at `_mta-sts` and the domain (RFC 8461 section 3.1); `id` is "" when there is no valid one."""

    records: list[str]
    id: str
    problems: list[TagProblem]


class MtaStsPolicy(Fact, about=Hostname):
    """The policy file of a domain that has an MTA-STS record (RFC 8461 section 3.2).

    `unavailable`: why a sender gets no policy file, or "". `mode`: "enforce", "testing", "none" or ""; `max_age` in
    seconds; `mx`: patterns. Whether the site's certificate is valid is not judged here.
    """

    url: str
    unavailable: str
    mode: str
    max_age: int | None
    mx: list[str]
    valid: bool
    problems: list[TagProblem]


class TlsRptPolicy(Fact, about=Hostname):
    """Where senders report problems with TLS (RFC 8460 section 3)."""

    records: list[str]
    rua: list[str]
    problems: list[TagProblem]


class SmtpCertificate(msgspec.Struct, frozen=True):
    """A certificate as sent: SHA-256 of its DER form in hex, and the DER form in Base64."""

    sha256: str
    der: str


class SmtpGreeting(Fact, about=Hostname):
    """What one address of a mail server says on port 25 (RFC 5321 section 4.2). Item: the address.

    `banner`: the text behind the code 220, with "(varies)" for times and identifiers. `extensions`: the lines of its
    answer to EHLO behind the first. `starttls`: whether it offers STARTTLS (RFC 3207). `tls_problem`: why no
    certificate was read though STARTTLS is offered, or "". `tls_version`, `cipher_suite`: what a handshake of today
    agrees on, "" for none. `chain`: leaf first. `trust`, `trust_reason`, `name_matches`, `names`: as in
    `TlsHandshake`, for the host's name; `trust` is "" without a certificate. `tlsa`: whether the host publishes which
    certificate counts (DANE, RFC 7672); None when that look-up got no answer.
    """

    address: str
    banner: str
    extensions: list[str]
    starttls: bool
    tls_problem: str
    tls_version: str
    cipher_suite: str
    chain: list[SmtpCertificate]
    trust: str = ""
    trust_reason: str = ""
    name_matches: bool | None = None
    names: list[str] = msgspec.field(default_factory=list)
    tlsa: bool | None = None
