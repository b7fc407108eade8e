"""The audit: who did what, through which door and from where."""

from __future__ import annotations

from rota.model.actor import Door
from rota.web.pages.asked import Asked
from rota.web.pages.lists import list_page
from rota.web.pages.registry import Context, page

FILTERS = ("actor", "door", "kind", "subject", "did", "since", "until")
# Where a thing is shown that somebody did something to.
# fmt: off
BASES = {
    "job": "/jobs", "schedule": "/schedules", "run": "/runs", "node": "/nodes", "pool": "/pools",
    "calendar": "/calendars", "backfill": "/backfills", "user": "/users", "token": "/tokens",
}
# fmt: on


@page("/audit", "audit.html", title="Audit", key="a", place=110, verb="audit")
def show_audit(asked: Asked) -> Context:
    return list_page(asked, "audit", "/audit", FILTERS, place="before") | {
        "doors": [door.value for door in Door],
        "bases": BASES,
    }
