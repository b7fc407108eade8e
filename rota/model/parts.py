"""What can make a schedule due: each kind with its value read into the text that is kept and the grid of its slots.

Called by ``timing``, which puts several of them together. Parsed expressions are kept and shared.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple, cast
from zoneinfo import ZoneInfo

from rota.errors import Invalid
from rota.model.cron import explain_cron, parse_cron
from rota.model.daylight import Fold, Gap
from rota.model.durations import format_duration, parse_duration
from rota.model.grids import ElapsedGrid, Grid, LocalGrid, OnceGrid
from rota.model.instants import format_instant, parse_instant
from rota.model.interval import IntervalPattern, parse_interval
from rota.model.weekly import parse_weekly

EVERY_SECONDS_MIN = 1.0
ANY_RULE = "it is a JSON list of at least two different pairs of a kind and an expression"

_MICROSECOND = timedelta(microseconds=1)


class TimingKind(StrEnum):
    """What makes a schedule due."""

    CRON = "cron"
    EVERY = "every"
    AT = "at"
    INTERVAL = "interval"
    WEEKLY = "weekly"
    ANY = "any"


ANCHORED = frozenset({TimingKind.EVERY, TimingKind.INTERVAL})
KINDS = frozenset(TimingKind)


@lru_cache(maxsize=4096)
def _parse_pairs(expression: str) -> tuple[tuple[str, str], ...]:
    try:
        found = json.loads(expression)
    except (ValueError, RecursionError):
        raise Invalid("expression", expression, ANY_RULE) from None
    pairs: list[tuple[str, str]] = []
    for pair in cast("list[Any]", found) if isinstance(found, list) else ():
        if not isinstance(pair, list) or len(cast("list[Any]", pair)) != 2:
            raise Invalid("expression", expression, ANY_RULE)
        kind, text = cast("list[Any]", pair)
        if not isinstance(kind, str) or kind not in KINDS - {TimingKind.ANY} or not isinstance(text, str):
            raise Invalid("expression", expression, ANY_RULE)
        pairs.append((kind, text))
    if len(pairs) < 2:
        raise Invalid("expression", expression, ANY_RULE)
    return tuple(pairs)


def parse_any(expression: object) -> list[tuple[str, str]]:
    """Return the kinds and expressions that a stored `any` consists of.

    Raises:
        Invalid: it is no list of at least two such pairs.
    """
    if not isinstance(expression, str):
        raise Invalid("expression", expression, ANY_RULE)
    return list(_parse_pairs(expression))


class Part(NamedTuple):
    """One of the things that make a schedule due."""

    kind: TimingKind
    text: str
    grid: Grid | None
    uses_hash: bool = False
    notes: tuple[str, ...] = ()


def read_part(
    kind: str, value: object, zone: ZoneInfo, anchor: datetime | None, name: str, gap: Gap, fold: Fold
) -> Part:
    """Read one kind with its value; without an anchor, a kind that has one is read but has no grid yet.

    Raises:
        Invalid: the value breaks its rule; ``field`` is the kind.
    """
    match kind:
        case TimingKind.CRON:
            cron = parse_cron(_check_text("cron", value), zone.key, name=name, gap=gap, fold=fold)
            return Part(TimingKind.CRON, cron.expression, cron.grid, cron.uses_hash, cron.notes)
        case TimingKind.WEEKLY:
            weekly = parse_weekly(_check_text("weekly", value))
            return Part(TimingKind.WEEKLY, weekly.text, LocalGrid(weekly, zone, gap, fold))
        case TimingKind.INTERVAL:
            interval = parse_interval(_check_text("interval", value))
            grid = None
            if anchor is not None:
                pattern = IntervalPattern(interval, anchor.astimezone(zone).date())
                grid = LocalGrid(pattern, zone, gap, fold)
            return Part(TimingKind.INTERVAL, interval.text, grid)
        case TimingKind.EVERY:
            length = _parse_every(value) if isinstance(value, str) else _read_every(value)
            grid = None if anchor is None else ElapsedGrid(anchor, length)
            return Part(TimingKind.EVERY, _write_seconds(length), grid)
        case TimingKind.AT:
            moment = parse_instant("at", value, zone)
            return Part(TimingKind.AT, format_instant(moment), OnceGrid(moment))
        case _:
            raise Invalid("kind", kind, f"it is one of {', '.join(sorted(KINDS - {TimingKind.ANY}))}")


def _check_text(kind: str, value: object) -> str:
    if not isinstance(value, str):
        raise Invalid(kind, value, "it must be text")
    return value


def _read_every(value: object) -> timedelta:
    return timedelta(microseconds=round(parse_duration("every", value, minimum=EVERY_SECONDS_MIN) * 1_000_000))


_parse_every = lru_cache(maxsize=4096)(_read_every)


@lru_cache(maxsize=4096)
def _write_seconds(length: timedelta) -> str:
    whole, rest = divmod(length // _MICROSECOND, 1_000_000)
    return f"{whole}.{rest:06d}".rstrip("0").rstrip(".")


def explain_part(kind: str, text: str, zone: str, name: str = "") -> str:
    """Say in plain words when it is due; ``name`` is what ``H`` is chosen by.

    Raises:
        Invalid: it cannot be read.
    """
    if kind == TimingKind.CRON:
        return f"{explain_cron(text, name=name)}, in {zone}"
    return describe_part(kind, text, zone)


def describe_part(kind: str, text: str, zone: str) -> str:
    """Say in a few words when it is due."""
    match kind:
        case TimingKind.EVERY:
            return f"every {format_duration(_read_every(text).total_seconds())}"
        case TimingKind.AT:
            return f"once at {text}"
        case TimingKind.INTERVAL:
            return f"every {text} in {zone}"
        case TimingKind.WEEKLY:
            return f"{text} in {zone}"
        case _:
            return f"cron {text} in {zone}"
