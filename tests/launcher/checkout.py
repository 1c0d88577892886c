"""A copy of the launcher to try things on, with packages that install without a network."""

import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
COLLECTIONS = ("community/docker", "community/library_inventory_filtering_v1")
LIMIT = 240  # seconds that anything started here may take, also on a busy machine

# Stands in for every tool: writes down how it was called, and what it was told to hand over.
STUB = """
import json, os, stat, sys, time
def main():
    name = os.path.basename(sys.argv[0])
    call = {"name": name, "argv": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ)}
    call["stdin"] = sys.stdin.read() if not sys.stdin.isatty() else None
    call["blocking"] = [os.get_blocking(number) for number in (0, 1, 2)]
    for text in sys.argv[1:]:
        if text.startswith("{") and "handover_file" in text:
            path = json.loads(text)["handover_file"]
            call["handover"] = {"path": path, "mode": stat.S_IMODE(os.stat(path).st_mode)}
            with open(path, "w") as file:
                file.write(os.environ.get("STUB_HANDOVER", ""))
    try:
        with open(os.environ["STUB_CALLS"], "a") as file:
            file.write(json.dumps(call) + "\\n")
        print(os.environ.get("STUB_SAYS", name + " was here"), flush=True)
        time.sleep(float(os.environ.get("STUB_SLEEPS", "0")))
    except KeyboardInterrupt:
        sys.exit(99)
    sys.exit(json.loads(os.environ.get("STUB_EXITS", "{}")).get(name, 0))
"""

# A build backend that can be held in the middle of an installation, or made to fail there.
SLOW_BACKEND = """
import os, time, zipfile
def build_wheel(directory, config_settings=None, metadata_directory=None):
    with open(os.environ["SLOW_LOG"], "a") as file:
        file.write("building\\n")
    if os.environ.get("SLOW_ERROR"):
        raise OSError(os.environ["SLOW_ERROR"])
    until = time.monotonic() + 240
    while os.path.exists(os.environ["SLOW_HOLD"]) and time.monotonic() < until:
        time.sleep(0.05)
    name = "slow-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        wheel.writestr("slow.py", "")
        wheel.writestr("slow-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: slow\\nVersion: 1.0\\n")
        wheel.writestr("slow-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("slow-1.0.dist-info/RECORD", "")
    return name
"""


def write_wheel(folder: Path, name: str, version: str, scripts: tuple[str, ...]) -> str:
    """Make a wheel whose scripts are the stub; return the requirement that installs it."""
    base = f"{name}-{version}"
    lines = [f"{script} = {name}:main" for script in scripts]
    files = {f"{name}.py": STUB}
    files[f"{base}.dist-info/entry_points.txt"] = "\n".join(["[console_scripts]", *lines])
    files[f"{base}.dist-info/METADATA"] = (
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    )
    files[f"{base}.dist-info/WHEEL"] = (
        "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        record += f"{path},sha256={digest.decode()},{len(text)}\n"
    files[f"{base}.dist-info/RECORD"] = record + f"{base}.dist-info/RECORD,,\n"
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{base}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return f"{name} @ {wheel.as_uri()}"


def write_release(folder: Path, version: str, collections: tuple[str, ...]) -> str:
    """Make a wheel of collections, each of one file with the version; return its requirement."""
    requirement = write_wheel(folder, "release", version, ())
    with zipfile.ZipFile(folder / f"release-{version}-py3-none-any.whl", "a") as archive:
        for name in collections:
            archive.writestr(f"ansible_collections/{name}/version.py", f"version = {version!r}\n")
    return requirement


def write_slow_package(folder: Path) -> str:
    """Make the source of the package that can be held; return the requirement that installs it."""
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "slow"\nversion = "1.0"\n'
    )
    (folder / "backend.py").write_text(SLOW_BACKEND)
    return f"slow @ {folder.as_uri()}"


def wait_until(condition: Callable[[], object], seconds: float = LIMIT) -> None:
    """Return once `condition()` is true; fail the test if that takes too long."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "nothing happened in time"
        time.sleep(0.02)


class Checkout:
    """A folder with the launcher and the few files it needs."""

    def __init__(self, path: Path) -> None:
        """Fill `path`, which must not exist, and the folder of packages next to it."""
        self.path = path
        self.files = path.parent / f"files of {path.name}"
        path.mkdir(parents=True)
        shutil.copy(PROJECT / "dev", path / "dev")
        self.slow_hold = self.files / "hold"
        self.slow_log = self.files / "slow.log"
        self.calls_file = self.files / "calls"
        tools = ("molecule", "pytest", "ansible-lint", "yamllint", "ruff", "mypy")
        self.runtime = write_wheel(self.files, "stub", "1.0", ("ansible-playbook",))
        self.test = write_wheel(self.files, "stubs", "1.0", tools)
        self.release = write_release(self.files, "1.0", (*COLLECTIONS, "other/one"))
        self.slow = write_slow_package(self.files / "slow")
        self.require(self.runtime)
        (path / "requirements-test.txt").write_text(f"{self.test}\n")
        (path / "requirements-collections.txt").write_text(f"{self.release}\n")
        self.clean_environment = {
            "HOME": str(self.files),
            "PATH": os.environ["PATH"],
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "SLOW_HOLD": str(self.slow_hold),
            "SLOW_LOG": str(self.slow_log),
            "STUB_CALLS": str(self.calls_file),
            "TMPDIR": str(self.files),  # where what is killed leaves its rubbish
        }

    @property
    def venv(self) -> Path:
        """The environment that the launcher makes by default."""
        return self.path / ".venv"

    def require(self, *requirements: str) -> None:
        """Write requirements.txt."""
        (self.path / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements))

    def options(self, environment: dict[str, str]) -> dict[str, Any]:
        """Return the keywords for subprocess that keep this machine's settings out."""
        return {"env": self.clean_environment | environment, "cwd": self.path, "text": True}

    def run(
        self,
        *arguments: str,
        program: str = "./dev",
        python: str = sys.executable,
        stdin: str = "",
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run the launcher to its end; keywords in capitals are environment variables."""
        command = [python, program, *arguments]
        options = self.options(environment)
        return subprocess.run(command, input=stdin, capture_output=True, timeout=LIMIT, **options)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start the launcher as the leader of a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "./dev", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            **self.options(environment),
        )

    def calls(self) -> list[dict[str, Any]]:
        """Return how the tools were called since the last time this was asked."""
        if not self.calls_file.exists():
            return []
        lines = self.calls_file.read_text().splitlines()
        self.calls_file.unlink()
        return [json.loads(line) for line in lines]

    def builds(self) -> int:
        """Return how often the slow package was built."""
        return len(self.slow_log.read_text().splitlines()) if self.slow_log.exists() else 0


def end_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Send a signal to a process and all it started, as a terminal does."""
    os.killpg(process.pid, number)
