"""How a module is run: on this machine, in the worker that would start an interpreter for it.

Ansible packs a module up and gives it to a new Python, on this machine as on any other, and that
Python imports the engine's SDK anew: 0.4 s for a module that itself takes 0.02. The worker is a
process of its own already, forked for this one task, with the same interpreter and packages. So
modules of this project and of community.docker are called there. Whatever else is asked for
(another machine, another user, another interpreter, async) is run as Ansible always does.

Ansible takes this file for its own action plugin of that name (`ansible.legacy.normal`).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible import constants as C
from ansible.module_utils.testing import patch_module_args
from ansible.plugins.loader import action_loader, module_loader

PLUGINS = Path(__file__).parent.parent
COLLECTION = "community.docker."

# Where a packed module finds them as well.
ansible.module_utils.__path__.append(str(PLUGINS / "module_utils"))


Builtin = action_loader.get("ansible.builtin.normal", class_only=True)


class ActionModule(Builtin):  # type: ignore[misc, valid-type]
    """Runs a module in this process if it may, and as Ansible does otherwise."""

    def _execute_module(
        self, module_name: str | None = None, module_args: Any = None, **options: Any
    ) -> dict[str, Any]:
        """Return a module's result; the parameters are those of ActionBase."""
        name = module_name or self._task.action
        variables = options.get("task_vars") or {}
        main = self._entry_point(name) if self._is_here(variables) else None
        if main is None:
            return dict(super()._execute_module(module_name, module_args, **options))
        arguments = self._task.args if module_args is None else module_args
        with tempfile.TemporaryDirectory(dir=C.DEFAULT_LOCAL_TMP) as scratch:
            self._update_module_args(name, arguments, variables)
            arguments["_ansible_tmpdir"] = scratch
            answer = call(main, arguments)
        result: dict[str, Any] = self._parse_returned_data(answer, "legacy")
        for key in [key for key in result if key.startswith("_ansible_") and key != "_ansible_parsed"]:
            del result[key]
        for stream in ("stdout", "stderr"):
            if stream in result:
                result.setdefault(f"{stream}_lines", (result[stream] or "").splitlines())
        return result

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


def call(main: Callable[[], None], arguments: dict[str, Any]) -> dict[str, Any]:
    """What a module says: {rc, stdout, stderr}, as if a process of its own had said it."""
    output, errors = io.StringIO(), io.StringIO()
    code = 0
    with (
        patch_module_args(arguments),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except Exception:
            traceback.print_exc()
            code = 1
    return {"rc": code, "stdout": output.getvalue(), "stderr": errors.getvalue()}
