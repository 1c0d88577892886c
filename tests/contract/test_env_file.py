"""plugins/modules/env_file.py: a person's own lines survive, and every reader gets the values."""

import random
import re
import shutil
import subprocess
from types import ModuleType

import pytest

VALUES = {
    "DATABASE_URL": "postgresql://postgres:p%40ss@localhost:5432/hyvve",
    "REDIS_URL": "redis://:secret@localhost:6379",
    "BETTER_AUTH_SECRET": "no need of quotes",
}


def parsed(text: str) -> dict[str, str]:
    """A dotenv file as the common readers see it (dotenv for Node.js, python-dotenv)."""
    found = {}
    for line in text.splitlines():
        match = re.match(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*$", line)
        if match is None:
            continue
        name, value = match.groups()
        if value[:1] == "'" and value[-1:] == "'" and len(value) > 1:
            value = value[1:-1]
        elif value[:1] == '"' and value[-1:] == '"' and len(value) > 1:
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        else:
            value = value.split(" #")[0].rstrip()
        found[name] = value
    return found


def foreign(text: str) -> list[bytes]:
    """The lines that set none of our variables, byte for byte, with their line ends."""
    ours = re.compile(rb"\s*(export\s+)?(" + b"|".join(n.encode() for n in VALUES) + rb")\s*=")
    return [
        line for line in re.findall(rb"[^\n]*\n|[^\n]+$", text.encode()) if not ours.match(line)
    ]


FILES = [
    "",
    "MINE=1\n",
    "# a comment\n\n\nMINE='a b'\n  INDENTED = x\nexport EXPORTED=y\n",
    "DATABASE_URL=old\nMINE=1\nREDIS_URL=old\n",
    "MINE=1\nexport DATABASE_URL='old'\n# DATABASE_URL=commented out\n",
    "DATABASE_URL=old\nMINE=1\nDATABASE_URL=older\n",
    "DATABASE_URL_OF_TESTS=1\nMY_DATABASE_URL=2\n",
    "not an assignment at all\n=\n",
    "MINE=1  \n\tTAB=\t\n",
    "UMLAUT=ä€😀\n",
]
ALIEN = [
    "WINDOWS=1\r\nMORE=2\r\n",
    "FORM_FEED=a\x0cb\n",
    "SEPARATOR=a\u2028b\x85c\n",
]


@pytest.mark.parametrize("text", FILES)
def test_every_variable_is_there_once_and_readable(env_file: ModuleType, text: str) -> None:
    merged = env_file.merged(text, VALUES)
    for name, value in VALUES.items():
        assert parsed(merged)[name] == value
        assert len(re.findall(rf"^\s*(?:export\s+)?{name}\s*=", merged, re.MULTILINE)) == 1
    assert merged.endswith("\n")


@pytest.mark.parametrize("text", [*FILES, *ALIEN])
def test_twice_is_once(env_file: ModuleType, text: str) -> None:
    once = env_file.merged(text, VALUES)
    assert env_file.merged(once, VALUES) == once


@pytest.mark.parametrize("text", [*FILES[1:], *ALIEN])
def test_lines_of_others_survive_byte_for_byte(env_file: ModuleType, text: str) -> None:
    assert foreign(env_file.merged(text, VALUES)) == foreign(text)


@pytest.mark.parametrize(
    "text", [*FILES[1:], *ALIEN, "A=1\rB=2\r", "\ufeffA=1\n", "A=1\r\nB", "\n"]
)
def test_with_nothing_to_set_nothing_changes(env_file: ModuleType, text: str) -> None:
    assert env_file.merged(text, {}) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MINE=1\r\nURL=old\r\nLAST=2\r\n", "MINE=1\r\nURL=new\r\nLAST=2\r\nMORE=1\r\n"),
        ("MINE=1\r\nLAST=2", "MINE=1\r\nLAST=2\r\nURL=new\r\nMORE=1\r\n"),
        ("MINE=1\r\nURL=old", "MINE=1\r\nURL=new\r\nMORE=1\r\n"),
        ("UNIX=1\nWINDOWS=2\r\n", "UNIX=1\nWINDOWS=2\r\nURL=new\r\nMORE=1\r\n"),
        ("MAC=1\rSAME=2", "MAC=1\rSAME=2\nURL=new\nMORE=1\n"),
        ("A=\x0cURL=x\u2028URL=y\x85URL=z\n", "A=\x0cURL=x\u2028URL=y\x85URL=z\nURL=new\nMORE=1\n"),
    ],
)
def test_line_ends_are_those_of_the_file(env_file: ModuleType, text: str, expected: str) -> None:
    assert env_file.merged(text, {"URL": "new", "MORE": "1"}) == expected


def test_a_last_line_without_its_end_gets_one(env_file: ModuleType) -> None:
    assert env_file.merged("MINE=1", {"A": "2"}) == "MINE=1\nA=2\n"


def test_a_variable_stays_where_it_stood(env_file: ModuleType) -> None:
    text = "FIRST=1\nREDIS_URL=old\nLAST=2\n"
    merged = env_file.merged(text, {"REDIS_URL": "new", "DATABASE_URL": "d"})
    assert merged == "FIRST=1\nREDIS_URL=new\nLAST=2\nDATABASE_URL=d\n"


def test_a_new_file_says_what_it_is(env_file: ModuleType) -> None:
    first, *rest = env_file.merged("", VALUES).splitlines()
    assert first.startswith("# ") and "./dev up" in first
    assert len(rest) == len(VALUES)


_RANDOM = random.Random(7)
AWKWARD = ["", "a", "a b", "a#b", "a #b", "# a", "it's", 'say "x"', "$HOME", "`id`", "a;b", "a&b"]
AWKWARD += ["a|b", "~", "(x)", "<x>", "*", "!x", "a=b", "%41", "ä€", "a\\b", "it's $HOME", "'\""]
AWKWARD += ["".join(_RANDOM.choices([chr(c) for c in range(32, 127)], k=12)) for _ in range(100)]


def agreed(value: str) -> bool:
    """Whether there is any way to write the value that dotenv readers and shells read alike.

    In single quotes a shell keeps a backslash and python-dotenv may not; in double quotes a shell
    replaces what begins with `$` or a backtick.
    """
    return "\\" not in value and not ("'" in value and set(value) & set('"$`'))


def test_any_value_survives_dotenv(env_file: ModuleType) -> None:
    for value in filter(agreed, AWKWARD):
        assert parsed(f"A={env_file.quoted(value)}") == {"A": value}


@pytest.mark.skipif(not shutil.which("sh"), reason="there is no POSIX shell")
def test_values_survive_a_shell_that_reads_the_file(env_file: ModuleType) -> None:
    values = [value for value in AWKWARD if agreed(value)]
    assert len(values) > len(AWKWARD) / 2
    script = "".join(f"A={env_file.quoted(value)}\nprintf '%s\\0' \"$A\"\n" for value in values)
    output = subprocess.run(
        ["sh", "-c", script], capture_output=True, check=False, env={"HOME": "/nowhere"}, timeout=10
    )
    read = output.stdout.decode().split("\0")[:-1]
    assert [(a, b) for a, b in zip(values, read, strict=False) if a != b] == []
    assert (len(read), output.stderr) == (len(values), b"")
