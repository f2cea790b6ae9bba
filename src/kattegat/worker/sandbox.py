"""Parses evidence in confined processes that are kept for the next: what came from outside is never read in here.

A parser that takes too long, eats memory or breaks its process costs that process and its own run; the evidence is
kept, and can be read again when the parser is mended.
"""

from __future__ import annotations

import os
import queue
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

import msgspec
import structlog

from kattegat.errors import KattegatError
from kattegat.model import assets
from kattegat.model.assets import Asset, type_of
from kattegat.model.facts import Found, Link, NotMeasured
from kattegat.plugin import ScannerSpec
from kattegat.registry import Registry
from kattegat.worker.confine import CPU_SECONDS
from kattegat.worker.parsing import LENGTH, MAXIMUM_ANSWER, MAXIMUM_REQUEST, Answer, FoundRow, GapRow, Ready, Request

PARSE_SECONDS = 10.0
START_SECONDS = 60.0
USES = 1000

log = structlog.get_logger()
M = TypeVar("M")


class SandboxError(KattegatError):
    """No parsing process could be started."""


class Parsed(NamedTuple):
    """What evidence came to. With a `problem` nothing was found and the run counts as failed."""

    found: tuple[Found, ...] = ()
    unmeasured: tuple[NotMeasured, ...] = ()
    problem: str = ""


class _Broken(Exception):  # noqa: N818 - for this module
    """A process that did not answer, with what to say of it."""


class _Child:
    """One parsing process and its two pipes."""

    def __init__(self, modules: Sequence[str]) -> None:
        # Nothing of our environment: it may hold the database's password.
        environment = {
            "PATH": os.defpath,
            "LC_ALL": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "kattegat.worker.parsing", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd="/",
            bufsize=0,
            start_new_session=True,
        )
        if self._process.stdin is None or self._process.stdout is None:  # pragma: no cover - asked for above
            raise SandboxError("A parsing process came without its pipes.")
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdin.fileno(), False)
        os.set_blocking(self._stdout.fileno(), False)
        self.uses = 0
        self.cpu = 0.0
        try:
            self.confined = self._exchange(b"", Ready, START_SECONDS).confined
        except _Broken as problem:
            self.end()
            raise SandboxError(
                f"The process that parses evidence could not be started ({problem}); run `{sys.executable} -m"
                f" kattegat.worker.parsing {' '.join(modules)}` to see why."
            ) from None

    def ask(self, request: Request) -> Answer:
        """One parse; raises `_Broken` when the process is of no more use."""
        packed = msgspec.msgpack.encode(request)
        self.uses += 1
        if len(packed) > MAXIMUM_REQUEST:
            return Answer(problem="the evidence is too large to be parsed")
        answer = self._exchange(LENGTH.pack(len(packed)) + packed, Answer, request.seconds)
        self.cpu = answer.cpu
        return answer

    def worn(self, answer: Answer) -> bool:
        """Whether to take another next time: every process has a whole parse's worth of CPU time left."""
        return answer.spent or self.uses >= USES or self.cpu > CPU_SECONDS / 2

    def end(self) -> None:
        """Kills the process and whatever it may have started in its session."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self._process.kill()
        self._stdin.close()
        self._stdout.close()
        self._process.wait()

    def _exchange(self, data: bytes, kind: type[M], seconds: float) -> M:
        until = time.monotonic() + seconds
        waiting = memoryview(data)
        received = bytearray()
        with selectors.DefaultSelector() as ready:
            ready.register(self._stdout, selectors.EVENT_READ)
            if waiting:
                ready.register(self._stdin, selectors.EVENT_WRITE)
            while True:
                left = until - time.monotonic()
                if left <= 0:
                    raise _Broken(f"the parser took longer than {seconds:g} seconds")
                for key, _ in ready.select(left):
                    if key.fileobj is self._stdin:
                        waiting = self._send(waiting)
                        if not waiting:
                            ready.unregister(self._stdin)
                    elif self._receive(received):
                        return self._decode(bytes(received[LENGTH.size :]), kind)

    def _send(self, waiting: memoryview) -> memoryview:
        try:
            return waiting[os.write(self._stdin.fileno(), waiting[: 1 << 20]) :]
        except BlockingIOError:
            return waiting
        except BrokenPipeError:
            raise _Broken(self._ending()) from None

    def _receive(self, received: bytearray) -> bool:
        try:
            part = os.read(self._stdout.fileno(), 1 << 20)
        except BlockingIOError:
            return False
        if not part:
            raise _Broken(self._ending())
        received += part
        if len(received) < LENGTH.size:
            return False
        length: int = LENGTH.unpack(received[: LENGTH.size])[0]
        if length > MAXIMUM_ANSWER:
            raise _Broken("the parser's answer is too large")
        return len(received) >= LENGTH.size + length

    def _decode(self, packed: bytes, kind: type[M]) -> M:
        try:
            return msgspec.msgpack.decode(packed, type=kind)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise _Broken("the parser's answer can't be read") from None

    def _ending(self) -> str:
        try:
            code = self._process.wait(2)
        except subprocess.TimeoutExpired:
            return "the parser closed its pipes"
        if code >= 0:
            return f"the parser ended its process with exit code {code}"
        if -code == signal.SIGXCPU:
            return "the parser used up its CPU time"
        return f"the parser's process was ended by signal {signal.Signals(-code).name}"


class Sandbox:
    """A pool of at most `size` parsing processes, started when first needed; may be used from several threads.

    `modules` names plugin modules to know in place of all that are installed (for tests).
    """

    def __init__(
        self,
        registry: Registry,
        size: int | None = None,
        *,
        seconds: float = PARSE_SECONDS,
        modules: Sequence[str] = (),
    ) -> None:
        self._registry = registry
        self._seconds = seconds
        self._modules = tuple(modules)
        self.size = size or min(4, os.cpu_count() or 1)
        self._free: queue.LifoQueue[_Child | None] = queue.LifoQueue()
        for _ in range(self.size):
            self._free.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends every process; waits for parses under way."""
        for _ in range(self.size):
            child = self._free.get()
            if child is not None:
                child.end()
        for _ in range(self.size):
            self._free.put(None)

    def confined(self) -> list[str]:
        """In which ways parsing is confined on this machine: limits, network, calls."""
        child = self._free.get()
        try:
            child = child or _Child(self._modules)
            return child.confined
        finally:
            self._free.put(child)

    def parse(self, scanner: str, subject: Asset, evidence: bytes) -> Parsed:
        """What this (packed) evidence says. Raises `SandboxError` only: a parser's problem is in the answer."""
        spec = self._registry.scanners.get(scanner)
        if spec is None:
            return Parsed(problem=f"scanner {scanner} is not installed")
        request = Request(scanner, type_of(subject), subject.key, evidence, self._seconds)
        child = self._free.get()
        keep: _Child | None = None
        try:
            child = child or _Child(self._modules)
            answer = child.ask(request)
            if not child.worn(answer):
                keep = child
        except _Broken as problem:
            log.warning("a parser was ended", scanner=scanner, asset=str(subject), problem=str(problem))
            answer = Answer(problem=str(problem))
        finally:
            if child is not None and keep is None:
                child.end()
            self._free.put(keep)
        if answer.problem:
            return Parsed(problem=answer.problem)
        return _read(spec, answer)


