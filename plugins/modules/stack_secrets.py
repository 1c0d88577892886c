#!/usr/bin/python
"""Ansible module: make sure that each secret of a stack exists in a file of its own."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_secrets
short_description: Keep the stack's secrets, given or generated once
description:
  - A given value wins and is kept; otherwise the kept one is used; otherwise one is generated.
  - An optional one is never generated, and is removed when it is given as empty.
  - Values never leave the module, so no output at any verbosity can hold one.
  - Rotating writes the old and the new ones down first, in the folder C(rotation) beside
    C(directory). While that folder is there, the old ones count, and the next run puts them back.
options:
  directory:
    description: Where they are kept, one file each with mode 0600. The directory gets 0700.
    type: path
    required: true
  given:
    description: Values from the environment by name; null or absent means not given.
    type: dict
    default: {}
  variables:
    description: The environment variable that stands for each name, for messages.
    type: dict
    required: true
  minimum:
    description: Least number of characters by name; 1 where not named.
    type: dict
    default: {}
  optional:
    description: Names of those that need not be there, such as keys of services elsewhere.
    type: list
    elements: str
    default: []
  state:
    description:
      - C(present) makes sure that all are there. What a run that is no longer at work left half
        rotated is put back first; one that is at work is an error.
      - C(rotated) replaces those of C(names) by new ones.
      - C(restored) puts back what this run rotated.
      - C(settled) ends a rotation or its reversal - what is in C(directory) counts from now on.
    choices: [present, rotated, restored, settled]
    default: present
    type: str
  names:
    description: What C(state=rotated) replaces.
    type: list
    elements: str
    default: []
  run:
    description: The run, as the callback names it, so that others can tell whether it is at work.
    type: str
    default: ""
attributes:
  check_mode:
    support: full
    description: Tells whether it would write.
  idempotent:
    support: full
    description: A kept secret is never generated anew.
author: HYVVE
"""

import json
import os
import re
import secrets
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.dev_stack import is_alive, read_secret, write_private

LENGTH = 32  # bytes of randomness; 43 characters that need no quoting anywhere


def problem(variable: str, value: str, minimum: int) -> str:
    """What is wrong with a given value, as a line for a person; empty when nothing is."""
    if not value:
        return f"{variable} is set but empty. Unset it to have one generated: unset {variable}"
    if len(value) < minimum:
        return (
            f"{variable} has {len(value)} characters and needs {minimum} or more. "
            f"Have one generated: unset {variable}"
        )
    if variable == "BETTER_AUTH_SECRET" and re.search(r"[\\$'\"`]", value):
        # It stands in .env.local as it is, and no quoting suits every reader of such files.
        return f"{variable} holds one of \\ $ ' \" `, which env files cannot carry. Set it without."
    try:
        value.encode()
    except UnicodeEncodeError:
        return f"{variable} is not UTF-8. Set it again, in a terminal that is."
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        return f"{variable} holds a control character (a line break, perhaps). Set it without."
    return ""


