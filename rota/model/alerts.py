"""Alerts: what somebody is told of a job, where, and how often.

Invariant: of one job and one kind, what happens within the quiet time after an alert is counted and told together when
it is over, however much that is. Where alerts go is a channel, which the settings of nodes define: the database knows
its name alone. An alert is sent by a run of the channel's own job, of which nothing is told.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, cast

from rota.errors import Invalid
from rota.model.durations import parse_duration

ALERT_CALL = "rota.alerts.sending:send"  # what sends one, as a job calls it
ALERT_JOB_PREFIX = "rota:alert:"  # of the jobs that do
VARIABLE_PREFIX = "ROTA_ALERT_"  # of what holds a channel's settings; also the name by which a node offers it
CHANNELS_MAX = 20  # of a job, and of a node
CHANNEL_LENGTH_MAX = 50
QUIET_SECONDS = 900.0
TEXT_LENGTH_MAX = 2000  # of a reason, in an alert

_CHANNEL = re.compile(rf"[A-Za-z][A-Za-z0-9_]{{0,{CHANNEL_LENGTH_MAX - 1}}}", re.ASCII)


class AlertKind(StrEnum):
    """What an alert tells of a job."""

    FAILURE = "failure"  # a run has failed for good
    LOST = "lost"  # a run's node is gone, and it is not known whether it was done
    MISSED = "missed"  # a slot, or what was asked for, did not run, and will not: its time has passed
    LATE = "late"  # runs are ready, and nobody starts them
    ABSENT = "absent"  # slots are due, and nobody decides them
    LONG = "long"  # runs take far longer than usual
    RECOVERED = "recovered"  # what an alert told of is over


ALERT_ON_DEFAULT = tuple(kind for kind in AlertKind if kind is not AlertKind.LONG)


def check_channel(field: str, value: object) -> str:
    """Return ``value`` if it can name a channel.

    Raises:
        Invalid: it cannot.
    """
    if not isinstance(value, str) or not _CHANNEL.fullmatch(value):
        rule = f"a channel is named with 1 to {CHANNEL_LENGTH_MAX} letters, digits and _, a letter first"
        raise Invalid(field, value, rule)
    return value


def _listed(field: str, value: object) -> list[object]:
    if value is None or value == "none":
        return []
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        raise Invalid(field, value, "it is a list of words")
    found: list[object] = []
    for one in cast("Sequence[object]", given):
        found += [word.strip() for word in one.split(",")] if isinstance(one, str) else [one]
    return found


def check_alert(value: object) -> tuple[str, ...]:
    """Return the channels that a job's alerts go to, sorted, each once; none for None and for ``none``.

    Raises:
        Invalid: one of them is no name of a channel, or there are too many.
    """
    found = {check_channel("alert", one) for one in _listed("alert", value)}
    if len(found) > CHANNELS_MAX:
        raise Invalid("alert", f"{len(found)} channels", f"a job's alerts go to at most {CHANNELS_MAX}")
    return tuple(sorted(found))


def check_alert_on(value: object) -> tuple[str, ...]:
    """Return the kinds of alerts that a job has, in their order; none stands for those that jobs usually have.

    Raises:
        Invalid: one of them is no kind.
    """
    found: set[str] = set()
    for one in _listed("alert_on", value):
        if one not in tuple(AlertKind):
            raise Invalid("alert_on", one, f"choose from {', '.join(AlertKind)}")
        found.add(str(one))
    return tuple(kind.value for kind in AlertKind if kind.value in found)


def check_alert_quiet(value: object) -> float | None:
    """Return the seconds for which more of the same is only counted; None where none are given.

    Raises:
        Invalid: it is no duration.
    """
    return None if value is None else parse_duration("alert_quiet", value, zero_ok=True)


def job_of_channel(channel: str) -> str:
    """Name the job whose runs send what goes to a channel."""
    return ALERT_JOB_PREFIX + channel


def variable_of_channel(channel: str) -> str:
    """Name what a node offers that has the settings of a channel."""
    return VARIABLE_PREFIX + channel


@dataclass(frozen=True, slots=True)
class AlertRule:
    """Who is told what of one job. Made by ``read_rule``."""

    channels: tuple[str, ...] = ()
    kinds: frozenset[AlertKind] = frozenset()
    quiet_seconds: float = QUIET_SECONDS


NO_ALERTS = AlertRule()


def read_rule(job: str, alert: str | None, alert_on: str | None, quiet_seconds: float | None) -> AlertRule:
    """Read what a job's row says. What somebody wrote there by hand and cannot be read tells nobody, as far as it goes.

    A job that sends alerts has none, whatever its row says: one that cannot be sent would make the next.
    """
    if alert is None or job.startswith(ALERT_JOB_PREFIX):
        return NO_ALERTS
    try:
        channels = check_alert(json.loads(alert))
    except (ValueError, RecursionError, Invalid):
        return NO_ALERTS
    kinds: tuple[str, ...] = ()
    with contextlib.suppress(ValueError, RecursionError, Invalid):  # as usual: rather too much is told than too little
        kinds = check_alert_on(None if alert_on is None else json.loads(alert_on))
    quiet = QUIET_SECONDS if quiet_seconds is None else max(0.0, quiet_seconds)
    return AlertRule(channels, frozenset(map(AlertKind, kinds or ALERT_ON_DEFAULT)), quiet)


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of one kind of alert of one job."""

    told_at: datetime | None = None  # when an alert of it was made last
    held_count: int = 0  # how many times it has happened since, untold
    held_last: str | None = None  # JSON: the last one of these
    open_since: datetime | None = None  # since when it is so; None: it is not
    is_told: bool = False  # that it is so
    seen_at: datetime | None = None  # of what is looked for: when it was there last


