#!/usr/bin/python
"""Ansible module: write files that hold secrets, without the secrets passing through Ansible."""

from __future__ import annotations

DOCUMENTATION = r"""
module: secret_files
short_description: Render files from templates and secret files
description:
  - In each content, C({name}) becomes the secret of that name; C({name|url}), C({name|pgpass})
    and C({name|redis}) quote it for a URL, a PostgreSQL password file and redis.conf.
  - The files are meant to be mounted into a container whose user is not known here, so they are
    readable by anyone who can reach them; the directory has mode 0700, so only its owner can.
options:
  directory:
    description: Where the files go; made with mode 0700.
    type: path
    required: true
  secrets:
    description: Directory with the secrets, a file each.
    type: path
    required: true
  files:
    description: Content by file name.
    type: dict
    required: true
  optional:
    description:
      - Names of secrets that need not be there. A file that holds an absent one is left out, and
        removed if it was written before; C(written) lists the others.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: full
    description: Tells whether it would write.
  diff_mode:
    support: none
    description: The files hold secrets.
  idempotent:
    support: full
    description: Files that are as described are not touched.
author: HYVVE
"""

import secrets as random
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.dev_stack import (
    PLACEHOLDER,
    fill,
    fingerprint,
    read_secret,
    write_private,
)

KEY = "fingerprint_key"


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "secrets": {"type": "path", "required": True, "no_log": False},
            "files": {"type": "dict", "required": True},
            "optional": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    directory, kept = Path(module.params["directory"]), Path(module.params["secrets"])
    changed = False
    contents: dict[str, str] = {}
    try:
        absent = {name for name in module.params["optional"] if not (kept / name).exists()}
        files = {
            file: text
            for file, text in module.params["files"].items()
            if not absent & {match[1] for match in PLACEHOLDER.finditer(text)}
        }
        names = {match[1] for text in files.values() for match in PLACEHOLDER.finditer(text)}
        values: dict[str, str] = {}
        for name in names:
            try:
                values[name] = read_secret(kept / name)
            except FileNotFoundError:
                if not module.check_mode:
                    raise
                values[name] = "not made yet"
        contents = {name: fill(text, values) for name, text in files.items()}
        key_file = kept / KEY
        if not key_file.exists():
            changed |= write_private(module, key_file, random.token_urlsafe(32) + "\n", 0o600)
        key = read_secret(key_file) if key_file.exists() else ""
        if not module.check_mode:
            directory.mkdir(parents=True, exist_ok=True)
            if directory.stat().st_mode & 0o777 != 0o700:
                directory.chmod(0o700)
        for name, content in contents.items():
            changed |= write_private(module, directory / name, content, 0o444)
        for name in module.params["files"].keys() - files.keys():
            if (directory / name).exists():
                changed = True
                if not module.check_mode:
                    (directory / name).unlink()
    except OSError as error:
        module.fail_json(
            clear=True,
            msg=f"{error.filename or directory} cannot be used: {error.strerror}. "
            "Another place for the stack's state: ./dev up -- -e state_dir=<folder>",
        )
    parts = [part for name in sorted(contents) for part in (name, contents[name])]
    module.exit_json(
        changed=changed,
        directory=str(directory),
        fingerprint=fingerprint(key, *parts),
        written=sorted(contents),
    )


if __name__ == "__main__":
    main()
