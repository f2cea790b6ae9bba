"""Traces: a task's way from its schedule to the verdicts is one trace, named by a W3C traceparent in its payload.

With the package opentelemetry-api (and an SDK set up by the usual OTEL_ variables) spans are sent; without it the name
is passed on, and nothing else is done.
"""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


def new() -> str:
    """A new traceparent (W3C Trace Context, section 3.2)."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


@contextmanager
def span(name: str, trace: str = "", attributes: Mapping[str, Any] | None = None) -> Iterator[None]:
    """What is done within it is a span of this trace, where OpenTelemetry is installed."""
    try:
        otel = importlib.import_module("opentelemetry.trace")
        propagate = importlib.import_module("opentelemetry.propagate")
    except ImportError:
        yield
        return
    context = propagate.extract({"traceparent": trace}) if trace else None
    tracer = otel.get_tracer("kattegat")
    with tracer.start_as_current_span(name, context=context, attributes=dict(attributes or {})):
        yield
