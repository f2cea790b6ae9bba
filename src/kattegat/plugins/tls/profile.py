"""What a recorded conversation of `probe` says about a server's TLS. Pure: the same bytes give the same profile."""

from __future__ import annotations

import msgspec

from kattegat.plugins.shared.exchange import Conversation, NotMeasured
from kattegat.plugins.tls.attempt import Attempt, read_attempts, settle
from kattegat.plugins.tls.groups import CURVES, TLS13_GROUPS, group_name, scheme_name
from kattegat.plugins.tls.probe import group_suites
from kattegat.plugins.tls.reply import ALERTS
from kattegat.plugins.tls.suites import RENEGOTIATION_SCSV, offer, suite_name, suites
from kattegat.plugins.tls.wire import SSL2, SSL2_CIPHERS, SSL3, TLS10, TLS11, TLS12, TLS13, VERSIONS


class Handshake(msgspec.Struct, frozen=True):
    """What a visitor's handshake agrees on. `version`, `suite`, `group`: the names; None where there was no answer.

    `chain_der`: the certificates as sent, leaf first; empty if none came (then `not_measured` has the reason).
    `ocsp_stapled`: None if no certificate came. `alpn`: the protocol chosen, None if none was.
    """

    version: str | None = None
    suite: str | None = None
    group: str | None = None
    chain_der: tuple[bytes, ...] = ()
    ocsp_stapled: bool | None = None
    alpn: str | None = None
    problems: tuple[str, ...] = ()
    not_measured: tuple[NotMeasured, ...] = ()


class VersionProfile(msgspec.Struct, frozen=True):
    """One version that the server speaks. `suites`: registry names in the order in which the server chose them.

    `preference`: "server" or "client", whose order decides; None with one suite, or where it was not measured.
    `groups`: named groups in the order in which the server chose them, of the versions that were asked for them.
    """

    version: str
    suites: tuple[str, ...]
    preference: str | None = None
    groups: tuple[str, ...] = ()


class TlsProfile(msgspec.Struct, frozen=True):
    """All that a conversation shows. `versions`: highest first; `refused`: versions that are proven to be absent.

    A version in neither list is in `not_measured`. `fallback_scsv`: whether a fallback is turned down (RFC 7507), None
    where fewer than two versions are spoken. `dh_bits`: the sizes of the primes seen, in bits. `schemes`: signature
    schemes with which key exchanges were signed. `chains_der`: every certificate chain seen, the visitor's first.
    """

    visitor: Handshake
    versions: tuple[VersionProfile, ...] = ()
    refused: tuple[str, ...] = ()
    fallback_scsv: bool | None = None
    compression: bool | None = None
    secure_renegotiation: bool | None = None
    extended_master_secret: bool | None = None
    dh_bits: tuple[int, ...] = ()
    schemes: tuple[str, ...] = ()
    chains_der: tuple[tuple[bytes, ...], ...] = ()
    problems: tuple[str, ...] = ()
    not_measured: tuple[NotMeasured, ...] = ()

    @property
    def chain_der(self) -> tuple[bytes, ...]:
        """The chain that a visitor is sent, leaf first; empty if none was read."""
        return self.visitor.chain_der or next(iter(self.chains_der), ())


def _visitor(attempts: list[Attempt]) -> Handshake:
    tried = [attempt for attempt in attempts if attempt.hello is not None and attempt.wanted is None]
    if not tried:
        return Handshake(not_measured=(NotMeasured("handshake", "no handshake was tried"),))
    # A HelloRetryRequest, or a refused ALPN, is followed by the attempt that counts.
    best = next(
        (a for a in tried if a.reply.chain), next((a for a in tried if a.alive and not a.reply.retry), tried[0])
    )
    reply, missing = best.reply, []
    if not best.alive:
        missing.append(NotMeasured("handshake", f"no handshake came about, because {best.reason}"))
    if reply.chain is None and best.alive:
        anonymous = reply.suite in suites() and suites()[reply.suite].authentication == "anon"
        reason = "the suite has no certificate" if anonymous else _why_cut(best)
        missing.append(NotMeasured("certificate", f"the certificate could not be read, because {reason}"))
    return Handshake(
        version=VERSIONS[reply.version] if reply.version else None,
        suite=suite_name(reply.suite) if reply.suite is not None else None,
        group=group_name(reply.group) if reply.group is not None else None,
        chain_der=reply.chain or (),
        ocsp_stapled=reply.ocsp_stapled if reply.chain else None,
        alpn=reply.alpn,
        problems=_problems(tried),
        not_measured=tuple(missing),
    )


