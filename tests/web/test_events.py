"""Events as they happen: each at least once, also what is committed late; one poller for all; nobody waits for a slow
viewer."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from rota import Rota
from rota.errors import DatabaseUnavailable
from rota.model.accounts import Identity, Source
from rota.model.roles import Role
from rota.store import passwords
from rota.store.database import now_of
from rota.store.events import TELL_CHANGE
from rota.store.log_ins import find_session, log_in, open_session
from rota.store.tables import session, token
from rota.store.tokens import identify_token
from rota.web import events
from rota.web.events import Feed, Missing, Wanted
from rota.web.problems import Refusal
from rota.web.trust import LOCAL
from tests.store.ledger import statements_of

PASSWORD = "correct horse battery"


async def at_once(work: Any) -> Any:
    return work()


class Uptime:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def tell(rota: Rota, job: str = "load", number: int | None = None) -> int:
    """Write an event, with a number of its own as a transaction has it that commits late."""
    given = {
        "kind": "job",
        "to_state": "paused",
        "text": job,
        "actor": None,
        "job": job,
        "schedule": None,
        "node": None,
    }

    def write(connection: Any) -> int:
        statement = TELL_CHANGE if number is None else TELL_CHANGE.values(id=number)
        return int(connection.execute(statement, given).inserted_primary_key[0])

    return rota.database.write(write, repeatable=False)


async def numbers(stream: Any, count: int) -> list[int]:
    found = []
    async for message in stream:
        if message.startswith(b"id: "):
            found.append(int(message.split(b"\n")[0][4:]))
        if len(found) == count:
            return found
    return found


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def feed(rota: Rota) -> Feed:
    made = Feed(rota, at_once, clock=Uptime())
    # Rounds are made by hand.
    made._poll = lambda: asyncio.sleep(3600)
    return made


@pytest.mark.anyio
async def test_a_viewer_gets_what_happens_from_when_they_came_and_only_what_they_want(feed, rota):
    tell(rota)
    viewer, top = await feed.join(Wanted(job="load"))
    stream = feed.stream(viewer, top, None)
    tell(rota, "other")
    wanted = tell(rota)

    await feed.round()

    assert await numbers(stream, 1) == [wanted]
    await stream.aclose()
    assert feed.count == 0


@pytest.mark.anyio
async def test_whoever_comes_back_gets_what_they_missed_and_goes_on(feed, rota):
    first, second, third = tell(rota), tell(rota), tell(rota)
    viewer, top = await feed.join(Wanted())
    stream = feed.stream(viewer, top, second)
    fourth = tell(rota)
    await feed.round()

    found = await numbers(stream, 4)

    assert found[-2:] == [third, fourth]
    assert set(found[:-2]) == {first, second}  # of the last minute: they may have been committed late
    await stream.aclose()


@pytest.mark.anyio
async def test_what_is_committed_late_below_others_is_sent_once_it_is_there(feed, rota):
    begin = tell(rota)
    viewer, top = await feed.join(Wanted())
    stream = feed.stream(viewer, top, None)
    tell(rota, number=begin + 5)
    await feed.round()
    tell(rota, number=begin + 2)
    await feed.round()
    tell(rota, number=begin + 4)
    tell(rota, number=begin + 6)
    await feed.round()
    await feed.round()

    assert await numbers(stream, 4) == [begin + 5, begin + 2, begin + 4, begin + 6]
    assert feed._missing.spans(0.0)[-2:] == [(begin + 1, begin + 1), (begin + 3, begin + 3)]
    await stream.aclose()


@pytest.mark.anyio
async def test_what_was_under_way_when_the_first_viewer_came_is_sent_too(feed, rota):
    begin = tell(rota)
    tell(rota, number=begin + 3)
    viewer, top = await feed.join(Wanted())
    stream = feed.stream(viewer, top, None)
    tell(rota, number=begin + 1)
    await feed.round()

    assert await numbers(stream, 1) == [begin + 1]
    await stream.aclose()


def test_what_is_missing_is_waited_for_a_while():
    missing = Missing()
    missing.look_at([3, 4, 8], 0, 0.0)
    missing.look_at([11], 8, 50.0)
    assert missing.spans(50.0) == [(1, 2), (5, 7), (9, 10)]

    missing.found(6)
    assert missing.spans(50.0) == [(1, 2), (5, 5), (7, 7), (9, 10)]
    assert missing.spans(events.LATE_SECONDS) == [(9, 10)]
    assert missing.spans(50.0 + events.LATE_SECONDS) == []


@pytest.mark.anyio
async def test_a_slow_viewer_is_let_go_and_the_others_are_not(feed, rota, monkeypatch):
    monkeypatch.setattr(events, "QUEUE_MAX", 2)
    slow, top = await feed.join(Wanted())
    quick, _ = await feed.join(Wanted(job="load"))
    told = [tell(rota, "other") for _ in range(3)] + [tell(rota)]

    await feed.round()

    assert feed.count == 1
    assert await numbers(feed.stream(slow, top, None), 9) == told[:2]  # and then the connection ends
    assert await numbers(feed.stream(quick, top, None), 1) == told[3:]


@pytest.mark.anyio
async def test_a_hundred_viewers_ask_the_database_no_more_than_one(rota):
    reads = 0

    async def counted(work: Any) -> Any:
        nonlocal reads
        reads += 1
        return work()

    feed = Feed(rota, counted, clock=Uptime())
    feed._poll = lambda: asyncio.sleep(3600)
    viewers = [(await feed.join(Wanted()))[0] for _ in range(100)]
    tell(rota)

    await feed.round()

    assert reads == 2  # the beginning, and the round
    assert all(viewer.queue.qsize() == 1 for viewer in viewers)


@pytest.fixture
def people(rota: Rota, monkeypatch):
    """A user by password and by token, one whom a provider has identified, and one whom a proxy names."""
    monkeypatch.setattr(passwords, "MEMORY_KIB", 8)
    monkeypatch.setattr(passwords, "PASSES", 1)
    passwords._hasher.cache_clear()
    passwords._nobodys.cache_clear()
    for name in ("ann", "bob"):
        rota.users.add(name, role="viewer", password=PASSWORD)
    token = rota.tokens.add("ci", user="ann")["secret"]
    service = rota.tokens.add("scrape", expires="90s")["secret"]
    sessions = {
        "ann": log_in(rota.database, "ann", PASSWORD),
        "bob": log_in(rota.database, "bob", PASSWORD),
        "guest": open_session(rota.database, "guest", role=Role.VIEWER, source=Source.OIDC),
    }
    yield {name: find_session(rota.database, key).identity for name, key in sessions.items()} | {
        "token": identify_token(rota.database, token),
        "service": identify_token(rota.database, service),
        "proxied": Identity("bob", Role.VIEWER, Source.PROXY),
        "local": LOCAL,
    }
    passwords._hasher.cache_clear()
    passwords._nobodys.cache_clear()


def turn_back(rota: Rota, table: Any, column: str, **delta: float) -> None:
    """Move the clock, as far as rows know it."""
    moment = rota.database.read(now_of) - timedelta(**delta)
    rota.database.write(lambda c: c.execute(update(table).values({column: moment})), repeatable=True)


ENDS = {
    "nothing": (lambda rota: None, set()),
    "the time of all sessions": (
        lambda rota: turn_back(rota, session, "expires_at", seconds=1),
        {"ann", "bob", "guest"},
    ),
    "two idle hours": (lambda rota: turn_back(rota, session, "seen_at", hours=2), {"ann", "bob", "guest"}),
    "an admin": (lambda rota: rota.users.end_sessions("guest"), {"guest"}),
    "another password": (lambda rota: rota.users.passwd("ann", PASSWORD + "!"), {"ann"}),
    "a disabled user": (lambda rota: rota.users.edit("bob", disable=True), {"bob", "proxied"}),
    "a deleted user": (lambda rota: rota.users.delete("ann"), {"ann", "token"}),
    "a revoked token": (lambda rota: rota.tokens.revoke("ci"), {"token"}),
    "the time of a token": (lambda rota: turn_back(rota, token, "expires_at", seconds=1), {"token", "service"}),
}


@pytest.mark.anyio
@pytest.mark.parametrize("end", ENDS)
async def test_whoever_may_look_on_no_more_is_let_go_and_gets_nothing_more(feed, rota, people, end):
    act, gone = ENDS[end]
    viewers = {name: await feed.join(Wanted(), identity) for name, identity in people.items()}
    streams = {name: feed.stream(*viewer, None) for name, viewer in viewers.items()}
    act(rota)
    feed._clock.now += events.STANDING_SECONDS
    told = tell(rota)

    await feed.round()

    assert feed.count == len(people) - len(gone)
    for name, stream in streams.items():
        found = await numbers(stream, 100 if name in gone else 1)  # of those that are gone the stream has ended
        assert (told in found) == (name not in gone), name


@pytest.mark.anyio
async def test_of_all_that_look_on_it_is_asked_together_and_once_in_a_while(rota, people):
    feed = Feed(rota, at_once, clock=Uptime())
    feed._poll = lambda: asyncio.sleep(3600)
    for _ in range(50):
        for identity in people.values():
            await feed.join(Wanted(), identity)

    counts = []
    for seconds in (0.0, events.STANDING_SECONDS - 0.5, 0.5, 0.5):
        feed._clock.now += seconds
        with statements_of(rota.database) as sent:
            await feed.round()
        counts.append(sum("rota_session" in one or "rota_token" in one or "rota_user" in one for one in sent))

    assert counts == [0, 0, 3, 0]  # sessions, tokens, users


@pytest.mark.anyio
async def test_while_the_database_is_away_nobody_is_let_go_and_then_they_are(feed, rota, people, monkeypatch):
    await feed.join(Wanted(), people["ann"])
    rota.users.end_sessions("ann")
    feed._clock.now += events.STANDING_SECONDS

    def away(*_: object) -> None:
        raise DatabaseUnavailable("nobody answers")

    with monkeypatch.context() as context:
        context.setattr(events, "find_standing", away)
        with pytest.raises(DatabaseUnavailable):
            await feed.round()
    assert feed.count == 1
    await feed.round()

    assert feed.count == 0


@pytest.mark.anyio
async def test_a_viewer_gets_a_sign_of_life(feed, monkeypatch):
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.01)
    viewer, top = await feed.join(Wanted())
    stream = feed.stream(viewer, top, None)

    assert await anext(stream) == b"retry: 2000\n\n"
    assert await anext(stream) == b": still here\n\n"
    await stream.aclose()


@pytest.mark.anyio
async def test_all_go_when_the_server_ends(feed):
    viewer, top = await feed.join(Wanted())
    feed.end()

    assert [message async for message in feed.stream(viewer, top, None)] == [b"retry: 2000\n\n"]


@pytest.mark.parametrize("query", ["run=x", "run=99999999999999999999", "nope=1", "last_event_id=x", "job=a&job=b"])
def test_what_cannot_be_wanted_is_refused(http, query):
    assert http.get(f"/api/v1/events?{query}").status_code in {400, 422}


def test_an_event_is_one_message_whatever_stands_in_it():
    message = events.write_event({"id": 7, "kind": "job", "text": "a\n\ndata: b\r\u2028"})

    assert message.count(b"\n\n") == 1
    assert message.endswith(b"\n\n")
    lines = message.decode().split("\n")
    assert lines[:2] == ["id: 7", "event: job"]
    assert json.loads(lines[2].removeprefix("data: "))["text"] == "a\n\ndata: b\r\u2028"


@pytest.mark.anyio
async def test_no_more_look_on_than_may_also_when_they_come_at_once(rota, monkeypatch):
    monkeypatch.setattr(events, "VIEWERS_MAX", 2)

    async def slowly(work):
        await asyncio.sleep(0)  # all others come meanwhile
        return work()

    feed = Feed(rota, slowly, clock=Uptime())

    came = await asyncio.gather(*(feed.join(Wanted()) for _ in range(5)), return_exceptions=True)

    assert feed.count == 2
    assert [one.code for one in came if isinstance(one, Refusal)] == ["too-many-viewers"] * 3
    for one in came:
        if isinstance(one, tuple):
            feed.leave(one[0])
