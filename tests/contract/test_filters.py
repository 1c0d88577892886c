"""plugins/filter/dev_stack.py: the decisions of a run, one by one."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .project import ROOT, SERVICES, defaults, options, read_yaml, settings, strings, tasks

VOLUMES = {"postgres": "s_postgres_data", "redis": "s_redis_data", "pgadmin": "s_pgadmin_data"}

# --- which services -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "skip", "enabled", "selected"),
    [
        (["all"], [], True, ["postgres", "redis", "agentos", "pgadmin"]),
        (["all"], [], False, ["postgres", "redis", "agentos"]),
        (["all"], [], "no", ["postgres", "redis", "agentos"]),
        (["all"], ["pgadmin"], True, ["postgres", "redis", "agentos"]),
        ([], [], True, ["postgres", "redis", "agentos", "pgadmin"]),
        (["redis"], [], True, ["redis"]),
        (["agentos"], [], True, ["postgres", "redis", "agentos"]),
        (["pgadmin"], [], True, ["postgres", "pgadmin"]),
        (["pgadmin", "redis"], [], True, ["postgres", "redis", "pgadmin"]),
        (["agentos"], ["redis"], True, ["postgres", "agentos"]),
        (["network"], [], True, []),
        (["network", "redis"], [], True, ["redis"]),
        (["always"], [], True, ["postgres", "redis", "agentos", "pgadmin"]),
        (["tagged"], [], True, ["postgres", "redis", "agentos", "pgadmin"]),
        (["all"], ["notest", "molecule-notest"], True, ["postgres", "redis", "agentos", "pgadmin"]),
    ],
)
def test_what_is_started(
    filters: ModuleType, run: list[str], skip: list[str], enabled: Any, selected: list[str]
) -> None:
    assert filters.selected_services(run, skip, enabled) == selected


@pytest.mark.parametrize(
    ("run", "skip", "enabled", "selected"),
    [
        (["all"], [], True, ["postgres", "redis", "agentos", "pgadmin"]),
        # One that was disabled later is still there to be stopped.
        (["all"], [], False, ["postgres", "redis", "agentos", "pgadmin"]),
        (["agentos"], [], True, ["agentos"]),
        (["postgres", "redis"], [], True, ["postgres", "redis"]),
        (["all"], ["postgres"], True, ["redis", "agentos", "pgadmin"]),
        (["network"], [], True, []),
    ],
)
def test_what_is_stopped(
    filters: ModuleType, run: list[str], skip: list[str], enabled: Any, selected: list[str]
) -> None:
    assert filters.selected_services(run, skip, enabled, needed_too=False) == selected


ALL_THERE = {service: {"state": "running"} for service in SERVICES}


@pytest.mark.parametrize(
    ("selected", "changed", "there", "expected"),
    [
        (["redis"], [], ALL_THERE, ["redis"]),
        ([], [], ALL_THERE, []),
        (["postgres"], ["postgres_password"], ALL_THERE, ["postgres", "pgadmin"]),
        # With what they need, which may have been stopped.
        (["redis"], ["redis_password"], ALL_THERE, ["postgres", "redis", "agentos"]),
        (["redis"], ["pgadmin_password"], ALL_THERE, ["postgres", "redis", "pgadmin"]),
        ([], ["better_auth_secret"], ALL_THERE, ["postgres", "redis", "agentos"]),
        ([], ["openai_api_key"], {"agentos": {"state": "running"}}, ["agentos"]),
        (["redis"], ["agentos_db_password"], ALL_THERE, ["postgres", "redis", "agentos"]),
        (["redis"], ["postgres_password"], ALL_THERE, ["postgres", "redis", "pgadmin"]),
        # What does not exist is not started for it: a first run is about what was named.
        (["redis"], ["postgres_password", "redis_password"], {}, ["redis"]),
        (["redis"], ["redis_password"], {"agentos": {"state": "exited"}}, ["redis", "agentos"]),
    ],
)
def test_services_that_hold_a_changed_secret_join_the_run(
    filters: ModuleType,
    selected: list[str],
    changed: list[str],
    there: dict[str, Any],
    expected: list[str],
) -> None:
    assert filters.with_users_of(selected, changed, there) == expected


def test_every_secret_has_the_holders_that_its_roles_say(filters: ModuleType) -> None:
    wired = read_yaml("inventory/group_vars/all/wiring.yml")
    assert set(filters.HOLDERS) == set(wired["stack_secret_variables"])
    assert set(wired["stack_optional_secrets"]) < set(wired["stack_secret_variables"])
    # AgentOS's container never gets it; its migration reads it anew each time.
    migration_alone = {("agentos", "agentos_migration_url")}
    for secret, holders in filters.HOLDERS.items():
        placeholder = re.compile(rf"(?<!\{{)\{{{secret}(\|[a-z]+)?\}}")
        roles = [
            role
            for role in SERVICES
            if any(
                placeholder.search(text)
                for source in (
                    tasks(role, "present"),
                    {k: v for k, v in defaults(role).items() if (role, k) not in migration_alone},
                    vars_of(role),
                )
                for text in strings(source)
            )
        ]
        assert sorted(holders) == sorted(roles), secret


@pytest.mark.parametrize(
    ("services", "secrets"),
    [
        (["postgres"], {"postgres_password", "agentos_db_password"}),
        (["redis"], {"redis_password"}),
        (["agentos"], {"redis_password", "better_auth_secret", "agentos_db_password"}),
        (["pgadmin"], {"pgadmin_password", "postgres_password"}),
        ([], set()),
    ],
)
def test_a_service_named_stands_for_the_secrets_it_knows(
    filters: ModuleType, services: list[str], secrets: set[str]
) -> None:
    optional = ["openai_api_key", "anthropic_api_key"]
    assert set(filters.secrets_of(services, optional)) == secrets
    assert set(filters.secrets_of(list(SERVICES), optional)) == set(filters.HOLDERS) - {*optional}


@pytest.mark.parametrize(
    ("found", "well"),
    [
        ({"health": "healthy", "failing": False}, True),
        ({"health": "healthy", "failing": True}, False),
        ({"health": "starting", "failing": False}, False),
        ({}, False),
    ],
)
def test_only_the_last_health_check_counts(
    filters: ModuleType, found: dict[str, Any], well: bool
) -> None:
    assert filters.is_well(found) is well


@pytest.mark.parametrize(
    ("found", "healthy"),
    [
        ({"state": "running", "health": "healthy", "failing": False}, True),
        # One probe that came late: the engine calls it healthy still, and the backup waits.
        ({"state": "running", "health": "healthy", "failing": True}, True),
        ({"state": "running", "health": "unhealthy", "failing": True}, False),
        ({"state": "running", "health": "starting", "failing": False}, False),
        ({"state": "paused", "health": "healthy", "failing": False}, False),
        ({"state": "exited", "health": "healthy", "failing": False}, False),
    ],
)
def test_healthy_services(filters: ModuleType, found: dict[str, Any], healthy: bool) -> None:
    observed = {"services": {"redis": found}}
    assert filters.healthy_services(observed) == (["redis"] if healthy else [])


def vars_of(role: str) -> Any:
    """A role's internal variables."""
    return read_yaml(f"roles/{role}/vars/main.yml")


