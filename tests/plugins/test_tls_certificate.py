"""Facts of certificates, names and chains, on certificates made here and on those of this system."""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from kattegat.plugins.shared.exchange import WireError
from kattegat.plugins.tls.certificate import Certificate, matches, read_certificate
from kattegat.plugins.tls.trust import default_roots, load_roots, verify_chain

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
Pair = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def make(
    common_name: str,
    key: Key,
    issuer: Pair | None = None,
    *,
    ca: bool = False,
    names: tuple[x509.GeneralName, ...] = (),
    end: datetime = NOW + 100 * DAY,
    start: datetime = NOW - 100 * DAY,
    issuer_url: str | None = None,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    signer: Key = issuer[1] if issuer else key
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer[0].subject if issuer else subject)
    builder = builder.public_key(key.public_key()).serial_number(0xABCDEF).not_valid_before(start).not_valid_after(end)
    builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
    public = (issuer[1] if issuer else key).public_key()
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    if ca:
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, critical=True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if issuer_url:
        access = [
            x509.AccessDescription(
                AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier(issuer_url)
            ),
            x509.AccessDescription(
                AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier("http://ocsp.example/")
            ),
        ]
        builder = builder.add_extension(x509.AuthorityInformationAccess(access), critical=False)
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        builder = builder.add_extension(usages, critical=False)
        point = x509.DistributionPoint([x509.UniformResourceIdentifier("http://crl.example/1.crl")], None, None, None)
        builder = builder.add_extension(x509.CRLDistributionPoints([point]), critical=False)
    algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(signer, algorithm)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


@pytest.fixture(scope="module")
def root() -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    return make("Root", key, ca=True, end=NOW + 3000 * DAY), key


@pytest.fixture(scope="module")
def middle(root: Pair) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    return make("Middle", key, root, ca=True, end=NOW + 1000 * DAY), key


def leaf(issuer: Pair | None, **changes: object) -> x509.Certificate:
    arguments = {"names": (x509.DNSName("a.example"),), "issuer_url": "http://ca.example/i.der", **changes}
    return make("a.example", ec.generate_private_key(ec.SECP256R1()), issuer, **arguments)  # type: ignore[arg-type]


def test_the_facts_of_a_certificate(middle: Pair) -> None:
    names = (x509.DNSName("a.example"), x509.DNSName("*.b.example"), x509.IPAddress(ipaddress.ip_address("192.0.2.7")))
    facts = read_certificate(der(leaf(middle, names=names)))
    assert (facts.subject, facts.issuer, facts.serial) == ("CN=a.example", "CN=Middle", "abcdef")
    assert (facts.not_before, facts.not_after) == (NOW - 100 * DAY, NOW + 100 * DAY)
    assert (facts.dns_names, facts.ip_names) == (("a.example", "*.b.example"), ("192.0.2.7",))
    assert (facts.key_type, facts.key_bits, facts.curve) == ("EC", 256, "secp256r1")
    assert (facts.signature_algorithm, facts.signature_hash) == ("ecdsa-with-SHA256", "sha256")
    assert (facts.is_ca, facts.self_signed, facts.server_auth, facts.sct_count) == (False, False, True, 0)
    assert facts.issuer_urls == ("http://ca.example/i.der",)
    assert (facts.ocsp_urls, facts.crl_urls) == (("http://ocsp.example/",), ("http://crl.example/1.crl",))
    assert facts.problems == ()


def test_keys_of_other_kinds_and_self_signed_ones() -> None:
    facts = read_certificate(der(make("r", rsa.generate_private_key(65537, 1024))))
    assert (facts.key_type, facts.key_bits, facts.self_signed) == ("RSA", 1024, True)
    assert facts.common_name_only
    facts = read_certificate(der(make("e", ed25519.Ed25519PrivateKey.generate(), ca=True)))
    assert (facts.key_type, facts.key_bits, facts.signature_hash, facts.is_ca) == ("Ed25519", 256, None, True)


def test_a_certificate_that_is_wrong_in_parts_keeps_its_other_facts(middle: Pair) -> None:
    good = der(leaf(middle))
    # The name in subjectAltName is no longer ASCII, and the version is one that was never defined.
    facts = read_certificate(good.replace(b"\x82\x09a.example", b"\x82\x09\xff.example"))
    assert facts.subject == "CN=a.example"
    assert facts.key_bits == 256
    assert facts.dns_names == ()
    assert any("extensions" in problem for problem in facts.problems)
    facts = read_certificate(good.replace(b"\x02\x04\x00\xab\xcd\xef", b"\x02\x04\x80\xab\xcd\xef"))
    assert facts.dns_names == ("a.example",)
    assert any("serial" in problem for problem in facts.problems)


