"""Checks of DKIM keys (RFC 6376). The DNS can't list selectors: a key that is not found may be there all the same."""

from __future__ import annotations

from collections.abc import Collection

from kattegat.plugin import Context, Facts, Hostname, Item, Pass, Verdict, check, translatable, verdict
from kattegat.plugins.dns import message
from kattegat.plugins.mail.facts import DkimKeys, DkimSelectors, MailExchange
from kattegat.plugins.mail.judging import mail_hosts, once

__all__ = ["dkim_invalid_key", "dkim_missing", "dkim_short_key", "dkim_testing", "dkim_weak_key"]

HINT = "name yours in the option mail-policy.selectors"
TOO_SHORT, SHORT = "key-too-short", "key-short"
NOT_WRONG = frozenset({TOO_SHORT, SHORT, "key-too-long", "testing", "revoked", "unknown-tag"})


@check(
    "dkim-missing",
    about=Hostname,
    needs=[MailExchange, DkimSelectors, DkimKeys],
    severity="medium",
    title=translatable("The domain has no DKIM keys"),
    risk=translatable("Its mail can't be signed, so that receivers can't tell it from forged mail that was forwarded."),
    fix=translatable("Have the mail servers sign, and publish their key below _domainkey."),
    reference="RFC 6376 section 3.6.2",
    openkat=["KAT-NO-DKIM"],
    applies=message.is_registrable,
)
def dkim_missing(
    context: Context, exchange: Facts[MailExchange], selectors: Facts[DkimSelectors], keys: Facts[DkimKeys]
) -> Verdict:
    """The DNS has no name below _domainkey (RFC 8020), which proves that there is no selector.

    If there are names, and none of the selectors asked for is one, that is unknown. A domain without mail servers
    passes.
    """
    if not mail_hosts(exchange) or any(not key.revoked for key in keys) or not len(selectors):
        return Pass()
    if any(fact.exists for fact in selectors):
        if keys.unmeasured:
            return verdict([], unknown=keys.unmeasured[0])
        tried = len({selector for fact in selectors for selector in fact.asked})
        found = "all keys found are revoked" if len(keys) else f"none of the {tried} selectors tried is there"
        return verdict([], unknown=f"selectors can't be listed, and {found} ({HINT})")
    return verdict([Item("dkim", translatable("there is no name below _domainkey, so no selector"))])


def _items(keys: Facts[DkimKeys], codes: Collection[str]) -> list[Item]:
    return [
        Item(
            key.selector,
            translatable("selector {selector}: the key has {bits} bits"),
            {"selector": key.selector, "bits": key.bits or 0},
        )
        for key in keys
        if any(problem.code in codes for problem in key.problems)
    ]


def _gap(keys: Facts[DkimKeys]) -> str | None:
    return keys.unmeasured[0] if keys.unmeasured else None


@check(
    "dkim-weak-key",
    about=Hostname,
    needs=[DkimKeys],
    severity="high",
    title=translatable("A DKIM key is shorter than 1024 bits"),
    risk=translatable("The key can be computed in hours, and receivers must not accept it."),
    fix=translatable("Make a key of 2048 bits, publish it under a new selector and revoke the old one."),
    reference="RFC 8301 section 3.2",
    applies=message.is_registrable,
)
def dkim_weak_key(context: Context, keys: Facts[DkimKeys]) -> Verdict:
    """An RSA key of less than 1024 bits."""
    return verdict(once(_items(keys, {TOO_SHORT})), unknown=_gap(keys))


@check(
    "dkim-short-key",
    about=Hostname,
    needs=[DkimKeys],
    severity="low",
    title=translatable("A DKIM key is shorter than 2048 bits"),
    risk=translatable("Keys of 1024 bits are within reach of those who can spend much on it."),
    fix=translatable("Make a key of 2048 bits, publish it under a new selector and revoke the old one."),
    reference="RFC 8301 section 3.2",
    applies=message.is_registrable,
)
def dkim_short_key(context: Context, keys: Facts[DkimKeys]) -> Verdict:
    """An RSA key of 1024 bits or more and less than 2048."""
    return verdict(once(_items(keys, {SHORT})), unknown=_gap(keys))


@check(
    "dkim-invalid-key",
    about=Hostname,
    needs=[DkimKeys],
    severity="medium",
    title=translatable("A DKIM key record is wrong"),
    risk=translatable("Mail that is signed with the key fails DKIM."),
    fix=translatable(
        "Publish the record as the mail server gives it; withdraw a key that is not used with an empty p=."
    ),
    reference="RFC 6376 section 3.6.1",
    applies=message.is_registrable,
)
def dkim_invalid_key(context: Context, keys: Facts[DkimKeys]) -> Verdict:
    """A selector has several records, or one that no signature can be verified with. A revoked key is right."""
    items: list[Item] = []
    for key in keys:
        params: dict[str, str | int] = {"selector": key.selector}
        if len(key.records) > 1:
            text = translatable("selector {selector} has {count} key records")
            items.append(Item(f"{key.selector} multiple", text, {**params, "count": len(key.records)}))
        items += [
            Item(
                f"{key.selector} {problem.code} {problem.tag}".rstrip(),
                translatable("selector {selector}: {detail}"),
                {**params, "detail": problem.detail},
            )
            for problem in key.problems
            if problem.code not in NOT_WRONG
        ]
    return verdict(once(items), unknown=_gap(keys))


@check(
    "dkim-testing",
    about=Hostname,
    needs=[DkimKeys],
    severity="low",
    title=translatable("A DKIM key says that it is only being tested"),
    risk=translatable("Receivers treat mail with a wrong signature like mail without one."),
    fix=translatable("Take the flag y out of t= once the signatures are right."),
    reference="RFC 6376 section 3.6.1",
    applies=message.is_registrable,
)
def dkim_testing(context: Context, keys: Facts[DkimKeys]) -> Verdict:
    """The record of a selector, not revoked, has the flag t=y."""
    items = [
        Item(key.selector, translatable("selector {selector} has t=y"), {"selector": key.selector})
        for key in keys
        if key.testing and not key.revoked
    ]
    return verdict(once(items), unknown=_gap(keys))
