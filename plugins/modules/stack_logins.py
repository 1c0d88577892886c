#!/usr/bin/python
"""Ansible module: log in to the services as their users do, to prove which secrets are in force."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_logins
short_description: Prove which secrets the services take
description:
  - Logs in over the published ports with the secrets of one directory, which have to be taken, and
    with those of another, which have to be refused. pgAdmin has no login of its own; with it, a
    connection to PostgreSQL by its password file has to work.
  - Only the services named are asked.
options:
  docker_host:
    description: Address of the engine.
    type: str
    required: true
  taken:
    description: Directory with the secrets that have to be taken, a file each.
    type: path
    required: true
  refused:
    description: Directory with those that have to be refused; what it lacks is not tried.
    type: path
    required: true
  host:
    description: Where the ports are published.
    type: str
    required: true
  postgres:
    description: C({port, user, database}).
    type: dict
  redis:
    description: C({port}).
    type: dict
  agentos:
    description:
      - C({port, database, database_port, issuer, audience}), the middle two for its role in
        PostgreSQL.
    type: dict
  pgadmin:
    description: C({container, host, user, database}), the last three of the server it connects to.
    type: dict
attributes:
  check_mode:
    support: full
    description: It never changes anything.
author: HYVVE
"""

import base64
import hashlib
import hmac
import http.client
import json
import secrets as random
import socket
import struct
import time
import unicodedata
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.dev_stack import connect, read_secret

TIMEOUT = 10.0


class Refused(Exception):
    """The service does not take this secret."""


class Odd(Exception):
    """The service answered neither yes nor no; the message says what."""


def exactly(connection: socket.socket, count: int) -> bytes:
    """The next `count` bytes. Raises OSError when the server hangs up before."""
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionError("it closed the connection")
        data += part
    return data


# --- PostgreSQL ---------------------------------------------------------------------------------


def prepared(password: str) -> bytes:
    """A password as SCRAM uses it: SASLprep (RFC 4013), without its list of what is forbidden."""
    if password.isascii():
        return password.encode()
    return unicodedata.normalize("NFKC", password).encode()


def scram(password: str) -> Generator[bytes, bytes, None]:
    """SCRAM-SHA-256 (RFC 5802, 7677): yields what to send, and is sent what the server said."""

    def keyed(key: bytes, text: bytes) -> bytes:
        return hmac.digest(key, text, "sha256")

    first = f"n=,r={random.token_urlsafe(18)}".encode()
    challenge = yield b"n,," + first
    fields = dict(part.split(b"=", 1) for part in challenge.split(b","))
    salted = hashlib.pbkdf2_hmac(
        "sha256", prepared(password), base64.b64decode(fields[b"s"]), int(fields[b"i"])
    )
    last = b"c=biws,r=" + fields[b"r"]
    signed = b",".join((first, challenge, last))
    key = keyed(salted, b"Client Key")
    signature = keyed(hashlib.sha256(key).digest(), signed)
    proof = bytes(a ^ b for a, b in zip(key, signature, strict=True))
    verdict = yield last + b",p=" + base64.b64encode(proof)
    expected = base64.b64encode(keyed(keyed(salted, b"Server Key"), signed))
    if not hmac.compare_digest(verdict.partition(b"v=")[2], expected):
        raise Odd("it does not know the password either")


