"""plugins/action/normal.py: a module says the same in Ansible's worker as in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .project import ROOT

# Each fails, warns, changes or hides something in its own way. What they return is kept by name.
TASKS: dict[str, dict[str, Any]] = {
    "fails_clearly": {"env_file": {"path": "{{ place }}/env", "secrets": "{{ place }}/none", "variables": {"A": "{a}"}}},
    "changes": {"env_file": {"path": "{{ place }}/env", "secrets": "{{ place }}/secrets", "variables": {"A": "{a}"}}},
    "writes_beside_the_playbook": {
        "env_file": {"path": "relative.env", "secrets": "{{ place }}/secrets", "variables": {"A": "{a}"}}
    },
    "would_change": {
        "env_file": {"path": "{{ place }}/env2", "secrets": "{{ place }}/secrets", "variables": {"A": "{a}"}},
        "check_mode": True,
    },
    "is_misused": {"env_file": {"path": 1, "secrets": "{{ place }}/secrets", "no_such_option": 1}},
    "hides": {
        "stack_secrets": {
            "directory": "{{ place }}/secrets",
            "given": {"a": "hunter2hunter2"},
            "variables": {"a": "A"},
            "minimum": {"a": 100},
        }
    },
    "fails_inside": {"stack_wait": {"docker_host": "unix://{{ place }}/none.sock", "containers": ["none"]}},
    "of_the_collection": {
        "community.docker.docker_container_info": {"name": "none", "docker_host": "unix://{{ place }}/none.sock"}
    },
    "elsewhere": {"ansible.builtin.ping": {"data": "pong"}},
}  # fmt: skip


def play(tmp_path: Path, name: str, **keywords: Any) -> tuple[dict[str, Any], str]:
    """Run all tasks; what each returned, and all that was printed at the highest verbosity."""
    place = tmp_path / name
    (place / "secrets").mkdir(parents=True)
    (place / "secrets/a").write_text("hunter2hunter2\n")
    tasks: list[dict[str, Any]] = []
    for title, task in TASKS.items():
        tasks.append({"name": title, "register": title, "ignore_errors": True, **task, **keywords})
    tasks.append(
        {
            "name": "Keep what they returned",
            "ansible.builtin.copy": {
                "content": "{{ dict(names | zip(query('vars', *names))) | to_json }}",
                "dest": f"{place}/results.json",
                "mode": "0600",
            },
            "vars": {"names": list(TASKS)},
        }
    )
    hosts = {"hosts": "dev_stack", "gather_facts": False, "vars": {"place": str(place)}}
    (place / "play.yml").write_text(json.dumps([{**hosts, "tasks": tasks}]))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ANSIBLE_")}
    run = subprocess.run(
        ["ansible-playbook", str(place / "play.yml"), "-vvvv"],
        cwd=ROOT,
        env=environment | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    text = (place / "results.json").read_text().replace(str(place), "PLACE")
    results: dict[str, Any] = json.loads(text)
    return results, run.stdout + run.stderr


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, Any], str]]:
    """The same tasks in the worker, and as Ansible does it where the environment is to be another."""
    folder = tmp_path_factory.mktemp("ways")
    usual = {"environment": {"ANY": "value"}}
    return [play(folder, "worker"), play(folder, "process", **usual)]


@pytest.mark.parametrize("name", TASKS)
def test_a_module_returns_the_same(ways: list[tuple[dict[str, Any], str]], name: str) -> None:
    (worker, _), (process, _) = ways
    one, other = worker[name], process[name]
    for differing in ("exception", "module_stderr", "module_stdout", "rc"):
        assert (differing in one) == (differing in other) or name == "fails_inside"
        one.pop(differing, None), other.pop(differing, None)
    if name == "fails_inside":
        assert one["failed"] and other["failed"]
        assert "Traceback" not in one["msg"]
        return
    assert one == other


def test_no_secret_is_printed(ways: list[tuple[dict[str, Any], str]]) -> None:
    for results, output in ways:
        assert results["hides"]["failed"]
        assert "hunter2" not in output


def test_the_worker_starts_no_interpreter(ways: list[tuple[dict[str, Any], str]]) -> None:
    (_, worker), (_, process) = ways
    assert process.count("AnsiballZ_env_file.py") and not worker.count("AnsiballZ_env_file.py")
    assert "AnsiballZ_ping.py" in worker  # others' modules are run as ever


def test_a_relative_path_is_the_playbook_s(ways: list[tuple[dict[str, Any], str]]) -> None:
    for results, _ in ways:
        assert results["writes_beside_the_playbook"]["changed"]
        assert not (ROOT / "relative.env").exists()


INTERRUPTED = """
import importlib.util, os, signal, time
from ansible.plugins.loader import init_plugin_loader
init_plugin_loader()
found = importlib.util.spec_from_file_location("normal_here", "plugins/action/normal.py")
normal = importlib.util.module_from_spec(found)
found.loader.exec_module(normal)
before = signal.getsignal(signal.SIGINT)
try:
    with normal.interruptible():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        finally:
            print("tidied up")
except SystemExit as ended:
    print("ended with", ended.code, signal.getsignal(signal.SIGINT) is before)
"""


def test_ctrl_c_lets_a_module_tidy_up() -> None:
    """Ansible's worker itself would end at once."""
    program = [sys.executable, "-c", INTERRUPTED]
    run = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.stdout.split("\n")[:2] == ["tidied up", "ended with 130 True"], run.stderr