# --- whether to migrate -------------------------------------------------------------------------


def migrated(
    agentos: dict[str, Any] | None = None,
    postgres: dict[str, Any] | None = None,
    others: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """What stack_info tells of AgentOS and its PostgreSQL, both healthy but for what is given."""
    well = {"state": "running", "health": "healthy", "failing": False, "drift": []}
    of_agentos = {**well, "image": "agentos:1", "files": "f1"}
    services = {"agentos": of_agentos | (agentos or {}), "postgres": well | (postgres or {})}
    return {"services": services, "others": others or []}


def test_a_healthy_agentos_tells_what_its_database_was_made_ready_for(filters: ModuleType) -> None:
    assert filters.migrated_with(migrated()) == {"image": "agentos:1", "files": "f1"}
    pgadmin = [{"service": "pgadmin"}]
    assert filters.migrated_with(migrated(others=pgadmin))


@pytest.mark.parametrize(
    "observed",
    [
        {"services": {}, "others": []},
        migrated({"health": "unhealthy"}),
        migrated({"health": "starting"}),
        migrated({"health": None}),  # a stopped one
        migrated({"failing": True}),  # its last probe failed, the first in a row
        migrated({"drift": ["image"]}),
        migrated(postgres={"health": "unhealthy"}),  # another one, on a new volume perhaps
        migrated(others=[{"service": "agentos"}]),  # what an interrupted migration left
    ],
)
def test_nothing_else_proves_that_the_database_is_ready(
    filters: ModuleType, observed: dict[str, Any]
) -> None:
    assert filters.migrated_with(observed) == {}


def test_an_agentos_whose_postgresql_is_gone_proves_nothing(filters: ModuleType) -> None:
    observed = migrated()
    del observed["services"]["postgres"]
    assert filters.migrated_with(observed) == {}


# --- what is there already ----------------------------------------------------------------------


def there_already(user: str | None = None, subnets: list[str] | None = None) -> dict[str, Any]:
    """What stack_info tells of a volume made with this user and a network with these subnets."""
    labels = {} if user is None else {"dev-stack.postgres-user": user}
    network = None if subnets is None else {"id": "1", "name": "s_network", "subnets": subnets}
    volumes = {VOLUMES["postgres"]: {"labels": labels}}
    return {"volumes": volumes, "network": network, "services": {}}


@pytest.mark.parametrize(
    ("observed", "user", "subnet"),
    [
        ({"volumes": {}, "network": None, "services": {}}, "me", "10.210.0.0/24"),
        (there_already("me"), "me", ""),
        (there_already(None), "me", ""),  # a volume without the label says nothing
        (there_already("me", ["172.18.0.0/16"]), "me", ""),
        (there_already("me", ["172.18.0.0/16", "10.210.0.0/24"]), "me", "10.210.0.0/24"),
        (there_already("me", []), "me", ""),
    ],
)
def test_no_conflict(filters: ModuleType, observed: dict[str, Any], user: str, subnet: str) -> None:
    assert filters.conflicts(observed, VOLUMES, user, subnet) == []


def test_another_superuser_than_the_volume_s_is_a_conflict(filters: ModuleType) -> None:
    (line,) = filters.conflicts(there_already("me"), VOLUMES, "you", "")
    assert "POSTGRES_USER is you" in line and "made with me" in line
    assert VOLUMES["postgres"] in line and "POSTGRES_USER=me" in line and "./dev reset" in line


def test_another_subnet_than_the_network_s_is_a_conflict(filters: ModuleType) -> None:
    there = there_already("me", ["172.18.0.0/16"])
    (line,) = filters.conflicts(there, VOLUMES, "me", "10.210.0.0/24")
    assert "s_network" in line and "172.18.0.0/16" in line and "./dev down" in line


def test_all_conflicts_are_told_at_once(filters: ModuleType) -> None:
    there = there_already("me", ["172.18.0.0/16"])
    assert len(filters.conflicts(there, VOLUMES, "you", "10.210.0.0/24")) == 2


# --- whose it is --------------------------------------------------------------------------------


def kept_in(
    service: str | None = None, volume: str | None = None, key: str = "volumes"
) -> dict[str, Any]:
    """What stack_info tells of a stack whose container and volume have their secrets there."""
    labels = {"dev-stack.state-dir": volume} if volume else {}
    return {
        "services": {"redis": {"state_dir": service}},
        "volumes": {},
        "kept": {},
        key: {VOLUMES["redis"]: {"labels": labels}},
    }


@pytest.mark.parametrize(
    "observed",
    [
        kept_in("/you/s"),
        kept_in(volume="/you/s"),
        kept_in("/me/s", "/you/s"),
        kept_in(volume="/you/s", key="kept"),
    ],
    ids=["container", "volume", "volume alone", "volume not in use"],
)
@pytest.mark.parametrize("take_over", [False, "no"])
def test_another_owner_s_stack_is_told_in_one_line(
    filters: ModuleType, observed: dict[str, Any], take_over: Any
) -> None:
    (line,) = filters.other_owner(observed, "/me/s", take_over)
    assert "in /you/s and not in /me/s" in line
    assert "STACK_NAME" in line and "take_over=true" in line and "\n" not in line


@pytest.mark.parametrize(
    ("observed", "take_over"),
    [
        ({"services": {}, "volumes": {}, "kept": {}}, False),
        (kept_in(), False),  # no folder mounted, and a volume without the label
        (kept_in("/me/s", "/me/s"), False),
        (kept_in("/you/s", "/you/s"), True),
        (kept_in("/you/s", "/you/s"), "true"),  # as -e gives it
    ],
)
def test_our_own_stack_or_one_taken_over(
    filters: ModuleType, observed: dict[str, Any], take_over: Any
) -> None:
    assert filters.other_owner(observed, "/me/s", take_over) == []


# --- settings -----------------------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "stack_name": "hyvve",
    "bind_address": "127.0.0.1",
    "port_offset": 0,
    "postgres_port": 5432,
    "redis_port": "6379",
    "agentos_port": 7777,
    "pgadmin_port": 5050,
    "postgres_db": "hyvve",
    "postgres_user": "postgres",
    "pgadmin_email": "dev@example.com",
    "pgadmin_enabled": True,
    "agentos_reload": False,
    "postgres_memory": "1g",
    "redis_memory": "512m",
    "agentos_memory": "512m",
    "pgadmin_memory": "768m",
    "agentos_model": "",
    "agentos_model_url": "",
    "auth_jwks_url": "",
    "auth_issuer": "hyvve",
    "auth_audience": "agentos",
    "allowed_hosts": [],
    "postgres_settings": {},
    "postgres_version": "",
    "backup_keep": 10,
    "image_source": "auto",
    "image_registry": "",
    "network_subnet": "",
    "run_tags": ["all"],
    "skip_tags": [],
}


