"""One check on one asset: pure. What can't be judged says why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import structlog

from kattegat.checks.needs import Picture, Row
from kattegat.model.assets import Asset
from kattegat.model.verdict import Pass, Unknown, Verdict
from kattegat.plugin import CheckSpec, Context

MINIMUM_CLEARANCE = 1
"""What has no clearance is somebody else's: it is looked up, not judged."""

log = structlog.get_logger()


class Judged(NamedTuple):
    """A verdict. `measured` is False when a need was not measured, so that nothing about the asset has changed.

    `lost` is "" or why a part of the facts is not known now: what fails does, and nothing is mended by it.
    """

    verdict: Verdict
    measured: bool
    until: datetime | None
    lost: str = ""


def judge(spec: CheckSpec, row: Row, picture: Picture, options: Mapping[str, Any]) -> Judged:
    """The verdict of a check that applies to the asset."""
    if row.clearance < MINIMUM_CLEARANCE:
        return Judged(Unknown(missing(spec, row, picture)), False, None)
    measured = []
    for need in spec.needs:
        part = picture.measured(row, need)
        if part.missing and not need.optional:
            return Judged(Unknown(part.missing), False, None)
        measured.append(part)
    facts = [part.facts for part in measured]
    until = [part.until for part in measured if part.until is not None]
    context = Context(row.asset, picture.now, options)
    try:
        verdict = spec.function(context, *facts)
    except Exception as problem:
        log.error("check broke", check=spec.name, asset=str(row.asset), problem=repr(problem), exc_info=True)
        return Judged(Unknown(f"the check {spec.name} broke ({type(problem).__name__}: {problem})"), True, None)
    if verdict.until is not None:
        until.append(verdict.until)
    reason = next((part.lost for part in measured if part.lost), "")
    if reason and isinstance(verdict, Pass):
        verdict = Unknown(reason)
    return Judged(verdict, True, min(until, default=None), reason)


def missing(spec: CheckSpec, row: Row, picture: Picture) -> str:
    """Why a check can't be judged: no clearance, or a need that was not measured; "" when it can."""
    if row.clearance < MINIMUM_CLEARANCE:
        return f"clearance {row.clearance}, needs {MINIMUM_CLEARANCE}"
    for need in spec.needs:
        if not need.optional and (reason := picture.measured(row, need).missing):
            return reason
    return ""


def lost(spec: CheckSpec, row: Row, picture: Picture) -> str:
    """Why a check that can be judged can't pass: a part of its facts is not known now; "" when it can."""
    return next((reason for need in spec.needs if (reason := picture.measured(row, need).lost)), "")


def applies(spec: CheckSpec, row: Row) -> bool:
    """Whether the check is about this asset: its type, and what its key says."""
    return spec.about is type(row.asset) and is_true(spec.applies, row.asset, spec.name)


def is_true(applies: Callable[[Any], bool], asset: Asset, name: str) -> bool:
    """What a check's `applies` says; True when it breaks, since leaving the check out would pass for mended."""
    try:
        return applies(asset)
    except Exception as problem:
        log.error("a check can't say whether it applies", check=name, asset=str(asset), exc_info=problem)
        return True


def options_of(spec: CheckSpec, in_force: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a check: its defaults, and what is set for the organisation as `<check>.<option>`."""
    return {option.name: in_force.get(f"{spec.name}.{option.name}", option.default) for option in spec.options}