def _read(spec: ScannerSpec, answer: Answer) -> Parsed:
    """The answer as facts. The process may have been taken over by what it read, so nothing in it is believed."""
    kinds = {fact.kind: fact for fact in spec.yields}
    found: list[Found] = []
    gaps: list[NotMeasured] = []
    for row in answer.found:
        fact_type = kinds.get(row.kind)
        if fact_type is None:
            return Parsed(problem=f"the parser gave {row.kind!r}, which it does not declare to yield")
        try:
            fact = msgspec.json.decode(row.value, type=fact_type)
            found.append(Found(assets.parse(row.asset_type, row.asset_key), fact, row.item, _links(row)))
        except (KattegatError, msgspec.MsgspecError, ValueError, RecursionError) as problem:
            gaps.append(NotMeasured(row.kind, f"left out, since it can't be read: {problem}", row.item))
    gaps += [_gap(gap) for gap in answer.unmeasured if gap.kind in kinds]
    return Parsed(tuple(found), tuple(gaps))


def _links(row: FoundRow) -> tuple[Link, ...]:
    return tuple(
        Link(name, assets.parse(origin_type, origin), assets.parse(target_type, target))
        for name, origin_type, origin, target_type, target in row.links
    )


def _gap(gap: GapRow) -> NotMeasured:
    about = None
    if gap.asset_type is not None and gap.asset_key is not None:
        try:
            about = assets.parse(gap.asset_type, gap.asset_key)
        except KattegatError:
            about = None  # then it holds for every asset, which says too little rather than too much
    return NotMeasured(gap.kind, gap.reason, gap.item, about)
