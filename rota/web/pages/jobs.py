"""Jobs: the list, one of them with all that it says and has done, and what can be done about it."""

from __future__ import annotations

import secrets
from typing import Any, cast

from rota.model.states import JobState
from rota.web.pages.asked import Asked
from rota.web.pages.lists import list_page
from rota.web.pages.options import changes_of, fields_for, read_document
from rota.web.pages.registry import Context, Done, act, page
from rota.web.pages.things import ThingDeed, add_deeds, deeds_for, is_in
from rota.web.pages.writing import piece

LATEST = 10
EVENTS_MAX = 50
NAMES_SHOWN_MAX = 100
_FIRST = ("call", "command", "shell", "sql")
_OF_A_RUN = ("at", "in", "priority", "key", "concurrency_key")

# fmt: off
DEEDS = {
    "pause":  ThingDeed("job.pause", "Pause", "is paused", fits=is_in("active")),
    "resume": ThingDeed("job.resume", "Resume", "goes on",
                        fits=lambda job: job["state"] == "paused" or job["breaker"] is not None),
    "reset":  ThingDeed("job.reset", "Reset", "begins anew",
                        "What it has not done is forgotten, so that it begins anew: its periods are worked on from the "
                        "first one on again, slots that wait are skipped, and its breaker is closed. Its history "
                        "stays."),
    "delete": ThingDeed("job.delete", "Delete", "was deleted",
                        "Its definition is gone then; its finished runs stay. It must have no schedules and no "
                        "unfinished runs.", ends_it=True),
}
# fmt: on
add_deeds("job", "/jobs", DEEDS)


@page("/jobs", "jobs.html", title="Jobs", key="j", place=40)
def show_jobs(asked: Asked) -> Context:
    return list_page(asked, "job.list", "/jobs", ("search", "state", "pool"), flags=("ghosts",)) | {
        "states": [state.value for state in JobState],
        "may_add": asked.may("job.add"),
        "what": describe_target,
    }


@page("/jobs/{name}", "job.html", live=5)
def show_job(asked: Asked) -> Context:
    name = asked.piece("name")
    job = asked.look("job.show", name)
    why = asked.look("why.job", name)
    return {
        "job": job,
        "what": describe_target(job),
        "now": asked.now(),
        "why": why,
        "events": why["events"][-EVENTS_MAX:][::-1],
        "runs": asked.look("run.list", None, {"job": name, "limit": LATEST, "brief": True, "within": 50_000}),
        "most": NAMES_SHOWN_MAX,
        "fields": fields_for(asked, "job.edit", job, first=_FIRST),
        "deeds": deeds_for(asked, DEEDS, job),
        "may_run": asked.may("job.run"),
        "may_edit": asked.may("job.edit"),
        "request": secrets.token_urlsafe(12),
    }


@act("/jobs/{name}/run")
def run_job(asked: Asked) -> Done:
    """A page that is sent twice makes one run: it carries the name of its request."""
    given: dict[str, Any] = {word: asked.word(word) for word in (*_OF_A_RUN, "request") if asked.word(word)}
    if (args := read_document("args", asked.text("args"))) is not None:
        given["args"] = args
    if asked.word("force"):
        given["force"] = True
    run = asked.do("job.run", asked.piece("name"), given)
    return Done(f"run {run['id']} was asked for", f"/runs/{run['id']}")


@page("/jobs/{name}/edit", "job_edit.html")
def ask_to_edit_job(asked: Asked) -> Context:
    asked.check_may("job.edit")
    job = asked.look("job.show", asked.piece("name"))
    return {"job": job, "fields": fields_for(asked, "job.edit", job, first=_FIRST)}


@act("/jobs/{name}/edit")
def edit_job(asked: Asked) -> Done:
    asked.check_may("job.edit")
    name, changes = asked.piece("name"), changes_of(asked, "job.edit")
    to = f"/jobs/{piece(name)}"
    if not changes:
        return Done("nothing was changed", to)
    job = asked.do("job.edit", name, changes)
    return Done(f"job {name} is at revision {job['revision']}: {', '.join(changes)}", to)


@page("/new/job", "job_edit.html")
def ask_for_job(asked: Asked) -> Context:
    asked.check_may("job.add")
    return {"job": None, "fields": fields_for(asked, "job.add", first=_FIRST)}


@act("/new/job")
def add_job(asked: Asked) -> Done:
    job = asked.do("job.add", asked.word("name"), changes_of(asked, "job.add"))
    return Done(f"job {job['name']} was added", f"/jobs/{piece(job['name'])}")


def describe_target(job: Any) -> str:
    """Say in one line what a job runs."""
    for kind in _FIRST:
        if (value := job.get(kind)) is not None:
            return " ".join(str(one) for one in cast("list[Any]", value)) if isinstance(value, list) else str(value)
    return ""
