"""While PostgreSQL or Redis fails, in whatever way: 503 in time, nothing false, then recovery."""

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
import pytest
from agentos import context
from agentos.errors import Failure
from agentos.honesty import Honesty
from agentos.probes import Readiness
from redis import Redis, RedisError
from starlette.types import Message, Receive, Scope, Send

from tests.servers import (
    AUTH_SECRET,
    PATIENCE_S,
    Postgresql,
    RedisServer,
    Service,
    assert_at_once,
    serving,
    wait_until,
)
from tests.trial_runs import (
    PROGRAM,
    WAYS,
    Outcome,
    begin_runs,
    client_of,
    error_code,
    open_websocket,
    read,
    run,
    stored_status,
)

ENDED = {"COMPLETED", "ERROR"}
STATELESS = {"/", "/health", "/ready", "/metrics", "/agents", "/config", "/info", "/teams"}
STATELESS |= {"/workflows"}


@pytest.fixture(scope="module")
def pg() -> Iterator[Postgresql]:
    """Give a PostgreSQL that tests may break."""
    server = Postgresql()
    try:
        server.start()
        server.migrate()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="module")
def rd() -> Iterator[RedisServer]:
    """Give a Redis that tests may break."""
    server = RedisServer()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def own_environment(pg: Postgresql, rd: RedisServer) -> dict[str, str]:
    """Give an environment with both."""
    return {
        "DATABASE_URL": pg.role_url(),
        "REDIS_URL": rd.url(),
        "BETTER_AUTH_SECRET": AUTH_SECRET,
    }


@pytest.fixture(scope="module")
def service(own_environment: dict[str, str]) -> Iterator[Service]:
    """Give a service that lives through everything that is done to them."""
    with serving(own_environment, program=PROGRAM) as service:
        yield service


@pytest.fixture(scope="module")
def routes(service: Service) -> list[tuple[str, str]]:
    """Give every route that needs PostgreSQL, as a method and a path."""
    return [
        (method.upper(), path)
        for path, item in service.get("/openapi.json").json()["paths"].items()
        for method in item
        if path not in STATELESS
    ]


def away_while(statement: str, back: str) -> Callable[[Postgresql], AbstractContextManager[None]]:
    """Make a fault of a statement and of one that ends it; the service's connections are cut."""

    @contextmanager
    def fault(pg: Postgresql) -> Iterator[None]:
        pg.query(statement)
        cut(pg)
        try:
            yield
        finally:
            pg.query(back)

    return fault


def cut(pg: Postgresql) -> None:
    """Cut the service's connections."""
    pg.query(
        "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE usename = 'agentos'"
    )


@contextmanager
def frozen(pg: Postgresql) -> Iterator[None]:
    """Freeze it, even if some of its processes end meanwhile."""
    insist(pg.freeze)
    try:
        yield
    finally:
        insist(pg.thaw)


def insist(act: Callable[[], None]) -> None:
    """Do something to all processes of a server, again if one of them has just ended."""
    for _ in range(10):
        with suppress(psutil.NoSuchProcess):
            return act()


@contextmanager
def dropped(pg: Postgresql) -> Iterator[None]:
    """Drop everything, and migrate anew."""
    pg.query("DROP SCHEMA agentos CASCADE")
    try:
        yield
    finally:
        pg.migrate()


ROLE = "ALTER ROLE agentos"
FAULTS: dict[str, Callable[[Postgresql], AbstractContextManager[None]]] = {
    "stopped": lambda pg: pg.stopped(),
    "frozen": frozen,
    "dropped": dropped,
    "refusing the password": away_while(
        f"{ROLE} PASSWORD 'other'", f"{ROLE} PASSWORD '{Postgresql.role_password}'"
    ),
    "out of connections": away_while(f"{ROLE} CONNECTION LIMIT 0", f"{ROLE} CONNECTION LIMIT -1"),
}
# These /ready cannot see: only what touches the tables, or writes, is told.
HIDDEN_FAULTS = {
    "without tables": away_while(
        "CREATE SCHEMA gone; ALTER TABLE agentos.agno_sessions SET SCHEMA gone;"
        " ALTER TABLE agentos.agno_runs SET SCHEMA gone",
        "ALTER TABLE gone.agno_sessions SET SCHEMA agentos;"
        " ALTER TABLE gone.agno_runs SET SCHEMA agentos; DROP SCHEMA gone",
    ),
    "without rights": away_while(
        "REVOKE ALL ON ALL TABLES IN SCHEMA agentos FROM agentos;"
        " GRANT SELECT ON agentos.alembic_version TO agentos",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA agentos TO agentos",
    ),
    "read-only": away_while(
        f"{ROLE} SET default_transaction_read_only = on",
        f"{ROLE} RESET default_transaction_read_only",
    ),
}


