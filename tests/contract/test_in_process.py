"""What is done in Ansible's own process says and does the same as in processes of their own."""

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
    """The same tasks here, and as Ansible does it where the environment is to be another."""
    folder = tmp_path_factory.mktemp("ways")
    usual = {"environment": {"ANY": "value"}}
    return [play(folder, "here"), play(folder, "process", **usual)]


@pytest.mark.parametrize("name", TASKS)
def test_a_module_returns_the_same(ways: list[tuple[dict[str, Any], str]], name: str) -> None:
    (here, _), (process, _) = ways
    one, other = here[name], process[name]
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


def test_no_interpreter_is_started(ways: list[tuple[dict[str, Any], str]]) -> None:
    (_, here), (_, process) = ways
    assert process.count("AnsiballZ_env_file.py") and not here.count("AnsiballZ_env_file.py")
    assert "AnsiballZ_ping.py" in here  # others' modules are run as ever


def test_a_relative_path_is_the_playbook_s(ways: list[tuple[dict[str, Any], str]]) -> None:
    for results, _ in ways:
        assert results["writes_beside_the_playbook"]["changed"]
        assert not (ROOT / "relative.env").exists()


NORMAL = """
import importlib.util, os, signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # as a script's shell has its jobs ignore it
from ansible.plugins.loader import init_plugin_loader
init_plugin_loader()
found = importlib.util.spec_from_file_location("normal_here", "plugins/action/normal.py")
normal = importlib.util.module_from_spec(found)
found.loader.exec_module(normal)
from ansible.module_utils.basic import AnsibleModule
"""


def program(text: str) -> subprocess.CompletedProcess[str]:
    """Run a program that has plugins/action/normal.py as `normal`."""
    command = [sys.executable, "-c", NORMAL + text]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


TIDY = """
import multiprocessing, time
def main():
    print("begun", file=sys.__stdout__, flush=True)
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)
    finally:
        for number in also:
            os.kill(os.getpid(), number)
        print("tidied up", file=sys.__stdout__, flush=True)
"""


def test_ctrl_c_lets_a_module_tidy_up_in_a_worker() -> None:
    """Which itself would end at once. Ansible sends SIGTERM as well, and people press it again."""
    run = program(f"""{TIDY}
also = [signal.SIGTERM, signal.SIGINT]
def work():
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    print(normal.call(main, {{}})["rc"], signal.getsignal(signal.SIGINT) == signal.SIG_DFL, flush=True)
worker = multiprocessing.get_context("fork").Process(target=work)
worker.start(), worker.join()
""")
    assert run.stdout.splitlines() == ["begun", "tidied up", "130 True"], run.stderr


def test_ctrl_c_ends_the_run_of_a_module_that_is_here() -> None:
    run = program(f"""{TIDY}
also = []
normal.call(main, {{}})
print("went on")
""")
    assert run.stdout.splitlines() == ["begun", "tidied up"] and "KeyboardInterrupt" in run.stderr


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_result_is_sent_whole_whatever_ends_the_run(number: str) -> None:
    """Else Ansible would wait for the rest of it, and never end."""
    run = program(f"""
import time
sys.path.append("plugins/executor")
import in_process
from ansible.executor.task_queue_manager import FinalQueue
in_process.install()
queue, read = FinalQueue(), []
def work():
    time.sleep(0.5)
    read.extend([len(queue.get()), queue.get()])
reader = threading.Thread(target=work, daemon=True)
class Ended(BaseException):
    pass
def end(*_):
    raise Ended
signal.signal(signal.{number}, end)
reader.start()
threading.Timer(0.2, os.kill, [os.getpid(), signal.{number}]).start()
try:
    queue.put("x" * 1_000_000)  # more than a pipe takes before it is read
except Ended:
    queue.put("the end")
reader.join(10)
print(read, signal.getsignal(signal.{number}) is end)
os._exit(0)
""")
    assert run.stdout == "[1000000, 'the end'] True\n", run.stderr


def test_how_one_docker_container_compares_is_not_how_the_next_one_does() -> None:
    run = program("""
import importlib
importlib.import_module("ansible_collections.community.docker.plugins.modules.docker_container")
groups = [module.OPTIONS for module in sys.modules.values() if hasattr(module, "OPTIONS")]
options = [option for group in groups[0] for option in group.options]
before = [option.comparison for option in options]
def main():
    for option in options:
        option.comparison = "strict"
normal.call(main, {})
print(len(options) > 50, set(before) > {"strict"}, before == [option.comparison for option in options])
""")
    assert run.stdout == "True True True\n", run.stderr


