"""The tidier: folds tallies, and removes what was kept long enough, beside everything else that a node does.

It has its turn when its node looks for findings, which is one node each minute, and then does one short batch after
another, with pauses between them: ends, claims and other writers go first. All it would forget by dying is how far it
has come: the next turn begins from the start.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from rota.store.audit import remove_audit
from rota.store.database import Database
from rota.store.log_ins import remove_log_ins
from rota.store.retention import REMOVED_MAX, is_clock_fresh, remove_commands, remove_events, remove_runs
from rota.store.rollups import KEEP_SECONDS, Unit, fold_tallies, remove_counts
from rota.store.tidying import tidy_output

log = logging.getLogger("rota.scheduler")

BATCHES_MAX = 100  # in one turn
PAUSE_SECONDS = 0.25
PAUSE_FACTOR = 4  # of how long a batch took: a fifth of the time at most
BATCH_SECONDS_MAX = 0.1  # a batch that takes longer is halved the next time
REMOVED_MIN = 5
REST_SECONDS = 600.0  # after everything was looked through


class Tidier:
    """One batch at a time."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self.keep_output_seconds: float | None = None
        self.keep_audit_seconds: float | None = None
        self.keep_runs: Mapping[str, float | None] | None = None  # None: it removes no runs
        self._left = 0
        self._next_at = 0.0
        self._after = 0
        self._rest_until = 0.0
        self._batch_size = REMOVED_MAX
        self._removed = 0
        self._is_folding = False
        # Of the roll-ups, behind which job the next turn goes on; None: from the start.
        self._counted: dict[Unit, int | None] = dict.fromkeys(KEEP_SECONDS)

    def begin(self) -> None:
        """Take the turn: do the first batch now, and let others be due."""
        self._fold()
        if is_clock_fresh(self._database):
            return
        for unit in KEEP_SECONDS:
            self._counted[unit] = remove_counts(self._database, unit, after=self._counted[unit] or -1)
        if self.keep_output_seconds is not None and (count := tidy_output(self._database, self.keep_output_seconds)):
            log.info("deleted what %d attempts wrote: it was kept long enough", count)
        if self.keep_audit_seconds is not None and (count := remove_audit(self._database, self.keep_audit_seconds)):
            log.info("deleted %d rows of the audit: they were kept long enough", count)
        if count := remove_log_ins(self._database):
            log.info("deleted %d sessions and failed log-ins that are over", count)
        if self.keep_runs is not None and self._clock() >= self._rest_until:
            self._left = BATCHES_MAX
            self._next_at = self._clock()
            if self._after == 0 and (count := remove_events(self._database)):
                log.info("deleted %d events of half a year ago and before", count)
            if self._after == 0 and (count := remove_commands(self._database)):
                log.info("deleted %d commands that were answered a month ago and before", count)

    @property
    def seconds_until_next(self) -> float | None:
        """How long until a batch is due; None: not in this turn."""
        return max(0.0, self._next_at - self._clock()) if self._left or self._is_folding else None

    def round(self) -> int:
        """Do a batch if one is due; return how many runs went.

        Raises:
            DatabaseUnavailable: the turn is over; nothing is lost by it.
        """
        if self.seconds_until_next != 0.0:
            return 0
        if self._is_folding:
            self._fold()
            return 0
        if self.keep_runs is None:
            return 0
        left, self._left = self._left - 1, 0  # trouble ends the turn
        began = self._clock()
        removed = remove_runs(self._database, self.keep_runs, after=self._after, limit=self._batch_size)
        took = self._clock() - began
        self._adapt(took, removed.runs)
        self._after = removed.after
        self._removed += removed.runs
        self._left = 0 if removed.is_over else left
        self._next_at = self._clock() + max(PAUSE_SECONDS, PAUSE_FACTOR * took)
        if removed.is_over:
            self._rest_until = self._clock() + REST_SECONDS
        if not self._left and self._removed:
            log.info("deleted %d finished runs that were kept long enough", self._removed)
            self._removed = 0
        return removed.runs

    def _fold(self) -> None:
        began, self._is_folding = self._clock(), False  # trouble ends it until the next turn
        self._is_folding = fold_tallies(self._database)
        self._next_at = self._clock() + max(PAUSE_SECONDS, PAUSE_FACTOR * (self._clock() - began))

    def _adapt(self, took: float, count: int) -> None:
        if took > BATCH_SECONDS_MAX:
            self._batch_size = max(REMOVED_MIN, self._batch_size // 2)
        elif count >= self._batch_size:
            self._batch_size = min(REMOVED_MAX, self._batch_size * 2)
