"""Backfills: which slots of the past are run on request, in which order, and what becomes of each.

Pure values. Invariant: whatever stands in the ledger about a slot, ``decide_slot`` gives one answer, and never lets a
second run be made for it. Called by the store for each slot that it looks at, and when a backfill is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from rota.errors import Invalid
from rota.model.reasons import Reason
from rota.model.slot_rule import CatchUpOrder
from rota.model.states import UNFINISHED, RunState
from rota.model.timing import Timing
from rota.model.values import check_word

ACTIVE_MAX = 1000  # unfinished runs of a backfill at once, of one schedule
UNASKED_SLOTS_MAX = 1_000_000  # more than these want a person's second word

_MICROSECOND = timedelta(microseconds=1)
_ENDED_BADLY = {RunState.FAILED, RunState.LOST, RunState.MISSED}


class BackfillState(StrEnum):
    """How a backfill stands."""

    ACTIVE = "active"
    PAUSED = "paused"  # it makes no runs; those that it has made go on
    CANCELLED = "cancelled"  # what it has made and has not ended is withdrawn, or stopped
    ENDED = "ended"  # each of its slots was looked at, and what it has made has ended


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody asks for, beside the slots."""

    order: CatchUpOrder = CatchUpOrder.OLDEST
    max_active: int = 1
    downstream: bool = False
    again: bool = False
    failed_only: bool = False

    @classmethod
    def checked(
        cls,
        *,
        order: object = CatchUpOrder.OLDEST,
        max_active: object = 1,
        downstream: bool = False,
        again: bool = False,
        failed_only: bool = False,
    ) -> Wish:
        """Check what a door was given.

        Raises:
            Invalid: a value breaks its rule, or two contradict each other.
        """
        if again and failed_only:
            rule = "it leaves out what has succeeded, which --again asks for: choose one of them"
            raise Invalid("failed_only", value=True, rule=rule)
        if isinstance(max_active, str) and max_active.isascii() and max_active.isdigit():
            max_active = int(max_active)
        if not isinstance(max_active, int) or isinstance(max_active, bool) or not 1 <= max_active <= ACTIVE_MAX:
            raise Invalid("max_active", max_active, f"a whole number from 1 to {ACTIVE_MAX}")
        # What is built on a slot is done again with it, or it would stand on what is no more.
        again = again or (downstream and not failed_only)
        return cls(check_word("order", order, CatchUpOrder), max_active, downstream, again, failed_only)


class Fate(StrEnum):
    """What a backfill does about one slot."""

    NEW = "new"  # nothing was decided about it: it gets its run
    AGAIN = "again"  # its run is done again, or for the first time
    PASSED = "passed over"  # it is left as it is
    CLOSED = "closed"  # a calendar closes it: it gets the row that firing would have given it
    HELD = "held"  # not now: it goes on behind a run of this slot


@dataclass(frozen=True, slots=True)
class Decided:
    """What the ledger has about a slot: one row for it, for one node, or together with others."""

    state: RunState
    reason: str
    is_done: bool  # others may build on it
    is_ours: bool  # this backfill has had it done already
    is_of_node: bool  # one of several rows, each for a node
    is_awaiting: bool  # it waits for its upstreams, and is done when they are
    was_tried: bool
    finished_at: datetime | None


def decide_slot(
    rows: Sequence[Decided], wish: Wish, since: datetime, *, closed: bool, built_on: bool, in_scope: bool = True
) -> Fate:
    """Decide about a slot with these rows, for a backfill that was asked for at ``since``.

    ``built_on`` says that it is there for what its job runs after: that was done again, so this is too. ``in_scope``
    is whether, of such a slot, the backfill has taken what it builds on.
    """
    if any(row.is_of_node or row.is_ours for row in rows) or not in_scope:
        return Fate.PASSED
    if not rows:
        if wish.failed_only:
            return Fate.PASSED
        return Fate.CLOSED if closed else Fate.NEW
    row = rows[0]
    if row.state in UNFINISHED:
        if not built_on or row.is_awaiting:
            return Fate.PASSED
        return Fate.HELD if row.state is RunState.RUNNING else Fate.AGAIN
    if closed:
        return Fate.PASSED
    upstream_failed = row.reason == Reason.UPSTREAM_FAILED.value
    if built_on:
        is_wanted = not wish.failed_only or row.was_tried or upstream_failed
    elif wish.failed_only:
        is_wanted = row.state in _ENDED_BADLY or upstream_failed
    elif row.is_done:
        # What succeeded since it was asked for was done by somebody else.
        is_wanted = wish.again and row.finished_at is not None and row.finished_at < since
    else:
        is_wanted = True
    return Fate.AGAIN if is_wanted else Fate.PASSED


# -- slots of a range