@pytest.mark.parametrize("data", [b"", b"\x30\x00", b"hello", bytes(300_000)])
def test_what_is_no_certificate_at_all_is_said(data: bytes) -> None:
    with pytest.raises(WireError, match=r"^These bytes are no valid X.509: .+\.$"):
        read_certificate(data)
    assert verify_chain((data,), NOW, ()).trust == "invalid"


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("a.example", "a.example", True),
        ("A.EXAMPLE.", "a.example", True),
        ("b.example", "a.example", False),
        ("www.b.example", "*.b.example", True),
        ("b.example", "*.b.example", False),
        ("x.www.b.example", "*.b.example", False),
        ("www.b.example", "w*.b.example", False),
        ("www.b.example", "www.*.example", False),
        ("www.b.example", "*.*.example", False),
        ("b.example", "*.example", False),
        ("192.0.2.7", "192.0.2.7", False),
        ("", "", False),
        ("*.b.example", "*.b.example", False),
    ],
)
def test_names_match_as_rfc_9525_says(name: str, pattern: str, expected: bool) -> None:
    facts = Certificate(sha256="", dns_names=(pattern,), common_names=("b.example", name))
    assert matches(name, facts) is (expected and name != "b.example")


def test_addresses_match_addresses_only() -> None:
    facts = Certificate(sha256="", ip_names=("192.0.2.7", "2001:db8::1"))
    assert matches("192.0.2.7", facts)
    assert matches("2001:DB8:0::1", facts)
    assert matches("[2001:db8::1]", facts)
    assert not matches("192.0.2.8", facts)


def test_a_chain_is_trusted_or_the_reason_is_given(root: Pair, middle: Pair) -> None:
    roots = (root[0],)
    good = leaf(middle)
    chain = (der(good), der(middle[0]))
    verdict = verify_chain(chain, NOW, roots)
    assert verdict.trust == "trusted"
    assert verdict.path_sha256 == tuple(c.fingerprint(hashes.SHA256()).hex() for c in (good, middle[0], root[0]))
    assert verify_chain((*chain, der(root[0])), NOW, roots).trust == "trusted"
    wild = leaf(middle, names=(x509.DNSName("*.a.example"),))
    assert verify_chain((der(wild), der(middle[0])), NOW, roots).trust == "trusted"
    nameless = leaf(middle, names=())
    assert verify_chain((der(nameless), der(middle[0])), NOW, roots).trust == "trusted"
    for expected, sent, at in (
        ("no-chain", (), NOW),
        ("self-signed", (der(leaf(None)),), NOW),
        ("expired", chain, NOW + 101 * DAY),
        ("not-yet-valid", chain, NOW - 101 * DAY),
        ("intermediate-missing", (der(good),), NOW),
        ("unknown-issuer", (der(leaf(middle, issuer_url=None)),), NOW),
        ("invalid", (der(leaf((middle[0], ec.generate_private_key(ec.SECP256R1())))), b"\x30\x00"), NOW),
    ):
        verdict = verify_chain(sent, at, roots)
        wanted = "intermediate-missing" if expected == "invalid" else expected
        assert verdict.trust == wanted, verdict.reason
        assert verdict.reason.endswith(".")
    assert verify_chain(chain, NOW, (leaf(None),)).trust in ("unknown-issuer", "intermediate-missing")
    whole = (*chain, der(root[0]))
    assert verify_chain(whole, NOW, (make("Other", ec.generate_private_key(ec.SECP256R1()), ca=True),)).trust == (
        "unknown-issuer"
    )


def test_an_issuer_that_may_not_issue_makes_a_chain_invalid(root: Pair) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    not_ca = make("Middle", key, root, ca=False)
    verdict = verify_chain((der(leaf((not_ca, key))), der(not_ca)), NOW, (root[0],))
    assert verdict.trust == "invalid"


def test_the_roots_of_this_system_are_read(tmp_path: Path, root: Pair) -> None:
    roots = load_roots()
    assert len(roots) > 50
    assert default_roots().is_file()
    for trusted in roots[:20]:
        facts = read_certificate(der(trusted))
        assert facts.is_ca or facts.is_ca is None
        assert facts.self_signed is not False
    path = tmp_path / "roots.pem"
    path.write_bytes(
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" + root[0].public_bytes(Encoding.PEM)
    )
    assert load_roots(path) == (root[0],)
    path.write_bytes(b"nothing")
    with pytest.raises(WireError, match="no certificate"):
        load_roots(path)
    with pytest.raises(WireError, match="cannot be read"):
        load_roots(tmp_path / "none.pem")


@pytest.mark.real
def test_openssl_agrees_on_a_certificate(middle: Pair, tmp_path: Path) -> None:
    program = shutil.which("openssl")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("openssl is missing; install the package openssl")
        pytest.skip("openssl is missing")
    path = tmp_path / "leaf.der"
    path.write_bytes(der(leaf(middle)))
    command = [program, "x509", "-inform", "DER", "-in", str(path), "-noout", "-fingerprint", "-sha256", "-serial"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    facts = read_certificate(path.read_bytes())
    assert facts.sha256 in shown.replace(":", "").lower()
    assert f"serial={facts.serial}" in shown.lower()


SAMPLE = der(leaf(None))


@given(
    st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, len(SAMPLE)) | st.just(len(SAMPLE)),
)
@settings(max_examples=400, deadline=None)
def test_a_changed_certificate_never_raises_anything_but_the_typed_error(
    changes: list[tuple[int, int]], length: int
) -> None:
    data = bytearray(SAMPLE)
    for at, value in changes:
        data[at] = value
    changed = bytes(data[:length])
    try:
        facts = read_certificate(changed)
    except WireError:
        assert changed != SAMPLE
    else:
        matches("a.example", facts)
    assert verify_chain((changed, SAMPLE), NOW, ()).trust != "trusted"
