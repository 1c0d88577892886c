#!/usr/bin/python
"""Ansible module: the backups of a stack as folders with a manifest."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_backups
short_description: Begin, finish, check, list, import and discard backups
description:
  - A backup is a folder with a C(manifest.json), which holds the size and checksum of each file.
    While it is being made its name is C(.NAME.partial); the rename at the end is what makes it one.
  - The files themselves are written and read by the jobs of the roles.
options:
  directory:
    description: Where the backups are, a folder each.
    type: path
    required: true
  action:
    description:
      - C(begin) makes the folder of a backup to be, and removes what interrupted ones left.
      - C(finish) writes its manifest and gives it its name; older ones beyond C(keep) go.
      - C(discard) removes one that was begun.
      - C(check) reads one and compares every file with the manifest.
      - C(import) takes one from the archive C(source), checked.
      - C(list) tells of all.
    type: str
    required: true
    choices: [begin, finish, discard, check, import, list]
  name:
    description: The backup. For C(begin) a generated one when empty; for C(check), C(latest) is the newest.
    type: str
    default: ""
  source:
    description: An archive that C(./dev backup --to-stdout) wrote.
    type: path
  need:
    description: Bytes that C(begin) or C(import) wants free where the backups are.
    type: int
    default: 0
  manifest:
    description: What C(finish) notes beside the files and what these say of themselves.
    type: dict
    default: {}
  keep:
    description: How many backups with generated names stay; 0 for all.
    type: int
    default: 0
attributes:
  check_mode:
    support: full
    description: C(begin), C(finish), C(discard) and C(import) only look.
author: HYVVE
"""

import hashlib
import json
import os
import re
import shutil
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.dev_stack import human_size

SCHEMA = 1
GENERATED = re.compile(r"\d{8}T\d{6}Z")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Refusal(Exception):
    """What is wrong, and what to do about it, as lines for a person."""


def checked_name(name: str) -> str:
    """`name`, or Refusal where it could not be that of a folder."""
    if not NAME.fullmatch(name) or name == "latest":
        raise Refusal(
            f"{name!r} cannot be the name of a backup: 1 to 64 letters, digits, ., _ and -, the first a "
            "letter or digit, and not latest. Such as: ./dev backup before-import"
        )
    return name


