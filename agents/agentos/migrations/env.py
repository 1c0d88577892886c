"""Alembic's environment: it uses the connection, and the transaction, that `migrate` opened."""

from alembic import context

from agentos.schema import SCHEMA

context.configure(
    connection=context.config.attributes["connection"],
    # Beside the tables: dropping the schema drops the record of its version too.
    version_table_schema=SCHEMA,
)
context.run_migrations()
