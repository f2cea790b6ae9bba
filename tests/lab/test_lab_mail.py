"""The scanners of the mail plugin against the laboratory's DNS, web and mail servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from record_mail import scan

from kattegat.model.evidence import Evidence
from kattegat.plugin import Certificate, Found, Hostname, Link, NotMeasured
from kattegat.plugins.mail import MailPolicyScanner, SmtpBannerScanner
from lab import Lab

pytestmark = [pytest.mark.lab]

Said = dict[tuple[str, str], Found | NotMeasured]


def policy(lab: Lab, domain: str) -> Said:
    result = scan(lab, "mail-policy", domain, selectors=["s1", "e1", "weak"])
    assert (result.outcome, result.reason) == ("ok", "")
    return by_place(MailPolicyScanner().parse(Hostname(domain), Evidence.unpack(result.evidence)))


def by_place(said: Iterator[Found | NotMeasured]) -> Said:
    return {
        (entry.fact.kind, entry.item) if isinstance(entry, Found) else (entry.kind, entry.item or ""): entry
        for entry in said
    }


def fact(said: Said, kind: str, item: str = "") -> object:
    entry = said[kind, item]
    assert isinstance(entry, Found), entry
    return entry.fact


def test_the_right_domain_has_everything(lab: Lab) -> None:
    said = policy(lab, "good.test")
    assert [entry for entry in said.values() if isinstance(entry, NotMeasured)] == []
    assert [host.host for host in fact(said, "MailExchange").hosts] == ["mail.good.test"]
    assert fact(said, "SpfPolicy").all_qualifier == "-"
    assert fact(said, "DmarcPolicy").policy == "reject"
    assert {item for kind, item in said if kind == "DkimKeys"} == {"s1", "e1"}
    sts = fact(said, "MtaStsPolicy")
    assert (sts.mode, sts.mx, sts.valid) == ("enforce", ["mail.good.test"], True)
    assert fact(said, "TlsRptPolicy").rua == ["mailto:tlsrpt@good.test"]


def test_the_wrong_domain_shows_what_is_wrong(lab: Lab) -> None:
    said = policy(lab, "bad.test")
    hosts = {host.host: host for host in fact(said, "MailExchange").hosts}
    assert hosts["mx-alias.bad.test"].alias == "mail.bad.test"
    assert not hosts["mx-nowhere.bad.test"].exists
    assert fact(said, "DkimKeys", "weak").bits == 1024
    assert fact(said, "MtaStsPolicy").unavailable == "the host mta-sts.bad.test has no address"


def test_a_bogus_zone_is_not_measured(lab: Lab) -> None:
    result = scan(lab, "mail-policy", "broken.test", selectors=["s1"])
    assert (result.outcome, result.reason) == ("failed", "the DNS server answered SERVFAIL")


def test_a_policy_site_that_is_down_leaves_only_its_part_unmeasured(lab: Lab) -> None:
    lab.stop_server("web")
    try:
        said = policy(lab, "good.test")
    finally:
        lab.start_server("web")
    gaps = {kind for (kind, _), entry in said.items() if isinstance(entry, NotMeasured)}
    assert gaps == {"MtaStsPolicy"}
    assert fact(said, "MtaStsRecord").id


def test_a_mail_server_greets_and_shows_its_certificate(lab: Lab) -> None:
    result = scan(lab, "smtp-banner", "mail.good.test", domain="good.test")
    said = list(SmtpBannerScanner().parse(Hostname("mail.good.test"), Evidence.unpack(result.evidence)))
    greetings = [entry for entry in said if isinstance(entry, Found) and entry.fact.kind == "SmtpGreeting"]
    assert [entry.item for entry in greetings] == ["10.77.0.25", "fd77::25"]
    assert {entry.fact.kind for entry in said if isinstance(entry, Found)} == {"SmtpGreeting", "CertificateDetails"}
    for entry in greetings:
        assert (entry.fact.banner, entry.fact.starttls, entry.fact.tls_problem) == ("mail.good.test ESMTP", True, "")
        assert entry.fact.tls_version == "TLSv1.3"
        link = next(link for link in entry.links if link.type == "presents")
        assert link == Link("presents", link.origin, Certificate(entry.fact.chain[0].sha256))


def test_a_mail_server_without_starttls(lab: Lab) -> None:
    result = scan(lab, "smtp-banner", "mail.bad.test", domain="bad.test")
    (entry,) = SmtpBannerScanner().parse(Hostname("mail.bad.test"), Evidence.unpack(result.evidence))
    assert isinstance(entry, Found)
    assert (entry.fact.starttls, entry.fact.banner) == (False, "mail.bad.test ESMTP Postfix 3.1.0")


def test_nobody_connects_to_what_is_no_mail_server(lab: Lab) -> None:
    result = scan(lab, "smtp-banner", "mail.good.test")
    assert (result.outcome, result.detail.contacted, Evidence.unpack(result.evidence)) == ("ok", [], Evidence())


def test_a_mail_server_that_is_down_fails_the_scan(lab: Lab) -> None:
    result = scan(lab, "smtp-banner", "www.good.test", domain="good.test")
    assert result.outcome == "failed"
    assert "port 25" in result.reason
