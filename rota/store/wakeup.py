"""Waking a waiting node: hints, on whichever way the database has. The poll stays everywhere as the truth.

A ``Pulse`` holds one connection for a node's second thread: it hears wake-ups on it, and renews over it, so that a slow
claim never delays a renewal and a node needs two connections whatever its number of jobs.
"""

from __future__ import annotations

import select as selectors
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from rota.errors import DatabaseRefused, DatabaseUnavailable
from rota.store.database import Database, first_line
from rota.store.dialects import WakeUp, dialect_named

T = TypeVar("T")

DATA_VERSION_SECONDS = 0.05


def announce(connection: Connection) -> None:
    """Wake the waiting nodes when this transaction commits, where the database can. At most once per transaction."""
    statement = dialect_named(connection.dialect.name).announce
    if statement is not None:
        connection.exec_driver_sql(statement)


class Pulse:
    """One connection that hears wake-ups. Used by one thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Connection | None = None
        self._data_version: int | None = None

    def _open(self) -> Connection:
        if self._connection is None:
            try:
                connection = self._database.engine.connect()
                if self._database.dialect.listen is not None:
                    connection.execution_options(rota_read=True)
                    connection.exec_driver_sql(self._database.dialect.listen)
                    connection.commit()
            except DBAPIError as error:
                raise DatabaseUnavailable(f"the database does not answer: {first_line(error)}") from error
            self._connection = connection
        return self._connection

    def write(self, work: Callable[[Connection], T], *, repeatable: bool) -> T:
        """Run ``work`` in one transaction over this connection.

        Raises:
            DatabaseUnavailable: nobody answers; the connection is made anew at the next call.
        """
        try:
            return self._database.write(work, repeatable=repeatable, over=self._open())
        except (DatabaseUnavailable, DatabaseRefused):
            # LISTEN is bound to the connection: one that had trouble is not trusted to hear.
            self.close()
            raise

    def wait(self, seconds: float, wake_fd: int) -> bool:
        """Wait until a wake-up, until ``wake_fd`` can be read, or for ``seconds``; tell whether something changed.

        Raises:
            DatabaseUnavailable: the connection broke.
        """
        way = self._database.dialect.wake_up
        try:
            if way is WakeUp.NOTIFY:
                return self._wait_for_notice(seconds, wake_fd)
            if way is WakeUp.DATA_VERSION:
                return self._wait_for_version(seconds, wake_fd)
        except DBAPIError as error:
            self.close()
            raise DatabaseUnavailable(f"the database does not answer: {first_line(error)}") from error
        except OSError as error:
            self.close()
            raise DatabaseUnavailable(f"the connection broke while it waited: {error}") from error
        selectors.select([wake_fd], [], [], seconds)
        return False

    def _wait_for_notice(self, seconds: float, wake_fd: int) -> bool:
        driver: Any = self._open().connection.driver_connection
        heard = _take_notices(driver)  # those that came with the answer to a statement
        if heard:
            return True
        readable, _, _ = selectors.select([driver.fileno(), wake_fd], [], [], seconds)
        return driver.fileno() in readable and _take_notices(driver)

    def _wait_for_version(self, seconds: float, wake_fd: int) -> bool:
        driver: Any = self._open().connection.driver_connection
        ends = time.monotonic() + seconds
        while True:
            (version,) = driver.execute("pragma data_version").fetchone()
            changed = self._data_version is not None and version != self._data_version
            self._data_version = version
            left = ends - time.monotonic()
            if changed or left <= 0:
                return changed
            if selectors.select([wake_fd], [], [], min(DATA_VERSION_SECONDS, left))[0]:
                return False

    def close(self) -> None:
        """Give the connection up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.invalidate()
                connection.close()
            except DBAPIError:
                pass  # it is gone, which is what was wanted


def _take_notices(driver: Any) -> bool:
    if driver.closed:
        raise OSError("closed by the server")
    try:
        driver.pgconn.consume_input()
    except Exception as error:  # the driver's own error class is not imported here
        raise OSError(str(error)) from error
    heard = False
    while driver.pgconn.notifies() is not None:
        heard = True
    return heard
