"""Settings, read from the environment once and checked before anything starts.

A variable's name is its field's name in capitals: `agentos_port` is AGENTOS_PORT. An empty
variable counts as unset. Each of FILE_VARIABLES may be given as NAME_FILE instead, the path of a
file that holds the value, so that the value itself never shows in `docker inspect`.
"""

import re
from collections.abc import Callable
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from redis.asyncio import ConnectionPool

from agentos.environment import SettingsError, normalise_database_url, read_file_variable

FILE_VARIABLES = (
    "DATABASE_URL",
    "REDIS_URL",
    "BETTER_AUTH_SECRET",
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
)

_ORIGIN = re.compile(r"https?://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", re.IGNORECASE)
_URL = re.compile(r"https?://[^\s/@]+(?:/[^\s@]*)?", re.IGNORECASE)
_HOST = re.compile(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]", re.IGNORECASE)


def check_redis_url(url: str) -> str:
    """Check a Redis URL.

    Args:
        url: for example `redis://:password@host:6379/0`, or `rediss://` for TLS.

    Returns:
        The same URL.

    Raises:
        ValueError: the URL is of no use; the message holds no part of it.
    """
    if re.match("rediss?://", url, re.IGNORECASE) is None:
        raise ValueError("is not a Redis URL")
    try:
        ConnectionPool.from_url(url).make_connection()  # type: ignore[no-untyped-call]
        # redis-py itself takes localhost for a missing host, and 0 for a database it cannot read.
        parts = urlsplit(url)
        readable = parts.hostname and not parts.fragment and re.fullmatch("/?[0-9]*", parts.path)
    except (TypeError, ValueError):
        readable = None
    if not readable:
        raise ValueError(
            "has a part that redis-py cannot read (a special character not percent-encoded,"
            " no host, a database that is not a number, or an unknown parameter)"
        )
    return url


def _in_secret(check: Callable[[str], str]) -> AfterValidator:
    """Make a pydantic validator that applies `check` to the value inside a SecretStr."""
    return AfterValidator(lambda secret: SecretStr(check(secret.get_secret_value())))


def _split(text: object) -> object:
    """Split a comma-separated variable; leave a default, already a tuple, as it is."""
    if not isinstance(text, str):
        return text
    return tuple(item.strip() for item in text.split(",") if item.strip())


def _each(pattern: re.Pattern[str]) -> AfterValidator:
    """Make a validator of a tuple, each item of which must match, and is put in lower case."""

    def check(items: tuple[str, ...]) -> tuple[str, ...]:
        for item in items:
            if pattern.fullmatch(item) is None:
                raise ValueError(f"has {item!r}")
        return tuple(item.lower() for item in items)

    return AfterValidator(check)


def _check_url(text: str) -> str:
    """Check a URL of HTTP that holds no password."""
    if text and _URL.fullmatch(text) is None:
        raise ValueError("is not a URL of HTTP")  # without its text, which may hold a password
    return text.rstrip("/")


_Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
_Url = Annotated[str, AfterValidator(_check_url)]


class Settings(BaseSettings):
    """What AgentOS can be told. Each description is also what a message says was expected."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True)

    database_url: Annotated[SecretStr, _in_secret(normalise_database_url)] = Field(
        description="postgresql://user:password@host:port/database"
    )
    redis_url: Annotated[SecretStr, _in_secret(check_redis_url)] = Field(
        description="redis://:password@host:port/database"
    )
    better_auth_secret: SecretStr = Field(
        min_length=32, description="the secret that Better Auth uses, of 32 characters or more"
    )
    agentos_host: str = Field("127.0.0.1", description="an address or host name to listen on")
    agentos_port: int = Field(7777, ge=1, le=65535, description="a number from 1 to 65535")
    agentos_log_level: Annotated[
        Literal["critical", "error", "warning", "info", "debug"],
        BeforeValidator(lambda level: level.lower() if isinstance(level, str) else level),
    ] = Field("info", description="critical, error, warning, info or debug")
    agentos_log_format: Literal["json", "text"] = Field("json", description="json or text")
    agentos_reload: bool = Field(False, description="true or false")
    agentos_cors_origins: Annotated[_Names, _each(_ORIGIN)] = Field(
        ("http://localhost:3000", "http://localhost:3001", "https://os.agno.com"),
        description="origins such as http://localhost:3000, with commas between",
    )
    agentos_allowed_hosts: Annotated[_Names, _each(_HOST)] = Field(
        (), description="host names without ports, with commas between; IPv6 in brackets"
    )
    auth_issuer: str = Field("hyvve", description="what tokens must have as iss")
    auth_audience: str = Field("agentos", description="what tokens must have as aud")
    auth_jwks_url: _Url = Field(
        "", description="the URL of a JWKS, such as http://localhost:3000/api/auth/jwks"
    )
    openai_api_key: SecretStr | None = Field(None, description="a key of OpenAI")
    anthropic_api_key: SecretStr | None = Field(None, description="a key of Anthropic")
    agentos_model: str = Field("", description="the name of a model")
    agentos_model_url: _Url = Field(
        "",
        description="the URL of a server that speaks OpenAI's protocol, such as http://host:11434/v1",
    )

    @model_validator(mode="after")
    def _claude_needs_its_key(self) -> Self:
        if (
            self.agentos_model.startswith("claude")
            and self.openai_api_key
            and not (self.anthropic_api_key or self.agentos_model_url)
        ):
            raise ValueError(
                "ANTHROPIC_API_KEY is not set; expected a key of Anthropic, whose model"
                f" AGENTOS_MODEL names: {self.agentos_model!r}"
            )
        return self

    @model_validator(mode="after")
    def _url_needs_model(self) -> Self:
        if self.agentos_model_url and not self.agentos_model:
            raise ValueError(
                "AGENTOS_MODEL is not set; expected the name of a model that"
                " AGENTOS_MODEL_URL serves"
            )
        return self


def load_settings() -> Settings:
    """Read the settings from the environment of this process.

    Returns:
        The settings, all of them checked.

    Raises:
        SettingsError: with every problem found, not the first alone.
    """
    problems: list[str] = []
    from_files: dict[str, str] = {}
    rejected: set[str] = set()
    for name in FILE_VARIABLES:
        try:
            value = read_file_variable(name)
        except ValueError as error:
            problems.append(str(error))
            rejected.add(name)
        else:
            if value is not None:
                from_files[name.lower()] = value
    try:
        settings = Settings(**from_files)  # type: ignore[arg-type]
    except ValidationError as error:
        for details in error.errors(include_url=False):
            if not details["loc"]:  # of settings that contradict each other
                problems.append(str(details["ctx"]["error"]))
                continue
            name = str(details["loc"][0])
            if name.upper() not in rejected:
                problems.append(_describe(name, details, from_file=name in from_files))
    if problems:
        raise SettingsError(problems)
    return settings


def _describe(field: str, details: ErrorDetails, *, from_file: bool) -> str:
    """Say in one line what is wrong with a field; a secret's value is left out."""
    name = field.upper()
    expected = Settings.model_fields[field].description
    if details["type"] == "missing":
        return f"{name} is not set; expected {expected}, or {name}_FILE, a file that holds it"
    if details["type"] == "value_error":
        wrong = str(details["ctx"]["error"])
    elif name in FILE_VARIABLES:
        wrong = "is not valid"
    else:
        wrong = f"is {details['input']!r}"
    return f"{name}{'_FILE' if from_file else ''} {wrong}; expected {expected}"
