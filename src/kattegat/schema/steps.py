"""What a plan is made of: steps, each with its SQL, the SQL that undoes it, its locks, its cost, what becomes of data.

A plan holds SQL only, so that it can be stored, signed, shown, and run by a release that knows nothing of its reasons.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec
from msgspec import Struct

FORMAT = 1

# kept: no row or value is affected; parked: kept whole where the target does not see it; set-aside: rows or values that
# the target can't hold are kept beside it; derived: can be computed again, so it is dropped; made: new and empty.
Loss = Literal["kept", "parked", "set-aside", "derived", "made"]
# strongest table lock of the step, as PostgreSQL names it; "" when it takes none that a reader or writer would notice
Lock = Literal["", "SHARE UPDATE EXCLUSIVE", "SHARE", "SHARE ROW EXCLUSIVE", "ACCESS EXCLUSIVE"]


class Batches(Struct, frozen=True, omit_defaults=True):
    """A large data step done in pieces: `do` is repeated, each time in its own transaction, until it reports 0 rows."""

    do: str  # must be repeatable, and report the rows it changed (rowcount)
    undo: str | None = None


class Step(Struct, frozen=True, omit_defaults=True):
    """One journaled unit: `do` runs in one transaction (unless `alone`), and `undo` exactly reverses it."""

    kind: str  # `park column`, `add constraint`, ...
    target: str  # `public.task.note`
    words: str  # one sentence: what happens to which data
    do: tuple[str, ...]
    undo: tuple[str, ...]
    undo_words: str = ""
    lock: Lock = ""
    tables: tuple[str, ...] = ()  # those locked
    rewrite: bool = False
    rows: int = 0  # rows it has to look at or write; 0 for the catalogue only
    seconds: float = 0.0  # expected
    undo_seconds: float = 0.0
    loss: Loss = "kept"
    alone: bool = False  # statements that refuse a transaction block (CREATE INDEX CONCURRENTLY)
    batches: Batches | None = None


class Plan(Struct, frozen=True, omit_defaults=True):
    """Steps from one shape to another. Running `do` from first to last arrives at `target`; `undo` from last to first,
    at `source` again, with every row that was written meanwhile accounted for."""

    source: str  # fingerprint of the shape it starts from
    target: str
    steps: tuple[Step, ...] = ()
    next_id: int = 1  # ids below it are taken once the plan is run or stored
    format: int = FORMAT

    def document(self) -> bytes:
        """Canonical JSON of the plan."""
        return msgspec.json.encode(self, order="deterministic")

    def sha256(self) -> str:
        """SHA-256 of the document, in hex."""
        return hashlib.sha256(self.document()).hexdigest()

    def statements(self) -> list[str]:
        """Every SQL text in the order in which it will run (a batch once)."""
        return [sql for step in self.steps for sql in (*step.do, *((step.batches.do,) if step.batches else ()))]

    def reverse(self) -> Plan:
        """The way back as a plan of its own."""
        return Plan(
            source=self.target,
            target=self.source,
            steps=tuple(reversed([_reverse(step) for step in self.steps])),
            next_id=self.next_id,
            format=self.format,
        )


class UnknownPlanError(ValueError):
    """A stored plan of a format that this release can't read."""


def decode(document: bytes | str) -> Plan:
    """A plan from its document; raises `UnknownPlanError` for a format that this release does not know."""
    try:
        plan = msgspec.json.decode(document, type=Plan)
    except msgspec.MsgspecError as problem:
        raise UnknownPlanError(f"the stored plan can't be read ({problem})") from problem
    if plan.format != FORMAT:
        raise UnknownPlanError(f"the stored plan has format {plan.format}, and this release reads {FORMAT}")
    return plan


def _reverse(step: Step) -> Step:
    batches = step.batches
    return msgspec.structs.replace(
        step,
        words=step.undo_words or f"undo: {step.words}",
        undo_words=step.words,
        do=step.undo,
        undo=step.do,
        seconds=step.undo_seconds,
        undo_seconds=step.seconds,
        batches=Batches(do=batches.undo, undo=batches.do) if batches and batches.undo else None,
    )
