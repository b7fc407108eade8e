"""The scheduler: fires slots, moves runs on, rescues those whose lease is over.

Every node runs it; the database's compare-and-set lets one of them decide each thing. It holds no state but the
outlook: whatever it would forget by dying is in the database.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

from rota.engine.tidier import Tidier
from rota.errors import DatabaseUnavailable
from rota.execution.linux import boottime
from rota.model.environment import NO_ENVIRONMENTS, Environments
from rota.model.placement import NO_LABELS
from rota.model.run import NodeIdentity
from rota.store.advancing import advance_runs, miss_unreachable
from rota.store.backfill_steps import step_backfills
from rota.store.breakers import let_runs_through
from rota.store.clock import ClockWatch
from rota.store.database import Database
from rota.store.endings import rescue_runs
from rota.store.findings import watch_health
from rota.store.firing import FIRE_BATCH_MAX, fire_schedules
from rota.store.membership import correct_absent_nodes
from rota.store.outlook import Outlook, look
from rota.store.periods import look_at_periods, rewake_periods
from rota.store.permits import tidy_permits
from rota.store.upstreams import look_at_upstreams

log = logging.getLogger("rota.scheduler")


@dataclass(slots=True)
class Done:
    """What one round did, added up."""

    answered: int = 0  # commands that were asked for with SQL
    slots: int = 0
    ready: int = 0
    missed: int = 0
    looked_at: int = 0  # runs that are done without, since an upstream is not; or there are more to look at
    backfilled: int = 0  # runs for slots of the past; or there is more to look at
    periods: int = 0  # that were finished, or jobs whose ledgers were continued
    rescued: int = 0
    set_aside: int = 0
    trouble: Exception | None = None  # the first thing that went wrong; the others were done all the same

    @property
    def anything(self) -> bool:
        """Tell whether the outlook has changed by it."""
        decided = self.slots or self.ready or self.missed or self.looked_at or self.backfilled or self.periods
        return bool(decided or self.rescued or self.set_aside or self.answered)


@contextlib.contextmanager
def _trouble_kept(done: Done) -> Generator[None]:
    try:
        yield
    except DatabaseUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 - whoever asked for the round tells of it
        done.trouble = done.trouble or error


Answer = Callable[[Database, str], int]


class Scheduler:
    """One bounded round at a time over what the outlook says is due."""

    def __init__(
        self,
        database: Database,
        identity: NodeIdentity,
        pools: tuple[str, ...],
        lease_seconds: float,
        *,
        clock: Callable[[], float] = boottime,
        environments: Environments = NO_ENVIRONMENTS,
    ) -> None:
        self._database = database
        self.tidier = Tidier(database, clock)
        self.identity = identity
        self.pools = pools
        self.environments = environments
        self.secrets: tuple[str, ...] = ()  # names of those that this node can read now
        self.labels: Mapping[str, str] | None = NO_LABELS  # of this node; None: whatever jobs say of nodes, it is meant
        self.answer: Answer | None = None  # what carries out commands that are asked for with SQL
        self._clock = clock
        self._watch = ClockWatch(database, lease_seconds, node=identity.name)

    def look(self) -> Outlook:
        """Ask what there is to do; notice when the database's clock has stepped since, and tell the others."""
        asked_at = self._clock()
        outlook = look(self._database, self.identity, self.pools, self.environments, self.secrets, self.labels)
        step = self._watch.observe(asked_at, self._clock(), outlook.now)
        return dataclasses.replace(outlook, is_held=step > 0) if step else outlook

    def round(self, outlook: Outlook) -> Done:
        """Do what ``outlook`` says is due: one batch of each kind. One that fails does not hold up the others.

        What is late is told by the moment of the look, which the guard has seen: the clock may have stepped since.

        Raises:
            DatabaseUnavailable: nobody answers; what was done before stays done.
        """
        done = Done()
        if outlook.has_commands and self.answer is not None:
            with _trouble_kept(done):
                done.answered = self.answer(self._database, self.identity.name)
        if outlook.upstreams_have_come:
            with _trouble_kept(done):
                self._look_at_upstreams(done)
        # First what can no longer start: it must not keep a slot that may from doing so.
        if outlook.due_has_come:
            with _trouble_kept(done):
                advanced = advance_runs(self._database, is_held=outlook.is_held, as_of=outlook.now)
                done.ready += advanced.ready
                done.missed = advanced.missed
        if outlook.slot_has_come:
            with _trouble_kept(done):
                self._fire(done, outlook)
        if outlook.backfill_has_come:
            with _trouble_kept(done):
                self._step_backfills(done)
        if outlook.periods_have_come and not outlook.is_held:
            with _trouble_kept(done):
                self._look_at_periods(done, outlook)
        if outlook.lease_has_ended and not outlook.is_held:
            with _trouble_kept(done):
                done.rescued = rescue_runs(self._database, rescuer=self.identity.name, as_of=outlook.now)
                if done.rescued:
                    log.warning("took %d runs away from nodes whose lease was over", done.rescued)
        if outlook.half_open_has_come:
            with _trouble_kept(done):
                done.ready += let_runs_through(self._database)
        if outlook.health_is_due:
            with _trouble_kept(done):
                if watch_health(self._database, node=self.identity.name) is not None:  # it was this node's turn
                    self._tidy(done)
        if not outlook.is_held:
            with _trouble_kept(done):
                self.tidier.round()
        return done

    def _look_at_upstreams(self, done: Done) -> None:
        looked = look_at_upstreams(self._database)
        done.ready += looked.ready
        done.looked_at = looked.skipped + looked.is_full

    def _step_backfills(self, done: Done) -> None:
        stepped = step_backfills(self._database)
        done.ready += stepped.ready
        done.backfilled = stepped.runs + stepped.is_full

    def _look_at_periods(self, done: Done, outlook: Outlook) -> None:
        looked = look_at_periods(self._database, as_of=outlook.now)
        done.ready += looked.ready
        done.periods = looked.added + looked.finished + looked.is_full

    def _tidy(self, done: Done) -> None:
        with _trouble_kept(done):
            rewake_periods(self._database)
        with _trouble_kept(done):
            if count := correct_absent_nodes(self._database):
                log.info("%d nodes that are gone did not say what the rules of pools make of them: they do now", count)
        with _trouble_kept(done):
            if count := miss_unreachable(self._database):
                log.warning("missed %d runs that were for nodes which their pool has no more", count)
        with _trouble_kept(done):
            tidy_permits(self._database)
        with _trouble_kept(done):
            self.tidier.begin()

    def _fire(self, done: Done, outlook: Outlook) -> None:
        fired = fire_schedules(
            self._database,
            fired_by=self.identity.name,
            limit=FIRE_BATCH_MAX,
            is_held=outlook.is_held,
            as_of=outlook.now,
        )
        done.ready += fired.ready
        done.slots, done.set_aside = fired.runs, fired.set_aside

    @staticmethod
    def seconds_until_next(outlook: Outlook) -> float | None:
        """Return how long nothing will be due; None when nothing lies ahead."""
        ahead = [
            seconds
            for moment in (
                outlook.next_slot_at,
                outlook.next_due_at,
                outlook.next_upstreams_at,
                outlook.next_backfill_at,
                outlook.next_period_at,
                outlook.next_ledger_at,
                outlook.next_lease_end_at,
            )
            if (seconds := outlook.seconds_until(moment)) is not None
        ]
        # One in the past waits for a run that is ready, which whoever makes it tells.
        half_open = outlook.seconds_until(outlook.next_half_open_at)
        if half_open is not None and half_open > 0:
            ahead.append(half_open)
        if (free := outlook.seconds_until(outlook.next_free_at)) is not None:
            ahead.append(free)
        return max(0.0, min(ahead)) if ahead else None
