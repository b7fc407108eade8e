"""The protocols of Rota as small models, searched to the last state: firing, one run, and the permits of a limit.

Each guard of the real protocol is a flag of its model. With all of them no state breaks an invariant; without any
single one some state does, and the search returns the shortest way there. What the models leave out: failover of the
database (commits that were acknowledged and are gone), cancellation, releases, and delays before another attempt.

Time is what is left of leases, in ticks: a model needs no clock then, and has finitely many states. A transaction whose
decision depends on what it has read is two steps, reading and writing, as if rows could not be locked. A step whose
answer may be lost has that as a step of its own.

Used by ``test_protocol.py`` and by ``docs/generate/protocol.py``. Standard library only.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

LEASE = 2  # ticks

INVARIANTS = {
    "I1": "one slot makes one run",
    "I2": "at most one node believes that it holds a run",
    "I3": "nothing that an old claim asks for has an effect",
    "I4": "the fences of a run's attempts rise",
    "I5": "a run that may start once only starts once, unless it is asked for again or has retries",
    "I6": "what is started has its own start mark committed",
    "I7": "a run can always still end",
    "I8": "two processes of one run are there together only if the guardian of one was stopped",
    "I9": "what has ended stays as it ended, but for the truth that the same claim brings late",
    "I10": "every slot that the cursor has passed has left its row, and the cursor never falls",
    "I12": "the attempts of a run are bounded by its budgets, also if each kills its node",
    "L1": "no more runs of a limit are running than it has permits",
    "L2": "a permit that is taken belongs to a running run",
}


@dataclass(frozen=True, slots=True)
class Guard:
    """One condition or rule of the protocol, and the invariant that breaks without it."""

    name: str
    breaks: str
    model: str  # in which its removal is shown
    where: str  # in the code


# fmt: off
GUARDS: tuple[Guard, ...] = (
    # Firing
    Guard("the cursor moves by compare-and-set",       "I10", "fire", "`MOVE_CURSORS`: `cursor_version`"),
    Guard("the rows of slots commit with the cursor",  "I10", "fire", "`firing._write`: one transaction"),
    Guard("the next slot follows the last one",        "I10", "fire", "`decide_slots`: all slots from the cursor on"),
    Guard("a slot is unique",                          "I1",  "fire", "`rota_run_slot`, and `INSERT_RUNS` before it"),
    Guard("an edit moves the version of the cursor",   "I10", "fire", "`CHANGE_SCHEDULE`"),
    Guard("an edit begins behind what was decided",    "I10", "fire", "`schedules._replace`: now or the last slot"),
    # One run
    Guard("only what is ready is claimed",             "I2",  "least", "`CLAIM`: `state = 'ready'`"),
    Guard("the claim id is random",                    "I2",  "least", "`claim_runs`: made by the node beforehand"),
    Guard("the fence rises with the claim",            "I4",  "least", "`CLAIM`: `fence + 1`"),
    Guard("nothing starts before its commit is known", "I6",  "least", "`claim_runs`: else nothing is started"),
    Guard("the mark is committed before the start",    "I5",  "most",  "`mark_started`: only what it returns"),
    Guard("the mark names the claim",                  "I3",  "most",  "`MARK_STARTED`, `FIND_MARKED`: `claim_id`"),
    Guard("the mark needs a lease that is not over",   "I5",  "clocks", "`MARK_STARTED`: `lease_ends_at`"),
    Guard("the guardian looks before it starts",       "I8",  "least", "`Attempt.start`: its deadline"),
    Guard("the guardian kills before the lease ends",  "I8",  "least", "`Attempt`, or the nursery in its place"),
    Guard("the deadline counts from before asking",    "I2",  "least", "`Renewer`, `Bookkeeper`: CLOCK_BOOTTIME"),
    Guard("the renewal names the claim",               "I3",  "least", "`FIND_RENEWABLE`, `RENEW_CLAIMS`: `claim_id`"),
    Guard("only what is running is renewed",           "I2",  "least", "`FIND_RENEWABLE`, `RENEW_CLAIMS`: `state`"),
    Guard("the rescue needs a lease that is over",     "I2",  "least", "`FIND_EXPIRED`: `lease_ends_at`"),
    Guard("the rescue names the claim it saw",         "I2",  "least", "`APPLY_MOVES`: `claim_id`, `fence`"),
    Guard("the rescue names the lease it saw",         "I2",  "least", "`APPLY_MOVES`: `lease_ends_at`"),
    Guard("the rescue names the state it saw",         "I9",  "least", "`APPLY_MOVES`: `state`"),
    Guard("what starts once is lost after its mark",   "I5",  "most",  "`decide_rescue`: never ready again"),
    Guard("a loss spends its budget",                  "I12", "most",  "`decide_rescue`: `losses`, `lost_max`"),
    Guard("the end names the claim",                   "I3",  "least", "`FIND_ENDING`, `APPLY_MOVES`: `claim_id`"),
    Guard("the end names the state it saw",            "I3",  "least", "`APPLY_MOVES`: `state`"),
    Guard("late truth names the claim that was lost",  "I3",  "operator", "`FIND_ENDING`: `claim_id`, for `lost` too"),
    # The permits of a limit
    Guard("a permit is taken while nobody has it",     "L1",  "permits", "compare-and-set on `rota_permit.claim_id`"),
    Guard("a permit is taken with the claim",          "L1",  "permits", "in the transaction of the claim"),
    Guard("a permit is given back with the end",       "L2",  "permits", "`apply_moves`, in that of the end"),
    Guard("a rescue gives the permit back",            "L2",  "permits", "`apply_moves`, in that of the rescue"),
    Guard("giving back names the claim",               "L1",  "permits", "`rota_permit.claim_id`"),
)
# fmt: on

# What shows each guard on the real thing: what is taken out of the real SQL in ``test_protocol_machine.py``; or, where
# it is a rule of the program and no condition of SQL, the test that keeps it.
SHOWN_BY: dict[str, tuple[str, ...]] = {
    "the cursor moves by compare-and-set": ("the version, of a cursor", "the rise of the version, of a cursor"),
    "the rows of slots commit with the cursor": ("test_each_slot_has_one_run_when_a_worker_has_died_firing",),
    "the next slot follows the last one": ("test_every_slot_is_decided_exactly_once_and_the_rules_hold",),
    "a slot is unique": ("the same slot, of new runs",),
    "an edit moves the version of the cursor": ("the rise of the version, of an edit",),
    "an edit begins behind what was decided": (
        "test_a_slot_that_is_decided_already_is_never_decided_again_after_an_edit",
    ),
    "only what is ready is claimed": (
        "the state, of a claim",
        "test_a_claim_in_one_statement_takes_nothing_that_another_one_takes_meanwhile",
    ),
    "the claim id is random": ("test_each_claim_has_a_random_id_and_the_fence_rises",),
    "the fence rises with the claim": ("the rise of the fence, of a claim",),
    "nothing starts before its commit is known": ("test_claims_that_were_not_committed_are_not_started",),
    "the mark is committed before the start": ("test_a_mark_that_is_not_known_to_be_committed_starts_nothing",),
    "the mark names the claim": ("the claim, of a mark", "the claim, of what was marked"),
    "the mark needs a lease that is not over": ("the lease, of a mark",),
    "the guardian looks before it starts": ("test_a_job_is_not_started_when_its_lease_is_about_to_end",),
    "the guardian kills before the lease ends": ("test_a_lease_that_is_not_renewed_stops_the_job_before_it_ends",),
    "the deadline counts from before asking": ("test_a_new_deadline_is_counted_from_before_the_request",),
    "the renewal names the claim": ("the claim, of what is to be renewed", "the claim, of a renewal"),
    "only what is running is renewed": ("the state, of what is to be renewed", "the state, of a renewal"),
    "the rescue needs a lease that is over": ("the lease, of a rescue",),
    "the rescue names the claim it saw": ("the claim and its fence, of a move",),
    "the rescue names the lease it saw": ("the lease, of a move",),
    "the rescue names the state it saw": ("the state, of a move",),
    "what starts once is lost after its mark": (
        "test_at_most_once_is_not_started_again_after_its_start_mark_and_is_before",
    ),
    "a loss spends its budget": ("test_the_second_loss_waits_and_each_further_one_twice_as_long",),
    "the end names the claim": ("the claim, of an end that is told", "the claim and its fence, of a move"),
    "the end names the state it saw": ("the state, of a move",),
    "late truth names the claim that was lost": ("the claim, of an end that is told",),
    "a permit is taken while nobody has it": ("that it is free, of taking a permit",),
    "a permit is taken with the claim": ("test_a_claim_that_does_not_come_about_takes_no_permit",),
    "a permit is given back with the end": ("giving permits back, of an end",),
    "a rescue gives the permit back": ("giving permits back, of a rescue",),
    "giving back names the claim": (
        "the claim, of giving permits back",
        "the claim, of undoing what was taken",
    ),
}

ALL = frozenset(guard.name for guard in GUARDS)


class Step(NamedTuple):
    """One step of a model: what is done, what is so then, and which invariant it breaks."""

    told: str
    world: Any
    broken: str | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """One model: where it begins, what may happen next, what must hold of each state, and where it may rest."""

    name: str
    what: str
    first: Any
    steps: Callable[[Any, frozenset[str]], Iterator[Step]]
    check: Callable[[Any], str | None]
    is_over: Callable[[Any], bool]  # it has come to an end, whatever may still follow
    canonical: Callable[[Any], Any] = lambda world: world  # nodes that change places make no other state


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found: the shortest way to break the invariant, if there is one."""

    states: int
    broken: str | None
    trace: tuple[str, ...] = ()
    stuck: int = 0  # states from which nothing leads to an end; counted by a whole search only


