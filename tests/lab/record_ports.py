"""Records evidence of the laboratory's real servers for the tests of the ports and SSH plugins.

    python tests/lab/record_ports.py     # needs root; writes tests/plugins/recorded/<plugin>/<scanner>--<case>.evidence

The host keys of the laboratory are new each time, so after recording again the tests that name them have to follow.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parent))

from scanning import Target, scan

from kattegat.model.facts import Fact
from kattegat.model.work import KnownFact
from kattegat.plugins.ports import Banner, OpenPort
from lab import Lab

FOLDER = Path(__file__).parent.parent / "plugins" / "recorded"
WRONG_SSH, ODD_PORTS = "internet|10.77.0.23", "internet|10.77.0.88"
ODD = (21, 23, 3306, 5432, 6379, 8080, 9200)

#: file name -> what is scanned
CASES: dict[str, Target] = {
    "ports/visitor-ports--web": ("visitor-ports", "IPAddress", "internet|10.77.0.80"),
    "ports/visitor-ports--web-ipv6": ("visitor-ports", "IPAddress", "internet|fd77::80"),
    "ports/visitor-ports--none-open": ("visitor-ports", "IPAddress", ODD_PORTS),
    "ports/usual-ports--odd": ("usual-ports", "IPAddress", ODD_PORTS),
    "ports/usual-ports--mail": ("usual-ports", "IPAddress", "internet|10.77.0.25"),
    "ports/network-hosts--web": ("network-hosts", "Network", "internet|10.77.0.80/28"),
    "ports/network-hosts--web-ipv6": ("network-hosts", "Network", "internet|fd77::80/124"),
    "ports/network-hosts--nobody": ("network-hosts", "Network", "internet|10.77.0.200/30"),
    "ports/banner--ftp": ("banner", "Service", f"{ODD_PORTS}|tcp/21"),
    "ports/banner--telnet": ("banner", "Service", f"{ODD_PORTS}|tcp/23"),
    "ports/banner--mysql": ("banner", "Service", f"{ODD_PORTS}|tcp/3306"),
    "ports/banner--silent": ("banner", "Service", f"{ODD_PORTS}|tcp/6379"),
    "ports/banner--postfix": ("banner", "Service", "internet|10.77.0.26|tcp/25"),
    "ports/banner--ssh": ("banner", "Service", f"{WRONG_SSH}|tcp/22"),
    "ports/nmap-services--odd": ("nmap-services", "IPAddress", ODD_PORTS),
    "ports/nmap-services--ssh-ipv6": ("nmap-services", "IPAddress", "internet|fd77::22"),
    "ports/nmap-services--nothing-known": ("nmap-services", "IPAddress", "internet|10.77.0.80"),
    "ssh/ssh--right": ("ssh", "Service", "internet|10.77.0.22|tcp/22"),
    "ssh/ssh--right-ipv6": ("ssh", "Service", "internet|fd77::22|tcp/22"),
    "ssh/ssh--wrong": ("ssh", "Service", f"{WRONG_SSH}|tcp/22"),
    "ssh/ssh--ftp": ("ssh", "Service", f"{ODD_PORTS}|tcp/21"),
    "ssh/ssh--redis": ("ssh", "Service", f"{ODD_PORTS}|tcp/6379"),
    "ssh/ssh--web": ("ssh", "Service", f"{ODD_PORTS}|tcp/8080"),
    "ssh/ssh--silent": ("ssh", "Service", "internet|10.77.0.89|tcp/80"),
    "ssh/ssh--no-greeting": ("ssh", "Service", f"{ODD_PORTS}|tcp/9200"),
}
#: Services that are said to greet as SSH does, so that the scanner talks to what is something else.
MISTAKEN = (f"{ODD_PORTS}|tcp/21", f"{ODD_PORTS}|tcp/6379", f"{ODD_PORTS}|tcp/8080", "internet|10.77.0.89|tcp/80")


def known(fact: Fact, key: str, item: str = "") -> KnownFact:
    """A fact as it comes with a job."""
    value: Any = msgspec.to_builtins(fact)
    at = datetime(2026, 11, 1, tzinfo=UTC)
    return KnownFact(fact.kind, fact.about.type, key, item, fact.form, value, "recorded", "internet", at)


def greeting(key: str, text: str = "SSH-2.0-OpenSSH_9.2p1\r\n") -> KnownFact:
    """What a service is known to greet with."""
    return known(Banner(text=text, product="", version=""), key)


def open_port(key: str, port: int) -> KnownFact:
    """A port of an address that is known to be open."""
    return known(OpenPort(protocol="tcp", port=port), key, f"tcp/{port}")


KNOWN = (
    *(greeting(key) for key in MISTAKEN),
    *(open_port(ODD_PORTS, port) for port in ODD),
    open_port("internet|fd77::22", 22),
)


def main() -> int:
    """Records every case; 1 when a scan failed."""
    failed = 0
    with Lab() as lab:
        results = scan(lab, list(CASES.values()), known=KNOWN, seconds=200)
    for name, result in zip(CASES, results, strict=True):
        took = (result.ended_at - result.started_at).total_seconds()
        print(f"{name}: {result.outcome} {result.reason} {len(result.evidence)} bytes, {took:.1f} s", file=sys.stderr)
        if result.outcome != "ok":
            failed = 1
            continue
        path = FOLDER / f"{name}.evidence"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(result.evidence)
    return failed


if __name__ == "__main__":
    sys.exit(main())
