#!/usr/bin/python
"""Ansible module: the environment file the platform's apps read, and the same as text."""

from __future__ import annotations

DOCUMENTATION = r"""
module: env_file
short_description: Keep variables in a dotenv file up to date, and leave all else in it alone
description:
  - Replaces the lines of its own variables where they stand and appends the missing ones. Lines,
    comments and variables that a person wrote stay as they are.
options:
  path:
    description: The file, mode 0600. Empty writes none.
    type: str
    default: ""
  secrets:
    description: Directory with the secrets, a file each.
    type: path
    required: true
  variables:
    description: Value by name, with C({secret}) and C({secret|url}) replaced.
    type: dict
    required: true
  state:
    description: Whether to write the file, or to give back the variables themselves.
    choices: [present, values]
    default: present
    type: str
attributes:
  check_mode:
    support: full
    description: Tells whether it would write.
  diff_mode:
    support: none
    description: The values hold secrets.
  idempotent:
    support: full
    description: A file that is as described is not touched.
author: HYVVE
"""

import re
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.dev_stack import file_digest, fill, read_secret, write_private

HEADER = (
    "# Connection strings of the local stack, kept up to date by ./dev up. "
    "Other lines are left as they are.\n"
)
ASSIGNMENT = re.compile(r"^\ufeff?\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=")
PLAIN = re.compile(r"[A-Za-z0-9_./:@%+=,-]*")


def quoted(value: str) -> str:
    """A value as dotenv readers and shells both understand it."""
    if PLAIN.fullmatch(value):
        return value
    if "'" not in value:
        return f"'{value}'"
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def merged(text: str, values: dict[str, str]) -> str:
    """`text` with each variable set once, in its first place, and the missing ones appended."""
    # Split at line feeds alone and keep what ends a line: foreign lines survive byte for byte.
    ending = "\r\n" if "\r\n" in text else "\n"
    lines, left = [], dict(values)
    for line in re.findall(r"[^\n]*\n|[^\n]+", text):
        match = ASSIGNMENT.match(line)
        if match is None or match[1] not in values:
            lines.append(line)
        elif match[1] in left:
            lines.append(f"{match[1]}={quoted(left.pop(match[1]))}{ending}")
    if not text:
        lines.append(HEADER)
    if left and lines and not lines[-1].endswith("\n"):
        lines[-1] += ending
    lines += [f"{name}={quoted(value)}{ending}" for name, value in left.items()]
    return "".join(lines)


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "str", "default": ""},
            "secrets": {"type": "path", "required": True, "no_log": False},
            "variables": {"type": "dict", "required": True},
            "state": {"type": "str", "default": "present", "choices": ["present", "values"]},
        },
        supports_check_mode=True,
    )
    kept = Path(module.params["secrets"])
    try:
        known = {path.name: read_secret(path) for path in kept.iterdir() if path.is_file()}
        values = {name: fill(text, known) for name, text in module.params["variables"].items()}
    except (FileNotFoundError, KeyError):
        if module.check_mode and module.params["state"] == "present":
            module.exit_json(changed=bool(module.params["path"]))
        module.fail_json(
            clear=True, msg=f"This stack has no secrets yet in {kept}. Start it first: ./dev up"
        )
    if module.params["state"] == "values":
        shell = "\n".join(f"{name}={quoted(value)}" for name, value in values.items())
        module.exit_json(changed=False, values=values, text=shell)
    if not module.params["path"]:
        module.exit_json(changed=False, found=file_digest("", kept))
    path = Path(module.params["path"]).expanduser()
    try:
        text = path.read_bytes().decode() if path.exists() else ""
        changed = write_private(module, path.resolve(), merged(text, values), 0o600)
    except (OSError, UnicodeDecodeError) as error:
        module.fail_json(
            clear=True,
            msg=f"{path} cannot be written: {error}. Another place: ./dev up -- -e env_file=<path>, "
            "or none: -e env_file=",
        )
    module.exit_json(changed=changed, path=str(path), found=file_digest(str(path), kept))


if __name__ == "__main__":
    main()
