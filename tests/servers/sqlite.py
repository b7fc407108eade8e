"""SQLite: a folder of files, each copied from one that was prepared once."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.servers.base import Prepare, Server


class SQLite(Server):
    """Databases as files in a folder; ``admin_url`` is that folder."""

    kind = "sqlite"

    def __init__(self, admin_url: str, origin: str = "SQLite", prepare: Prepare | None = None) -> None:
        super().__init__(admin_url, origin, prepare)
        self._folder = Path(admin_url)
        self._template: Path | None = None

    def create_database(self) -> str:
        if self._prepare is None:
            return self.create_empty_database()
        if self._template is None:
            template = self._folder / f"{self._new_name()}.template"
            self._prepare(f"sqlite:///{template}")
            assert not Path(f"{template}-wal").exists(), "prepare left the template open"
            self._template = template
        path = self._folder / f"{self._new_name()}.db"
        shutil.copyfile(self._template, path)
        return f"sqlite:///{path}"

    def create_empty_database(self) -> str:
        return f"sqlite:///{self._folder / self._new_name()}.db"

    def drop_database(self, url: str) -> None:
        path = url.removeprefix("sqlite:///")
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(path + suffix).unlink(missing_ok=True)


@contextlib.contextmanager
def sqlite_server(*, durable: bool = False, prepare: Prepare | None = None) -> Iterator[SQLite]:
    """Offer SQLite files in a temporary folder. ``durable`` changes nothing: the program sets it by pragma."""
    del durable
    with tempfile.TemporaryDirectory(prefix="rota-sqlite-") as folder:
        yield SQLite(folder, f"SQLite {sqlite3.sqlite_version}", prepare)
