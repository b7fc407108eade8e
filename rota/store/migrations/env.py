"""Alembic's entry: runs the migrations over the connection, or for the dialect, that ``rota.store.migrate`` hands
in."""

from __future__ import annotations

from alembic import context

from rota.store.tables import metadata

VERSION_TABLE = "rota_migration"

config = context.config
connection = config.attributes.get("connection")

if connection is not None:
    context.configure(
        connection=connection, target_metadata=metadata, version_table=VERSION_TABLE, transactional_ddl=True
    )
    context.run_migrations()
else:
    context.configure(
        dialect_name=config.attributes["dialect"].name,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        literal_binds=True,
    )
    with context.begin_transaction():
        context.run_migrations()
