"""Transactions that are tried again as a whole, and answers to COMMIT that are lost."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, NullPool, create_engine, event, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from rota.errors import ConfigError, DatabaseRefused, DatabaseUnavailable, NotSupported
from rota.store.database import TRIES_MAX, Database, now_of, parse_url
from tests.store.trouble import commit_breaks, kill_connections, locked

INSERT = text("insert into rota_pool (name, created_at) values (:name, '2026-11-02 12:00:00.000000')")
NAMES = text("select name from rota_pool order by name")


class Pauses(list[float]):
    """The pauses that a database makes between its tries, none of them waited for."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture
def database(database_url: str, pauses: Pauses) -> Iterator[Database]:
    made = Database(database_url, sleep=pauses)
    yield made
    made.close()


def add(database: Database, name: str, *, repeatable: bool = False) -> None:
    database.write(lambda connection: connection.execute(INSERT, {"name": name}), repeatable=repeatable)


def names(database: Database) -> list[str]:
    return database.read(lambda connection: list(connection.execute(NAMES).scalars()))


def test_a_write_is_there_once_it_has_returned(database: Database, database_url: str) -> None:
    add(database, "one")

    other = Database(database_url)
    assert names(other) == ["one"]
    other.close()


LOCK = "update rota_pool set created_at = created_at"
RENAME = text("update rota_pool set name = 'two'")


def rename(connection: Connection) -> None:
    connection.execute(RENAME)


def test_what_is_locked_by_others_is_waited_for_no_longer_than_the_patience_lasts(
    database_url: str, pauses: Pauses
) -> None:
    hasty = Database(database_url, sleep=pauses, patience_seconds=0.1)
    add(hasty, "one")

    with locked(database_url, LOCK):
        with pytest.raises(DatabaseUnavailable):
            hasty.write(rename, repeatable=True)
        assert names(hasty) == ["one"]
    assert pauses == []  # it was tried once
    hasty.write(rename, repeatable=True)
    assert names(hasty) == ["two"]
    hasty.close()


def test_what_may_be_left_out_is_left_out_where_it_cannot_be_at_once_and_nothing_else_is(
    database: Database, database_url: str
) -> None:
    add(database, "one")
    ask = {
        "sqlite": "pragma busy_timeout",
        "postgresql": "show lock_timeout",
        "mysql": "select @@innodb_lock_wait_timeout + @@lock_wait_timeout",
    }[database.dialect.name]

    def wait_of(connection: Connection) -> Any:
        return connection.exec_driver_sql(ask).scalar_one()

    before = database.read(wait_of)

    with locked(database_url, LOCK):
        assert not database.write_or_leave_out(rename)
        assert database.read(wait_of) == before
    assert names(database) == ["one"]
    assert not database.write_or_leave_out(
        lambda connection: connection.execute(text("update no_such_table set a = 1"))
    )
    assert database.write_or_leave_out(rename)
    assert names(database) == ["two"]
    assert database.read(wait_of) == before


def test_a_write_that_raises_leaves_nothing_behind(database: Database) -> None:
    def work(connection: Connection) -> None:
        connection.execute(INSERT, {"name": "one"})
        raise LookupError("no")

    with pytest.raises(LookupError):
        database.write(work, repeatable=False)

    assert names(database) == []
    add(database, "two")  # on the same connection
    assert names(database) == ["two"]


def test_a_write_opens_one_transaction_and_a_read_none(database: Database) -> None:
    sent: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *given: sent.append(given[2]))

    names(database)
    assert len(sent) == 1

    add(database, "one")
    assert [statement == database.dialect.begin_write for statement in sent] == [False, True, False]


def test_a_name_that_is_taken_is_left_to_the_function_that_knows_it(database: Database, pauses: Pauses) -> None:
    add(database, "one")

    with pytest.raises(IntegrityError):
        add(database, "one")

    assert pauses == []
    assert names(database) == ["one"]


