"""Tokens: who calls, for which tenant, and what they may do.

A token is a JWT with iss, aud, sub, exp, tenant and scopes. It is signed with BETTER_AUTH_SECRET
(HS256), by the platform or by `python -m agentos.token`; or, where AUTH_JWKS_URL is set, with a key
from there (RS256, EdDSA), as Better Auth's jwt plugin does.
"""

import asyncio
import json
import logging
import re
import time
from collections.abc import Iterable
from typing import Any

import httpx
import jwt
from jwt import PyJWK

from agentos.settings import Settings

# How far the clocks of who signs and who verifies may differ.
LEEWAY_S = 10
# A tenant is a part of a principal (see `principal`), a log field and a database setting.
TENANT = re.compile(r"[A-Za-z0-9_-]{1,64}")
SUBJECT_LENGTH = 255
# Far more than any real one; what is longer is not even looked into.
TOKEN_LENGTH = 8192

# The algorithm that goes with a public key, by its type and curve (RFC 7517, RFC 8037). A token
# cannot choose: an RSA key taken for an HMAC secret is the classic forgery.
_ALGORITHMS = {("RSA", None): "RS256", ("OKP", "Ed25519"): "EdDSA"}
_RSA_BITS = 2048

_JWKS_TIMEOUT_S = 1.5
_JWKS_MAX_AGE_S = 600
# For a key that is not known the set is fetched again, but no more often than this, as anyone can
# send a token that names an unknown key.
_JWKS_MIN_AGE_S = 5
_JWKS_LIMIT = 256 * 1024

logger = logging.getLogger(__name__)


class TokenRefusedError(jwt.InvalidTokenError):
    """A token is refused; the message says why, and is for the client."""


def principal(tenant: str, subject: str) -> str:
    """Name a user across tenants.

    A tenant has no `|`, so no two pairs have the same name; nor is it one of Agno's reserved
    principals, which begin with a word and a colon.
    """
    return f"{tenant}|{subject}"


class Tokens:
    """Verifies tokens."""

    def __init__(self, settings: Settings) -> None:
        """Take the secret, the issuer and audience to expect, and the JWKS, if any."""
        self._secret = settings.better_auth_secret.get_secret_value()
        self._issuer = settings.auth_issuer
        self._audience = settings.auth_audience
        self._keys = KeySet(settings.auth_jwks_url) if settings.auth_jwks_url else None

    async def prepare(self, token: str) -> None:
        """Fetch the JWKS if a token needs it and it is old, or lacks the key that the token names.

        It never raises, and a token that is signed with the secret never waits for the JWKS.

        Args:
            token: as it was sent, not verified yet.
        """
        if self._keys is None:
            return
        try:
            header = _header(token)
        except TokenRefusedError:
            return
        if header.get("alg") in _ALGORITHMS.values():
            await self._keys.refresh(header.get("kid"))

    def verify(self, token: str) -> dict[str, Any]:
        """Verify a token.

        Args:
            token: as it was sent.

        Returns:
            Its claims. `tenant` and `sub` are sound, `scopes` is a list of strings, and
            `principal` is added.

        Raises:
            TokenRefusedError: it is not to be trusted.
            jwt.ExpiredSignatureError: it was, but has expired.
        """
        key, algorithm = self._key_of(token)
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise
        except jwt.InvalidTokenError as error:
            raise TokenRefusedError(str(error)) from None
        except (ValueError, RecursionError):
            raise TokenRefusedError("Its claims cannot be read") from None
        tenant, subject = claims.get("tenant"), claims["sub"]
        if not isinstance(tenant, str) or TENANT.fullmatch(tenant) is None:
            raise TokenRefusedError(
                "The tenant claim must be 1 to 64 letters, digits, hyphens or underscores"
            )
        if not subject or len(subject) > SUBJECT_LENGTH or not subject.isprintable():
            raise TokenRefusedError("The sub claim must be 1 to 255 printable characters")
        claims["scopes"] = _scopes(claims.get("scopes", []))
        claims["principal"] = principal(tenant, subject)
        return claims

    def _key_of(self, token: str) -> tuple[Any, str]:
        """Give the key that must have signed a token, and the one algorithm that goes with it."""
        header = _header(token)
        if header.get("alg") == "HS256":
            return self._secret, "HS256"
        if self._keys is None or header.get("alg") not in _ALGORITHMS.values():
            raise TokenRefusedError("The algorithm is not accepted")
        key = self._keys.get(header.get("kid"))
        if key is None:
            raise TokenRefusedError("The key is not in the JWKS")
        if key.algorithm_name != header["alg"]:
            raise TokenRefusedError("The algorithm does not belong to the key")
        return key, key.algorithm_name


