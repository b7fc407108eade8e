"""What differs between the databases, as one small record of capabilities each.

No other module asks which database it is. ``SKIP LOCKED`` makes claims cheap where it exists; it never makes them
correct, so a record that trusts locks too much costs speed and not a run. Long, since four records of the same fields
are read side by side.
"""

from __future__ import annotations

import functools
import socket
import sqlite3
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from rota.errors import NotSupported


class Trouble(Enum):
    """What a failed statement means for the transaction it was in."""

    AGAIN = "again"  # deadlock, serialization failure, busy: the whole transaction may be tried again
    GONE = "gone"  # the connection, or the server's readiness to write, is lost: full disk, no memory, cancelled
    TAKEN = "taken"  # a unique key is held by another row
    OURS = "ours"  # anything else: a mistake in a statement or in its values, which the server will never take


class WakeUp(Enum):
    """How a waiting node hears of a change before its next poll."""

    NOTIFY = "notify"  # LISTEN and NOTIFY
    DATA_VERSION = "data_version"  # PRAGMA data_version, read from the same connection
    POLL = "poll"  # nothing: poll a little more often, adaptively


class ClaimForm(Enum):
    """How ready runs are taken. Each is a compare-and-set on their state, which alone makes it a claim."""

    AT_ONCE = "at_once"  # one statement: SELECT … FOR UPDATE SKIP LOCKED, and around it UPDATE … RETURNING
    LOCK_FIRST = "lock_first"  # SELECT … FOR UPDATE SKIP LOCKED, then UPDATE
    COMPARE_ALONE = "compare_alone"  # SELECT, then UPDATE: row locks are unknown, local to a server, or optimistic


@dataclass(frozen=True, slots=True)
class Dialect:
    """The capabilities of one kind of database."""

    name: str
    claim_form: ClaimForm
    wake_up: WakeUp
    classify: Callable[[DBAPIError], Trouble]
    connect_args: dict[str, Any] = field(default_factory=dict[str, Any])
    on_connect: tuple[str, ...] = ()
    set_up: Callable[[Any], None] | None = None  # of the driver's connection, before these
    connect: Callable[[Any, Any, Any, Any], Any] | None = None  # takes the driver's place, as the event do_connect
    # Drivers are set to commit each statement, so that a read costs one; this opens a writing transaction.
    begin_write: str = "begin"
    # For a connection in the hands of a job, after the above: its statements may take long.
    on_connect_of_job: tuple[str, ...] = ()
    connect_args_of_job: dict[str, Any] = field(default_factory=dict[str, Any])
    # The first words of statements that commit what was before them, whatever was asked for.
    commits_by_itself: frozenset[str] = frozenset()
    # The statement after which a connection waits for locks of others so many seconds at most.
    wait_for_locks: Callable[[float], str] = str
    lock_seconds: float = 10.0  # how long it does without
    answer_args: tuple[str, ...] = ()  # what the driver is given the longest wait for an answer as, in seconds
    one_writer: bool = False  # a writing transaction keeps all others waiting
    announce: str | None = None  # sent in a transaction to wake waiting nodes when it commits
    announce_refused: str | None = None  # the SQLSTATE of a COMMIT that is refused for that, and could be had without
    listen: str | None = None
    poll_seconds: float = 5.0  # from one look of an idle node to its next one, at most
    # Finds sessions of others whose transaction has been open for :seconds and keeps old rows, the oldest first.
    find_transactions: str | None = None
    end_session: str = ""  # the statement that ends one
    server_version_min: tuple[int, ...] = ()
    server_version_min_mariadb: tuple[int, ...] = ()


@functools.cache
def _moment_loader(inner: Any) -> Any:
    import psycopg
    from psycopg.adapt import Loader

    class MomentLoader(Loader):
        """Reads a moment that Python has no word for, as infinity, as none, like SQLite's text that is no moment."""

        def __init__(self, oid: int, context: Any = None) -> None:
            super().__init__(oid, context)
            self._load = inner(oid, context).load

        def load(self, data: Any) -> Any:
            try:
                return self._load(data)
            except psycopg.DataError:
                return None

    return MomentLoader