def assert_unavailable(service: Service, answer: httpx.Response, requests: int) -> None:
    """Check that an answer is 503 in the one form, in time; so many were asked for at once."""
    what = f"{answer.request.method} {answer.request.url.path}: {answer.text}"
    assert answer.status_code == 503, what
    assert error_code(answer.text) == "storage_unavailable", what
    assert int(answer.headers["retry-after"]) > 0
    service.assert_in_time(answer.elapsed.total_seconds(), requests)


def assert_no_run(service: Service) -> None:
    """Check that no way to run confirms anything, and each tells of it in time."""
    with ThreadPoolExecutor() as threads:
        begun = time.monotonic()
        outcomes = list(threads.map(lambda way: run(service, way), WAYS))
        service.assert_in_time(time.monotonic() - begun, len(WAYS))
    for outcome in outcomes:
        assert outcome.unavailable, outcome
        assert not outcome.completed


def recover(service: Service, pg: Postgresql) -> None:
    """Wait until runs are stored again."""
    wait_until(lambda: run(service).completed)
    assert in_database(pg, run(service))


def in_database(pg: Postgresql, outcome: Outcome) -> bool:
    """Say whether a run and its session are stored, the run as completed."""
    rows = pg.query(
        "SELECT status FROM agentos.agno_runs JOIN agentos.agno_sessions"
        f" USING (tenant_id, session_id) WHERE run_id = '{outcome.run_id}'"
    )
    return rows == [("COMPLETED",)]