def sum_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Have a file's or a folder's content on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def files_below(folder: Path) -> list[str]:
    """The files of a backup but its manifest, by their path within it."""
    found = (path for path in folder.rglob("*") if path.is_file())
    names = (str(path.relative_to(folder)) for path in found)
    return sorted(name for name in names if name != "manifest.json")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the backup in a folder. Raises Refusal."""
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text("utf-8"))
        if manifest["schema"] != SCHEMA:
            raise Refusal(
                f"The backup {folder.name} is of schema {manifest['schema']}, and this version reads "
                f"{SCHEMA}. Use the version of this project that made it."
            )
        assert all(isinstance(one, dict) for one in manifest["services"].values())
        assert isinstance(manifest["at"], str)
        for file in manifest["files"].values():
            assert isinstance(file["bytes"], int) and isinstance(file["sha256"], str)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        raise Refusal(f"{folder} is no whole backup: its manifest.json cannot be read.") from error
    return manifest


def existing(directory: Path) -> list[dict[str, Any]]:
    """All backups, the newest first, each as its manifest with `path` and `bytes`.

    One whose manifest cannot be read has a `problem` and little else.
    """
    backups: list[dict[str, Any]] = []
    for folder in directory.iterdir() if directory.is_dir() else ():
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        try:
            one = read_manifest(folder)
            one["bytes"] = sum(file["bytes"] for file in one["files"].values())
        except Refusal as refusal:
            made = datetime.fromtimestamp(folder.stat().st_mtime, UTC)
            one = {"at": made.isoformat(timespec="seconds"), "bytes": None, "services": {}}
            one["problem"] = str(refusal)
        backups.append(one | {"name": folder.name, "path": str(folder)})
    return sorted(backups, key=lambda one: (str(one["at"]), one["name"]), reverse=True)


def chosen(directory: Path, name: str) -> Path:
    """The folder of the backup of that name, or of the newest. Raises Refusal."""
    backups = [one["name"] for one in existing(directory) if "problem" not in one]
    if name == "latest":
        if not backups:
            raise Refusal(f"There is no backup in {directory} yet. Make one: ./dev backup")
        return directory / str(backups[0])
    folder = directory / checked_name(name)
    if not folder.is_dir():
        known = f"There are: {', '.join(backups[:8])}." if backups else "There is none yet."
        raise Refusal(f"There is no backup {name}. {known} All of them: ./dev backups")
    return folder


def check(folder: Path) -> dict[str, Any]:
    """The manifest of a backup all of whose files are as it says. Raises Refusal."""
    manifest = read_manifest(folder)
    named, found = manifest["files"], files_below(folder)
    wrong = [f"{name} is missing" for name in sorted(set(named) - set(found))]
    wrong += [f"{name} does not belong to it" for name in sorted(set(found) - set(named))]
    for name in sorted(set(named) & set(found)):
        actual = (folder / name).stat().st_size
        if actual != named[name]["bytes"]:
            wrong.append(f"{name} has {actual} bytes instead of {named[name]['bytes']}")
        elif sum_of(folder / name) != named[name]["sha256"]:
            wrong.append(f"{name} was altered (its checksum differs)")
    if wrong:
        raise Refusal(
            f"The backup {folder.name} is damaged: {'; '.join(wrong[:3])}. Nothing was touched. "
            "Use another one: ./dev backups"
        )
    return manifest


def ask_for_room(directory: Path, need: int) -> None:
    """Refuse where the disk has less than `need` bytes free."""
    free = shutil.disk_usage(directory).free
    if free < need:
        raise Refusal(
            f"{directory} has {human_size(free)} free, and this may take {human_size(need)}. Nothing was touched. "
            "Remove backups that nobody needs (./dev backups lists them with their sizes), or free "
            "space otherwise."
        )


def begin(directory: Path, name: str, need: int) -> Path:
    """Make the folder of a backup to be, with what interrupted ones left gone. Raises Refusal."""
    name = checked_name(name or datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"))
    if (directory / name).exists():
        raise Refusal(f"There is a backup {name} already. Choose another name; all: ./dev backups")
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in directory.glob(".*.partial"):
        shutil.rmtree(left)
    ask_for_room(directory, need)
    folder = directory / f".{name}.partial"
    folder.mkdir(mode=0o700)
    return folder


def finish(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Write the manifest of a backup that was begun, and give it its name."""
    name = folder.name.removeprefix(".").removesuffix(".partial")
    files = {}
    for path in files_below(folder):
        files[path] = {"bytes": (folder / path).stat().st_size, "sha256": sum_of(folder / path)}
        flush(folder / path)
    whole = {
        "schema": SCHEMA,
        "name": name,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        **manifest,
        "files": files,
    }
    text = folder / "manifest.json"
    with open(
        os.open(text, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
    ) as file:
        file.write(json.dumps(whole, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    flush(folder)
    folder.rename(folder.parent / name)
    flush(folder.parent)
    return whole


def prune(directory: Path, keep: int, made: str) -> list[str]:
    """Remove the oldest backups with generated names beyond `keep`, never `made`; their names."""
    generated = [
        one["name"]
        for one in existing(directory)
        if GENERATED.fullmatch(one["name"]) and "problem" not in one
    ]
    gone = [name for name in generated[keep:] if name != made] if keep else []
    for name in gone:
        # Out of sight first: one that is half removed must not be taken for one.
        hidden = directory / f".{name}.partial"
        (directory / name).rename(hidden)
        shutil.rmtree(hidden)
    return gone


def take(directory: Path, source: Path, need: int) -> Path:
    """The folder of the backup that was in an archive, checked. Raises Refusal."""
    try:
        with tarfile.open(source) as archive:
            members = archive.getmembers()
            names = {member.name.split("/")[0] for member in members}
            if len(names) != 1 or not all(one.isfile() or one.isdir() for one in members):
                raise tarfile.TarError("it is not the archive of one backup")
            (name,) = names
            checked_name(name)
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            for left in directory.glob(".*.partial"):
                shutil.rmtree(left)
            ask_for_room(directory, need + sum(member.size for member in members))
            unpacked = directory / f".{name}.partial"
            unpacked.mkdir(mode=0o700)
            try:
                archive.extractall(unpacked, filter="data")
                folder = unpacked / name
                manifest = check(folder)
                for path in (folder, *folder.rglob("*")):
                    path.chmod(0o700 if path.is_dir() else 0o600)
                if (directory / name).exists():
                    if read_manifest(directory / name) != manifest:
                        raise Refusal(
                            f"There is another backup named {name} here already. Move it away: "
                            f"mv {directory / name} {directory / name}-here"
                        )
                else:
                    folder.rename(directory / name)
            finally:
                shutil.rmtree(unpacked)
    except (OSError, EOFError, tarfile.TarError) as error:
        why = getattr(error, "strerror", None) or error
        raise Refusal(
            f"{source} is no archive of a backup, or was cut short ({why}). Nothing was touched. One is "
            "made by: ./dev backup --to-stdout > FILE"
        ) from error
    return directory / name


def described(folder: Path) -> dict[str, Any]:
    """What the files of a backup that was begun say of it, service by service."""
    services: dict[str, Any] = {}
    if (folder / "postgres/server.json").exists():
        databases = json.loads((folder / "postgres/databases.json").read_text("utf-8"))
        for one in databases:
            rows = (folder / f"postgres/{one['oid']}.rows").read_text("utf-8").splitlines()
            counts = [int(line.rpartition(" ")[2]) for line in rows if line.startswith("table ")]
            one |= {"tables": len(counts), "rows": sum(counts)}
        server = json.loads((folder / "postgres/server.json").read_text("utf-8"))
        services["postgres"] = {**server, "databases": databases}
    for service in ("redis", "pgadmin"):
        if (folder / service / "summary").exists():
            lines = (folder / service / "summary").read_text("utf-8").splitlines()
            pairs = (line.rpartition(" ") for line in lines if line)
            services[service] = {"summary": {key: value for key, _, value in pairs}}
    return services


def act(p: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Do what the options ask; what the module returns. Raises Refusal and OSError."""
    directory, action, name = Path(p["directory"]), p["action"], p["name"]
    if action == "list":
        return {"backups": existing(directory)}
    if action == "check":
        folder = chosen(directory, name)
        return {"path": str(folder), "name": folder.name, "manifest": check(folder)}
    if action == "import":
        if check_mode:
            return {"changed": True}
        folder = take(directory, Path(p["source"]), p["need"])
        return {"changed": True, "path": str(folder), "name": folder.name}
    if action == "begin":
        if check_mode:
            checked_name(name or "generated")
            return {"changed": True}
        folder = begin(directory, name, p["need"])
        return {"changed": True, "path": str(folder), "name": folder.name[1:-8]}
    folder = directory / f".{checked_name(name)}.partial"
    if check_mode:
        return {"changed": True}
    if action == "discard":
        shutil.rmtree(folder, ignore_errors=True)
        return {"changed": False}
    manifest = finish(folder, {**p["manifest"], "services": described(folder)})
    total = sum(file["bytes"] for file in manifest["files"].values())
    return {
        "changed": True,
        "path": str(directory / manifest["name"]),
        "holds": human_size(total),
        "pruned": prune(directory, p["keep"], manifest["name"]),
        "manifest": manifest,
    }


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "action": {
                "type": "str",
                "required": True,
                "choices": ["begin", "finish", "discard", "check", "import", "list"],
            },
            "name": {"type": "str", "default": ""},
            "source": {"type": "path"},
            "need": {"type": "int", "default": 0},
            "manifest": {"type": "dict", "default": {}},
            "keep": {"type": "int", "default": 0},
        },
        required_if=[("action", "import", ["source"])],
        supports_check_mode=True,
    )
    try:
        module.exit_json(**{"changed": False} | act(module.params, module.check_mode))
    except Refusal as refusal:
        module.fail_json(clear=True, msg=str(refusal))
    except OSError as error:
        module.fail_json(
            clear=True,
            msg=f"{error.filename or module.params['directory']} cannot be used: {error.strerror}. "
            "Another place for the stack's state: ./dev up -- -e state_dir=<folder>",
        )


if __name__ == "__main__":
    main()
