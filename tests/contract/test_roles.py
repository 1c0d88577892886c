"""Each role: its argument spec, its defaults, and the shape that all service roles share."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from .project import (
    ROLES,
    ROOT,
    SERVICES,
    defaults,
    evaluated,
    flat,
    load_plugin,
    options,
    read_yaml,
    settings,
    strings,
    tasks,
)

TYPES: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "path": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "list": list,
    "dict": dict,
}


def problems_of_option(name: str, option: dict[str, Any]) -> list[str]:
    """What an option in an argument spec lacks, or where its default does not fit."""
    problems = []
    description = option.get("description")
    if not description or not all(str(line).strip() for line in [*strings(description)] or [""]):
        problems.append(f"{name} has no description")
    kind = option.get("type")
    if kind not in TYPES:
        return [*problems, f"{name} has the type {kind!r}"]
    default = option.get("default")
    if default is not None:
        fits = isinstance(default, TYPES[kind]) and (kind == "bool") == isinstance(default, bool)
        if not fits:
            problems.append(f"{name}: the default {default!r} is no {kind}")
        chosen = default if isinstance(default, list) else [default]
        if "choices" in option and not set(chosen) <= set(option["choices"]):
            problems.append(f"{name}: the default {default!r} is not among the choices")
    if kind == "list" and option.get("elements") not in TYPES:
        problems.append(f"{name} does not say what its elements are")
    for inner, inner_option in (option.get("options") or {}).items():
        problems += problems_of_option(f"{name}.{inner}", inner_option)
    return problems


# --- argument specs -----------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_spec_and_defaults_name_the_same_options(role: str) -> None:
    spec = options(role)
    wanted = {name for name, option in spec.items() if not option.get("required")}
    assert set(defaults(role)) == wanted


@pytest.mark.parametrize("role", ROLES)
def test_spec_and_defaults_have_the_same_values(role: str) -> None:
    documented = {name: option.get("default") for name, option in options(role).items()}
    differing = {
        name: (value, documented.get(name))
        for name, value in defaults(role).items()
        if value != documented.get(name) or type(value) is not type(documented.get(name))
    }
    assert not differing


@pytest.mark.parametrize("role", ROLES)
def test_options_are_typed_and_described(role: str) -> None:
    specs = read_yaml(f"roles/{role}/meta/argument_specs.yml")["argument_specs"]
    problems = []
    for entry_point, spec in specs.items():
        if not str(spec.get("short_description", "")).strip():
            problems.append(f"{entry_point} has no short description")
        for name, option in (spec.get("options") or {}).items():
            problems += problems_of_option(name, option)
    assert not problems


@pytest.mark.parametrize("role", ROLES)
def test_variables_carry_the_prefix_of_their_role(role: str) -> None:
    assert [name for name in options(role) if not name.startswith(f"{role}_")] == []
    internal = ROOT / f"roles/{role}/vars/main.yml"
    if internal.exists():
        names = read_yaml(f"roles/{role}/vars/main.yml")
        assert [name for name in names if not name.startswith(f"__{role}_")] == []


@pytest.mark.parametrize("role", ["network", *SERVICES])
def test_no_role_reads_the_variables_of_another(role: str) -> None:
    others = {name for other in ROLES if other != role for name in options(other)}
    files = sorted((ROOT / "roles" / role).glob("tasks/*.yml"))
    files += sorted((ROOT / "roles" / role).glob("vars/*.yml"))
    used: set[str] = set()
    for file in files:
        content = read_yaml(str(file.relative_to(ROOT)))
        expressions = [
            e for s in strings(content) for e in re.findall(r"\{\{(.*?)\}\}", s, re.DOTALL)
        ]
        expressions += [str(task["when"]) for task in flat_if_tasks(content) if "when" in task]
        used |= {word for e in expressions for word in re.findall(r"[a-z_]+", e)}
    assert used & others == set()


def flat_if_tasks(content: Any) -> list[dict[str, Any]]:
    """The tasks of a task file; none for a file of variables."""
    return list(flat(content)) if isinstance(content, list) else []


# --- the wiring ---------------------------------------------------------------------------------


def test_what_is_wired_exists_in_the_spec_of_its_role() -> None:
    unknown = []
    for name in read_yaml("inventory/group_vars/all/wiring.yml"):
        role = name.split("_")[0]
        if role in ROLES and name not in options(role):
            unknown.append(name)
    assert unknown == []


def test_nothing_is_set_twice() -> None:
    assert set(read_yaml("inventory/group_vars/all/wiring.yml")) & set(settings()) == set()


def test_every_setting_is_used() -> None:
    """A setting is an option of a role, or something outside the settings' file reads it."""
    known = {name for role in ROLES for name in options(role)}
    text = (ROOT / "inventory/group_vars/all/wiring.yml").read_text(encoding="utf-8")
    for playbook in sorted((ROOT / "playbooks").rglob("*.yml")):
        text += playbook.read_text(encoding="utf-8")
    unused = [n for n in settings() if n not in known and not re.search(rf"\b{n}\b", text)]
    assert unused == []


