"""plugins/module_utils/dev_stack.py: quoting, checked with the programs' own rules, and the rest."""

import random
import re
import stat
from pathlib import Path
from types import ModuleType, SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest

from .project import files, load_plugin, settings

# Everything that means something to one of the parsers, and a random rest.
AWKWARD = [
    "simple",
    "with space",
    "a:b@c/d?e#f%g",
    "%41",
    "back\\slash",
    "back\\",
    "colon:",
    "\\:",
    'double"quote',
    "single'quote",
    "{postgres_password}",
    "{{ jinja }}",
    "$HOME `id` $(id)",
    "# no comment",
    "trailing ",
    " leading",
    "umläut-ß-€-😀",
    "\\x41",
    "+&=;,",
    "[::1]",
]
_RANDOM = random.Random(7)
AWKWARD += [
    "".join(chr(_RANDOM.choice([*range(32, 127), 0xE9, 0x20AC])) for _ in range(24))
    for _ in range(200)
]


def pgpass_fields(line: str) -> list[str]:
    """The fields of a line in libpq's password file: `\\` makes the next character plain."""
    fields, current, escaped = [], "", False
    for character in line.rstrip("\n"):
        if escaped:
            current, escaped = current + character, False
        elif character == "\\":
            escaped = True
        elif character == ":":
            fields.append(current)
            current = ""
        else:
            current += character
    return [*fields, current]


def redis_words(line: str) -> list[str]:
    """A line of redis.conf in words, as sdssplitargs in redis' src/sds.c reads it."""
    words: list[str] = []
    data, i = line.encode(), 0
    while True:
        while i < len(data) and data[i : i + 1].isspace():
            i += 1
        if i >= len(data):
            return words
        word, quoted, single = b"", False, False
        while True:
            rest = data[i:]
            if quoted:
                if not rest:
                    raise ValueError("unbalanced quotes")
                if match := re.match(rb"\\x([0-9a-fA-F]{2})", rest):
                    word += bytes([int(match[1], 16)])
                    i += 3
                elif len(rest) > 1 and rest[:1] == b"\\":
                    plain = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}
                    word += plain.get(rest[1:2], rest[1:2])
                    i += 1
                elif rest[:1] == b'"':
                    if len(rest) > 1 and not rest[1:2].isspace():
                        raise ValueError("text after the closing quote")
                    i += 1
                    break
                else:
                    word += rest[:1]
            elif single:
                if not rest:
                    raise ValueError("unbalanced quotes")
                if rest[:2] == b"\\'":
                    word += b"'"
                    i += 1
                elif rest[:1] == b"'":
                    i += 1
                    break
                else:
                    word += rest[:1]
            elif not rest or rest[:1].isspace():
                break
            elif rest[:1] == b'"':
                quoted = True
            elif rest[:1] == b"'":
                single = True
            else:
                word += rest[:1]
            i += 1
        words.append(word.decode())


def test_any_secret_survives_a_url(utils: ModuleType) -> None:
    for secret in AWKWARD:
        url = utils.fill("postgresql://me:{pw|url}@localhost:5432/db", {"pw": secret})
        parts = urlsplit(url)
        assert unquote(parts.password or "") == secret
        assert (parts.username, parts.hostname, parts.port) == ("me", "localhost", 5432)
        assert parts.path == "/db"
        assert url.isascii() and not re.search(r"[\s'\"$`\\]", url)


def test_any_secret_survives_a_pgpass_file(utils: ModuleType) -> None:
    for secret in AWKWARD:
        line = utils.fill("postgres:5432:*:me:{pw|pgpass}\n", {"pw": secret})
        assert pgpass_fields(line) == ["postgres", "5432", "*", "me", secret]


def test_any_secret_survives_redis_conf(utils: ModuleType) -> None:
    for secret in AWKWARD:
        line = utils.fill("requirepass {pw|redis}", {"pw": secret})
        assert redis_words(line) == ["requirepass", secret]
        assert "\n" not in line


def test_the_parsers_of_this_test_tell_right_from_wrong(utils: ModuleType) -> None:
    secret = 'a:b"c d\\'
    assert pgpass_fields(f"h:1:*:u:{secret}") != ["h", "1", "*", "u", secret]
    with pytest.raises(ValueError, match="unbalanced"):
        redis_words(f"requirepass {secret}")


def test_a_secret_is_not_a_template(utils: ModuleType) -> None:
    filled = utils.fill("{a} {b}", {"a": "{b}", "b": "secret"})
    assert filled == "{b} secret"


def test_what_is_no_placeholder_stays(utils: ModuleType) -> None:
    text = '{"Servers": {"1": {"Port": 5432}}} {A} {} {a-b}'
    assert utils.fill(text, {}) == text


@pytest.mark.parametrize("template", ["{unknown}", "{a|shell}"])
def test_an_unknown_name_or_quoting_is_an_error(utils: ModuleType, template: str) -> None:
    with pytest.raises(KeyError):
        utils.fill(template, {"a": "1"})


