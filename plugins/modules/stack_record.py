#!/usr/bin/python
"""Ansible module: what a stack's state folder says of its volumes, and of who is at work on it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_record
short_description: Record which volumes are in use, what was found right, or that this run is at work
description:
  - With C(current), writes C(volumes.json). From that moment on these volumes are in use.
  - With C(remembered), writes C(remembered.json), what this run found or made right.
  - Without either, notes in the file C(run) that this run is at work on the stack, and fails if another one
    is. Nothing has to be undone afterwards, since a run counts only while its process is there.
options:
  directory:
    description: The stack's state directory.
    type: path
    required: true
  run:
    description: The run, as the callback names it. Where it is empty nothing is noted.
    type: str
    default: ""
  current:
    description: The volume in use, by service.
    type: dict
  previous:
    description: The volume before, by service, which is kept as the way back.
    type: dict
    default: {}
  loading:
    description:
      - Volumes that are being made, or are about to be removed. They are of no use if the run ends on the
        way, and the next one removes them.
    type: list
    elements: str
    default: []
  remembered:
    description: By service, its description and what was found of it; see the filter C(remembered).
    type: dict
  why:
    description: What for, for people.
    type: str
    default: ""
attributes:
  check_mode:
    support: full
    description: In check mode it only looks.
author: HYVVE
"""

import fcntl
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.dev_stack import REMEMBERED, another_run, write_private


def claim(path: Path, run: str, check_mode: bool) -> str:
    """Note in a file that a run is at work; "" or a line on another run that is. Raises OSError.

    In check mode nothing is noted.
    """
    if check_mode:
        return str(another_run(path.read_text(encoding="utf-8") if path.exists() else "", run))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with open(handle, "r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # for the moment between reading and writing
        if other := another_run(file.read(), run):
            return str(other)
        file.seek(0)
        file.truncate()
        file.write(run)
    return ""


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "run": {"type": "str", "default": ""},
            "current": {"type": "dict"},
            "previous": {"type": "dict", "default": {}},
            "loading": {"type": "list", "elements": "str", "default": []},
            "remembered": {"type": "dict"},
            "why": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    p: dict[str, Any] = module.params
    directory = Path(p["directory"])
    try:
        if p["current"] is not None:
            record = {key: p[key] for key in ("current", "previous", "loading", "why")}
            record["at"] = datetime.now(UTC).isoformat(timespec="seconds")
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            text = json.dumps(record, indent=1) + "\n"
            module.exit_json(changed=write_private(module, directory / "volumes.json", text, 0o600))
        if p["remembered"] is not None:
            write_private(
                module, directory / REMEMBERED, json.dumps(p["remembered"], indent=1), 0o600
            )
            module.exit_json(changed=False)
        other = claim(directory / "run", p["run"], module.check_mode) if p["run"] else ""
    except OSError as error:
        module.fail_json(
            clear=True,
            msg=f"{error.filename or directory} cannot be used: {error.strerror}. "
            "Another place for the stack's state: ./dev up -- -e state_dir=<folder>",
        )
    if other:
        module.fail_json(clear=True, msg=other)
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
