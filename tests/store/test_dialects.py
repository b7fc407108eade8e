"""What each database can do, which errors mean what, and which databases are refused."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from rota.errors import NotSupported
from rota.store.dialects import (
    MYSQL,
    POSTGRESQL,
    SQLITE,
    Trouble,
    dialect_named,
    dialect_of,
    refuse_network_file_system,
)


def wrapped(error: Exception, *, invalidated: bool = False) -> DBAPIError:
    return DBAPIError("select 1", {}, error, connection_invalidated=invalidated)


@pytest.mark.parametrize(
    ("name", "driver"),
    [
        ("sqlite:////x/y.db", "sqlite+pysqlite"),
        ("postgresql://u@h/d", "postgresql+psycopg"),
        ("mysql://u@h/d", "mysql+pymysql"),
        ("mariadb://u@h/d", "mariadb+pymysql"),
        ("postgresql+psycopg://u@h/d", "postgresql+psycopg"),
    ],
)
def test_a_url_gets_the_driver_that_rota_uses(name: str, driver: str) -> None:
    dialect, url = dialect_of(make_url(name))

    assert url.drivername == driver
    assert dialect is dialect_named(driver.partition("+")[0])


@pytest.mark.parametrize("name", ["oracle://u@h/d", "mssql+pyodbc://u@h/d", "duckdb:///x"])
def test_another_database_is_refused_with_those_that_are_known(name: str) -> None:
    with pytest.raises(NotSupported, match="use sqlite, postgresql, mysql or mariadb"):
        dialect_of(make_url(name))


@pytest.mark.parametrize(
    ("name", "advised"),
    [
        ("postgresql+psycopg2://u@h/d", "postgresql+psycopg"),
        ("postgresql+asyncpg://u@h/d", "postgresql+psycopg"),
        ("mysql+mysqldb://u@h/d", "mysql+pymysql"),
        ("sqlite+aiosqlite:///x", "sqlite+pysqlite"),
    ],
)
def test_another_driver_is_refused_with_the_one_to_write(name: str, advised: str) -> None:
    with pytest.raises(NotSupported, match=rf"write {advised.replace('+', '[+]')}://"):
        dialect_of(make_url(name))


# Errors


def postgresql_error(state: str | None, kind: type[Exception] = psycopg.errors.DatabaseError) -> Exception:
    error = kind("something")
    error.sqlstate = state
    return error


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (postgresql_error("40001"), Trouble.AGAIN),
        (postgresql_error("40P01"), Trouble.AGAIN),
        (postgresql_error("55P03"), Trouble.AGAIN),
        (postgresql_error("08006"), Trouble.GONE),
        (postgresql_error("57P01"), Trouble.GONE),
        (postgresql_error("57P03"), Trouble.GONE),
        (postgresql_error("53300"), Trouble.GONE),
        (postgresql_error("25006"), Trouble.GONE),  # read-only: after a failover
        (postgresql_error(None, psycopg.OperationalError), Trouble.GONE),
        (postgresql_error(None, psycopg.InterfaceError), Trouble.GONE),
        (postgresql_error("23505"), Trouble.TAKEN),
        (postgresql_error("23502"), Trouble.OURS),
        (postgresql_error("42P01"), Trouble.OURS),
        (postgresql_error("53100"), Trouble.GONE),  # the disk is full
        (postgresql_error("57014"), Trouble.GONE),  # cancelled, or out of time
        (postgresql_error(None, psycopg.ProgrammingError), Trouble.OURS),
    ],
)
def test_errors_of_postgresql_mean_what_they_say(error: Exception, trouble: Trouble) -> None:
    assert POSTGRESQL.classify(wrapped(error)) is trouble


@pytest.mark.parametrize(
    ("number", "trouble"),
    [
        (1213, Trouble.AGAIN),
        (1205, Trouble.AGAIN),
        (1020, Trouble.AGAIN),
        (1467, Trouble.AGAIN),  # a deadlock at the lock for the next id
        (3101, Trouble.AGAIN),  # certification in a group of servers
        (2006, Trouble.GONE),
        (2013, Trouble.GONE),
        (2003, Trouble.GONE),
        (1040, Trouble.GONE),
        (1053, Trouble.GONE),
        (1290, Trouble.GONE),  # read-only: after a failover
        (1836, Trouble.GONE),
        (3032, Trouble.GONE),  # in offline mode
        (3100, Trouble.GONE),  # the group has no majority
        (3169, Trouble.GONE),  # killed
        (2061, Trouble.GONE),  # the password cannot be sent
        (1021, Trouble.GONE),  # the disk is full
        (1317, Trouble.GONE),  # cancelled
        (1062, Trouble.TAKEN),
        (1048, Trouble.OURS),
        (1146, Trouble.OURS),
        (3819, Trouble.OURS),
    ],
)
def test_errors_of_mysql_and_mariadb_mean_what_they_say(number: int, trouble: Trouble) -> None:
    assert MYSQL.classify(wrapped(pymysql.err.OperationalError(number, "something"))) is trouble


def test_a_connection_that_pymysql_finds_closed_is_gone() -> None:
    assert MYSQL.classify(wrapped(pymysql.err.InterfaceError(0, ""))) is Trouble.GONE


@pytest.mark.parametrize(
    ("code", "trouble"),
    [
        (sqlite3.SQLITE_BUSY, Trouble.AGAIN),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, Trouble.AGAIN),
        (sqlite3.SQLITE_LOCKED, Trouble.AGAIN),
        (sqlite3.SQLITE_IOERR_FSYNC, Trouble.GONE),
        (sqlite3.SQLITE_CANTOPEN, Trouble.GONE),
        (sqlite3.SQLITE_READONLY_DBMOVED, Trouble.GONE),
        (sqlite3.SQLITE_CONSTRAINT_UNIQUE, Trouble.TAKEN),
        (sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, Trouble.TAKEN),
        (sqlite3.SQLITE_CONSTRAINT_CHECK, Trouble.OURS),
        (sqlite3.SQLITE_FULL, Trouble.GONE),
    ],
)
def test_errors_of_sqlite_mean_what_they_say(code: int, trouble: Trouble) -> None:
    error: Any = sqlite3.OperationalError("something")
    error.sqlite_errorcode = code

    assert SQLITE.classify(wrapped(error)) is trouble


@pytest.mark.parametrize("dialect", [POSTGRESQL, MYSQL], ids=lambda dialect: dialect.name)
def test_a_connection_that_was_found_broken_is_gone_whatever_the_error(dialect: Any) -> None:
    assert dialect.classify(wrapped(ValueError("odd"), invalidated=True)) is Trouble.GONE


# Network file systems

MOUNTS = """\
22 28 0:21 / /proc rw,nosuid - proc proc rw
28 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
40 28 0:45 / /srv rw,relatime shared:2 - nfs4 server:/export rw,vers=4.2
41 40 254:2 / /srv/local rw - xfs /dev/vdb rw
42 28 0:46 / /mnt/with\\040space rw - cifs //server/share rw
43 28 0:47 / /home rw - fuse.sshfs me@host: rw
broken line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/rota.db", "nfs4 at /srv"),
        ("/srv/deep/er/rota.db", "nfs4 at /srv"),
        ("/mnt/with space/rota.db", "cifs at /mnt/with space"),
        ("/home/ann/rota.db", "fuse.sshfs at /home"),
    ],
)
def test_sqlite_on_a_network_file_system_is_refused(path: str, kind: str) -> None:
    with pytest.raises(NotSupported, match="where locks do not hold") as caught:
        refuse_network_file_system(Path(path), MOUNTS)

    assert kind in str(caught.value)


@pytest.mark.parametrize("path", ["/var/lib/rota.db", "/srv/local/rota.db", "/srvother/rota.db", "/rota.db"])
def test_sqlite_on_a_local_disk_is_accepted(path: str) -> None:
    refuse_network_file_system(Path(path), MOUNTS)


def test_the_innermost_mount_decides_in_whatever_order_they_are_listed() -> None:
    mounts = "\n".join(reversed(MOUNTS.splitlines()))

    with pytest.raises(NotSupported):
        refuse_network_file_system(Path("/srv/rota.db"), mounts)
    refuse_network_file_system(Path("/srv/local/rota.db"), mounts)


def test_the_last_of_two_mounts_at_the_same_place_decides() -> None:
    mounts = MOUNTS + "50 28 0:50 / /srv rw - tmpfs tmpfs rw\n"

    refuse_network_file_system(Path("/srv/rota.db"), mounts)