def log_in_to_postgres(host: str, port: int, user: str, database: str, password: str) -> None:
    """Log in, and leave. Raises Refused, Odd or OSError."""
    with socket.create_connection((host, port), TIMEOUT) as server:

        def send(kind: bytes, body: bytes) -> None:
            server.sendall(kind + struct.pack("!i", len(body) + 4) + body)

        names = b"".join(word.encode() + b"\0" for word in ("user", user, "database", database, ""))
        send(b"", struct.pack("!i", 196608) + names)  # version 3.0
        asked = False
        exchange = scram(password)
        while True:
            kind, length = struct.unpack("!ci", exactly(server, 5))
            body = exactly(server, length - 4)
            if kind == b"E":
                fields = {part[:1]: part[1:].decode() for part in body.split(b"\0") if part}
                # invalid_password, invalid_authorization_specification
                if fields.get(b"C") in {"28P01", "28000"}:
                    raise Refused
                raise Odd(fields.get(b"M", "an error"))
            if kind != b"R":
                continue  # a notice
            (method,) = struct.unpack("!i", body[:4])
            if method == 0:  # logged in
                send(b"X", b"")
                if not asked:
                    raise Odd("it asks for no password")
                return
            asked = True
            if method == 10:  # which mechanisms it offers
                words = next(exchange)
                send(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", len(words)) + words)
            elif method == 11:
                send(b"p", exchange.send(body[4:]))
            elif method == 12:
                try:
                    exchange.send(body[4:])
                except StopIteration:
                    pass
            elif method == 5:  # md5, where somebody chose it
                inner = hashlib.md5(password.encode() + user.encode()).hexdigest().encode()
                send(b"p", b"md5" + hashlib.md5(inner + body[4:]).hexdigest().encode() + b"\0")
            else:
                raise Odd(f"it wants a login of kind {method}")


# --- Redis --------------------------------------------------------------------------------------


def log_in_to_redis(host: str, port: int, password: str) -> None:
    """Log in, and leave. Raises Refused, Odd or OSError."""
    with socket.create_connection((host, port), TIMEOUT) as server:
        word = password.encode()
        server.sendall(b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%b\r\n" % (len(word), word))
        answer = b""
        while not answer.endswith(b"\r\n"):
            answer += exactly(server, 1)
        if answer.startswith((b"-WRONGPASS", b"-NOPERM")):
            raise Refused
        if answer != b"+OK\r\n":
            raise Odd(answer.decode(errors="replace").strip("-\r\n"))


# --- AgentOS ------------------------------------------------------------------------------------


def ask_agentos(host: str, port: int, path: str, token: str = "") -> int:
    """The status of a GET. Raises OSError."""
    client = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    try:
        client.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        return client.getresponse().status
    except http.client.HTTPException as error:
        raise OSError(f"it answers no HTTP ({error!r})") from error
    finally:
        client.close()


def not_ready(host: str, port: int) -> str:
    """Why AgentOS does not call itself ready, which may take a moment on a busy machine; or ""."""
    limit = time.monotonic() + 2 * TIMEOUT  # one attempt may take half of it
    while True:
        try:
            status = ask_agentos(host, port, "/ready")
        except OSError as error:
            problem = f"could not be asked: {error}"
        else:
            if status == 200:
                return ""
            problem = f"is not ready (status {status})"
        if time.monotonic() > limit:
            return problem
        time.sleep(0.5)


def signed_token(secret: str, issuer: str, audience: str) -> str:
    """A token that holds for a minute and permits to list workflows (JWT, HS256)."""

    def encoded(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    now = int(time.time())
    claims = {
        "iss": issuer,
        "aud": audience,
        "sub": "rotate",
        "tenant": "rotate",
        "iat": now,
        "exp": now + 60,
        "scopes": ["workflows:read"],
    }
    text = b".".join(encoded(json.dumps(part).encode()) for part in ({"alg": "HS256"}, claims))
    return (text + b"." + encoded(hmac.digest(secret.encode(), text, "sha256"))).decode()


def show_token(host: str, port: int, issuer: str, audience: str, secret: str) -> None:
    """Use a token signed with `secret`. Raises Refused, Odd or OSError."""
    status = ask_agentos(host, port, "/workflows", signed_token(secret, issuer, audience))
    if status == 401:
        raise Refused
    if status != 200:
        raise Odd(f"it answers with status {status}")


# --- pgAdmin ------------------------------------------------------------------------------------

# In the container, as its user: what pgAdmin's server is registered with.
AS_PGADMIN = """\
for program in /usr/local/pgsql-*/psql; do psql=$program; done
PGPASSFILE=/var/lib/pgadmin/.pgpass PGCONNECT_TIMEOUT=10 \
  exec "$psql" -X -w -h "$1" -U "$2" -d "$3" -Atqc 'SELECT 1'
"""


def connect_as_pgadmin(client: Any, container: str, host: str, user: str, database: str) -> str:
    """What is wrong with pgAdmin's connection; empty when nothing is. Raises the engine's errors."""
    command = ["sh", "-c", AS_PGADMIN, "sh", host, user, database]
    started = client.exec_create(container, command)
    said: bytes = client.exec_start(started["Id"])
    if client.exec_inspect(started["Id"])["ExitCode"] == 0:
        return ""
    lines = said.decode(errors="replace").strip().splitlines()
    return f"pgAdmin cannot connect to PostgreSQL: {lines[-1] if lines else 'psql failed'}"


# --- all of them --------------------------------------------------------------------------------


def verdict(what: str, log_in: Callable[[str], None], taken: str, refused: str | None) -> list[str]:
    """A line for each login that does not go as it should."""
    lines = []
    for secret, welcome in ((taken, True), (refused, False)):
        if secret is None or (not welcome and secret == taken):
            continue
        try:
            log_in(secret)
        except Refused:
            if welcome:
                lines.append(f"{what} refuses the secret that should be in force.")
        except (Odd, OSError) as error:
            lines.append(f"{what} could not be asked: {error}.")
        else:
            if not welcome:
                lines.append(f"{what} still takes the secret that should no longer hold.")
    return lines


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "docker_host": {"type": "str", "required": True},
            "taken": {"type": "path", "required": True},
            "refused": {"type": "path", "required": True},
            "host": {"type": "str", "required": True},
            "postgres": {"type": "dict"},
            "redis": {"type": "dict"},
            "agentos": {"type": "dict"},
            "pgadmin": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    p = module.params
    host, lines = p["host"], []

    def prove(what: str, name: str, log_in: Callable[[str], None]) -> None:
        other = Path(p["refused"]) / name
        refused = read_secret(other) if other.exists() else None
        lines.extend(verdict(what, log_in, read_secret(Path(p["taken"]) / name), refused))

    try:
        if one := p["postgres"]:
            port, user, database = int(one["port"]), one["user"], one["database"]
            prove(
                f"PostgreSQL at {host}:{port}",
                "postgres_password",
                lambda secret: log_in_to_postgres(host, port, user, database, secret),
            )
        if one := p["redis"]:
            redis_port = int(one["port"])
            prove(
                f"Redis at {host}:{redis_port}",
                "redis_password",
                lambda secret: log_in_to_redis(host, redis_port, secret),
            )
        if one := p["agentos"]:
            at, name, name_at = int(one["port"]), one["database"], int(one["database_port"])
            issuer, audience = one["issuer"], one["audience"]
            prove(
                f"PostgreSQL at {host}:{name_at}, for AgentOS,",
                "agentos_db_password",
                lambda secret: log_in_to_postgres(host, name_at, "agentos", name, secret),
            )
            prove(
                f"AgentOS at {host}:{at}",
                "better_auth_secret",
                lambda secret: show_token(host, at, issuer, audience, secret),
            )
            if problem := not_ready(host, at):
                lines.append(f"AgentOS at {host}:{at} {problem}.")
        if one := p["pgadmin"]:
            client = connect(p["docker_host"])
            try:
                problem = connect_as_pgadmin(client, **one)
            except Exception as error:
                problem = f"pgAdmin could not be asked: {error}"
            lines += [problem] if problem else []
    except OSError as error:
        lines.append(f"{error.filename} cannot be read: {error.strerror}.")
    if lines:
        module.fail_json(clear=True, msg="\n".join(lines))
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
