"""When a schedule is due: by a cron expression, every so often, or once.

A ``Timing`` is a pure value; its slots are aware instants in UTC, and the next one is always computed from a slot,
never from now. The store keeps ``kind``, ``expression``, ``zone`` and ``anchor_at``; ``from_stored`` reads them back
and refuses a row that somebody broke by hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from rota.errors import Invalid
from rota.model.cron import Cron, parse_cron
from rota.model.durations import format_duration, parse_duration
from rota.model.instants import YEAR_LAST, check_zone, format_instant, parse_instant

EVERY_SECONDS_MIN = 1.0

_MICROSECOND = timedelta(microseconds=1)


class TimingKind(StrEnum):
    """What makes a schedule due."""

    CRON = "cron"
    EVERY = "every"
    AT = "at"


@dataclass(frozen=True, slots=True)
class Timing:
    """The instants at which a schedule is due. Made by ``cron``, ``every``, ``at`` or ``from_stored``."""

    kind: TimingKind
    expression: str  # the cron expression, the seconds, or the instant
    zone: str
    anchor: datetime | None = None  # of an `every`: its first slot is one interval later; None until it is stored
    _cron: Cron | None = field(default=None, compare=False, repr=False)
    _every: timedelta = field(default=timedelta(0), compare=False, repr=False)
    _at: datetime | None = field(default=None, compare=False, repr=False)

    @classmethod
    def cron(cls, expression: object, zone: str = "UTC") -> Timing:
        """Be due at the instants a cron expression names in a zone."""
        if not isinstance(expression, str):
            raise Invalid("cron", expression, "it must be text")
        parsed = parse_cron(expression, check_zone("tz", zone).key)
        return cls(TimingKind.CRON, parsed.expression, parsed.zone.key, _cron=parsed)

    @classmethod
    def every(cls, seconds: object, anchor: datetime | None = None, zone: str = "UTC") -> Timing:
        """Be due each ``seconds`` of elapsed time after ``anchor``; daylight saving plays no part.

        Without an anchor it has no slots yet: the store gives it one, by the database's clock.
        """
        length = parse_duration("every", seconds, minimum=EVERY_SECONDS_MIN)
        micros = round(length * 1_000_000)
        whole, rest = divmod(micros, 1_000_000)
        text = f"{whole}.{rest:06d}".rstrip("0").rstrip(".")
        return cls(
            TimingKind.EVERY,
            text,
            check_zone("tz", zone).key,
            None if anchor is None else anchor.astimezone(UTC),
            _every=timedelta(microseconds=micros),
        )

    @classmethod
    def at(cls, instant: object, zone: str = "UTC") -> Timing:
        """Be due once."""
        where = check_zone("tz", zone)
        moment = parse_instant("at", instant, where)
        return cls(TimingKind.AT, format_instant(moment), where.key, _at=moment)

    @classmethod
    def from_stored(cls, kind: str, expression: str, zone: str, anchor: datetime | None) -> Timing:
        """Read back what the store keeps.

        Raises:
            Invalid: a value breaks its rule; the schedule is to be set aside with the message.
        """
        match kind:
            case TimingKind.CRON:
                return cls.cron(expression, zone)
            case TimingKind.EVERY:
                if anchor is None:
                    raise Invalid("anchor_at", anchor, "a schedule of kind every needs an anchor")
                return cls.every(expression, anchor, zone)
            case TimingKind.AT:
                return cls.at(expression, zone)
            case _:
                raise Invalid("kind", kind, f"it is one of {', '.join(TimingKind)}")

    def next(self, after: datetime) -> datetime | None:
        """Return the first slot strictly later than ``after``, or None."""
        match self.kind:
            case TimingKind.CRON:
                assert self._cron is not None
                return self._cron.next(after)
            case TimingKind.EVERY:
                assert self.anchor is not None, "an `every` has no slots before the store has anchored it"
                found = self.anchor + self._every * (self._intervals_until(after) + 1)
                return found if found.year <= YEAR_LAST else None
            case TimingKind.AT:
                assert self._at is not None
                return self._at if self._at > after else None

    def count(self, after: datetime, until: datetime) -> int:
        """Count the slots in (``after``, ``until``]; cheap however many there are."""
        if until <= after:
            return 0
        match self.kind:
            case TimingKind.CRON:
                assert self._cron is not None
                return self._cron.count(after, until)
            case TimingKind.EVERY:
                return self._intervals_until(until) - self._intervals_until(after)
            case TimingKind.AT:
                assert self._at is not None
                return int(after < self._at <= until)

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
        if until <= after or limit < 1:
            return []
        if self.kind is TimingKind.CRON:
            assert self._cron is not None
            return self._cron.last(after, until, limit)
        if self.kind is TimingKind.EVERY:
            assert self.anchor is not None
            after = max(after, self.anchor + self._every * (self._intervals_until(until) - limit))
        return self.slots(after, until, limit)

    def period_seconds(self, slot: datetime) -> float | None:
        """Return how long after ``slot`` the next one comes; None when none does."""
        following = self.next(slot)
        return None if following is None else (following - slot).total_seconds()

    def describe(self) -> str:
        """Say in a few words when it is due."""
        match self.kind:
            case TimingKind.CRON:
                return f"cron {self.expression} in {self.zone}"
            case TimingKind.EVERY:
                return f"every {format_duration(self._every.total_seconds())}"
            case TimingKind.AT:
                return f"once at {self.expression}"

    def preview(self, after: datetime) -> Iterator[datetime]:
        """Yield the coming slots after ``after``; endless, unless they end."""
        slot = self.next(after)
        while slot is not None:
            yield slot
            slot = self.next(slot)

    def _intervals_until(self, moment: datetime) -> int:
        """Return how many slots lie in (anchor, ``moment``]; in whole microseconds, since floats drift."""
        assert self.anchor is not None
        return max(0, (moment - self.anchor) // _MICROSECOND // (self._every // _MICROSECOND))
