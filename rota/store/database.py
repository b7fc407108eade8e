"""The connection to the database: transactions that are retried as a whole, and the database's clock.

Invariant: nothing is sent outside ``read`` and ``write``, and whoever calls ``write`` acts on the world only after it
has returned. A lost answer to COMMIT is told apart from a refusal, since the work may have been done.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import random
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import NullPool, QueuePool

from rota.errors import ConfigError, DatabaseRefused, DatabaseUnavailable, NotSupported
from rota.store.dialects import Trouble, dialect_of, refuse_network_file_system
from rota.store.types import db_now

log = logging.getLogger("rota.store")

T = TypeVar("T")

TRIES_MAX = 10
BACKOFF_SECONDS = 0.01
BACKOFF_SECONDS_MAX = 1.0
LEAVE_OUT_SECONDS = 0.1  # how long a lock is waited for by what is left out rather than waited for

SELECT_NOW = select(db_now())

Sleep = Callable[[float], None]


def parse_url(text: str) -> URL:
    """Read a database URL.

    Raises:
        ConfigError: it is not one.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        raise ConfigError(
            "the database URL cannot be read: write for example sqlite:////var/lib/rota/rota.db or "
            "postgresql://user@host/name"
        ) from error
    if url.host and "@" in url.host:  # not shown: it may be the end of a password
        raise ConfigError("the database URL has two @: write the one that belongs to the password as %40")
    return url


