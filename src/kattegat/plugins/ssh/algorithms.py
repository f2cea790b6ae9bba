"""How the algorithms of SSH stand today: IANA SSH parameters, RFC 9142, RFC 8758, RFC 8332, RFC 8270 and known attacks.

An algorithm that is in no table and fits no rule is "unknown", never secure by default.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

Kind = Literal["kex", "host_key", "cipher", "mac", "compression"]
Strength = Literal["secure", "weak", "insecure", "unknown", "signal"]

MIN_RSA_BITS = 2048
"""RSA and DSA host keys below this size are weak (NIST SP 800-131A revision 2)."""


class Judgement(msgspec.Struct, frozen=True):
    """How an algorithm stands; `reason` is "" where it is secure. "signal" is a mark in a list, not an algorithm."""

    strength: Strength
    reason: str = ""


_SHA1 = "it rests on SHA-1, for which collisions can be made (RFC 9142 section 1.1)"
_GROUP1 = "its group of 1024 bits can be broken by a well-funded attacker (Logjam; RFC 9142 section 3.4)"
_CBC = "CBC mode with encrypt-and-MAC leaks plaintext (CVE-2008-5161; RFC 4251 section 9.3.1)"
_BLOCK64 = "its blocks of 64 bits leak plaintext in long sessions (Sweet32), and CBC mode leaks more (CVE-2008-5161)"
_RC4 = "RC4 is broken and must not be used (RFC 8758)"
_MD5 = "it rests on MD5, which is broken (RFC 6151)"
_SHORT = "its tag is short, so forged packets get through more often"

_SECURE = Judgement("secure")

# (kind, pattern of the whole name, strength, reason); the first that fits counts.
_RULES: tuple[tuple[Kind, str, Strength, str], ...] = (
    ("kex", r"ext-info-[cs]|kex-strict-[cs]-v00@openssh\.com", "signal", "it marks an extension"),
    ("kex", r"diffie-hellman-group1-sha1", "insecure", _GROUP1),
    ("kex", r"gss-group1-sha1-.*", "insecure", _GROUP1),
    ("kex", r"rsa1024-sha1", "insecure", "its RSA key of 1024 bits can be broken (RFC 9142 section 3.4)"),
    ("kex", r"diffie-hellman-group(14|15|-exchange)-sha1|gss-(gex|group14)-sha1-.*", "weak", _SHA1),
    ("kex", r"(mlkem|sntrup|kyber).*|(curve25519-(sha256|frodo).*|curve448-sha512)", "secure", ""),
    ("kex", r"ecdh-sha2-nistp(256|384|521)|ecmqv-sha2|rsa2048-sha256", "secure", ""),
    ("kex", r"diffie-hellman-group(14-sha256|1[5-8]-sha512|-exchange-sha256)(@ssh\.com)?", "secure", ""),
    ("kex", r"gss-(group1[4-8]|nistp\d+|curve\d+)-sha(256|384|512)-.*", "secure", ""),
    ("host_key", r"ssh-rsa(-cert-v0[01]@openssh\.com)?|x509v3-ssh-rsa", "weak", "it signs with SHA-1 (RFC 8332)"),
    ("host_key", r"(x509v3-)?ssh-dss(-cert-v0[01]@openssh\.com)?", "insecure", "DSA is limited to 1024 bits and SHA-1"),
    (
        "host_key",
        r"rsa-sha2-(256|512).*|x509v3-rsa2048-sha256|ssh-ed(25519|448).*|(x509v3-)?ecdsa-sha2-.*",
        "secure",
        "",
    ),
    ("host_key", r"(webauthn-)?sk-(ssh-ed25519|ecdsa-sha2-nistp256).*", "secure", ""),
    ("cipher", r"none", "insecure", "it does not encrypt (RFC 4253 section 6.3)"),
    ("cipher", r"arcfour.*", "insecure", _RC4),
    ("cipher", r"des-cbc.*", "insecure", "its key of 56 bits can be found by trying all (FIPS 46-3 is withdrawn)"),
    ("cipher", r"(3des|blowfish|cast128|idea)-(cbc|ctr|cfb|ofb)", "weak", _BLOCK64),
    ("cipher", r".*-cbc(@.*)?", "weak", _CBC),
    ("cipher", r"aes(128|192|256)-(ctr|gcm)(@openssh\.com)?|AEAD_AES_(128|256)_GCM", "secure", ""),
    ("cipher", r"chacha20-poly1305(@openssh\.com)?|(camellia|twofish|serpent)(128|192|256)-ctr.*", "secure", ""),
    ("mac", r"none", "insecure", "it does not protect against changes (RFC 4253 section 6.4)"),
    ("mac", r"hmac-md5-96.*|hmac-md5.*", "insecure", _MD5),
    ("mac", r"hmac-ripemd160.*", "weak", "RIPEMD-160 is old and not recommended any more"),
    ("mac", r"hmac-sha1-96.*", "weak", _SHORT),
    ("mac", r"umac-64.*", "weak", _SHORT),
    ("mac", r"hmac-sha1.*", "weak", "SHA-1 is being phased out (NIST SP 800-131A revision 2)"),
    ("mac", r"hmac-sha2-(256|512).*|hmac-sha3-.*|umac-(96|128).*|AEAD_AES_(128|256)_GCM", "secure", ""),
    ("compression", r"none|zlib@openssh\.com", "secure", ""),
    ("compression", r"zlib", "weak", "it compresses before logging in, which opens the library to anyone"),
)


def judge(kind: Kind, name: str) -> Judgement:
    """How the algorithm `name` of that kind stands."""
    for rule_kind, pattern, strength, reason in _RULES:
        if rule_kind == kind and re.fullmatch(pattern, name):
            return Judgement(strength, reason) if reason else _SECURE
    return Judgement("unknown", "it is not in the list of known algorithms")


def judge_key(type_: str, bits: int | None) -> Judgement:
    """How a host key stands; `type_` is its format ("ssh-rsa", ...), `bits` the size of its modulus or curve."""
    if type_ == "ssh-dss":
        return judge("host_key", type_)
    if type_ == "ssh-rsa":
        if bits is None:
            return Judgement("unknown", "its size is not known")
        if bits < 1024:
            return Judgement("insecure", f"its modulus of {bits} bits can be factored")
        if bits < MIN_RSA_BITS:
            return Judgement("weak", f"its modulus of {bits} bits is shorter than {MIN_RSA_BITS}")
        return _SECURE
    return judge("host_key", type_)


def terrapin(kex: tuple[str, ...], ciphers: tuple[str, ...], macs: tuple[str, ...]) -> bool:
    """Whether the server lets itself be attacked by cutting off packets (CVE-2023-48795).

    That is so without strict key exchange where ChaCha20-Poly1305, or CBC with encrypt-then-MAC, can be chosen.
    """
    if "kex-strict-s-v00@openssh.com" in kex:
        return False
    cbc = any(name.endswith("-cbc") for name in ciphers) and any("-etm@" in name for name in macs)
    return "chacha20-poly1305@openssh.com" in ciphers or cbc