def test_a_statement_that_the_database_refuses_is_not_tried_again(database: Database, pauses: Pauses) -> None:
    with pytest.raises(DatabaseRefused, match="no_such_table"):
        database.read(lambda connection: connection.execute(text("select * from no_such_table")))

    assert pauses == []
    assert names(database) == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_repeatable_work_is_done_again_after_a_lost_commit(database: Database, when: Any) -> None:
    calls: list[int] = []

    def work(connection: Connection) -> str:
        calls.append(1)
        if "one" not in connection.execute(NAMES).scalars().all():
            connection.execute(INSERT, {"name": "one"})
        return "done"

    with commit_breaks(database, when):
        assert database.write(work, repeatable=True) == "done"

    assert (len(calls), names(database), database.retries) == (2, ["one"], 1)


@pytest.mark.parametrize(("when", "expected"), [("before", []), ("after", ["one"])])
def test_work_that_is_not_repeatable_tells_that_its_outcome_is_unknown(
    database: Database, when: Any, expected: list[str]
) -> None:
    with commit_breaks(database, when), pytest.raises(DatabaseUnavailable) as caught:
        add(database, "one")

    assert caught.value.outcome_unknown
    assert names(database) == expected


def test_a_connection_that_stays_broken_is_given_up_after_a_few_tries(database: Database, pauses: Pauses) -> None:
    with commit_breaks(database, "before", times=100) as broken, pytest.raises(DatabaseUnavailable) as caught:
        add(database, "one", repeatable=True)

    assert not caught.value.outcome_unknown
    assert (len(broken), len(pauses)) == (3, 2)
    assert names(database) == []


def test_a_connection_that_the_server_has_ended_is_made_anew(
    database: Database, database_url: str, database_kind: str
) -> None:
    names(database)
    if database_kind == "sqlite":
        database.engine.pool.dispose()  # a file has no server that could end it
    else:
        killer = Database(database_url)
        assert kill_connections(database, killer) >= 1
        killer.close()

    add(database, "one")

    assert names(database) == ["one"]


def test_a_server_that_has_become_read_only_is_left_for_a_new_connection(
    database: Database, database_kind: str
) -> None:
    if database_kind != "postgresql":
        pytest.skip("elsewhere no single transaction can be made to fail so")
    asked: list[int] = []

    def work(connection: Connection) -> None:
        asked.append(connection.exec_driver_sql("select pg_backend_pid()").scalar_one())
        if len(asked) == 1:
            connection.exec_driver_sql("set transaction read only")
        connection.execute(INSERT, {"name": "one"})

    database.write(work, repeatable=True)

    assert len(set(asked)) == len(asked) == 2
    assert names(database) == ["one"]


def make_deadlock(database: Database, pauses: Pauses, times: int) -> Any:
    """Return work that meets passing trouble at its first ``times`` tries, in the words of its database."""
    import sqlite3

    calls: list[int] = []

    def trouble() -> Exception:
        match database.dialect.name:
            case "postgresql":
                import psycopg

                return psycopg.errors.DeadlockDetected("deadlock detected")
            case "mysql":
                import pymysql

                return pymysql.err.OperationalError(1213, "Deadlock found when trying to get lock")
            case _:
                error = sqlite3.OperationalError("database is locked")
                error.sqlite_errorcode = sqlite3.SQLITE_BUSY
                return error

    def work(connection: Connection) -> int:
        calls.append(1)
        connection.execute(INSERT, {"name": f"try {len(calls)}"})
        if len(calls) <= times:
            raise DBAPIError("update", {}, trouble())
        return len(calls)

    return work


def test_what_a_frozen_node_has_locked_is_let_go_and_its_work_is_done_again(
    database: Database, database_kind: str, database_url: str
) -> None:
    if database_kind not in ("postgresql", "mariadb"):
        pytest.skip("no other server ends the transaction of a client that says nothing")
    tries: list[bool] = []

    def freezes(connection: Connection) -> None:
        connection.execute(INSERT, {"name": "frozen"})
        if not tries:
            tries.append(True)
            thread.start()
            thread.join(30)  # as if stopped, until the other one has got what is locked here
            tries.append(names(other) == ["frozen"])
        connection.execute(INSERT, {"name": "thawed"})

    other = Database(database_url)
    thread = threading.Thread(target=add, args=(other, "frozen"), kwargs={"repeatable": True})
    with pytest.raises(IntegrityError):  # the second try finds the name taken
        database.write(freezes, repeatable=True)

    assert tries == [True, True]
    assert names(database) == ["frozen"]
    other.close()


