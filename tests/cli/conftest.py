"""Fixtures of the tests of `kat`: installs in folders of their own, and a site to scan."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from katcli import Install, Site


@pytest.fixture(scope="module")
def make_install(run_dir: Path) -> Iterator[Callable[[str], Install]]:
    """Call it with a name for an install that goes when the module's tests have ended."""
    with ExitStack() as after:

        def make(name: str) -> Install:
            made = Install(run_dir / f"{name}-{os.getpid()}")
            after.callback(made.remove)
            return made

        yield make


@pytest.fixture
def site() -> Iterator[Site]:
    """A site for one test."""
    made = Site()
    yield made
    made.release()
    made.stop()
