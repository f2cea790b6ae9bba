"""Checks of a domain's DMARC policy (RFC 7489): every domain can be forged, so every domain needs one."""

from __future__ import annotations

from kattegat.plugin import Context, Facts, Hostname, Item, Verdict, check, translatable, verdict
from kattegat.plugins.dns import message
from kattegat.plugins.mail.facts import DmarcPolicy
from kattegat.plugins.mail.judging import once, tag_items

__all__ = ["dmarc_invalid", "dmarc_missing", "dmarc_no_reports", "dmarc_not_enforced", "dmarc_reports_unwelcome"]


@check(
    "dmarc-missing",
    about=Hostname,
    needs=[DmarcPolicy],
    severity="medium",
    title=translatable("The domain has no DMARC policy"),
    risk=translatable("Receivers deliver forged mail of the domain, and nobody hears of it."),
    fix=translatable('Publish a TXT record at _dmarc, such as "v=DMARC1; p=reject" for a domain that sends no mail.'),
    reference="RFC 7489 section 6.1",
    openkat=["KAT-NO-DMARC"],
    applies=message.is_registrable,
)
def dmarc_missing(context: Context, policy: Facts[DmarcPolicy]) -> Verdict:
    """There is no DMARC record at _dmarc and the domain, nor at its organisational domain."""
    missing = [fact for fact in policy if not fact.records]
    return verdict([Item("dmarc", translatable("there is no DMARC record"))] if missing else [])


@check(
    "dmarc-invalid",
    about=Hostname,
    needs=[DmarcPolicy],
    severity="medium",
    title=translatable("The DMARC record is wrong"),
    risk=translatable("Receivers ignore the tag with the error, or the whole record."),
    fix=translatable("Correct the tag that is named; have one record only."),
    reference="RFC 7489 sections 6.3, 6.4 and 6.6.3",
    applies=message.is_registrable,
)
def dmarc_invalid(context: Context, policy: Facts[DmarcPolicy]) -> Verdict:
    """Several records, or one with an error. A tag that is not known is no error: later versions may have it."""
    items: list[Item] = []
    for fact in policy:
        if len(fact.records) > 1:
            text = translatable("there are {count} DMARC records, so that none counts")
            items.append(Item("multiple", text, {"count": len(fact.records)}))
        else:
            items += tag_items(fact.problems, {"unknown-tag"})
    return verdict(once(items))


@check(
    "dmarc-not-enforced",
    about=Hostname,
    needs=[DmarcPolicy],
    severity="medium",
    title=translatable("The DMARC policy does not stop forged mail"),
    risk=translatable("Mail that fails DMARC is delivered like any other, or part of it is."),
    fix=translatable("Read the reports until your own mail passes, then set p=quarantine or p=reject, without pct."),
    reference="RFC 7489 section 6.3",
    applies=message.is_registrable,
)
def dmarc_not_enforced(context: Context, policy: Facts[DmarcPolicy]) -> Verdict:
    """p=none, pct under 100, or sp=none. Without a policy that counts, see dmarc-missing and dmarc-invalid."""
    items: list[Item] = []
    for fact in policy:
        if fact.policy == "none":
            items.append(Item("p", translatable("the policy is p=none")))
        elif fact.policy and fact.percent < 100:
            text = translatable("the policy is applied to {percent} % of the mail")
            items.append(Item("pct", text, {"percent": fact.percent}))
        if fact.policy in ("quarantine", "reject") and fact.subdomain_policy == "none":
            items.append(Item("sp", translatable("the policy for names below the domain is sp=none")))
    return verdict(once(items))


@check(
    "dmarc-no-reports",
    about=Hostname,
    needs=[DmarcPolicy],
    severity="recommendation",
    title=translatable("No DMARC reports are asked for"),
    risk=translatable("Nobody sees who sends mail in the name of the domain, nor that own mail fails."),
    fix=translatable("Add rua=mailto: with an address that is read."),
    reference="RFC 7489 section 7",
    applies=message.is_registrable,
)
def dmarc_no_reports(context: Context, policy: Facts[DmarcPolicy]) -> Verdict:
    """There is a policy that counts, and no rua."""
    silent = [fact for fact in policy if fact.policy and not fact.rua]
    return verdict([Item("rua", translatable("the record has no rua"))] if silent else [])


@check(
    "dmarc-reports-unwelcome",
    about=Hostname,
    needs=[DmarcPolicy],
    severity="low",
    title=translatable("DMARC reports are to go to a domain that does not take them"),
    risk=translatable("Receivers send no reports there, so that nobody sees who forges the domain."),
    fix=translatable(
        "Have the other domain publish v=DMARC1 at the name below its _report._dmarc, or change rua and ruf."
    ),
    reference="RFC 7489 section 7.1",
    applies=message.is_registrable,
)
def dmarc_reports_unwelcome(context: Context, policy: Facts[DmarcPolicy]) -> Verdict:
    """rua or ruf has an address in another organisation's domain, and that domain has no record that allows it."""
    items = [
        Item(domain, translatable("{domain} does not say that it takes reports"), {"domain": domain})
        for fact in policy
        for domain in fact.unwilling
    ]
    return verdict(once(items), unknown=policy.unmeasured[0] if policy.unmeasured else None)