def _why_cut(attempt: Attempt) -> str:
    if attempt.error is not None:
        return f"the rest of the answer is malformed ({attempt.error.reason})"
    if attempt.reply.alert is not None:
        return f"the server sent the alert {ALERTS.get(attempt.reply.alert, attempt.reply.alert)}"
    return f"the answer ends early ({attempt.exchange.ended})"


def _problems(attempts: list[Attempt]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for attempt in attempts:
        if attempt.error is not None:
            found[f"The server sent something malformed: {attempt.error.reason}."] = None
        if attempt.alive and attempt.outcome == "unknown":
            found[f"{attempt.reason[0].upper()}{attempt.reason[1:]}."] = None
        for warning in attempt.reply.warnings:
            found[f"The server sent the warning {ALERTS.get(warning, warning)}."] = None
        if attempt.reply.chain == ():
            found["The server sent an empty list of certificates."] = None
    return tuple(found)


def analyse_certificate(conversation: Conversation) -> Handshake:
    """What `certificate_probe` found; raises `WireError` if the conversation is none of TLS."""
    attempts = read_attempts(conversation)
    settle(attempts)
    return _visitor(attempts)


def _full_groups(attempt: Attempt, version: int) -> bool:
    return version == SSL3 or (
        attempt.hello is not None
        and len(attempt.hello.groups) == len(TLS13_GROUPS if version == TLS13 else CURVES)
        and (version != TLS13 or bool(attempt.hello.shares))
    )


def _preference(tried: list[Attempt], found: list[int]) -> str | None:
    for attempt in tried:
        if attempt.outcome == "answered" and attempt.hello is not None and not attempt.hello.fallback:
            offered = attempt.hello.real_suites
            # The discovery's offers begin with the server's first choice, so only a changed order tells them apart.
            if len(offered) > 1 and set(offered) == set(found) and offered[0] != found[0]:
                return "client" if attempt.reply.suite == offered[0] else "server"
    return None


def _version(version: int, tried: list[Attempt], missing: list[NotMeasured]) -> VersionProfile | str | None:
    """The profile of a version that is spoken, its name if it is refused, None if that is not known."""
    name = VERSIONS[version]
    answered = [attempt for attempt in tried if attempt.outcome == "answered"]
    if not answered:
        if any(attempt.outcome == "refused" for attempt in tried):
            return name
        reason = f"because {tried[-1].reason}" if tried else "because the probe ended before it was asked for"
        missing.append(NotMeasured(name, f"It is not known whether {name} is offered, {reason}."))
        return None
    if version == SSL2:
        codes = answered[0].reply.ssl2_ciphers or ()
        return VersionProfile(name, tuple(SSL2_CIPHERS.get(code, f"0x{code:06X}") for code in codes))
    found = list(dict.fromkeys(attempt.reply.suite for attempt in answered if attempt.reply.suite is not None))
    everything = set(offer(version))
    full = [attempt for attempt in tried if attempt.hello is not None and _full_groups(attempt, version)]
    if not everything <= set(found) and not any(
        attempt.outcome == "refused" and everything <= {*found, *(attempt.hello.suites if attempt.hello else ())}
        for attempt in full
    ):
        last = next((a.reason for a in reversed(full) if a.outcome == "unknown"), "the probe ended")
        missing.append(NotMeasured(f"cipher suites of {name}", f"The list may be incomplete, because {last}."))
    preference = _preference(full, found)
    if preference is None and len(found) > 1:
        missing.append(NotMeasured(f"preference of {name}", "It is not known whose order of suites decides."))
    return VersionProfile(name, tuple(suite_name(code) for code in found), preference, _groups(version, tried, missing))


def _groups(version: int, tried: list[Attempt], missing: list[NotMeasured]) -> tuple[str, ...]:
    asked = [attempt for attempt in tried if attempt.hello is not None and not _full_groups(attempt, version)]
    if not asked:
        return ()
    full = [attempt for attempt in tried if attempt not in asked]
    # With TLS 1.3 the shares of a full offer sway the choice; below it a full offer is where the groups begin.
    ordered = [*asked, *full] if version == TLS13 else [*full, *asked]
    answered = [attempt for attempt in ordered if attempt.outcome == "answered"]
    found = list(dict.fromkeys(attempt.reply.group for attempt in answered if attempt.reply.group is not None))
    everything = set(TLS13_GROUPS if version == TLS13 else CURVES)
    if not everything <= set(found):
        name = f"groups of {VERSIONS[version]}"
        ends = [a for a in asked if a.hello is not None and everything <= {*found, *a.hello.groups}]
        suite_codes = [code for a in asked if a.hello is not None for code in a.hello.real_suites]
        if not any(attempt.outcome == "refused" for attempt in ends):
            missing.append(NotMeasured(name, f"The list may be incomplete, because {asked[-1].reason or 'it ended'}."))
        elif version != TLS13 and any(suites()[code].authentication == "ECDSA" for code in group_suites(suite_codes)):
            missing.append(
                NotMeasured(name, "The list may be incomplete, because it depends on the certificate's curve.")
            )
    return tuple(group_name(code) for code in found)


def analyse(conversation: Conversation) -> TlsProfile:
    """What `probe` found; raises `WireError` if the conversation is none of TLS (what was received never raises)."""
    attempts = read_attempts(conversation)
    settle(attempts)
    missing: list[NotMeasured] = []
    versions: list[VersionProfile] = []
    refused: list[str] = []
    for version in (TLS13, TLS12, TLS11, TLS10, SSL3, SSL2):
        tried = [a for a in attempts if a.wanted == version and not (a.hello and a.hello.fallback)]
        found = _version(version, tried, missing)
        if isinstance(found, VersionProfile):
            versions.append(found)
        elif found is not None:
            refused.append(found)
    old = [a for a in attempts if a.outcome == "answered" and a.reply.version and SSL3 <= a.reply.version < TLS13]
    signalled = [a for a in old if a.hello is not None and RENEGOTIATION_SCSV in a.hello.suites]
    squeezed = [a for a in attempts if a.hello is not None and a.hello.compression != (0,)]
    first = _visitor(attempts)
    chains = dict.fromkeys([first.chain_der, *(a.reply.chain or () for a in attempts)])
    return TlsProfile(
        visitor=first,
        versions=tuple(versions),
        refused=tuple(refused),
        fallback_scsv=_fallback(attempts, versions, missing),
        compression=next((a.reply.compression != 0 for a in squeezed if a.outcome == "answered"), None),
        secure_renegotiation=all(a.reply.secure_renegotiation for a in signalled) if signalled else None,
        extended_master_secret=all(a.reply.extended_master_secret for a in old if a.reply.version != SSL3)
        if any(a.reply.version != SSL3 for a in old)
        else None,
        dh_bits=tuple(sorted({a.reply.dh_bits for a in attempts if a.reply.dh_bits})),
        schemes=tuple(scheme_name(c) for c in sorted({a.reply.scheme for a in attempts if a.reply.scheme is not None})),
        chains_der=tuple(chain for chain in chains if chain),
        problems=_problems(attempts),
        not_measured=(*first.not_measured, *missing),
    )


def _fallback(attempts: list[Attempt], versions: list[VersionProfile], missing: list[NotMeasured]) -> bool | None:
    tried = [attempt for attempt in attempts if attempt.hello is not None and attempt.hello.fallback]
    if any(attempt.fallback_refused for attempt in tried):
        return True
    if any(attempt.outcome == "answered" for attempt in tried):
        return False
    if len([version for version in versions if version.version != VERSIONS[SSL2]]) > 1:
        reason = f"because {tried[-1].reason}" if tried else "because it was not tried"
        missing.append(NotMeasured("fallback_scsv", f"It is not known whether fallbacks are turned down, {reason}."))
    return None
