"""Facts of one X.509 certificate (RFC 5280), and whether it is for a name (RFC 9525). Pure; see `trust` for chains.

Certificates in the wild are often wrong in parts. What can be read is kept; what cannot is named in `problems`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import warnings
from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from kattegat.plugins.shared.exchange import WireError

MAX_CERTIFICATE = 256 * 1024

_NO_KEY: tuple[str | None, int | None, str | None] = (None, None, None)

_T = TypeVar("_T")
_E = TypeVar("_E", bound=x509.ExtensionType)


class Certificate(msgspec.Struct, frozen=True):
    """The facts of one certificate. None, or an empty tuple, where it does not say or cannot be read.

    `subject`, `issuer`: RFC 4514 text. `serial`: hex, lower case. `not_before`, `not_after`: aware, UTC.
    `key_type`: RSA, EC, Ed25519, Ed448, DSA or the algorithm's object identifier; `key_bits`: of the modulus or the
    curve. `is_ca`: basicConstraints. `server_auth`: whether extendedKeyUsage allows a TLS server; None if it is absent.
    `self_signed`: the issuer is the subject and the signature is its own. `sct_count`: embedded signed certificate
    timestamps (RFC 6962). `sha256`: of the DER bytes, hex. `ocsp_urls`, `issuer_urls`: of authorityInformationAccess.
    """

    sha256: str
    subject: str | None = None
    issuer: str | None = None
    serial: str | None = None
    not_before: datetime | None = None
    not_after: datetime | None = None
    dns_names: tuple[str, ...] = ()
    ip_names: tuple[str, ...] = ()
    common_names: tuple[str, ...] = ()
    key_type: str | None = None
    key_bits: int | None = None
    curve: str | None = None
    signature_algorithm: str | None = None
    signature_hash: str | None = None
    is_ca: bool | None = None
    server_auth: bool | None = None
    self_signed: bool | None = None
    sct_count: int = 0
    ocsp_urls: tuple[str, ...] = ()
    issuer_urls: tuple[str, ...] = ()
    crl_urls: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def common_name_only(self) -> bool:
        """Whether it names hosts in the subject's common name alone, which no client of today looks at."""
        return bool(self.common_names) and not self.dns_names and not self.ip_names


