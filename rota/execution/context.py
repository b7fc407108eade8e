"""What the code of a job can ask about the run it is part of.

Everything comes from the ``ROTA_*`` variables and the guardian's socket, so that it works in any process of the job,
in any environment, without a database. Called by users' code as ``rota.current_run()``.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rota.errors import StateError
from rota.execution.report import control_path, read_arguments, report_result
from rota.model.documents import encode_document


@dataclass(frozen=True, slots=True)
class CurrentRun:
    """The run that this process works for."""

    run_id: int
    job: str
    schedule: str | None
    attempt: int  # 1 for the first
    slot: datetime | None  # the instant at which the schedule was due; None: not from a schedule
    run_at: datetime | None
    node: str
    fence: int  # rises with every claim of the run: an outside system may refuse a lower one than it has seen
    key: str | None  # the same over all attempts

    @property
    def args(self) -> Any:
        """The arguments of the run."""
        return json.loads(read_arguments())

    def result(self, value: object) -> None:
        """Report the run's result, to be kept when this attempt ends well. The last one counts.

        Raises:
            Invalid: it is not JSON, or above 1 MiB.
            StateError: the guardian is gone.
        """
        report_result(encode_document("result", value))


def current_run() -> CurrentRun:
    """Give the run that this process works for.

    Raises:
        StateError: this process is no job.
    """
    control_path()
    return CurrentRun(
        run_id=int(_fact("ROTA_RUN_ID")),
        job=_fact("ROTA_JOB"),
        schedule=os.environ.get("ROTA_SCHEDULE"),
        attempt=int(_fact("ROTA_ATTEMPT")),
        slot=_instant("ROTA_SLOT"),
        run_at=_instant("ROTA_RUN_AT"),
        node=_fact("ROTA_NODE"),
        fence=int(_fact("ROTA_FENCE")),
        key=os.environ.get("ROTA_KEY"),
    )


def _fact(name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise StateError(f"{name} is not set, although ROTA_CONTROL is: keep the ROTA_* variables together")
    return value


def _instant(name: str) -> datetime | None:
    value = os.environ.get(name)
    return datetime.fromisoformat(value) if value else None
