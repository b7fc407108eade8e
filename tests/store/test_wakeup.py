"""Hints that wake a waiting node. They may be lost; the poll is the truth."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator

import pytest

from rota.errors import DatabaseRefused, DatabaseUnavailable
from rota.model.run import NewRun
from rota.store.database import now_of
from rota.store.dialects import WakeUp
from rota.store.requests import request_runs
from rota.store.wakeup import Pulse
from tests.store.ledger import Ledger, statements_of
from tests.store.trouble import kill_connections

LONG = 30.0  # a guard: what is waited for comes at once


@pytest.fixture
def wake_fd() -> Iterator[int]:
    fd = os.eventfd(0)
    yield fd
    os.close(fd)


@pytest.fixture
def pulse(ledger: Ledger) -> Iterator[Pulse]:
    made = Pulse(ledger.connect())
    yield made
    made.close()


def settle(pulse: Pulse, wake_fd: int) -> None:
    """Take what is news to a pulse that has just begun to hear."""
    while pulse.wait(0, wake_fd):
        pass


def wait_often(pulse: Pulse, wake_fd: int) -> None:
    """Wait as a node does, again and again: the server's last words may come before the end of the connection."""
    for _ in range(3):
        pulse.wait(LONG, wake_fd)


def test_a_commit_elsewhere_wakes_where_the_database_can(ledger: Ledger, pulse: Pulse, wake_fd: int) -> None:
    ledger.add_job()
    settle(pulse, wake_fd)
    can = ledger.database.dialect.wake_up is not WakeUp.POLL

    request_runs(ledger.database, [NewRun("job")])

    assert pulse.wait(LONG if can else 0, wake_fd) is can
    assert pulse.wait(0, wake_fd) is False


