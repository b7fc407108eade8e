"""One database per kind and process of the test run, emptied for each test.

Making a database costs a server several times what a test of the store does. SQLite's is a file that is copied, which
is cheaper than emptying it, so that one is fresh each time. A test that changes the schema takes
``empty_database_url``.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, Engine, create_engine, text, update

from rota.store.migrate import SCHEMA_VERSION
from rota.store.tables import metadata
from tests.conftest import assert_no_violations, is_counted
from tests.servers import Server

_made: weakref.WeakKeyDictionary[Server, tuple[str, Engine]] = weakref.WeakKeyDictionary()  # they end with their server


@pytest.fixture
def database_url(request: pytest.FixtureRequest, database_server: Server) -> Iterator[str]:
    """A migrated database with nothing in it, numbers beginning at 1; it must end without violations."""
    reused = database_server.kind != "sqlite"
    if not reused:
        url = database_server.create_database()
    elif database_server in _made:
        url, engine = _made[database_server]
        _empty(engine)
    else:
        url = database_server.create_database()
        _made[database_server] = url, create_engine(url, pool_size=1, pool_pre_ping=True)
    yield url
    try:
        if request.node.get_closest_marker("breaks_invariants") is None:
            assert_no_violations(url, _made[database_server][1] if reused else None, are_counted=is_counted(request))
    finally:
        if not reused:
            database_server.drop_database(url)


def _empty(engine: Engine) -> None:
    with engine.connect() as connection:
        keep = metadata.tables["rota_schema"]
        names = [table.name for table in reversed(metadata.sorted_tables) if table is not keep]
        if engine.dialect.name == "postgresql":
            _empty_postgresql(connection, names)
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


# Most tests write to a few tables, and to empty one that is empty costs as much as to empty a full one.


def _find_filled(connection: Connection, names: list[str]) -> list[str]:
    ask = " union all ".join(f"select '{name}' where exists (select 1 from {name})" for name in names)
    filled = set(connection.execute(text(ask)).scalars())
    return [name for name in names if name in filled]


def _empty_postgresql(connection: Connection, names: list[str]) -> None:
    connection.execute(text("set lock_timeout = '10s'"))  # whatever a test has left open says so
    numbered = [f"{name}_id_seq" for name in names if metadata.tables[name].autoincrement_column is not None]
    # One that was set to a number from which nobody has taken one yet, too.
    asked = " union all ".join(f"select '{one}' from {one} where is_called or last_value <> 1" for one in numbered)
    sequences = connection.execute(text(asked)).scalars().all()
    if filled := _find_filled(connection, names):
        connection.execute(text(f"truncate {', '.join(filled)} cascade"))
    for sequence in sequences:
        connection.execute(text(f"alter sequence {sequence} restart"))


def _empty_mysql(connection: Connection, names: list[str]) -> None:
    connection.execute(text("set session lock_wait_timeout = 10"))
    for name in _find_filled(connection, names):
        connection.execute(text(f"delete from {name}"))
    connection.commit()
    counted = "select table_name from information_schema.tables where table_schema = database() and auto_increment > 1"
    for name in connection.execute(text(counted)).scalars().all():
        connection.execute(text(f"alter table {name} auto_increment = 1"))
