"""The `lab` fixture: one laboratory for the whole test run, started when a test first asks for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The laboratory is a program as well as test support, so it is found by its folder, not as a package of the tests.
sys.path.insert(0, str(Path(__file__).parent))

from lab import Lab


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A running laboratory; skips where the machine can't carry one, and fails there with CI=true."""
    reason = Lab.why_not()
    if reason and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    with Lab() as running:
        yield running
