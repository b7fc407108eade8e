"""A time as people name it, and the instants that they may mean by it.

Nobody types the microseconds of a slot. A date alone means that whole day, minutes without seconds that minute; and a
local time that its zone has twice means either.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from rota.model.instants import gap_seconds, parse_instant

_MICROSECOND = timedelta(microseconds=1)
# How long the text of a local time is, and how long the time that it names.
_PRECISIONS = ((10, timedelta(days=1)), (16, timedelta(minutes=1)), (19, timedelta(seconds=1)))


@dataclass(frozen=True, slots=True)
class NamedTime:
    """The instants from ``start`` up to, but without, ``end``."""

    start: datetime
    end: datetime
    gap: str | None = None  # the local time that was named, where the zone skips it

    @property
    def last(self) -> datetime:
        """The last instant of it."""
        return self.end - _MICROSECOND


def parse_named_time(field: str, value: object, zone: tzinfo) -> list[NamedTime]:
    """Return what ``value`` (ISO 8601 text or a datetime) may mean, oldest first; without an offset it is in ``zone``.

    Raises:
        Invalid: it cannot be read.
    """
    moment = parse_instant(field, value, zone)
    local, length = _read(value, moment)
    if local is None:
        return [NamedTime(moment, moment + length)]
    if length >= timedelta(days=1):
        return [NamedTime(moment, parse_instant(field, local + length, zone))]
    if gap_seconds(local, zone):
        return [NamedTime(moment, moment + length, f"{local:%Y-%m-%d %H:%M}")]
    both = sorted({local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)})
    return [NamedTime(start, start + length) for start in both]


def _read(value: object, moment: datetime) -> tuple[datetime | None, timedelta]:
    """Return the local time that was named, None for one with an offset, and how finely it was."""
    if isinstance(value, datetime):
        local = value.replace(fold=0) if value.tzinfo is None else None
        return local, _MICROSECOND if moment.microsecond else timedelta(seconds=1)
    text = str(value).strip().upper()
    clock = text[11:].removesuffix("Z").partition("+")[0].partition("-")[0]
    length = len(text[:10]) + (1 + len(clock) if clock else 0)
    precision = next((span for size, span in _PRECISIONS if length <= size), _MICROSECOND)
    parsed = datetime.fromisoformat(text)
    return (parsed.replace(fold=0) if parsed.tzinfo is None else None), precision
