"""What a process writes into its log: each line is JSON, and no value of a variable is in it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import logging, sys, structlog
from kattegat import logs

logs.to_stderr(sys.argv[1], "runner")
log = structlog.get_logger()
log.info("claimed", task=7)
logging.getLogger("httpx").info("GET https://target.test/")
logging.getLogger("somebody").warning("beware")
try:
    token = "hunter2"
    raise ValueError("no good")
except ValueError:
    log.error("failed", exc_info=True)
"""


@pytest.mark.parametrize(
    ("level", "events"),
    [
        ("info", ["claimed", "beware", "failed"]),
        ("WARNING", ["beware", "failed"]),
        ("ERROR", ["beware", "failed"]),
        ("nonsense", ["beware", "failed"]),
    ],
)
def test_lines_are_json_from_the_level_up_and_hold_no_values_of_variables(level: str, events: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, level], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == events
    assert {line["process"] for line in lines} == {"runner"}
    assert lines[-1]["exception"][0]["exc_value"] == "no good"
    assert "hunter2" not in done.stderr
