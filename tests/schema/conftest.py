"""Puts the random schemas of this folder within reach of its tests, and gives them an empty database to build in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kattegat.schema import scratch
from kattegat.store import server as embedded

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)


@pytest.fixture(scope="module")
def place(server: embedded.Running) -> Iterator[scratch.Scratch]:
    """An empty database that the tests of a module share: each leaves it as it was, by a rollback."""
    with scratch.database(server.dsn("kat_admin", "postgres"), owner="kat_owner") as found:
        yield found
