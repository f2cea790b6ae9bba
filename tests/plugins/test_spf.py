"""SPF against every case of the published RFC 7208 test suite, and what the suite does not cover."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from kattegat.plugins.mail.questions import Answer, Question, join_texts, run
from kattegat.plugins.mail.spf_eval import check_host, identity

SUITE = Path(__file__).resolve().parents[2] / ".cache" / "test-data" / "rfc7208-tests.yml"
MISSING = f"{SUITE.name} is not there: run `make setup` (or python scripts/fetch_test_data.py)"


class Zones:
    """The zone data of one scenario as a resolver, by the conventions of the suite.

    A record of type SPF stands for TXT too, unless the name has TXT of its own (`NONE` for none at all); `TIMEOUT`
    answers every question for which the name has no record.
    """

    def __init__(self, data: Mapping[str, list[Any]]) -> None:
        self.data = {name.lower(): entries for name, entries in data.items()}

    def __call__(self, question: Question, aliases: int = 0) -> Answer:
        entries = self.data.get(question.name)
        if entries is None:
            return Answer("nxdomain")
        typed = [next(iter(entry.items())) for entry in entries if isinstance(entry, dict)]
        wanted: set[str] = {question.rdtype}
        if question.rdtype == "TXT" and not any(rdtype == "TXT" for rdtype, _ in typed):
            wanted = {"SPF"}
        values = [value for rdtype, value in typed if rdtype in wanted and value != "NONE"]
        if values:
            if question.rdtype == "TXT":
                return Answer("ok", texts=join_texts(self.strings(value) for value in values))
            hosts = [value[1] if question.rdtype == "MX" else value for value in values]
            return Answer("ok", tuple(str(host).removesuffix(".") for host in hosts))
        if "TIMEOUT" in entries:
            return Answer("timeout")
        for rdtype, value in typed:
            if rdtype == "CNAME":
                if aliases > 8:
                    return Answer("servfail")
                return self(Question(value.lower().removesuffix("."), question.rdtype), aliases + 1)
        return Answer("nodata")

    @staticmethod
    def strings(value: Any) -> list[bytes]:
        return [string.encode("latin-1") for string in (value if isinstance(value, list) else [value])]


def suite_cases() -> list[Any]:
    if not SUITE.is_file():
        return [pytest.param(None, None, id="suite-missing")]
    scenarios = yaml.safe_load_all(SUITE.read_text("utf-8"))
    return [
        pytest.param(scenario["zonedata"], case, id=f"{scenario['description']}-{name}".replace(" ", "-"))
        for scenario in scenarios
        for name, case in scenario["tests"].items()
    ]


@pytest.mark.parametrize(("zonedata", "case"), suite_cases())
def test_case_of_the_rfc_7208_suite(zonedata: Mapping[str, list[Any]] | None, case: dict[str, Any] | None) -> None:
    if zonedata is None or case is None:
        if os.environ.get("CI") == "true":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    helo = case["helo"]
    sender, domain = identity(case["mailfrom"], helo)
    result = run(check_host(case["host"], domain, sender, helo), Zones(zonedata))
    allowed = case["result"] if isinstance(case["result"], list) else [case["result"]]
    assert result.result in allowed, result
    if "explanation" in case:
        wanted = None if case["explanation"] == "DEFAULT" else case["explanation"]
        assert result.explanation == wanted
