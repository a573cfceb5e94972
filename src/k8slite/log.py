"""Logs: one line an event, with time, level and whatever role and key the caller bound."""

from __future__ import annotations

import logging
import sys

from k8slite.kit.lightly import without

# It would load rich and pygments (3 MB) to paint tracebacks that we print plainly.
with without("rich"):
    import structlog


def configure(level: str = "info") -> None:
    """Write logs to standard error: coloured on a terminal, logfmt elsewhere.

    Raises ValueError for an unknown level.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"log level {level!r} is none of debug, info, warning, error")
    renderer: structlog.typing.Processor
    if sys.stderr.isatty():
        renderer = structlog.dev.ConsoleRenderer()
    else:
        renderer = structlog.processors.LogfmtRenderer(
            key_order=["timestamp", "level", "role", "event", "key"], drop_missing=True
        )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
