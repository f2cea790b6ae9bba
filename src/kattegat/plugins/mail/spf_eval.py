"""The check_host() function of SPF (RFC 7208 sections 4 to 7), without input or output."""

from __future__ import annotations

import ipaddress
from collections.abc import Generator
from typing import Literal, TypeAlias

import msgspec

from kattegat.plugins.mail.questions import Answer, Asking, Question, RdType
from kattegat.plugins.mail.spf_macro import (
    MacroSyntaxError,
    expand,
    is_multi_label_domain,
    letters,
    parse_domain_spec,
    parse_macro_string,
    target_name,
)
from kattegat.plugins.mail.spf_parse import Mechanism, Qualifier, Record, SpfSyntaxError, parse, select_records

ResultCode: TypeAlias = Literal["none", "neutral", "pass", "fail", "softfail", "temperror", "permerror"]
IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_OUTCOMES: dict[Qualifier, ResultCode] = {"+": "pass", "-": "fail", "~": "softfail", "?": "neutral"}


class Limits(msgspec.Struct, frozen=True):
    """The processing limits of RFC 7208 section 4.6.4: all are counts, and the defaults are those of the RFC.

    `terms`: terms that cause DNS queries. `voids`: terms that met a void lookup. `mx`: hosts of one mx term, more
    than that is a permerror. `ptr`: names of one reverse lookup, the rest is ignored.
    """

    terms: int = 10
    voids: int = 2
    mx: int = 10
    ptr: int = 10


class Step(msgspec.Struct, frozen=True):
    """One term that was evaluated: the domain whose record it is in, the term, and whether it matched."""

    domain: str
    term: str
    matched: bool


class Result(msgspec.Struct, frozen=True):
    """What check_host() returns (RFC 7208 section 2.6).

    `explanation` is the text of the exp= modifier for "fail", None where there is none. `problem` is the reason of
    a none, temperror or permerror, else "". `failed` is the question behind a temperror. `lookups` and
    `void_lookups` count terms, as `Limits` does. `trace` has the terms evaluated, in order.
    """

    result: ResultCode
    explanation: str | None = None
    problem: str = ""
    failed: Question | None = None
    lookups: int = 0
    void_lookups: int = 0
    trace: tuple[Step, ...] = ()


def identity(sender: str, helo: str) -> tuple[str, str]:
    """The full sender address and the domain to check for a MAIL FROM (RFC 7208 sections 2.4 and 4.3).

    An empty MAIL FROM, as of a bounce, is postmaster at the HELO name; a missing local part is "postmaster".
    """
    if not sender:
        return f"postmaster@{helo}", helo
    local, _, domain = sender.rpartition("@")
    return f"{local or 'postmaster'}@{domain}", domain


