"""Hints that wake a waiting node. They may be lost; the poll is the truth."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from rota.errors import DatabaseUnavailable
from rota.model.run import NewRun
from rota.store.database import now_of
from rota.store.dialects import WakeUp
from rota.store.requests import request_runs
from rota.store.wakeup import Pulse
from tests.store.ledger import Ledger
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