def requests(session_id: str, memory_id: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Give requests each of which would be confirmed, if PostgreSQL served."""
    memory = {"memory": "likes tea", "topics": ["tea"]}
    kind = {"params": {"type": "workflow"}}
    return [
        ("GET", "/sessions", kind),
        ("GET", f"/sessions/{session_id}", kind),
        ("GET", f"/sessions/{session_id}/runs", kind),
        ("POST", "/sessions", {"json": {"session_name": "new"}, **kind}),
        ("POST", f"/sessions/{session_id}/rename", {"json": {"session_name": "other"}, **kind}),
        ("DELETE", f"/sessions/{session_id}", {}),
        ("GET", "/memories", {}),
        ("POST", "/memories", {"json": memory}),
        ("PATCH", f"/memories/{memory_id}", {"json": memory}),
        ("DELETE", f"/memories/{memory_id}", {}),
    ]


@pytest.fixture
def kept(service: Service) -> tuple[str, str]:
    """Store a session and a memory, and give their ids."""
    with client_of(service) as client:
        memory = client.post("/memories", json={"memory": "likes tea", "topics": ["tea"]})
    return str(run(service).session_id), str(memory.json()["memory_id"])


def ask_all(service: Service, asked: list[tuple[str, str, dict[str, Any]]]) -> list[httpx.Response]:
    """Send requests, all at once."""
    with client_of(service) as client, ThreadPoolExecutor(32) as threads:
        return list(threads.map(lambda one: client.request(one[0], one[1], **one[2]), asked))


def assert_all_unavailable(service: Service, asked: list[tuple[str, str, dict[str, Any]]]) -> None:
    """Send requests, all at once, and check that none is confirmed and each is told so in time."""
    for answer in ask_all(service, asked):
        assert_unavailable(service, answer, len(asked))


@pytest.mark.parametrize("name", FAULTS)
def test_postgresql_fails(
    service: Service,
    pg: Postgresql,
    routes: list[tuple[str, str]],
    kept: tuple[str, str],
    name: str,
) -> None:
    assert service.get("/ready").status_code == 200
    with FAULTS[name](pg):
        # At first the service relies on a look that it took before: no answer may be false.
        assert_all_unavailable(service, requests(*kept))
        time.sleep(1)
        assert len(routes) > 50
        assert_all_unavailable(service, [(method, path, {}) for method, path in routes])
        assert_no_run(service)
        assert_at_once(service)
        with client_of(service) as client:
            assert client.get("/workflows").status_code == 200
    recover(service, pg)


@pytest.mark.parametrize("name", HIDDEN_FAULTS)
def test_postgresql_fails_unseen(
    service: Service, pg: Postgresql, kept: tuple[str, str], name: str
) -> None:
    """A server that answers /ready, and does not store: what cannot be done is told by itself."""
    memory_table = name != "without tables"
    with HIDDEN_FAULTS[name](pg):
        asked = [
            one
            for one in requests(*kept)
            if (memory_table or "memories" not in one[1])
            and not (name == "read-only" and one[0] == "GET")
        ]
        assert_all_unavailable(service, asked)
        assert_no_run(service)
    recover(service, pg)


def test_a_service_that_has_read_nothing_yet(
    own_environment: dict[str, str], pg: Postgresql, kept: tuple[str, str]
) -> None:
    """It looks for its tables now, and must not take one that is gone for one that is empty."""
    with HIDDEN_FAULTS["without tables"](pg), serving(own_environment, program=PROGRAM) as service:
        assert_all_unavailable(service, requests(*kept)[:6])


@pytest.mark.parametrize("name", ["stopped", "frozen"])
def test_postgresql_fails_between_steps(
    service: Service, pg: Postgresql, tmp_path: Path, name: str
) -> None:
    over = tmp_path / "over"
    with ThreadPoolExecutor() as threads:
        runs = begin_runs(service, threads, over)
        with FAULTS[name](pg):
            over.touch()
            begun = time.monotonic()
            outcomes = [running.result() for running in runs]
            service.assert_in_time(time.monotonic() - begun, len(WAYS))
            time.sleep(0.5)
    for way, outcome in zip(WAYS, outcomes, strict=True):
        assert not outcome.completed
        assert outcome.unavailable or outcome.status == 202
        if outcome.run_id and way not in ("plain", "stream"):
            # These are stored at their beginning, and do not go on for ever.
            wait_until(lambda one=outcome: stored_status(service, one) in ENDED)  # type: ignore[misc]


def test_connections_that_were_cut_are_made_anew(service: Service, pg: Postgresql) -> None:
    """After a restart of PostgreSQL no request fails because of it."""
    asked: list[tuple[str, str, dict[str, Any]]] = [("GET", "/sessions?type=workflow", {})] * 10
    for _ in range(2):
        assert {answer.status_code for answer in ask_all(service, asked)} == {200}
        cut(pg)
    assert run(service).completed


def locks(pg: Postgresql, *, granted: bool) -> bool:
    """Say whether somebody has locked the table of the runs, or waits for it."""
    mode = "mode = 'AccessExclusiveLock' AND granted" if granted else "NOT granted"
    table = "relation = 'agentos.agno_runs'::regclass"
    return bool(pg.query(f"SELECT 1 FROM pg_locks WHERE {table} AND {mode}"))


@pytest.mark.parametrize("end", [cut, Postgresql.freeze])
def test_killed_while_a_run_is_stored(
    service: Service, pg: Postgresql, end: Callable[[Postgresql], None]
) -> None:
    with ThreadPoolExecutor() as threads:
        lock = "BEGIN; LOCK agentos.agno_runs; SELECT pg_sleep(5); COMMIT"
        locking = threads.submit(pg.query, lock)
        wait_until(lambda: locks(pg, granted=True) or locking.done())
        runs = [threads.submit(run, service, way) for way in WAYS]
        wait_until(lambda: locks(pg, granted=False) or locking.done())
        end(pg)
        try:
            outcomes = [running.result() for running in runs]
        finally:
            insist(pg.thaw)
        locking.result()
    recover(service, pg)
    assert any(outcome.unavailable for outcome in outcomes)
    for outcome in outcomes:
        if outcome.status == 202:  # that is all that is confirmed: it has begun
            wait_until(lambda one=outcome: stored_status(service, one) in ENDED)  # type: ignore[misc]
        else:
            assert outcome.unavailable or in_database(pg, outcome)


def test_all_connections_are_in_use(service: Service, pg: Postgresql) -> None:
    """SQLAlchemy's own wait for a connection ends with no error of PostgreSQL."""
    recover(service, pg)
    with ThreadPoolExecutor(40) as threads:
        locking = threads.submit(
            pg.query, "BEGIN; LOCK agentos.agno_sessions; SELECT pg_sleep(4); COMMIT"
        )
        time.sleep(0.3)
        outcomes = list(threads.map(lambda number: run(service, WAYS[number % 2]), range(30)))
        locking.result()
    assert any(outcome.unavailable for outcome in outcomes)
    for outcome in outcomes:
        assert outcome.unavailable or in_database(pg, outcome)
    recover(service, pg)


def test_random_faults(service: Service, pg: Postgresql) -> None:
    """Whatever happens when: a run that is confirmed is stored."""
    begun = time.monotonic()
    outcomes: list[Outcome] = []

    def goes_on() -> bool:
        # A slow machine may take longer to complete one.
        took = time.monotonic() - begun
        return took < 8 or (took < PATIENCE_S and not any(one.completed for one in outcomes))

    def keep_running(number: int) -> None:
        chance = random.Random(number)
        while goes_on():
            message = chance.choice(["go", "wait 0.2"])
            outcomes.append(run(service, WAYS[number % len(WAYS)], message))

    with ThreadPoolExecutor() as threads:
        workers = [threads.submit(keep_running, number) for number in range(5)]
        chance = random.Random(1)
        while goes_on():
            time.sleep(chance.random())
            fault = chance.choice(["stopped", "frozen", "cut"])
            if fault == "cut":
                cut(pg)
                continue
            with FAULTS[fault](pg):
                time.sleep(chance.random())
        for worker in workers:
            worker.result()
    recover(service, pg)
    completed = [outcome for outcome in outcomes if outcome.completed]
    assert completed
    assert any(outcome.unavailable for outcome in outcomes)
    for outcome in completed:
        assert in_database(pg, outcome)
    for outcome in outcomes:
        assert outcome.completed or outcome.unavailable or outcome.status == 202
    waiting = [outcome for outcome in outcomes if outcome.status == 202]
    wait_until(lambda: {stored_status(service, outcome) for outcome in waiting} <= ENDED)


@pytest.mark.parametrize("name", ["stopped", "frozen", "refusing the password"])
def test_redis_fails(service: Service, rd: RedisServer, kept: tuple[str, str], name: str) -> None:
    @contextmanager
    def refusing() -> Iterator[None]:
        with Redis.from_url(rd.url()) as redis:
            redis.config_set("requirepass", "other")
            try:
                yield
            finally:
                redis.config_set("requirepass", rd.password)

    fault = {"stopped": rd.stopped, "frozen": rd.frozen}.get(name, refusing)
    with fault():
        time.sleep(1.1)
        assert_no_run(service)
        reading = [one for one in requests(*kept) if one[0] == "GET"]
        for answer in ask_all(service, reading):
            assert answer.status_code == 200
    wait_until(lambda: run(service).completed)


def test_redis_fails_between_steps(
    service: Service, pg: Postgresql, rd: RedisServer, tmp_path: Path
) -> None:
    """Redis carries events and cancellation; a run goes on without it, and is stored."""
    over = tmp_path / "over"
    with ThreadPoolExecutor() as threads:
        runs = begin_runs(service, threads, over)
        with rd.stopped():
            over.touch()
            outcomes = [running.result() for running in runs]
            for outcome in outcomes:
                assert outcome.completed or outcome.status == 202
                wait_until(lambda one=outcome: stored_status(service, one) == "COMPLETED")  # type: ignore[misc]
    assert all(in_database(pg, outcome) for outcome in outcomes)
    wait_until(lambda: run(service).completed)


def test_starts_before_its_servers(own_environment: dict[str, str]) -> None:
    pg, rd = Postgresql(), RedisServer()
    urls = {"DATABASE_URL": pg.role_url(), "REDIS_URL": rd.url()}
    try:
        with serving(own_environment | urls, program=PROGRAM) as service:
            assert run(service).unavailable
            pg.start()
            rd.start()
            assert run(service).unavailable
            pg.migrate()
            recover(service, pg)
    finally:
        pg.remove()
        rd.stop()


def test_websocket_is_told_of_each_message(
    service: Service, pg: Postgresql, tmp_path: Path
) -> None:
    over = tmp_path / "over"
    message = f"until {over}"
    start = json.dumps({"action": "start-workflow", "workflow_id": "trial", "message": message})
    with open_websocket(service) as socket:
        for bad in ("no JSON", "[]", "{}", '{"action": 1}'):
            socket.send(bad)
            assert read(socket)["error"]["code"] == "invalid_request"
        socket.send(start)
        while read(socket)["event"] != "StepStarted":
            pass
        with pg.stopped():
            # Messages in between do not make the run's failure forgotten.
            socket.send('{"action": "ping"}')
            over.touch()
            socket.send('{"action": "ping"}')
            kinds: list[str] = []
            while kinds.count("pong") < 2 or "error" not in kinds:
                kinds.append(read(socket)["event"])
            socket.send(start)
            while read(socket).get("retry_after") is None:
                pass
        assert "WorkflowCompleted" not in kinds
        wait_until(lambda: run(service).completed)
        socket.send(start)
        while read(socket)["event"] != "WorkflowCompleted":
            pass


# So long that it does not fit into an index, however it is compressed.
LONG = random.Random(1).randbytes(4000).hex()
BAD = ["\0", "a\0b", "\ud800", LONG]


@pytest.mark.parametrize("bad", BAD, ids=["NUL", "NUL within", "surrogate", "long"])
def test_values_that_cannot_be_stored(service: Service, pg: Postgresql, bad: str) -> None:
    """They are the client's fault, and are told as such; or they are stored."""
    kind = {"type": "workflow"}
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/sessions", {"json": {"session_id": bad}, "params": kind}),
        ("POST", "/sessions", {"json": {"session_name": bad}, "params": kind}),
        ("POST", "/memories", {"json": {"memory": bad, "topics": [bad]}}),
    ]
    if bad != "\ud800":  # a form cannot hold it
        form = {"message": bad, "stream": "false"}
        asked.append(("POST", "/workflows/trial/runs", {"data": form}))
        asked.append(("POST", "/workflows/trial/runs", {"data": form | {"session_id": bad}}))
    for one, answer in zip(asked, answers_of(service, asked), strict=True):
        if answer.status_code in (200, 201):
            body = answer.json()
            key = next(key for key in ("run_id", "memory_id", "session_id") if body.get(key))
            table = {"run_id": "runs", "memory_id": "memories", "session_id": "sessions"}[key]
            where = f"{key} = $${body[key]}$$"
            assert pg.query(f"SELECT 1 FROM agentos.agno_{table} WHERE {where}"), one
        else:
            assert 400 <= answer.status_code < 500, (one, answer.text)
            error_code(answer.text)


