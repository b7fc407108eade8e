"""What a job builds on: its upstreams, the order that this gives, and whether a run may go by what became of theirs.

``find_cycle`` and ``in_order`` look at names alone. ``Standing`` is how one upstream stands for one run, as the store
has read it; ``judge`` makes one answer of all of them. An upstream stands well for a run when its latest slot at or
before the run's own has succeeded: the same slot where both have it, and the latest one where not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from rota.model.values import check_jobs

UPSTREAMS_MAX = 100
WAITS = "it waits"  # what is said of a run that may not go begins so
NAMED_MAX = 3  # of the upstreams that a run waits for


class UpstreamFailure(StrEnum):
    """What becomes of a run when an upstream has ended, and not well."""

    WAIT = "wait"  # until it is done again and succeeds, or somebody says that it counts as done
    SKIP = "skip"  # it is skipped


class Stand(StrEnum):
    """How an upstream stands for a run."""

    DONE = "done"
    AHEAD = "ahead"  # it has not ended, or its slot is not decided yet
    FAILED = "failed"  # it has ended otherwise


@dataclass(frozen=True, slots=True)
class Standing:
    """How one upstream stands for one run, and why, in words that go on after its name."""

    upstream: str
    stand: Stand
    text: str
    run_id: int | None = None  # the run that decides it; None: there is none yet
    is_before: bool = False  # it is the slot before of its own schedule, which is waited for whatever becomes of it


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether a run may go by its upstreams, and why or why not."""

    stand: Stand  # the worst of all
    text: str


def check_after(value: object) -> tuple[str, ...]:
    """Return the names of upstreams, sorted, each once.

    Raises:
        Invalid: it is no list of names, or there are too many.
    """
    return check_jobs("after", value, UPSTREAMS_MAX, "runs after")


def find_cycle(upstreams: Mapping[str, Collection[str]], start: str) -> list[str] | None:
    """Return the path from ``start`` over upstreams back to it, both ends named; None: there is no way back.

    The shortest one. ``upstreams`` gives the upstreams of each job; one that it does not know has none.
    """
    came_from: dict[str, str] = {}
    nexts: list[str] = [start]
    while nexts:
        names = nexts
        nexts = []
        for name in names:
            for upstream in sorted(upstreams.get(name, ())):
                if upstream == start:
                    path: list[str] = [start, name]
                    while path[-1] != start:
                        path.append(came_from[path[-1]])
                    return path[::-1] if name != start else [start, start]
                if upstream not in came_from:
                    came_from[upstream] = name
                    nexts.append(upstream)
    return None


def in_order(upstreams: Mapping[str, Collection[str]]) -> list[str]:
    """Return the names that ``upstreams`` knows, each behind its upstreams; else in the order that they are given.

    What is in a cycle, or behind one, comes last.
    """
    order: list[str] = []
    placed: set[str] = set()
    left = list(upstreams)
    while left:
        may_come = [name for name in left if all(up in placed or up not in upstreams for up in upstreams[name])]
        if not may_come:
            return order + left
        order += may_come
        placed.update(may_come)
        left = [name for name in left if name not in placed]
    return order


def judge(standings: Sequence[Standing], failure: UpstreamFailure) -> Judgement:
    """Make one answer of how all upstreams of a run stand. With ``failure`` wait, one that has failed is waited for."""
    failed = [standing for standing in standings if standing.stand is Stand.FAILED]
    upstreams = [standing for standing in failed if not standing.is_before]
    if upstreams and failure is UpstreamFailure.SKIP:
        return Judgement(Stand.FAILED, f"an upstream has not succeeded: {_say(upstreams)}")
    open_ones = failed + [standing for standing in standings if standing.stand is Stand.AHEAD]
    if open_ones:
        return Judgement(Stand.AHEAD, f"{WAITS} for {_say(open_ones)}")
    return Judgement(
        Stand.DONE, f"what it builds on is done: {_say(standings)}" if standings else "it builds on nothing"
    )


def _say(standings: Iterable[Standing]) -> str:
    said = [f"{standing.upstream}, {standing.text}" for standing in standings]
    more = f"; and {len(said) - NAMED_MAX} more" if len(said) > NAMED_MAX else ""
    return "; ".join(said[:NAMED_MAX]) + more
