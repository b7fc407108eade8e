"""MariaDB: the machine's own."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.servers.base import Prepare, Server, Unavailable
from tests.servers.process import ServerProcess, choose_user, free_port, run_once, server_folder

INSTALL = "apt-get install -y --no-install-recommends mariadb-server"
# TLS is never used on loopback here, and setting it up costs 40 ms for each connection.
URL_OPTIONS = "?charset=utf8mb4&ssl_disabled=true"


class MariaDB(Server):
    """Databases on one MariaDB server. It has no templates, so each database is prepared on its own."""

    kind = "mariadb"
    process: ServerProcess

    def __init__(self, admin_url: str, origin: str = "MariaDB", prepare: Prepare | None = None) -> None:
        super().__init__(admin_url, origin, prepare)
        self._connection: Any = None

    def create_empty_database(self) -> str:
        name = self._new_name()
        self._execute(f"create database {name}")
        return self.admin_url.partition("?")[0].rpartition("/")[0] + f"/{name}{URL_OPTIONS}"

    def drop_database(self, url: str) -> None:
        name = url.partition("?")[0].rpartition("/")[2]
        # A connection that a failed test left open may hold a metadata lock, for which a drop waits a day.
        for (number,) in self._execute(f"select id from information_schema.processlist where db = '{name}'"):
            with contextlib.suppress(Exception):
                self._execute(f"kill {number}")
        self._execute(f"drop database if exists {name}")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _execute(self, statement: str) -> list[tuple[Any, ...]]:
        if self._connection is None or not self._connection.open:
            self._connection = _connect(self.admin_url)
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())


def _connect(url: str) -> Any:
    import pymysql

    user, _, place = url.partition("://")[2].partition("@")
    host, _, port = place.partition("/")[0].partition(":")
    return pymysql.connect(host=host, port=int(port), user=user, autocommit=True, ssl_disabled=True, connect_timeout=2)


@contextlib.contextmanager
def mariadb_server(*, durable: bool = False, prepare: Prepare | None = None) -> Iterator[MariaDB]:
    """Run a MariaDB server for as long as the block lasts.

    Raises:
        Unavailable: it is not installed.
    """
    server_program, installer, version = find_programs()
    user = choose_user("mysql", "nobody")
    with server_folder(user) as folder:
        home = folder / "home"  # everything that belongs to the server's user
        home.mkdir(mode=0o755)
        if user is not None:
            shutil.chown(home, user, None)
        data = home / "data"
        install = [installer, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"]
        run_once(user, [*install, "--skip-test-db", "--skip-name-resolve"])
        port = free_port()
        args = [
            server_program, "--no-defaults", f"--datadir={data}", f"--socket={home / 's'}",
            f"--pid-file={home / 'pid'}", f"--port={port}", "--bind-address=127.0.0.1", "--skip-name-resolve",
        ]  # fmt: skip
        if not durable:
            # The zone is a strange one on purpose: Rota must not depend on the server's.
            args += [
                "--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0", "--innodb-buffer-pool-size=64M",
                "--max-connections=400", "--default-time-zone=+05:30",
            ]  # fmt: skip

        server = MariaDB(f"mysql+pymysql://root@127.0.0.1:{port}/{URL_OPTIONS}", f"MariaDB {version}", prepare)
        server.process = ServerProcess(
            args, user=user, log=folder / "log", is_ready=lambda: _answers(server), stop_with=signal.SIGTERM
        )
        server.process.start()
        try:
            yield server
        finally:
            server.close()
            server.process.stop()


def _answers(server: MariaDB) -> bool:
    import pymysql

    try:
        _connect(server.admin_url).close()
    except pymysql.err.OperationalError:
        return False
    return True


def find_programs() -> tuple[Path, Path, str]:
    """Return the server, the installer of its data folder, and the version."""
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"  # an ordinary user's PATH may lack them
    server, installer = shutil.which("mariadbd", path=path), shutil.which("mariadb-install-db", path=path)
    if server is None or installer is None:
        raise Unavailable(f"MariaDB not found: {INSTALL}")
    said = subprocess.run([server, "--no-defaults", "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"Ver (\d+(?:\.\d+)*)", said)
    return Path(server), Path(installer), version[1] if version else said.strip()
