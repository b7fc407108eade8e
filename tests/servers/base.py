"""What every throwaway server offers, whatever its kind."""

from __future__ import annotations

import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable

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

    def create_database(self) -> str:
        """Return the URL of a fresh database, prepared."""
        url = self.create_empty_database()
        if self._prepare is not None:
            self._prepare(url)
        return url

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