def search(model: Model, without: str | None = None, *, breaks: str | None = None) -> Found:
    """Look at every state that can be reached, nearest first, until one breaks an invariant, or the one asked for."""
    assert without is None or without in ALL
    gc.disable()  # nothing here refers to itself, and looking through all that is kept takes half of the time
    try:
        return _search(model, ALL - {without}, breaks, is_whole=without is None)
    finally:
        gc.enable()


def _search(model: Model, guards: frozenset[str], breaks: str | None, *, is_whole: bool) -> Found:
    number_of = {model.first: 0}
    worlds = [model.first]
    came_from: list[tuple[int, str]] = [(0, "")]
    leads_to: list[list[int]] = [[]]  # of each state, those it was reached from
    for number, world in enumerate(worlds):  # which grows meanwhile
        for told, reached, broken in model.steps(world, guards):
            broken = broken or model.check(reached)
            if broken is not None and breaks in (None, broken):
                return Found(len(worlds), broken, (*_way_to(number, came_from), told))
            if is_whole:
                reached = model.canonical(reached)
            known = number_of.setdefault(reached, len(worlds))
            if known == len(worlds):
                worlds.append(reached)
                came_from.append((number, told))
                leads_to.append([])
            leads_to[known].append(number)
    return Found(len(worlds), None, stuck=_count_stuck([model.is_over(world) for world in worlds], leads_to))


