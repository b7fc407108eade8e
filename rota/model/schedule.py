"""When a job is due, with which arguments, and what happens when it is late: the definition of a schedule, checked.

Every door makes a ``ScheduleSpec`` through ``ScheduleSpec.checked``; the store keeps its fields as columns of the same
names, save the job's, which it keeps by number. A row read back goes through ``from_definition``, and is set aside with
the message when that refuses it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, tzinfo
from enum import StrEnum
from itertools import islice, pairwise
from typing import Any, cast

from rota.errors import Invalid
from rota.model.calendars import Calendar
from rota.model.documents import EMPTY_ARGUMENTS, check_arguments_text, decode_document, encode_arguments
from rota.model.durations import format_duration, parse_duration
from rota.model.instants import check_zone, format_instant, parse_instant, say_moment, say_slot
from rota.model.job import apply_changes, check_start_within
from rota.model.names import check_name
from rota.model.slot_rule import CATCH_UP_LIMIT, CATCH_UP_LIMIT_MAX, CatchUp, CatchUpOrder, OnClosed, Overlap, SlotRule
from rota.model.timing import Fold, Gap, parse_any
from rota.model.timing import Timing as Timing
from rota.model.timing import TimingKind as TimingKind
from rota.model.values import check_whole, check_word

ZONE_DEFAULT = "UTC"
_MOMENTS = ("anchor_at", "start_at", "end_at", "first_run_at")
_SAMPLE = datetime(2026, 1, 1, tzinfo=UTC)  # an anchor, where only the distance of slots matters

# What says when a schedule is due: one of them, or several times any, and then any of these slots is one of it.
TIMINGS = ("cron", "every", "at", "interval", "weekly")
_PARAMETERS = (
    "name", "job", *TIMINGS, "tz", "gap", "fold", "anchor", "start", "end", "first_run", "calendars", "on_closed",
    "delay", "jitter", "start_within", "catch_up", "catch_up_limit", "catch_up_order", "overlap", "in_order", "args",
)  # fmt: skip
CALENDARS_MAX = 10
# So many slots tell how long the interval between two is, for what may not be longer.
_SLOTS_LOOKED_AT = 10


@dataclass(frozen=True, slots=True)
class ScheduleSpec:
    """A schedule's definition. Made by ``checked`` or ``from_definition``; a value made directly is not checked."""

    name: str
    job: str
    kind: TimingKind
    expression: str  # as its kind writes it
    zone: str = ZONE_DEFAULT
    gap: Gap = Gap.SHIFT
    fold: Fold = Fold.FIRST
    anchor_at: datetime | None = None  # of an `every` or `interval`; None: when it is stored, by the database's clock
    start_at: datetime | None = None
    end_at: datetime | None = None
    first_run_at: datetime | None = None
    calendars: tuple[str, ...] = ()
    on_closed: OnClosed = OnClosed.SKIP
    delay_seconds: float = 0.0
    jitter_seconds: float = 0.0
    start_within_seconds: float | None = None  # None: the job's, else one period
    catch_up: CatchUp = CatchUp.LATEST
    catch_up_limit: int = CATCH_UP_LIMIT
    catch_up_order: CatchUpOrder = CatchUpOrder.OLDEST
    overlap: Overlap = Overlap.SKIP
    in_order: bool = False  # each slot runs, oldest first, when the one before it has succeeded
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
        interval: object = None,
        weekly: object = None,
        tz: object = None,
        gap: object = Gap.SHIFT,
        fold: object = Fold.FIRST,
        anchor: object = None,
        start: object = None,
        end: object = None,
        first_run: object = None,
        calendars: object = (),
        on_closed: object = OnClosed.SKIP,
        delay: object = 0.0,
        jitter: object = 0.0,
        start_within: object = None,
        catch_up: object = CatchUp.LATEST,
        catch_up_limit: object = CATCH_UP_LIMIT,
        catch_up_order: object = CatchUpOrder.OLDEST,
        overlap: object = Overlap.SKIP,
        in_order: object = False,
        args: object = None,
    ) -> ScheduleSpec:
        """Make a definition from what a user gave, with at least one of ``TIMINGS``.

        Each of these may be a list, and with several of them any slot counts. ``args`` is a mapping, or the text of a
        JSON object. ``anchor`` is where the grid of an ``every`` or ``interval`` starts; without one it starts when the
        schedule is stored. Local times in ``start``, ``end``, ``first_run``, ``at`` and ``anchor`` are in ``tz``.

        Raises:
            Invalid: a value breaks its rule, or two contradict each other; ``field`` is the name of the parameter.
        """
        key = check_name("key", name)
        zone = check_zone("tz", ZONE_DEFAULT if tz is None else tz)
        gap, fold = check_word("gap", gap, Gap), check_word("fold", fold, Fold)
        given: dict[str, object] = dict(zip(TIMINGS, (cron, every, at, interval, weekly), strict=True))
        timing = _check_timing(given, zone.key, key, gap, fold)
        spec = cls(
            name=key,
            job=check_name("job", job),
            kind=timing.kind,
            expression=timing.expression,
            zone=zone.key,
            gap=gap,
            fold=fold,
            anchor_at=_check_anchor(timing, anchor, zone),
            start_at=_check_moment("start", start, zone),
            end_at=_check_moment("end", end, zone),
            first_run_at=_check_moment("first_run", first_run, zone),
            calendars=_check_calendars(calendars),
            on_closed=check_word("on_closed", on_closed, OnClosed),
            delay_seconds=parse_duration("delay", delay, zero_ok=True),
            jitter_seconds=parse_duration("jitter", jitter, zero_ok=True),
            start_within_seconds=check_start_within(start_within),
            catch_up=check_word("catch_up", catch_up, CatchUp),
            catch_up_limit=check_whole("catch_up_limit", catch_up_limit, 1, CATCH_UP_LIMIT_MAX),
            catch_up_order=check_word("catch_up_order", catch_up_order, CatchUpOrder),
            overlap=check_word("overlap", overlap, Overlap),
            in_order=_check_flag("in_order", in_order),
            args=check_arguments_text("args", args) if isinstance(args, str) else encode_arguments("args", args),
        )
        spec._check_together()
        return spec

    def _check_together(self) -> None:
        if self.start_at is not None and self.end_at is not None and self.end_at < self.start_at:
            raise Invalid("end", say_slot(self.end_at), f"it comes after start, {say_slot(self.start_at)}")
        if self.first_run_at is not None and self.start_at is not None and self.first_run_at < self.start_at:
            rule = f"it does not come before start, {say_slot(self.start_at)}"
            raise Invalid("first_run", say_slot(self.first_run_at), rule)
        if self.first_run_at is not None and self.end_at is not None and self.end_at < self.first_run_at:
            raise Invalid("first_run", say_slot(self.first_run_at), "it comes before the end")
        if self.catch_up is CatchUp.ALL and self.overlap is Overlap.REPLACE:
            raise Invalid(
                "overlap", "replace", "catch-up all wants every slot to run, and replace cancels them: choose one"
            )
        self._check_order()
        if self.on_closed is not OnClosed.SKIP and not self.calendars:
            raise Invalid("on_closed", str(self.on_closed), "a slot can only move away from what a calendar closes")
        if self.jitter_seconds:
            shortest = self._shortest_period()
            if shortest is not None and self.jitter_seconds > shortest:
                rule = f"it is at most the time between two slots, {format_duration(shortest)}, or they swap places"
                raise Invalid("jitter", format_duration(self.jitter_seconds), rule)

    def _check_order(self) -> None:
        if not self.in_order:
            return
        if self.catch_up is not CatchUp.ALL:
            raise Invalid("in_order", True, "it wants every slot to run: give catch-up all too")
        if self.catch_up_order is not CatchUpOrder.OLDEST:
            raise Invalid("catch_up_order", str(self.catch_up_order), "with in_order the oldest slot is the first")
        if self.start_within_seconds is not None:
            within = format_duration(self.start_within_seconds)
            raise Invalid("start_within", within, "with in_order no slot is given up, however late: leave it out")

    def _shortest_period(self) -> float | None:
        slots = list(islice(self.timing(_SAMPLE).preview(self.start_at or _SAMPLE), _SLOTS_LOOKED_AT))
        return min(((later - slot).total_seconds() for slot, later in pairwise(slots)), default=None)

    def notes(self) -> list[str]:
        """Say what may surprise in this definition although it is allowed."""
        found = self.timing(_SAMPLE).describe_notes()
        if self.catch_up is CatchUp.ALL and self.start_within_seconds is not None:
            within = format_duration(self.start_within_seconds)
            found.append(
                f"catch-up all with a start window of {within}: of the slots that nobody served, only those not older "
                f"than {within} run, the others are missed; without start_within each of them runs, however late"
            )
        if self.overlap is Overlap.QUEUE and self.start_within_seconds is not None:
            found.append("overlap queue with a start window: what still queues when its window closes is missed")
        return found

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
        if any(changes.get(kind) is not None for kind in TIMINGS):
            given = {name: value for name, value in given.items() if name not in {*TIMINGS, "anchor"}}
        return ScheduleSpec.checked(**apply_changes("schedule", _PARAMETERS, given, changes, keep=TIMINGS))

    def definition(self) -> dict[str, Any]:
        """Return the definition as JSON-able values; equal definitions have equal ones."""
        found: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        for name in _MOMENTS:
            found[name] = None if found[name] is None else format_instant(found[name])
        found["calendars"] = list(self.calendars)
        found["args"] = decode_document(self.args)
        return {name: str(value) if isinstance(value, StrEnum) else value for name, value in found.items()}

    def timing(self, stored_at: datetime, known: Mapping[str, Calendar] | None = None) -> Timing:
        """Return when it is due; ``stored_at`` anchors an `every` or `interval` that has no anchor of its own.

        ``known`` are the calendars of the database; without them no slot is moved to another day.

        Raises:
            Invalid: a calendar that moves its slots is not known.
        """
        anchor = self.anchor_at or stored_at
        timing = Timing.from_stored(
            self.kind, self.expression, self.zone, anchor, name=self.name, gap=self.gap, fold=self.fold
        )
        if self.on_closed is not OnClosed.SKIP and known is not None:
            timing = timing.shifted(self._calendars(known), str(self.on_closed))
        if self.start_at is not None or self.end_at is not None:
            timing = timing.within(self.start_at, self.end_at)
        return timing

    def _calendars(self, known: Mapping[str, Calendar]) -> tuple[Calendar, ...]:
        for name in self.calendars:
            if name not in known:
                raise Invalid("calendars", name, "there is no calendar of that name; add it with `rota calendar add`")
        return tuple(known[name] for name in self.calendars)

    def rule(
        self,
        stored_at: datetime,
        known: Mapping[str, Calendar] | None = None,
        job_start_within_seconds: float | None = None,
    ) -> SlotRule:
        """Return what decides about its slots; the job's start window holds where the schedule has none.

        Raises:
            Invalid: one of its calendars is not ``known``.
        """
        own = self.start_within_seconds
        known = {} if known is None else known
        return SlotRule(
            timing=self.timing(stored_at, known),
            name=self.name,
            delay_seconds=self.delay_seconds,
            jitter_seconds=self.jitter_seconds,
            start_within_seconds=job_start_within_seconds if own is None else own,
            catch_up=self.catch_up,
            catch_up_limit=self.catch_up_limit,
            catch_up_order=self.catch_up_order,
            overlap=self.overlap,
            in_order=self.in_order,
            calendars=self._calendars(known) if self.on_closed is OnClosed.SKIP else (),
        )

    def first_slot(self, now: datetime, known: Mapping[str, Calendar] | None = None) -> datetime:
        """Return the first slot after ``now``, when the schedule is stored or its timing edited.

        Raises:
            Invalid: there is none; the past is not replayed.
        """
        if self.first_run_at is not None and self.first_run_at > now:
            return self.first_run_at
        slot = self.timing(now, known).next(now)
        if slot is not None:
            return slot
        if self.end_at is not None and self.end_at <= now:
            raise Invalid("end", say_slot(self.end_at), f"it lies after now, {say_moment(now)}")
        raise Invalid(str(self.kind), self.expression, f"it must be due after now, {say_moment(now)}")


