"""What the modules and the callback share: the engine, volumes' files, secrets, known errors."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import platform
import re
import shutil
import signal
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

LABEL_STACK = "dev-stack.stack"
LABEL_SERVICE = "dev-stack.service"
LABEL_FILES = "dev-stack.files"
LABEL_IMAGE = "dev-stack.image"
LABEL_JOB = "dev-stack.job"  # what a container does that works on data: dump, load, ...
LABEL_RUN = "dev-stack.run"  # the run that started it; see `process_name`
LABEL_SCRATCH = "dev-stack.scratch"  # a volume that holds nothing of value
LABEL_PROJECT = "com.docker.compose.project"  # docker compose's own

# Where the callback and the modules of one run meet, on the machine that runs Ansible.
RUN_VARIABLE = "DEV_STACK_RUN"
PROGRESS_VARIABLE = "DEV_STACK_PROGRESS"

# Where a stack's state folder says what the last run found right.
REMEMBERED = "remembered.json"

# --- runs ---------------------------------------------------------------------------------------


def process_name(number: int | None = None) -> str:
    """A name for a process, or this one, that no other one ever has: machine, number and start."""
    import psutil  # type: ignore[import-untyped]

    process = psutil.Process(number)
    return f"{platform.node()}:{process.pid}:{int(process.create_time())}"


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def tidy_up_when_ended() -> None:
    """Have signals that would end this process have it do its `finally`, and then end.

    The first one does; what follows is ignored. Ansible sends SIGTERM right after Ctrl-C, and
    people press that again.
    """

    def leave(number: int, frame: Any) -> None:
        for one in ENDING:
            signal.signal(one, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number in ENDING:
        signal.signal(number, leave)


def is_alive(run: str) -> bool:
    """Whether the process that `process_name` named so is still there, on this machine."""
    import psutil

    try:
        node, number, started = run.split(":")
        begun = psutil.Process(int(number)).create_time()
        return node == platform.node() and int(begun) == int(started)
    except (ValueError, psutil.Error):
        return False


def another_run(run: str, own: str) -> str:
    """A line if `run` is at work, and is not this one; "" otherwise. Both as `process_name` has it."""
    if run == own or not is_alive(run):
        return ""
    return f"Another run (process {run.split(':')[1]}) is at work on this stack. Let it end first."


def tell(progress: dict[str, str]) -> None:
    """Leave what a module's jobs are at, by name, for the callback, which shows it."""
    path = os.environ.get(PROGRESS_VARIABLE, "")
    if os.path.exists(path):
        with open(path, "w", encoding="utf-8") as file:
            file.write(", ".join(text for text in progress.values() if text))


# --- known errors -------------------------------------------------------------------------------

