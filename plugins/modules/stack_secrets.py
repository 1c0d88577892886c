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
attributes:
  check_mode:
    support: full
    description: Tells whether it would write.
  idempotent:
    support: full
    description: A kept secret is never generated anew.
author: HYVVE
"""

import re
import secrets
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.dev_stack import read_secret, write_private

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


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "given": {"type": "dict", "default": {}, "no_log": True},
            "variables": {"type": "dict", "required": True},
            "minimum": {"type": "dict", "default": {}},
            "optional": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    p = module.params
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
    try:
        if not module.check_mode:
            directory.mkdir(parents=True, exist_ok=True)
            for path in (directory, directory.parent):  # the stack's own folder, and this one
                if path.stat().st_mode & 0o777 != 0o700:
                    path.chmod(0o700)
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
    module.exit_json(changed=bool(changed), renewed=[name in changed for name in p["variables"]])


if __name__ == "__main__":
    main()
