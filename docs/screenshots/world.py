"""A company of which pictures are taken: its machines work through some thirty hours, on a clock that stands still
between two things that are due.

Schema, store and scheduler are those of Rota. Processes are not started: how an attempt ends is drawn by lot, always
the same, from the habits of its job; so whoever looks at the pages finds whatever a night may bring.
"""

from __future__ import annotations

import json
import random
import secrets
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from docs.screenshots.company import (
    BROKEN,
    CALENDARS,
    DONE,
    JOBS,
    MACHINES,
    OUTPUT,
    SCHEDULES,
    SLOW,
    STEP,
    TROUBLE,
    Machine,
)
from rota import Rota
from rota.client.schema import upgrade
from rota.engine.scheduler import Scheduler
from rota.model.run import Claim, End, NodeIdentity, Piece, Report, Written
from rota.store.database import Database
from rota.store.endings import end_runs
from rota.store.forecast import read_ahead
from rota.store.leases import claim_runs, mark_started, renew_claims
from rota.store.nodes import register_node
from rota.store.reports import keep_reports
from tests.clock import Clock

BEGINS = datetime.fromisoformat("2026-11-17T02:00:00+00:00")
NOW = datetime.fromisoformat("2026-11-18T03:07:20+00:00")  # a Wednesday: the hour in which one is woken up
LEASE_SECONDS = 300.0
HEARD_EVERY = timedelta(seconds=120)  # of each machine
STEP_MIN = timedelta(seconds=5)  # what is due within is done together
LOST = "fra-2"  # the machine that dies
DIES_AT = datetime.fromisoformat("2026-11-18T02:41:30+00:00")
PAUSED = (datetime.fromisoformat("2026-11-17T18:25:00+00:00"), datetime.fromisoformat("2026-11-17T19:10:00+00:00"))
DRAINED_AT = datetime.fromisoformat("2026-11-18T02:58:00+00:00")


@dataclass(frozen=True, slots=True)
class Underway:
    """An attempt, and how it will end."""

    claim: Claim
    began: datetime
    ends_at: datetime
    end: End
    output: bytes


@dataclass(slots=True)
class Node:
    """A machine at work."""

    machine: Machine
    identity: NodeIdentity
    underway: dict[str, Underway]
    heard_at: datetime = BEGINS


