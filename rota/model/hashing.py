"""``H`` in cron expressions, as in Jenkins: a time chosen by a hash of the schedule's name.

``H 3 * * *`` spreads many nightly schedules over the hour, and each keeps its minute for as long as it keeps its name.
The numbers must never change between versions: running schedules would move. Called by ``cron``.
"""

from __future__ import annotations

import hashlib
import re

NAMES = {
    "month": ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"),
    "day-of-week": ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"),
}
# Of the days only those that every month has, and Sunday once.
_BOUNDS = {
    "second": (0, 59),
    "minute": (0, 59),
    "hour": (0, 23),
    "day-of-month": (1, 28),
    "month": (1, 12),
    "day-of-week": (0, 6),
}
_IS_USED = re.compile(r"(?:^|,)H")
_TERM = re.compile(r"H(?:\((\w+)-(\w+)\))?(?:/(\d{1,4}))?", re.ASCII)


def uses_hash(fields: tuple[str, ...]) -> bool:
    """Whether one of the fields, in capitals, leaves a time to the hash."""
    return any(_IS_USED.search(field) for field in fields)


def replace_hashes(fields: tuple[str, ...], name: str) -> tuple[str, ...]:
    """Return the fields with numbers in the place of each ``H``: always the same for one name.

    Raises:
        ValueError: a field cannot be read; its text is the rule.
    """
    kinds = list(_BOUNDS)[-len(fields) :]
    return tuple(_replace_field(kind, field, name) for kind, field in zip(kinds, fields, strict=True))


def _replace_field(kind: str, field: str, name: str) -> str:
    if not _IS_USED.search(field):
        return field
    terms = field.split(",")
    return ",".join(
        _replace_term(kind, term, f"{name}\n{kind}\n{number}") if term.startswith("H") else term
        for number, term in enumerate(terms)
    )


def _replace_term(kind: str, term: str, seed: str) -> str:
    low, high = _BOUNDS[kind]
    rule = f"in the {kind} field, H, H/n, H(a-b) and H(a-b)/n choose by the schedule's name from {low} to {high}"
    match = _TERM.fullmatch(term)
    if match is None:
        raise ValueError(rule)
    first, last = low, high
    if match[1] is not None:
        first, last = _read_number(kind, match[1], rule), _read_number(kind, match[2], rule)
        if not low <= first <= last <= high:
            raise ValueError(rule)
    chosen = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8])
    size = last - first + 1
    if match[3] is None:
        return str(first + chosen % size)
    step = int(match[3])
    if not 1 <= step <= size:
        raise ValueError(f"{rule}, and n is 1 to the size of that range, here {size}")
    return ",".join(str(number) for number in range(first + chosen % step, last + 1, step))


def _read_number(kind: str, text: str, rule: str) -> int:
    names = NAMES.get(kind, ())
    if text in names:
        return names.index(text) + (1 if kind == "month" else 0)
    if not text.isdigit():
        raise ValueError(rule)
    return int(text)
