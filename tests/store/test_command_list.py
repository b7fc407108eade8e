"""Looking at what was asked for with SQL: newest first, page by page, however many there are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rota import Rota
from rota.errors import Invalid, NotFound
from rota.store import commands
from rota.store.tables import command
from tests.store.ledger import Ledger, statements_of


@pytest.fixture
def rota(ledger: Ledger) -> Rota:
    return Rota.over(ledger.database, actor="ann")


def ask(ledger: Ledger, verb: str = "status", **columns: Any) -> None:
    values: dict[str, Any] = {"verb": verb, "created_at": ledger.clock.now, "requested_by": "ann"}
    ledger.execute(command.insert().values(values | columns))


def pages(rota: Rota, **asked: Any) -> list[list[int]]:
    """Return the ids on each page, to the last."""
    found: list[list[int]] = []
    before = None
    while True:
        page = rota.commands.list(before=before, **asked)
        found.append([view["id"] for view in page])
        if (before := page.next) is None:
            return found


def test_pages_hold_each_command_once_the_newest_first(ledger: Ledger, rota: Rota) -> None:
    for _ in range(5):
        ask(ledger)

    assert pages(rota, limit=2) == [[5, 4], [3, 2], [1]]
    assert pages(rota, limit=5) == [[5, 4, 3, 2, 1]]
    assert pages(rota, limit=2, verb="status") == [[5, 4], [3, 2], [1]]


def test_they_are_found_by_state_verb_and_time(ledger: Ledger, rota: Rota) -> None:
    begin = ledger.clock.now
    for verb, state in (("job.run", "done"), ("job.puase", "refused"), ("job.run", "pending")):
        ask(ledger, verb, state=state)
        ledger.clock.advance(minutes=1)

    assert [pages(rota, state=state) for state in ("done", "refused", "pending")] == [[[1]], [[2]], [[3]]]
    assert pages(rota, verb="job.run") == [[3, 1]]
    assert pages(rota, verb="job.run", state="pending") == [[3]]
    second = begin.replace(minute=begin.minute + 1)
    assert pages(rota, since=second) == [[3, 2]]
    assert pages(rota, until=second) == [[1]]
    assert pages(rota, since=second, until=second) == [[]]


def test_a_list_is_without_what_may_be_long_and_one_has_it_all(ledger: Ledger, rota: Rota) -> None:
    long = {"code": "invalid", "message": "x" * commands.ERROR_LENGTH_MAX}
    ask(ledger, "job.run", target="load", params='{"args": {"a": 1}}', state="done", outcome='{"id": 7}')
    ask(ledger, "job.run", params="no JSON", state="refused", error='{"code": "invalid", "message": "why"}')
    ask(ledger, "job.run", state="refused", error=json.dumps(long))

    listed = rota.commands.list()

    assert [view["error"] for view in listed] == [None, {"code": "invalid", "message": "why"}, None]
    assert not any({"params", "outcome"} & set(view) for view in listed)
    assert rota.commands.show(3)["error"] == long
    assert (rota.commands.show(2)["params"], rota.commands.show(2)["outcome"]) == ("no JSON", None)
    assert rota.commands.show("1") == {
        "id": 1, "verb": "job.run", "target": "load", "params": {"args": {"a": 1}}, "state": "done",
        "outcome": {"id": 7}, "error": None, "requested_by": "ann", "created_at": "2026-11-02T12:00:00.000000Z",
        "answered_at": None, "answered_by": None,
    }  # fmt: skip


def test_a_filter_that_few_pass_looks_at_so_many_for_a_page(
    ledger: Ledger, rota: Rota, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "LOOKED_AT_MAX", 3)
    for number in range(10):
        ask(ledger, "job.run" if number in {1, 9} else "status")

    assert pages(rota, verb="job.run") == [[10], [], [2], []]
    assert pages(rota, state="pending") == [[10, 9, 8, 7, 6, 5, 4, 3, 2, 1]]
    assert pages(rota, verb="job.run", limit=1) == [[10], [], [2], []]


def test_a_list_since_a_moment_ends_there(ledger: Ledger, rota: Rota, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "LOOKED_AT_MAX", 3)
    for _ in range(9):
        ask(ledger)
    ledger.clock.advance(hours=1, seconds=1)
    ask(ledger)

    assert pages(rota, since=ledger.clock.now) == [[10]]
    # Within an hour numbers and moments may be in another order.
    assert pages(rota, since=ledger.clock.after(-2)) == [[10], [], [], []]


def test_a_page_is_one_statement_and_two_with_filters(ledger: Ledger, rota: Rota) -> None:
    for _ in range(3):
        ask(ledger)

    with statements_of(ledger.database) as plain:
        rota.commands.list()
    with statements_of(ledger.database) as filtered:
        rota.commands.list(verb="status", since=ledger.clock.now)

    assert (len(plain), len(filtered)) == (1, 2)


def test_what_is_not_there_or_can_be_no_command_is_refused(rota: Rota) -> None:
    assert rota.commands.list(state="done") == []
    with pytest.raises(NotFound):
        rota.commands.show(1)
    for wrong in (0, "one", 2**63, True, None):
        with pytest.raises(Invalid, match="command"):
            rota.commands.show(wrong)  # pyright: ignore[reportArgumentType]
    for asked in (
        {"state": "ended"},
        {"verb": ""},
        {"verb": "x" * 201},
        {"since": "soon"},
        {"before": 0},
        {"limit": 0},
    ):
        with pytest.raises(Invalid):
            rota.commands.list(**asked)  # pyright: ignore[reportArgumentType]