@dataclass(frozen=True, slots=True)
class Told:
    """What becomes of occurrences: how things stand afterwards, and which are told, with how many before them."""

    standing: Standing
    told: tuple[tuple[dict[str, Any], int], ...] = ()


def is_quiet(standing: Standing, now: datetime, quiet_seconds: float) -> bool:
    """Tell whether an alert was made so recently that the next one waits. One made in the future was not: the clock
    of the database was put back since."""
    return standing.told_at is not None and 0 <= (now - standing.told_at).total_seconds() < quiet_seconds


def note(standing: Standing, facts: Sequence[dict[str, Any]], now: datetime, quiet_seconds: float) -> Told:
    """Decide what is told of what has happened once more, as often as there are ``facts``, the last one at the end."""
    since = standing.open_since or now
    if is_quiet(standing, now, quiet_seconds):
        held = standing.held_count + len(facts)
        last = json.dumps(facts[-1], ensure_ascii=False)
        return Told(Standing(standing.told_at, held, last, since, standing.is_told, now))
    if quiet_seconds <= 0:
        return Told(Standing(now, 0, None, since, is_told=True, seen_at=now), tuple((one, 0) for one in facts))
    more = len(facts) - 1
    last = json.dumps(facts[-1], ensure_ascii=False) if more else None
    return Told(Standing(now, more, last, since, is_told=True, seen_at=now), ((facts[0], standing.held_count),))


def release(standing: Standing, now: datetime) -> Told:
    """Tell what was held back in the quiet time, which is over."""
    facts = show_held(standing)
    after = Standing(now, 0, None, standing.open_since, standing.is_told or standing.open_since is not None, now)
    return Told(after, ((facts, max(0, standing.held_count - 1)),))


def show_held(standing: Standing) -> dict[str, Any]:
    """Return the last occurrence that was held back."""
    try:
        found: Any = json.loads(standing.held_last or "{}")
    except (ValueError, RecursionError):  # written by hand
        found = {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def due_at_seconds(standing: Standing, quiet_seconds: float) -> float | None:
    """Return after how many seconds from the last alert on what was held back is told; None: nothing was."""
    return quiet_seconds if standing.held_count else None


def cut(text: str) -> str:
    """Cut a sentence for an alert."""
    return text if len(text) <= TEXT_LENGTH_MAX else text[: TEXT_LENGTH_MAX - 1] + "…"


def title_of(alert: dict[str, Any]) -> str:
    """Say in one line what an alert tells."""
    job, run, kind = alert.get("job"), alert.get("run"), alert.get("kind")
    match kind:
        case AlertKind.FAILURE:
            said = f"run {run} of {job} failed"
        case AlertKind.LOST:
            said = f"run {run} of {job} is lost"
        case AlertKind.MISSED:
            said = f"run {run} of {job} was missed"
        case AlertKind.LATE:
            said = f"runs of {job} are late"
        case AlertKind.ABSENT:
            said = f"slots of {job} are not decided"
        case AlertKind.LONG:
            said = f"runs of {job} take far longer than usual"
        case AlertKind.RECOVERED:
            said = f"{job} has recovered ({alert.get('recovered_from')})"
        case _:
            said = f"{kind}: {job}"
    held = alert.get("held") or 0
    return f"Rota: {said}" + (f", and {held} more before" if held else "")
