"""Bringing the schema up to date, and refusing a database whose schema does not fit.

Alembic does the work, with a version table of its own name, so that it never meets the one of an application that
shares the database; it is imported by an upgrade only, or every start of a process would pay for it. Revisions are
numbered, and the row in ``rota_schema`` names the oldest program that can still work with the schema: a rolling upgrade
runs both. An upgrade that is killed is done by the next one: see ``migrations.steps``.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, select, text
from sqlalchemy.exc import DBAPIError

from rota.errors import ConfigError, DatabaseRefused, DatabaseUnavailable, DatabaseVersion
from rota.store import tables
from rota.store.database import Database, first_line
from rota.store.dialects import Trouble
from rota.store.violations import DROP_VIEW, VIEW

if TYPE_CHECKING:
    from alembic.config import Config

SCHEMA_VERSION = 13  # what this program needs at least, and what `rota db upgrade` makes
VERSION_TABLE = "rota_migration"

_NAME_ANOTHER = "name another one with --db or ROTA_DB"

# One upgrade at a time; SQLite's transaction is such a lock already. A migration may take longer than a node's
# statements may, and so may waiting for the one of another host, yet less than MySQL's driver waits for an answer.
# For a table it waits for a few seconds only: behind a statement that waits so all others wait, renewals too.
TABLE_LOCK_SECONDS = 5
_LOCK = {
    "postgresql": (
        "set local statement_timeout = 0",
        "set local lock_timeout = '60s'",
        "select 1 from pg_advisory_xact_lock(7216151)",
        "set local lock_timeout = '{seconds}s'",
    ),
    "mysql": ("set session lock_wait_timeout = {seconds}", "select get_lock('rota_migration', 60)"),
}
_UNLOCK = {"mysql": "select release_lock('rota_migration')"}


def _config(buffer: io.StringIO | None = None) -> Config:
    from alembic.config import Config

    config = Config(output_buffer=buffer) if buffer is not None else Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def upgrade(database: Database) -> tuple[int | None, int]:
    """Bring the schema up to date and return (version before, version after). Safe to call on several hosts at once.

    Raises:
        ConfigError: the folder of an SQLite file does not exist.
        DatabaseVersion: the schema is newer than this program knows.
        DatabaseRefused: the database does not want a statement of it, as where the account has no right to it.
        DatabaseUnavailable: the upgrade of another host has not ended for a minute, or nobody answers.
    """
    if (missing := database.missing_file()) is not None and not Path(missing).parent.is_dir():
        raise ConfigError(f"there is no folder {Path(missing).parent} for the database {missing}: make it first")
    database.server_version()
    with database.engine.connect() as connection:
        try:
            return _upgrade(connection, database.dialect.name), SCHEMA_VERSION
        except DBAPIError as error:
            connection.invalidate()
            if database.dialect.classify(error) in {Trouble.OURS, Trouble.TAKEN}:
                hint = "an upgrade needs the right to create, alter and drop tables and views"
                raise DatabaseRefused(
                    f"the database refused a statement of the upgrade: {first_line(error)}; {hint}"
                ) from error
            hint = "somebody may keep a table locked" if database.dialect.classify(error) is Trouble.AGAIN else ""
            raise DatabaseUnavailable(
                f"the upgrade did not go through, try again: {first_line(error)}{hint and f'; {hint}'}"
            ) from error
        except BaseException:
            # Its transaction and its lock end with the connection; the pool would keep both.
            connection.invalidate()
            raise


def _upgrade(connection: Connection, dialect: str) -> int | None:
    for statement in _LOCK.get(dialect, ()):
        result = connection.execute(text(statement.format(seconds=TABLE_LOCK_SECONDS)))
        if result.returns_rows and result.scalar() != 1:
            raise DatabaseUnavailable("another upgrade of this database is at work: try again when it has ended")
    before = schema_version(connection)
    if before is not None and before[0] > SCHEMA_VERSION:
        raise DatabaseVersion(
            f"the database has schema {before[0]}, this program knows {SCHEMA_VERSION}: upgrade the program instead"
        )
    if before is None or before[0] < SCHEMA_VERSION or not inspect(connection).has_table(VIEW):
        if dialect == "mysql":
            if before is not None:
                _touch_tables(connection)
            # Each statement is committed by itself. The view is made last, so where there is none an upgrade was cut
            # off; who may read it stays noted there without it.
            connection.execute(text(DROP_VIEW))
        from alembic import command

        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        from rota.store.derived import make_derived

        make_derived(connection)
    if schema_version(connection) is None:
        raise DatabaseVersion(
            "the table rota_schema has lost its row, by which programs know the schema: "
            f"insert into rota_schema (id, version, compatible_from) values (1, {SCHEMA_VERSION}, {SCHEMA_VERSION})"
        )
    connection.commit()
    if dialect in _UNLOCK:
        connection.execute(text(_UNLOCK[dialect]))
        connection.commit()
    return before[0] if before else None


def _touch_tables(connection: Connection) -> None:
    """Change nothing in each table, for which MySQL locks it: whoever keeps one locked is met before the first change.

    There each statement of a migration commits by itself, and what an upgrade has left half-way until it is repeated is
    a schema that no program knows.
    """
    inspector = inspect(connection)
    there = set(inspector.get_table_names())
    for name in tables.metadata.tables:
        if name in there:
            comment = inspector.get_table_comment(name)["text"] or ""
            connection.execute(text(f"alter table {name} comment = :comment"), {"comment": comment})


def upgrade_sql(database: Database) -> str:
    """Return the statements of a whole upgrade from nothing, for those who apply them by hand."""
    buffer = io.StringIO()
    from alembic import command

    config = _config(buffer)
    config.attributes["dialect"] = database.engine.dialect
    command.upgrade(config, "head", sql=True)
    from rota.store.derived import derived_sql

    derived = derived_sql(database.engine.dialect)
    return buffer.getvalue() + "".join(f"\n{statement};\n" for statement in derived)


def schema_version(connection: Connection) -> tuple[int, int] | None:
    """Return (version, oldest compatible program) of the schema, or None where there is none."""
    if not inspect(connection).has_table(tables.schema.name):
        return None
    row = connection.execute(select(tables.schema.c.version, tables.schema.c.compatible_from)).first()
    return (row[0], row[1]) if row is not None else None


def check_schema(database: Database) -> int:
    """Return the schema's version when this program can work with it.

    Raises:
        DatabaseVersion: there is no schema, or it is too old or too new for this program.
    """
    if (missing := database.missing_file()) is not None:
        raise DatabaseVersion(f"there is no database file {missing} yet: run `rota db upgrade`, or {_NAME_ANOTHER}")
    found = database.read(schema_version)
    if found is None:
        raise DatabaseVersion(
            f"the database {database.shown_url} has no Rota schema yet: run `rota db upgrade`, or {_NAME_ANOTHER}"
        )
    version, compatible_from = found
    if version < SCHEMA_VERSION:
        raise DatabaseVersion(
            f"the database has schema {version}, this program needs {SCHEMA_VERSION}: run `rota db upgrade`"
        )
    if compatible_from > SCHEMA_VERSION:
        raise DatabaseVersion(
            f"the database has schema {version}, which needs a program that knows schema {compatible_from}; "
            f"this one knows {SCHEMA_VERSION}: upgrade the program"
        )
    return version