def test_the_values_tested_here_are_those_the_playbooks_check() -> None:
    text = (ROOT / "playbooks/tasks/prepare.yml").read_text(encoding="utf-8")
    assert [name for name in GOOD if f"'{name}':" not in text] == []


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"bind_address": "0.0.0.0"},
        {"bind_address": "192.168.1.20"},
        {"port_offset": "100"},
        {"port_offset": -1000},
        {"postgres_port": 65535},
        {"agentos_port": 1},
        {"stack_name": "feature-12_b"},
        {"stack_name": "7"},
        {"stack_name": "x" * 40},
        {"postgres_db": "my-db_2"},
        {"postgres_user": "_me"},
        {"pgadmin_email": "a.b+c@sub.example.co.uk"},
        {"pgadmin_enabled": "false"},
        {"agentos_reload": "yes"},
        {"pgadmin_enabled": 0},
        {"agentos_reload": "On"},
        {"redis_memory": "64m"},
        {"redis_memory": "1g"},
        {"allowed_hosts": ["dev.example.com"]},
        {"postgres_settings": {"work_mem": "16MB"}},
        {"redis_memory": "2G"},
        {"agentos_model": "llama3.1:8b"},
        {
            "agentos_model": "gpt-oss",
            "agentos_model_url": "http://host.docker.internal:11434/v1",
        },
        {"auth_jwks_url": "https://app.example.com/api/auth/jwks"},
        {"auth_jwks_url": "http://[fd00::1]:3000/jwks"},
        {"auth_issuer": "https://app.example.com", "auth_audience": "agentos.dev"},
        {"postgres_version": "18"},
        {"postgres_version": 17},
        {"image_source": "registry"},
        {"image_source": "packages"},
        {"image_registry": "registry.example.com:5000/mirror/hub"},
        {"image_registry": "127.0.0.1:5000"},
        {"network_subnet": "10.210.0.0/24"},
        {"run_tags": ["redis"], "skip_tags": ["pgadmin", "molecule-notest", "notest"]},
        {"run_tags": ["network"]},
    ],
)
def test_good_settings_pass(filters: ModuleType, change: dict[str, Any]) -> None:
    assert filters.settings_problems(GOOD | change) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"postgres_port": 0}, "postgres_port is 0"),
        ({"postgres_version": "15"}, "postgres_version is '15'"),
        ({"postgres_version": "18.4"}, "16 or 17 or 18, or empty"),
        ({"postgres_port": 65536}, "postgres_port is 65536"),
        ({"redis_port": "abc"}, "redis_port is 'abc'"),
        ({"redis_port": ""}, "redis_port is ''"),
        ({"redis_port": 63.79}, "redis_port is 63.79"),
        ({"agentos_port": -1}, "agentos_port is -1"),
        ({"pgadmin_port": "50 50"}, "pgadmin_port is '50 50'"),
        ({"port_offset": "ten"}, "port_offset is 'ten'"),
        ({"port_offset": 1.5}, "port_offset is 1.5"),
        ({"pgadmin_port": 5432}, "pgadmin_port and postgres_port are both 5432"),
        ({"stack_name": ""}, "stack_name is ''"),
        ({"stack_name": "Hyvve"}, "stack_name is 'Hyvve'"),
        ({"stack_name": "a b"}, "stack_name is 'a b'"),
        ({"stack_name": "-a"}, "stack_name is '-a'"),
        ({"stack_name": "../etc"}, "stack_name is '../etc'"),
        ({"stack_name": "x" * 41}, "stack_name is"),
        ({"stack_name": "a\n"}, "stack_name is"),
        ({"bind_address": "localhost"}, "bind_address is 'localhost'"),
        ({"bind_address": "127.0.0.1:80"}, "bind_address is"),
        ({"bind_address": ""}, "bind_address is ''"),
        ({"bind_address": "::1"}, "IPv4 address"),
        ({"network_subnet": "10.210.0.0/33"}, "network_subnet is"),
        ({"network_subnet": "10.210.0.7/24"}, "network_subnet is"),
        ({"network_subnet": "vpn"}, "network_subnet is 'vpn'"),
        ({"image_source": "docker"}, "image_source is 'docker'"),
        ({"image_source": ""}, "image_source is ''"),
        ({"image_registry": "https://registry.example.com"}, "image_registry is"),
        ({"image_registry": "registry.example.com/Upper"}, "image_registry is"),
        ({"postgres_db": ""}, "POSTGRES_DB is ''"),
        ({"postgres_db": "my db"}, "POSTGRES_DB is 'my db'"),
        ({"postgres_db": "x'; drop"}, "POSTGRES_DB is"),
        ({"postgres_db": "x" * 64}, "POSTGRES_DB is"),
        ({"postgres_user": "1st"}, "POSTGRES_USER is '1st'"),
        ({"pgadmin_email": "nobody"}, "PGADMIN_DEFAULT_EMAIL is 'nobody'"),
        ({"pgadmin_email": "a@b"}, "PGADMIN_DEFAULT_EMAIL is 'a@b'"),
        ({"pgadmin_email": "a'b@example.com"}, "PGADMIN_DEFAULT_EMAIL is"),
        ({"pgadmin_email": ""}, "PGADMIN_DEFAULT_EMAIL is ''"),
        ({"pgadmin_enabled": "perhaps"}, "pgadmin_enabled is 'perhaps'"),
        ({"agentos_reload": ""}, "agentos_reload is ''"),
        ({"postgres_memory": "lots"}, "postgres_memory is 'lots'"),
        ({"redis_memory": "512mb"}, "redis_memory is '512mb'"),
        ({"agentos_memory": ""}, "agentos_memory is ''"),
        ({"pgadmin_memory": "1.5g"}, "pgadmin_memory is '1.5g'"),
        ({"redis_memory": "1073741824"}, "redis_memory is '1073741824'"),
        ({"redis_memory": "524288k"}, "redis_memory is '524288k'"),
        ({"redis_memory": "63m"}, "at least 64m"),
        ({"pgadmin_enabled": "y"}, "pgadmin_enabled is 'y'"),
        ({"agentos_reload": "f"}, "agentos_reload is 'f'"),
        ({"allowed_hosts": "name"}, "allowed_hosts has to be a list"),
        ({"postgres_settings": "a=b"}, "postgres_settings has to be a mapping"),
        ({"postgres_settings": ["a=b"]}, "postgres_settings has to be a mapping"),
        ({"postgres_version": "15"}, "postgres_version is '15'; it has to be 16 or 17 or 18"),
        ({"backup_keep": "all"}, "backup_keep is 'all'"),
        ({"backup_keep": -1}, "0 for all"),
        ({"agentos_model": "a b"}, "agentos_model is 'a b'"),
        (
            {"agentos_model_url": "http://host.docker.internal:11434/v1"},
            "agentos_model is not set",
        ),
        ({"auth_jwks_url": "app.example.com/jwks"}, "auth_jwks_url is 'app.example.com/jwks'"),
        ({"auth_jwks_url": "ftp://app.example.com/jwks"}, "http or https URL"),
        ({"auth_jwks_url": "https://me:secret@app.example.com/jwks"}, "without user, password"),
        ({"auth_jwks_url": "https://app.example.com/jwks?a=b"}, "? or #"),
        ({"auth_jwks_url": "https://app.example.com/a b"}, "auth_jwks_url is"),
        (
            {"auth_jwks_url": "http://localhost:3000/api/auth/jwks"},
            "http://host.docker.internal:3000/api/auth/jwks",
        ),
        ({"auth_jwks_url": "http://127.0.0.1:3000"}, "http://host.docker.internal:3000"),
        ({"auth_issuer": ""}, "auth_issuer is ''"),
        ({"auth_audience": "a b"}, "auth_audience is 'a b'"),
        ({"run_tags": ["postgre"]}, "'postgre' (did you mean postgres?)"),
        ({"run_tags": ["mysql"]}, "'mysql'; there are network, postgres"),
        ({"skip_tags": ["pgadmn"]}, "'pgadmn' (did you mean pgadmin?)"),
        ({"run_tags": ["pgadmin"], "pgadmin_enabled": False}, "pgadmin_enabled is false"),
    ],
)
def test_a_bad_setting_gets_one_line(
    filters: ModuleType, change: dict[str, Any], said: str
) -> None:
    problems = filters.settings_problems(GOOD | change)
    assert len(problems) == 1, problems
    assert said in problems[0]
    assert "\n" not in problems[0]


