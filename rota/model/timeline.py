"""Timelines: how the time of a job is cut into periods, and by which rules each of them is done.

A job has one, or none. Every door gives its parameters one by one; the store keeps them together, as JSON.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, cast

from rota.errors import Invalid
from rota.model.durations import parse_duration
from rota.model.instants import format_instant, parse_instant
from rota.model.period import Period, PeriodRule, PeriodUnit
from rota.model.values import check_jobs, check_whole, check_word

REFRESH_SECONDS = 300.0
REFRESH_SECONDS_MIN = 1.0
AT_ONCE_MAX = 1000
GIVE_UP_FAILURES_MAX = 1_000_000
CHILDREN_MAX = 100


class PeriodMode(StrEnum):
    """When a period is worked on."""

    DISCRETE = "discrete"  # once, after it has closed
    CONTINUOUS = "continuous"  # what is new, again and again while it is open, and the rest when it has closed
    RECOMPUTING = "recomputing"  # all from its start on, again and again, and all of it when it has closed


class Blocking(StrEnum):
    """What is to be done before a period is worked on. None is finished before its children and upstreams are."""

    NORMAL = "normal"  # nothing
    CHILDREN = "children"  # its children, and its upstreams
    DEPENDENCIES = "dependencies"  # its upstreams, and one that was skipped skips it


@dataclass(frozen=True, slots=True)
class Timeline:
    """The periods of a job. Made by ``checked`` or ``from_text``."""

    rule: PeriodRule
    start: datetime | None = None  # of the first period; None: the one in which the job was added
    mode: PeriodMode = PeriodMode.DISCRETE
    settle_seconds: float = 0.0  # after a period has closed, before it counts as closed
    refresh_seconds: float = REFRESH_SECONDS  # from one start to the next while it is open
    rolls_up: tuple[str, ...] = ()  # jobs whose periods within one of its own are the children of that
    blocking: Blocking = Blocking.CHILDREN
    at_once: int = 1  # how many of its periods are worked on at once, the oldest first
    give_up_failures: int | None = None  # bad ends after which a period is skipped; None: it is tried on and on
    give_up_age_seconds: float | None = None  # after its end, when what has not begun is skipped

    @classmethod
    def checked(
        cls,
        *,
        period: object,
        period_tz: object = None,
        period_start: object = None,
        period_mode: object = None,
        settle: object = None,
        refresh: object = None,
        rolls_up: object = None,
        blocking: object = None,
        periods_at_once: object = None,
        give_up_failures: object = None,
        give_up_age: object = None,
    ) -> Timeline:
        """Make one from what a user gave; None is the default of each but ``period``.

        Raises:
            Invalid: a value breaks its rule; ``field`` is the name of the parameter.
        """
        try:
            rule = PeriodRule.checked(period, "UTC" if period_tz is None else period_tz)
        except Invalid as error:
            raise Invalid("period_tz" if error.field == "tz" else error.field, error.value, error.rule) from None
        mode = PeriodMode.DISCRETE if period_mode is None else check_word("period_mode", period_mode, PeriodMode)
        if refresh is not None and mode is PeriodMode.DISCRETE:
            raise Invalid("refresh", refresh, "a discrete period is worked on once: give another period_mode too")
        return cls(
            rule=rule,
            start=None if period_start is None else _find_start(rule, period_start).start,
            mode=mode,
            settle_seconds=0.0 if settle is None else parse_duration("settle", settle, zero_ok=True),
            refresh_seconds=REFRESH_SECONDS
            if refresh is None
            else parse_duration("refresh", refresh, minimum=REFRESH_SECONDS_MIN),
            rolls_up=check_jobs("rolls_up", rolls_up, CHILDREN_MAX, "rolls up"),
            blocking=Blocking.CHILDREN if blocking is None else check_word("blocking", blocking, Blocking),
            at_once=1 if periods_at_once is None else check_whole("periods_at_once", periods_at_once, 1, AT_ONCE_MAX),
            give_up_failures=None
            if give_up_failures is None
            else check_whole("give_up_failures", give_up_failures, 1, GIVE_UP_FAILURES_MAX),
            give_up_age_seconds=None if give_up_age is None else parse_duration("give_up_age", give_up_age),
        )

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of ``checked`` as JSON-able values, without those that have their default."""
        found: dict[str, Any] = {"period": self.rule.text}
        if self.rule.zone.key != "UTC":
            found["period_tz"] = self.rule.zone.key
        if self.start is not None:
            found["period_start"] = format_instant(self.start)
        for name, item in zip(PARAMETERS[3:], fields(self)[2:], strict=True):
            value = getattr(self, item.name)
            if value != item.default:
                found[name] = list(cast("tuple[str, ...]", value)) if isinstance(value, tuple) else value
        for name in _WORDS & found.keys():
            found[name] = str(found[name])
        return found

    @property
    def text(self) -> str:
        """Return it as it is kept: the same for equal ones."""
        return json.dumps(self.parameters(), sort_keys=True, ensure_ascii=False)

    def first_at(self, added_at: datetime) -> Period:
        """Return its first period, for a job that was added then."""
        return self.rule.containing(self.start if self.start is not None else added_at)


# Of the doors, in the order of the fields: the first two make the rule.
PARAMETERS = (
    "period", "period_tz", "period_start", "period_mode", "settle", "refresh", "rolls_up", "blocking",
    "periods_at_once", "give_up_failures", "give_up_age",
)  # fmt: skip
_WORDS = {"period_mode", "blocking"}


@lru_cache(maxsize=1000)
def read_timeline(text: str) -> Timeline:
    """Read back what ``Timeline.text`` gave, which somebody may have changed in SQL since.

    Raises:
        Invalid: it is no JSON object of known parameters, or a value breaks its rule.
    """
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise Invalid("timeline", text, "it is a JSON object")
    known = cast("dict[str, Any]", given)
    for name in known:
        if name not in PARAMETERS:
            raise Invalid("timeline", name, f"it has {', '.join(PARAMETERS)}")
    return Timeline.checked(**({"period": None} | known))


def check_timeline(given: Mapping[str, object]) -> Timeline | None:
    """Make the timeline that parameters describe, of which those that are None are not given; None: there is none.

    Raises:
        Invalid: a value breaks its rule, or is given without ``period``.
    """
    known = {name: value for name, value in given.items() if value is not None and value != []}
    if "period" in known:
        return Timeline.checked(**cast("Any", known))
    for name, value in known.items():
        raise Invalid(name, value, "it is for a job with periods: give period too")
    return None


def _find_start(rule: PeriodRule, value: object) -> Period:
    """Return the period of that name, or else the one that a moment lies in; the name may be that of a longer one."""
    if isinstance(value, str) and any(
        len(value.strip()) == len(unit.example) and (unit is rule.unit or rule.unit.is_finer_than(unit))
        for unit in PeriodUnit
    ):
        return rule.parse_span(value, field="period_start")[0]
    try:
        return rule.containing(parse_instant("period_start", value, rule.zone))
    except Invalid as error:
        with contextlib.suppress(Invalid):  # an hour that is written with its offset
            return rule.parse(value, field="period_start")
        raise Invalid("period_start", value, f"it is the name of a period, or a time; {error.rule}") from None
