"""What the attempts of a node have come to, until the database has it: ends, deaths of guardians, takings over.

Invariant: no end is forgotten before the database has it, and one that cannot be recorded holds up no other. Used by
the bookkeeper and by the stand-in, each in the one thread in which it writes.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rota.errors import DatabaseUnavailable
from rota.model.run import End, Report
from rota.store.database import Database
from rota.store.endings import Delivered, end_runs, surrender_runs
from rota.store.reports import keep_reports

log = logging.getLogger("rota.worker")

ENDS_MAX = 100
REFUSED_AGAIN_SECONDS = 30.0
REPORT_SECONDS = 0.3  # from one batch of reports to the next; with what guardians and followers wait, below 2 s
REPORT_BYTES_MAX = 4 * 1024 * 1024  # of one job, while they cannot be told


@dataclass(frozen=True, slots=True)
class Kept:
    """What went into the database in one go."""

    claim_ids: tuple[str, ...] = ()  # whose ends are there now
    waiting_seconds_min: float | None = None  # until the first retry among them; None: no retry
    has_given_back: bool = False


class Books:
    """Queues towards the database. Whoever adds to them and whoever empties them may be two threads."""

    def __init__(self, database: Database, actor: Callable[[], str], adopt: Callable[[Sequence[str]], None]) -> None:
        self._database = database
        self._actor = actor
        self._adopt = adopt
        self.ends: deque[End] = deque()
        self.dead: deque[str] = deque()  # claims whose guardian died
        self.adopted: deque[str] = deque()  # claims whose worker is gone, and whose guardian goes on with this one
        self._reports: dict[str, Report] = {}  # by claim
        self._report_at = 0.0  # monotonic: not before
        self._refused: deque[tuple[float, End]] = deque()  # ends that cannot be recorded, and when to try again

    @property
    def is_due(self) -> bool:
        """Whether there is something to write now."""
        refused = self._refused and self._is_refused_due()
        return bool(self.ends or self.dead or self.adopted or refused or self.seconds_until_report() == 0.0)

    @property
    def is_empty(self) -> bool:
        """Whether the database has everything."""
        return not (self.ends or self.dead or self.adopted or self._refused)

    def hear_report(self, report: Report) -> None:
        """Take over what a running job has told."""
        before = self._reports.get(report.claim_id)
        if before is not None:
            report = before.followed_by(report)
            if sum(len(piece.data) for piece in report.pieces) > REPORT_BYTES_MAX:  # the database is away
                report = replace(report, pieces=report.pieces[-1:])
        self._reports[report.claim_id] = report

    def seconds_until_report(self) -> float | None:
        """Tell how long until ``tell`` is due; None when there is nothing to tell."""
        return max(0.0, self._report_at - time.monotonic()) if self._reports else None

    def tell(self) -> None:
        """Bring what running jobs have told into the database: for people who look on.

        Raises:
            DatabaseUnavailable: it is kept, to be told when it is back.
        """
        if not self._reports or self.seconds_until_report():
            return
        self._report_at = time.monotonic() + REPORT_SECONDS
        reports = {claim_id: self._reports.pop(claim_id) for claim_id in list(self._reports)}
        try:
            self._keep(reports)
        except DatabaseUnavailable:
            for report in reports.values():
                later = self._reports.pop(report.claim_id, None)
                self._reports[report.claim_id] = report
                if later is not None:
                    self.hear_report(later)
            raise

    def _keep(self, reports: dict[str, Report]) -> None:
        try:
            keep_reports(self._database, reports)
        except DatabaseUnavailable:
            raise
        except Exception:  # what is wrong with one must hold up neither the others nor any end, which tells all again
            if len(reports) == 1:
                log.exception("what the job of claim %s has told was refused", *reports)
                return
            for claim_id, report in reports.items():
                self._keep({claim_id: report})

    def surrender(self) -> tuple[str, ...]:
        """Let go of the claims whose guardian died, and return them; the database decides what follows.

        Raises:
            DatabaseUnavailable: they stay in the queue.
        """
        claim_ids = tuple(self.dead)
        surrender_runs(self._database, claim_ids, actor=self._actor())
        for _ in claim_ids:
            self.dead.popleft()
        return claim_ids

    def adopt(self) -> None:
        """Tell which runs have been taken over."""
        claim_ids = tuple(self.adopted)
        self._adopt(claim_ids)
        for _ in claim_ids:
            self.adopted.popleft()

    def _tell_last_progress(self, ends: Sequence[End]) -> None:
        # All else that was told comes with the end. Afterwards it is too late: who reports must have the run.
        reports = [report for end in ends if (report := self._reports.pop(end.claim_id, None)) is not None]
        last = {one.claim_id: replace(one, pieces=(), checkpoint=None) for one in reports if one.has_progress}
        try:
            if last:
                self._keep(last)
        except DatabaseUnavailable:
            self._reports |= last
            raise

    def _is_refused_due(self) -> bool:
        return self._refused[0][0] <= time.monotonic()

    def deliver(self) -> Kept:
        """Bring the next ends into the database: one transaction for a batch, or one by one if that is refused.

        Raises:
            DatabaseUnavailable: all of them are kept, to be delivered when it is back.
        """
        while self._refused and self._is_refused_due():
            self.ends.append(self._refused.popleft()[1])
        if not self.ends:
            return Kept()
        batch = [self.ends[i] for i in range(min(len(self.ends), ENDS_MAX))]
        self._tell_last_progress(batch)
        refused: list[End] = []
        try:
            delivered = end_runs(self._database, batch)
        except DatabaseUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - one end that cannot be recorded must not hold up the others
            log.error("a batch of %d ends was refused, delivering one by one: %s", len(batch), error)
            delivered, refused = self._deliver_one_by_one(batch)
        for _ in batch:
            self.ends.popleft()
        self._refused.extend((time.monotonic() + REFUSED_AGAIN_SECONDS, end) for end in refused)
        if delivered.orphaned:
            log.warning("%d ends came after their lease and are kept as orphans", len(delivered.orphaned))
        return Kept(
            claim_ids=tuple(end.claim_id for end in batch if end not in refused),
            waiting_seconds_min=delivered.waiting_seconds_min,
            has_given_back=any(end.kind == "released" for end in batch),
        )

    def _deliver_one_by_one(self, batch: list[End]) -> tuple[Delivered, list[End]]:
        orphaned: set[str] = set()
        refused: list[End] = []
        for end in batch:
            bare = End(
                claim_id=end.claim_id,
                run_id=end.run_id,
                kind="bad_result",
                exit_code=end.exit_code,
                signal=end.signal,
                error_type="EndRefused",
                error_message="the database refused to keep how it ended; the worker's log has the reason",
            )
            for form in (end, bare):
                try:
                    orphaned |= end_runs(self._database, [form]).orphaned
                    break
                except DatabaseUnavailable:
                    raise
                except Exception:
                    log.exception("the end of run %d cannot be recorded", end.run_id)
            else:
                # Kept, with its lease and its place, and offered again: perhaps a right is missing for a while.
                refused.append(end)
        applied = frozenset(end.claim_id for end in batch if end not in refused) - orphaned
        return Delivered(applied, frozenset(orphaned), None), refused