def test_an_offset_can_push_a_port_out_of_range(filters: ModuleType) -> None:
    problems = filters.settings_problems(GOOD | {"port_offset": 61000})
    assert len(problems) == len(SERVICES)
    assert "with port_offset 61000: 66432" in problems[0]


def test_an_offset_can_push_a_port_below_one(filters: ModuleType) -> None:
    (problem,) = filters.settings_problems(GOOD | {"port_offset": -5050})
    assert "pgadmin_port" in problem


def test_all_problems_are_told_at_once(filters: ModuleType) -> None:
    bad = {"redis_port": "x", "stack_name": "X", "pgadmin_email": "x", "image_source": "x"}
    assert len(filters.settings_problems(GOOD | bad)) == len(bad)


# --- images -------------------------------------------------------------------------------------

DEFINITIONS: dict[str, Any] = {
    "debian": {"version": "12", "rootfs": ["bookworm"]},
    "python": {"version": "3.13", "rootfs": ["trixie", "tzdata", "netbase"]},
    "postgres": {"version": "16.14", "base": "debian"},
    "redis": {"version": "7.0.15", "base": "debian"},
    "pgadmin": {"version": "9.18", "base": "python"},
}
REFERENCES = {
    "registry": {
        "postgres": "postgres:16-alpine",
        "redis": "redis:7-alpine",
        "pgadmin": "dpage/pgadmin4:9.18",
        "python": "python:3.12-slim",
        "trusted-python": "python:3.12-slim",
        "agentos": "dev-stack/agentos:on-official",
    },
    "packages": {
        "debian": "dev-stack/debian:12-a",
        "python": "dev-stack/python:3.13-a",
        "postgres": "dev-stack/postgres:16.14-a",
        "redis": "dev-stack/redis:7.0.15-a",
        "pgadmin": "dev-stack/pgadmin:9.18-a",
        "agentos": "dev-stack/agentos:on-built",
    },
}


