"""Lengths of time as people write them: ``90s``, ``15m``, ``6h``, ``2d``, ``1h30m``, or a number of seconds.

The last unit may carry decimals (``1.5h``, ``1m0.25s``); units come in falling order, each at most once. All doors
parse here, and ``format_duration`` writes what ``parse_duration`` reads back, to the microsecond.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta

from rota.errors import Invalid

# Ten years: longer ones are mistakes, and would leave the range of instants the databases keep.
DURATION_SECONDS_MAX = 3650 * 86400.0

_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
_PATTERN = re.compile(
    r"(?:(\d+|\d+\.\d+(?=d$))d)?(?:(\d+|\d+\.\d+(?=h$))h)?(?:(\d+|\d+\.\d+(?=m$))m)?(?:(\d+|\d+\.\d+)s)?", re.ASCII
)
_NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)
_RULE = "a duration looks like 90s, 15m, 6h, 2d or 1h30m, or is a number of seconds"


def parse_duration(
    field: str,
    value: object,
    *,
    minimum: float = 0.0,
    maximum: float = DURATION_SECONDS_MAX,
    zero_ok: bool = False,
) -> float:
    """Return the seconds that ``value`` (text, number or timedelta) means, rounded to microseconds.

    Raises:
        Invalid: it cannot be read, is negative, zero where that makes no sense, or outside the bounds.
    """
    seconds = round(_read_seconds(field, value), 6)
    if seconds < 0:
        raise Invalid(field, value, "a duration must not be negative")
    if seconds == 0 and not zero_ok:
        raise Invalid(field, value, "it must be longer than zero")
    if seconds < minimum:
        raise Invalid(field, value, f"it must be at least {format_duration(minimum)}")
    if seconds > maximum:
        raise Invalid(field, value, f"it must be at most {format_duration(maximum)}")
    return seconds


def format_duration(seconds: float) -> str:
    """Write ``seconds`` (not negative) in the largest units that fit: 5400 is ``1h30m``, 0.25 is ``0.25s``."""
    assert seconds >= 0, "a duration is not negative"
    micros = round(seconds * 1_000_000)
    parts: list[str] = []
    for unit, size in _UNITS[:-1]:
        count, micros = divmod(micros, size * 1_000_000)
        if count:
            parts.append(f"{count}{unit}")
    if micros or not parts:
        whole, rest = divmod(micros, 1_000_000)
        parts.append(f"{whole}.{rest:06d}".rstrip("0").rstrip(".") + "s")
    return "".join(parts)


def _read_seconds(field: str, value: object) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (int, float)) and not isinstance(value, bool):  # no |: jobs may run under Python 3.9
        if isinstance(value, float) and not math.isfinite(value):
            raise Invalid(field, value, f"{_RULE}; this is none")
        return float(min(max(value, -1), 10**15))  # out of bounds either way; a huge int has no float
    if not isinstance(value, str):
        raise Invalid(field, value, _RULE)
    text = value.strip()
    if text.startswith("-"):
        raise Invalid(field, value, "a duration must not be negative")
    if len(text) > 40:
        raise Invalid(field, value, _RULE)
    if _NUMBER.fullmatch(text):
        return float(text)
    match = _PATTERN.fullmatch(text) if text else None
    if match is None:
        raise Invalid(field, value, _RULE)
    # No strict=True, which Python 3.9 does not know; there is a group for each unit.
    return sum(float(count) * size for count, (_, size) in zip(match.groups(), _UNITS) if count)  # noqa: B905
