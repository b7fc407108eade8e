"""The row of a schedule: written from a definition, read back checked, and shown.

Invariant: whatever stands in a row can be shown; only reading it as a definition refuses what no door would accept.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Row

from rota.errors import NotFound, RotaError
from rota.model.schedule import TIMINGS, ScheduleSpec
from rota.model.timing import TimingKind, parse_any
from rota.store.shown import show_document

_SPEC_FIELDS = tuple(field.name for field in dataclasses.fields(ScheduleSpec))


def columns_of(job_ids: Mapping[str, int], spec: ScheduleSpec, now: datetime) -> dict[str, Any]:
    if spec.job not in job_ids:
        raise NotFound("job", spec.job)
    values = spec.definition() | {
        "job_id": job_ids[spec.job],
        "args": spec.args,
        "anchor_at": (spec.anchor_at or now) if spec.timing(now).needs_anchor else None,
        "start_at": spec.start_at,
        "end_at": spec.end_at,
        "first_run_at": spec.first_run_at,
        "calendars": json.dumps(spec.calendars, ensure_ascii=False) if spec.calendars else None,
    }
    del values["job"]
    return values


def spec_of(row: Row[Any]) -> ScheduleSpec:
    """Read a schedule's row back, checked as at the doors.

    Raises:
        Invalid: somebody wrote into the row what no door would have accepted.
    """
    values: dict[str, Any] = {name: getattr(row, name) for name in _SPEC_FIELDS if name != "job"}
    return ScheduleSpec.from_definition(values | {"job": row.job_name})


def show_schedule(row: Row[Any]) -> dict[str, Any]:
    """Show a schedule with the words of the doors; spans of time in seconds. No row is refused for what it holds."""
    return {
        "key": row.name,
        "job": row.job_name,
        "state": row.state,
        **_show_timings(row),
        "tz": row.zone,
        "gap": row.gap,
        "fold": row.fold,
        "anchor": row.anchor_at,
        "start": row.start_at,
        "end": row.end_at,
        "first_run": row.first_run_at,
        "calendars": show_document(row.calendars) or [],
        "on_closed": row.on_closed,
        "delay": row.delay_seconds,
        "jitter": row.jitter_seconds,
        "start_within": row.start_within_seconds,
        "catch_up": row.catch_up,
        "catch_up_limit": row.catch_up_limit,
        "catch_up_order": row.catch_up_order,
        "overlap": row.overlap,
        "in_order": bool(row.in_order),
        "args": show_document(row.args),
        "next_slot": row.next_slot_at,
        "last_slot": row.last_slot_at,
        "skips_in_row": row.skips_in_row,
        "problem": row.problem,
        "notes": _notes_of(row),
        "paused_at": row.paused_at,
        "revision": row.revision,
        "declared_by": row.declared_by,
        "ghost_since": row.ghost_since,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


def _show_timings(row: Row[Any]) -> dict[str, Any]:
    """Show what makes it due under the name of each option: a value, a list of several, or None."""
    found: dict[str, Any] = dict.fromkeys(TIMINGS)
    if row.kind in found:
        found[row.kind] = _show_expression(row.kind, row.expression)
    elif row.kind == TimingKind.ANY.value:
        try:
            pairs = parse_any(row.expression)
        except RotaError:
            return found
        for kind, expression in pairs:
            shown_one = _show_expression(kind, expression)
            before = found[kind]
            found[kind] = (
                shown_one if before is None else [*(before if isinstance(before, list) else [before]), shown_one]
            )
    return found


def _show_expression(kind: str, expression: str) -> Any:
    return show_document(expression) if kind == TimingKind.EVERY.value else expression


def _notes_of(row: Row[Any]) -> list[str]:
    try:
        return spec_of(row).notes()
    except RotaError:
        return []
