"""Checks of what a visitor of a website is shown: whether the certificate is for it, and whether it can be trusted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from kattegat.plugin import Context, Facts, Item, Verdict, Website, check, translatable, verdict
from kattegat.plugins.tls.facts import TlsHandshake, gap
from kattegat.plugins.tls.handshake import is_https

__all__ = [
    "certificate_missing",
    "certificate_name_mismatch",
    "certificate_untrusted",
    "tls_handshake_differs",
]

MOST_SHOWN = 5


def _listed(words: Iterable[str]) -> str:
    unique = sorted(set(words))
    more = f", and {len(unique) - MOST_SHOWN} more" if len(unique) > MOST_SHOWN else ""
    return ", ".join(unique[:MOST_SHOWN]) + more


@check(
    "certificate-name-mismatch",
    about=Website,
    needs=[TlsHandshake],
    severity="high",
    title=translatable("The certificate is not for this website"),
    risk=translatable("Visitors are warned off; who clicks that away can't tell the site from someone in between."),
    fix=translatable("Install a certificate that has the site's name among its subject alternative names."),
    reference="RFC 9525 section 6",
    openkat=["KAT-SSL-CERT-HOSTNAME-MISMATCH"],
    applies=is_https,
)
def certificate_name_mismatch(context: Context, handshakes: Facts[TlsHandshake]) -> Verdict:
    """The name is not among the certificate's; having it as common name only is a reason of its own."""
    wrong: dict[str, list[TlsHandshake]] = defaultdict(list)
    for fact in handshakes:
        if fact.name_matches is False:
            wrong["common-name-only" if fact.common_name_only else "mismatch"].append(fact)
    items = []
    for key, facts in sorted(wrong.items()):
        shown: dict[str, str | int] = {
            "addresses": _listed(fact.address for fact in facts),
            "names": _listed(name for fact in facts for name in fact.names) or "-",
        }
        if key == "mismatch":
            text = translatable("the certificate at {addresses} is for {names}")
        else:
            text = translatable("the certificate at {addresses} has a common name only, at which no client looks")
        items.append(Item(key, text, shown))
    unreadable = next((fact for fact in handshakes if fact.leaf and fact.name_matches is None), None)
    return verdict(items, unknown=gap(handshakes) or (unreadable.trust_reason.rstrip(".") if unreadable else None))


@check(
    "certificate-untrusted",
    about=Website,
    needs=[TlsHandshake],
    severity="high",
    title=translatable("Visitors' programs do not trust the certificate"),
    risk=translatable("Visitors are warned off; who clicks that away can't tell the site from someone in between."),
    fix=translatable(
        "Install a certificate of an authority that your visitors trust, and send its intermediate certificates along."
    ),
    reference="RFC 5280 section 6, RFC 8446 section 4.4.2",
    applies=is_https,
)
def certificate_untrusted(context: Context, handshakes: Facts[TlsHandshake]) -> Verdict:
    """The chain as sent leads to no trusted root. Items: the kinds of reason. The leaf's own dates are left out."""
    wrong: dict[str, list[TlsHandshake]] = defaultdict(list)
    for fact in handshakes:
        if fact.trust not in ("trusted", "unknown", "no-chain"):
            wrong[fact.trust].append(fact)
    items = [
        Item(
            key,
            translatable("{addresses}: {reason}"),
            {"addresses": _listed(fact.address for fact in facts), "reason": facts[0].trust_reason.rstrip(".")},
        )
        for key, facts in sorted(wrong.items())
    ]
    unsure = next((fact.trust_reason.rstrip(".") for fact in handshakes if fact.trust == "unknown"), None)
    return verdict(items, unknown=gap(handshakes) or unsure)


@check(
    "certificate-missing",
    about=Website,
    needs=[TlsHandshake],
    severity="high",
    title=translatable("The server shows no certificate"),
    risk=translatable("Nobody can tell the server from someone in between; browsers can't open the site at all."),
    fix=translatable("Install a certificate, and turn anonymous cipher suites off."),
    reference="RFC 8446 section 4.4.2",
    openkat=["KAT-NO-CERTIFICATE"],
    applies=is_https,
)
def certificate_missing(context: Context, handshakes: Facts[TlsHandshake]) -> Verdict:
    """The handshake goes on without a certificate: an anonymous suite, or an empty list."""
    bare = [fact.address for fact in handshakes if not fact.leaf]
    items = [Item("none", translatable("no certificate is sent at {addresses}"), {"addresses": _listed(bare)})]
    return verdict(items if bare else [], unknown=gap(handshakes))


@check(
    "tls-handshake-differs",
    about=Website,
    needs=[TlsHandshake],
    severity="recommendation",
    title=translatable("The website's addresses do not show the same certificate"),
    risk=translatable("Some visitors get an old or wrong certificate; a new one may have reached only some servers."),
    fix=translatable("Install the same certificate and chain on every server of the site."),
    reference="RFC 8446 section 4.4.2",
    applies=is_https,
)
def tls_handshake_differs(context: Context, handshakes: Facts[TlsHandshake]) -> Verdict:
    """Two addresses show different certificates, or chains of which one is trusted and one is not."""
    items = []
    leaves: dict[str, list[str]] = defaultdict(list)
    verdicts: dict[str, list[str]] = defaultdict(list)
    for fact in handshakes:
        leaves[fact.leaf[:16] or "none"].append(fact.address)
        if fact.trust != "unknown":
            verdicts[fact.trust].append(fact.address)
    for key, text, groups in (
        ("certificate", translatable("the certificates differ: {groups}"), leaves),
        ("trust", translatable("not every chain is trusted: {groups}"), verdicts),
    ):
        if len(groups) > 1:
            shown = "; ".join(f"{name} at {_listed(addresses)}" for name, addresses in sorted(groups.items()))
            items.append(Item(key, text, {"groups": shown}))
    return verdict(items, unknown=gap(handshakes))
