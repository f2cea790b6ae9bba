"""Runs one scanner of the mail plugin where the runner would run, and writes its result to a file.

    scan_mail.py SCANNER HOST RESOLVER OUT [KNOWN [OPTIONS]]

OUT gets the result of the job (MessagePack). KNOWN is a JSON list of facts that come with the job (`KnownFact`),
OPTIONS a JSON object of its options in force.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec

from kattegat.model.work import Job, KnownFact, Limits
from kattegat.plugins import dns, mail
from kattegat.registry import Plugin, Registry
from kattegat.runner.job import run_job
from kattegat.settings import load

NETWORKS = ["10.77.0.0/16", "fd77::/64"]


def main(scanner: str, host: str, resolver: str, ca: str, out: str, known: str = "[]", options: str = "{}") -> None:
    registry = Registry([Plugin("dns", dns), Plugin("mail", mail)])
    job = Job(
        task_id=1,
        lease_token=1,
        organisation="lab",
        scanner=scanner,
        scanner_version=registry.scanner(scanner).version,
        asset_type="Hostname",
        asset_key=host,
        clearance=1,
        limits=Limits("internet", own_networks=NETWORKS),
        options=msgspec.json.decode(options),
        known=msgspec.json.decode(known, type=list[KnownFact]),
        seconds=120,
    )
    result = asyncio.run(run_job(job, registry, load({"KAT_DNS_SERVER": resolver, "KAT_CA_FILE": ca})))
    Path(out).write_bytes(msgspec.msgpack.encode(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
