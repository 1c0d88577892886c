"""Ansible action: what the roles would make of each service, as a digest; see the module's text."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

PLUGINS = Path(__file__).parent.parent
PROJECT = PLUGINS.parent
sys.path.insert(0, str(PLUGINS / "module_utils"))
from dev_stack import tree_digest

# What a run finds out, which later tasks decide by, rather than what it is told. Somebody's own value
# for one of these is told: they count as they are written down, without what they are made from.
FOUND_OUT: tuple[str, ...] = (
    "_healthy",
    "_state",
    "_image",
    "_image_source",
    "_migrated_with",
    "_settled",
)
FOUND_OUT += ("images_observed", "images_chosen", "images_wanted", "images_volumes")
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
ENVIRONMENT = re.compile(r"env'\s*,\s*'([A-Za-z_]+)'")


class ActionModule(ActionBase):
    """Digests, for each role: its files, all that its variables are made from, the code around it."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return {services: {name: digest}} for the roles that are named."""
        variables = task_vars or {}
        result = dict(super().run(tmp, variables))
        observed = self._templar.template(variables["engine_observed"])
        stable = variables | {"engine_observed": what_stays(observed)}
        code = [
            str(variables["ansible_version"]["full"]),
            (PROJECT / "requirements.txt").read_text(encoding="utf-8"),
            *(tree_digest(str(PROJECT / folder)) for folder in ("plugins", "playbooks")),
        ]
        images = [
            *(tree_digest(str(PROJECT / folder)) for folder in ("roles/images", "agents")),
            inputs("images", stable),
        ]
        described = {}
        for role in self._task.args["roles"]:
            parts = [tree_digest(str(PROJECT / "roles" / role)), inputs(role, stable), *code]
            parts += images if role != "network" else []
            described[role] = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        return result | {"changed": False, "services": described}


def what_stays(observed: dict[str, Any]) -> dict[str, Any]:
    """What the roles' variables are made from of an observation, and is the same in the next one.

    The rest is in the digest of what was found (stack_info): the network, the volumes' labels.
    """
    engine = {key: value for key, value in observed["engine"].items() if key != "free_bytes"}
    return {"engine": engine, "machine": observed["machine"], "current": observed["current"]}


def inputs(role: str, variables: dict[str, Any]) -> str:
    """All that a role's variables are made from, as text, by name and in order.

    Nothing is templated, which would take longer than all else: what a template names is looked up as
    it is written, and so on, with the environment variables that it reads.
    """
    found: dict[str, Any] = {}
    left = [name for name in variables if name.startswith(f"{role}_")]
    while left:
        name = left.pop()
        if name in found:
            continue
        found[name] = variables[name]
        if name.endswith(FOUND_OUT) or name == "engine_observed":
            continue
        text = json.dumps(variables[name], default=str)
        for variable in ENVIRONMENT.findall(text):
            found[f"${variable}"] = os.environ.get(variable)
        left += [word for word in set(WORD.findall(text)) if word in variables]
    return json.dumps(sorted(found.items()), default=str)
