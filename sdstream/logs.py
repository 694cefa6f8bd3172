"""Log lines: structlog through the standard library, so uvicorn, aiortc and av write them alike; without secrets."""

import contextvars
import logging
import re
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any, TextIO, cast

import structlog
from pydantic import SecretStr
from structlog.typing import EventDict, Processor, WrappedLogger

from sdstream.clock import Clock
from sdstream.settings import Settings

SECRET_NAMES = frozenset(
    {
        "api_key",
        "apikey",
        "authorization",
        "bearer",
        "credential",
        "key",
        "output_rtmp_url",
        "password",
        "secret",
        "stream_key",
        "token",
    }
)
"""Members of a line whose values are never written, whatever they look like."""

REDACTED = "[redacted]"

_SECRETS = re.compile(
    r"(?P<bearer>\bbearer\s+)[^\s\"',;]+"
    r"|(?P<name>\b(?:sds|stk|pb)_)[A-Za-z0-9_-]+"
    r"|(?P<link>[#?&](?:api_?)?key=)[^\s\"'&]+"
    r"|(?P<rtmp>\brtmps?://)[^\s\"']+"
    r"|(?P<data>\bdata:[\w.+-]*/?[\w.+-]*[^\s\"',]{0,80},)[^\s\"']+",
    re.IGNORECASE,
)

_QUIET = {"aioice": logging.WARNING, "aiortc": logging.WARNING, "asyncio": logging.WARNING, "httpx": logging.WARNING}
"""Libraries whose information is noise at our own level."""


class Redactor:
    """Takes secrets out of a finished line: by their form, and the configured keys by their value."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = sorted((secret for secret in secrets if len(secret) >= 4), key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(REDACTED, text)
        return _SECRETS.sub(_hide, text)

    def process(self, _logger: WrappedLogger, _method: str, line: Any) -> Any:
        """The last processor of the chain, after the renderer."""
        return self(line) if isinstance(line, str) else line


def redact_members(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A structlog processor: values of members named like secrets are replaced, in nested objects too."""
    return _without_secrets(event)


def configure_logging(settings: Settings, stream: TextIO | None = None) -> None:
    """Send all log lines to `stream` (stderr) in the settings' format; call it once at start, again to change it."""
    target = stream or sys.stderr
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not target.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    redactor = Redactor(_secrets_of(settings))
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                redact_members,
                *_renderers(as_json, target),
                redactor.process,
            ],
        )
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(level if level <= logging.DEBUG else max(least, level))


def _secrets_of(settings: Settings) -> Iterator[str]:
    """Every secret of the settings, whichever field holds it."""
    for name in Settings.model_fields:
        value: object = getattr(settings, name)
        for part in cast("tuple[object, ...]", value) if isinstance(value, tuple) else (value,):
            if isinstance(part, SecretStr):
                yield part.get_secret_value()


def _renderers(as_json: bool, stream: TextIO) -> list[Processor]:
    if as_json:
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    return [
        structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback),
    ]


def _hide(match: re.Match[str]) -> str:
    return f"{match[match.lastgroup or 0]}{REDACTED}"


def _without_secrets(members: MutableMapping[str, Any]) -> dict[str, Any]:
    clean: dict[str, Any] = {}
    for name, value in members.items():
        if value is not None and str(name).lower() in SECRET_NAMES:
            clean[name] = REDACTED
        elif isinstance(value, dict):
            clean[name] = _without_secrets(cast("dict[str, Any]", value))
        else:
            clean[name] = value
    return clean


@dataclass(slots=True)
class _Fold:
    reported_at: float
    held: int = 0


class FoldedReporter:
    """Logs a fault that may repeat at once and then at most once in `interval` seconds, with the number held back.

    Safe between threads. Faults are told apart by their key; the 256 newest keys are remembered.
    """

    def __init__(self, logger: Any, clock: Clock, interval: float = 1.0, remembered: int = 256) -> None:
        self._logger = logger
        self._clock = clock
        self._interval = interval
        self._remembered = remembered
        self._lock = threading.Lock()
        self._folds: OrderedDict[str, _Fold] = OrderedDict()

    def report(self, key: str, event: str, **members: Any) -> bool:
        """Log `event` as a warning unless the same key was logged just now; tells whether it did.

        A line that stands for others says how many in `repeated`.
        """
        now = self._clock.monotonic()
        with self._lock:
            fold = self._folds.get(key)
            if fold is not None and now - fold.reported_at < self._interval:
                fold.held += 1
                return False
            held = fold.held if fold is not None else 0
            self._folds[key] = _Fold(now)
            self._folds.move_to_end(key)
            while len(self._folds) > self._remembered:
                self._folds.popitem(last=False)
        if held:
            members["repeated"] = held
        self._logger.warning(event, **members)
        return True


def unasked(line: Callable[..., object], event: str, **members: Any) -> None:
    """Log what no request has caused, whosever request is being answered where it is noticed."""
    contextvars.Context().run(line, event, **members)


__all__ = [
    "REDACTED",
    "SECRET_NAMES",
    "FoldedReporter",
    "Redactor",
    "configure_logging",
    "redact_members",
    "unasked",
]
