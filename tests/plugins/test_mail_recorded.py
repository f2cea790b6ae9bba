"""From recorded evidence to verdicts: what all checks of mail say of the laboratory's domains and mail servers."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kattegat.plugin import Context, Evidence, Facts, Fail, Found, Hostname, Known, Unknown, declared
from kattegat.plugins import mail
from kattegat.plugins.mail import MailPolicyScanner, SmtpBannerScanner

RECORDED = Path(__file__).parent / "recorded" / "mail"
NOW = datetime(2026, 11, 1, tzinfo=UTC)


def verdicts(name: str, scanner: Any) -> dict[str, list[str] | str]:
    """Check -> keys of items, or the reason for unknown; checks that pass are left out."""
    host = Hostname(name)
    evidence = Evidence.unpack((RECORDED / f"{scanner.__scanner__.name}--{name}.evidence").read_bytes())
    found = [entry for entry in scanner.parse(host, evidence) if isinstance(entry, Found)]
    measured = set(scanner.__scanner__.yields)
    said: dict[str, list[str] | str] = {}
    for spec in declared(mail)[1]:
        if not {need.fact for need in spec.needs} <= measured:
            continue
        needs = [
            Facts(
                Known(host, entry.fact, entry.item, scanner.__scanner__.name, "internet", NOW)
                for entry in found
                if isinstance(entry.fact, need.fact)
            )
            for need in spec.needs
        ]
        verdict = spec.function(Context(host, NOW), *needs)
        if isinstance(verdict, Fail):
            said[spec.name] = [item.key for item in verdict.items]
        elif isinstance(verdict, Unknown):
            said[spec.name] = verdict.reason
    return said


WITHOUT_MORE = {
    "dkim-missing": ["dkim"],
    "dmarc-no-reports": ["rua"],
    "dmarc-not-enforced": ["p"],
    "mail-server-ipv6": ["mail.bad.test"],
    "mta-sts-missing": ["mta-sts"],
    "tls-rpt-missing": ["tls-rpt"],
}
"""What the names in bad.test have in common: a mail server without IPv6, and the domain's DMARC policy."""


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("good.test", {}),
        ("no-such-domain.test", {}),
        # It takes no mail, and DMARC comes from good.test: nothing is missing.
        ("nomail.good.test", {}),
        ("lame.test", {"spf-missing": ["spf"], "dmarc-missing": ["dmarc"]}),
        (
            "bad.test",
            {
                "dkim-invalid-key": ["broken invalid-key p"],
                "dkim-short-key": ["weak"],
                "dmarc-no-reports": ["rua"],
                "dmarc-not-enforced": ["p"],
                "mail-server-ipv6": ["mail.bad.test", "mx-alias.bad.test"],
                "mta-sts-invalid": ["policy"],
                "mx-is-alias": ["mx-alias.bad.test"],
                "mx-missing-address": ["mx-nowhere.bad.test"],
                "spf-permissive": ["bad.test +all"],
                "tls-rpt-invalid": ["invalid-uri rua 'ftp://bad.test/' is no mailto or https URI"],
            },
        ),
        ("spf-many.bad.test", {**WITHOUT_MORE, "spf-too-many-lookups": ["lookups"]}),
        (
            "spf-syntax.bad.test",
            {
                "dkim-missing": ["dkim"],
                "dmarc-invalid": ["invalid-value p 'oops' is not none, quarantine or reject"],
                "mail-server-ipv6": ["mail.bad.test"],
                "mta-sts-missing": ["mta-sts"],
                "spf-invalid": ["spf-syntax.bad.test ipv4:10.77.0.26", "spf-syntax.bad.test -alll"],
                "tls-rpt-missing": ["tls-rpt"],
            },
        ),
        ("spf-none.bad.test", {**WITHOUT_MORE, "spf-missing": ["spf"]}),
        (
            "spf-two.bad.test",
            {
                "dkim-missing": ["dkim"],
                "dmarc-invalid": ["multiple"],
                "mail-server-ipv6": ["mail.bad.test"],
                "mta-sts-missing": ["mta-sts"],
                "spf-multiple": ["multiple"],
                "tls-rpt-missing": ["tls-rpt"],
            },
        ),
        ("spf-plusall.bad.test", {**WITHOUT_MORE, "spf-permissive": ["spf-plusall.bad.test +all"]}),
        ("spf-neutral.bad.test", {**WITHOUT_MORE, "spf-neutral": ["?all"]}),
        ("spf-void.bad.test", {**WITHOUT_MORE, "spf-void-lookups": ["void"]}),
        (
            "spf-include.bad.test",
            {**WITHOUT_MORE, "spf-include-broken": ["spf-include.bad.test include:nothing.bad.test"]},
        ),
    ],
)
def test_domains(domain: str, expected: dict[str, list[str]]) -> None:
    assert verdicts(domain, MailPolicyScanner()) == expected


@pytest.mark.parametrize(
    ("server", "expected"),
    [("mail.good.test", {}), ("www.good.test", {}), ("mail.bad.test", {"smtp-no-starttls": ["10.77.0.26"]})],
)
def test_servers(server: str, expected: dict[str, list[str]]) -> None:
    assert verdicts(server, SmtpBannerScanner()) == expected


def test_every_recording_is_read_here() -> None:
    text = Path(__file__).read_text()
    for path in RECORDED.glob("*.evidence"):
        assert f'"{path.stem.partition("--")[2]}"' in text