def answers_of(
    service: Service, asked: list[tuple[str, str, dict[str, Any]]]
) -> list[httpx.Response]:
    """Send requests, JSON as ASCII, so that it can hold anything."""
    answers = []
    with client_of(service) as client:
        for method, path, what in asked:
            if "json" in what:
                content = json.dumps(what.pop("json"))
                what |= {"content": content, "headers": {"Content-Type": "application/json"}}
            answers.append(client.request(method, path, **what))
    return answers


@pytest.mark.parametrize("name", ["a/b", "a%2Fb", "../a", "é☃", "a b?c#d", "x" * 255])
def test_odd_ids(service: Service, pg: Postgresql, name: str) -> None:
    outcome = run(service, session_id=name)
    assert outcome.completed
    assert outcome.session_id == name
    assert in_database(pg, outcome)


def test_a_client_that_leaves(service: Service, pg: Postgresql) -> None:
    """The run is stored as cancelled, and nothing is left behind."""
    form = {"message": "wait 5", "stream": "true"}
    with (
        client_of(service) as client,
        client.stream("POST", "/workflows/trial/runs", data=form) as answer,
    ):
        line = next(line for line in answer.iter_lines() if '"step_name":"Act"' in line)
        time.sleep(0.2)
    run_id = json.loads(line.removeprefix("data: "))["run_id"]
    statement = f"SELECT status FROM agentos.agno_runs WHERE run_id = '{run_id}'"
    wait_until(lambda: pg.query(statement) == [("CANCELLED",)])


