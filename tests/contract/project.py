"""Where the project's files are, and how to read them."""

import importlib.util
import json
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from jinja2.nativetypes import NativeEnvironment

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())
SERVICES = ("postgres", "redis", "agentos", "pgadmin")
# Folders with files that are not the project's own.
FOREIGN = {".venv", ".git", ".cache", "node_modules", ".pytest_cache", ".mypy_cache", ".ruff_cache"}


@cache
def load_plugin(kind: str, name: str) -> ModuleType:
    """A plugin as a module.

    Modules import their shared code as `ansible.module_utils.dev_stack`, a package that only
    Ansible's own packaging makes; here that name is given to the file itself.
    """
    full = "ansible.module_utils.dev_stack" if kind == "module_utils" else f"contract_{kind}_{name}"
    if kind == "modules":
        load_plugin("module_utils", "dev_stack")
    spec = importlib.util.spec_from_file_location(full, ROOT / "plugins" / kind / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[full] = module
    spec.loader.exec_module(module)
    return module


@cache
def read_yaml(path: str) -> Any:
    """A YAML file of the project, by its path from the root."""
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def options(role: str, entry_point: str = "main") -> dict[str, dict[str, Any]]:
    """The options in a role's argument spec."""
    specs = read_yaml(f"roles/{role}/meta/argument_specs.yml")["argument_specs"]
    return dict(specs[entry_point].get("options") or {})


def entry_points(role: str) -> list[str]:
    """The names of a role's entry points."""
    return list(read_yaml(f"roles/{role}/meta/argument_specs.yml")["argument_specs"])


def defaults(role: str) -> dict[str, Any]:
    """A role's defaults."""
    return dict(read_yaml(f"roles/{role}/defaults/main.yml") or {})


def tasks(role: str, file: str) -> list[dict[str, Any]]:
    """The tasks in a role's task file, those in blocks and in files that it imports among them."""
    found: list[dict[str, Any]] = []
    for task in flat(read_yaml(f"roles/{role}/tasks/{file}.yml")):
        imported = task.get("ansible.builtin.import_tasks")
        found += tasks(role, imported.removesuffix(".yml")) if imported else [task]
    return found


def flat(entries: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Tasks with those of their blocks."""
    for entry in entries:
        yield entry
        for part in ("block", "rescue", "always"):
            yield from flat(entry.get(part) or [])


def strings(value: Any) -> Iterator[str]:
    """All strings in a structure, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from strings(key)
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def files(*suffixes: str) -> list[Path]:
    """The project's files with these suffixes."""
    found: list[Path] = []

    def walk(folder: Path) -> None:
        for path in sorted(folder.iterdir()):
            if path.is_symlink() or path.name in FOREIGN:
                continue
            if path.is_dir():
                walk(path)
            elif path.suffix in suffixes:
                found.append(path)

    walk(ROOT)
    return found


def settings() -> dict[str, Any]:
    """The settings that a person may change."""
    return dict(read_yaml("inventory/group_vars/all/settings.yml"))


def evaluated(
    expression: str, variables: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> Any:
    """The value of a Jinja expression that uses no filters of Ansible's.

    Takes the variables, and the environment variables that are set; `omit` becomes "omitted".
    """

    def lookup(_: str, name: str) -> str:
        return (environment or {}).get(name, "")

    native = NativeEnvironment().from_string(expression)
    return native.render(variables, lookup=lookup, omit="omitted")


def environment_names() -> set[str]:
    """The environment variables from which settings and secrets are taken."""
    text = "".join(map(str, strings(settings())))
    names = set(re.findall(r"ansible\.builtin\.env', '([A-Z_]+)'", text))
    wiring = read_yaml("inventory/group_vars/all/wiring.yml")
    return names | set(wiring["stack_secret_variables"].values())


def option_rows(role: str) -> list[str]:
    """A role's options as rows of the table in its README."""
    rows = []
    for name, option in options(role).items():
        default = option.get("default")
        shown = json.dumps(default) if isinstance(default, (bool, list, dict)) else default
        cell = "" if shown in {None, "", "[]", "{}"} else f"`{shown}`".replace("|", "\\|")
        description = option["description"]
        text = " ".join(description) if isinstance(description, list) else description
        text = re.sub(r"C\((.*?)\)", r"`\1`", text).replace("|", "\\|")
        kind = f"list of {option['elements']}" if option["type"] == "list" else option["type"]
        if "choices" in option and option["type"] != "list":
            kind = ", ".join(f"`{choice}`" for choice in option["choices"])
        rows.append(f"| `{name}` | {kind} | {cell} | {text} |")
    return rows
