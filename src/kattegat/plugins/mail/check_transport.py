"""Checks of how mail travels to a domain: its mail servers, MTA-STS, TLS-RPT, STARTTLS."""

from __future__ import annotations

from kattegat.plugin import Context, Facts, Hostname, Item, Pass, Verdict, check, translatable, verdict, via
from kattegat.plugins.dns import message
from kattegat.plugins.mail.facts import (
    MailExchange,
    MtaStsPolicy,
    MtaStsRecord,
    SmtpGreeting,
    TlsRptPolicy,
)
from kattegat.plugins.mail.judging import mail_hosts, once, tag_items
from kattegat.plugins.mail.mta_sts import mx_allowed

__all__ = [
    "mail_server_ipv6",
    "mta_sts_invalid",
    "mta_sts_missing",
    "mta_sts_not_enforced",
    "mx_is_alias",
    "mx_missing_address",
    "smtp_certificate_untrusted",
    "smtp_no_starttls",
    "smtp_old_tls",
    "tls_rpt_invalid",
    "tls_rpt_missing",
]

SHORT_AGE = 86400
"""Seconds. RFC 8461 section 3.2 has weeks or more in mind; under a day, whoever can block the site for a day wins."""


@check(
    "mx-missing-address",
    about=Hostname,
    needs=[MailExchange],
    severity="medium",
    title=translatable("A mail server of the domain has no address"),
    risk=translatable("Mail is delayed or lost; whoever gets hold of the name gets the mail."),
    fix=translatable("Give the host an address, or take it out of the MX records."),
    reference="RFC 5321 section 5.1",
    applies=message.is_registrable,
)
def mx_missing_address(context: Context, exchange: Facts[MailExchange]) -> Verdict:
    """An MX record names a host with neither A nor AAAA records."""
    items, unknown = [], None
    for host in mail_hosts(exchange):
        if host.ipv4 is False and host.ipv6 is False:
            text = translatable("{host} has no address") if host.exists else translatable("{host} does not exist")
            items.append(Item(host.host, text, {"host": host.host}))
        elif not host.ipv4 and not host.ipv6:
            unknown = f"{host.host}: {host.problem}"
    return verdict(once(items), unknown=unknown)


@check(
    "mx-is-alias",
    about=Hostname,
    needs=[MailExchange],
    severity="low",
    title=translatable("A mail server of the domain is an alias"),
    risk=translatable("Some senders refuse to deliver to an MX host that is a CNAME."),
    fix=translatable("Name the host that the alias leads to in the MX record."),
    reference="RFC 5321 section 5.1, RFC 2181 section 10.3",
    applies=message.is_registrable,
)
def mx_is_alias(context: Context, exchange: Facts[MailExchange]) -> Verdict:
    """The name in an MX record has a CNAME record."""
    hosts = mail_hosts(exchange)
    items = [
        Item(host.host, translatable("{host} is an alias of {alias}"), {"host": host.host, "alias": host.alias})
        for host in hosts
        if host.alias
    ]
    # One answer of the two shows an alias; only with neither is nothing known.
    blind = [host for host in hosts if host.ipv4 is None and host.ipv6 is None]
    return verdict(once(items), unknown=f"{blind[0].host}: {blind[0].problem}" if blind else None)


@check(
    "mail-server-ipv6",
    about=Hostname,
    needs=[MailExchange],
    severity="recommendation",
    title=translatable("A mail server of the domain has no IPv6 address"),
    risk=translatable("Senders with IPv6 only can't deliver to it."),
    fix=translatable("Give the host an IPv6 address and publish it as AAAA."),
    reference="RFC 6540",
    applies=message.is_registrable,
)
def mail_server_ipv6(context: Context, exchange: Facts[MailExchange]) -> Verdict:
    """A mail server has A records and no AAAA record."""
    hosts = mail_hosts(exchange)
    items = [
        Item(host.host, translatable("{host} has no IPv6 address"), {"host": host.host})
        for host in hosts
        if host.ipv6 is False and host.ipv4
    ]
    blind = [host for host in hosts if host.ipv6 is None or (host.ipv6 is False and host.ipv4 is None)]
    return verdict(once(items), unknown=f"{blind[0].host}: {blind[0].problem}" if blind else None)


