"""Tokens: which of them AgentOS takes, over HTTP and over WebSocket, and which it refuses."""

import asyncio
import base64
import hashlib
import hmac
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import jwt
import pytest
from agentos.token import DEFAULT_SCOPES, main
from agentos.tokens import KeySet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import OKPAlgorithm, RSAAlgorithm

from tests.servers import AGENTS, AUTH_SECRET, PATIENCE_S, Service, free_port, serving
from tests.tokens import claims, token
from tests.websocket import opened, said, send, until_closed

RSA_KEY = generate_private_key(65537, 2048)
ED_KEY = Ed25519PrivateKey.generate()
# Not in the JWKS.
OTHER_RSA_KEY = generate_private_key(65537, 2048)

# To make one takes longer than most requests.
CLIENT = httpx.Client(timeout=PATIENCE_S)

Answer = Callable[[str, bytes], bytes]


@contextmanager
def answering(answer: Answer, port: int = 0) -> Iterator[str]:
    """Run an HTTP server that answers 200 with what a function makes of a path and a body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                body = answer(self.path, sent)
            except ConnectionError:
                return
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                self.wfile.write(body)
            except OSError:
                pass  # who asked has given up

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def jwk(key: RSAPrivateKey | Ed25519PrivateKey, kid: str, **others: object) -> dict[str, Any]:
    """Give the public part of a key as in a JWKS."""
    if isinstance(key, Ed25519PrivateKey):
        entry = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        entry = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    entry.pop("key_ops", None)
    return entry | {"kid": kid} | others


def jwks(*keys: object) -> bytes:
    """Give a JWKS."""
    return json.dumps({"keys": keys}).encode()


BOTH = jwks(jwk(RSA_KEY, "rsa"), jwk(ED_KEY, "ed"))


def part(value: object) -> str:
    """Encode a part of a token as JSON."""
    return base64url(json.dumps(value).encode())


def base64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def by_hand(header: object, payload: object = None, key: bytes = AUTH_SECRET.encode()) -> str:
    """Give a token as no library would make it, signed with HMAC SHA-256."""
    signed = f"{part(header)}.{part(claims() if payload is None else payload)}"
    return f"{signed}.{base64url(hmac.digest(key, signed.encode(), hashlib.sha256))}"


def by_key(kid: str | None, **headers: object) -> str:
    """Give a token that a key of the JWKS has signed."""
    key: Any = ED_KEY if kid == "ed" else RSA_KEY
    named = {} if kid is None else {"kid": kid}
    return jwt.encode(claims(), key, "EdDSA" if kid == "ed" else "RS256", {**named, **headers})


def without(name: str) -> dict[str, Any]:
    """Give the claims of a good token but one."""
    return {other: value for other, value in claims().items() if other != name}


def pem(key: RSAPrivateKey) -> bytes:
    """Give a public key as a PEM, of which it is no secret."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def now(seconds: int) -> int:
    return int(time.time()) + seconds


def another_name_for(kid: str, key: Any, algorithm: str) -> str:
    """Give a token of one algorithm that names a key of another."""
    return jwt.encode(claims(), key, algorithm, {"kid": kid})


