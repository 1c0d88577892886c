"""Logging: all of it to standard output, a JSON object for each line.

Each has the request's id and tenant, whichever library wrote it.
"""

import logging
from typing import Any

from agentos import context

_AGNO = ("agno", "agno-team", "agno-workflow")
_FIELDS = "%(asctime)s %(levelname)s %(name)s %(message)s"


class RequestFields(logging.Filter):
    """Adds the request's id, tenant and user to each record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields.

        Args:
            record: of any logger.

        Returns:
            True: every record is kept.
        """
        record.__dict__.pop("color_message", None)  # uvicorn's message again, with escapes
        current = context.current()
        if current is not None:
            record.request_id = current.request_id
            if current.tenant is not None:
                record.tenant = current.tenant
                record.subject = current.subject
        return True


class AgnoLevel(logging.Filter):
    """Drops what Agno logs below a level.

    The level of its loggers is no bound: each run sets that anew, and what it then logs are prompts.
    """

    def __init__(self, level: int) -> None:
        """Take the level."""
        super().__init__()
        self._level = level

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether to keep a record.

        Args:
            record: of any logger.

        Returns:
            Whether it is not Agno's, or its level is high enough.
        """
        return record.levelno >= self._level or record.name.partition(".")[0] not in _AGNO


def log_config(level: str, form: str) -> dict[str, Any]:
    """Give the logging configuration, for `logging.config.dictConfig`.

    Args:
        level: of AGENTOS_LOG_LEVEL, in lower case.
        form: of AGENTOS_LOG_FORMAT: json or text.

    Returns:
        The configuration. uvicorn hands it to its reloader's child too.
    """
    # Below that, Agno writes what users have said.
    agno = level.upper() if level in ("debug", "error", "critical") else "WARNING"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "json": {
                "()": "pythonjsonlogger.json.JsonFormatter",
                "format": _FIELDS,
                "rename_fields": {"asctime": "time", "levelname": "level", "name": "logger"},
                "datefmt": "%Y-%m-%dT%H:%M:%S%z",
            },
            # Without the logger's name: uvicorn's is "uvicorn.error", whatever it has to say.
            "text": {"format": "%(asctime)s %(levelname)s %(message)s"},
        },
        "filters": {
            "request_fields": {"()": "agentos.logs.RequestFields"},
            "agno_level": {
                "()": "agentos.logs.AgnoLevel",
                "level": logging.getLevelNamesMapping()[agno],
            },
        },
        "handlers": {
            "stdout": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stdout",
                "formatter": form,
                "filters": ["agno_level", "request_fields"],
            },
        },
        "root": {"level": level.upper(), "handlers": ["stdout"]},
        "loggers": {
            # Set up here, before Agno is imported, so that it makes no handlers of its own.
            **{name: {"level": agno} for name in _AGNO},
            # Each request to a model or a JWKS would be a line.
            "httpx": {"level": "WARNING"},
            "httpx2": {"level": "WARNING"},
        },
    }
