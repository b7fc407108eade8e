"""Pages for people: each asks verbs, as programs do over HTTP, and writes what they answer as HTML.

A page is a function marked with ``page`` and a template; what is done from a page is a function marked with ``act``.
Importing this package registers them all.
"""

from rota.web.pages import (
    audit,
    backfills,
    board,
    calendars,
    forecast,
    jobs,
    nodes,
    overview,
    periods,
    run,
    runs,
    schedules,
    tokens,
    users,
)

__all__ = [
    "audit",
    "backfills",
    "board",
    "calendars",
    "forecast",
    "jobs",
    "nodes",
    "overview",
    "periods",
    "run",
    "runs",
    "schedules",
    "tokens",
    "users",
]
