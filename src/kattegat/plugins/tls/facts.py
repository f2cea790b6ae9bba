"""Facts of TLS: one visitor's handshake, the certificate that it shows, and all that a server offers."""

from __future__ import annotations

from datetime import datetime

import msgspec

from kattegat.plugin import Certificate, Fact, Facts, Website

__all__ = ["CertificateDetails", "OfferedVersion", "TlsHandshake", "TlsProtocols"]

NO_IPV6 = "this machine has no way to IPv6 addresses"
"""The reason why an address was not measured that says something of the scanning machine only."""


def gap(facts: Facts[TlsHandshake] | Facts[TlsProtocols]) -> str | None:
    """Why an address of the website was not measured, or None.

    What a machine without IPv6 finds at the other addresses counts as the whole: else every site with both kinds of
    address would be unknown for ever, and what was mended there would never be resolved.
    """
    return next((reason for reason in facts.unmeasured if not reason.endswith(NO_IPV6)), None)


class TlsHandshake(Fact, about=Website):
    """What a modern visitor's handshake with one address of the website agrees on. Item: the address.

    `version`, `suite`, `group`: registry names; `alpn`: the protocol chosen (RFC 7301). `chain`: SHA-256 (hex) of the
    certificates as sent; `leaf`: the first of them, "" where none was sent. `trust`: "trusted", "self-signed",
    "unknown-issuer", "intermediate-missing", "expired" or "not-yet-valid" (of an issuer), "invalid", "no-chain", or
    "unknown" where the runner had no roots to go by; `trust_reason`: one sentence. The dates of the leaf itself are
    left out of it. `roots`: "system", or "own" when the install names its roots. `name_matches` (RFC 9525): None where
    there is no certificate to read; `names`: those that the certificate is for; `common_name_only`: it has none but
    the common name, at which no client looks.
    """

    address: str
    version: str | None
    suite: str | None
    group: str | None
    alpn: str | None
    leaf: str
    chain: list[str]
    trust: str
    trust_reason: str
    roots: str
    name_matches: bool | None
    names: list[str]
    common_name_only: bool
    ocsp_stapled: bool | None
    problems: list[str]


class CertificateDetails(Fact, about=Certificate):
    """What an X.509 certificate says (RFC 5280); None, or an empty list, where it does not say or can't be read.

    `subject`, `issuer`: RFC 4514 text; `serial`: hex; times in UTC; `key_bits`: of the modulus or the curve;
    `server_auth`: whether extendedKeyUsage allows a TLS server, None if it is absent; `sct_count`: embedded signed
    certificate timestamps (RFC 6962). `problems`: sentences about parts that can't be read.
    """

    subject: str | None
    issuer: str | None
    serial: str | None
    not_before: datetime | None
    not_after: datetime | None
    dns_names: list[str]
    ip_names: list[str]
    common_names: list[str]
    key_type: str | None
    key_bits: int | None
    curve: str | None
    signature_algorithm: str | None
    signature_hash: str | None
    is_ca: bool | None
    server_auth: bool | None
    self_signed: bool | None
    sct_count: int
    ocsp_urls: list[str]
    issuer_urls: list[str]
    crl_urls: list[str]
    problems: list[str]


class OfferedVersion(msgspec.Struct, frozen=True):
    """One version that a server speaks, such as "TLSv1.2", with its suites in the order in which it chose them.

    `preference`: "server" or "client", whose order decides; None where there is no order or it was not measured.
    """

    version: str
    suites: list[str]
    preference: str | None = None
    groups: list[str] = []


class TlsProtocols(Fact, about=Website):
    """All versions, suites and properties that one address of the website offers. Item: the address.

    `versions`: highest first; `refused`: versions that the server turned down. One in neither is in `unmeasured`, which
    maps what could not be told ("TLSv1.0", "cipher suites of TLSv1.2", "fallback_scsv") to the reason. `fallback_scsv`:
    whether a fallback is turned down (RFC 7507); `compression`: whether DEFLATE is chosen (RFC 3749);
    `secure_renegotiation`: RFC 5746; `extended_master_secret`: RFC 7627; None where nothing shows it. `dh_bits`: sizes
    of the finite-field primes seen; `schemes`: signature schemes of the key exchanges.
    """

    address: str
    versions: list[OfferedVersion]
    refused: list[str]
    unmeasured: dict[str, str]
    fallback_scsv: bool | None
    compression: bool | None
    secure_renegotiation: bool | None
    extended_master_secret: bool | None
    dh_bits: list[int]
    schemes: list[str]
    problems: list[str]
