"""Commands that a playbook names and the launcher runs: shells, and logs that go on."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import LIMIT, Checkout, wait_until


@pytest.fixture
def docker(ready: Checkout, tmp_path: Path) -> str:
    """Give a PATH with a `docker` that says how it was called and repeats its input."""
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nfor word in "$@"; do echo "<$word>"; done\ncat\nexit 7\n')
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}"


def commands(*entries: tuple[str, list[str]]) -> str:
    """Return what a playbook writes into the hand-over file."""
    return json.dumps({"commands": [{"service": name, "argv": argv} for name, argv in entries]})


SHELL = commands(("postgres", ["docker", "exec", "{tty}", "hyvve_postgres", "psql"]))


@pytest.mark.parametrize("verb", ["psql", "redis-cli"])
def test_shell_gets_arguments_input_and_exit_status(
    ready: Checkout, docker: str, verb: str
) -> None:
    result = ready.run(
        verb, "--", "-c", "select 1", stdin="typed\n", STUB_HANDOVER=SHELL, PATH=docker
    )
    (call,) = ready.calls()
    assert call["argv"][0] == f"playbooks/{verb}.yml"
    assert "-c" not in call["argv"]
    assert call["stdin"] == ""
    assert call["handover"]["mode"] == 0o600
    assert not os.path.exists(call["handover"]["path"])
    words = ["exec", "-i", "hyvve_postgres", "psql", "-c", "select 1"]
    assert result.stdout.splitlines() == [*(f"<{word}>" for word in words), "typed"]
    assert (result.returncode, result.stderr) == (7, "")


TOKEN = commands(("agentos", ["docker", "exec", "hyvve_agentos", "python", "-m", "agentos.token"]))


@pytest.mark.parametrize(
    ("given", "handed_on"),
    [
        (["--tenant", "acme", "--sub", "a b"], ["--tenant", "acme", "--sub", "a b"]),
        (
            ["--scopes", "a:read", "b:run", "--ttl=15m"],
            ["--scopes", "a:read", "b:run", "--ttl=15m"],
        ),
        (["--", "--tenant", "acme"], ["--tenant", "acme"]),
        (["--tenant", "acme", "--", "x"], ["--tenant", "acme", "--", "x"]),
        (["anything", "--unknown"], ["anything", "--unknown"]),
        ([], []),
    ],
)
def test_token_s_options_go_to_its_program_as_they_are(
    ready: Checkout, docker: str, given: list[str], handed_on: list[str]
) -> None:
    result = ready.run("token", *given, STUB_HANDOVER=TOKEN, PATH=docker)
    (call,) = ready.calls()
    assert call["argv"][:2] == ["playbooks/token.yml", "-e"]
    assert len(call["argv"]) == 3
    words = ["exec", "hyvve_agentos", "python", "-m", "agentos.token", *handed_on]
    assert result.stdout.splitlines() == [f"<{word}>" for word in words]
    assert (result.returncode, result.stderr) == (7, "")


def test_token_alone_is_on_standard_output(ready: Checkout, tmp_path: Path) -> None:
    program = tmp_path / "docker"
    program.write_text("#!/bin/sh\necho a.b.c\necho a warning >&2\n")
    program.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    result = ready.run("token", "--tenant", "acme", STUB_HANDOVER=TOKEN, PATH=path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "a.b.c\n", "a warning\n")


def test_shell_on_a_terminal_gets_a_terminal(ready: Checkout, docker: str) -> None:
    ours, theirs = pty.openpty()
    options = ready.options({"STUB_HANDOVER": SHELL, "PATH": docker})
    process = subprocess.Popen(
        [sys.executable, "./dev", "psql"], stdin=theirs, stdout=theirs, stderr=theirs, **options
    )
    os.close(theirs)
    output = b""
    while b"<psql>" not in output:
        assert select.select([ours], [], [], LIMIT)[0], output
        output += os.read(ours, 1000)
    os.write(ours, b"\x04")
    assert process.wait(timeout=LIMIT) == 7
    os.close(ours)
    assert b"<-it>" in output


def test_failed_playbook_runs_nothing(ready: Checkout, docker: str) -> None:
    result = ready.run(
        "psql",
        STUB_HANDOVER=SHELL,
        STUB_SAYS="postgres is not running",
        STUB_EXITS=json.dumps({"ansible-playbook": 2}),
        PATH=docker,
    )
    (call,) = ready.calls()
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "postgres is not running\n"
    assert not os.path.exists(call["handover"]["path"])


@pytest.mark.parametrize(
    ("handover", "words"),
    [
        (commands(("redis", ["no-such-program"])), "no-such-program was not found on PATH"),
        (commands(), "start it first: ./dev up"),
        ("", "playbooks/psql.yml did not say what to run"),
        ('{"commands": [{}]}', "did not say what to run"),
        ("[]", "did not say what to run"),
        ('{"commands": [{"service": "redis", "argv": []}]}', "did not say what to run"),
    ],
)
def test_what_cannot_be_run_gets_one_line(ready: Checkout, handover: str, words: str) -> None:
    result = ready.run("psql", STUB_HANDOVER=handover)
    assert (result.returncode, result.stdout) == (1, "")
    (message,) = result.stderr.splitlines()
    assert words in message


def script(text: str) -> list[str]:
    """Return the command line that runs a few words of shell."""
    return ["sh", "-c", text]


def test_followed_logs_are_merged_line_by_line(ready: Checkout, tmp_path: Path) -> None:
    """In the order in which they come: each waits for the other, and a little for the launcher."""
    begun, done = tmp_path / "begun", tmp_path / "done"
    wait = "until test -e {}; do sleep 0.1; done; sleep 0.5; "
    one = f"printf 'one\\ntw'; touch {begun}; {wait.format(done)} printf 'o\\n'; echo error >&2"
    other = f"{wait.format(begun)} echo first; printf 'no newline'; touch {done}; exit 3"
    handover = commands(("redis", script(one)), ("postgres", script(other)))
    result = ready.run("logs", "-f", "-n", "9", "redis", STUB_HANDOVER=handover)
    (call,) = ready.calls()
    assert call["argv"][:3] == ["playbooks/logs.yml", "--tags", "redis"]
    assert {"logs_follow": True, "logs_tail": 9} in [
        json.loads(text) for text in call["argv"] if text.startswith("{")
    ]
    assert result.stdout.splitlines() == [
        "redis    | one",
        "postgres | first",
        "postgres | no newline",
        "redis    | two",
        "redis    | error",
    ]
    assert (result.returncode, result.stderr) == (3, "")


@pytest.mark.parametrize("plain", [False, True])
def test_prefix_has_colour_on_a_terminal(ready: Checkout, plain: bool) -> None:
    ours, theirs = pty.openpty()
    variables = {"STUB_HANDOVER": commands(("redis", ["echo", "line"]))}
    options = ready.options(variables | ({"NO_COLOR": "1"} if plain else {}))
    process = subprocess.Popen(
        [sys.executable, "./dev", "logs", "-f"], stdout=theirs, stdin=theirs, **options
    )
    assert process.wait(timeout=LIMIT) == 0
    output = os.read(ours, 1000)
    os.close(ours)
    os.close(theirs)
    assert output == (b"redis | line\r\n" if plain else b"\x1b[36mredis | \x1b[0mline\r\n")


def is_running(pid: int) -> bool:
    """Tell whether a process is there and not a zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("how", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGPIPE, 141)]
)
def test_following_ends_with_all_it_started(
    ready: Checkout, tmp_path: Path, how: signal.Signals, status: int
) -> None:
    pids = [tmp_path / "one", tmp_path / "two"]
    entries = [
        (path.name, script(f"echo $$ > {path}; while sleep 0.1; do echo tick; done"))
        for path in pids
    ]
    process = ready.start("logs", "-f", STUB_HANDOVER=commands(*entries))
    assert process.stdout is not None
    wait_until(lambda: all(path.exists() and path.read_text().strip() for path in pids))
    assert process.stdout.readline().endswith(" | tick\n")
    if how == signal.SIGPIPE:
        process.stdout.close()
    else:
        process.send_signal(how)
    assert process.wait(timeout=8) == status  # less than it would wait before it uses force
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert [path for path in pids if is_running(int(path.read_text()))] == []


def test_ctrl_c_while_the_playbook_looks(ready: Checkout) -> None:
    process = ready.start("psql", STUB_HANDOVER=SHELL, STUB_SLEEPS="900")
    wait_until(lambda: ready.calls_file.exists() and ready.calls_file.read_text().endswith("\n"))
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=LIMIT)
    assert (process.returncode, output, errors) == (130, "", "")
    assert not os.path.exists(ready.calls()[0]["handover"]["path"])
