"""Asking for runs inside a transaction of the caller's own: they exist exactly if the caller commits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.orm import Session

from rota import Conflict, Invalid, NotFound, Rota
from rota.errors import UsageError
from rota.store.database import Database
from tests.store.ledger import Ledger


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """The application's own engine, as applications make it."""
    made = create_engine(Database(database_url).url)
    with made.begin() as tx:
        tx.execute(text("create table invoice (id integer primary key)"))
    yield made
    with made.begin() as tx:
        tx.execute(text("drop table invoice"))
    made.dispose()


@pytest.fixture
def job(rota: Rota) -> str:
    rota.jobs.add("job", shell="true")
    return "job"


def count(ledger: Ledger, table: str) -> int:
    return ledger.value(f"select count(*) from {table}")


def test_a_run_exists_once_its_transaction_commits(rota: Rota, engine: Engine, ledger: Ledger, job: str) -> None:
    with engine.begin() as tx:
        tx.execute(text("insert into invoice values (1)"))
        handle = rota.using(tx).enqueue(job, {"invoice": 1})
        within = 0 if engine.dialect.name == "sqlite" else count(ledger, "rota_run")

    assert within == 0
    assert handle.show()["args"] == {"invoice": 1}
    assert handle.show()["events"][0]["to"] == "ready"
    assert count(ledger, "invoice") == 1


def test_a_run_does_not_exist_when_its_transaction_rolls_back(
    rota: Rota, engine: Engine, ledger: Ledger, job: str
) -> None:
    with engine.connect() as tx:
        tx.execute(text("insert into invoice values (1)"))
        rota.using(tx).enqueue(job, key="k")
        tx.rollback()

    assert (count(ledger, "invoice"), count(ledger, "rota_run"), count(ledger, "rota_event")) == (0, 0, 1)


def test_an_orm_session_works_as_well(rota: Rota, engine: Engine, ledger: Ledger, job: str) -> None:
    with Session(engine) as session:
        session.execute(text("insert into invoice values (1)"))
        rota.using(session).enqueue(job)
        session.commit()

    assert (count(ledger, "invoice"), count(ledger, "rota_run")) == (1, 1)


def test_a_moment_is_the_same_whatever_the_zone_of_the_callers_connection(
    rota: Rota, engine: Engine, ledger: Ledger, job: str
) -> None:
    with engine.begin() as tx:
        if engine.dialect.name == "postgresql":
            tx.execute(text("set local time zone 'Asia/Tokyo'"))
        elif engine.dialect.name in ("mysql", "mariadb"):
            tx.execute(text("set session time_zone = '+09:00'"))
        handle = rota.using(tx).enqueue(job, at="2027-01-01T00:00:00Z", start_within="5m")
        with pytest.raises(NotFound):
            rota.using(tx).enqueue("nothing")
        if engine.dialect.name == "postgresql":
            assert tx.execute(text("show time zone")).scalar() == "Asia/Tokyo"

    view = handle.show()
    assert (view["run_at"], view["start_by"]) == ("2027-01-01T00:00:00.000000Z", "2027-01-01T00:05:00.000000Z")


def test_the_same_key_in_one_transaction_gives_one_run(rota: Rota, engine: Engine, ledger: Ledger, job: str) -> None:
    before = rota.enqueue(job, key="k")

    with engine.begin() as tx:
        ids = [rota.using(tx).enqueue(job, key=key).id for key in ("k", "new", "new")]

    assert ids[0] == before.id
    assert ids[1] == ids[2]
    assert count(ledger, "rota_run") == 2


def test_bad_input_is_refused_and_leaves_the_transaction_usable(
    rota: Rota, engine: Engine, ledger: Ledger, job: str
) -> None:
    with engine.begin() as tx:
        with pytest.raises(NotFound):
            rota.using(tx).enqueue("nothing")
        with pytest.raises(Invalid):
            rota.using(tx).enqueue(job, {"x": object()})
        tx.execute(text("insert into invoice values (1)"))

    assert (count(ledger, "invoice"), count(ledger, "rota_run")) == (1, 0)


def test_what_is_no_transaction_is_refused(rota: Rota, engine: Engine) -> None:
    with pytest.raises(UsageError, match="Connection or Session is needed, not Engine"):
        rota.using(engine)


@pytest.mark.only_on("postgresql")
def test_a_key_given_back_within_the_transaction_that_asks_for_it_is_a_conflict(
    rota: Rota, engine: Engine, ledger: Ledger, job: str
) -> None:
    holder = rota.enqueue(job, key="k")

    with engine.begin() as tx:

        def end_it(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
            if statement.startswith("INSERT INTO rota_run"):
                holder.cancel()

        event.listen(tx, "after_cursor_execute", end_it)
        with pytest.raises(Conflict, match="roll back and try again"):
            rota.using(tx).enqueue(job, key="k")
        tx.rollback()

    assert rota.enqueue(job, key="k").id != holder.id
