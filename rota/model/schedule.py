"""When a job is due, with which arguments, and what happens when it is late: the definition of a schedule, checked.

Every door makes a ``ScheduleSpec`` through ``ScheduleSpec.checked``, the store keeps it, and a row read back goes
through ``from_definition``, to be set aside with the message when that refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rota.errors import Invalid
from rota.model.documents import EMPTY_ARGUMENTS, check_arguments_text, decode_document, encode_arguments
from rota.model.durations import parse_duration
from rota.model.instants import check_zone, parse_instant
from rota.model.job import check_start_within, check_whole, check_word
from rota.model.names import check_name
from rota.model.policy import (
    CATCH_UP_LIMIT,
    CATCH_UP_LIMIT_MAX,
    CatchUp,
    Overlap,
    SlotRule,
    check_catch_up,
    check_overlap,
)
from rota.model.timing import Timing as Timing
from rota.model.timing import TimingKind as TimingKind

ZONE_DEFAULT = "UTC"

PARAMETERS = (
    "key", "job", "cron", "every", "at", "tz", "anchor", "delay", "start_within", "catch_up", "catch_up_limit",
    "overlap", "args",
)  # fmt: skip
_FIELDS = {
    "key": "key",
    "job": "job",
    "kind": "kind",
    "expression": "expression",
    "zone": "tz",
    "anchor_at": "anchor",
    "delay_seconds": "delay",
    "start_within_seconds": "start_within",
    "catch_up": "catch_up",
    "catch_up_limit": "catch_up_limit",
    "overlap": "overlap",
    "args": "args",
}


@dataclass(frozen=True, slots=True)
class ScheduleSpec:
    """A schedule's definition. Made by ``checked`` or ``from_definition``; a value made directly is not checked."""

    key: str
    job: str
    timing: Timing
    delay_seconds: float = 0.0
    start_within_seconds: float | None = None  # None: the job's, else one period
    catch_up: CatchUp = CatchUp.LATEST
    catch_up_limit: int = CATCH_UP_LIMIT
    overlap: Overlap = Overlap.SKIP
    args: str = EMPTY_ARGUMENTS  # JSON text

    @classmethod
    def checked(
        cls,
        key: object,
        *,
        job: object,
        cron: object = None,
        every: object = None,
        at: object = None,
        tz: object = ZONE_DEFAULT,
        anchor: object = None,
        delay: object = 0.0,
        start_within: object = None,
        catch_up: object = CatchUp.LATEST,
        catch_up_limit: object = CATCH_UP_LIMIT,
        overlap: object = Overlap.SKIP,
        args: object = None,
    ) -> ScheduleSpec:
        """Make a definition from what a user gave: exactly one of ``cron``, ``every`` and ``at``.

        ``args`` is a mapping, or the text of a JSON object. ``anchor`` is where the grid of an ``every`` starts;
        without one it starts when the schedule is stored.

        Raises:
            Invalid: a value breaks its rule; ``field`` is the name of the parameter.
            NotSupported: it asks for an overlap that this version does not have.
        """
        return cls(
            key=check_name("key", key),
            job=check_name("job", job),
            timing=_check_timing(cron, every, at, tz, anchor),
            delay_seconds=parse_duration("delay", delay, zero_ok=True),
            start_within_seconds=check_start_within(start_within),
            catch_up=check_catch_up(catch_up),
            catch_up_limit=check_whole("catch_up_limit", catch_up_limit, 1, CATCH_UP_LIMIT_MAX),
            overlap=check_overlap(overlap),
            args=_check_args(args),
        )

    @classmethod
    def from_definition(cls, definition: Mapping[str, Any]) -> ScheduleSpec:
        """Read back what ``definition`` gave, which somebody may have changed in SQL since.

        It may also hold ``anchor_at``, and ``args`` as JSON text.

        Raises:
            Invalid: a value breaks its rule, or a name is not known.
        """
        return cls.checked(**_to_parameters(definition))

    def changed(self, **changes: object) -> ScheduleSpec:
        """Return this definition with some of the parameters of ``checked`` changed; None gives one back its default.

        A new timing replaces the old one, and an ``every`` with another interval starts a grid of its own.

        Raises:
            Invalid: a value breaks its rule, or a schedule has no such parameter.
        """
        given = _to_parameters({**self.definition(), "anchor_at": self.timing.anchor})
        if any(changes.get(kind) is not None for kind in TimingKind):
            for name in (*TimingKind, "anchor"):
                given.pop(name, None)
        for name, value in changes.items():
            if name not in PARAMETERS:
                raise Invalid(name, value, f"a schedule has no such field; it has {', '.join(PARAMETERS)}")
            if value is None and name not in tuple(TimingKind):
                given.pop(name, None)
            elif value is not None:
                given[name] = value
        spec = ScheduleSpec.checked(**given)
        same = (spec.timing.kind, spec.timing.expression) == (self.timing.kind, self.timing.expression)
        if not same or self.timing.anchor is None or changes.get("anchor") is not None:
            return spec
        return ScheduleSpec.checked(**{**given, "anchor": self.timing.anchor})

    def definition(self) -> dict[str, Any]:
        """Return the definition as JSON-able values; equal definitions have equal ones.

        The anchor is left out: it is where the grid happens to start, which the code that declares it does not know.
        """
        return {
            "key": self.key,
            "job": self.job,
            "kind": str(self.timing.kind),
            "expression": self.timing.expression,
            "zone": self.timing.zone,
            "delay_seconds": self.delay_seconds,
            "start_within_seconds": self.start_within_seconds,
            "catch_up": str(self.catch_up),
            "catch_up_limit": self.catch_up_limit,
            "overlap": str(self.overlap),
            "args": decode_document(self.args),
        }

    def rule(self, job_start_within_seconds: float | None = None) -> SlotRule:
        """Return what decides about its slots; the job's start window holds where the schedule has none."""
        own = self.start_within_seconds
        return SlotRule(
            timing=self.timing,
            delay_seconds=self.delay_seconds,
            start_within_seconds=job_start_within_seconds if own is None else own,
            catch_up=self.catch_up,
            catch_up_limit=self.catch_up_limit,
            overlap=self.overlap,
        )


def _check_timing(cron: object, every: object, at: object, tz: object, anchor: object) -> Timing:
    zone = check_zone("tz", tz)
    given = [name for name, value in (("cron", cron), ("every", every), ("at", at)) if value is not None]
    if len(given) != 1:
        raise Invalid("timing", given, "a schedule has exactly one of cron, every and at")
    if anchor is not None and every is None:
        raise Invalid("anchor", anchor, "only a schedule with `every` has an anchor")
    if cron is not None:
        return Timing.cron(cron, zone.key)
    if every is not None:
        start = None if anchor is None else parse_instant("anchor", anchor, zone)
        return Timing.every(every, start, zone.key)
    return Timing.at(at, zone.key)


def _check_args(value: object) -> str:
    return check_arguments_text("args", value) if isinstance(value, str) else encode_arguments("args", value)


def _to_parameters(definition: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a definition into the parameters of ``checked``: the expression under the name of its kind."""
    for name, value in definition.items():
        if name not in _FIELDS:
            raise Invalid(name, value, f"a schedule has no such field; it has {', '.join(_FIELDS)}")
    given = {_FIELDS[name]: value for name, value in definition.items()}
    kind = check_word("kind", given.pop("kind", None), TimingKind)
    if kind is not TimingKind.EVERY:
        given.pop("anchor", None)
    given[str(kind)] = given.pop("expression", None)
    return given
