"""Make a token for development: `python -m agentos.token --tenant acme --sub alice`.

Prints the token to standard output. Exit status: 0; 2 for arguments that cannot be used; 78 if a
setting is missing or bad.
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Sequence

import jwt

from agentos.environment import SettingsError
from agentos.settings import load_settings
from agentos.tokens import SUBJECT_LENGTH, TENANT

# All that a user of the platform does. The rest (such as agent_os:admin) must be asked for.
DEFAULT_SCOPES = (
    "agents:read agents:run teams:read teams:run workflows:read workflows:run config:read"
    " sessions:read sessions:write sessions:delete memories:read memories:write memories:delete"
    " metrics:read"
)
MAX_TTL_S = 30 * 24 * 3600

_TTL = re.compile(r"([1-9][0-9]{0,6})([smhd]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
_SCOPE = re.compile(r"[A-Za-z0-9_-]+(?::[A-Za-z0-9_*-]+){1,2}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a token from command line arguments.

    Args:
        arguments: the command line; None takes this process's.

    Returns:
        The exit status.
    """
    parser = _Parser(prog="./dev token", description="Print a token for AgentOS.")
    parser.add_argument(
        "--tenant", required=True, type=_tenant, help="letters, digits, hyphens, underscores"
    )
    parser.add_argument("--sub", required=True, type=_subject, help="the user, within the tenant")
    parser.add_argument(
        "--scopes",
        nargs="+",
        type=_scopes,
        default=[DEFAULT_SCOPES.split()],
        help="what it permits, such as workflows:run sessions:read (default: all that a user needs)",
    )
    parser.add_argument(
        "--ttl", type=_ttl, default="1h", help="how long: 90, 15m, 12h or 30d (default: 1h)"
    )
    chosen = parser.parse_args(arguments)
    try:
        settings = load_settings()
    except SettingsError as error:
        for problem in error.problems:
            print(f"agentos: {problem}", file=sys.stderr)
        return os.EX_CONFIG
    now = int(time.time())
    claims = {
        "iss": settings.auth_issuer,
        "aud": settings.auth_audience,
        "sub": chosen.sub,
        "iat": now,
        "exp": now + chosen.ttl,
        "tenant": chosen.tenant,
        "scopes": [scope for scopes in chosen.scopes for scope in scopes],
    }
    print(jwt.encode(claims, settings.better_auth_secret.get_secret_value(), "HS256"))
    return 0


class _Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line, without the usage."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"Error: {message}. See: {self.prog} --help\n")


def _tenant(text: str) -> str:
    if TENANT.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not 1 to 64 letters, digits, hyphens or underscores"
        )
    return text


def _subject(text: str) -> str:
    if not text or len(text) > SUBJECT_LENGTH or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 to 255 printable characters")
    return text


def _scopes(text: str) -> list[str]:
    scopes = text.replace(",", " ").split()
    for scope in scopes or [text]:
        if _SCOPE.fullmatch(scope) is None:
            raise argparse.ArgumentTypeError(f"{scope!r} is not a scope such as workflows:run")
    return scopes


def _ttl(text: str) -> int:
    match = _TTL.fullmatch(text)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 1 <= seconds <= MAX_TTL_S:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 15m, of at most 30d")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