def test_every_engine_and_path_option_that_differs_by_stack_is_wired() -> None:
    """A second stack must share neither names nor folders with the first."""
    wired = set(read_yaml("inventory/group_vars/all/wiring.yml")) | set(settings())
    endings = ("_stack", "_container_name", "_network", "_volume", "_secrets_dir", "_files_dir")
    left = [n for r in ROLES for n in options(r) if n.endswith(endings) and n not in wired]
    assert left == []


def test_every_port_names_a_setting_that_moves_it() -> None:
    known = options("engine")["engine_ports"]["options"]
    ports = read_yaml("inventory/group_vars/all/wiring.yml")["engine_ports"]
    assert [port["service"] for port in ports] == list(SERVICES)
    for port in ports:
        assert set(port) == set(known)
        moved = evaluated(port["instead"], {f"{port['service']}_port": 5432})
        assert moved == f"{port['service']}_port=5433"
        assert f"{port['service']}_port" in settings()


@pytest.mark.parametrize(
    ("there", "check", "joined"),
    [(None, True, ""), (None, False, "n"), ({"name": "n"}, True, "n"), ({"name": "n"}, False, "n")],
)
def test_only_a_network_that_check_mode_predicts_is_not_joined(
    there: Any, check: bool, joined: str
) -> None:
    expression = read_yaml("inventory/group_vars/all/wiring.yml")["stack_network"]
    variables = {
        "network_name": "n",
        "ansible_check_mode": check,
        "engine_observed": {"network": there},
    }
    assert evaluated(expression, variables) == joined


def test_the_superuser_s_name_and_the_major_are_kept_on_the_volume() -> None:
    (volume,) = [
        task["community.docker.docker_volume"]
        for task in tasks("postgres", "present")
        if "community.docker.docker_volume" in task
    ]
    assert volume["labels"]["dev-stack.postgres-user"] == "{{ postgres_user }}"
    assert volume["labels"]["dev-stack.postgres-major"] == "{{ postgres_major | string }}"


@pytest.mark.parametrize(
    ("major", "target"),
    [
        (16, "/var/lib/postgresql/data"),
        ("17", "/var/lib/postgresql/data"),
        (18, "/var/lib/postgresql"),
        ("18", "/var/lib/postgresql"),
    ],
)
def test_postgresql_s_volume_is_mounted_where_its_image_keeps_data(major: Any, target: str) -> None:
    (volume,) = [mount for mount in container("postgres")["mounts"] if mount["type"] == "volume"]
    assert volume["target"] == "{{ __postgres_mount }}"
    assert evaluated(internal("postgres")["__postgres_mount"], {"postgres_major": major}) == target


@pytest.mark.parametrize("role", ["postgres", "redis", "pgadmin"])
def test_a_volume_tells_where_its_secrets_are(role: str) -> None:
    (volume,) = (
        task["community.docker.docker_volume"]
        for task in tasks(role, "present")
        if "community.docker.docker_volume" in task
    )
    assert volume["labels"]["dev-stack.state-dir"]


def every_task(content: Any) -> Iterator[dict[str, Any]]:
    """All tasks of a file, those within blocks as well."""
    for task in content or []:
        yield task
        for part in ("block", "rescue", "always"):
            yield from every_task(task.get(part))