# What engines and images say, and what a person can do about it. First match wins.
KNOWN_ERRORS: tuple[tuple[str, str], ...] = (
    (
        r"no space left on device",
        "The disk is full. See what takes the room: docker system df. "
        "Remove what nothing uses: docker image prune, docker builder prune.",
    ),
    (
        r"port is already allocated|address already in use|bind for .* failed",
        "Another program took the port in the meantime. See which: sudo ss -ltnp. "
        "Use other ports: ./dev up -- -e port_offset=100",
    ),
    (
        r"could not find an available, non-overlapping IPv4 address pool|"
        r"all predefined address pools have been fully subnetted|Pool overlaps",
        "The engine has no free address range (a VPN or many networks hold them). "
        "Name one: ./dev up -- -e network_subnet=10.210.0.0/24, "
        "or remove unused networks: docker network prune",
    ),
    (
        r"with status 78",
        "It refuses a setting, which its last words name. Set it to what they expect, then: "
        "./dev up",
    ),
    (
        r"database files are incompatible with server",
        "The volume was made by another major version of PostgreSQL, named above. Carry the data "
        "over to a newer one: ./dev upgrade --to <version>. Or put the image of that version back.",
    ),
    (
        r"superuser password is not specified|password authentication failed",
        "The password in use is not the one the service was made with. "
        "Apply the current one everywhere: ./dev up",
    ),
    (
        r"Bad file format reading the append only file|AOF .*(corrupt|truncated)",
        "Redis cannot read its append-only file, usually after a power loss. Put the last backup "
        "back: ./dev restore latest. Without one, look at it before anything is repaired: docker "
        "run --rm -v <volume>:/data <redis image> redis-check-aof "
        "/data/appendonlydir/appendonly.aof.manifest",
    ),
    (
        r"Can't handle RDB format version",
        "A newer Redis wrote this volume. Use its image again: "
        "./dev up -- -e image_source=registry",
    ),
    (
        r"could not locate a valid checkpoint record",
        "The write-ahead log was damaged, usually by a power loss. Put the last backup back: "
        "./dev restore latest. Without one, do not run pg_resetwal on the only copy: copy the "
        "volume first.",
    ),
    (
        r"unsupported version \(.*\) in file header|invalid command \\(un)?restrict",
        "The dump was made with newer tools than those that read it. ./dev backup and ./dev restore "
        "use the tools of the stack's own image. Otherwise dump again, with tools as old as these.",
    ),
    (
        r"toomanyrequests|rate limit",
        "The registry limits how often it may be asked. Use a mirror (image_registry), log in "
        "(docker login), or build from packages: ./dev up -- -e image_source=packages",
    ),
    (
        r"certificate signed by unknown authority|CERTIFICATE_VERIFY_FAILED|x509:",
        "A certificate is not trusted. Put your network's CA certificate into "
        "/usr/local/share/ca-certificates and run update-ca-certificates, then run this again.",
    ),
    (
        r"permission denied while trying to connect|PermissionError\(13",
        "This user may not talk to the engine: sudo usermod -aG docker $USER, "
        "then log out and in again.",
    ),
    (
        r"temporary failure in name resolution|could not resolve|no such host|network is unreachable",
        "The network or its name server does not answer from inside the engine. "
        "Check the connection and any proxy (HTTP_PROXY, HTTPS_PROXY), then run again.",
    ),
)


def explain(text: str) -> str | None:
    """The fix for a known error in `text`, or None."""
    for pattern, fix in KNOWN_ERRORS:
        if re.search(pattern, text, re.IGNORECASE):
            return fix
    return None


def human_size(number: float) -> str:
    """A number of bytes for a person: 1.5 GB."""
    for unit in ("bytes", "kB", "MB"):
        if abs(number) < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


# --- the engine ---------------------------------------------------------------------------------


def engine_candidates() -> Iterator[tuple[str, str]]:
    """Where an engine may listen: (URL, why we look there), most specific first.

    DOCKER_HOST wins over a context, as in Docker's own client; a context that was chosen wins
    over guesses. The other sockets are those of rootless Docker, Docker Desktop, Colima and
    Podman's compatible service.
    """
    from docker.context import ContextAPI  # type: ignore[import-untyped]

    if os.environ.get("DOCKER_HOST"):
        yield os.environ["DOCKER_HOST"], "DOCKER_HOST"
        return
    try:
        chosen = os.environ.get("DOCKER_CONTEXT")
        context = ContextAPI.get_context(chosen) if chosen else ContextAPI.get_current_context()
    except Exception:  # a damaged ~/.docker must not hide a working engine
        context = None
    if context is not None and context.Name != "default" and context.Host:
        yield context.Host, f"docker context {context.Name}"
        return
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    home = Path.home()
    yield "unix:///var/run/docker.sock", "the usual socket"
    for socket, why in (
        (Path(runtime) / "docker.sock", "rootless Docker"),
        (home / ".docker/run/docker.sock", "Docker Desktop"),
        (home / ".docker/desktop/docker.sock", "Docker Desktop"),
        (home / ".colima/default/docker.sock", "Colima"),
        (home / ".config/colima/default/docker.sock", "Colima"),
        (Path(runtime) / "podman/podman.sock", "Podman"),
        (Path("/run/podman/podman.sock"), "Podman"),
    ):
        if os.path.exists(socket):  # Path.exists raises on a folder that may not be entered
            yield f"unix://{socket}", why


