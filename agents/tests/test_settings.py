"""Settings: what is taken, what is refused, and how the refusal reads."""

import random
import string
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from agentos.environment import SettingsError, normalise_database_url
from agentos.settings import Settings, check_redis_url, load_settings
from psycopg.conninfo import conninfo_to_dict

from tests.servers import AGENTS

SECRET = "hunter2-hunter2"
GOOD = {
    "DATABASE_URL": f"postgresql://postgres:{SECRET}@localhost:5432/hyvve",
    "REDIS_URL": f"redis://:{SECRET}@localhost:6379/0",
    "BETTER_AUTH_SECRET": SECRET * 3,
}


@pytest.fixture(autouse=True)
def good_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what must be set, and nothing else that AgentOS reads."""
    for field in Settings.model_fields:
        monkeypatch.delenv(field.upper(), raising=False)
        monkeypatch.delenv(f"{field.upper()}_FILE", raising=False)
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)


def problems() -> list[str]:
    """Load settings that must fail, and give the problems, none of which holds the secret."""
    with pytest.raises(SettingsError) as failure:
        load_settings()
    assert SECRET not in str(failure.value)
    assert not any("\n" in problem for problem in failure.value.problems)
    return failure.value.problems


def test_defaults() -> None:
    settings = load_settings()
    assert (settings.agentos_host, settings.agentos_port) == ("127.0.0.1", 7777)
    assert settings.agentos_log_level == "info"
    assert settings.agentos_reload is False
    assert settings.agentos_log_format == "json"
    assert settings.agentos_cors_origins == (
        "http://localhost:3000",
        "http://localhost:3001",
        "https://os.agno.com",
    )
    assert (settings.auth_issuer, settings.auth_audience) == ("hyvve", "agentos")
    assert settings.auth_jwks_url == ""
    assert settings.agentos_allowed_hosts == ()
    assert SECRET not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("AGENTOS_PORT", "65535", "agentos_port", 65535),
        ("AGENTOS_PORT", "", "agentos_port", 7777),
        ("AGENTOS_LOG_LEVEL", "WARNING", "agentos_log_level", "warning"),
        ("AGENTOS_RELOAD", "true", "agentos_reload", True),
        ("AGENTOS_RELOAD", "0", "agentos_reload", False),
        ("AGENTOS_CORS_ORIGINS", "http://A:1, https://b", "agentos_cors_origins",
         ("http://a:1", "https://b")),
        ("AGENTOS_ALLOWED_HOSTS", "Dev.test,[fe80::1]", "agentos_allowed_hosts",
         ("dev.test", "[fe80::1]")),
        ("AGENTOS_LOG_FORMAT", "text", "agentos_log_format", "text"),
        ("AUTH_JWKS_URL", "http://localhost:3000/api/auth/jwks", "auth_jwks_url",
         "http://localhost:3000/api/auth/jwks"),
        ("AUTH_JWKS_URL", "https://[::1]:3000/jwks/", "auth_jwks_url", "https://[::1]:3000/jwks"),
        ("AGENTOS_MODEL", "qwen3:4b", "agentos_model", "qwen3:4b"),
    ],
)  # fmt: skip
def test_good_values(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, field: str, expected: object
) -> None:
    monkeypatch.setenv(name, value)
    assert getattr(load_settings(), field) == expected


@pytest.mark.parametrize(
    ("name", "value", "wrong"),
    [
        ("DATABASE_URL", "", "is not set"),
        ("DATABASE_URL", SECRET, "is not a PostgreSQL URL"),
        ("DATABASE_URL", f"mysql://u:{SECRET}@h/d", "is not a PostgreSQL URL"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}@/d", "has no host"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}@h", "names no database"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}@h:0/d", "has a port"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}@h:65536/d", "has a port"),
        ("DATABASE_URL", f"postgresql://u:%zz{SECRET}@h/d", "libpq cannot read"),
        ("DATABASE_URL", f"postgresql://u:a@{SECRET}@h/d", "not percent-encoded"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}@h/d?sslmod=require", "unknown parameter"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}@h/d?sslaccept=strict", "unknown parameter"),
        ("REDIS_URL", "", "is not set"),
        ("REDIS_URL", SECRET, "is not a Redis URL"),
        ("REDIS_URL", f"http://:{SECRET}@h", "is not a Redis URL"),
        ("REDIS_URL", f"redis://:{SECRET}@:6379", "redis-py cannot read"),
        ("REDIS_URL", f"redis://:{SECRET}@h:port", "redis-py cannot read"),
        ("REDIS_URL", f"redis://:{SECRET}@h:65536", "redis-py cannot read"),
        ("REDIS_URL", f"redis://:a/{SECRET}@h:6379", "redis-py cannot read"),
        ("REDIS_URL", f"redis://:a#{SECRET}@h:6379", "redis-py cannot read"),
        ("REDIS_URL", f"redis://:{SECRET}@h/name", "redis-py cannot read"),
        ("REDIS_URL", f"redis://:{SECRET}@h/0?unknown=1", "redis-py cannot read"),
        ("BETTER_AUTH_SECRET", "", "is not set"),
        ("BETTER_AUTH_SECRET", SECRET, "is not valid; expected the secret that Better Auth"),
        ("AGENTOS_PORT", "0", "is '0'; expected a number from 1 to 65535"),
        ("AGENTOS_PORT", "65536", "is '65536'; expected a number from 1 to 65535"),
        ("AGENTOS_PORT", "http", "is 'http'; expected a number from 1 to 65535"),
        ("AGENTOS_LOG_LEVEL", "loud", "is 'loud'; expected critical, error"),
        ("AGENTOS_RELOAD", "maybe", "is 'maybe'; expected true or false"),
        ("AGENTOS_CORS_ORIGINS", "*", "has '*'; expected origins"),
        ("AGENTOS_CORS_ORIGINS", "http://a/path", "has 'http://a/path'; expected origins"),
        ("AGENTOS_ALLOWED_HOSTS", "dev:7777", "has 'dev:7777'; expected host names"),
        ("AGENTOS_LOG_FORMAT", "xml", "is 'xml'; expected json or text"),
        ("AUTH_JWKS_URL", "localhost:3000", "is not a URL of HTTP; expected the URL of a JWKS"),
        ("AUTH_JWKS_URL", f"http://u:{SECRET}@h/", "is not a URL of HTTP; expected the URL"),
        ("AGENTOS_MODEL_URL", "ftp://h", "is not a URL of HTTP; expected the URL of a server"),
    ],
)
def test_bad_values(monkeypatch: pytest.MonkeyPatch, name: str, value: str, wrong: str) -> None:
    monkeypatch.setenv(name, value)
    (problem,) = problems()
    assert problem.startswith(f"{name} ")
    assert wrong in problem
    assert "; expected " in problem


def test_a_model_url_needs_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTOS_MODEL_URL", "http://localhost:11434/v1")
    (problem,) = problems()
    assert problem.startswith("AGENTOS_MODEL is not set; expected the name of a model")
    monkeypatch.setenv("AGENTOS_MODEL", "qwen3:4b")
    assert load_settings().agentos_model_url == "http://localhost:11434/v1"


def test_a_model_of_anthropic_needs_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTOS_MODEL", "claude-x")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    (problem,) = problems()
    assert problem.startswith("ANTHROPIC_API_KEY is not set; expected a key of Anthropic")
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    assert load_settings().agentos_model == "claude-x"


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "ANTHROPIC_API_KEY"])
def test_keys_of_models_may_be_in_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    assert getattr(load_settings(), name.lower()) is None
    path = tmp_path / "key"
    path.write_text(SECRET)
    monkeypatch.setenv(f"{name}_FILE", str(path))
    assert getattr(load_settings(), name.lower()).get_secret_value() == SECRET


def test_every_problem_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("REDIS_URL_FILE", str(tmp_path))
    monkeypatch.setenv("BETTER_AUTH_SECRET", "short")
    monkeypatch.setenv("AGENTOS_PORT", "none")
    assert sorted(problem.split()[0] for problem in problems()) == [
        "AGENTOS_PORT",
        "BETTER_AUTH_SECRET",
        "DATABASE_URL",
        "REDIS_URL",
    ]


@pytest.mark.parametrize("name", GOOD)
def test_value_from_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    path = tmp_path / "secret"
    path.write_text(GOOD[name] + "\n")
    monkeypatch.setenv(name, "")
    monkeypatch.setenv(f"{name}_FILE", str(path))
    value = getattr(load_settings(), name.lower())
    assert value.get_secret_value() == GOOD[name]


def test_bad_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "url"
    monkeypatch.setenv("DATABASE_URL_FILE", str(path))
    assert problems() == ["DATABASE_URL and DATABASE_URL_FILE are both set; expected one of them"]
    monkeypatch.delenv("DATABASE_URL")
    assert problems() == [f"DATABASE_URL_FILE: cannot read {path}: No such file or directory"]
    path.write_text("\n")
    assert problems() == [f"DATABASE_URL_FILE: {path} is empty; expected the value of DATABASE_URL"]
    path.write_bytes(b"\xff")
    assert problems() == [f"DATABASE_URL_FILE: cannot read {path}: it is not UTF-8 text"]
    path.write_text(SECRET)
    (problem,) = problems()
    assert problem.startswith("DATABASE_URL_FILE is not a PostgreSQL URL; expected ")


def test_the_process_prints_one_line_for_each_problem_and_exits_78() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "agentos"],
        env={"DATABASE_URL": f"mysql://{SECRET}", "BETTER_AUTH_SECRET": SECRET},
        cwd=AGENTS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 78
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["agentos:", "DATABASE_URL"],
        ["agentos:", "REDIS_URL"],
        ["agentos:", "BETTER_AUTH_SECRET"],
    ]
    assert SECRET not in result.stderr


@pytest.mark.parametrize(
    ("url", "normalised"),
    [
        ("postgres://u:p@h:1/d", "postgresql://u:p@h:1/d"),
        ("postgresql://u:p@h/d", "postgresql://u:p@h/d"),
        ("postgresql+psycopg://u@h/d", "postgresql://u@h/d"),
        ("POSTGRES://u:p@h/d", "postgresql://u:p@h/d"),
        ("postgresql://u:p@h/d?schema=public", "postgresql://u:p@h/d"),
        ("postgresql://u:p@h/d?schema=public&pgbouncer=true&connection_limit=5&pool_timeout=0",
         "postgresql://u:p@h/d"),
        ("postgresql://u:p@h/d?socket_timeout=3&statement_cache_size=0", "postgresql://u:p@h/d"),
        ("postgresql://u:p@h/d?schema=a&sslmode=require&connect_timeout=5",
         "postgresql://u:p@h/d?sslmode=require&connect_timeout=5"),
        ("postgresql://u:p@h/d?", "postgresql://u:p@h/d"),
        ("postgresql://u:p@[::1]:5432/d", "postgresql://u:p@[::1]:5432/d"),
        ("postgresql://u:p@a:1,b:2/d", "postgresql://u:p@a:1,b:2/d"),
        ("postgresql://u:p@/d?host=/run/postgresql", "postgresql://u:p@/d?host=/run/postgresql"),
        ("postgresql://u:p@h/d?options=-c%20geqo%3Doff", "postgresql://u:p@h/d?options=-c%20geqo%3Doff"),
    ],
)  # fmt: skip
def test_database_url_is_normalised(url: str, normalised: str) -> None:
    assert normalise_database_url(url) == normalised
    assert normalise_database_url(normalised) == normalised


def test_every_part_of_a_database_url_survives() -> None:
    dice = random.Random(16)
    for _ in range(500):
        user, password, database = (
            "".join(dice.choices(string.printable.strip() + "äß€ ", k=dice.randint(1, 20)))
            for _ in range(3)
        )
        scheme = dice.choice(["postgres", "postgresql", "postgresql+psycopg"])
        prisma = dice.choice(["", "?schema=public", "?pgbouncer=true&schema=a%20b"])
        parts = ":".join(quote(part, safe="") for part in (user, password))
        url = f"{scheme}://{parts}@host:5433/{quote(database, safe='')}{prisma}"
        assert conninfo_to_dict(normalise_database_url(url)) == {
            "user": user,
            "password": password,
            "host": "host",
            "port": "5433",
            "dbname": database,
        }


@pytest.mark.parametrize(
    "url",
    ["redis://h", "redis://h:6379", "redis://:p%40ss@h:1/15", "rediss://u:p@h/0", "redis://[::1]/"],
)
def test_redis_url_is_taken(url: str) -> None:
    assert check_redis_url(url) == url