GOOD: dict[str, Callable[[], str]] = {
    "HS256": token,
    "HS256 with a kid": lambda: by_hand({"alg": "HS256", "kid": "platform"}),
    "RS256": lambda: by_key("rsa"),
    "EdDSA": lambda: by_key("ed"),
    "several audiences": lambda: token(aud=["billing", "agentos"]),
    "a clock that is slightly ahead": lambda: token(iat=now(5), nbf=now(5)),
    "longest tenant and sub": lambda: token(tenant="t" * 64, sub="s" * 255),
    "a sub with signs": lambda: token(sub="auth0|älice @example.com"),
    "scopes as a string": lambda: token(scopes="workflows:read config:read"),
}
BAD: dict[str, Callable[[], str]] = {
    "garbage": lambda: "garbage",
    "dots": lambda: "..",
    "no JSON": lambda: "e30x.e30x.e30x",
    "JSON, but no object": lambda: by_hand([]),
    "deep JSON": lambda: f"{base64url(b'[' * 3000)}.{part(claims())}.x",
    "deep claims": lambda: f"{part({'alg': 'HS256'})}.{base64url(b'[' * 3000)}.x",
    "claims that are no object": lambda: by_hand({"alg": "HS256"}, []),
    "another secret": lambda: jwt.encode(claims(), "x" * 32, "HS256"),
    "empty secret": lambda: by_hand({"alg": "HS256"}, key=b""),
    "no signature": lambda: token().rpartition(".")[0] + ".",
    "cut signature": lambda: token()[:-4],
    "other claims": lambda: ".".join(
        [token().split(".")[0], part(claims("evil")), token().split(".")[2]]
    ),
    "alg none": lambda: f"{part({'alg': 'none'})}.{part(claims())}.",
    "alg None": lambda: by_hand({"alg": "None"}),
    "alg none, signed": lambda: by_hand({"alg": "none"}),
    "alg of a wrong type": lambda: by_hand({"alg": ["HS256"]}),
    "no alg": lambda: by_hand({"typ": "JWT"}),
    "alg hs256": lambda: by_hand({"alg": "hs256"}),
    "HS384": lambda: jwt.encode(claims(), AUTH_SECRET * 2, "HS384"),
    "HS512": lambda: jwt.encode(claims(), AUTH_SECRET * 2, "HS512"),
    "RS512": lambda: jwt.encode(claims(), RSA_KEY, "RS512", {"kid": "rsa"}),
    "PS256": lambda: jwt.encode(claims(), RSA_KEY, "PS256", {"kid": "rsa"}),
    "HS256 with the public key": lambda: by_hand({"alg": "HS256", "kid": "rsa"}, key=pem(RSA_KEY)),
    "HS256 with the public JWK": lambda: by_hand(
        {"alg": "HS256", "kid": "rsa"}, key=json.dumps(jwk(RSA_KEY, "rsa")).encode()
    ),
    "RS256 with the secret": lambda: by_hand({"alg": "RS256", "kid": "rsa"}),
    "RS256 naming an Ed25519 key": lambda: another_name_for("ed", RSA_KEY, "RS256"),
    "EdDSA naming an RSA key": lambda: another_name_for("rsa", ED_KEY, "EdDSA"),
    "another RSA key": lambda: another_name_for("rsa", OTHER_RSA_KEY, "RS256"),
    "unknown kid": lambda: by_key("nosuch"),
    "no kid among several keys": lambda: by_key(None),
    "kid of a wrong type": lambda: by_hand({"alg": "RS256", "kid": 7}),
    "kid is a path": lambda: by_hand({"alg": "HS256", "kid": "/dev/null"}, key=b""),
    "own key as jwk": lambda: jwt.encode(
        claims(), OTHER_RSA_KEY, "RS256", {"kid": "mine", "jwk": jwk(OTHER_RSA_KEY, "mine")}
    ),
    "unknown crit": lambda: by_hand({"alg": "HS256", "crit": ["exp"], "exp": 1}),
    "empty crit": lambda: by_hand({"alg": "HS256", "crit": []}),
    "b64 is false": lambda: by_hand({"alg": "HS256", "crit": ["b64"], "b64": False}),
    "expired": lambda: token(exp=now(-60)),
    "expired, by key": lambda: jwt.encode(claims(exp=now(-60)), RSA_KEY, "RS256", {"kid": "rsa"}),
    "no exp": lambda: token(exp=None),
    "exp is no number": lambda: token(exp="tomorrow"),
    "exp is infinite": lambda: token(exp=float("inf")),
    "nbf in the future": lambda: token(nbf=now(60)),
    "iat in the future": lambda: token(iat=now(60)),
    "no sub": lambda: by_hand({"alg": "HS256"}, without("sub")),
    "empty sub": lambda: token(sub=""),
    "sub is a number": lambda: by_hand({"alg": "HS256"}, claims() | {"sub": 7}),
    "sub with a line's end": lambda: token(sub="alice\nbob"),
    "sub with a NUL": lambda: token(sub="alice\0"),
    "sub with half a character": lambda: token(sub="\ud800"),
    "sub too long": lambda: token(sub="s" * 256),
    "no tenant": lambda: by_hand({"alg": "HS256"}, without("tenant")),
    "empty tenant": lambda: token(tenant=""),
    "tenant too long": lambda: token(tenant="t" * 65),
    "tenant with a separator": lambda: token(tenant="acme|alice"),
    "tenant with a colon": lambda: token(tenant="sa:acme"),
    "tenant with a line's end": lambda: token(tenant="acme\n"),
    "tenant not ASCII": lambda: token(tenant="ácme"),
    "tenant of a wrong type": lambda: by_hand({"alg": "HS256"}, claims() | {"tenant": ["acme"]}),
    "no iss": lambda: token(iss=None),
    "wrong iss": lambda: token(iss="evil"),
    "iss of a wrong type": lambda: by_hand({"alg": "HS256"}, claims() | {"iss": ["hyvve"]}),
    "no aud": lambda: token(aud=None),
    "wrong aud": lambda: token(aud="billing"),
    "scopes is a number": lambda: token(scopes=7),
    "scopes has a number": lambda: token(scopes=["workflows:read", 7]),
    "scopes is an object": lambda: token(scopes={"agent_os:admin": True}),
    "service account": lambda: "agno_pat_" + "a" * 40,
    "service account with dots": lambda: f"agno_pat_{token()}",
    "too long": lambda: token(filler="x" * 10_000),
    "not ASCII": lambda: f"{token()}é",
    "a JWE's five parts": lambda: f"{token()}.e30.e30",
}


