"""Checks of a domain's DNSSEC. Of the chain only the zone that holds the domain is judged, not those above it."""

from __future__ import annotations

from datetime import datetime, timedelta

from kattegat.plugin import (
    Context,
    Facts,
    Hostname,
    Item,
    Option,
    Verdict,
    check,
    translatable,
    verdict,
)
from kattegat.plugins.dns import message
from kattegat.plugins.dnssec.facts import DnssecStatus, DnssecZone

__all__ = [
    "dnssec_bogus",
    "dnssec_missing",
    "dnssec_nsec3_iterations",
    "dnssec_signature_expiring",
    "dnssec_weak_algorithm",
]

# RFC 8624 section 3.1: what must not or is not recommended to be signed with; its successors kept these.
WEAK_ALGORITHMS = frozenset({"RSAMD5", "DSA", "DSANSEC3SHA1", "RSASHA1", "RSASHA1NSEC3SHA1", "ECCGOST"})
WEAK_DIGESTS = frozenset({"NULL", "SHA1", "GOST"})
LEAST_RSA_BITS = 2048


def _own(status: DnssecStatus) -> DnssecZone | None:
    """The zone that holds the domain, when resolvers validate it."""
    return status.zones[-1] if status.zones and status.status != "insecure" else None


@check(
    "dnssec-missing",
    about=Hostname,
    needs=[DnssecStatus],
    severity="medium",
    title=translatable("The domain is not protected by DNSSEC"),
    risk=translatable("Whoever stands between a visitor and the DNS can send visitors and mail elsewhere, unnoticed."),
    fix=translatable("Sign the zone, and have the registrar publish its DS record in the parent zone."),
    reference="RFC 4033, RFC 9364",
    openkat=["KAT-NO-DNSSEC"],
    applies=message.is_registrable,
)
def dnssec_missing(context: Context, status: Facts[DnssecStatus]) -> Verdict:
    """Validating resolvers take the domain for unsigned, which the parent proves."""
    items = []
    for fact in status:
        if fact.status != "insecure":
            continue
        if fact.zones and fact.zones[-1].keys and fact.zones[-1].name == context.asset.key:
            text = translatable("the zone has keys, but resolvers do not use them: {reason}")
        else:
            text = translatable("the domain is not signed: {reason}")
        items.append(Item("insecure", text, {"reason": fact.reason}))
    return verdict(items[:1])


@check(
    "dnssec-bogus",
    about=Hostname,
    needs=[DnssecStatus],
    severity="high",
    title=translatable("The signatures of the domain do not hold"),
    risk=translatable("Everyone whose resolver validates can't reach the domain: no website, no mail."),
    fix=translatable("Sign the zone again with the keys that the parent's DS records name, or have those corrected."),
    reference="RFC 4035 section 5",
    openkat=["KAT-INVALID-DNSSEC"],
    applies=message.is_registrable,
)
def dnssec_bogus(context: Context, status: Facts[DnssecStatus]) -> Verdict:
    """The chain of trust is broken: one item for each set of records that does not hold."""
    items = {
        f"{problem.zone} {problem.record}": Item(
            f"{problem.zone} {problem.record}",
            translatable("{record} in {zone}: {reason}"),
            {"zone": problem.zone, "record": problem.record, "reason": problem.reason},
        )
        for fact in status
        if fact.status == "bogus"
        for problem in fact.problems
    }
    return verdict([items[key] for key in sorted(items)])


@check(
    "dnssec-signature-expiring",
    about=Hostname,
    needs=[DnssecStatus],
    severity="high",
    title=translatable("Signatures of the domain are about to expire"),
    risk=translatable("When they expire before the zone is signed again, the domain can't be reached."),
    fix=translatable("See why the zone was not signed again in time, and sign it."),
    reference="RFC 6781 section 4.4.2",
    options=[Option("days", 3, "How many days before the end of a signature the check fails.")],
    applies=message.is_registrable,
)
def dnssec_signature_expiring(context: Context, status: Facts[DnssecStatus]) -> Verdict:
    """A signature in the domain's zone ends within `days`, and more than three quarters of its time are over.

    The second condition spares servers that sign each answer for a day or two. Ended ones are a matter of dnssec-bogus.
    """
    margin = timedelta(days=float(context.options.get("days", 3)))
    turns: list[tuple[datetime, datetime, str]] = []
    for fact in status:
        zone = _own(fact)
        if zone is not None and fact.status == "secure":
            turns += [
                (span.ends - min(margin, (span.ends - span.begins) / 4), span.ends, zone.name)
                for span in zone.signatures
            ]
    turns.sort()
    if not turns or turns[0][0] > context.now:
        return verdict([], until=turns[0][0] if turns else None)
    _, ends, name = turns[0]
    shown = ends.strftime("%Y-%m-%d %H:%M UTC")
    text = translatable("a signature in {zone} ends on {until}")
    return verdict([Item(name, text, {"zone": name, "until": shown})])


@check(
    "dnssec-weak-algorithm",
    about=Hostname,
    needs=[DnssecStatus],
    severity="medium",
    title=translatable("The domain is signed with a weak algorithm or key"),
    risk=translatable("Forged signatures become affordable, and resolvers begin to treat the zone as unsigned."),
    fix=translatable("Roll over to ECDSAP256SHA256 (13) and to DS records with SHA-256."),
    reference="RFC 8624 section 3, NIST SP 800-57 part 1",
    applies=message.is_registrable,
)
def dnssec_weak_algorithm(context: Context, status: Facts[DnssecStatus]) -> Verdict:
    """A key with MD5, SHA-1, DSA or GOST, an RSA key below 2048 bits, or a DS record with SHA-1 or GOST."""
    items: dict[str, Item] = {}
    for fact in status:
        zone = _own(fact)
        for key in zone.keys if zone else []:
            shown: dict[str, str | int] = {"tag": key.tag, "algorithm": key.algorithm}
            if key.algorithm in WEAK_ALGORITHMS:
                text = translatable("key {tag} uses {algorithm}")
                items[f"key {key.tag}"] = Item(f"key {key.tag}", text, shown)
            elif key.bits is not None and key.bits < LEAST_RSA_BITS:
                text = translatable("key {tag} ({algorithm}) has {bits} bits only")
                items[f"key {key.tag}"] = Item(f"key {key.tag}", text, {**shown, "bits": key.bits})
        for digest in zone.digests if zone else []:
            if digest.digest in WEAK_DIGESTS:
                name = f"digest {digest.tag} {digest.digest}"
                text = translatable("the DS record of key {tag} uses {digest}")
                items[name] = Item(name, text, {"tag": digest.tag, "digest": digest.digest})
    return verdict([items[key] for key in sorted(items)])


@check(
    "dnssec-nsec3-iterations",
    about=Hostname,
    needs=[DnssecStatus],
    severity="recommendation",
    title=translatable("The zone asks for extra NSEC3 iterations"),
    risk=translatable("They cost every resolver work and protect nothing; some resolvers treat the zone as unsigned."),
    fix=translatable("Set the NSEC3 iterations to 0 and the salt to empty."),
    reference="RFC 9276 section 3.1",
    applies=message.is_registrable,
)
def dnssec_nsec3_iterations(context: Context, status: Facts[DnssecStatus]) -> Verdict:
    """The zone's NSEC3 parameters have more than 0 iterations."""
    items = []
    for fact in status:
        zone = _own(fact)
        if zone is not None and zone.nsec3_iterations:
            text = translatable("{zone} asks for {iterations} extra iterations")
            items.append(Item(zone.name, text, {"zone": zone.name, "iterations": zone.nsec3_iterations}))
    return verdict(items[:1])
