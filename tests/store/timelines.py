"""Jobs with periods, on a ledger whose clock a test moves: looked at and worked on until nothing is left to do now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import select

from rota.model.job import JobSpec
from rota.model.run import Claim
from rota.store.advancing import advance_runs
from rota.store.jobs import add_job, edit_job
from rota.store.period_actions import reprocess_periods, skip_periods
from rota.store.periods import look_at_periods
from rota.store.tables import job, period, run
from tests.store.ledger import Ledger

ROUNDS_MAX = 10_000


class Timelines:
    """What a test does with periods. ``done`` lists what ended well, as (job, period), in that order."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.done: list[tuple[str, str]] = []

    def add(self, name: str, period: str = "hour", **options: Any) -> None:
        spec = JobSpec.checked(name, kind="shell", target="true", period=period, **options)
        add_job(self.ledger.database, spec, actor="ann")

    def edit(self, name: str, **options: Any) -> None:
        edit_job(self.ledger.database, name, lambda spec: spec.edited(**options), actor="ann")

    def look(self) -> None:
        """Look until nothing moves."""
        for _ in range(ROUNDS_MAX):
            looked = look_at_periods(self.ledger.database)
            if not (looked.added or looked.moved or looked.is_full):
                return
        raise AssertionError("the periods do not come to rest")

    def claim(self) -> list[Claim]:
        return [self.ledger.started(claim) for claim in self.ledger.claim(limit=100)]

    def work(self, end: Callable[[Claim], str] = lambda _: "succeeded", *, rounds: int = ROUNDS_MAX) -> None:
        """Carry out all that may be, each run as ``end`` says, until nothing is left to do now."""
        for _ in range(rounds):
            self.look()
            advance_runs(self.ledger.database)
            claims = self.claim()
            if not claims:
                return
            for claim in claims:
                kind = end(claim)
                assert claim.part is not None
                self.ledger.end(claim, kind)
                if kind == "succeeded":
                    self.done.append((claim.job, claim.part.key))
        self.look()

    def reprocess(self, name: str, first: str, last: str | None = None, **options: Any) -> dict[str, Any]:
        return reprocess_periods(self.ledger.database, name, first, last, actor="ann", **options)

    def skip(self, name: str, first: str, last: str | None = None, **options: Any) -> dict[str, Any]:
        return skip_periods(self.ledger.database, name, first, last, actor="ann", **options)

    def states(self, name: str) -> dict[str, str]:
        """The state of each period of a job, by name, oldest first."""
        found = select(period.c.name, period.c.state).join(job, job.c.id == period.c.job_id)
        rows = self.ledger.rows(found.where(job.c.name == name).order_by(period.c.start_at))
        return {row.name: row.state for row in rows}

    def row(self, name: str, period_name: str) -> Any:
        found = select(period).join(job, job.c.id == period.c.job_id)
        return self.ledger.row(found.where(job.c.name == name, period.c.name == period_name))

    def runs(self, name: str) -> list[Any]:
        return self.ledger.rows(select(run).where(run.c.job == name).order_by(run.c.id))