@pytest.fixture(scope="module")
def keyed(environment: dict[str, str]) -> Iterator[Service]:
    """Give AgentOS, told of a JWKS with an RSA and an Ed25519 key."""
    with (
        answering(lambda path, body: BOTH) as url,
        serving(environment | {"AUTH_JWKS_URL": url, "AGENTOS_LOG_LEVEL": "debug"}) as service,
    ):
        yield service


def get(service: Service, *authorizations: str, path: str = "/config") -> httpx.Response:
    """Get what only those with a token may see."""
    headers = [(b"authorization", value.encode()) for value in authorizations]
    return CLIENT.get(service.url + path, headers=headers)


def websocket_events(service: Service, *messages: object) -> list[dict[str, Any]]:
    """Give what the WebSocket answers to messages, up to an answer to a last ping."""
    events: list[dict[str, Any]] = []
    with opened(service) as socket:
        for message in (*messages, {"action": "ping"}):
            send(socket, message)
        while not events or events[-1]["event"] not in ("pong", "auth_required"):
            events.append(said(socket))
    return events


def assert_accepted(service: Service, good: str) -> None:
    """Fail the test unless the token is taken, over HTTP and WebSocket."""
    assert get(service, f"Bearer {good}").status_code == 200
    events = websocket_events(service, {"action": "authenticate", "token": good})
    assert events[-1]["event"] == "pong"


def assert_401(response: httpx.Response, bad: str) -> None:
    """Fail the test unless this is the one form of a 401, which gives nothing away."""
    assert response.status_code == 401, response.text
    assert response.headers["www-authenticate"] == "Bearer"
    body = response.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"code", "message"}
    assert body["error"]["code"] == "unauthorized"
    assert_silent(response.text, bad)


def assert_silent(text: str, bad: str) -> None:
    """Fail the test if a text tells a token, the secret, or how AgentOS is made."""
    assert AUTH_SECRET not in text
    assert "Traceback" not in text
    assert "Error decoding" not in text
    for piece in bad.split("."):
        assert len(piece) < 20 or piece[:20] not in text


def assert_refused(service: Service, bad: str) -> None:
    """Fail the test unless the token is refused, over HTTP and WebSocket, and not logged."""
    assert_401(get(service, f"Bearer {bad}"), bad)
    events = websocket_events(service, {"action": "authenticate", "token": bad})
    assert [event["event"] for event in events][1:] == ["auth_error", "auth_required"]
    assert_silent(json.dumps(events), bad)
    assert_silent(service.log()[-20_000:], bad)


@pytest.mark.parametrize("name", GOOD)
def test_good_token(keyed: Service, name: str) -> None:
    assert_accepted(keyed, GOOD[name]())


@pytest.mark.parametrize("name", BAD)
def test_bad_token(keyed: Service, name: str) -> None:
    assert_refused(keyed, BAD[name]())


@pytest.mark.parametrize("name", ["RS256", "EdDSA"])
def test_without_a_jwks_only_the_secret_counts(service: Service, name: str) -> None:
    assert_refused(service, GOOD[name]())
    assert_accepted(service, token())