def test_a_deadlock_is_answered_by_doing_the_whole_again(database: Database, pauses: Pauses) -> None:
    assert database.write(make_deadlock(database, pauses, 3), repeatable=False) == 4

    assert names(database) == ["try 4"]
    assert database.retries == len(pauses) == 3


SHORT_WAITS = {
    "postgresql": "set lock_timeout = '100ms'",
    "mariadb": "set session innodb_lock_wait_timeout = 1",
    "mysql": "set session innodb_lock_wait_timeout = 1",
}


def test_a_write_that_waited_too_long_for_a_row_is_undone_as_a_whole_before_it_is_done_again(
    database_url: str, database_kind: str
) -> None:
    if database_kind not in SHORT_WAITS:
        pytest.skip("there a write waits before its first statement only")
    holder = create_engine(database_url, poolclass=NullPool).connect()
    troubles: list[object] = []
    tries: list[int] = []

    def shorten_waits(connection: Any, _record: Any) -> None:
        connection.cursor().execute(SHORT_WAITS[database_kind])

    def let_go(_seconds: float) -> None:
        """Give the row free once its writer has given up: between two tries."""
        if len(tries) == 2:
            holder.rollback()

    def note(context: Any) -> None:
        error = context.original_exception
        troubles.append(error.sqlstate if database_kind == "postgresql" else error.args[0])

    def work(connection: Connection) -> None:
        tries.append(1)
        connection.execute(text("insert into rota_event (at, kind) values ('2026-11-02 12:00:00.000000', 'health')"))
        connection.execute(text("update rota_pool set paused_by = concat(paused_by, '+') where name = 'locked'"))

    database = Database(database_url, sleep=let_go)
    event.listen(database.engine, "connect", shorten_waits)
    event.listen(database.engine, "handle_error", note)
    add(database, "locked")
    database.write(lambda c: c.execute(text("update rota_pool set paused_by = ''")), repeatable=True)
    holder.exec_driver_sql("select id from rota_pool where name = 'locked' for update")

    database.write(work, repeatable=False)

    # MySQL and MariaDB undo that one statement only, and leave the transaction open with what came before it.
    assert troubles == ["55P03" if database_kind == "postgresql" else 1205] * 2
    assert len(tries) == 3
    assert database.read(lambda c: c.execute(text("select count(*) from rota_event")).scalar()) == 1
    assert database.read(lambda c: c.execute(text("select paused_by from rota_pool")).scalar()) == "+"
    holder.close()
    database.close()


def test_tries_after_a_deadlock_end_and_wait_longer_each_time(database: Database, pauses: Pauses) -> None:
    with pytest.raises(DatabaseUnavailable):
        database.write(make_deadlock(database, pauses, 1000), repeatable=True)

    assert len(pauses) == TRIES_MAX - 1
    assert all(0.01 <= pause <= 1.5 for pause in pauses)
    assert max(pauses[:2]) < min(pauses[-2:])
    assert names(database) == []


