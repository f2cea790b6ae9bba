"""The stack of compose.yaml, started once for the module."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from stack import Stack, why_not


@pytest.fixture(scope="package")
def stack(run_dir: Path) -> Iterator[Stack]:
    """All services of compose.yaml, running; skips where the machine can't carry them, and fails there with CI=true."""
    reason = why_not()
    if reason:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    folder = run_dir / f"stack-{os.getpid()}"
    folder.mkdir()
    made = Stack(folder)
    try:
        for service in ("runner", "scheduler", "worker"):
            made.wait(service, "service_healthy")
        yield made
    finally:
        made.close()
