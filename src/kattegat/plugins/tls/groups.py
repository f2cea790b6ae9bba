"""Named groups and signature schemes (IANA TLS parameters: RFC 8446 §4.2.3, §4.2.7; RFC 8422 §5.1.1; RFC 7919)."""

from __future__ import annotations

_CURVE_NAMES = """
sect163k1 sect163r1 sect163r2 sect193r1 sect193r2 sect233k1 sect233r1 sect239k1 sect283k1 sect283r1 sect409k1
sect409r1 sect571k1 sect571r1 secp160k1 secp160r1 secp160r2 secp192k1 secp192r1 secp224k1 secp224r1 secp256k1
secp256r1 secp384r1 secp521r1 brainpoolP256r1 brainpoolP384r1 brainpoolP512r1 x25519 x448 brainpoolP256r1tls13
brainpoolP384r1tls13 brainpoolP512r1tls13
"""

GROUPS: dict[int, str] = {
    **dict(enumerate(_CURVE_NAMES.split(), start=1)),
    256: "ffdhe2048",
    257: "ffdhe3072",
    258: "ffdhe4096",
    259: "ffdhe6144",
    260: "ffdhe8192",
    512: "MLKEM512",
    513: "MLKEM768",
    514: "MLKEM1024",
    4587: "SecP256r1MLKEM768",
    4588: "X25519MLKEM768",
    4589: "SecP384r1MLKEM1024",
    25497: "X25519Kyber768Draft00",
}

SECP256R1, SECP384R1, SECP521R1, X25519, X448 = 23, 24, 25, 29, 30

KEY_SHARE_GROUPS = (X25519, SECP256R1, SECP384R1, SECP521R1, X448)
"""The groups for which this scanner can finish a TLS 1.3 key exchange."""

TLS13_GROUPS = (X25519, SECP256R1, SECP384R1, SECP521R1, X448, 4588, 4587, 4589, 31, 32, 33, 256, 257, 258, 259, 260)
"""Groups to ask a TLS 1.3 server for; a HelloRetryRequest tells the choice without a key exchange (RFC 8446 §4.1.4)."""

CURVES = (X25519, SECP256R1, SECP384R1, SECP521R1, X448, 26, 27, 28, 22, *range(1, 22))
"""Elliptic curves to ask a server of TLS 1.2 and lower for, the usual ones first."""

SIGNATURE_SCHEMES: dict[int, str] = {
    0x0101: "rsa_pkcs1_md5",
    0x0201: "rsa_pkcs1_sha1",
    0x0202: "dsa_sha1",
    0x0203: "ecdsa_sha1",
    0x0301: "rsa_pkcs1_sha224",
    0x0302: "dsa_sha224",
    0x0303: "ecdsa_sha224",
    0x0401: "rsa_pkcs1_sha256",
    0x0402: "dsa_sha256",
    0x0403: "ecdsa_secp256r1_sha256",
    0x0501: "rsa_pkcs1_sha384",
    0x0502: "dsa_sha384",
    0x0503: "ecdsa_secp384r1_sha384",
    0x0601: "rsa_pkcs1_sha512",
    0x0602: "dsa_sha512",
    0x0603: "ecdsa_secp521r1_sha512",
    0x0804: "rsa_pss_rsae_sha256",
    0x0805: "rsa_pss_rsae_sha384",
    0x0806: "rsa_pss_rsae_sha512",
    0x0807: "ed25519",
    0x0808: "ed448",
    0x0809: "rsa_pss_pss_sha256",
    0x080A: "rsa_pss_pss_sha384",
    0x080B: "rsa_pss_pss_sha512",
    0x081A: "ecdsa_brainpoolP256r1tls13_sha256",
    0x081B: "ecdsa_brainpoolP384r1tls13_sha384",
    0x081C: "ecdsa_brainpoolP512r1tls13_sha512",
}

OFFERED_SCHEMES = tuple(sorted(SIGNATURE_SCHEMES, key=lambda code: (code < 0x0400, code)))
"""Every scheme, the old ones last, so that no server is without one that it can sign with."""


def group_name(code: int) -> str:
    """The registry's name, or the code in hex."""
    return GROUPS.get(code, f"0x{code:04X}")


def scheme_name(code: int) -> str:
    """The registry's name, or the code in hex."""
    return SIGNATURE_SCHEMES.get(code, f"0x{code:04X}")
