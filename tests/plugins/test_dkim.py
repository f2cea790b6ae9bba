"""DKIM key records."""

from __future__ import annotations

import base64

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kattegat.plugins.mail.dkim import DkimKey, parse, select_records


def rsa_key(bits: int, form: PublicFormat = PublicFormat.SubjectPublicKeyInfo) -> str:
    # A public key of exactly that size; nothing signs with it, so that the modulus need not be a product of primes.
    key = rsa.RSAPublicNumbers(65537, 2 ** (bits - 1) + 1).public_key()
    return base64.b64encode(key.public_bytes(Encoding.DER, form)).decode()


def codes(found: DkimKey) -> list[str]:
    return [problem.code for problem in found.problems]


@pytest.mark.parametrize(
    ("bits", "wanted", "usable"),
    [
        (512, ["key-too-short"], False),
        (1023, ["key-too-short"], False),
        (1024, ["key-short"], True),
        (2047, ["key-short"], True),
        (2048, [], True),
        (4096, [], True),
        (4104, ["key-too-long"], True),
    ],
)
def test_rsa_key_sizes(bits: int, wanted: list[str], usable: bool) -> None:
    found = parse(f"v=DKIM1; k=rsa; p={rsa_key(bits)}")
    assert (found.bits, found.usable, codes(found)) == (bits, usable, wanted)


def test_both_encodings_of_an_rsa_key_and_folded_base64_are_read() -> None:
    text = rsa_key(2048, PublicFormat.PKCS1)
    folded = " \r\n\t".join(text[i : i + 64] for i in range(0, len(text), 64))
    found = parse(f"p={folded}".encode())
    assert (found.key_type, found.bits, found.usable, codes(found)) == ("rsa", 2048, True, [])


def test_an_ed25519_key() -> None:
    raw = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    found = parse(f"v=DKIM1; k=ed25519; p={base64.b64encode(raw).decode()}")
    assert (found.bits, found.usable, codes(found)) == (256, True, [])
    short = parse(f"v=DKIM1; k=ed25519; p={base64.b64encode(raw[:31]).decode()}")
    assert (short.bits, short.usable, codes(short)) == (None, False, ["invalid-key"])


def test_a_revoked_key() -> None:
    found = parse("v=DKIM1; p=")
    assert (found.revoked, found.usable, codes(found)) == (True, False, ["revoked"])
    assert parse("v=DKIM1; k=rsa; p= ;").revoked


def test_flags_services_hashes_and_notes() -> None:
    found = parse(f"v=DKIM1; h=sha1 : sha256; s=email:x; t=y: s; n=a note; p={rsa_key(2048)}")
    assert (found.hashes, found.services, found.flags) == (("sha1", "sha256"), ("email", "x"), ("y", "s"))
    assert (found.testing, found.strict, found.notes, found.usable) == (True, True, "a note", True)
    assert codes(found) == ["testing"]
    assert msgspec.json.decode(msgspec.json.encode(found), type=DkimKey) == found


@pytest.mark.parametrize(
    ("record", "wanted"),
    [
        ("v=DKIM1; k=rsa", ["missing-key"]),
        ("v=DKIM1; p=!!!", ["invalid-key"]),
        ("v=DKIM1; p=é", ["invalid-key"]),
        ("v=DKIM1; p=QUJD", ["invalid-key"]),
        ("v=DKIM1; k=dsa; p=QUJD", ["unknown-key-type"]),
        ("v=DKIM1; h=sha1; p=KEY", ["sha1-only"]),
        ("v=DKIM1; h=md5; p=KEY", ["no-known-hash"]),
        ("v=DKIM1; s=tlsrpt; p=KEY", ["not-for-email"]),
        ("v=DKIM2; p=KEY", ["version"]),
        ("k=rsa; v=DKIM1; p=KEY", ["version"]),
        ("v=DKIM1; p=KEY; p=KEY", ["duplicate-tag"]),
        ("v=DKIM1; rsa; p=KEY", ["syntax"]),
    ],
)
def test_what_makes_a_key_unusable(record: str, wanted: list[str]) -> None:
    found = parse(record.replace("KEY", rsa_key(2048)))
    assert (codes(found), found.usable, found.revoked) == (wanted, False, False)


def test_an_unknown_tag_is_remarked_only() -> None:
    found = parse(f"v=DKIM1; g=*; p={rsa_key(2048)}")
    assert (codes(found), found.usable) == (["unknown-tag"], True)


def test_a_key_of_another_kind_than_k_says() -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert codes(parse(f"v=DKIM1; p={base64.b64encode(der).decode()}")) == ["invalid-key"]


def test_selection() -> None:
    texts = [b"v=DKIM1; k=rsa", b"k=rsa; p=QUJD", b" p =", b"hello", b"v=spf1 -all", b"map=1"]
    assert select_records(texts) == (texts[0], texts[1], texts[2])


# A loaded machine must not fail a test.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
PIECES = st.sampled_from(["v=DKIM1", "k=rsa", "k=ed25519", "p=", "p=QUJD", "h=", "h=:", "t=y:s:", "s=*", "=", "\xe9"])


@UNTIMED
@given(
    st.lists(PIECES | st.text(max_size=12), max_size=8).map(";".join)
    | st.binary(max_size=60)
    | st.binary(max_size=80).map(lambda der: b"p=" + base64.b64encode(der))
    | st.integers(0, 293).map(lambda cut: "p=" + base64.b64encode(base64.b64decode(rsa_key(2048))[:cut]).decode())
)
def test_any_input_is_read_without_an_exception(record: str | bytes) -> None:
    found = parse(record)
    assert found.usable or found.problems