def test_a_container_that_goes_takes_its_volumes_without_a_name_along() -> None:
    """An image's volumes where nothing is mounted; the module's default keeps them for nobody."""
    removed = [
        task["community.docker.docker_container"]
        for folder in ("playbooks/tasks", "roles")
        for file in sorted((ROOT / folder).rglob("*.yml"))
        if file.parent.name == "tasks"
        for task in every_task(read_yaml(str(file.relative_to(ROOT))))
        if task.get("community.docker.docker_container", {}).get("state") == "absent"
    ]
    assert len(removed) >= 10
    assert [task["name"] for task in removed if task.get("keep_volumes") is not False] == []


def test_what_cannot_work_is_told_before_secrets_are_touched() -> None:
    guard, data = (read_yaml(f"playbooks/tasks/{name}.yml") for name in ("guard", "guard_data"))
    assert (
        guard[0]["ansible.builtin.import_tasks"] == "guard_data.yml" and "stack_secrets" in guard[1]
    )
    wiring = read_yaml("inventory/group_vars/all/wiring.yml")
    assert data[1]["when"].startswith("stack_obstacles ") and "ansible.builtin.fail" in data[1]
    assert "conflicts(" in wiring["stack_obstacles"]


# --- service roles ------------------------------------------------------------------------------


def container(role: str) -> dict[str, Any]:
    """The options of the one task that starts a service's container."""
    found = [
        task["community.docker.docker_container"]
        for task in tasks(role, "present")
        if "community.docker.docker_container" in task
    ]
    assert len(found) == 1, f"{role} starts {len(found)} containers"
    return dict(found[0])


def internal(role: str) -> dict[str, Any]:
    """A role's internal variables."""
    return dict(read_yaml(f"roles/{role}/vars/main.yml"))


@pytest.mark.parametrize("role", SERVICES)
def test_service_role_has_the_common_files(role: str) -> None:
    wanted = ["README.md", "defaults/main.yml", "meta/argument_specs.yml"]
    wanted += [f"tasks/{name}.yml" for name in ("main", "present", "absent")]
    assert [name for name in wanted if not (ROOT / "roles" / role / name).is_file()] == []


@pytest.mark.parametrize("role", [*SERVICES, "network"])
def test_state_decides_which_tasks_run(role: str) -> None:
    assert options(role)[f"{role}_state"]["choices"] == ["present", "absent"]
    (task,) = tasks(role, "main")
    assert task["ansible.builtin.include_tasks"] == f"{{{{ {role}_state }}}}.yml"


@pytest.mark.parametrize("role", SERVICES)
def test_container_is_compared_strictly(role: str) -> None:
    assert container(role)["comparisons"] == {"*": "strict"}


@pytest.mark.parametrize("role", SERVICES)
def test_container_never_pulls_by_itself(role: str) -> None:
    assert container(role)["pull"] == "never"


@pytest.mark.parametrize("role", SERVICES)
def test_container_has_a_health_check(role: str) -> None:
    assert f"__{role}_healthcheck" in container(role)["healthcheck"]
    check = internal(role)[f"__{role}_healthcheck"]
    assert set(check) == {"test", "interval", "timeout", "retries", "start_period"}
    assert check["test"][0] in {"CMD", "CMD-SHELL"}
    # start_interval is refused by engines before API 1.44.
    assert f"if {role}_start_interval" in container(role)["healthcheck"]
    assert options(role)[f"{role}_start_interval"]["default"] is False


@pytest.mark.parametrize("role", SERVICES)
def test_container_restarts_and_stops_as_asked(role: str) -> None:
    task = container(role)
    assert task["restart_policy"] == "unless-stopped"
    assert task["stop_timeout"] == f"{{{{ {role}_stop_timeout }}}}"
    assert task["state"] == "started"
    assert task["paused"] is False, "up has it running, so it lets a paused one go on"


@pytest.mark.parametrize("role", SERVICES)
def test_log_is_rotated(role: str) -> None:
    task = container(role)
    assert task["log_driver"] == "json-file"
    assert set(task["log_options"]) == {"max-size", "max-file"}


