"""The fact that an analysed SPF policy comes to."""

from __future__ import annotations

from collections.abc import Iterator

from kattegat.plugins.mail.facts import SpfPolicy, SpfProblem
from kattegat.plugins.mail.spf import DomainRecord, Mechanism, Policy, TermReport


def spf_policy(policy: Policy) -> SpfPolicy:
    """The fact of a policy whose own record was measured."""
    return SpfPolicy(
        status=policy.status,
        records=list(policy.records[0].texts) if policy.records else [],
        domains=[record.domain for record in policy.records],
        lookups=policy.lookups,
        void_lookups=policy.void_lookups,
        exact=policy.exact,
        all_qualifier=policy.all_qualifier or "",
        open=list(_open(policy)),
        problems=[SpfProblem(found.code, found.domain, found.term, found.detail) for found in policy.problems],
        unanswered=[f"{question.rdtype} {question.name}" for question in policy.unanswered],
    )


def _open(policy: Policy) -> Iterator[SpfProblem]:
    """Every term, in the domain's record or in one that it takes over, by which any host may send."""
    if not policy.records:
        return
    records = {record.domain: record for record in policy.records}
    seen: set[str] = set()
    todo = [policy.records[0].domain]
    while todo:
        record = records.get(todo.pop(0))
        if record is None or record.domain in seen:
            continue
        seen.add(record.domain)
        for report in record.terms:
            if not report.reached:
                continue
            if _any_host(report):
                detail = f"{report.text} lets every host send"
                yield SpfProblem("passes-all", record.domain, report.text, detail)
            if report.target is not None and _takes_over(record, report):
                todo.append(report.target)


def _any_host(report: TermReport) -> bool:
    term = report.parsed
    if not isinstance(term, Mechanism) or term.qualifier != "+":
        return False
    # /1 twice is the usual way around those who look for /0.
    return (
        term.name == "all"
        or (term.name == "ip4" and term.prefix4 <= 1)
        or (term.name == "ip6" and term.prefix6 <= 1)
        or (term.name in ("a", "mx") and term.prefix4 == 0)
    )


def _takes_over(record: DomainRecord, report: TermReport) -> bool:
    term = report.parsed
    if isinstance(term, Mechanism):
        return term.name == "include" and term.qualifier == "+"
    return term is not None and term.name == "redirect"
