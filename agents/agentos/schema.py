"""What the service and the migration step must agree on about the database.

It imports nothing, so that the service can compare revisions without loading Alembic.
"""

# The schema that holds AgentOS's tables, apart from the application's own in `public`.
SCHEMA = "agentos"

# The role that the service logs in as. It may read and write rows and nothing else: it owns no
# table, since an owner could switch row level security off.
ROLE = "agentos"

# The newest migration that this code needs. Revisions are numbers, padded with zeros, so that
# int(found) >= int(REVISION) tells whether a database is new enough: after a release is rolled
# back, a database that the newer release migrated is still good.
REVISION = "0001"

# The setting of a transaction that says whose rows it sees; without it, it sees none.
TENANT_SETTING = "app.tenant_id"
