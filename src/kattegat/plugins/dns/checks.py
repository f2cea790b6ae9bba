"""Checks of DNS facts. What was not measured is never taken for absent: see `Facts.gap`."""

from __future__ import annotations

import ipaddress
from collections import defaultdict

from kattegat.plugin import (
    Context,
    Facts,
    Hostname,
    Item,
    Pass,
    Verdict,
    check,
    translatable,
    verdict,
    via,
)
from kattegat.plugins.dns import message
from kattegat.plugins.dns.records import DnsName, DnsRecords, NameServerAnswer

__all__ = [
    "address_ipv6",
    "alias_dangling",
    "caa_malformed",
    "caa_missing",
    "domain_ownership_pending",
    "name_missing",
    "name_server_diverging",
    "name_server_lame",
    "name_servers_few",
    "name_servers_ipv6",
    "name_servers_one_network",
]

CAA_TAGS = frozenset(  # RFC 8659 section 4, RFC 8657, RFC 9495, and the registry of CAA property tags
    {"issue", "issuewild", "iodef", "contactemail", "contactphone", "issuevmc", "issuemail"}
)
PENDING_SERVERS = frozenset(f"ns{number}.registrant-verification.ispapi.net" for number in (1, 2, 3))


def _exists(name: Facts[DnsName]) -> bool:
    return any(fact.exists for fact in name)


def _records(facts: Facts[DnsRecords], item: str) -> list[str]:
    return [record for fact in facts.item(item) for record in fact.records]


@check(
    "dns-name-missing",
    about=Hostname,
    needs=[DnsName],
    severity="low",
    title=translatable("The name does not exist in the DNS"),
    risk=translatable(
        "A name that is still listed but no longer exists can be a forgotten system or a mistyped entry."
    ),
    fix=translatable("Register the name again, or take it out of the list of what is watched."),
    reference="RFC 8020",
    openkat=["KAT-NXDOMAIN"],
)
def name_missing(context: Context, name: Facts[DnsName]) -> Verdict:
    """The DNS answers NXDOMAIN for the name itself."""
    if not len(name) or _exists(name):
        return Pass()
    return verdict([Item("nxdomain", translatable("the DNS answers that there is no such name (NXDOMAIN)"))])


@check(
    "dns-alias-dangling",
    about=Hostname,
    needs=[DnsName],
    severity="medium",
    title=translatable("The name is an alias of a name that does not exist"),
    risk=translatable("Whoever registers the missing name, often at a cloud provider, serves visitors in your name."),
    fix=translatable("Remove the CNAME record, or point it at a name that is yours."),
    reference="RFC 1034 section 3.6.2",
    openkat=["SUB-DOMAIN-TAKEOVER"],
)
def alias_dangling(context: Context, name: Facts[DnsName]) -> Verdict:
    """The chain of CNAMEs ends at NXDOMAIN."""
    return verdict(
        [
            Item(fact.aliases[-1], translatable("its alias {target} does not exist"), {"target": fact.aliases[-1]})
            for fact in name
            if fact.dangling and fact.aliases
        ]
    )


@check(
    "dns-caa-missing",
    about=Hostname,
    needs=[DnsName, DnsRecords],
    severity="low",
    title=translatable("No CAA record says which authorities may issue certificates"),
    risk=translatable("Any certificate authority may issue a certificate for the domain."),
    fix=translatable('Publish a CAA record for the domain, such as 0 issue "letsencrypt.org".'),
    reference="RFC 8659 section 3",
    openkat=["KAT-NO-CAA"],
    applies=message.is_registrable,
)
def caa_missing(context: Context, name: Facts[DnsName], records: Facts[DnsRecords]) -> Verdict:
    """The domain exists and has no CAA record. Names below it inherit the domain's (RFC 8659 section 3)."""
    if not _exists(name) or _records(records, "CAA"):
        return Pass()
    if gap := records.gap("CAA"):
        return verdict([], unknown=f"CAA: {gap}")
    return verdict([Item("caa", translatable("there is no CAA record"))])


@check(
    "dns-caa-malformed",
    about=Hostname,
    needs=[DnsRecords],
    severity="low",
    title=translatable("A CAA record is not understood"),
    risk=translatable(
        "A record with an unknown critical property stops all issuing; one with a typing error stops nobody."
    ),
    fix=translatable("Correct the property's tag or value."),
    reference="RFC 8659 section 4.1",
)
def caa_malformed(context: Context, records: Facts[DnsRecords]) -> Verdict:
    """A CAA record has a tag that is in no registry, or can't be read."""
    items = []
    for record in _records(records, "CAA"):
        words = record.split(maxsplit=2)
        if len(words) < 3 or words[1].lower() not in CAA_TAGS:
            items.append(Item(record[:200], translatable("the record {record} has an unknown tag"), {"record": record}))
    return verdict(items, unknown=_unless(records.gap("CAA"), "CAA"))


