"""Reading recorded evidence of domains' mail: facts of the laboratory's servers, and answers that did not come."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kattegat.plugin import (
    DnsReply,
    Evidence,
    Fact,
    Found,
    Hostname,
    HttpReply,
    Link,
    NotMeasured,
    NotReached,
    Part,
)
from kattegat.plugins.mail import MailPolicyScanner, SmtpBannerScanner
from kattegat.plugins.mail.facts import MailExchange, MailHost, SpfProblem
from kattegat.plugins.mail.lookup import read

RECORDED = Path(__file__).parent / "recorded" / "mail"
SILENT = "the resolver did not answer"
Said = dict[tuple[str, str], Found | NotMeasured]


def recorded(name: str, scanner: str = "mail-policy") -> Evidence:
    return Evidence.unpack((RECORDED / f"{scanner}--{name}.evidence").read_bytes())


def parse(domain: str, evidence: Evidence) -> Said:
    said: Said = {}
    for entry in MailPolicyScanner().parse(Hostname(domain), evidence):
        place = (entry.fact.kind, entry.item) if isinstance(entry, Found) else (entry.kind, entry.item or "")
        assert place not in said, f"{place} is said twice"
        said[place] = entry
    return said


def fact(said: Said, kind: str, item: str = "") -> Any:
    entry = said[kind, item]
    assert isinstance(entry, Found), entry
    return entry.fact


def gaps(said: Said) -> dict[tuple[str, str], str]:
    return {place: entry.reason for place, entry in said.items() if isinstance(entry, NotMeasured)}


def without(evidence: Evidence, *names: str) -> Evidence:
    """The evidence as it would be had these questions, "TYPE name", got no answer."""

    def silent(part: Part) -> Part:
        if f"{part.notes.get('rdtype')} {part.notes.get('of')}" in names:
            return Part("dns", b"", {**part.notes, "problem": SILENT})
        return part

    return Evidence(tuple(map(silent, evidence.parts)))


def test_the_right_domain() -> None:
    said = parse("good.test", recorded("good.test"))
    assert gaps(said) == {}
    exchange = said["MailExchange", ""]
    assert isinstance(exchange, Found)
    host = MailHost(host="mail.good.test", preference=10, ipv4=True, ipv6=True)
    assert exchange.fact == MailExchange(exists=True, null=False, hosts=[host])
    assert exchange.links == (Link("mail_server", Hostname("good.test"), Hostname("mail.good.test")),)
    spf = fact(said, "SpfPolicy")
    assert (spf.status, spf.records, spf.lookups, spf.all_qualifier) == ("ok", ["v=spf1 mx -all"], 1, "-")
    assert (spf.problems, spf.unanswered, spf.open) == ([], [], [])
    dmarc = fact(said, "DmarcPolicy")
    assert (dmarc.domain, dmarc.policy, dmarc.adkim, dmarc.rua) == (
        "good.test", "reject", "s", ["mailto:dmarc@good.test"],
    )  # fmt: skip
    assert (fact(said, "DkimKeys", "s1").key_type, fact(said, "DkimKeys", "s1").bits) == ("rsa", 2048)
    assert (fact(said, "DkimKeys", "e1").key_type, fact(said, "DkimKeys", "e1").usable) == ("ed25519", True)
    assert fact(said, "DkimSelectors").asked == ["s1", "e1", "weak", "revoked", "broken", "none"]
    assert fact(said, "MtaStsRecord").id == "20260101000000"
    sts = fact(said, "MtaStsPolicy")
    assert (sts.mode, sts.max_age, sts.mx, sts.valid) == ("enforce", 604800, ["mail.good.test"], True)
    assert fact(said, "TlsRptPolicy").rua == ["mailto:tlsrpt@good.test"]


def test_the_wrong_domain() -> None:
    said = parse("bad.test", recorded("bad.test"))
    assert gaps(said) == {}
    hosts = {host.host: host for host in fact(said, "MailExchange").hosts}
    assert hosts["mx-alias.bad.test"].alias == "mail.bad.test"
    assert (hosts["mx-nowhere.bad.test"].exists, hosts["mx-nowhere.bad.test"].ipv4) == (False, False)
    assert fact(said, "SpfPolicy").open == [SpfProblem("passes-all", "bad.test", "+all", "+all lets every host send")]
    assert (fact(said, "DmarcPolicy").policy, fact(said, "DmarcPolicy").rua) == ("none", [])
    assert fact(said, "DkimKeys", "weak").bits == 1024
    assert fact(said, "DkimKeys", "revoked").revoked
    assert [found.code for found in fact(said, "DkimKeys", "broken").problems] == ["invalid-key"]
    assert ("DkimKeys", "s1") not in said
    assert fact(said, "MtaStsPolicy").unavailable == "the host mta-sts.bad.test has no address"
    assert [found.code for found in fact(said, "TlsRptPolicy").problems] == ["invalid-uri"]


@pytest.mark.parametrize(
    ("domain", "status", "problems", "counts"),
    [
        ("spf-many.bad.test", "ok", {"too-many-lookups"}, (11, 0)),
        ("spf-syntax.bad.test", "syntax-error", {"syntax", "no-all"}, (0, 0)),
        ("spf-none.bad.test", "none", {"no-record"}, (0, 0)),
        ("spf-two.bad.test", "multiple", {"multiple-records"}, (0, 0)),
        ("spf-plusall.bad.test", "ok", {"passes-all"}, (0, 0)),
        ("spf-neutral.bad.test", "ok", set(), (1, 0)),
        ("spf-void.bad.test", "ok", {"name-not-found", "too-many-void-lookups"}, (3, 3)),
        ("spf-include.bad.test", "ok", {"name-not-found"}, (1, 1)),
    ],
)
def test_spf_with_everything_that_it_includes(
    domain: str, status: str, problems: set[str], counts: tuple[int, int]
) -> None:
    spf = fact(parse(domain, recorded(domain)), "SpfPolicy")
    assert (spf.status, {problem.code for problem in spf.problems}) == (status, problems)
    assert ((spf.lookups, spf.void_lookups), spf.unanswered) == (counts, [])


def test_dmarc_of_the_organisational_domain_is_for_a_name_without_its_own() -> None:
    inherited = fact(parse("nomail.good.test", recorded("nomail.good.test")), "DmarcPolicy")
    assert (inherited.domain, inherited.policy) == ("good.test", "reject")
    own = fact(parse("spf-syntax.bad.test", recorded("spf-syntax.bad.test")), "DmarcPolicy")
    assert (own.domain, own.policy) == ("spf-syntax.bad.test", "")
    two = fact(parse("spf-two.bad.test", recorded("spf-two.bad.test")), "DmarcPolicy")
    assert (len(two.records), two.policy) == (2, "")


def test_a_domain_that_takes_no_mail_and_one_without_any_records() -> None:
    null = parse("nomail.good.test", recorded("nomail.good.test"))
    assert fact(null, "MailExchange") == MailExchange(exists=True, null=True, hosts=[])
    assert not fact(null, "DkimSelectors").exists
    bare = parse("lame.test", recorded("lame.test"))
    assert fact(bare, "MailExchange") == MailExchange(exists=True, null=False, hosts=[])
    assert (fact(bare, "SpfPolicy").status, fact(bare, "DmarcPolicy").records) == ("none", [])


def test_of_a_domain_that_does_not_exist_nothing_else_is_said() -> None:
    said = parse("no-such-domain.test", recorded("no-such-domain.test"))
    assert list(said) == [("MailExchange", "")]
    assert fact(said, "MailExchange") == MailExchange(exists=False, null=False, hosts=[])


@pytest.mark.parametrize(
    ("question", "unmeasured"),
    [
        ("MX good.test", {("MailExchange", "")}),
        ("TXT good.test", {("SpfPolicy", "")}),
        ("TXT _dmarc.good.test", {("DmarcPolicy", "")}),
        ("TXT s1._domainkey.good.test", {("DkimKeys", "s1")}),
        ("TXT none._domainkey.good.test", {("DkimKeys", "none")}),
        ("TXT _mta-sts.good.test", {("MtaStsRecord", ""), ("MtaStsPolicy", "")}),
        ("TXT _smtp._tls.good.test", {("TlsRptPolicy", "")}),
    ],
)
def test_a_question_without_an_answer_leaves_only_its_part_unmeasured(
    question: str, unmeasured: set[tuple[str, str]]
) -> None:
    evidence = recorded("good.test")
    whole, said = parse("good.test", evidence), parse("good.test", without(evidence, question))
    assert gaps(said) == dict.fromkeys(unmeasured, SILENT)
    assert set(said) == set(whole) | unmeasured
    # SPF's mx asks for the MX records too.
    changed = unmeasured | ({("SpfPolicy", "")} if question == "MX good.test" else set())
    for place in set(whole) - changed:
        assert said[place] == whole[place]


def test_a_part_of_the_spf_policy_without_an_answer_is_named() -> None:
    said = parse("good.test", without(recorded("good.test"), "AAAA mail.good.test", "A mail.good.test"))
    assert gaps(said) == {}
    assert fact(said, "SpfPolicy").unanswered == ["A mail.good.test", "AAAA mail.good.test"]
    (host,) = fact(said, "MailExchange").hosts
    assert (host.ipv4, host.ipv6, host.problem) == (None, None, SILENT)


def test_the_name_above_the_selectors_is_needed_only_without_a_selector() -> None:
    question = "TXT _domainkey.good.test"
    assert fact(parse("good.test", without(recorded("good.test"), question)), "DkimSelectors").exists
    question = "TXT _domainkey.lame.test"
    assert gaps(parse("lame.test", without(recorded("lame.test"), question))) == {("DkimSelectors", ""): SILENT}


def with_policy(*parts: Part) -> Evidence:
    kept = [part for part in recorded("good.test").parts if part.name != "policy"]
    return Evidence((*kept, *parts))


def response(status: int, body: bytes = b"") -> Part:
    return HttpReply("https://mta-sts.good.test/", "192.0.2.1", status, (), body).part("policy")


@pytest.mark.parametrize("status", [301, 404])
def test_a_policy_file_that_is_not_there(status: int) -> None:
    sts = fact(parse("good.test", with_policy(response(status))), "MtaStsPolicy")
    assert (sts.unavailable, sts.valid) == (f"it answers with status {status}", False)


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (
            response(503),
            "https://mta-sts.good.test/.well-known/mta-sts.txt answered with status 503",
        ),
        (Part("policy-failed", b"", {"reason": "it was refused"}), "it was refused"),
        (Part("policy", b"\xc1"), "the recorded response can't be read (DecodeError)"),
    ],
)
def test_a_policy_file_that_could_not_be_read_is_not_measured(part: Part, reason: str) -> None:
    said = parse("good.test", with_policy(part))
    assert gaps(said) == {("MtaStsPolicy", ""): reason}
    assert fact(said, "MtaStsRecord").id


def test_an_answer_that_was_not_recorded_is_not_measured() -> None:
    said = parse("good.test", Evidence())
    assert set(gaps(said)) == {
        (kind, "")
        for kind in (
            "MailExchange", "SpfPolicy", "DmarcPolicy", "DkimSelectors", "MtaStsRecord", "MtaStsPolicy", "TlsRptPolicy",
        )
    }  # fmt: skip
    evidence = recorded("spf-include.bad.test")
    kept = tuple(part for part in evidence.parts if part.notes.get("of") != "nothing.bad.test")
    said = parse("spf-include.bad.test", Evidence(kept))
    assert "No TXT answer for 'nothing.bad.test' was recorded" in gaps(said)["SpfPolicy", ""]


# --- fetching --------------------------------------------------------------------------------------------------------


class Zone:
    """A net that answers DNS questions out of a table, and no other."""

    vantage = "internet"
    known: Mapping[str, Any] = {}

    def __init__(self, records: Iterable[str], *, options: Mapping[str, Any], silent: Iterable[str] = ()) -> None:
        self.options = options
        self.records = [record.split(None, 2) for record in records]
        self.silent = set(silent)
        self.asked: list[tuple[str, str]] = []

    async def dns(self, name: str, rdtype: str, **_: Any) -> DnsReply:
        self.asked.append((name, rdtype))
        if f"{rdtype} {name}" in self.silent:
            return DnsReply(name, rdtype, "192.0.2.53", b"", SILENT)
        answer = dns.message.make_response(dns.message.make_query(name, rdtype))
        if not any(record[0].endswith(name) for record in self.records):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        for owner, type_, data in self.records:
            if (owner, type_) == (name, rdtype):
                answer.answer.append(dns.rrset.from_text(owner, 300, "IN", type_, data))
        return DnsReply(name, rdtype, "192.0.2.53", answer.to_wire())


def fetch(domain: str, net: Zone) -> Evidence:
    return asyncio.run(MailPolicyScanner().fetch(Hostname(domain), net))  # type: ignore[arg-type]


def test_the_selectors_are_those_of_the_options_and_each_question_is_asked_once() -> None:
    zone = Zone(
        ["example.org. MX 10 mx.example.org.", 'example.org. TXT "v=spf1 mx a:mx.example.org -all"',
         "mx.example.org. A 192.0.2.1", 'a.b._domainkey.example.org. TXT "v=DKIM1; p="'],
        options={"selectors": ["a.b", "bad..label", "x" * 64]},
    )  # fmt: skip
    evidence = fetch("example.org", zone)
    assert len(zone.asked) == len(set(zone.asked))
    said = parse("example.org", evidence)
    assert fact(said, "DkimKeys", "a.b").revoked
    assert set(gaps(said)) == {("DkimKeys", "bad..label"), ("DkimKeys", "x" * 64)}
    assert fact(said, "SpfPolicy").lookups == 2


def test_a_domain_of_which_nothing_answers_fails_the_scan() -> None:
    class Silent(Zone):
        async def dns(self, name: str, rdtype: str, **_: Any) -> DnsReply:
            return DnsReply(name, rdtype, "192.0.2.53", b"", SILENT)

    with pytest.raises(NotReached, match=SILENT):
        fetch("example.org", Silent([], options={}))


def test_a_policy_of_dead_names_is_given_up() -> None:
    names = [f"dead{number}.example.org" for number in range(20)]
    terms = " ".join(f"include:{name}" for name in names)
    record = " ".join(f'"{piece}"' for piece in (f"v=spf1 {terms} -all"[i : i + 250] for i in range(0, 600, 250)))
    silent = [f"TXT {name}." for name in names]
    zone = Zone([f"example.org. TXT {record}"], options={"selectors": []}, silent=silent)
    evidence = fetch("example.org", zone)
    assert [name for name, _ in zone.asked if name.startswith("dead")] == [f"{name}." for name in names[:5]]
    assert len(fact(parse("example.org", evidence), "SpfPolicy").unanswered) == 20


def test_other_domains_are_asked_whether_they_take_reports() -> None:
    to = "mailto:a@example.org,mailto:a@www.example.org,mailto:a@yes.example,mailto:a@no.example!10m"
    zone = Zone(
        ["example.org. A 192.0.2.1", f'_dmarc.example.org. TXT "v=DMARC1; p=none; rua={to}; ruf=mailto:a@dead.example"',
         'example.org._report._dmarc.yes.example. TXT "v=DMARC1"'],
        options={"selectors": []}, silent=["TXT example.org._report._dmarc.dead.example."],
    )  # fmt: skip
    said = parse("example.org", fetch("example.org", zone))
    assert fact(said, "DmarcPolicy").unwilling == ["no.example"]
    assert gaps(said) == {("DmarcPolicy", "dead.example"): SILENT}
    asked = sorted(name for name, _ in zone.asked if "_report" in name)
    assert asked == [f"example.org._report._dmarc.{domain}.example." for domain in ("dead", "no", "yes")]


# --- what is hostile -------------------------------------------------------------------------------------------------


def spf_of(record: str, *more: str) -> Any:
    zone = Zone([f'example.org. TXT "{record}"', *more], options={"selectors": []})
    return fact(parse("example.org", fetch("example.org", zone)), "SpfPolicy")


@pytest.mark.parametrize(
    ("record", "more", "terms"),
    [
        ("v=spf1 include:a.example -all", ['a.example. TXT "v=spf1 +all"'], [("a.example", "+all")]),
        ("v=spf1 redirect=a.example", ['a.example. TXT "v=spf1 all"'], [("a.example", "all")]),
        ("v=spf1 -include:a.example -all", ['a.example. TXT "v=spf1 +all"'], []),
        ("v=spf1 -all include:a.example", ['a.example. TXT "v=spf1 +all"'], []),
        ("v=spf1 ip4:0.0.0.0/0 -all", [], [("example.org", "ip4:0.0.0.0/0")]),
        (
            "v=spf1 ip4:0.0.0.0/1 ip4:128.0.0.0/1 -all",
            [],
            [("example.org", "ip4:0.0.0.0/1"), ("example.org", "ip4:128.0.0.0/1")],
        ),
        ("v=spf1 ip6:::/0 ip4:10.0.0.0/8 ~all", [], [("example.org", "ip6:::/0")]),
        ("v=spf1 include:b.example -all", ['b.example. TXT "v=spf1 include:example.org -all"'], []),
    ],
)
def test_terms_by_which_every_host_may_send(record: str, more: list[str], terms: list[tuple[str, str]]) -> None:
    assert [(term.domain, term.term) for term in spf_of(record, *more).open] == terms


@pytest.mark.parametrize("content", [b"", b"\x00" * 12, b"\xff" * 40])
def test_bytes_that_are_no_answer_are_a_problem(content: bytes) -> None:
    reading = read(Part("dns", content, {"rdtype": "TXT", "of": "example.org"}))
    assert reading.problem
    assert reading.answer().failed


NAMES = sorted(path.stem.partition("--")[::2] for path in RECORDED.glob("*.evidence"))


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_reading_never_raises_whatever_the_evidence_says(data: st.DataObject) -> None:
    scanned_by, name = data.draw(st.sampled_from(NAMES))
    parts = list(recorded(name, scanned_by).parts)
    for _ in range(data.draw(st.integers(1, 6))):
        if not parts:
            break
        index = data.draw(st.integers(0, len(parts) - 1))
        parts[index] = data.draw(st.sampled_from([_cut, _flipped, _replaced, _without_notes]))(parts[index], data)
    for scanner in (MailPolicyScanner(), SmtpBannerScanner()):
        for entry in scanner.parse(Hostname(name), Evidence(tuple(parts))):
            assert isinstance(entry, Found | NotMeasured)
            if isinstance(entry, Found):
                assert isinstance(entry.fact, Fact)


def _cut(part: Part, data: st.DataObject) -> Part:
    return Part(part.name, part.content[: data.draw(st.integers(0, len(part.content)))], part.notes)


def _flipped(part: Part, data: st.DataObject) -> Part:
    content = bytearray(part.content)
    if content:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    return Part(part.name, bytes(content), part.notes)


def _replaced(part: Part, data: st.DataObject) -> Part:
    return Part(part.name, data.draw(st.binary(max_size=200)), part.notes)


def _without_notes(part: Part, data: st.DataObject) -> Part:
    notes = dict(part.notes)
    for note in data.draw(st.sets(st.sampled_from(sorted(notes)))) if notes else ():
        notes[note] = data.draw(st.none() | st.integers() | st.text(max_size=20) | st.lists(st.none(), max_size=2))
    return Part(part.name, part.content, notes)


@pytest.mark.parametrize("content", [b"", b"null", b"{}", b"[1, null]", b"\xff", b"[" * 100_000])
def test_a_list_of_selectors_that_is_none(content: bytes) -> None:
    kept = [part for part in recorded("lame.test").parts if part.name != "selectors"]
    said = parse("lame.test", Evidence((*kept, Part("selectors", content))))
    assert fact(said, "DkimSelectors").asked == []