def check_host(
    ip: str | IPAddress,
    domain: str,
    sender: str,
    helo: str,
    *,
    receiver: str = "unknown",
    timestamp: int = 0,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> Asking[Result]:
    """Whether the host at `ip` may send mail for `domain`: a generator of DNS questions that returns a `Result`.

    `domain` and `sender` are those of `identity`. `receiver` (a domain) and `timestamp` (seconds since 1970) are
    for the explanation only. Raises `ValueError` if `ip` is no IP address, and what the driver throws in.
    """
    address = ipaddress.ip_address(ip) if isinstance(ip, str) else ip
    if isinstance(address, ipaddress.IPv6Address):
        # Section 5: an IPv4-mapped address is considered an IPv4 address. A zone is of no meaning to others.
        address = address.ipv4_mapped or ipaddress.IPv6Address(address.packed)
    sender, sender_domain = identity(sender, helo)
    evaluation = _Evaluation(address, sender, _a_labels(sender_domain), helo, receiver, timestamp, limits)
    return (yield from evaluation.run(_a_labels(domain)))


def _a_labels(domain: str) -> str:
    """The domain with its non-ASCII labels encoded (RFC 8616); unchanged, and so no DNS name, if they cannot be."""
    if domain.isascii():
        return domain
    try:
        return domain.encode("idna").decode("ascii")
    except UnicodeError:
        return domain


class _PermError(Exception):
    pass


class _TempError(Exception):
    def __init__(self, question: Question, answer: Answer) -> None:
        self.question = question
        super().__init__(f"the {question.rdtype} lookup of {question.name!r} failed: {answer.status}")


class _Outcome(msgspec.Struct, frozen=True):
    result: ResultCode
    domain: str = ""
    record: Record = Record()
    problem: str = ""


class _Evaluation:
    def __init__(
        self, ip: IPAddress, sender: str, sender_domain: str, helo: str, receiver: str, timestamp: int, limits: Limits
    ) -> None:
        self.ip = ip
        self.limits = limits
        self.rdtype: RdType = "A" if ip.version == 4 else "AAAA"
        self.lookups = 0
        self.voids = 0
        self.void_met = False
        self.counting = False  # only inside terms: neither the first TXT lookup nor those for the explanation count
        self.trace: list[Step] = []
        self.validated: tuple[str, ...] | None = None
        readable = str(ip)
        dotted = readable if ip.version == 4 else ".".join(ip.exploded.replace(":", "")).upper()
        self.values = {
            "s": f"{sender.rpartition('@')[0]}@{sender_domain}",
            "l": sender.rpartition("@")[0],
            "o": sender_domain,
            "i": dotted,
            "h": helo,
            "c": readable,
            "r": receiver,
            "t": str(timestamp),
            "v": "in-addr" if ip.version == 4 else "ip6",
        }

    def run(self, domain: str) -> Asking[Result]:
        failed = None
        explanation = None
        domain = domain.removesuffix(".")
        if not is_multi_label_domain(domain):
            outcome = _Outcome("none", problem=f"{domain!r} is not a domain of two labels or more")
        else:
            try:
                outcome = yield from self.check(domain)
            except _PermError as error:
                outcome = _Outcome("permerror", problem=str(error))
            except _TempError as error:
                outcome = _Outcome("temperror", problem=str(error))
                failed = error.question
        if outcome.result == "fail":
            explanation = yield from self.explain(outcome)
        return Result(outcome.result, explanation, outcome.problem, failed, self.lookups, self.voids, tuple(self.trace))

    def check(self, domain: str) -> Asking[_Outcome]:
        answer = yield from self.ask(domain, "TXT")
        records = select_records(answer.texts)
        if not records:
            return _Outcome("none", problem=f"{domain!r} has no SPF record")
        if len(records) > 1:
            raise _PermError(f"{domain!r} has {len(records)} SPF records")
        try:
            record = parse(records[0])
        except SpfSyntaxError as error:
            raise _PermError(f"{domain!r}: {error}") from error
        for mechanism in record.mechanisms:
            matched = yield from self.matches(mechanism, domain)
            self.trace.append(Step(domain, str(mechanism), matched))
            if matched:
                return _Outcome(_OUTCOMES[mechanism.qualifier], domain, record)
        redirect = record.modifier("redirect")
        if redirect is None:
            return _Outcome("neutral", domain, record)
        self.begin_term()
        self.trace.append(Step(domain, str(redirect), True))
        target = yield from self.target(redirect.value, domain)
        outcome = (yield from self.check(target)) if target else _Outcome("none")
        if outcome.result == "none":
            raise _PermError(f"{domain!r} redirects to {target or redirect.value!r}, which has no SPF record")
        return outcome

    def begin_term(self) -> None:
        self.lookups += 1
        if self.lookups > self.limits.terms:
            raise _PermError(f"more than {self.limits.terms} terms need DNS lookups")
        self.void_met = False
        self.counting = True

    def ask(self, name: str, rdtype: RdType, *, tolerate: bool = False) -> Asking[Answer]:
        """Ask; a failed lookup ends the check with temperror unless tolerated; a void one counts once per term.

        Section 4.6.4 limits "the number of terms for which DNS queries return" nothing. An mx term with three hosts
        that have no IPv6 address is therefore one void lookup, not three, for a sender that uses IPv6.
        """
        question = Question(name.lower(), rdtype)
        answer = yield question
        if answer.failed and not tolerate:
            raise _TempError(question, answer)
        if answer.void and self.counting and not self.void_met:
            self.void_met = True
            self.voids += 1
            if self.voids > self.limits.voids:
                raise _PermError(f"more than {self.limits.voids} terms met void lookups, the last for {name!r}")
        return answer

    def matches(self, mechanism: Mechanism, domain: str) -> Asking[bool]:
        match mechanism.name:
            case "all":
                return True
            case "ip4" | "ip6":
                return _in_network(self.ip, mechanism.address, mechanism)
        self.begin_term()
        target: str | None = domain
        if mechanism.domain:
            if not self.values["l"].isascii() and letters(parse_domain_spec(mechanism.domain)) & {"s", "l"}:
                return False  # RFC 8616 section 4: such a term never matches a local part outside ASCII
            target = yield from self.target(mechanism.domain, domain)
        match mechanism.name:
            case "include":
                return (yield from self.includes(mechanism, target, domain))
            case _ if target is None:
                return False
            case "a":
                return (yield from self.has_address(target, mechanism))
            case "mx":
                return (yield from self.has_mx(target, mechanism))
            case "exists":
                return not (yield from self.ask(target, "A")).void
            case _:
                suffix = "." + target.lower()
                return any(("." + name).endswith(suffix) for name in (yield from self.validated_names()))

    def includes(self, mechanism: Mechanism, target: str | None, domain: str) -> Asking[bool]:
        outcome = (yield from self.check(target)) if target else _Outcome("none")
        if outcome.result == "none":
            raise _PermError(f"{domain!r} includes {target or mechanism.domain!r}, which has no SPF record")
        return outcome.result == "pass"

    def has_address(self, name: str, mechanism: Mechanism) -> Asking[bool]:
        answer = yield from self.ask(name, self.rdtype)
        return any(_in_network(self.ip, address, mechanism) for address in answer.names)

    def has_mx(self, name: str, mechanism: Mechanism) -> Asking[bool]:
        hosts = (yield from self.ask(name, "MX")).names
        if len(hosts) > self.limits.mx:
            raise _PermError(f"{name!r} has {len(hosts)} MX records, more than {self.limits.mx}")
        for host in hosts:
            exchange = target_name(host)
            if exchange and (yield from self.has_address(exchange, mechanism)):
                return True
        return False

    def validated_names(self) -> Asking[tuple[str, ...]]:
        """The names the address points to that point back to it (section 5.5); lookups that fail are passed over."""
        if self.validated is None:
            answer = yield from self.ask(self.ip.reverse_pointer, "PTR", tolerate=True)
            names: list[str] = []
            for host in answer.names[: self.limits.ptr]:
                name = target_name(host)
                if name is None or name in names:
                    continue
                addresses = yield from self.ask(name, self.rdtype, tolerate=True)
                if any(ipaddress.ip_address(address) == self.ip for address in addresses.names):
                    names.append(name)
            self.validated = tuple(names)
        return self.validated

    def target(self, domain_spec: str, domain: str) -> Asking[str | None]:
        """The DNS name a domain-spec stands for; None where it comes to something DNS cannot hold."""
        return target_name((yield from self.expand(domain_spec, domain)))

    def expand(self, text: str, domain: str, *, explanation: bool = False) -> Generator[Question, Answer, str]:
        parts = parse_macro_string(text, explanation=True) if explanation else parse_domain_spec(text)
        values = self.values | {"d": domain}
        if "p" in letters(parts):
            values["p"] = _preferred((yield from self.validated_names()), domain.lower())
        return expand(parts, values)

    def explain(self, outcome: _Outcome) -> Asking[str | None]:
        """The explanation, or None for whatever may be wrong with it (section 6.2). Its lookups do not count."""
        modifier = outcome.record.modifier("exp")
        if modifier is None:
            return None
        self.counting = False
        name = yield from self.target(modifier.value, outcome.domain)
        if name is None:
            return None
        answer = yield from self.ask(name, "TXT", tolerate=True)
        if len(answer.texts) != 1 or not answer.texts[0].isascii():
            return None
        try:
            return (yield from self.expand(answer.texts[0].decode("ascii"), outcome.domain, explanation=True))
        except MacroSyntaxError:
            return None


def _in_network(ip: IPAddress, address: str, mechanism: Mechanism) -> bool:
    other = ipaddress.ip_address(address)
    if ip.version != other.version:
        return False
    ignored = ip.max_prefixlen - (mechanism.prefix4 if ip.version == 4 else mechanism.prefix6)
    return int(ip) >> ignored == int(other) >> ignored


def _preferred(names: tuple[str, ...], domain: str) -> str:
    """The value of the macro p (section 7.3): the domain itself, else a name below it, else any, else "unknown"."""
    if domain in names:
        return domain
    below = (name for name in names if name.endswith("." + domain))
    return next(below, names[0] if names else "unknown")