class _Reader:
    """Reads a certificate part by part; a part that cannot be read becomes a problem."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def part(self, what: str, read: Callable[[], _T], default: _T) -> _T:
        with warnings.catch_warnings(record=True) as caught:
            # What the library only warns of is wrong with the certificate, not with this program.
            warnings.simplefilter("always")
            try:
                value = read()
            except (ValueError, TypeError, KeyError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
                self.problems.append(f"Its {what} cannot be read: {_short(error)}.")
                value = default
        self.problems.extend(f"Its {what} is not as it should be: {_short(warning.message)}." for warning in caught)
        return value


def _short(error: object) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__


def load(der: bytes) -> x509.Certificate:
    """The certificate of the DER bytes; raises `WireError` if they are none at all."""
    if len(der) > MAX_CERTIFICATE:
        raise WireError("X.509", f"{len(der)} bytes are too many for a certificate")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return x509.load_der_x509_certificate(der)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise WireError("X.509", f"the certificate cannot be parsed ({_short(error)})") from error


def read_certificate(der: bytes) -> Certificate:
    """The facts of a DER certificate; raises `WireError` only if the bytes are no certificate at all."""
    certificate = load(der)
    reader = _Reader()
    extensions = reader.part("list of extensions", lambda: certificate.extensions, x509.Extensions([]))
    san = _get(extensions, x509.SubjectAlternativeName)
    constraints = _get(extensions, x509.BasicConstraints)
    usage = _get(extensions, x509.ExtendedKeyUsage)
    scts = _get(extensions, x509.PrecertificateSignedCertificateTimestamps)
    access = _get(extensions, x509.AuthorityInformationAccess)
    points = _get(extensions, x509.CRLDistributionPoints)
    key_type, key_bits, curve = reader.part("public key", lambda: _key(certificate), _NO_KEY)
    algorithm = reader.part("signature algorithm", lambda: certificate.signature_algorithm_oid, None)
    digest = reader.part("signature hash", lambda: certificate.signature_hash_algorithm, None)
    serial = reader.part("serial number", lambda: certificate.serial_number, None)
    if serial is not None and serial <= 0:
        reader.problems.append("Its serial number is not positive (RFC 5280 section 4.1.2.2).")
    return Certificate(
        sha256=hashlib.sha256(der).hexdigest(),
        subject=reader.part("subject", lambda: certificate.subject.rfc4514_string(), None),
        issuer=reader.part("issuer", lambda: certificate.issuer.rfc4514_string(), None),
        serial=None if serial is None else f"{serial:x}",
        not_before=reader.part("start of validity", lambda: certificate.not_valid_before_utc, None),
        not_after=reader.part("end of validity", lambda: certificate.not_valid_after_utc, None),
        dns_names=tuple(san.get_values_for_type(x509.DNSName)) if san else (),
        ip_names=tuple(str(address) for address in san.get_values_for_type(x509.IPAddress)) if san else (),
        common_names=reader.part("common name", lambda: _common_names(certificate), ()),
        key_type=key_type,
        key_bits=key_bits,
        curve=curve,
        signature_algorithm=getattr(algorithm, "_name", None) if algorithm else None,
        signature_hash=digest.name if digest else None,
        is_ca=constraints.ca if constraints else None,
        server_auth=None
        if usage is None
        else bool({ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(usage)),
        self_signed=reader.part("own signature", lambda: _self_signed(certificate), None),
        sct_count=len(scts) if scts else 0,
        ocsp_urls=_access_urls(access, AuthorityInformationAccessOID.OCSP),
        issuer_urls=_access_urls(access, AuthorityInformationAccessOID.CA_ISSUERS),
        crl_urls=tuple(
            name.value
            for point in points or ()
            for name in point.full_name or ()
            if isinstance(name, x509.UniformResourceIdentifier)
        ),
        problems=tuple(reader.problems),
    )


def _get(extensions: x509.Extensions, kind: type[_E]) -> _E | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _access_urls(access: x509.AuthorityInformationAccess | None, method: x509.ObjectIdentifier) -> tuple[str, ...]:
    return tuple(
        entry.access_location.value
        for entry in access or ()
        if entry.access_method == method and isinstance(entry.access_location, x509.UniformResourceIdentifier)
    )


def _common_names(certificate: x509.Certificate) -> tuple[str, ...]:
    return tuple(str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME))


def _key(certificate: x509.Certificate) -> tuple[str | None, int | None, str | None]:
    try:
        key = certificate.public_key()
    except UnsupportedAlgorithm:
        return certificate.public_key_algorithm_oid.dotted_string, None, None
    if isinstance(key, rsa.RSAPublicKey):
        return "RSA", key.key_size, None
    if isinstance(key, ec.EllipticCurvePublicKey):
        return "EC", key.key_size, key.curve.name
    if isinstance(key, dsa.DSAPublicKey):
        return "DSA", key.key_size, None
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "Ed25519", 256, None
    if isinstance(key, ed448.Ed448PublicKey):
        return "Ed448", 456, None
    return certificate.public_key_algorithm_oid.dotted_string, None, None


def _self_signed(certificate: x509.Certificate) -> bool:
    if certificate.issuer != certificate.subject:
        return False
    try:
        certificate.verify_directly_issued_by(certificate)
    except InvalidSignature:
        return False
    return True


def matches(name: str, certificate: Certificate) -> bool:
    """Whether the certificate is for `name`, a DNS name in ASCII form or an address (RFC 9525 §6).

    A wildcard counts as the whole leftmost label only, and stands for exactly one label. The common name never counts;
    `Certificate.common_name_only` tells where nothing else is there.
    """
    try:
        address = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        pass
    else:
        return str(address) in certificate.ip_names
    labels = name.rstrip(".").lower().split(".")
    if not all(labels) or "*" in name:
        return False
    for pattern in certificate.dns_names:
        wanted = pattern.rstrip(".").lower().split(".")
        if wanted == labels:
            return True
        # A wildcard right under a top-level name would cover whole registries; no public authority issues it.
        if wanted[0] == "*" and len(wanted) > 2 and "*" not in "".join(wanted[1:]) and wanted[1:] == labels[1:]:
            return True
    return False