def _connect_mysql(dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
    """Connect, and say what helps where PyMySQL only says which package it lacks.

    MySQL 8 and newer takes a password encrypted only: by TLS, or else by RSA. So it is at the first login after a
    start of the server; later ones may do without.
    """
    try:
        return dialect.connect(*arguments, **options)
    except RuntimeError as error:
        if "cryptography" not in str(error):
            raise
        number = 2061  # what MySQL's own clients say then
        raise dialect.loaded_dbapi.OperationalError(
            number,
            f"{error}: let the connection use TLS (PyMySQL 1.2 does by itself, unless the URL has ssl_disabled), "
            "or pip install 'PyMySQL[rsa]'",
        ) from error


def _set_up_mysql(connection: Any) -> None:
    # As for PostgreSQL; PyMySQL has no option for it.
    stream: Any = getattr(connection, "_sock", None)
    if isinstance(stream, socket.socket) and stream.family in {socket.AF_INET, socket.AF_INET6}:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", 5),
            ("TCP_KEEPINTVL", 3),
            ("TCP_KEEPCNT", 3),
            ("TCP_USER_TIMEOUT", 15000),
        ):
            if hasattr(socket, name):
                stream.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


@functools.cache
def _patient_connection() -> Any:
    import psycopg

    def bounded(waiting: Any, seconds: float) -> Generator[Any, Any, Any]:
        # What psycopg waits for is a generator, which it looks at ten times a second while nothing comes.
        ends_at = time.monotonic() + seconds
        try:
            step = next(waiting)
            while True:
                ready: Any = yield step
                if time.monotonic() > ends_at:
                    waiting.close()
                    raise psycopg.OperationalError(f"no answer within {seconds:g} s")
                step = waiting.send(ready)
        except StopIteration as done:
            return done.value

    class PatientConnection(psycopg.Connection[Any]):
        """Gives up a server that takes what it is sent and never answers, of which the kernel notices nothing."""

        answer_seconds: float | None = None

        def wait(self, gen: Any, *given: Any, **options: Any) -> Any:
            if self.answer_seconds is None:
                return super().wait(gen, *given, **options)
            try:
                return super().wait(bounded(gen, self.answer_seconds), *given, **options)
            except psycopg.OperationalError as error:
                if error.sqlstate is None:
                    self.pgconn.finish()  # nobody knows what would come next on it
                raise

    return PatientConnection


def _connect_postgresql(_dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
    seconds = options.pop("answer_seconds", None)
    connection = _patient_connection().connect(*arguments, **options)
    connection.answer_seconds = seconds
    return connection


def _set_up_postgresql(connection: Any) -> None:
    adapters = connection.adapters
    adapters.register_loader("timestamptz", _moment_loader(adapters.get_loader(adapters.types["timestamptz"].oid, 0)))


_POSTGRESQL_AGAIN = {"40001", "40P01", "55P03"}
# Besides lost connections: too few resources (53), a cancelled or timed out statement, trouble outside the server (58).
_POSTGRESQL_GONE_CLASSES = ("08", "57", "53", "58", "25006", "40003")


def _classify_postgresql(error: DBAPIError) -> Trouble:
    state = str(getattr(error.orig, "sqlstate", None) or "")
    if state in _POSTGRESQL_AGAIN:
        return Trouble.AGAIN
    if error.connection_invalidated or (state and state.startswith(_POSTGRESQL_GONE_CLASSES)):
        return Trouble.GONE
    if state == "23505":
        return Trouble.TAKEN
    # libpq reports a refused or broken connection without any SQLSTATE
    if not state and type(error.orig).__name__ in {"OperationalError", "InterfaceError"}:
        return Trouble.GONE
    return Trouble.OURS


# 1467: MariaDB's word for a deadlock at the lock for the next id. 3101: a group of servers found a conflict at COMMIT.
_MYSQL_AGAIN = {1213, 1205, 1020, 1467, 3101, 4031}
_MYSQL_AWAY = {1040, 1042, 1043, 1047, 1053, 1077, 1079, 1152, 1158, 1159, 1160, 1161, 1180, 1203, 1290, 1836}
# MySQL's own: offline mode, a COMMIT that the group of servers does not take, a server going away, a session killed.
_MYSQL_AWAY_NEWER = {3032, 3100, 3168, 3169}
# No room, no memory; a cancelled or timed out statement.
_MYSQL_SHORT = {1021, 1037, 1038, 1041, 1114, 1206, 1317, 1927, 1969, 3024}
_MYSQL_GONE = _MYSQL_AWAY | _MYSQL_AWAY_NEWER | _MYSQL_SHORT


def _classify_mysql(error: DBAPIError) -> Trouble:
    arguments = getattr(error.orig, "args", ())
    number = arguments[0] if arguments and isinstance(arguments[0], int) else None
    if number in _MYSQL_AGAIN:
        return Trouble.AGAIN
    if error.connection_invalidated or number in _MYSQL_GONE or (number is not None and 2000 <= number < 3000):
        return Trouble.GONE
    if number == 0 and type(error.orig).__name__ == "InterfaceError":  # PyMySQL's word for a closed connection
        return Trouble.GONE
    if number == 1062:
        return Trouble.TAKEN
    return Trouble.OURS


_SQLITE_GONE = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_INTERRUPT,
}


