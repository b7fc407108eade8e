"""Random trees of periods, with failures, crashes, skips and reprocesses in between: nothing starts too early, nothing
stays behind, and nothing is touched that the rules do not name.

The rules are written once more here, over plain rows and plain arithmetic: the store is not asked what it thinks of
itself.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rota import crash
from rota.errors import RotaError
from rota.model.job import JobSpec
from rota.store.advancing import advance_runs
from rota.store.endings import rescue_runs
from rota.store.interventions import cancel_run, mark_succeeded, rerun_run
from rota.store.jobs import add_job
from rota.store.period_actions import reprocess_periods, skip_periods
from rota.store.periods import look_at_periods
from tests.clock import BEGINNING
from tests.store.ledger import LEASE_SECONDS, Ledger

JOBS_MAX = 30
ROUNDS = 120
UNITS = ["3 hours", "6 hours", "12 hours", "day", "2 days", "month"]
# Which fit within which, by hand.
FITS = {
    "3 hours": {"3 hours", "6 hours", "12 hours", "day", "2 days", "month"},
    "6 hours": {"6 hours", "12 hours", "day", "2 days", "month"},
    "12 hours": {"12 hours", "day", "2 days", "month"},
    "day": {"day", "2 days", "month"},
    "2 days": {"2 days", "month"},
    "month": {"month"},
}
READ = (
    "select j.name as job, p.id, p.name, p.start_at, p.end_at, p.state, p.run_id, p.is_void, p.round, p.asked_by,"
    " p.finished_at"
    " from rota_period p join rota_job j on j.id = p.job_id order by p.start_at, p.id"
)
READ_RUNS = (
    "select r.id, r.job, r.period_id, r.state, r.reason, r.range_start_at, r.range_end_at,"
    " (select max(a.started_at) from rota_attempt a where a.run_id = r.id) as tried_at from rota_run r order by r.id"
)
FINISHED = {"processed", "noop", "skipped"}


def cut(unit: str, moment: datetime) -> tuple[datetime, datetime]:
    """The period of that kind, in UTC, that a moment lies in."""
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if "hour" in unit:
        count = int(unit.split()[0])
        start = day + timedelta(hours=moment.hour // count * count)
        return start, start + timedelta(hours=count)
    first = day.replace(day=1)
    following = (first + timedelta(days=32)).replace(day=1)
    if unit == "month":
        return first, following
    count = 2 if unit == "2 days" else 1
    start = first + timedelta(days=(day.day - 1) // count * count)
    return start, min(start + timedelta(days=count), following)


def aware(moment: Any) -> datetime:
    found = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


class Crashed(BaseException):
    """The process is gone."""


class World:
    """Trees of jobs on one database, and what a model of the rules says of them."""

    def __init__(self, ledger: Ledger, seed: int, job_count: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ledger = ledger
        self.random = random.Random(seed)
        self.units: dict[str, str] = {}
        self.children: dict[str, list[str]] = {}
        self.upstreams: dict[str, list[str]] = {}
        self.blocking: dict[str, str] = {}
        self.starts: dict[str, datetime] = {}
        self.modes: dict[str, str] = {}
        self.seen_runs: set[int] = set()
        self.crash_at: str | None = None
        monkeypatch.setattr(crash, "at", self._crash)
        for number in range(job_count):
            name = f"job{number:02}"
            unit = self.random.choice(UNITS)
            inner = [known for known in self.units if unit in FITS[self.units[known]] and self.units[known] != unit]
            children = self.random.sample(inner, min(len(inner), self.random.choice([0, 1, 1, 2])))
            others = sorted(self.units.keys() - set(children))
            self.upstreams[name] = self.random.sample(others, min(len(others), self.random.choice([0, 0, 1, 2])))
            self.units[name], self.children[name] = unit, children
            self.blocking[name] = self.random.choice(["children", "children", "normal", "dependencies"])
            self.modes[name] = self.random.choice(["discrete", "discrete", "continuous", "recomputing"])
            self.starts[name] = cut(unit, BEGINNING - timedelta(hours=self.random.choice([20, 40, 60])))[0]
            options: dict[str, Any] = {} if self.modes[name] == "discrete" else {"refresh": "2h"}
            spec = JobSpec.checked(
                name, kind="shell", target="true", period=unit, rolls_up=children, after=self.upstreams[name],
                blocking=self.blocking[name], period_mode=self.modes[name], period_start=self.starts[name],
                periods_at_once=self.random.choice([1, 1, 3, 50]), retry_delay="0s",
                give_up_failures=self.random.choice([None, None, 2]), **options,
            )  # fmt: skip
            add_job(ledger.database, spec, actor="test")

    def _crash(self, name: str) -> None:
        if name == self.crash_at:
            self.crash_at = None
            raise Crashed(name)

    # What is done

    def step(self) -> None:
        action = self.random.choices(
            [self.look, self.carry_out, self.pass_time, self.reprocess, self.skip, self.meddle, self.die],
            [8, 10, 3, 1, 0.5, 1, 1],
        )[0]
        with contextlib.suppress(Crashed):
            action()
        self.check()

    def look(self) -> None:
        look_at_periods(self.ledger.database, limit=self.random.choice([1, 5, 200]))

    def die(self) -> None:
        self.crash_at = self.random.choice(["periods.written", "periods.committed", "enqueue.inserted"])
        try:
            self.look()
        finally:
            self.crash_at = None

    def carry_out(self) -> None:
        advance_runs(self.ledger.database)
        for claim in self.ledger.claim(limit=self.random.choice([1, 10, 100])):
            ended = self.random.choices(["succeeded", "failed", "no_op", "lost"], [20, 2, 1, 1])[0]
            started = self.ledger.started(claim)
            if ended != "lost":
                self.ledger.end(started, ended)

    def pass_time(self) -> None:
        self.ledger.clock.advance(seconds=self.random.choice([LEASE_SECONDS + 1, 3600.0, 4 * 3600.0]))
        rescue_runs(self.ledger.database, rescuer="b")

    def meddle(self) -> None:
        runs = list(self.ledger.rows(READ_RUNS))
        if runs:
            run_id = self.random.choice(runs[-20:]).id
            verb: Callable[..., Any] = self.random.choice([rerun_run, mark_succeeded, cancel_run])
            try:
                verb(self.ledger.database, run_id, actor="ann")
            except RotaError:
                return

    def reprocess(self) -> None:
        self._act(reprocess_periods, self.named_by_reprocess, lambda state: state != "open")

    def skip(self) -> None:
        self._act(skip_periods, self.named_by_skip, lambda state: state not in FINISHED)

    def _act(
        self, verb: Callable[..., Any], named_by: Callable[[Any], set[int]], is_touched: Callable[[str], bool]
    ) -> None:
        rows = self.rows()
        if not rows:
            return
        row = self.random.choice(rows)
        named = named_by(row)
        touched = verb(self.ledger.database, row.job, row.name, actor="ann")
        after = {one.id: one for one in self.rows()}
        wanted = {one.id for one in rows if one.id in named and is_touched(one.state)}
        assert touched["count"] == len(wanted), (verb.__name__, row, touched, [one for one in rows if one.id in wanted])
        for one in rows:
            now = after[one.id]
            if one.id not in wanted:
                assert (now.state, now.run_id, now.is_void) == (one.state, one.run_id, one.is_void), (row, one)
            else:
                assert now.state == ("open" if verb is reprocess_periods else "skipped")

    # What the rules name

    def builders(self, name: str) -> Iterable[tuple[str, bool]]:
        """What builds on a job, and whether it rolls it up."""
        for other in self.units:
            if self.units[other] in FITS[self.units[name]]:
                if name in self.children[other]:
                    yield other, True
                elif name in self.upstreams[other]:
                    yield other, False

    def named_by_reprocess(self, row: Any) -> set[int]:
        rows = self.rows()
        named: set[int] = set()
        nexts = [row]
        while nexts:
            one = nexts.pop()
            if one.id in named:
                continue
            named.add(one.id)
            above = {name for name, _ in self.builders(one.job)}
            nexts += [
                other for other in rows
                if other.job in above and other.start_at <= one.start_at and one.end_at <= other.end_at
            ]  # fmt: skip
        return named

    def named_by_skip(self, row: Any) -> set[int]:
        rows = self.rows()
        named = {row.id: row}
        while True:
            more = [one for one in rows if one.id not in named and self._goes_with(one, list(named.values()))]
            if not more:
                return set(named)
            named |= {one.id: one for one in more}

    def _goes_with(self, row: Any, named: list[Any]) -> bool:
        for one in named:
            if row.job in self.children[one.job] and one.start_at <= row.start_at < one.end_at:
                return True
            if (row.job, False) in self.builders(one.job):
                spans = [(other.start_at, other.end_at) for other in named if other.job == one.job]
                if self._is_covered(row, spans):
                    return True
        return False

    def _is_covered(self, row: Any, spans: list[tuple[datetime, datetime]]) -> bool:
        moment = row.start_at
        while moment < row.end_at:
            ends = [end for start, end in spans if start <= moment < end]
            if not ends:
                return False
            moment = max(ends)
        return True

    def rows(self) -> list[Any]:
        return [_Row(row) for row in self.ledger.rows(READ)]

    # What holds

    def builds_on(self, job: str, *, children: bool = True, upstreams: bool = True) -> list[str]:
        found = self.children[job] if children else []
        after = [one for one in self.upstreams[job] if self.units[job] in FITS[self.units[one]]] if upstreams else []
        return [*found, *after]

    def open_within(self, row: Any, rows: list[Any], jobs: Iterable[str]) -> list[str]:
        """What is not finished of these jobs within a period, with what is not in the ledger yet."""
        found: list[str] = []
        for job in jobs:
            start = max(row.start_at, self.starts[job])
            known = {one.start_at: one for one in rows if one.job == job}
            while start < row.end_at:
                begun, end = cut(self.units[job], start)
                if begun not in known or known[begun].state not in FINISHED:
                    found.append(f"{job} {begun}")
                start = end
        return found

    def check(self) -> None:
        rows = self.rows()
        runs = {row.id: row for row in self.ledger.rows(READ_RUNS)}
        by_job: dict[str, list[Any]] = {}
        for row in rows:
            by_job.setdefault(row.job, []).append(row)
            if row.state in {"processed", "noop"}:
                assert self.open_within(row, rows, self.builds_on(row.job)) == [], row
                assert runs[row.run_id].state in {"succeeded", "skipped"}, row
                self.check_was_made_of(row, rows, runs[row.run_id])
            if row.state == "in_progress" and self.modes[row.job] == "discrete" and self.blocking[row.job] != "normal":
                needed = self.builds_on(row.job, children=self.blocking[row.job] == "children")
                assert self.open_within(row, rows, needed) == [], row
        for job, periods in by_job.items():
            moment = self.starts[job]
            for row in periods:
                assert (row.start_at, row.end_at) == cut(self.units[job], moment), row
                moment = row.end_at
        unfinished: dict[int, int] = {}
        for one in runs.values():
            if one.state in {"waiting", "ready", "running"} and one.period_id is not None:
                assert one.period_id not in unfinished, f"two runs work on one period: {one}"
                unfinished[one.period_id] = one.id
        assert self.ledger.violations() == []

    def check_was_made_of(self, row: Any, rows: list[Any], run: Any) -> None:
        """Check that a period was worked on after what it waits for was as it is now."""
        if self.modes[row.job] != "discrete" or self.blocking[row.job] != "children" or run.reason == "marked":
            return
        for one in rows:
            if one.job in self.builds_on(row.job) and row.start_at <= one.start_at and one.end_at <= row.end_at:
                assert aware(one.finished_at) <= aware(run.tried_at), f"{row} was made before {one} was finished"

    def drain(self) -> None:
        """Let all go well from now on: nothing is left behind but what waits for a person or the time."""
        for _ in range(2000):
            self.ledger.clock.advance(seconds=LEASE_SECONDS + 1)
            rescue_runs(self.ledger.database, rescuer="b")
            advance_runs(self.ledger.database)
            looked = look_at_periods(self.ledger.database)
            claims = self.ledger.claim(limit=100)
            for claim in claims:
                self.ledger.end(self.ledger.started(claim))
            if not (claims or looked.moved or looked.added):
                break
        rows = self.rows()
        now = self.ledger.clock.now
        for row in rows:
            if row.end_at <= now and row.state not in FINISHED:
                blocked = self.open_within(row, rows, self.builds_on(row.job))
                older = [
                    one
                    for one in rows
                    if one.job == row.job and one.start_at < row.start_at and one.state not in FINISHED
                ]
                assert blocked or older, f"left behind without a reason: {row}"


class _Row:
    def __init__(self, row: Any) -> None:
        self.__dict__.update(row._mapping)
        self.start_at: datetime = aware(row.start_at)
        self.end_at: datetime = aware(row.end_at)

    def __repr__(self) -> str:
        return f"{self.__dict__}"


def run_world(ledger: Ledger, seed: int, job_count: int, monkeypatch: pytest.MonkeyPatch, rounds: int = ROUNDS) -> None:
    world = World(ledger, seed, job_count, monkeypatch)
    for _ in range(rounds):
        world.step()
    world.drain()
    world.check()


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.long) for seed in (2, 3))])
def test_random_trees_of_periods_keep_their_promises(
    ledger: Ledger, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_world(ledger, seed, [3, 6, 10, 15][seed], monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 160))
def test_many_random_trees_of_periods_keep_their_promises(
    ledger: Ledger, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_world(ledger, seed, seed % JOBS_MAX + 1, monkeypatch, rounds=400)
