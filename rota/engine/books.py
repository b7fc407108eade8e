"""What the attempts of a node have come to, until the database has it: ends, deaths of guardians, takings over.

Invariant: no end is forgotten before the database has it, and one that cannot be recorded, or whose run somebody keeps
locked, holds up no other. Used by
the bookkeeper and by the stand-in, each in the one thread in which it writes.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from rota.engine.backoff import Backoff
from rota.errors import DatabaseUnavailable
from rota.model.run import End, Report
from rota.store.database import Database
from rota.store.endings import Delivered, end_runs, surrender_runs
from rota.store.reports import keep_reports

log = logging.getLogger("rota.worker")
Item = TypeVar("Item", End, str)

ENDS_MAX = 100
REFUSED_AGAIN_SECONDS = 30.0
LOCKED_REPORT_SECONDS = 2.0
REPORT_SECONDS = 0.3  # from one batch of reports to the next; with what guardians and followers wait, below 2 s
REPORT_BYTES_MAX = 4 * 1024 * 1024  # of one job, while they cannot be told


@dataclass(frozen=True, slots=True)
class Kept:
    """What went into the database in one go."""

    claim_ids: tuple[str, ...] = ()  # whose ends are there now
    waiting_seconds_min: float | None = None  # until the first retry among them; None: no retry
    has_given_back: bool = False  # runs, or permits that others wait for


class Books:
    """Queues towards the database. Whoever adds to them and whoever empties them may be two threads."""

    def __init__(
        self, database: Database, actor: Callable[[], str], adopt: Callable[[Sequence[str]], frozenset[str]]
    ) -> None:
        """``adopt`` tells that these claims are in other hands, and returns those whose run somebody keeps locked."""
        self._database = database
        self._actor = actor
        self._adopt = adopt
        self.ends: deque[End] = deque()
        self.dead: deque[str] = deque()  # claims whose guardian died
        self.adopted: deque[str] = deque()  # claims whose worker is gone, and whose guardian goes on with this one
        self._reports: dict[str, Report] = {}  # by claim
        self._report_at = 0.0  # monotonic: not before
        self._later: list[tuple[float, Callable[[], None]]] = []  # what could not be written, and when to try again
        self._locked = Backoff()

    @property
    def is_due(self) -> bool:
        """Whether there is something to write now."""
        now = time.monotonic()
        later = any(at <= now for at, _ in self._later)
        return bool(self.ends or self.dead or self.adopted or later or self.seconds_until_report() == 0.0)

    @property
    def is_empty(self) -> bool:
        """Whether the database has everything."""
        return not (self.ends or self.dead or self.adopted or self._later)

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

    def seconds_until_due(self) -> float | None:
        """Tell how long until something is to be told, or tried again; None when there is nothing of the kind."""
        now = time.monotonic()
        moments = [at for at, _ in self._later] + ([self._report_at] if self._reports else [])
        return max(0.0, min(moments) - now) if moments else None

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
            locked = self._keep(reports)
        except DatabaseUnavailable:
            self._tell_later(reports.values())
            raise
        if locked:
            self._tell_later(reports[claim_id] for claim_id in locked)
            self._report_at = time.monotonic() + LOCKED_REPORT_SECONDS

    def _tell_later(self, reports: Iterable[Report]) -> None:
        for report in reports:
            newer = self._reports.pop(report.claim_id, None)
            self._reports[report.claim_id] = report
            if newer is not None:
                self.hear_report(newer)

    def _keep(self, reports: dict[str, Report]) -> frozenset[str]:
        try:
            return keep_reports(self._database, reports)
        except DatabaseUnavailable:
            raise
        except Exception:  # what is wrong with one must hold up neither the others nor any end, which tells all again
            if len(reports) == 1:
                log.exception("what the job of claim %s has told was refused", *reports)
                return frozenset()
            return frozenset[str]().union(*(self._keep({claim_id: report}) for claim_id, report in reports.items()))

    def surrender(self) -> frozenset[str]:
        """Let go of the claims whose guardian died, and return them; the database decides what follows.

        Raises:
            DatabaseUnavailable: they stay in the queue.
        """
        claim_ids = tuple(self.dead)
        locked = surrender_runs(self._database, claim_ids, actor=self._actor())
        _take_off(self.dead, len(claim_ids))
        self._try_again(self.dead, locked)
        return frozenset(claim_ids) - locked

    def adopt(self) -> None:
        """Tell which runs have been taken over."""
        claim_ids = tuple(self.adopted)
        locked = self._adopt(claim_ids)
        _take_off(self.adopted, len(claim_ids))
        self._try_again(self.adopted, locked)

    def _try_again(self, queue: deque[Item], locked: Collection[Item]) -> None:
        # Mostly a renewal has them for a moment, which is not worth a word; or else a hand, for long.
        if not locked:
            self._locked.succeeded()
            return
        self._put_later(queue, locked, self._locked.failed())
        if self._locked.failures > 1 and self._locked.is_worth_a_line():
            log.warning("%d runs are locked by somebody; what is to be written of them waits", len(locked))

    def _put_later(self, queue: deque[Item], items: Iterable[Item], seconds: float) -> None:
        kept = tuple(items)
        self._later.append((time.monotonic() + seconds, lambda: queue.extend(kept)))

    def bring_back(self) -> None:
        """Put into their queues again what could not be written before, where it is time to try."""
        now = time.monotonic()
        due = [put_back for at, put_back in self._later if at <= now]
        self._later = [(at, put_back) for at, put_back in self._later if at > now]
        for put_back in due:
            put_back()

    def _tell_last_progress(self, ends: Sequence[End]) -> None:
        # All else that was told comes with the end. Afterwards it is too late: who reports must have the run.
        reports = [report for end in ends if (report := self._reports.pop(end.claim_id, None)) is not None]
        last = {one.claim_id: replace(one, pieces=(), checkpoint=None) for one in reports if one.has_progress}
        try:
            locked = self._keep(last) if last else frozenset[str]()
        except DatabaseUnavailable:
            self._reports |= last
            raise
        self._reports |= {claim_id: last[claim_id] for claim_id in locked}

    def deliver(self) -> Kept:
        """Bring the next ends into the database: one transaction for a batch, or one by one if that is refused.

        Raises:
            DatabaseUnavailable: all of them are kept, to be delivered when it is back.
        """
        if not self.ends:
            return Kept()
        batch = [self.ends[i] for i in range(min(len(self.ends), ENDS_MAX))]
        self._tell_last_progress(batch)
        refused: list[End] = []
        try:
            delivered = end_runs(self._database, batch, waits=False)
        except DatabaseUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - one end that cannot be recorded must not hold up the others
            log.error("a batch of %d ends was refused, delivering one by one: %s", len(batch), error)
            delivered, refused = self._deliver_one_by_one(batch)
        _take_off(self.ends, len(batch))
        if refused:
            self._put_later(self.ends, refused, REFUSED_AGAIN_SECONDS)
        self._try_again(self.ends, [end for end in batch if end.claim_id in delivered.locked])
        if delivered.orphaned:
            log.warning("%d ends came after their lease and are kept as orphans", len(delivered.orphaned))
        return Kept(
            claim_ids=tuple(sorted(delivered.applied | delivered.orphaned)),
            waiting_seconds_min=delivered.waiting_seconds_min,
            has_given_back=delivered.has_freed or any(end.kind == "released" for end in batch),
        )

    def _deliver_one_by_one(self, batch: list[End]) -> tuple[Delivered, list[End]]:
        applied: set[str] = set()
        orphaned: set[str] = set()
        locked: set[str] = set()
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
                    delivered = end_runs(self._database, [form], waits=False)
                    applied |= delivered.applied
                    orphaned |= delivered.orphaned
                    locked |= delivered.locked
                    break
                except DatabaseUnavailable:
                    raise
                except Exception:
                    log.exception("the end of run %d cannot be recorded", end.run_id)
            else:
                # Kept, with its lease and its place, and offered again: perhaps a right is missing for a while.
                refused.append(end)
        return Delivered(frozenset(applied), frozenset(orphaned), frozenset(locked), None), refused


def _take_off(queue: deque[Item], count: int) -> None:
    for _ in range(count):  # whoever adds to it meanwhile does so at its end
        queue.popleft()
