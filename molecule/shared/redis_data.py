"""Data of every kind in Redis, and a digest of all of it that does not rely on the product's own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import redis

LIBRARY = """#!lua name=trial
redis.register_function('answer', function(keys, args) return 42 end)
"""
# ARGV: first and last number. A key each, of a type that its number chooses.
FILL = """
for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  local kind = i % 20
  local n = tostring(i)
  if kind == 0 then redis.call('HSET', 'hash:' .. n, 'a', n, 'b', 'two')
  elseif kind == 1 then redis.call('RPUSH', 'list:' .. n, n, 'x', 'y')
  elseif kind == 2 then redis.call('SADD', 'set:' .. n, n, 'one', 'two')
  elseif kind == 3 then redis.call('ZADD', 'zset:' .. n, i, 'a', -1.5, 'b')
  elseif kind == 4 and i % 100 == 4 then redis.call('XADD', 'stream:' .. n, '1-1', 'n', n)
  elseif kind == 5 then redis.call('SET', 'lasting:' .. n, n, 'EX', 864000)
  else redis.call('SET', 'string:' .. n, 'value ' .. n) end
end
"""
STEP = 20_000
DATABASES = (0, 3, 15)


def connect(port: int, password: str, database: int = 0) -> Any:
    """A client of a published port, which gives bytes."""
    return redis.Redis("127.0.0.1", port, db=database, password=password, socket_timeout=120)


def fill(port: int, password: str, keys: int = 1_000_000, expiring: int = 0) -> None:
    """Write about `keys` keys of all types, some more in two other databases, and a function.

    Takes besides how many keys to write that expire after three seconds.
    """
    client = connect(port, password)
    for first in range(1, keys + 1, STEP):
        client.eval(FILL, 0, first, min(first + STEP - 1, keys))
    client.xadd("events", {"n": "1"}, id="1-1")
    client.xadd("events", {"n": "2"}, id="2-1")
    client.xgroup_create("events", "workers", id="0")
    client.xreadgroup("workers", "one", {"events": ">"}, count=1)
    client.rpush("long", *range(5000))
    client.hset("wide", mapping={str(n): n for n in range(5000)})
    client.set("big", b"\x00\xff" * 1_000_000)
    client.set("bytes \x00\n\xff".encode("latin-1"), b"\r\n\x00")
    client.function_load(LIBRARY, replace=True)
    pipeline = client.pipeline(transaction=False)
    for n in range(expiring):
        pipeline.set(f"brief:{n}", n, px=3000)
    pipeline.execute()
    for database in DATABASES[1:]:
        connect(port, password, database).mset({f"in {database}:{n}": n for n in range(100)})


def digest(port: int, password: str) -> dict[str, tuple[int, str]]:
    """{database: (its keys, a digest of their values and times of expiry)}, and the functions.

    Keys that expire soon (`brief:`) are left out. Consumers' idle times are not part of it.
    """
    found: dict[str, tuple[int, str]] = {}
    for database in range(16):
        client = connect(port, password, database)
        if client.dbsize() == 0:
            continue
        total, count = 0, 0
        for keys in batches(client):
            pipeline = client.pipeline(transaction=False)
            for key in keys:
                if key.startswith((b"stream:", b"events")):
                    pipeline.xrange(key)
                else:
                    pipeline.dump(key)
                pipeline.expiretime(key)
            answers = iter(pipeline.execute())
            for key, value, expires in zip(keys, answers, answers, strict=False):
                one = hashlib.blake2b(repr((key, value, expires)).encode(), digest_size=16).digest()
                total ^= int.from_bytes(one)
                count += 1
        found[f"db{database}"] = (count, f"{total:032x}")
    client = connect(port, password)
    libraries = sorted(bytes(one[1]) for one in client.function_list())
    found["functions"] = (len(libraries), hashlib.sha256(repr(libraries).encode()).hexdigest())
    groups = [] if not client.exists("events") else client.xinfo_groups("events")
    pending = [(g["name"], g["pending"], g["last-delivered-id"]) for g in groups]
    found["groups"] = (len(groups), repr(pending))
    return found


def batches(client: Any) -> Iterator[list[bytes]]:
    """The keys that last, each once, some thousands at a time."""
    seen: set[bytes] = set()
    cursor = 0
    while True:
        cursor, keys = client.scan(cursor, count=10_000)
        fresh = [k for k in dict.fromkeys(keys) if k not in seen and not k.startswith(b"brief:")]
        seen.update(fresh)
        yield fresh
        if cursor == 0:
            return