def test_head_and_options(service: Service, pg: Postgresql) -> None:
    with frozen(pg), client_of(service) as client:
        time.sleep(1)
        answer = client.head("/sessions")
        assert (answer.status_code, answer.content) == (503, b"")
        assert client.head("/agents").status_code in (200, 405)
    wait_until(lambda: service.get("/ready").status_code == 200)


def test_a_big_answer(service: Service) -> None:
    big = "x" * 1_000_000
    outcome = run(service, message=big)
    assert outcome.completed
    with client_of(service) as client:
        assert big in client.get(f"/sessions/{outcome.session_id}/runs").text


def test_stops_with_a_run_in_the_background(
    own_environment: dict[str, str], pg: Postgresql
) -> None:
    with serving(own_environment, program=PROGRAM) as service:
        with ThreadPoolExecutor() as threads:
            outcome = run(service, "background", "wait 60")
            threads.submit(run, service, "background stream", "wait 61").add_done_callback(
                lambda done: done.exception()
            )
            wait_until(lambda: service.log().count("a run waits") == 2)
            assert service.stop() < 10  # then Docker would kill it
        assert service.process.returncode == 0
    statement = "SELECT status FROM agentos.agno_runs WHERE status <> 'COMPLETED' AND"
    rows = pg.query(f"{statement} run_data->>'input' LIKE 'wait 6_'")
    assert rows == [("CANCELLED",), ("CANCELLED",)], (outcome, rows)


