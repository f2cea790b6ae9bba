"""What the checks of mail share."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from kattegat.plugin import Facts, Item, translatable
from kattegat.plugins.mail.facts import MailExchange, MailHost, SpfProblem
from kattegat.plugins.mail.tags import TagProblem

LONGEST = 200
"""Characters of a key; a term can be as long as a record."""


def once(items: Iterable[Item]) -> list[Item]:
    """The items without repeats of a key: a typing error made twice in a record is one finding."""
    return list({item.key: item for item in items}.values())


def tag_items(problems: Iterable[TagProblem], ignored: Collection[str] = (), where: str = "") -> list[Item]:
    """An item for each problem of a record of tags, but for the codes that are not wrong enough."""
    prefix = f"{where} " if where else ""
    return [
        Item(
            f"{prefix}{problem.code} {problem.tag} {problem.detail}"[:LONGEST],
            translatable("{where}{detail}"),
            {"where": f"{where}: " if where else "", "detail": problem.detail},
        )
        for problem in problems
        if problem.code not in ignored
    ]


def spf_items(problems: Iterable[SpfProblem]) -> list[Item]:
    """An item for each problem of an SPF policy."""
    return [
        Item(
            f"{problem.domain} {problem.term}".rstrip()[:LONGEST],
            translatable("in the record of {domain}: {detail}"),
            {"domain": problem.domain, "term": problem.term[:LONGEST], "detail": problem.detail[:LONGEST]},
        )
        for problem in problems
    ]


def mail_hosts(exchange: Facts[MailExchange]) -> list[MailHost]:
    """Every mail server of the domain, whoever says so; none for a domain that takes no mail."""
    return list({host.host: host for fact in exchange for host in fact.hosts}.values())
