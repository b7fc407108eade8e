"""Ends reach the database however large they are together, and are never thinned out because a server is in trouble."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest

from rota.errors import DatabaseRefused, DatabaseUnavailable, RotaError
from rota.model.run import End, NewRun, Written
from rota.store.endings import end_runs
from tests.store.ledger import Ledger

MEBIBYTE = 1 << 20

FIND_WAITING = {
    "postgresql": "select pid from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()",
    "mysql": "select trx_mysql_thread_id from information_schema.innodb_trx where trx_state = 'LOCK WAIT'",
}
CANCEL = {"postgresql": "select pg_cancel_backend({})", "mysql": "kill query {}"}


def test_ends_that_are_large_together_are_recorded(ledger: Ledger) -> None:
    ledger.add_job()
    ledger.enqueue_many([NewRun("job")] * 20)
    claims = ledger.claim(limit=20)
    noise = bytes(range(256)) * (MEBIBYTE // 512)
    written = Written(noise, noise, 100 * MEBIBYTE)
    result = '"' + "x" * (MEBIBYTE - 2) + '"'

    delivered = end_runs(
        ledger.database,
        [End(c.claim_id, c.run_id, "succeeded", result=result, stdout=written, stderr=written) for c in claims],
    )

    assert delivered.applied == {claim.claim_id for claim in claims}
    assert {run.state for run in ledger.runs()} == {"succeeded"}
    assert ledger.value("select sum(length(data)) from rota_output") == 20 * 2 * 2 * len(noise)


def test_an_end_is_not_refused_because_its_statement_was_cancelled(ledger: Ledger) -> None:
    kind = ledger.database.dialect.name
    if kind == "sqlite":
        pytest.skip("a statement of another connection cannot be cancelled there")
    claim = ledger.start_one()
    holder, killer = ledger.connect(), ledger.connect()
    raised: list[RotaError] = []

    def deliver() -> None:
        try:
            ledger.end(claim, "exited", exit_code=0)
        except RotaError as error:
            raised.append(error)

    def cancel_all(connection: Any) -> None:
        for number in connection.exec_driver_sql(FIND_WAITING[kind]).scalars().all():
            connection.exec_driver_sql(CANCEL[kind].format(number))

    def hold(connection: Any) -> None:
        connection.exec_driver_sql(f"select id from rota_run where id = {claim.run_id} for update")
        thread.start()
        while thread.is_alive():
            with contextlib.suppress(DatabaseRefused):  # what was found to wait has ended by itself
                killer.read(cancel_all)
            thread.join(0.2)  # MariaDB tells the same for as long as it is asked more often than each 0.1 s

    thread = threading.Thread(target=deliver)
    holder.write(hold, repeatable=False)

    assert [type(error) for error in raised] == [DatabaseUnavailable]