def _classify_sqlite(error: DBAPIError) -> Trouble:
    origin = error.orig
    # Only the primary code: SQLITE_BUSY_SNAPSHOT and its kind carry it in the low byte.
    code = getattr(origin, "sqlite_errorcode", 0) & 0xFF
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return Trouble.AGAIN
    if code in _SQLITE_GONE:
        return Trouble.GONE
    extended = getattr(origin, "sqlite_errorcode", 0)
    if extended in {sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY}:
        return Trouble.TAKEN
    return Trouble.OURS


def _wait_on_postgresql(seconds: float) -> str:
    return f"set lock_timeout = {max(1, round(seconds * 1000))}"  # 0 would be for ever


def _wait_on_mysql(seconds: float) -> str:
    whole = max(1, int(seconds))  # MySQL refuses less
    return f"set session innodb_lock_wait_timeout = {whole}, session lock_wait_timeout = {whole}"


def _wait_on_sqlite(seconds: float) -> str:
    return f"pragma busy_timeout = {round(seconds * 1000)}"


POSTGRESQL = Dialect(
    name="postgresql",
    claim_form=ClaimForm.AT_ONCE,
    wake_up=WakeUp.NOTIFY,
    classify=_classify_postgresql,
    connect_args={
        "connect_timeout": 10,
        "autocommit": True,
        "application_name": "rota",
        "client_encoding": "utf8",  # whatever the database's default is
        # A server that vanished without a word (power, failover of an address) is noticed well within a lease, not by
        # the kernel after a quarter of an hour. In seconds, the last in milliseconds.
        "keepalives_idle": 5,
        "keepalives_interval": 3,
        "keepalives_count": 3,
        "tcp_user_timeout": 15000,
        # A pooler in transaction mode hands statements prepared by one client to another.
        "prepare_threshold": None,
    },
    set_up=_set_up_postgresql,
    connect=_connect_postgresql,
    wait_for_locks=_wait_on_postgresql,
    answer_args=("answer_seconds",),
    on_connect=(
        "set time zone 'UTC'",
        "set datestyle = 'ISO'",  # the only one that psycopg reads moments in
        "set lock_timeout = '10s'",
        "set statement_timeout = '60s'",
        "set default_transaction_isolation = 'read committed'",  # also of what is read outside of transactions
        # A machine that froze or vanished in the middle of a transaction keeps its rows locked, and all others waiting.
        "set idle_in_transaction_session_timeout = '5s'",
    ),
    # A job may take its time. That it was killed, or its machine vanished, the server finds out by looking.
    on_connect_of_job=(
        "set lock_timeout = 0",
        "set statement_timeout = 0",
        "set idle_in_transaction_session_timeout = 0",
        "set client_connection_check_interval = '5s'",
        "set tcp_keepalives_idle = 5",
        "set tcp_keepalives_interval = 3",
        "set tcp_keepalives_count = 3",
    ),
    begin_write="begin isolation level read committed read write",
    announce="notify rota",
    announce_refused="54000",  # too many notifications in the NOTIFY queue
    listen="listen rota",
    # Of other accounts' sessions all but the process is NULL without the role pg_read_all_stats.
    find_transactions=(
        "select pid as session, extract(epoch from clock_timestamp() - xact_start) as seconds from pg_stat_activity "
        "where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid() "
        "and (backend_xmin is not null or backend_xid is not null) "
        "and extract(epoch from clock_timestamp() - xact_start) >= :seconds order by xact_start limit :limit"
    ),
    end_session="select pg_terminate_backend({})",
    server_version_min=(15,),
)

