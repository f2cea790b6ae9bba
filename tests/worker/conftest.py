"""What the tests of the worker share: the plugin for tests, and one sandbox that knows it."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

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


@pytest.fixture(autouse=True, scope="session")
def plain_log() -> None:
    """Tracebacks without the values of variables, as the processes write them: the default draws boxes for seconds."""
    structlog.configure(processors=[structlog.processors.add_log_level, structlog.processors.dict_tracebacks, as_json])


def as_json(_logger: Any, _method: str, event: Any) -> str:
    """One line; what JSON can't hold is shown as Python would."""
    return json.dumps(event, default=repr)
