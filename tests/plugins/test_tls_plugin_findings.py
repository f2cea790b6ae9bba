"""What recorded scans of TLS come to in the inventory: findings of website and certificate, and their life."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy import Connection, text

from kattegat.checks import coverage, evaluate
from kattegat.inventory.claim import Report
from kattegat.inventory.declare import declare
from kattegat.inventory.record import record
from kattegat.model.assets import Website
from kattegat.model.evidence import Evidence
from kattegat.model.facts import Found, NotMeasured
from kattegat.model.scope import Scope
from kattegat.plugins import tls
from kattegat.plugins.tls.facts import CertificateDetails
from kattegat.registry import Plugin, Registry
from kattegat.store.database import Database

RECORDED = Path(__file__).with_name("recorded") / "tls"
SITE = Website("https://www.bad.test")


class Bench:
    """One organisation that watches one website, judged at times near those of the recorded evidence."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.registry = Registry([Plugin("tls", tls)])
        self.organisation: int = connection.execute(
            text("INSERT INTO organisation (code, name) VALUES ('o', 'o') RETURNING id")
        ).scalar_one()
        (self.site,) = declare(connection, self.organisation, [(SITE, 2)], "test")
        self.now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        self.end = self.now + timedelta(days=180)

    def scan(self, scanner: str, host: str, *, outcome: str = "ok") -> None:
        """Records what a recorded scan of a host says, as if it were of the site."""
        spec = self.registry.scanner(scanner)
        found: list[Found] = []
        gaps: list[NotMeasured] = []
        if outcome == "ok":
            evidence = Evidence.unpack((RECORDED / f"{scanner}--{host}.evidence").read_bytes())
            for entry in spec.implementation().parse(SITE, evidence):
                (found if isinstance(entry, Found) else gaps).append(self._moved(entry))
        self.now += timedelta(minutes=1)
        report = Report(
            self.organisation,
            scanner,
            SITE,
            self.now,
            self.now,
            Scope.of(*(fact.kind for fact in spec.yields)),
            outcome=outcome,  # type: ignore[arg-type]
            reason="" if outcome == "ok" else "gone",
            found=found,
            unmeasured=gaps,
        )
        [done] = record(self.connection, [report])
        changed = {*done.touched, *done.new_assets, *done.presence_changed, self.site}
        evaluate.evaluate(self.connection, self.organisation, changed, self.registry, self.now)

    def _moved(self, entry: Any) -> Any:
        """The same with the certificate's dates around now: the recorded ones lie in the past one day."""
        if not isinstance(entry, Found) or not isinstance(entry.fact, CertificateDetails):
            return entry
        fact = structs.replace(entry.fact, not_before=self.end - timedelta(days=200), not_after=self.end)
        return structs.replace(entry, fact=fact)

    def findings(self, state: str = "open") -> set[str]:
        rows = self.connection.execute(
            text("SELECT \"check\" || ' ' || item AS name FROM finding WHERE state = :state"), {"state": state}
        )
        return {row.name for row in rows}

    def said(self, check: str) -> set[tuple[str, str]]:
        """(outcome, reason) of a check for every asset that it applies to."""
        read = coverage.read(self.connection, self.organisation, self.registry, self.now)
        return {(entry.outcome, entry.reason) for entry in read if entry.check == check}


@pytest.fixture
def bench(database: Database) -> Iterator[Bench]:
    with database.begin("kat_system") as connection:
        yield Bench(connection)


def test_a_wrong_certificate_is_found_and_its_findings_go_when_it_does(bench: Bench) -> None:
    bench.scan("tls-certificate", "weakkey.bad.test")
    wrong = {
        "certificate-name-mismatch mismatch",
        "certificate-untrusted invalid",
        "certificate-weak-key key",
        "certificate-weak-signature signature",
    }
    assert bench.findings() == wrong
    # A scan that failed proves nothing.
    bench.scan("tls-certificate", "weakkey.bad.test", outcome="failed")
    assert bench.findings() == wrong
    bench.scan("tls-certificate", "www.good.test")
    # The site still has a certificate for another name; the old certificate is nobody's any more.
    assert bench.findings() == {"certificate-name-mismatch mismatch"}
    assert bench.findings("resolved") == wrong - {"certificate-name-mismatch mismatch"}


def test_a_certificate_expires_with_time_alone(bench: Bench) -> None:
    bench.end = bench.now + timedelta(days=14, minutes=10)
    bench.scan("tls-certificate", "soon.bad.test")
    before = bench.findings()
    evaluate.evaluate_due(bench.connection, bench.registry, bench.end - timedelta(days=14, seconds=1))
    assert bench.findings() == before
    evaluate.evaluate_due(bench.connection, bench.registry, bench.end - timedelta(days=14))
    assert bench.findings() == before | {"certificate-expires-soon soon"}
    bench.end = bench.now + timedelta(minutes=10)
    bench.scan("tls-certificate", "soon.bad.test")
    evaluate.evaluate_due(bench.connection, bench.registry, bench.end)
    assert bench.findings() == before | {"certificate-expired expired"}
    assert bench.findings("resolved") == {"certificate-expires-soon soon"}


def test_a_private_certificate_is_not_judged_by_the_rules_of_public_ones(bench: Bench) -> None:
    bench.scan("tls-certificate", "www.good.test")
    assert bench.said("certificate-lacks-ct") == {("pass", "")}
    assert bench.said("tls-1-0") == {("unknown", "tls-protocols has not run yet")}


def test_what_is_offered_is_found_and_resolved(bench: Bench) -> None:
    bench.scan("tls-protocols", "www.bad.test")
    found = bench.findings()
    assert {"tls-1-0 TLSv1.0", "tls-1-1 TLSv1.1", "tls-no-1-3 TLSv1.3", "tls-small-dh 1024"} <= found
    assert "tls-insecure-cipher TLS_RSA_WITH_NULL_SHA256" in found
    bench.scan("tls-protocols", "www.good.test")
    assert bench.findings() == set()
    assert bench.findings("resolved") == found
    assert bench.said("tls-1-0") == {("pass", "")}
