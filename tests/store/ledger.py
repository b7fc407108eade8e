"""One migrated database for a test of the store: rows to begin with, nodes that act, and what stands in it then.

Rows are put there by plain SQL, so that a test of one part of the store does not hang on another part.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import event as engine_event
from sqlalchemy import insert, select, text, update

from rota.model.environment import NO_ENVIRONMENTS, Environments
from rota.model.placement import NO_LABELS
from rota.model.run import Claim, End, NewRun, NodeIdentity
from rota.model.states import RunState
from rota.model.transcript import arrange, join
from rota.store.creation import enqueue_runs, request_ids
from rota.store.database import Database
from rota.store.endings import Delivered, end_runs
from rota.store.leases import claim_runs, mark_started
from rota.store.runs import read_transcript
from rota.store.tables import attempt, event, job, run, schedule
from tests.clock import Clock
from tests.store.compiled import SharedStatements

LEASE_SECONDS = 60.0

_JOB: dict[str, Any] = {
    "kind": "shell",
    "target": "true",
    "pool": "default",
    "delivery": "at_least_once",
    "retries": 0,
    "lost_max": 5,
    "retry_delay_seconds": 10.0,
    "backoff": "fixed",
    "retry_delay_max_seconds": 3600.0,
    "priority": 0,
    "variables": "{}",
    "revision": 1,
}
_SCHEDULE: dict[str, Any] = {
    "kind": "cron",
    "expression": "* * * * *",
    "zone": "UTC",
    "delay_seconds": 0.0,
    "catch_up": "latest",
    "catch_up_limit": 100,
    "overlap": "skip",
    "args": "{}",
    "cursor_version": 1,
    "revision": 1,
}


def identity_of(node: str) -> NodeIdentity:
    """Name a node's process: each name is one process of one boot."""
    return NodeIdentity(node, f"holder-of-{node}", "boot")