def _way_to(number: int, came_from: list[tuple[int, str]]) -> list[str]:
    way: list[str] = []
    while number:
        number, told = came_from[number]
        way.insert(0, told)
    return way


def _count_stuck(leads_on: list[bool], leads_to: list[list[int]]) -> int:
    waiting = [number for number, is_over in enumerate(leads_on) if is_over]
    while waiting:
        for number in leads_to[waiting.pop()]:
            if not leads_on[number]:
                leads_on[number] = True
                waiting.append(number)
    return leads_on.count(False)


# One run, two nodes. A node's part is claim, guardian and process together; a stop holds both of the former.

READY, RUNNING, SUCCEEDED, FAILED, LOST = "ready", "running", "succeeded", "failed", "lost"
IDLE, SEEN, SENT, IN_DOUBT, CLAIMED, MARKED, STARTED, ENDED, ENDING = range(9)
GOOD, BAD, KILLED, NOT_STARTED = "well", "badly", "killed", "not started"
NAMES = "AB"


class Row(NamedTuple):
    """The run's row. ``claim`` is which claim it is in truth; ``fence`` the number that it was given."""

    state: str = READY
    claim: int = 0
    fence: int = 0
    marked: bool = False
    lease: int = 0  # ticks left; 0: over
    retries: int = 0
    losses: int = 0


class Part(NamedTuple):
    """A node's part in the run: what it knows, and what it has running."""

    phase: int = IDLE
    claim: int = 0
    fence: int = 0
    deadline: int = 0  # ticks left by its own clock, since before the claim or renewal was sent
    marked: bool = False  # its own mark was committed, in truth
    asked: int = -1  # of a renewal on its way: the deadline it will bring; -1: there is none
    is_kept: bool = False  # it was renewed, and has not heard of it
    ended: str = ""
    state_seen: str = ""
    stopped: bool = False
    overran: bool = False  # its process outlived the lease while it was stopped


class Rescue(NamedTuple):
    """What a rescuer has read and not yet written."""

    claim: int
    marked: bool
    renewed: bool = False  # the lease that it saw is another one by now


class World(NamedTuple):
    """All there is, and how much trouble may still come."""

    row: Row
    parts: tuple[Part, Part]
    rescue: Rescue | None
    stops: int
    crashes: int
    losses_of_answers: int
    reruns: int
    starts: int = 0  # since it was asked for, or is to be tried again after a bad end


NOBODY = Part()


def _over(part: Part, ended: str) -> Part:
    """What is left of a part whose process has ended: an end to deliver, however late."""
    return Part(ENDED, part.claim, part.fence, ended=ended)


