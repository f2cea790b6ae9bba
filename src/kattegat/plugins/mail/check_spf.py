"""Checks of a domain's SPF policy (RFC 7208), for every domain: one that sends no mail says so with `v=spf1 -all`.

What a receiver would have to look up and got no answer to is unknown, not right.
"""

from __future__ import annotations

from kattegat.plugin import Context, Facts, Hostname, Item, Pass, Verdict, check, translatable, verdict
from kattegat.plugins.dns import message
from kattegat.plugins.mail.facts import SpfPolicy, SpfProblem
from kattegat.plugins.mail.judging import LONGEST, once, spf_items

__all__ = [
    "spf_idle_terms",
    "spf_include_broken",
    "spf_invalid",
    "spf_missing",
    "spf_multiple",
    "spf_neutral",
    "spf_permissive",
    "spf_ptr",
    "spf_too_many_lookups",
    "spf_void_lookups",
]

MOST_LOOKUPS, MOST_VOID = 10, 2


def _unanswered(spf: Facts[SpfPolicy]) -> str | None:
    for fact in spf:
        if fact.unanswered:
            return f"the look-up {fact.unanswered[0]} got no answer"
        if any(problem.code == "too-large" for problem in fact.problems):
            return "the policy has more records than are read"
    return None


def _problems(spf: Facts[SpfPolicy], *codes: str) -> list[SpfProblem]:
    return [problem for fact in spf for problem in fact.problems if problem.code in codes]


@check(
    "spf-missing",
    about=Hostname,
    needs=[SpfPolicy],
    severity="medium",
    title=translatable("The domain has no SPF record"),
    risk=translatable("Anyone can send mail that names the domain as its sender, and receivers can't tell."),
    fix=translatable('Publish a TXT record that lists the senders, or "v=spf1 -all" for a domain that sends no mail.'),
    reference="RFC 7208 section 3",
    openkat=["KAT-NO-SPF"],
    applies=message.is_registrable,
)
def spf_missing(context: Context, spf: Facts[SpfPolicy]) -> Verdict:
    """The domain exists and none of its TXT records starts with v=spf1."""
    missing = [fact for fact in spf if fact.status == "none"]
    return verdict([Item("spf", translatable("there is no SPF record"))] if missing else [])


@check(
    "spf-multiple",
    about=Hostname,
    needs=[SpfPolicy],
    severity="medium",
    title=translatable("The domain has more than one SPF record"),
    risk=translatable("Receivers treat several records as an error, so none of them protects the domain."),
    fix=translatable("Merge them into one record."),
    reference="RFC 7208 section 4.5",
    openkat=["KAT-INVALID-SPF"],
    applies=message.is_registrable,
)
def spf_multiple(context: Context, spf: Facts[SpfPolicy]) -> Verdict:
    """Two or more TXT records of the domain start with v=spf1."""
    items = [
        Item("multiple", translatable("there are {count} SPF records"), {"count": len(fact.records)})
        for fact in spf
        if fact.status == "multiple"
    ]
    return verdict(once(items))


@check(
    "spf-invalid",
    about=Hostname,
    needs=[SpfPolicy],
    severity="medium",
    title=translatable("The SPF policy has syntax errors"),
    risk=translatable("Receivers ignore a policy with an error, also when it is in a record that is included."),
    fix=translatable("Correct the term that is named."),
    reference="RFC 7208 section 4.6",
    openkat=["KAT-INVALID-SPF"],
    applies=message.is_registrable,
)
def spf_invalid(context: Context, spf: Facts[SpfPolicy]) -> Verdict:
    """A term of the record, or of one that it includes, breaks the syntax. One item for each such term."""
    items = [
        Item(
            f"{problem.domain} {problem.term}".rstrip()[:LONGEST],
            translatable("in the record of {domain}, {term}: {detail}"),
            {"domain": problem.domain, "term": problem.term[:LONGEST], "detail": problem.detail[:LONGEST]},
        )
        for problem in _problems(spf, "syntax")
    ]
    return verdict(once(items), unknown=_unanswered(spf))


@check(
    "spf-too-many-lookups",
    about=Hostname,
    needs=[SpfPolicy],
    severity="medium",
    title=translatable("The SPF policy takes more than ten DNS look-ups"),
    risk=translatable("Receivers give up after ten and treat the policy as an error, so that it protects nobody."),
    fix=translatable("Take out senders that are no longer used, or list their networks with ip4 and ip6."),
    reference="RFC 7208 section 4.6.4",
    openkat=["KAT-EXPENSIVE-SPF"],
    applies=message.is_registrable,
)
def spf_too_many_lookups(context: Context, spf: Facts[SpfPolicy]) -> Verdict:
    """More than ten terms, includes counted, need look-ups. A target that depends on the sender counts once."""
    items = [
        Item(
            "lookups",
            translatable("up to {count} terms need DNS look-ups, {limit} are allowed"),
            {"count": fact.lookups, "limit": MOST_LOOKUPS},
        )
        for fact in spf
        if fact.lookups > MOST_LOOKUPS
    ]
    return verdict(once(items), unknown=_unanswered(spf))