def _unless(gap: str, what: str) -> str | None:
    return f"{what}: {gap}" if gap else None


@check(
    "dns-address-ipv6",
    about=Hostname,
    needs=[DnsRecords],
    severity="low",
    title=translatable("The host has no IPv6 address"),
    risk=translatable("Visitors with IPv6 only reach the host through translation, or not at all."),
    fix=translatable("Give the host an IPv6 address and publish it as AAAA."),
    reference="RFC 6540",
    openkat=["KAT-WEBSERVER-NO-IPV6"],
)
def address_ipv6(context: Context, records: Facts[DnsRecords]) -> Verdict:
    """There are A records and no AAAA records."""
    if _records(records, "AAAA"):
        return Pass()
    if not _records(records, "A"):
        return verdict([], unknown=_unless(records.gap("A"), "A"))
    if gap := records.gap("AAAA"):
        return verdict([], unknown=f"AAAA: {gap}")
    return verdict([Item("aaaa", translatable("there are A records and no AAAA record"))])


@check(
    "name-servers-few",
    about=Hostname,
    needs=[DnsRecords],
    severity="medium",
    title=translatable("The domain has fewer than two name servers"),
    risk=translatable("When the only name server fails, the domain can't be reached."),
    fix=translatable("Add a second name server in another network."),
    reference="RFC 1034 section 4.1, RFC 2182 section 5",
    applies=message.is_registrable,
)
def name_servers_few(context: Context, records: Facts[DnsRecords]) -> Verdict:
    """The zone's own NS records name one server. A name with none is no zone of its own."""
    servers = _records(records, "NS")
    if len(servers) == 1:
        return verdict(
            [Item("one", translatable("{server} is the only name server"), {"server": servers[0].rstrip(".")})]
        )
    return verdict([], unknown=_unless(records.gap("NS"), "NS"))


@check(
    "name-servers-ipv6",
    about=Hostname,
    needs=[DnsRecords, via("name_server", DnsRecords)],
    severity="low",
    title=translatable("Fewer than two name servers have an IPv6 address"),
    risk=translatable("Resolvers that have IPv6 only depend on one server, or on none."),
    fix=translatable("Give at least two name servers of the domain an IPv6 address."),
    reference="RFC 3901 section 4",
    openkat=["KAT-NAMESERVER-NO-IPV6", "KAT-NAMESERVER-NO-TWO-IPV6", "KAT-NOT-ENOUGH-IPV6-NAMESERVERS"],
    applies=message.is_registrable,
)
def name_servers_ipv6(context: Context, own: Facts[DnsRecords], servers: Facts[DnsRecords]) -> Verdict:
    """Of the name servers' own AAAA records fewer than two are there; a server not looked up makes it unknown."""
    with_it = {entry.asset for entry in servers.known if entry.item == "AAAA"}
    without = [asset for asset in servers.linked if asset not in with_it]
    if len(with_it) >= 2 or not _records(own, "NS"):
        return verdict([], unknown=_unless(own.gap("NS"), "NS"))
    # A look-up that failed may hide the second one.
    if servers.unmeasured and len(with_it) + len(servers.unmeasured) >= 2:
        return verdict([], unknown=servers.unmeasured[0])
    return verdict(
        [Item(asset.key, translatable("{server} has no IPv6 address"), {"server": asset.key}) for asset in without]
    )


@check(
    "name-servers-one-network",
    about=Hostname,
    needs=[NameServerAnswer],
    severity="recommendation",
    title=translatable("All name servers are in one network"),
    risk=translatable("A fault of that network makes the whole domain unreachable."),
    fix=translatable("Have one of the name servers in another network."),
    reference="RFC 2182 section 3.1",
    applies=message.is_registrable,
)
def name_servers_one_network(context: Context, answers: Facts[NameServerAnswer]) -> Verdict:
    """All addresses of two servers or more lie in one /24 (IPv4) or /48 (IPv6)."""
    reached = [fact for fact in answers if fact.address]
    families = [[fact for fact in reached if (":" in fact.address) is six] for six in (False, True)]
    networks = [{_network(fact.address) for fact in family} for family in families]
    if any(len(family) > 1 for family in networks):
        return Pass()
    if answers.unmeasured:  # the one that was not asked may be elsewhere
        return verdict([], unknown=answers.unmeasured[0])
    servers = {fact.server for fact in reached}
    # One server with IPv4 only and one with IPv6 only can't be compared.
    if len(servers) < 2 or not any({fact.server for fact in family} == servers for family in families):
        return Pass()
    shown = ", ".join(sorted(networks[0] | networks[1]))
    text = translatable("every name server has its address in {network}")
    return verdict([Item("network", text, {"network": shown})])


