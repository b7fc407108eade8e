"""The log beside an SQLite file: it grows while somebody reads for long, and is used again afterwards."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from rota.store.database import Database

MIB = 1 << 20
LIMIT_BYTES = 16 * MIB  # of what is kept of it afterwards
COMMITS = 24  # of a MiB each


@pytest.fixture
def database(database_url: str, database_kind: str) -> Database:
    if database_kind != "sqlite":
        pytest.skip("of SQLite")
    return Database(database_url)


def writer(database: Database) -> Callable[[], None]:
    statement = text("update rota_pool set members = :text")
    database.write(
        lambda c: c.execute(
            text("insert into rota_pool (name, created_at) values ('a', '2026-11-02 12:00:00.000000')")
        ),
        repeatable=False,
    )

    letters = itertools.cycle("ab")  # a page that stays as it is is not written again

    def write_one_mib() -> None:
        given = {"text": next(letters) * MIB}
        database.write(lambda c: c.execute(statement, given), repeatable=True)

    return write_one_mib


def test_the_log_grows_only_while_somebody_reads_and_gives_back_what_it_took(database: Database) -> None:
    path = str(database.url.database)
    write_one_mib = writer(database)

    def size() -> int:
        return Path(f"{path}-wal").stat().st_size

    for _ in range(COMMITS):
        write_one_mib()
    assert size() < LIMIT_BYTES / 2  # it is copied into the file, and written from its beginning again

    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("begin")
    reader.execute("select count(*) from rota_pool").fetchone()
    for _ in range(COMMITS):
        write_one_mib()
    grown = size()
    assert COMMITS * MIB < grown < 1.1 * COMMITS * MIB  # what was written meanwhile, and no more

    reader.execute("commit")
    for _ in range(COMMITS):
        write_one_mib()
    assert size() <= LIMIT_BYTES
    reader.close()
    database.close()
