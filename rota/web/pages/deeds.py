"""What people do about runs, with the words for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rota.errors import Invalid
from rota.model.states import FINISHED, UNFINISHED, RunState


def _any(_: Any) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Deed:
    """One of them. ``states`` are those in which it is offered; whether it may be done the verb knows."""

    verb: str
    label: str
    done: str
    question: str
    states: frozenset[str]
    fits: Callable[[Any], bool] = _any


_unfinished = frozenset(state.value for state in UNFINISHED)
_finished = frozenset(state.value for state in FINISHED)
_running = frozenset({RunState.RUNNING.value})
_not_begun = _unfinished - _running

# fmt: off
DEEDS: dict[str, Deed] = {
    "rerun":  Deed("run.rerun", "Rerun", "it will be done again",
                   "What they did is done once more, as their next attempt.", _finished),
    "cancel": Deed("run.cancel", "Cancel", "it is withdrawn, or being stopped",
                   "What runs is told to stop, and is killed if it does not.", _unfinished),
    "skip":   Deed("run.skip", "Skip", "it is done without",
                   "They will not run; what waits for them goes on without them.", _not_begun),
    "freeze": Deed("run.freeze", "Freeze", "its processes are held",
                   "Their processes are held where they are.", _running, lambda run: run["freeze_asked_at"] is None),
    "thaw":   Deed("run.thaw", "Thaw", "its processes go on",
                   "Their processes go on.", _running, lambda run: run["freeze_asked_at"] is not None),
    "mark-succeeded": Deed("run.mark-succeeded", "Mark succeeded", "it counts as done",
                   "They count as done although they are not, and what waits for them goes on.",
                   _finished - {RunState.SUCCEEDED.value}),
}
# fmt: on
CONFIRMED = frozenset({"cancel", "skip", "mark-succeeded"})  # on a page of its own, also for a single run


def check_deed(word: str) -> Deed:
    """Return the deed of a word.

    Raises:
        Invalid: there is none.
    """
    if word not in DEEDS:
        raise Invalid("do", word, f"choose from {', '.join(DEEDS)}")
    return DEEDS[word]
