"""How many runs may go on at once in the whole cluster: of a job, of jobs that share a mutex, of a key; and how often.

Every door reads what a user typed through these checks, and a job's row goes through them again before it acts. Keys
are values: a job names the argument that holds its key, or whoever asks for a run gives one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

from rota.errors import Invalid
from rota.model.durations import DURATION_SECONDS_MAX, format_duration, parse_duration
from rota.model.names import check_name

RUNNING_MAX = 10_000  # of any limit: each place is a row
MUTEXES_MAX = 20
KEY_LENGTH_MAX = 200

# The columns whose numbers are held within a range, by the names of `JobSpec`'s fields.
CONCURRENCY_RANGES: dict[str, tuple[float, float]] = {
    "max_running": (1, RUNNING_MAX),
    "max_per_key": (1, RUNNING_MAX),
    "rate_count": (1, RUNNING_MAX),
    "rate_seconds": (0, DURATION_SECONDS_MAX),
    "max_parallel": (1, RUNNING_MAX),
}

_ARGUMENT = re.compile(r"[^\W\d]\w{0,99}")
_RATE_RULE = "a rate looks like 100/1h or 5/1m: how many runs may start in any stretch of that length"


def check_count(field: str, value: object) -> int:
    """Return ``value`` if so many may be at it at once."""
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,12}", value.strip(), re.ASCII):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= RUNNING_MAX:
        rule = f"it is a whole number from 1 to {RUNNING_MAX}; to start none, pause the job"
        raise Invalid(field, value, rule)
    return value


def check_mutexes(value: object) -> tuple[str, ...]:
    """Return the names of mutexes, sorted, each once: a run takes all of them together or none."""
    if value is None:
        return ()
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        raise Invalid("mutexes", value, "it is a list of names")
    names = sorted({check_name("mutexes", name) for name in cast("list[object]", given)})
    if len(names) > MUTEXES_MAX:
        raise Invalid("mutexes", f"{len(names)} names", f"a job has at most {MUTEXES_MAX}")
    return tuple(names)


def check_key_argument(value: object) -> str:
    """Return ``value`` if it can name the argument whose value is a run's concurrency key."""
    if not isinstance(value, str) or not _ARGUMENT.fullmatch(value):
        raise Invalid("concurrency_key", value, "it is the name of one of the job's arguments")
    return value


def check_key(value: object) -> str:
    """Return ``value`` if it can be a concurrency key, without spaces at its end: not all databases tell them apart."""
    if not isinstance(value, str) or not value.strip() or len(value) > KEY_LENGTH_MAX or not value.isprintable():
        rule = f"a concurrency key is text of 1 to {KEY_LENGTH_MAX} printable characters"
        raise Invalid("concurrency_key", value, rule)
    return value.rstrip(" ")


def key_of(argument: str | None, args: str) -> str | None:
    """Return the concurrency key that stands in the arguments (JSON text) of a run; None: it has none.

    Text is the key as it is; any other value, as JSON.

    Raises:
        Invalid: what stands there cannot be a key.
    """
    if argument is None:
        return None
    found: Any = json.loads(args)
    value = cast("Mapping[str, Any]", found).get(argument) if isinstance(found, Mapping) else None
    if value is None:
        return None
    return check_key(value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False))


def check_rate(value: object) -> tuple[int, float]:
    """Return how many runs may start within how many seconds."""
    if not isinstance(value, str):
        raise Invalid("rate", value, _RATE_RULE)
    count, slash, seconds = value.partition("/")
    if not slash or not re.fullmatch(r"[0-9]{1,12}", count.strip(), re.ASCII):
        raise Invalid("rate", value, _RATE_RULE)
    try:
        return check_count("rate", count), parse_duration("rate", seconds.strip(), minimum=1.0)
    except Invalid as error:
        raise Invalid("rate", value, f"{_RATE_RULE}; {error.rule}") from None


def format_rate(count: int, seconds: float) -> str:
    """Write a rate as ``check_rate`` reads it."""
    return f"{count}/{format_duration(seconds)}"
