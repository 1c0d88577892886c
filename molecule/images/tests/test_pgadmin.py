"""The contract of dpage/pgadmin4 9.16 and later."""

from __future__ import annotations

import http.cookiejar
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from conftest import PATIENCE, Box, wait_until

IMAGE = "pgadmin"
EMAIL = "dev@example.com"
PASSWORD = "trial-password"
PORT = 5050
DATA = "/var/lib/pgadmin"
# 5050 has group 0 and no capabilities, as a service runs it.
HARDENED: dict[str, Any] = {"cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}
ACCOUNT = {
    "PGADMIN_DEFAULT_EMAIL": EMAIL,
    "PGADMIN_DEFAULT_PASSWORD": PASSWORD,
    "PGADMIN_DISABLE_POSTFIX": "1",
}
LISTEN = {"PGADMIN_LISTEN_ADDRESS": "0.0.0.0", "PGADMIN_LISTEN_PORT": str(PORT)}
DESKTOP = {
    "PGADMIN_CONFIG_SERVER_MODE": "False",
    "PGADMIN_CONFIG_MASTER_PASSWORD_REQUIRED": "False",
}
PGPASS = "postgres:5432:*:postgres:secret\n"


def servers(name: str) -> str:
    server = {
        "Name": name,
        "Group": "Trial",
        "Host": "postgres",
        "Port": 5432,
        "MaintenanceDB": "hyvve",
        "Username": "postgres",
        "SSLMode": "prefer",
        "PassFile": "/.pgpass",
    }
    return json.dumps({"Servers": {"1": server}})


def pings(box: Box, port: int = PORT, path: str = "/misc/ping") -> Box:
    url = f"http://127.0.0.1:{port}{path}"
    wait_until(
        lambda: box.running() and box.run("wget", "-q", "-O", "-", url) == (0, "PING"),
        what=f"PING from {url}",
    )
    return box


def names(box: Box) -> list[str]:
    sql = "SELECT name FROM server ORDER BY name"
    code = f"import sqlite3; print(*[r[0] for r in sqlite3.connect('{DATA}/pgadmin4.db').execute({sql!r})], sep=',')"
    return box.ok("/venv/bin/python3", "-c", code).split(",")


class Browser:
    def __init__(self, box: Box) -> None:
        self.base = f"http://127.0.0.1:{box.port(PORT)}"
        jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self.opener = urllib.request.build_opener(jar)

    def get(self, path: str) -> str:
        with self.opener.open(self.base + path, timeout=PATIENCE) as answer:
            self.path = urllib.parse.urlsplit(answer.url).path
            return answer.read().decode()

    def login(self, password: str) -> bool:
        page = self.get("/login")
        token = re.search(r'csrfToken": "([^"]+)"', page)
        assert token, page[:3000]
        form = {
            "email": EMAIL,
            "password": password,
            "csrf_token": token[1],
            "internal_button": "Login",
        }
        data = urllib.parse.urlencode(form).encode()
        with self.opener.open(self.base + "/authenticate/login", data, timeout=PATIENCE) as answer:
            answer.read()
        self.get("/browser/")
        return self.path == "/browser/"


@pytest.fixture(scope="module")
def data(module_volume) -> str:
    return module_volume()


@pytest.fixture(scope="module")
def starting_server(module_box, image, data: str) -> Box:
    files = {
        "/run/password": (PASSWORD + "\n", 0o600, 5050),
        "/run/pgpass": (PGPASS, 0o600, 5050),
        "/pgadmin4/servers.json": (servers("trial"), 0o644, 0),
        "/run/preferences.json": (
            json.dumps({"preferences": {"browser:display:show_system_objects": True}}),
            0o644,
            0,
        ),
    }
    environment = {
        "PGADMIN_DEFAULT_EMAIL": EMAIL,
        "PGADMIN_DEFAULT_PASSWORD_FILE": "/run/password",
        "PGADMIN_DISABLE_POSTFIX": "1",
        "PGPASS_FILE": "/run/pgpass",
        "PGADMIN_PREFERENCES_JSON_FILE": "/run/preferences.json",
        "PGADMIN_CONFIG_LOGIN_BANNER": "'Trial \"banner\"'",
        "PGADMIN_CONFIG_ENHANCED_COOKIE_PROTECTION": "true",
        "GUNICORN_THREADS": "4",
        **LISTEN,
    }
    return module_box(
        image,
        files=files,
        environment=environment,
        volumes={data: {"bind": DATA, "mode": "rw"}},
        ports={f"{PORT}/tcp": ("127.0.0.1", None)},
        **HARDENED,
    )


@pytest.fixture(scope="module")
def starting_desktop(module_box, image) -> Box:
    files = {"/run/pgpass": (PGPASS, 0o600, 5050), "/run/my.json": (servers("mine"), 0o644, 0)}
    environment = {
        **ACCOUNT,
        **LISTEN,
        **DESKTOP,
        "PGPASS_FILE": "/run/pgpass",
        "PGADMIN_SERVER_JSON_FILE": "/run/my.json",
        "PGADMIN_REPLACE_SERVERS_ON_STARTUP": "True",
        "GUNICORN_ACCESS_LOGFILE": "/dev/null",
    }
    return module_box(
        image,
        files=files,
        environment=environment,
        ports={f"{PORT}/tcp": ("127.0.0.1", None)},
        **HARDENED,
    )


@pytest.fixture(scope="module")
def server(starting_server: Box, starting_desktop: Box) -> Box:
    """Server mode, with everything a first launch reads."""
    return pings(starting_server)


@pytest.fixture(scope="module")
def desktop(starting_desktop: Box) -> Box:
    """Desktop mode, as a stack on a developer's machine uses it."""
    return pings(starting_desktop)


def test_image_configuration(image) -> None:
    config = image.attrs["Config"]
    assert config["User"] == "5050"
    assert config["Entrypoint"] == ["/entrypoint.sh"]
    assert DATA in config["Volumes"]
    assert {"80/tcp", "443/tcp"} <= set(config["ExposedPorts"])
    assert config["WorkingDir"] == "/pgadmin4"


def test_user_and_files(server: Box) -> None:
    assert server.ok("sh", "-c", "id -u; id -g; id -un").split() == ["5050", "0", "pgadmin"]
    assert server.ok("stat", "-c", "%u:%g:%a", f"{DATA}/pgadmin4.db") == "5050:0:600"
    server.ok("test", "-x", "/venv/bin/python3")
    server.ok("test", "-f", "/pgadmin4/setup.py")


def test_login_with_the_password_of_the_file(server: Box) -> None:
    assert not Browser(server).login("wrong")
    assert Browser(server).login(PASSWORD)


def test_secrets_are_not_shown(server: Box) -> None:
    assert PASSWORD not in server.logs()
    assert PASSWORD not in server.ok("sh", "-c", "cat /proc/[0-9]*/cmdline || :")


def test_first_launch_reads_servers_and_preferences(server: Box) -> None:
    assert names(server) == ["trial"]
    code = (
        f"import sqlite3; print(*sqlite3.connect('{DATA}/pgadmin4.db').execute(\"SELECT u.value FROM user_preferences u "
        "JOIN preferences p ON p.id = u.pid WHERE p.name = 'show_system_objects'\").fetchall())"
    )
    assert "True" in server.ok("/venv/bin/python3", "-c", code)


def test_pgpass_in_server_mode(server: Box) -> None:
    file = f"{DATA}/storage/dev_example.com/.pgpass"
    assert server.ok("stat", "-c", "%u:%a", file) == "5050:600"
    assert server.ok("cat", file) == PGPASS.strip()


def test_configuration_from_the_environment(server: Box) -> None:
    written = server.ok("cat", "/pgadmin4/config_distro.py")
    assert "LOGIN_BANNER = 'Trial \"banner\"'" in written
    assert "ENHANCED_COOKIE_PROTECTION = True" in written
    code = "import config; print(config.LOGIN_BANNER, config.HELP_PATH, config.LOG_FILE)"
    assert server.ok("/venv/bin/python3", "-c", code) == 'Trial "banner" ../../docs /dev/null'


def test_online_help(server: Box) -> None:
    assert "pgAdmin 4" in Browser(server).get("/help/help/index.html")


def test_setup_py_works(server: Box) -> None:
    assert EMAIL in server.ok("/venv/bin/python3", "/pgadmin4/setup.py", "get-users")


def test_client_programs(server: Box) -> None:
    code = "import config; print(config.DEFAULT_BINARY_PATHS['pg-16'])"
    directory = server.ok("/venv/bin/python3", "-c", code)
    for program in ("pg_dump", "pg_dumpall", "pg_restore", "psql"):
        assert "PostgreSQL) 16." in server.ok(f"{directory}/{program}", "--version")


def test_every_launch_has_keys_of_its_own(server: Box, desktop: Box) -> None:
    code = f"import sqlite3; print(*[r[0] for r in sqlite3.connect('{DATA}/pgadmin4.db').execute('SELECT value FROM keys')])"
    keys = [box.ok("/venv/bin/python3", "-c", code).split() for box in (server, desktop)]
    assert len(set(keys[0] + keys[1])) == 6
    assert all(len(key) > 40 for key in keys[0] + keys[1])


def test_desktop_mode_asks_for_nothing(desktop: Box) -> None:
    browser = Browser(desktop)
    page = browser.get("/browser/")
    assert browser.path == "/browser/" and "pgAdmin 4" in page
    assert names(desktop) == ["mine"]
    assert desktop.ok("stat", "-c", "%u:%a", f"{DATA}/.pgpass") == "5050:600"
    assert "GET /" not in desktop.logs()


def test_servers_are_replaced_when_asked(desktop: Box) -> None:
    desktop.ok("sh", "-c", "sed s/mine/newer/ /run/my.json > /tmp/new.json")
    # The file is root's; the container's root may write it.
    desktop.ok("cp", "/tmp/new.json", "/run/my.json", user="0")
    desktop.container.restart(timeout=60)
    pings(desktop)
    assert names(desktop) == ["newer"]


def test_second_launch_keeps_everything(
    server: Box, box: Callable[..., Box], data: str, image
) -> None:
    """In a new container, with another password and other servers."""
    server.container.stop(timeout=60)
    assert server.state()["ExitCode"] == 0
    files = {"/pgadmin4/servers.json": (servers("other"), 0o644, 0)}
    again = pings(
        box(
            image,
            files=files,
            environment={**ACCOUNT, **LISTEN, "PGADMIN_DEFAULT_PASSWORD": "another"},
            volumes={data: {"bind": DATA, "mode": "rw"}},
            ports={f"{PORT}/tcp": ("127.0.0.1", None)},
            **HARDENED,
        )
    )
    assert names(again) == ["trial"]
    assert not Browser(again).login("another")
    assert Browser(again).login(PASSWORD)


REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "no account": ({}, "PGADMIN_DEFAULT_EMAIL"),
    "no password": ({"PGADMIN_DEFAULT_EMAIL": EMAIL}, "PGADMIN_DEFAULT_PASSWORD"),
    "both": (
        {**ACCOUNT, "PGADMIN_DEFAULT_PASSWORD_FILE": "/etc/hostname"},
        "PGADMIN_DEFAULT_PASSWORD_FILE",
    ),
    "no such file": (
        {"PGADMIN_DEFAULT_EMAIL": EMAIL, "PGADMIN_DEFAULT_PASSWORD_FILE": "/nowhere"},
        "/nowhere",
    ),
    "address": ({**ACCOUNT, "PGADMIN_DEFAULT_EMAIL": "dev@stack.local"}, "dev@stack.local"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_to_start(case: str, box: Callable[..., Box], image) -> None:
    environment, named = REFUSED[case]
    code, logs = box(image, environment={**environment, **LISTEN}, **HARDENED).exit()
    assert code == 1
    assert named in logs and "Traceback" not in logs


@pytest.mark.built
def test_refuses_what_is_not_a_literal(box: Callable[..., Box], image) -> None:
    environment = {**ACCOUNT, **LISTEN, "PGADMIN_CONFIG_MAIL_PASSWORD": "not quoted"}
    code, logs = box(image, environment=environment, **HARDENED).exit()
    assert code == 1
    assert (
        "PGADMIN_CONFIG_MAIL_PASSWORD" in logs
        and "not quoted" not in logs
        and "Traceback" not in logs
    )


@pytest.mark.built
def test_a_first_launch_cut_short_is_done_again(
    box: Callable[..., Box], volume: Callable[[], str], image
) -> None:
    """What is left then is a mark, and a database with anything in it."""
    mounts = {volume(): {"bind": DATA, "mode": "rw"}}
    leave = f"touch {DATA}/.first-launch && echo half > {DATA}/pgadmin4.db"
    assert box(image, entrypoint=["sh", "-c", leave], volumes=mounts).exit()[0] == 0
    files = {
        "/pgadmin4/servers.json": (servers("trial"), 0o644, 0),
        "/pgadmin4/preferences.json": ("{", 0o644, 0),
    }
    subject = pings(
        box(image, files=files, environment={**ACCOUNT, **LISTEN}, volumes=mounts, **HARDENED)
    )
    assert names(subject) == ["trial"]
    assert "/pgadmin4/preferences.json" in subject.logs()


def test_special_domains_root_and_default_port(box: Callable[..., Box], image) -> None:
    """.local by permission; as root, PUID and PGID; 8080 where 80 may be denied."""
    environment = {
        **ACCOUNT,
        "PGADMIN_DEFAULT_EMAIL": "dev@stack.local",
        "PGADMIN_CONFIG_ALLOW_SPECIAL_EMAIL_DOMAINS": "['local']",
        "PGADMIN_LISTEN_ADDRESS": "0.0.0.0",
        "SCRIPT_NAME": "/admin",
    }
    first = box(image, environment=environment, **HARDENED)
    second = box(image, environment={**environment, "PUID": "1234", "PGID": "1234"}, user="0")
    pings(first, 8080, "/admin/misc/ping")
    pings(second, 80, "/admin/misc/ping")
    assert (
        second.ok("stat", "-c", "%u:%g", "/proc/1", f"{DATA}/pgadmin4.db").split()
        == ["1234:1234"] * 2
    )
