"""The transaction of a transactional job: what it writes and the end of its run commit together, or not at all.

Used in the job's own process. Invariant: nothing commits but ``end``, and that only while the attempt's claim is
current; so the rows of the job are there exactly when its run is ``succeeded``. The run's row is touched last: renewals
and a cancellation never wait for the job.

What the database itself brings about (a lost connection, a deadlock) is told as ``Undone``: the attempt is lost, as
with its node, and no retry is spent.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import Connection, event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, StatementError

from rota import crash
from rota.errors import Invalid, Preempted, StateError
from rota.model.durations import format_duration
from rota.model.run import End
from rota.store.database import Database, connect_elsewhere, first_line, parse_url
from rota.store.dialects import Dialect, Trouble
from rota.store.endings import end_within
from rota.store.moves import Stale

LEASE_PART = 3  # what a transaction may take of its lease where it keeps all others from writing

WORDS_MAX = 40  # of a statement, in a sentence: characters

_ENDS_BY_WORD = frozenset({"abort", "begin", "commit", "end", "rollback", "start", "xa"})


class Undone(Exception):
    """The database has undone the transaction. Told by ``report_outcome``, as what a job raises to ask for an end."""

    __rota_outcome__: ClassVar[str] = "undone"


class JobTransaction:
    """One transaction on Rota's database, begun when it is first asked for."""

    def __init__(self, url: str, *, claim_id: str, run_id: int, fence: int) -> None:
        self._database = Database(url, connections_max=1, of_job=True)
        self._claim_id, self._run_id, self._fence = claim_id, run_id, fence
        self._connection: Connection | None = None
        self._is_ours = False  # what is sent now is not the job's
        self._troubles: list[BaseException] = []  # that undid the transaction, whatever the job makes of them
        engine = self._database.engine
        event.listen(engine, "commit", self._refuse_commit)
        event.listen(engine, "rollback", self._refuse_rollback)
        event.listen(engine, "before_cursor_execute", self._look_at_statement)
        event.listen(engine, "handle_error", self._note_trouble)

    @property
    def connection(self) -> Connection:
        """The connection, with the transaction begun.

        Raises:
            Undone: the database does not let it begin.
        """
        if self._connection is None:
            with self._ours():
                connection = self._database.engine.connect()
                self._connection = connection
                connection.begin()
        return self._connection

    def end(self, result: str) -> None:
        """Write that the attempt ended well with ``result``, JSON text, and commit.

        Raises:
            Preempted: the claim is not current any more; everything was undone.
            Undone: the database did not take it, or the answer to COMMIT was lost: then the ledger tells.
        """
        connection = self.connection
        with self._ours():
            end = End(self._claim_id, self._run_id, "succeeded", result=result)
            try:
                is_current = end_within(connection, end)
            except Stale as error:
                raise Undone(str(error)) from error
            if not is_current:
                raise Preempted(self._run_id, self._fence)
            crash.at("transaction.written")
            connection.commit()
            crash.at("transaction.committed")

    def close(self) -> None:
        """Give the connection back; what was not committed is undone."""
        self._is_ours = True
        if self._connection is not None:
            with contextlib.suppress(DBAPIError):
                self._connection.invalidate()  # closing it is what surely ends the transaction, here as when killed
                self._connection.close()
        self._database.close()

    def find_trouble(self, error: BaseException) -> Undone | None:
        """Tell whether ``error``, which the job has raised, comes from trouble that undid the transaction."""
        at: BaseException | None = error
        while at is not None:
            if any(at is trouble for trouble in self._troubles):
                return Undone(first_line(at) if isinstance(at, DBAPIError) else str(at))
            at = at.__cause__ or at.__context__
        return None

    @contextlib.contextmanager
    def _ours(self) -> Generator[None]:
        self._is_ours = True
        try:
            yield
        except DBAPIError as error:
            if self._database.dialect.classify(error) in {Trouble.AGAIN, Trouble.GONE}:
                raise Undone(first_line(error)) from error
            raise
        finally:
            self._is_ours = False

    def _refuse_commit(self, _connection: Connection) -> None:
        if not self._is_ours:
            raise StateError(
                "the transaction of a transactional job is committed with the end of its run: return instead of "
                "committing, and use begin_nested() for a part that may be undone"
            )

    def _refuse_rollback(self, connection: Connection) -> None:
        if not self._is_ours and not connection.invalidated:
            raise StateError(
                "the transaction of a transactional job is undone when it raises: raise instead of rolling back, and "
                "use begin_nested() for a part that may be undone"
            )

    def _look_at_statement(
        self, _connection: Connection, _cursor: Any, statement: str, _values: Any, _context: Any, _many: bool
    ) -> None:
        if self._is_ours:
            return
        words = statement.lower().split(None, 2)
        first, second = words[0] if words else "", words[1] if len(words) > 1 else ""
        by_itself = first in self._database.dialect.commits_by_itself and second != "temporary"
        if by_itself or (first.rstrip(";") in _ENDS_BY_WORD and second != "to"):
            raise StateError(
                f"{first.upper()} would end the transaction of a transactional job, which ends with its run: "
                "leave it out, or do it in a job with another delivery"
            )

    def _note_trouble(self, context: ExceptionContext) -> None:
        error = context.sqlalchemy_exception
        if isinstance(error, DBAPIError):
            is_again = self._database.dialect.classify(error) is Trouble.AGAIN
            if is_again or context.is_disconnect:
                self._troubles.append(error)


