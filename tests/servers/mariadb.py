"""MariaDB: the machine's own. MySQL's server is run and spoken to in the same way, from ``mysql.py``."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests.servers.base import Prepare, Server, Unavailable
from tests.servers.process import ServerProcess, choose_user, free_port, run_once, server_folder

INSTALL = "apt-get install -y --no-install-recommends mariadb-server"
# TLS is never used on loopback here, and setting it up costs 40 ms for each connection.
URL_OPTIONS = "?charset=utf8mb4&ssl_disabled=true"


class MariaDB(Server):
    """Databases on one MariaDB server. It has no templates: a prepared one is read and written again."""

    kind = "mariadb"
    product = "MariaDB"
    process: ServerProcess

    def __init__(self, admin_url: str, origin: str | None = None, prepare: Prepare | None = None) -> None:
        super().__init__(admin_url, origin or self.product, prepare)
        self._connection: Any = None

    def _copy(self, template: list[str]) -> str:
        url = self.create_empty_database()
        before = (f"use {_name_in(url)}", "set foreign_key_checks = 0")
        # This connection outlives the database.
        for statement in (*before, *template, "use information_schema"):
            self._execute(statement)
        return url

    def _make_template(self, url: str) -> list[str]:
        """Tell the statements that make another database like this one, which stays for its rows."""
        template = _name_in(url)
        self._execute(f"use {template}")
        tables: list[str] = []
        views: list[str] = []
        for name, kind in self._execute("show full tables"):
            ((_, made, *_),) = self._execute(f"show create {'view' if kind == 'VIEW' else 'table'} {name}")
            if kind == "VIEW":
                views.append(made.replace(f"`{template}`.", ""))
                continue
            tables.append(made)
            if self._execute(f"select 1 from {name} limit 1"):
                columns = ", ".join(
                    column
                    for column, *_, extra in self._execute(f"show columns from {name}")
                    if "GENERATED" not in extra
                )
                tables.append(f"insert into {name} ({columns}) select {columns} from {template}.{name}")
        return tables + views

    def create_empty_database(self) -> str:
        name = self._new_name()
        self._execute(f"create database {name}")
        return self.admin_url.partition("?")[0].rpartition("/")[0] + f"/{name}{URL_OPTIONS}"

    def drop_database(self, url: str) -> None:
        name = _name_in(url)
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


def _name_in(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]


def _connect(url: str) -> Any:
    import pymysql

    user, _, place = url.partition("://")[2].partition("@")
    host, _, port = place.partition("/")[0].partition(":")
    return pymysql.connect(host=host, port=int(port), user=user, autocommit=True, ssl_disabled=True, connect_timeout=2)


AnyServer = TypeVar("AnyServer", bound=MariaDB)


@contextlib.contextmanager
def mariadb_server(
    *, durable: bool = False, prepare: Prepare | None = None, place: Path | None = None
) -> Iterator[MariaDB]:
    """Run a MariaDB server for as long as the block lasts, with its data below ``place``, small there.

    Raises:
        Unavailable: it is not installed.
    """
    program, installer, version = find_programs()
    install = [installer, "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]
    start = [program, "--skip-name-resolve"]
    if place is not None:
        small = ["--innodb-log-file-size=8M", "--innodb-undo-tablespaces=0"]
        install, start = install + small, start + small
    with run_server(MariaDB, version, install, start, durable=durable, prepare=prepare, place=place) as server:
        yield server


@contextlib.contextmanager
def run_server(
    kind: type[AnyServer],
    version: str,
    install: Sequence[str | Path],  # the program that makes a data folder, and its options
    start: Sequence[str | Path],  # the server, and its options beside those that are the same everywhere
    *,
    durable: bool,
    prepare: Prepare | None,
    place: Path | None = None,
) -> Iterator[AnyServer]:
    """Run a server of MariaDB's family for as long as the block lasts."""
    user = choose_user("mysql", "nobody")
    with server_folder(user, durable=durable) as folder:
        home = (place or folder) / "home"  # everything that belongs to the server's user
        home.mkdir(mode=0o755)
        # Temporary files of a server vanish where others tidy the folder for all.
        temporary = folder / "tmp"  # which is on another disk than the data, often enough
        temporary.mkdir()
        if user is not None:
            shutil.chown(home, user, None)
            shutil.chown(temporary, user, None)
        # That no file with options is read must be said first.
        common = ["--no-defaults", f"--datadir={home / 'data'}", f"--tmpdir={temporary}"]
        run_once(user, [install[0], *common, *install[1:]])
        port = free_port()
        args = [
            start[0], *common, *start[1:], f"--socket={home / 's'}", f"--pid-file={home / 'pid'}",
            f"--port={port}", "--bind-address=127.0.0.1",
        ]  # fmt: skip
        if not durable:
            # The zone is a strange one on purpose: Rota must not depend on the server's.
            args += [
                "--innodb-flush-log-at-trx-commit=2", "--innodb-doublewrite=0", "--innodb-buffer-pool-size=64M",
                "--max-connections=400", "--skip-log-bin", "--default-time-zone=+05:30",
            ]  # fmt: skip

        server = kind(f"mysql+pymysql://root@127.0.0.1:{port}/{URL_OPTIONS}", f"{kind.product} {version}", prepare)
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
    server, installer = look_up("mariadbd"), look_up("mariadb-install-db")
    if server is None or installer is None:
        raise Unavailable(f"MariaDB not found: {INSTALL}")
    return server, installer, version_in(ask_version(server))


def look_up(program: str) -> Path | None:
    """Find a program by name, also where an ordinary user's PATH does not lead."""
    found = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin")
    return Path(found) if found else None


def ask_version(server: Path) -> str:
    """Return the line in which a server's program says what it is."""
    done = subprocess.run([server, "--no-defaults", "--version"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def version_in(said: str) -> str:
    version = re.search(r"Ver (\d+(?:\.\d+)*)", said)
    return version[1] if version else said
