"""The scheduler: fires slots, moves runs on, rescues those whose lease is over.

Every node runs it; the database's compare-and-set lets one of them decide each thing. It holds no state but the
outlook: whatever it would forget by dying is in the database.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from rota.model.run import NodeIdentity
from rota.store.database import Database
from rota.store.endings import rescue_runs
from rota.store.slots import FIRE_BATCH_MAX, Outlook, advance_runs, fire_schedules, look

log = logging.getLogger("rota.scheduler")


@dataclass(slots=True)
class Done:
    """What one round did, added up."""

    slots: int = 0
    ready: int = 0
    missed: int = 0
    rescued: int = 0
    set_aside: int = 0

    @property
    def anything(self) -> bool:
        """Tell whether the outlook has changed by it."""
        return bool(self.slots or self.ready or self.missed or self.rescued or self.set_aside)


class Scheduler:
    """One bounded round at a time over what the outlook says is due."""

    def __init__(self, database: Database, identity: NodeIdentity, pools: tuple[str, ...]) -> None:
        self._database = database
        self.identity = identity
        self.pools = pools

    def look(self) -> Outlook:
        """Ask what there is to do."""
        return look(self._database, self.identity, self.pools)

    def round(self, outlook: Outlook) -> Done:
        """Do what ``outlook`` says is due: one batch of each kind."""
        done = Done()
        if outlook.slot_has_come:
            fired = fire_schedules(self._database, fired_by=self.identity.name, limit=FIRE_BATCH_MAX)
            done.slots, done.ready, done.set_aside = fired.runs, fired.ready, fired.set_aside
        if outlook.due_has_come:
            advanced = advance_runs(self._database)
            done.ready += advanced.ready
            done.missed = advanced.missed
        if outlook.lease_has_ended:
            done.rescued = rescue_runs(self._database, rescuer=self.identity.name)
            if done.rescued:
                log.warning("took %d runs away from nodes whose lease was over", done.rescued)
        return done

    @staticmethod
    def seconds_until_next(outlook: Outlook) -> float | None:
        """Return how long nothing will be due; None when nothing lies ahead."""
        ahead = [
            seconds
            for moment in (outlook.next_slot_at, outlook.next_due_at, outlook.next_lease_end_at)
            if (seconds := outlook.seconds_until(moment)) is not None
        ]
        return max(0.0, min(ahead)) if ahead else None