@pytest.mark.parametrize("name", ["jku", "x5u"])
def test_a_token_cannot_say_where_its_key_is(service: Service, keyed: Service, name: str) -> None:
    asked = []

    def answer(path: str, body: bytes) -> bytes:
        asked.append(path)
        return jwks(jwk(OTHER_RSA_KEY, "mine"))

    with answering(answer) as url:
        headers = {"kid": "mine", name: url}
        bad = jwt.encode(claims(), OTHER_RSA_KEY, "RS256", headers)
        assert_refused(keyed, bad)
        assert_refused(service, bad)
        assert_accepted(keyed, by_hand({"alg": "HS256", name: url}))
    assert not asked


@pytest.mark.parametrize(
    "authorizations",
    [
        [],
        [""],
        ["Bearer"],
        ["{good}"],
        ["Basic {good}"],
        ["Token {good}"],
        ["Bearer {good}, Bearer {good}"],
        ["Bearer {good}", "Bearer {good}"],
        ["Bearer {bad}", "Bearer {good}"],
        ["Bearer {good}", "Basic eDp5"],
        ["Bearer  {good}x"],
    ],
)
def test_bad_authorization_header(keyed: Service, authorizations: list[str]) -> None:
    good, bad = token(), token(exp=1)
    sent = [value.format(good=good, bad=bad) for value in authorizations]
    assert_401(get(keyed, *sent), good)
    assert_silent(keyed.log()[-20_000:], good)


def test_token_is_taken_from_nowhere_else(keyed: Service) -> None:
    good = token()
    for name in ("token", "access_token"):
        assert httpx.get(f"{keyed.url}/config?{name}={good}", timeout=PATIENCE_S).status_code == 401
        cookies = {"Cookie": f"{name}={good}; better-auth.session_token={good}"}
        assert (
            httpx.get(f"{keyed.url}/config", headers=cookies, timeout=PATIENCE_S).status_code == 401
        )


def test_scheme_is_case_insensitive(keyed: Service) -> None:
    assert get(keyed, f"bEARER {token()}").status_code == 200


@pytest.mark.parametrize("size", [20_000, 60_000])
def test_huge_header(keyed: Service, size: int) -> None:
    bad = "x" * size
    assert_401(get(keyed, f"Bearer {bad}.{bad[:9]}.{bad[:9]}"), bad)
    assert_accepted(keyed, token())


@pytest.mark.parametrize(
    "message",
    [
        {"action": "authenticate"},
        {"action": "authenticate", "token": None},
        {"action": "authenticate", "token": 7},
        {"action": "authenticate", "token": ["a.b.c"]},
        {"action": "authenticate", "token": "x" * 9_000},
        {"action": "authenticate", "token": "a.b." + "x" * 9_000},
    ],
)
def test_bad_websocket_message(keyed: Service, message: object) -> None:
    events = websocket_events(keyed, message, {"action": "authenticate", "token": token()})
    assert events[1]["event"] == "auth_error"
    assert events[-1]["event"] == "pong"


@pytest.mark.parametrize(
    "action", ["start-workflow", "reconnect", "continue-workflow", "ping", "nosuch"]
)
def test_websocket_without_a_token(keyed: Service, action: str) -> None:
    message = {"action": action, "workflow_id": "stack-check", "run_id": "r", "session_id": "s"}
    assert {event["event"] for event in websocket_events(keyed, message)[1:]} == {"auth_required"}


def patched(*statements: str) -> tuple[str, str]:
    """Give a program that runs AgentOS, with numbers that a test cannot wait for replaced."""
    run = "from agentos.__main__ import run; raise SystemExit(run('agentos.app:create_app'))"
    return "-c", "; ".join(["import agentos.tokens, agentos.websocket", *statements, run])


def test_websocket_ends_with_its_token(environment: dict[str, str]) -> None:
    program = patched("agentos.websocket.LEEWAY_S = -3600")
    with serving(environment, program=program) as service:
        with opened(service) as socket:
            messages = {"action": "authenticate", "token": token()}, {"action": "ping"}
            *events, last = until_closed(socket, *messages)
        assert (last["event"], last["error_type"]) == ("auth_error", "expired")
        assert "pong" not in [event["event"] for event in events]
        assert socket.close_code == 1008
        assert "Traceback" not in service.log()


