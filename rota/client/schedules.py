"""Schedules, as applications see them: ``rota.schedules``, and ``rota.schedules[key]`` for one.

Checks are ``rota.model.schedule``'s; rows are ``rota.store.schedules``'s.
"""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from rota.client.options import check_schedule_options
from rota.errors import NotFound
from rota.model.instants import check_zone, parse_instant
from rota.model.job import check_whole
from rota.model.names import check_name
from rota.model.schedule import ScheduleSpec
from rota.store import schedules
from rota.store.jobs import check_if_exists

if TYPE_CHECKING:
    from rota.client.rota import Rota

PREVIEW_MAX = 1000


class ScheduleHandle:
    """One schedule."""

    def __init__(self, rota: Rota, key: str) -> None:
        self._rota = rota
        self.key = key

    def __repr__(self) -> str:
        return f"<schedule {self.key}>"

    def show(self) -> dict[str, Any]:
        """Return how the schedule is shown.

        Raises:
            NotFound: there is no such schedule.
        """
        return schedules.read_schedule(self._rota.database, self.key)

    def exists(self) -> bool:
        """Tell whether there is such a schedule."""
        try:
            self.show()
        except NotFound:
            return False
        return True

    def next(self, n: int = 1, after: str | datetime | None = None) -> list[datetime]:
        """Return the next ``n`` slots after a moment, the database's now unless told; fewer when there are no more.

        Raises:
            NotFound: there is no such schedule.
            Invalid: what stands in its row cannot be understood.
        """
        count = check_whole("n", n, 1, PREVIEW_MAX)
        timing, now = schedules.read_timing(self._rota.database, self.key)
        start = now if after is None else parse_instant("from", after, check_zone("tz", timing.zone))
        return list(islice(timing.preview(start), count))

    def edit(self, **options: Any) -> dict[str, Any]:
        """Change the options that are given, as ``add`` takes them. The past is not replayed.

        Raises:
            NotFound: there is no such schedule, or no such job.
            Invalid: a value breaks its rule; nothing was changed.
        """
        changes = check_schedule_options(options, new=False)
        return schedules.edit_schedule(
            self._rota.database, self.key, lambda spec: spec.edited(**changes), actor=self._rota.actor
        )

    def pause(self) -> dict[str, Any]:
        """Make no more runs until it is resumed."""
        return schedules.pause_schedule(self._rota.database, self.key, actor=self._rota.actor)

    def resume(self) -> dict[str, Any]:
        """Go on with the first slot after now; one row of the ledger tells of those that went by."""
        return schedules.resume_schedule(self._rota.database, self.key, actor=self._rota.actor)

    def delete(self) -> None:
        """Delete the schedule; its runs stay."""
        schedules.delete_schedule(self._rota.database, self.key, actor=self._rota.actor)


class Schedules:
    """All schedules."""

    def __init__(self, rota: Rota) -> None:
        self._rota = rota

    def __getitem__(self, key: str) -> ScheduleHandle:
        return ScheduleHandle(self._rota, check_name("key", key))

    def add(self, key: str, job: str, *, if_exists: str = "error", **options: Any) -> dict[str, Any]:
        """Add a schedule for ``job`` and return how it is shown.

        One of ``cron``, ``every`` and ``at`` says when it is due. The other options are those of ``rota schedule add``:
        ``tz``, ``delay``, ``start_within``, ``catch_up``, ``catch_up_limit``, ``overlap``, ``args``, and
        ``anchor``, where the grid of an ``every`` starts.

        Raises:
            Invalid: a value breaks its rule; nothing was stored.
            NotFound: there is no such job.
            AlreadyExists: the key is taken, and ``if_exists`` is ``"error"``.
        """
        decision = check_if_exists(if_exists)
        spec = self.check(key, job, **options)
        return schedules.add_schedule(self._rota.database, spec, actor=self._rota.actor, if_exists=decision)

    def check(self, key: str, job: str, **options: Any) -> ScheduleSpec:
        """Check what ``add`` is given; a schedule that names no zone gets the default one.

        Raises:
            Invalid: a value breaks its rule.
        """
        given = check_schedule_options(options, new=True)
        return ScheduleSpec.checked(key, job=job, **({"tz": self._rota.default_zone, **given}))

    def list(self) -> list[dict[str, Any]]:
        """Return all schedules, in the order of their keys."""
        found: list[dict[str, Any]] = []
        while page := schedules.list_schedules(self._rota.database, after=found[-1]["key"] if found else ""):
            found += page
        return found
