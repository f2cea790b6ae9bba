"""The DNS scanners through the runner against the laboratory's name servers."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from scanning import Target, parsed, scan

from kattegat.model.facts import Fact, Found, NotMeasured
from kattegat.plugins.dns import DnsName, DnsRecords, NameServerAnswer, ReverseDns
from lab import Lab

pytestmark = [pytest.mark.lab]

NAMES = {
    "good.test": DnsName(exists=True, aliases=[], dangling=False, domain="good.test"),
    "bad.test": DnsName(exists=True, aliases=[], dangling=False, domain="bad.test"),
    "tampered.test": DnsName(exists=True, aliases=[], dangling=False, domain="tampered.test"),
    "insecure.test": DnsName(exists=True, aliases=[], dangling=False, domain="insecure.test"),
    "lame.test": DnsName(exists=True, aliases=[], dangling=False, domain="lame.test"),
    "nowhere.test": DnsName(exists=False, aliases=[], dangling=False, domain="nowhere.test"),
    "gone.bad.test": DnsName(exists=False, aliases=[], dangling=False, domain="bad.test"),
    "alias.good.test": DnsName(
        exists=True, aliases=["alias2.good.test", "www.good.test"], dangling=False, domain="good.test"
    ),
    "dangling.bad.test": DnsName(exists=True, aliases=["gone.bad.test"], dangling=True, domain="bad.test"),
    "takeover.bad.test": DnsName(exists=True, aliases=["abandoned.cloud.test"], dangling=True, domain="bad.test"),
    "live.bad.test": DnsName(exists=True, aliases=["live.cloud.test"], dangling=False, domain="bad.test"),
    "any.wild.good.test": DnsName(exists=True, aliases=[], dangling=False, domain="good.test"),
    "wild.good.test": DnsName(exists=True, aliases=[], dangling=False, domain="good.test"),
    "_underscore.good.test": DnsName(exists=True, aliases=[], dangling=False, domain="good.test"),
    "_submission._tcp.good.test": DnsName(exists=True, aliases=[], dangling=False, domain="good.test"),
}
RECORDS = {
    "good.test": {
        "A": ["10.77.0.80"],
        "AAAA": ["fd77::80"],
        "CAA": ['0 iodef "mailto:hostmaster@good.test"', '0 issue "ca.nic.test"', '0 issuewild ";"'],
        "MX": ["10 mail.good.test."],
        "NS": ["ns1.nic.test.", "ns2.nic.test."],
        "TXT": ['"v=spf1 mx -all"'],
        "SRV _imap._tcp.good.test": ["0 0 0 ."],
        "SRV _submission._tcp.good.test": ["10 5 587 mail.good.test."],
        "SRV _submissions._tcp.good.test": ["10 5 465 mail.good.test."],
    },
    "bad.test": {
        "A": ["10.77.0.81"],
        "MX": ["10 mail.bad.test.", "20 mx-alias.bad.test.", "30 mx-nowhere.bad.test."],
        "NS": ["ns1.nic.test."],
        "TXT": ['"v=spf1 +all"'],
    },
    "tampered.test": {
        "A": ["10.77.0.92"],
        "MX": ["0 ."],
        "NS": ["ns1.nic.test.", "ns2.nic.test."],
        "TXT": ['"v=spf1 -all"'],
    },
    "nowhere.test": {},
    "gone.bad.test": {},
    "alias.good.test": {"A": ["10.77.0.80"], "AAAA": ["fd77::80"]},
    "dangling.bad.test": {},
    "takeover.bad.test": {},
    "live.bad.test": {"A": ["10.77.0.80"]},
    "any.wild.good.test": {"A": ["10.77.0.80"]},
    "wild.good.test": {},
    "_underscore.good.test": {"TXT": ['"a name with an underscore"']},
    "_submission._tcp.good.test": {"SRV": ["10 5 587 mail.good.test."]},
}
ZONES = ("good.test", "bad.test", "tampered.test", "insecure.test", "lame.test")
UNREADABLE = ("broken.test", "expired.test", "www.tampered.test", "loop1.bad.test")
SERVERS = ("good.test", "bad.test", "lame.test", "nowhere.test", "broken.test")
POINTERS = {"10.77.0.80": "www.good.test", "10.77.0.23": "elsewhere.cloud.test", "fd77::25": "mail.good.test"}


def read(target: Target, results: dict[Target, list[Found | NotMeasured]]) -> dict[str, Fact]:
    found = results[target]
    assert not [one for one in found if isinstance(one, NotMeasured)], target
    return {f"{one.fact.kind} {one.item}".strip(): one.fact for one in found if isinstance(one, Found)}


def test_dns_scanners(lab: Lab) -> None:
    targets: list[Target] = [("dns-records", "Hostname", name) for name in (*NAMES, *UNREADABLE)]
    targets += [("name-servers", "Hostname", name) for name in SERVERS]
    targets += [("reverse-dns", "IPAddress", f"internet|{address}") for address in (*POINTERS, "10.77.0.81")]
    done = scan(lab, targets)
    results = {target: parsed(target, result) for target, result in zip(targets, done, strict=True)}

    for name, expected in NAMES.items():
        facts = read(("dns-records", "Hostname", name), results)
        assert facts.pop("DnsName") == expected, name
        soa = facts.pop("DnsRecords SOA", None)
        assert (soa is not None) is (name in ZONES), name
        if name in RECORDS:
            assert facts == {
                f"DnsRecords {item}": DnsRecords(rdtype=item.split()[0], records=shown)
                for item, shown in RECORDS[name].items()
            }, name
    for name in UNREADABLE:
        found = results["dns-records", "Hostname", name]
        reasons = {one.reason for one in found if isinstance(one, NotMeasured) and one.item == "A"}
        assert reasons == {"the DNS server answered SERVFAIL"}, name
        assert not [one for one in found if isinstance(one, Found) and one.item == "A"], name

    today = int(datetime.now(UTC).strftime("%Y%m%d01"))
    good = read(("name-servers", "Hostname", "good.test"), results)
    assert sorted(good) == [
        f"NameServerAnswer {server}|{address}"
        for server, address in (
            ("ns1.nic.test", "10.77.0.10"),
            ("ns1.nic.test", "fd77::10"),
            ("ns2.nic.test", "10.77.0.11"),
            ("ns2.nic.test", "fd77::11"),
        )
    ]
    lame = read(("name-servers", "Hostname", "lame.test"), results)
    three, two = ["ns1.nic.test", "ns2.nic.test", "ns3.nic.test"], ["ns1.nic.test", "ns2.nic.test"]
    serials = {}
    for number, server in ((10, "ns1"), (11, "ns2"), (12, "ns3")):
        for address in (f"10.77.0.{number}", f"fd77::{number}"):
            fact = lame.pop(f"NameServerAnswer {server}.nic.test|{address}")
            assert isinstance(fact, NameServerAnswer)
            serials[server] = (fact.problem, fact.serial, fact.servers)
    assert lame == {}
    first = serials.pop("ns1")
    assert (first[0], first[2]) == ("", three)
    assert first[1] is not None
    assert today - 1000 < first[1] <= today
    assert serials == {"ns2": ("", 2026010100, two), "ns3": ("the DNS server answered REFUSED", None, [])}
    assert len(read(("name-servers", "Hostname", "bad.test"), results)) == 2
    assert read(("name-servers", "Hostname", "nowhere.test"), results) == {}
    assert results["name-servers", "Hostname", "broken.test"] == [
        NotMeasured("NameServerAnswer", "the DNS server answered SERVFAIL")
    ]

    for address, name in POINTERS.items():
        target = ("reverse-dns", "IPAddress", f"internet|{address}")
        assert read(target, results) == {"ReverseDns": ReverseDns(names=[name])}
    assert results["reverse-dns", "IPAddress", "internet|10.77.0.81"] == []


def test_a_resolver_that_is_gone_fails_the_scan(lab: Lab) -> None:
    targets = [("dns-records", "Hostname", "good.test"), ("dnssec", "Hostname", "good.test")]
    for result in scan(lab, targets, {"KAT_DNS_SERVER": "10.77.0.2:9"}):
        assert result.outcome == "failed"
        assert "10.77.0.2" in result.reason
