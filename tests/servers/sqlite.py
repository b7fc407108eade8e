"""SQLite: a folder of files, each copied from one that was prepared once."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.servers.base import Prepare, Server
from tests.servers.process import choose_parent


class SQLite(Server):
    """Databases as files in a folder; ``admin_url`` is that folder."""

    kind = "sqlite"

    def __init__(self, admin_url: str, origin: str = "SQLite", prepare: Prepare | None = None) -> None:
        super().__init__(admin_url, origin, prepare)
        self._folder = Path(admin_url)

    def _make_template(self, url: str) -> Path:
        path = Path(url.removeprefix("sqlite:///"))
        assert not Path(f"{path}-wal").exists(), "what made the template left it open"
        return path

    def _copy(self, template: Path) -> str:
        url = self.create_empty_database()
        shutil.copyfile(template, url.removeprefix("sqlite:///"))
        return url

    def create_empty_database(self) -> str:
        return f"sqlite:///{self._folder / self._new_name()}.db"

    def drop_database(self, url: str) -> None:
        path = url.removeprefix("sqlite:///")
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(path + suffix).unlink(missing_ok=True)


@contextlib.contextmanager
def sqlite_server(*, durable: bool = False, prepare: Prepare | None = None) -> Iterator[SQLite]:
    """Offer SQLite files in a temporary folder; ``durable`` ones on a disk. The rest the program sets by pragma."""
    with tempfile.TemporaryDirectory(prefix="rota-sqlite-", dir=choose_parent(durable=durable)) as folder:
        yield SQLite(folder, f"SQLite {sqlite3.sqlite_version}", prepare)
