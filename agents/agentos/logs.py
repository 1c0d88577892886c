"""Logging: all of it to standard output, and not a line for a health probe that succeeds."""

import logging
from typing import Any

_PROBE_PATHS = frozenset({"/health", "/ready"})


class QuietProbes(logging.Filter):
    """Drop uvicorn's access lines of health probes that succeed: there is one every few seconds."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether to keep a record.

        Args:
            record: of `uvicorn.access`, whose arguments are the client's address, the method, the
                path with its query, the HTTP version and the status.

        Returns:
            False for a successful probe, else True.
        """
        match record.args:
            case (_, _, str(path), _, int(status)):
                return status >= 400 or path.partition("?")[0] not in _PROBE_PATHS
        return True


def log_config(level: str) -> dict[str, Any]:
    """Give the logging configuration, for `logging.config.dictConfig`.

    Args:
        level: of AGENTOS_LOG_LEVEL, in lower case.

    Returns:
        The configuration. uvicorn hands it to its reloader's child too.
    """
    return {
        "version": 1,
        "disable_existing_loggers": False,
        # Without the logger's name: uvicorn's is "uvicorn.error", whatever it has to say.
        "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(message)s"}},
        "filters": {"quiet_probes": {"()": "agentos.logs.QuietProbes"}},
        "handlers": {
            "stdout": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stdout",
                "formatter": "line",
            },
        },
        "root": {"level": level.upper(), "handlers": ["stdout"]},
        "loggers": {"uvicorn.access": {"filters": ["quiet_probes"]}},
    }
