"""Schedules, as applications see them: ``rota.schedules``, and ``rota.schedules[key]`` for one.

Checks are ``rota.model.schedule``'s; rows are ``rota.store.schedules``'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rota.client.forecast import find_coming, preview_edited, preview_new, preview_schedule
from rota.client.listing import check_search, gather
from rota.client.options import check_schedule_options
from rota.errors import Invalid, NotFound
from rota.model.instants import check_zone, parse_instant
from rota.model.names import check_name
from rota.model.pages import Page
from rota.model.schedule import ScheduleSpec
from rota.model.states import JobState
from rota.model.values import check_word
from rota.store import schedules
from rota.store.jobs import check_if_exists
from rota.store.marking import mark_slot

if TYPE_CHECKING:
    from rota.client.rota import Rota


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
        return find_coming(self._rota, self.key, n, after)[1]

    def preview(self, n: int = 1, after: str | datetime | None = None) -> list[dict[str, Any]]:
        """Return the next ``n`` slots as ``next`` does, each with what is special about it.

        ``slot``, ``local`` (in the schedule's zone), ``run_at`` (with delay and jitter), and ``notes``: what a change
        of the zone's offset or a calendar does to it.

        Raises:
            NotFound: there is no such schedule.
            Invalid: what stands in its row cannot be understood.
        """
        return preview_schedule(self._rota, self.key, n, after)

    def preview_edit(self, n: int = 1, **options: Any) -> dict[str, Any]:
        """Return what ``edit`` would bring, and change nothing: ``slots`` as ``preview`` has them, and ``notes``.

        Raises:
            NotFound: there is no such schedule, or no such job.
            Invalid: a value breaks its rule.
        """
        return preview_edited(self._rota, self.key, check_schedule_options(options, new=False), n)

    def edit(self, **options: Any) -> dict[str, Any]:
        """Change the options that are given, as ``add`` takes them. The past is not replayed.

        Raises:
            NotFound: there is no such schedule, or no such job.
            Invalid: a value breaks its rule; nothing was changed.
        """
        changes = check_schedule_options(options, new=False)
        view = schedules.edit_schedule(
            self._rota.database, self.key, lambda spec: spec.edited(**changes), actor=self._rota.actor
        )
        if "job" in changes:
            self._rota.warner.look_at_jobs([view["job"]])
        return view

    def pause(self) -> dict[str, Any]:
        """Make no more runs until it is resumed."""
        return schedules.pause_schedule(self._rota.database, self.key, actor=self._rota.actor)

    def resume(self, *, latest: bool = False) -> dict[str, Any]:
        """Go on with the first slot after now; one row of the ledger tells of those that went by.

        With ``latest`` the newest of these whose start window is still open runs all the same.
        """
        return schedules.resume_schedule(self._rota.database, self.key, actor=self._rota.actor, latest=latest)

    def mark_succeeded(self, slot: str | datetime) -> list[int]:
        """Let a slot count as done without a run, and return the runs that stand for it now.

        A local time is in the schedule's zone. What waits is withdrawn; a slot of the past without a row gets one.

        Raises:
            Invalid: the schedule has no such slot.
            Conflict: it has succeeded, runs, is not decided yet, or shares its row with others; nothing was changed.
        """
        moment = parse_instant("slot", slot, check_zone("tz", self.show()["tz"]))
        return mark_slot(self._rota.database, self.key, moment, actor=self._rota.actor)

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

        At least one of ``cron``, ``every``, ``at``, ``interval`` and ``weekly`` says when it is due; each may be a
        list. The other options are those of ``rota schedule add``: ``tz``, ``gap``, ``fold``, ``anchor``, ``start``,
        ``end``, ``first_run``, ``calendars`` (a list), ``on_closed``, ``delay``, ``jitter``, ``start_within``,
        ``catch_up``, ``catch_up_limit``, ``catch_up_order``, ``overlap``, ``in_order``, ``args``.

        Raises:
            Invalid: a value breaks its rule; nothing was stored.
            NotFound: there is no such job.
            AlreadyExists: the key is taken, and ``if_exists`` is ``"error"``.
        """
        decision = check_if_exists(if_exists)
        spec = self.check(key, job, **options)
        view = schedules.add_schedule(self._rota.database, spec, actor=self._rota.actor, if_exists=decision)
        self._rota.warner.look_at_jobs([view["job"]])
        return view

    def preview(self, key: str, job: str, n: int = 1, **options: Any) -> dict[str, Any]:
        """Return what ``add`` with these would bring: ``slots`` as ``ScheduleHandle.preview``, and ``notes``.

        Nothing is stored.

        Raises:
            Invalid: a value breaks its rule.
            NotFound: there is no such job.
        """
        return preview_new(self._rota, self.check(key, job, **options), n)

    def add_many(self, requests: Iterable[Mapping[str, Any]], *, if_exists: str = "error") -> int:
        """Add many schedules, up to 1000 of them in one transaction, and return how many were added.

        Each request is a mapping with ``key``, ``job`` and any of the options of ``add``. All are checked before the
        first is stored. When it raises midway through more than 1000, the thousands before are stored: send all of them
        again with ``if_exists="skip"``.

        Raises:
            Invalid: a value breaks its rule; nothing was stored.
            NotFound: there is no such job; nothing of its thousand was stored.
            AlreadyExists: a key is taken, and ``if_exists`` is ``"error"``; nothing of its thousand was stored.
        """
        decision = check_if_exists(if_exists)
        specs: list[ScheduleSpec] = []
        for number, request in enumerate(requests):
            if missing := {"key", "job"} - set(request):
                raise Invalid(f"requests[{number}]", dict(request), f"a schedule has {', '.join(sorted(missing))}")
            specs.append(self.check(**request))
        count = schedules.add_schedules(self._rota.database, specs, actor=self._rota.actor, if_exists=decision)
        self._rota.warner.look_at_jobs(spec.job for spec in specs)
        return count

    def check(self, key: str, job: str, **options: Any) -> ScheduleSpec:
        """Check what ``add`` is given; a schedule that names no zone gets the default one.

        Raises:
            Invalid: a value breaks its rule.
        """
        given = check_schedule_options(options, new=True)
        return ScheduleSpec.checked(key, job=job, **({"tz": self._rota.default_zone, **given}))

    def list(
        self,
        *,
        search: str | None = None,
        state: str | None = None,
        job: str | None = None,
        ghosts: bool = False,
        after: str | None = None,
        limit: int | None = None,
    ) -> Page[dict[str, Any]]:
        """Return schedules in the order of their keys: all of them, or up to ``limit`` after the key ``after``.

        Those whose key holds ``search``, in a ``state``, of a ``job``, and with ``ghosts`` only what code declares no
        more. ``next`` of what is returned is the ``after`` of the next page.

        Raises:
            Invalid: a value breaks its rule.
            NotFound: there is no such job.
        """
        filters: dict[str, Any] = {
            "search": check_search(search),
            "state": None if state is None else check_word("state", state, JobState).value,
            "job": None if job is None else check_name("job", job),
            "ghosts": ghosts,
        }
        database = self._rota.database
        found = gather(
            lambda place, most: schedules.list_schedules(database, after=place, limit=most, **filters),
            "key",
            after=None if after is None else check_name("after", after),
            limit=limit,
        )
        if job is not None and not found:
            self._rota.jobs.show(job)  # a name that was mistyped must not look like a job without schedules
        return found
