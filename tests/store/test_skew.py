"""How far a node's clock is from the database's: measured with the renewals, written when it is news, found when it is
much."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from rota.model.findings import FindingCode, Severity
from rota.store.health import check_health
from rota.store.leases import renew_claims
from rota.store.nodes import read_node
from rota.store.skew import Skew
from rota.store.tables import node
from tests.clock import Clock
from tests.store.ledger import LEASE_SECONDS, Ledger, identity_of, statements_of
from tests.store.living import start_node

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)


class Node:
    """A node's two clocks, and what it makes of them."""

    def __init__(self, clock: Clock, ahead_seconds: float = 0.0) -> None:
        self.clock = clock
        self.ahead_seconds = ahead_seconds
        self.skew = Skew(wall=self.wall, steady=clock.uptime)

    def wall(self) -> float:
        return self.clock.now.timestamp() + self.ahead_seconds

    def renew(self, ledger: Ledger) -> None:
        renew_claims(ledger.database, identity_of("a"), [], LEASE_SECONDS, skew=self.skew)


def skew_of(ledger: Ledger) -> float | None:
    return read_node(ledger.database, "a")["skew_seconds"]


@pytest.mark.parametrize("ahead_seconds", [600.0, -600.0, 0.0, 1.5])
def test_a_renewal_measures_the_nodes_clock_and_writes_it(ledger: Ledger, clock: Clock, ahead_seconds: float) -> None:
    start_node(ledger)
    before = skew_of(ledger)

    Node(clock, ahead_seconds).renew(ledger)

    assert before is None
    assert skew_of(ledger) == ahead_seconds


def test_it_is_written_once_a_minute_and_at_once_when_it_has_changed(ledger: Ledger, clock: Clock) -> None:
    start_node(ledger)
    one = Node(clock, 2.0)
    written: list[bool] = []

    for seconds, ahead in ((0, 2.0), (20, 2.04), (20, 2.04), (20, 2.04), (1, 8.0), (1, 8.0)):
        clock.advance(seconds=seconds)
        one.ahead_seconds = ahead
        with statements_of(ledger.database) as sent:
            one.renew(ledger)
        written.append(any("skew_seconds" in statement for statement in sent))

    assert written == [True, False, False, True, True, False]
    assert skew_of(ledger) == 8.0


def test_the_quickest_of_the_last_answers_tells_best() -> None:
    skew = Skew()
    at = NOON.timestamp()

    for before, now, after in ((0.0, 0.9, 1.0), (10.0, 10.05, 10.1), (20.0, 20.3, 21.0)):
        skew.measure(at + before, NOON + timedelta(seconds=now), at + after)

    assert skew.seconds == pytest.approx(0.0, abs=0.001)


def test_a_clock_that_jumps_is_seen_by_the_next_answer_and_one_that_went_back_meanwhile_counts_for_nothing() -> None:
    skew = Skew()
    at = NOON.timestamp()
    skew.measure(at, NOON, at + 0.001)

    skew.measure(at + 620.0, NOON + timedelta(seconds=20), at + 620.2)
    jumped = skew.seconds
    skew.measure(at + 700.0, NOON + timedelta(seconds=40), at)

    assert jumped == pytest.approx(600.1, abs=0.2)
    assert skew.seconds == jumped


def test_before_anything_was_measured_there_is_nothing_to_write() -> None:
    assert Skew().seconds is None
    assert not Skew().is_news()


@pytest.mark.parametrize(("seconds", "said"), [(600.0, "10m ahead of"), (-1.0, "1s behind")])
def test_a_clock_that_is_off_by_a_second_is_a_warning_that_says_what_it_means(
    ledger: Ledger, seconds: float, said: str
) -> None:
    start_node(ledger)
    start_node(ledger, "b")
    ledger.execute(update(node).where(node.c.name == "a").values(skew_seconds=seconds))

    (found,) = check_health(ledger.database).findings

    assert (found.severity, found.code, found.subject) == (Severity.WARNING, FindingCode.NODE_CLOCK, "a")
    assert found.text.startswith(f"the clock of node a is {said} the database's: nothing of Rota goes by it")
    ledger.execute(update(node).values(skew_seconds=seconds))
    assert "it may be the database's that is wrong" in check_health(ledger.database).findings[0].text


def test_a_little_skew_and_that_of_a_node_that_is_gone_are_nothing(ledger: Ledger, clock: Clock) -> None:
    start_node(ledger)
    ledger.execute(update(node).values(skew_seconds=600.0))
    clock.advance(days=2)
    start_node(ledger, "b")
    ledger.execute(update(node).where(node.c.name == "b").values(skew_seconds=-0.9))

    assert check_health(ledger.database).findings == ()
