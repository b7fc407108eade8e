"""Backfills: the list, how one stands, and starting one, which is shown first."""

from __future__ import annotations

from typing import Any

from rota.errors import RotaError
from rota.model.backfill import BackfillState
from rota.model.slot_rule import CatchUpOrder
from rota.web.pages.asked import Asked
from rota.web.pages.lists import list_page
from rota.web.pages.registry import Context, Done, act, page
from rota.web.pages.things import ThingDeed, add_deeds, deeds_for, is_in
from rota.web.pages.writing import piece

PERIODS_SHOWN_MAX = 200
_WORDS = ("from", "to", "order", "max_active")
_FLAGS = ("downstream", "again", "failed_only", "yes")

# fmt: off
DEEDS = {
    "pause":  ThingDeed("backfill.pause", "Pause", "is paused", fits=is_in("active")),
    "resume": ThingDeed("backfill.resume", "Resume", "goes on", fits=is_in("paused")),
    "cancel": ThingDeed("backfill.cancel", "Cancel", "is cancelled",
                        "Its runs that have not started are withdrawn, and those that run are asked to stop.",
                        fits=lambda backfill: backfill["state"] in {"active", "paused"}),
}
# fmt: on
add_deeds("backfill", "/backfills", DEEDS)


@page("/backfills", "backfills.html", title="Backfills", key="f", place=60, live=5)
def show_backfills(asked: Asked) -> Context:
    return list_page(asked, "backfill.list", "/backfills", ("name", "state"), place="before") | {
        "states": [state.value for state in BackfillState],
        "may_start": asked.may("backfill.start"),
    }


@page("/backfills/{name}", "backfill.html", live=2)
def show_backfill(asked: Asked) -> Context:
    backfill = asked.look("backfill.show", asked.piece("name"))
    return {"backfill": backfill, "now": asked.now(), "deeds": deeds_for(asked, DEEDS, backfill)}


@page("/new/backfill", "backfill_new.html")
def ask_for_backfill(asked: Asked) -> Context:
    asked.check_may("backfill.start")
    name, given = asked.word("name"), _given(asked)
    preview, refused = None, ""
    if name and {"from", "to"} <= set(given):
        try:
            preview = asked.look("backfill.start", name, given | {"dry_run": True})
        except RotaError as error:
            refused = str(error)
    return {
        "name": name,
        "given": {word: asked.word(word) for word in (*_WORDS, *_FLAGS)},
        "orders": [order.value for order in CatchUpOrder],
        "preview": preview,
        "refused": refused,
        "most": PERIODS_SHOWN_MAX,
    }


@act("/new/backfill")
def start_backfill(asked: Asked) -> Done:
    name = asked.word("name")
    started = asked.do("backfill.start", name, _given(asked))
    if "id" in started:
        return Done(f"backfill {started['id']} was started", f"/backfills/{started['id']}")
    return Done(f"{started['count']:,} periods are done again", f"/periods/{piece(name)}")


def _given(asked: Asked) -> dict[str, Any]:
    given: dict[str, Any] = {word: asked.word(word) for word in _WORDS if asked.word(word)}
    return given | {word: True for word in _FLAGS if asked.word(word)}
