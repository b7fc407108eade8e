"""The list of runs, and acting on many of them: those that were chosen, or all that match.

Invariant: whatever is done to many is asked first on a page of its own, which says to how many; and each request does
it to a bounded number of them. The rest are older than the last one of these, so that none is done twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rota.errors import DatabaseUnavailable, Invalid, RotaError
from rota.model.states import RunState
from rota.web.pages.asked import Asked
from rota.web.pages.deeds import DEEDS, Deed, check_deed
from rota.web.pages.forms import is_ours
from rota.web.pages.registry import Context, Done, act, page
from rota.web.pages.writing import address
from rota.web.paging import WITHIN_DEFAULT, WITHIN_MAX

PAGE_RUNS = 50
CHOSEN_MAX = 500
COUNTED_MAX = 1000
COUNT_STEP = 500
BATCH_RUNS = 200  # of all that match, in one request
TOLD_MAX = 5
STATES = [state.value for state in RunState]
FILTERS = ("job", "schedule", "group", "since", "until", "from", "to")


@page("/runs", "runs.html", title="Runs", key="r", place=30, live=5)
def show_runs(asked: Asked) -> Context:
    filters = _filters_of(asked)
    wanted: dict[str, Any] = {**filters, "limit": PAGE_RUNS, "brief": True, "within": WITHIN_DEFAULT}
    wanted |= {"before": _number_of(asked, "before")} if asked.word("before") else {}
    found = asked.look("run.list", None, wanted)
    return {
        "runs": list(found),
        "now": asked.now(),
        "states": STATES,
        "chosen": filters.get("state", []),
        "given": {name: asked.word(name) for name in FILTERS},
        "filters": filters,
        "within": WITHIN_DEFAULT,
        "first": address("/runs", **filters) if asked.word("before") else None,
        "next": None if found.next is None else address("/runs", **filters, before=found.next),
        "deeds": {name: deed for name, deed in DEEDS.items() if asked.may(deed.verb)},
    }


@page("/runs/act", "runs_act.html")
def ask_about_runs(asked: Asked) -> Context:
    deed = check_deed(asked.word("do"))
    context: Context = {
        "word": asked.word("do"),
        "deed": deed,
        "runs": [],
        "filters": {},
        "before": None,
        "batch": BATCH_RUNS,
    }
    back = {"back_to": asked.word("back") if is_ours(asked.word("back")) else "/runs"}
    if not asked.word("all"):
        runs = _chosen(asked)
        return context | back | {"runs": runs, "number": len(runs), "is_more": False, "all": False}
    filters = _filters_of(asked)
    before = _number_of(asked, "before") if asked.word("before") else None
    number, newest, is_more = _count(asked, filters, before)
    return context | {
        "filters": filters,
        "all": True,
        "number": number,
        "is_more": is_more,
        # What is new meanwhile was not asked about; by the time of slots it is told by that time.
        "before": newest + 1 if newest is not None else before,
        "back_to": address("/runs", **filters),
    }


@act("/runs/act")
def act_on_runs(asked: Asked) -> Done:
    deed = check_deed(asked.word("do"))
    if not asked.word("all"):
        return Done(_carry_out(asked, deed, _chosen(asked)))
    filters = _filters_of(asked)
    wanted: dict[str, Any] = {**filters, "limit": BATCH_RUNS, "brief": True}
    wanted |= {"before": _number_of(asked, "before")} if asked.word("before") else {}
    found = asked.do("run.list", None, wanted)
    said = _carry_out(asked, deed, [one["id"] for one in found])
    if found.next is None:
        return Done(f"{said} These were all.", address("/runs", **filters))
    return Done(said, address("/runs/act", do=asked.word("do"), all="1", **filters, before=found.next))


def _carry_out(asked: Asked, deed: Deed, runs: Iterable[int]) -> str:
    """Do it to each, and tell what was done, and what was refused and why."""
    done, refused = 0, list[str]()
    for run in runs:
        try:
            asked.do(deed.verb, str(run))
            done += 1
        except DatabaseUnavailable as error:
            if not done and not refused and not error.outcome_unknown:
                raise  # nothing was done: to be sent again, as anything else is then
            refused.append(f"stopped at run {run}, of which it is not known: {error}")
            break
        except RotaError as error:
            refused.append(f"run {run}: {error}")
    said = f"{deed.label}: done to {_runs(done)}."
    if refused:
        more = len(refused) - TOLD_MAX
        said += f" {len(refused)} refused: {'; '.join(refused[:TOLD_MAX])}" + (
            f"; and {more} more." if more > 0 else "."
        )
    return said


def _runs(number: int) -> str:
    return "1 run" if number == 1 else f"{number:,} runs"


def _count(asked: Asked, filters: Mapping[str, Any], before: int | None) -> tuple[int, int | None, bool]:
    """Count what matches up to a bound; return the newest of it too, and whether there may be more."""
    number, newest, place = 0, None, before
    left = WITHIN_MAX
    while number < COUNTED_MAX and left > 0:
        wanted = {**filters, "limit": COUNT_STEP, "brief": True, "within": min(left, WITHIN_DEFAULT)}
        found = asked.look("run.list", None, wanted | ({} if place is None else {"before": place}))
        number += len(found)
        if newest is None and found:
            newest = found[0]["id"] if "from" not in filters and "to" not in filters else None
        if found.next is None:
            return number, newest, False
        left -= WITHIN_DEFAULT if len(found) < COUNT_STEP else 0
        place = found.next
    return number, newest, True


def _filters_of(asked: Asked) -> dict[str, Any]:
    filters: dict[str, Any] = {name: asked.word(name) for name in FILTERS if asked.word(name)}
    if states := asked.words("state"):
        filters["state"] = states
    return filters


def _chosen(asked: Asked) -> list[int]:
    words = asked.words("run")
    if not words:
        raise Invalid("run", None, "no run was chosen: go back, and tick some, or all that match")
    if len(words) > CHOSEN_MAX:
        raise Invalid("run", len(words), f"at most {CHOSEN_MAX} runs are chosen one by one; use all that match")
    return list(dict.fromkeys(_read_number("run", word) for word in words))


def _number_of(asked: Asked, name: str) -> int:
    return _read_number(name, asked.word(name))


def _read_number(name: str, word: str) -> int:
    if not (word.isascii() and word.isdigit() and len(word) < 19):
        raise Invalid(name, word, "it is the number of a run")
    return int(word)