class Database:
    """One database, reached over at most ``connections_max`` connections."""

    def __init__(
        self,
        url: str | URL,
        *,
        connections_max: int = 2,
        sleep: Sleep = time.sleep,
        of_job: bool = False,
        answer_seconds: float | None = None,  # after which a server that is silent counts as gone
        patience_seconds: float | None = None,  # longest wait for a lock, and after it nothing is tried again
    ) -> None:
        self._of_job = of_job  # in the hands of a job
        self.dialect, self.url = dialect_of(parse_url(url) if isinstance(url, str) else url)
        self.retries = 0  # transactions tried again, for the metrics
        self._unheard = 0  # transactions committed without the wake-up that they had
        self._sleep = sleep
        self._patience_seconds = patience_seconds
        self._lock_seconds = self.dialect.lock_seconds if patience_seconds is None else patience_seconds
        self._answer_args = {} if answer_seconds is None else dict.fromkeys(self.dialect.answer_args, answer_seconds)
        self.engine = self._make_engine(connections_max)

    def __repr__(self) -> str:
        return f"Database({self.shown_url})"

    @property
    def shown_url(self) -> str:
        """The URL as people may see it: without the password, and without parameters, which may hold one too."""
        return self.url.set(query={}).render_as_string(hide_password=True)

    def missing_file(self) -> str | None:
        """Return the path of the SQLite file if there is none yet; connecting would make an empty one."""
        if self.dialect.name != "sqlite" or not self.url.database or Path(self.url.database).exists():
            return None
        return str(Path(self.url.database).absolute())

    def _make_engine(self, connections_max: int) -> Engine:
        options: dict[str, Any] = {"poolclass": QueuePool, "pool_size": connections_max, "max_overflow": 0}
        if self.dialect.name == "sqlite":
            path = self.url.database
            if self.url.host:
                rule = f"write sqlite:///{self.url.host} for that file here, or sqlite:////path for another"
                raise ConfigError(f"the SQLite URL has a host, {self.url.host!r}, and no file: {rule}")
            if not path or path == ":memory:":
                raise NotSupported("an in-memory SQLite database cannot be shared by processes: name a file")
            if (mounts := Path("/proc/self/mountinfo")).exists():
                refuse_network_file_system(Path(path).absolute(), mounts.read_text())
        try:
            # Without a URL parameter of the same name, ours is the default.
            ours = self.dialect.connect_args | (self.dialect.connect_args_of_job if self._of_job else {})
            ours |= self._answer_args
            arguments = {key: value for key, value in ours.items() if key not in self.url.query}
            # Each statement commits by itself unless `write` opened a transaction, and `write` ends what it opened:
            # the pool has nothing to roll back, and an idle node's look is one statement.
            engine = create_engine(
                self.url,
                connect_args=arguments,
                pool_timeout=60 if self._patience_seconds is None else self._patience_seconds,
                pool_reset_on_return=None,
                hide_parameters=True,  # arguments, results and input of jobs do not belong into a log
                skip_autocommit_rollback=True,
                **options,
            )
        except (ArgumentError, NoSuchModuleError) as error:
            raise ConfigError(f"the database URL cannot be used: {error}") from error
        except ModuleNotFoundError as error:
            extra = "postgresql" if self.dialect.name == "postgresql" else "mysql"
            raise ConfigError(
                f"the driver {error.name} for {self.dialect.name} is not installed: pip install 'rota[{extra}]'"
            ) from error
        if self.dialect.connect is not None:
            event.listen(engine, "do_connect", self.dialect.connect)
        event.listen(engine, "connect", self._set_up)
        event.listen(engine, "begin", self._begin)
        return engine

    def _set_up(self, connection: Any, _record: Any) -> None:
        if self.dialect.name == "sqlite":
            connection.isolation_level = None  # the driver must not open transactions of its own
            connection.create_function("rota_now", 1, self.sqlite_now)
            # SQLite keeps bytes that are no UTF-8 as text; one such value must not make every list unreadable.
            connection.text_factory = functools.partial(str, encoding="utf-8", errors="replace")
        if self.dialect.set_up is not None:
            self.dialect.set_up(connection)
        cursor = connection.cursor()
        if self._patience_seconds is not None and self.dialect.name == "sqlite":
            cursor.execute(self.dialect.wait_for_locks(self._patience_seconds))  # what follows may wait too
        for statement in self.dialect.on_connect + (self.dialect.on_connect_of_job if self._of_job else ()):
            cursor.execute(statement)
        if self._patience_seconds is not None:
            cursor.execute(self.dialect.wait_for_locks(self._patience_seconds))
        cursor.close()

    def sqlite_now(self, plus_microseconds: float) -> str:
        """Answer ``rota_now`` in SQL, on SQLite, which has no clock of microseconds."""
        microseconds = time.time_ns() // 1000 + int(plus_microseconds)
        seconds, rest = divmod(microseconds, 1_000_000)
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds)) + f".{rest:06d}"

    def _begin(self, connection: Connection) -> None:
        if not connection.get_execution_options().get("rota_read"):
            connection.exec_driver_sql(self.dialect.begin_write)

    def read(self, work: Callable[[Connection], T], *, over: Connection | None = None) -> T:
        """Run ``work`` without writing; tried again as a whole on passing trouble.

        Each statement sees what was committed before it. ``over`` is a connection to use instead of one of the pool's.

        Raises:
            DatabaseUnavailable: nobody answers; calling again is safe.
        """
        return self._attempt(work, repeatable=True, read=True, over=over)

    def write(self, work: Callable[[Connection], T], *, repeatable: bool, over: Connection | None = None) -> T:
        """Run ``work`` in one transaction and commit; tried again as a whole on passing trouble.

        ``repeatable`` says that doing the whole of it twice has the effect of doing it once (compare-and-set, unique
        keys). Only such work is tried again after a COMMIT whose answer was lost.

        Raises:
            DatabaseUnavailable: nobody answers. With ``outcome_unknown`` the work may or may not have been done.
            DatabaseRefused: the database does not want a statement of it; nothing was written.
        """
        return self._attempt(work, repeatable=repeatable, read=False, over=over)

    def write_or_leave_out(self, work: Callable[[Connection], object]) -> bool:
        """Run ``work`` in one transaction if that can be at once; False: it was left out.

        For notes that are as good a little later: it is tried once, waits a moment at most for what others have locked,
        and raises nothing that the database says, whether it cannot write now or does not want to.
        """
        try:
            with self.engine.connect() as connection:
                try:
                    self._wait_for_locks(connection, LEAVE_OUT_SECONDS)
                    connection.execution_options(rota_read=False, rota_quiet=False)
                    work(connection)
                    connection.commit()
                    self._wait_for_locks(connection, self._lock_seconds)
                except BaseException:
                    self._roll_back(connection)
                    if not connection.invalidated:
                        self._wait_for_locks(connection, self._lock_seconds)
                    raise
        except (DBAPIError, PoolTimeout) as error:
            log.debug("left out: %s", first_line(error) if isinstance(error, DBAPIError) else error)
            return False
        return True

    def _wait_for_locks(self, connection: Connection, seconds: float) -> None:
        try:
            connection.execution_options(rota_read=True)
            connection.exec_driver_sql(self.dialect.wait_for_locks(seconds))
            connection.rollback()  # sends nothing
        except BaseException:
            connection.invalidate()  # nobody knows how long it would wait
            raise

    def _attempt(self, work: Callable[[Connection], T], *, repeatable: bool, read: bool, over: Connection | None) -> T:
        tried = 0
        quiet = False
        began_at = time.monotonic()
        while True:
            tried += 1
            committing = False
            try:
                with self.engine.connect() if over is None else contextlib.nullcontext(over) as connection:
                    try:
                        connection.execution_options(rota_read=read, rota_quiet=quiet)
                        answer = work(connection)
                        if read:
                            connection.rollback()  # sends nothing; PyMySQL would send a COMMIT
                        else:
                            committing = True
                            connection.commit()
                        return answer
                    except BaseException as error:
                        self._roll_back(connection)
                        if isinstance(error, DBAPIError) and self._classify(error, committing) is Trouble.GONE:
                            # The server may be back under its address, and this lead to one that is read-only now.
                            connection.invalidate()
                        raise
            except DBAPIError as error:
                trouble = self._classify(error, committing)
                if committing and not quiet and self._is_wake_up_refused(error):
                    quiet = True  # nothing was committed; the others find it by themselves
                    continue
                if committing and trouble is Trouble.GONE and not repeatable:
                    raise DatabaseUnavailable(
                        f"the connection broke during COMMIT: {first_line(error)}", outcome_unknown=True
                    ) from error
                if trouble is Trouble.TAKEN:
                    raise  # to the function of the store that knows which name or key it was
                if trouble is Trouble.OURS:
                    raise DatabaseRefused(f"the database refused a statement: {first_line(error)}") from error
                # A lost connection is worth a few quick tries only: whoever waits for minutes is the caller's loop.
                # After a COMMIT without an answer another try may find out, which costs less than not to know.
                is_known = not (committing and trouble is Trouble.GONE)
                if tried >= (TRIES_MAX if trouble is Trouble.AGAIN else 3) or (is_known and self._is_out_of(began_at)):
                    raise DatabaseUnavailable(f"the database does not answer: {first_line(error)}") from error
                self.retries += 1
                log.debug("transaction tried again after %s: %s", trouble.value, first_line(error))
            except PoolTimeout as error:  # all connections are in use
                raise DatabaseUnavailable(f"no connection came free: {error}") from error
            self._sleep(min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS * 2**tried) * random.uniform(0.5, 1.5))

    def _is_out_of(self, began_at: float) -> bool:
        return self._patience_seconds is not None and time.monotonic() - began_at >= self._patience_seconds

    def _classify(self, error: DBAPIError, committing: bool) -> Trouble:
        trouble = self.dialect.classify(error)
        # Refused before any work of ours: a password that was changed, a locked account, a standby that begins nothing.
        is_before = not committing and error.statement in {None, self.dialect.begin_write}
        return Trouble.GONE if trouble is Trouble.OURS and is_before else trouble

    def _is_wake_up_refused(self, error: DBAPIError) -> bool:
        """Tell whether the server takes no more wake-ups, and refuses the COMMIT of whoever has one."""
        state = self.dialect.announce_refused
        if state is None or getattr(error.orig, "sqlstate", None) != state:
            return False
        self._unheard += 1
        if self._unheard & (self._unheard - 1) == 0:  # the 1st, 2nd, 4th, 8th and so on
            log.warning(
                "the database takes no wake-ups, %d times by now, and nodes find at their next poll what was written: "
                "%s; whoever listens within a transaction that stays open keeps its queue full",
                self._unheard,
                first_line(error),
            )
        return True

    def _roll_back(self, connection: Connection) -> None:
        # The driver commits each statement by itself, so neither it nor the pool would end the transaction for us.
        try:
            if not connection.invalidated:
                in_write = not connection.get_execution_options().get("rota_read")
                if connection.in_transaction() and in_write:
                    connection.exec_driver_sql("rollback")
            connection.rollback()
        except DBAPIError:
            connection.invalidate()
            connection.rollback()

    def fingerprint(self) -> str:
        """Return ten letters that tell this database from others on this machine, and give nothing away."""
        url = self.url
        if self.dialect.name == "sqlite":  # the same relative path names another file elsewhere
            url = url.set(database=str(Path(url.database or "").absolute()))
        return hashlib.sha256(url.render_as_string(hide_password=True).encode()).hexdigest()[:10]

    def now(self) -> datetime:
        """Return the database's time."""
        return self.read(lambda connection: now_of(connection))

    def server_version(self) -> str:
        """Return the server's version, as it names itself; refuse one that is too old.

        Raises:
            NotSupported: a database older than what Rota is tested with.
        """

        def ask(connection: Connection) -> tuple[tuple[int, ...], bool]:
            facts = connection.dialect
            numbers = tuple(part for part in facts.server_version_info or () if isinstance(part, int))
            return numbers, bool(getattr(facts, "is_mariadb", False))

        version, is_mariadb = self.read(ask)
        needed = self.dialect.server_version_min_mariadb if is_mariadb else self.dialect.server_version_min
        shown = ".".join(map(str, version))
        if version < needed:
            raise NotSupported(
                f"{'MariaDB' if is_mariadb else self.dialect.name} {shown} is too old: "
                f"Rota needs {'.'.join(map(str, needed))} or newer"
            )
        return shown

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()


def connect_elsewhere(url: str) -> Engine:
    """Make an engine for a database that is not Rota's, by any driver that is installed.

    Raises:
        ConfigError: there is none for this URL, or it is no URL.
    """
    parsed = parse_url(url)
    with contextlib.suppress(NotSupported):
        parsed = dialect_of(parsed)[1]  # by the drivers that come with Rota, where it is one of their databases
    try:
        return create_engine(parsed, poolclass=NullPool, hide_parameters=True)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise ConfigError(f"the URL of the connection cannot be used: {error}") from error


def now_of(connection: Connection) -> datetime:
    """Return the database's time, asked inside a transaction."""
    moment = connection.execute(SELECT_NOW).scalar_one()
    assert isinstance(moment, datetime)
    return moment


def first_line(error: DBAPIError) -> str:
    """Say what the database said, on one line and without the statement."""
    return str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