class OneRun:
    """The model of one run."""

    def __init__(
        self, *, at_most_once: bool, retries: int, lost_max: int, reruns: int = 0, clocks_go: bool = True
    ) -> None:
        self.at_most_once = at_most_once
        self.retries = retries
        self.lost_max = lost_max
        self.attempts_max = (1 + retries + lost_max) * (1 + reruns)
        self.clocks_go = clocks_go  # those of the nodes; the database's always does

    def steps(self, world: World, guards: frozenset[str]) -> Iterator[Step]:
        yield from self._time_passes(world, guards)
        yield from self._rescue(world, guards)
        if world.reruns and world.row.state in (SUCCEEDED, FAILED, LOST):
            row = world.row._replace(state=READY, marked=False, lease=0, retries=0, losses=0)
            yield Step("an operator reruns it", world._replace(row=row, reruns=world.reruns - 1, starts=0))
        for index, part in enumerate(world.parts):
            for told, changed, broken in self._part(world, index, part, guards):
                yield Step(f"{NAMES[index]} {told}", changed, broken)

    def _time_passes(self, world: World, guards: frozenset[str]) -> Iterator[Step]:
        must_kill = "the guardian kills before the lease ends" in guards
        parts: list[Part] = []
        for part in world.parts:
            if not self.clocks_go:
                parts.append(part)
                continue
            if must_kill and part.phase == STARTED and part.deadline <= 1 and not part.stopped:
                return  # it does so first
            deadline, asked = max(0, part.deadline - 1), max(-1 if part.asked < 0 else 0, part.asked - 1)
            overran = part.overran or (part.stopped and part.phase == STARTED and not deadline)
            parts.append(part._replace(deadline=deadline, asked=asked, overran=overran))
        row = world.row._replace(lease=max(0, world.row.lease - 1))
        changed = world._replace(row=row, parts=(parts[0], parts[1]))
        if changed != world:
            yield Step("time passes", changed)

    def _rescue(self, world: World, guards: frozenset[str]) -> Iterator[Step]:
        row, seen = world.row, world.rescue
        if seen is None:
            is_over = not row.lease or "the rescue needs a lease that is over" not in guards
            if row.state == RUNNING and is_over:
                yield Step(
                    "a rescuer reads that its lease is over", world._replace(rescue=Rescue(row.claim, row.marked))
                )
            return
        matches = (
            (row.state == RUNNING or "the rescue names the state it saw" not in guards)
            and (row.claim == seen.claim or "the rescue names the claim it saw" not in guards)
            and (not seen.renewed or "the rescue names the lease it saw" not in guards)
        )
        if not matches:
            yield Step("the rescuer is too late", world._replace(rescue=None))
            return
        broken = "I9" if row.state in (SUCCEEDED, FAILED) else None
        changed = self._lose(row, guards, marked=seen.marked)
        yield Step(f"the rescuer writes {changed.state}", world._replace(row=changed, rescue=None), broken)

    def _lose(self, row: Row, guards: frozenset[str], *, marked: bool) -> Row:
        """What ``decide_rescue`` decides about a running run."""
        losses = row.losses + ("a loss spends its budget" in guards)
        if self.at_most_once and marked and "what starts once is lost after its mark" in guards:
            state = LOST
        else:
            state = FAILED if losses > self.lost_max else READY
        return row._replace(state=state, losses=losses, marked=False, lease=0)

    def _part(self, world: World, index: int, part: Part, guards: frozenset[str]) -> Iterator[Step]:
        def become(changed: Part, **others: Any) -> World:
            parts = (changed, world.parts[1]) if index == 0 else (world.parts[0], changed)
            return world._replace(parts=parts, **others)

        row = world.row
        if part.phase == STARTED:  # it goes on, and ends, also while its guardian is stopped
            yield Step("ends well", become(_over(part, GOOD)))
            yield Step("ends badly", become(_over(part, BAD)))
        if part.asked >= 0 and not part.is_kept:
            yield from self._renew(world, part, become, guards)
        if world.crashes and part != NOBODY:
            yield Step("dies, with its process", become(NOBODY, crashes=world.crashes - 1))
        if part.stopped:
            yield Step("goes on", become(part._replace(stopped=False)))
            return
        if world.stops and part.phase == STARTED:  # nothing else has to be done in time: it may as well be late with it
            yield Step("is stopped", become(part._replace(stopped=True), stops=world.stops - 1))
        match part.phase:
            case _ if part.phase == IDLE:
                if row.state == READY:
                    yield Step("sees that it is ready", become(Part(SEEN, fence=row.fence + 1, deadline=LEASE)))
            case _ if part.phase in (SEEN, SENT, IN_DOUBT):
                yield from self._claim(world, part, become, guards)
            case _ if part.phase == CLAIMED:
                yield from self._mark(world, part, become, guards)
            case _ if part.phase == MARKED:
                yield from self._start(world, part, become, guards)
            case _ if part.phase == STARTED:
                if part.deadline <= 1 and "the guardian kills before the lease ends" in guards:
                    yield Step("kills its process", become(_over(part, KILLED)))
            case _:
                yield from self._end(world, part, become, guards)
        if part.phase in (CLAIMED, STARTED):
            yield from self._ask_renewal(world, part, become, guards)

    def _claim(self, world: World, part: Part, become: Callable[..., World], guards: frozenset[str]) -> Iterator[Step]:
        row = world.row
        next_phase = CLAIMED if self.at_most_once else MARKED
        if part.phase == SEEN:
            if row.state == READY or "only what is ready is claimed" not in guards:
                claim, fence = row.claim + 1, row.fence + ("the fence rises with the claim" in guards)
                taken = row._replace(state=RUNNING, claim=claim, fence=fence, marked=not self.at_most_once, lease=LEASE)
                mine = part._replace(phase=SENT, claim=claim, fence=fence, marked=not self.at_most_once)
                broken = "I4" if fence <= row.fence else "I12" if claim > self.attempts_max else None
                yield Step("claims it", become(mine, row=taken), broken)
            else:
                yield Step("comes too late to claim it", become(NOBODY))
            if world.losses_of_answers:
                left = world.losses_of_answers - 1
                doubtful = part._replace(phase=IN_DOUBT)
                yield Step("is cut off before its claim commits", become(doubtful, losses_of_answers=left))
        elif part.phase == SENT:
            counted = "the deadline counts from before asking" in guards
            deadline = part.deadline if counted else LEASE
            yield Step("hears that it has it", become(part._replace(phase=next_phase, deadline=deadline)))
            if world.losses_of_answers:
                left = world.losses_of_answers - 1
                doubtful = part._replace(phase=IN_DOUBT)
                yield Step("is cut off after its claim committed", become(doubtful, losses_of_answers=left))
        elif "nothing starts before its commit is known" not in guards:
            yield Step("takes it for claimed", become(part._replace(phase=next_phase)))
        elif row.state == RUNNING and self._is_same(row, part, guards):
            yield Step("looks its claim up, and finds it", become(part._replace(phase=next_phase)))
        else:
            yield Step("looks its claim up, and does not find it", become(NOBODY))

    def _is_same(self, row: Row, part: Part, guards: frozenset[str]) -> bool:
        return row.claim == part.claim if "the claim id is random" in guards else row.fence == part.fence

    def _mark(self, world: World, part: Part, become: Callable[..., World], guards: frozenset[str]) -> Iterator[Step]:
        row = world.row
        if "the mark is committed before the start" not in guards:
            yield self._started(world, part, become)
            return
        is_mine = self._is_same(row, part, guards) or "the mark names the claim" not in guards
        in_time = row.lease > 0 or row.marked or "the mark needs a lease that is not over" not in guards
        if row.state != RUNNING or not is_mine or not in_time:
            yield Step("may not start it", become(NOBODY))
            return
        broken = "I3" if row.claim != part.claim else None
        marked = row._replace(marked=True)
        yield Step("marks the start", become(part._replace(phase=MARKED, marked=True), row=marked), broken)
        if world.losses_of_answers:  # and marks again, which is the same
            left = world.losses_of_answers - 1
            told = "is cut off after its mark committed"
            yield Step(told, become(part._replace(marked=True), row=marked, losses_of_answers=left), broken)

    def _start(self, world: World, part: Part, become: Callable[..., World], guards: frozenset[str]) -> Iterator[Step]:
        if part.deadline > 0 or "the guardian looks before it starts" not in guards:
            yield self._started(world, part, become)
        else:
            yield Step("does not start it, since its lease is ending", become(_over(part, NOT_STARTED)))

    def _started(self, world: World, part: Part, become: Callable[..., World]) -> Step:
        broken = None
        if self.at_most_once and world.starts:
            broken = "I5"
        elif not part.marked:
            broken = "I6"
        started = part._replace(phase=STARTED, marked=False)
        return Step("starts its process", become(started, starts=min(2, world.starts + 1)), broken)

    def _ask_renewal(
        self, world: World, part: Part, become: Callable[..., World], guards: frozenset[str]
    ) -> Iterator[Step]:
        if part.is_kept:
            counted = "the deadline counts from before asking" in guards
            deadline = max(part.deadline, part.asked) if counted else LEASE
            yield Step("hears that it keeps it", become(part._replace(deadline=deadline, asked=-1, is_kept=False)))
        elif part.asked < 0 and part.deadline < LEASE:
            yield Step("asks to renew", become(part._replace(asked=LEASE)))
        if part.asked >= 0 and world.losses_of_answers:
            left = world.losses_of_answers - 1
            told = "is cut off while it renews"
            yield Step(told, become(part._replace(asked=-1, is_kept=False), losses_of_answers=left))

    def _renew(self, world: World, part: Part, become: Callable[..., World], guards: frozenset[str]) -> Iterator[Step]:
        row = world.row
        is_mine = self._is_same(row, part, guards) or "the renewal names the claim" not in guards
        if not is_mine or (row.state != RUNNING and "only what is running is renewed" in guards):
            if not part.stopped:  # else it hears of it later
                yield Step("hears that it has lost it, and kills what it runs", become(NOBODY))
            return
        broken = "I3" if row.claim != part.claim else None
        rescue = world.rescue._replace(renewed=True) if world.rescue is not None else None
        lease = LEASE if row.state == RUNNING else row.lease
        renewed = row._replace(lease=lease)
        yield Step("is renewed", become(part._replace(is_kept=True), row=renewed, rescue=rescue), broken)

    def _end(self, world: World, part: Part, become: Callable[..., World], guards: frozenset[str]) -> Iterator[Step]:
        row = world.row
        is_mine = self._is_same(row, part, guards)
        if row.state == LOST and "late truth names the claim that was lost" not in guards:
            is_mine = True
        if part.phase == ENDED:
            if is_mine and row.state in (RUNNING, LOST):
                yield Step("reads that its end counts", become(part._replace(phase=ENDING, state_seen=row.state)))
            else:
                yield Step("reads that its end comes too late", become(NOBODY))
            return
        matches = (row.state == part.state_seen or "the end names the state it saw" not in guards) and (
            is_mine or "the end names the claim" not in guards
        )
        if not matches:
            yield Step("reads again", become(part._replace(phase=ENDED, state_seen="")))
            return
        broken = None
        if row.claim != part.claim or row.state not in (RUNNING, LOST):
            broken = "I3"
        changed = self._decide(row, part, guards)
        starts = 0 if changed.retries > row.retries else world.starts
        yield Step(f"writes its end: {changed.state}", become(NOBODY, row=changed, starts=starts), broken)
        if world.losses_of_answers:
            left, again = world.losses_of_answers - 1, part._replace(phase=ENDED, state_seen="")
            told = f"writes its end, {changed.state}, and is cut off"
            yield Step(told, become(again, row=changed, starts=starts, losses_of_answers=left), broken)

    def _decide(self, row: Row, part: Part, guards: frozenset[str]) -> Row:
        """What ``decide_end`` decides."""
        over = row._replace(marked=False, lease=0)
        if part.ended == GOOD:
            return over._replace(state=SUCCEEDED)
        if row.state == LOST:
            return over._replace(state=FAILED)
        if part.ended == BAD:
            retried = over._replace(state=READY, retries=row.retries + 1)
            return retried if row.retries < self.retries else over._replace(state=FAILED)
        return self._lose(row, guards, marked=row.marked and part.ended != NOT_STARTED)


