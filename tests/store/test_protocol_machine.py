"""Whatever nodes and people do, in whatever order, and however old what they have read is: the protocol holds.

The steps, the model beside them and what is looked at after each are in ``protocol``. A condition that is taken out of
a real statement is found out, by a short script and by the machine.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, note, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from sqlalchemy import Connection, Insert, Update, event, false, insert, literal_column, or_, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.visitors import replacement_traverse
from sqlalchemy.util import immutabledict

from rota.errors import RotaError
from rota.model.run import Claim
from rota.store import advancing, creation, endings, firing, leases, moves, permits, schedules
from rota.store.placing import selector_parameters
from tests.execution.harness import wait_until
from tests.model.protocol import GUARDS, SHOWN_BY
from tests.store.ledger import Ledger
from tests.store.protocol import FOLLOWING, READING_STEPS, STEPS, STEPS_MEANWHILE, Play, Swap
from tests.store.trouble import forget_row_locks

EXAMPLES = {"sqlite": 15, "postgresql": 5, "mariadb": 5, "mysql": 5}
STEPS_MAX = 15  # each of some four lines
SEARCHES_MAX, EXAMPLES_OF_SEARCH = 60, 10  # short ones: in long ones half of the plays are much like earlier ones
LONG_EXAMPLES, LONG_STEPS_MAX = 2_000, 30


# What is done just before a node decides about a run, and what before it writes.
CONTENTIONS = st.sampled_from(
    [
        ("second", "cancel"),
        ("cancel", "second"),
        ("lease", "second"),
        ("lease", "cancel"),
        ("lease", "renew {other}"),
        ("lease", "tell {other}"),
        ("lease", "rescue {other}"),
        ("lease", "rescue {other}", "claim {other}"),
        ("lease", "tell {other}", "claim {other}"),
        ("lease", "rescue {other}", "claim {other}"),
    ]
)


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

    @initialize(
        jobs=st.lists(st.sampled_from(["enqueue least", "enqueue most", "enqueue limited"]), min_size=1, max_size=2)
    )
    def begin(self, jobs: list[str]) -> None:
        self.play.play(*jobs)

    @rule(data=st.data(), number=st.integers(1, 4))
    def do(self, data: st.DataObject, number: int) -> None:
        for _ in range(number):
            self.play.do(_choose(data, self.play.useful(), STEPS))

    @rule(data=st.data(), number=st.integers(1, 3))
    def do_late(self, data: st.DataObject, number: int) -> None:
        """Let one step decide by what is so now, and do others before it writes."""
        useful = self.play.useful()
        step = _choose(data, [step for step in useful if step in READING_STEPS], READING_STEPS)
        likely: Sequence[str] = [other for other in useful if other in STEPS_MEANWHILE and other != step]
        others: list[str] = []
        for _ in range(number):
            others.append(_choose(data, likely, STEPS_MEANWHILE))
            likely = FOLLOWING.get(others[-1].split()[0], ())
        self.play.do(step, others)

    @rule(job=st.sampled_from(["least", "most", "limited"]), node=st.sampled_from("ab"), number=st.integers(2, 4))
    def take_up(self, job: str, node: str, number: int) -> None:
        for step in (f"enqueue {job}", f"claim {node}", f"mark {node}", f"start {node}")[:number]:
            self.play.do(step)

    @rule(
        job=st.sampled_from(["least", "most", "limited"]),
        nodes=st.permutations("ab"),
        step=st.sampled_from(["tell", "tell", "rescue", "renew", "mark", "claim"]),
        others=CONTENTIONS,
    )
    def contend(self, job: str, nodes: list[str], step: str, others: Sequence[str]) -> None:
        """Let others act on a run, or its lease end, while the node that has it has decided and not written."""
        one, other = nodes
        if step == "claim":
            self.play.play(f"enqueue {job}", f"claim {one}, while claim {other}")
            return
        before, *meanwhile = (line.format(one=one, other=other) for line in others)
        begun = (f"mark {one}", f"start {one}") if step != "mark" else ()
        for line in (f"go on {one}", f"enqueue {job}", f"claim {one}", *begun):
            self.play.do(line)
        if step == "tell":
            self.play.do("end badly")
        self.play.do(before)
        self.play.do(f"{step} {one}", meanwhile if step != "mark" else ())


def _choose(data: st.DataObject, likely: Sequence[str], possible: Sequence[str]) -> str:
    """Mostly what has an effect, since most things do nothing most of the time; and sometimes anything."""
    return data.draw(st.sampled_from(likely if likely and data.draw(st.integers(0, 4)) else possible))


def run_machine(
    ledger: Ledger, *swaps: Swap, examples: int, steps: int, number: int | None = None, **options: Any
) -> None:
    """Play ``examples``; with another ``number`` others."""
    machine = type("MachineHere", (Machine,), {"ledger": ledger, "swaps": swaps})
    if number is not None:
        machine = seed(number)(machine)
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
BEGINNINGS = (endings.FIND_ENDING, endings.FIND_EXPIRED)
SELECTORS = len(selector_parameters("a", {}))
WRONG = (AssertionError, LookupError, RotaError, DBAPIError)


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


def not_setting(statement: Any, column: str) -> Swap:
    """Send ``statement`` without that it writes this column, by itself or as a part of another one."""
    weak = _not_setting(statement, column)
    at_once = leases.claim_at_once(0, SELECTORS, transactional=True)

    def swap(sent: Any) -> Any:
        if sent is statement:
            return weak
        if sent is at_once and statement is leases.CLAIM:
            return _changed(at_once, lambda part: _not_setting(part, column))
        return sent

    return swap


def _changed(statement: Any, change: Callable[[Update], Any]) -> Any:
    """Return ``statement`` with the update within it changed."""
    return replacement_traverse(statement, {}, lambda part: change(part) if isinstance(part, Update) else None)


def _not_setting(statement: Any, column: str) -> Any:
    weak = statement._generate()
    weak._values = immutabledict({name: value for name, value in statement._values.items() if name != column})
    assert len(weak._values) == len(statement._values) - 1, "the statement does not write it"
    return weak


def left_out(statement: Any, *, after: Any) -> Swap:
    """Let ``statement`` do nothing where ``after`` was sent last of those that begin a move."""
    weak = statement.where(false())
    last: list[Any] = [None]

    def swap(sent: Any) -> Any:
        if any(sent is one for one in BEGINNINGS):
            last[0] = sent
        return weak if sent is statement and last[0] is after else sent

    return swap


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
_HAVING_PERMITS = ("enqueue limited", "claim a", "start a", "end well", "tell a")  # they are made when first wanted

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
    taken_out("the claim, of what is to be renewed", without(leases.FIND_RENEWABLE, _CLAIM))(
        "enqueue least",
        "claim a",
        "lease",
        "rescue b",
        "claim b",
        "renew a",
    ),
    taken_out("the claim, of a renewal", without(leases.RENEW_CLAIMS, _CLAIM))(
        "enqueue least",
        "claim a",
        "enqueue least",
        "claim b",
        "renew a",
    ),
    taken_out("the state, of what is to be renewed", without(leases.FIND_RENEWABLE, _STATE))(
        "enqueue least",
        "claim a",
        "lease",
        "rescue b",
        "renew a",
    ),
    taken_out("the state, of a renewal", without(leases.RENEW_CLAIMS, _STATE))(
        "enqueue least",
        "claim a",
        "lease",
        "renew a, while rescue b",
    ),
    taken_out("the rise of the fence, of a claim", not_setting(leases.CLAIM, "fence"))(
        "enqueue least",
        "claim a",
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
    taken_out("the rise of the version, of a cursor", not_setting(firing.MOVE_CURSORS, "cursor_version"))(
        "slot",
        "fire a, while slot, fire b",
    ),
    taken_out("the version, of an edit", without(schedules.CHANGE_SCHEDULE, "cursor_version"))(
        "slot",
        "edit, while slot, fire b",
    ),
    taken_out("the rise of the version, of an edit", not_setting(schedules.CHANGE_SCHEDULE, "cursor_version"))(
        "slot",
        "fire a, while slot, edit",
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
    taken_out("the claim, of an end that is told", without(endings.FIND_ENDING, _CLAIM))(
        "enqueue least",
        "claim a",
        "start a",
        "end well",
        "enqueue least",
        "tell a",
    ),
    taken_out("that it is free, of taking a permit", without(permits.TAKE_PERMITS, "rota_permit.claim_id"))(
        *_HAVING_PERMITS,
        "enqueue limited",
        "claim a, while claim b",
    ),
    taken_out("the claim, of undoing what was taken", without(permits.UNDO, "rota_permit.claim_id"))(
        *_HAVING_PERMITS,
        "enqueue limited",
        "claim a, while claim b",
    ),
    taken_out("the claim, of giving permits back", without(permits.GIVE_BACK, "rota_permit.claim_id"))(
        "enqueue limited",
        "claim a",
        "enqueue least",
        "claim b",
        "start b",
        "end well",
        "tell b",
    ),
    taken_out("giving permits back, of an end", left_out(permits.GIVE_BACK, after=endings.FIND_ENDING))(
        "enqueue limited",
        "claim a",
        "start a",
        "end well",
        "tell a",
    ),
    taken_out("giving permits back, of a rescue", left_out(permits.GIVE_BACK, after=endings.FIND_EXPIRED))(
        "enqueue limited",
        "claim a",
        "lease",
        "rescue b",
    ),
)
REDUNDANT = {
    "the claim, of a move": without(moves.APPLY_MOVES, _CLAIM),
    "the fence, of a move": without(moves.APPLY_MOVES, "rota_run.fence"),
}


def name_of(removal: Removal) -> str:
    return removal.name.replace(" ", "_")


each_removal = pytest.mark.parametrize("removal", REMOVALS, ids=name_of)
# Found after hundreds of plays: `make test` looks for the others.
RARE = {"the claim and its fence, of a move", "the state, of a renewal", "the lease, of a move"}
each_search = pytest.mark.parametrize(
    "removal",
    [pytest.param(removal, marks=[pytest.mark.long] if removal.name in RARE else []) for removal in REMOVALS],
    ids=name_of,
)


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


@pytest.mark.parametrize("name", REDUNDANT)
def test_of_claim_and_fence_of_a_move_either_is_enough(ledger: Ledger, name: str) -> None:
    """The claim id is random and the fence rises with each claim, so that neither comes again without the other."""
    (both,) = (removal for removal in REMOVALS if removal.name == "the claim and its fence, of a move")
    play = Play(ledger, [REDUNDANT[name]])
    try:
        play.play(*both.script)
    finally:
        play.close()


@pytest.mark.only_on("postgresql")
@pytest.mark.breaks_invariants
@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "without_the_state"])
def test_a_claim_in_one_statement_takes_nothing_that_another_one_takes_meanwhile(
    ledger: Ledger, is_whole: bool
) -> None:
    """What this form has found cannot be made old, since it looks and writes at once: another one holds the row."""
    ledger.add_job()
    run_id = ledger.enqueue()
    slow, quick, watching = ledger.connect(), ledger.connect(), ledger.connect()
    forget_row_locks(slow)
    if not is_whole:
        at_once = leases.claim_at_once(0, SELECTORS, transactional=True)
        weak = _changed(at_once, lambda part: _weaken(part, (_STATE,)))
        event.listen(slow.engine, "before_execute", _sending(at_once, weak), retval=True)
    late: list[Claim] = []
    other = threading.Thread(target=lambda: late.extend(ledger.claim("a", database=slow)))
    dialect, commit = quick.engine.dialect, quick.engine.dialect.do_commit

    def commit_late(connection: Any) -> None:
        if not other.ident:
            other.start()
            wait_until(lambda: watching.read(_count_waiting) == 1, "the other one waits for the row")
        commit(connection)

    dialect.do_commit = commit_late
    (claim,) = ledger.claim("b", database=quick)
    other.join(30)

    assert not other.is_alive()
    assert claim.run_id == run_id
    assert [one.run_id for one in late] == ([] if is_whole else [run_id])


def _count_waiting(connection: Connection) -> int:
    return connection.execute(text("select count(*) from pg_locks where not granted")).scalar_one()


def _sending(statement: Any, other: Any) -> Callable[..., Any]:
    return lambda _connection, sent, many, given, _options: (other if sent is statement else sent, many, given)


def test_a_claim_that_does_not_come_about_takes_no_permit(ledger: Ledger) -> None:
    play = Play(ledger)
    try:
        play.play("enqueue limited", "claim cut before a", "claim b")
    finally:
        play.close()


def test_each_guard_of_the_model_is_shown_on_the_real_statements_or_by_a_test() -> None:
    removed = {name for names in SHOWN_BY.values() for name in names if not name.startswith("test_")}

    assert set(SHOWN_BY) == {guard.name for guard in GUARDS}
    assert removed <= {removal.name for removal in REMOVALS}


@pytest.mark.only_on("sqlite")  # the same statements on every database: the quickest is enough
@pytest.mark.breaks_invariants
@each_search
def test_the_machine_finds_each_condition_that_is_taken_out(ledger: Ledger, removal: Removal) -> None:
    def search() -> None:
        for number in range(SEARCHES_MAX):
            run_machine(ledger, *removal.swaps, examples=EXAMPLES_OF_SEARCH, steps=STEPS_MAX, number=number)

    with pytest.raises(WRONG):
        search()
