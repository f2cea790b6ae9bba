"""The TLS scanners against the laboratory's web servers, from where the runner would run: exact facts per site."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kattegat.model.assets import Certificate, Website
from kattegat.model.evidence import Evidence
from kattegat.model.facts import Found
from kattegat.model.work import Result
from kattegat.plugins.tls.facts import CertificateDetails, OfferedVersion, TlsHandshake, TlsProtocols
from kattegat.plugins.tls.handshake import TlsCertificateScanner
from kattegat.plugins.tls.protocols import TlsProtocolsScanner
from lab import Lab

pytestmark = [pytest.mark.lab]

HOSTS = (
    "www.good.test", "v6only.good.test", "plain.good.test", "www.bad.test", "expired.bad.test", "soon.bad.test",
    "weakkey.bad.test", "chain.bad.test", "old.bad.test", "silent.bad.test",
)  # fmt: skip
MODERN_13 = OfferedVersion(
    "TLSv1.3",
    ["TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"],
    "server",
    ["x25519", "secp256r1", "secp384r1"],
)
OLD = ["TLSv1.1", "TLSv1.0", "SSLv3", "SSLv2"]


@pytest.fixture(scope="module")
def results(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """What the jobs of both scanners gave, by `SCANNER--HOST`."""
    folder = tmp_path_factory.mktemp("tls")
    script = str(Path(__file__).with_name("scan_tls.py"))
    origins = [f"https://{host}:443" for host in HOSTS]
    process = lab.popen(
        [sys.executable, script, lab.resolver, str(lab.ca), str(folder), *origins],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return {path.stem: msgspec.msgpack.decode(path.read_bytes(), type=Result) for path in folder.glob("*.result")}


def handshakes(results: dict[str, Result], host: str) -> tuple[dict[str, TlsHandshake], list[Found]]:
    """The handshakes of a site by address, and what was found of certificates."""
    result = results[f"tls-certificate--{host}"]
    assert (result.outcome, result.reason) == ("ok", "")
    site = Website(f"https://{host}:443")
    found = list(TlsCertificateScanner().parse(site, Evidence.unpack(result.evidence)))
    assert all(isinstance(entry, Found) for entry in found)
    own = {entry.item: entry.fact for entry in found if entry.asset == site}
    return own, [entry for entry in found if entry.asset != site]


def protocols(results: dict[str, Result], host: str) -> TlsProtocols:
    """What the one address tried offers."""
    result = results[f"tls-protocols--{host}"]
    assert (result.outcome, result.reason) == ("ok", "")
    [entry] = TlsProtocolsScanner().parse(Website(f"https://{host}:443"), Evidence.unpack(result.evidence))
    assert isinstance(entry, Found)
    assert isinstance(entry.fact, TlsProtocols)
    assert entry.item == entry.fact.address
    return entry.fact


def chain_of(lab: Lab, label: str) -> list[str]:
    """SHA-256 of the certificates in the file that the server of a site sends."""
    content = (lab.directory / "ca" / f"{label}.pem").read_bytes()
    sent = x509.load_pem_x509_certificates(content)
    return [hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest() for certificate in sent]


def test_a_right_site_is_trusted_at_both_addresses(lab: Lab, results: dict[str, Result]) -> None:
    own, certificates = handshakes(results, "www.good.test")
    assert sorted(own) == ["10.77.0.80", "fd77::80"]
    for address, fact in own.items():
        assert fact == TlsHandshake(
            address=address,
            version="TLSv1.3",
            suite="TLS_AES_256_GCM_SHA384",
            group="x25519",
            alpn="http/1.1",
            leaf=chain_of(lab, "good")[0],
            chain=chain_of(lab, "good"),
            trust="trusted",
            trust_reason="The chain leads to a trusted root.",
            roots="own",
            name_matches=True,
            names=["www.good.test", "good.test", "mta-sts.good.test", "v6only.good.test"],
            common_name_only=False,
            ocsp_stapled=False,
            problems=[],
        )
    [entry] = certificates
    assert entry.asset == Certificate(chain_of(lab, "good")[0])
    assert isinstance(entry.fact, CertificateDetails)
    assert (entry.fact.key_type, entry.fact.key_bits, entry.fact.signature_hash) == ("EC", 256, "sha256")


def test_a_site_with_ipv6_only_is_reached_there(results: dict[str, Result]) -> None:
    assert list(handshakes(results, "v6only.good.test")[0]) == ["fd77::80"]
    assert protocols(results, "v6only.good.test").address == "fd77::80"


@pytest.mark.parametrize(
    ("host", "label", "trust", "matches"),
    [
        ("www.bad.test", "bad", "self-signed", False),
        ("expired.bad.test", "expired", "trusted", True),  # its own dates are judged apart
        ("soon.bad.test", "soon", "trusted", True),
        ("weakkey.bad.test", "weakkey", "invalid", True),
        ("chain.bad.test", "chain", "unknown-issuer", True),
        ("old.bad.test", "old", "trusted", True),
    ],
)
def test_each_wrong_certificate_is_wrong_in_its_own_way(
    lab: Lab, results: dict[str, Result], host: str, label: str, trust: str, matches: bool
) -> None:
    own, certificates = handshakes(results, host)
    [fact] = own.values()
    assert (fact.chain, fact.trust, fact.name_matches) == (chain_of(lab, label), trust, matches)
    assert [entry.asset for entry in certificates] == [Certificate(chain_of(lab, label)[0])]
    if host == "weakkey.bad.test":
        details = certificates[0].fact
        assert isinstance(details, CertificateDetails)
        assert (details.key_type, details.key_bits, details.signature_hash) == ("RSA", 1024, "sha1")
        assert (
            fact.trust_reason == "The certificate CN=weakkey.bad.test is signed with SHA-1, which is no longer trusted."
        )


def test_what_a_right_site_offers(results: dict[str, Result]) -> None:
    fact = protocols(results, "www.good.test")
    assert fact.versions == [
        MODERN_13,
        OfferedVersion(
            "TLSv1.2",
            [
                "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
                "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
                "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
            ],
            "server",
            ["x25519", "secp256r1"],
        ),
    ]
    assert fact.refused == OLD
    assert (fact.fallback_scsv, fact.compression, fact.secure_renegotiation, fact.dh_bits) == (True, False, True, [])


def test_what_a_wrong_site_offers(results: dict[str, Result]) -> None:
    fact = protocols(results, "www.bad.test")
    assert [entry.version for entry in fact.versions] == ["TLSv1.2", "TLSv1.1", "TLSv1.0"]
    assert fact.refused == ["TLSv1.3", "SSLv3", "SSLv2"]
    assert fact.unmeasured == {}
    assert fact.dh_bits == [1024]
    assert [entry.preference for entry in fact.versions] == ["client"] * 3
    suites = set(fact.versions[0].suites)
    assert {
        "TLS_RSA_WITH_NULL_SHA256",
        "TLS_DH_anon_WITH_AES_128_GCM_SHA256",
        "TLS_RSA_WITH_AES_128_GCM_SHA256",
    } <= suites


def test_a_site_with_old_versions_only(results: dict[str, Result]) -> None:
    fact = protocols(results, "old.bad.test")
    assert [entry.version for entry in fact.versions] == ["TLSv1.1", "TLSv1.0"]
    assert fact.refused == ["TLSv1.3", "TLSv1.2", "SSLv3", "SSLv2"]
    assert handshakes(results, "old.bad.test")[0]["10.77.0.91"].version == "TLSv1.1"


@pytest.mark.parametrize("scanner", ["tls-certificate", "tls-protocols"])
@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("plain.good.test", "plain.good.test: 10.77.0.87 port 443 refused the connection."),
        (
            "silent.bad.test",
            "silent.bad.test: no handshake came about, because the server did not answer in time.",
        ),
    ],
)
def test_what_does_not_answer_was_not_measured(
    results: dict[str, Result], scanner: str, host: str, reason: str
) -> None:
    result = results[f"{scanner}--{host}"]
    assert (result.outcome, result.reason, result.evidence) == ("failed", reason, b"")