def check_run(world: World) -> str | None:
    """What must hold of a run in every state."""
    a, b = world.parts
    if a.phase in _HELD and b.phase in _HELD and a.deadline and b.deadline:
        return "I2"
    if a.phase == b.phase == STARTED and not (a.stopped or a.overran or b.stopped or b.overran):
        return "I8"
    return None


def check_nothing(_world: World) -> str | None:
    """Where clocks stand still, two may hold a run; what the steps themselves break must hold all the same."""
    return None


_HELD = frozenset({CLAIMED, MARKED, STARTED})


def _swap_nodes(world: World) -> World:
    a, b = world.parts
    return world if a <= b else world._replace(parts=(b, a))


def _run_ended(world: World) -> bool:
    return world.row.state in (SUCCEEDED, FAILED, LOST)


# Firing: one schedule, a slot at each tick, two nodes that plan and write, and people.

SLOTS = 3


class Plan(NamedTuple):
    """What a node has decided, and has not yet written, or does not know that it has."""

    version: int
    slots: tuple[int, ...]
    cursor: int
    rows_to_come: tuple[
        int, ...
    ] = ()  # without the guard: the cursor has moved, and these rows are still to be written


class Schedule(NamedTuple):
    """One schedule, its ledger, and how much trouble may still come."""

    now: int = 0
    cursor: int = 1
    version: int = 1
    rows: tuple[int, ...] = (0,) * (SLOTS + 1)  # of each slot
    plans: tuple[Plan | None, Plan | None] = (None, None)
    crashes: int = 1
    lost: int = 1
    edits: int = 1
    steps_back: int = 1
    set_back: int = 1  # somebody puts the cursor back in SQL


