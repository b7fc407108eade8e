"""Waking a waiting node: hints, on whichever way the database has. The poll stays everywhere as the truth.

A ``Pulse`` holds one connection for a node's second thread: it hears wake-ups on it, and renews over it, so that a slow
claim never delays a renewal and a node needs two connections whatever its number of jobs.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from rota.errors import DatabaseRefused, DatabaseUnavailable
from rota.store.database import Database, first_line
from rota.store.dialects import WakeUp, dialect_named

T = TypeVar("T")

DATA_VERSION_SECONDS = 0.05


def announce(connection: Connection) -> None:
    """Wake the waiting nodes when this transaction commits, where the database can. At most once per transaction.

    Not where the server has just refused it for the wake-up: see ``Database.write``.
    """
    statement = dialect_named(connection.dialect.name).announce
    if statement is not None and not connection.get_execution_options().get("rota_quiet"):
        connection.exec_driver_sql(statement)


class Pulse:
    """One connection that hears wake-ups. Used by one thread.

    What changed while nobody was listening counts as heard: a new connection begins with it, and so does one that was
    made anew in the middle of a transaction that was tried again.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Connection | None = None
        self._hears_on: Any = None  # the driver's connection that was told to listen
        self._has_news = False
        self._data_version: int | None = None

    def _open(self) -> Connection:
        try:
            if self._connection is None:
                self._connection = self._database.engine.connect()
            driver = self._connection.connection.driver_connection
            if driver is not self._hears_on:
                self._listen(self._connection, driver)
        except DBAPIError as error:
            self.close()
            raise DatabaseUnavailable(f"the database does not answer: {first_line(error)}") from error
        return self._connection

    def _listen(self, connection: Connection, driver: Any) -> None:
        if self._database.dialect.listen is not None:
            # Notices that come with the answer to a statement go to the driver, and to nobody without a handler.
            driver.add_notify_handler(self._note)
            connection.execution_options(rota_read=True)
            connection.exec_driver_sql(self._database.dialect.listen)
            connection.commit()
        self._hears_on = driver
        self._data_version = None
        self._has_news = True

    def _note(self, _notice: object) -> None:
        self._has_news = True

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
        # What is asked of the driver itself fails in its own words, which nobody has wrapped.
        own_error: type[Exception] = self._database.engine.dialect.loaded_dbapi.Error
        try:
            if way is WakeUp.NOTIFY:
                return self._wait_for_notice(seconds, wake_fd)
            if way is WakeUp.DATA_VERSION:
                return self._wait_for_version(seconds, wake_fd)
        except DBAPIError as error:
            self.close()
            raise DatabaseUnavailable(f"the database does not answer: {first_line(error)}") from error
        except (OSError, own_error) as error:
            self.close()
            raise DatabaseUnavailable(f"the connection broke while it waited: {error}") from error
        _readable([wake_fd], seconds)
        return False

    def _wait_for_notice(self, seconds: float, wake_fd: int) -> bool:
        driver: Any = self._open().connection.driver_connection
        if _take_notices(driver) or self._take_news():
            return True
        readable = _readable([driver.fileno(), wake_fd], seconds)
        return driver.fileno() in readable and _take_notices(driver)

    def _wait_for_version(self, seconds: float, wake_fd: int) -> bool:
        driver: Any = self._open().connection.driver_connection
        ends = time.monotonic() + seconds
        while True:
            (version,) = driver.execute("pragma data_version").fetchone()
            changed = self._take_news() or version != self._data_version
            self._data_version = version
            left = ends - time.monotonic()
            if changed or left <= 0:
                return changed
            if _readable([wake_fd], min(DATA_VERSION_SECONDS, left)):
                return False

    def _take_news(self) -> bool:
        has_news, self._has_news = self._has_news, False
        return has_news

    def close(self) -> None:
        """Give the connection up."""
        connection, self._connection, self._hears_on = self._connection, None, None
        if connection is not None:
            try:
                connection.invalidate()
                connection.close()
            except DBAPIError:
                pass  # it is gone, which is what was wanted


def _readable(descriptors: Iterable[int], seconds: float) -> set[int]:
    # select(2) refuses descriptors above 1023, which a connection has that is made beside many jobs.
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return {descriptor for descriptor, _ in poll.poll(seconds * 1000)}


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
