"""Configure pgAdmin from the environment, and serve it with gunicorn.

The variables and files are those of the official image, dpage/pgadmin4.
Importing pgAdmin takes seconds, so it happens once: gunicorn's only worker
imports run_pgadmin, which calls finish_launch() here before it serves.

    start.py --make-template    (while the image is built)

makes the configuration database that a first launch copies.
"""

import ast
import base64
import contextlib
import json
import os
import re
import secrets
import shutil
import sqlite3
import sys
from pathlib import Path

DATA = Path("/var/lib/pgadmin")
DATABASE = DATA / "pgadmin4.db"
# There from the beginning of a first launch to its end; where one was cut
# short, the next start begins anew.
UNFINISHED = DATA / ".first-launch"
TEMPLATE = Path("/pgadmin4/template.db")
ENVIRON = os.environ

# What the image itself sets, before PGADMIN_CONFIG_*.
DISTRIBUTION = """\
CA_FILE = '/etc/ssl/certs/ca-certificates.crt'
LOG_FILE = '/dev/null'
HELP_PATH = '../../docs'
MINIFY_HTML = False
DEFAULT_BINARY_PATHS = {
    'pg': '/usr/local/pgsql-18',
    'pg-18': '/usr/local/pgsql-18',
    'pg-16': '/usr/local/pgsql-16',
}
"""


def fail(message):
    sys.exit(f"pgAdmin cannot start: {message}")


def from_file(name):
    """Let NAME_FILE, if set, give the value of NAME."""
    file_name = f"{name}_FILE"
    file = ENVIRON.pop(file_name, "")
    if not file:
        return
    if ENVIRON.get(name):
        fail(f"{name} and {file_name} are both set; only one of them may be")
    try:
        ENVIRON[name] = Path(file).read_text().rstrip("\n")
    except OSError as error:
        fail(f"{file_name} names {file}, which cannot be read: {error.strerror}")


def write_configuration():
    """Write config_distro.py, once per container."""
    file = Path(ENVIRON.get("PGADMIN_CUSTOM_CONFIG_DISTRO_FILE") or "/pgadmin4/config_distro.py")
    ENVIRON["CONFIG_DISTRO_FILE_PATH"] = str(file)
    if file.exists() and file.stat().st_size:
        return
    text = DISTRIBUTION
    for name, value in sorted(ENVIRON.items()):
        if not name.startswith("PGADMIN_CONFIG_"):
            continue
        if value.lower() in ("true", "false"):
            value = value.capitalize()
        line = f"{name.removeprefix('PGADMIN_CONFIG_')} = {value}\n"
        try:
            exec(text + line, {})
        except Exception:
            fail(
                f"the value of {name} is not a Python literal; text needs quotes of its own, as in \"'text'\""
            )
        text += line
    try:
        file.write_text(text)
    except OSError as error:
        fail(
            f"{file} cannot be written: {error.strerror}; PGADMIN_CUSTOM_CONFIG_DISTRO_FILE can name another file"
        )


def database_uri():
    uri = ENVIRON.get("PGADMIN_CONFIG_CONFIG_DATABASE_URI", "")
    with contextlib.suppress(SyntaxError, ValueError):
        uri = ast.literal_eval(uri)
    return uri


def is_first_launch():
    uri = database_uri()
    if not uri:
        return not DATABASE.exists() or UNFINISHED.exists()
    sys.path.insert(0, "/pgadmin4/pgadmin/utils")
    from check_external_config_db import check_external_config_db

    try:
        return not check_external_config_db(uri)
    except Exception:
        return True
    finally:
        sys.path.remove("/pgadmin4/pgadmin/utils")


def setting(name, default):
    """The value of a PGADMIN_CONFIG_ variable, which is a Python literal."""
    text = ENVIRON.get(f"PGADMIN_CONFIG_{name}", "")
    if text.lower() in ("true", "false"):
        text = text.capitalize()
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return default


def check_account():
    email = ENVIRON.get("PGADMIN_DEFAULT_EMAIL", "")
    if not email or not ENVIRON.get("PGADMIN_DEFAULT_PASSWORD"):
        fail(
            "the first launch needs PGADMIN_DEFAULT_EMAIL, and PGADMIN_DEFAULT_PASSWORD or PGADMIN_DEFAULT_PASSWORD_FILE"
        )
    sys.path.insert(0, "/pgadmin4/pgadmin/utils")
    from validation_utils import validate_email

    sys.path.remove("/pgadmin4/pgadmin/utils")
    options = {
        "CHECK_EMAIL_DELIVERABILITY": setting("CHECK_EMAIL_DELIVERABILITY", False),
        "ALLOW_SPECIAL_EMAIL_DOMAINS": setting("ALLOW_SPECIAL_EMAIL_DOMAINS", []),
        "GLOBALLY_DELIVERABLE": setting("GLOBALLY_DELIVERABLE", True),
    }
    if not validate_email(email, options):
        fail(
            f"PGADMIN_DEFAULT_EMAIL is not an address pgAdmin accepts (the reason is above): {email}"
        )


