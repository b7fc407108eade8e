"""One database per kind and process of the test run, emptied for each test.

Making a database costs a server several times what a test of the store does. SQLite's is a file that is copied, which
is cheaper than emptying it, so that one is fresh each time. A test that changes the schema takes
``empty_database_url``.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, NullPool, create_engine, text, update

from rota.store.migrate import SCHEMA_VERSION
from rota.store.tables import metadata
from tests.conftest import assert_no_violations
from tests.servers import Server

_made: weakref.WeakKeyDictionary[Server, str] = weakref.WeakKeyDictionary()  # they end with their server


@pytest.fixture
def database_url(request: pytest.FixtureRequest, database_server: Server) -> Iterator[str]:
    """A migrated database with nothing in it, numbers beginning at 1; it must end without violations."""
    reused = database_server.kind != "sqlite"
    if reused and database_server in _made:
        url = _made[database_server]
        _empty(url)
    else:
        url = database_server.create_database()
        if reused:
            _made[database_server] = url
    yield url
    try:
        if request.node.get_closest_marker("breaks_invariants") is None:
            assert_no_violations(url)
    finally:
        if not reused:
            database_server.drop_database(url)


def _empty(url: str) -> None:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        keep = metadata.tables["rota_schema"]
        names = [table.name for table in reversed(metadata.sorted_tables) if table is not keep]
        if engine.dialect.name == "postgresql":
            connection.execute(text("set lock_timeout = '10s'"))  # whatever a test has left open says so
            connection.execute(text(f"truncate {', '.join(names)} restart identity"))
        else:
            _empty_mysql(connection, names)
        connection.execute(
            update(metadata.tables["rota_schema"]).values(
                version=SCHEMA_VERSION,
                compatible_from=SCHEMA_VERSION,
                clock_held_until=None,
                health_looked_at=None,
            )
        )
        connection.commit()


def _empty_mysql(connection: Connection, names: list[str]) -> None:
    connection.execute(text("set session lock_wait_timeout = 10"))
    for name in names:
        connection.execute(text(f"delete from {name}"))
    connection.commit()
    for table in names:
        if metadata.tables[table].autoincrement_column is not None:
            connection.execute(text(f"alter table {table} auto_increment = 1"))