@check(
    "spf-void-lookups",
    about=Hostname,
    needs=[SpfPolicy],
    severity="medium",
    title=translatable("The SPF policy looks up more than two names that hold nothing"),
    risk=translatable("Receivers may stop at the third such name and treat the policy as an error."),
    fix=translatable("Take the names that no longer exist out of the record."),
    reference="RFC 7208 section 4.6.4",
    applies=message.is_registrable,
)
def spf_void_lookups(context: Context, spf: Facts[SpfPolicy]) -> Verdict:
    """More than two terms are about names without the records that are looked for."""
    items = [
        Item(
            "void",
            translatable("{count} terms look up names that hold nothing, {limit} are allowed"),
            {"count": fact.void_lookups, "limit": MOST_VOID},
        )
        for fact in spf
        if fact.void_lookups > MOST_VOID
    ]
    return verdict(once(items), unknown=_unanswered(spf))


@check(
    "spf-permissive",
    about=Hostname,
    needs=[SpfPolicy],
    severity="high",
    title=translatable("The SPF policy lets every host send mail for the domain"),
    risk=translatable("Forged mail passes SPF, and with it DMARC."),
    fix=translatable("End the policy with -all or ~all and list only your own senders."),
    reference="RFC 7208 section 5.1",
    applies=message.is_registrable,
)
def spf_permissive(context: Context, spf: Facts[SpfPolicy]) -> Verdict:
    """+all, or a network as big as the Internet, in the record or one that it includes. An invalid record lets nobody
    send: it counts as none.
    """
    items = [item for fact in spf if fact.status == "ok" for item in spf_items(fact.open)]
    return verdict(once(items), unknown=_unanswered(spf))


@check(
    "spf-neutral",
    about=Hostname,
    needs=[SpfPolicy],
    severity="medium",
    title=translatable("The SPF policy says nothing of other hosts"),
    risk=translatable("Forged mail gets the result neutral, as if there were no policy."),
    fix=translatable("End the record with -all or ~all."),
    reference="RFC 7208 sections 4.7 and 8.2",
    applies=message.is_registrable,
)
def spf_neutral(context: Context, spf: Facts[SpfPolicy]) -> Verdict:
    """The policy, redirects followed, ends in ?all or in no all."""
    items: list[Item] = []
    unknown = None
    for fact in spf:
        if fact.status != "ok":
            continue
        if fact.all_qualifier == "?":
            items.append(Item("?all", translatable("the policy ends in ?all")))
        elif any(problem.code == "no-all" for problem in fact.problems):
            items.append(Item("no all", translatable("the policy does not end in an all")))
        elif not fact.all_qualifier:
            unknown = _unanswered(spf) or "where the policy ends depends on the sender"
    return verdict(once(items), unknown=unknown)


@check(
    "spf-ptr",
    about=Hostname,
    needs=[SpfPolicy],
    severity="low",
    title=translatable("The SPF policy uses ptr"),
    risk=translatable("It is slow and unreliable; many receivers skip it, so that right mail fails."),
    fix=translatable("Name the senders with a, mx, ip4 or ip6."),
    reference="RFC 7208 section 5.5",
    openkat=["KAT-DEPRECATED-SPF-MECHANISM"],
    applies=message.is_registrable,
)
def spf_ptr(context: Context, spf: Facts[SpfPolicy]) -> Verdict:
    """The mechanism ptr is in the record or in one that it includes."""
    return verdict(once(spf_items(_problems(spf, "uses-ptr"))), unknown=_unanswered(spf))


@check(
    "spf-include-broken",
    about=Hostname,
    needs=[SpfPolicy],
    severity="medium",
    title=translatable("The SPF policy includes a domain without a policy"),
    risk=translatable(
        "Receivers treat it as an error. Whoever registers a domain that is not there decides who sends in your name."
    ),
    fix=translatable("Take the include or redirect out, or correct its domain."),
    reference="RFC 7208 sections 5.2 and 6.1",
    applies=message.is_registrable,
)
def spf_include_broken(context: Context, spf: Facts[SpfPolicy]) -> Verdict:
    """An include or redirect leads to a name that doesn't exist, has no SPF record or several, or back to itself."""
    items: list[Item] = []
    for fact in spf:
        for problem in fact.problems:
            leads = problem.term.lstrip("+-~?").lower().startswith(("include:", "redirect="))
            of_another = problem.code == "multiple-records" and fact.status != "multiple"
            if of_another or (leads and problem.code in ("name-not-found", "no-record", "include-loop")):
                items += spf_items([problem])
    return verdict(once(items), unknown=_unanswered(spf))


@check(
    "spf-idle-terms",
    about=Hostname,
    needs=[SpfPolicy],
    severity="recommendation",
    title=translatable("The SPF record has terms without effect"),
    risk=translatable("Who reads the record believes that senders are allowed that are not."),
    fix=translatable("Move the terms in front of all, or take them out."),
    reference="RFC 7208 sections 5.1 and 6.1",
    applies=message.is_registrable,
)
def spf_idle_terms(context: Context, spf: Facts[SpfPolicy]) -> Verdict:
    """Terms behind an all, a redirect beside one, and modifiers that nobody knows, in the domain's own record."""
    if not len(spf):
        return Pass()
    problems = _problems(spf, "never-reached", "redirect-ignored", "unknown-modifier")
    return verdict(once(spf_items(problem for problem in problems if problem.domain == context.asset.key)))
