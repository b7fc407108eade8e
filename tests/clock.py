"""A database clock that stands still until a test moves it, on every kind of database.

Nothing of the program is replaced: statements reach the server with its clock functions written as a literal, and
SQLite's clock, which is a function that the program registers, asks this object. Give it each ``Database`` of the test
before that connects for the first time.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import event

from rota.store.database import Database
from rota.store.types import INSTANT_FORMAT

BEGINNING = datetime(2026, 11, 2, 12, 0, tzinfo=UTC)  # a Monday


class Clock:
    """What the database takes for now."""

    def __init__(self, now: datetime = BEGINNING) -> None:
        self.now = now
        self._begun = now

    def uptime(self) -> float:
        """Return CLOCK_BOOTTIME of a machine that has nothing to do with this clock but that time passes for both."""
        return (self.now - self._begun).total_seconds()

    def step(self, *, seconds: float = 0.0, hours: float = 0.0) -> datetime:
        """Put the clock forward or back, while no time passes."""
        by = timedelta(seconds=seconds, hours=hours)
        self.now += by
        self._begun += by
        return self.now

    def advance(self, *, seconds: float = 0.0, minutes: float = 0.0, hours: float = 0.0, days: float = 0.0) -> datetime:
        """Move on, and return the new now."""
        self.now += timedelta(seconds=seconds, minutes=minutes, hours=hours, days=days)
        return self.now

    def after(self, seconds: float) -> datetime:
        """Return the moment so many seconds from now."""
        return self.now + timedelta(seconds=seconds)

    def govern(self, database: Database) -> None:
        """Let ``database`` ask this clock from now on."""
        if database.dialect.name == "sqlite":
            database.sqlite_now = self._sqlite_now
        else:
            event.listen(database.engine, "before_cursor_execute", self._rewrite, retval=True)

    def _sqlite_now(self, plus_microseconds: float) -> str:
        return (self.now + timedelta(microseconds=int(plus_microseconds))).strftime(INSTANT_FORMAT)

    def _rewrite(
        self, _connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
    ) -> tuple[str, Any]:
        moment = self.now.strftime(INSTANT_FORMAT)
        statement = statement.replace("clock_timestamp()", f"timestamptz '{moment}+00'")
        return statement.replace("utc_timestamp(6)", f"timestamp'{moment}'"), parameters
