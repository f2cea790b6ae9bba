"""Runs scanners where the runner would run, in the laboratory's scanner namespace, through the runner's own code.

    results = scan(lab, [("dns-records", "Hostname", "www.good.test"), ...])

Run as a program it performs the jobs of its standard input (MessagePack) and writes their results to standard output.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from kattegat import registry, settings
from kattegat.model import assets
from kattegat.model.evidence import Evidence
from kattegat.model.facts import Found, NotMeasured
from kattegat.model.work import Job, KnownFact, Limits, Result
from kattegat.runner.job import run_job
from kattegat.runner.net import Shared

if TYPE_CHECKING:
    from lab import Lab

Target = tuple[str, str, str]


def scan(
    lab: Lab,
    targets: Sequence[Target],
    environment: Mapping[str, str] | None = None,
    *,
    known: Sequence[KnownFact] = (),
    seconds: int = 60,
) -> list[Result]:
    """One result for each (scanner, asset type, key), in order; `environment` adds settings, such as KAT_CA_FILE.

    `known` are facts that come with the jobs about their assets; `seconds` is how long each job may take.
    """
    jobs = [
        Job(
            task_id=number,
            lease_token=1,
            organisation="lab",
            scanner=scanner,
            scanner_version=registry.load().scanner(scanner).version,
            asset_type=type_,
            asset_key=key,
            clearance=2,
            limits=Limits("internet", own_networks=["10.77.0.0/16", "fd77::/64"]),
            known=[fact for fact in known if (fact.asset_type, fact.asset_key) == (type_, key)],
            seconds=seconds,
        )
        for number, (scanner, type_, key) in enumerate(targets)
    ]
    given = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "KAT_DNS_SERVER": lab.resolver,
        "KAT_TRUST_ANCHOR": str(lab.trust_anchor),
        "KAT_CA_FILE": str(lab.ca),
        **(environment or {}),
    }
    process = lab.popen([sys.executable, __file__], env=given, stdin=-1, stdout=-1)
    output = process.communicate(msgspec.msgpack.encode(jobs), timeout=300)[0]
    if process.returncode:
        raise RuntimeError(f"the scans ended with {process.returncode}")
    return msgspec.msgpack.decode(output, type=list[Result])


def parsed(target: Target, result: Result) -> list[Found | NotMeasured]:
    """What the scanner's parser makes of a result that went well."""
    if result.outcome != "ok":
        raise RuntimeError(f"{' '.join(target)}: {result.outcome}: {result.reason}")
    spec = registry.load().scanner(target[0])
    return list(spec.implementation().parse(assets.parse(*target[1:]), Evidence.unpack(result.evidence)))


async def _perform(jobs: list[Job]) -> list[Result]:
    given = settings.load()
    shared: Any = Shared.of(given)
    return await asyncio.gather(*(run_job(job, registry.load(), given, shared=shared) for job in jobs))


if __name__ == "__main__":
    done = asyncio.run(_perform(msgspec.msgpack.decode(sys.stdin.buffer.read(), type=list[Job])))
    sys.stdout.buffer.write(msgspec.msgpack.encode(done))
