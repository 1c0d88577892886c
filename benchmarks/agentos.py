"""How fast AgentOS answers, side by side with a bare FastAPI application.

    .venv/bin/python benchmarks/agentos.py [--rounds 3] [--seconds 4] [--connections 10]

It starts PostgreSQL, Redis, AgentOS and the bare application on free ports of 127.0.0.1, and ends
them. Each round measures every route once, one after the other, so that what disturbs the machine
disturbs all. Absolute figures depend on the machine, which also makes the load; compare ratios.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import psutil  # type: ignore[import-untyped]

sys.path.insert(0, str(Path(__file__).parent.parent / "agents"))

from tests.servers import AUTH_SECRET, Postgresql, RedisServer, Service, serving
from tests.tokens import token

STARTS = 5
WARM_UP_S = 1.0
MAX_ROUNDS, MAX_SECONDS, MAX_CONNECTIONS = 20, 30, 100

# What AgentOS is compared with: the same server and settings, one route, nothing else.
BARE = """
import os, uvicorn
from fastapi import FastAPI

app = FastAPI()

@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}

uvicorn.run(
    app, port=int(os.environ["AGENTOS_PORT"]), log_level="error", access_log=False,
    server_header=False,
)
"""


@dataclass
class Route:
    """A request that is sent over and over."""

    name: str
    service: Service
    request: bytes


@dataclass
class Result:
    """How one round of a route went: answers per second, and milliseconds for each."""

    per_second: float
    median_ms: float
    p99_ms: float


def main() -> None:
    """Measure, and print a table."""
    options = parse(sys.argv[1:])
    with servers() as environment:
        starts = [start(environment) for _ in range(STARTS)]
        with serving(environment) as agentos, serving({}, program=("-c", BARE)) as bare:
            routes = [
                Route("bare FastAPI, one route", bare, request("GET", "/health")),
                Route("/health", agentos, request("GET", "/health")),
                Route("/ready", agentos, request("GET", "/ready")),
                Route("workflow run", agentos, run_request()),
                Route("session list", agentos, request("GET", "/sessions?type=workflow&limit=20")),
            ]
            results: dict[str, list[Result]] = {route.name: [] for route in routes}
            for _ in range(options.rounds):
                for route in routes:
                    result = asyncio.run(measure(route, options.seconds, options.connections))
                    results[route.name].append(result)
            memory = psutil.Process(agentos.process.pid).memory_info().rss
    report(results, starts, memory, options)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; every figure is bounded."""
    parser = argparse.ArgumentParser(description="Measure AgentOS beside a bare FastAPI app.")
    parser.add_argument(
        "--rounds", type=int, choices=range(1, MAX_ROUNDS + 1), default=3, metavar="N"
    )
    parser.add_argument(
        "--seconds", type=int, choices=range(1, MAX_SECONDS + 1), default=4, metavar="N"
    )
    parser.add_argument(
        "--connections", type=int, choices=range(1, MAX_CONNECTIONS + 1), default=10, metavar="N"
    )
    return parser.parse_args(arguments)


@contextmanager
def servers() -> Iterator[dict[str, str]]:
    """Run PostgreSQL, migrated, and Redis; give AgentOS's environment."""
    postgresql, redis = Postgresql(), RedisServer()
    try:
        postgresql.start()
        redis.start()
        postgresql.migrate()
        yield {
            "DATABASE_URL": postgresql.role_url(),
            "REDIS_URL": redis.url(),
            "BETTER_AUTH_SECRET": AUTH_SECRET,
        }
    finally:
        redis.stop()
        postgresql.remove()


def start(environment: dict[str, str]) -> float:
    """Give the seconds from the start of the process to the first answer of /health."""
    started = time.perf_counter()
    with serving(environment):
        return time.perf_counter() - started


def request(method: str, target: str, form: dict[str, str] | None = None) -> bytes:
    """Write an HTTP request, with a token."""
    body = urlencode(form).encode() if form else b""
    head = (
        f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token(exp=2**31)}\r\n"
        f"Content-Length: {len(body)}\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n"
    )
    return head.encode() + body


def run_request() -> bytes:
    """Write the request of a run of stack-check."""
    return request("POST", "/workflows/stack-check/runs", {"message": "hello", "stream": "false"})


async def measure(route: Route, seconds: int, connections: int) -> Result:
    """Send a route's request over several connections at once, each after the last answer."""
    await load(route, WARM_UP_S, connections)
    times = await load(route, seconds, connections)
    return Result(
        per_second=len(times) / seconds,
        median_ms=statistics.median(times) * 1000,
        p99_ms=statistics.quantiles(times, n=100)[98] * 1000,
    )


async def load(route: Route, seconds: float, connections: int) -> list[float]:
    """Give the seconds that each answer took."""
    deadline = time.perf_counter() + seconds
    times = await asyncio.gather(*(converse(route, deadline) for _ in range(connections)))
    return [took for some in times for took in some]


async def converse(route: Route, deadline: float) -> list[float]:
    """Send a request over and over on one connection, until a point in time.

    On bare streams: a client library would take more of the processor than the service does.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", route.service.port)
    times: list[float] = []
    try:
        while (started := time.perf_counter()) < deadline:
            writer.write(route.request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                raise SystemExit(f"{route.name}: {head.decode()}")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
            times.append(time.perf_counter() - started)
    finally:
        writer.close()
    return times


def report(
    results: dict[str, list[Result]],
    starts: list[float],
    memory: int,
    options: argparse.Namespace,
) -> None:
    """Print the medians of all rounds."""
    print(
        f"Medians of {options.rounds} rounds of {options.seconds} s, {options.connections}"
        f" connections, {psutil.cpu_count()} cores, Python {sys.version.split()[0]}\n"
    )
    print(f"{'':<24}{'per second':>12}{'of bare':>9}{'median ms':>11}{'p99 ms':>9}")
    bare = statistics.median(result.per_second for result in next(iter(results.values())))
    for name, rounds in results.items():
        per_second = statistics.median(result.per_second for result in rounds)
        median_ms = statistics.median(result.median_ms for result in rounds)
        p99_ms = statistics.median(result.p99_ms for result in rounds)
        print(
            f"{name:<24}{per_second:>12,.0f}{per_second / bare:>9.2f}{median_ms:>11.1f}{p99_ms:>9.1f}"
        )
    print(f"\nStart to the first answer of /health: {statistics.median(starts):.2f} s")
    print(f"Resident memory after the load: {memory / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
