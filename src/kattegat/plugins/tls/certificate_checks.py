"""Checks of certificates by themselves: their dates, key, signature and length of life."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from kattegat.plugin import (
    Certificate,
    Context,
    Facts,
    Item,
    Option,
    Pass,
    Unknown,
    Verdict,
    check,
    translatable,
    verdict,
    via,
)
from kattegat.plugins.tls.facts import CertificateDetails, TlsHandshake

__all__ = [
    "certificate_expired",
    "certificate_expires_soon",
    "certificate_lacks_ct",
    "certificate_long_life",
    "certificate_not_yet_valid",
    "certificate_weak_key",
    "certificate_weak_signature",
]

BROKEN_HASHES = frozenset({"md2", "md4", "md5", "sha1"})
LEAST_BITS = {"RSA": 2048, "EC": 224}
# CA/Browser Forum Baseline Requirements section 6.3.2: (issued from, days), the latest first.
LONGEST_LIFE = (
    (datetime(2029, 3, 15, tzinfo=UTC), 47),
    (datetime(2027, 3, 15, tzinfo=UTC), 100),
    (datetime(2026, 3, 15, tzinfo=UTC), 200),
    (datetime(2020, 9, 1, tzinfo=UTC), 398),
    (datetime(2018, 3, 1, tzinfo=UTC), 825),
)
UNREADABLE = "the certificate's {part} can't be read"


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"


@check(
    "certificate-expired",
    about=Certificate,
    needs=[CertificateDetails],
    severity="critical",
    title=translatable("The certificate has expired"),
    risk=translatable("Visitors are warned off, and learn to click warnings away; programs refuse to connect."),
    fix=translatable("Install a new certificate, and have it renewed by a program from now on."),
    reference="RFC 5280 section 4.1.2.5",
    openkat=["KAT-CERTIFICATE-EXPIRED"],
)
def certificate_expired(context: Context, details: Facts[CertificateDetails]) -> Verdict:
    """The end of the validity has come."""
    known = details.one
    if known is None:
        return Pass()
    if known.not_after is None:
        return Unknown(UNREADABLE.format(part="end of validity"))
    if context.now < known.not_after:
        return Pass(until=known.not_after)
    return verdict([Item("expired", translatable("it expired on {day}"), {"day": _day(known.not_after)})])


@check(
    "certificate-expires-soon",
    about=Certificate,
    needs=[CertificateDetails],
    severity="medium",
    title=translatable("The certificate expires soon"),
    risk=translatable("If nobody renews it in time, visitors are warned off and programs refuse to connect."),
    fix=translatable("Renew the certificate now, and look at why that did not happen by itself."),
    reference="RFC 5280 section 4.1.2.5",
    options=[
        Option("days", 14, "How many days before the end to report; never more than a third of the certificate's life.")
    ],
    openkat=["KAT-CERTIFICATE-EXPIRING-SOON"],
)
def certificate_expires_soon(context: Context, details: Facts[CertificateDetails]) -> Verdict:
    """The end is near. One that has expired is `certificate-expired`'s."""
    known = details.one
    if known is None:
        return Pass()
    if known.not_after is None:
        return Unknown(UNREADABLE.format(part="end of validity"))
    if context.now >= known.not_after:
        return Pass()
    ahead = timedelta(days=float(context.options.get("days", 14)))
    if known.not_before is not None:
        # Certificates of a few days are renewed in their last third: they would always be "soon".
        ahead = min(ahead, max(known.not_after - known.not_before, timedelta()) / 3)
    warned = known.not_after - ahead
    if context.now < warned:
        return Pass(until=warned)
    item = Item("soon", translatable("it expires on {day}"), {"day": _day(known.not_after)})
    return verdict([item], until=known.not_after)


@check(
    "certificate-not-yet-valid",
    about=Certificate,
    needs=[CertificateDetails],
    severity="high",
    title=translatable("The certificate is not valid yet"),
    risk=translatable("Visitors are warned off and programs refuse to connect until its first day."),
    fix=translatable("Look at the clock of whoever issued it, and install one that is valid now."),
    reference="RFC 5280 section 4.1.2.5",
)
def certificate_not_yet_valid(context: Context, details: Facts[CertificateDetails]) -> Verdict:
    """The start of the validity lies ahead."""
    known = details.one
    if known is None:
        return Pass()
    if known.not_before is None:
        return Unknown(UNREADABLE.format(part="start of validity"))
    if context.now >= known.not_before:
        return Pass()
    item = Item("not-yet-valid", translatable("it is valid from {day} only"), {"day": _day(known.not_before)})
    return verdict([item], until=known.not_before)