def fire_steps(world: Schedule, guards: frozenset[str]) -> Iterator[Step]:
    if world.now < SLOTS:
        yield Step("a slot comes", world._replace(now=world.now + 1))
    if world.steps_back and world.now:
        yield Step("the clock steps back", world._replace(now=world.now - 1, steps_back=0))
    if world.set_back and world.cursor > 1:
        changed = world._replace(cursor=world.cursor - 1, set_back=0)
        yield Step("somebody sets the cursor back in SQL", changed)
    if world.edits:
        due = tuple(range(world.cursor, world.now + 1))
        rows = _add_rows(world.rows, due, guards)
        last = max((slot for slot in range(1, SLOTS + 1) if rows[slot]), default=0)
        behind_last = "an edit begins behind what was decided" in guards
        cursor = (max(world.now, last) if behind_last else world.now) + 1
        version = world.version + ("an edit moves the version of the cursor" in guards)
        changed = world._replace(cursor=cursor, version=version, rows=rows, edits=0)
        yield Step("an operator edits it", changed, "I10" if _has_fallen(changed, last) else None)
    for index, plan in enumerate(world.plans):
        for told, changed, broken in _fire_part(world, index, plan, guards):
            yield Step(f"{NAMES[index]} {told}", changed, broken)


def _fire_part(world: Schedule, index: int, plan: Plan | None, guards: frozenset[str]) -> Iterator[Step]:
    def become(changed: Plan | None, **others: Any) -> Schedule:
        plans = (changed, world.plans[1]) if index == 0 else (world.plans[0], changed)
        return world._replace(plans=plans, **others)

    if plan is None:
        if world.cursor <= world.now:
            due = tuple(range(world.cursor, world.now + 1))
            if "the next slot follows the last one" not in guards:
                due = due[-1:]
            yield Step("reads what is due", become(Plan(world.version, due, world.now + 1)))
        return
    if world.crashes:
        lost = [slot for slot in plan.rows_to_come if not world.rows[slot]]
        yield Step("dies", become(None, crashes=0), "I10" if lost else None)
    if plan.rows_to_come:
        yield Step("adds the rows", become(None, rows=_add_rows(world.rows, plan.rows_to_come, guards)))
        return
    if plan.version != world.version and "the cursor moves by compare-and-set" in guards:
        yield Step("comes too late, and reads again", become(None))
        return
    skipped = [slot for slot in range(world.cursor, plan.cursor) if slot not in plan.slots and not world.rows[slot]]
    written: dict[str, Any] = {"cursor": plan.cursor, "version": world.version + 1}
    broken = "I10" if plan.cursor < world.cursor or skipped else None
    if "the rows of slots commit with the cursor" not in guards:
        yield Step("moves the cursor", become(plan._replace(rows_to_come=plan.slots), **written), broken)
        return
    written["rows"] = _add_rows(world.rows, plan.slots, guards)
    yield Step("writes cursor and rows", become(None, **written), broken)
    if world.lost:
        yield Step("writes cursor and rows, and is cut off", become(plan, lost=0, **written), broken)


