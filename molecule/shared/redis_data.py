"""Data of every kind in Redis, and a digest of all of it that does not rely on the product's own."""

from __future__ import annotations

import hashlib
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


# ARGV: a cursor. Scans on from there; gives the next cursor, and of the keys met their number and the
# sums of three parts of their SHA-1s, which hold name, value (in an order that does not depend on
# how it is stored) and time of expiry. A scan of data that nobody writes meets each key once, as the
# caller sees from the number.
DIGEST = """
local function sorted(list) table.sort(list) return list end
local found = redis.call('SCAN', ARGV[1], 'COUNT', 20000)
local count, a, b, c = 0, 0, 0, 0
for _, key in ipairs(found[2]) do
  if key:sub(1, 6) ~= 'brief:' then
    local kind, value = redis.call('TYPE', key).ok, nil
    if kind == 'string' then value = redis.call('GET', key)
    elseif kind == 'list' then value = cmsgpack.pack(redis.call('LRANGE', key, 0, -1))
    elseif kind == 'set' then value = cmsgpack.pack(sorted(redis.call('SMEMBERS', key)))
    elseif kind == 'zset' then value = cmsgpack.pack(redis.call('ZRANGE', key, 0, -1, 'WITHSCORES'))
    elseif kind == 'stream' then value = cmsgpack.pack(redis.call('XRANGE', key, '-', '+'))
    else
      local pairs_, all = {}, redis.call('HGETALL', key)
      for i = 1, #all, 2 do pairs_[#pairs_ + 1] = #all[i] .. ':' .. all[i] .. all[i + 1] end
      value = cmsgpack.pack(sorted(pairs_))
    end
    local expires = redis.call('EXPIRETIME', key)
    local sum = redis.sha1hex(#key .. ':' .. key .. kind .. expires .. value)
    count = count + 1
    a = (a + tonumber(sum:sub(1, 12), 16)) % 281474976710656
    b = (b + tonumber(sum:sub(13, 24), 16)) % 281474976710656
    c = (c + tonumber(sum:sub(25, 36), 16)) % 281474976710656
  end
end
return {found[1], count, string.format('%.0f', a), string.format('%.0f', b), string.format('%.0f', c)}
"""


def digest(port: int, password: str) -> dict[str, tuple[int, str]]:
    """{database: (its keys, a digest of their values and times of expiry)}, and the functions.

    Keys that expire soon (`brief:`) are left out. Consumers' idle times are not part of it.
    """
    found: dict[str, tuple[int, str]] = {}
    for database in range(16):
        client = connect(port, password, database)
        if client.dbsize() == 0:
            continue
        cursor, count, sums = b"0", 0, [0, 0, 0]
        while True:
            cursor, more, *parts = client.eval(DIGEST, 0, cursor)
            count += more
            sums = [(one + int(part)) % 2**48 for one, part in zip(sums, parts, strict=True)]
            if cursor == b"0":
                break
        found[f"db{database}"] = (count, "".join(f"{part:012x}" for part in sums))
    client = connect(port, password)
    libraries = sorted(bytes(one[1]) for one in client.function_list())
    found["functions"] = (len(libraries), hashlib.sha256(repr(libraries).encode()).hexdigest())
    groups = [] if not client.exists("events") else client.xinfo_groups("events")
    pending = [(g["name"], g["pending"], g["last-delivered-id"]) for g in groups]
    found["groups"] = (len(groups), repr(pending))
    return found
