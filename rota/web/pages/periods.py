"""The periods of a job: its tree, a grid of them by state, and reprocessing or skipping some, which is shown first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any

from rota.errors import Invalid
from rota.model.period_step import PeriodState
from rota.web.pages.asked import Asked
from rota.web.pages.registry import Context, Done, act, page
from rota.web.pages.writing import address, piece

PERIODS_SHOWN = 240  # ten days of hours
NAMES_SHOWN_MAX = 200  # of each job, in a preview
_FILTERS = ("from", "to")
# The verb, what it is called, and what is said about it.
# fmt: off
_DEEDS = {
    "reprocess": ("period.reprocess", "Reprocess",
                  "These are taken back and worked on anew, in order, with all that is built on them. Runs that are at "
                  "work for them are withdrawn or stopped first."),
    "skip":      ("period.skip", "Skip",
                  "These are done without. What is finished stays as it is."),
}
# fmt: on


@page("/periods/{name}", "periods.html", live=5)
def show_periods(asked: Asked) -> Context:
    job = asked.piece("name")
    given: dict[str, Any] = {name: asked.word(name) for name in _FILTERS if asked.word(name)}
    if states := asked.words("state"):
        given["state"] = states
    path = f"/periods/{piece(job)}"
    before = asked.word("before")
    wanted = given | {"limit": PERIODS_SHOWN} | ({"before": before} if before else {})
    found = asked.look("period.list", job, wanted)
    chosen = asked.word("period")
    return {
        "job": job,
        "tree": asked.look("period.tree", job),
        "rows": [(head, list(cells)) for head, cells in groupby(found, key=_row_of)],
        "now": asked.now(),
        "states": [state.value for state in PeriodState],
        "given": {name: asked.word(name) for name in _FILTERS},
        "chosen_states": given.get("state", []),
        "period": next((one for one in found if one["period"] == chosen), None),
        "chosen": chosen,
        "why": asked.look("why.period", job, {"period": chosen}) if chosen else None,
        "newest": address(path, **_as_words(given)) if before else None,
        "older": address(path, **_as_words(given), before=found.next) if found.next is not None else None,
        "address_of": _addresses(path, given, before),
        "deeds": {word: label for word, (verb, label, _) in _DEEDS.items() if asked.may(verb)},
    }


@page("/periods/{name}/act", "periods_act.html")
def ask_about_periods(asked: Asked) -> Context:
    verb, label, question = _find(asked)
    given = _given(asked)
    return {
        "job": asked.piece("name"),
        "word": asked.word("do"),
        "label": label,
        "question": question,
        "given": {name: "1" if value is True else value for name, value in given.items()},
        "preview": asked.look(verb, asked.piece("name"), given | {"dry_run": True}),
        "most": NAMES_SHOWN_MAX,
    }


@act("/periods/{name}/act")
def act_on_periods(asked: Asked) -> Done:
    verb, label, _ = _find(asked)
    job = asked.piece("name")
    touched = asked.do(verb, job, _given(asked))
    count = touched["count"]
    return Done(f"{label}: {count:,} {'period' if count == 1 else 'periods'}", f"/periods/{piece(job)}")


def _find(asked: Asked) -> tuple[str, str, str]:
    if asked.word("do") not in _DEEDS:
        raise Invalid("do", asked.word("do"), f"choose from {', '.join(_DEEDS)}")
    return _DEEDS[asked.word("do")]


def _given(asked: Asked) -> dict[str, Any]:
    given: dict[str, Any] = {name: asked.word(name) for name in ("period", "to") if asked.word(name)}
    if asked.word("failed_only") and asked.word("do") == "reprocess":
        given["failed_only"] = True
    return given


def _row_of(period: Mapping[str, Any]) -> str:
    """Return what the names of the periods of one row have in common: the day of hours, the month of days."""
    name = str(period["period"])
    return name.rpartition("T")[0] or name.rpartition("-")[0]


def _as_words(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"from_" if name == "from" else name: value for name, value in given.items()}


def _addresses(path: str, given: Mapping[str, Any], before: str) -> Callable[[str], str]:
    return lambda name: address(path, **_as_words(given), before=before, period=name)
