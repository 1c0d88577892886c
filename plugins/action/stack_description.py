"""Ansible action: what the roles would make of each service, as a digest; see the module's text."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

PLUGINS = Path(__file__).parent.parent
PROJECT = PLUGINS.parent
sys.path.insert(0, str(PLUGINS / "module_utils"))
from dev_stack import file_digest, read_secret, tree_digest

# What a run makes of what it was told and found, and changes on the way: not looked into.
MADE_ON_THE_WAY = {
    "images_chosen",
    "stack_changed_secrets",
    "stack_entered",
    "stack_secrets_suspect",
    "stack_selected",
}
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
LOOKUP = re.compile(r"\b(?:lookup|query|q)\s*\(")
ENVIRONMENT = re.compile(r"\blookup\(\s*'(?:ansible\.builtin\.)?env'\s*,\s*'(\w+)'\s*\)")
REQUIREMENTS = ("requirements.txt", "requirements-collections.txt")
CONNECTION_STRINGS = ("stack_environment",)


class ActionModule(ActionBase):
    """Digests, for each role: its files, all that its variables are made from, the code around it."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return {services: {name: digest}, env_file: {description, found}, secrets_kept}.

        `services` are the roles that are named, `found` is the file as it is, `secrets_kept` tells
        whether the secrets given by the environment are those that the stack has.
        """
        variables = task_vars or {}
        template = self._templar.template
        result = dict(super().run(tmp, variables))
        observed = template(variables["engine_observed"])
        stable = variables | {"engine_observed": what_stays(observed)}
        code = [
            str(variables["ansible_version"]["full"]),
            *((PROJECT / name).read_text(encoding="utf-8") for name in REQUIREMENTS),
            *(tree_digest(str(PROJECT / folder)) for folder in ("plugins", "playbooks")),
        ]
        images = [
            *(tree_digest(str(PROJECT / folder)) for folder in ("roles/images", "agents")),
            inputs(with_prefix("images", stable), stable, template),
        ]
        described = {}
        for role in self._task.args["roles"]:
            parts = [
                tree_digest(str(PROJECT / "roles" / role)),
                inputs(with_prefix(role, stable), stable, template),
                *code,
            ]
            parts += images if role != "network" else []
            described[role] = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        # Both are on this machine, so that of a stack on another one nothing is known here.
        local = self._connection.transport == "local"
        secrets = Path(observed["machine"]["state_dir"], "secrets") if local else Path()
        path = template(variables["env_file"]) if local else ""
        path = self._loader.path_dwim(path) if path else ""
        wanted = "\0".join([inputs(CONNECTION_STRINGS, stable, template), path, *code])
        return result | {
            "changed": False,
            "services": described,
            "env_file": {
                "description": hashlib.sha256(wanted.encode()).hexdigest(),
                "found": file_digest(path, secrets),
            },
            "secrets_kept": are_kept(template(variables["stack_secret_variables"]), secrets),
        }


def are_kept(names: dict[str, str], secrets: Path) -> bool:
    """Whether the secrets that the environment gives, by name and its variable, are in the files."""
    given = {
        name: os.environ[variable] for name, variable in names.items() if variable in os.environ
    }
    try:
        return all(
            read_secret(secrets / name) == value if value else not (secrets / name).exists()
            for name, value in given.items()
        )
    except (OSError, ValueError):
        return False


def with_prefix(role: str, variables: dict[str, Any]) -> list[str]:
    """The variables that are a role's, by their names."""
    return [name for name in variables if name.startswith(f"{role}_")]


def what_stays(observed: dict[str, Any]) -> dict[str, Any]:
    """What the roles' variables are made from of an observation, and is the same in the next one.

    The rest is in the digest of what was found (stack_info): the network, the volumes' labels.
    """
    engine = {key: value for key, value in observed["engine"].items() if key != "free_bytes"}
    return {"engine": engine, "machine": observed["machine"], "current": observed["current"]}


def inputs(names: Iterable[str], variables: dict[str, Any], template: Callable[[Any], Any]) -> str:
    """All that some variables are made from, as text, by name and in order.

    What a template names is looked up as it is written, and so on, with the environment variables
    that it reads: to template all of it would take longer than all else. That is done (`template`)
    only where something is looked up elsewhere, in a file for example.
    """
    found: dict[str, Any] = {}
    left = [*names]
    while left:
        name = left.pop()
        if name in found or name in MADE_ON_THE_WAY:
            continue
        found[name] = variables[name]
        if name == "engine_observed":
            continue
        text = "\n".join(strings(variables[name]))
        read = ENVIRONMENT.findall(text)
        for variable in read:
            found[f"${variable}"] = os.environ.get(variable)
        if len(LOOKUP.findall(text)) > len(read):
            found[f"={name}"] = template(variables[name])
        left += [word for word in set(WORD.findall(text)) if word in variables]
    return json.dumps(sorted(found.items()), default=str)


def strings(value: Any) -> Iterator[str]:
    """All strings in a variable."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for pair in value.items():
            yield from strings(pair)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from strings(one)
