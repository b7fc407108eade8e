"""Wake-ups are hints, and none is lost: what a node did not hear it would do a poll too late."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import insert

from rota.store.database import Database
from rota.store.dialects import WakeUp
from rota.store.tables import pool
from rota.store.types import db_now
from rota.store.wakeup import Pulse, announce

LIMIT_SECONDS = 5.0


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def never() -> Iterator[int]:
    """A descriptor that never becomes readable."""
    read, write = os.pipe()
    yield read
    os.close(read)
    os.close(write)


def change(database: Database) -> None:
    def work(connection: Any) -> None:
        connection.execute(insert(pool).values(name=uuid.uuid4().hex, created_at=db_now()))
        announce(connection)

    database.write(work, repeatable=True)


def hears(database: Database, pulse: Pulse, never: int) -> bool:
    """Whether the pulse hears within a limit; where nothing can be heard there is only the poll."""
    return pulse.wait(LIMIT_SECONDS, never) if database.dialect.wake_up is not WakeUp.POLL else True


def is_quiet(pulse: Pulse, never: int) -> bool:
    return not pulse.wait(0.0, never)


def test_a_pulse_that_begins_to_listen_says_that_something_may_have_changed(database: Database, never: int) -> None:
    pulse = Pulse(database)

    assert hears(database, pulse, never)

    assert is_quiet(pulse, never)
    change(database)
    assert hears(database, pulse, never)
    pulse.close()


def test_a_change_that_comes_while_the_pulse_writes_is_heard(database: Database, never: int) -> None:
    other = Database(database.url)
    pulse = Pulse(database)
    hears(database, pulse, never)
    is_quiet(pulse, never)

    change(other)
    pulse.write(lambda connection: connection.exec_driver_sql("select 1"), repeatable=True)

    assert hears(database, pulse, never)
    pulse.close()
    other.close()


def test_a_pulse_whose_connection_was_cut_in_a_transaction_goes_on_hearing(database: Database, never: int) -> None:
    other = Database(database.url)
    pulse = Pulse(database)
    hears(database, pulse, never)
    cut = False

    def work(connection: Any) -> None:
        nonlocal cut
        connection.exec_driver_sql("select 1")
        if database.dialect.name != "sqlite" and not cut:  # a file cannot be cut off
            cut = True
            is_postgresql = database.dialect.name == "postgresql"
            ask = "select pg_backend_pid()" if is_postgresql else "select connection_id()"
            number = connection.exec_driver_sql(ask).scalar()
            end = f"select pg_terminate_backend({number})" if is_postgresql else f"kill {number}"
            other.read(lambda connection: connection.exec_driver_sql(end))
            connection.exec_driver_sql("select 1")

    pulse.write(work, repeatable=True)
    assert not cut or hears(database, pulse, never), "what was announced meanwhile would be missed"
    is_quiet(pulse, never)
    change(other)

    assert hears(database, pulse, never)
    pulse.close()
    other.close()