class Company:
    """The database of a company, and its machines; ``actor`` below says who of its people has asked for something."""

    def __init__(self, folder: Path) -> None:
        url = f"sqlite:///{folder / 'rota.db'}"
        self.clock = Clock(BEGINS)
        self.database = Database(url)
        self.clock.govern(self.database)
        # Nothing of it outlives the pictures, so nothing has to reach the disk.
        dialect = self.database.dialect
        self.database.dialect = replace(dialect, on_connect=(*dialect.on_connect, "pragma synchronous = off"))
        upgrade(url)
        self._luck = random.Random(42)
        self.nodes = [self._enter(number, machine) for number, machine in enumerate(MACHINES)]
        self._scheduler = Scheduler(
            self.database, self.nodes[0].identity, MACHINES[0].pools, LEASE_SECONDS, clock=self.clock.uptime
        )
        self._scheduler.labels = MACHINES[0].labels

    def rota(self, actor: str) -> Rota:
        """Return the ``Rota`` of one of its people."""
        return Rota.over(self.database, actor=actor)

    def work_until(self, moment: datetime) -> None:
        """Let it work, from one thing that is due to the next."""
        while self.clock.now < moment:
            self._work()
            ahead = read_ahead(self.database)
            due = [ahead.next_slot_at, ahead.next_due_at, ahead.next_half_open_at, ahead.next_period_at]
            due += [ahead.next_ledger_at, self.clock.now + HEARD_EVERY, moment]
            due += [one.ends_at for node in self.nodes for one in node.underway.values()]
            soonest = self.clock.now + STEP_MIN
            self.clock.now = min(moment, min(max(soonest, one) for one in due if one is not None))
        self._work()

    def tell_of_underway(self) -> None:
        """Let what runs say how far it is, and what it wrote so far."""
        for node in self.nodes:
            reports = {key: self._tell(one) for key, one in node.underway.items()}
            keep_reports(self.database, reports)

    def let_die(self, name: str) -> None:
        """Let a machine vanish, as when its power fails: nobody tells how its runs end."""
        self.nodes = [node for node in self.nodes if node.machine.name != name]

    def _enter(self, number: int, machine: Machine) -> Node:
        identity = NodeIdentity(machine.name, secrets.token_hex(16), f"boot-{number}")
        register_node(
            self.database, identity, host=f"{machine.name}.shop.example", pid=1200 + 37 * number, pid_started=1,
            pools=machine.pools, slots=machine.slots, version="0.1.0", lease_seconds=LEASE_SECONDS,
            labels=machine.labels, wanted=machine.name, zone_data_version="2026b",
        )  # fmt: skip
        return Node(machine, identity, {})

    def _work(self) -> None:
        for _ in range(10):
            is_busy = False
            outlook = self._scheduler.look()
            for node in self.nodes:
                if outlook.has_cancelled or self.clock.now - node.heard_at >= HEARD_EVERY:
                    self._renew(node)
                is_busy |= self._end(node)
            done = self._scheduler.round(outlook)
            is_busy |= done.anything
            if is_busy or outlook.has_ready:
                for node in self.nodes:
                    is_busy |= self._start(node)
            if not is_busy:
                return

    def _renew(self, node: Node) -> None:
        renewal = renew_claims(self.database, node.identity, node.underway, LEASE_SECONDS)
        node.heard_at = self.clock.now
        node.underway = {key: one for key, one in node.underway.items() if key in renewal.kept}
        for key in renewal.cancelled:
            one = node.underway[key]
            end = replace(one.end, kind="cancelled", exit_code=None, result=None, error_type=None)
            node.underway[key] = replace(one, ends_at=self.clock.now, end=end)

    def _end(self, node: Node) -> bool:
        due = [one for one in node.underway.values() if one.ends_at <= self.clock.now]
        if due:
            end_runs(self.database, [one.end for one in due])
            for one in due:
                del node.underway[one.claim.claim_id]
        return bool(due)

    def _start(self, node: Node) -> bool:
        free = node.machine.slots - len(node.underway)
        if free < 1:
            return False
        machine = node.machine
        # No more than two at a time: elsewhere others are as quick.
        claims = claim_runs(
            self.database, node.identity, machine.pools, min(2, free), LEASE_SECONDS, labels=machine.labels
        )
        mark_started(self.database, [claim.claim_id for claim in claims if not claim.marked])
        for claim in claims:
            node.underway[claim.claim_id] = self._begin(claim)
        return bool(claims)

    def _begin(self, claim: Claim) -> Underway:
        habit = JOBS[claim.job][1]
        luck = self._luck
        seconds = round(luck.uniform(habit.least, habit.most), 1)
        now = self.clock.now
        since, until = TROUBLE.get(claim.job, ("", ""))
        fails = luck.randrange(100) < habit.fails or since <= now.isoformat() < until
        slot = f"{claim.slot_at or claim.run_at:%Y-%m-%d %H:%M}"
        steps = self._steps(luck.randrange(6, 14))
        head = OUTPUT.format(job=claim.job, slot=slot, attempt=claim.attempt)
        output = (head + "".join(steps) + ("" if fails else DONE)).encode()
        broken = BROKEN.encode() if fails else b""
        facts: dict[str, Any] = {"kind": "succeeded", "exit_code": 0}
        if fails and habit.error is not None:
            trace = (
                f'Traceback (most recent call last):\n  File "/srv/shop/{claim.target.split(":")[0]}.py", line 118\n'
            )
            facts = {"kind": "exception", "error_type": habit.error[0], "error_message": habit.error[1]}
            facts["traceback"] = f"{trace}{habit.error[0]}: {habit.error[1]}\n"
        elif fails:
            facts = {"kind": "exited", "exit_code": habit.exit_code}
        elif habit.result is not None:
            facts["result"] = json.dumps(habit.result)
        end = End(
            claim.claim_id,
            claim.run_id,
            seconds=seconds,
            cpu_seconds=round(seconds * luck.uniform(0.1, 0.8), 2),
            memory_bytes_max=luck.randrange(18, 900) * 2**20,
            pid=luck.randrange(2000, 30000),
            stdout=_written(output, seconds),
            stderr=_written(broken, seconds, begins=seconds * 0.9),
            **facts,
        )
        return Underway(claim, now, now + timedelta(seconds=seconds), end, output)

    def _steps(self, of: int) -> list[str]:
        luck = self._luck
        return [
            (SLOW if luck.random() < 0.12 else STEP).format(
                number=number, of=of, rows=luck.randrange(400, 30_000), ms=luck.randrange(40, 4_000)
            )
            for number in range(1, of + 1)
        ]

    def _tell(self, one: Underway) -> Report:
        done = (self.clock.now - one.began) / (one.ends_at - one.began)
        lines = one.output.splitlines(keepends=True)
        so_far = b"".join(lines[: max(3, round(len(lines) * done))])
        said = f"{round(done * 412)} of 412 files" if one.claim.job == "backup-database" else None
        return Report(
            one.claim.claim_id, (Piece("stdout", 0, so_far),), has_progress=said is not None,
            progress=round(done, 2) if said else None, progress_message=said,
        )  # fmt: skip


