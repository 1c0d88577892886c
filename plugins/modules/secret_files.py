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
  - A mounted file stays the one it was when it is replaced; a mounted folder shows the new one.
    What a running service is to see at once is therefore in a folder of its own, C(mount).
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
    description: Content by file name. Not for C(state=applied).
    type: dict
    default: {}
  optional:
    description:
      - Names of secrets that need not be there. A file that holds an absent one is left out, and
        removed if it was written before; C(written) lists the others.
    type: list
    elements: str
    default: []
  live:
    description:
      - Names of secrets that a running container is given without being replaced, so that they do
        not count for the C(fingerprint). With any, the files are in the folder C(mounted) below
        C(directory).
      - What a file with such a secret held before is kept beside it, a line each, as
        C(<file>.before), and C(pending) is true, until the module is run with C(state=applied).
    type: list
    elements: str
    default: []
  state:
    description: C(applied) notes that the service works with the files as they are.
    choices: [present, applied]
    default: present
    type: str
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
BEFORE = ".before"
# Made with the mounted folder, and part of the fingerprint: a container that has a folder mounted
# which was removed since then sees nothing of the one in its place.
IDENTITY = ".id"


def write_live(module: AnsibleModule, path: Path, content: str) -> bool:
    """Write a file with a secret that is changed live, keeping what it held. Raises OSError."""
    before = path.with_name(path.name + BEFORE)
    try:
        old = path.read_bytes().decode()
    except FileNotFoundError:
        old = content
    if old != content:
        kept = before.read_bytes().decode() if before.exists() else ""
        old = old.removesuffix("\n")
        write_private(module, before, f"{kept}{old}\n", 0o444)
    changed: bool = write_private(module, path, content, 0o444)
    return changed


def leftovers(directory: Path) -> list[Path]:
    """What waits for state=applied: earlier contents, and files from where they used to be."""
    mounted = list((directory / "mounted").glob("[!.]*"))
    moved = [directory / path.name for path in mounted]
    return [p for p in mounted if p.suffix == BEFORE] + [p for p in moved if p.is_file()]


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "secrets": {"type": "path", "required": True, "no_log": False},
            "files": {"type": "dict", "default": {}},
            "optional": {"type": "list", "elements": "str", "default": []},
            "live": {"type": "list", "elements": "str", "default": []},
            "state": {"type": "str", "default": "present", "choices": ["present", "applied"]},
        },
        supports_check_mode=True,
    )
    directory, kept = Path(module.params["directory"]), Path(module.params["secrets"])
    live = set(module.params["live"])
    mount = directory / "mounted" if live else directory
    changed = False
    contents: dict[str, str] = {}
    pending: list[Path] = []
    identity = ""
    try:
        if module.params["state"] == "applied":
            for path in [] if module.check_mode else leftovers(directory):
                path.unlink()
            module.exit_json(changed=False)
            return
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
            if live:
                mount.mkdir(exist_ok=True)
                if mount.stat().st_mode & 0o777 != 0o755:
                    mount.chmod(0o755)  # for the container's user; the directory keeps others out
                if not (mount / IDENTITY).exists():
                    write_private(module, mount / IDENTITY, random.token_hex(8), 0o444)
        for name, content in contents.items():
            if live & {match[1] for match in PLACEHOLDER.finditer(files[name])}:
                changed |= write_live(module, mount / name, content)
            else:
                changed |= write_private(module, mount / name, content, 0o444)
        for name in module.params["files"].keys() - files.keys():
            if (mount / name).exists():
                changed = True
                if not module.check_mode:
                    (mount / name).unlink()
        if live:
            pending = leftovers(directory)
            identity = read_secret(mount / IDENTITY) if (mount / IDENTITY).exists() else ""
    except OSError as error:
        module.fail_json(
            clear=True,
            msg=f"{error.filename or directory} cannot be used: {error.strerror}. "
            "Another place for the stack's state: ./dev up -- -e state_dir=<folder>",
        )
    counting = {
        name: fill(text, values | dict.fromkeys(live, "")) if live else contents[name]
        for name, text in files.items()
    }
    parts = [part for name in sorted(counting) for part in (name, counting[name])]
    parts += [identity] if live else []
    module.exit_json(
        changed=changed,
        directory=str(directory),
        mount=str(mount),
        pending=bool(pending),
        fingerprint=fingerprint(key, *parts),
        written=sorted(contents),
    )


if __name__ == "__main__":
    main()
