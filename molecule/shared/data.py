"""Data for backups to bring back, and whether two PostgreSQL servers hold the same.

Independent of the product's own comparison: rows are compared by their contents, and objects by
what the server itself prints of them.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("data.sql")

# What a database holds, a line for each thing. Sequences count with their values, rows with a sum
# of their checksums, large objects with their contents.
CONTENTS = r"""
SET timezone = 'UTC'; SET extra_float_digits = 3; SET quote_all_identifiers = on;
SELECT format('SELECT %L || count(*) || '' rows, '' || coalesce(sum((''x'' || left(md5(t::text), 15))::bit(60)::bigint), 0) FROM ONLY %I.%I t',
    format('%s %I.%I: ', c.relkind, n.nspname, c.relname), n.nspname, c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'm') AND c.relispopulated AND c.relpersistence <> 't' AND n.nspname !~ '^(pg_|information_schema)'
 ORDER BY 1
\gexec
SELECT format('SELECT %L || last_value || '' '' || is_called FROM %I.%I', format('sequence %I.%I: ', schemaname, sequencename), schemaname, sequencename)
  FROM pg_sequences ORDER BY 1
\gexec
SELECT 'large object ' || oid || ' ' || lomowner::regrole || ' ' || md5(lo_get(oid)) || coalesce(lomacl::text, '')
    || coalesce(obj_description(oid, 'pg_largeobject'), '') FROM pg_largeobject_metadata ORDER BY 1;
SELECT 'relation ' || c.relkind::text || c.relpersistence::text || ' ' || c.oid::regclass || ' ' || c.relowner::regrole || ' '
    || coalesce((SELECT string_agg(concat_ws('=', grantee::regrole, privilege_type, is_grantable), ',' ORDER BY grantee::regrole::text, privilege_type)
         FROM aclexplode(c.relacl) WHERE privilege_type <> 'MAINTAIN'), '') || c.relrowsecurity || c.relforcerowsecurity
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_index x ON x.indexrelid = c.oid
 WHERE n.nspname !~ '^(pg_|information_schema)' AND coalesce(x.indisvalid OR c.relkind = 'I', true) ORDER BY 1;
SELECT 'column ' || attrelid::regclass || ' ' || attname || ' ' || format_type(atttypid, atttypmod) || attnotnull || attidentity::text || attgenerated::text
    || coalesce(attacl::text, '') || coalesce(pg_get_expr(d.adbin, d.adrelid), '') || coalesce(col_description(attrelid, attnum), '')
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE attnum > 0 AND NOT attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c') AND n.nspname !~ '^(pg_|information_schema)' ORDER BY 1;
SELECT 'function ' || p.oid::regprocedure || ' ' || proowner::regrole || ' ' || md5(prosrc) || coalesce(proconfig::text, '') || provolatile::text || prosecdef
  FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace WHERE n.nspname !~ '^(pg_|information_schema)'
   AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.deptype = 'e' AND e.classid = 'pg_proc'::regclass AND e.objid = p.oid) ORDER BY 1;
SELECT 'index ' || pg_get_indexdef(indexrelid) FROM pg_index x JOIN pg_class c ON c.oid = indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE (indisvalid OR c.relkind = 'I') AND n.nspname !~ '^(pg_|information_schema)' ORDER BY 1;
SELECT 'constraint ' || conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(k.oid) || convalidated
  FROM pg_constraint k JOIN pg_namespace n ON n.oid = connamespace WHERE contype <> 'n' AND conrelid <> 0 AND n.nspname !~ '^(pg_|information_schema)' ORDER BY 1;
SELECT 'trigger ' || pg_get_triggerdef(oid) || tgenabled::text FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1;
SELECT 'view ' || c.oid::regclass || ' ' || pg_get_viewdef(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
 WHERE relkind IN ('v', 'm') AND n.nspname !~ '^(pg_|information_schema)' ORDER BY 1;
SELECT 'policy ' || tablename || ' ' || policyname || permissive || cmd || (SELECT string_agg(r, ',' ORDER BY r) FROM unnest(roles::text[]) r) || coalesce(qual, '') || coalesce(with_check, '') FROM pg_policies ORDER BY 1;
SELECT 'enum ' || enumtypid::regtype || ' ' || string_agg(enumlabel, ',' ORDER BY enumsortorder) FROM pg_enum GROUP BY enumtypid ORDER BY 1;
SELECT 'extension ' || extname || ' ' || extnamespace::regnamespace FROM pg_extension ORDER BY 1;
SELECT 'schema ' || nspname || ' ' || nspowner::regrole || coalesce((SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest(nspacl) a), '') FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema)' ORDER BY 1;
SELECT 'default rights ' || defaclrole::regrole || coalesce(nspname, '') || defaclobjtype::text
    || (SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest(defaclacl) a) FROM pg_default_acl LEFT JOIN pg_namespace n ON n.oid = defaclnamespace ORDER BY 1;
