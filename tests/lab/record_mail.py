"""Scans the laboratory's mail and keeps the evidence for the tests of the mail plugin.

python tests/lab/record_mail.py          # needs root; writes tests/plugins/recorded/mail/<scanner>--<host>.evidence
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import msgspec

from kattegat.model.work import Result
from lab import Lab

HERE = Path(__file__).parent
RECORDED = HERE.parent / "plugins" / "recorded" / "mail"
SELECTORS = ["s1", "e1", "weak", "revoked", "broken", "none"]
DOMAINS = (
    "good.test", "nomail.good.test", "bad.test", "lame.test", "no-such-domain.test", "spf-many.bad.test",
    "spf-syntax.bad.test", "spf-none.bad.test", "spf-two.bad.test", "spf-plusall.bad.test", "spf-neutral.bad.test",
    "spf-void.bad.test", "spf-include.bad.test",
)  # fmt: skip
SERVERS = {"mail.good.test": "good.test", "mail.bad.test": "bad.test", "www.good.test": None}


def exchange_of(domain: str, server: str) -> dict[str, object]:
    """The fact that a domain's mail goes to a server, as it comes with a job."""
    host = {"host": server, "preference": 10}
    return {
        "kind": "MailExchange", "asset_type": "Hostname", "asset_key": domain, "item": "", "form": 1,
        "value": {"exists": True, "null": False, "hosts": [host]}, "scanner": "mail-policy", "vantage": "internet",
        "confirmed_at": "2026-11-01T00:00:00Z",
    }  # fmt: skip


def scan(lab: Lab, scanner: str, host: str, *, domain: str | None = None, selectors: list[str] | None = None) -> Result:
    """Runs one scanner inside the laboratory, as a runner would; `domain` has the host as its mail server."""
    known = [exchange_of(domain, host)] if domain else []
    options = {"selectors": selectors} if selectors is not None else {}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result"
        command = [sys.executable, str(HERE / "scan_mail.py"), scanner, host, lab.resolver, str(lab.ca), str(out)]
        process = lab.popen([*command, json.dumps(known), json.dumps(options)])
        if process.wait() != 0:
            raise RuntimeError(f"{scanner} of {host} ended with {process.returncode}")
        return msgspec.msgpack.decode(out.read_bytes(), type=Result)


def main() -> None:
    """Records everything."""
    RECORDED.mkdir(parents=True, exist_ok=True)
    with Lab() as lab:
        results = {f"mail-policy--{name}": scan(lab, "mail-policy", name, selectors=SELECTORS) for name in DOMAINS}
        for server, domain in SERVERS.items():
            results[f"smtp-banner--{server}"] = scan(lab, "smtp-banner", server, domain=domain)
    for name, result in results.items():
        if result.outcome != "ok":
            raise RuntimeError(f"{name}: {result.reason}")
        (RECORDED / f"{name}.evidence").write_bytes(result.evidence)


if __name__ == "__main__":
    main()
