"""Runs the scanners of the TLS plugin where the runner would run, and writes each result to a folder.

    scan_tls.py RESOLVER CA FOLDER ORIGIN...

FOLDER gets of each origin and scanner SCANNER--HOST.result (MessagePack of the job's result), and, if there is any,
SCANNER--HOST.evidence: such files are in tests/plugins/recorded/tls.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec

from kattegat.model.assets import Website
from kattegat.model.work import Job, Limits
from kattegat.plugins import tls
from kattegat.registry import Plugin, Registry
from kattegat.runner.job import run_job
from kattegat.settings import Settings, load

NETWORKS = ["10.77.0.0/16", "fd77::/64"]


async def scan(registry: Registry, settings: Settings, scanner: str, site: Website, folder: Path) -> None:
    job = Job(
        task_id=1,
        lease_token=1,
        organisation="lab",
        scanner=scanner,
        scanner_version=registry.scanner(scanner).version,
        asset_type="Website",
        asset_key=site.key,
        clearance=2,
        limits=Limits("internet", own_networks=NETWORKS),
        options={"pause": 0.0},
        seconds=280,
    )
    result = await run_job(job, registry, settings)
    (folder / f"{scanner}--{site.host}.result").write_bytes(msgspec.msgpack.encode(result))
    if result.evidence:
        (folder / f"{scanner}--{site.host}.evidence").write_bytes(result.evidence)


async def main(resolver: str, ca: str, folder: str, *origins: str) -> None:
    registry = Registry([Plugin("tls", tls)])
    settings = load({"KAT_DNS_SERVER": resolver, "KAT_CA_FILE": ca})
    await asyncio.gather(
        *(
            scan(registry, settings, scanner, Website(origin), Path(folder))
            for origin in origins
            for scanner in ("tls-certificate", "tls-protocols")
        )
    )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