class _UnusableError(ValueError):
    """What the JWKS's address gives is no JWKS; the message is for the log."""


class KeySet:
    """The public keys at a URL, fetched when needed and kept when they cannot be fetched."""

    def __init__(self, url: str) -> None:
        """Take the URL; nothing is fetched yet."""
        self._url = url
        self._keys: dict[str, PyJWK] = {}
        self._fetched = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    def get(self, key_id: object) -> PyJWK | None:
        """Give a key by its `kid`, or None; the only key there is has no need of one."""
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id) if isinstance(key_id, str) else None

    async def refresh(self, key_id: str | None) -> None:
        """Fetch the keys again if they are old, or if the one of a `kid` is not among them."""
        age = time.monotonic() - self._fetched
        missing = not self._keys or (key_id is not None and key_id not in self._keys)
        if age > _JWKS_MAX_AGE_S or (missing and age > _JWKS_MIN_AGE_S):
            if self._fetching is None or self._fetching.done():
                self._fetching = asyncio.create_task(self._fetch())
            await asyncio.shield(self._fetching)

    async def _fetch(self) -> None:
        self._fetched = time.monotonic()
        try:
            async with (
                asyncio.timeout(_JWKS_TIMEOUT_S),
                httpx.AsyncClient(trust_env=False) as client,
                client.stream("GET", self._url, headers={"Accept-Encoding": "identity"}) as got,
            ):
                got.raise_for_status()
                body = b""
                # Raw: the limit must hold before anything is decompressed.
                async for part in got.aiter_raw():
                    body += part
                    if len(body) > _JWKS_LIMIT:
                        raise _UnusableError("it is too long")
            self._keys = dict(_public_keys(body))
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
            reason = str(error) if isinstance(error, _UnusableError) else type(error).__name__
            logger.warning("The JWKS at %s could not be read: %s", self._url, reason)


def _public_keys(body: bytes) -> Iterable[tuple[str, PyJWK]]:
    """Read the keys of a JWKS that can verify tokens; others are passed over."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise _UnusableError("it is not JSON") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise _UnusableError("it has no list of keys")
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        curve = entry.get("crv")
        algorithm = _ALGORITHMS.get((str(entry.get("kty")), curve and str(curve)))
        if algorithm is None or entry.get("alg", algorithm) != algorithm or "d" in entry:
            continue
        try:
            key = PyJWK(entry, algorithm)
        except (jwt.PyJWTError, ValueError, TypeError):
            continue  # one broken key must not cost the others
        if algorithm != "RS256" or key.key.key_size >= _RSA_BITS:
            yield str(entry.get("kid", "")), key


def _header(token: str) -> dict[str, Any]:
    """Read what a token says of itself; its `kid`, if it has one, is a string."""
    if len(token) > TOKEN_LENGTH:
        raise TokenRefusedError("The token is too long")
    try:
        return jwt.get_unverified_header(token)
    except (jwt.InvalidTokenError, ValueError, RecursionError):
        raise TokenRefusedError("This is not a JWT") from None


def _scopes(scopes: object) -> list[str]:
    """Read the scopes claim: a list of strings, or one string with spaces, as in OAuth."""
    if isinstance(scopes, str):
        return scopes.split()
    if isinstance(scopes, list) and all(isinstance(scope, str) for scope in scopes):
        return scopes
    raise TokenRefusedError("The scopes claim must be a list of strings")