def engine(
    *present: str,
    made_with: dict[str, str] | None = None,
    runs: dict[str, str] | None = None,
) -> dict[str, Any]:
    """What stack_info tells of an engine with these images.

    Takes the source each volume was made with, and the image of each container.
    """
    built: dict[str, list[str]] = {}
    for reference in present:
        if reference.startswith("dev-stack/"):
            name = reference.removeprefix("dev-stack/").split(":")[0]
            built.setdefault(name, []).append(reference)
    return {
        "images": dict.fromkeys(present, "sha256:0"),
        "built": built,
        "volumes": {
            VOLUMES[service]: {"labels": {"dev-stack.image-source": source}}
            for service, source in (made_with or {}).items()
        },
        "services": {service: {"image": image} for service, image in (runs or {}).items()},
    }


OFFICIAL, BUILT = REFERENCES["registry"]["redis"], REFERENCES["packages"]["redis"]


@pytest.mark.parametrize(
    ("source", "observed", "answers", "expected"),
    [
        # Told outright.
        ("registry", engine(), None, ("registry", OFFICIAL, False)),
        ("registry", engine(OFFICIAL), None, ("registry", OFFICIAL, True)),
        ("registry", engine(BUILT), None, ("registry", OFFICIAL, False)),
        ("packages", engine(OFFICIAL), None, ("packages", BUILT, False)),
        ("packages", engine(BUILT), None, ("packages", BUILT, True)),
        # auto: what is present.
        ("auto", engine(OFFICIAL), None, ("registry", OFFICIAL, True)),
        ("auto", engine(BUILT), None, ("packages", BUILT, True)),
        ("auto", engine(BUILT), True, ("packages", BUILT, True)),
        # auto: both present, the volume's own first.
        (
            "auto",
            engine(OFFICIAL, BUILT, made_with={"redis": "packages"}),
            None,
            ("packages", BUILT, True),
        ),
        (
            "auto",
            engine(OFFICIAL, BUILT, made_with={"redis": "registry"}),
            None,
            ("registry", OFFICIAL, True),
        ),
        # auto: nothing present, the volume's source.
        ("auto", engine(made_with={"redis": "packages"}), True, ("packages", BUILT, False)),
        ("auto", engine(made_with={"redis": "registry"}), False, ("registry", OFFICIAL, False)),
        # auto: a volume made with packages, whose image was built from an older definition.
        (
            "auto",
            engine(OFFICIAL, "dev-stack/redis:7.0.15-old", made_with={"redis": "packages"}),
            None,
            ("packages", BUILT, False),
        ),
        # auto: what runs, before what the volume was made with.
        (
            "auto",
            engine(OFFICIAL, BUILT, made_with={"redis": "packages"}, runs={"redis": OFFICIAL}),
            None,
            ("registry", OFFICIAL, True),
        ),
        (
            "auto",
            engine(made_with={"redis": "registry"}, runs={"redis": "dev-stack/redis:7.0.15-old"}),
            True,
            ("packages", BUILT, False),
        ),
        # auto: nothing to go by but the registry's answer.
        ("auto", engine(), None, (None, None, False)),
        ("auto", engine(), True, ("registry", OFFICIAL, False)),
        ("auto", engine(), False, ("packages", BUILT, False)),
        ("auto", engine(made_with={"postgres": "packages"}), True, ("registry", OFFICIAL, False)),
    ],
)
def test_where_an_image_comes_from(
    filters: ModuleType,
    source: str,
    observed: dict[str, Any],
    answers: bool | None,
    expected: tuple[str | None, str | None, bool],
) -> None:
    plan = filters.image_plan(["redis"], source, REFERENCES, observed, VOLUMES, answers)["redis"]
    assert (plan["source"], plan["reference"], plan["present"]) == expected


@pytest.mark.parametrize(
    ("observed", "answers", "source"),
    [
        (engine("python:3.12-slim"), None, "registry"),
        (engine("dev-stack/python:3.13-a"), None, "packages"),
        (engine("dev-stack/agentos:on-built", "python:3.12-slim"), None, "packages"),
        (engine(), True, "registry"),
        (engine(), False, "packages"),
        (engine(), None, None),
    ],
)
def test_agentos_follows_the_python_that_is_there(
    filters: ModuleType, observed: dict[str, Any], answers: bool | None, source: str | None
) -> None:
    plan = filters.image_plan(["agentos"], "auto", REFERENCES, observed, VOLUMES, answers)
    assert plan["agentos"]["source"] == source


def work(
    filters: ModuleType,
    names: list[str],
    source: str,
    observed: dict[str, Any],
    references: dict[str, dict[str, str]] = REFERENCES,
) -> dict[str, Any]:
    """The work that a plan for these images takes."""
    plan = filters.image_plan(names, source, references, observed, VOLUMES, None)
    return dict(filters.image_work(plan, DEFINITIONS, references, observed))


ALL = ["postgres", "redis", "agentos", "pgadmin"]


