"""The documentation: links lead somewhere, and what it names exists."""

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from .project import (
    ROLES,
    ROOT,
    entry_points,
    environment_names,
    evaluated,
    files,
    load_plugin,
    option_rows,
    options,
    read_yaml,
    settings,
)

PAGES = files(".md")
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Files whose text a person gets to read, besides the pages.
SPEAKING = [
    path
    for path in files(".py", ".yml", ".sh")
    if path.relative_to(ROOT).parts[0] in {"playbooks", "roles", "plugins", "inventory"}
]


def named(path: Path) -> str:
    """A file by its path from the root, for the names of tests."""
    return str(path.relative_to(ROOT))


def without_code(text: str) -> str:
    """A page without its code, in which a bracket is no link."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.*?) *$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = 0
        while (f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(f"{slug}-{number}" if number else slug)
    return found


# --- links --------------------------------------------------------------------------------------


def broken_links(page: Path) -> list[str]:
    """The relative links of a page that lead nowhere."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)", without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page if not path else (page.parent / path).resolve()
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_relative_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# A b\n[1](#a-b) [2](#c) [3](b.md) [4](a.md#a-b) `[5](c.md)`\n")
    assert broken_links(tmp_path / "a.md") == ["#c", "b.md"]


# --- commands -----------------------------------------------------------------------------------


