"""The log of a process: JSON lines on stderr, with tracebacks as data and no values of variables in them."""

from __future__ import annotations

import logging
from typing import Any

import structlog


def to_stderr(level: str, role: str) -> None:
    """Sets up this process's log: ours from `level` up, that of libraries from warnings up."""
    number = logging.getLevelNamesMapping().get(level.upper(), logging.WARNING)
    # Values of variables would be evidence, tokens and passwords.
    tracebacks = structlog.processors.ExceptionRenderer(
        structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    )

    def name(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["process"] = role
        return event

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        name,
        tracebacks,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(min(number, logging.WARNING))
    # What these say of every step has addresses of targets in it.
    for noisy in ("sqlalchemy", "uvicorn", "asyncio", "alembic", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(max(number, logging.WARNING))
