"""Databases that answer wrongly or not at all, made of real ones."""

from __future__ import annotations

import itertools
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from sqlalchemy import event

from rota.store.database import Database


def _broken_connection(database: Database, connection: Any) -> Exception:
    """Close the driver's connection as a network does, and return what the driver says of it then."""
    match database.dialect.name:
        case "postgresql":
            import psycopg

            connection.close()
            return psycopg.OperationalError("consuming input failed: server closed the connection unexpectedly")
        case "mysql":
            import pymysql

            connection._force_close()
            return pymysql.err.OperationalError(2013, "Lost connection to MySQL server during query")
        case _:
            if connection.in_transaction:
                connection.rollback()
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            return error


@contextmanager
def commit_breaks(database: Database, when: Literal["before", "after"], *, times: int = 1) -> Iterator[list[str]]:
    """Break the connection at the next ``times`` COMMITs, before or after the server has done it."""
    broken: list[str] = []
    dialect = database.engine.dialect
    commit = dialect.do_commit

    def break_off(connection: Any) -> None:
        driver = connection.driver_connection if hasattr(connection, "driver_connection") else connection
        if len(broken) == times or not _writes(database, driver):
            commit(connection)
            return
        broken.append(when)
        if when == "after":
            commit(connection)
        raise _broken_connection(database, driver)

    dialect.do_commit = break_off
    try:
        yield broken
    finally:
        del dialect.do_commit


def _refusal(database: Database, connection: Any) -> Exception:
    """Undo the transaction as a server does that finds a conflict at COMMIT, and return what the driver says then."""
    match database.dialect.name:
        case "postgresql":
            import psycopg

            connection.execute("rollback")
            return psycopg.errors.SerializationFailure("could not serialize access due to read/write dependencies")
        case "mysql":
            import pymysql

            connection.query("rollback")
            return pymysql.err.OperationalError(1213, "Deadlock found when trying to get lock")
        case _:
            connection.rollback()
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            return error


def trouble_commits(database: Database, *fates: Literal["done", "refused", "before", "after"]) -> None:
    """Let the COMMITs of ``database`` meet these fates in turn, for good.

    Refused: the server undoes the transaction and says so. Before and after: the connection breaks, and nobody knows.
    Each thread has turns of its own, so that none meets with trouble more often in a row than it is given.
    """
    dialect = database.engine.dialect
    commit = dialect.do_commit
    own = threading.local()

    def meet(connection: Any) -> None:
        driver = connection.driver_connection if hasattr(connection, "driver_connection") else connection
        if not hasattr(own, "turns"):
            own.turns = itertools.cycle(fates)
        fate = next(own.turns) if _writes(database, driver) else "done"
        if fate == "refused":
            raise _refusal(database, driver)
        if fate in {"done", "after"}:
            commit(connection)
        if fate in {"before", "after"}:
            raise _broken_connection(database, driver)

    dialect.do_commit = meet


def _writes(database: Database, driver: Any) -> bool:
    """Tell whether a transaction is open: reads end without one."""
    match database.dialect.name:
        case "postgresql":
            return driver.info.transaction_status != driver.info.transaction_status.IDLE
        case "mysql":
            return bool(driver.server_status & 1)  # SERVER_STATUS_IN_TRANS
        case _:
            return driver.in_transaction


def kill_connections(database: Database, killer: Database) -> int:
    """End the server's side of all connections of ``database`` but those of ``killer``; return how many."""
    listed = {
        "postgresql": "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()",
        "mysql": "select id from information_schema.processlist where db = database() and id <> connection_id()",
    }[database.dialect.name]
    end = {"postgresql": "select pg_terminate_backend({})", "mysql": "kill {}"}[database.dialect.name]

    def kill(connection: Any) -> int:
        found = list(connection.exec_driver_sql(listed).scalars())
        for number in found:
            connection.exec_driver_sql(end.format(number))
        return len(found)

    return killer.read(kill)


LOCKING = re.compile(r" FOR (UPDATE|SHARE)( OF \w+)?( SKIP LOCKED)?| LOCK IN SHARE MODE")


def forget_row_locks(database: Database) -> None:
    """Drop FOR UPDATE and FOR SHARE from every statement, as databases do whose row locks are local or optimistic."""

    def drop(
        _connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
    ) -> tuple[str, Any]:
        return LOCKING.sub("", statement), parameters

    event.listen(database.engine, "before_cursor_execute", drop, retval=True)


@contextmanager
def locked(url: str, *statements: str) -> Iterator[None]:
    """Keep what ``statements`` write locked; on SQLite that is the whole file."""
    holder = Database(url, of_job=True)  # which may keep a transaction open for long
    try:
        with holder.engine.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
            yield
            connection.exec_driver_sql("rollback")
    finally:
        holder.close()
