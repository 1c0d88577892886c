"""The versions of the database schema, as Alembic keeps them; `python -m agentos.migrate` runs them."""
