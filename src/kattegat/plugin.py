"""The plugin SDK: all that a plugin imports.

A plugin is a module or package about one subject. It declares fact types, scanners and checks; the registry finds them
as attributes of the module. See `docs/how-to/write-a-plugin.md`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from types import ModuleType
from typing import Any, Generic, Protocol, TypeVar, overload

import msgspec

from kattegat.errors import KattegatError
from kattegat.model.assets import (
    TYPES,
    URL,
    Asset,
    Certificate,
    Hostname,
    IPAddress,
    Network,
    Service,
    Software,
    Website,
)
from kattegat.model.evidence import Evidence, Part
from kattegat.model.facts import Fact, Found, Link, NotMeasured
from kattegat.model.verdict import Fail, Item, Pass, Severity, Unknown, Verdict, verdict

__all__ = [
    "TYPES",
    "URL",
    "Asset",
    "Blocked",
    "Certificate",
    "CheckSpec",
    "Context",
    "DnsReply",
    "Evidence",
    "Fact",
    "Facts",
    "Fail",
    "Found",
    "Hostname",
    "HttpReply",
    "IPAddress",
    "Item",
    "Known",
    "Link",
    "Need",
    "Net",
    "Network",
    "NotMeasured",
    "NotReached",
    "Option",
    "Part",
    "Pass",
    "PluginError",
    "ScannerSpec",
    "Service",
    "Severity",
    "Software",
    "Stream",
    "ToolReply",
    "Unknown",
    "Verdict",
    "Website",
    "check",
    "days",
    "hours",
    "scanner",
    "translatable",
    "verdict",
    "via",
]

F = TypeVar("F", bound=Fact)
F_co = TypeVar("F_co", bound=Fact, covariant=True)
C = TypeVar("C")


class PluginError(KattegatError):
    """A plugin that is not right: a name twice, a missing text, a need that nothing yields."""


class NotReached(KattegatError):  # noqa: N818 - a plain word, since plugin authors raise it
    """A scan that could not measure: no answer, refused, reset, cut off. The run fails; what stood before stands.

    `how` is set by the runner: "timeout", "refused", "reset", "closed", "unreachable", "limit", "malformed" or "local"
    (the runner's own machine is to blame); "" when a plugin raised it.
    """

    how: str = ""


class Blocked(KattegatError):  # noqa: N818 - as above
    """A connection that the runner refused to make: clearance, scope, a private address. Nothing was sent."""


def days(number: float) -> timedelta:
    """A span of days."""
    return timedelta(days=number)


def hours(number: float) -> timedelta:
    """A span of hours."""
    return timedelta(hours=number)


def translatable(text: str) -> str:
    """Marks a text for the translators' catalogue; it is translated when it is shown, not here."""
    return text


class Need(msgspec.Struct, frozen=True):
    """Facts that a check or scanner needs: of which type, over which link from the asset ("" = about the asset itself).

    With `backwards` the link is followed from its target to its origin. An `optional` need that was not measured
    does not make the verdict unknown.
    """

    fact: type[Fact]
    link: str = ""
    backwards: bool = False
    optional: bool = False


def via(link: str, fact: type[Fact], *, backwards: bool = False, optional: bool = False) -> Need:
    """A need that lies over a link: `needs=[via("resolves_to", OpenPorts)]`."""
    return Need(fact, link, backwards, optional)


class Option(msgspec.Struct, frozen=True):
    """A setting of a scanner or check, resolved for the asset's organisation: its name, default and one line of doc."""

    name: str
    default: bool | int | float | str | tuple[str, ...]
    doc: str


class Known(msgspec.Struct, Generic[F_co], frozen=True):
    """A current fact with who says it and when its source last confirmed it."""

    asset: Asset
    fact: F_co
    item: str
    scanner: str
    vantage: str
    confirmed_at: datetime


class Facts(Sequence[F_co]):
    """All current facts of one need, from every source and, over a link, of every linked asset.

    Iterating gives the facts; `known` gives them with asset, source and time. `unmeasured` holds a reason for each
    part that its source could not measure.
    """

    def __init__(
        self,
        known: Iterable[Known[F_co]] = (),
        unmeasured: Iterable[str] = (),
        linked: Iterable[Asset] = (),
    ) -> None:
        self.known: tuple[Known[F_co], ...] = tuple(known)
        self.unmeasured: tuple[str, ...] = tuple(unmeasured)
        self.linked: tuple[Asset, ...] = tuple(linked)

    @overload
    def __getitem__(self, index: int) -> F_co: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[F_co]: ...
    def __getitem__(self, index: int | slice) -> F_co | Sequence[F_co]:
        if isinstance(index, slice):
            return [entry.fact for entry in self.known[index]]
        return self.known[index].fact

    def __len__(self) -> int:
        return len(self.known)

    def __iter__(self) -> Iterator[F_co]:
        return (entry.fact for entry in self.known)

    @property
    def one(self) -> F_co | None:
        """The fact that was confirmed last, or None."""
        return max(self.known, key=lambda entry: entry.confirmed_at).fact if self.known else None

    def item(self, item: str) -> list[F_co]:
        """The facts of one item."""
        return [entry.fact for entry in self.known if entry.item == item]

    def gap(self, item: str) -> str:
        """Why this item could not be measured, or "" when it was: then no fact of it means that there is none."""
        start = f"{item}: "
        return next((reason.removeprefix(start) for reason in self.unmeasured if reason.startswith(start)), "")


class Context(msgspec.Struct, frozen=True):
    """What a check may look at beside facts: the asset, the time of judging, and its options in force."""

    asset: Asset
    now: datetime
    options: Mapping[str, Any] = {}


# --- what a scanner gets to reach the world with ---------------------------------------------------------------------


class Stream(Protocol):
    """A connection that the runner opened. Reading stops at the runner's limits with `NotReached`."""

    local: str
    peer: str

    async def read(self, limit: int = 65536) -> bytes:
        """At most `limit` bytes as soon as there are some; b"" at the end."""
        ...

    async def write(self, data: bytes) -> None:
        """Sends all of it."""
        ...

    async def close(self) -> None:
        """Closes; never raises."""
        ...


class DnsReply(msgspec.Struct, frozen=True):
    """The answer to one question: `wire` is the message as received (RFC 1035 section 4), or b"" with `problem` set."""

    name: str
    rdtype: str
    server: str
    wire: bytes
    problem: str = ""


class HttpReply(msgspec.Struct, frozen=True):
    """One response (RFC 9112): header names and values as sent, in order; `body` cut at the limit with `cut` set."""

    url: str
    address: str
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    cut: bool = False
    version: str = "1.1"

    def part(self, name: str) -> Part:
        """The response as a part of evidence; `from_part` reads it back."""
        return Part(name, msgspec.msgpack.encode(self), {"url": self.url, "address": self.address})

    @staticmethod
    def from_part(part: Part) -> HttpReply:
        """The inverse of `part`."""
        return msgspec.msgpack.decode(part.content, type=HttpReply)

    def header(self, name: str) -> list[str]:
        """Every value of a header (names compare without case), decoded as Latin-1 as sent."""
        wanted = name.lower().encode()
        return [value.decode("latin-1") for key, value in self.headers if key.lower() == wanted]


class ToolReply(msgspec.Struct, frozen=True):
    """What an external program gave back, with its version and exact arguments."""

    tool: str
    version: str
    arguments: tuple[str, ...]
    code: int
    stdout: bytes
    stderr: bytes


class Net(Protocol):
    """The only way out. Every call resolves first and refuses what may not be contacted with `Blocked`.

    All failures to measure are `NotReached` with one sentence; time-outs, rates and sizes are the runner's.
    """

    vantage: str
    options: Mapping[str, Any]
    known: Mapping[str, tuple[Known[Any], ...]]
    """Facts that the scanner asked for with `uses=`, by kind."""

    async def resolve(self, name: str) -> list[str]:
        """The addresses of a name through the resolver, A then AAAA; [] when it has none. Blocked ones are left out."""
        ...

    async def dns(self, name: str, rdtype: str, *, server: str | None = None, dnssec: bool = False) -> DnsReply:
        """One question to the resolver or a server's address: UDP, then TCP when truncated. `dnssec` sets DO and CD.

        A missing answer is a `DnsReply` with `problem` set, not an error, so that the other questions go on.
        """
        ...

    async def connect(self, host: str, port: int, *, tls: str | None = None) -> Stream:
        """A TCP connection to a name or address; with `tls` a handshake for that server name, certificate unchecked."""
        ...

    async def get(self, url: str, *, address: str | None = None, headers: Mapping[str, str] | None = None) -> HttpReply:
        """GET without following redirects; `address` pins which of the host's addresses is contacted."""
        ...

    def ports(self, address: str, ports: Sequence[int]) -> AsyncIterator[tuple[int, str]]:
        """Tries to connect to each port: (port, "open" | "closed" | "no answer" | reason), as they come."""
        ...

    def has(self, tool: str) -> bool:
        """Whether an external program is installed here."""
        ...

    async def run(self, tool: str, *arguments: str, stdin: bytes = b"", targets: Sequence[str] = ()) -> ToolReply:
        """Runs an external program within limits; `targets` are the addresses it will contact, checked first."""
        ...


# --- declarations ----------------------------------------------------------------------------------------------------


class ScannerSpec(msgspec.Struct, frozen=True):
    """A scanner as the registry knows it."""

    name: str
    about: type[Asset]
    clearance: int
    every: timedelta
    yields: tuple[type[Fact], ...]
    uses: tuple[Need, ...]
    options: tuple[Option, ...]
    tool: str
    version: int
    applies: Callable[[Any], bool]
    doc: str
    plugin: str
    implementation: type[Any]


class CheckSpec(msgspec.Struct, frozen=True):
    """A check as the registry knows it."""

    name: str
    about: type[Asset]
    needs: tuple[Need, ...]
    severity: Severity
    title: str
    risk: str
    fix: str
    reference: str
    options: tuple[Option, ...]
    openkat: tuple[str, ...]
    version: int
    applies: Callable[[Any], bool]
    plugin: str
    function: Callable[..., Verdict]


def _always(_: Any) -> bool:
    return True


def scanner(
    name: str,
    *,
    about: type[Asset],
    clearance: int,
    every: timedelta,
    yields: Sequence[type[Fact]],
    uses: Sequence[type[Fact] | Need] = (),
    options: Sequence[Option] = (),
    tool: str = "",
    version: int = 1,
    applies: Callable[[Any], bool] = _always,
) -> Callable[[type[C]], type[C]]:
    """Declares a class with `async fetch(self, asset, net) -> Evidence` and `parse(self, asset, evidence)` a scanner.

    `parse` is pure and yields `Found` and `NotMeasured`. `every` is the default interval. `tool` names the external
    program without which the scanner can't run. `applies(asset)` looks at the key only: for which assets it makes
    sense. `version` is raised when the parser changes, so that evidence is read again.
    """

    def mark(cls: type[C]) -> type[C]:
        cls.__scanner__ = ScannerSpec(  # type: ignore[attr-defined]
            name=name,
            about=about,
            clearance=clearance,
            every=every,
            yields=tuple(yields),
            uses=_needs(uses),
            options=tuple(options),
            tool=tool,
            version=version,
            applies=applies,
            doc=(cls.__doc__ or "").strip(),
            plugin=cls.__module__,
            implementation=cls,
        )
        return cls

    return mark


def check(
    name: str,
    *,
    about: type[Asset],
    needs: Sequence[type[Fact] | Need],
    severity: Severity,
    title: str,
    risk: str,
    fix: str,
    reference: str,
    options: Sequence[Option] = (),
    openkat: Sequence[str] = (),
    version: int = 1,
    applies: Callable[[Any], bool] = _always,
) -> Callable[[Callable[..., Verdict]], Callable[..., Verdict]]:
    """Declares a pure function `(context, facts of the first need, facts of the second, ...) -> Verdict` a check.

    The engine answers unknown by itself when a need was not measured (unless it is optional), so the function is only
    called with facts from successful runs: an empty `Facts` then means "measured, and absent". `applies(asset)` looks
    at the key only. `openkat` names the finding types of OpenKAT that this check stands for.
    """

    def mark(function: Callable[..., Verdict]) -> Callable[..., Verdict]:
        function.__check__ = CheckSpec(  # type: ignore[attr-defined]
            name=name,
            about=about,
            needs=_needs(needs),
            severity=severity,
            title=title,
            risk=risk,
            fix=fix,
            reference=reference,
            options=tuple(options),
            openkat=tuple(openkat),
            version=version,
            applies=applies,
            plugin=function.__module__,
            function=function,
        )
        return function

    return mark


def _needs(entries: Sequence[type[Fact] | Need]) -> tuple[Need, ...]:
    return tuple(entry if isinstance(entry, Need) else Need(entry) for entry in entries)


def declared(module: ModuleType) -> tuple[list[ScannerSpec], list[CheckSpec], list[type[Fact]]]:
    """What a plugin's module declares: scanners, checks and fact types, in the order of their names."""
    scanners: dict[str, ScannerSpec] = {}
    checks: dict[str, CheckSpec] = {}
    facts: dict[str, type[Fact]] = {}
    for value in vars(module).values():
        scanner_spec = getattr(value, "__scanner__", None)
        check_spec = getattr(value, "__check__", None)
        if isinstance(scanner_spec, ScannerSpec):
            scanners[scanner_spec.name] = scanner_spec
        elif isinstance(check_spec, CheckSpec):
            checks[check_spec.name] = check_spec
        elif isinstance(value, type) and issubclass(value, Fact) and value is not Fact:
            facts[value.kind] = value
    return (
        [scanners[name] for name in sorted(scanners)],
        [checks[name] for name in sorted(checks)],
        [facts[name] for name in sorted(facts)],
    )
