"""The server: settings, then the port, then uvicorn; each failure is told in one line."""

import logging
import os
import socket
import sys
from pathlib import Path

import uvicorn

from agentos import __version__
from agentos.environment import SettingsError
from agentos.logs import log_config
from agentos.protocol import HttpProtocol
from agentos.reloader import Reloader
from agentos.settings import Settings, load_settings

# Running requests have this long to end after SIGTERM; Docker kills after ten seconds.
GRACE_S = 3
# Connections that may wait to be accepted; uvicorn's own default.
BACKLOG = 2048

# A message on a WebSocket, in bytes: room for a long question, and parsed in a moment. It is not
# unpacked, as a small one could then be a large one.
WS_MESSAGE_LIMIT = 256 * 1024
WS_QUEUE = 4

logger = logging.getLogger("agentos")


def serve(app: str) -> int:
    """Serve until uvicorn is told to stop.

    Args:
        app: the application's factory, as `module:function`; the reloader's child imports it anew.

    Returns:
        The exit status: 0, EX_CONFIG (78) for bad settings, or 1 for a port it cannot have.
    """
    try:
        settings = load_settings()
    except SettingsError as error:
        for problem in error.problems:
            print(f"agentos: {problem}", file=sys.stderr)
        return os.EX_CONFIG
    try:
        listener = listen(settings)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        print(
            f"agentos: cannot listen on {settings.agentos_host} port {settings.agentos_port}"
            f" (AGENTOS_HOST, AGENTOS_PORT): {reason}",
            file=sys.stderr,
        )
        return 1
    config = uvicorn.Config(
        app,
        factory=True,
        http=HttpProtocol,
        log_config=log_config(settings.agentos_log_level, settings.agentos_log_format),
        access_log=False,  # see `observe`
        proxy_headers=False,
        server_header=False,
        ws_max_size=WS_MESSAGE_LIMIT,
        ws_max_queue=WS_QUEUE,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=GRACE_S,
        reload=settings.agentos_reload,
        reload_dirs=[str(Path(__file__).parent)] if settings.agentos_reload else None,
    )
    server = uvicorn.Server(config)
    logger.info("AgentOS %s listens on %s port %s", __version__, *listener.getsockname()[:2])
    if settings.agentos_reload:
        Reloader(config, target=server.run, sockets=[listener]).run()
    else:
        server.run(sockets=[listener])
    return 0


def listen(settings: Settings) -> socket.socket:
    """Open the listening socket, before uvicorn starts, so that a failure can be told plainly.

    Args:
        settings: say where.

    Returns:
        The socket, listening.

    Raises:
        OSError: the port is taken, or the address is not one of this machine.
        UnicodeError: the host cannot be a host name.
    """
    family, _, _, _, address = socket.getaddrinfo(
        settings.agentos_host, settings.agentos_port, type=socket.SOCK_STREAM
    )[0]
    listener = socket.socket(family)
    # Without it, a port cannot be taken again for a minute after connections on it were closed.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(BACKLOG)
    listener.set_inheritable(True)
    return listener
