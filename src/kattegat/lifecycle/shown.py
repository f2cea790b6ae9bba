"""A plan in words and numbers, for a person who is asked whether to begin, and as data."""

from __future__ import annotations

from typing import Any

from kattegat.lifecycle.way import Way
from kattegat.schema.steps import Step

# What becomes of the data, in words; `made` and `kept` need none.
LOSS = {
    "kept": "kept",
    "parked": "kept, out of sight",
    "set-aside": "kept aside",
    "derived": "made again on the way back",
    "made": "new",
}


def document(way: Way, numbers: dict[str, int]) -> dict[str, Any]:
    """The plan as one JSON document. Times in seconds; `rows` are what the statistics of the server say."""
    steps = way.plan.steps
    return {
        "kind": way.kind,
        "from": {"release": way.start.release, "revision": way.start.revision},
        "to": {"release": way.end.release, "revision": way.end.revision},
        "sha256": way.plan.sha256(),
        "steps": [_step(number, step, numbers) for number, step in enumerate(steps, 1)],
        "seconds": round(sum(step.seconds for step in steps), 3),
        "seconds_back": round(sum(step.undo_seconds for step in steps), 3),
        "parked": [step.target for step in steps if step.loss == "parked"],
        "set_aside": [step.target for step in steps if step.loss == "set-aside"],
        "statements": len(way.plan.statements()),
    }


def _step(number: int, step: Step, numbers: dict[str, int]) -> dict[str, Any]:
    return {
        "number": number,
        "kind": step.kind,
        "target": step.target,
        "words": step.words,
        "way_back": step.undo_words or f"undo: {step.words}",
        "data": LOSS[step.loss],
        "rows": step.rows or max((numbers.get(table, 0) for table in step.tables), default=0) * step.rewrite,
        "lock": step.lock,
        "tables": list(step.tables),
        "rewrite": step.rewrite,
        "seconds": step.seconds,
        "seconds_back": step.undo_seconds,
        "batches": step.batches is not None,
    }


def summary(found: dict[str, Any]) -> str:
    """One line: how many steps, how long, what is put out of sight."""
    if not found["steps"]:
        return "No step changes the schema: only the release on record is changed."
    parts = [f"{len(found['steps'])} steps, about {seconds(found['seconds'])}"]
    if found["parked"]:
        parts.append(f"{len(found['parked'])} things are parked and lose nothing")
    if found["set_aside"]:
        parts.append(f"rows of {len(found['set_aside'])} things that don't fit are kept aside")
    parts.append(f"the way back takes about {seconds(found['seconds_back'])}")
    return "; ".join(parts) + "."


def seconds(value: float) -> str:
    """A time for a person: `0.2 s`, `4 min`, `1.5 h`."""
    if value < 90:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if value < 5400 else f"{value / 3600:.1f} h"


def script(way: Way) -> list[str]:
    """Every SQL text that will run, each as it will be sent, under a line of comment that says which step it is of."""
    lines = []
    for number, step in enumerate(way.plan.steps, 1):
        lines.append(f"-- step {number} of {len(way.plan.steps)}: {_line(step.words)}")
        texts = [*step.do, *((step.batches.do,) if step.batches else ())]
        for index, sql in enumerate(texts):
            if step.batches is not None and index == len(texts) - 1:
                lines.append("-- repeated until it changes no row")
            lines.append(f"{sql};")
    return lines


def _line(words: str) -> str:
    return " ".join(words.split())
