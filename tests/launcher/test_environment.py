"""How the Python environment is made, kept, repaired and shared."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import COLLECTIONS, LIMIT, Checkout, end_group, wait_until, write_release, write_wheel

INSTALLING = "Installing Python packages"


@pytest.fixture
def held(fresh: Checkout) -> Checkout:
    """Give a checkout whose installation stops in the middle until `slow_hold` is removed."""
    fresh.require(fresh.runtime, fresh.slow)
    fresh.slow_hold.touch()
    return fresh


def test_first_run_installs_and_the_second_does_not(fresh: Checkout) -> None:
    first = fresh.run("up")
    assert (first.returncode, first.stdout) == (0, "ansible-playbook was here\n")
    assert INSTALLING in first.stderr
    assert "ten seconds" in first.stderr
    before = (fresh.venv / "pyvenv.cfg").stat()
    second = fresh.run("up")
    assert (second.returncode, second.stderr) == (0, "")
    assert (fresh.venv / "pyvenv.cfg").stat() == before
    assert not (fresh.venv / "bin" / "molecule").exists()


def test_setup_adds_the_test_tools_and_says_how_to_use_them(fresh: Checkout) -> None:
    fresh.run("up")
    kept = fresh.venv / "kept"
    kept.touch()
    result = fresh.run("setup")
    assert result.returncode == 0
    assert shlex.split(result.stdout) == ["source", str(fresh.venv / "bin" / "activate")]
    assert (fresh.venv / "bin" / "molecule").exists()
    assert kept.exists()
    assert INSTALLING not in fresh.run("setup").stderr
    assert INSTALLING not in fresh.run("up").stderr


def test_only_a_change_of_what_a_level_needs_installs_again(fresh: Checkout) -> None:
    assert fresh.run("setup").returncode == 0
    more = write_wheel(fresh.files, "more", "1.0", ("more",))
    test_requirements = fresh.path / "requirements-test.txt"
    test_requirements.write_text(f"{fresh.test}\n-r folder/further.txt\n")
    further = fresh.path / "folder" / "further.txt"
    further.parent.mkdir()
    further.write_text("")
    assert INSTALLING not in fresh.run("up").stderr
    assert INSTALLING in fresh.run("setup").stderr
    assert INSTALLING not in fresh.run("setup").stderr
    further.write_text(f"{more}\n")
    assert INSTALLING in fresh.run("setup").stderr
    assert (fresh.venv / "bin" / "more").exists()

    newer = write_wheel(fresh.files, "stub", "2.0", ("ansible-playbook",))
    fresh.require(newer)
    assert INSTALLING in fresh.run("up").stderr
    assert list(fresh.venv.glob("lib/*/site-packages/stub-2.0.dist-info"))
    assert INSTALLING in fresh.run("setup").stderr


def test_of_the_release_only_the_collections_in_use_are_unpacked(fresh: Checkout) -> None:
    release = fresh.path / "requirements-collections.txt"
    assert fresh.run("up").returncode == 0
    (parent,) = fresh.venv.glob("lib/python*/site-packages/ansible_collections")
    found = {str(path.parent.relative_to(parent)) for path in parent.glob("*/*/version.py")}
    assert found == set(COLLECTIONS)
    assert list(parent.glob("community/docker/__pycache__/version.*.pyc"))
    assert not list(parent.parent.glob("release*"))

    (parent / COLLECTIONS[0] / "stale.py").touch()
    release.write_text(f"{write_release(fresh.files, '2.0', COLLECTIONS)}\n")
    assert INSTALLING in fresh.run("up").stderr
    assert "2.0" in (parent / COLLECTIONS[0] / "version.py").read_text()
    assert not (parent / COLLECTIONS[0] / "stale.py").exists()

    release.write_text(f"{write_release(fresh.files, '3.0', COLLECTIONS[1:])}\n")
    result = fresh.run("up")
    assert result.returncode == 1
    assert "release-3.0-py3-none-any.whl has no community.docker" in result.stderr


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_installation_is_repaired(held: Checkout, how: signal.Signals) -> None:
    process = held.start("up")
    wait_until(held.builds)
    end_group(process, how)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    assert "Traceback" not in errors
    leftover = held.venv / "lib" / "half-written"
    leftover.touch()
    held.slow_hold.unlink()
    result = held.run("up")
    assert (result.returncode, result.stdout) == (0, "ansible-playbook was here\n")
    assert not leftover.exists()
    assert INSTALLING not in held.run("up").stderr


def test_interrupted_update_is_not_trusted(held: Checkout) -> None:
    held.require(held.runtime)
    assert held.run("up").returncode == 0
    held.require(held.runtime, held.slow)
    process = held.start("up")
    wait_until(held.builds)
    end_group(process, signal.SIGKILL)
    process.communicate(timeout=LIMIT)
    held.require(held.runtime)
    assert INSTALLING in held.run("up").stderr


def test_two_at_once_install_once(held: Checkout) -> None:
    first = held.start("up")
    wait_until(held.builds)
    second = held.start("up")
    assert second.stderr is not None
    assert second.stderr.readline().startswith("Waiting for another run")
    held.slow_hold.unlink()
    for process in (first, second):
        output, _ = process.communicate(timeout=LIMIT)
        assert (process.returncode, output) == (0, "ansible-playbook was here\n")
    assert held.builds() == 1


def test_pip_that_outlives_a_killed_launcher_is_waited_for(held: Checkout) -> None:
    first = held.start("up")
    wait_until(held.builds)
    first.kill()
    first.wait()
    second = held.start("up")
    assert second.stderr is not None
    assert second.stderr.readline().startswith("Waiting for another run")
    held.slow_hold.unlink()
    output, _ = second.communicate(timeout=LIMIT)
    assert (second.returncode, output) == (0, "ansible-playbook was here\n")
    for process in (first,):
        process.communicate(timeout=LIMIT)


def test_moved_checkout_gets_a_new_environment(fresh: Checkout) -> None:
    fresh.run("up")
    moved = fresh.path.with_name("moved")
    fresh.path.rename(moved)
    fresh.path = moved
    result = fresh.run("up")
    assert result.returncode == 0
    assert INSTALLING in result.stderr
    script = (moved / ".venv" / "bin" / "ansible-playbook").read_text()
    assert script.startswith(f"#!{moved}/.venv/bin/python")


@pytest.mark.parametrize("damage", ["bin/python", "stamp"])
def test_damaged_environment_is_repaired(fresh: Checkout, damage: str) -> None:
    fresh.run("up")
    if damage == "stamp":
        (fresh.venv / "dev-stamp.json").write_text('{"venv": "')
    else:
        (fresh.venv / damage).unlink()
    result = fresh.run("up")
    assert (result.returncode, result.stdout) == (0, "ansible-playbook was here\n")
    assert INSTALLING in result.stderr
    assert fresh.run("up").stderr == ""


def test_environment_made_by_hand_is_kept(fresh: Checkout) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(fresh.venv)], check=True, timeout=LIMIT)
    kept = fresh.venv / "kept"
    kept.touch()
    assert fresh.run("up").returncode == 0
    assert kept.exists()


def test_dev_venv_names_another_place(fresh: Checkout, tmp_path: Path) -> None:
    place = tmp_path / "else where" / "venv"
    assert fresh.run("up", DEV_VENV=str(place)).returncode == 0
    assert (place / "bin" / "ansible-playbook").exists()
    assert not fresh.venv.exists()


@pytest.mark.parametrize("content", ["pyvenv.cfg", "my work"])
def test_what_is_not_ours_is_left_alone(fresh: Checkout, tmp_path: Path, content: str) -> None:
    place = tmp_path / "precious"
    place.mkdir()
    (place / content).write_text("keep")
    result = fresh.run("up", DEV_VENV=str(place))
    assert result.returncode == 1
    (message,) = result.stderr.splitlines()
    assert "set DEV_VENV to another path" in message
    assert [path.name for path in place.iterdir()] == [content]


@pytest.fixture
def shared() -> Iterator[Path]:
    """Give a folder that every user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="dev-launcher-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_environment_of_another_user_gets_one_line(shared: Path) -> None:
    checkout = Checkout(shared / "stack")
    checkout.venv.mkdir()
    checkout.venv.chmod(0o555)
    python, user = sys.executable, None
    if os.geteuid() == 0:
        python, user = "/usr/bin/python3", 65534
        probe = [python, "-c", "import sys; assert sys.version_info >= (3, 11)"]
        if subprocess.run(probe, capture_output=True, check=False, timeout=LIMIT).returncode != 0:
            pytest.skip("root needs a Python that other users may run")
    options = checkout.options({})
    result = subprocess.run(
        [python, "./dev", "up"],
        user=user,
        capture_output=True,
        timeout=LIMIT,
        check=False,
        **options,
    )
    assert result.returncode == 1
    (message,) = result.stderr.splitlines()
    assert f"cannot write to {checkout.venv}, which belongs to " in message
    assert "DEV_VENV=" in message


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ("[Errno 28] No space left on device", "is full"),
        ("Temporary failure in name resolution", "check the network"),
    ],
)
def test_failed_installation_says_what_to_check(fresh: Checkout, error: str, advice: str) -> None:
    fresh.require(fresh.runtime, fresh.slow)
    result = fresh.run("up", SLOW_ERROR=error)
    assert result.returncode == 1
    assert error in result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith("dev: pip failed with status")
    assert advice in last
    assert "Traceback (most recent call last)" not in last
    assert fresh.calls() == []


