"""What the launcher's tests share."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import Checkout

# What a script's shell runs in the background ignores Ctrl-C, and so would all that is started here.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Give a checkout whose environment is made, in a path with spaces."""
    checkout = Checkout(tmp_path_factory.mktemp("a folder") / "the stack")
    result = checkout.run("setup")
    assert result.returncode == 0, result.stderr
    return checkout


@pytest.fixture
def ready(prepared: Checkout) -> Iterator[Checkout]:
    """Give the prepared checkout, and see to it that the test did not change its environment."""
    prepared.calls()
    stamp = (prepared.venv / "dev-stamp.json").read_text()
    yield prepared
    assert (prepared.venv / "dev-stamp.json").read_text() == stamp


@pytest.fixture
def fresh(tmp_path: Path) -> Checkout:
    """Give a checkout without an environment."""
    return Checkout(tmp_path / "stack")
