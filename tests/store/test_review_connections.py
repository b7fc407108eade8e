"""What a connection to the database gives away, and how soon it notices that nobody is at the other end."""

from __future__ import annotations

import logging
import os
import socket

import pytest
from sqlalchemy import text

from rota.errors import DatabaseRefused
from tests.store.ledger import Ledger


def test_a_statement_that_is_refused_does_not_log_its_values(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    secret = "correct horse battery"

    with caplog.at_level(logging.DEBUG):
        try:
            ledger.database.write(
                lambda connection: connection.execute(text("insert into no_such_table values (:v)"), {"v": secret}),
                repeatable=True,
            )
        except DatabaseRefused:
            logging.getLogger("rota.worker").exception("a round was refused")

    assert "no_such_table" in caplog.text
    assert secret not in caplog.text


def test_a_server_that_vanished_is_noticed_well_within_a_lease(ledger: Ledger) -> None:
    kind = ledger.database.dialect.name
    if kind == "sqlite":
        pytest.skip("a file has no other end")
    with ledger.database.engine.connect() as connection:
        driver = connection.connection.driver_connection
        number = driver.fileno() if kind == "postgresql" else driver._sock.fileno()
        with socket.socket(fileno=os.dup(number)) as end:
            if end.family == socket.AF_UNIX:
                pytest.skip("the other end is on this machine")
            idle, interval, count, unanswered = (
                end.getsockopt(socket.IPPROTO_TCP, option)
                for option in (
                    socket.TCP_KEEPIDLE,
                    socket.TCP_KEEPINTVL,
                    socket.TCP_KEEPCNT,
                    socket.TCP_USER_TIMEOUT,
                )
            )
            assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)

    assert idle + interval * count <= 20
    assert 0 < unanswered <= 20_000
