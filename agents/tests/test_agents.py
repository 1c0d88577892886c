"""The agents, with a model that is a server of the tests."""

from collections.abc import Iterator

import pytest

from tests.fake_servers import UPSTREAM_DETAIL, FakeModel, serving_model
from tests.servers import Postgresql, Service, serving, wait_until
from tests.trial_runs import PROGRAM, Outcome, client_of, run, stored_status

KEY = "a-key-of-a-model-0123456789"
GUIDE = "agents/stack-guide"
# How each provider is configured; {} is the fake's URL.
PROVIDERS = {
    "own server": {"AGENTOS_MODEL_URL": "{}/v1", "AGENTOS_MODEL": "fake", "OPENAI_API_KEY": KEY},
    "OpenAI": {"OPENAI_BASE_URL": "{}/v1", "OPENAI_API_KEY": KEY},
    "Anthropic": {"ANTHROPIC_BASE_URL": "{}", "ANTHROPIC_API_KEY": KEY},
}
WAYS = ("plain", "stream", "background", "background stream")


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeModel]:
    """Give a model."""
    with serving_model() as model:
        yield model


@pytest.fixture
def model(fake: FakeModel) -> Iterator[FakeModel]:
    """Give a model that behaves well, until a test makes it do otherwise."""
    fake.behaviour = "answer"
    yield fake
    fake.behaviour = "answer"


@pytest.fixture(scope="module", params=PROVIDERS)
def asked(
    request: pytest.FixtureRequest, environment: dict[str, str], fake: FakeModel
) -> Iterator[Service]:
    """Give a service with an agent, of each provider in turn; it never tells the key."""
    provider = {name: text.format(fake.url) for name, text in PROVIDERS[request.param].items()}
    provider["AGENTOS_LOG_LEVEL"] = "debug" if request.param == "own server" else "info"
    fake.keys.clear()
    with serving(environment | provider, program=PROGRAM) as service:
        yield service
        for path in ("/health", "/ready", "/openapi.json"):
            assert KEY not in service.get(path).text
        with client_of(service) as client:
            for path in ("/config", "/info", "/agents", f"/{GUIDE}", "/sessions?type=agent"):
                assert KEY not in client.get(path).text
        log = service.log()
    assert fake.keys == {KEY}
    assert "Agents use the model" in log
    assert KEY not in log


def ask(service: Service, way: str, message: str, **form: str) -> Outcome:
    """Ask the agent."""
    return run(service, way, message, GUIDE, **form)


def said(outcome: Outcome) -> str:
    """Give what the agent has said in the end, of an answer that is no stream."""
    assert outcome.status == 200
    assert outcome.body["status"] == "COMPLETED"
    return str(outcome.body["content"])


def test_without_a_model(service: Service) -> None:
    with client_of(service) as client:
        assert client.get("/agents").json() == []
    assert "No model is configured, so there are no agents: set OPENAI_API_KEY" in service.log()


def test_answers(asked: Service, model: FakeModel, postgresql: Postgresql) -> None:
    with client_of(asked) as client:
        assert [agent["id"] for agent in client.get("/agents").json()] == ["stack-guide"]
    first = ask(asked, "plain", "where is PostgreSQL?")
    assert "postgres:5432 on the network" in said(first)
    assert [tool["tool_name"] for tool in first.body["tools"]] == ["describe_service"]
    again = ask(asked, "plain", "and now?", session_id=str(first.session_id))
    assert said(again) == "You have asked 2 times."
    other = ask(asked, "plain", "and here?")
    assert said(other) == "You have asked 1 times."
    rows = postgresql.query(
        "SELECT status, tenant_id, user_id FROM agentos.agno_runs"
        f" WHERE session_id = '{first.session_id}'"
    )
    assert rows == [("COMPLETED", "acme", "acme|alice")] * 2


@pytest.mark.parametrize("way", WAYS[1:])
def test_answers_otherwise(asked: Service, model: FakeModel, way: str) -> None:
    outcome = ask(asked, way, "where is PostgreSQL?")
    if "stream" in way:
        assert outcome.kinds[-1] == "RunCompleted"
        assert "postgres:5432 on the network" in outcome.events[-1]["content"]
        assert "ToolCallCompleted" in outcome.kinds
    wait_until(lambda: stored_status(asked, outcome, GUIDE) == "COMPLETED")


REASONS = {
    "401": "the key is refused",
    "404": "there is no such model at its address",
    "429": "it takes no more requests now, or the account has no credit",
    "500": "the log says why",
    "hang": "the log says why",
    "break": "the log says why",
}


@pytest.mark.parametrize(
    ("behaviour", "way"),
    [(behaviour, way) for behaviour in REASONS for way in WAYS[: 4 if behaviour == "500" else 2]],
)
def test_fails(asked: Service, model: FakeModel, behaviour: str, way: str) -> None:
    """A run fails, and is stored as such; the client is not told what the model's server said."""
    model.behaviour = behaviour
    outcome = ask(asked, way, "what now?")
    reason = f"The model does not answer: {REASONS[behaviour]}."
    if "stream" in way:
        assert "RunCompleted" not in outcome.kinds
        assert outcome.kinds[-1] == "RunError"
        assert outcome.events[-1]["content"] == reason
    elif way == "plain":
        assert outcome.status == 200
        assert outcome.body["status"] == "ERROR"
        assert outcome.body["content"] == reason
    wait_until(lambda: stored_status(asked, outcome, GUIDE) == "ERROR")
    with client_of(asked) as client:
        stored = client.get(f"/sessions/{outcome.session_id}/runs", params={"type": "agent"}).text
    assert "The model does not answer" in stored or behaviour == "break"
    for text in (outcome.text, stored):
        for secret in (KEY, UPSTREAM_DETAIL, "Traceback", model.url):
            assert secret not in text