def _check_flag(name: str, value: object) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    raise Invalid(name, value, "it is true or false")


def _check_timing(given: Mapping[str, object], zone: str, key: str, gap: Gap, fold: Fold) -> Timing:
    pairs = [(kind, one) for kind, value in given.items() for one in _as_list(value) if one is not None]
    if not pairs:
        raise Invalid("schedule", [], f"it has at least one of {', '.join(TIMINGS)}")
    return Timing.checked(pairs, zone, name=key, gap=gap, fold=fold)


def _as_list(value: object) -> Sequence[object]:
    return cast("Sequence[object]", value) if isinstance(value, list | tuple) else [value]


def _check_anchor(timing: Timing, value: object, zone: tzinfo) -> datetime | None:
    if value is None:
        return None
    if not timing.needs_anchor:
        raise Invalid("anchor", value, "only a schedule with `every` or `interval` has an anchor")
    return parse_instant("anchor", value, zone)


def _check_moment(field: str, value: object, zone: tzinfo) -> datetime | None:
    return None if value is None else parse_instant(field, value, zone)


def _check_calendars(value: object) -> tuple[str, ...]:
    names = _as_list(value)
    if len(names) > CALENDARS_MAX:
        raise Invalid("calendars", value, f"a schedule has at most {CALENDARS_MAX} calendars")
    return tuple(dict.fromkeys(check_name("calendars", name) for name in names if name is not None))