@check(
    "mta-sts-missing",
    about=Hostname,
    needs=[MailExchange, MtaStsRecord],
    severity="recommendation",
    title=translatable("The domain has no MTA-STS policy"),
    risk=translatable("Whoever is on the path can take STARTTLS away, and the mail is sent in the clear."),
    fix=translatable("Publish a policy at https://mta-sts.DOMAIN/.well-known/mta-sts.txt and the record at _mta-sts."),
    reference="RFC 8461 section 3",
    applies=message.is_registrable,
)
def mta_sts_missing(context: Context, exchange: Facts[MailExchange], record: Facts[MtaStsRecord]) -> Verdict:
    """The domain has mail servers and no record at _mta-sts."""
    missing = mail_hosts(exchange) and any(not fact.records for fact in record)
    return verdict([Item("mta-sts", translatable("there is no MTA-STS record"))] if missing else [])


@check(
    "mta-sts-invalid",
    about=Hostname,
    needs=[
        MtaStsRecord,
        via("", MtaStsPolicy, optional=True),
        via("", MailExchange, optional=True),
    ],
    severity="medium",
    title=translatable("The MTA-STS policy is wrong"),
    risk=translatable("Senders ignore the policy, or refuse to deliver to a mail server that it does not name."),
    fix=translatable("Correct the record, the policy file, or the list of mail servers in it."),
    reference="RFC 8461 sections 3 and 4.1",
    applies=message.is_registrable,
)
def mta_sts_invalid(
    context: Context, record: Facts[MtaStsRecord], policy: Facts[MtaStsPolicy], exchange: Facts[MailExchange]
) -> Verdict:
    """Several records or no valid id; no policy file, or one with errors; a mail server that the policy leaves out."""
    published = [fact for fact in record if fact.records]
    if not published:
        return Pass()
    items: list[Item] = []
    for fact in published:
        if len(fact.records) > 1:
            text = translatable("there are {count} MTA-STS records, so that none counts")
            items.append(Item("multiple", text, {"count": len(fact.records)}))
        items += tag_items(fact.problems, where="_mta-sts")
    unknown = policy.unmeasured[0] if policy.unmeasured else None
    for file in policy:
        if file.unavailable:
            text = translatable("there is no policy at {url}: {reason}")
            items.append(Item("policy", text, {"url": file.url, "reason": file.unavailable}))
            continue
        items += tag_items(file.problems, {"duplicate-field"}, "policy")
        if file.mx and file.mode in ("enforce", "testing"):
            items += [
                Item(f"mx {host.host}", translatable("the policy leaves out {host}"), {"host": host.host})
                for host in mail_hosts(exchange)
                if not mx_allowed(host.host, file.mx)
            ]
            unknown = unknown or (exchange.unmeasured[0] if exchange.unmeasured else None)
    return verdict(once(items), unknown=unknown)


@check(
    "mta-sts-not-enforced",
    about=Hostname,
    needs=[MtaStsPolicy],
    severity="recommendation",
    title=translatable("The MTA-STS policy is not enforced"),
    risk=translatable("Mail is delivered also where the connection is not protected, or the policy is soon forgotten."),
    fix=translatable("Read the TLS reports, then set mode: enforce, and a max_age of weeks."),
    reference="RFC 8461 sections 3.2 and 5",
    applies=message.is_registrable,
)
def mta_sts_not_enforced(context: Context, policy: Facts[MtaStsPolicy]) -> Verdict:
    """A valid policy has the mode testing or none, or a max_age of less than a day."""
    items: list[Item] = []
    for file in policy:
        if file.valid and file.mode != "enforce":
            items.append(Item("mode", translatable("the mode is {mode}"), {"mode": file.mode}))
        if file.valid and file.mode != "none" and file.max_age is not None and file.max_age < SHORT_AGE:
            text = translatable("max_age is {seconds} seconds, less than a day")
            items.append(Item("max_age", text, {"seconds": file.max_age}))
    return verdict(once(items))


@check(
    "tls-rpt-missing",
    about=Hostname,
    needs=[MailExchange, TlsRptPolicy],
    severity="recommendation",
    title=translatable("No reports on TLS are asked for"),
    risk=translatable("Nobody hears of it when mail can't be delivered over TLS."),
    fix=translatable('Publish a TXT record at _smtp._tls, such as "v=TLSRPTv1; rua=mailto:" with an address.'),
    reference="RFC 8460 section 3",
    applies=message.is_registrable,
)
def tls_rpt_missing(context: Context, exchange: Facts[MailExchange], policy: Facts[TlsRptPolicy]) -> Verdict:
    """The domain has mail servers and no TLS-RPT record."""
    missing = mail_hosts(exchange) and any(not fact.records for fact in policy)
    return verdict([Item("tls-rpt", translatable("there is no TLS-RPT record"))] if missing else [])