def test_jwks_that_comes_and_goes(environment: dict[str, str]) -> None:
    """The JWKS is fetched for each token here, and so has no age at which it is good enough."""
    port = free_port()
    url = {"AUTH_JWKS_URL": f"http://127.0.0.1:{port}/jwks"}
    program = patched("agentos.tokens._JWKS_MAX_AGE_S = -1")
    answer: bytes | Callable[[], bytes] = BOTH
    asked = 0

    def current(_path: str, _body: bytes) -> bytes:
        nonlocal asked
        asked += 1
        return answer() if callable(answer) else answer

    old, new = by_key("rsa"), by_key("new")
    with serving(environment | url, program=program) as service:
        assert_refused(service, old)
        assert_accepted(service, token())
        with answering(current, port):
            assert_accepted(service, old)
            assert_refused(service, new)
            before = asked
            assert_accepted(service, token())
            assert asked == before  # nothing is fetched for what the secret has signed
            answer = jwks(jwk(RSA_KEY, "rsa"), jwk(RSA_KEY, "new"))
            assert_accepted(service, new)
            for name, rubbish in RUBBISH.items():
                answer = rubbish
                assert get(service, f"Bearer {old}").status_code == 200, name
            answer = gone
            assert_refused(service, by_key("nosuch"))
            answer = jwks(jwk(RSA_KEY, "new"))
            assert_accepted(service, new)
            assert_refused(service, old)
        assert_accepted(service, new)
        assert "Traceback" not in service.log()
        assert service.log().count("could not be read") >= len(RUBBISH)


def gone() -> bytes:
    raise ConnectionError


def too_late() -> bytes:
    time.sleep(2)
    return BOTH


RUBBISH: dict[str, bytes | Callable[[], bytes]] = {
    "empty": b"",
    "no JSON": b"<html>",
    "not UTF-8": b"\xff\xfe\xfa",
    "deep": b"[" * 100_000,
    "a list": b"[]",
    "no keys": b"{}",
    "keys of a wrong type": b'{"keys": 7}',
    "huge": b" " * 300_000 + BOTH,
    "no answer": gone,
    "too late": too_late,
}

SMALL_KEY = generate_private_key(65537, 1024)
PRIVATE = json.loads(RSAAlgorithm.to_jwk(RSA_KEY)) | {"kid": "rsa"}


@pytest.mark.parametrize(
    "entry",
    [
        jwk(RSA_KEY, "rsa", use="enc"),
        jwk(RSA_KEY, "rsa", alg="RS512"),
        jwk(RSA_KEY, "rsa", alg="HS256"),
        jwk(RSA_KEY, "rsa", kty="oct"),
        jwk(RSA_KEY, "rsa", kty=["RSA"]),
        jwk(RSA_KEY, "rsa", crv="Ed25519"),
        jwk(RSA_KEY, "rsa", crv=["Ed25519"]),
        jwk(RSA_KEY, "rsa", n=7),
        jwk(RSA_KEY, "rsa", n=None),
        jwk(RSA_KEY, "rsa", n="!"),
        jwk(RSA_KEY, "rsa", e="AA"),
        jwk(ED_KEY, "rsa", x="AA"),
        jwk(ED_KEY, "rsa", crv="X25519"),
        jwk(SMALL_KEY, "rsa"),
        {"kty": "oct", "kid": "rsa", "k": base64url(AUTH_SECRET.encode())},
        PRIVATE,
        {},
        None,
        "rsa",
    ],
)
def test_unusable_key_is_passed_over(entry: object) -> None:
    async def check() -> None:
        with answering(lambda path, body: jwks(entry, jwk(ED_KEY, "ed"))) as url:
            keys = KeySet(url)
            await keys.refresh("ed")
        assert keys.get("rsa") is None
        ed = keys.get("ed")
        assert ed is not None and ed.algorithm_name == "EdDSA"

    asyncio.run(check())


def test_the_only_key_needs_no_kid() -> None:
    async def check() -> None:
        with answering(lambda path, body: jwks(jwk(ED_KEY, "ed"))) as url:
            keys = KeySet(url)
            await keys.refresh(None)
        assert keys.get(None) is keys.get("ed") is not None

    asyncio.run(check())


def test_unknown_keys_do_not_make_agentos_fetch_again_and_again() -> None:
    asked = []

    async def check() -> None:
        def answer(path: str, _body: bytes) -> bytes:
            asked.append(path)
            return BOTH

        with answering(answer) as url:
            keys = KeySet(url)
            await asyncio.gather(*(keys.refresh(f"nosuch-{number}") for number in range(50)))
            await keys.refresh("nosuch")

    asyncio.run(check())
    assert len(asked) == 1


