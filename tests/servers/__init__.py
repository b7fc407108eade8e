"""Throwaway databases on real servers, for the tests and the benchmarks.

A server is started once per test run as a direct child in a temporary folder on a free port, and dies with whoever
started it. Each test gets a database of its own on it. Any number of processes may make databases on one server: the
one that started it hands out ``admin_url``.

    with postgresql_server(durable=True) as server:
        url = server.create_database()

``durable=True`` leaves the server's durability at its defaults, for benchmarks; tests switch it off.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.servers import mariadb, mysql, postgresql
from tests.servers.base import Prepare, Server, Unavailable
from tests.servers.mariadb import MariaDB, mariadb_server
from tests.servers.mysql import MySQL, mysql_server
from tests.servers.postgresql import PostgreSQL, postgresql_server
from tests.servers.sqlite import SQLite, sqlite_server

KINDS = ("sqlite", "postgresql", "mariadb", "mysql")
STARTERS = {
    "sqlite": sqlite_server,
    "postgresql": postgresql_server,
    "mariadb": mariadb_server,
    "mysql": mysql_server,
}


def find(kind: str) -> None:
    """Look whether a kind of database can be had, without starting anything.

    Raises:
        Unavailable: it cannot.
    """
    match kind:
        case "postgresql":
            postgresql.find_binaries()
        case "mariadb":
            mariadb.find_programs()
        case "mysql":
            mysql.find_program()


@contextlib.contextmanager
def attach(kind: str, admin_url: str, origin: str, *, prepare: Prepare | None = None) -> Iterator[Server]:
    """Use a server that another process started and stops."""
    kinds = {"sqlite": SQLite, "postgresql": PostgreSQL, "mariadb": MariaDB, "mysql": MySQL}
    server = kinds[kind](admin_url, origin, prepare)
    try:
        yield server
    finally:
        server.close()


__all__ = [
    "KINDS",
    "STARTERS",
    "MariaDB",
    "MySQL",
    "PostgreSQL",
    "Prepare",
    "SQLite",
    "Server",
    "Unavailable",
    "attach",
    "find",
    "mariadb_server",
    "mysql_server",
    "postgresql_server",
    "sqlite_server",
]
