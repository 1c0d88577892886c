"""AgentOS with a workflow that does what a message asks of it, and ways to ask."""

import asyncio
import json
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from agentos import app, runtime, workflows
from agentos.agents import models
from agentos.workflows.base import Workflow
from agentos.workflows.steps import StepFailedError, step
from agno.workflow import StepInput
from starlette.types import ASGIApp
from websockets.sync.client import ClientConnection

from tests.servers import PATIENCE_S, Service, wait_until
from tests.tokens import token
from tests.websocket import authenticate, opened

# Runs this application as `python -m agentos` runs its own.
PROGRAM = (
    "-c",
    "from agentos.__main__ import run; raise SystemExit(run('tests.trial_runs:create'))",
)
PROGRAM_WITH_TELEMETRY = tuple(
    part.replace(":create", ":create_with_telemetry") for part in PROGRAM
)
SECRET = "a-secret-of-an-exception"
# The ways to start a run.
WAYS = ("plain", "stream", "background", "background stream", "websocket")


def create() -> ASGIApp:
    """Make the application."""
    vars(workflows)["create"] = lambda _settings: [trial()]
    vars(models)["TIMEOUT_S"] = 3.0
    return app.create_app()


def create_with_telemetry() -> ASGIApp:
    """Make the application with those switches of Agno's telemetry on that TELEMETRY names."""
    on = os.environ["TELEMETRY"].split()
    if "start" in on:
        create = vars(runtime)["AgentOS"]
        vars(runtime)["AgentOS"] = lambda **options: create(**(options | {"telemetry": True}))
    if "runs" in on:
        os.environ["AGNO_TELEMETRY"] = "true"
        make = workflows.create
        vars(workflows)["create"] = lambda settings: [with_telemetry(one) for one in make(settings)]
    return app.create_app()


def with_telemetry(workflow: Workflow) -> Workflow:
    """Switch a workflow's telemetry on."""
    workflow.telemetry = True
    return workflow


def trial() -> Workflow:
    """Make the workflow `trial`."""

    async def begin(_input: StepInput) -> str:
        return "begun"

    async def act(step_input: StepInput) -> str:
        what, _, detail = str(step_input.input).partition(" ")
        if what in ("wait", "until"):
            print("a run waits", flush=True)  # what `begin_runs` looks for
        if what == "wait":
            await asyncio.sleep(float(detail))
        elif what == "until":
            while not os.path.exists(detail):
                await asyncio.sleep(0.05)
        elif what == "raise":
            raise RuntimeError(SECRET)
        elif what == "fail":
            raise StepFailedError(detail)
        return "acted"

    async def end(_input: StepInput) -> str:
        return "ended"

    steps: list[Any] = [step("Begin", begin), step("Act", act), step("End", end)]
    return Workflow(id="trial", name="Trial", steps=steps, telemetry=False)


@dataclass
class Outcome:
    """What a client is told of a run."""

    text: str
    """All of it."""
    status: int = 200
    events: list[dict[str, Any]] = field(default_factory=list)
    run_id: str | None = None
    session_id: str | None = None

    @property
    def kinds(self) -> list[str]:
        """The kinds of the events, in their order."""
        return [event["event"] for event in self.events]

    @property
    def body(self) -> dict[str, Any]:
        """The body of an answer that is no stream."""
        return dict(json.loads(self.text))

    @property
    def completed(self) -> bool:
        """Whether the run is confirmed."""
        return "WorkflowCompleted" in self.kinds or (
            self.status == 200
            and not self.events
            and json.loads(self.text)["status"] == "COMPLETED"
        )

    @property
    def unavailable(self) -> bool:
        """Whether the client is told, in the one form, that nothing is stored."""
        if self.status == 503:
            return error_code(self.text) == "storage_unavailable"
        errors = [event for event in self.events if event["event"] == "error"]
        return [error["error"]["code"] for error in errors] == ["storage_unavailable"]


def begin_runs(service: Service, threads: ThreadPoolExecutor, over: Path) -> list[Future[Outcome]]:
    """Start a run in each of the WAYS, and return when all wait in a step until a file is there."""
    before = service.log().count("a run waits")
    runs = [threads.submit(run, service, way, f"until {over}") for way in WAYS]
    wait_until(lambda: service.log().count("a run waits") >= before + len(WAYS))
    return runs


def error_code(text: str) -> str:
    """Give the code of an error in the one form."""
    body = json.loads(text)
    assert body.keys() == {"error"}, body
    assert body["error"].keys() == {"code", "message"}
    return str(body["error"]["code"])


def run(
    service: Service,
    way: str = "plain",
    message: str = "go",
    component: str = "workflows/trial",
    **form: str,
) -> Outcome:
    """Start a run in one of the WAYS, and follow it to what ends the answer."""
    if way == "websocket":
        return _run_over_websocket(service, message, **form)
    flags = {"stream": str("stream" in way).lower(), "background": str("background" in way).lower()}
    with client_of(service) as client:
        answer = client.post(f"/{component}/runs", data={"message": message, **flags, **form})
    outcome = Outcome(answer.text, answer.status_code)
    if answer.headers["content-type"].startswith("text/event-stream"):
        outcome.events = list(_events(answer.text))
        bodies = outcome.events
    else:
        assert "error" not in answer.json() or answer.is_error
        bodies = [answer.json()]
    if answer.status_code == 503:
        assert int(answer.headers["retry-after"]) > 0
    _identify(outcome, bodies)
    return outcome


def _run_over_websocket(service: Service, message: str, **fields: str) -> Outcome:
    outcome = Outcome("")
    with open_websocket(service) as socket:
        action = {"action": "start-workflow", "workflow_id": "trial", "message": message}
        socket.send(json.dumps(action | fields))
        while True:
            event = read(socket)
            outcome.text += json.dumps(event) + "\n"
            outcome.events.append(event)
            ends = ("WorkflowCompleted", "WorkflowError", "WorkflowCancelled", "error")
            if event["event"] in ends:
                break
    _identify(outcome, outcome.events)
    return outcome


@contextmanager
def open_websocket(service: Service) -> Iterator[ClientConnection]:
    """Connect, and authenticate."""
    with opened(service) as socket:
        authenticate(socket)
        yield socket


def read(socket: ClientConnection) -> dict[str, Any]:
    """Read a message: JSON, or an event as in a stream."""
    text = str(socket.recv(timeout=PATIENCE_S))
    events = list(_events(text))
    return events[0] if events else dict(json.loads(text))


def client_of(service: Service) -> httpx.Client:
    """Give a client, like the service's own, that does not read all of the world's certificates."""
    headers = {"Authorization": f"Bearer {token()}"}
    return httpx.Client(base_url=service.url, headers=headers, timeout=PATIENCE_S, verify=False)


def stored_status(service: Service, outcome: Outcome, component: str = "workflows/trial") -> str:
    """Ask for a run, and give its status."""
    with client_of(service) as client:
        url = f"/{component}/runs/{outcome.run_id}"
        answer = client.get(url, params={"session_id": str(outcome.session_id)})
    return str(answer.json()["status"]) if answer.status_code == 200 else str(answer.status_code)


def _identify(outcome: Outcome, bodies: list[dict[str, Any]]) -> None:
    for body in bodies:
        outcome.run_id = outcome.run_id or body.get("run_id")
        outcome.session_id = outcome.session_id or body.get("session_id")


def _events(text: str) -> Iterator[dict[str, Any]]:
    kind = ""
    for line in text.splitlines():
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield json.loads(line.removeprefix("data: ")) | {"event": kind}