def found_company(folder: Path) -> Company:
    """Return a company at ``NOW``, with what happened to it until then."""
    company = Company(folder)
    admin, mila, jonas = (company.rota(name) for name in ("terraform", "mila", "jonas"))
    for name, options in CALENDARS.items():
        admin.calendars.add(name, **options)
    admin.pools.create("gpu", labels={"gpu": "a100"})
    for name, (options, _) in JOBS.items():
        admin.jobs.add(name, **options)
    for name, (job, options) in SCHEDULES.items():
        admin.schedules.add(name, job, **options)
    for name, role in (("jonas", "operator"), ("mila", "admin"), ("noor", "viewer")):
        admin.users.add(name, role=role)
    admin.tokens.add("grafana", role="viewer")
    admin.tokens.add("deploy", role="operator", expires="90d")
    mila.schedules["loyalty-points"].pause()

    company.work_until(PAUSED[0])
    jonas.pools.pause("reports")
    company.work_until(PAUSED[1])
    jonas.pools.resume("reports")
    company.work_until(NOW - timedelta(hours=3))
    mila.backfills.start("exchange-rates", "2026-10-01", "2026-10-20", max_active=2)
    company.work_until(DIES_AT)
    company.let_die(LOST)
    company.work_until(DRAINED_AT)
    jonas.nodes.drain("ams-2")
    _ask_for_more(mila)
    company.work_until(NOW)
    company.tell_of_underway()
    (folder / "founded").touch()
    return company


def _ask_for_more(rota: Rota) -> None:
    """What is under way, or still to come, when the pictures are taken."""
    rota.enqueue_many([("thumbnails", {"album": f"autumn-{number:02}"}) for number in range(24)])
    rota.backfills.start("payment-reconcile", "2026-11-01", "2026-11-08", max_active=1)
    rota.enqueue("invoices", {"market": "be"}, key="invoices-be-2026-11-18", at="2026-11-18T05:00Z")
    (rotation,) = rota.runs.list(job="search-index", state="running", limit=1) or [None]
    if rotation is not None:
        rota.runs[rotation["id"]].cancel()


def _written(data: bytes, seconds: float, *, begins: float = 0.0) -> Written:
    """Say when each line came, so that both streams are shown in their order."""
    lines = data.splitlines(keepends=True)
    marks: list[tuple[int, int]] = []
    position = 0
    for number, line in enumerate(lines):
        at = begins + (seconds - begins) * number / len(lines)
        marks.append((position, int(at * 1_000_000)))
        position += len(line)
    return Written(head=data, bytes_total=len(data), marks=tuple(marks))


def reopen(folder: Path) -> Database | None:
    """Return the database of a company that was founded in a folder before; None when there is none."""
    if not (folder / "founded").exists():
        return None
    database = Database(f"sqlite:///{folder / 'rota.db'}")
    Clock(NOW).govern(database)
    return database