def mint(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m agentos.token`."""
    return subprocess.run(
        [sys.executable, "-m", "agentos.token", *arguments],
        env={**environment},
        cwd=AGENTS,
        capture_output=True,
        text=True,
        check=False,
    )


WHO = ("--tenant", "acme", "--sub", "alice")


def test_minted_token(service: Service, environment: dict[str, str]) -> None:
    done = mint(environment, *WHO)
    assert (done.returncode, done.stderr) == (0, "")
    minted = done.stdout.removesuffix("\n")
    found = jwt.decode(minted, AUTH_SECRET, ["HS256"], issuer="hyvve", audience="agentos")
    assert (found["tenant"], found["sub"]) == ("acme", "alice")
    assert found["scopes"] == DEFAULT_SCOPES.split()
    assert found["exp"] - found["iat"] == 3600
    assert_accepted(service, minted)
    with service.client(minted) as client:
        form = {"message": "hello", "stream": "false"}
        run = client.post("/workflows/stack-check/runs", data=form).json()
        assert run["status"] == "COMPLETED"
        sessions = client.get("/sessions", params={"type": "workflow"}).json()["data"]
        assert run["session_id"] in [session["session_id"] for session in sessions]


def test_no_default_scope_is_the_administrators() -> None:
    assert "agent_os:admin" not in DEFAULT_SCOPES
    assert "*" not in DEFAULT_SCOPES
    resources = {scope.partition(":")[0] for scope in DEFAULT_SCOPES.split()}
    assert not resources & {"agent_os", "approvals", "evals", "service_accounts", "system"}


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (("--ttl", "90"), "ttl", 90),
        (("--ttl", "15m"), "ttl", 900),
        (("--ttl", "30d"), "ttl", 30 * 24 * 3600),
        (("--scopes", "agent_os:admin"), "scopes", ["agent_os:admin"]),
        (
            ("--scopes", "a:read,b:*:run", "c:read d:read"),
            "scopes",
            ["a:read", "b:*:run", "c:read", "d:read"],
        ),
        (("--sub", "auth0|älice b"), "sub", "auth0|älice b"),
        (("--tenant", "t" * 64), "tenant", "t" * 64),
    ],
)
def test_token_arguments(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environment: dict[str, str],
    arguments: tuple[str, ...],
    name: str,
    value: object,
) -> None:
    for variable, setting in environment.items():
        monkeypatch.setenv(variable, setting)
    assert main([*WHO, *arguments]) == 0
    found = jwt.decode(capsys.readouterr().out.strip(), options={"verify_signature": False})
    assert (found | {"ttl": found["exp"] - found["iat"]})[name] == value


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--tenant", "acme"),
        ("--sub", "alice"),
        (*WHO, "--nosuch"),
        (*WHO, "--ttl", "0"),
        (*WHO, "--ttl", "-1"),
        (*WHO, "--ttl", "31d"),
        (*WHO, "--ttl", "9999999d"),
        (*WHO, "--ttl", "1w"),
        (*WHO, "--ttl", "1.5h"),
        (*WHO, "--ttl", "\N{ARABIC-INDIC DIGIT ONE}h"),
        (*WHO, "--tenant", ""),
        (*WHO, "--tenant", "a|b"),
        (*WHO, "--tenant", "t" * 65),
        (*WHO, "--sub", ""),
        (*WHO, "--sub", "a\nb"),
        (*WHO, "--sub", "s" * 256),
        (*WHO, "--scopes"),
        (*WHO, "--scopes", ""),
        (*WHO, "--scopes", "admin"),
        (*WHO, "--scopes", "a:b:c:d"),
        (*WHO, "--scopes", "agents:run\x00"),
    ],
)
def test_bad_token_arguments(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    output = capsys.readouterr()
    assert (exit.value.code, output.out) == (2, "")
    assert output.err.startswith("Error: ")
    assert output.err.count("\n") == 1


def test_token_help() -> None:
    done = mint({}, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for option in ("--tenant", "--sub", "--scopes", "--ttl"):
        assert option in done.stdout


def test_token_without_settings() -> None:
    done = mint({"BETTER_AUTH_SECRET": "sh0rt"}, *WHO)
    assert (done.returncode, done.stdout) == (78, "")
    assert "sh0rt" not in done.stderr
    assert all(line.startswith("agentos: ") for line in done.stderr.splitlines())
