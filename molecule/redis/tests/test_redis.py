"""A run with the tag redis."""

from __future__ import annotations

import tagged
from stack import Stack


def test_it_brings_what_it_needs_and_nothing_else(stack: Stack) -> None:
    tagged.check_only(stack, "redis", ["redis"])


def test_again_nothing_changes(stack: Stack) -> None:
    tagged.check_again(stack, "redis")


def test_what_was_done_to_it_by_hand_is_put_right(stack: Stack) -> None:
    tagged.check_repair(stack, "redis")


def test_down_takes_it_alone(stack: Stack) -> None:
    tagged.check_down(stack, "redis", [])
