"""The laboratory's certificate authority and the certificates of its servers, right and wrong on purpose."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import textwrap
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .command import run


@dataclass(frozen=True)
class Pair:
    """A certificate file (PEM, leaf first, with whatever chain the server sends) and its key file."""

    cert: Path
    key: Path


@dataclass(frozen=True)
class _Authority:
    cert: x509.Certificate
    key: CertificateIssuerPrivateKeyTypes


class Authority:
    """A root and an issuing (intermediate) authority, new for every laboratory.

    `root` is the PEM file a test puts in its trust store; `issuing` is the intermediate's PEM file, which a right
    server sends along (RFC 8446, section 4.4.2).
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        self._root = self._authority("Kattegat Laboratory Root", None)
        self._issuing = self._authority("Kattegat Laboratory Issuing", self._root)
        self.root = directory / "root.pem"
        self.root.write_bytes(_pem(self._root.cert))
        self.issuing = directory / "issuing.pem"
        self.issuing.write_bytes(_pem(self._issuing.cert))

    def _authority(self, name: str, parent: _Authority | None) -> _Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        signer: CertificateIssuerPrivateKeyTypes = parent.key if parent else key
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(parent.cert.subject if parent else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - dt.timedelta(days=400))
            .not_valid_after(self.now + dt.timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0 if parent else None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(
                    parent.key.public_key() if parent else key.public_key()
                ),
                critical=False,
            )
        )
        return _Authority(builder.sign(signer, hashes.SHA256()), key)

    def issue(
        self,
        label: str,
        *names: str,
        start: int = -1,
        end: int = 180,
        key: str = "ec",
        self_signed: bool = False,
        chain: bool = True,
    ) -> Pair:
        """Issue a server certificate and write it with its key.

        Args:
            label: start of the file names.
            names: subject alternative names, host names or addresses; the first is the common name too.
            start, end: validity in days from now; `end` gets an hour on top, so "7 days" is 7 days all day long.
            key: ``ec`` (P-256), ``rsa2048`` or ``rsa1024``.
            self_signed: signed with its own key, by nobody.
            chain: whether the issuing authority's certificate is sent along.
        """
        private = _private_key(key)
        subject = _name(names[0])
        signer: CertificateIssuerPrivateKeyTypes = private if self_signed else self._issuing.key
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if self_signed else self._issuing.cert.subject)
            .public_key(private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now + dt.timedelta(days=start))
            .not_valid_after(self.now + dt.timedelta(days=end, hours=1))
            .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        )
        cert = _pem(builder.sign(signer, hashes.SHA256()))
        with_chain = chain and not self_signed
        return self._write(label, cert + (_pem(self._issuing.cert) if with_chain else b""), private)

    def issue_weak(self, label: str, name: str) -> Pair:
        """Issue a certificate with a 1024-bit RSA key and a SHA-1 signature.

        `cryptography` refuses to sign with SHA-1, so the openssl program does, at security level 0.
        """
        private = _private_key("rsa1024")
        pair = self._write(label, b"", private)
        issuing_key = self._write("issuing-sign", _pem(self._issuing.cert), self._issuing.key)
        config = self.directory / f"{label}.cnf"
        config.write_text(
            f"[req]\ndistinguished_name=dn\nprompt=no\n[dn]\nCN={name}\n"
            f"[v3]\nsubjectAltName=DNS:{name}\nbasicConstraints=critical,CA:FALSE\nextendedKeyUsage=serverAuth\n"
        )
        request = self.directory / f"{label}.csr"
        run(["openssl", "req", "-new", "-config", str(config), "-key", str(pair.key), "-out", str(request)])
        signed = ["openssl", "x509", "-req", "-sha1", "-days", "180", "-in", str(request), "-CA", str(self.issuing)]
        signed += ["-CAkey", str(issuing_key.key), "-extfile", str(config), "-extensions", "v3"]
        cert = run(signed).encode()
        pair.cert.write_bytes(cert + _pem(self._issuing.cert))
        return pair

    def _write(self, label: str, cert: bytes, key: CertificateIssuerPrivateKeyTypes) -> Pair:
        pair = Pair(self.directory / f"{label}.pem", self.directory / f"{label}.key")
        pair.cert.write_bytes(cert)
        # Made with its mode at once: sshd and postfix refuse keys that others can read.
        pair.key.touch(mode=0o600)
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return pair


def weak_dh_parameters() -> bytes:
    """PEM of a Diffie-Hellman group of 1024 bits, the Second Oakley Group (RFC 2409, section 6.2)."""
    prime = bytes.fromhex(
        "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD"
        "EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED"
        "EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE65381FFFFFFFFFFFFFFFF"
    )
    # PKCS #3 by hand, SEQUENCE { INTEGER prime, INTEGER 2 }: `cryptography` no longer makes such parameters.
    der = b"\x30\x81\x87" + b"\x02\x81\x81\x00" + prime + b"\x02\x01\x02"
    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    return "\n".join(["-----BEGIN DH PARAMETERS-----", *lines, "-----END DH PARAMETERS-----", ""]).encode()


def tlsa_spki_sha256(cert: Path) -> str:
    """Data of a TLSA record "3 1 1" for a certificate file: SHA-256 of the public key, hex (RFC 6698, section 2.1)."""
    leaf = x509.load_pem_x509_certificate(cert.read_bytes())
    spki = leaf.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(spki)
    return digest.finalize().hex()


def _private_key(kind: str) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    if kind == "ec":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(public_exponent=65537, key_size=int(kind.removeprefix("rsa")))


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Kattegat Laboratory"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _pem(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(serialization.Encoding.PEM)