def run_on(url: str, work: Callable[[Connection], Any]) -> Any:
    """Do ``work`` in one transaction on another database than Rota's, and commit.

    Raises:
        ConfigError: there is no driver for the URL, or it is no URL.
    """
    engine = connect_elsewhere(url)
    try:
        with plainly(), engine.begin() as connection:
            return work(connection)
    finally:
        engine.dispose()


def run_statements(
    connection: Connection, statements: Sequence[str], values: Mapping[str, Any], show: Callable[[str], None]
) -> list[int]:
    """Execute ``statements`` in order, and return how many rows each changed or gave.

    ``:name`` in a statement is the value of that name; each row of an answer is shown as a line of JSON.
    """
    counts: list[int] = []
    for number, statement in enumerate(statements, 1):
        words = " ".join(statement.split())
        which = f"statement {number}, {words if len(words) <= WORDS_MAX else words[:WORDS_MAX] + '...'}"
        with plainly(f"{which}: "):
            counts.append(_run_statement(connection, statement, values, show, which))
    return counts


@contextlib.contextmanager
def plainly(where: str = "") -> Generator[None]:
    """Have what is raised say in one line what the database said, and ``where``; types and causes stay."""
    try:
        yield
    except StatementError as error:
        if error.code is not None or error.statement is not None:  # else it was done within
            error.args = (f"{where}{_sentence_of(error.orig) if error.orig is not None else error.args[0]}",)
            error.code = error.statement = error.params = None
        raise


def _sentence_of(error: BaseException) -> str:
    # PyMySQL gives a number and a sentence, the others the sentence, and below it where in the statement it is.
    given = error.args[1] if len(error.args) == 2 and isinstance(error.args[1], str) else str(error)
    return (given.strip().splitlines() or [type(error).__name__])[0]


def _run_statement(
    connection: Connection, statement: str, values: Mapping[str, Any], show: Callable[[str], None], which: str
) -> int:
    prepared = text(statement)
    names = prepared.compile().params
    if missing := [name for name in names if name not in values]:
        given = json.dumps(dict.fromkeys(missing, "..."))
        raise TypeError(f"{which}: it has no value for :{', :'.join(missing)}; give it with --args '{given}'")
    wanted = {name: values[name] for name in names}
    answer = connection.execute(prepared, wanted)
    if not answer.returns_rows:
        return answer.rowcount
    count = 0
    for row in answer.mappings():
        show(json.dumps(dict(row), default=str, ensure_ascii=False))
        count += 1
    return count


def url_for_job(url: str) -> str:
    """Return the URL for a process that works in another folder."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        parsed = parsed.set(database=str(Path(parsed.database).absolute()))
    return parsed.render_as_string(hide_password=False)


def check_time_of_transaction(dialect: Dialect, timeout_seconds: float | None, lease_seconds: float) -> None:
    """Refuse a transactional job that might keep others from renewing their leases: on SQLite, with its one writer.

    Raises:
        Invalid: it has no time limit, or one above a third of the lease.
    """
    if not dialect.one_writer:
        return
    longest = lease_seconds / LEASE_PART
    if timeout_seconds is None or timeout_seconds > longest:
        rule = (
            f"on SQLite, where one writes at a time, a transactional job has a time limit of at most a third of its "
            f"lease, {longest:g} s of {lease_seconds:g} s: give such a timeout, or a longer lease"
        )
        raise Invalid("timeout", None if timeout_seconds is None else format_duration(timeout_seconds), rule)