def test_work_from_packages_builds_bases_first_and_once(filters: ModuleType) -> None:
    assert work(filters, ALL, "packages", engine()) == {
        "pull": [],
        "build": ["debian", "postgres", "redis", "python", "pgadmin"],
        "agentos": "dev-stack/python:3.13-a",
        "trust": False,
    }


def test_work_from_packages_leaves_out_what_is_there(filters: ModuleType) -> None:
    there = engine("dev-stack/debian:12-a", "dev-stack/redis:7.0.15-a")
    assert work(filters, ["redis", "postgres"], "packages", there)["build"] == ["postgres"]


def test_no_base_is_built_for_an_image_that_is_there(filters: ModuleType) -> None:
    there = engine("dev-stack/redis:7.0.15-a")
    assert work(filters, ["redis"], "packages", there)["build"] == []


def test_work_from_the_registry(filters: ModuleType) -> None:
    assert work(filters, ALL, "registry", engine("postgres:16-alpine")) == {
        "pull": ["redis:7-alpine", "python:3.12-slim", "dpage/pgadmin4:9.18"],
        "build": [],
        "agentos": "python:3.12-slim",
        "trust": False,
    }


def test_no_work_when_all_is_there(filters: ModuleType) -> None:
    there = engine(*(REFERENCES["packages"][name] for name in ALL))
    assert work(filters, ALL, "auto", there) == {
        "pull": [],
        "build": [],
        "agentos": "",
        "trust": False,
    }


def test_own_certificates_are_given_to_the_official_python(filters: ModuleType) -> None:
    references = {
        **REFERENCES,
        "registry": {**REFERENCES["registry"], "trusted-python": "dev-stack/trusted-python:c"},
    }
    found = work(filters, ["agentos"], "registry", engine(), references)
    assert found["pull"] == ["python:3.12-slim"]
    assert (found["agentos"], found["trust"]) == ("dev-stack/trusted-python:c", True)
    there = engine("python:3.12-slim", "dev-stack/trusted-python:c")
    assert work(filters, ["agentos"], "registry", there, references)["trust"] is False


def test_what_is_built_knows_what_it_is_built_on(filters: ModuleType) -> None:
    definitions = {**DEFINITIONS, "redis": {**DEFINITIONS["redis"], "args": {"MAJOR": "7"}}}
    found = filters.image_builds(
        work(filters, ["redis", "agentos"], "packages", engine()),
        definitions,
        REFERENCES,
        "/scratch",
        {"PIP_INDEX_URL": "x"},
    )
    names = REFERENCES["packages"]
    assert [(one["name"], one["reference"], one["base"], one["path"]) for one in found] == [
        ("debian", names["debian"], "", "/scratch/debian"),
        ("redis", names["redis"], names["debian"], "/scratch/redis"),
        ("python", names["python"], "", "/scratch/python"),
        ("agentos", names["agentos"], names["python"], "/scratch/agentos"),
    ]
    assert found[1]["args"] == {"PIP_INDEX_URL": "x", "MAJOR": "7"}
    script, rest = "/scratch/rootfs/rootfs", ["tzdata,netbase", "/scratch/certificates.crt"]
    assert found[2]["command"] == [script, "rootfs.tar", "trixie", *rest]
    assert "command" not in found[3]


def test_agentos_is_built_on_the_official_python_that_was_given_certificates(
    filters: ModuleType,
) -> None:
    trusted = {**REFERENCES["registry"], "trusted-python": "dev-stack/trusted-python:c"}
    references = {**REFERENCES, "registry": trusted}
    found = filters.image_builds(
        work(filters, ["agentos"], "registry", engine(), references),
        DEFINITIONS,
        references,
        "/scratch",
        {},
    )
    assert [(one["name"], one["reference"], one["base"]) for one in found] == [
        ("trusted-python", "dev-stack/trusted-python:c", "python:3.12-slim"),
        ("agentos", "dev-stack/agentos:on-official", "dev-stack/trusted-python:c"),
    ]


def definitions_folder(folder: Path) -> dict[str, Path]:
    """A folder with a file for each definition, and a build context for AgentOS."""
    names = [*DEFINITIONS, "rootfs", "trusted-python", "agents"]
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "Dockerfile").write_text(f"# {name}\n")
    return {name: folder / name for name in names}


def references_of(filters: ModuleType, folder: Path, certificates: str = "") -> Any:
    official = settings()["registry_images"]
    agents = str(folder / "agents")
    return filters.image_references(
        DEFINITIONS, str(folder), agents, ["Dockerfile"], official, "", certificates
    )


def test_references_of_a_major(filters: ModuleType) -> None:
    references = {"postgres": "postgres:{major}-alpine", "redis": "redis:7-alpine"}
    assert filters.of_major(references, 18) == references | {"postgres": "postgres:18-alpine"}
    # One that a person fixed is the same for all.
    assert filters.of_major({"postgres": "postgres:16.2"}, "16") == {"postgres": "postgres:16.2"}
    assert filters.every_reference(references, "hub") == [
        "hub/library/postgres:16-alpine",
        "hub/library/redis:7-alpine",
        "hub/library/postgres:17-alpine",
        "hub/library/postgres:18-alpine",
    ]


def test_majors_of_postgresql_are_the_same_everywhere(filters: ModuleType) -> None:
    """And the versions in the tags are those that are built."""
    majors = list(filters.POSTGRES_MAJORS)
    assert options("images")["images_postgres_major"]["choices"] == majors
    assert options("postgres")["postgres_major"]["choices"] == majors
    versions = read_yaml("roles/images/vars/main.yml")["__images_postgres_versions"]
    dockerfile = (ROOT / "roles/images/files/postgres/Dockerfile").read_text(encoding="utf-8")
    images = re.findall(r"AS image-(\d+)\nENV PG_VERSION=(\S+)", dockerfile)
    assert dict(images) == versions
    assert list(map(int, versions)) == majors
    servers = re.findall(r"AS packages-(\d+)\n.*\n +SERVER_VERSION=([\d.]+)\.0-", dockerfile)
    assert dict(servers) == versions


