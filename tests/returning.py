"""MariaDB stands in for MySQL too, which returns no rows of what it writes.

SQLAlchemy takes it for one that cannot, and whatever asks for them all the same, fails: in the tests' own process and
in the workers that they start.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, event

_KINDS = {"mysql", "mariadb"}


def switch_returning_off() -> None:
    """Do so for all engines of this process."""
    event.listen(Engine, "engine_connect", _switch_off)
    event.listen(Engine, "before_cursor_execute", _refuse)


def _switch_off(connection: Any) -> None:
    if connection.dialect.name in _KINDS:
        connection.dialect.insert_returning = connection.dialect.delete_returning = False


def _refuse(connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
    if connection.dialect.name in _KINDS and "returning" in statement.lower():
        raise AssertionError(f"MySQL has no RETURNING: {statement[:200]}")