def test_two_transactions_that_lock_in_opposite_order_both_get_done(
    database: Database, database_kind: str, database_url: str
) -> None:
    for name in ("one", "two"):
        add(database, name)
    change = text("update rota_pool set created_at = :at where name = :name")
    together = threading.Barrier(2)
    outcomes: list[str] = []
    retries: list[int] = []

    def turn(order: tuple[str, str]) -> None:
        own = Database(database_url)
        first_try = [True]

        def work(connection: Connection) -> None:
            connection.execute(change, {"at": "2026-11-02 13:00:00.000000", "name": order[0]})
            if first_try:
                first_try.clear()
                # Where writers exclude each other, the second has not begun.
                with contextlib.suppress(threading.BrokenBarrierError):
                    together.wait(2)
            connection.execute(change, {"at": "2026-11-02 13:00:00.000000", "name": order[1]})

        own.write(work, repeatable=True)
        outcomes.append(order[0])
        retries.append(own.retries)
        own.close()

    threads = [threading.Thread(target=turn, args=(order,)) for order in (("one", "two"), ("two", "one"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(outcomes) == ["one", "two"]
    if database_kind != "sqlite":  # where the second writer has not begun before the first has committed
        assert sum(retries) >= 1, "no deadlock came about"


def test_a_transaction_that_cannot_be_serialized_is_done_again(
    database: Database, database_kind: str, database_url: str
) -> None:
    if database_kind != "postgresql":
        pytest.skip("only PostgreSQL refuses a transaction for what another one has committed meanwhile")
    add(database, "one")
    change = text("update rota_pool set created_at = :at where name = 'one'")
    other = Database(database_url)
    tries: list[bool] = []

    def work(connection: Connection) -> None:
        connection.exec_driver_sql("set transaction isolation level serializable")
        connection.execute(NAMES).all()
        if not tries:
            other.write(lambda c: c.execute(change, {"at": "2026-11-02 13:00:00.000000"}), repeatable=True)
        tries.append(True)
        connection.execute(change, {"at": "2026-11-02 14:00:00.000000"})

    database.write(work, repeatable=True)

    assert len(tries) == 2
    assert database.retries == 1
    other.close()


def test_no_more_connections_are_opened_than_allowed(database_url: str) -> None:
    database = Database(database_url, connections_max=1)
    database.engine.pool._timeout = 0.01  # instead of a minute

    def work(_connection: Connection) -> None:
        database.read(now_of)

    with pytest.raises(DatabaseUnavailable, match="no connection came free"):
        database.read(work)
    database.close()


def test_now_is_the_databases_time_in_utc(database: Database) -> None:
    def ask(connection: Connection) -> tuple[datetime, datetime, datetime]:
        return now_of(connection), now_of(connection), now_of(connection)

    moments = database.write(ask, repeatable=True)

    assert moments[0].tzinfo is UTC
    # It moves on within a transaction, as leases need it to.
    assert moments[0] < moments[1] < moments[2]
    # The servers of the tests are on this machine.
    assert abs(database.now() - datetime.now(UTC)) < timedelta(minutes=5)


def test_the_session_zone_of_the_server_does_not_matter(database: Database, database_kind: str) -> None:
    set_zone = "set session time_zone = '+05:45'"
    odd = {"postgresql": "set time zone 'Asia/Kathmandu'", "mariadb": set_zone, "mysql": set_zone}
    before = database.now()

    def ask(connection: Connection) -> datetime:
        if statement := odd.get(database_kind):
            connection.exec_driver_sql(statement)
        return now_of(connection)

    assert abs(database.read(ask) - before) < timedelta(minutes=5)


def test_the_server_says_its_version(database: Database) -> None:
    assert database.server_version()[0].isdigit()


def test_a_server_that_is_too_old_is_refused(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    names(database)
    monkeypatch.setattr(database.engine.dialect, "server_version_info", (3, 1))

    with pytest.raises(NotSupported, match=r"3\.1 is too old: Rota needs \d+"):
        database.server_version()


@pytest.mark.parametrize("url", ["postgresql://ann:secret@nowhere/rota", "postgresql://nowhere/rota?password=secret"])
def test_a_password_is_not_shown(url: str) -> None:
    assert "secret" not in repr(Database(url))


@pytest.mark.parametrize("url", ["", "not a url", "postgresql:/host", "sqlite"])
def test_what_is_no_url_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(ConfigError, match=r"sqlite:////var/lib/rota/rota\.db"):
        parse_url(url)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_that_no_other_process_can_reach_is_refused(url: str) -> None:
    with pytest.raises(NotSupported, match="name a file"):
        Database(url)


@pytest.mark.parametrize(
    "url", ["postgresql://nobody@127.0.0.1:1/rota", "mysql://nobody@127.0.0.1:1/rota", "sqlite:////no/such/folder/db"]
)
def test_a_server_that_is_not_there_is_said_to_be_unavailable(url: str) -> None:
    database = Database(url, sleep=Pauses())

    with pytest.raises(DatabaseUnavailable, match="does not answer"):
        database.now()


def test_a_password_that_the_driver_cannot_send_is_said_with_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(**_options: Any) -> None:
        raise RuntimeError("'cryptography' package is required")  # as PyMySQL does

    monkeypatch.setattr("pymysql.connect", connect)
    database = Database("mysql://nobody:secret@127.0.0.1:1/rota", sleep=Pauses())

    with pytest.raises(DatabaseUnavailable, match=r"'cryptography' package is required: let the connection use TLS"):
        database.now()


def test_an_account_with_a_password_needs_no_package_beside_the_driver(
    password_url: str, database_kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if database_kind == "mysql":
        monkeypatch.setattr("pymysql._auth._have_cryptography", False)
        plain = Database(f"{password_url}?ssl_disabled=true", sleep=Pauses())
        with pytest.raises(DatabaseUnavailable, match="let the connection use TLS"):
            plain.now()
    user = Database(password_url, sleep=Pauses())

    assert user.now()
    user.close()


def execute(database: Database, statement: str) -> None:
    database.read(lambda connection: connection.execute(text(statement)))


@pytest.fixture
def password_url(database: Database, database_kind: str) -> Iterator[str]:
    """The database as an account with a password, made for the test, reaches it: without options in the URL."""
    if database_kind not in {"mysql", "mariadb"}:
        pytest.skip("the other servers of the tests ask nobody for a password")
    name = database.url.database  # the account's too: accounts are the server's, which other tests use at the same time
    execute(database, f"create user '{name}'@'%' identified by 'secret'")
    execute(database, f"grant select, insert, update, delete on {name}.* to '{name}'@'%'")
    yield database.url.set(username=name, password="secret", query={}).render_as_string(hide_password=False)
    execute(database, f"drop user '{name}'@'%'")


def test_sqlite_keeps_its_promises_on_each_connection(database: Database, database_kind: str) -> None:
    if database_kind == "sqlite":
        asked = ("journal_mode", "synchronous", "foreign_keys")
        found = [
            database.read(lambda connection, name=name: connection.exec_driver_sql(f"pragma {name}").scalar())
            for name in asked
        ]
        assert found == ["wal", 2, 1]
    else:
        isolation = {
            "postgresql": "select current_setting('transaction_isolation')",
            "mariadb": "select @@session.tx_isolation",
            "mysql": "select @@session.transaction_isolation",
        }[database_kind]
        found = [database.write(lambda c: c.exec_driver_sql(isolation).scalar(), repeatable=True)]
        assert [value.replace("-", " ").lower() for value in found] == ["read committed"]


def test_mariadb_is_asked_for_no_rows_of_what_it_writes_as_mysql_has_none_to_give(
    database: Database, database_kind: str
) -> None:
    if database_kind not in {"mysql", "mariadb"}:
        pytest.skip("of those that go by the name mysql")

    with pytest.raises(AssertionError, match="MySQL has no RETURNING"):
        database.write(
            lambda connection: connection.execute(text(f"{INSERT.text} returning id"), {"name": "one"}),
            repeatable=False,
        )


def test_a_mistake_in_the_given_rows_is_seen_not_swallowed(database: Database, database_kind: str) -> None:
    if database_kind in {"mariadb", "mysql"}:
        # In strict mode, whatever the server's own setting.
        mode = database.read(lambda connection: connection.exec_driver_sql("select @@session.sql_mode").scalar())
        assert "STRICT_ALL_TABLES" in mode
    with pytest.raises(DatabaseRefused):
        database.write(
            lambda connection: connection.execute(INSERT, {"name": None}),
            repeatable=True,
        )