def test_images_got_in_a_run_are_there_the_second_time(filters: ModuleType) -> None:
    there = engine("dev-stack/redis:7.0.15-a")
    got = ["dev-stack/debian:12-a", "postgres:16-alpine", "127.0.0.1:5000/library/redis:7-alpine"]
    after = filters.with_images(there, got)
    assert work(filters, ["postgres"], "packages", after)["build"] == ["postgres"]
    assert work(filters, ["postgres"], "registry", after)["pull"] == []
    assert after["built"]["redis"] == ["dev-stack/redis:7.0.15-a"]
    assert there == engine("dev-stack/redis:7.0.15-a"), "it was changed"


@pytest.mark.parametrize(
    ("edited", "rebuilt"),
    [
        ("redis", {"redis"}),
        ("agents", {"agentos"}),
        ("python", {"python", "pgadmin", "agentos"}),
        ("debian", {"debian", "postgres", "redis"}),
        ("rootfs", {"debian", "python", "postgres", "redis", "pgadmin", "agentos"}),
    ],
)
def test_a_tag_changes_with_the_definition_and_its_bases(
    filters: ModuleType, tmp_path: Path, edited: str, rebuilt: set[str]
) -> None:
    folders = definitions_folder(tmp_path)
    before = references_of(filters, tmp_path)["packages"]
    assert references_of(filters, tmp_path)["packages"] == before
    (folders[edited] / "Dockerfile").write_text("# another\n")
    after = references_of(filters, tmp_path)["packages"]
    assert {name for name in before if before[name] != after[name]} == rebuilt
    (folders["agents"] / "notes.txt").write_text("not in the image\n")
    assert references_of(filters, tmp_path)["packages"] == after


def test_own_certificates_change_every_tag(filters: ModuleType, tmp_path: Path) -> None:
    definitions_folder(tmp_path)
    before, after = references_of(filters, tmp_path), references_of(filters, tmp_path, "abc")
    assert all(before["packages"][n] != after["packages"][n] for n in before["packages"])
    assert before["registry"]["trusted-python"] == before["registry"]["python"]
    assert after["registry"]["trusted-python"].startswith("dev-stack/trusted-python:")
    assert before["registry"]["redis"] == after["registry"]["redis"]


def test_digest_sees_names_contents_and_modes(filters: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    seen = {filters.tree_digest(str(tmp_path))}
    (tmp_path / "a").write_text("2")
    seen.add(filters.tree_digest(str(tmp_path)))
    (tmp_path / "a").chmod(0o755)
    seen.add(filters.tree_digest(str(tmp_path)))
    (tmp_path / "a").rename(tmp_path / "b")
    seen.add(filters.tree_digest(str(tmp_path)))
    seen.add(filters.tree_digest(str(tmp_path), "base"))
    assert len(seen) == 5
    last = filters.tree_digest(str(tmp_path))
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__/b.pyc").write_text("x")
    (tmp_path / "README.md").write_text("x")
    assert filters.tree_digest(str(tmp_path)) == last


def test_digest_of_some_entries_only(filters: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app/a.py").write_text("1")
    before = filters.tree_digest(str(tmp_path), only=["app"])
    (tmp_path / "other").write_text("1")
    assert filters.tree_digest(str(tmp_path), only=["app"]) == before
    assert filters.tree_digest(str(tmp_path)) != before
    (tmp_path / "app/a.py").write_text("2")
    assert filters.tree_digest(str(tmp_path), only=["app"]) != before


@pytest.mark.parametrize("name", ["versions/0002_more.py", "script.py.mako", "a/b/c/d.sql"])
def test_files_in_folders_of_a_package_count(
    filters: ModuleType, tmp_path: Path, name: str
) -> None:
    before = filters.tree_digest(str(tmp_path), only=["agentos"])
    path = tmp_path / "agentos/migrations" / name
    path.parent.mkdir(parents=True)
    path.write_text("1")
    after = filters.tree_digest(str(tmp_path), only=["agentos"])
    path.write_text("2")
    assert len({before, after, filters.tree_digest(str(tmp_path), only=["agentos"])}) == 3


def test_all_of_agentos_s_package_gets_into_its_build(filters: ModuleType) -> None:
    """The Dockerfile, what it copies, and what says what is left out."""
    counted = read_yaml("roles/images/vars/main.yml")["__images_agentos_files"]
    dockerfile = (ROOT / "agents/Dockerfile").read_text(encoding="utf-8")
    copied = {line.split()[-2] for line in dockerfile.splitlines() if line.startswith("COPY ")}
    assert copied <= set(counted)
    ignored = (ROOT / "agents/.dockerignore").read_text(encoding="utf-8").splitlines()
    assert {f"!{name}" for name in copied} <= set(ignored)
    left_out = [line for line in ignored if line.strip() and line[0] not in "#!*"]
    assert left_out == [], "what is left out must not count in the digest either"


@pytest.mark.parametrize(
    ("reference", "registry", "expected"),
    [
        ("postgres:16-alpine", "", "postgres:16-alpine"),
        ("postgres:16-alpine", "hub.example.com", "hub.example.com/library/postgres:16-alpine"),
        (
            "dpage/pgadmin4:9.18",
            "hub.example.com:5000/m",
            "hub.example.com:5000/m/dpage/pgadmin4:9.18",
        ),
    ],
)
def test_a_mirror_has_official_images_under_library(
    filters: ModuleType, reference: str, registry: str, expected: str
) -> None:
    assert filters.mirrored(reference, registry) == expected


# --- reports ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "address", "expected"),
    [
        ("postgres", "127.0.0.1:5432", "localhost:5432"),
        ("redis", "0.0.0.0:6379", "localhost:6379"),
        ("agentos", "127.0.0.1:7777", "http://localhost:7777"),
        ("pgadmin", "192.168.1.20:5050", "http://192.168.1.20:5050"),
        ("agentos", ":::7777", "http://localhost:7777"),
        ("postgres", "::1:5432", "localhost:5432"),
    ],
)
def test_endpoint(filters: ModuleType, service: str, address: str, expected: str) -> None:
    assert filters.endpoint(service, address) == expected


NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        (None, "-"),
        ("", "-"),
        ("2027-01-15T08:00:00Z", "0 s"),
        ("2027-01-15T07:59:01.123456789Z", "58 s"),
        ("2027-01-15T07:59:00Z", "1 min"),
        ("2027-01-15T07:00:01Z", "59 min"),
        ("2027-01-15T06:59:59.5Z", "1 h"),
        ("2027-01-15T09:00:00+02:00", "1 h"),
        ("2027-01-14T08:00:00Z", "1 d"),
        ("2026-12-16T08:00:00Z", "30 d"),
        ("2027-01-15T08:00:30Z", "0 s"),  # a clock that is ahead
    ],
)
def test_age(filters: ModuleType, since: str | None, expected: str) -> None:
    assert filters.age(since, NOW) == expected


