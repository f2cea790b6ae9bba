"""Checks of mail, each by tables of facts: what passes, what fails with which items, what is unknown and why."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kattegat.plugin import Context, Fact, Facts, Fail, Hostname, Known, Pass, Unknown, Verdict, declared
from kattegat.plugins import mail
from kattegat.plugins.mail.facts import (
    DkimKeys,
    DkimSelectors,
    DmarcPolicy,
    MailExchange,
    MailHost,
    MtaStsPolicy,
    MtaStsRecord,
    SmtpCertificate,
    SmtpGreeting,
    SpfPolicy,
    SpfProblem,
    TlsRptPolicy,
)
from kattegat.plugins.mail.tags import TagProblem

HOST = Hostname("example.org")
NOW = datetime(2026, 11, 1, tzinfo=UTC)
SILENT = "the resolver did not answer"


def facts(*found: Fact, unmeasured: tuple[str, ...] = ()) -> Facts[Any]:
    known = [Known(HOST, fact, _item(fact), "mail-policy", "internet", NOW) for fact in found]
    return Facts(known, unmeasured)


def _item(fact: Fact) -> str:
    return fact.selector if isinstance(fact, DkimKeys) else fact.address if isinstance(fact, SmtpGreeting) else ""


def judge(check: Callable[..., Verdict], *needs: Facts[Any] | Fact | None) -> list[tuple[str, str]] | str:
    """The items as (key, sentence); "" for pass, the reason for unknown."""
    assert len(needs) == len(check.__check__.needs)  # type: ignore[attr-defined]
    given = [
        need if isinstance(need, Facts) else facts(*([need] if need is not None else []))
        for need in needs
    ]  # fmt: skip
    found = check(Context(HOST, NOW), *given)
    if isinstance(found, Fail):
        return [(item.key, str(item)) for item in found.items]
    assert isinstance(found, Pass | Unknown)
    return found.reason if isinstance(found, Unknown) else ""


def exchange(*hosts: MailHost, null: bool = False, exists: bool = True) -> MailExchange:
    return MailExchange(exists=exists, null=null, hosts=list(hosts))


def host(name: str = "mx.example.org", ipv4: bool | None = True, ipv6: bool | None = True, **more: Any) -> MailHost:
    return MailHost(host=name, preference=10, ipv4=ipv4, ipv6=ipv6, **more)


def spf(**fields: Any) -> SpfPolicy:
    right: dict[str, Any] = {
        "status": "ok", "records": ["v=spf1 mx -all"], "domains": ["example.org"], "lookups": 1, "void_lookups": 0,
        "exact": True, "all_qualifier": "-", "open": [], "problems": [], "unanswered": [],
    }  # fmt: skip
    return SpfPolicy(**(right | fields))


def problem(code: str, term: str = "", domain: str = "example.org", detail: str = "it is so") -> SpfProblem:
    return SpfProblem(code, domain, term, detail)


def dmarc(**fields: Any) -> DmarcPolicy:
    right: dict[str, Any] = {
        "domain": "example.org", "records": ["v=DMARC1; p=reject"], "policy": "reject", "subdomain_policy": "reject",
        "percent": 100, "adkim": "r", "aspf": "r", "rua": ["mailto:a@example.org"], "ruf": [], "unwilling": [],
        "problems": [],
    }  # fmt: skip
    return DmarcPolicy(**(right | fields))


def key(selector: str = "s1", **fields: Any) -> DkimKeys:
    right: dict[str, Any] = {
        "records": ["v=DKIM1; p=..."], "key_type": "rsa", "bits": 2048, "usable": True, "revoked": False,
        "testing": False, "problems": [],
    }  # fmt: skip
    return DkimKeys(selector=selector, **(right | fields))


def sts(**fields: Any) -> MtaStsPolicy:
    right: dict[str, Any] = {
        "url": "https://mta-sts.example.org/.well-known/mta-sts.txt", "unavailable": "", "mode": "enforce",
        "max_age": 604800, "mx": ["mx.example.org"], "valid": True, "problems": [],
    }  # fmt: skip
    return MtaStsPolicy(**(right | fields))


def sts_record(*records: str, problems: list[TagProblem] | None = None) -> MtaStsRecord:
    return MtaStsRecord(records=list(records), id="1" if len(records) == 1 else "", problems=problems or [])


def tls_rpt(*records: str, problems: list[TagProblem] | None = None) -> TlsRptPolicy:
    return TlsRptPolicy(records=list(records), rua=[], problems=problems or [])


HINT = "selectors can't be listed, and {} (name yours in the option mail-policy.selectors)"


def greeting(address: str = "192.0.2.1", **fields: Any) -> SmtpGreeting:
    right: dict[str, Any] = {
        "banner": "mx ESMTP", "extensions": ["STARTTLS"], "starttls": True, "tls_problem": "",
        "tls_version": "TLSv1.3", "cipher_suite": "TLS_AES_128_GCM_SHA256", "chain": [SmtpCertificate("00", "")],
        "trust": "trusted", "name_matches": True, "names": ["mx.example.org"], "tlsa": False,
    }  # fmt: skip
    return SmtpGreeting(address=address, **(right | fields))


UNANSWERED = {"unanswered": ["TXT _spf.example.net"]}
GAP = "the look-up TXT _spf.example.net got no answer"
SPF_CHECKS = [
    mail.spf_missing, mail.spf_multiple, mail.spf_invalid, mail.spf_too_many_lookups, mail.spf_void_lookups,
    mail.spf_permissive, mail.spf_neutral, mail.spf_ptr, mail.spf_include_broken, mail.spf_idle_terms,
]  # fmt: skip


@pytest.mark.parametrize("check", SPF_CHECKS)
def test_spf_passes_for_what_is_right_and_for_a_domain_that_does_not_exist(check: Callable[..., Verdict]) -> None:
    assert judge(check, spf()) == ""
    assert judge(check, None) == ""


@pytest.mark.parametrize("check", [check for check in SPF_CHECKS if check is not mail.spf_missing])
def test_no_spf_record_is_one_finding_only(check: Callable[..., Verdict]) -> None:
    none = spf(status="none", records=[], lookups=0, all_qualifier="", problems=[problem("no-record")])
    assert judge(check, none) == ""


@pytest.mark.parametrize(
    ("check", "fact", "expected"),
    [
        (mail.spf_missing, spf(status="none", records=[]), [("spf", "there is no SPF record")]),
        (mail.spf_missing, spf(status="syntax-error"), ""),
        (
            mail.spf_multiple,
            spf(status="multiple", records=["v=spf1 a", "v=spf1 mx"], all_qualifier=""),
            [("multiple", "there are 2 SPF records")],
        ),
        (
            mail.spf_invalid,
            spf(
                status="syntax-error",
                problems=[
                    problem("syntax", "ipv4:1.2.3.4", detail="there is no mechanism 'ipv4'"),
                    problem("syntax", "ipv4:1.2.3.4", detail="there is no mechanism 'ipv4'"),
                    problem("syntax", "-alll", "_spf.example.net", "there is no mechanism 'alll'"),
                ],
            ),
            [
                (
                    "example.org ipv4:1.2.3.4",
                    "in the record of example.org, ipv4:1.2.3.4: there is no mechanism 'ipv4'",
                ),
                ("_spf.example.net -alll", "in the record of _spf.example.net, -alll: there is no mechanism 'alll'"),
            ],
        ),
        (mail.spf_invalid, spf(**UNANSWERED), GAP),
        (mail.spf_too_many_lookups, spf(lookups=10, exact=False), ""),
        (
            mail.spf_too_many_lookups,
            spf(lookups=11, **UNANSWERED),
            [("lookups", "up to 11 terms need DNS look-ups, 10 are allowed")],
        ),
        (mail.spf_too_many_lookups, spf(lookups=10, **UNANSWERED), GAP),
        (mail.spf_too_many_lookups, spf(problems=[problem("too-large")]), "the policy has more records than are read"),
        (mail.spf_void_lookups, spf(void_lookups=2), ""),
        (
            mail.spf_void_lookups,
            spf(void_lookups=3),
            [("void", "3 terms look up names that hold nothing, 2 are allowed")],
        ),
        (mail.spf_void_lookups, spf(**UNANSWERED), GAP),
        (
            mail.spf_permissive,
            spf(all_qualifier="+", open=[problem("passes-all", "+all", detail="+all lets every host send")]),
            [("example.org +all", "in the record of example.org: +all lets every host send")],
        ),
        (mail.spf_permissive, spf(status="syntax-error", open=[problem("passes-all", "+all")]), ""),
        (mail.spf_permissive, spf(**UNANSWERED), GAP),
        (mail.spf_neutral, spf(all_qualifier="~"), ""),
        (mail.spf_neutral, spf(all_qualifier="?"), [("?all", "the policy ends in ?all")]),
        (
            mail.spf_neutral,
            spf(all_qualifier="", problems=[problem("no-all")]),
            [("no all", "the policy does not end in an all")],
        ),
        (mail.spf_neutral, spf(all_qualifier="", **UNANSWERED), GAP),
        (mail.spf_neutral, spf(all_qualifier=""), "where the policy ends depends on the sender"),
        (mail.spf_neutral, spf(all_qualifier="-", **UNANSWERED), ""),
        (
            mail.spf_ptr,
            spf(problems=[problem("uses-ptr", "ptr")]),
            [("example.org ptr", "in the record of example.org: it is so")],
        ),
        (mail.spf_ptr, spf(**UNANSWERED), GAP),
        (
            mail.spf_include_broken,
            spf(
                problems=[
                    problem("name-not-found", "?include:gone.example", detail="'gone.example' does not exist"),
                    problem("name-not-found", "a:gone.example"),
                    problem("no-record", "redirect=none.example", detail="'none.example' has no SPF record"),
                    problem("include-loop", "include:example.org", detail="example.org -> example.org"),
                    problem("multiple-records", "", "two.example", "'two.example' has 2 SPF records"),
                ]
            ),
            [
                ("example.org ?include:gone.example", "in the record of example.org: 'gone.example' does not exist"),
                (
                    "example.org redirect=none.example",
                    "in the record of example.org: 'none.example' has no SPF record",
                ),
                ("example.org include:example.org", "in the record of example.org: example.org -> example.org"),
                ("two.example", "in the record of two.example: 'two.example' has 2 SPF records"),
            ],
        ),
        (mail.spf_include_broken, spf(status="multiple", problems=[problem("multiple-records")]), ""),
        (mail.spf_include_broken, spf(**UNANSWERED), GAP),
        (
            mail.spf_idle_terms,
            spf(problems=[problem("never-reached", "mx"), problem("never-reached", "mx", "_spf.example.net")]),
            [("example.org mx", "in the record of example.org: it is so")],
        ),
    ],
)
def test_spf(check: Callable[..., Verdict], fact: SpfPolicy, expected: list[tuple[str, str]] | str) -> None:
    assert judge(check, fact) == expected


WRONG_TAG = TagProblem("invalid-value", "p", "'oops' is not none, quarantine or reject")


@pytest.mark.parametrize(
    ("check", "fact", "expected"),
    [
        (mail.dmarc_missing, dmarc(), ""),
        (mail.dmarc_missing, None, ""),
        (mail.dmarc_missing, dmarc(records=[], policy=""), [("dmarc", "there is no DMARC record")]),
        (mail.dmarc_invalid, dmarc(records=[], policy=""), ""),
        (mail.dmarc_invalid, dmarc(problems=[TagProblem("unknown-tag", "x", "x= is not known and ignored")]), ""),
        (
            mail.dmarc_invalid,
            dmarc(policy="", problems=[WRONG_TAG, WRONG_TAG]),
            [("invalid-value p 'oops' is not none, quarantine or reject", WRONG_TAG.detail)],
        ),
        (
            mail.dmarc_invalid,
            dmarc(records=["v=DMARC1; p=none", "v=DMARC1; p=reject"], policy="", problems=[WRONG_TAG]),
            [("multiple", "there are 2 DMARC records, so that none counts")],
        ),
        (mail.dmarc_not_enforced, dmarc(policy="quarantine"), ""),
        (mail.dmarc_not_enforced, dmarc(policy="", subdomain_policy=""), ""),
        (
            mail.dmarc_not_enforced,
            dmarc(policy="none", subdomain_policy="none", percent=50),
            [("p", "the policy is p=none")],
        ),
        (
            mail.dmarc_not_enforced,
            dmarc(percent=50, subdomain_policy="none"),
            [
                ("pct", "the policy is applied to 50 % of the mail"),
                ("sp", "the policy for names below the domain is sp=none"),
            ],
        ),
        (mail.dmarc_no_reports, dmarc(), ""),
        (mail.dmarc_no_reports, dmarc(policy="", rua=[]), ""),
        (mail.dmarc_no_reports, dmarc(rua=[]), [("rua", "the record has no rua")]),
        (mail.dmarc_reports_unwelcome, dmarc(), ""),
        (
            mail.dmarc_reports_unwelcome,
            dmarc(unwilling=["reports.example"]),
            [("reports.example", "reports.example does not say that it takes reports")],
        ),
    ],
)
def test_dmarc(check: Callable[..., Verdict], fact: DmarcPolicy | None, expected: list[tuple[str, str]] | str) -> None:
    assert judge(check, fact) == expected


def test_whether_a_domain_takes_reports_is_unknown_without_an_answer() -> None:
    gap = f"reports.example: {SILENT}"
    assert judge(mail.dmarc_reports_unwelcome, facts(dmarc(), unmeasured=(gap,))) == gap
    assert judge(mail.dmarc_missing, facts(dmarc(), unmeasured=(gap,))) == ""


YES, NO = DkimSelectors(exists=True, asked=["s1", "s2"]), DkimSelectors(exists=False, asked=["s1", "s2"])


@pytest.mark.parametrize(
    ("where", "selectors", "keys", "expected"),
    [
        (exchange(host()), YES, facts(key()), ""),
        (exchange(host()), NO, facts(), [("dkim", "there is no name below _domainkey, so no selector")]),
        (exchange(host()), YES, facts(), HINT.format("none of the 2 selectors tried is there")),
        (exchange(host()), YES, facts(key(revoked=True)), HINT.format("all keys found are revoked")),
        (exchange(host()), YES, facts(unmeasured=(f"s2: {SILENT}",)), f"s2: {SILENT}"),
        (exchange(host()), YES, facts(key(), unmeasured=(f"s2: {SILENT}",)), ""),
        (
            exchange(host()),
            NO,
            facts(unmeasured=(SILENT,)),
            [("dkim", "there is no name below _domainkey, so no selector")],
        ),
        (exchange(null=True), NO, facts(), ""),
        (exchange(), NO, facts(), ""),
        (exchange(exists=False), None, facts(), ""),
    ],
)
def test_dkim_missing_only_where_it_is_proven(
    where: MailExchange, selectors: DkimSelectors | None, keys: Facts[Any], expected: list[tuple[str, str]] | str
) -> None:
    assert judge(mail.dkim_missing, where, selectors, keys) == expected


SHORT = TagProblem("key-short", "p", "the RSA key has 1024 bits")
TOO_SHORT = TagProblem("key-too-short", "p", "the RSA key has 512 bits")
REVOKED = TagProblem("revoked", "p", "p= is empty")
BROKEN = TagProblem("invalid-key", "p", "'!!' is not Base64")


@pytest.mark.parametrize(
    ("check", "keys", "expected"),
    [
        (mail.dkim_weak_key, [key(), key("s2", bits=1024, problems=[SHORT])], ""),
        (
            mail.dkim_weak_key,
            [key(bits=512, usable=False, problems=[TOO_SHORT])],
            [("s1", "selector s1: the key has 512 bits")],
        ),
        (mail.dkim_short_key, [key(bits=512, problems=[TOO_SHORT])], ""),
        (mail.dkim_short_key, [key(bits=1024, problems=[SHORT])], [("s1", "selector s1: the key has 1024 bits")]),
        (mail.dkim_invalid_key, [key(revoked=True, usable=False, bits=None, problems=[REVOKED])], ""),
        (mail.dkim_invalid_key, [key(bits=1024, problems=[SHORT])], ""),
        (
            mail.dkim_invalid_key,
            [key(bits=None, usable=False, problems=[BROKEN]), key("s2", records=["v=DKIM1; p=a", "p=b"])],
            [
                ("s1 invalid-key p", "selector s1: '!!' is not Base64"),
                ("s2 multiple", "selector s2 has 2 key records"),
            ],
        ),
        (mail.dkim_testing, [key(testing=True, revoked=True)], ""),
        (mail.dkim_testing, [key(testing=True)], [("s1", "selector s1 has t=y")]),
    ],
)
def test_dkim_keys(check: Callable[..., Verdict], keys: list[DkimKeys], expected: list[tuple[str, str]] | str) -> None:
    assert judge(check, facts(*keys)) == expected
    gap = f"s9: {SILENT}"
    assert judge(check, facts(*keys, unmeasured=(gap,))) == (expected or gap)


def test_mail_servers() -> None:
    hosts = exchange(
        host(),
        host("four.example", ipv6=False),
        host("alias.example", alias="mx.example.org"),
        host("none.example", ipv4=False, ipv6=False),
        host("gone.example", ipv4=False, ipv6=False, exists=False),
    )
    assert judge(mail.mx_missing_address, hosts) == [
        ("none.example", "none.example has no address"),
        ("gone.example", "gone.example does not exist"),
    ]
    assert judge(mail.mx_is_alias, hosts) == [("alias.example", "alias.example is an alias of mx.example.org")]
    assert judge(mail.mail_server_ipv6, hosts) == [("four.example", "four.example has no IPv6 address")]


@pytest.mark.parametrize("check", [mail.mx_missing_address, mail.mx_is_alias, mail.mail_server_ipv6])
def test_mail_servers_that_are_right_absent_or_not_looked_up(check: Callable[..., Verdict]) -> None:
    assert judge(check, exchange(host())) == ""
    assert judge(check, exchange(null=True)) == ""
    assert judge(check, exchange()) == ""
    blind = host(ipv4=None, ipv6=None, problem=SILENT)
    assert judge(check, exchange(host("mx2.example.org"), blind)) == f"mx.example.org: {SILENT}"


@pytest.mark.parametrize(
    ("check", "ipv4", "ipv6", "expected"),
    [
        (mail.mx_missing_address, True, None, ""),
        (mail.mx_missing_address, False, None, f"mx.example.org: {SILENT}"),
        (mail.mx_is_alias, False, None, ""),
        (mail.mail_server_ipv6, None, True, ""),
        (mail.mail_server_ipv6, True, None, f"mx.example.org: {SILENT}"),
        (mail.mail_server_ipv6, None, False, f"mx.example.org: {SILENT}"),
    ],
)
def test_one_address_family_that_was_not_looked_up(
    check: Callable[..., Verdict], ipv4: bool | None, ipv6: bool | None, expected: str
) -> None:
    assert judge(check, exchange(host(ipv4=ipv4, ipv6=ipv6, problem=SILENT))) == expected


@pytest.mark.parametrize(
    ("where", "record", "expected"),
    [
        (exchange(host()), sts_record(), [("mta-sts", "there is no MTA-STS record")]),
        (exchange(host()), sts_record("v=STSv1; id=1"), ""),
        (exchange(null=True), sts_record(), ""),
        (exchange(), sts_record(), ""),
    ],
)
def test_mta_sts_missing(where: MailExchange, record: MtaStsRecord, expected: list[tuple[str, str]] | str) -> None:
    assert judge(mail.mta_sts_missing, where, record) == expected


NO_ID = TagProblem("missing-id", "id", "there is no id=")
NO_MX = TagProblem("missing-mx", "mx", "mode enforce needs at least one mx")
ONE = sts_record("v=STSv1; id=1")


@pytest.mark.parametrize(
    ("record", "policy", "where", "expected"),
    [
        (sts_record(), facts(), facts(), ""),
        (ONE, facts(sts()), facts(exchange(host())), ""),
        (ONE, facts(sts(mode="none", mx=[])), facts(exchange(host())), ""),
        (
            sts_record("v=STSv1", problems=[NO_ID]),
            facts(unmeasured=(SILENT,)),
            facts(),
            [("_mta-sts missing-id id there is no id=", "_mta-sts: there is no id=")],
        ),
        (
            sts_record("v=STSv1; id=1", "v=STSv1; id=2"),
            facts(sts()),
            facts(),
            [("multiple", "there are 2 MTA-STS records, so that none counts")],
        ),
        (
            ONE,
            facts(sts(unavailable="it answers with status 404", mx=[], mode="", valid=False)),
            facts(exchange(host())),
            [
                (
                    "policy",
                    "there is no policy at https://mta-sts.example.org/.well-known/mta-sts.txt: "
                    "it answers with status 404",
                )
            ],
        ),
        (
            ONE,
            facts(sts(valid=False, mx=[], problems=[NO_MX])),
            facts(exchange(host())),
            [
                (
                    "policy missing-mx mx mode enforce needs at least one mx",
                    "policy: mode enforce needs at least one mx",
                )
            ],
        ),
        (
            ONE,
            facts(sts(mx=["*.example.org"])),
            facts(exchange(host(), host("a.b.example.org"))),
            [("mx a.b.example.org", "the policy leaves out a.b.example.org")],
        ),
        (ONE, facts(unmeasured=(SILENT,)), facts(exchange(host())), SILENT),
        (ONE, facts(sts()), facts(unmeasured=("no MX",)), "no MX"),
    ],
)
def test_mta_sts_invalid(
    record: MtaStsRecord, policy: Facts[Any], where: Facts[Any], expected: list[tuple[str, str]] | str
) -> None:
    assert judge(mail.mta_sts_invalid, record, policy, where) == expected


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (sts(), ""),
        (None, ""),
        (sts(valid=False, mode="testing"), ""),
        (sts(mode="none", max_age=60), [("mode", "the mode is none")]),
        (
            sts(mode="testing", max_age=3600),
            [("mode", "the mode is testing"), ("max_age", "max_age is 3600 seconds, less than a day")],
        ),
    ],
)
def test_mta_sts_not_enforced(policy: MtaStsPolicy | None, expected: list[tuple[str, str]] | str) -> None:
    assert judge(mail.mta_sts_not_enforced, policy) == expected


def test_tls_rpt() -> None:
    assert judge(mail.tls_rpt_missing, exchange(host()), tls_rpt()) == [("tls-rpt", "there is no TLS-RPT record")]
    assert judge(mail.tls_rpt_missing, exchange(host()), tls_rpt("v=TLSRPTv1; rua=mailto:a@b.example")) == ""
    assert judge(mail.tls_rpt_missing, exchange(null=True), tls_rpt()) == ""
    assert judge(mail.tls_rpt_invalid, tls_rpt()) == ""
    wrong = TagProblem("missing-rua", "rua", "there is no rua=")
    assert judge(mail.tls_rpt_invalid, tls_rpt("v=TLSRPTv1;", problems=[wrong])) == [
        ("missing-rua rua there is no rua=", "there is no rua=")
    ]
    assert judge(mail.tls_rpt_invalid, tls_rpt("a", "b")) == [
        ("multiple", "there are 2 TLS-RPT records, so that none counts")
    ]


def test_smtp() -> None:
    plain = greeting("192.0.2.2", starttls=False, tls_version="", chain=[])
    old = greeting("192.0.2.3", tls_version="TLSv1.1")
    torn = greeting("192.0.2.4", tls_version="", tls_problem="it refused STARTTLS: 454 no", chain=[])
    assert judge(mail.smtp_no_starttls, facts(greeting(), plain, old, torn)) == [
        ("192.0.2.2", "192.0.2.2 does not offer STARTTLS")
    ]
    assert judge(mail.smtp_old_tls, facts(greeting(), plain, old)) == [
        ("192.0.2.3", "192.0.2.3 speaks TLSv1.1 at most")
    ]
    assert judge(mail.smtp_old_tls, facts(greeting(), torn)) == "192.0.2.4: it refused STARTTLS: 454 no"
    for check in (mail.smtp_no_starttls, mail.smtp_old_tls, mail.smtp_certificate_untrusted):
        assert judge(check, facts()) == ""
        assert judge(check, facts(greeting())) == ""
        assert judge(check, facts(greeting(), unmeasured=(f"192.0.2.9: {SILENT}",))) == f"192.0.2.9: {SILENT}"


def test_smtp_certificate() -> None:
    check = mail.smtp_certificate_untrusted
    wrong = {"trust": "self-signed", "trust_reason": "It is signed by itself.", "name_matches": False, "names": ["a.b"]}
    assert judge(check, facts(greeting(), greeting("192.0.2.2", **wrong))) == [
        ("192.0.2.2 name", "the certificate at 192.0.2.2 is for a.b"),
        ("192.0.2.2 self-signed", "192.0.2.2: It is signed by itself"),
    ]
    # With DANE, a certificate of no authority can be the right one.
    for tlsa, said in ((True, "its TLSA records say which certificate counts, and are not checked"),
                       (None, "whether it has TLSA records is not known")):  # fmt: skip
        assert judge(check, facts(greeting(tlsa=tlsa))) == ""
        assert judge(check, facts(greeting(tlsa=tlsa, **wrong))) == f"192.0.2.1: {said}"
    unsure = greeting(trust="unknown", trust_reason="The roots were not recorded.")
    assert judge(check, facts(unsure)) == "192.0.2.1: The roots were not recorded"
    torn = greeting(tls_problem="it refused STARTTLS: 454 no", chain=[], trust="", name_matches=None)
    assert judge(check, facts(torn)) == "192.0.2.1: it refused STARTTLS: 454 no"
    plain = greeting(starttls=False, tls_version="", chain=[], trust="", name_matches=None, tlsa=None)
    assert judge(check, facts(plain)) == ""


def test_every_check_of_a_policy_is_about_registrable_domains() -> None:
    checks = [value.__check__ for value in vars(mail).values() if hasattr(value, "__check__")]
    assert checks
    for spec in checks:
        assert spec.applies(HOST)
        assert spec.applies(Hostname("www.example.org")) is spec.name.startswith("smtp-")


def test_the_reference_page_has_every_scanner_fact_and_check() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/plugins/mail.md").read_text()
    scanners, checks, kinds = declared(mail)
    for scanner in scanners:
        assert f"\n| `{scanner.name}` | {scanner.about.type} | " in page
        for option in scanner.options:
            assert f"`{option.name}`" in page
            for value in option.default if isinstance(option.default, tuple) else ():
                assert f"`{value}`" in page
    for kind in kinds:
        assert f"\n| `{kind.kind}` | " in page
    for spec in checks:
        assert f"\n| `{spec.name}` | {spec.severity} | " in page
        assert all(name in page for name in spec.openkat)