@cache
def launcher_verbs() -> set[str]:
    """The words that `./dev --help` begins a line with."""
    if not (ROOT / "dev").exists():
        pytest.skip("there is no launcher; test_the_launcher_tells_its_verbs fails")
    output = subprocess.run(
        [sys.executable, str(ROOT / "dev"), "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    ).stdout
    lines = re.findall(r"^\s+(?:\./dev )?([a-z][a-z, -]*)", output, re.MULTILINE)
    return {word.strip() for line in lines for word in re.split(r"[ ,]+", line)}


def test_the_launcher_tells_its_verbs() -> None:
    assert (ROOT / "dev").is_file()
    shown = set(re.findall(r"^\| `\./dev ([a-z-]+)", README, re.MULTILINE)) | {"redis-cli"}
    assert len(shown) > 8
    assert shown - launcher_verbs() == set()


@pytest.mark.parametrize("path", [*PAGES, *SPEAKING], ids=named)
def test_commands_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    # "./dev runs it" is prose.
    verbs = set(re.findall(r"\./dev (?!runs\b)([a-z][a-z-]*)", text))
    assert not verbs or verbs - launcher_verbs() == set()


@pytest.mark.parametrize("path", [*PAGES, *SPEAKING], ids=named)
def test_playbooks_exist(path: Path) -> None:
    names = re.findall(r"\bplaybooks/([a-z/-]+\.yml)", path.read_text(encoding="utf-8"))
    assert [name for name in names if not (ROOT / "playbooks" / name).is_file()] == []


@pytest.mark.parametrize("path", [*PAGES, *SPEAKING], ids=named)
def test_variables_in_commands_exist(path: Path) -> None:
    known = set(settings()) | {"handover_file"}
    for playbook in (ROOT / "playbooks").glob("*.yml"):
        for play in read_yaml(named(playbook)):
            known |= set(play.get("vars") or {})
    text = path.read_text(encoding="utf-8")
    used = set(re.findall(r"-e '?\{?([a-z]+(?:_[a-z]+)+)[=:]", text))
    assert used - known == set()


def test_molecule_scenarios_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"molecule test -s ([a-z-]+)", page.read_text(encoding="utf-8")):
            assert (ROOT / "molecule" / name / "molecule.yml").is_file(), (page, name)


def test_package_scripts_exist_and_are_documented() -> None:
    scripts = json.loads((ROOT / "package.json").read_text(encoding="utf-8"))["scripts"]
    shown = set(re.findall(r"`(docker:[a-z]+)`", README))
    assert shown == {name for name in scripts if name.startswith("docker:")}
    verbs = set(re.findall(r"\./dev ([a-z][a-z-]*)", " ".join(scripts.values())))
    assert verbs <= launcher_verbs()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_yaml_in_pages_can_be_read(page: Path) -> None:
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        assert yaml.safe_load(block)


# --- settings -----------------------------------------------------------------------------------


def settings_rows() -> list[list[str]]:
    """The cells of the README's table of settings."""
    table = README.partition("| setting | variable |")[2].partition("\n\n")[0]
    lines = [line for line in table.splitlines()[2:] if line.startswith("|")]
    return [re.split(r" *\| *", line)[1:-1] for line in lines]


def default_of(name: str) -> Any:
    """A setting's default; that of an environment variable where it is taken from one."""
    value = settings()[name]
    match = re.search(r"default\((.*), true\)", str(value))
    if match is None:
        return "" if "lookup(" in str(value) else value
    return match[1].strip("'")


def test_settings_in_the_readme_exist() -> None:
    rows = settings_rows()
    assert len(rows) > 10
    text = "\n".join("|".join(row) for row in rows)
    names = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", text))
    assert names - set(settings()) == set()


def test_all_settings_are_in_the_readme() -> None:
    missing = [n for n in settings() if n != "registry_images" and f"`{n}`" not in README]
    assert missing == []


def test_defaults_in_the_readme_are_the_settings() -> None:
    for setting, variable, default, *_ in settings_rows():
        name = setting.strip("`")
        if name == "env_file":  # relative to the project
            value = evaluated(settings()[name], {"stack_name": "hyvve", "stack_project_dir": "/c"})
            assert value == f"/c/{default.strip('`')}"
            continue
        expected = default_of(name)
        shown = yaml.safe_load(default.strip("`")) if default else ""
        assert str(shown) == str(expected), name
        if variable:
            assert f"'{variable.strip('`')}'" in str(settings()[name]), name


def test_environment_variables_in_the_readme_are_read() -> None:
    wiring = read_yaml("inventory/group_vars/all/wiring.yml")
    written = {*wiring["__stack_environment"], *wiring["__stack_pgadmin_url"]}
    known = environment_names() | written | {"XDG_STATE_HOME", "DOCKER_HOST", "SERVICE", "TOKEN"}
    shown = set(re.findall(r"`([A-Z][A-Z_]{3,})`", README))
    shown |= set(re.findall(r"\b([A-Z][A-Z_]{3,})=", README))
    assert shown - known == set()
    assert environment_names() - shown == {"REDIS_PORT", "AGENTOS_PORT", "PGADMIN_PORT"}
    assert written - shown == set()


def test_each_stack_has_an_env_file_of_its_own_that_git_ignores() -> None:
    def env_file(stack: str, given: str = "") -> str:
        variables = {"stack_name": stack, "stack_project_dir": "/clone"}
        return str(evaluated(settings()["env_file"], variables, {"ENV_FILE": given}))

    assert env_file("hyvve") == "/clone/.env.local"
    assert env_file("feature") == "/clone/.env.feature.local"
    assert env_file("feature", "/app/.env") == "/app/.env"
    assert ".env*.local" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "`.env.<stack_name>.local`" in README


def test_images_in_the_readme_are_the_settings() -> None:
    usual = [r.replace("{major}", "16") for r in settings()["registry_images"].values()]
    assert [reference for reference in usual if f"`{reference}`" not in README] == []
    assert (
        settings()["registry_images"] == options("images")["images_registry_references"]["default"]
    )


def test_ports_in_the_readme_are_the_settings() -> None:
    for service in ("postgres", "redis", "agentos", "pgadmin"):
        assert f"localhost:{default_of(f'{service}_port')}" in README


# --- roles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_table_of_variables_repeats_the_spec(role: str) -> None:
    text = (ROOT / "roles" / role / "README.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith(f"| `{role}_")]
    assert rows == option_rows(role)


@pytest.mark.parametrize("role", ROLES)
def test_variables_named_in_a_role_s_readme_exist(role: str) -> None:
    known = {name for one in ROLES for point in entry_points(one) for name in options(one, point)}
    known |= {"agentos_state"}
    known |= set(
        read_yaml("inventory/group_vars/all/wiring.yml")["stack_secret_variables"]
    )  # files
    text = (ROOT / "roles" / role / "README.md").read_text(encoding="utf-8")
    prefixes = "|".join(ROLES)
    names = set(re.findall(rf"\b((?:{prefixes})_[a-z_]+)\b", text))
    produced = {"engine_observed", "images_chosen"}
    assert names - known - produced == set()


def test_known_errors_are_explained_in_troubleshooting() -> None:
    """The words of one alternative of each are there, so that a search finds the row."""
    text = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8").lower()
    missing = []
    for pattern, _ in load_plugin("module_utils", "dev_stack").KNOWN_ERRORS:
        phrases = [re.sub(r"\\.|[()^$*+?]", " ", part).split() for part in pattern.split("|")]
        if not any(all(word.lower() in text for word in phrase) for phrase in phrases):
            missing.append(pattern)
    assert missing == []
