"""One scan: a job in, a result out. Whatever a scanner or a target does, the result says it in one sentence."""

from __future__ import annotations

import asyncio
import inspect
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import structlog

from kattegat.errors import KattegatError, UsageError
from kattegat.model import assets
from kattegat.model.evidence import Evidence
from kattegat.model.work import MAXIMUM_RESULT, Detail, Job, Outcome, Result
from kattegat.plugin import Blocked, Known, Net, NotReached, ScannerSpec
from kattegat.registry import Registry
from kattegat.runner.guard import printable
from kattegat.runner.net import GuardedNet, Shared
from kattegat.settings import Settings

HEADROOM = MAXIMUM_RESULT // 16  # what a result holds beside its evidence


async def run_job(
    job: Job,
    registry: Registry,
    settings: Settings,
    *,
    shared: Shared | None = None,
    opened: Callable[[GuardedNet], None] = lambda _: None,
) -> Result:
    """Performs one scan. Never raises for what a scanner or target does; a cancelled job stays cancelled.

    `shared` is what a process gives all its jobs; without it the job gets its own. `opened` is given the job's net, to
    be closed by somebody else when the job has to end and its scanner does not.
    """
    started = datetime.now(UTC)
    net: GuardedNet | None = None
    evidence = b""
    try:
        spec = _scanner(job, registry)
        asset = assets.parse(job.asset_type, job.asset_key)
        net = GuardedNet(
            shared or Shared.of(settings),
            job.limits,
            scanner=spec.name,
            options=install_options(settings) | {option.name: option.default for option in spec.options} | job.options,
            known=known_facts(job, registry),
            lease=(job.task_id, job.lease_token),
        )
        opened(net)
    except (KattegatError, ValueError) as problem:
        outcome, reason = _outcome(problem), printable(str(problem))
    else:
        seconds = float(min(job.seconds, settings.scan_seconds) if settings.scan_seconds else job.seconds)
        try:
            outcome, reason, evidence = await _fetch(spec, asset, net, seconds)
        finally:
            await net.close()
    return Result(
        task_id=job.task_id,
        lease_token=job.lease_token,
        outcome=outcome,
        reason=reason,
        started_at=started,
        ended_at=datetime.now(UTC),
        evidence=evidence,
        detail=net.journal.detail() if net is not None else Detail(),
    )


def install_options(settings: Settings) -> dict[str, Any]:
    """What every scanner is told of the install: `trust_anchor`, the text of that file, and `ca_file`, a path; or "".

    Raises `UsageError` for a trust anchor that can't be read: going on with the root's would give other results.
    """
    text = ""
    if settings.trust_anchor:
        try:
            text = Path(settings.trust_anchor).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as problem:
            raise UsageError(
                f"The file that KAT_TRUST_ANCHOR names can't be read ({problem}); correct the setting or unset it."
            ) from None
    return {"trust_anchor": text, "ca_file": settings.ca_file}


def _scanner(job: Job, registry: Registry) -> ScannerSpec:
    spec = registry.scanner(job.scanner)
    if spec.version != job.scanner_version:
        raise UsageError(
            f"This runner has version {spec.version} of scanner {spec.name}, and the task needs version "
            f"{job.scanner_version}; install the same release on both."
        )
    return spec


async def _fetch(spec: ScannerSpec, asset: assets.Asset, net: Net, seconds: float) -> tuple[Outcome, str, bytes]:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            pending = spec.implementation().fetch(asset, net)
            found = await pending if inspect.isawaitable(pending) else pending
        if not isinstance(found, Evidence):
            raise TypeError(f"fetch returned {type(found).__name__} in place of Evidence")
        packed = found.pack()
    except (Exception, SystemExit, KeyboardInterrupt) as problem:
        if limit.expired():
            return "failed", f"The scan took longer than {seconds:g} seconds.", b""
        if isinstance(problem, KeyboardInterrupt):
            raise
        return *_failure(spec, asset, problem), b""
    if len(packed) > MAXIMUM_RESULT - HEADROOM:
        return "failed", f"The scan brought {len(packed)} bytes of evidence, more than is kept of one scan.", b""
    return "ok", "", packed


def _failure(spec: ScannerSpec, asset: assets.Asset, problem: BaseException) -> tuple[Outcome, str]:
    known = _ordinary(problem)
    if known is not None:
        return _outcome(known), printable(str(known))
    said = printable(str(problem)[:300])  # the rest is in the log
    structlog.get_logger().error(
        "scanner_broke", scanner=spec.name, plugin=spec.plugin, asset=str(asset), exc_info=problem
    )
    return "failed", f"scanner {spec.name} broke: {type(problem).__name__}: {said} (this is a bug in the scanner)"


def _ordinary(problem: BaseException) -> NotReached | Blocked | None:
    """The refusal or failure to measure that this is, also when a task group wrapped it; None for a bug."""
    if isinstance(problem, NotReached | Blocked):
        return problem
    if isinstance(problem, BaseExceptionGroup):
        inner = [_ordinary(one) for one in problem.exceptions]
        if all(one is not None for one in inner):
            return inner[0]
    return None


def _outcome(problem: BaseException) -> Outcome:
    return "blocked" if isinstance(problem, Blocked) else "failed"


def known_facts(job: Job, registry: Registry) -> Mapping[str, tuple[Known[Any], ...]]:
    """The facts that came with a job, by kind. One that this release can't read is left out, as if not known."""
    found: dict[str, list[Known[Any]]] = defaultdict(list)
    for entry in job.known:
        kind = registry.facts.get(entry.kind)
        if kind is None or kind.form != entry.form:
            continue
        try:
            fact = msgspec.convert(entry.value, kind, str_keys=True)
            asset = assets.parse(entry.asset_type, entry.asset_key)
        except (msgspec.ValidationError, KattegatError) as problem:
            structlog.get_logger().warning("known_fact_unreadable", kind=entry.kind, problem=str(problem))
            continue
        found[entry.kind].append(Known(asset, fact, entry.item, entry.scanner, entry.vantage, entry.confirmed_at))
    return {kind: tuple(entries) for kind, entries in found.items()}