@check(
    "tls-rpt-invalid",
    about=Hostname,
    needs=[TlsRptPolicy],
    severity="low",
    title=translatable("The TLS-RPT record is wrong"),
    risk=translatable("No reports are sent."),
    fix=translatable("Have one record, with mailto or https addresses in rua."),
    reference="RFC 8460 section 3",
    applies=message.is_registrable,
)
def tls_rpt_invalid(context: Context, policy: Facts[TlsRptPolicy]) -> Verdict:
    """Several records, or one with an error."""
    items: list[Item] = []
    for fact in policy:
        if len(fact.records) > 1:
            text = translatable("there are {count} TLS-RPT records, so that none counts")
            items.append(Item("multiple", text, {"count": len(fact.records)}))
        items += tag_items(fact.problems)
    return verdict(once(items))


@check(
    "smtp-no-starttls",
    about=Hostname,
    needs=[SmtpGreeting],
    severity="medium",
    title=translatable("The mail server does not offer STARTTLS"),
    risk=translatable("Mail to it travels in the clear and can be read and changed on the way."),
    fix=translatable("Give the mail server a certificate and turn STARTTLS on."),
    reference="RFC 3207",
)
def smtp_no_starttls(context: Context, greetings: Facts[SmtpGreeting]) -> Verdict:
    """An address of a mail server has no STARTTLS among its extensions. Hosts that are no mail server pass."""
    items = [
        Item(fact.address, translatable("{address} does not offer STARTTLS"), {"address": fact.address})
        for fact in greetings
        if not fact.starttls
    ]
    return verdict(once(items), unknown=greetings.unmeasured[0] if greetings.unmeasured else None)


@check(
    "smtp-old-tls",
    about=Hostname,
    needs=[SmtpGreeting],
    severity="medium",
    title=translatable("The mail server speaks only old versions of TLS"),
    risk=translatable("Senders that have given up TLS 1.0 and 1.1 fall back to the clear, or do not deliver."),
    fix=translatable("Turn on TLS 1.2 and 1.3."),
    reference="RFC 8996",
)
def smtp_old_tls(context: Context, greetings: Facts[SmtpGreeting]) -> Verdict:
    """Behind STARTTLS a handshake that offers 1.3 and 1.2 is refused, and one with older versions is not."""
    items, unknown = [], None
    for fact in greetings:
        if fact.tls_version in ("SSLv3", "TLSv1.0", "TLSv1.1"):
            text = translatable("{address} speaks {version} at most")
            items.append(Item(fact.address, text, {"address": fact.address, "version": fact.tls_version}))
        elif fact.starttls and not fact.tls_version:
            unknown = f"{fact.address}: {fact.tls_problem}"
    return verdict(once(items), unknown=unknown or (greetings.unmeasured[0] if greetings.unmeasured else None))


@check(
    "smtp-certificate-untrusted",
    about=Hostname,
    needs=[SmtpGreeting],
    severity="low",
    title=translatable("Senders can't verify the mail server's certificate"),
    risk=translatable(
        "Someone in between can pass for the mail server; senders that verify (MTA-STS, or set so) do not deliver."
    ),
    fix=translatable("Install a certificate for the host name in the MX record, of an authority that senders trust."),
    reference="RFC 8461 section 4.2, RFC 9525 section 6",
)
def smtp_certificate_untrusted(context: Context, greetings: Facts[SmtpGreeting]) -> Verdict:
    """The certificate behind STARTTLS is not for the MX host, or leads to no trusted root. With TLSA records: unknown.

    TLSA records (DANE) say which certificate counts, also one of no authority; whether they fit is not checked.
    """
    items, unknown = [], None
    for fact in greetings:
        params: dict[str, str | int] = {"address": fact.address}
        wrong = []
        if fact.name_matches is False:
            text = translatable("the certificate at {address} is for {names}")
            wrong.append(Item(f"{fact.address} name", text, {**params, "names": ", ".join(fact.names[:5]) or "-"}))
        if fact.trust not in ("", "trusted", "unknown", "no-chain"):
            text = translatable("{address}: {reason}")
            wrong.append(
                Item(f"{fact.address} {fact.trust}", text, {**params, "reason": fact.trust_reason.rstrip(".")})
            )
        if fact.trust == "unknown":
            unknown = f"{fact.address}: {fact.trust_reason.rstrip('.')}"
        elif fact.starttls and not fact.chain:
            unknown = f"{fact.address}: {fact.tls_problem}"
        if wrong and fact.tlsa is False:
            items += wrong
        elif wrong:
            told = "its TLSA records say which certificate counts, and are not checked"
            unknown = f"{fact.address}: {told if fact.tlsa else 'whether it has TLSA records is not known'}"
    return verdict(once(items), unknown=unknown or (greetings.unmeasured[0] if greetings.unmeasured else None))