def test_missing_requirements_get_one_line(fresh: Checkout) -> None:
    (fresh.path / "requirements.txt").unlink()
    result = fresh.run("up")
    assert result.returncode == 1
    assert "is the checkout complete?" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_missing_ensurepip_is_installed_or_named(fresh: Checkout, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys\nsys.modules['ensurepip'] = None\n")
    script = f'#!/bin/sh\necho "$@" >> "{fresh.files}/apt"\nexit 100\n'
    (hidden / "apt-get").write_text(script)
    (hidden / "apt-get").chmod(0o755)
    path = f"{hidden}:{os.environ['PATH']}"
    result = fresh.run("up", PYTHONPATH=str(hidden), PATH=path)
    package = f"python3.{sys.version_info[1]}-venv"
    assert result.returncode == 1
    assert f"apt-get install -y {package}" in result.stderr.splitlines()[-1]
    if os.geteuid() == 0:
        calls = (fresh.files / "apt").read_text().splitlines()
        assert [line.split()[0] for line in calls] == ["install", "update", "install"]
        assert calls[0].endswith(package)
    else:
        assert "sudo apt-get" in result.stderr
        assert not (fresh.files / "apt").exists()


def other_python() -> str:
    """Return a Python of another minor version that can make environments, or skip the test."""
    for minor in (11, 12, 13, 14):
        path = shutil.which(f"python3.{minor}")
        candidates = [path] if path else []
        candidates += map(str, Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python"))
        for python in candidates if minor != sys.version_info[1] else []:
            probe = [python, "-c", "import ensurepip"]
            if (
                subprocess.run(probe, capture_output=True, timeout=LIMIT, check=False).returncode
                == 0
            ):
                return python
    pytest.skip("there is no second Python of 3.11 or newer")


def test_setup_moves_to_the_python_that_runs_it(fresh: Checkout) -> None:
    other = other_python()
    fresh.run("up")
    assert fresh.run("up", python=other).stderr == ""
    result = fresh.run("setup", python=other)
    assert INSTALLING in result.stderr
    stamp = json.loads((fresh.venv / "dev-stamp.json").read_text())
    assert stamp["python"] == os.path.realpath(fresh.venv / "bin" / "python")
    assert stamp["python"] != os.path.realpath(sys.executable)
    assert fresh.run("up").stderr == ""
