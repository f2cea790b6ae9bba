"""What the tests of the worker share: the plugin for tests, and one sandbox that knows it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kattegat.registry import Plugin, Registry
from kattegat.worker.sandbox import Sandbox

SAMPLES = Path(__file__).parents[1] / "samples"


@pytest.fixture(scope="session")
def registry() -> Registry:
    """A registry of the plugin for tests alone."""
    if str(SAMPLES) not in sys.path:
        sys.path.insert(0, str(SAMPLES))
    return Registry([Plugin("katsample", importlib.import_module("katsample"))])


@pytest.fixture(scope="session")
def sandbox(registry: Registry) -> Iterator[Sandbox]:
    """One parsing process at a time, so that a broken one would show in the next parse."""
    with Sandbox(registry, 1, modules=["katsample"]) as made:
        yield made
