"""plugins/modules/stack_secrets.py: which given values are refused, and in what words."""

from types import ModuleType

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