def connect(docker_host: str, timeout: float = 60) -> Any:
    """A `docker.APIClient` for the engine at `docker_host`, API version negotiated.

    Raises docker.errors.DockerException (or what its transport raises) when none answers.
    """
    import docker  # type: ignore[import-untyped]

    return docker.APIClient(base_url=docker_host, version="auto", timeout=timeout)


# How to let go of an address that was named.
NAMED = {
    "DOCKER_HOST": "unset DOCKER_HOST",
    "engine_docker_host": "engine_docker_host in settings.yml",
}


def advice_to_start() -> str:
    """The command, or the page, that leads to a running engine on this machine."""
    if platform.system() == "Darwin":
        install = "https://docs.docker.com/desktop/setup/install/mac-install/"
        return f"Start Docker Desktop, or: colima start. To install one: {install}"
    if os.path.exists("/etc/debian_version"):
        return "Start it, and install it if need be: ./dev up"
    return "Start it, or install one: https://docs.docker.com/engine/install/"


def find_engine(docker_host: str = "") -> tuple[Any, str, dict[str, str]]:
    """The first engine that answers.

    Takes an address that is to be used and no other, or "". Gives (client or None, its URL, the
    problem): the problem is empty when a client is there, else {"kind", "text", "fix"} with kind
    "absent" (no engine anywhere), "stopped" (the usual one does not answer), "elsewhere" (the one
    that was named does not answer) or "denied" (this user may not talk to it).
    """
    worst = {"kind": "absent", "text": "No Docker Engine was found", "fix": advice_to_start()}
    if shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
        worst |= {"kind": "stopped", "text": "The Docker Engine does not run"}
    candidates = [(docker_host, "engine_docker_host")] if docker_host else engine_candidates()
    for url, why in candidates:
        try:
            return connect(url), url, {}
        except Exception as error:
            if "Permission" in str(error) or "Errno 13" in str(error):
                fix = (
                    "Let this user in: sudo usermod -aG docker $USER   (then log out and in again)"
                )
                worst = {"kind": "denied", "text": f"{url} ({why}) refuses this user", "fix": fix}
            elif why in NAMED or why.startswith("docker context"):
                fix = f"Start that engine, or use another: {NAMED.get(why, 'docker context use default, or: unset DOCKER_CONTEXT')}"
                worst = {
                    "kind": "elsewhere",
                    "text": f"Nothing answers at {url} ({why})",
                    "fix": fix,
                }
            elif os.path.exists(url.removeprefix("unix://")) and worst["kind"] == "absent":
                worst |= {"kind": "stopped", "text": f"Nothing answers at {url} ({why})"}
    return None, "", worst


# --- files on volumes ---------------------------------------------------------------------------


class Files:
    """The files of a container that was never started.

    What a file is (stat) costs the engine little; for what is in it, it starts a process.
    """

    def __init__(self, client: Any, container: str) -> None:
        """Takes the engine's client and the container's id."""
        self.client = client
        self.url = client._url("/containers/{0}/archive", container)

    def stat(self, path: str) -> dict[str, Any] | None:
        """{name, size, mode, …} of a file or folder, or None where there is none."""
        answer = self.client.head(self.url, params={"path": path})
        if answer.status_code == 404:
            return None
        answer.raise_for_status()
        found = base64.b64decode(answer.headers["X-Docker-Container-Path-Stat"])
        return dict(json.loads(found))

    def read(self, path: str, limit: int) -> tuple[bytes, tarfile.TarInfo] | None:
        """The first `limit` bytes of a file and what tar says of it; None where there is none."""
        for entry, content in self._entries(path, limit):
            return (content, entry) if entry.isreg() else None
        return None

    def first_in(self, path: str) -> str | None:
        """The name of one entry of a folder, or None when it is empty or absent."""
        for entry, _ in self._entries(path, 0):
            # The folder itself comes first.
            if "/" in entry.name.rstrip("/"):
                return str(entry.name.rstrip("/").split("/")[1])
        return None

    def _entries(self, path: str, limit: int) -> Any:
        """(entry, first bytes) of the archive that the engine makes of `path`, as it comes in.

        The archive of a folder is all that is in it: whoever asks stops early, and with that the
        engine stops as well.
        """
        plain = {"Accept-Encoding": "identity"}
        asked = self.client.get(self.url, params={"path": path}, headers=plain, stream=True)
        with closing(asked) as answer:
            if answer.status_code == 404:
                return
            answer.raise_for_status()
            with tarfile.open(fileobj=answer.raw, mode="r|", bufsize=1024) as archive:
                for entry in archive:
                    file = archive.extractfile(entry) if entry.isreg() and limit else None
                    yield entry, file.read(limit) if file else b""