class Ledger:
    """The database of one test, its clock, and the nodes that work on it."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.url = url
        self.clock = clock
        self._opened: list[Database] = []
        self.database = self.connect()

    def connect(self, *, connections_max: int = 2) -> Database:
        """Return a connection of its own to the same database, as another node has it."""
        database = Database(self.url, connections_max=connections_max, sleep=_no_sleep)
        database.engine.update_execution_options(compiled_cache=SharedStatements(database.engine.dialect))
        self.clock.govern(database)
        self._opened.append(database)
        return database

    def close(self) -> None:
        for database in self._opened:
            database.close()

    # What a test begins with

    def add_job(self, name: str = "job", **columns: Any) -> int:
        values = _JOB | {"name": name, "created_at": self.clock.now, "updated_at": self.clock.now} | columns
        return self._insert(job, values)

    def add_schedule(self, name: str = "each", job: str = "job", **columns: Any) -> int:
        """Add a schedule; ``next_slot_at`` is its cursor."""
        job_id = self.value("select id from rota_job where name = :name", name=job)
        made = {"name": name, "job_id": job_id, "created_at": self.clock.now, "updated_at": self.clock.now}
        return self._insert(schedule, _SCHEDULE | made | columns)

    def _insert(self, table: Any, values: dict[str, Any]) -> int:
        result = self.database.write(lambda connection: connection.execute(insert(table), values), repeatable=False)
        return result.inserted_primary_key[0]

    def enqueue(self, job: str = "job", **wanted: Any) -> int:
        return self.enqueue_many([NewRun(job, **wanted)])[0]

    def enqueue_many(self, wanted: Sequence[NewRun]) -> list[int]:
        requests = request_ids(len(wanted))
        return self.database.write(
            lambda connection: enqueue_runs(connection, wanted, requests),
            repeatable=True,
        )

    # What nodes do

    def claim(
        self,
        node: str = "a",
        limit: int = 10,
        *,
        pools: Sequence[str] = ("default",),
        lease_seconds: float = LEASE_SECONDS,
        database: Database | None = None,
        environments: Environments = NO_ENVIRONMENTS,
        secrets: Sequence[str] = (),
        labels: Mapping[str, str] = NO_LABELS,
    ) -> list[Claim]:
        using = database or self.database
        return claim_runs(using, identity_of(node), pools, limit, lease_seconds, environments, secrets, labels)

    def claim_one(self, node: str = "a", **options: Any) -> Claim:
        (claim,) = self.claim(node, 1, **options)
        return claim

    def start_one(self, node: str = "a", **job_columns: Any) -> Claim:
        """Bring a run of a new job to the point where its process runs."""
        self.add_job(**job_columns)
        self.enqueue()
        return self.started(self.claim_one(node))

    def started(self, claim: Claim) -> Claim:
        """Commit the start mark where the claim did not bring it."""
        if not claim.marked:
            assert mark_started(self.database, [claim.claim_id]) == {claim.claim_id}
        return dataclasses.replace(claim, marked=True)

    def end(self, claim: Claim, kind: str = "succeeded", **facts: Any) -> Delivered:
        return end_runs(self.database, [End(claim.claim_id, claim.run_id, kind, **facts)])

    def end_all(self, claims: Sequence[Claim], kind: str = "succeeded") -> Delivered:
        return end_runs(self.database, [End(claim.claim_id, claim.run_id, kind) for claim in claims])

    # What stands there then

    def run(self, run_id: int) -> Any:
        return self.row(select(run).where(run.c.id == run_id))

    def runs(self) -> list[Any]:
        return self.rows(select(run).order_by(run.c.slot_at, run.c.id))

    def states(self) -> list[RunState]:
        """The states of all runs, by slot, then by number."""
        return [RunState(found.state) for found in self.runs()]

    def attempts(self, run_id: int) -> list[Any]:
        return self.rows(select(attempt).where(attempt.c.run_id == run_id).order_by(attempt.c.attempt))

    def events(self, run_id: int) -> list[Any]:
        return self.rows(select(event).where(event.c.run_id == run_id).order_by(event.c.id))

    def history(self, run_id: int) -> list[tuple[str | None, str, str]]:
        """What happened to a run, as (from, to, reason)."""
        return [(found.from_state, found.to_state, found.reason) for found in self.events(run_id)]

    def schedule(self, schedule_id: int) -> Any:
        return self.row(select(schedule).where(schedule.c.id == schedule_id))

    def set_run(self, run_id: int, **columns: Any) -> None:
        """Change a run by hand, as somebody with a SQL client would."""
        self.execute(update(run).where(run.c.id == run_id).values(columns))

    def set_job(self, name: str = "job", **columns: Any) -> None:
        self.execute(update(job).where(job.c.name == name).values(columns))

    def set_schedule(self, schedule_id: int, **columns: Any) -> None:
        self.execute(update(schedule).where(schedule.c.id == schedule_id).values(columns))

    def violations(self) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.rows(text("select rule_broken, run_id, schedule_id from rota_violations"))]

    def execute(self, statement: Any, **parameters: Any) -> None:
        if isinstance(statement, str):
            statement = text(statement)
        self.database.write(lambda connection: connection.execute(statement, parameters), repeatable=True)

    def rows(self, statement: Any, **parameters: Any) -> list[Any]:
        if isinstance(statement, str):
            statement = text(statement)
        return self.database.read(lambda connection: list(connection.execute(statement, parameters)))

    def row(self, statement: Any, **parameters: Any) -> Any:
        (found,) = self.rows(statement, **parameters)
        return found

    def value(self, statement: Any, **parameters: Any) -> Any:
        return self.row(statement, **parameters)[0]


def output_of(database: Database, run_id: int, *, attempt: int | None = None, stream: str | None = None) -> bytes:
    """What an attempt wrote, the last one unless told, put in order."""
    found = read_transcript(database, run_id, attempt_number=attempt)
    return join(arrange(piece for piece in found.pieces if stream in (None, piece.stream)))


def _no_sleep(_seconds: float) -> None:
    """Try again at once: the pause between tries is for servers under load."""


@contextlib.contextmanager
def statements_of(database: Database) -> Iterator[list[str]]:
    """Collect the statements that ``database`` sends; those that open and end a transaction are not among them."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement != database.dialect.begin_write:
            sent.append(statement)

    engine_event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        engine_event.remove(database.engine, "before_cursor_execute", note)
