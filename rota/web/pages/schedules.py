"""Schedules: the list, one of them in plain words with its coming slots, and a form that shows what it would bring.

Invariant: the preview asks and stores nothing. It is a GET of the same page with what stands in the form, whose button
is another one than that which acts; only that one carries the token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from rota.errors import Invalid, RotaError
from rota.model.durations import format_duration
from rota.model.parts import explain_part
from rota.model.schedule import TIMINGS
from rota.model.states import JobState
from rota.web.pages.asked import Asked
from rota.web.pages.lists import list_page
from rota.web.pages.options import changes_of, fields_for
from rota.web.pages.registry import Context, Done, act, page
from rota.web.pages.things import ThingDeed, add_deeds, deeds_for, is_in
from rota.web.pages.writing import piece

SLOTS_SHOWN = 10
EVENTS_MAX = 50
_FIRST = ("job", *TIMINGS, "tz", "gap", "fold", "args")

# fmt: off
DEEDS = {
    "pause":  ThingDeed("schedule.pause", "Pause", "is paused", fits=is_in("active")),
    "resume": ThingDeed("schedule.resume", "Resume", "goes on with its next slot", fits=is_in("paused")),
    "resume-latest":
              ThingDeed("schedule.resume", "Resume, and run the latest slot", "goes on, with its latest slot first",
                        fits=is_in("paused"), parameters={"latest": True}),
    "delete": ThingDeed("schedule.delete", "Delete", "was deleted",
                        "It makes no more runs then; those that it has made stay.", ends_it=True),
}
# fmt: on
add_deeds("schedule", "/schedules", DEEDS)


@page("/schedules", "schedules.html", title="Schedules", key="s", place=50)
def show_schedules(asked: Asked) -> Context:
    return list_page(asked, "schedule.list", "/schedules", ("search", "state", "job"), flags=("ghosts",)) | {
        "states": [state.value for state in JobState],
        "may_add": asked.may("schedule.add"),
        "when": say_when,
    }


@page("/schedules/{name}", "schedule.html", live=10)
def show_schedule(asked: Asked) -> Context:
    key = asked.piece("name")
    schedule = asked.look("schedule.show", key)
    why = asked.look("why.schedule", key)
    return {
        "schedule": schedule,
        "when": say_when(schedule),
        "now": asked.now(),
        "why": why,
        "events": why["events"][-EVENTS_MAX:][::-1],
        "preview": _show_coming(asked, schedule),
        "fields": fields_for(asked, "schedule.edit", schedule, first=_FIRST),
        "deeds": deeds_for(asked, DEEDS, schedule),
        "may_edit": asked.may("schedule.edit"),
        "may_fill": asked.may("backfill.start"),
        "may_mark": asked.may("schedule.mark-succeeded"),
    }


@page("/schedules/{name}/edit", "schedule_edit.html")
def ask_to_edit_schedule(asked: Asked) -> Context:
    asked.check_may("schedule.edit")
    key = asked.piece("name")
    schedule = asked.look("schedule.show", key)
    fields = fields_for(asked, "schedule.edit", schedule, first=_FIRST)
    return {"schedule": schedule, "name": key, "fields": fields, "preview": _preview(asked, schedule)}


@act("/schedules/{name}/edit")
def edit_schedule(asked: Asked) -> Done:
    asked.check_may("schedule.edit")
    key, changes = asked.piece("name"), changes_of(asked, "schedule.edit")
    to = f"/schedules/{piece(key)}"
    if not changes:
        return Done("nothing was changed", to)
    schedule = asked.do("schedule.edit", key, changes)
    return Done(f"schedule {key} is at revision {schedule['revision']}: {', '.join(changes)}", to)


@page("/new/schedule", "schedule_edit.html")
def ask_for_schedule(asked: Asked) -> Context:
    asked.check_may("schedule.add")
    fields = fields_for(asked, "schedule.add", first=_FIRST)
    return {"schedule": None, "name": asked.word("name"), "fields": fields, "preview": _preview(asked, None)}


@act("/new/schedule")
def add_schedule(asked: Asked) -> Done:
    schedule = asked.do("schedule.add", asked.word("name"), changes_of(asked, "schedule.add"))
    return Done(f"schedule {schedule['key']} was added", f"/schedules/{piece(schedule['key'])}")


@page("/schedules/{name}/slot", "slot.html")
def show_slot(asked: Asked) -> Context:
    key, slot = asked.piece("name"), asked.word("slot")
    why = asked.look("why.schedule", key, {"slot": slot} if slot else {})
    return {"key": key, "slot": slot, "why": why, "events": why["events"][-EVENTS_MAX:]}


@page("/schedules/{name}/mark", "confirm.html")
def ask_to_mark(asked: Asked) -> Context:
    asked.check_may("schedule.mark-succeeded")
    key, slot = asked.piece("name"), asked.word("slot")
    return {
        "title": f"Mark slot {slot} of schedule {key} succeeded?",
        "question": "It counts as done although no run did it, and what waits for it goes on.",
        "action": f"/schedules/{piece(key)}/mark",
        "label": "Mark succeeded",
        "to": f"/schedules/{piece(key)}",
        "fields": {"slot": slot},
    }


@act("/schedules/{name}/mark")
def mark_succeeded(asked: Asked) -> Done:
    key, slot = asked.piece("name"), asked.word("slot")
    asked.do("schedule.mark-succeeded", key, {"slot": slot})
    return Done(f"slot {slot} of schedule {key} counts as done", f"/schedules/{piece(key)}")


def say_when(view: Mapping[str, Any]) -> str:
    """Say in plain words when a schedule is due; what cannot be understood is told as it is."""
    said: list[str] = []
    for kind in TIMINGS:
        value = view.get(kind)
        for one in cast("list[Any]", value) if isinstance(value, list) else [] if value is None else [value]:
            try:
                if isinstance(one, int | float):
                    said.append(f"every {format_duration(one)}")
                else:
                    said.append(explain_part(kind, str(one), str(view.get("tz") or "UTC"), str(view.get("key") or "")))
            except (RotaError, ValueError):
                said.append(f"{kind} {one}")
    text = "; or ".join(said)
    return text[:1].upper() + text[1:]


def _show_coming(asked: Asked, schedule: Mapping[str, Any]) -> Context:
    try:
        slots = asked.look("schedule.next", schedule["key"], {"n": SLOTS_SHOWN})
    except Invalid as error:  # what a hand has written into its row
        return {"slots": [], "notes": [], "refused": str(error), "when": "", "tz": schedule["tz"]}
    return {"slots": slots, "notes": schedule["notes"], "refused": "", "when": "", "tz": schedule["tz"]}


def _preview(asked: Asked, schedule: Mapping[str, Any] | None) -> Context:
    """Look at what the options of the form would bring, and what is wrong with them."""
    nothing: Context = {"slots": [], "notes": [], "refused": "", "when": "", "tz": ""}
    try:
        changes = changes_of(asked, "schedule.edit" if schedule else "schedule.add")
        if schedule is not None:
            found = asked.rota.schedules[schedule["key"]].preview_edit(SLOTS_SHOWN, **changes)
            facts = _changed(schedule, changes)
        elif any(changes.get(kind) for kind in TIMINGS):
            job = str(changes.pop("job", ""))
            found = asked.rota.schedules.preview(asked.word("name"), job, SLOTS_SHOWN, **changes)
            facts = changes | {"key": asked.word("name")}
        else:
            return nothing
    except RotaError as error:
        return nothing | {"refused": str(error)}
    zone = str(facts.get("tz") or asked.rota.default_zone)
    return {**found, "refused": "", "when": say_when(facts | {"tz": zone}), "tz": zone}


def _changed(schedule: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    timings = {kind: changes.get(kind) for kind in TIMINGS} if any(changes.get(kind) for kind in TIMINGS) else {}
    zone = {"tz": changes["tz"]} if "tz" in changes else {}
    return {**schedule, **timings, **zone}
