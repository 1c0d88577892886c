"""Fixtures of all scenarios."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("MOLECULE_PROJECT_DIRECTORY", str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent / "shared"))

from stack import Stack


@pytest.fixture(scope="session")
def stack() -> Stack:
    """The stack under test."""
    return Stack()