# --- what files hold ----------------------------------------------------------------------------

IGNORED_IN_DIGEST = {"__pycache__", ".pytest_cache", ".ruff_cache", ".mypy_cache", "tests"}
IGNORED_IN_DIGEST |= {"README.md", ".dockerignore"}


def tree_digest(folder: str, *also: str, only: list[str] | None = None) -> str:
    """A digest of the files below `folder` (names, contents, x bits) and of the strings `also`.

    Takes the entries of `folder` that count, or None for all. Caches and documentation never do:
    they are not part of an image. Twelve hexadecimal digits.
    """
    digest = hashlib.sha256()
    root = Path(folder)
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if only is not None and relative.parts[0] not in only:
            continue
        if not path.is_file() or IGNORED_IN_DIGEST & set(relative.parts):
            continue
        executable = bool(path.stat().st_mode & 0o100)
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{relative}\0{executable}\0{content}\n".encode())
    for text in also:
        digest.update(f"{text}\0".encode())
    return digest.hexdigest()[:12]


# --- secrets in templates -----------------------------------------------------------------------

PLACEHOLDER = re.compile(r"\{([a-z_]+)(?:\|([a-z]+))?\}")


def _redis(value: str) -> str:
    """`value` in redis.conf's double quotes; other bytes as \\xHH (redis, src/sds.c)."""
    escaped = "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}"
        for byte in value.encode()
    )
    return f'"{escaped}"'


QUOTING = {
    None: lambda value: value,
    "url": lambda value: quote(value, safe=""),
    "pgpass": lambda value: value.replace("\\", "\\\\").replace(":", "\\:"),
    "redis": _redis,
}


def fill(template: str, secrets: dict[str, str]) -> str:
    """`template` with each {name} or {name|quoting} replaced by that secret.

    Quotings: url (percent-encoding), pgpass (libpq's password file), redis (redis.conf).
    Raises KeyError for a name or quoting that does not exist.
    """
    return PLACEHOLDER.sub(lambda m: QUOTING[m[2]](secrets[m[1]]), template)


def read_secret(path: str | Path) -> str:
    """The secret a file holds, without its final newline. Raises OSError."""
    return Path(path).read_text(encoding="utf-8").rstrip("\n")


def fingerprint(key: str, *parts: str) -> str:
    """A digest of `parts` that cannot be guessed at without `key` (it ends up in labels).

    A plain hash of a weak password in `docker inspect` could be tried against word lists.
    """
    digest = hmac.new(key.encode(), digestmod=hashlib.sha256)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part.encode())
    return digest.hexdigest()[:32]


def file_digest(path: str, secrets: Path) -> str:
    """A digest of a file that may hold secrets, and of its mode, with the key among them.

    "no file" where `path` is empty or there is none, "" where that cannot be told.
    """
    try:
        if not path or not Path(path).exists():
            return "no file"
        mode, content = Path(path).stat().st_mode, Path(path).read_bytes()
        key = read_secret(secrets / "fingerprint_key")
    except (OSError, ValueError):
        return ""
    return fingerprint(key, str(mode), content.decode(errors="backslashreplace"))


def write_private(module: Any, path: Path, content: str, mode: int) -> bool:
    """Write `content` to `path` with `mode` if either differs; check mode only looks.

    Takes the AnsibleModule for its atomic move, so that a reader sees the old file or the new
    one. Gives whether anything changed. Raises OSError.
    """
    import tempfile

    try:
        if path.read_bytes() == content.encode() and path.stat().st_mode & 0o777 == mode:
            return False
    except OSError:
        pass
    if module.check_mode:
        return True
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode())
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
    return True
