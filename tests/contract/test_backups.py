"""plugins/modules/stack_backups.py: backups as folders, archives, and what is refused."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .project import load_plugin


@pytest.fixture(scope="module")
def backups() -> ModuleType:
    """plugins/modules/stack_backups.py."""
    return load_plugin("modules", "stack_backups")


def act(backups: ModuleType, directory: Path, action: str, **options: Any) -> Any:
    """What the module does with these options."""
    given = {"name": "", "source": None, "need": 0, "manifest": {}, "keep": 0, **options}
    return backups.act({"directory": str(directory), "action": action, **given}, False)


def make(backups: ModuleType, directory: Path, name: str = "", **options: Any) -> Path:
    """A whole backup of a few files."""
    begun = act(backups, directory, "begin", name=name)
    folder = Path(begun["path"])
    (folder / "postgres").mkdir()
    (folder / "postgres/server.json").write_text('{"major": 16, "version": "16.14"}')
    databases = [{"oid": 5, "name": "hyvve", "size": 1000}]
    (folder / "postgres/databases.json").write_text(json.dumps(databases))
    (folder / "postgres/5.rows").write_text("large_objects 1\ntable public.a 3\ntable public.b 4\n")
    (folder / "postgres/5.dump").write_bytes(b"PGDMP" * 100)
    made = act(backups, directory, "finish", name=begun["name"], **options)
    return Path(made["path"])


def test_a_backup_has_its_name_only_once_it_is_whole(backups: ModuleType, tmp_path: Path) -> None:
    begun = act(backups, tmp_path, "begin", name="mine")
    assert Path(begun["path"]).name == ".mine.partial"
    assert act(backups, tmp_path, "list")["backups"] == []
    shutil.rmtree(begun["path"])
    folder = make(backups, tmp_path, "mine")
    assert folder == tmp_path / "mine"
    (listed,) = act(backups, tmp_path, "list")["backups"]
    assert listed["name"] == "mine" and listed["bytes"] > 500
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "manifest.json").stat().st_mode & 0o777 == 0o600


def test_the_manifest_tells_what_it_holds(backups: ModuleType, tmp_path: Path) -> None:
    make(backups, tmp_path, "mine", manifest={"why": "asked for"})
    manifest = act(backups, tmp_path, "check", name="mine")["manifest"]
    server = manifest["services"]["postgres"]
    assert (server["major"], manifest["why"], manifest["schema"]) == (16, "asked for", 1)
    assert server["databases"] == [
        {"oid": 5, "name": "hyvve", "size": 1000, "tables": 2, "rows": 7}
    ]
    assert set(manifest["files"]) == {
        "postgres/server.json",
        "postgres/databases.json",
        "postgres/5.rows",
        "postgres/5.dump",
    }


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "", ".hidden", "latest", "a b", "-x", "x" * 65, "é", "a\n"]
)
def test_a_name_that_is_no_name_is_refused(backups: ModuleType, tmp_path: Path, name: str) -> None:
    with pytest.raises(backups.Refusal, match="cannot be the name of a backup"):
        backups.checked_name(name)


def test_a_second_one_of_the_same_name_is_refused(backups: ModuleType, tmp_path: Path) -> None:
    make(backups, tmp_path, "mine")
    with pytest.raises(backups.Refusal, match="There is a backup mine already"):
        act(backups, tmp_path, "begin", name="mine")


def test_what_an_interrupted_one_left_goes(backups: ModuleType, tmp_path: Path) -> None:
    left = Path(act(backups, tmp_path, "begin", name="left")["path"])
    act(backups, tmp_path, "begin", name="next")
    assert not left.exists()


def test_one_that_is_not_there_is_refused_with_those_that_are(
    backups: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(backups.Refusal, match=r"no backup in .* yet.*\./dev backup"):
        act(backups, tmp_path, "check", name="latest")
    make(backups, tmp_path, "mine")
    with pytest.raises(backups.Refusal, match=r"no backup other\. There are: mine"):
        act(backups, tmp_path, "check", name="other")
    assert act(backups, tmp_path, "check", name="latest")["name"] == "mine"


def truncate(folder: Path) -> None:
    with open(folder / "postgres/5.dump", "r+b") as file:
        file.truncate(100)


def alter(folder: Path) -> None:
    content = bytearray((folder / "postgres/5.dump").read_bytes())
    content[250] ^= 1
    (folder / "postgres/5.dump").write_bytes(content)


def remove(folder: Path) -> None:
    (folder / "postgres/5.dump").unlink()


def add(folder: Path) -> None:
    (folder / "postgres/6.dump").write_text("more")


def spoil(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def confuse(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"files": {"postgres/5.dump": 1}}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, "5.dump has 100 bytes instead of 500"),
        (alter, "5.dump was altered"),
        (remove, "5.dump is missing"),
        (add, "6.dump does not belong to it"),
        (spoil, "its manifest.json cannot be read"),
        (confuse, "its manifest.json cannot be read"),
    ],
)
def test_a_damaged_one_is_refused(
    backups: ModuleType, tmp_path: Path, damage: Any, said: str
) -> None:
    damage(make(backups, tmp_path, "mine"))
    with pytest.raises(backups.Refusal, match=said):
        act(backups, tmp_path, "check", name="mine")


def test_no_room_is_said_with_sizes_before_anything_is_made(
    backups: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(backups.Refusal, match=r"free, and this may take 1000000.0 GB"):
        act(backups, tmp_path, "begin", need=10**15)
    assert list(tmp_path.iterdir()) == []


def test_generated_names_alone_are_pruned_the_oldest_first(
    backups: ModuleType, tmp_path: Path
) -> None:
    make(backups, tmp_path, "mine")
    for hour in range(4):
        make(backups, tmp_path, f"20260101T0{hour}0000Z", keep=2)
        manifest = tmp_path / f"20260101T0{hour}0000Z/manifest.json"
        manifest.write_text(
            json.dumps(json.loads(manifest.read_text()) | {"at": f"2026-01-01T0{hour}:00:00+00:00"})
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "20260101T020000Z",
        "20260101T030000Z",
        "mine",
    ]


def test_the_one_just_made_is_never_pruned(backups: ModuleType, tmp_path: Path) -> None:
    """The clock may have gone back."""
    for year in (2031, 2032):
        manifest = make(backups, tmp_path, f"{year}0101T000000Z") / "manifest.json"
        later = {"at": f"{year}-01-01T00:00:00+00:00"}
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | later))
    now = make(backups, tmp_path, keep=1)
    assert now.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == [now.name, "20320101T000000Z"]


def archive(folder: Path, target: Path) -> Path:
    """The archive that `tar -C <backups> -cf - <name>` makes."""
    with tarfile.open(target, "w") as tar:
        tar.add(folder, arcname=folder.name)
    return target


def test_an_archive_comes_back_as_it_was(backups: ModuleType, tmp_path: Path) -> None:
    folder = make(backups, tmp_path / "a", "mine")
    file = archive(folder, tmp_path / "mine.tar")
    taken = act(backups, tmp_path / "b", "import", source=file)
    assert Path(taken["path"]) == tmp_path / "b/mine"
    there = act(backups, tmp_path / "b", "check", name="mine")["manifest"]
    assert there == act(backups, tmp_path / "a", "check", name="mine")["manifest"]
    act(backups, tmp_path / "b", "import", source=file)  # it is there already, and the same
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["mine"]


def test_an_archive_of_another_backup_of_that_name_is_refused(
    backups: ModuleType, tmp_path: Path
) -> None:
    file = archive(make(backups, tmp_path / "a", "mine"), tmp_path / "mine.tar")
    make(backups, tmp_path / "b", "mine", manifest={"why": "another"})
    with pytest.raises(backups.Refusal, match="another backup named mine"):
        act(backups, tmp_path / "b", "import", source=file)


def test_an_archive_that_was_cut_short_or_is_none_is_refused(
    backups: ModuleType, tmp_path: Path
) -> None:
    file = archive(make(backups, tmp_path / "a", "mine"), tmp_path / "mine.tar")
    content = file.read_bytes()
    for bad in (content[:1500], content[: len(content) // 2], b"", b"x" * 2000):
        file.write_bytes(bad)
        with pytest.raises(backups.Refusal):
            act(backups, tmp_path / "b", "import", source=file)
    with pytest.raises(backups.Refusal, match="No such file"):
        act(backups, tmp_path / "b", "import", source=tmp_path / "none")
    assert not (tmp_path / "b/mine").exists()


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "mine/../../outside"])
def test_an_archive_writes_nothing_outside(backups: ModuleType, tmp_path: Path, name: str) -> None:
    file = tmp_path / "evil.tar"
    with tarfile.open(file, "w") as tar:
        member = tarfile.TarInfo(name)
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(backups.Refusal):
        act(backups, tmp_path / "b", "import", source=file)
    assert not (tmp_path / "outside").exists()


def test_links_in_an_archive_are_refused(backups: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "evil.tar"
    with tarfile.open(file, "w") as tar:
        member = tarfile.TarInfo("mine/manifest.json")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(backups.Refusal, match="not the archive of one backup"):
        act(backups, tmp_path / "b", "import", source=file)
