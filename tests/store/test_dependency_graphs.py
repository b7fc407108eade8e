"""Random graphs of jobs, with failures, crashes and hands in between: nothing starts too early, nothing stays behind.

The rules are written once more here, over plain rows: the store is not asked what it thinks of itself.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rota.errors import RotaError
from rota.model.job import JobSpec
from rota.model.states import FINISHED, UNFINISHED
from rota.store.advancing import advance_runs
from rota.store.database import Database
from rota.store.endings import rescue_runs
from rota.store.firing import fire_schedules
from rota.store.interventions import mark_succeeded, rerun_run, skip_run
from rota.store.jobs import add_job
from rota.store.upstreams import look_at_upstreams
from tests.clock import BEGINNING
from tests.store.ledger import LEASE_SECONDS, Ledger

JOBS_MAX = 30
MINUTES = 6
ROUNDS = 200
EXAMPLES = {"sqlite": 4}
EXAMPLES_ELSEWHERE = 1


def rerun_downstream(database: Database, run_id: int, *, actor: str) -> list[int]:
    return rerun_run(database, run_id, actor=actor, downstream=True)


class World:
    """A graph of jobs on one database, and what a model of the rules says of it."""

    def __init__(self, ledger: Ledger, seed: int, job_count: int) -> None:
        self.ledger = ledger
        self.random = random.Random(seed)
        self.upstreams: dict[str, list[str]] = {}
        self.seen_ready: set[tuple[int, int]] = set()
        self.redone: set[int] = set()  # runs that wait again, since what they build on is done again
        for number in range(job_count):
            name = f"job{number:02}"
            known = sorted(self.upstreams)
            self.upstreams[name] = self.random.sample(known, min(len(known), self.random.choice([0, 1, 1, 2, 3])))
            options: dict[str, Any] = {"upstream_failure": self.random.choice(["wait", "wait", "skip"])}
            spec = JobSpec.checked(name, kind="shell", target="true", after=self.upstreams[name], **options)
            add_job(ledger.database, spec, actor="test")
            ledger.add_schedule(
                name, name, next_slot_at=BEGINNING, expression=self.random.choice(["* * * * *", "*/2 * * * *"]),
                overlap=self.random.choice(["allow", "queue"]), catch_up="all",
            )  # fmt: skip

    def runs(self) -> list[Any]:
        return self.ledger.runs()

    def is_done(self, row: Any) -> bool:
        return row.state == "succeeded" or (row.state == "skipped" and row.reason == "no_op")

    def undone_upstreams(self, row: Any, rows: Sequence[Any]) -> list[str]:
        """Which upstreams have not succeeded for the slot of a run, by the rule as the documentation has it."""
        found: list[str] = []
        for upstream in self.upstreams[row.job]:
            slots = [one for one in rows if one.job == upstream and one.slot_at <= row.slot_at]
            if not slots or not self.is_done(max(slots, key=lambda one: one.slot_at)):
                found.append(upstream)
        return found

    def tell(self, row: Any, undone: Sequence[str]) -> str:
        """Tell what happened to a run, and to the slots of its upstreams about it."""
        lines = [f"slot {row.slot_at:%H:%M}", *(found.text for found in self.ledger.events(row.id))]
        lines += [
            f"run {one.id} of {one.job}, slot {one.slot_at:%H:%M}: {self.ledger.history(one.id)}"
            for one in self.runs()
            if one.job in undone and one.slot_at <= row.slot_at
        ]
        return "\n".join(lines)

    def settle(self) -> None:
        """Move on what may be, and look at each run that becomes ready by it."""
        for _ in range(ROUNDS):
            looked = look_at_upstreams(self.ledger.database)
            advanced = advance_runs(self.ledger.database)
            rows = self.runs()
            for row in rows:
                if row.state == "ready" and (row.id, row.attempt) not in self.seen_ready:
                    self.seen_ready.add((row.id, row.attempt))
                    if row.attempt == 0 or row.id in self.redone:
                        self.redone.discard(row.id)
                        undone = self.undone_upstreams(row, rows)
                        assert undone == [], f"run {row.id} of {row.job} is ready too early: {self.tell(row, undone)}"
            if not (looked.ready or looked.skipped or looked.again or advanced.ready or advanced.missed):
                return
        raise AssertionError("it does not settle")

    def work(self, *, well: bool) -> None:
        """Let a node run some of what is ready; unless ``well``, some of it fails, and some of it dies."""
        for claim in self.ledger.claim(limit=self.random.randint(1, 20)):
            kind = "succeeded" if well else self.random.choice(["succeeded"] * 4 + ["failed", "no_op", "crash"])
            if kind != "crash":
                self.ledger.end(claim, kind)

    def interfere(self) -> None:
        """Do what a person may do, to any run."""
        row = self.random.choice(self.runs())
        do = self.random.choice([rerun_run, rerun_downstream, skip_run, mark_succeeded])
        try:
            self.redone.update(do(self.ledger.database, row.id, actor="ann") or ())
        except RotaError:
            return  # it is not in a state for that, or builds on something undone
        if do in (rerun_run, rerun_downstream):
            rows = self.runs()
            assert self.undone_upstreams(row, rows) == [], "a rerun builds on something undone"

    def heal(self) -> None:
        """See to everything that failed, upstreams first, as somebody would in the morning."""
        for row in sorted(self.runs(), key=lambda one: one.job):
            if row.state in FINISHED and not self.is_done(row):
                mark_succeeded(self.ledger.database, row.id, actor="ann")


def check_graph(ledger: Ledger, seed: int, job_count: int) -> None:
    for table in ("rota_event", "rota_attempt", "rota_run", "rota_schedule", "rota_dependency", "rota_job"):
        ledger.execute(f"delete from {table}")
    ledger.clock.now = BEGINNING
    world = World(ledger, seed, job_count)
    for _ in range(MINUTES):
        fire_schedules(ledger.database, fired_by="a")
        for _ in range(world.random.randint(1, 6)):
            world.settle()
            world.work(well=False)
            world.interfere()
        ledger.clock.advance(minutes=1)
        rescue_runs(ledger.database, rescuer="b")
    ledger.clock.advance(seconds=LEASE_SECONDS)
    fire_schedules(ledger.database, fired_by="a")

    unfinished: list[Any] = []
    for _ in range(ROUNDS):
        rescue_runs(ledger.database, rescuer="b")
        world.heal()
        world.settle()
        world.work(well=True)
        unfinished = [row for row in world.runs() if row.state in UNFINISHED]
        for row in unfinished:
            assert row.reason_text, f"run {row.id} of {row.job} waits without a reason"
        if not unfinished:
            break
        ledger.clock.advance(minutes=10)
    assert unfinished == [], "these are left behind for ever"


@pytest.mark.parametrize("examples", [0, pytest.param(100, marks=pytest.mark.long)], ids=["", "many"])
@pytest.mark.timeout(1800)
def test_in_any_graph_nothing_starts_too_early_and_nothing_stays_behind(
    ledger: Ledger, database_kind: str, examples: int
) -> None:
    chosen = settings(
        max_examples=examples or EXAMPLES.get(database_kind, EXAMPLES_ELSEWHERE),
        derandomize=not examples,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    checked = given(seed=st.integers(0, 2**32), job_count=st.integers(2, JOBS_MAX))(check_graph)

    chosen(checked)(ledger)


def test_after_an_outage_of_three_days_each_slot_of_a_chain_ran_once_and_in_order(ledger: Ledger) -> None:
    names = ["load", "report", "export"]
    for name, after in zip(names, [[], ["load"], ["report"]], strict=True):
        spec = JobSpec.checked(name, kind="shell", target="true", after=after)
        add_job(ledger.database, spec, actor="test")
        ledger.add_schedule(
            name, name, next_slot_at=BEGINNING, expression="0 * * * *", catch_up="all", overlap="queue"
        )  # fmt: skip
    ledger.clock.advance(hours=71, minutes=30)

    while True:
        fired = fire_schedules(ledger.database, fired_by="a")
        looked = look_at_upstreams(ledger.database)
        advanced = advance_runs(ledger.database)
        claims = ledger.claim(limit=10)
        ledger.clock.advance(seconds=1)
        ledger.end_all(claims)
        if not (fired.runs or looked.ready or looked.again or advanced.ready or claims):
            break

    found = ledger.rows(
        "select r.job, r.slot_at, a.started_at, a.finished_at, a.state"
        " from rota_attempt a join rota_run r on r.id = a.run_id"
    )
    assert len(found) == 3 * 72
    done = {(row.job, row.slot_at): row for row in found if row.state == "succeeded"}
    assert len(done) == 3 * 72
    for (name, slot), row in done.items():
        if name != "load":
            before = done[names[names.index(name) - 1], slot]
            assert before.finished_at <= row.started_at
    for name in names:
        of_job = sorted((slot, row.started_at) for (one, slot), row in done.items() if one == name)
        assert [started for _, started in of_job] == sorted(started for _, started in of_job), "oldest first"
