"""Agno reports its starts and its runs to its makers, unless it is told not to, in two places."""

from collections.abc import Iterator

import pytest

from tests.fake_servers import FakeModel, FakeProxy, serving_model, serving_proxy
from tests.servers import serving, wait_until
from tests.trial_runs import PROGRAM_WITH_TELEMETRY, run

AGNO = "CONNECT os-api.agno.com:443 HTTP/1.1"


@pytest.fixture
def model() -> Iterator[FakeModel]:
    """Give a model."""
    with serving_model() as model:
        yield model


@pytest.fixture
def proxy() -> Iterator[FakeProxy]:
    """Give the proxy, through which all must pass that is not on this machine."""
    with serving_proxy() as proxy:
        yield proxy


@pytest.fixture
def watched(environment: dict[str, str], model: FakeModel, proxy: FakeProxy) -> dict[str, str]:
    """Give an environment with both, and with telemetry asked for."""
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), proxy.url)
    return environment | {
        **proxies,
        "NO_PROXY": "127.0.0.1",
        "AGENTOS_MODEL_URL": f"{model.url}/v1",
        "AGENTOS_MODEL": "fake",
        "AGNO_TELEMETRY": "true",
    }


def test_nothing_is_sent(watched: dict[str, str], proxy: FakeProxy) -> None:
    with serving(watched) as service:
        assert run(service, component="workflows/stack-check").completed
        assert run(service, component="agents/stack-guide").completed
        service.stop()  # what waits to be sent is sent now
    assert proxy.asked == []


@pytest.mark.parametrize("on", ["start", "runs", "start runs"])
def test_something_would_be_sent(watched: dict[str, str], proxy: FakeProxy, on: str) -> None:
    """The test above can fail: with either switch on, the proxy is asked for Agno's server."""
    with serving(watched | {"TELEMETRY": on}, program=PROGRAM_WITH_TELEMETRY) as service:
        if "start" in on:
            wait_until(lambda: proxy.asked == [AGNO])
        for number, component in enumerate(("workflows/stack-check", "agents/stack-guide")):
            assert run(service, component=component).completed
            expected = [AGNO] * (("start" in on) + (number + 1) * ("runs" in on))
            wait_until(lambda expected=expected: proxy.asked == expected)  # type: ignore[misc]