def _network(address: str) -> str:
    parsed = ipaddress.ip_address(address)
    return str(ipaddress.ip_network(f"{address}/{24 if parsed.version == 4 else 48}", strict=False))


@check(
    "name-server-lame",
    about=Hostname,
    needs=[NameServerAnswer],
    severity="medium",
    title=translatable("A name server of the domain does not serve it"),
    risk=translatable("Look-ups are slow or fail; a server that nobody keeps can be taken over."),
    fix=translatable("Make the server serve the zone, or take it out of the NS records here and at the parent."),
    reference="RFC 1912 section 2.8, RFC 9499",
    openkat=["KAT-LAME-DELEGATION"],
    applies=message.is_registrable,
)
def name_server_lame(context: Context, answers: Facts[NameServerAnswer]) -> Verdict:
    """A server that is asked itself refuses, or answers without authority. No answer at all says nothing about it."""
    # A server is one finding, however many addresses it has.
    wrong: dict[tuple[str, str], list[str]] = defaultdict(list)
    for fact in answers:
        if fact.problem:
            wrong[fact.server, fact.problem].append(fact.address)
    items = [
        Item(
            f"{server} {problem}",
            translatable("{server} ({addresses}): {problem}") if any(found) else translatable("{server}: {problem}"),
            {"server": server, "addresses": ", ".join(sorted(found)), "problem": problem},
        )
        for (server, problem), found in sorted(wrong.items())
    ]
    return verdict(items, unknown=answers.unmeasured[0] if answers.unmeasured else None)


@check(
    "name-server-diverging",
    about=Hostname,
    needs=[NameServerAnswer],
    severity="low",
    title=translatable("The name servers of the domain do not say the same"),
    risk=translatable("Visitors get old or wrong answers, depending on which server they ask."),
    fix=translatable("Look at the zone transfer from the primary to the server that differs."),
    reference="RFC 1034 section 4.3.5",
    applies=message.is_registrable,
)
def name_server_diverging(context: Context, answers: Facts[NameServerAnswer]) -> Verdict:
    """The servers that answer with authority give different SOA serials or different sets of name servers."""
    good = [fact for fact in answers if not fact.problem]
    items = []
    newest = max((fact.serial for fact in good if fact.serial is not None), default=0)
    behind: dict[str, list[NameServerAnswer]] = defaultdict(list)
    for fact in good:
        if fact.serial is not None and fact.serial != newest:
            behind[fact.server].append(fact)
    for server, found in sorted(behind.items()):
        text = translatable("{server} ({addresses}) has serial {serial}, another server has {newest}")
        shown: dict[str, str | int] = {
            "server": server,
            "addresses": ", ".join(sorted(fact.address for fact in found)),
            "serial": min(fact.serial or 0 for fact in found),
            "newest": newest,
        }
        items.append(Item(f"serial {server}", text, shown))
    sets = {tuple(fact.servers) for fact in good if fact.servers}
    if len(sets) > 1:
        lists = " / ".join(sorted(", ".join(names) for names in sets))
        items.append(Item("servers", translatable("they list different name servers: {sets}"), {"sets": lists}))
    return verdict(items, unknown=answers.unmeasured[0] if answers.unmeasured else None)


@check(
    "domain-ownership-pending",
    about=Hostname,
    needs=[DnsRecords],
    severity="high",
    title=translatable("The registrar waits for the owner of the domain to be verified"),
    risk=translatable("The domain is parked until the registrant answers, and is deleted if nobody does."),
    fix=translatable("Answer the registrar's request to verify the registrant's data."),
    reference="ICANN Registrar Accreditation Agreement 2013, WHOIS accuracy specification",
    openkat=["KAT-DOMAIN-OWNERSHIP-PENDING"],
    applies=message.is_registrable,
)
def domain_ownership_pending(context: Context, records: Facts[DnsRecords]) -> Verdict:
    """The name servers are those that a registrar sets while the registrant has not answered."""
    servers = {record.rstrip(".").lower() for record in _records(records, "NS")}
    items = [
        Item(server, translatable("{server} is the registrar's server for domains that wait"), {"server": server})
        for server in sorted(servers & PENDING_SERVERS)
    ]
    return verdict(items, unknown=_unless(records.gap("NS"), "NS"))
