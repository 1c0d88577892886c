"""plugins/modules/stack_secrets.py: which given values are refused, and in what words."""

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from .project import load_plugin


@pytest.fixture(scope="module")
def stack_secrets() -> ModuleType:
    """plugins/modules/stack_secrets.py."""
    return load_plugin("modules", "stack_secrets")


@pytest.mark.parametrize(
    ("variable", "value", "minimum"),
    [
        ("POSTGRES_PASSWORD", "x", 1),
        ("POSTGRES_PASSWORD", "p@ss: /wörd'\"\\%$`#{}", 1),
        ("REDIS_PASSWORD", " with spaces ", 1),
        ("PGADMIN_DEFAULT_PASSWORD", "😀", 1),
        ("BETTER_AUTH_SECRET", "x" * 32, 32),
        ("BETTER_AUTH_SECRET", "with space # and = and umläut, " + "x" * 32, 32),
    ],
)
def test_a_good_secret_is_taken(
    stack_secrets: ModuleType, variable: str, value: str, minimum: int
) -> None:
    assert stack_secrets.problem(variable, value, minimum) == ""


@pytest.mark.parametrize(
    ("variable", "value", "minimum", "said"),
    [
        ("POSTGRES_PASSWORD", "", 1, "set but empty"),
        ("BETTER_AUTH_SECRET", "x" * 31, 32, "has 31 characters and needs 32"),
        ("REDIS_PASSWORD", "line\nbreak", 1, "control character"),
        ("REDIS_PASSWORD", "break at the end\n", 1, "control character"),
        ("REDIS_PASSWORD", "tab\t", 1, "control character"),
        ("REDIS_PASSWORD", "null\0", 1, "control character"),
        ("REDIS_PASSWORD", "delete\x7f", 1, "control character"),
        *(
            ("BETTER_AUTH_SECRET", "x" * 32 + character, 32, "env files cannot carry")
            for character in "\\$'\"`"
        ),
    ],
)
def test_a_bad_secret_is_refused_in_one_line_that_does_not_hold_it(
    stack_secrets: ModuleType, variable: str, value: str, minimum: int, said: str
) -> None:
    told = stack_secrets.problem(variable, value, minimum)
    assert said in told and told.startswith(variable)
    assert "\n" not in told
    assert not value or value not in told


def test_a_generated_secret_is_one_that_would_be_taken(stack_secrets: ModuleType) -> None:
    import secrets

    generated = secrets.token_urlsafe(stack_secrets.LENGTH)
    assert len(generated) == 43
    assert stack_secrets.problem("BETTER_AUTH_SECRET", generated, 32) == ""


def test_which_changed_is_told_without_a_name_or_a_value(
    stack_secrets: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ansible masks given values wherever they occur in a result."""
    variables = {"postgres_password": "POSTGRES_PASSWORD", "redis_password": "REDIS_PASSWORD"}
    results: list[dict[str, Any]] = []

    def run(**given: str) -> dict[str, Any]:
        params = {
            "directory": str(tmp_path / "s/secrets"),
            "given": given,
            "variables": variables,
            "minimum": {},
        }
        module = SimpleNamespace(
            params=params, check_mode=False, exit_json=lambda **result: results.append(result)
        )
        monkeypatch.setattr(stack_secrets, "AnsibleModule", lambda **_: module)
        stack_secrets.main()
        return results[-1]

    assert run() == {"changed": True, "renewed": [True, True]}
    assert run() == {"changed": False, "renewed": [False, False]}
    assert run(redis_password="postgres") == {"changed": True, "renewed": [False, True]}
