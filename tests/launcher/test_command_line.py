"""What a command line becomes, and what is said of one that makes no sense."""

import ast
import glob
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from checkout import LIMIT, PROJECT, Checkout

MAPPING: list[tuple[str, str, list[str], dict[str, Any] | None]] = [
    # command line, playbook, options of ansible-playbook, variables
    ("up", "dev", [], None),
    ("up redis", "dev", ["--tags", "redis"], None),
    ("up redis postgres redis", "dev", ["--tags", "redis,postgres"], None),
    ("up network", "dev", ["--tags", "network"], None),
    ("up -- --check --diff", "dev", ["--check", "--diff"], None),
    ("up redis -- -e a=b --", "dev", ["--tags", "redis", "-e", "a=b", "--"], None),
    ("down", "down", [], None),
    ("down pgadmin", "down", ["--tags", "pgadmin"], None),
    ("status", "status", [], None),
    ("status --json", "status", [], {"status_format": "json"}),
    ("env", "env", [], None),
    ("env --json -- -v", "env", ["-v"], {"env_format": "json"}),
    ("reset", "reset", [], None),
    ("reset --yes", "reset", [], {"reset_confirmed": True}),
    ("logs", "logs", [], None),
    ("logs -n 5 redis -t", "logs", ["--tags", "redis"], {"logs_tail": 5, "logs_timestamps": True}),
    ("logs --tail=0", "logs", [], {"logs_tail": 0}),
    (
        "logs redis --timestamps agentos",
        "logs",
        ["--tags", "redis,agentos"],
        {"logs_timestamps": True},
    ),
]


@pytest.mark.parametrize(("line", "playbook", "options", "variables"), MAPPING)
def test_verb_becomes_playbook(
    ready: Checkout,
    line: str,
    playbook: str,
    options: list[str],
    variables: dict[str, Any] | None,
) -> None:
    result = ready.run(*line.split())
    (call,) = ready.calls()
    arguments = call["argv"]
    assert arguments.pop(0) == f"playbooks/{playbook}.yml"
    if variables is not None:
        place = next(i for i, text in enumerate(arguments) if text.startswith("{"))
        assert json.loads(arguments.pop(place)) == variables
        assert arguments.pop(place - 1) == "-e"
    assert arguments == options
    assert (result.returncode, result.stdout) == (0, "ansible-playbook was here\n")
    assert result.stderr == ""


def test_ansible_runs_in_the_checkout_with_its_settings(ready: Checkout, tmp_path: Path) -> None:
    link = tmp_path / "link to dev"
    link.symlink_to(ready.path / "dev")
    elsewhere = {**ready.options({}), "cwd": tmp_path}
    subprocess.run([str(link), "up"], capture_output=True, check=True, timeout=LIMIT, **elsewhere)
    (call,) = ready.calls()
    assert call["cwd"] == str(ready.path)
    assert call["env"]["ANSIBLE_CONFIG"] == str(ready.path / "ansible.cfg")
    assert call["env"]["PATH"].split(os.pathsep)[0] == str(ready.venv / "bin")


@pytest.mark.parametrize("status", [1, 2, 4, 99])
def test_exit_status_is_that_of_the_playbook(ready: Checkout, status: int) -> None:
    assert ready.run("up", STUB_EXITS=json.dumps({"ansible-playbook": status})).returncode == status


BAD: list[tuple[str, list[str]]] = [
    ("up postgress", ["no service 'postgress'", "mean postgres?", "redis, agentos, pgadmin"]),
    ("down everything", ["no service 'everything'", "Services: postgres,"]),
    ("logs network", ["no service 'network'"]),
    ("upp", ["no command 'upp'", "mean up?", "redis-cli"]),
    ("--check", ["no command '--check'"]),
    ("up --check", ["go after --:  ./dev up -- --check"]),
    ("up redis -l host -v", ["go after --:  ./dev up redis -- -l host -v"]),
    ("logs -fx", ["./dev logs"]),
    ("psql -c select", ["options of psql go after --:  ./dev psql -- -c select"]),
    ("status redis", ["status does not know 'redis'"]),
    ("logs -n", ["-n/--tail", "expected one argument"]),
    ("logs -n five", ["'five' is not a number of lines"]),
    ("logs -n -5", ["-n/--tail"]),
    ("setup --force", ["setup does not know '--force'"]),
    ("setup -- x", ["takes nothing after --"]),
    ("test -- -x", ["takes nothing after --"]),
    ("test mypi", ["no test step 'mypi'", "mean mypy?", "ansible-lint"]),
]


@pytest.mark.parametrize(("line", "words"), BAD)
def test_bad_input_gets_one_line_before_anything_is_made(
    fresh: Checkout, line: str, words: list[str]
) -> None:
    result = fresh.run(*line.split())
    assert result.returncode == 2
    assert result.stdout == ""
    (message,) = result.stderr.splitlines()
    assert message.startswith("dev: ")
    assert [word for word in words if word not in message] == []
    assert not fresh.venv.exists()


