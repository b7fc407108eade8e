"""Asking for runs: in transactions of our own, or inside one of the caller's.

Invariant: a request makes one run however often its transaction is tried, since its id is made before. In the caller's
own transaction nothing is committed or tried again here: the run exists exactly if they commit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from rota import crash
from rota.errors import Conflict, DatabaseUnavailable, UsageError
from rota.model.run import Made, NewRun
from rota.store.creation import make_runs, request_ids
from rota.store.database import Database, first_line
from rota.store.dialects import Trouble
from rota.store.moves import Stale
from rota.store.tables import run
from rota.store.wakeup import announce

_KEY_MOVES = "another transaction asks for a run of the same job and key, or ends it, at this moment"
REQUESTS_PER_TRANSACTION = 1000
TRIES_MAX = 5


_asked = select(run.c.job, run.c.args, run.c.request_id, run.c.group_id)
READ_ASKED = _asked.where(run.c.id == bindparam("id"))


def request_once(database: Database, new: NewRun, word: str) -> Made:
    """Make a run, or a group of them, once for each ``word`` of whoever asks: a request sent again gets what it made.

    It is known as long as its run is kept. A run that held the key of the request is no run that it has made.

    Raises:
        Conflict: the same word has asked for a run of another job, or with other arguments; nothing was stored.
        As ``request_runs``.
    """
    digest = hashlib.blake2b(f"{new.requested_by}\0{word}".encode(errors="surrogatepass"), digest_size=20).hexdigest()
    request = f"once:{digest}"

    def check(connection: Connection, made: list[Made]) -> None:
        row = connection.execute(READ_ASKED, {"id": made[0].run_id}).one()
        if request in (row.request_id, row.group_id) and (row.job, row.args) != (new.job, new.args):
            raise Conflict(
                f"request {word!r} has asked for run {made[0].run_id} of job {row.job} before, and not for this: "
                "give each request a word of its own"
            )

    return _request(database, [new], [request], check)[0]


def request_runs(database: Database, wanted: Sequence[NewRun]) -> list[Made]:
    """Make a run, or a group of them, of each of ``wanted`` and tell them in order: up to 1000 in one transaction.

    A key that a run of the same job holds gives that run. When it raises midway through more than 1000, the
    transactions before have happened: give the runs keys to be able to send all of them again.

    Raises:
        NotFound: there is no job of that name; nothing of this transaction was stored.
        Conflict: a job runs on all nodes of its pool, and none is registered; nothing of this transaction was stored.
        DatabaseUnavailable: nobody answers.
    """
    made: list[Made] = []
    for start in range(0, len(wanted), REQUESTS_PER_TRANSACTION):
        chunk = wanted[start : start + REQUESTS_PER_TRANSACTION]
        made += _request(database, chunk, request_ids(len(chunk)))
    return made


def _request(
    database: Database,
    wanted: Sequence[NewRun],
    requests: Sequence[str],
    check: Callable[[Connection, list[Made]], None] = lambda _connection, _made: None,
) -> list[Made]:
    def ask(connection: Connection) -> list[Made]:
        made = make_runs(connection, wanted, requests)
        check(connection, made)
        announce(connection)
        crash.at("enqueue.written")
        return made

    for _ in range(TRIES_MAX):
        try:
            made = database.write(ask, repeatable=True)
            crash.at("enqueue.committed")
            return made
        except DBAPIError as error:
            # Somebody took the same key between our look and our insert: look again, and find theirs.
            if database.dialect.classify(error) is not Trouble.TAKEN:
                raise
            database.retries += 1
        except Stale:
            database.retries += 1
    raise DatabaseUnavailable(
        f"the keys of these runs were taken and given back {TRIES_MAX} times meanwhile; nothing was stored, try again"
    )


def request_runs_within(database: Database, connection: Connection, wanted: Sequence[NewRun]) -> list[Made]:
    """Make a run, or a group, of each of ``wanted`` in the transaction that ``connection`` is in.

    Raises:
        NotFound: there is no job of that name; nothing was inserted.
        Conflict: another transaction asks for the same key at this moment, or ends the run that held it; roll back and
            try again.
    """
    _lend_clock(database, connection)
    try:
        made = make_runs(connection, wanted, request_ids(len(wanted)))
        announce(connection)
    except DBAPIError as error:
        if database.dialect.classify(error) is Trouble.TAKEN:
            raise Conflict(f"{_KEY_MOVES}: roll back and try again ({first_line(error)})") from error
        raise
    except Stale as error:
        raise Conflict(f"{_KEY_MOVES}: roll back and try again") from error
    return made


def _lend_clock(database: Database, connection: Connection) -> None:
    """Give a connection that is not ours the clock that our statements ask, where the database has it from us."""
    driver: Any = connection.connection.driver_connection
    if hasattr(driver, "create_function"):  # SQLite alone lets its client define functions
        driver.create_function("rota_now", 1, database.sqlite_now)


def connection_of(transaction: object) -> Connection:
    """Return the connection of a transaction: itself, or that of an ORM session, which is flushed first.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(transaction, Connection):
        return transaction
    if isinstance(transaction, Session):
        # What the session holds back must be there before the run that may read it.
        transaction.flush()
        return transaction.connection()
    raise UsageError(f"a SQLAlchemy Connection or Session is needed, not {type(transaction).__name__}")