def test_a_module_s_warnings_are_not_the_next_one_s() -> None:
    run = program("""
def main():
    module = AnsibleModule(argument_spec={"word": {}})
    module.warn(module.params["word"])
    module.exit_json(word=module.params["word"])
for word in ("one", "two"):
    print(normal.call(main, {"word": word})["stdout"].strip())
""")
    results = [json.loads(line) for line in run.stdout.splitlines()]
    assert [[one["event"]["msg"] for one in result["warnings"]] for result in results] == [
        ["one"],
        ["two"],
    ]


def test_what_another_thread_says_meanwhile_is_not_the_module_s() -> None:
    """The results of a loop's items are shown while the next item is worked on."""
    run = program("""
def main():
    other = threading.Thread(target=lambda: print("of the other thread"))
    other.start(), other.join()
    print("of the module")
print([normal.call(main, {})["stdout"]])
""")
    assert run.stdout == "of the other thread\n['of the module\\n']\n", run.stderr


HERE = {
    "ansible_connection": "local",
    "ansible_python_interpreter": "{{ ansible_playbook_python }}",
}


@pytest.mark.parametrize(
    ("here", "action", "task", "variables"),
    [
        (True, "debug", {}, {}),
        (True, "ansible.builtin.include_role", {}, {}),
        (True, "stack_info", {}, {}),
        (True, "community.docker.docker_volume", {}, {}),
        (True, "debug", {}, {"ansible_python_interpreter": "/another/python"}),
        (False, "stack_info", {}, {"ansible_python_interpreter": "/another/python"}),
        (False, "stack_info", {}, {"ansible_python_interpreter": ["any"]}),
        (False, "stack_info", {}, {"ansible_playbook_python": "/another/python"}),
        (False, "debug", {}, {"ansible_become": True}),
        (False, "debug", {}, {"ansible_connection": "ssh"}),
        (False, "debug", {}, {"ansible_connection": "{{ any }}"}),
        (False, "debug", {"delegate_to": "another"}, {}),
        (False, "stack_info", {"become": True}, {}),
        (False, "stack_info", {"async_val": 10}, {}),
        (False, "stack_info", {"environment": [{"A": "b"}]}, {}),
        # What they start has to end with them.
        (False, "ansible.builtin.command", {}, {}),
        (False, "image_builds", {}, {}),
        (False, "stack_job", {}, {}),
        (False, "stack_remove", {}, {}),
        (False, "volume_info", {}, {}),
    ],
)
def test_which_tasks_are_done_here(
    here: bool, action: str, task: dict[str, Any], variables: dict[str, Any]
) -> None:
    variables_here = HERE | {"ansible_playbook_python": sys.executable}
    run = program(f"""
from types import SimpleNamespace
sys.path.insert(0, "plugins/executor")
import in_process
task = SimpleNamespace(**{{"async_val": 0, "become": None, "delegate_to": None, "environment": []}} | {task})
task.action = "{action}"
print(bool(in_process.starts_no_program(task, {variables_here | variables})))
""")
    assert run.stdout == f"{here}\n", run.stderr


WORKERS = """
- hosts: dev_stack
  gather_facts: false
  vars:
    greeting: "{{ word }} of {{ place | default('nowhere') }}"
    broken: "{{ nobody.knows }}"
  tasks:
    - ansible.builtin.set_fact:
        here: "{{ lookup('ansible.builtin.pipe', 'echo $PPID') }}"
    - ansible.builtin.command: echo {{ lookup('ansible.builtin.pipe', 'echo $PPID') }}
      register: command
      changed_when: false
    - ansible.builtin.debug:
        msg: "pids {{ [lookup('ansible.builtin.env', 'DEV_STACK_RUN').split(':')[1] == here, command.stdout == here] }}"
    - ansible.builtin.debug:
        msg: "{{ greeting }}"
      loop: [one, two]
      loop_control: { loop_var: word }
      register: said
    - ansible.builtin.include_tasks: more.yml
      loop: [three, four]
      loop_control: { loop_var: word }
    - ansible.builtin.debug:
        msg: "said {{ said.results | map(attribute='msg') | list }} {{ word | default('no word') }}"
    - block:
        - ansible.builtin.debug:
            msg: "{{ broken }}"
      rescue:
        - ansible.builtin.debug:
            msg: "rescued: {{ ansible_failed_result.msg }}"
    - ansible.builtin.set_fact:
        never: true
      when: false
    - ansible.builtin.debug:
        msg: "never {{ never is defined }}"
    - ansible.builtin.debug:
        msg: "streams {{ lookup('ansible.builtin.pipe', 'ls -l /dev/fd/0 /dev/fd/1 /dev/fd/2 | wc -l') }}"
    - ansible.builtin.include_tasks: again.yml
      loop: [first, second]
      loop_control: { loop_var: time }
"""
AGAIN = """
- name: Block of the {{ time }} time
  environment: "{{ {'TIME': time} }}"
  block:
    - ansible.builtin.set_fact:
        known: "{{ time }}"
    - ansible.builtin.command: echo environment of the $TIME time
      args: { expand_argument_vars: true }
      register: told
      changed_when: false
    - ansible.builtin.debug:
        msg: "{{ known }}: {{ told.stdout }}"
"""
MORE = """
- ansible.builtin.debug:
    msg: "more: {{ greeting }}"
  vars: { place: "{{ word }}land" }
"""


