"""How long finished runs are kept, by how they ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from rota.errors import Invalid
from rota.model.durations import format_duration, parse_duration
from rota.model.states import FINISHED, RunState

FOR_EVER = "forever"
KEEP_SECONDS_MIN = 60.0

# By how a run ended, in seconds; None: for ever.
KEEP_DEFAULT: Mapping[str, float | None] = {
    RunState.SUCCEEDED.value: 30 * 86400.0,
    RunState.SKIPPED.value: 30 * 86400.0,
    RunState.CANCELLED.value: 90 * 86400.0,
    RunState.MISSED.value: 90 * 86400.0,
    RunState.FAILED.value: 180 * 86400.0,
    RunState.LOST.value: 180 * 86400.0,
}

_ENDS = tuple(sorted(state.value for state in FINISHED))
KEEP_RULE = (
    f"it is STATE=DURATION, such as succeeded=7d or failed=forever, with a state of {', '.join(_ENDS)}; or a duration, "
    "or forever, for all of them"
)


def check_keep(field: str, value: object) -> dict[str, float | None]:
    """Return how long runs are kept that ended so: seconds, or None for ever; only the ends that are named.

    ``value`` maps ends to durations or ``forever``, or is one of these for all ends.

    Raises:
        Invalid: an end is none, or a time cannot be read.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        if isinstance(value, str) and value.isalpha() and value != FOR_EVER:
            raise Invalid(field, value, KEEP_RULE)
        return dict.fromkeys(_ENDS, _check_time(field, value))
    found: dict[str, float | None] = {}
    for end, time in cast("Mapping[object, object]", value).items():
        if end not in _ENDS:
            raise Invalid(field, end, f"runs end as one of {', '.join(_ENDS)}")
        found[str(end)] = _check_time(f"{field}.{end}", time)
    return dict(sorted(found.items()))


def _check_time(field: str, value: object) -> float | None:
    if value is None or value == FOR_EVER:
        return None
    return parse_duration(field, value, minimum=KEEP_SECONDS_MIN)


@dataclass(frozen=True, slots=True)
class Keeping:
    """How long the runs of all jobs are kept: what each job says itself, and the default for what it leaves open."""

    default: Mapping[str, float | None]
    of_jobs: Mapping[int, Mapping[str, float | None]]

    def seconds(self, job_id: int, end: str) -> float | None:
        """Return how long a run of this job is kept that ended so; None, also for an unknown word: for ever."""
        own = self.of_jobs.get(job_id, {})
        return own[end] if end in own else self.default.get(end)

    @property
    def least_seconds(self) -> float | None:
        """The shortest time of all; None: nothing is ever removed."""
        times = [*self.default.values(), *(time for own in self.of_jobs.values() for time in own.values())]
        return min((time for time in times if time is not None), default=None)


def read_keep(text: str) -> Mapping[str, float | None]:
    """Read what stands in a job's row; of a job whose row cannot be read, every run is kept."""
    try:
        return check_keep("keep", json.loads(text))
    except (Invalid, ValueError, RecursionError):
        return dict.fromkeys(_ENDS, None)


def format_keep(keep: Mapping[str, float | None]) -> str:
    """Write it as ``check_keep_setting`` reads it."""
    return ",".join(
        f"{end}={FOR_EVER if time is None else format_duration(time)}" for end, time in sorted(keep.items())
    )


def check_keep_setting(field: str, value: object) -> dict[str, float | None]:
    """Return the default for each end: what is given (a time, a mapping, or ``failed=90d,lost=forever``), else ours.

    Raises:
        Invalid: an end is none, or a time cannot be read.
    """
    if isinstance(value, str) and "=" in value:
        pairs = [part.partition("=") for part in value.replace(",", " ").split()]
        value = {end.strip(): time.strip() for end, _, time in pairs}
    return dict(KEEP_DEFAULT) | check_keep(field, value)