def _to_parameters(definition: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a definition into the parameters of ``checked``: the expression under the name of its kind."""
    known = [item.name for item in fields(ScheduleSpec)]
    for name, value in definition.items():
        if name not in known:
            raise Invalid(name, value, f"a schedule has no such field; it has {', '.join(known)}")
    given = {name.removesuffix("_seconds"): value for name, value in definition.items()}
    kind = check_word("kind", given.pop("kind", None), TimingKind)
    expression = given.pop("expression", None)
    given["tz"] = given.pop("zone", None)
    for name in _MOMENTS:
        given[name.removesuffix("_at")] = given.pop(name, None)
    if isinstance(given.get("calendars"), str | None):  # as the column keeps it
        given["calendars"] = read_names("calendars", given.pop("calendars", None))
    if kind is TimingKind.ANY:
        for part, text in parse_any(expression):
            given.setdefault(part, []).append(text)
        kinds = {part for part, _ in parse_any(expression)}
    else:
        given[str(kind)] = expression
        kinds = {str(kind)}
    if not kinds & {TimingKind.EVERY, TimingKind.INTERVAL}:
        given["anchor"] = None  # left over from another kind
    return given


def read_names(field: str, text: str | None) -> list[str]:
    """Read a JSON list of names, as a column keeps it; NULL is an empty one.

    Raises:
        Invalid: it is no such list.
    """
    if text is None:
        return []
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in cast("list[object]", names)):
        raise Invalid(field, text, "it is a JSON list of names")
    return cast("list[str]", names)