MYSQL = Dialect(
    name="mysql",
    claim_form=ClaimForm.LOCK_FIRST,
    wake_up=WakeUp.POLL,
    classify=_classify_mysql,
    connect_args={
        "connect_timeout": 10,
        "read_timeout": 75,
        "write_timeout": 75,
        "charset": "utf8mb4",
        "autocommit": True,
    },
    set_up=_set_up_mysql,
    connect=_connect_mysql,
    wait_for_locks=_wait_on_mysql,
    answer_args=("read_timeout", "write_timeout"),
    on_connect=(
        "set session transaction isolation level read committed",
        "set session time_zone = '+00:00'",
        "set session sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,ERROR_FOR_DIVISION_BY_ZERO'",
        # The first is for rows, the second for tables: by itself a day, and a year on MySQL. The third one as for
        # PostgreSQL. MySQL has none, and takes it for a comment.
        "set session innodb_lock_wait_timeout = 10, session lock_wait_timeout = 10 "
        "/*M! , session idle_transaction_timeout = 5 */",
    ),
    on_connect_of_job=(
        "set session innodb_lock_wait_timeout = 50, session lock_wait_timeout = default "
        "/*M! , session idle_transaction_timeout = 0 */",
    ),
    connect_args_of_job={"read_timeout": None, "write_timeout": None},
    begin_write="start transaction",
    # https://mariadb.com/kb/en/sql-statements-that-cause-an-implicit-commit/, but for those on temporary tables
    commits_by_itself=frozenset(
        "alter analyze check create drop flush grant lock optimize rename repair revoke truncate unlock".split()
    ),
    poll_seconds=0.95,  # nothing wakes a node here, and what is asked for by SQL is to be answered within a second
    # Of the whole server, as old rows are kept for any of them. They began by the clock of its machine's zone; whoever
    # lacks the right PROCESS is refused. Number 0 is the server's own work.
    find_transactions=(
        "select trx_mysql_thread_id as session, "
        "timestampdiff(second, trx_started, convert_tz(utc_timestamp(6), '+00:00', 'SYSTEM')) as seconds "
        "from information_schema.innodb_trx where trx_mysql_thread_id not in (0, connection_id()) "
        "and timestampdiff(second, trx_started, convert_tz(utc_timestamp(6), '+00:00', 'SYSTEM')) >= :seconds "
        "order by trx_started limit :limit"
    ),
    end_session="kill {}",
    server_version_min=(8, 0, 19),
    server_version_min_mariadb=(10, 6),
)

SQLITE = Dialect(
    name="sqlite",
    claim_form=ClaimForm.COMPARE_ALONE,
    wake_up=WakeUp.DATA_VERSION,
    classify=_classify_sqlite,
    connect_args={"timeout": 30.0, "check_same_thread": False},
    wait_for_locks=_wait_on_sqlite,
    lock_seconds=30.0,
    on_connect=(
        "pragma journal_mode = wal",
        "pragma synchronous = full",
        "pragma foreign_keys = on",
        # Beside the file: it grows while somebody reads for long, and afterwards gives back what is beyond this.
        "pragma journal_size_limit = 16777216",
    ),
    # A deferred transaction that reads and then writes is refused at once when another one wrote in between.
    begin_write="begin immediate",
    one_writer=True,
    server_version_min=(3, 35),
)

_DIALECTS = {"postgresql": POSTGRESQL, "mysql": MYSQL, "mariadb": MYSQL, "sqlite": SQLITE}
_DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql", "sqlite": "pysqlite"}


def dialect_named(name: str) -> Dialect:
    """Return the capabilities of the database that SQLAlchemy calls ``name``.

    Raises:
        NotSupported: Rota does not know it.
    """
    try:
        return _DIALECTS[name]
    except KeyError:
        meant = "; did you mean postgresql://?" if name == "postgres" else ""
        raise NotSupported(
            f"database {name!r} is not supported: use sqlite, postgresql, mysql or mariadb in the URL{meant}"
        ) from None


def dialect_of(url: URL) -> tuple[Dialect, URL]:
    """Return the capabilities for ``url``, and ``url`` with the driver that Rota uses.

    Raises:
        NotSupported: another database, or another driver than ours.
    """
    backend = url.get_backend_name()
    dialect = dialect_named(backend)
    driver = _DRIVERS[backend]
    if url.drivername == backend:
        return dialect, url.set(drivername=f"{backend}+{driver}")
    if url.drivername != f"{backend}+{driver}":
        raise NotSupported(f"driver {url.drivername!r} is not supported: write {backend}+{driver}:// in the URL")
    return dialect, url


NETWORK_FILE_SYSTEMS = frozenset(
    "nfs nfs4 cifs smb3 smbfs ncpfs afs 9p glusterfs ceph lustre gpfs fuse.sshfs fuse.glusterfs fuse.ceph".split()
)


def refuse_network_file_system(path: Path, mountinfo: str) -> None:
    """Refuse a SQLite file on a file system whose locks cannot be trusted.

    ``mountinfo`` is the text of ``/proc/self/mountinfo``; the longest mount point above ``path`` decides.

    Raises:
        NotSupported: it is shared over a network.
    """
    best, kind = "", ""
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        parts = fields.split()
        if len(parts) < 5 or not rest:
            continue
        point = parts[4].replace("\\040", " ")
        if path.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, rest.split()[0]
    if kind in NETWORK_FILE_SYSTEMS:
        raise NotSupported(
            f"SQLite file {str(path)!r} is on a network file system ({kind} at {best}), where locks do not hold: "
            "put it on a local disk, or use PostgreSQL or MariaDB"
        )
