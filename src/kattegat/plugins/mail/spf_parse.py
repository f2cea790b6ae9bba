"""SPF records: selection among TXT records, and syntax (RFC 7208 sections 3, 4.5, 4.6, 5, 6 and 12)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

from kattegat.errors import KattegatError
from kattegat.plugins.mail.spf_macro import MacroSyntaxError, parse_domain_spec, parse_macro_string

Qualifier: TypeAlias = Literal["+", "-", "~", "?"]
MechanismName: TypeAlias = Literal["all", "include", "a", "mx", "ptr", "ip4", "ip6", "exists"]

VERSION = b"v=spf1"
LOOKUP_TERMS = frozenset({"include", "a", "mx", "ptr", "exists", "redirect"})
"""The terms that cause DNS queries and count towards the limit of 10 (RFC 7208 section 4.6.4)."""

_MODIFIER = re.compile(r"([a-z][a-z0-9_.-]*)=(.*)", re.IGNORECASE | re.DOTALL | re.ASCII)
_MECHANISM = re.compile(r"([+?~-]?)([a-z][a-z0-9_.-]*)(.*)", re.IGNORECASE | re.DOTALL | re.ASCII)
_CIDR = re.compile(r"(?:/(0|[1-9][0-9]{0,2}))?(?://(0|[1-9][0-9]{0,2}))?\Z")
_QUALIFIERS: dict[str, Qualifier] = {"": "+", "+": "+", "-": "-", "~": "~", "?": "?"}


class Mechanism(msgspec.Struct, frozen=True, tag=True):
    """A directive. `domain` is the domain-spec as written, "" for the domain the record is at.

    `address` is set for ip4 and ip6, in canonical form. `prefix4` and `prefix6` are the CIDR lengths in bits: of the
    address for ip4 and ip6, of the addresses found for a and mx (32 and 128 where none is written).
    """

    name: MechanismName
    qualifier: Qualifier = "+"
    domain: str = ""
    address: str = ""
    prefix4: int = 32
    prefix6: int = 128

    def __str__(self) -> str:
        text = ("" if self.qualifier == "+" else self.qualifier) + self.name
        if self.domain or self.address:
            text += ":" + (self.domain or self.address)
        if self.prefix4 != 32:
            text += f"/{self.prefix4}"
        if self.prefix6 != 128:
            text += f"/{self.prefix6}" if self.name == "ip6" else f"//{self.prefix6}"
        return text


class Modifier(msgspec.Struct, frozen=True, tag=True):
    """A modifier; `value` as written: a domain-spec for redirect and exp, a macro string for all others."""

    name: str
    value: str

    def __str__(self) -> str:
        return f"{self.name}={self.value}"


Term: TypeAlias = Mechanism | Modifier


class TermError(msgspec.Struct, frozen=True):
    """A term that breaks the syntax: its place among the terms from 1 (0: the whole record), its text, the reason."""

    position: int
    text: str
    reason: str


class Record(msgspec.Struct, frozen=True):
    """An SPF record whose every term follows the syntax; str() prints one that parses to an equal record."""

    terms: tuple[Term, ...] = ()

    @property
    def mechanisms(self) -> tuple[Mechanism, ...]:
        return tuple(term for term in self.terms if isinstance(term, Mechanism))

    def modifier(self, name: str) -> Modifier | None:
        """The modifier of that name (in lower case), or None."""
        return next((term for term in self.terms if isinstance(term, Modifier) and term.name == name), None)

    def __str__(self) -> str:
        return " ".join(["v=spf1", *map(str, self.terms)])


class SpfSyntaxError(KattegatError):
    """An SPF record that breaks the syntax; `errors` has every term that does, in order."""

    def __init__(self, errors: Sequence[TermError]) -> None:
        self.errors = tuple(errors)
        first = self.errors[0]
        more = f" (and {len(self.errors) - 1} more)" if len(self.errors) > 1 else ""
        super().__init__(f"The SPF term {first.text!r} is wrong: {first.reason}{more}; correct it in the TXT record.")


def select_records(texts: Sequence[bytes]) -> tuple[bytes, ...]:
    """Those of the TXT records (each with its strings joined) that are SPF version 1 records (section 4.5)."""
    return tuple(text for text in texts if text[:6].lower() == VERSION and text[6:7] in (b"", b" "))


def split_terms(text: str) -> tuple[str, ...]:
    """The terms after the version; only spaces separate them (section 4.6.1)."""
    return tuple(term for term in text.split(" ")[1:] if term)


def parse(record: bytes | str) -> Record:
    """The record of a TXT text that starts with the version; raises `SpfSyntaxError` with all that is wrong."""
    parsed, errors = parse_tolerant(record)
    if errors:
        raise SpfSyntaxError(errors)
    return Record(tuple(term for term in parsed if term is not None))


def parse_tolerant(record: bytes | str) -> tuple[tuple[Term | None, ...], tuple[TermError, ...]]:
    """Each term in order, None for one that breaks the syntax, and the errors. Never raises for any input."""
    text = decode(record)
    if not select_records([text.encode("utf-8", "surrogatepass")]):
        return (), (TermError(0, text[:20], "the record does not start with 'v=spf1' and a space"),)
    terms: list[Term | None] = []
    errors: list[TermError] = []
    once: set[str] = set()
    for position, written in enumerate(split_terms(text), 1):
        try:
            term = parse_term(written)
            if isinstance(term, Modifier) and term.name in once & {"redirect", "exp"}:
                raise MacroSyntaxError(f"{term.name}= appears more than once")
            once.add(term.name)
            terms.append(term)
        except ValueError as error:
            terms.append(None)
            errors.append(TermError(position, written, str(error)))
    return tuple(terms), tuple(errors)


def decode(record: bytes | str) -> str:
    """The text of a record; an octet outside ASCII becomes one character that no term may contain (section 3.1)."""
    return record if isinstance(record, str) else record.decode("latin-1")


def parse_term(text: str) -> Term:
    """One term. Raises `ValueError` with the reason."""
    modifier = _MODIFIER.fullmatch(text)
    if modifier:
        name, value = modifier[1].lower(), modifier[2]
        if name in ("redirect", "exp"):
            parse_domain_spec(value)
        else:
            parse_macro_string(value)
        return Modifier(name, value)
    directive = _MECHANISM.fullmatch(text)
    if directive is None:
        raise MacroSyntaxError("it is neither a mechanism nor a modifier")
    qualifier, name, rest = _QUALIFIERS[directive[1]], directive[2].lower(), directive[3]
    match name:
        case "all":
            if rest:
                raise MacroSyntaxError("all takes no argument")
            return Mechanism("all", qualifier)
        case "include" | "exists":
            if not rest.startswith(":"):
                raise MacroSyntaxError(f"{name} needs ':' and a domain")
            parse_domain_spec(rest[1:])
            return Mechanism(name, qualifier, rest[1:])
        case "ptr":
            return Mechanism("ptr", qualifier, _optional_domain(name, rest))
        case "a" | "mx":
            return _address_mechanism(name, qualifier, rest)
        case "ip4" | "ip6":
            return _network_mechanism(name, qualifier, rest)
        case _:
            raise MacroSyntaxError(f"there is no mechanism {name!r}")


def _optional_domain(name: str, rest: str) -> str:
    if not rest:
        return ""
    if not rest.startswith(":"):
        raise MacroSyntaxError(f"{name} takes ':' and a domain, not {rest!r}")
    parse_domain_spec(rest[1:])
    return rest[1:]


def _prefix(digits: str | None, longest: int) -> int:
    if digits is None:
        return longest
    if int(digits) > longest:
        raise MacroSyntaxError(f"the prefix length {digits} is over {longest}")
    return int(digits)


def _address_mechanism(name: Literal["a", "mx"], qualifier: Qualifier, rest: str) -> Mechanism:
    # A domain-spec may itself hold slashes, so the CIDR lengths are what is at the end, and the rest must be a domain.
    found = _CIDR.search(rest)
    if found is None:  # cannot be: the pattern matches the empty text at the end
        raise MacroSyntaxError(f"{rest!r} has no end")
    return Mechanism(
        name,
        qualifier,
        _optional_domain(name, rest[: found.start()]),
        prefix4=_prefix(found[1], 32),
        prefix6=_prefix(found[2], 128),
    )


def _network_mechanism(name: Literal["ip4", "ip6"], qualifier: Qualifier, rest: str) -> Mechanism:
    longest = 32 if name == "ip4" else 128
    if not rest.startswith(":"):
        raise MacroSyntaxError(f"{name} needs ':' and an address")
    address, slash, digits = rest[1:].partition("/")
    if slash and not re.fullmatch("0|[1-9][0-9]{0,2}", digits):
        raise MacroSyntaxError(f"{digits!r} is not a prefix length")
    prefix = _prefix(digits if slash else None, longest)
    try:
        if name == "ip4":
            return Mechanism("ip4", qualifier, address=str(ipaddress.IPv4Address(address)), prefix4=prefix)
        if "%" in address:  # a zone identifier, which Python accepts and RFC 7208 section 5.6 does not
            raise ipaddress.AddressValueError
        return Mechanism("ip6", qualifier, address=str(ipaddress.IPv6Address(address)), prefix6=prefix)
    except ipaddress.AddressValueError:
        raise MacroSyntaxError(f"{address!r} is not an IPv{name[2]} address") from None
