"""How a module is run: on this machine, in the process that would start an interpreter for it.

Ansible packs a module up and gives it to a new Python, on this machine as on any other, and that
Python imports the engine's SDK anew: 0.4 s for a module that itself takes 0.02. Ansible itself has
the same interpreter and packages. So modules of this project and of community.docker are called
there. Whatever else is asked for (another machine, another user, another interpreter, async) is
run as Ansible always does.

Ansible takes this file for its own action plugin of that name (`ansible.legacy.normal`).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import multiprocessing
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import ansible.module_utils
from ansible import constants as C
from ansible.executor.module_common import _BuiltModule
from ansible.module_utils import _internal
from ansible.module_utils.common import warnings
from ansible.module_utils.testing import patch_module_args
from ansible.plugins.loader import action_loader, module_loader

PLUGINS = Path(__file__).parent.parent
COLLECTION = "community.docker."

# Where a packed module finds them as well.
ansible.module_utils.__path__.append(str(PLUGINS / "module_utils"))
from ansible.module_utils.dev_stack import ENDING, tidy_up_when_ended

Builtin = action_loader.get("ansible.builtin.normal", class_only=True)


class ActionModule(Builtin):  # type: ignore[misc, valid-type]
    """Ansible's own, but for where a module that may run in this process is packed up and started."""

    _main: Callable[[], None] | None = None
    _arguments: dict[str, Any]

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result."""
        if self._is_here(task_vars or {}):
            self._main = self._entry_point(self._task.action)
        return dict(super().run(tmp, task_vars))

    def _is_pipelining_enabled(self, *args: Any, **options: Any) -> bool:
        """Whether the module needs no file on the machine on which it runs."""
        return self._main is not None or super()._is_pipelining_enabled(*args, **options)

    def _configure_module(
        self, module_name: str, module_args: dict[str, Any], *args: Any, **options: Any
    ) -> tuple[Any, str]:
        """Return the module as it is sent, and its path."""
        if self._main is None:
            return tuple(super()._configure_module(module_name, module_args, *args, **options))
        self._arguments = module_args
        sent = {"module_style": "new", "shebang": f"#!{sys.executable}", "b_module_data": b""}
        return _BuiltModule(**sent, serialization_profile="legacy"), module_name

    def _low_level_execute_command(self, *args: Any, **options: Any) -> dict[str, Any]:
        """Return what the module said: {rc, stdout, stderr, ...}."""
        if self._main is None:
            return dict(super()._low_level_execute_command(*args, **options))
        with (
            tempfile.TemporaryDirectory(dir=C.DEFAULT_LOCAL_TMP) as scratch,
            contextlib.chdir(self._loader.get_basedir()),  # where Ansible starts modules
        ):
            return call(self._main, {**self._arguments, "_ansible_tmpdir": scratch})

    def _is_here(self, variables: dict[str, Any]) -> bool:
        """Whether the module would run with this interpreter, as this user, and be waited for."""
        interpreter = self._templar.template(variables.get("ansible_python_interpreter"))
        return (
            self._connection.transport == "local"
            and self._connection.become is None
            and not self._task.async_val
            and not any(self._task.environment or [])
            and interpreter == variables.get("ansible_playbook_python")
        )

    def _entry_point(self, name: str) -> Callable[[], None] | None:
        """The function that is the module, or None if it is nobody's we know."""
        found = module_loader.find_plugin_with_context(name, collection_list=self._task.collections)
        path = found.plugin_resolved_path if found.resolved else None
        if not path:
            return None
        if name.startswith(COLLECTION):
            module = importlib.import_module(
                f"ansible_collections.community.docker.plugins.modules.{name.rpartition('.')[2]}"
            )
        elif Path(path).parent == PLUGINS / "modules":
            specification = importlib.util.spec_from_file_location(Path(path).stem, path)
            assert specification is not None and specification.loader is not None
            module = importlib.util.module_from_spec(specification)
            specification.loader.exec_module(module)
        else:
            return None
        return module.main  # type: ignore[no-any-return]


class Output(io.StringIO):
    """What this thread writes is kept; another one's goes where it would have gone."""

    def __init__(self, instead_of: Any) -> None:
        super().__init__()
        self._thread = threading.get_ident()
        self._others = instead_of

    def write(self, text: str) -> int:
        """Return how many characters were written."""
        if threading.get_ident() == self._thread:
            return super().write(text)
        return int(self._others.write(text))


@contextlib.contextmanager
def as_if_alone() -> Iterator[None]:
    """Keep what a module leaves behind from the next one in this process.

    Its warnings belong to its result, where Ansible's own are displayed at once. docker_container
    changes how its options are compared in objects that all its uses share.
    """
    options = [
        option
        for name, module in list(sys.modules.items())
        if name.startswith(f"ansible_collections.{COLLECTION}")
        for group in getattr(module, "OPTIONS", [])
        for option in group.options
    ]
    comparisons = [option.comparison for option in options]
    try:
        with (
            mock.patch.object(_internal, "is_controller", False),
            mock.patch.multiple(warnings, _global_warnings={}, _global_deprecations={}),
        ):
            yield
    finally:
        for option, comparison in zip(options, comparisons, strict=True):
            option.comparison = comparison


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let a signal end a module in such a way that it can tidy up; a worker would end at once."""
    if multiprocessing.parent_process() is None:  # Ansible itself ends as it should
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    tidy_up_when_ended()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def call(main: Callable[[], None], arguments: dict[str, Any]) -> dict[str, Any]:
    """What a module says: {rc, stdout, stderr}, as if a process of its own had said it."""
    output, errors = Output(sys.stdout), Output(sys.stderr)
    code = 0
    with (
        as_if_alone(),
        interruptible(),
        patch_module_args(arguments),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except Exception as error:
            failure = {"failed": True, "msg": f"{type(error).__name__}: {error}"}
            print(json.dumps(failure | {"exception": traceback.format_exc()}))
            code = 1
    said = {"stdout": output.getvalue(), "stderr": errors.getvalue()}
    return {
        "rc": code,
        **said,
        **{f"{name}_lines": text.splitlines() for name, text in said.items()},
    }
