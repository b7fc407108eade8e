"""How complete a group is: the runs of one slot, or of one request, on all nodes of a pool.

Invariant: a group succeeded only if each of its runs did.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rota.model.states import FINISHED, RunState

NAMED_MAX = 5

# What is worst first, and how it is said of one node and of several.
_SAID: Mapping[str, tuple[str, str]] = {
    RunState.FAILED.value: ("failed", "failed"),
    RunState.LOST.value: ("lost it", "lost it"),
    RunState.MISSED.value: ("missed it", "missed it"),
    RunState.CANCELLED.value: ("was cancelled", "were cancelled"),
    RunState.SKIPPED.value: ("skipped it", "skipped it"),
    RunState.RUNNING.value: ("is running", "are running"),
    RunState.READY.value: ("has not started", "have not started"),
    RunState.WAITING.value: ("waits", "wait"),
}
_FINISHED = {state.value for state in FINISHED}


@dataclass(frozen=True, slots=True)
class Completeness:
    """How far the runs of a group have come."""

    state: str  # of the group as a whole, a word for runs
    total: int
    counts: Mapping[str, int] = field(default_factory=dict[str, int])  # runs by state
    summary: str = ""  # "7 of 8 succeeded, web3 missed it"


def judge(states: Sequence[tuple[str, str]]) -> Completeness:
    """Judge a group by the node and the state of each of its runs, at least one."""
    assert states
    counts = Counter(state for _, state in states)
    total = len(states)
    if states[0][0] == "":  # nobody was registered, or nobody decided for each of them
        return Completeness(states[0][1], 0, {}, f"for no node: {states[0][1]}")
    done = counts[RunState.SUCCEEDED.value]
    parts = [f"all {total} succeeded" if done == total else f"{done} of {total} succeeded"]
    for state, (of_one, of_several) in _SAID.items():
        names = [name for name, found in states if found == state]
        if names:
            parts.append(f"{_name(names)} {of_one if len(names) == 1 else of_several}")
    return Completeness(_state_of(counts), total, dict(sorted(counts.items())), ", ".join(parts))


def _state_of(counts: Mapping[str, int]) -> str:
    if any(state in _FINISHED for state in counts) and any(state not in _FINISHED for state in counts):
        return RunState.RUNNING.value
    order = [state for state in _SAID if state in counts]
    return order[0] if order else RunState.SUCCEEDED.value


def _name(names: Sequence[str]) -> str:
    if len(names) > NAMED_MAX:
        return f"{', '.join(names[:NAMED_MAX])} and {len(names) - NAMED_MAX} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