class Rotation:
    """What is known of a rotation that is not settled: old and new secrets, and whose it is."""

    def __init__(self, directory: Path) -> None:
        """Take the directory of the secrets; touches nothing."""
        self.secrets = directory
        self.folder = directory.parent / "rotation"

    def begin(self, names: list[str], run: str) -> None:
        """Write down the old secrets and new ones, all at once. Raises OSError."""
        partial = self.folder.with_name(".rotation.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        for part in ("old", "new"):
            (partial / part).mkdir(mode=0o700)
        for name in names:
            old = (self.secrets / name).read_bytes()
            new = secrets.token_urlsafe(LENGTH).encode() + b"\n"
            for part, content in (("old", old), ("new", new)):
                with open(partial / part / name, "xb", opener=private) as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
        (partial / "run.json").write_text(json.dumps({"run": run}), encoding="utf-8")
        os.rename(partial, self.folder)  # fails where another run was first

    def run(self) -> str | None:
        """Whose it is; None when there is none."""
        if not self.folder.exists():
            return None
        try:
            return str(json.loads((self.folder / "run.json").read_text(encoding="utf-8"))["run"])
        except (OSError, ValueError, LookupError, TypeError):
            return ""

    def names(self) -> list[str]:
        """The secrets it is about."""
        return sorted(path.name for path in (self.folder / "old").iterdir())

    def write(self, module: AnsibleModule, part: str) -> None:
        """Make the old or the new ones the stack's secrets. Raises OSError."""
        for name in self.names():
            content = (self.folder / part / name).read_text(encoding="utf-8")
            write_private(module, self.secrets / name, content, 0o600)

    def settle(self) -> None:
        """Forget it; the renaming is the moment. Raises OSError."""
        over = self.folder.with_name(".rotation.over")
        shutil.rmtree(over, ignore_errors=True)
        if self.folder.exists():
            os.rename(self.folder, over)
        shutil.rmtree(over, ignore_errors=True)


def private(path: str, flags: int) -> int:
    """An opener for files that only their owner can read."""
    return os.open(path, flags, 0o600)


def rotate(module: AnsibleModule) -> None:
    """Do what C(state) says, other than C(present); ends the module."""
    p = module.params
    rotation = Rotation(Path(p["directory"]))
    if not module.check_mode:
        try:
            if p["state"] == "rotated":
                rotation.begin(p["names"], p["run"])
                rotation.write(module, "new")
            elif p["state"] == "restored":
                rotation.write(module, "old")
            else:
                rotation.settle()
        except OSError as error:
            module.fail_json(
                clear=True,
                msg=f"{error.filename or rotation.folder} cannot be written: {error.strerror}.",
            )
    module.exit_json(changed=p["state"] == "rotated")


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "given": {"type": "dict", "default": {}, "no_log": True},
            "variables": {"type": "dict", "required": True},
            "minimum": {"type": "dict", "default": {}},
            "optional": {"type": "list", "elements": "str", "default": []},
            "state": {
                "type": "str",
                "default": "present",
                "choices": ["present", "rotated", "restored", "settled"],
            },
            "names": {"type": "list", "elements": "str", "default": []},
            "run": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    p = module.params
    if p["state"] != "present":
        rotate(module)
        return
    given = {name: value for name, value in p["given"].items() if value is not None}
    problems = [
        line
        for name, value in given.items()
        if (value or name not in p["optional"])
        and (line := problem(p["variables"][name], str(value), int(p["minimum"].get(name, 1))))
    ]
    if problems:
        module.fail_json(clear=True, msg="\n".join(problems))

    directory = Path(p["directory"])
    changed: list[str] = []
    undone: list[str] = []
    rotation = Rotation(directory)
    owner = rotation.run()
    if owner is not None and owner != p["run"] and is_alive(owner):
        module.fail_json(
            clear=True,
            msg=f"Another run (process {owner.split(':')[1]}) is changing this stack's secrets. "
            "Let it end first.",
        )
    try:
        if not module.check_mode:
            directory.mkdir(parents=True, exist_ok=True)
            for path in (directory, directory.parent):  # the stack's own folder, and this one
                if path.stat().st_mode & 0o777 != 0o700:
                    path.chmod(0o700)
        if owner is not None:
            undone = rotation.names()
            rotation.write(module, "old")
        for name in p["variables"]:
            path = directory / name
            if name in p["optional"] and not given.get(name):
                if name in given and path.exists():
                    if not module.check_mode:
                        path.unlink()
                    changed.append(name)
                continue
            if name in given:
                if write_private(module, path, str(given[name]) + "\n", 0o600):
                    changed.append(name)
                continue
            try:
                if read_secret(path):
                    continue
            except FileNotFoundError:
                pass
            value = secrets.token_urlsafe(LENGTH)
            write_private(module, path, value + "\n", 0o600)
            changed.append(name)
    except OSError as error:
        module.fail_json(
            clear=True,
            msg=f"{error.filename or directory} cannot be used: {error.strerror}. "
            "Another place for the stack's state: ./dev up -- -e state_dir=<folder>",
        )
    # Truth values in the order of `variables`: Ansible masks given values wherever they occur in a
    # result, and a password may well be "postgres".
    module.exit_json(
        changed=bool(changed),
        renewed=[name in changed for name in p["variables"]],
        undone=[name in undone for name in p["variables"]],
    )


if __name__ == "__main__":
    main()
