"""The process of a transactional callable, or of statements: Python that holds a connection to the database.

Run as ``python -P -m rota.engine.transactional_job package.module:function``, or ``--sql``. The URL is asked for at the
guardian's socket, so that it stands in no argument and no variable. Whatever happens is told as ``python_job`` tells
it; the end of the run is written here already, in the transaction of the job's own writes. So its result is masked
here: no guardian sees it before it is kept.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, cast

from rota import crash
from rota.execution import context, python_job
from rota.execution.masking import Mask
from rota.execution.report import read_database
from rota.model.states import Delivery
from rota.store.transaction import JobTransaction, Undone, run_on, run_statements

SQL = "--sql"


class Stopped(Exception):
    """The callable has returned because it is being stopped: its work is not done."""


def main(target: str) -> int:
    """Carry out ``target``, and give the process's exit status."""
    facts = json.loads(read_database())
    crash.arm(facts.get("crash", {}))
    # Before any code of the job's own: it may change its variables.
    values = [os.environ[name] for name in facts.get("secrets", ()) if name in os.environ]
    facts["mask"] = Mask(values) if values else None
    if target == SQL:
        return python_job.carry_out("sql", lambda: _statements(facts))
    return python_job.carry_out(target, lambda: _call(target, facts))


def _call(target: str, facts: dict[str, Any]) -> str:
    function = python_job.find_callable(target)
    return _within(facts, lambda _: python_job.call(function, python_job.read_values()), target)


def _statements(facts: dict[str, Any]) -> str:
    values = python_job.read_values()
    if not isinstance(values, dict):
        raise TypeError("statements take their values from a JSON object of arguments, not from a list")
    known = _run_values() | cast("dict[str, Any]", values)

    def carry_out(connection: Any) -> dict[str, list[int]]:
        return {"rows": run_statements(connection, facts["statements"], known, print)}

    if facts["delivery"] == Delivery.TRANSACTIONAL:
        return _within(facts, lambda transaction: carry_out(transaction.connection), "sql")
    return python_job.encode_result("sql", run_on(facts["url"], carry_out))


def _run_values() -> dict[str, Any]:
    run = context.current_run()
    return {
        "run_id": run.run_id,
        "job": run.job,
        "schedule": run.schedule,
        "attempt": run.attempt,
        "slot": run.slot,
        "fence": run.fence,
        "key": run.key,
    }


def _within(facts: dict[str, Any], work: Callable[[JobTransaction], object], target: str) -> str:
    """Do ``work`` and write the end of the run in one transaction; return the result."""
    transaction = JobTransaction(
        facts["url"], claim_id=facts["claim_id"], run_id=facts["run_id"], fence=context.current_run().fence
    )
    context.offer_connection(lambda: transaction.connection)
    try:
        try:
            result = _masked(python_job.encode_result(target, work(transaction)), facts["mask"])
            if context.has_heard_stop():
                raise Stopped("it was told that it is being stopped, so nothing of what it wrote is kept")
        except Exception as error:
            undone = None if isinstance(error, Undone) else transaction.find_trouble(error)
            if undone is not None:
                raise undone from error
            raise
        transaction.end(result)
    finally:
        transaction.close()
    return result


def _masked(result: str, mask: Mask | None) -> str:
    return result if mask is None else mask.clean_document(result.encode()).decode()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