def random_key():
    return base64.urlsafe_b64encode(os.urandom(32)).decode()


def copy_template():
    """Make the configuration database, with keys of its own, from the template."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{DATABASE}{suffix}").unlink(missing_ok=True)
    shutil.copyfile(TEMPLATE, DATABASE)
    DATABASE.chmod(0o600)
    with contextlib.closing(sqlite3.connect(DATABASE)) as connection, connection:
        for (name,) in connection.execute("SELECT name FROM keys").fetchall():
            connection.execute("UPDATE keys SET value = ? WHERE name = ?", (random_key(), name))


def set_account(app, config):
    """Give the template's only user the address and password asked for."""
    from flask_security.utils import hash_password
    from pgadmin.model import User, db

    with app.app_context():
        user = User.query.one()
        if config.SERVER_MODE:
            user.email = user.username = ENVIRON["PGADMIN_DEFAULT_EMAIL"]
            user.password = hash_password(ENVIRON["PGADMIN_DEFAULT_PASSWORD"])
        else:
            user.email = user.username = config.DESKTOP_USER
            user.password = hash_password(secrets.token_urlsafe(24))
        user.fs_uniquifier = secrets.token_hex(16)
        db.session.commit()


def account_name(config):
    return ENVIRON.get("PGADMIN_DEFAULT_EMAIL") if config.SERVER_MODE else config.DESKTOP_USER


def load_servers(app, config):
    file = ENVIRON.get("PGADMIN_SERVER_JSON_FILE") or "/pgadmin4/servers.json"
    if not os.path.isfile(file):
        return
    from pgadmin.utils import clear_database_servers, load_database_servers
    from pgadmin.utils.constants import INTERNAL

    user = account_name(config)
    with app.test_request_context():
        if ENVIRON.get("PGADMIN_REPLACE_SERVERS_ON_STARTUP") == "True":
            clear_database_servers(user, True, INTERNAL)
        load_database_servers(file, None, user, True, INTERNAL)


