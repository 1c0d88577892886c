"""plugins/modules/stack_secrets.py: which given values are refused, and in what words."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from .project import load_plugin


@pytest.fixture(scope="module")
def stack_secrets() -> ModuleType:
    """plugins/modules/stack_secrets.py."""
    return load_plugin("modules", "stack_secrets")


@pytest.mark.parametrize(
    ("variable", "value", "minimum"),
    [
        ("POSTGRES_PASSWORD", "x", 1),
        ("POSTGRES_PASSWORD", "p@ss: /wörd'\"\\%$`#{}", 1),
        ("REDIS_PASSWORD", " with spaces ", 1),
        ("PGADMIN_DEFAULT_PASSWORD", "😀", 1),
        ("BETTER_AUTH_SECRET", "x" * 32, 32),
        ("BETTER_AUTH_SECRET", "with space # and = and umläut, " + "x" * 32, 32),
    ],
)
def test_a_good_secret_is_taken(
    stack_secrets: ModuleType, variable: str, value: str, minimum: int
) -> None:
    assert stack_secrets.problem(variable, value, minimum) == ""


@pytest.mark.parametrize(
    ("variable", "value", "minimum", "said"),
    [
        ("POSTGRES_PASSWORD", "", 1, "set but empty"),
        ("BETTER_AUTH_SECRET", "x" * 31, 32, "has 31 characters and needs 32"),
        ("REDIS_PASSWORD", "line\nbreak", 1, "control character"),
        ("REDIS_PASSWORD", "break at the end\n", 1, "control character"),
        ("REDIS_PASSWORD", "tab\t", 1, "control character"),
        ("REDIS_PASSWORD", "null\0", 1, "control character"),
        ("REDIS_PASSWORD", "delete\x7f", 1, "control character"),
        *(
            ("BETTER_AUTH_SECRET", "x" * 32 + character, 32, "env files cannot carry")
            for character in "\\$'\"`"
        ),
    ],
)
def test_a_bad_secret_is_refused_in_one_line_that_does_not_hold_it(
    stack_secrets: ModuleType, variable: str, value: str, minimum: int, said: str
) -> None:
    told = stack_secrets.problem(variable, value, minimum)
    assert said in told and told.startswith(variable)
    assert "\n" not in told
    assert not value or value not in told


def test_a_generated_secret_is_one_that_would_be_taken(stack_secrets: ModuleType) -> None:
    import secrets

    generated = secrets.token_urlsafe(stack_secrets.LENGTH)
    assert len(generated) == 43
    assert stack_secrets.problem("BETTER_AUTH_SECRET", generated, 32) == ""


class Failed(Exception):
    """The module ended with an error."""


@pytest.fixture
def run(
    stack_secrets: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """Run the module with given values, in tmp_path/s/secrets; gives its result."""

    def running(check: bool = False, **given: str) -> dict[str, Any]:
        variables = {"postgres_password": "POSTGRES_PASSWORD", "openai_api_key": "OPENAI_API_KEY"}
        params = {
            "directory": str(tmp_path / "s/secrets"),
            "given": given,
            "variables": variables,
            "minimum": {},
            "optional": ["openai_api_key"],
            "state": "present",
            "names": [],
            "run": "",
        }
        results: list[dict[str, Any]] = []

        def fail(msg: str, **_: Any) -> None:
            raise Failed(msg)

        module = SimpleNamespace(
            params=params,
            check_mode=check,
            exit_json=lambda **result: results.append(result),
            fail_json=fail,
        )
        monkeypatch.setattr(stack_secrets, "AnsibleModule", lambda **_: module)
        stack_secrets.main()
        return results[-1]

    return running


def test_which_changed_is_told_without_a_name_or_a_value(
    run: Callable[..., dict[str, Any]],
) -> None:
    """Ansible masks given values wherever they occur in a result."""
    none = {"undone": [False, False]}
    assert run() == {"changed": True, "renewed": [True, False]} | none
    assert run() == {"changed": False, "renewed": [False, False]} | none
    assert run(postgres_password="postgres") == {"changed": True, "renewed": [True, False]} | none


def test_an_optional_secret_is_kept_once_given_and_removed_when_empty(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    key = tmp_path / "s/secrets/openai_api_key"
    run()
    assert not key.exists(), "it must not be generated"
    assert run(check=True, openai_api_key="sk-1")["renewed"] == [False, True]
    assert not key.exists()
    assert run(openai_api_key="sk-1")["renewed"] == [False, True]
    assert (key.read_text(), key.stat().st_mode & 0o777) == ("sk-1\n", 0o600)
    for again in ({}, {"openai_api_key": "sk-1"}):
        assert run(**again)["changed"] is False
    assert run(check=True, openai_api_key="")["renewed"] == [False, True]
    assert key.exists()
    assert run(openai_api_key="")["renewed"] == [False, True]
    assert not key.exists()
    assert run(openai_api_key="")["changed"] is False


def test_an_optional_secret_is_checked_like_the_others(run: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(Failed, match=r"^OPENAI_API_KEY holds a control character"):
        run(openai_api_key="a\nb")
    with pytest.raises(Failed, match=r"^POSTGRES_PASSWORD is set but empty"):
        run(postgres_password="", openai_api_key="")


# --- plugins/modules/secret_files.py ------------------------------------------------------------


def test_a_file_of_an_absent_optional_secret_is_left_out_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret_files = load_plugin("modules", "secret_files")
    kept, folder = tmp_path / "secrets", tmp_path / "agentos"
    kept.mkdir()
    (kept / "redis_password").write_text("pw\n")

    def write(check: bool = False) -> dict[str, Any]:
        results: list[dict[str, Any]] = []
        files = {"url": "redis://:{redis_password|url}@redis", "key": "{openai_api_key}"}
        optional = ["openai_api_key"]
        module = SimpleNamespace(
            params={
                "directory": str(folder), "secrets": str(kept), "files": files,
                "optional": optional, "live": [], "state": "present",
            },
            check_mode=check,
            exit_json=lambda **result: results.append(result),
        )  # fmt: skip
        monkeypatch.setattr(secret_files, "AnsibleModule", lambda **_: module)
        secret_files.main()
        return results[-1]

    without = write()
    assert (without["changed"], without["written"]) == (True, ["url"])
    assert [path.name for path in folder.iterdir()] == ["url"]
    (kept / "openai_api_key").write_text("sk-1\n")
    given = write()
    assert (given["changed"], given["written"]) == (True, ["key", "url"])
    assert (folder / "key").read_text() == "sk-1"
    assert given["fingerprint"] != without["fingerprint"]
    assert write() == given | {"changed": False}
    (kept / "openai_api_key").unlink()
    assert write(check=True)["changed"] is True
    assert (folder / "key").exists()
    assert write() == without
    assert not (folder / "key").exists()
    assert write()["changed"] is False


# --- what is changed live -----------------------------------------------------------------------


@pytest.fixture
def render(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Run secret_files for a server with a live password, in tmp_path/redis; gives its result."""
    secret_files = load_plugin("modules", "secret_files")
    kept = tmp_path / "secrets"
    kept.mkdir()

    def rendering(password: str = "", memory: int = 1, **more: Any) -> dict[str, Any]:
        if password:
            (kept / "redis_password").write_text(password + "\n")
        files = {"conf": f"memory {memory}\npass {{redis_password}}", "pw": "{redis_password}"}
        params = {"directory": str(tmp_path / "redis"), "secrets": str(kept), "files": files}
        params |= {"optional": [], "live": ["redis_password"], "state": "present"} | more
        result: dict[str, Any] = {}
        module = SimpleNamespace(params=params, check_mode=False, exit_json=result.update)
        monkeypatch.setattr(secret_files, "AnsibleModule", lambda **_: module)
        secret_files.main()
        return result

    return rendering


