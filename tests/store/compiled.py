"""Statements compiled once for all tests of a process: each test has engines of its own, whose caches begin empty."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

from sqlalchemy import Dialect

_shared: dict[Any, Any] = {}


class SharedStatements(MutableMapping[Any, Any]):
    """What SQLAlchemy takes for the cache of an engine.

    It asks with a tuple that begins with the engine's dialect; here what a dialect writes counts, not whose it is.
    Some tests have a dialect write otherwise.
    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    def _key(self, key: Any) -> Any:
        of = self._dialect
        returning = of.insert_returning, of.update_returning, of.delete_returning
        return of.name, of.driver, of.server_version_info, returning, *key[1:]

    def __getitem__(self, key: Any) -> Any:
        return _shared[self._key(key)]

    def __setitem__(self, key: Any, value: Any) -> None:
        _shared[self._key(key)] = value

    def __delitem__(self, key: Any) -> None:
        del _shared[self._key(key)]

    def __iter__(self) -> Iterator[Any]:
        return iter(_shared)

    def __len__(self) -> int:
        return len(_shared)