# --- fingerprints -------------------------------------------------------------------------------


def test_fingerprint_depends_on_key_parts_and_their_borders(utils: ModuleType) -> None:
    seen = [
        utils.fingerprint("key", "a", "b"),
        utils.fingerprint("other", "a", "b"),
        utils.fingerprint("key", "b", "a"),
        utils.fingerprint("key", "ab"),
        utils.fingerprint("key", "ab", ""),
        utils.fingerprint("key", "", "ab"),
        utils.fingerprint("key"),
    ]
    assert len(set(seen)) == len(seen)
    assert utils.fingerprint("key", "a", "b") == seen[0]
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in seen)


# --- files --------------------------------------------------------------------------------------


def write(utils: ModuleType, path: Path, content: str, mode: int, check: bool = False) -> bool:
    return bool(utils.write_private(SimpleNamespace(check_mode=check), path, content, mode))


def test_private_files_are_written_when_they_differ(utils: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    assert write(utils, path, "a\n", 0o600)
    assert path.read_text() == "a\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.stat()
    assert not write(utils, path, "a\n", 0o600)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    path.chmod(0o644)
    assert write(utils, path, "a\n", 0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["secret"]


def test_check_mode_writes_nothing(utils: ModuleType, tmp_path: Path) -> None:
    assert write(utils, tmp_path / "secret", "a\n", 0o600, check=True)
    assert list(tmp_path.iterdir()) == []


def test_only_the_final_newline_is_not_part_of_a_secret(utils: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "s").write_text(" a b \n")
    assert utils.read_secret(tmp_path / "s") == " a b "


# --- known errors -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "fix"),
    [
        ("write /var/lib/docker/x: no space left on device", "docker system df"),
        ("Bind for 127.0.0.1:5432 failed: port is already allocated", "port_offset"),
        ("listen tcp4 127.0.0.1:5432: bind: address already in use", "port_offset"),
        (
            "could not find an available, non-overlapping IPv4 address pool among the defaults",
            "network_subnet",
        ),
        ("Pool overlaps with other one on this address space", "network_subnet"),
        ("FATAL:  database files are incompatible with server", "./dev upgrade --to"),
        ('FATAL:  password authentication failed for user "postgres"', "./dev up"),
        ("Error: Database is uninitialized and superuser password is not specified", "./dev up"),
        ("Bad file format reading the append only file: make a backup", "./dev restore latest"),
        ("pg_restore: error: unsupported version (1.16) in file header", "./dev backup"),
        ("psql:dump.sql:5: error: invalid command \\restrict", "./dev backup"),
        ("it keeps exiting with status 78", "It refuses a setting"),
        ("Can't handle RDB format version 12", "image_source=registry"),
        ("PANIC:  could not locate a valid checkpoint record", "./dev restore latest"),
        ("toomanyrequests: You have reached your pull rate limit", "image_source=packages"),
        ("x509: certificate signed by unknown authority", "update-ca-certificates"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", "update-ca-certificates"),
        ("permission denied while trying to connect to the Docker daemon socket", "usermod"),
        ("dial tcp: lookup registry-1.docker.io: no such host", "HTTPS_PROXY"),
        ("Temporary failure in name resolution", "HTTPS_PROXY"),
    ],
)
def test_a_known_error_gets_its_fix(utils: ModuleType, said: str, fix: str) -> None:
    explained = utils.explain(f"first line\n{said.upper()}\nlast line")
    assert explained is not None and fix in explained


@pytest.mark.parametrize("said", ["", "all is well", "it exited with status 1"])
def test_an_unknown_error_gets_none(utils: ModuleType, said: str) -> None:
    assert utils.explain(said) is None


def test_a_fix_names_only_settings_that_exist(utils: ModuleType) -> None:
    known = set(settings())
    fixes = [re.sub(r"\S*/\S*", "", fix) for _, fix in utils.KNOWN_ERRORS]  # without paths
    words = {word for fix in fixes for word in re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", fix)}
    programs = {"pg_resetwal"}
    assert words - known - programs == set()


def test_modules_are_documented_as_they_are() -> None:
    """The options in a module's DOCUMENTATION are those of its argument_spec."""
    import yaml

    found = [path for path in files(".py") if path.parent.name == "modules"]
    assert found
    for path in found:
        if (path.parent.parent / "action" / path.name).exists():
            continue  # it is the documentation of an action, and no more
        module = load_plugin("modules", path.stem)
        documented = yaml.safe_load(module.DOCUMENTATION)["options"]
        source = path.read_text(encoding="utf-8").partition("argument_spec={")[2]
        spec = re.findall(r'^ {12}"([a-z_]+)": \{', source, re.MULTILINE)
        assert sorted(documented) == sorted(spec), path.name