def load_preferences(app, config):
    """Set the preferences in {"preferences": {"module:category:name": value}}.

    As in the official image, what cannot be set is told and left out.
    """
    file = ENVIRON.get("PGADMIN_PREFERENCES_JSON_FILE") or "/pgadmin4/preferences.json"
    if not os.path.isfile(file):
        return
    try:
        preferences = json.loads(Path(file).read_text())["preferences"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        print(f"The preferences in {file} cannot be read: {error!r}", file=sys.stderr)
        return
    from pgadmin.model import ModulePreference, PreferenceCategory, Preferences, User, db
    from pgadmin.preferences import save_pref
    from pgadmin.utils.constants import INTERNAL

    with app.test_request_context():
        user = User.query.filter_by(username=account_name(config), auth_source=INTERNAL).one()
        ids = {
            f"{module}:{category}:{name}": (mid, cid, pid)
            for mid, module, cid, category, pid, name in db.session.query(
                ModulePreference.id,
                ModulePreference.name,
                PreferenceCategory.id,
                PreferenceCategory.name,
                Preferences.id,
                Preferences.name,
            )
            .join(PreferenceCategory, PreferenceCategory.mid == ModulePreference.id)
            .join(Preferences, Preferences.cid == PreferenceCategory.id)
        }
        for key, value in preferences:
            if key not in ids:
                print(f"There is no preference {key}", file=sys.stderr)
                continue
            mid, cid, pid = ids[key]
            saved, why = save_pref(
                {
                    "mid": mid,
                    "category_id": cid,
                    "id": pid,
                    "name": key.split(":")[2],
                    "user_id": user.id,
                    "value": str(value).lower() if isinstance(value, bool) else str(value),
                }
            )
            if not saved:
                print(f"The preference {key} cannot be set: {why}", file=sys.stderr)


def copy_pgpass(config):
    file = ENVIRON.get("PGPASS_FILE", "")
    if not os.path.isfile(file):
        return
    directory = DATA
    if config.SERVER_MODE:
        directory = DATA / "storage" / ENVIRON["PGADMIN_DEFAULT_EMAIL"].replace("@", "_")
        directory.mkdir(parents=True, exist_ok=True)
    copy = directory / ".pgpass"
    copy.unlink(missing_ok=True)
    copy.touch(0o600)
    copy.write_bytes(Path(file).read_bytes())


def is_restricted():
    """Whether ports below 1024 may be out of reach (as upstream decides it)."""
    status = Path("/proc/self/status").read_text()
    if re.search(r"^NoNewPrivs:\s*1", status, re.M):
        return True
    bounding = re.search(r"^CapBnd:\s*(\w+)", status, re.M)
    return bool(bounding) and not int(bounding[1], 16) & 1 << 10


def address():
    if ENVIRON.get("PGADMIN_ENABLE_SOCK"):
        return "unix:/run/pgadmin/pgadmin.sock"
    port = ENVIRON.get("PGADMIN_LISTEN_PORT")
    if not port:
        port = "443" if ENVIRON.get("PGADMIN_ENABLE_TLS") else "80"
        if is_restricted():
            port = {"80": "8080", "443": "8443"}[port]
            print(
                f"Ports below 1024 may not be allowed here: listening on {port}, as PGADMIN_LISTEN_PORT is not set"
            )
    return f"{ENVIRON.get('PGADMIN_LISTEN_ADDRESS') or '[::]'}:{port}"


def make_template():
    configuration = Path("/tmp/config_distro.py")
    configuration.write_text(DISTRIBUTION)
    ENVIRON["CONFIG_DISTRO_FILE_PATH"] = str(configuration)
    ENVIRON["PGADMIN_SETUP_EMAIL"] = "template@example.com"
    ENVIRON["PGADMIN_SETUP_PASSWORD"] = secrets.token_urlsafe()
    import run_pgadmin  # noqa: F401

    with contextlib.closing(sqlite3.connect(DATABASE)) as connection:
        with connection:
            connection.execute("UPDATE keys SET value = ''")
            connection.execute("UPDATE user SET password = '', fs_uniquifier = 'template'")
        connection.execute("VACUUM")
    shutil.move(DATABASE, TEMPLATE)
    TEMPLATE.chmod(0o644)


def prepare_launch():
    """What needs nothing of pgAdmin but its address checker."""
    from_file("PGADMIN_CONFIG_CONFIG_DATABASE_URI")
    from_file("PGADMIN_DEFAULT_PASSWORD")
    write_configuration()
    if not is_first_launch():
        return
    check_account()
    if not os.access(DATA, os.W_OK | os.X_OK):
        fail(f"{DATA} cannot be written by user {os.getuid()}, group {os.getgid()}")
    UNFINISHED.touch()
    if database_uri():
        ENVIRON["PGADMIN_SETUP_EMAIL"] = ENVIRON["PGADMIN_DEFAULT_EMAIL"]
        ENVIRON["PGADMIN_SETUP_PASSWORD"] = ENVIRON["PGADMIN_DEFAULT_PASSWORD"]
    else:
        copy_template()


def finish_launch(app):
    """What needs pgAdmin's application; in the worker, before it serves."""
    import config

    if UNFINISHED.exists():
        if not database_uri():
            set_account(app, config)
        load_servers(app, config)
        load_preferences(app, config)
        copy_pgpass(config)
        UNFINISHED.unlink()
        print("First launch: the configuration database is made", flush=True)
    elif ENVIRON.get("PGADMIN_REPLACE_SERVERS_ON_STARTUP") == "True":
        load_servers(app, config)
    # Nothing that pgAdmin starts, pg_dump for one, need know these.
    for name in ("PGADMIN_DEFAULT_PASSWORD", "PGADMIN_SETUP_PASSWORD"):
        ENVIRON.pop(name, None)


def serve():
    # One worker, since sessions are kept in its memory; many threads. The
    # worker's main thread never waits for a request, so the timeout is only
    # for a start that hangs.
    options = {
        "workers": "1",
        "threads": ENVIRON.get("GUNICORN_THREADS") or "25",
        "bind": address(),
        "timeout": "86400",
        "access-logfile": ENVIRON.get("GUNICORN_ACCESS_LOGFILE") or "-",
        "limit-request-line": ENVIRON.get("GUNICORN_LIMIT_REQUEST_LINE") or "8190",
        "limit-request-fields": ENVIRON.get("GUNICORN_LIMIT_REQUEST_FIELDS") or "100",
        "limit-request-field_size": ENVIRON.get("GUNICORN_LIMIT_REQUEST_FIELD_SIZE") or "8190",
    }
    if ENVIRON.get("PGADMIN_ENABLE_TLS"):
        options |= {"keyfile": "/certs/server.key", "certfile": "/certs/server.cert"}
    sys.argv = ["gunicorn"]
    for name, value in options.items():
        sys.argv += [f"--{name}", value]
    sys.argv.append("run_pgadmin:app")

    import gunicorn
    from gunicorn.app.wsgiapp import run

    gunicorn.SERVER_SOFTWARE = "Python"
    sys.stdout.flush()
    run()


if __name__ == "__main__":
    if sys.argv[1:] == ["--make-template"]:
        make_template()
    else:
        prepare_launch()
        serve()
