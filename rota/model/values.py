"""What single values may be, whoever asks for them: one of a few words, a whole number, some names.

Pure, and below all that defines something. Every door's values come through these.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TypeVar, cast

from rota.errors import Invalid
from rota.model.names import check_name

ID_MAX = 2**63 - 1

_Word = TypeVar("_Word", bound=StrEnum)


def check_word(name: str, value: object, words: type[_Word]) -> _Word:
    """Return the member of ``words`` that ``value`` names.

    Raises:
        Invalid: it names none.
    """
    try:
        return words(value)
    except ValueError:
        raise Invalid(name, value, f"it is one of {', '.join(words)}") from None


def check_whole(name: str, value: object, minimum: int, maximum: int) -> int:
    """Return ``value`` if it is a whole number within the bounds; text of digits counts.

    Raises:
        Invalid: it is not.
    """
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,12}", value.strip(), re.ASCII):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        raise Invalid(name, value, f"it is a whole number from {minimum} to {maximum}")
    return value


def check_id(kind: str, value: object) -> int:
    """Read the number of a run, a backfill or another ``kind`` of thing, also when it comes as text.

    Raises:
        Invalid: it is no number that one could have.
    """
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value) if len(value) < 20 else ID_MAX + 1
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= ID_MAX:
        raise Invalid(kind, value, f"a {kind} has a number, from 1; see `rota {kind} list`")
    return value


def check_jobs(name: str, value: object, most: int, does: str) -> tuple[str, ...]:
    """Return the names of jobs that ``value``, a list or a single one, holds: sorted, each once.

    ``does`` says what a job does with up to ``most`` of them.

    Raises:
        Invalid: it is no list of names, or there are too many.
    """
    if value is None or value == "none":
        return ()
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        raise Invalid(name, value, "it is a list of names of jobs")
    names = sorted({check_name(name, one) for one in cast("list[object]", given)})
    if len(names) > most:
        raise Invalid(name, f"{len(names)} names", f"a job {does} at most {most} others")
    return tuple(names)