@pytest.mark.parametrize("line", ["", "-h", "--help", "help"])
def test_help_teaches(fresh: Checkout, line: str) -> None:
    result = fresh.run(*line.split())
    assert (result.returncode, result.stderr) == (0, "")
    words = "up down status logs env psql redis-cli token rotate reset setup test"
    verbs = words.split()
    lines = result.stdout.splitlines()
    assert [verb for verb in verbs if not any(x.split()[:1] == [verb] for x in lines)] == []
    assert "inventory/group_vars/all/settings.yml" in result.stdout
    assert "./dev up -- --check --diff" in result.stdout
    assert max(map(len, lines)) <= 100
    assert not fresh.venv.exists()


def test_every_verb_has_help(fresh: Checkout) -> None:
    texts = set()
    verbs = (
        "up",
        "down",
        "status",
        "logs",
        "env",
        "psql",
        "redis-cli",
        "token",
        "rotate",
        "reset",
        "setup",
    )
    for verb in verbs:
        result = fresh.run(verb, "--help")
        assert (result.returncode, result.stderr) == (0, "")
        assert f"usage: ./dev {verb}" in result.stdout
        assert fresh.run("help", verb).stdout == result.stdout
        texts.add(result.stdout)
    assert len(texts) == len(verbs)
    assert not fresh.venv.exists()


@pytest.mark.parametrize(
    "line", ["token --help", "token -h", "token --tenant acme -h", "help token"]
)
def test_help_of_token_tells_its_program_s_options(fresh: Checkout, line: str) -> None:
    result = fresh.run(*line.split())
    assert (result.returncode, result.stderr) == (0, "")
    assert (
        "usage: ./dev token --tenant TENANT --sub USER [--scopes SCOPE...] [--ttl TIME]"
        in " ".join(result.stdout.split())
    )
    for option in ("--tenant TENANT ", "--sub USER ", "--scopes SCOPE... ", "--ttl TIME "):
        assert f"\n  {option}" in result.stdout
    assert "TOKEN=$(./dev token --tenant acme --sub alice --ttl 15m)" in result.stdout
    assert not fresh.venv.exists()


def test_closed_streams_do_not_confuse_what_is_run(ready: Checkout) -> None:
    line = f"exec {sys.executable} ./dev up <&- >&- 2>&-"
    result = subprocess.run(["sh", "-c", line], timeout=LIMIT, check=False, **ready.options({}))
    (call,) = ready.calls()
    assert (result.returncode, call["stdin"]) == (0, "")


def test_streams_are_made_blocking(ready: Checkout) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    command = [sys.executable, "./dev", "up"]
    options = ready.options({})
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=writing, stderr=writing, **options
    )
    assert process.wait(timeout=LIMIT) == 0
    os.close(reading)
    os.close(writing)
    (call,) = ready.calls()
    assert call["blocking"] == [True, True, True]


def test_reader_that_goes_away_is_no_error(fresh: Checkout) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "./dev", "--help"]
    options = fresh.options({})
    process = subprocess.Popen(command, stdout=writing, stderr=subprocess.PIPE, **options)
    os.close(writing)
    _, errors = process.communicate(timeout=LIMIT)
    assert (process.returncode, errors) == (-signal.SIGPIPE, "")


@pytest.mark.parametrize("name", ["C", "xx_XX.UTF-8"])
def test_ansible_gets_a_locale_that_it_accepts(ready: Checkout, name: str) -> None:
    assert ready.run("up", LC_ALL=name).returncode == 0
    (call,) = ready.calls()
    assert call["env"]["LC_ALL"] in ("C.UTF-8", "en_US.UTF-8")


def old_python() -> str:
    """Return an interpreter older than 3.11 that runs, or skip the test."""
    names = [f"python3.{minor}" for minor in (10, 9, 8, 7, 6)]
    candidates = [path for path in map(shutil.which, names) if path]
    candidates += glob.glob(os.path.expanduser("~/.pyenv/versions/3.[6-9].*/bin/python"))
    candidates += glob.glob(os.path.expanduser("~/.pyenv/versions/3.10.*/bin/python"))
    for path in candidates:
        probe = [path, "-c", "import sys; assert sys.version_info < (3, 11)"]
        if subprocess.run(probe, capture_output=True, timeout=LIMIT, check=False).returncode == 0:
            return path
    pytest.skip("no Python older than 3.11 is installed")


def test_old_python_is_told_which_one_would_do(fresh: Checkout, tmp_path: Path) -> None:
    python = old_python()
    broken = tmp_path / "shims"
    good = tmp_path / "a good one"
    for folder in (broken, good):
        folder.mkdir()
    (broken / "python3.13").write_text("#!/bin/sh\nexit 127\n")
    (broken / "python3.13").chmod(0o755)
    (good / "python3.12").symlink_to(sys.executable)
    result = fresh.run("up", "redis", python=python, PATH=f"{broken}:{good}")
    (message,) = result.stderr.splitlines()
    assert "Python 3.11 or newer is needed, and this is 3." in message
    assert message.endswith(f"run  '{good}/python3.12' ./dev up redis")
    assert result.returncode == 1
    result = fresh.run("up", python=python, PATH=str(broken))
    (message,) = result.stderr.splitlines()
    assert "PATH has none" in message
    assert not fresh.venv.exists()


def test_old_python_uses_the_environment_once_it_is_made(ready: Checkout) -> None:
    assert ready.run("up", python=old_python()).returncode == 0
    assert len(ready.calls()) == 1


def test_launcher_parses_on_python_3_6() -> None:
    ast.parse((PROJECT / "dev").read_text(), feature_version=(3, 6))
