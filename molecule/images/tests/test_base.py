"""The images the others are built on: Debian and Python."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest import Box, find_image

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
SLEEP = ["sleep", "600"]


@pytest.fixture(scope="module")
def debian(engine, module_box) -> Box:
    return module_box(find_image(engine, "debian"), SLEEP, init=True)


@pytest.fixture(scope="module")
def python(engine, module_box) -> Box:
    return module_box(find_image(engine, "python"), SLEEP, init=True)


@pytest.mark.parametrize("name", ["debian", "python", "postgres", "redis", "pgadmin"])
def test_says_how_it_was_made(engine, name: str) -> None:
    labels = find_image(engine, name).labels
    assert labels["dev-stack.image"] == name
    assert labels["dev-stack.built-from"] == "packages"
    assert labels["org.opencontainers.image.version"]


@pytest.mark.parametrize("name", ["debian", "python"])
def test_clients_trust_the_image_s_certificates(engine, name: str) -> None:
    env = dict(line.split("=", 1) for line in find_image(engine, name).attrs["Config"]["Env"])
    for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "NODE_EXTRA_CA_CERTS"):
        assert env[variable] == BUNDLE


def test_debian_is_small_and_clean(engine, debian: Box) -> None:
    assert find_image(engine, "debian").attrs["Size"] < 100_000_000
    assert (
        debian.ok("sh", "-c", "find /var/lib/apt/lists /usr/share/man -type f ! -name lock | wc -l")
        == "0"
    )
    assert (
        debian.ok(
            "sh", "-c", "dpkg --audit; dpkg -s usrmerge perl 2>/dev/null | grep -c ^Package || :"
        )
        == "0"
    )


def test_added_certificates_survive_an_update(debian: Box) -> None:
    count = f"grep -c BEGIN {BUNDLE}"
    before = int(debian.ok("sh", "-c", count))
    assert before > 100
    debian.ok("update-ca-certificates", "--fresh")
    assert int(debian.ok("sh", "-c", count)) == before


def test_python_is_the_system_s(python: Box) -> None:
    for name in ("python", "python3", "pip", "pip3"):
        assert python.ok("which", name) == f"/usr/local/bin/{name}"
    version = python.ok("python", "-c", "import sys; print(sys.version_info >= (3, 12))")
    assert version == "True"
    assert python.ok(
        "python",
        "-c",
        "import ssl, sqlite3, lzma, bz2, ctypes, zoneinfo; print(zoneinfo.ZoneInfo('Europe/Riga'))",
    )


PACKAGE = {
    "/tmp/p/pyproject.toml": (
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "trial"\nversion = "1"\n',
        0o644,
        0,
    ),
    # A wheel without any tool, so that no index is needed.
    "/tmp/p/backend.py": (
        "import zipfile\n"
        "def build_wheel(directory, *a, **k):\n"
        "    name = 'trial-1-py3-none-any.whl'\n"
        "    info = 'trial-1.dist-info/'\n"
        "    with zipfile.ZipFile(directory + '/' + name, 'w') as z:\n"
        "        z.writestr('trial.py', 'value = 7\\n')\n"
        "        z.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: trial\\nVersion: 1\\n')\n"
        "        z.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n"
        "        z.writestr(info + 'RECORD', '')\n"
        "    return name\n",
        0o644,
        0,
    ),
}


def test_pip_installs_for_all(engine, box: Callable[..., Box]) -> None:
    python = box(find_image(engine, "python"), SLEEP, files=PACKAGE, init=True)
    output = python.ok("pip", "install", "--no-index", "/tmp/p")
    assert "externally-managed" not in output
    assert python.ok("python", "-c", "import trial; print(trial.value)") == "7"


def test_pip_installs_for_a_user_and_in_a_venv(engine, box: Callable[..., Box]) -> None:
    python = box(find_image(engine, "python"), SLEEP, files=PACKAGE, init=True)
    user = {"user": "1000:1000", "env": {"HOME": "/tmp/home"}}
    python.ok("cp", "-r", "/tmp/p", "/tmp/q")
    python.ok("chown", "-R", "1000:1000", "/tmp/q")
    python.ok("pip", "install", "--no-index", "--user", "/tmp/q", **user)
    assert python.ok("python", "-c", "import trial; print(trial.__file__)", **user).startswith(
        "/tmp/home/.local/"
    )
    python.ok("python", "-m", "venv", "/tmp/venv", **user)
    assert python.run("/tmp/venv/bin/python", "-c", "import trial", **user)[0] == 1
    python.ok("/tmp/venv/bin/pip", "install", "--no-index", "/tmp/q", **user)
    python.ok("/tmp/venv/bin/python", "-c", "import trial", **user)
