"""Records evidence of the laboratory's real servers for the tests of the DNS and DNSSEC plugins.

    python tests/lab/record.py          # writes tests/plugins/recorded/<plugin>/<scanner>--<case>.evidence

Each file is `Evidence.pack()` as the runner hands it in. The keys and times of the laboratory are new each time, so
after recording again the tests that name key tags have to be read again too.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from scanning import Target, scan

from lab import Lab

FOLDER = Path(__file__).parent.parent / "plugins" / "recorded"

#: file name -> what is scanned
CASES: dict[str, Target] = {
    "dns/dns-records--good": ("dns-records", "Hostname", "good.test"),
    "dns/dns-records--bad": ("dns-records", "Hostname", "bad.test"),
    "dns/dns-records--missing": ("dns-records", "Hostname", "nowhere.test"),
    "dns/dns-records--alias-chain": ("dns-records", "Hostname", "alias.good.test"),
    "dns/dns-records--dangling": ("dns-records", "Hostname", "takeover.bad.test"),
    "dns/dns-records--wildcard": ("dns-records", "Hostname", "any.wild.good.test"),
    "dns/dns-records--underscore": ("dns-records", "Hostname", "_underscore.good.test"),
    "dns/dns-records--broken": ("dns-records", "Hostname", "broken.test"),
    "dns/dns-records--loop": ("dns-records", "Hostname", "loop1.bad.test"),
    "dns/name-servers--good": ("name-servers", "Hostname", "good.test"),
    "dns/name-servers--lame": ("name-servers", "Hostname", "lame.test"),
    "dns/name-servers--one": ("name-servers", "Hostname", "bad.test"),
    "dns/reverse-dns--right": ("reverse-dns", "IPAddress", "internet|10.77.0.80"),
    "dns/reverse-dns--none": ("reverse-dns", "IPAddress", "internet|10.77.0.81"),
    "dns/reverse-dns--other": ("reverse-dns", "IPAddress", "internet|10.77.0.23"),
    "dnssec/dnssec--good": ("dnssec", "Hostname", "good.test"),
    "dnssec/dnssec--bad": ("dnssec", "Hostname", "bad.test"),
    "dnssec/dnssec--lame": ("dnssec", "Hostname", "lame.test"),
    "dnssec/dnssec--broken": ("dnssec", "Hostname", "broken.test"),
    "dnssec/dnssec--expired": ("dnssec", "Hostname", "expired.test"),
    "dnssec/dnssec--insecure": ("dnssec", "Hostname", "insecure.test"),
    "dnssec/dnssec--tampered": ("dnssec", "Hostname", "tampered.test"),
    "dnssec/dnssec--tampered-www": ("dnssec", "Hostname", "www.tampered.test"),
    "dnssec/dnssec--missing": ("dnssec", "Hostname", "nowhere.test"),
    "dnssec/dnssec--missing-nsec3": ("dnssec", "Hostname", "a.none.good.test"),
    "dnssec/dnssec--alias-chain": ("dnssec", "Hostname", "alias.good.test"),
    "dnssec/dnssec--wildcard": ("dnssec", "Hostname", "any.wild.good.test"),
    "dnssec/dnssec--underscore": ("dnssec", "Hostname", "_underscore.good.test"),
}


def main() -> int:
    """Records every case; 1 when a scan failed."""
    failed = 0
    with Lab() as lab:
        results = scan(lab, list(CASES.values()))
    for (name, target), result in zip(CASES.items(), results, strict=True):
        if result.outcome != "ok":
            print(f"{name}: {' '.join(target)}: {result.outcome}: {result.reason}", file=sys.stderr)
            failed = 1
            continue
        path = FOLDER / f"{name}.evidence"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(result.evidence)
    return failed


if __name__ == "__main__":
    sys.exit(main())
