"""Backfills, as applications see them: ``rota.backfills``, and ``rota.backfills[id]`` for one.

Checks are ``rota.model.backfill``'s; rows are ``rota.store.backfills``'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rota.client.listing import gather
from rota.model.backfill import BackfillState, Wish
from rota.model.instants import check_zone, parse_instant
from rota.model.names import check_name
from rota.model.pages import Page
from rota.model.values import check_id, check_word
from rota.store import backfills, period_actions
from rota.store.backfills import Subject

if TYPE_CHECKING:
    from rota.client.rota import Rota


class BackfillHandle:
    """One backfill."""

    def __init__(self, rota: Rota, backfill_id: int) -> None:
        self._rota = rota
        self.id = backfill_id

    def __repr__(self) -> str:
        return f"<backfill {self.id}>"

    def show(self) -> dict[str, Any]:
        """Return how it stands: how many slots it has, are done, succeeded, failed, active, left; by schedule too.

        Raises:
            NotFound: there is no such backfill.
        """
        return backfills.read_backfill(self._rota.database, self.id)

    def pause(self) -> dict[str, Any]:
        """Make no more runs until it is resumed; those that it has made go on.

        Raises:
            Conflict: it has ended, or was cancelled.
        """
        return backfills.pause_backfill(self._rota.database, self.id, actor=self._rota.actor)

    def resume(self) -> dict[str, Any]:
        """Go on from where it was paused.

        Raises:
            Conflict: it has ended, or was cancelled.
        """
        return backfills.resume_backfill(self._rota.database, self.id, actor=self._rota.actor)

    def cancel(self) -> dict[str, Any]:
        """End it: its runs that have not started are withdrawn, and those that run are asked to stop.

        Raises:
            Conflict: it has ended.
        """
        return backfills.cancel_backfill(self._rota.database, self.id, actor=self._rota.actor)


@dataclass(frozen=True, slots=True)
class TakenBack:
    """Periods that are done again, as ``rota.periods.reprocess`` returns them: their ledger sees to them from here."""

    touched: dict[str, Any]

    def show(self) -> dict[str, Any]:
        """Return how many they are, and which, by job."""
        return self.touched


class Backfills:
    """All backfills: ``rota.backfills``."""

    def __init__(self, rota: Rota) -> None:
        self._rota = rota

    def __getitem__(self, backfill_id: int | str) -> BackfillHandle:
        return BackfillHandle(self._rota, check_id("backfill", backfill_id))

    def start(
        self,
        name: str,
        start: str | datetime,
        end: str | datetime,
        *,
        order: str = "oldest",
        max_active: int = 1,
        downstream: bool = False,
        again: bool = False,
        failed_only: bool = False,
        yes: bool = False,
    ) -> BackfillHandle | TakenBack:
        """Run the slots at or after ``start`` and before ``end`` of a job's schedules, or of the schedule ``name``.

        Those that have not succeeded; with ``again`` these too, with ``failed_only`` only what failed, was lost or
        missed, or skipped for an upstream; with ``downstream`` and what is built on them. Local times are in the zone
        of the schedules, or the default one where they have several. More than 1,000,000 slots want ``yes``.

        Of a job with periods, those that begin in that time are taken back, with all that is built on them, in one
        transaction; they are done oldest first, as many at once as the job says.

        Raises:
            NotFound: there is neither such a schedule nor such a job.
            Invalid: a value breaks its rule, there is no such slot, or one of them has not come yet.
            Conflict: a schedule is paused or set aside, or it cannot be done for its job; nothing was stored.
        """
        wish = Wish.checked(
            order=order, max_active=max_active, downstream=downstream, again=again, failed_only=failed_only
        )
        subject, first, last = self._read(name, start, end)
        database, actor = self._rota.database, self._rota.actor
        if subject.has_periods:
            return TakenBack(period_actions.backfill_periods(database, name, first, last, wish, actor=actor))
        view = backfills.start_backfill(database, name, first, last, wish, actor=actor, confirmed=yes)
        return BackfillHandle(self._rota, view["id"])

    def preview(
        self,
        name: str,
        start: str | datetime,
        end: str | datetime,
        *,
        order: str = "oldest",
        max_active: int = 1,
        downstream: bool = False,
        again: bool = False,
        failed_only: bool = False,
    ) -> dict[str, Any]:
        """Return what ``start`` with these would do, and do nothing: the slots, and how many are for what, or periods.

        Raises:
            As ``start``, but for the number of slots.
        """
        wish = Wish.checked(
            order=order, max_active=max_active, downstream=downstream, again=again, failed_only=failed_only
        )
        subject, first, last = self._read(name, start, end)
        database, actor = self._rota.database, self._rota.actor
        if subject.has_periods:
            return period_actions.backfill_periods(database, name, first, last, wish, actor=actor, dry_run=True)
        return backfills.preview_backfill(database, name, first, last, wish)

    def list(
        self,
        limit: int = 50,
        *,
        name: str | None = None,
        state: str | None = None,
        before: int | None = None,
    ) -> Page[dict[str, Any]]:
        """Return up to ``limit`` backfills, the newest first: of a job or schedule by ``name``, in a ``state``.

        ``next`` of what is returned is the ``before`` of the next page: the id of its last one.

        Raises:
            Invalid: a value breaks its rule.
        """
        filters: dict[str, Any] = {
            "name": None if name is None else check_name("name", name),
            "state": None if state is None else check_word("state", state, BackfillState).value,
        }
        database = self._rota.database
        return gather(
            lambda place, most: backfills.list_backfills(database, before=place, limit=most, **filters),
            "id",
            after=None if before is None else check_id("backfill", before),
            limit=limit,
        )

    def _read(self, name: str, start: str | datetime, end: str | datetime) -> tuple[Subject, datetime, datetime]:
        subject = backfills.read_subject(self._rota.database, check_name("name", name))
        where = check_zone("tz", subject.zone or self._rota.default_zone)
        return subject, parse_instant("from", start, where), parse_instant("to", end, where)
