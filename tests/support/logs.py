"""Logging as it was before a test that configured it, whose stream is closed at its end.

structlog keeps the stdout that it finds when it is imported. tests/conftest.py imports this, so that it is that of the
whole run and not that of the first test which needs it.
"""

import contextlib
import logging
from collections.abc import Iterator

import structlog

LIBRARIES = ("uvicorn", "uvicorn.error", "uvicorn.access", "aioice", "aiortc", "asyncio", "httpx")
"""Loggers that `configure_logging` touches besides the root."""


@contextlib.contextmanager
def configuration_kept() -> Iterator[None]:
    """Puts the standard library's and structlog's configuration back at the end."""
    loggers = [logging.getLogger(name) for name in (None, *LIBRARIES)]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    configured, configuration = structlog.is_configured(), structlog.get_config()
    try:
        yield
    finally:
        for logger, handlers, level, propagate in before:
            logger.handlers[:] = handlers
            logger.setLevel(level)
            logger.propagate = propagate
        if configured:
            structlog.configure(**configuration)
        else:
            structlog.reset_defaults()
