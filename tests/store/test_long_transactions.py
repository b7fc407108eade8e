"""A transaction of somebody else that stays open: it is told, and changes nothing of what Rota does."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, NullPool, create_engine, text

from rota.model.run import NewRun
from rota.store.long_transactions import LONG_SECONDS
from rota.store.status import read_status
from tests.clock import Clock
from tests.store.ledger import Ledger

SESSION = {
    "postgresql": "select pg_backend_pid()",
    "mysql": "select connection_id()",
    "sqlite": "select 1",
}
SECRET = "tiger"


@contextlib.contextmanager
def open_elsewhere(url: str) -> Iterator[tuple[Connection, int]]:
    """Hold a snapshot of the ledger open over a connection of somebody else; give it, and its session."""
    with create_engine(url, poolclass=NullPool).connect() as connection:
        name = connection.dialect.name
        if name == "sqlite":
            connection.exec_driver_sql("begin")
        else:
            connection.execution_options(isolation_level="REPEATABLE READ")
        session: int = connection.execute(text(SESSION["mysql" if name == "mariadb" else name])).scalar_one()
        connection.execute(text(f"select count(*), '{SECRET}' from rota_run")).one()
        yield connection, session
        connection.rollback()


def told(ledger: Ledger) -> str:
    """What ``rota status`` says of them."""
    texts = [one["text"] for one in read_status(ledger.database)["findings"] if one["code"] == "transaction_long"]
    assert len(texts) <= 1
    return "".join(texts)


def told_until(ledger: Ledger, says: Callable[[str], bool]) -> str:
    """Look until it says so: MariaDB's and MySQL's answer is one of before while others ask within 0.1 s."""
    give_up_at = time.monotonic() + 30
    while not says(text := told(ledger)) and time.monotonic() < give_up_at:
        time.sleep(0.15)
    return text


def test_a_transaction_that_is_open_for_long_is_told_with_its_session_and_what_ends_it(
    ledger: Ledger, clock: Clock, database_kind: str
) -> None:
    began = datetime.now(UTC)
    with open_elsewhere(ledger.url) as (_, session):
        which = f"session {session} since "
        clock.now = began + timedelta(seconds=LONG_SECONDS + 60)
        text = told_until(ledger, lambda text: which in text or database_kind == "sqlite")
        clock.now = began + timedelta(seconds=LONG_SECONDS - 60)
        early = told(ledger)
    clock.now = began + timedelta(seconds=LONG_SECONDS + 60)
    afterwards = told_until(ledger, lambda text: which not in text)

    assert which not in early
    assert which not in afterwards
    if database_kind == "sqlite":
        assert text == ""
        return
    assert which in text
    end = "select pg_terminate_backend({})" if database_kind == "postgresql" else "kill {}"
    assert f"(`{end.format(session)}` ends it)" in text
    assert "for 11m" in text or "for 10m59s" in text
    assert SECRET not in text


def test_ones_own_statement_and_a_session_that_does_nothing_are_not_told(ledger: Ledger, clock: Clock) -> None:
    with create_engine(ledger.url, poolclass=NullPool).connect() as connection:
        name = "mysql" if connection.dialect.name == "mariadb" else connection.dialect.name
        session: int = connection.execute(text(SESSION[name])).scalar_one()
        connection.commit()
        clock.now = datetime.now(UTC) + timedelta(days=1)
        assert f"session {session} since" not in told(ledger)


def test_whoever_may_not_see_the_transactions_of_others_is_told_of_none_and_gets_no_error(
    ledger: Ledger, clock: Clock, database_kind: str
) -> None:
    if database_kind == "sqlite":
        pytest.skip("SQLite has no accounts")
    url = ledger.database.url
    name = url.database  # accounts are the server's, which other tests use at the same time
    if database_kind == "postgresql":
        makes = [
            f"create role {name} login",
            f"grant select on all tables in schema public to {name}",
        ]
        drops = [f"drop owned by {name}", f"drop role {name}"]
    else:
        makes = [f"create user '{name}'@'%'", f"grant select on {name}.* to '{name}'@'%'"]
        drops = [f"drop user '{name}'@'%'"]
    with create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT").connect() as owner:
        for statement in makes:
            owner.exec_driver_sql(statement.replace("%", "%%"))
        try:
            limited = Ledger(url.set(username=name).render_as_string(hide_password=False), clock)
            with open_elsewhere(ledger.url) as (_, session):
                clock.now = datetime.now(UTC) + timedelta(seconds=LONG_SECONDS + 60)
                which = f"session {session} since "
                assert which in told_until(ledger, lambda text: which in text)
                assert told(limited) == ""
            limited.close()
        finally:
            for statement in drops:
                owner.exec_driver_sql(statement.replace("%", "%%"))


def test_beside_a_snapshot_that_stays_open_two_thousand_runs_are_claimed_and_ended_once_each(ledger: Ledger) -> None:
    ledger.add_job()
    run_ids = ledger.enqueue_many([NewRun("job")] * 2000)
    claimed: list[int] = []

    with open_elsewhere(ledger.url) as (elsewhere, _):
        while claims := ledger.claim(limit=100):
            claimed += [claim.run_id for claim in claims]
            assert ledger.end_all(claims).applied == {claim.claim_id for claim in claims}
        seen = elsewhere.execute(text("select count(*) from rota_run where state = 'ready'")).scalar()

    assert seen == 2000  # it was a snapshot all the time
    assert sorted(claimed) == run_ids
    assert Counter(ledger.states()) == {"succeeded": 2000}