def run_play(folder: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a play with this project's configuration."""
    (folder / "play.yml").write_text(text)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ANSIBLE_")}
    return subprocess.run(
        ["ansible-playbook", str(folder / "play.yml"), *options],
        cwd=ROOT,
        env=environment | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_tasks_that_start_no_program_are_done_without_a_fork(tmp_path: Path) -> None:
    """And leave no trace in tasks and variables, as if there had been one."""
    (tmp_path / "more.yml").write_text(MORE)
    (tmp_path / "again.yml").write_text(AGAIN)
    run = run_play(tmp_path, WORKERS)
    assert run.returncode == 0, run.stdout + run.stderr
    lines = run.stdout.splitlines()
    assert lines[0] == "pids [True, False]"
    assert [line for line in lines if line.startswith("more")] == [
        "more: three of threeland",
        "more: four of fourland",
    ]
    assert "said ['one of nowhere', 'two of nowhere'] no word" in run.stdout
    assert "rescued: " in run.stdout and "nobody" in run.stdout
    assert "never False" in run.stdout
    assert "streams 3" in run.stdout
    assert "first: environment of the first time" in run.stdout
    assert "second: environment of the second time" in run.stdout


def test_a_task_is_each_host_s_own(tmp_path: Path) -> None:
    hosts = dict.fromkeys(("one", "two"), HERE)
    (tmp_path / "hosts.yml").write_text(json.dumps({"dev_stack": {"hosts": hosts}}))
    debug = {"ansible.builtin.debug": {"msg": "this is {{ inventory_hostname }}"}}
    play = [{"hosts": "dev_stack", "gather_facts": False, "tasks": [debug]}]
    run = run_play(tmp_path, json.dumps(play), "-i", str(tmp_path / "hosts.yml"))
    assert run.stdout.splitlines()[:2] == ["this is one", "this is two"], run.stdout + run.stderr


def test_an_error_within_ansible_ends_the_run(tmp_path: Path) -> None:
    """Where the strategy would wait for ever for the result of a fork that could not be made."""
    run = program(f"""
sys.path.insert(0, "plugins/executor")
import in_process
from ansible.executor.task_executor import TaskExecutor
def broken(self):
    raise OSError("as broken as can be")
TaskExecutor.run = broken
sys.argv = ["ansible-playbook", "{tmp_path}/play.yml"]
open("{tmp_path}/play.yml", "w").write("[{{hosts: dev_stack, gather_facts: false, tasks: [{{debug: }}]}}]")
from ansible.cli.playbook import main
main()
""")
    assert run.returncode not in (0, None) and "as broken as can be" in run.stderr


def test_a_template_is_compiled_once_and_means_what_it_says_each_time() -> None:
    run = program("""
sys.path.insert(0, "plugins/executor")
import in_process
from ansible._internal._templating import _jinja_bits
compiled = []
compile_anew = _jinja_bits.AnsibleEnvironment.compile
def count(self, source, *arguments, **options):
    compiled.append(str(source))
    return compile_anew(self, source, *arguments, **options)
_jinja_bits.AnsibleEnvironment.compile = count
in_process.install()
in_process.install()
from ansible.template import Templar, trust_as_template
same = trust_as_template("{{ a }} {{ b | default('none') }}")
for variables in ({"a": 1}, {"a": 2, "b": 3}, {"b": 4, "a": trust_as_template("{{ b }}")}):
    print(Templar(loader=None, variables=variables).template(same))
print(compiled.count(str(same)))
""")
    assert run.stdout.splitlines() == ["1 none", "2 3", "4 4", "1"], run.stderr
