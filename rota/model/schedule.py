"""When a job is due, with which arguments, and what happens when it is late: the definition of a schedule, checked.

Every door makes a ``ScheduleSpec`` through ``ScheduleSpec.checked``; the store keeps its fields as columns of the same
names, save the job's, which it keeps by number. A row read back goes through ``from_definition``, and is set aside with
the message when that refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, tzinfo
from enum import StrEnum
from typing import Any

from rota.errors import Invalid
from rota.model.documents import EMPTY_ARGUMENTS, check_arguments_text, decode_document, encode_arguments
from rota.model.durations import parse_duration
from rota.model.instants import check_zone, format_instant, parse_instant
from rota.model.job import apply_changes, check_start_within, check_whole, check_word
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

_PARAMETERS = (
    "name", "job", "cron", "every", "at", "tz", "anchor", "delay", "start_within", "catch_up", "catch_up_limit",
    "overlap", "args",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ScheduleSpec:
    """A schedule's definition. Made by ``checked`` or ``from_definition``; a value made directly is not checked."""

    name: str
    job: str
    kind: TimingKind
    expression: str  # the cron expression, the seconds, or the instant
    zone: str = ZONE_DEFAULT
    anchor_at: datetime | None = None  # of an `every`; None: when it is stored, by the database's clock
    delay_seconds: float = 0.0
    start_within_seconds: float | None = None  # None: the job's, else one period
    catch_up: CatchUp = CatchUp.LATEST
    catch_up_limit: int = CATCH_UP_LIMIT
    overlap: Overlap = Overlap.SKIP
    args: str = EMPTY_ARGUMENTS  # JSON text

    @classmethod
    def checked(
        cls,
        name: object,
        *,
        job: object,
        cron: object = None,
        every: object = None,
        at: object = None,
        tz: object = None,
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
        zone = check_zone("tz", ZONE_DEFAULT if tz is None else tz)
        timing = _check_timing(cron, every, at, zone.key)
        return cls(
            name=check_name("key", name),
            job=check_name("job", job),
            kind=timing.kind,
            expression=timing.expression,
            zone=zone.key,
            anchor_at=_check_anchor(timing.kind, anchor, zone),
            delay_seconds=parse_duration("delay", delay, zero_ok=True),
            start_within_seconds=check_start_within(start_within),
            catch_up=check_catch_up(catch_up),
            catch_up_limit=check_whole("catch_up_limit", catch_up_limit, 1, CATCH_UP_LIMIT_MAX),
            overlap=check_overlap(overlap),
            args=check_arguments_text("args", args) if isinstance(args, str) else encode_arguments("args", args),
        )

    @classmethod
    def from_definition(cls, definition: Mapping[str, Any]) -> ScheduleSpec:
        """Read back what ``definition`` gave, or the columns of these names, with ``args`` as text.

        Raises:
            Invalid: a value breaks its rule, or a name is not known.
        """
        return cls.checked(**_to_parameters(definition))

    def edited(self, **changes: object) -> ScheduleSpec:
        """Return this definition with some of the parameters of ``checked`` changed; None gives one back its default.

        A new timing takes the place of the old one, and starts a grid of its own.

        Raises:
            Invalid: a value breaks its rule, or a schedule has no such parameter.
        """
        given = _to_parameters(self.definition())
        if any(changes.get(kind) is not None for kind in TimingKind):
            given = {name: value for name, value in given.items() if name not in {*TimingKind, "anchor"}}
        return ScheduleSpec.checked(**apply_changes("schedule", _PARAMETERS, given, changes, keep=tuple(TimingKind)))

    def definition(self) -> dict[str, Any]:
        """Return the definition as JSON-able values; equal definitions have equal ones."""
        found: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        found["anchor_at"] = None if self.anchor_at is None else format_instant(self.anchor_at)
        found["args"] = decode_document(self.args)
        return {name: str(value) if isinstance(value, StrEnum) else value for name, value in found.items()}

    def timing(self, stored_at: datetime) -> Timing:
        """Return when it is due; ``stored_at`` anchors an `every` that has no anchor of its own."""
        return Timing.from_stored(self.kind, self.expression, self.zone, self.anchor_at or stored_at)

    def rule(self, stored_at: datetime, job_start_within_seconds: float | None = None) -> SlotRule:
        """Return what decides about its slots; the job's start window holds where the schedule has none."""
        own = self.start_within_seconds
        return SlotRule(
            timing=self.timing(stored_at),
            delay_seconds=self.delay_seconds,
            start_within_seconds=job_start_within_seconds if own is None else own,
            catch_up=self.catch_up,
            catch_up_limit=self.catch_up_limit,
            overlap=self.overlap,
        )

    def first_slot(self, now: datetime) -> datetime:
        """Return the first slot after ``now``, when the schedule is stored or its timing edited.

        Raises:
            Invalid: there is none; the past is not replayed.
        """
        slot = self.timing(now).next(now)
        if slot is None:
            raise Invalid(str(self.kind), self.expression, f"it must be due after now, {format_instant(now)}")
        return slot


def _check_timing(cron: object, every: object, at: object, zone: str) -> Timing:
    given = [name for name, value in (("cron", cron), ("every", every), ("at", at)) if value is not None]
    if len(given) != 1:
        raise Invalid("schedule", given, "it has exactly one of cron, every and at")
    if cron is not None:
        return Timing.cron(cron, zone)
    return Timing.every(every, None, zone) if every is not None else Timing.at(at, zone)


def _check_anchor(kind: TimingKind, value: object, zone: tzinfo) -> datetime | None:
    if value is None:
        return None
    if kind is not TimingKind.EVERY:
        raise Invalid("anchor", value, "only a schedule with `every` has an anchor")
    return parse_instant("anchor", value, zone)


def _to_parameters(definition: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a definition into the parameters of ``checked``: the expression under the name of its kind."""
    known = [item.name for item in fields(ScheduleSpec)]
    for name, value in definition.items():
        if name not in known:
            raise Invalid(name, value, f"a schedule has no such field; it has {', '.join(known)}")
    given = {name.removesuffix("_seconds"): value for name, value in definition.items()}
    kind = check_word("kind", given.pop("kind", None), TimingKind)
    anchor = given.pop("anchor_at", None)
    given["anchor"] = anchor if kind is TimingKind.EVERY else None
    given["tz"] = given.pop("zone", None)
    given[str(kind)] = given.pop("expression", None)
    return given
