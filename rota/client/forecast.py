"""Looking ahead: what will run when, and the coming slots of one schedule with what is special about them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from rota.model.forecast import DAYS_MAX, STEPS_MAX, Forecast, Hour, find_collisions, look_ahead, notes_of
from rota.model.instants import check_zone, format_instant, parse_instant
from rota.model.names import check_name
from rota.model.schedule import ScheduleSpec
from rota.model.slot_rule import SlotRule
from rota.model.values import check_whole
from rota.store.forecast import (
    SCHEDULES_MAX,
    Prospect,
    read_edited_rule,
    read_new_rule,
    read_prospect,
    read_rule,
)

if TYPE_CHECKING:
    from rota.client.rota import Rota

PREVIEW_MAX = 1000
STEPS_PER_SCHEDULE = 24  # where only some are looked at: one that comes every hour is, for a day


def read_forecast(rota: Rota, days: int = 1, job: str | None = None, schedules: int | None = None) -> dict[str, Any]:
    """Do what ``Rota.forecast`` says."""
    wanted = check_whole("days", days, 1, DAYS_MAX)
    most = SCHEDULES_MAX if schedules is None else check_whole("schedules", schedules, 1, SCHEDULES_MAX)
    steps = STEPS_MAX if schedules is None else min(STEPS_MAX, most * STEPS_PER_SCHEDULE)
    prospect = read_prospect(rota.database, wanted, None if job is None else check_name("job", job), schedules_max=most)
    until = prospect.now + timedelta(days=wanted)
    return _show(look_ahead(prospect.subjects, prospect.pools, prospect.now, until, steps), prospect, until)


def find_coming(rota: Rota, key: str, n: int, after: str | datetime | None) -> tuple[SlotRule, list[datetime]]:
    """Do what ``ScheduleHandle.next`` says, and return what decides about these slots too."""
    count = check_whole("n", n, 1, PREVIEW_MAX)
    rule, now, first = read_rule(rota.database, check_name("key", key))
    start = now if after is None else parse_instant("from", after, check_zone("tz", rule.timing.zone))
    return rule, _coming(rule, start, first, count)


def _coming(rule: SlotRule, start: datetime, first: datetime | None, count: int) -> list[datetime]:
    slots: list[datetime] = []
    if first is not None and first > start:  # wherever the others lie, none comes before it
        slots, start = [first], first
    return [*slots, *islice(rule.timing.preview(start), count - len(slots))]


def preview_schedule(rota: Rota, key: str, n: int, after: str | datetime | None) -> list[dict[str, Any]]:
    """Do what ``ScheduleHandle.preview`` says."""
    return _show_slots(*find_coming(rota, key, n, after))


def preview_new(rota: Rota, spec: ScheduleSpec, n: int) -> dict[str, Any]:
    """Do what ``Schedules.preview`` says."""
    count = check_whole("n", n, 1, PREVIEW_MAX)
    rule, now, first = read_new_rule(rota.database, spec)
    return {"notes": spec.notes(), "slots": _show_slots(rule, _coming(rule, now, first, count))}


def preview_edited(rota: Rota, key: str, changes: Mapping[str, Any], n: int) -> dict[str, Any]:
    """Do what ``ScheduleHandle.preview_edit`` says."""
    count = check_whole("n", n, 1, PREVIEW_MAX)
    spec, rule, now, first = read_edited_rule(
        rota.database, check_name("key", key), lambda spec: spec.edited(**changes)
    )
    return {"notes": spec.notes(), "slots": _show_slots(rule, _coming(rule, now, first, count))}


def _show_slots(rule: SlotRule, slots: list[datetime]) -> list[dict[str, Any]]:
    zone = ZoneInfo(rule.timing.zone)
    return [
        {
            "slot": format_instant(slot),
            "local": slot.astimezone(zone).isoformat(),
            "run_at": format_instant(rule.run_at(slot)),
            "notes": notes_of(rule, slot),
        }
        for slot in slots
    ]


def _show(forecast: Forecast, prospect: Prospect, wanted: datetime) -> dict[str, Any]:
    pools = sorted({name for hour in forecast.hours for name in hour.pools} | set(prospect.pools))
    return {
        "from": format_instant(forecast.start),
        "until": format_instant(forecast.until),
        "is_complete": forecast.until >= wanted and not prospect.is_cut,
        "schedules": len(prospect.subjects),
        "pools": [_show_pool(name, forecast, prospect.pools.get(name, 0)) for name in pools],
        "hours": [_show_hour(hour, prospect.pools) for hour in forecast.hours],
        "collisions": find_collisions(forecast, prospect.pools),
        "overlaps": forecast.overlaps,
        "notes": forecast.notes,
        "unknown_jobs": prospect.unknown_jobs,
        "left_out": prospect.left_out,
    }


def _show_pool(name: str, forecast: Forecast, slots: int) -> dict[str, Any]:
    of_pool = [hour.pools[name] for hour in forecast.hours if name in hour.pools]
    occupancies = [share for hour in of_pool if (share := hour.occupancy(slots)) is not None]
    return {
        "pool": name,
        "slots": slots,
        "runs": sum(hour.runs for hour in of_pool),
        "busy_seconds": round(sum(hour.busy_seconds for hour in of_pool), 3),
        "occupancy_max": round(max(occupancies, default=0.0), 4) if slots else None,
        "peak": max((hour.peak for hour in of_pool), default=0),
        "wait_seconds_max": round(max((hour.wait_seconds for hour in of_pool), default=0.0), 3),
    }


def _show_hour(hour: Hour, slots: dict[str, int]) -> dict[str, Any]:
    pools: list[dict[str, Any]] = []
    for name, of_hour in sorted(hour.pools.items()):
        share = of_hour.occupancy(slots.get(name, 0))
        pools.append(
            {
                "pool": name,
                "runs": of_hour.runs,
                "busy_seconds": round(of_hour.busy_seconds, 3),
                "occupancy": None if share is None else round(share, 4),
                "peak": of_hour.peak,
                "wait_seconds": round(of_hour.wait_seconds, 3),
            }
        )
    return {"hour": format_instant(hour.start), "slots": hour.slots, "runs": hour.runs, "pools": pools}
