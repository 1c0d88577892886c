"""What a run leaves out: digests of what is wanted, and the decision (see docs/architecture.md)."""

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .project import SERVICES, load_plugin, read_yaml, settings

WANTED = {name: f"wanted {name}" for name in (*SERVICES, "network")}


@pytest.fixture(scope="module")
def description() -> ModuleType:
    """plugins/action/stack_description.py."""
    return load_plugin("action", "stack_description")


def service(name: str, **differing: Any) -> dict[str, Any]:
    """A container that is well, as stack_info tells of it."""
    well = {"state": "running", "health": "healthy", "failing": False, "drift": []}
    return {"found": f"found {name}", **well, **differing}


def observed(**differing: dict[str, Any]) -> dict[str, Any]:
    """A whole stack, remembered as it is now; but for those named, which are as given."""
    names = (*SERVICES, "network")
    return {
        "services": {name: service(name, **differing.get(name, {})) for name in SERVICES},
        "network": {"found": "found network", **differing.get("network", {})},
        "others": [],
        "remembered": {
            name: {"description": WANTED[name], "found": f"found {name}"} for name in names
        },
    }


def test_what_is_as_it_was_is_unchanged(filters: ModuleType) -> None:
    assert set(filters.unchanged_services(observed(), WANTED, [])) == {*SERVICES, "network"}


@pytest.mark.parametrize(
    "differing",
    [
        {"state": "exited"},
        {"state": "paused"},
        {"health": "unhealthy"},
        {"health": "starting"},
        {"health": None},
        {"failing": True},
        {"drift": ["image"]},
        {"found": "something else"},
        {"found": None},
    ],
)
def test_a_container_that_differs_or_is_not_well_is_looked_into(
    filters: ModuleType, differing: dict[str, Any]
) -> None:
    unchanged = filters.unchanged_services(observed(redis=differing), WANTED, [])
    assert set(unchanged) == {*SERVICES, "network"} - {"redis"}


def test_what_is_to_be_different_is_looked_into(filters: ModuleType) -> None:
    unchanged = filters.unchanged_services(observed(), WANTED | {"pgadmin": "another"}, [])
    assert set(unchanged) == {*SERVICES, "network"} - {"pgadmin"}


@pytest.mark.parametrize("differing", [{"health": "unhealthy"}, {"failing": True}])
def test_agentos_is_not_blamed_for_a_redis_that_is_away(
    filters: ModuleType, differing: dict[str, Any]
) -> None:
    away = {"state": "exited", "health": "unhealthy"}
    seen = observed(redis=away, agentos=differing)
    assert set(filters.unchanged_services(seen, WANTED, [])) == {
        "postgres",
        "agentos",
        "pgadmin",
        "network",
    }
    stopped = observed(redis=away, agentos={"state": "exited"})
    assert "agentos" not in filters.unchanged_services(stopped, WANTED, [])
    other = observed(redis=away, agentos=differing | {"found": "another"})
    assert "agentos" not in filters.unchanged_services(other, WANTED, [])


def test_agentos_that_is_ill_by_itself_is_looked_into(filters: ModuleType) -> None:
    ill = {"health": "unhealthy"}
    others = {*SERVICES, "network"} - {"agentos"}
    # Redis is well and only to be different; or it is not in the run, which will not mend it.
    unchanged = filters.unchanged_services(observed(agentos=ill), WANTED | {"redis": "new"}, [])
    assert set(unchanged) == others - {"redis"}
    without = {name: text for name, text in WANTED.items() if name != "redis"}
    seen = observed(agentos=ill, redis={"state": "exited"})
    assert set(filters.unchanged_services(seen, without, [])) == others - {"redis"}


def test_agentos_is_proved_with_its_postgresql_alone(filters: ModuleType) -> None:
    unchanged = filters.unchanged_services(observed(postgres={"found": "another"}), WANTED, [])
    assert set(unchanged) == {"redis", "pgadmin", "network"}


def test_what_is_not_there_is_looked_into(filters: ModuleType) -> None:
    seen = observed()
    del seen["services"]["redis"]
    seen["network"] = None
    assert set(filters.unchanged_services(seen, WANTED, [])) == {*SERVICES} - {"redis"}


def test_what_an_interrupted_run_left_is_looked_into(filters: ModuleType) -> None:
    seen = observed() | {"others": [{"service": "agentos", "container": "hyvve_agentos_migrate"}]}
    unchanged = filters.unchanged_services(seen, WANTED, [])
    assert set(unchanged) == {*SERVICES, "network"} - {"agentos"}


def test_all_is_looked_into_when_a_secret_changed(filters: ModuleType) -> None:
    assert filters.unchanged_services(observed(), WANTED, ["redis_password"]) == []


@pytest.mark.parametrize("remembered", [{}, {"redis": 1}, {"redis": {"found": "found redis"}}])
def test_nothing_is_left_out_that_is_not_remembered(
    filters: ModuleType, remembered: dict[str, Any]
) -> None:
    seen = observed() | {"remembered": remembered}
    assert filters.unchanged_services(seen, WANTED, []) == []