def _add_rows(rows: tuple[int, ...], slots: tuple[int, ...], guards: frozenset[str]) -> tuple[int, ...]:
    unique = "a slot is unique" in guards
    return tuple(count + 1 if slot in slots and not (count and unique) else count for slot, count in enumerate(rows))


def _has_fallen(world: Schedule, last: int) -> bool:
    return world.cursor <= last


def check_schedule(world: Schedule) -> str | None:
    """What must hold of a schedule in every state."""
    return "I1" if max(world.rows) > 1 else None


def _all_fired(world: Schedule) -> bool:
    return world.cursor > SLOTS and all(world.rows[1:])


# The permits of a limit: two runs, of which one may run at a time, and two nodes.


class Limited(NamedTuple):
    """One of the runs."""

    state: str = READY
    claim: int = 0
    lease: int = 0
    attempts: int = 0


class Holder(NamedTuple):
    """A node's part: which run it has seen, or has, and under which claim."""

    phase: int = IDLE
    run: int = 0
    claim: int = 0


class Limit(NamedTuple):
    """One permit, two runs, two nodes."""

    permit: int = 0  # the claim that has it; 0: nobody
    runs: tuple[Limited, Limited] = (Limited(), Limited())
    holders: tuple[Holder, Holder] = (Holder(), Holder())
    claims: int = 0
    crashes: int = 1
    lost: int = 1


def limit_steps(world: Limit, guards: frozenset[str]) -> Iterator[Step]:
    if any(run.lease for run in world.runs):
        runs = tuple(run._replace(lease=max(0, run.lease - 1)) for run in world.runs)
        yield Step("time passes", world._replace(runs=runs))
    for number, run in enumerate(world.runs):
        if run.state == RUNNING and not run.lease:
            given = "a rescue gives the permit back" in guards
            permit = 0 if given and world.permit == run.claim else world.permit
            changed = run._replace(state=READY if run.attempts < 2 else FAILED)
            told = f"run {number + 1} is rescued"
            yield Step(told, world._replace(permit=permit, runs=_put(world.runs, number, changed)))
    for index, holder in enumerate(world.holders):
        for told, changed, broken in _limit_part(world, index, holder, guards):
            yield Step(f"{NAMES[index]} {told}", changed, broken)


def _put(pair: tuple[Any, Any], index: int, item: Any) -> tuple[Any, Any]:
    return (item, pair[1]) if index == 0 else (pair[0], item)


