"""What every throwaway server offers, whatever its kind."""

from __future__ import annotations

import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

# Brings an empty database, named by its URL, to the state that tests start from.
Prepare = Callable[[str], None]


class Unavailable(Exception):
    """This kind of database cannot be had on this machine; the message says what would change that."""


class Server(ABC):
    """Makes and drops databases. Several processes may each have a ``Server`` for the same real one."""

    kind: str

    def __init__(self, admin_url: str, origin: str, prepare: Prepare | None = None) -> None:
        self.admin_url = admin_url
        self.origin = origin  # which server this is and where it comes from, for people
        self._prepare = prepare
        self._numbers = itertools.count(1)
        self._templates: dict[Prepare | None, Any] = {}  # what each that fills has made, as this kind copies it

    def create_database(self, fill: Prepare | None = None) -> str:
        """Return the URL of a fresh database, prepared, and filled.

        What fills is called once with the URL of such a database, must let go of it, and what it leaves is copied.
        """
        if self._prepare is None:
            assert fill is None, "what is filled was prepared before"
            return self.create_empty_database()
        if fill not in self._templates:
            url = self.create_empty_database() if fill is None else self.create_database()
            (fill or self._prepare)(url)
            self._templates[fill] = self._make_template(url)
        return self._copy(self._templates[fill])

    @abstractmethod
    def _make_template(self, url: str) -> Any:
        """Tell what this kind makes copies of a database from, which nobody uses any more."""

    @abstractmethod
    def _copy(self, template: Any) -> str:
        """Return the URL of a fresh copy."""

    @abstractmethod
    def create_empty_database(self) -> str:
        """Return the URL of a fresh database without anything in it."""

    @abstractmethod
    def drop_database(self, url: str) -> None:
        """Remove a database, whoever is still connected to it."""

    def close(self) -> None:  # noqa: B027 - not every kind holds something
        """Give back what this object holds; the server itself goes on."""

    def _new_name(self) -> str:
        return f"t{os.getpid()}_{next(self._numbers)}"
