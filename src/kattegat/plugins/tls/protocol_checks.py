"""Checks of the versions of TLS that a website offers, and of the properties of its handshakes beside the suites."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kattegat.plugin import Context, Facts, Item, Verdict, Website, check, translatable, verdict
from kattegat.plugins.tls.facts import TlsProtocols, gap
from kattegat.plugins.tls.handshake import is_https

__all__ = [
    "tls_1_0",
    "tls_1_1",
    "tls_compression",
    "tls_insecure_renegotiation",
    "tls_no_1_2",
    "tls_no_1_3",
    "tls_no_fallback_scsv",
    "tls_small_dh",
    "tls_ssl2",
    "tls_ssl3",
]

LEAST_DH_BITS = 2048
FALLBACK_VERSIONS = ("TLSv1.2", "TLSv1.1", "TLSv1.0", "SSLv3")

SPEAKS = translatable("{version} is spoken at {addresses}")


def spoken(fact: TlsProtocols, version: str) -> bool | None:
    """Whether a version is spoken; None where that was not measured."""
    if any(offered.version == version for offered in fact.versions):
        return True
    return False if version in fact.refused else None


def listed(facts: Iterable[TlsProtocols]) -> str:
    """The addresses that facts are of."""
    return ", ".join(sorted(fact.address for fact in facts))


def unsure(protocols: Facts[TlsProtocols], *what: str) -> str | None:
    """Why one of these things is not known of one of the addresses, or None."""
    for fact in protocols:
        for name in what:
            if name in fact.unmeasured:
                return f"{fact.address}: {fact.unmeasured[name].rstrip('.')}"
    return gap(protocols)


def _version_gap(protocols: Facts[TlsProtocols], version: str) -> str | None:
    for fact in protocols:
        if spoken(fact, version) is None:
            reason = fact.unmeasured.get(version, f"it is not known whether {version} is offered")
            return f"{fact.address}: {reason.rstrip('.')}"
    return gap(protocols)


def _offers(protocols: Facts[TlsProtocols], version: str) -> Verdict:
    having = [fact for fact in protocols if spoken(fact, version)]
    items = [Item(version, SPEAKS, {"version": version, "addresses": listed(having)})] if having else []
    return verdict(items, unknown=_version_gap(protocols, version))


@check(
    "tls-ssl2",
    about=Website,
    needs=[TlsProtocols],
    severity="high",
    title=translatable("SSL 2.0 is offered"),
    risk=translatable("Anyone in between can read along, even in newer versions with the same key (DROWN)."),
    fix=translatable("Turn SSL 2.0 off on every server that has this certificate's key."),
    reference="RFC 6176",
    openkat=["KAT-SSL-2-SUPPORT"],
    applies=is_https,
)
def tls_ssl2(context: Context, protocols: Facts[TlsProtocols]) -> Verdict:
    """The server answers a hello of SSL 2.0 with its own."""
    return _offers(protocols, "SSLv2")


@check(
    "tls-ssl3",
    about=Website,
    needs=[TlsProtocols],
    severity="high",
    title=translatable("SSL 3.0 is offered"),
    risk=translatable("Someone in between can read session cookies (POODLE)."),
    fix=translatable("Turn SSL 3.0 off."),
    reference="RFC 7568",
    openkat=["KAT-SSL-3-SUPPORT"],
    applies=is_https,
)
def tls_ssl3(context: Context, protocols: Facts[TlsProtocols]) -> Verdict:
    """The server agrees on SSL 3.0."""
    return _offers(protocols, "SSLv3")


@check(
    "tls-1-0",
    about=Website,
    needs=[TlsProtocols],
    severity="medium",
    title=translatable("TLS 1.0 is offered"),
    risk=translatable("It rests on SHA-1 and MD5 and has no modern ciphers; standards such as PCI DSS forbid it."),
    fix=translatable("Turn TLS 1.0 off; every browser of the last ten years speaks TLS 1.2."),
    reference="RFC 8996",
    openkat=["KAT-TLS-1.0-SUPPORT", "KAT-TLS-1.0-AND-1.1-SUPPORT"],
    applies=is_https,
)
def tls_1_0(context: Context, protocols: Facts[TlsProtocols]) -> Verdict:
    """The server agrees on TLS 1.0."""
    return _offers(protocols, "TLSv1.0")


@check(
    "tls-1-1",
    about=Website,
    needs=[TlsProtocols],
    severity="medium",
    title=translatable("TLS 1.1 is offered"),
    risk=translatable("It rests on SHA-1 and MD5 and has no modern ciphers; standards such as PCI DSS forbid it."),
    fix=translatable("Turn TLS 1.1 off; every browser of the last ten years speaks TLS 1.2."),
    reference="RFC 8996",
    openkat=["KAT-TLS-1.1-SUPPORT", "KAT-TLS-1.0-AND-1.1-SUPPORT"],
    applies=is_https,
)
def tls_1_1(context: Context, protocols: Facts[TlsProtocols]) -> Verdict:
    """The server agrees on TLS 1.1."""
    return _offers(protocols, "TLSv1.1")


@check(
    "tls-no-1-2",
    about=Website,
    needs=[TlsProtocols],
    severity="medium",
    title=translatable("Neither TLS 1.2 nor TLS 1.3 is offered"),
    risk=translatable("Only versions with known weaknesses are left, and browsers no longer speak them."),
    fix=translatable("Turn TLS 1.2 and TLS 1.3 on; where they are missing, update the server's software."),
    reference="RFC 9325 section 3.1.1",
    openkat=["KAT-NO-TLS-1.2"],
    applies=is_https,
)
def tls_no_1_2(context: Context, protocols: Facts[TlsProtocols]) -> Verdict:
    """The server turns down TLS 1.2 and 1.3. One of TLS 1.3 only is fine: what it leaves out is old."""
    without = [fact for fact in protocols if spoken(fact, "TLSv1.2") is False and spoken(fact, "TLSv1.3") is False]
    text = translatable("neither TLS 1.2 nor TLS 1.3 is spoken at {addresses}")
    items = [Item("TLSv1.2", text, {"addresses": listed(without)})] if without else []
    # Either of the two settles it.
    unsettled = Facts(
        [known for known in protocols.known if not (spoken(known.fact, "TLSv1.2") or spoken(known.fact, "TLSv1.3"))],
        protocols.unmeasured,
    )
    return verdict(items, unknown=_version_gap(unsettled, "TLSv1.2") or _version_gap(unsettled, "TLSv1.3"))


@check(
    "tls-no-1-3",
    about=Website,
    needs=[TlsProtocols],
    severity="low",
    title=translatable("TLS 1.3 is not offered"),
    risk=translatable(
        "Handshakes are slower and show more to who looks on; certificates go over the wire unencrypted."
    ),
    fix=translatable("Turn TLS 1.3 on; where it is missing, update the server's software."),
    reference="RFC 9325 section 3.1.1",
    openkat=["KAT-NO-TLS-1.3"],
    applies=is_https,
)
def tls_no_1_3(context: Context, protocols: Facts[TlsProtocols]) -> Verdict:
    """The server turns down TLS 1.3."""
    without = [fact for fact in protocols if spoken(fact, "TLSv1.3") is False]
    text = translatable("TLS 1.3 is not spoken at {addresses}")
    items = [Item("TLSv1.3", text, {"addresses": listed(without)})] if without else []
    return verdict(items, unknown=_version_gap(protocols, "TLSv1.3"))


@check(
    "tls-small-dh",
    about=Website,
    needs=[TlsProtocols],
    severity="medium",
    title=translatable("The Diffie-Hellman group is too small"),
    risk=translatable("Recorded connections can be read by whoever can afford the computation (Logjam)."),
    fix=translatable("Use a group of 2048 bits or more, such as ffdhe2048, or elliptic curves only."),
    reference="RFC 9325 section 4.5, RFC 7919",
    applies=is_https,
)
def tls_small_dh(context: Context, protocols: Facts[TlsProtocols]) -> Verdict:
    """A finite-field key exchange used a prime below 2048 bits."""
    small = sorted({bits for fact in protocols for bits in fact.dh_bits if bits < LEAST_DH_BITS})
    items = [
        Item(
            str(bits),
            translatable("a group of {bits} bits is used at {addresses}"),
            {"bits": bits, "addresses": listed(fact for fact in protocols if bits in fact.dh_bits)},
        )
        for bits in small
    ]
    unseen = next((fact for fact in protocols if not fact.dh_bits and _uses_dh(fact)), None)
    reason = f"{unseen.address}: the size of the Diffie-Hellman group was not seen" if unseen else None
    return verdict(items, unknown=reason or unsure(protocols))


def _uses_dh(fact: TlsProtocols) -> bool:
    return any(suite.startswith(("TLS_DHE_", "TLS_DH_anon_")) for entry in fact.versions for suite in entry.suites)


@check(
    "tls-no-fallback-scsv",
    about=Website,
    needs=[TlsProtocols],
    severity="low",
    title=translatable("The server does not notice when a client was made to fall back to an older version"),
    risk=translatable("Someone in between can make two sides that both know a newer version use an older one."),
    fix=translatable(
        "Offer TLS 1.2 and 1.3 only, or update the server's software to one that knows TLS_FALLBACK_SCSV."
    ),
    reference="RFC 7507",
    openkat=["KAT-NO-TLS-FALLBACK-SCSV"],
    applies=is_https,
)
def tls_no_fallback_scsv(context: Context, protocols: Facts[TlsProtocols]) -> Verdict:
    """TLS_FALLBACK_SCSV is ignored, where there is more than one version below TLS 1.3 to fall back to."""
    ignoring, reason = [], unsure(protocols)
    for fact in protocols:
        states = [spoken(fact, version) for version in FALLBACK_VERSIONS]
        if fact.fallback_scsv or (states.count(True) < 2 and None not in states):
            continue
        if states.count(True) < 2:
            reason = reason or f"{fact.address}: it is not known which older versions are offered"
        elif fact.fallback_scsv is False:
            ignoring.append(fact)
        else:
            why = fact.unmeasured.get("fallback_scsv", "it is not known whether fallbacks are turned down")
            reason = reason or f"{fact.address}: {why.rstrip('.')}"
    text = translatable("a fallback is accepted at {addresses}")
    return verdict([Item("ignored", text, {"addresses": listed(ignoring)})] if ignoring else [], unknown=reason)


def _property(
    protocols: Facts[TlsProtocols], bad: Callable[[TlsProtocols], bool | None], item: Item, what: str
) -> Verdict:
    """A property that only versions below TLS 1.3 have: `bad` says None where nothing shows it."""
    wrong = [fact for fact in protocols if bad(fact)]
    unseen = next((fact for fact in protocols if bad(fact) is None and _may_be_old(fact)), None)
    reason = f"{unseen.address}: {what}" if unseen else None
    items = [Item(item.key, item.text, {"addresses": listed(wrong)})] if wrong else []
    return verdict(items, unknown=reason or unsure(protocols))


def _may_be_old(fact: TlsProtocols) -> bool:
    return any(spoken(fact, version) is not False for version in FALLBACK_VERSIONS)


@check(
    "tls-compression",
    about=Website,
    needs=[TlsProtocols],
    severity="medium",
    title=translatable("TLS compression is used"),
    risk=translatable("The length of what is sent gives away session cookies (CRIME)."),
    fix=translatable("Turn compression at the level of TLS off."),
    reference="RFC 9325 section 3.3",
    applies=is_https,
)
def tls_compression(context: Context, protocols: Facts[TlsProtocols]) -> Verdict:
    """The server chooses DEFLATE when it is offered."""
    item = Item("deflate", translatable("compression is agreed on at {addresses}"))
    return _property(protocols, lambda fact: fact.compression, item, "it is not known whether compression is used")


@check(
    "tls-insecure-renegotiation",
    about=Website,
    needs=[TlsProtocols],
    severity="medium",
    title=translatable("Secure renegotiation is not supported"),
    risk=translatable(
        "If the server lets clients renegotiate, someone in between can put a request before a visitor's."
    ),
    fix=translatable("Update the server's TLS library to one that knows RFC 5746."),
    reference="RFC 5746",
    applies=is_https,
)
def tls_insecure_renegotiation(context: Context, protocols: Facts[TlsProtocols]) -> Verdict:
    """A version below TLS 1.3 is spoken without the renegotiation_info extension."""
    item = Item("missing", translatable("the answer at {addresses} does not know of secure renegotiation"))
    reason = "it is not known whether renegotiation is secure"
    return _property(
        protocols,
        lambda fact: None if fact.secure_renegotiation is None else not fact.secure_renegotiation,
        item,
        reason,
    )