def running(service: str, **other: Any) -> dict[str, Any]:
    """A healthy container, as stack_info describes it."""
    return {
        "container": f"s_{service}",
        "state": "running",
        "health": "healthy",
        "image": f"{service}:1",
        "image_id": "sha256:0",
        "volume": f"s_{service}_data",
        "since": "2027-01-15T07:00:00Z",
        "published": ["127.0.0.1:5432"],
        "drift": [],
        **other,
    }


def observed_stack(**services: dict[str, Any]) -> dict[str, Any]:
    """What stack_info tells of an engine with these services."""
    return {
        "engine": {
            "docker_host": "unix:///var/run/docker.sock",
            "name": "Docker",
            "version": "20.10.24",
            "api_version": "1.41",
            "operating_system": "Debian",
            "start_interval": False,
        },
        "services": services,
    }


KEYS = ["service", "container", "state", "health", "image", "image_id"]
KEYS += ["endpoint", "volume", "since", "drift"]


def test_report_has_the_promised_form(filters: ModuleType) -> None:
    report = filters.status_report(
        observed_stack(postgres=running("postgres")), "s", ["postgres", "redis"]
    )
    assert list(report) == ["schema", "stack", "healthy", "engine", "services"]
    assert report["schema"] == 1
    assert [list(one) for one in report["services"]] == [KEYS, KEYS]
    absent = report["services"][1]
    assert absent["state"] == "absent"
    assert {absent[key] for key in KEYS if key not in {"service", "state", "drift"}} == {None}
    assert report["healthy"] is False


@pytest.mark.parametrize(
    ("redis", "healthy"),
    [
        (running("redis"), True),
        (running("redis", health=None), True),
        (running("redis", health="starting"), False),
        (running("redis", health="unhealthy"), False),
        (running("redis", state="exited", health="healthy"), False),
        (running("redis", state="restarting"), False),
        (running("redis", state="paused"), False),
    ],
)
def test_what_counts_as_healthy(filters: ModuleType, redis: dict[str, Any], healthy: bool) -> None:
    report = filters.status_report(observed_stack(redis=redis), "s", ["redis"])
    assert report["healthy"] is healthy


def test_a_stack_with_nothing_enabled_is_not_healthy(filters: ModuleType) -> None:
    assert filters.status_report(observed_stack(), "s", [])["healthy"] is False


def test_a_disabled_service_is_listed_while_it_is_there_and_decides_nothing(
    filters: ModuleType,
) -> None:
    stack = observed_stack(redis=running("redis"), pgadmin=running("pgadmin", health="unhealthy"))
    report = filters.status_report(stack, "s", ["redis"])
    assert [one["service"] for one in report["services"]] == ["redis", "pgadmin"]
    assert report["healthy"] is True


def test_table(filters: ModuleType) -> None:
    stack = observed_stack(
        postgres=running("postgres", drift=["image"]), redis=running("redis", health="starting")
    )
    report = filters.status_report(stack, "s", ["postgres", "redis", "agentos"])
    lines = filters.status_table(report).splitlines()
    assert lines[0].split() == ["SERVICE", "STATE", "ENDPOINT", "UP", "FOR", "IMAGE"]
    assert "healthy (differs: image)" in lines[1]
    assert "starting" in lines[2]
    assert lines[3].split() == ["agentos", "absent", "-", "-", "-"]
    column = lines[0].index("ENDPOINT")
    assert all(line[column - 1] == " " and line[column] != " " for line in lines)
    assert all(line == line.rstrip() for line in lines)
    assert "IMAGE" not in filters.status_table(report, images=False)


def test_shells_hold_no_secret(filters: ModuleType) -> None:
    stack = observed_stack(postgres=running("postgres"), redis=running("redis"))
    for service in ("postgres", "redis"):
        command = filters.handover_shell(service, stack)["argv"]
        assert command[:5] == ["docker", "-H", "unix:///var/run/docker.sock", "exec", "{tty}"]
        assert command[-1] == "sh"  # $0, so that a person's own arguments become "$@"
        assert "/run/secrets" in str(command) or "assword" not in str(command)


def test_a_token_s_program_has_no_terminal_and_no_input(filters: ModuleType) -> None:
    """With a terminal its output would end in a carriage return; with input it would take ours."""
    command = filters.handover_token("agentos", observed_stack(agentos=running("agentos")))
    docker = ["docker", "-H", "unix:///var/run/docker.sock"]
    program = ["python", "-m", "agentos.token"]
    assert command == {
        "service": "agentos",
        "argv": [*docker, "exec", "s_agentos", *program],
    }


def test_every_filter_can_be_called_by_its_name(filters: ModuleType) -> None:
    for name, function in filters.FilterModule().filters().items():
        assert function.__name__ == name
        assert function.__doc__
