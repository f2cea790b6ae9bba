"""SPF beyond the published suite: the static analysis, the limits, the parser on any text, both drivers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import get_args

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kattegat.plugins.mail.questions import Status
from kattegat.plugins.mail.spf import (
    Answer,
    Limits,
    Mechanism,
    Modifier,
    NotRecorded,
    Policy,
    Question,
    Record,
    Result,
    SpfSyntaxError,
    analyse,
    check_host,
    join_texts,
    parse,
    recorded,
    run,
    run_async,
)
from kattegat.plugins.mail.spf_macro import expand, parse_macro_string, target_name
from kattegat.plugins.mail.spf_policy import MAX_QUESTIONS, MAX_RECORDS

NXDOMAIN = Answer("nxdomain")


def zone(entries: Mapping[str, str | list[str] | Answer]) -> dict[tuple[str, str], Answer]:
    """Answers from 'NAME TYPE' to a record, a list of records, or an Answer."""
    answers: dict[tuple[str, str], Answer] = {}
    for key, value in entries.items():
        name, rdtype = key.split(" ")
        if not isinstance(value, Answer):
            texts = [value] if isinstance(value, str) else value
            if rdtype == "TXT":
                value = Answer("ok", texts=join_texts([text.encode("latin-1")] for text in texts))
            else:
                value = Answer("ok" if texts else "nodata", tuple(texts))
        answers[name, rdtype] = value
    return answers


def policy(entries: Mapping[str, str | list[str] | Answer], domain: str = "example.org") -> Policy:
    return run(analyse(domain), recorded(zone(entries)))


def codes(found: Policy) -> list[str]:
    return [problem.code for problem in found.problems]


def check(
    entries: Mapping[str, str | list[str] | Answer], ip: str = "192.0.2.1", sender: str = "joe@example.org"
) -> Result:
    domain = sender.rpartition("@")[2]
    return run(check_host(ip, domain, sender, "mail.example.org"), recorded(zone(entries)))


# --- analysis


def test_a_sound_policy_has_no_problems_and_its_lookups_are_counted_over_the_whole_tree() -> None:
    found = policy(
        {
            "example.org TXT": ["unrelated", "v=spf1 a mx:example.net include:_spf.example.net ip4:192.0.2.0/24 -all"],
            "example.org A": "192.0.2.1",
            "example.org AAAA": [],
            "example.net MX": ["mx.example.net"],
            "mx.example.net A": [],
            "mx.example.net AAAA": "2001:db8::1",
            "_spf.example.net TXT": "v=spf1 a:mx.example.net exists:list.example.net ~all",
            "list.example.net A": "127.0.0.2",
        }
    )
    assert found.problems == ()
    assert (found.status, found.lookups, found.void_lookups, found.exact, found.measured) == ("ok", 5, 0, True, True)
    assert found.all_qualifier == "-"
    assert [record.domain for record in found.records] == ["example.org", "_spf.example.net"]
    terms = found.records[0].terms
    assert [(term.text, term.target, term.lookup) for term in terms] == [
        ("a", "example.org", True),
        ("mx:example.net", "example.net", True),
        ("include:_spf.example.net", "_spf.example.net", True),
        ("ip4:192.0.2.0/24", None, False),
        ("-all", None, False),
    ]
    assert [term.void for term in terms] == [False, False, False, None, None]


def test_an_included_record_counts_each_time_but_is_asked_for_once() -> None:
    asked: list[Question] = []
    answers = recorded(
        zone(
            {
                "example.org TXT": "v=spf1 include:a.example.org include:b.example.org -all",
                "a.example.org TXT": "v=spf1 include:c.example.org ~all",
                "b.example.org TXT": "v=spf1 include:c.example.org ~all",
                "c.example.org TXT": "v=spf1 exists:d.example.org ~all",
                "d.example.org A": "127.0.0.2",
            }
        )
    )

    def answer(question: Question) -> Answer:
        asked.append(question)
        return answers(question)

    found = run(analyse("Example.ORG."), answer)
    assert found.lookups == 6
    assert len(asked) == len(set(asked)) == 5


def test_eleven_lookups_are_too_many_and_ten_are_not() -> None:
    entries: dict[str, str | list[str] | Answer] = {f"n{i}.example.org A": "127.0.0.2" for i in range(11)}
    ten = " ".join(f"exists:n{i}.example.org" for i in range(10))
    assert codes(policy(entries | {"example.org TXT": f"v=spf1 {ten} -all"})) == []
    found = policy(entries | {"example.org TXT": f"v=spf1 {ten} exists:n10.example.org -all"})
    assert codes(found) == ["too-many-lookups"]
    assert found.lookups == 11


def test_names_that_hold_nothing_are_named_and_three_of_them_are_too_many() -> None:
    found = policy(
        {
            "example.org TXT": "v=spf1 a:gone.example.org mx:empty.example.org exists:void.example.org -all",
            "gone.example.org A": NXDOMAIN,
            "gone.example.org AAAA": NXDOMAIN,
            "empty.example.org MX": [],
            "void.example.org A": [],
        }
    )
    assert [(p.code, p.term) for p in found.problems] == [
        ("name-not-found", "a:gone.example.org"),
        ("no-addresses", "mx:empty.example.org"),
        ("too-many-void-lookups", ""),
    ]
    assert found.void_lookups == 3


def test_include_loops_end_and_are_reported_with_their_path() -> None:
    found = policy(
        {
            "example.org TXT": "v=spf1 include:a.example.org -all",
            "a.example.org TXT": "v=spf1 include:example.org ~all",
        }
    )
    assert [(p.code, p.domain, p.detail) for p in found.problems] == [
        ("include-loop", "a.example.org", "example.org -> a.example.org -> example.org")
    ]


def test_every_syntax_error_is_reported_with_its_term_and_the_rest_is_still_walked() -> None:
    found = policy(
        {
            "example.org TXT": "v=spf1 ipv4:192.0.2.1 ip4:192.0.2.300 include:a.example.org -al",
            "a.example.org TXT": "v=spf1 ip4:192.0.2.0/33 -all",
        }
    )
    assert [(p.domain, p.term) for p in found.problems if p.code == "syntax"] == [
        ("example.org", "ipv4:192.0.2.1"),
        ("example.org", "ip4:192.0.2.300"),
        ("example.org", "-al"),
        ("a.example.org", "ip4:192.0.2.0/33"),
    ]
    assert found.status == "syntax-error"
    assert "over 32" in found.records[1].terms[0].error
    assert found.records[0].terms[0].parsed is None


def test_two_records_are_reported_with_both_texts() -> None:
    found = policy({"example.org TXT": ["v=spf1 -all", "V=SPF1 a"]})
    assert codes(found) == ["multiple-records"]
    assert found.records[0].texts == ("v=spf1 -all", "V=SPF1 a")


@pytest.mark.parametrize("answer", [NXDOMAIN, Answer("nodata"), Answer("ok", texts=(b"v=spf10 -all", b"v=spf1\t-all"))])
def test_no_record(answer: Answer) -> None:
    found = policy({"example.org TXT": answer})
    assert (found.status, codes(found)) == ("none", ["no-record"])


def test_targets_without_a_record() -> None:
    found = policy(
        {
            "example.org TXT": "v=spf1 include:gone.example.org include:plain.example.org redirect=two.example.org",
            "gone.example.org TXT": NXDOMAIN,
            "plain.example.org TXT": "hello",
            "two.example.org TXT": ["v=spf1 -all", "v=spf1 -all"],
        }
    )
    assert [(p.code, p.domain) for p in found.problems] == [
        ("name-not-found", "example.org"),
        ("no-record", "example.org"),
        ("multiple-records", "two.example.org"),
    ]
    assert found.all_qualifier is None


def test_what_dns_did_not_answer_is_not_measured_rather_than_missing() -> None:
    found = policy(
        {
            "example.org TXT": "v=spf1 a:slow.example.org include:down.example.org -all",
            "slow.example.org A": Answer("timeout"),
            "slow.example.org AAAA": [],
            "down.example.org TXT": Answer("servfail"),
        }
    )
    assert set(codes(found)) == {"not-measured"}
    assert found.unanswered == (Question("slow.example.org", "A"), Question("down.example.org", "TXT"))
    assert not found.measured
    assert not found.exact
    assert found.records[1].status == "not-measured"
    assert policy({"example.org TXT": Answer("timeout")}).status == "not-measured"


def test_macros_of_the_message_are_marked_and_those_of_the_domain_are_followed() -> None:
    found = policy(
        {
            "example.org TXT": "v=spf1 include:%{ir}.list.example.org include:_spf.%{d} ptr -all",
            "_spf.example.org TXT": "v=spf1 exists:%{d}.of.%{o} ~all",
            "_spf.example.org.of.example.org A": "127.0.0.2",
        }
    )
    dependent, followed, ptr, _all = found.records[0].terms
    assert (dependent.sender_dependent, dependent.target) == (True, None)
    assert (followed.sender_dependent, followed.target) == (False, "_spf.example.org")
    assert ptr.sender_dependent
    assert (found.lookups, found.exact) == (4, False)
    assert codes(found) == ["uses-ptr"]


def test_redirect_takes_the_all_of_its_target_and_has_no_effect_beside_an_all() -> None:
    target = {"b.example.org TXT": "v=spf1 ip4:192.0.2.1 ~all"}
    assert policy({"example.org TXT": "v=spf1 redirect=b.example.org", **target}).all_qualifier == "~"
    found = policy({"example.org TXT": "v=spf1 redirect=b.example.org ?all a:x.example.org"})
    assert (found.all_qualifier, found.lookups) == ("?", 0)
    assert codes(found) == ["redirect-ignored", "never-reached"]


def test_ends_of_a_policy() -> None:
    assert codes(policy({"example.org TXT": "v=spf1 ip4:192.0.2.1"})) == ["no-all"]
    assert codes(policy({"example.org TXT": "v=spf1 all"})) == ["passes-all"]


def test_unknown_modifiers_and_long_records_are_remarked() -> None:
    found = policy({"example.org TXT": "v=spf1 ip4=192.0.2.1 " + "ip4:192.0.2.100 " * 30 + "-all"})
    assert codes(found) == ["record-too-long", "unknown-modifier"]
    assert "was ip4: meant?" in found.problems[1].detail


def test_mx_hosts_over_ten_and_without_address() -> None:
    hosts = [f"mx{i}.example.org" for i in range(11)]
    entries: dict[str, str | list[str] | Answer] = {f"{host} A": "192.0.2.9" for host in hosts}
    entries |= {f"{host} AAAA": NXDOMAIN for host in hosts}
    entries |= {"example.org TXT": "v=spf1 mx -all", "example.org MX": hosts, "mx3.example.org A": NXDOMAIN}
    found = policy(entries)
    assert [(p.code, p.detail.split("'")[1]) for p in found.problems] == [
        ("too-many-mx", "example.org"),
        ("name-not-found", "mx3.example.org"),
    ]
    assert found.void_lookups == 1


def test_a_policy_without_end_is_cut_off() -> None:
    def chain(question: Question) -> Answer:
        number = int(question.name.split(".")[0][1:])
        return Answer("ok", texts=(f"v=spf1 include:n{number + 1}.example.org -all".encode(),))

    found = run(analyse("n0.example.org"), chain)
    assert len(found.records) == MAX_RECORDS
    assert not found.exact
    assert codes(found) == ["too-large", "too-many-lookups"]
    many = " ".join(f"exists:n{i}.example.org" for i in range(MAX_QUESTIONS + 50))
    asked: list[Question] = []

    def count(question: Question) -> Answer:
        asked.append(question)
        if question.rdtype == "TXT":
            return Answer("ok", texts=(f"v=spf1 {many} -all".encode(),))
        return Answer("ok", ("127.0.0.2",))

    assert "too-large" in codes(run(analyse("example.org"), count))
    assert len(asked) == MAX_QUESTIONS


def test_a_domain_that_cannot_be_one_is_not_asked_for() -> None:
    assert codes(policy({}, "localhost")) == ["no-record"]


def test_a_policy_survives_msgspec() -> None:
    found = policy({"example.org TXT": "v=spf1 ip6:2001:db8::/32 exp=why.%{d} -all x=y"})
    assert msgspec.json.decode(msgspec.json.encode(found), type=Policy) == found


# --- evaluation


def test_an_answer_that_was_not_recorded_is_not_taken_for_an_absent_name() -> None:
    with pytest.raises(NotRecorded, match=r"'a\.example\.org'") as caught:
        check({"example.org TXT": "v=spf1 a:a.example.org -all"})
    assert caught.value.question == Question("a.example.org", "A")


def test_the_async_driver_gives_the_same_result() -> None:
    answers = recorded(zone({"example.org TXT": "v=spf1 ip4:192.0.2.1 -all"}))

    async def ask(question: Question) -> Answer:
        await asyncio.sleep(0)
        return answers(question)

    result = asyncio.run(run_async(check_host("192.0.2.1", "example.org", "joe@example.org", "h"), ask))
    assert result == run(check_host("192.0.2.1", "example.org", "joe@example.org", "h"), answers)
    assert result.result == "pass"


def test_a_temperror_names_the_question_behind_it() -> None:
    result = check({"example.org TXT": "v=spf1 a -all", "example.org A": Answer("servfail")})
    assert (result.result, result.failed) == ("temperror", Question("example.org", "A"))


def test_an_mx_term_is_one_void_lookup_however_many_hosts_lack_the_address_family() -> None:
    entries: dict[str, str | list[str] | Answer] = {
        "example.org TXT": "v=spf1 mx ip6:2001:db8::1 -all",
        "example.org MX": ["a.example.org", "b.example.org", "c.example.org"],
    }
    entries |= {f"{host}.example.org AAAA": [] for host in "abc"}
    result = check(entries, ip="2001:db8::1")
    assert (result.result, result.lookups, result.void_lookups) == ("pass", 1, 1)
    assert [(step.term, step.matched) for step in result.trace] == [("mx", False), ("ip6:2001:db8::1", True)]


def test_limits_can_be_changed() -> None:
    answers = recorded(zone({"example.org TXT": "v=spf1 a -all", "example.org A": []}))
    strict = check_host("192.0.2.1", "example.org", "", "example.org", limits=Limits(voids=0))
    assert run(strict, answers).result == "permerror"


def test_a_local_part_outside_ascii_never_matches_a_term_that_uses_it() -> None:
    record = {"example.org TXT": "v=spf1 exists:%{L}.u.example.org include:%{l}.u.example.org -all"}
    assert check(record, sender="jürgen@example.org").result == "fail"


def test_an_internationalised_domain_is_asked_for_in_its_ascii_form() -> None:
    entries = {"xn--mller-kva.example TXT": "v=spf1 exists:%{o}.example.org -all"}
    entries["xn--mller-kva.example.example.org A"] = "127.0.0.2"
    assert check(entries, sender="joe@müller.example").result == "pass"
    assert check({}, sender=f"joe@{'ü' * 80}.example").result == "none"


PTR = "1.2.0.192.in-addr.arpa PTR"


def test_ptr_matches_names_below_the_target_that_point_back_and_no_look_alikes() -> None:
    entries = {"example.org TXT": "v=spf1 ptr -all", "a.example.org A": "192.0.2.1", "notexample.org A": "192.0.2.1"}
    assert check(entries | {PTR: "A.Example.org"}).result == "pass"
    assert check(entries | {PTR: "notexample.org"}).result == "fail"
    assert check(entries | {PTR: "a.example.org", "a.example.org A": "192.0.2.2"}).result == "fail"
    assert check({**entries, PTR: Answer("timeout")}).result == "fail"


def test_of_a_reverse_lookup_ten_names_are_looked_at() -> None:
    entries: dict[str, str | list[str] | Answer] = {f"n{i}.example.net A": "192.0.2.7" for i in range(10)}
    entries |= {"example.org TXT": "v=spf1 ptr -all", "a.example.org A": "192.0.2.1"}
    others = [f"n{i}.example.net" for i in range(10)]
    assert check(entries | {PTR: [*others[1:], "a.example.org"]}).result == "pass"
    assert check(entries | {PTR: [*others, "a.example.org"]}).result == "fail"


def test_lookups_for_the_explanation_do_not_count() -> None:
    entries: dict[str, str | list[str] | Answer] = {"x.example.org A": [], "y.example.org A": []}
    entries |= {"example.org TXT": "v=spf1 a:x.%{d} a:y.%{d} a:z.%{d} -all exp=why.%{d}", PTR: NXDOMAIN}
    entries |= {"z.example.org A": "192.0.2.7"}
    result = check(entries | {"why.example.org TXT": "%{p} at %{t}, says %{r}"})
    assert (result.explanation, result.lookups, result.void_lookups) == ("unknown at 0, says unknown", 3, 2)


def test_an_invalid_address_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'192\.0\.2' does not appear"):
        check({}, ip="192.0.2")


# --- parser

# A loaded machine must not fail a test.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
TERMS = st.lists(
    st.sampled_from(
        [
            "all",
            "-all",
            "+ALL",
            "~include:a.b",
            "a",
            "a/24",
            "a//64",
            "a/24//64",
            "a:x.y/8",
            "mx:",
            "mx/33",
            "ptr",
            "ptr/1",
            "ip4:1.2.3.4/0",
            "ip4:1.2.3.4/",
            "ip6:::1/128",
            "ip6:fe80::1%1",
            "exists:%{ir}.%{L2r+-}.x.y",
            "exists:%{x}",
            "exists:%{d0}.a.b",
            "%%",
            "a:%%.%_%-.c.d",
            "redirect=%{d}",
            "redirect=x.y",
            "exp=%{o}",
            "exp=",
            "foo=%{l}bar",
            "foo=%",
            "=x",
            "a:b/c.d/7",
            "a:%{d}/7",
            "a:1.2.3.4",
            "a:x.1-2",
            "a:x.-y",
            "1up=x",
            "k=v",
            "\x00",
            "é",
        ]
    )
    | st.text(st.characters(codec="latin-1"), max_size=12)
    | st.text("%{}slodiphvcrt0123456789r.-+,/_=:aA*?~", max_size=24),
    max_size=8,
)


@UNTIMED
@given(TERMS)
@example(["\u212a=x"])
@example(["a:" + "a" * 20000 + "_"])
@example(["a:a." + "1" * 20000 + "_"])
@example(["a" + "/1" * 20000])
def test_any_text_parses_or_raises_the_typed_error_and_what_parses_prints_to_an_equal_record(terms: list[str]) -> None:
    text = " ".join(["v=spf1", *terms])
    try:
        record = parse(text)
    except SpfSyntaxError:
        return
    assert parse(str(record)) == record
    assert parse(str(record).encode("ascii")) == record


@UNTIMED
@given(st.binary(max_size=60) | st.text(max_size=60))
def test_any_octets_parse_or_raise_the_typed_error(data: bytes | str) -> None:
    with contextlib.suppress(SpfSyntaxError):
        parse(data)


@UNTIMED
@given(TERMS, st.sampled_from(get_args(Status)), st.booleans())
def test_analysis_and_evaluation_of_any_record_end_with_a_result(terms: list[str], status: Status, six: bool) -> None:
    record = " ".join(["v=spf1", *terms]).encode("utf-8", "replace")

    def answer(question: Question) -> Answer:
        assert question.name == question.name.lower()
        assert question.labels
        if question.rdtype == "TXT":
            return Answer("ok", texts=(record,))
        if status != "ok":
            return Answer(status)
        address = {"A": "192.0.2.1", "AAAA": "2001:db8::1"}
        return Answer("ok", (address.get(question.rdtype, "host.example.org"),))

    assert run(analyse("example.org"), answer).status in ("ok", "syntax-error", "none")
    ip = "2001:db8::1" if six else "192.0.2.1"
    result = run(check_host(ip, "example.org", "joe@example.org", "helo.example.org"), answer)
    assert result.lookups <= 11


def test_parsed_terms() -> None:
    record = parse("v=spf1 a ?MX:example.net/24//64 -ip6:2001:DB8:0::/32 Redirect=_spf.%{d2} x=")
    assert record == Record(
        (
            Mechanism("a"),
            Mechanism("mx", "?", "example.net", prefix4=24, prefix6=64),
            Mechanism("ip6", "-", address="2001:db8::", prefix6=32),
            Modifier("redirect", "_spf.%{d2}"),
            Modifier("x", ""),
        )
    )
    assert str(record) == "v=spf1 a ?mx:example.net/24//64 -ip6:2001:db8::/32 redirect=_spf.%{d2} x="


@pytest.mark.parametrize(
    "term",
    [
        "a:%{d0}.example.org",
        "ip6:fe80::1%1",
        "ip6:1.2.3.4",
        "ip4:01.2.3.4",
        "a:%{dr5}.x.y",
        "a:%{z}.x",
        "-exp=a.b",
        "a /8",
    ],
)
def test_terms_that_break_the_syntax(term: str) -> None:
    with pytest.raises(SpfSyntaxError) as caught:
        parse(f"v=spf1 {term}")
    assert [(error.position, error.text) for error in caught.value.errors][-1][1] in term


def test_url_escapes_leave_only_unreserved_characters() -> None:
    parts = parse_macro_string("%{L} %{l}", explanation=True)
    assert expand(parts, {"l": "a/b:c-d_e.f~g"}) == "a%2Fb%3Ac-d_e.f~g a/b:c-d_e.f~g"


def test_a_name_over_253_characters_loses_labels_from_the_left() -> None:
    label = "a" * 49
    name = ".".join([label] * 6)
    assert target_name(name + ".") == ".".join([label] * 5)
    exact = ".".join(["b" * 63, "b" * 63, "b" * 63, "b" * 61])
    assert len(exact) == 253
    assert target_name(exact) == exact
    assert target_name("c." + exact[1:]) == exact[1:]  # of 254 characters
    assert target_name("a..b") is None
    assert target_name("a" * 64 + ".b") is None
    assert target_name("\u212a.b") is None
