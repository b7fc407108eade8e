"""The database that the hosts share, and what can happen to it: restarts, locks that others hold, a full disk."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from faults.checker import connect
from tests.servers import STARTERS, Server
from tests.servers.process import ServerProcess

DISK_BYTES = 96 << 20
START_TRIES = 40
TRY_AGAIN_SECONDS = 0.25
LOCK_SECONDS = 1.5  # longer than anybody holds the lock of a file who is not stopped


class Target:
    """A server's database, or a file."""

    def __init__(self, kind: str, url: str, origin: str, process: ServerProcess | None, disk: Path | None) -> None:
        self.kind = kind
        self.url = url  # straight to it
        self.origin = origin
        self.disk = disk  # a small file system below a file
        self._process = process
        self._locks: list[threading.Thread] = []

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.partition("@")[2].partition("/")[0].partition(":")
        return host, int(port)

    def url_through(self, host: str, port: int) -> str:
        there, here = ":".join(map(str, self.address)), f"{host}:{port}"
        return self.url.replace(f"@{there}/", f"@{here}/")

    @property
    def has_server(self) -> bool:
        return self._process is not None

    def stop(self, *, kill: bool) -> None:
        """Stop the server in order, or kill it."""
        assert self._process is not None
        self._process.stop(signal.SIGKILL if kill else None)

    def start(self) -> None:
        """Start it again. What a killed one has left may have to go first."""
        assert self._process is not None
        for number in range(START_TRIES):
            try:
                self._process.start()
                return
            except RuntimeError:
                if number == START_TRIES - 1:
                    raise
                time.sleep(TRY_AGAIN_SECONDS)

    def lock(self, what: str, seconds: float, tell: Callable[[str], None]) -> threading.Event:
        """Hold a lock over a connection of our own; return what is set when it has been given back."""
        over = threading.Event()
        thread = threading.Thread(target=self._hold, args=(what, seconds, tell, over), daemon=True)
        self._locks.append(thread)
        thread.start()
        return over

    def _hold(self, what: str, seconds: float, tell: Callable[[str], None], over: threading.Event) -> None:
        try:
            connection = connect(self.url)
            try:
                cursor = connection.cursor()
                for statement in self._statements(what):
                    cursor.execute(statement)
                time.sleep(seconds)
                connection.rollback()
            finally:
                connection.close()
        except Exception as error:  # noqa: BLE001 - each driver has its own; a server that restarts takes locks along
            tell(f"{what}: {error}")
        finally:
            over.set()

    def _statements(self, what: str) -> list[str]:
        if self.kind == "sqlite":
            return ["begin immediate"]
        if what == "lock table":
            return [
                "lock table rota_run in exclusive mode" if self.kind == "postgresql" else "lock tables rota_run write"
            ]
        unfinished = "select id from rota_run where state in ('waiting', 'ready', 'running') for update"
        return [unfinished, "select id from rota_schedule for update"]

    def is_locked(self) -> bool:
        """Tell whether somebody holds the lock of a file, and goes on to."""
        import sqlite3

        connection = sqlite3.connect(self.url.removeprefix("sqlite:///"), timeout=LOCK_SECONDS)
        try:
            connection.execute("begin immediate")
        except sqlite3.OperationalError as error:
            return "locked" in str(error)
        else:
            connection.rollback()
            return False
        finally:
            connection.close()

    def fill_disk(self) -> None:
        """Take all that is left of the disk below the file."""
        assert self.disk is not None
        with contextlib.suppress(OSError), (self.disk / "ballast").open("wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(1 << 16))

    def empty_disk(self) -> None:
        assert self.disk is not None
        (self.disk / "ballast").unlink(missing_ok=True)


@contextlib.contextmanager
def target(kind: str, folder: Path) -> Iterator[Target]:
    """Start a server whose durability is at its defaults, or make a disk for a file; stop it at the end."""
    if kind == "sqlite":
        disk = folder / "disk"
        disk.mkdir()
        has_disk = _mount(disk)
        try:
            yield Target(kind, f"sqlite:///{disk}/rota.db", _sqlite_version(), None, disk if has_disk else None)
        finally:
            if has_disk:
                subprocess.run(["umount", "-l", str(disk)], check=False)
        return
    with STARTERS[kind](durable=True) as server:
        assert isinstance(server, Server)
        process: Any = getattr(server, "process", None)
        assert isinstance(process, ServerProcess)
        yield Target(kind, server.create_empty_database(), server.origin, process, None)


def _mount(disk: Path) -> bool:
    """Make a small file system, where this user may."""
    if shutil.which("mount") is None:
        return False
    args = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)]
    return subprocess.run(args, capture_output=True, check=False).returncode == 0


def _sqlite_version() -> str:
    import sqlite3

    return f"SQLite {sqlite3.sqlite_version}"
