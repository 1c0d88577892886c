"""A run with the tag postgres."""

from __future__ import annotations

import pytest
import tagged
from stack import Stack


def test_it_brings_what_it_needs_and_nothing_else(stack: Stack) -> None:
    tagged.check_only(stack, "postgres", ["postgres"])


def test_again_nothing_changes(stack: Stack) -> None:
    tagged.check_again(stack, "postgres")


def test_what_was_done_to_it_by_hand_is_put_right(stack: Stack) -> None:
    tagged.check_repair(stack, "postgres")


def test_down_takes_it_alone(stack: Stack) -> None:
    tagged.check_down(stack, "postgres", [])


def test_a_changed_password_and_a_new_database_reach_an_existing_volume(stack: Stack) -> None:
    import psycopg

    stack.converge("--tags", "postgres")
    old = stack.env()["DATABASE_URL"]
    given = {"POSTGRES_PASSWORD": "p@ss: /wörd'\"\\%", "POSTGRES_DB": "second-db"}
    output = stack.converge("--tags", "postgres", environment=given)
    assert "the database second-db did not exist and was created" in output
    assert "the current one was set" in output
    with psycopg.connect(stack.env()["DATABASE_URL"]) as connection:
        row = connection.execute("SELECT current_database()").fetchone()
    assert row == ("second-db",)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(old)


def test_lost_secrets_are_repaired(stack: Stack) -> None:
    """The state folder is gone and the volume is not: the next run sets a new password."""
    import shutil

    import psycopg

    shutil.rmtree(stack.state)
    output = stack.converge("--tags", "postgres")
    assert "the current one was set" in output
    psycopg.connect(stack.env()["DATABASE_URL"]).close()


def test_another_user_than_the_volumes_is_refused_in_words(stack: Stack) -> None:
    before = stack.started()
    result = stack.play("dev", "--tags", "postgres", environment={"POSTGRES_USER": "somebody"})
    assert result.returncode != 0
    assert "was made with postgres" in result.stderr
    assert stack.started() == before
