"""The plugins as Ansible would import them, by the names under which the tests ask for them."""

from types import ModuleType

import pytest

from .project import load_plugin


@pytest.fixture(scope="session")
def utils() -> ModuleType:
    """plugins/module_utils/dev_stack.py."""
    return load_plugin("module_utils", "dev_stack")


@pytest.fixture(scope="session")
def filters() -> ModuleType:
    """plugins/filter/dev_stack.py."""
    return load_plugin("filter", "dev_stack")


@pytest.fixture(scope="session")
def env_file() -> ModuleType:
    """plugins/modules/env_file.py."""
    return load_plugin("modules", "env_file")


@pytest.fixture(scope="session")
def volume_info() -> ModuleType:
    """plugins/modules/volume_info.py."""
    return load_plugin("modules", "volume_info")