@pytest.mark.parametrize("role", SERVICES)
def test_container_has_few_rights(role: str) -> None:
    task = container(role)
    assert task["cap_drop"] == ["ALL"]
    assert task["security_opts"] == ["no-new-privileges:true"]
    allowed = {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"}
    assert set(task.get("capabilities") or []) <= allowed
    assert not task.get("privileged")
    assert "docker.sock" not in str(task)


@pytest.mark.parametrize("role", SERVICES)
def test_container_has_limits(role: str) -> None:
    task = container(role)
    assert task["memory"] == f"{{{{ {role}_memory }}}}"
    assert task["pids_limit"] == f"{{{{ {role}_pids_limit }}}}"


@pytest.mark.parametrize("role", SERVICES)
def test_ports_are_published_on_loopback_unless_told_otherwise(role: str) -> None:
    (port,) = container(role)["published_ports"]
    assert f"{role}_bind_address" in port.partition(f"{role}_published_port")[0]
    assert options(role)[f"{role}_bind_address"]["default"] == "127.0.0.1"
    assert settings()["bind_address"] == "127.0.0.1"


@pytest.mark.parametrize("role", SERVICES)
def test_container_is_labelled(role: str) -> None:
    labels = container(role)["labels"]
    assert labels["dev-stack.stack"] == f"{{{{ {role}_stack }}}}"
    assert labels["dev-stack.service"] == role
    assert "fingerprint" in labels["dev-stack.files"]


@pytest.mark.parametrize("role", SERVICES)
def test_service_answers_to_its_plain_name(role: str) -> None:
    expression = container(role)["networks"]
    joined = evaluated(expression, {f"{role}_network": "some_network"})
    assert joined == [{"name": "some_network", "aliases": [role]}]
    assert evaluated(expression, {f"{role}_network": ""}) == "omitted"


HELD = read_yaml("inventory/group_vars/all/wiring.yml")["stack_secret_variables"]
SECRET_NAME = re.compile(r"(PASSWORD|PASSWD|SECRET|TOKEN|_KEY|DATABASE_URL|REDIS_URL)$")


@pytest.mark.parametrize("role", SERVICES)
def test_no_environment_value_is_a_secret(role: str) -> None:
    env = container(role).get("env") or {}
    if isinstance(env, str):  # put together from the role's internal variables
        env = {k: v for n, part in internal(role).items() if n in env for k, v in part.items()}
        assert env
    for name, value in env.items():
        assert not SECRET_NAME.search(name), f"{name} would show in docker inspect"
        if name.endswith("_FILE"):
            assert re.match(r"(\{\{ ')?/run/secrets/", str(value))
        spoken = str(value).replace("/run/secrets/", "")
        assert not re.search(r"\{\{.*(password|secret)", spoken), name


@pytest.mark.parametrize("role", SERVICES)
def test_secrets_come_only_through_files(role: str) -> None:
    """The placeholders of secrets stand in what secret_files writes, nowhere else."""
    placeholder = re.compile(r"(?<!\{)\{[a-z_]*(password|secret)[a-z_]*(\|[a-z]+)?\}")
    for file in ("present", "absent", "main"):
        for task in tasks(role, file):
            others = {key: value for key, value in task.items() if key != "secret_files"}
            assert [text for text in strings(others) if placeholder.search(text)] == []
    written = [
        task["secret_files"]
        for task in tasks(role, "present")
        if task.get("secret_files", {}).get("state", "present") == "present"
        and "secret_files" in task
    ]
    assert len(written) == 1
    mounts = str(container(role)["mounts"]) + str(internal(role))
    for name in written[0]["files"] if "live" not in written[0] else ():
        assert f"/{name}" in mounts, f"{name} is written and never mounted"


@pytest.mark.parametrize("role", ["postgres", "redis", "pgadmin"])
def test_live_secrets_are_mounted_as_a_folder_and_applied(role: str) -> None:
    """A file that is mounted by itself would stay the old one."""
    present, *_ = (t["secret_files"] for t in tasks(role, "present") if "secret_files" in t)
    (applied,) = (t["secret_files"] for t in tasks(role, "settle") if "secret_files" in t)
    secrets = set(
        re.findall(r"\{([a-z_]+)(?:\|[a-z]+)?\}", str(present["files"]) + str(internal(role)))
    )
    assert set(present["live"]) == secrets & set(HELD)
    assert applied["state"] == "applied"
    assert applied["directory"] == present["directory"]
    bound = [m for m in container(role)["mounts"] if m["type"] == "bind"]
    expected = {"type": "bind", "target": "/run/secrets", "read_only": True}
    assert bound[0] == expected | {"source": f"{{{{ __{role}_files.mount }}}}"}
    assert not any(m["target"].startswith("/run/secrets/") for m in bound)


@pytest.mark.parametrize("role", SERVICES)
def test_mounted_files_cannot_be_written(role: str) -> None:
    mounts = container(role)["mounts"]
    if isinstance(mounts, str):
        mounts = [m for n, part in internal(role).items() if n in mounts for m in part]
    assert mounts
    bound = [m for m in mounts if m["type"] == "bind"]
    assert [m for m in bound if m.get("read_only") is not True] == []
    # What the module returns is an absolute path; `~` in a mount would be taken literally.
    folders = {f"{{{{ __{role}_files.{key} }}}}" for key in ("directory", "mount")}
    folders.add("{{ agentos_source_dir }}")
    separate = [m for m in bound if m["source"] != f"{{{{ __{role}_files.mount }}}}"]
    assert {m["source"].rpartition("/")[0] for m in separate} <= folders


@pytest.mark.parametrize("role", ["postgres", "redis", "pgadmin"])
def test_data_is_in_a_named_volume_that_only_purge_removes(role: str) -> None:
    created = [t for t in tasks(role, "present") if "community.docker.docker_volume" in t]
    assert len(created) == 1
    volume = created[0]["community.docker.docker_volume"]
    assert volume["name"] == f"{{{{ {role}_volume }}}}"
    assert "recreate" not in volume, "it would delete the data"
    assert volume["labels"]["dev-stack.image-source"] == f"{{{{ {role}_image_source }}}}"
    assert any(m["type"] == "volume" for m in container(role)["mounts"])
    removed = [t for t in tasks(role, "absent") if "community.docker.docker_volume" in t]
    assert len(removed) == 1
    assert re.fullmatch(rf"{role}_purge( \| bool)?", removed[0]["when"])
    assert options(role)[f"{role}_purge"]["default"] is False


# --- AgentOS's migration ------------------------------------------------------------------------


def migration() -> dict[str, Any]:
    """The options of the task that runs the migration's container."""
    (task,) = (
        task["community.docker.docker_container"]
        for task in tasks("agentos", "migrate")
        if task.get("community.docker.docker_container", {}).get("state") == "started"
    )
    return dict(task)


def test_migration_comes_after_the_files_and_before_the_container() -> None:
    (included,) = (t for t in tasks("agentos", "present") if "ansible.builtin.include_tasks" in t)
    order = [
        next(key for key in task if "." in key or key == "secret_files")
        for task in tasks("agentos", "present")
    ]
    assert order == [
        "secret_files",
        "ansible.builtin.include_tasks",
        "community.docker.docker_container",
    ]
    assert included["ansible.builtin.include_tasks"] == "migrate.yml"

    def needed(known: dict[str, str]) -> bool:
        files = {"fingerprint": "f1"}
        variables = {"agentos_image": "i1", "__agentos_files": files}
        expression = "{{ " + included["when"] + " }}"
        return bool(evaluated(expression, variables | {"agentos_migrated_with": known}))

    assert not needed({"image": "i1", "files": "f1"})
    assert needed({})
    assert needed({"image": "i2", "files": "f1"})
    assert needed({"image": "i1", "files": "f2"})


def test_migration_has_as_few_rights_as_the_service_and_no_port() -> None:
    one_off, service = migration(), container("agentos")
    for option in (
        "image",
        "pull",
        "memory",
        "pids_limit",
        "read_only",
        "init",
        "tmpfs",
        "cap_drop",
        "security_opts",
    ):
        assert one_off[option] == service[option], option
    assert "published_ports" not in one_off and "restart_policy" not in one_off
    labels = {"dev-stack.stack": "{{ agentos_stack }}", "dev-stack.service": "agentos"}
    assert one_off["labels"] == labels
    assert evaluated(one_off["networks"], {"agentos_network": "n"}) == [{"name": "n"}]
    assert evaluated(one_off["networks"], {"agentos_network": ""}) == "omitted"


def test_migration_ends_by_itself_and_is_removed() -> None:
    one_off = migration()
    assert one_off["command"][0] == "timeout"
    assert (one_off["recreate"], one_off["detach"], one_off["cleanup"]) == (True, False, True)
    names = {
        task["community.docker.docker_container"]["name"]
        for task in tasks("agentos", "absent")
        if "community.docker.docker_container" in task
    }
    assert one_off["name"] in names
    known = load_plugin("filter", "dev_stack").one_offs(
        {"agentos": "x", "postgres": "p"}, {"postgres": "v"}
    )
    jobs = dict.fromkeys(("p_job", "p_check", "p_adopt"), "postgres")
    assert known == {"x_migrate": "agentos", **jobs}
    assert evaluated(one_off["name"], {"agentos_container_name": "x"}) == "x_migrate"


def test_owner_s_password_is_the_migration_s_alone() -> None:
    (written,) = (t["secret_files"] for t in tasks("agentos", "migrate") if "secret_files" in t)
    (service,) = (t["secret_files"] for t in tasks("agentos", "present") if "secret_files" in t)
    assert written["directory"] != service["directory"]
    assert "agentos_migration_url" in str(written["files"])
    assert "agentos_migration_url" not in str(service["files"])
    assert "postgres_password" in defaults("agentos")["agentos_migration_url"]
    assert "postgres_password" not in defaults("agentos")["agentos_database_url"]
    mounts = internal("agentos")["__agentos_migrate_mounts"]
    assert {m["source"].rpartition("/")[2] for m in mounts} == set(written["files"])
    assert all(m["read_only"] is True and m["type"] == "bind" for m in mounts)
    assert {m["source"].rpartition("/")[0] for m in mounts} == {
        "{{ __agentos_migrate_files.directory }}"
    }
    targets = {m["target"] for m in mounts}
    assert set(internal("agentos")["__agentos_migrate_env"].values()) == targets


def test_optional_keys_are_mounted_and_named_only_where_there_is_one() -> None:
    (service,) = (t["secret_files"] for t in tasks("agentos", "present") if "secret_files" in t)
    wired = read_yaml("inventory/group_vars/all/wiring.yml")
    assert service["optional"] == wired["stack_optional_secrets"]
    env = internal("agentos")["__agentos_given_env"]
    for name in service["optional"]:
        expression = env[f"{name.upper()}_FILE"]
        for written, value in ([name], f"/run/secrets/{name}"), ([], ""):
            assert evaluated(expression, {"__agentos_files": {"written": written}}) == value
    assert "__agentos_written" in container("agentos")["mounts"]


# --- playbooks ----------------------------------------------------------------------------------

PLAYBOOKS = sorted(path.name for path in (ROOT / "playbooks").glob("*.yml"))


@pytest.mark.parametrize("name", PLAYBOOKS)
def test_plays_are_tagged_always_and_gather_nothing(name: str) -> None:
    for play in read_yaml(f"playbooks/{name}"):
        if "ansible.builtin.import_playbook" in play:
            continue
        assert play["tags"] == ["always"], "a run with --tags would leave the play out"
        assert play["gather_facts"] is False
        assert play["hosts"] == "dev_stack"


def test_included_roles_apply_the_tag_always() -> None:
    """Without it, --tags leaves the tasks of an included role out and says nothing."""
    missing = []
    for path in sorted((ROOT / "playbooks").rglob("*.yml")):
        content = read_yaml(str(path.relative_to(ROOT)))
        entries = [task for play in content for task in play.get("tasks") or [play]]
        for task in flat(entries):
            role = task.get("ansible.builtin.include_role")
            if role is not None and role.get("apply") != {"tags": ["always"]}:
                missing.append(f"{path.name}: {task['name']}")
    assert missing == []
