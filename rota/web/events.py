"""Events as they happen, for any number of viewers at the cost of one: server-sent events.

One poller for all of them asks the database, and only while somebody looks on. Each viewer has a bounded queue: whoever
does not read is disconnected, and goes on from the last event that they had when they come back. An event may come
twice, and one that was committed late comes after events with higher numbers; none is lost. Whoever may look on no more
is let go: of all of them together it is asked once in a while.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rota.client import Rota
from rota.errors import RotaError
from rota.model.accounts import Identity
from rota.store.event_feed import FEED_MAX, Span, read_again, read_feed, read_top
from rota.store.standing import find_standing
from rota.web.problems import Refusal, write_json
from rota.web.trust import LOCAL

log = logging.getLogger("rota.web")

T = TypeVar("T")
InThread = Callable[[Callable[[], Any]], Awaitable[Any]]

POLL_SECONDS = 0.5
POLL_SECONDS_MAX = 10.0  # while the database is away
HEARTBEAT_SECONDS = 15.0
QUEUE_MAX = 2000  # events that a viewer has not read
VIEWERS_MAX = 500
STANDING_SECONDS = 10.0  # how long somebody may look on whose log-in or token is over
LATE_SECONDS = 60.0  # how long a transaction may take to commit an event
LATE_IDS = 1000  # and how far others may come meanwhile, for a viewer that comes back
SPANS_KEPT = 200
BACKLOG_MAX = 20_000  # events that a viewer who comes back may have missed


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events a viewer wants; None is any."""

    job: str | None = None
    run: int | None = None
    kind: str | None = None

    def takes(self, event: dict[str, Any]) -> bool:
        """Tell whether it is one of them."""
        return all(
            wanted is None or event.get(name) == wanted
            for name, wanted in (("job", self.job), ("run", self.run), ("kind", self.kind))
        )


@dataclass(eq=False, slots=True)
class Viewer:
    """Who looks on: what has come for them, None at the end."""

    wanted: Wanted
    identity: Identity = LOCAL
    queue: asyncio.Queue[tuple[int, bytes] | None] = field(default_factory=lambda: asyncio.Queue(QUEUE_MAX + 1))

    def put(self, number: int, message: bytes) -> bool:
        """Keep an event for them; False when they have too many already."""
        if self.queue.qsize() >= QUEUE_MAX:
            return False
        self.queue.put_nowait((number, message))
        return True

    def end(self) -> None:
        """Let them go once they have read what is there."""
        if not self.queue.full():
            self.queue.put_nowait(None)


class Missing:
    """Numbers below the highest that nobody has seen yet, and since when."""

    def __init__(self) -> None:
        self._spans: list[tuple[Span, float]] = []

    def look_at(self, seen: Iterable[int], after: int, now: float) -> None:
        """Note what is missing among ``seen``, ascending numbers above ``after``."""
        for number in seen:
            if number > after + 1:
                self._spans.append(((after + 1, number - 1), now))
            after = max(after, number)
        del self._spans[:-SPANS_KEPT]

    def spans(self, now: float) -> list[Span]:
        """Return what is still waited for."""
        self._spans = [(span, since) for span, since in self._spans if now - since < LATE_SECONDS]
        return [span for span, _ in self._spans]

    def found(self, number: int) -> None:
        """Take a number out of what is missing."""
        for at, ((first, last), since) in enumerate(self._spans):
            if first <= number <= last:
                parts = [(first, number - 1), (number + 1, last)]
                self._spans[at : at + 1] = [(part, since) for part in parts if part[0] <= part[1]]
                return