def _limit_part(world: Limit, index: int, holder: Holder, guards: frozenset[str]) -> Iterator[Step]:
    def become(changed: Holder, **others: Any) -> Limit:
        return world._replace(holders=_put(world.holders, index, changed), **others)

    if holder.phase != IDLE and world.crashes:
        yield Step("dies", become(Holder(), crashes=world.crashes - 1))
    run, which = world.runs[holder.run], f"run {holder.run + 1}"
    if holder.phase == IDLE:
        for number, each in enumerate(world.runs):
            if each.state == READY and not world.permit:
                yield Step(f"sees run {number + 1} and a permit that is free", become(Holder(SEEN, number)))
    elif holder.phase == SEEN:
        claim = world.claims + 1
        taken = run._replace(state=RUNNING, claim=claim, lease=LEASE, attempts=run.attempts + 1)
        runs = _put(world.runs, holder.run, taken)
        with_claim = "a permit is taken with the claim" in guards
        is_free = not world.permit or "a permit is taken while nobody has it" not in guards
        if run.state != READY or (with_claim and not is_free):
            yield Step("comes too late", become(Holder()))
            return
        permit = claim if with_claim else world.permit
        started = Holder(STARTED if with_claim else CLAIMED, holder.run, claim)
        yield Step(f"claims {which}", become(started, permit=permit, runs=runs, claims=claim))
    elif holder.phase == CLAIMED:  # without the guard: the claim has committed, and the permit has not
        yield Step("takes the permit", become(holder._replace(phase=STARTED), permit=world.permit or holder.claim))
    elif holder.phase == STARTED:
        yield from _end_limited(world, holder, become, guards)
    else:
        permit = 0 if world.permit == holder.claim else world.permit
        yield Step("gives the permit back", become(Holder(), permit=permit))


def _end_limited(world: Limit, holder: Holder, become: Callable[..., Limit], guards: frozenset[str]) -> Iterator[Step]:
    run, which = world.runs[holder.run], f"run {holder.run + 1}"
    if run.state == RUNNING and run.lease < LEASE and run.claim == holder.claim:
        renewed = _put(world.runs, holder.run, run._replace(lease=LEASE))
        yield Step(f"renews {which}", become(holder, runs=renewed))
    counts = run.state == RUNNING and run.claim == holder.claim
    named = "giving back names the claim" in guards
    permit = 0 if not named or (counts and world.permit == holder.claim) else world.permit
    runs = _put(world.runs, holder.run, run._replace(state=SUCCEEDED)) if counts else world.runs
    told = f"ends {which}" if counts else f"ends {which}, too late"
    if counts and "a permit is given back with the end" not in guards:
        yield Step(told, become(holder._replace(phase=ENDED), runs=runs))
        return
    yield Step(told, become(Holder(), permit=permit, runs=runs))
    if world.lost:
        yield Step(f"{told}, and is cut off", become(holder, permit=permit, runs=runs, lost=0))


def check_limit(world: Limit) -> str | None:
    """What must hold of a limit in every state."""
    running = [run.claim for run in world.runs if run.state == RUNNING]
    if len(running) > 1:
        return "L1"
    if world.permit and world.permit not in running:
        return "L2"
    return None


def _all_limited_ended(world: Limit) -> bool:
    return all(run.state in (SUCCEEDED, FAILED) for run in world.runs)


def _run_model(name: str, what: str, run: OneRun, **trouble: int) -> Model:
    first = World(Row(), (NOBODY, NOBODY), None, **trouble)
    check = check_run if run.clocks_go else check_nothing
    return Model(name, what, first, run.steps, check, _run_ended, _swap_nodes)


MODELS = {
    model.name: model
    for model in (
        Model(
            "fire",
            "one schedule of three slots and two nodes that fire; one death, one lost answer, one edit, one step of "
            "the clock back, one cursor set back by hand",
            Schedule(),
            fire_steps,
            check_schedule,
            _all_fired,
        ),
        _run_model(
            "least",
            "one run, `at_least_once`, of up to three attempts, and two nodes; one stop, one death, one lost answer",
            OneRun(at_most_once=False, retries=1, lost_max=1),
            stops=1,
            crashes=1,
            losses_of_answers=1,
            reruns=0,
        ),
        _run_model(
            "most",
            "one run, `at_most_once`, of up to two attempts, and two nodes; one stop, one death, one lost answer",
            OneRun(at_most_once=True, retries=0, lost_max=1),
            stops=1,
            crashes=1,
            losses_of_answers=1,
            reruns=0,
        ),
        _run_model(
            "operator",
            "one run, `at_most_once`, of one attempt, rerun once, and two nodes; two stops",
            OneRun(at_most_once=True, retries=0, lost_max=0, reruns=1),
            stops=2,
            crashes=0,
            losses_of_answers=0,
            reruns=1,
        ),
        _run_model(
            "clocks",
            "one run, `at_most_once`, of up to three attempts, and two nodes whose own clocks stand still",
            OneRun(at_most_once=True, retries=0, lost_max=2, clocks_go=False),
            stops=0,
            crashes=0,
            losses_of_answers=1,
            reruns=0,
        ),
        Model(
            "permits",
            "two runs of which one may run at a time, two nodes, one death, one lost answer",
            Limit(),
            limit_steps,
            check_limit,
            _all_limited_ended,
        ),
    )
}


@cache
def without(guard: Guard) -> Found:
    """Return the shortest way in which the guard's invariant breaks without it."""
    return search(MODELS[guard.model], guard.name, breaks=guard.breaks)
