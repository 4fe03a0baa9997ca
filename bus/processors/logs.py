"""What Faust and its libraries say, in the bus's own log format. Never below INFO: their DEBUG lines quote records."""

from __future__ import annotations

import logging
import sys
from typing import Any

from bus import telemetry

_WORKER = "faust.worker"
_QUOTING = ("faust", "mode", "aiokafka", "kafka")


class LibraryHandler(logging.Handler):
    """Passes a library's line on as the event `library`."""

    def emit(self, record: logging.LogRecord) -> None:
        told = telemetry.logger("processors")
        if record.levelno >= logging.ERROR and record.name == _WORKER and record.exc_info:
            kind, error, _ = record.exc_info
            told.error(
                "process_failed", reason=f"{kind.__name__ if kind else 'error'}: {error}; is the broker up? (`bus status`)"
            )
            return
        level = min(max(record.levelno, logging.INFO), logging.ERROR)
        told.log(level, "library", library=record.name, message=record.getMessage().strip(), exc_info=record.exc_info or None)


def config() -> dict[str, Any]:
    """For Faust's `logging_config`: Faust's own look on a terminal, JSON lines elsewhere."""
    quiet = {name: {"level": "INFO"} for name in _QUOTING} | {"aiokafka": {"level": "WARNING"}}
    common: dict[str, Any] = {"version": 1, "disable_existing_loggers": False, "loggers": quiet}
    if sys.stderr.isatty():
        return common | {"merge": True}
    handlers = {"bus": {"()": LibraryHandler}}
    return common | {"handlers": handlers, "root": {"level": "INFO", "handlers": ["bus"]}}