@pytest.mark.only_on("sqlite", "postgresql")
def test_a_connection_whose_driver_fails_is_trouble_and_made_anew(
    ledger: Ledger, pulse: Pulse, wake_fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(pulse, wake_fd)
    assert pulse._connection is not None
    driver = pulse._connection.connection.driver_connection
    if isinstance(driver, sqlite3.Connection):
        driver.set_authorizer(lambda *_: sqlite3.SQLITE_DENY)
    else:
        error = ledger.database.engine.dialect.loaded_dbapi.OperationalError

        def fail() -> None:
            raise error("the connection is lost")

        monkeypatch.setattr(driver, "fileno", fail)

    with pytest.raises(DatabaseUnavailable):
        pulse.wait(LONG, wake_fd)

    settle(pulse, wake_fd)
    assert pulse.write(now_of, repeatable=True)


def test_a_breaker_that_closes_wakes_those_who_may_start_its_runs(ledger: Ledger, pulse: Pulse, wake_fd: int) -> None:
    ledger.add_job(breaker_failures=1)
    ledger.enqueue_many([NewRun("job")] * 3)
    bad, good = ledger.claim(limit=2)
    ledger.end(bad, "exited", exit_code=1)
    settle(pulse, wake_fd)
    can = ledger.database.dialect.wake_up is not WakeUp.POLL

    ledger.end(good)

    assert pulse.wait(LONG if can else 0, wake_fd) is can


def test_a_commit_wakes_a_node_that_is_already_waiting(ledger: Ledger, pulse: Pulse, wake_fd: int) -> None:
    ledger.add_job()
    settle(pulse, wake_fd)
    if ledger.database.dialect.wake_up is WakeUp.POLL:
        threading.Timer(0.05, os.eventfd_write, (wake_fd, 1)).start()
        assert pulse.wait(LONG, wake_fd) is False
        return
    asking = threading.Timer(0.05, request_runs, (ledger.connect(), [NewRun("job")]))
    asking.start()

    assert pulse.wait(LONG, wake_fd) is True
    asking.join()


def test_a_message_from_this_process_ends_the_wait(pulse: Pulse, wake_fd: int) -> None:
    settle(pulse, wake_fd)
    os.eventfd_write(wake_fd, 1)

    assert pulse.wait(LONG, wake_fd) is False


def test_nothing_that_happens_is_no_wake_up(pulse: Pulse, wake_fd: int) -> None:
    settle(pulse, wake_fd)

    assert pulse.wait(0, wake_fd) is False


def test_a_wake_up_that_comes_while_the_pulse_writes_is_not_lost(ledger: Ledger, pulse: Pulse, wake_fd: int) -> None:
    ledger.add_job()
    settle(pulse, wake_fd)
    can = ledger.database.dialect.wake_up is not WakeUp.POLL

    request_runs(ledger.database, [NewRun("job")])
    pulse.write(now_of, repeatable=True)

    assert pulse.wait(LONG if can else 0, wake_fd) is can


def test_a_broken_connection_is_told_and_then_made_anew(ledger: Ledger, pulse: Pulse, wake_fd: int) -> None:
    ledger.add_job()
    settle(pulse, wake_fd)
    pulse.write(now_of, repeatable=True)
    if ledger.database.dialect.name == "sqlite":
        pulse.close()  # a file has no server that could end it
    else:
        assert kill_connections(ledger.database, ledger.database) >= 1
    if ledger.database.dialect.wake_up is WakeUp.NOTIFY:
        with pytest.raises(DatabaseUnavailable):
            wait_often(pulse, wake_fd)

    assert pulse.write(now_of, repeatable=True) == ledger.clock.now
    settle(pulse, wake_fd)
    request_runs(ledger.database, [NewRun("job")])
    can = ledger.database.dialect.wake_up is not WakeUp.POLL
    assert pulse.wait(LONG if can else 0, wake_fd) is can


def test_a_pulse_holds_one_connection(ledger: Ledger, pulse: Pulse, wake_fd: int) -> None:
    for _ in range(3):
        pulse.wait(0, wake_fd)
        pulse.write(now_of, repeatable=True)

    assert pulse._database.engine.pool.checkedout() <= 1


def test_closing_twice_is_closing_once(pulse: Pulse) -> None:
    pulse.close()
    pulse.close()


@contextlib.contextmanager
def commits_refused(ledger: Ledger, state: str) -> Iterator[None]:
    """Have PostgreSQL refuse every other COMMIT that tells of a run, with this SQLSTATE.

    It takes 8 GB to fill the queue for NOTIFY. What a client sees of a full one is such a refusal.
    """
    ledger.execute("create sequence commits")
    ledger.execute(
        f"""
        create function refuse() returns trigger language plpgsql as $$ begin
            if coalesce(current_setting('test.commit', true), '') = '' then
                perform set_config('test.commit', nextval('commits')::text, true);
            end if;
            if current_setting('test.commit')::bigint % 2 = 1 then
                raise 'too many notifications in the NOTIFY queue' using errcode = '{state}';
            end if;
            return null;
        end $$"""
    )
    ledger.execute(
        "create constraint trigger refuse after insert on rota_event deferrable initially deferred "
        "for each row execute function refuse()"
    )
    try:
        yield
    finally:
        ledger.execute("drop function refuse cascade")
        ledger.execute("drop sequence commits")


def test_what_is_refused_for_its_wake_up_is_written_once_without_it_and_the_log_says_why(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    if ledger.database.dialect.announce_refused is None:
        pytest.skip("no wake-up is refused there")
    ledger.add_job()

    with commits_refused(ledger, "54000"), statements_of(ledger.database) as sent:
        (made,) = request_runs(ledger.database, [NewRun("job")])
        assert [statement for statement in sent if "notify" in statement] == ["notify rota"]  # of the first try
        claim = ledger.claim_one()
        ledger.end(claim, "exited", exit_code=1)

    assert claim.run_id == made.run_id
    assert ledger.history(made.run_id) == [
        (None, "ready", "asked"), ("ready", "running", "started"), ("running", "failed", "exit_code"),
    ]  # fmt: skip
    told = [record.message for record in caplog.records if "takes no wake-ups" in record.message]
    assert told
    assert "too many notifications in the NOTIFY queue" in told[0]
    caplog.clear()
    request_runs(ledger.database, [NewRun("job")])
    assert caplog.records == []


def test_a_commit_that_goes_on_being_refused_is_refused(ledger: Ledger) -> None:
    if ledger.database.dialect.announce_refused is None:
        pytest.skip("no wake-up is refused there")
    ledger.add_job()

    with commits_refused(ledger, "22023"), pytest.raises(DatabaseRefused, match="too many notifications"):
        request_runs(ledger.database, [NewRun("job")])

    assert ledger.runs() == []
