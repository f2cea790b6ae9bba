"""Whether a certificate chain leads to a root that is trusted (RFC 5280 §6), and if not, why."""

from __future__ import annotations

import functools
import importlib.util
import ipaddress
import re
import ssl
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import ExtensionPolicy, PolicyBuilder, Store, VerificationError

from kattegat.plugins.shared.exchange import WireError
from kattegat.plugins.tls.certificate import Certificate, load, read_certificate

Trust = Literal[
    "trusted",
    "self-signed",
    "expired",
    "not-yet-valid",
    "intermediate-missing",
    "unknown-issuer",
    "invalid",
    "no-chain",
]

_SYSTEM_STORES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class ChainVerdict(msgspec.Struct, frozen=True):
    """`trust` for a program, `reason` as one sentence. `path_sha256`: hex of the certificates from leaf to root."""

    trust: Trust
    reason: str
    path_sha256: tuple[str, ...] = ()


def default_roots() -> Path:
    """The PEM file with this system's trusted roots, else that of certifi; raises `WireError` if there is none."""
    for name in (*_SYSTEM_STORES, ssl.get_default_verify_paths().cafile):
        if name and Path(name).is_file():
            return Path(name)
    found = importlib.util.find_spec("certifi")
    if found is not None and found.origin:
        return Path(found.origin).with_name("cacert.pem")
    raise WireError("X.509", "this system has no file of trusted roots; install the package ca-certificates")


@functools.lru_cache(maxsize=8)
def _roots(path: Path, _changed: int) -> tuple[x509.Certificate, ...]:
    roots: list[x509.Certificate] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in _PEM.findall(path.read_bytes()):
            try:
                roots.append(x509.load_pem_x509_certificate(block))
            except ValueError:
                # One root that cannot be read must not make all the others untrusted.
                continue
    return tuple(roots)


def load_roots(path: Path | None = None) -> tuple[x509.Certificate, ...]:
    """The roots of a PEM file (default: `default_roots()`), read again when it changes; raises `WireError`."""
    path = path or default_roots()
    try:
        roots = _roots(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise WireError("X.509", f"the roots cannot be read from {path} ({error.strerror})") from error
    if not roots:
        raise WireError("X.509", f"there is no certificate in {path}")
    return roots


def _verify(
    leaf: x509.Certificate, facts: Certificate, rest: list[x509.Certificate], store: Store, at: datetime
) -> list[x509.Certificate]:
    builder = PolicyBuilder().store(store).time(at)
    # The name is checked apart, so the chain is verified for a name that the certificate is for.
    names = [name.replace("*", "any", 1) if name.startswith("*.") else name for name in facts.dns_names]
    for name in names:
        try:
            return builder.build_server_verifier(x509.DNSName(name)).verify(leaf, rest)
        except ValueError:
            continue
    for name in facts.ip_names:
        return builder.build_server_verifier(x509.IPAddress(ipaddress.ip_address(name))).verify(leaf, rest)
    # Without a usable name: the leaf's extensions are left unchecked, the path is not.
    policy = builder.extension_policies(
        ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=ExtensionPolicy.permit_all()
    )
    return policy.build_client_verifier().verify(leaf, rest).chain


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    if certificate.issuer != issuer.subject:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _broken_hash(certificate: x509.Certificate) -> str:
    """The name of the hash function of its signature if nobody accepts that any more, or ""."""
    try:
        digest = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return ""
    return {"sha1": "SHA-1", "md5": "MD5"}.get(digest.name, "") if digest else ""


def _top(leaf: x509.Certificate, rest: list[x509.Certificate]) -> x509.Certificate:
    """The last certificate that the sent ones lead to from the leaf."""
    current, left = leaf, list(rest)
    while True:
        following = next((other for other in left if _issued(current, other)), None)
        if following is None:
            return current
        left.remove(following)
        current = following


def verify_chain(
    chain_der: tuple[bytes, ...], at: datetime, roots: tuple[x509.Certificate, ...] | None = None
) -> ChainVerdict:
    """Whether the chain, leaf first, leads to one of `roots` (default: `load_roots()`) at the moment `at` (aware).

    Whether the certificate is for the name is `certificate.matches`'s question. Never raises for a bad chain; raises
    `WireError` if the default roots cannot be read.
    """
    if not chain_der:
        return ChainVerdict("no-chain", "The server sent no certificate.")
    at = at.astimezone(UTC)
    try:
        leaf, facts = load(chain_der[0]), read_certificate(chain_der[0])
    except WireError as error:
        return ChainVerdict("invalid", str(error))
    if facts.subject is None or facts.issuer is None or facts.not_after is None or facts.not_before is None:
        return ChainVerdict("invalid", f"The certificate cannot be read in full: {' '.join(facts.problems)}")
    rest: list[x509.Certificate] = []
    for der in chain_der[1:]:
        try:
            other = read_certificate(der)
            # One that cannot even say who it is leads nowhere, and asking it again would raise.
            if other.subject is not None and other.issuer is not None and other.not_after is not None:
                rest.append(load(der))
        except WireError:
            continue
    anchors = roots if roots is not None else load_roots()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            path = _verify(leaf, facts, rest, Store(list(anchors)), at)
        except (VerificationError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            return _explain(leaf, facts, rest, anchors, at, error)
        digests = tuple(certificate.fingerprint(hashes.SHA256()).hex() for certificate in path)
    return ChainVerdict("trusted", "The chain leads to a trusted root.", digests)


def _explain(
    leaf: x509.Certificate,
    facts: Certificate,
    rest: list[x509.Certificate],
    roots: tuple[x509.Certificate, ...],
    at: datetime,
    error: Exception,
) -> ChainVerdict:
    """The reason why a chain was turned down, in the words of the field rather than of the library."""
    if facts.self_signed:
        return ChainVerdict("self-signed", "The certificate is signed by its own key only.")
    if facts.not_after and facts.not_after < at:
        return ChainVerdict("expired", f"The certificate expired on {facts.not_after:%Y-%m-%d}.")
    if facts.not_before and facts.not_before > at:
        return ChainVerdict("not-yet-valid", f"The certificate is valid from {facts.not_before:%Y-%m-%d} only.")
    for certificate in (leaf, *rest):
        name, digest = certificate.subject.rfc4514_string(), _broken_hash(certificate)
        if digest and certificate.issuer != certificate.subject:
            # Its signature can't be checked at all, so who issued it is an open question.
            return ChainVerdict(
                "invalid", f"The certificate {name} is signed with {digest}, which is no longer trusted."
            )
    top = _top(leaf, rest)
    if top.issuer == top.subject:
        if not any(_issued(top, root) for root in roots):
            name = top.subject.rfc4514_string()
            return ChainVerdict("unknown-issuer", f"The chain ends in {name}, which is not among the trusted roots.")
    elif not any(_issued(top, root) for root in roots):
        name = top.issuer.rfc4514_string()
        # Only the address of an issuer's certificate shows that there is one to be had and to be sent along.
        if read_certificate(top.public_bytes(Encoding.DER)).issuer_urls:
            return ChainVerdict(
                "intermediate-missing", f"The server does not send the certificate of the issuer {name}."
            )
        return ChainVerdict("unknown-issuer", f"The issuer {name} is neither sent along nor among the trusted roots.")
    for certificate in rest:
        if certificate.not_valid_after_utc < at:
            name = certificate.subject.rfc4514_string()
            return ChainVerdict("expired", f"The intermediate certificate {name} has expired.")
    return ChainVerdict("invalid", f"The chain is not valid: {' '.join(str(error).split())[:300]}.")
