"""The process that parses: `python -m kattegat.worker.parsing [MODULE...]`, confined, one request after another.

Messages are MessagePack, each after its length (4 bytes, big-endian). It answers each `Request` on the pipe that was
its standard output with an `Answer`; what a parser prints goes nowhere. With modules it knows their plugins only.
"""

from __future__ import annotations

import importlib
import os
import signal
import struct
import sys
import time
from typing import Any

import msgspec

from kattegat import registry as registries
from kattegat.errors import KattegatError
from kattegat.model import assets
from kattegat.model.assets import Asset, type_of
from kattegat.model.evidence import Evidence
from kattegat.model.facts import Fact, Found, NotMeasured
from kattegat.plugin import ScannerSpec
from kattegat.registry import Plugin, Registry
from kattegat.worker.confine import confine

LENGTH = struct.Struct(">I")
MAXIMUM_REQUEST = 256 * 1024 * 1024
MAXIMUM_ANSWER = 64 * 1024 * 1024
REASON_LENGTH = 500


class Request(msgspec.Struct, array_like=True):
    """Evidence (as packed) of one scan of one asset, and how long its parser may take."""

    scanner: str
    asset_type: str
    asset_key: str
    evidence: bytes
    seconds: float


class FoundRow(msgspec.Struct, array_like=True):
    """A `Found`: the asset, the fact's kind and JSON, and (type, origin type, key, target type, key) of each link."""

    asset_type: str
    asset_key: str
    kind: str
    item: str
    value: bytes
    links: list[tuple[str, str, str, str, str]]


class GapRow(msgspec.Struct, array_like=True):
    """A `NotMeasured`."""

    kind: str
    reason: str
    item: str | None
    asset_type: str | None
    asset_key: str | None


class Answer(msgspec.Struct):
    """What the parser found, or the problem that ended it. `cpu` is what the process has used in all, in seconds."""

    found: list[FoundRow] = []
    unmeasured: list[GapRow] = []
    problem: str = ""
    cpu: float = 0.0
    spent: bool = False
    """Whether the process should not be used again."""


class Ready(msgspec.Struct):
    """Said once: the process has loaded its plugins and is confined in these ways."""

    confined: list[str]


class ParseProblem(KattegatError):  # noqa: N818 - not raised to people
    """A parser that did something it may not do."""


def plain(value: str) -> str:
    """A text that UTF-8 can hold: half surrogate pairs become U+FFFD."""
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def run(registry: Registry, request: Request) -> Answer:
    """Parses one evidence. Whatever a parser raises becomes the answer's problem."""
    try:
        spec = registry.scanners.get(request.scanner)
        if spec is None:
            raise ParseProblem(f"scanner {request.scanner} is not installed")
        subject = assets.parse(request.asset_type, request.asset_key)
        return _collect(spec, subject, Evidence.unpack(request.evidence))
    except MemoryError:
        return Answer(problem="the parser ran out of memory", spent=True)
    except RecursionError:
        return Answer(problem="RecursionError: the evidence is nested too deep for the parser", spent=True)
    except KattegatError as problem:
        return Answer(problem=_told(str(problem)))
    except Exception as problem:
        return Answer(problem=_told(f"{type(problem).__name__}: {problem}"))


def _collect(spec: ScannerSpec, subject: Asset, evidence: Evidence) -> Answer:
    answer = Answer()
    yielded = {fact.kind for fact in spec.yields}
    size = 0
    for entry in spec.implementation().parse(subject, evidence) or ():
        kind = entry.kind if isinstance(entry, NotMeasured) else getattr(getattr(entry, "fact", None), "kind", "")
        if kind not in yielded:
            raise ParseProblem(f"the parser gave {kind or type(entry).__name__}, which it does not declare to yield")
        if isinstance(entry, NotMeasured):
            about = entry.about
            answer.unmeasured.append(
                GapRow(
                    kind,
                    plain(entry.reason),
                    None if entry.item is None else plain(entry.item),
                    None if about is None else plain(type_of(about)),
                    None if about is None else plain(about.key),
                )
            )
        elif isinstance(entry, Found):
            row = _row(entry)
            size += len(row.value)
            if size > MAXIMUM_ANSWER // 2:
                raise ParseProblem(f"the parser found more than {MAXIMUM_ANSWER // 2**21} MB")
            answer.found.append(row)
    return answer


def _row(found: Found) -> FoundRow:
    return FoundRow(
        plain(type_of(found.asset)),
        plain(found.asset.key),
        found.fact.kind,
        plain(found.item),
        _json(found.fact),
        [
            (
                plain(link.type),
                plain(type_of(link.origin)),
                plain(link.origin.key),
                plain(type_of(link.target)),
                plain(link.target.key),
            )
            for link in found.links
        ],
    )


def _json(fact: Fact) -> bytes:
    try:
        return msgspec.json.encode(fact)
    except UnicodeEncodeError:
        return msgspec.json.encode(_plain_all(msgspec.to_builtins(fact)))


def _plain_all(value: Any) -> Any:
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {_plain_all(name): _plain_all(entry) for name, entry in value.items()}
    return [_plain_all(entry) for entry in value] if isinstance(value, list | tuple) else value


def _told(problem: str) -> str:
    told = plain(problem)
    return told if len(told) <= REASON_LENGTH else told[: REASON_LENGTH - 3] + "..."


def _read(source: int, length: int) -> bytes:
    parts = []
    while length:
        part = os.read(source, min(length, 1 << 20))
        if not part:
            sys.exit(0)
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _write(target: int, message: Answer | Ready) -> None:
    packed = msgspec.msgpack.encode(message)
    data = memoryview(LENGTH.pack(len(packed)) + packed)
    while data:
        data = data[os.write(target, data) :]


def main(modules: list[str]) -> None:
    """Serves until the pipe closes."""
    source, target = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(nowhere, number)
    if modules:
        registry = Registry([Plugin(name, importlib.import_module(name)) for name in modules])
    else:
        registry = registries.load()
    # From here on nothing that is printed is ours.
    os.dup2(nowhere, 2)
    os.close(nowhere)
    _write(target, Ready(confine()))
    while True:
        request = msgspec.msgpack.decode(_read(source, LENGTH.unpack(_read(source, LENGTH.size))[0]), type=Request)
        # The one that asked ends us when time is over; should it be gone, the alarm does.
        signal.setitimer(signal.ITIMER_REAL, request.seconds * 2 + 5)
        answer = run(registry, request)
        signal.setitimer(signal.ITIMER_REAL, 0)
        answer.cpu = time.process_time()
        _write(target, answer)


if __name__ == "__main__":
    main(sys.argv[1:])