@dataclass(frozen=True, slots=True)
class SlotRange:
    """The slots of a timing from ``low`` up to, and without, ``high``."""

    timing: Timing
    low: datetime
    high: datetime
    first: datetime | None = None  # of the schedule, wherever the others lie; none is before it

    def count(self) -> int:
        """Count them; cheap however many there are."""
        low, first = self._low, self._first
        if low >= self.high:
            return 0
        counted = self.timing.count(low - _MICROSECOND, self.high - _MICROSECOND)
        return counted + (first is not None and self.timing.next(first - _MICROSECOND) != first)

    def oldest(self, limit: int) -> list[datetime]:
        """Return the oldest of them, at most ``limit``."""
        first = self._first
        found = self.timing.slots(self._low - _MICROSECOND, self.high - _MICROSECOND, limit)
        return found if first is None or first in found[:1] else [first, *found][:limit]

    def newest(self, limit: int) -> list[datetime]:
        """Return the newest of them, at most ``limit``, the newest first."""
        low, first = self._low, self._first
        found = self.timing.last(low - _MICROSECOND, self.high - _MICROSECOND, limit) if low < self.high else []
        if first is not None and len(found) < limit and first not in found[:1]:
            found = [first, *found]
        return found[::-1]

    def in_order(self, order: CatchUpOrder, limit: int) -> list[datetime]:
        """Return those that come first in this order, at most ``limit``."""
        return self.oldest(limit) if order is CatchUpOrder.OLDEST else self.newest(limit)

    def beyond(self, slot: datetime, order: CatchUpOrder) -> SlotRange:
        """Return what is left behind ``slot`` in this order."""
        if order is CatchUpOrder.OLDEST:
            return SlotRange(self.timing, slot + _MICROSECOND, self.high, self.first)
        return SlotRange(self.timing, self.low, min(slot, self.high), self.first)

    def from_place(self, place: datetime, order: CatchUpOrder) -> SlotRange:
        """Return what is left from ``place`` on, which is the first slot of it in this order."""
        if order is CatchUpOrder.OLDEST:
            return SlotRange(self.timing, max(place, self.low), self.high, self.first)
        return SlotRange(self.timing, self.low, min(place + _MICROSECOND, self.high), self.first)

    @property
    def _low(self) -> datetime:
        return self.low if self.first is None else max(self.low, self.first)

    @property
    def _first(self) -> datetime | None:
        """The schedule's first slot, where it is one of these."""
        return self.first if self.first is not None and self.low <= self.first < self.high else None


def has_passed(timing: Timing, place: datetime | None, slot: datetime, order: CatchUpOrder) -> bool:
    """Tell whether a part that stands at ``place`` has taken the latest slot of its timing at or before ``slot``.

    What is built on that one may be done again only then, or it would be done on what is about to be replaced.
    """
    if place is None:
        return True
    if order is CatchUpOrder.OLDEST:
        return slot < place
    return timing.count(place, slot) > 0


# -- rows that stand for many slots


@dataclass(frozen=True, slots=True)
class Span:
    """So many slots from ``first`` to ``last``, that were passed over together."""

    first: datetime
    last: datetime
    count: int


def split_span(timing: Timing, span: Span, slot: datetime) -> tuple[Span | None, Span | None]:
    """Take ``slot`` out of ``span``, and return what is left before and after it.

    All others stay counted, also where the timing was edited since and would count them otherwise.
    """
    assert span.first <= slot <= span.last, "it is one of them"
    assert span.count > 1, "it stands for several"
    left = span.count - 1
    has_before, has_after = span.first < slot, slot < span.last
    after_count = 0
    if has_after:
        following = timing.next(slot)
        after_first = span.last if following is None or following > span.last else following
        after_count = timing.count(slot, span.last) if has_before else left
        after_count = max(1, min(after_count, left - 1 if has_before else left))
        if after_count > 1 and after_first == span.last:
            after_first = slot + _MICROSECOND
    before_count = max(1, left - after_count) if has_before else 0
    before = after = None
    if has_before:
        found = timing.last(span.first, slot - _MICROSECOND, 1)
        before_last = found[-1] if found else span.first
        if before_count > 1 and before_last == span.first:
            before_last = slot - _MICROSECOND
        before = Span(span.first, before_last if before_count > 1 else span.first, before_count)
    if has_after:
        after = Span(after_first, span.last if after_count > 1 else after_first, after_count)  # pyright: ignore[reportPossiblyUnboundVariable]
    return before, after


def take_slots(timing: Timing, span: Span, slots: Sequence[datetime]) -> list[Span]:
    """Take several slots out of ``span``, and return what is left of it, oldest first; nothing where these are all."""
    left = [span]
    for slot in slots:
        pieces: list[Span] = []
        for piece in left:
            if not piece.first <= slot <= piece.last:
                pieces.append(piece)
            elif piece.count > 1:
                pieces += [one for one in split_span(timing, piece, slot) if one is not None]
        left = pieces
    return left