COMPLETED = b"event: RunCompleted\ndata: {}\n\n"
STARTED = b"event: RunStarted\ndata: {}\n\n"
AWAY = Failure(503, "storage_unavailable", "away")


def answer(kind: str, parts: list[bytes | Failure | Exception], status: int = 200) -> list[bytes]:
    """Let an application answer, or fail, part by part; give the status and what the client gets."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [(b"content-type", kind.encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for part in parts:
            if isinstance(part, Exception):
                raise part
            if isinstance(part, Failure):
                current = context.current()
                assert current is not None
                current.failure = part
            else:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def serve() -> None:
        context.begin()
        scope = {"type": "http", "method": "GET", "path": "/agents", "headers": []}
        with suppress(ZeroDivisionError):
            await Honesty(app, Readiness({}))(scope, receive, send)

    asyncio.run(serve())
    assert [message["type"] for message in sent].count("http.response.start") == 1
    return [str(sent[0]["status"]).encode(), *(message["body"] for message in sent[1:])]


@pytest.mark.parametrize(
    ("parts", "confirmed", "failed"),
    [
        ([STARTED, COMPLETED], True, False),
        ([STARTED, COMPLETED, b"event: Other\n\n"], True, False),
        ([STARTED, COMPLETED, AWAY], False, True),
        ([STARTED + COMPLETED, AWAY], False, True),
        ([COMPLETED + STARTED, AWAY], False, True),
        ([STARTED, AWAY, COMPLETED], False, True),
        ([STARTED, COMPLETED, AWAY, ZeroDivisionError()], False, True),
        ([STARTED, COMPLETED, ZeroDivisionError()], False, False),
        ([STARTED, RedisError()], False, True),
    ],
)
def test_events_that_confirm_are_held_back(
    parts: list[bytes | Failure | Exception], confirmed: bool, failed: bool
) -> None:
    """A stream may turn out to be untrue at any time."""
    got = b"".join(answer("text/event-stream", parts))
    assert (b"Completed" in got, b"storage_unavailable" in got) == (confirmed, failed)
    assert got.startswith((b"200", b"503"))


@pytest.mark.parametrize(
    ("parts", "told", "status"),
    [
        ([b"all ", b"is well"], b"200", 200),
        ([b"all ", AWAY, b"is well"], b"503", 200),
        ([b"all is well", AWAY], b"503", 200),
        ([b"an error"], b"500", 500),
        ([b"an error", RedisError()], b"503", 500),
        ([b"an error", AWAY, ZeroDivisionError()], b"503", 500),
    ],
)
def test_answers_are_held_back(
    parts: list[bytes | Failure | Exception], told: bytes, status: int
) -> None:
    """A plain answer is sent when it is known to be true."""
    first, *body = answer("application/json", parts, status)
    assert first == told
    assert (b"storage_unavailable" in b"".join(body)) == (told == b"503")
