"""Static analysis of a domain's SPF policy: the whole tree of includes and redirects, for no sender in particular."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from kattegat.plugins.mail.questions import Answer, Asking, Question, RdType
from kattegat.plugins.mail.spf_eval import Limits
from kattegat.plugins.mail.spf_macro import expand, is_multi_label_domain, letters, parse_domain_spec, target_name
from kattegat.plugins.mail.spf_parse import (
    LOOKUP_TERMS,
    Mechanism,
    Modifier,
    Qualifier,
    Term,
    TermError,
    decode,
    parse_tolerant,
    select_records,
    split_terms,
)

RecordStatus: TypeAlias = Literal["ok", "none", "multiple", "syntax-error", "not-measured"]
ProblemCode: TypeAlias = Literal[
    "no-record",
    "multiple-records",
    "syntax",
    "include-loop",
    "too-many-lookups",
    "too-many-void-lookups",
    "too-many-mx",
    "name-not-found",
    "no-addresses",
    "uses-ptr",
    "passes-all",
    "no-all",
    "redirect-ignored",
    "never-reached",
    "unknown-modifier",
    "record-too-long",
    "too-large",
    "not-measured",
]
MAX_RECORDS = 60
"""Domains whose record is looked up in one analysis; a valid policy has 11 at most."""
MAX_QUESTIONS = 500
"""DNS questions of one analysis; a record of 64 KiB could ask for some ten thousand."""
MAX_LENGTH = 450
"""Octets of a record that still fit an answer of 512 octets with some to spare (RFC 7208 section 3.4)."""

_STATIC_LETTERS = frozenset("do")


class Problem(msgspec.Struct, frozen=True):
    """Something wrong or unwise: in the record at `domain`, at `term` ("" for the whole record), in words."""

    code: ProblemCode
    domain: str
    term: str
    detail: str


class TermReport(msgspec.Struct, frozen=True):
    """One term as written.

    `parsed` is None for a syntax error, and `error` then has the reason. `target` is the DNS name the term is about,
    None where it has none or where `sender_dependent`: macros make it depend on the message. (The macros d and o are
    taken as this record's domain and the domain analysed, as for mail from that domain.) `reached` is False behind
    an "all". `lookup` is whether it counts towards the limit of 10. `void` is whether it meets a void lookup whatever
    the address of the sender, None when that was not looked up or could not be measured.
    """

    position: int
    text: str
    parsed: Term | None
    error: str = ""
    target: str | None = None
    sender_dependent: bool = False
    reached: bool = True
    lookup: bool = False
    void: bool | None = None


class DomainRecord(msgspec.Struct, frozen=True):
    """What one domain of the tree publishes. `texts` has every SPF record; `terms` is filled when there is one."""

    domain: str
    status: RecordStatus
    texts: tuple[str, ...] = ()
    terms: tuple[TermReport, ...] = ()


class Policy(msgspec.Struct, frozen=True):
    """The SPF policy of `domain`.

    `records`: the domain's own first, then each included or redirected-to one once, in the order found. `lookups`
    and `void_lookups`: terms, in the worst case, as RFC 7208 section 4.6.4 counts them; `exact` is False when targets
    that depend on the sender, or that could not be measured, may add to them. `all_qualifier`: of the "all" that
    ends the policy, through redirects; None when there is none (the result is then "neutral"). `unanswered`: the
    questions DNS gave no answer to; what depends on them is not measured.
    """

    domain: str
    status: RecordStatus
    records: tuple[DomainRecord, ...]
    lookups: int
    void_lookups: int
    exact: bool
    all_qualifier: Qualifier | None
    problems: tuple[Problem, ...]
    unanswered: tuple[Question, ...]

    @property
    def measured(self) -> bool:
        """Whether DNS answered every question."""
        return not self.unanswered


class _Count(msgspec.Struct, frozen=True):
    """What a domain's record adds: lookups, void lookups, whether these are exact, the "all" it ends in.

    `open_end`: it is known to end in none, redirects included.
    """

    lookups: int = 0
    voids: int = 0
    exact: bool = True
    all: Qualifier | None = None
    open_end: bool = False


def analyse(domain: str, *, limits: Limits = Limits()) -> Asking[Policy]:  # noqa: B008 - frozen
    """Walk the SPF policy of `domain` (in ASCII form): a generator of DNS questions that returns a `Policy`.

    Raises nothing of its own; what the driver throws in (`NotRecorded`) passes through.
    """
    name = domain.removesuffix(".").lower()
    walk = _Walk(name, limits)
    if not is_multi_label_domain(name):
        walk.problem("no-record", name, "", f"{name!r} is not a domain of two labels or more")
        return Policy(name, "none", (), 0, 0, True, None, tuple(walk.problems), ())
    count = yield from walk.record(name, ())
    if count.lookups > limits.terms:
        detail = f"up to {count.lookups} terms need DNS lookups, {limits.terms} are allowed"
        walk.problem("too-many-lookups", name, "", detail)
    if count.voids > limits.voids:
        detail = f"{count.voids} terms look up names that hold nothing, {limits.voids} are allowed"
        walk.problem("too-many-void-lookups", name, "", detail)
    records = tuple(record for record in walk.records.values() if record is not None)
    status = records[0].status
    if count.open_end:
        walk.problem("no-all", name, "", "the policy does not end in an all: mail from any other host is neutral")
    if count.all == "+":
        walk.problem("passes-all", name, "", "the policy ends in +all: every host may send")
    return Policy(
        name,
        status,
        records,
        count.lookups,
        count.voids,
        count.exact,
        count.all,
        tuple(walk.problems),
        tuple(walk.unanswered),
    )


class _Walk:
    def __init__(self, root: str, limits: Limits) -> None:
        self.root = root
        self.limits = limits
        self.records: dict[str, DomainRecord | None] = {}  # None holds the place while a record is being walked
        self.counts: dict[str, _Count] = {}
        self.answers: dict[Question, Answer] = {}
        self.problems: list[Problem] = []
        self.unanswered: list[Question] = []

    def problem(self, code: ProblemCode, domain: str, term: str, detail: str) -> None:
        self.problems.append(Problem(code, domain, term, detail))

    def ask(self, name: str, rdtype: RdType, domain: str, term: str) -> Asking[Answer]:
        question = Question(name, rdtype)
        if question not in self.answers and len(self.answers) >= MAX_QUESTIONS:
            self.too_large(domain, term)
            return Answer("timeout")
        if question not in self.answers:
            answer = self.answers[question] = yield question
            if answer.failed:
                self.unanswered.append(question)
                self.problem("not-measured", domain, term, f"the {rdtype} lookup of {name!r} failed: {answer.status}")
        return self.answers[question]

    def too_large(self, domain: str, term: str) -> None:
        if not any(problem.code == "too-large" for problem in self.problems):
            detail = (
                f"the policy takes more than {MAX_RECORDS} records or {MAX_QUESTIONS} lookups; the rest is not read"
            )
            self.problem("too-large", domain, term, detail)

    def record(self, domain: str, path: tuple[str, ...]) -> Asking[_Count]:
        if domain not in self.counts:
            self.records[domain] = None
            self.counts[domain] = yield from self.walk(domain, path)
        return self.counts[domain]

    def walk(self, domain: str, path: tuple[str, ...]) -> Asking[_Count]:
        answer = yield from self.ask(domain, "TXT", domain, "")
        found = select_records(answer.texts)
        texts = tuple(decode(text) for text in found)
        if len(found) != 1:
            status: RecordStatus = "not-measured" if answer.failed else "multiple" if found else "none"
            self.records[domain] = DomainRecord(domain, status, texts)
            if status == "multiple":
                self.problem("multiple-records", domain, "", f"{domain!r} has {len(found)} SPF records")
            elif status == "none" and not path:
                self.problem("no-record", domain, "", f"{domain!r} has no SPF record")
            return _Count(exact=status != "not-measured")
        if len(found[0]) > MAX_LENGTH:
            detail = f"the record has {len(found[0])} octets, more than {MAX_LENGTH} may not fit a DNS answer over UDP"
            self.problem("record-too-long", domain, "", detail)
        parsed, errors = parse_tolerant(found[0])
        for error in errors:
            self.problem("syntax", domain, error.text, error.reason)
        # While the record is walked its status is known already, for an include that loops back to it.
        status = "syntax-error" if errors else "ok"
        self.records[domain] = DomainRecord(domain, status, texts)
        reports, count = yield from self.terms(domain, split_terms(texts[0]), parsed, errors, (*path, domain))
        self.records[domain] = DomainRecord(domain, status, texts, reports)
        return count

    def terms(
        self,
        domain: str,
        written: tuple[str, ...],
        parsed: tuple[Term | None, ...],
        errors: tuple[TermError, ...],
        path: tuple[str, ...],
    ) -> Asking[tuple[tuple[TermReport, ...], _Count]]:
        reasons = {error.position: error.reason for error in errors}
        last = next((i for i, term in enumerate(parsed) if isinstance(term, Mechanism) and term.name == "all"), None)
        reports: list[TermReport] = []
        final = parsed[last] if last is not None else None
        redirects = any(text.lower().startswith("redirect=") for text in written)
        total = _Count(
            all=final.qualifier if isinstance(final, Mechanism) else None,
            open_end=final is None and not redirects,
        )
        for index, (text, term) in enumerate(zip(written, parsed, strict=True)):
            report = TermReport(index + 1, text, term, reasons.get(index + 1, ""))
            if term is not None:
                # exp= works wherever it stands; redirect= only where no "all" stands anywhere in the record.
                behind = last is not None and (index > last if isinstance(term, Mechanism) else term.name == "redirect")
                report = msgspec.structs.replace(report, reached=not behind, lookup=term.name in LOOKUP_TERMS)
                report, total = yield from self.term(domain, report, term, total, path)
            reports.append(report)
        return tuple(reports), total

    def term(
        self, domain: str, report: TermReport, term: Term, total: _Count, path: tuple[str, ...]
    ) -> Asking[tuple[TermReport, _Count]]:
        self.remark(domain, report, term)
        spec = term.domain if isinstance(term, Mechanism) else term.value
        if isinstance(term, Modifier) and term.name not in ("redirect", "exp"):
            return report, total
        parts = parse_domain_spec(spec) if spec else ()
        dependent = term.name == "ptr" or not letters(parts) <= _STATIC_LETTERS
        target = domain if report.lookup and term.name != "ptr" else None
        if spec:
            target = None if dependent else target_name(expand(parts, {"d": domain, "o": self.root}))
        report = msgspec.structs.replace(report, target=target, sender_dependent=dependent)
        if not report.reached or not report.lookup:
            return report, total
        total = _add(total, _Count(lookups=1, exact=not dependent))
        if dependent:
            return report, total
        if term.name in ("include", "redirect"):
            void, more = yield from self.follow(domain, report, path)
        else:
            void, more = (yield from self.is_void(domain, report, term.name)), _Count()
        report = msgspec.structs.replace(report, void=void)
        total = _add(total, _add(_Count(voids=int(void is True), exact=void is not None), more))
        if term.name == "redirect":
            total = msgspec.structs.replace(total, all=more.all, open_end=more.open_end)
        return report, total

    def remark(self, domain: str, report: TermReport, term: Term) -> None:
        if not report.reached:
            code: ProblemCode = "redirect-ignored" if isinstance(term, Modifier) else "never-reached"
            self.problem(code, domain, report.text, "it has no effect, since the record has an all")
        elif term.name == "ptr":
            self.problem("uses-ptr", domain, report.text, "ptr should not be published (RFC 7208 section 5.5)")
        elif isinstance(term, Modifier) and term.name not in ("redirect", "exp"):
            meant = term.name in LOOKUP_TERMS or term.name in ("ip4", "ip6", "all")
            hint = f"; was {term.name}: meant?" if meant else ""
            self.problem("unknown-modifier", domain, report.text, f"{term.name}= is not known and ignored{hint}")

    def follow(self, domain: str, report: TermReport, path: tuple[str, ...]) -> Asking[tuple[bool | None, _Count]]:
        """Walk the target of an include or a redirect: whether its lookup is void, and what it adds."""
        target = report.target
        if target is None:
            self.problem("no-record", domain, report.text, "its target is not a DNS name")
            return False, _Count()
        if target in path:
            self.problem("include-loop", domain, report.text, " -> ".join([*path, target]))
            return False, _Count()
        if target not in self.records and len(self.records) >= MAX_RECORDS:
            self.too_large(domain, report.text)
            return None, _Count(exact=False)
        count = yield from self.record(target, path)
        answer = yield from self.ask(target, "TXT", domain, report.text)
        found = self.records[target]
        if answer.status == "nxdomain":
            self.problem("name-not-found", domain, report.text, f"{target!r} does not exist")
        elif found is not None and found.status == "none":
            self.problem("no-record", domain, report.text, f"{target!r} has no SPF record")
        return (None if answer.failed else answer.void), count

    def is_void(self, domain: str, report: TermReport, name: str) -> Asking[bool | None]:
        """Whether an a, mx or exists term finds nothing for any sender; None if that could not be measured."""
        target, text = report.target, report.text
        if target is None:  # DNS cannot hold it, so that nothing is looked up
            self.problem("name-not-found", domain, text, "its target is not a DNS name")
            return False
        if name == "exists":
            answer = yield from self.ask(target, "A", domain, text)
            if answer.status == "nxdomain":
                self.problem("name-not-found", domain, text, f"{target!r} does not exist")
            return None if answer.failed else answer.void
        if name == "a":
            return (yield from self.no_addresses(domain, text, target))
        answer = yield from self.ask(target, "MX", domain, text)
        if answer.failed:
            return None
        if answer.void:
            code: ProblemCode = "name-not-found" if answer.status == "nxdomain" else "no-addresses"
            self.problem(code, domain, text, f"{target!r} has no MX record")
            return True
        if len(answer.names) > self.limits.mx:
            detail = f"{target!r} has {len(answer.names)} MX records, {self.limits.mx} are allowed"
            self.problem("too-many-mx", domain, text, detail)
        void: bool | None = False
        for host in answer.names[: self.limits.mx]:
            exchange = target_name(host)
            missing = (yield from self.no_addresses(domain, text, exchange)) if exchange else False
            void = None if missing is None or void is None else void or missing
        return void

    def no_addresses(self, domain: str, term: str, name: str) -> Asking[bool | None]:
        ipv4 = yield from self.ask(name, "A", domain, term)
        ipv6 = yield from self.ask(name, "AAAA", domain, term)
        if ipv4.names or ipv6.names:
            return False
        if ipv4.failed or ipv6.failed:
            return None
        code: ProblemCode = "name-not-found" if ipv4.status == "nxdomain" else "no-addresses"
        self.problem(code, domain, term, f"{name!r} has no address")
        return True


def _add(one: _Count, other: _Count) -> _Count:
    """The sum; the end is that of the first, since the "all" of an included record ends only that record."""
    return msgspec.structs.replace(
        one, lookups=one.lookups + other.lookups, voids=one.voids + other.voids, exact=one.exact and other.exact
    )