def test_only_what_a_run_was_about_is_remembered_anew(filters: ModuleType) -> None:
    seen = observed() | {"remembered": {"pgadmin": "as it was"}}
    described = {
        "services": WANTED,
        "env_file": {"description": "wanted", "found": "as found before"},
    }
    assert filters.remembered(seen, described, ["redis", "network"], "as written") == {
        "pgadmin": "as it was",
        "redis": {"description": "wanted redis", "found": "found redis"},
        "network": {"description": "wanted network", "found": "found network"},
        "env_file": {"description": "wanted", "found": "as written"},
    }


@pytest.mark.parametrize(
    ("remembered", "now", "same"),
    [
        ({"description": "a", "found": "b"}, {"description": "a", "found": "b"}, True),
        ({"description": "a", "found": "b"}, {"description": "c", "found": "b"}, False),
        ({"description": "a", "found": "b"}, {"description": "a", "found": "c"}, False),
        ({"description": "a", "found": ""}, {"description": "a", "found": ""}, False),
        (None, {"description": "a", "found": "no file"}, False),
    ],
)
def test_connection_strings_are_looked_into_unless_they_are_as_they_were(
    filters: ModuleType, remembered: Any, now: dict[str, str], same: bool
) -> None:
    seen = {"remembered": {"env_file": remembered} if remembered else {}}
    assert filters.same_env_file(seen, {"env_file": now}) is same


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, True),
        ({"POSTGRES_PASSWORD": "known"}, True),
        ({"POSTGRES_PASSWORD": "another"}, False),
        ({"POSTGRES_PASSWORD": ""}, False),  # the run says what is wrong with it
        ({"OPENAI_API_KEY": ""}, True),
        ({"OPENAI_API_KEY": "new"}, False),
    ],
)
def test_secrets_that_are_given_anew_are_looked_into(
    description: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, str],
    kept: bool,
) -> None:
    names = {"postgres_password": "POSTGRES_PASSWORD", "openai_api_key": "OPENAI_API_KEY"}
    (tmp_path / "postgres_password").write_text("known\n")
    for variable in names.values():
        monkeypatch.delenv(variable, raising=False)
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    assert description.are_kept(names, tmp_path) is kept


def test_a_file_s_digest_is_of_its_content_and_mode(tmp_path: Path) -> None:
    digest = load_plugin("module_utils", "dev_stack").file_digest
    path = tmp_path / "env"
    assert digest("", tmp_path) == digest(str(path), tmp_path) == "no file"
    path.write_text("A=1\n")
    assert digest(str(path), tmp_path) == ""  # without a key nothing can be told
    (tmp_path / "fingerprint_key").write_text("key")
    seen = {digest(str(path), tmp_path)}
    path.chmod(0o600)
    seen.add(digest(str(path), tmp_path))
    path.write_text("A=2\n")
    seen.add(digest(str(path), tmp_path))
    (tmp_path / "fingerprint_key").write_text("another")
    seen.add(digest(str(path), tmp_path))
    assert len(seen) == 4 and "" not in seen


# --- what is wanted -------------------------------------------------------------------------------

VARIABLES: dict[str, Any] = {
    "redis_memory": "512m",
    "redis_files_dir": "{{ place }}/redis",
    "redis_port": "{{ lookup('ansible.builtin.env', 'SOME_PORT') | default(6379, true) }}",
    "redis_healthy": "{{ engine_observed.services.redis.healthy and not stack_secrets_suspect }}",
    "stack_secrets_suspect": False,
    "redis_options": {"list": ["{{ deep }}"]},
    "place": "{{ deeper }}",
    "deeper": "/here",
    "deep": 1,
    "unrelated": 1,
    "postgres_memory": "1g",
    "engine_observed": {"machine": {}, "engine": {}, "current": {}},
}


def digest(description: ModuleType, differing: dict[str, Any] | None = None) -> str:
    """What the role redis is made from; what looks further is templated to what the environment has."""
    variables = VARIABLES | (differing or {})
    names = description.with_prefix("redis", variables)
    text: str = description.inputs(names, variables, lambda _: dict(os.environ))
    return text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("redis_memory", "1g"),
        ("redis_new", 1),
        ("deeper", "/there"),
        ("deep", 2),
        ("redis_healthy", True),  # somebody's own value
        ("engine_observed", {"machine": {"architecture": "another"}}),
    ],
)
def test_whatever_a_role_s_variables_are_made_from_counts(
    description: ModuleType, name: str, value: Any
) -> None:
    assert digest(description) != digest(description, {name: value})