SELECT 'event trigger ' || evtname || evtevent || coalesce(evttags::text, '') FROM pg_event_trigger ORDER BY 1;
SELECT 'published ' || pubname || ' ' || schemaname || ' ' || tablename || ' ' || attnames::text || coalesce(rowfilter, '') FROM pg_publication_tables ORDER BY 1;
SELECT 'server ' || srvname || coalesce((SELECT string_agg(o, ',' ORDER BY o) FROM unnest(srvoptions) o), '') FROM pg_foreign_server ORDER BY 1;
SELECT 'mapping ' || srvname || usename || (SELECT string_agg(o, ',' ORDER BY o) FROM unnest(umoptions) o) FROM pg_user_mappings ORDER BY 1;
"""

# What all databases share. Hashes of passwords count, but for those that up sets.
SHARED = r"""
SET timezone = 'UTC';
SELECT 'role ' || rolname || rolsuper || rolinherit || rolcreaterole || rolcreatedb || rolcanlogin || rolreplication || rolbypassrls
    || rolconnlimit || coalesce(CASE WHEN oid <> 10 AND rolname <> 'agentos' THEN md5(rolpassword) END, '') || coalesce(rolvaliduntil::text, '')
    || coalesce(shobj_description(oid, 'pg_authid'), '') FROM pg_authid WHERE rolname !~ '^pg_' ORDER BY 1;
SELECT 'member ' || member::regrole || ' of ' || roleid::regrole || ' by ' || grantor::regrole || admin_option || inherit_option || set_option
  FROM pg_auth_members WHERE pg_get_userbyid(member) !~ '^pg_' ORDER BY 1;
SELECT 'setting ' || coalesce(d.datname, '') || ' ' || coalesce(r.rolname, '') || ' ' || c FROM pg_db_role_setting s
  LEFT JOIN pg_database d ON d.oid = setdatabase LEFT JOIN pg_roles r ON r.oid = setrole, unnest(setconfig) c ORDER BY 1;
SELECT 'database ' || datname || ' ' || datdba::regrole || pg_encoding_to_char(encoding) || datlocprovider::text || datcollate || datctype || datistemplate
    || datconnlimit || coalesce((SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest(datacl) a), '')
    || coalesce(shobj_description(oid, 'pg_database'), '') FROM pg_database WHERE datname <> 'template0' ORDER BY 1;
SELECT 'parameter ' || parname || paracl::text FROM pg_parameter_acl ORDER BY 1;
SELECT 'system ' || name || '=' || setting FROM pg_file_settings WHERE sourcefile LIKE '%auto.conf' ORDER BY 1;
"""
# Whatever a database or a role has set for its sessions.
ENVIRONMENT = {
    "PGOPTIONS": "-c search_path=pg_catalog -c statement_timeout=0 -c default_transaction_read_only=off",
    "PGCLIENTENCODING": "UTF8",
}


def line_with(beginning: str) -> str:
    """The line of data.sql that begins so."""
    return next(line for line in SCRIPT.read_text().splitlines() if line.startswith(beginning))


def fill(client: Any, container: str, scale: int = 10, user: str = "postgres") -> None:
    """Fill a server that runs in a container: data.sql, and pgbench's tables in the database hyvve.

    Takes a client of the engine, the container's name and pgbench's scale, 0 for none.
    """
    text = SCRIPT.read_bytes()
    run_script(client, container, text, "postgres", user, {})
    if scale:
        argv = ["pgbench", "-i", "-q", "-s", str(scale), "-U", user, "hyvve"]
        execute(client, container, argv, {})


def contents(client: Any, container: str, user: str = "postgres") -> dict[str, list[str]]:
    """All that a server in a container holds, as lines by database; "" is what they share."""
    listed = "SELECT json_agg(datname) FROM pg_database WHERE datallowconn"
    answer = execute(client, container, ["psql", "-XAtqU", user, "-d", "template1", "-c", listed])
    databases: list[str] = json.loads(answer)
    held = {
        name: run_script(client, container, CONTENTS.encode(), name, user).splitlines()
        for name in databases
    }
    held[""] = run_script(client, container, SHARED.encode(), "template1", user).splitlines()
    return held


def differences(one: dict[str, list[str]], other: dict[str, list[str]]) -> list[str]:
    """The lines that only one of two servers has, with - or + and the database's name."""
    found = []
    for name in sorted(one.keys() | other.keys()):
        first, second = set(one.get(name, [])), set(other.get(name, []))
        found += [f"- {name}: {line}" for line in sorted(first - second)]
        found += [f"+ {name}: {line}" for line in sorted(second - first)]
    return found


def run_script(
    client: Any,
    container: str,
    text: bytes,
    database: str,
    user: str,
    environment: dict[str, str] = ENVIRONMENT,
) -> str:
    """Give psql in a container a script, as a file: what the engine's exec reads cannot be piped."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("dev-stack-test.sql")
        entry.size, entry.mode = len(text), 0o644
        tar.addfile(entry, io.BytesIO(text))
    assert client.put_archive(container, "/var/tmp", archive.getvalue())
    escaped = database.replace("\\", "\\\\").replace("'", "\\'")
    argv = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-f", "/var/tmp/dev-stack-test.sql"]
    argv += ["-U", user, "-d", f"dbname='{escaped}'"]
    return execute(client, container, argv, environment)


def execute(
    client: Any, container: str, argv: list[str], environment: dict[str, str] = ENVIRONMENT
) -> str:
    """Run a program in a container; its standard output. Fails the test when that fails."""
    job = client.exec_create(container, argv, environment=environment)
    output, errors = client.exec_start(job["Id"], demux=True)
    code = client.exec_inspect(job["Id"])["ExitCode"]
    assert code == 0, f"{argv} ended with {code}: {(errors or b'').decode()}"
    return (output or b"").decode()
