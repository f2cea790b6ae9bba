"""Checks of the cipher suites that a website offers, in three grades of severity. Item: the suite's name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from kattegat.plugin import Context, Facts, Item, Verdict, Website, check, translatable, verdict
from kattegat.plugins.tls.facts import TlsProtocols
from kattegat.plugins.tls.handshake import is_https
from kattegat.plugins.tls.protocol_checks import unsure
from kattegat.plugins.tls.suites import Suite, by_name

__all__ = [
    "tls_cipher_not_recommended",
    "tls_insecure_cipher",
    "tls_no_forward_secrecy",
    "tls_weak_cipher",
]

VERSIONS = ("TLSv1.3", "TLSv1.2", "TLSv1.1", "TLSv1.0", "SSLv3")
NO_SECRECY = "without forward secrecy, whoever gets the server's key reads all that was recorded (RFC 9325 section 4.1)"
CBC = "CBC with MAC-then-encrypt is open to padding oracles (Lucky 13; RFC 7366)"


def _no_secrecy(suite: Suite) -> bool:
    return suite.key_exchange in ("RSA", "DH", "ECDH") and suite.authentication != "anon"


def insecure(suite: Suite) -> str:
    """Why a suite protects nothing or next to nothing; "" if that is not so."""
    return suite.reason if suite.strength == "insecure" else ""


def weak(suite: Suite) -> str:
    """Why a suite should no longer be offered, "" for those that are insecure or merely out of favour."""
    if suite.strength != "weak":
        return ""
    if suite.encryption.startswith(("3DES", "IDEA")) or suite.authentication == "DSS":
        return suite.reason
    if suite.mac != "AEAD" and _no_secrecy(suite):
        return f"{CBC}, and {suite.reason}"
    return ""


def not_recommended(suite: Suite) -> str:
    """Why a suite without a known break in practice is not among those that guidelines name; "" for the others."""
    if suite.strength != "weak" or weak(suite) or _no_secrecy(suite):
        return ""
    return suite.reason if suite.mac == "AEAD" else CBC


def no_secrecy(suite: Suite) -> str:
    """Why a suite is without forward secrecy; "" for those that have it, and for those that are reported as worse."""
    return NO_SECRECY if _no_secrecy(suite) and suite.strength != "insecure" and not weak(suite) else ""


def _judged(protocols: Facts[TlsProtocols], why: Callable[[Suite], str]) -> Verdict:
    offered: dict[str, set[str]] = defaultdict(set)
    for fact in protocols:
        for entry in fact.versions:
            for name in entry.suites:
                offered[name].add(entry.version)
    items = []
    for name, versions in sorted(offered.items()):
        # The ciphers of SSL 2.0 are not in the table: that version is reported as such.
        suite = by_name().get(name)
        if suite is not None and (reason := why(suite)):
            shown = ", ".join(version for version in VERSIONS if version in versions)
            text = translatable("{suite} ({versions}): {reason}")
            items.append(Item(name, text, {"suite": name, "versions": shown, "reason": reason}))
    # A version that was not measured, or whose list was cut short, may hold one more.
    return verdict(
        items, unknown=unsure(protocols, *VERSIONS, *(f"cipher suites of {version}" for version in VERSIONS))
    )


@check(
    "tls-insecure-cipher",
    about=Website,
    needs=[TlsProtocols],
    severity="high",
    title=translatable("Cipher suites that protect nothing are offered"),
    risk=translatable("Someone in between can read or change what is sent with them."),
    fix=translatable("Take suites with NULL, anonymous, EXPORT, DES, RC2, RC4 and MD5 out of the configuration."),
    reference="RFC 9325 section 4.1, RFC 7465",
    openkat=["KAT-CRITICAL-BAD-CIPHER"],
    applies=is_https,
)
def tls_insecure_cipher(context: Context, protocols: Facts[TlsProtocols]) -> Verdict:
    """No encryption, no authentication, export strength, DES, RC2, RC4 or MD5."""
    return _judged(protocols, insecure)


@check(
    "tls-weak-cipher",
    about=Website,
    needs=[TlsProtocols],
    severity="medium",
    title=translatable("Weak cipher suites are offered"),
    risk=translatable("With effort, parts of what is sent can be read."),
    fix=translatable("Offer suites with ECDHE and AES-GCM or ChaCha20-Poly1305 only."),
    reference="RFC 9325 section 4.2",
    openkat=["KAT-MEDIUM-BAD-CIPHER"],
    applies=is_https,
)
def tls_weak_cipher(context: Context, protocols: Facts[TlsProtocols]) -> Verdict:
    """Blocks of 64 bits (3DES, IDEA), DSA, or CBC without forward secrecy."""
    return _judged(protocols, weak)


@check(
    "tls-cipher-not-recommended",
    about=Website,
    needs=[TlsProtocols],
    severity="recommendation",
    title=translatable("Cipher suites that are no longer recommended are offered"),
    risk=translatable("A fault in the server's implementation can make them weak; nobody needs them any more."),
    fix=translatable("Offer suites with ECDHE and AES-GCM or ChaCha20-Poly1305 only."),
    reference="RFC 9325 section 4.2, IANA TLS Cipher Suites registry",
    openkat=["KAT-RECOMMENDATION-BAD-CIPHER"],
    applies=is_https,
)
def tls_cipher_not_recommended(context: Context, protocols: Facts[TlsProtocols]) -> Verdict:
    """CBC with forward secrecy, short authentication tags (CCM_8), or SM4."""
    return _judged(protocols, not_recommended)


@check(
    "tls-no-forward-secrecy",
    about=Website,
    needs=[TlsProtocols],
    severity="low",
    title=translatable("Cipher suites without forward secrecy are offered"),
    risk=translatable("Whoever gets the server's key, also years later, can read all connections recorded before."),
    fix=translatable("Offer suites with ECDHE only."),
    reference="RFC 9325 section 4.1",
    applies=is_https,
)
def tls_no_forward_secrecy(context: Context, protocols: Facts[TlsProtocols]) -> Verdict:
    """Keys are exchanged with RSA or a fixed Diffie-Hellman key, in a suite that no graver check reports."""
    return _judged(protocols, no_secrecy)
