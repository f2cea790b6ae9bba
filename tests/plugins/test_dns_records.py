"""What the DNS scanners' parsers make of recorded answers of real servers, and of answers written here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import dns.rrset
import pytest

from kattegat.plugin import Evidence, Fact, Found, Hostname, IPAddress, Link, NotMeasured, Part
from kattegat.plugins.dns import (
    DnsName,
    DnsRecords,
    DnsRecordsScanner,
    NameServerAnswer,
    NameServersScanner,
    ReverseDns,
    ReverseDnsScanner,
)
from kattegat.plugins.dns import message as messages

FOLDER = Path(__file__).parent / "recorded" / "dns"


def recorded(name: str) -> Evidence:
    return Evidence.unpack((FOLDER / f"{name}.evidence").read_bytes())


def facts(found: list[Found | NotMeasured]) -> dict[str, Fact]:
    """Facts by kind and item, all of which must have been measured."""
    assert not [one for one in found if isinstance(one, NotMeasured)]
    return {f"{one.fact.kind} {one.item}".strip(): one.fact for one in found if isinstance(one, Found)}


def links(found: list[Found | NotMeasured]) -> set[tuple[str, str]]:
    return {(link.type, link.target.key) for one in found if isinstance(one, Found) for link in one.links}


def records(name: str, host: str) -> list[Found | NotMeasured]:
    return list(DnsRecordsScanner().parse(Hostname(host), recorded(f"dns-records--{name}")))


def test_good_domain() -> None:
    found = records("good", "good.test")
    read = facts(found)
    assert read.pop("DnsName") == DnsName(exists=True, aliases=[], dangling=False, domain="good.test")
    soa = read.pop("DnsRecords SOA")
    assert isinstance(soa, DnsRecords)
    assert soa.records[0].startswith("ns1.nic.test. hostmaster.nic.test. ")
    assert read == {
        f"DnsRecords {item}": DnsRecords(rdtype=item.split()[0], records=shown)
        for item, shown in {
            "A": ["10.77.0.80"],
            "AAAA": ["fd77::80"],
            "MX": ["10 mail.good.test."],
            "NS": ["ns1.nic.test.", "ns2.nic.test."],
            "TXT": ['"v=spf1 mx -all"'],
            "CAA": ['0 iodef "mailto:hostmaster@good.test"', '0 issue "ca.nic.test"', '0 issuewild ";"'],
            "SRV _submission._tcp.good.test": ["10 5 587 mail.good.test."],
            "SRV _submissions._tcp.good.test": ["10 5 465 mail.good.test."],
            "SRV _imap._tcp.good.test": ["0 0 0 ."],
        }.items()
    }
    assert links(found) == {
        ("resolves_to", "internet|10.77.0.80"),
        ("resolves_to", "internet|fd77::80"),
        ("mail_server", "mail.good.test"),
        ("name_server", "ns1.nic.test"),
        ("name_server", "ns2.nic.test"),
        ("service_host", "mail.good.test"),
    }


def test_bad_domain() -> None:
    read = facts(records("bad", "bad.test"))
    assert {name.removeprefix("DnsRecords ") for name in read} == {"DnsName", "A", "MX", "NS", "SOA", "TXT"}
    assert read["DnsRecords NS"] == DnsRecords(rdtype="NS", records=["ns1.nic.test."])


@pytest.mark.parametrize(
    ("name", "host", "expected", "items", "linked"),
    [
        (
            "missing",
            "nowhere.test",
            DnsName(exists=False, aliases=[], dangling=False, domain="nowhere.test"),
            [],
            set(),
        ),
        (
            "alias-chain",
            "alias.good.test",
            DnsName(exists=True, aliases=["alias2.good.test", "www.good.test"], dangling=False, domain="good.test"),
            ["A", "AAAA"],
            {
                ("alias_of", "alias2.good.test"),
                ("part_of", "good.test"),
                ("resolves_to", "internet|10.77.0.80"),
                ("resolves_to", "internet|fd77::80"),
            },
        ),
        (
            "dangling",
            "takeover.bad.test",
            DnsName(exists=True, aliases=["abandoned.cloud.test"], dangling=True, domain="bad.test"),
            [],
            {("alias_of", "abandoned.cloud.test"), ("part_of", "bad.test")},
        ),
        (
            "wildcard",
            "any.wild.good.test",
            DnsName(exists=True, aliases=[], dangling=False, domain="good.test"),
            ["A"],
            {("part_of", "good.test"), ("resolves_to", "internet|10.77.0.80")},
        ),
        (
            "underscore",
            "_underscore.good.test",
            DnsName(exists=True, aliases=[], dangling=False, domain="good.test"),
            ["TXT"],
            {("part_of", "good.test")},
        ),
    ],
)
def test_names(name: str, host: str, expected: DnsName, items: list[str], linked: set[tuple[str, str]]) -> None:
    found = records(name, host)
    read = facts(found)
    assert read.pop("DnsName") == expected
    assert sorted(read) == [f"DnsRecords {item}" for item in items]
    assert links(found) == linked


@pytest.mark.parametrize(("name", "host"), [("broken", "broken.test"), ("loop", "loop1.bad.test")])
def test_a_resolver_that_fails_measures_nothing(name: str, host: str) -> None:
    found = records(name, host)
    assert found[0] == NotMeasured("DnsName", "the DNS server answered SERVFAIL", None, Hostname(host))
    assert NotMeasured("DnsRecords", "the DNS server answered SERVFAIL", "A", Hostname(host)) in found
    assert not [one for one in found if isinstance(one, Found)]


def test_name_servers() -> None:
    read = facts(list(NameServersScanner().parse(Hostname("good.test"), recorded("name-servers--good"))))
    servers = ["ns1.nic.test", "ns2.nic.test"]
    assert {(fact.server, fact.address) for fact in read.values() if isinstance(fact, NameServerAnswer)} == {
        ("ns1.nic.test", "10.77.0.10"),
        ("ns1.nic.test", "fd77::10"),
        ("ns2.nic.test", "10.77.0.11"),
        ("ns2.nic.test", "fd77::11"),
    }
    assert {(fact.problem, tuple(fact.servers)) for fact in read.values() if isinstance(fact, NameServerAnswer)} == {
        ("", tuple(servers))
    }


def test_lame_and_diverging_name_servers() -> None:
    read = facts(list(NameServersScanner().parse(Hostname("lame.test"), recorded("name-servers--lame"))))
    three, two = ["ns1.nic.test", "ns2.nic.test", "ns3.nic.test"], ["ns1.nic.test", "ns2.nic.test"]
    first = read["NameServerAnswer ns1.nic.test|10.77.0.10"]
    assert isinstance(first, NameServerAnswer)
    assert (first.problem, first.servers) == ("", three)
    assert read["NameServerAnswer ns2.nic.test|fd77::11"] == NameServerAnswer(
        server="ns2.nic.test", address="fd77::11", problem="", serial=2026010100, servers=two
    )
    assert read["NameServerAnswer ns3.nic.test|10.77.0.12"] == NameServerAnswer(
        server="ns3.nic.test", address="10.77.0.12", problem="the DNS server answered REFUSED", serial=None, servers=[]
    )


@pytest.mark.parametrize(
    ("name", "address", "names"),
    [("right", "10.77.0.80", ["www.good.test"]), ("other", "10.77.0.23", ["elsewhere.cloud.test"])],
)
def test_reverse(name: str, address: str, names: list[str]) -> None:
    asset = IPAddress(address)
    found = list(ReverseDnsScanner().parse(asset, recorded(f"reverse-dns--{name}")))
    assert found == [
        Found(asset, ReverseDns(names=names), "", (Link("reverse_name", asset, Hostname(names[0])),)),
    ]


def test_an_address_without_a_name_has_no_fact() -> None:
    assert list(ReverseDnsScanner().parse(IPAddress("10.77.0.81"), recorded("reverse-dns--none"))) == []


# --- answers that the laboratory's servers don't give -----------------------------------------------------------------


def reply(
    name: str, rdtype: str, *answer: tuple[str, str, str], rcode: str = "NOERROR", aa: bool = True, part: str = "dns",
    **notes: str,
) -> Part:  # fmt: skip
    made = dns.message.make_response(dns.message.make_query(f"{name}.", rdtype))
    made.flags |= 0x0400 if aa else 0
    made.set_rcode(dns.rcode.from_text(rcode))
    made.answer = [dns.rrset.from_text(owner, 300, "IN", kind, data) for owner, kind, data in answer]
    return Part(part, made.to_wire(), {"name": name, "rdtype": rdtype, "problem": "", **notes})


def silent(name: str, rdtype: str, **notes: str) -> Part:
    return Part(notes.pop("part", "dns"), b"", {"name": name, "rdtype": rdtype, "problem": "No answer.", **notes})


def parsed(host: str, *parts: Part) -> list[Found | NotMeasured]:
    return list(DnsRecordsScanner().parse(Hostname(host), Evidence(parts)))


def test_a_type_without_an_answer_is_not_measured_and_the_others_are() -> None:
    found = parsed("a.test", reply("a.test", "A", ("a.test.", "A", "192.0.2.1")), silent("a.test", "AAAA"))
    assert NotMeasured("DnsRecords", "No answer.", "AAAA", Hostname("a.test")) in found
    assert DnsRecords(rdtype="A", records=["192.0.2.1"]) in [one.fact for one in found if isinstance(one, Found)]


def test_one_wrong_nxdomain_does_not_make_a_name_missing() -> None:
    found = parsed(
        "a.test", reply("a.test", "A", ("a.test.", "A", "192.0.2.1")), reply("a.test", "AAAA", rcode="NXDOMAIN")
    )
    (name,) = [one.fact for one in found if isinstance(one, Found) and isinstance(one.fact, DnsName)]
    assert name.exists


def test_a_circle_of_aliases_ends() -> None:
    circle = (("a.test.", "CNAME", "b.test."), ("b.test.", "CNAME", "a.test."))
    answer = messages.read(reply("a.test", "A", *circle))
    assert answer.aliases[:3] == ("b.test", "a.test", "b.test")
    assert (len(answer.aliases), answer.records) == (messages.MOST_ALIASES, ())


def test_behind_an_alias_only_addresses_and_caa_count() -> None:
    def behind(rdtype: str, data: str) -> Part:
        return reply("a.test", rdtype, ("a.test.", "CNAME", "b.test."), ("b.test.", rdtype, data))

    found = parsed("a.test", behind("A", "192.0.2.1"), behind("MX", "10 m.test."), behind("CAA", '0 issue "ca.test"'))
    assert sorted(one.item for one in found if isinstance(one, Found)) == ["", "A", "CAA"]


def test_names_compare_without_case_and_texts_with() -> None:
    assert messages.read(reply("a.test", "NS", ("A.test.", "NS", "NS1.Nic.TEST."))).records == ("ns1.nic.test.",)
    assert messages.read(reply("a.test", "TXT", ("a.test.", "TXT", '"Ab"'))).records == ('"Ab"',)


def test_another_class_is_not_taken_for_an_address() -> None:
    made = dns.message.make_response(dns.message.make_query("a.test.", "A"))
    made.answer = [dns.rrset.from_text("a.test.", 300, "CH", "A", "b.test. 1")]
    part = Part("dns", made.to_wire(), {"name": "a.test", "rdtype": "A", "problem": ""})
    assert messages.read(part).records == ()


def test_a_record_that_can_not_be_read_is_not_taken_for_none() -> None:
    whole = reply("a.test", "A", ("a.test.", "A", "192.0.2.1"))
    cut = whole.content[:-6] + b"\x00\x03" + whole.content[-4:-1]  # an address of three bytes
    answer = messages.read(Part("dns", cut, whole.notes))
    assert answer.problem == "a record in the answer can't be read (FormError)"


def servers(*parts: Part) -> list[Found | NotMeasured]:
    return list(NameServersScanner().parse(Hostname("a.test"), Evidence(parts)))


NS = reply("a.test", "NS", ("a.test.", "NS", "ns.b.test."))
ADDRESS = reply("ns.b.test", "A", ("ns.b.test.", "A", "192.0.2.53"), part="address")
NO_ADDRESS = reply("ns.b.test", "AAAA", part="address")
SOA = ("a.test.", "SOA", "ns.b.test. h.b.test. 7 1 1 1 1")
PLACE: dict[str, Any] = {"part": "server", "of": "ns.b.test", "server": "192.0.2.53"}


def problem(*parts: Part) -> str:
    (found,) = servers(NS, ADDRESS, NO_ADDRESS, *parts)
    assert isinstance(found, Found)
    assert isinstance(found.fact, NameServerAnswer)
    return found.fact.problem


def test_what_makes_a_server_lame() -> None:
    listed = reply("a.test", "NS", ("a.test.", "NS", "ns.b.test."), **PLACE)
    assert problem(reply("a.test", "SOA", SOA, **PLACE), listed) == ""
    assert (
        problem(reply("a.test", "SOA", SOA, aa=False, **PLACE), listed) == "it answers without authority for the zone"
    )
    assert problem(reply("a.test", "SOA", **PLACE), listed) == "it has no SOA record for the zone"
    assert problem(reply("a.test", "SOA", rcode="REFUSED", **PLACE), listed) == "the DNS server answered REFUSED"


def test_silence_and_refusal_of_the_runner_are_not_measured() -> None:
    quiet = servers(NS, ADDRESS, NO_ADDRESS, silent("a.test", "SOA", **PLACE))
    assert quiet == [NotMeasured("NameServerAnswer", "ns.b.test (192.0.2.53): No answer.", "ns.b.test|192.0.2.53")]
    refused = Part("refused", b"", {"of": "ns.b.test", "server": "10.0.0.1", "reason": "It is private."})
    assert servers(NS, ADDRESS, NO_ADDRESS, refused) == [
        NotMeasured("NameServerAnswer", "ns.b.test was not asked: It is private.", "ns.b.test|10.0.0.1")
    ]


def test_a_server_without_an_address_is_no_server() -> None:
    (found,) = servers(NS, reply("ns.b.test", "A", rcode="NXDOMAIN", part="address"), NO_ADDRESS)
    assert isinstance(found, Found)
    assert (found.item, found.fact) == (
        "ns.b.test|",
        NameServerAnswer(server="ns.b.test", address="", problem="its name has no address", serial=None, servers=[]),
    )
    unknown = servers(NS, silent("ns.b.test", "A", part="address"), NO_ADDRESS)
    assert unknown == [NotMeasured("NameServerAnswer", "ns.b.test: No answer.", "ns.b.test|")]


def test_an_alias_has_no_name_servers_of_its_own() -> None:
    behind = reply("a.test", "NS", ("a.test.", "CNAME", "b.test."), ("b.test.", "NS", "ns.b.test."))
    assert servers(behind) == []


def test_servers_beyond_the_limit_are_said_not_to_have_been_asked() -> None:
    assert servers(NS) == [NotMeasured("NameServerAnswer", "ns.b.test was not asked: there are too many", "ns.b.test|")]


def test_domains() -> None:
    assert messages.registrable("www.example.co.uk") == "example.co.uk"
    assert messages.registrable("co.uk") is None
    assert messages.is_registrable(Hostname("example.github.io"))
    assert not messages.is_registrable(Hostname("www.example.com"))
    assert messages.hostname(".") is None
    assert messages.hostname("a..b") is None
