"""When a schedule is due: by cron, every so often, by the calendar, on weekdays, once, or at any of several of these.

A ``Timing`` is a pure value; its slots are aware instants in UTC, and the next one is always computed from a slot,
never from now. The store keeps ``kind``, ``expression``, ``zone``, ``anchor_at``, ``gap`` and ``fold``; ``from_stored``
reads them back and refuses a row that somebody broke by hand. Parsed expressions are kept and shared, so a timing is
small and soon made: a hundred thousand schedules have few different ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from rota.errors import Invalid
from rota.model.calendars import Calendar
from rota.model.daylight import Fold as Fold
from rota.model.daylight import Gap as Gap
from rota.model.grids import Grid, UnionGrid
from rota.model.instants import check_zone, parse_instant, say_slot
from rota.model.moved import Direction, MovedGrid
from rota.model.parts import ANCHORED, ANY_RULE, KINDS, Part, describe_part, read_part
from rota.model.parts import TimingKind as TimingKind
from rota.model.parts import parse_any as parse_any
from rota.model.values import check_word

PARTS_MAX = 50

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Timing:
    """The instants at which a schedule is due. Made by ``checked`` and the like, or by ``from_stored``."""

    kind: TimingKind
    expression: str  # as its kind writes it: of an `every` the seconds, of an `at` the instant, of an `any` a JSON list
    zone: str
    anchor: datetime | None = None  # what an `every` or `interval` counts from; None until it is stored
    gap: Gap = Gap.SHIFT
    fold: Fold = Fold.FIRST
    name: str = ""  # which `H` is chosen by; empty where there is none
    start: datetime | None = None
    end: datetime | None = None
    calendars: tuple[Calendar, ...] = ()  # which its slots are moved away from
    on_closed: str = ""  # where they are moved to: next or previous
    _grid: Grid | None = field(default=None, compare=False, repr=False)
    _notes: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def cron(
        cls,
        expression: object,
        zone: object = "UTC",
        *,
        name: str = "",
        gap: Gap = Gap.SHIFT,
        fold: Fold = Fold.FIRST,
    ) -> Timing:
        """Be due at the instants a cron expression names in a zone; ``name`` is what ``H`` in it is chosen by."""
        return cls.checked([(TimingKind.CRON, expression)], zone, name=name, gap=gap, fold=fold)

    @classmethod
    def every(cls, seconds: object, anchor: datetime | None = None, zone: object = "UTC") -> Timing:
        """Be due each ``seconds`` of elapsed time after ``anchor``; daylight saving plays no part.

        Without an anchor it has no slots yet: the store gives it one, by the database's clock.
        """
        return cls.checked([(TimingKind.EVERY, seconds)], zone, anchor)

    @classmethod
    def at(cls, instant: object, zone: object = "UTC") -> Timing:
        """Be due once."""
        return cls.checked([(TimingKind.AT, instant)], zone)

    @classmethod
    def interval(
        cls,
        text: object,
        anchor: datetime | None = None,
        zone: object = "UTC",
        *,
        gap: Gap = Gap.SHIFT,
        fold: Fold = Fold.FIRST,
    ) -> Timing:
        """Be due every so many days, weeks, months or years at a local time, from the local day of ``anchor`` on."""
        return cls.checked([(TimingKind.INTERVAL, text)], zone, anchor, gap=gap, fold=fold)

    @classmethod
    def weekly(cls, text: object, zone: object = "UTC", *, gap: Gap = Gap.SHIFT, fold: Fold = Fold.FIRST) -> Timing:
        """Be due on weekdays at local times: ``mon-fri 07:30,12:00; sat 09:00``, ``daily 07:00``."""
        return cls.checked([(TimingKind.WEEKLY, text)], zone, gap=gap, fold=fold)

    @classmethod
    def checked(
        cls,
        pairs: Iterable[tuple[str, object]],
        zone: object = "UTC",
        anchor: datetime | None = None,
        *,
        name: str = "",
        gap: Gap = Gap.SHIFT,
        fold: Fold = Fold.FIRST,
    ) -> Timing:
        """Be due at any slot of ``pairs``, each a kind and its value; equal pairs are one.

        Raises:
            Invalid: a value breaks its rule; ``field`` is its kind, or ``tz``.
        """
        where = check_zone("tz", zone)
        since = None if anchor is None else parse_instant("anchor_at", anchor)
        parts: dict[tuple[str, str], Part] = {}
        for kind, value in pairs:
            part = read_part(kind, value, where, since, name, gap, fold)
            parts[part.kind, part.text] = part
        assert parts, "something makes a schedule due"
        found = tuple(parts.values())
        if len(found) > PARTS_MAX:
            raise Invalid("expression", f"{len(found)} parts", f"a schedule has at most {PARTS_MAX} of them")
        grids = [part.grid for part in found if part.grid is not None]
        first = found[0]
        return cls(
            kind=first.kind if len(found) == 1 else TimingKind.ANY,
            expression=first.text if len(found) == 1 else json.dumps([*parts], separators=(",", ":")),
            zone=where.key,
            anchor=since if any(part.kind in ANCHORED for part in found) else None,
            gap=gap,
            fold=fold,
            name=name if any(part.uses_hash for part in found) else "",
            _grid=None if len(grids) < len(found) else grids[0] if len(grids) == 1 else UnionGrid(grids),
            _notes=tuple(dict.fromkeys(note for part in found for note in part.notes)),
        )

    @classmethod
    def from_stored(
        cls,
        kind: str,
        expression: str,
        zone: str,
        anchor: datetime | None,
        *,
        name: str = "",
        gap: object = Gap.SHIFT,
        fold: object = Fold.FIRST,
    ) -> Timing:
        """Read back what the store keeps. An anchor beside a kind that has none is passed over.

        Raises:
            Invalid: a value breaks its rule; the schedule is to be set aside with the message.
        """
        if kind not in KINDS:
            raise Invalid("kind", kind, f"it is one of {', '.join(TimingKind)}")
        pairs = parse_any(expression) if kind == TimingKind.ANY else [(kind, expression)]
        checked_gap, checked_fold = check_word("gap", gap, Gap), check_word("fold", fold, Fold)
        timing = cls.checked(pairs, zone, anchor, name=name, gap=checked_gap, fold=checked_fold)
        if timing.kind != kind:
            raise Invalid("expression", expression, ANY_RULE)
        if timing.anchor is None and timing.needs_anchor:
            raise Invalid("anchor_at", anchor, f"a schedule of kind {kind} needs an anchor")
        return timing

    @property
    def needs_anchor(self) -> bool:
        """Whether the slots depend on where the grid starts."""
        if self.kind is TimingKind.ANY:
            return any(kind in ANCHORED for kind, _ in parse_any(self.expression))
        return self.kind in ANCHORED

    def within(self, start: datetime | None, end: datetime | None) -> Timing:
        """Return this timing without the slots before ``start`` and after ``end``; it may have none left.

        Raises:
            Invalid: ``end`` comes before ``start``.
        """
        start = None if start is None else parse_instant("start", start)
        end = None if end is None else parse_instant("end", end)
        if start is not None and end is not None and end < start:
            raise Invalid("end", say_slot(end), f"it does not come before start, {say_slot(start)}")
        return replace(self, start=start, end=end)

    def shifted(self, calendars: Sequence[Calendar], direction: str) -> Timing:
        """Return this timing with the slots that ``calendars`` close moved away.

        They go to the same local time of the next or previous day that none of them closes. A slot without such a day
        within 366 is dropped, and slots that meet are one. ``within`` holds for where they are moved to.

        Raises:
            Invalid: ``direction`` is neither ``next`` nor ``previous``.
        """
        if direction not in frozenset(Direction):
            raise Invalid("on_closed", direction, f"it is one of {', '.join(Direction)}")
        assert not self.calendars, "slots are moved once"
        if not calendars:
            return self
        where = ZoneInfo(self.zone)
        known = tuple(calendars)
        moved = MovedGrid(self._slots, where, known, Direction(direction), self.gap, self.fold)
        return replace(self, calendars=known, on_closed=direction, _grid=moved)

    def next(self, after: datetime) -> datetime | None:
        """Return the first slot strictly later than ``after``, or None."""
        if self.start is not None and after < self.start:
            after = self.start - _MICROSECOND
        found = self._slots.next(after)
        assert found is None or found > after
        return None if found is None or (self.end is not None and found > self.end) else found

    def count(self, after: datetime, until: datetime) -> int:
        """Count the slots in (``after``, ``until``]; cheap however many there are."""
        after, until = self._clip(after, until)
        return 0 if until <= after else self._slots.count(after, until)

    def slots(self, after: datetime, until: datetime, limit: int) -> list[datetime]:
        """Return the oldest slots in (``after``, ``until``], at most ``limit``."""
        found: list[datetime] = []
        slot = self.next(after)
        while slot is not None and slot <= until and len(found) < limit:
            found.append(slot)
            slot = self.next(slot)
        return found

    def last(self, after: datetime, until: datetime, limit: int) -> list[datetime]:
        """Return the newest slots in (``after``, ``until``], at most ``limit``, oldest first."""
        after, until = self._clip(after, until)
        return [] if until <= after or limit < 1 else self._slots.last(after, until, limit)

    def period_seconds(self, slot: datetime) -> float | None:
        """Return how long after ``slot`` the next one comes; None when none does."""
        following = self.next(slot)
        return None if following is None else (following - slot).total_seconds()

    def preview(self, after: datetime) -> Iterator[datetime]:
        """Yield the coming slots after ``after``; endless, unless they end."""
        slot = self.next(after)
        while slot is not None:
            yield slot
            slot = self.next(slot)

    def origin(self, slot: datetime) -> list[datetime]:
        """Return the slots that calendars moved onto ``slot``, oldest first; not ``slot`` itself."""
        return self._slots.origin(slot) if isinstance(self._slots, MovedGrid) else []

    def closed_at(self, moment: datetime) -> str | None:
        """Say which of the calendars that move its slots is closed at that moment, and why; None when none is."""
        zone = ZoneInfo(self.zone)
        for calendar in self.calendars:
            if (why := calendar.closed_at(moment, zone)) is not None:
                return f"calendar {calendar.name}: {why}"
        return None

    def describe(self) -> str:
        """Say in a few words when it is due."""
        if self.kind is TimingKind.ANY:
            return "any of: " + "; ".join(
                describe_part(kind, text, self.zone) for kind, text in parse_any(self.expression)
            )
        return describe_part(self.kind, self.expression, self.zone)

    def describe_notes(self) -> list[str]:
        """Say what may surprise in the expression."""
        return list(self._notes)

    def notes(self, slot: datetime) -> list[str]:
        """Say what a change of the clocks did to ``slot``, or a calendar: for previews."""
        return self._slots.notes(slot)

    @property
    def _slots(self) -> Grid:
        assert self._grid is not None, "it has no slots before the store has anchored it"
        return self._grid

    def _clip(self, after: datetime, until: datetime) -> tuple[datetime, datetime]:
        if self.start is not None:
            after = max(after, self.start - _MICROSECOND)
        return after, until if self.end is None else min(until, self.end)