class Feed:
    """What all viewers look at. Everything but the reading happens in the thread of the event loop."""

    def __init__(self, rota: Rota, in_thread: InThread, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rota = rota
        self._in_thread = in_thread
        self._clock = clock
        self._viewers: set[Viewer] = set()
        self._missing = Missing()
        self._top = 0
        self._poller: asyncio.Task[None] | None = None
        self._beginning = asyncio.Lock()
        self._stood_at = clock()
        self._has_ended = False

    @property
    def count(self) -> int:
        """How many look on."""
        return len(self._viewers)

    async def join(self, wanted: Wanted, identity: Identity = LOCAL) -> tuple[Viewer, int]:
        """Let somebody look on from now; return the highest number that is not new to them.

        Raises:
            Refusal: there are too many already.
            DatabaseUnavailable: nobody answers.
        """
        viewer = Viewer(wanted, identity)
        async with self._beginning:
            if self._poller is None or self._poller.done():
                self._top, there = await self._in_thread(lambda: read_top(self._rota.database, LATE_IDS))
                self._missing = Missing()
                if there:
                    self._missing.look_at(sorted(there), min(there) - 1, self._clock())
                self._poller = asyncio.create_task(self._poll(), name="events")
            # Only here, where nobody else waits in between: many who come at once would all pass before.
            if len(self._viewers) >= VIEWERS_MAX or self._has_ended:
                raise Refusal(503, "too-many-viewers", f"{len(self._viewers)} look on already: come back later")
            self._viewers.add(viewer)
        return viewer, self._top

    def leave(self, viewer: Viewer) -> None:
        """Forget a viewer; after the last one nobody asks the database any more."""
        self._viewers.discard(viewer)
        if not self._viewers and self._poller is not None:
            self._poller.cancel()
            self._poller = None

    def end(self) -> None:
        """Let all viewers go, and take no more."""
        self._has_ended = True
        for viewer in list(self._viewers):
            viewer.end()

    async def _poll(self) -> None:
        pause = POLL_SECONDS
        while self._viewers:
            try:
                is_behind = await self.round()
                pause = 0.0 if is_behind else POLL_SECONDS
            except RotaError as error:
                log.warning("events cannot be read: %s", error)
                pause = min(max(pause, POLL_SECONDS) * 2, POLL_SECONDS_MAX)
            await asyncio.sleep(pause)

    async def round(self) -> bool:
        """Read what is new and give it to whoever wants it; return whether there is more."""
        now = self._clock()
        if now - self._stood_at >= STANDING_SECONDS:
            await self._let_go()
            self._stood_at = now
        spans = self._missing.spans(now)
        after = self._top
        found: list[dict[str, Any]] = await self._in_thread(lambda: read_feed(self._rota.database, after, spans))
        newer = [event["id"] for event in found if event["id"] > after]
        for event in found:
            if event["id"] <= after:
                self._missing.found(event["id"])
        self._missing.look_at(newer, after, now)
        self._top = max(newer, default=after)
        for event in found:
            self._give(event)
        return len(newer) >= FEED_MAX

    async def _let_go(self) -> None:
        """Let those go whose log-in or token is over, before they are given anything more."""
        asked = list(self._viewers)
        standing: set[Identity] = await self._in_thread(
            lambda: find_standing(self._rota.database, [viewer.identity for viewer in asked])
        )
        for viewer in asked:
            if viewer.identity not in standing:
                self._viewers.discard(viewer)
                viewer.end()

    def _give(self, event: dict[str, Any]) -> None:
        message: bytes | None = None
        for viewer in list(self._viewers):
            if viewer.wanted.takes(event):
                message = message or write_event(event)
                if not viewer.put(event["id"], message):
                    log.info("a viewer of events does not read them: disconnected")
                    self._viewers.discard(viewer)
                    viewer.end()

    async def stream(self, viewer: Viewer, top: int, last: int | None) -> AsyncGenerator[bytes]:
        """Give what a viewer gets: what they have missed after ``last``, then what happens, and a sign of life."""
        sent: set[int] = set()
        try:
            yield b"retry: 2000\n\n"
            if last is not None and last < top:
                async for number, message in self._backlog(viewer, last, top):
                    sent.add(number)
                    yield message
            while True:
                try:
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        item = await viewer.queue.get()
                except TimeoutError:
                    yield b": still here\n\n"
                    continue
                if item is None:
                    return
                number, message = item
                if number not in sent:
                    yield message
        finally:
            self.leave(viewer)

    async def _backlog(self, viewer: Viewer, last: int, top: int) -> AsyncGenerator[tuple[int, bytes]]:
        # What was committed below the last one since: some of it they have had.
        database = self._rota.database
        early: list[dict[str, Any]] = await self._in_thread(
            lambda: read_again(database, last - LATE_IDS, last, LATE_SECONDS)
        )
        for event in early:
            if viewer.wanted.takes(event):
                yield event["id"], write_event(event)
        after = max(last, top - BACKLOG_MAX)
        if after > last:
            yield 0, b'event: left-out\ndata: {"after": %d, "up_to": %d}\n\n' % (last, after)
        while after < top and viewer in self._viewers:
            place = after
            page: list[dict[str, Any]] = await self._in_thread(lambda: read_feed(database, place))  # noqa: B023
            for event in page:
                if event["id"] <= top and viewer.wanted.takes(event):
                    yield event["id"], write_event(event)
            if not page:
                return
            after = page[-1]["id"]


def write_event(event: dict[str, Any]) -> bytes:
    """Write an event for an EventSource. JSON has no line breaks outside of texts, and none within."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event["id"], str(event["kind"]).encode(), write_json(event))
