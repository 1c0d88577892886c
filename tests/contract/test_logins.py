"""plugins/modules/stack_logins.py: the logins, against servers that follow the standards."""

import base64
import hashlib
import hmac
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import jwt
import pytest

from .project import load_plugin

SECRET = "correct horse"


@pytest.fixture(scope="module")
def logins() -> ModuleType:
    """plugins/modules/stack_logins.py."""
    return load_plugin("modules", "stack_logins")


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[socket.socket], None]], int]]:
    """Answer one connection; gives the port."""
    listeners = []

    def serving(answer: Callable[[socket.socket], None]) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def work() -> None:
            connection, _ = listener.accept()
            with connection:
                answer(connection)

        threading.Thread(target=work, daemon=True).start()
        port: int = listener.getsockname()[1]
        return port

    yield serving
    for listener in listeners:
        listener.close()


def test_scram_is_that_of_rfc_7677(logins: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of its section 3, but for the user's name, which PostgreSQL leaves empty."""
    monkeypatch.setattr(logins.random, "token_urlsafe", lambda _: "rOprNGfwEbeRWgbNEkqO")
    exchange = logins.scram("pencil")
    assert next(exchange) == b"n,,n=,r=rOprNGfwEbeRWgbNEkqO"
    nonce = b"rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    challenge = b"r=" + nonce + b",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    answer = exchange.send(challenge)
    head, _, proof = answer.rpartition(b",p=")
    assert head == b"c=biws,r=" + nonce
    salted = hashlib.pbkdf2_hmac(
        "sha256", b"pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096
    )
    # What a server does: it knows the hash of the client's key, and gets the key from the proof.
    key = hmac.digest(salted, b"Client Key", "sha256")
    signed = b"n=,r=rOprNGfwEbeRWgbNEkqO," + challenge + b"," + head
    signature = hmac.digest(hashlib.sha256(key).digest(), signed, "sha256")
    shown = bytes(a ^ b for a, b in zip(base64.b64decode(proof), signature, strict=True))
    assert shown == key
    good = base64.b64encode(
        hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), signed, "sha256")
    )
    with pytest.raises(StopIteration):
        exchange.send(b"v=" + good)
    again = logins.scram("pencil")
    next(again)
    again.send(challenge)
    with pytest.raises(logins.Odd):
        again.send(b"v=" + base64.b64encode(bytes(32)))


def postgres_answers(*messages: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"".join(messages))
        connection.recv(1000)

    return answer


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (message(b"E", b"SFATAL\0C28P01\0Mwrong password\0\0"), "Refused", None),
        (message(b"E", b"SFATAL\0C53300\0Mtoo many clients\0\0"), "Odd", "too many clients"),
        (message(b"R", struct.pack("!i", 0)), "Odd", "asks for no password"),
        (message(b"R", struct.pack("!i", 3)), "Odd", "a login of kind 3"),
    ],
)
def test_what_postgresql_says(
    logins: ModuleType, serve: Callable[..., int], answer: bytes, error: str, said: str | None
) -> None:
    port = serve(postgres_answers(answer))
    with pytest.raises(getattr(logins, error), match=said):
        logins.log_in_to_postgres("127.0.0.1", port, "u", "d", SECRET)


def test_postgresql_that_hangs_up(logins: ModuleType, serve: Callable[..., int]) -> None:
    port = serve(lambda connection: None)
    with pytest.raises(OSError):  # noqa: PT011  (one of several kinds)
        logins.log_in_to_postgres("127.0.0.1", port, "u", "d", SECRET)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"+OK\r\n", ""),
        (b"-WRONGPASS invalid username-password pair\r\n", "Refused"),
        (b"-ERR AUTH <password> called without any password configured\r\n", "Odd"),
    ],
)
def test_what_redis_says(
    logins: ModuleType, serve: Callable[..., int], answer: bytes, error: str
) -> None:
    asked = []

    def redis(connection: socket.socket) -> None:
        asked.append(connection.recv(1000))
        connection.sendall(answer)

    port = serve(redis)
    if error:
        with pytest.raises(getattr(logins, error)):
            logins.log_in_to_redis("127.0.0.1", port, "pä ss")
    else:
        logins.log_in_to_redis("127.0.0.1", port, "pä ss")
    assert asked == ["*2\r\n$4\r\nAUTH\r\n$6\r\npä ss\r\n".encode()]


def test_a_token_is_one_that_agentos_reads(logins: ModuleType) -> None:
    token = logins.signed_token("s" * 32, "issuer", "audience")
    claims = jwt.decode(token, "s" * 32, ["HS256"], audience="audience", issuer="issuer")
    assert claims["tenant"] and claims["sub"]


@pytest.mark.parametrize(
    ("in_force", "refused", "lines"),
    [
        ({"new"}, "old", []),
        ({"new"}, None, []),
        ({"new"}, "new", []),
        ({"old"}, "old", ["Redis refuses the", "Redis still takes the"]),
        ({"new", "old"}, "old", ["Redis still takes the"]),
        (set(), "old", ["Redis refuses the"]),
    ],
)
def test_both_secrets_are_tried(
    logins: ModuleType, in_force: set[str], refused: Any, lines: list[str]
) -> None:
    def log_in(secret: str) -> None:
        if secret not in in_force:
            raise logins.Refused

    found = logins.verdict("Redis", log_in, "new", refused)
    assert [line[: len(start)] for line, start in zip(found, lines, strict=True)] == lines


def test_silence_is_no_refusal(logins: ModuleType) -> None:
    def log_in(secret: str) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    found = logins.verdict("Redis", log_in, "new", "old")
    assert len(found) == 2 and all("could not be asked" in line for line in found)


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ([200], ""),
        ([503, OSError("timed out"), 200], ""),
        ([OSError("timed out"), 503, 200], ""),
        ([503], "is not ready (status 503)"),
        ([OSError("timed out")], "could not be asked: timed out"),
    ],
)
def test_one_late_answer_does_not_undo_a_rotation(
    logins: ModuleType, monkeypatch: pytest.MonkeyPatch, answers: list[Any], problem: str
) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def ask(*_: object) -> int:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, OSError):
            sleep(logins.TIMEOUT)
            raise answer
        return int(answer)

    monkeypatch.setattr(logins, "ask_agentos", ask)
    monkeypatch.setattr(logins.time, "sleep", sleep)
    monkeypatch.setattr(logins.time, "monotonic", lambda: now)
    assert logins.not_ready("127.0.0.1", 7777) == problem
    assert now < 4 * logins.TIMEOUT
