"""The TLS checks, each on facts made for it: exact items, unknown where nothing was measured, when to look again."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kattegat.model.assets import Asset, Certificate, Website
from kattegat.model.facts import Fact
from kattegat.model.verdict import Fail, Pass, Unknown, Verdict
from kattegat.plugin import Context, Facts, Known, declared
from kattegat.plugins import tls
from kattegat.plugins.tls.facts import NO_IPV6, CertificateDetails, OfferedVersion, TlsHandshake, TlsProtocols
from kattegat.plugins.tls.suite_checks import insecure, no_secrecy, not_recommended, weak
from kattegat.plugins.tls.suites import suites

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
SITE = Website("https://www.example.test")
LEAF = "ab" * 32
OTHER = "cd" * 32
CERTIFICATE = Certificate(LEAF)
SCANNERS, CHECKS, FACTS = declared(tls)
BY_NAME = {spec.name: spec for spec in CHECKS}

GCM = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"
TLS13 = OfferedVersion("TLSv1.3", ["TLS_AES_128_GCM_SHA256"])
TLS12 = OfferedVersion("TLSv1.2", [GCM])
UNREADABLE_END = Unknown("the certificate's end of validity can't be read")
UNREADABLE_START = Unknown("the certificate's start of validity can't be read")
UNREADABLE_KEY = Unknown("the certificate's public key can't be read")
ALL = ["TLSv1.3", "TLSv1.2", "TLSv1.1", "TLSv1.0", "SSLv3", "SSLv2"]


def details(**changes: Any) -> CertificateDetails:
    values: dict[str, Any] = {
        "subject": "CN=www.example.test",
        "issuer": "CN=CA",
        "serial": "7",
        "not_before": NOW - 30 * DAY,
        "not_after": NOW + 60 * DAY,
        "dns_names": ["www.example.test"],
        "ip_names": [],
        "common_names": [],
        "key_type": "EC",
        "key_bits": 256,
        "curve": "secp256r1",
        "signature_algorithm": "ecdsa-with-SHA256",
        "signature_hash": "sha256",
        "is_ca": False,
        "server_auth": True,
        "self_signed": False,
        "sct_count": 2,
        "ocsp_urls": [],
        "issuer_urls": [],
        "crl_urls": [],
        "problems": [],
    }
    return CertificateDetails(**(values | changes))


def shake(address: str = "192.0.2.1", **changes: Any) -> TlsHandshake:
    values: dict[str, Any] = {
        "address": address,
        "version": "TLSv1.3",
        "suite": "TLS_AES_128_GCM_SHA256",
        "group": "x25519",
        "alpn": None,
        "leaf": LEAF,
        "chain": [LEAF],
        "trust": "trusted",
        "trust_reason": "The chain leads to a trusted root.",
        "roots": "system",
        "name_matches": True,
        "names": ["www.example.test"],
        "common_name_only": False,
        "ocsp_stapled": False,
        "problems": [],
    }
    return TlsHandshake(**(values | changes))


def offers(*versions: OfferedVersion, address: str = "192.0.2.1", **changes: Any) -> TlsProtocols:
    """What a server offers; every other version is refused unless the changes say that it was not measured."""
    unmeasured = changes.get("unmeasured", {})
    spoken = {entry.version for entry in versions}
    values: dict[str, Any] = {
        "address": address,
        "versions": list(versions),
        "refused": [version for version in ALL if version not in spoken and version not in unmeasured],
        "unmeasured": {},
        "fallback_scsv": True,
        "compression": False,
        "secure_renegotiation": True,
        "extended_master_secret": True,
        "dh_bits": [],
        "schemes": [],
        "problems": [],
    }
    return TlsProtocols(**(values | changes))


def facts_of(asset: Asset, facts: Iterable[Fact], unmeasured: Iterable[str] = ()) -> Facts[Any]:
    known = [Known(asset, fact, getattr(fact, "address", ""), "x", "internet", NOW) for fact in facts]
    return Facts(known, unmeasured)


def judge(check: str, *needs: Facts[Any], **options: Any) -> Verdict:
    spec = BY_NAME[check]
    asset: Asset = CERTIFICATE if spec.about is Certificate else SITE
    defaults = {option.name: option.default for option in spec.options}
    return spec.function(Context(asset, NOW, defaults | options), *needs)


def on_certificate(check: str, fact: CertificateDetails, *shakes: TlsHandshake, **options: Any) -> Verdict:
    needs = [facts_of(CERTIFICATE, [fact])]
    if len(BY_NAME[check].needs) == 2:
        needs.append(facts_of(SITE, shakes))
    return judge(check, *needs, **options)


def on_site(check: str, *facts: Fact, unmeasured: Iterable[str] = ()) -> Verdict:
    return judge(check, facts_of(SITE, facts, unmeasured))


def items(verdict: Verdict) -> dict[str, str]:
    assert isinstance(verdict, Fail), verdict
    return {item.key: str(item) for item in verdict.items}


def test_what_the_plugin_declares() -> None:
    assert [spec.name for spec in SCANNERS] == ["tls-certificate", "tls-protocols"]
    assert [spec.clearance for spec in SCANNERS] == [1, 2]
    assert [fact.kind for fact in FACTS] == ["CertificateDetails", "TlsHandshake", "TlsProtocols"]
    for spec in (*SCANNERS, *CHECKS):
        if spec.about is Website:
            assert spec.applies(SITE)
            assert not spec.applies(Website("http://www.example.test"))
    mapped = {name for spec in CHECKS for name in spec.openkat}
    assert mapped == {
        "KAT-CERTIFICATE-EXPIRED", "KAT-CERTIFICATE-EXPIRING-SOON", "KAT-SSL-CERT-HOSTNAME-MISMATCH",
        "KAT-NO-CERTIFICATE", "KAT-SSL-2-SUPPORT", "KAT-SSL-3-SUPPORT", "KAT-TLS-1.0-SUPPORT", "KAT-TLS-1.1-SUPPORT",
        "KAT-TLS-1.0-AND-1.1-SUPPORT", "KAT-NO-TLS-1.2", "KAT-NO-TLS-1.3", "KAT-NO-TLS-FALLBACK-SCSV",
        "KAT-CRITICAL-BAD-CIPHER", "KAT-MEDIUM-BAD-CIPHER", "KAT-RECOMMENDATION-BAD-CIPHER",
    }  # fmt: skip


@pytest.mark.parametrize("spec", CHECKS, ids=lambda spec: spec.name)
def test_a_right_site_and_certificate_pass_every_check(spec: Any) -> None:
    if spec.about is Certificate:
        verdict = on_certificate(spec.name, details(), shake())
    else:
        verdict = on_site(spec.name, shake() if spec.needs[0].fact is TlsHandshake else offers(TLS13, TLS12))
    assert isinstance(verdict, Pass)


@pytest.mark.parametrize("spec", [spec for spec in CHECKS if spec.about is Website], ids=lambda spec: spec.name)
def test_an_address_that_was_not_measured_makes_it_unknown(spec: Any) -> None:
    fact = shake() if spec.needs[0].fact is TlsHandshake else offers(TLS13, TLS12)
    assert on_site(spec.name, fact, unmeasured=["192.0.2.2: gone"]) == Unknown("192.0.2.2: gone")


@pytest.mark.parametrize("spec", [spec for spec in CHECKS if spec.about is Website], ids=lambda spec: spec.name)
def test_a_machine_without_ipv6_judges_by_the_other_addresses(spec: Any) -> None:
    fact = shake() if spec.needs[0].fact is TlsHandshake else offers(TLS13, TLS12)
    lacking = f"2001:db8::1: {NO_IPV6}"
    assert on_site(spec.name, fact, unmeasured=[lacking]) == Pass()
    assert on_site(spec.name, fact, unmeasured=[lacking, "192.0.2.2: gone"]) == Unknown("192.0.2.2: gone")


# --- certificates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "changes", "expected"),
    [
        ("certificate-expired", {"not_after": NOW + DAY}, Pass(until=NOW + DAY)),
        ("certificate-expired", {"not_after": None}, UNREADABLE_END),
        ("certificate-expires-soon", {"not_after": NOW + 14 * DAY + DAY}, Pass(until=NOW + DAY)),
        ("certificate-expires-soon", {"not_after": NOW - DAY}, Pass()),  # expired, which is another check's
        ("certificate-expires-soon", {"not_after": None}, UNREADABLE_END),
        ("certificate-not-yet-valid", {"not_before": NOW}, Pass()),
        ("certificate-not-yet-valid", {"not_before": None}, UNREADABLE_START),
        ("certificate-weak-key", {"key_type": "RSA", "key_bits": 2048}, Pass()),
        ("certificate-weak-key", {"key_type": "EC", "key_bits": 224}, Pass()),
        ("certificate-weak-key", {"key_type": "Ed25519", "key_bits": 256}, Pass()),
        ("certificate-weak-key", {"key_type": None}, UNREADABLE_KEY),
        ("certificate-weak-key", {"key_type": "RSA", "key_bits": None}, UNREADABLE_KEY),
        ("certificate-weak-key", {"key_type": "1.2.3"}, Unknown("the strength of a key of type 1.2.3 is not known")),
        ("certificate-weak-signature", {"signature_hash": "sha1", "self_signed": True}, Pass()),
        ("certificate-weak-signature", {"signature_hash": None, "signature_algorithm": "ed25519"}, Pass()),
        (
            "certificate-weak-signature",
            {"signature_hash": None, "signature_algorithm": None},
            Unknown("the certificate's signature algorithm can't be read"),
        ),
    ],
)  # fmt: skip
def test_certificates_that_pass_or_are_unknown(check: str, changes: dict[str, Any], expected: Verdict) -> None:
    assert on_certificate(check, details(**changes)) == expected


@pytest.mark.parametrize(
    ("check", "changes", "key", "text", "until"),
    [
        ("certificate-expired", {"not_after": NOW}, "expired", "it expired on 2026-06-01", None),
        (
            "certificate-expires-soon",
            {"not_after": NOW + 14 * DAY},
            "soon",
            "it expires on 2026-06-15",
            NOW + 14 * DAY,
        ),
        (
            "certificate-not-yet-valid",
            {"not_before": NOW + DAY},
            "not-yet-valid",
            "it is valid from 2026-06-02 only",
            NOW + DAY,
        ),
        (
            "certificate-weak-key",
            {"key_type": "RSA", "key_bits": 2047},
            "key",
            "its key is RSA with 2047 bits, and needs 2048",
            None,
        ),
        (
            "certificate-weak-key",
            {"key_type": "EC", "key_bits": 192},
            "key",
            "its key is EC with 192 bits, and needs 224",
            None,
        ),
        (
            "certificate-weak-key",
            {"key_type": "DSA", "key_bits": 2048},
            "key",
            "its key is DSA with 2048 bits, which is out of use",
            None,
        ),
        (
            "certificate-weak-signature",
            {"signature_hash": "sha1", "signature_algorithm": "sha1WithRSAEncryption"},
            "signature",
            "its signature is sha1WithRSAEncryption",
            None,
        ),
        (
            "certificate-weak-signature",
            {"signature_hash": "md5", "signature_algorithm": "md5WithRSAEncryption"},
            "signature",
            "its signature is md5WithRSAEncryption",
            None,
        ),
    ],
)
def test_certificates_that_fail(
    check: str, changes: dict[str, Any], key: str, text: str, until: datetime | None
) -> None:
    verdict = on_certificate(check, details(**changes))
    assert items(verdict) == {key: text}
    assert verdict.until == until


def test_the_days_before_the_end_are_an_option() -> None:
    fact = details(not_before=NOW - 50 * DAY, not_after=NOW + 20 * DAY)
    assert isinstance(on_certificate("certificate-expires-soon", fact), Pass)
    assert items(on_certificate("certificate-expires-soon", fact, days=21)) == {"soon": "it expires on 2026-06-21"}


def test_a_certificate_of_six_days_is_not_always_about_to_expire() -> None:
    fact = details(not_before=NOW - 2 * DAY, not_after=NOW + 4 * DAY)
    assert on_certificate("certificate-expires-soon", fact) == Pass(until=NOW + 2 * DAY)


@pytest.mark.parametrize(
    ("issued", "days", "expected"),
    [
        (datetime(2026, 4, 1, tzinfo=UTC), 200, None),
        (datetime(2026, 4, 1, tzinfo=UTC), 201, "it is valid for 201 days, and may be for 200"),
        (datetime(2026, 3, 1, tzinfo=UTC), 398, None),
        (datetime(2026, 3, 1, tzinfo=UTC), 400, "it is valid for 400 days, and may be for 398"),
        (datetime(2019, 1, 1, tzinfo=UTC), 825, None),
        (datetime(2027, 4, 1, tzinfo=UTC), 102, "it is valid for 102 days, and may be for 100"),
        (datetime(2017, 1, 1, tzinfo=UTC), 1000, None),  # of before there was a rule
    ],
)
def test_a_long_life_is_judged_by_the_rules_of_its_day(issued: datetime, days: int, expected: str | None) -> None:
    # The last second is part of it, as authorities count.
    fact = details(not_before=issued, not_after=issued + days * DAY - timedelta(seconds=1))
    verdict = on_certificate("certificate-long-life", fact, shake())
    assert verdict == Pass() if expected is None else items(verdict) == {"life": expected}


@pytest.mark.parametrize("check", ["certificate-long-life", "certificate-lacks-ct"])
def test_what_only_public_authorities_have_to_do(check: str) -> None:
    fact = details(not_after=NOW + 4000 * DAY, sct_count=0)
    assert isinstance(on_certificate(check, fact, shake()), Fail)
    assert on_certificate(check, fact, shake(roots="own")) == Pass()
    assert on_certificate(check, fact, shake(trust="self-signed")) == Pass()
    unsure = shake(trust="unknown", trust_reason="There are no roots.")
    assert on_certificate(check, fact, unsure) == Unknown("There are no roots")
    # A handshake with another certificate says nothing of this one.
    assert on_certificate(check, fact, shake(leaf=OTHER)) == Unknown("no handshake with it is known")


def test_a_certificate_without_timestamps() -> None:
    verdict = on_certificate("certificate-lacks-ct", details(sct_count=0), shake())
    assert items(verdict) == {"sct": "it has no signed certificate timestamp (SCT) in it"}


# --- handshakes ------------------------------------------------------------------------------------------------------


def test_a_name_that_does_not_match() -> None:
    wrong = {"name_matches": False, "names": ["b.test", "a.test"]}
    verdict = on_site("certificate-name-mismatch", shake(), shake("192.0.2.2", **wrong), shake("2001:db8::1", **wrong))
    assert items(verdict) == {"mismatch": "the certificate at 192.0.2.2, 2001:db8::1 is for a.test, b.test"}


def test_a_common_name_alone_is_a_reason_of_its_own() -> None:
    verdict = on_site(
        "certificate-name-mismatch",
        shake(name_matches=False, names=[], common_name_only=True),
        shake("192.0.2.2", name_matches=False, names=[f"n{number}.test" for number in range(7)]),
    )
    assert items(verdict) == {
        "common-name-only": "the certificate at 192.0.2.1 has a common name only, at which no client looks",
        "mismatch": "the certificate at 192.0.2.2 is for n0.test, n1.test, n2.test, n3.test, n4.test, and 2 more",
    }


def test_a_certificate_that_cannot_be_read_has_no_known_names() -> None:
    broken = shake(name_matches=None, trust="invalid", trust_reason="It is broken.")
    assert on_site("certificate-name-mismatch", broken) == Unknown("It is broken")
    assert items(on_site("certificate-untrusted", broken)) == {"invalid": "192.0.2.1: It is broken"}


@pytest.mark.parametrize(
    "trust", ["self-signed", "unknown-issuer", "intermediate-missing", "expired", "not-yet-valid", "invalid"]
)
def test_each_reason_of_distrust_is_an_item(trust: str) -> None:
    verdict = on_site(
        "certificate-untrusted",
        shake(trust=trust, trust_reason="So it is."),
        shake("192.0.2.2", trust=trust, trust_reason="So it is."),
        shake("192.0.2.3"),
    )
    assert items(verdict) == {trust: "192.0.2.1, 192.0.2.2: So it is"}


def test_trust_without_roots_is_unknown() -> None:
    assert on_site("certificate-untrusted", shake(trust="unknown", trust_reason="No roots.")) == Unknown("No roots")


def test_a_handshake_without_a_certificate() -> None:
    bare = shake(leaf="", chain=[], trust="no-chain", name_matches=None, names=[])
    assert items(on_site("certificate-missing", bare)) == {"none": "no certificate is sent at 192.0.2.1"}
    assert on_site("certificate-untrusted", bare) == Pass()
    assert on_site("certificate-name-mismatch", bare) == Pass()


def test_addresses_that_differ() -> None:
    assert on_site("tls-handshake-differs", shake(), shake("192.0.2.2")) == Pass()
    verdict = on_site("tls-handshake-differs", shake(), shake("192.0.2.2", leaf=OTHER))
    assert items(verdict) == {
        "certificate": "the certificates differ: abababababababab at 192.0.2.1; cdcdcdcdcdcdcdcd at 192.0.2.2"
    }
    verdict = on_site("tls-handshake-differs", shake(), shake("192.0.2.2", trust="intermediate-missing"))
    assert items(verdict) == {
        "trust": "not every chain is trusted: intermediate-missing at 192.0.2.2; trusted at 192.0.2.1"
    }
    assert on_site("tls-handshake-differs", shake(), shake("192.0.2.2", trust="unknown")) == Pass()


# --- protocols -------------------------------------------------------------------------------------------------------

OLD = {"tls-ssl2": "SSLv2", "tls-ssl3": "SSLv3", "tls-1-0": "TLSv1.0", "tls-1-1": "TLSv1.1"}


@pytest.mark.parametrize(("check", "version"), OLD.items())
def test_an_old_version_is_offered_refused_or_not_measured(check: str, version: str) -> None:
    having = offers(TLS12, OfferedVersion(version, [GCM]))
    assert items(on_site(check, having)) == {version: f"{version} is spoken at 192.0.2.1"}
    assert on_site(check, offers(TLS12)) == Pass()
    unsure = offers(TLS12, unmeasured={version: "The connection was reset."})
    assert on_site(check, unsure) == Unknown("192.0.2.1: The connection was reset")
    # What another address is known to do stands beside it.
    other = offers(OfferedVersion(version, []), address="192.0.2.2")
    assert items(on_site(check, unsure, other)) == {version: f"{version} is spoken at 192.0.2.2"}
    # A version that is nowhere in the fact is not absent.
    silent = msgspec.structs.replace(offers(TLS12), refused=[])
    assert isinstance(on_site(check, silent), Unknown)


def test_without_a_modern_version() -> None:
    old = offers(OfferedVersion("TLSv1.0", []))
    assert items(on_site("tls-no-1-2", old)) == {"TLSv1.2": "neither TLS 1.2 nor TLS 1.3 is spoken at 192.0.2.1"}
    assert items(on_site("tls-no-1-3", old)) == {"TLSv1.3": "TLS 1.3 is not spoken at 192.0.2.1"}
    assert on_site("tls-no-1-2", offers(TLS13)) == Pass()
    assert on_site("tls-no-1-3", offers(TLS13)) == Pass()
    assert on_site("tls-no-1-2", offers(TLS12)) == Pass()
    assert items(on_site("tls-no-1-3", offers(TLS12))) == {"TLSv1.3": "TLS 1.3 is not spoken at 192.0.2.1"}


def test_a_modern_version_that_was_not_measured() -> None:
    one = {"unmeasured": {"TLSv1.3": "It was reset."}}
    assert on_site("tls-no-1-2", offers(TLS12, **one)) == Pass()  # 1.2 settles it
    assert on_site("tls-no-1-2", offers(**one)) == Unknown("192.0.2.1: It was reset")
    assert on_site("tls-no-1-3", offers(TLS12, **one)) == Unknown("192.0.2.1: It was reset")
    assert on_site("tls-no-1-2", offers(TLS13, unmeasured={"TLSv1.2": "It was reset."})) == Pass()


@pytest.mark.parametrize(
    ("check", "suite", "reason"),
    [
        ("tls-insecure-cipher", "TLS_RSA_WITH_NULL_SHA", "it does not encrypt"),
        ("tls-insecure-cipher", "TLS_DH_anon_WITH_AES_128_GCM_SHA256", "it does not authenticate the server"),
        ("tls-insecure-cipher", "TLS_RSA_EXPORT_WITH_RC4_40_MD5", "it is cut down to export strength"),
        ("tls-insecure-cipher", "TLS_ECDHE_RSA_WITH_RC4_128_SHA", "RC4 is broken"),
        ("tls-insecure-cipher", "TLS_RSA_WITH_DES_CBC_SHA", "its encryption can be broken by trying all keys"),
        ("tls-weak-cipher", "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA", "its blocks of 64 bits leak plaintext"),
        ("tls-weak-cipher", "TLS_RSA_WITH_AES_128_CBC_SHA", "CBC with MAC-then-encrypt"),
        ("tls-weak-cipher", "TLS_DHE_DSS_WITH_AES_128_GCM_SHA256", "DSA with keys of 1024 bits"),
        ("tls-cipher-not-recommended", "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", "CBC with MAC-then-encrypt"),
        ("tls-cipher-not-recommended", "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8", "its authentication tag"),
        ("tls-no-forward-secrecy", "TLS_RSA_WITH_AES_128_CCM_8", "without forward secrecy"),
        ("tls-no-forward-secrecy", "TLS_RSA_WITH_AES_128_GCM_SHA256", "without forward secrecy"),
        ("tls-no-forward-secrecy", "TLS_ECDH_RSA_WITH_AES_128_GCM_SHA256", "without forward secrecy"),
    ],
)
def test_each_bad_suite_is_an_item_with_its_reason(check: str, suite: str, reason: str) -> None:
    fact = offers(OfferedVersion("TLSv1.2", [GCM, suite]), OfferedVersion("TLSv1.0", [suite]))
    found = items(on_site(check, fact))
    assert list(found) == [suite]
    assert found[suite].startswith(f"{suite} (TLSv1.2, TLSv1.0): {reason}")


def test_every_suite_that_is_not_secure_is_in_exactly_one_grade() -> None:
    for suite in suites().values():
        grades = [name.__name__ for name in (insecure, weak, no_secrecy, not_recommended) if name(suite)]
        assert len(grades) == (suite.strength != "secure"), suite


@pytest.mark.parametrize(
    "what",
    ["TLSv1.3", "TLSv1.2", "TLSv1.1", "TLSv1.0", "SSLv3", "cipher suites of TLSv1.2", "cipher suites of TLSv1.0"],
)
@pytest.mark.parametrize(
    "check", ["tls-insecure-cipher", "tls-weak-cipher", "tls-cipher-not-recommended", "tls-no-forward-secrecy"]
)
def test_a_list_of_suites_that_may_be_incomplete_is_no_pass(check: str, what: str) -> None:
    fact = offers(TLS12, unmeasured={what: "It was cut off."})
    assert on_site(check, fact) == Unknown("192.0.2.1: It was cut off")


def test_what_has_nothing_to_do_with_suites_does_not_make_them_unknown() -> None:
    fact = offers(TLS12, unmeasured={"groups of TLSv1.2": "x", "preference of TLSv1.2": "x", "SSLv2": "x"})
    assert on_site("tls-weak-cipher", fact) == Pass()


def test_a_small_group() -> None:
    dhe = OfferedVersion("TLSv1.2", ["TLS_DHE_RSA_WITH_AES_128_GCM_SHA256"])
    small = offers(dhe, dh_bits=[1024, 2048])
    assert items(on_site("tls-small-dh", small)) == {"1024": "a group of 1024 bits is used at 192.0.2.1"}
    assert on_site("tls-small-dh", offers(dhe, dh_bits=[2048])) == Pass()
    unseen = on_site("tls-small-dh", offers(dhe))
    assert unseen == Unknown("192.0.2.1: the size of the Diffie-Hellman group was not seen")
    assert on_site("tls-small-dh", offers(TLS12)) == Pass()


def test_fallback_matters_only_where_there_is_something_to_fall_back_to() -> None:
    old = OfferedVersion("TLSv1.1", [GCM])
    ignored = {"ignored": "a fallback is accepted at 192.0.2.1"}
    check = "tls-no-fallback-scsv"
    assert items(on_site(check, offers(TLS12, old, fallback_scsv=False))) == ignored
    assert on_site(check, offers(TLS12, old, fallback_scsv=True)) == Pass()
    # TLS 1.3 protects itself, and with it the step down to the only older version.
    assert on_site(check, offers(TLS13, TLS12, fallback_scsv=False)) == Pass()
    assert on_site(check, offers(TLS13, fallback_scsv=None)) == Pass()
    unsure = offers(TLS12, old, fallback_scsv=None, unmeasured={"fallback_scsv": "It was reset."})
    assert on_site(check, unsure) == Unknown("192.0.2.1: It was reset")
    missing = offers(TLS12, fallback_scsv=False, unmeasured={"TLSv1.0": "It was reset."})
    assert on_site(check, missing) == Unknown("192.0.2.1: it is not known which older versions are offered")


@pytest.mark.parametrize(
    ("check", "field", "bad", "good", "item", "reason"),
    [
        (
            "tls-compression",
            "compression",
            True,
            False,
            {"deflate": "compression is agreed on at 192.0.2.1"},
            "it is not known whether compression is used",
        ),
        (
            "tls-insecure-renegotiation",
            "secure_renegotiation",
            False,
            True,
            {"missing": "the answer at 192.0.2.1 does not know of secure renegotiation"},
            "it is not known whether renegotiation is secure",
        ),
    ],
)
def test_properties_of_versions_below_13(
    check: str, field: str, bad: bool, good: bool, item: dict[str, str], reason: str
) -> None:
    assert items(on_site(check, offers(TLS12, **{field: bad}))) == item
    assert on_site(check, offers(TLS12, **{field: good})) == Pass()
    assert on_site(check, offers(TLS12, **{field: None})) == Unknown(f"192.0.2.1: {reason}")
    # A server of TLS 1.3 only has neither.
    assert on_site(check, offers(TLS13, **{field: None})) == Pass()


def test_the_reference_page_has_every_check_as_it_is() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "plugins" / "tls.md"
    rows = {}
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            rows[cells[0].strip("`")] = cells
    for spec in CHECKS:
        assert rows[spec.name][1] == spec.severity
        assert rows[spec.name][3:] == [spec.title, spec.reference, ", ".join(spec.openkat) or "-"]
    assert {*(spec.name for spec in (*CHECKS, *SCANNERS)), *(fact.kind for fact in FACTS)} == set(rows)