@pytest.mark.parametrize("name", ["unrelated", "postgres_memory", "stack_secrets_suspect"])
def test_nothing_else_counts(description: ModuleType, name: str) -> None:
    assert digest(description) == digest(description, {name: "another"})


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("{{ lookup('ansible.builtin.env', 'SOME_PORT') | default(6379, true) }}", "SOME_PORT"),
        ("{{ lookup('env', 'SOME_2') }}", "SOME_2"),
        ('{{ lookup("env", "SOME_PORT") }}', "SOME_PORT"),
        ("{{ query('env', 'OTHER', 'SOME_PORT') }}", "SOME_PORT"),
    ],
)
def test_environment_variables_that_are_read_count(
    description: ModuleType, monkeypatch: pytest.MonkeyPatch, text: str, name: str
) -> None:
    reader = {"redis_port": text}
    before = digest(description, reader)
    monkeypatch.setenv(name, "7000")
    assert digest(description, reader) != before


def test_what_is_looked_up_elsewhere_counts(description: ModuleType) -> None:
    reader = {"deep": {"of": ["{{ lookup('ansible.builtin.file', 'some') | from_yaml }}"]}}
    one, other = (
        description.inputs(
            ["redis_options"], VARIABLES | reader, lambda _, content=content: content
        )
        for content in ("this", "that")
    )
    assert one != other


def test_what_changes_from_one_look_to_the_next_does_not_count(description: ModuleType) -> None:
    look = {
        "engine": {"version": "1", "free_bytes": 1},
        "machine": {"state_dir": "/state"},
        "current": {"redis": "volume"},
        "services": {"redis": {"since": "today"}},
    }
    stays = description.what_stays(look)
    later = look | {"engine": {"version": "1", "free_bytes": 2}, "services": {}}
    assert description.what_stays(later) == stays
    assert description.what_stays(look | {"current": {}}) != stays


def test_what_is_made_on_the_way_is_that_and_no_setting(description: ModuleType) -> None:
    wiring = read_yaml("inventory/group_vars/all/wiring.yml")
    assert description.MADE_ON_THE_WAY - {"images_chosen"} <= set(wiring)
    assert not description.MADE_ON_THE_WAY & set(settings())


def test_digests_of_what_is_found_differ_by_each_part(tmp_path: Path) -> None:
    found = load_plugin("modules", "stack_info").Found
    data: dict[str, Any] = {
        "Id": "0123456789abcdef",
        "Image": "sha256:1",
        "Config": {"Env": ["A=1"]},
        "HostConfig": {"Memory": 1},
        "Mounts": [{"Destination": "/b"}, {"Destination": "/a"}],
        "NetworkSettings": {
            "Networks": {"one": {"NetworkID": "n", "Aliases": ["redis", "0123456789ab"]}}
        },
    }
    assert found(tmp_path).container(data, "redis", None) is None  # without a key
    for path, text in (("secrets/fingerprint_key", "key"), ("redis/mounted/redis.conf", "text")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    digest = found(tmp_path).container(data, "redis", None)
    assert digest == found(tmp_path).container(
        data | {"Mounts": data["Mounts"][::-1], "State": {"StartedAt": "later"}}, "redis", None
    )
    networks = data["NetworkSettings"]["Networks"]
    others: list[dict[str, Any]] = [
        {"Id": "another"},
        {"Image": "sha256:2"},
        {"Config": {"Env": ["A=2"]}},
        {"HostConfig": {"Memory": 2}},
        {"Mounts": []},
        {"NetworkSettings": {"Networks": {}}},
        {"NetworkSettings": {"Networks": {"one": networks["one"] | {"Aliases": []}}}},
        {"NetworkSettings": {"Networks": {"one": networks["one"] | {"NetworkID": "m"}}}},
    ]
    digests = {found(tmp_path).container(data | other, "redis", None) for other in others}
    digests.add(found(tmp_path).container(data, "redis", {"labels": {}}))
    for path in ("redis/mounted/redis.conf", "secrets/redis_password"):
        (tmp_path / path).write_text("other")
        digests.add(found(tmp_path).container(data, "redis", None))
    for path in ("redis/mounted/redis.conf", "redis/mounted", "redis", "."):
        (tmp_path / path).chmod(0o711)
        digests.add(found(tmp_path).container(data, "redis", None))
    (tmp_path / "rotation").mkdir()  # one that was interrupted
    digests.add(found(tmp_path).container(data, "redis", None))
    assert len(digests) == len(others) + 8 and digest not in digests


def test_files_that_cannot_be_read_are_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are another user's, or a run writes them this moment: observing goes on."""
    found = load_plugin("modules", "stack_info").Found
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/fingerprint_key").write_text("key")
    data: dict[str, Any] = {"Id": "1", "Image": "", "Config": {}, "HostConfig": {}, "Mounts": []}
    data["NetworkSettings"] = {"Networks": {}}
    digests = found(tmp_path)
    assert digests.container(data, "redis", None)

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert digests.container(data, "redis", None) is None
    monkeypatch.setattr(Path, "read_text", refuse)
    assert found(tmp_path).key == ""
