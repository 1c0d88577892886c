"""Tokens for tests, signed as the platform does."""

import time
from typing import Any

import jwt

from tests.servers import AUTH_SECRET

SCOPES = [
    f"{resource}:{action}"
    for resource in ("agents", "teams", "workflows", "sessions", "memories", "config")
    for action in ("read", "run", "write", "delete")
]


def claims(tenant: str = "acme", sub: str = "alice", **others: Any) -> dict[str, Any]:
    """Give the claims of a good token; a claim given as None is left out."""
    good = {
        "iss": "hyvve",
        "aud": "agentos",
        "sub": sub,
        "tenant": tenant,
        "scopes": SCOPES,
        "exp": int(time.time()) + 1800,  # longer than any module's tests take
    }
    return {name: value for name, value in (good | others).items() if value is not None}


def token(tenant: str = "acme", sub: str = "alice", **others: Any) -> str:
    """Give a token with such claims."""
    return jwt.encode(claims(tenant, sub, **others), AUTH_SECRET, "HS256")