def test_a_live_secret_replaces_no_container_and_waits_to_be_applied(
    render: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    mounted = tmp_path / "redis/mounted"
    first = render("one")
    assert (first["mount"], first["pending"]) == (str(mounted), False)
    assert (mounted / "pw").read_text() == "one"
    second = render("two ")
    assert second == first | {"pending": True}
    assert (mounted / "pw.before").read_text() == "one\n"
    assert render() == second | {"changed": False}, "a run that was cut short is taken up"
    render("three")
    assert (mounted / "pw.before").read_text() == "one\ntwo \n", "either may be in force"
    render(state="applied")
    assert sorted(path.name for path in mounted.iterdir()) == [".id", "conf", "pw"]
    assert render()["pending"] is False
    assert render(memory=2)["fingerprint"] != first["fingerprint"]


def test_a_folder_that_was_removed_replaces_the_container(
    render: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """The container would go on with the folder that is gone."""
    import shutil

    first = render("one")
    shutil.rmtree(tmp_path / "redis")
    assert render()["fingerprint"] != first["fingerprint"]


def test_only_the_owner_reaches_what_any_user_of_a_container_may_read(
    render: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    render("one")
    modes = {
        path.relative_to(tmp_path).as_posix(): path.stat().st_mode & 0o777
        for path in (tmp_path / "redis", *(tmp_path / "redis").rglob("*"))
    }
    names = ("redis/mounted/conf", "redis/mounted/pw", "redis/mounted/.id")
    shown = {"redis/mounted": 0o755} | dict.fromkeys(names, 0o444)
    assert modes == {"redis": 0o700} | shown


def test_files_from_where_they_were_mounted_before_go_once_they_are_not(
    render: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis/pw").write_text("one")
    (tmp_path / "redis/other").write_text("not ours")
    assert render("one")["pending"] is True
    assert (tmp_path / "redis/pw").exists(), "a container may still mount it"
    render(state="applied")
    assert sorted(p.name for p in (tmp_path / "redis").iterdir()) == ["mounted", "other"]


# --- rotation -----------------------------------------------------------------------------------


@pytest.fixture
def secrets_of(
    stack_secrets: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, str]]:
    """Run stack_secrets on two secrets in tmp_path/secrets; gives them as they are then."""

    def running(state: str = "present", run: str = "", names: Any = ()) -> dict[str, str]:
        params = {
            "directory": str(tmp_path / "secrets"), "given": {}, "minimum": {}, "optional": [],
            "variables": {"a": "A", "b": "B"}, "state": state, "names": list(names), "run": run,
        }  # fmt: skip

        def fail(msg: str, **_: Any) -> None:
            raise Failed(msg)

        module = SimpleNamespace(
            params=params, check_mode=False, exit_json=lambda **_: None, fail_json=fail
        )
        monkeypatch.setattr(stack_secrets, "AnsibleModule", lambda **_: module)
        stack_secrets.main()
        return {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}

    return running


def test_a_rotation_is_put_back_unless_it_was_settled(
    secrets_of: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    before = secrets_of()
    new = secrets_of("rotated", names=["a"])
    assert new["a"] != before["a"] and new["b"] == before["b"]
    assert secrets_of("restored") == before
    secrets_of("settled")
    assert [path.name for path in tmp_path.iterdir()] == ["secrets"]
    new = secrets_of("rotated", names=["a", "b"])
    for path in (tmp_path / "rotation").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0 or path.name == "run.json"
    assert secrets_of() == before, "the next run puts them back"
    assert secrets_of() == before
    secrets_of("settled")
    new = secrets_of("rotated", names=["a", "b"])
    secrets_of("settled")
    assert secrets_of() == new


def test_a_rotation_at_work_is_left_alone(
    secrets_of: Callable[..., dict[str, str]], tmp_path: Path, utils: ModuleType
) -> None:
    import subprocess
    import sys

    before = secrets_of()
    waiting = "import sys; sys.stdin.read()"
    command = [sys.executable, "-c", waiting, "ansible-playbook"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as other:
        run = utils.process_name(other.pid)
        new = secrets_of("rotated", names=["a"], run=run)
        with pytest.raises(Failed, match=rf"^Another run \(process {other.pid}\)"):
            secrets_of(run=utils.process_name())
        with pytest.raises(Failed, match="rotation"):
            secrets_of("rotated", names=["b"])
        assert {p.name: p.read_text() for p in (tmp_path / "secrets").iterdir()} == new
        other.kill()
    # Its number may be another program's by now.
    assert secrets_of(run=utils.process_name()) == before


@pytest.mark.parametrize("left", [".rotation.partial", ".rotation.over"])
def test_a_rotation_cut_short_while_its_notes_were_made_or_removed_is_none(
    secrets_of: Callable[..., dict[str, str]], tmp_path: Path, left: str
) -> None:
    before = secrets_of()
    (tmp_path / left / "old").mkdir(parents=True)
    (tmp_path / left / "old/a").write_text("half")
    assert secrets_of() == before
    assert secrets_of("rotated", names=["a"])["a"] != before["a"]
    secrets_of("settled")
    assert not (tmp_path / "rotation").exists()