@check(
    "certificate-weak-key",
    about=Certificate,
    needs=[CertificateDetails],
    severity="high",
    title=translatable("The certificate's key is too weak"),
    risk=translatable("Whoever computes the private key from the public one can pass for the server."),
    fix=translatable(
        "Make a new key, RSA with 2048 bits or an elliptic curve such as P-256, and a certificate for it."
    ),
    reference="RFC 9325 section 4.5, NIST SP 800-57 part 1",
)
def certificate_weak_key(context: Context, details: Facts[CertificateDetails]) -> Verdict:
    """RSA below 2048 bits, an elliptic curve below 224, or DSA, which no client accepts any more."""
    known = details.one
    if known is None:
        return Pass()
    if known.key_type is None:
        return Unknown(UNREADABLE.format(part="public key"))
    shown: dict[str, str | int] = {"type": known.key_type, "bits": known.key_bits or 0}
    if known.key_type == "DSA":
        return verdict([Item("key", translatable("its key is {type} with {bits} bits, which is out of use"), shown)])
    least = LEAST_BITS.get(known.key_type)
    if least is None:
        # Ed25519 and Ed448 have one size; what has another name is an algorithm that this release does not know.
        known_curve = known.key_type in ("Ed25519", "Ed448")
        return Pass() if known_curve else Unknown(f"the strength of a key of type {known.key_type} is not known")
    if known.key_bits is None:
        return Unknown(UNREADABLE.format(part="public key"))
    if known.key_bits >= least:
        return Pass()
    text = translatable("its key is {type} with {bits} bits, and needs {least}")
    return verdict([Item("key", text, {**shown, "least": least})])


@check(
    "certificate-weak-signature",
    about=Certificate,
    needs=[CertificateDetails],
    severity="high",
    title=translatable("The certificate is signed with a broken hash function"),
    risk=translatable("Someone may have, or get, a certificate of their own with the same signature."),
    fix=translatable("Have the certificate issued again with SHA-256 or better."),
    reference="RFC 9155, RFC 6194, RFC 6151, CA/Browser Forum Baseline Requirements section 7.1.3.2",
)
def certificate_weak_signature(context: Context, details: Facts[CertificateDetails]) -> Verdict:
    """SHA-1 or MD5. A certificate's signature by its own key proves nothing, so its hash does not matter."""
    known = details.one
    if known is None or known.self_signed:
        return Pass()
    # Ed25519 and Ed448 sign without a hash function of choice.
    if known.signature_hash is None and not (known.signature_algorithm or "").lower().startswith("ed"):
        return Unknown(UNREADABLE.format(part="signature algorithm"))
    if known.signature_hash not in BROKEN_HASHES:
        return Pass()
    shown = known.signature_algorithm or known.signature_hash or ""
    return verdict([Item("signature", translatable("its signature is {algorithm}"), {"algorithm": shown})])


def _public(handshakes: Facts[TlsHandshake], sha256: str) -> tuple[bool, str]:
    """Whether the certificate leads to a root that everybody has; and why that is not known, or "".

    These rules are of browsers: a certificate that no website shows, such as a mail server's, is left alone.
    """
    if not handshakes.linked and not len(handshakes):
        return False, ""
    own = [fact for fact in handshakes if fact.leaf == sha256]
    if any(fact.trust == "trusted" and fact.roots == "system" for fact in own):
        return True, ""
    unsure = next((fact.trust_reason.rstrip(".") for fact in own if fact.trust == "unknown"), "")
    return False, unsure or ("" if own else next(iter(handshakes.unmeasured), "no handshake with it is known"))


@check(
    "certificate-long-life",
    about=Certificate,
    needs=[CertificateDetails, via("presents", TlsHandshake, backwards=True, optional=True)],
    severity="recommendation",
    title=translatable("The certificate is valid for longer than public authorities may issue it for"),
    risk=translatable("Browsers refuse such certificates, and a stolen key stays useful for longer."),
    fix=translatable("Have a certificate with a shorter life issued, and renewed by a program."),
    reference="CA/Browser Forum Baseline Requirements section 6.3.2",
)
def certificate_long_life(
    context: Context, details: Facts[CertificateDetails], handshakes: Facts[TlsHandshake]
) -> Verdict:
    """Longer than the rules of its day of issue; only for certificates that lead to a root of the system."""
    known = details.one
    if known is None:
        return Pass()
    public, unsure = _public(handshakes, context.asset.key)
    if not public:
        return Unknown(unsure) if unsure else Pass()
    start, end = known.not_before, known.not_after
    if start is None or end is None:
        return Unknown(UNREADABLE.format(part="validity"))
    most = next((most for since, most in LONGEST_LIFE if start >= since), None)
    # A period includes its last second; a day that has begun counts.
    days = -((start - end - timedelta(seconds=1)) // timedelta(days=1))
    if most is None or days <= most:
        return Pass()
    text = translatable("it is valid for {days} days, and may be for {most}")
    return verdict([Item("life", text, {"days": days, "most": most})])


@check(
    "certificate-lacks-ct",
    about=Certificate,
    needs=[CertificateDetails, via("presents", TlsHandshake, backwards=True, optional=True)],
    severity="recommendation",
    title=translatable("The certificate holds no proof of being in a public log"),
    risk=translatable("Browsers refuse it, unless the server sends such proofs in each handshake."),
    fix=translatable("Have a certificate issued that holds signed certificate timestamps, as public authorities do."),
    reference="RFC 6962 section 3.3",
)
def certificate_lacks_ct(
    context: Context, details: Facts[CertificateDetails], handshakes: Facts[TlsHandshake]
) -> Verdict:
    """No embedded timestamp; only for certificates that lead to a root of the system."""
    known = details.one
    if known is None or known.sct_count:
        return Pass()
    public, unsure = _public(handshakes, context.asset.key)
    if not public:
        return Unknown(unsure) if unsure else Pass()
    return verdict([Item("sct", translatable("it has no signed certificate timestamp (SCT) in it"))])
