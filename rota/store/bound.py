"""Doing what the store does inside a transaction that is open already: all of it comes into force with that, or not.

Each piece of work is a savepoint, so that one that is refused leaves no trace and the transaction can still be used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from rota.errors import DatabaseRefused
from rota.store.database import Database, first_line
from rota.store.dialects import Trouble

T = TypeVar("T")


class BoundDatabase(Database):
    """A database of which only one connection is used, within the transaction that whoever lends it commits."""

    def __init__(self, lender: Database, connection: Connection) -> None:
        # Not as the base class: it has no engine of its own, and nothing to close.
        self.dialect, self.url, self.engine, self.retries = lender.dialect, lender.url, lender.engine, 0
        self._connection = connection

    def read(self, work: Callable[[Connection], T], *, over: Connection | None = None) -> T:
        """Run ``work``, which sees what the transaction has written. A statement that is refused ends nothing else.

        Raises:
            DatabaseRefused: as ``write`` does.
        """
        return self.write(work, repeatable=True)

    def write(self, work: Callable[[Connection], T], *, repeatable: bool, over: Connection | None = None) -> T:
        """Run ``work``; what it writes is taken back if it raises.

        Raises:
            DatabaseRefused: the database does not want a statement of it.
            DBAPIError: the whole transaction has to be done again, or a name or a key is taken.
        """
        savepoint = self._connection.begin_nested()
        try:
            answer = work(self._connection)
        except DBAPIError as error:
            trouble = self.dialect.classify(error)
            if trouble in {Trouble.GONE, Trouble.AGAIN}:
                raise  # there is no savepoint any more: a deadlock has undone the transaction
            savepoint.rollback()
            if trouble is Trouble.OURS:
                raise DatabaseRefused(f"the database refused a statement: {first_line(error)}") from error
            raise
        except BaseException:
            savepoint.rollback()
            raise
        savepoint.commit()
        return answer

    def close(self) -> None:
        """Leave the connection to whoever has lent it."""
