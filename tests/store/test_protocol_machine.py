"""Whatever nodes and people do, in whatever order, and however old what they have read is: the protocol holds.

The steps, the model beside them and what is looked at after each are in ``protocol``. A condition that is taken out of
a real statement is found out, by a short script and by the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from sqlalchemy import Insert, insert, literal_column, or_
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError

from rota.errors import RotaError
from rota.store import advancing, creation, endings, firing, leases, moves
from tests.store.ledger import Ledger
from tests.store.protocol import READING_STEPS, STEPS, STEPS_MEANWHILE, Play, Swap

EXAMPLES = {"sqlite": 50, "postgresql": 15, "mariadb": 15, "mysql": 15}
STEPS_MAX = 30
LONG_EXAMPLES, LONG_STEPS_MAX = 2_000, 60


class Machine(RuleBasedStateMachine):
    """Steps in any order."""

    ledger: Ledger
    swaps: tuple[Swap, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.play = Play(self.ledger, self.swaps)

    def teardown(self) -> None:
        note(f"played: {self.play.done!r}")
        self.play.close()

    @initialize(jobs=st.lists(st.sampled_from(["enqueue least", "enqueue most"]), min_size=1, max_size=2))
    def begin(self, jobs: list[str]) -> None:
        self.play.play(*jobs)

    @rule(step=st.sampled_from(STEPS))
    def do(self, step: str) -> None:
        self.play.do(step)

    @rule(
        step=st.sampled_from(READING_STEPS), others=st.lists(st.sampled_from(STEPS_MEANWHILE), min_size=1, max_size=3)
    )
    def do_late(self, step: str, others: list[str]) -> None:
        self.play.do(step, others)


def run_machine(ledger: Ledger, *swaps: Swap, examples: int, steps: int, **options: Any) -> None:
    machine = type("MachineHere", (Machine,), {"ledger": ledger, "swaps": swaps})
    chosen = {"derandomize": True, "database": None, "deadline": None, "suppress_health_check": list(HealthCheck)}
    chosen |= {"max_examples": examples, "stateful_step_count": steps, "print_blob": False}
    chosen |= {
        "report_multiple_bugs": False,
        "phases": [Phase.generate],
    }  # a script of steps is made shorter faster than what it was drawn from
    run_state_machine_as_test(machine, settings=settings(**(chosen | options)))


def test_the_protocol_holds_whatever_is_done_in_whatever_order(ledger: Ledger, database_kind: str) -> None:
    run_machine(ledger, examples=EXAMPLES[database_kind], steps=STEPS_MAX)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_protocol_holds_for_a_long_time(ledger: Ledger, database_kind: str) -> None:
    run_machine(ledger, examples=LONG_EXAMPLES, steps=LONG_STEPS_MAX, derandomize=False)


def test_an_end_by_which_a_run_was_lost_and_whose_commit_was_not_answered_leaves_it_lost(ledger: Ledger) -> None:
    """Found by the machine: the second delivery of the end was taken for late truth."""
    play = Play(ledger)
    try:
        play.play("enqueue most", "claim b", "mark b", "start b", "lease", "tell cut b", "tell again b")
    finally:
        play.close()


# The conditions of the real statements, taken out one by one.

ALWAYS = literal_column("1 = 1")
WRONG = (AssertionError, RotaError, DBAPIError)


def without(statement: Any, *conditions: str) -> Swap:
    """Send ``statement`` without those of its conditions in which these words stand."""
    weak = _weaken(statement.select if isinstance(statement, Insert) else statement, conditions)
    if isinstance(statement, Insert):
        weak = insert(statement.table).from_select(statement._select_names, weak)
    return lambda sent: weak if sent is statement else sent


def _weaken(statement: Any, conditions: tuple[str, ...]) -> Any:
    weak = statement._generate()
    found: set[str] = set()

    def keep(criterion: Any) -> Any:
        words = str(criterion.compile(dialect=sqlite.dialect()))
        here = {condition for condition in conditions if condition in words}
        found.update(here)
        return or_(criterion, ALWAYS) if here else criterion  # its parameters stay

    weak._where_criteria = tuple(keep(criterion) for criterion in statement._where_criteria)
    assert found == set(conditions), "the statement has no such condition"
    return weak


@dataclass(frozen=True)
class Removal:
    """What is taken out, and the shortest script found that goes wrong without it."""

    name: str
    swaps: tuple[Swap, ...]
    script: tuple[str, ...]


def taken_out(name: str, *swaps: Swap) -> Callable[..., Removal]:
    return lambda *script: Removal(name, swaps, script)


_CLAIM = "rota_run.claim_id"
_STATE = "rota_run.state"

REMOVALS = (
    taken_out("the state, of a claim", without(leases.CLAIM, _STATE))(
        "enqueue least",
        "claim a, while claim b",
    ),
    taken_out("the claim, of looking claims up", without(leases.READ_NEW_CLAIMS, _CLAIM))(
        "enqueue least",
        "claim a",
        "enqueue least",
        "claim b",
    ),
    taken_out("the claim, of looking up what a cut left unknown", without(leases.READ_CLAIMS, _CLAIM))(
        "enqueue least",
        "claim a",
        "enqueue least",
        "claim cut after b",
    ),
    taken_out("the lease, of a mark", without(leases.MARK_STARTED, "lease_ends_at"))(
        "enqueue most",
        "claim a",
        "lease",
        "mark a",
    ),
    taken_out("the cancellation, of a mark", without(leases.MARK_STARTED, "cancel_asked_at"))(
        "enqueue most",
        "claim a",
        "cancel",
        "mark a",
    ),
    taken_out("the claim, of a mark", without(leases.MARK_STARTED, _CLAIM))(
        "enqueue most",
        "claim a",
        "enqueue most",
        "claim b",
        "mark b",
    ),
    taken_out("the claim, of what was marked", without(leases.FIND_MARKED, _CLAIM))(
        "enqueue least",
        "claim a",
        "mark b",
        "enqueue least",
        "claim b",
        "mark b",
    ),
    taken_out("the claim, of a renewal", without(leases.FIND_RENEWABLE, _CLAIM), without(leases.RENEW_CLAIMS, _CLAIM))(
        "enqueue least",
        "claim a",
        "lease",
        "rescue b",
        "claim b",
        "renew a",
    ),
    taken_out("the state, of a renewal", without(leases.FIND_RENEWABLE, _STATE), without(leases.RENEW_CLAIMS, _STATE))(
        "enqueue least",
        "claim a",
        "lease",
        "rescue b",
        "renew a",
    ),
    taken_out("the lease, of a rescue", without(endings.FIND_EXPIRED, "lease_ends_at"))(
        "enqueue least",
        "claim a",
        "rescue b",
    ),
    taken_out("the state, of a move", without(moves.APPLY_MOVES, _STATE))(
        "enqueue least",
        "claim a",
        "start a",
        "end badly",
        "lease",
        "tell a, while rescue b",
    ),
    taken_out("the claim and its fence, of a move", without(moves.APPLY_MOVES, _CLAIM, "rota_run.fence"))(
        "enqueue least",
        "claim a",
        "start a",
        "end badly",
        "lease",
        "tell a, while rescue b, claim b",
    ),
    taken_out("the lease, of a move", without(moves.APPLY_MOVES, "lease_seen_at"))(
        "enqueue least",
        "claim a",
        "lease",
        "rescue b, while renew a",
    ),
    taken_out("the cancellation, of a move", without(moves.APPLY_MOVES, "cancel_seen"))(
        "enqueue least",
        "claim a",
        "start a",
        "end badly",
        "tell a, while cancel",
    ),
    taken_out("the claim, of closing attempts", without(moves.CLOSE_ATTEMPTS, "rota_attempt.claim_id"))(
        "enqueue least",
        "claim a",
        "enqueue least",
        "claim b",
        "start a",
        "end well",
        "tell a",
    ),
    taken_out("the version, of a cursor", without(firing.MOVE_CURSORS, "rota_schedule.cursor_version"))(
        "slot",
        "fire a, while slot, fire b",
    ),
    taken_out("the clock, of what is due", without(firing.FIND_DUE, "next_slot_at"))("fire a"),
    taken_out("the clock, of what waits", without(advancing.FIND_WAITED, "due_at"))(
        "enqueue ahead",
        "advance a",
    ),
    taken_out("the same slot, of new runs", without(creation.INSERT_RUNS, "rota_run.slot_at"))(
        "slot",
        "fire a",
        "set back a",
    ),
    taken_out("the same request, of new runs", without(creation.INSERT_RUNS, "rota_run.request_id"))("enqueue cut"),
)
each_removal = pytest.mark.parametrize("removal", REMOVALS, ids=lambda removal: removal.name.replace(" ", "_"))


@pytest.mark.breaks_invariants
@each_removal
def test_without_a_condition_of_the_real_statements_a_run_goes_wrong(ledger: Ledger, removal: Removal) -> None:
    for swaps in ((), removal.swaps):
        play = Play(ledger, swaps)
        try:
            if swaps:
                with pytest.raises(WRONG):
                    play.play(*removal.script)
                assert len(play.done) == len(removal.script), "it goes wrong before the last step"
            else:
                play.play(*removal.script)
        finally:
            play.close()


# Interleavings that come up too rarely for a short search: their scripts show them, and the long search may.
RARE = {
    *("the lease, of a rescue", "the state, of a move", "the claim and its fence, of a move", "the lease, of a move"),
    *("the cancellation, of a move", "the version, of a cursor"),
}


@pytest.mark.breaks_invariants
@pytest.mark.parametrize(
    "removal", [one for one in REMOVALS if one.name not in RARE], ids=lambda removal: removal.name.replace(" ", "_")
)
def test_the_machine_finds_each_condition_that_is_taken_out(
    ledger: Ledger, database_kind: str, removal: Removal
) -> None:
    if database_kind != "sqlite":
        pytest.skip("the same statements on every database: the quickest is enough")

    with pytest.raises(WRONG):
        run_machine(ledger, *removal.swaps, examples=300, steps=STEPS_MAX)
