"""Calendars, as applications see them: ``rota.calendars``.

Checks are ``rota.model.calendars``'s; rows are ``rota.store.calendars``'s.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from rota.client.listing import check_search, gather
from rota.client.options import check_names
from rota.model.calendars import Calendar
from rota.model.names import check_name
from rota.model.pages import Page
from rota.store import calendars
from rota.store.database import now_of
from rota.store.jobs import check_if_exists

if TYPE_CHECKING:
    from rota.client.rota import Rota

CALENDAR_OPTIONS = sorted(set(inspect.signature(Calendar.checked).parameters) - {"name", "first_year", "years"})


class Calendars:
    """All calendars: when the schedules that name them rest."""

    def __init__(self, rota: Rota) -> None:
        self._rota = rota

    def add(self, name: str, *, if_exists: str = "error", **options: Any) -> dict[str, Any]:
        """Add a calendar and return how it is shown.

        It closes ``weekdays`` (``["sat", "sun"]``), ``dates`` (``"2026-12-24"``, or from and to as
        ``"2026-12-24..2027-01-01"``), the holidays of ``country`` (``"NL"``) and its ``subdivision``, and ``windows``
        (pairs of local times, or ``"2026-12-24T18:00..2026-12-27T06:00"``); ``open_dates`` are open all the same.
        Holidays are kept as dates, of this year and the ten after it.

        Raises:
            Invalid: a value breaks its rule, or no day is left; nothing was stored.
            NotSupported: holidays need the package of that name.
            AlreadyExists: the name is taken, and ``if_exists`` is ``"error"``.
        """
        decision = check_if_exists(if_exists)
        database = self._rota.database
        check_names("calendar", options, CALENDAR_OPTIONS)
        new = Calendar.checked(name, first_year=database.read(now_of).year, **options)
        return calendars.add_calendar(database, new, actor=self._rota.actor, if_exists=decision)

    def show(self, name: str) -> dict[str, Any]:
        """Return how a calendar is shown, with the schedules that name it.

        Raises:
            NotFound: there is no such calendar.
        """
        return calendars.read_calendar(self._rota.database, check_name("calendar", name))

    def list(
        self, *, search: str | None = None, after: str | None = None, limit: int | None = None
    ) -> Page[dict[str, Any]]:
        """Return calendars in the order of their names: all of them, or up to ``limit`` after the name ``after``.

        Those whose name holds ``search``. ``next`` of what is returned is the ``after`` of the next page.

        Raises:
            Invalid: a value breaks its rule.
        """
        part, database = check_search(search), self._rota.database
        return gather(
            lambda place, most: calendars.list_calendars(database, after=place, limit=most, search=part),
            "name",
            after=None if after is None else check_name("after", after),
            limit=limit,
        )

    def delete(self, name: str) -> None:
        """Delete a calendar that no schedule names.

        Raises:
            NotFound: there is no such calendar.
            Conflict: a schedule names it.
        """
        calendars.delete_calendar(self._rota.database, check_name("calendar", name), actor=self._rota.actor)
