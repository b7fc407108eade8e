"""Finished runs go when they were kept long enough, with all that is theirs; what still decides something stays."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from rota.engine.tidier import Tidier
from rota.model.findings import FindingCode
from rota.model.keeping import KEEP_DEFAULT
from rota.model.run import NewRun, Written
from rota.model.states import NodeState, RunState
from rota.store import retention
from rota.store.clock import tell_clock_step
from rota.store.events import tell_change
from rota.store.firing import fire_schedules
from rota.store.health import check_health
from rota.store.interventions import rerun_run
from rota.store.nodes import describe_node, leave_node, read_node
from rota.store.retention import is_clock_fresh, remove_commands, remove_events, remove_runs
from rota.store.slot_history import why_schedule
from rota.store.tables import command
from tests.store.ledger import Ledger, identity_of
from tests.store.living import start_node

pytestmark = pytest.mark.cases_take_turns

DAY = 86400.0
FOR_A_DAY = dict.fromkeys(KEEP_DEFAULT, DAY)


def end_one(ledger: Ledger, kind: str = "succeeded", **wanted: Any) -> int:
    """Have a run of the job done; what it wrote is kept."""
    run_id = ledger.enqueue(**wanted)
    ledger.end(ledger.claim_one(), kind, stdout=Written(b"out", b"", 3))
    return run_id


def left(ledger: Ledger) -> list[int]:
    return [row.id for row in ledger.rows("select id from rota_run order by id")]


def remove_all(ledger: Ledger, **options: Any) -> int:
    """Do batches until a pass is over; return how many runs went."""
    count, after = 0, 0
    while True:
        removed = remove_runs(ledger.database, FOR_A_DAY, after=after, **options)
        count, after = count + removed.runs, removed.after
        if removed.is_over:
            return count


def count_all(ledger: Ledger) -> dict[str, int]:
    return {
        table: ledger.value(f"select count(*) from rota_{table}") for table in ("run", "attempt", "output", "event")
    }


def test_what_was_kept_long_enough_goes_with_attempts_output_and_events(ledger: Ledger) -> None:
    ledger.add_job()
    old = end_one(ledger)
    ledger.clock.advance(days=2)
    young = end_one(ledger)
    of_one = {"run": 1, "attempt": 1, "output": 1, "event": len(ledger.events(young))}

    assert (remove_all(ledger), remove_all(ledger)) == (1, 0)

    assert left(ledger) == [young]
    assert count_all(ledger) == of_one
    assert ledger.events(old) == []


def test_each_end_is_kept_as_long_as_it_says_and_a_job_has_its_own_times(ledger: Ledger) -> None:
    ledger.add_job("plain")
    ledger.add_job("own", keep=json.dumps({"succeeded": None, "failed": 3600.0}))
    made = {
        (job, kind): end_one(ledger, kind, job=job) for job in ("plain", "own") for kind in ("succeeded", "exception")
    }
    last = [end_one(ledger, job=job) for job in ("plain", "own")]
    default = FOR_A_DAY | {"failed": 3 * DAY}

    ledger.clock.advance(days=2)
    remove_runs(ledger.database, default)

    assert left(ledger) == sorted([made["plain", "exception"], made["own", "succeeded"], *last])


@pytest.mark.parametrize("keep", ["{", "[1]", '{"eaten": 5}', '{"failed": "soon"}'])
def test_of_a_job_whose_row_says_nonsense_every_run_is_kept_and_others_go(ledger: Ledger, keep: str) -> None:
    ledger.add_job("plain")
    ledger.add_job("own", keep=keep)
    for job in ("plain", "own", "plain", "own"):
        end_one(ledger, job=job)
    ledger.clock.advance(days=2)

    assert remove_all(ledger) == 1
    assert left(ledger) == [2, 3, 4]


def test_kept_for_ever_is_not_even_looked_at(ledger: Ledger) -> None:
    ledger.add_job()
    end_one(ledger), end_one(ledger)
    ledger.clock.advance(days=3000)

    assert remove_runs(ledger.database, dict.fromkeys(KEEP_DEFAULT)).is_over
    assert left(ledger) == [1, 2]


def test_unfinished_runs_and_the_newest_of_a_job_stay(ledger: Ledger) -> None:
    ledger.add_job("one")
    ledger.add_job("two")
    first = ledger.enqueue("one", run_at=ledger.clock.after(30 * DAY))
    second = [end_one(ledger, job="two"), end_one(ledger, job="two")]
    running = ledger.enqueue("one")
    ledger.started(ledger.claim_one())
    ledger.clock.advance(days=2)

    assert remove_all(ledger) == 1
    assert left(ledger) == [first, second[1], running]


@pytest.mark.parametrize("wanted", [{}, {"run_key": "k", "unique_seconds": -1}])
def test_the_runs_of_a_job_that_was_deleted_all_go(ledger: Ledger, wanted: dict[str, Any]) -> None:
    ledger.add_job()
    end_one(ledger, **wanted)
    ledger.execute("delete from rota_job")
    ledger.clock.advance(days=2)

    assert remove_all(ledger) == 1


@pytest.mark.parametrize(("unique_seconds", "is_kept"), [(None, False), (DAY, False), (3 * DAY, True), (-1, True)])
def test_a_run_whose_key_still_keeps_another_from_being_made_stays(
    ledger: Ledger, unique_seconds: float | None, is_kept: bool
) -> None:
    ledger.add_job()
    first = end_one(ledger, run_key="k", unique_seconds=unique_seconds)
    last = end_one(ledger)
    ledger.clock.advance(days=2)

    remove_all(ledger)

    assert left(ledger) == ([first, last] if is_kept else [last])
    assert (ledger.enqueue(run_key="k") == first) is is_kept


def end_slots(ledger: Ledger, count: int) -> list[int]:
    for _ in range(count):
        fire_schedules(ledger.database, fired_by="a")
        ledger.end_all(ledger.claim())
        ledger.clock.advance(minutes=1)
    return left(ledger)


def test_the_newest_slot_of_a_schedule_stays_and_no_slot_is_fired_again(ledger: Ledger) -> None:
    ledger.add_job()
    schedule_id = ledger.add_schedule(next_slot_at=ledger.clock.now)
    ran = end_slots(ledger, 3)
    last = end_one(ledger)
    ledger.clock.advance(days=2)

    assert remove_all(ledger) == 2
    assert left(ledger) == [ran[2], last]

    fire_schedules(ledger.database, fired_by="a")
    cursor = ledger.schedule(schedule_id).next_slot_at
    slots = [row.slot_at for row in ledger.runs() if row.slot_at is not None]
    assert len(slots) == len(set(slots))
    assert min(slots) > ledger.clock.now - timedelta(days=2, minutes=2)
    assert cursor > max(slots)


def test_a_slot_that_the_cursor_has_not_passed_stays(ledger: Ledger) -> None:
    ledger.add_job()
    schedule_id = ledger.add_schedule(next_slot_at=ledger.clock.now)
    ran = end_slots(ledger, 3)
    last = end_one(ledger)
    # Put back by hand: the two slots from there on would be fired again, were their rows gone.
    ledger.set_schedule(schedule_id, next_slot_at=ledger.run(ran[1]).slot_at, problem="put back")
    ledger.clock.advance(days=2)

    assert remove_all(ledger) == 1
    assert left(ledger) == [ran[1], ran[2], last]


def test_runs_of_a_group_stay_while_one_of_it_is_unfinished_and_the_newest_group_stays_whole(ledger: Ledger) -> None:
    ledger.add_job()
    old = [end_one(ledger) for _ in range(2)]
    open_ = [end_one(ledger), ledger.enqueue(run_at=ledger.clock.after(30 * DAY))]
    newest = [end_one(ledger) for _ in range(2)]
    for group, ids in (("a", old), ("b", open_), ("c", newest)):
        for run_id in ids:
            ledger.set_run(run_id, group_id=group)
    ledger.clock.advance(days=2)

    assert remove_all(ledger) == 2
    assert left(ledger) == [*open_, *newest]


def end_group(ledger: Ledger, group: str, kinds: Sequence[str]) -> list[int]:
    """Have a run that ended so made for each of the nodes of a group."""
    ids = [end_one(ledger, kind) for kind in kinds]
    for number, run_id in enumerate(ids):
        ledger.set_run(run_id, group_id=group, target_node=f"n{number}")
    return ids


def test_a_group_goes_whole_once_all_of_it_was_kept_long_enough(ledger: Ledger) -> None:
    ledger.add_job(keep=json.dumps({"failed": 3 * DAY}))
    group = end_group(ledger, "g", ["succeeded", "exception", "succeeded"])
    last = end_one(ledger)

    ledger.clock.advance(days=2)
    assert (remove_all(ledger), left(ledger)) == (0, [*group, last])
    ledger.clock.advance(days=1)
    assert (remove_all(ledger), left(ledger)) == (3, [last])


def test_a_group_of_which_one_run_still_decides_something_stays_whole(ledger: Ledger) -> None:
    ledger.add_job(breaker_failures=3)
    keyed = end_group(ledger, "keyed", ["succeeded"] * 3)
    let_through = end_group(ledger, "through", ["succeeded"] * 3)
    gone = end_group(ledger, "gone", ["succeeded"] * 3)
    last = end_one(ledger)
    ledger.set_run(keyed[1], run_key="k", active_key="k", unique_seconds=-1)
    ledger.set_job(breaker_run_id=let_through[1], breaker_until=ledger.clock.now)
    ledger.clock.advance(days=2)

    assert remove_all(ledger) == len(gone)
    assert left(ledger) == [*keyed, *let_through, last]


def test_a_group_is_not_cut_by_the_end_of_a_batch_or_of_what_it_reads(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "READ_NEXT", retention.READ_NEXT.limit(4))
    monkeypatch.setattr(retention, "READ_MAX", 4)
    ledger.add_job()
    end_one(ledger)
    for group in ("first", "second"):
        end_group(ledger, group, ["succeeded"] * 3)
    for _ in range(2):
        end_one(ledger)
    end_group(ledger, "first", ["succeeded"])  # far behind the others of its group
    last = end_one(ledger)
    ledger.clock.advance(days=2)
    seen, after = list[list[tuple[str, int]]](), 0

    while not seen or after:
        after = remove_runs(ledger.database, FOR_A_DAY, after=after, limit=2).after
        counted = ledger.rows(
            "select group_id, count(*) from rota_run where group_id is not null group by group_id order by group_id"
        )
        seen.append([tuple(row) for row in counted])

    assert all(count == {"first": 4, "second": 3}[group] for groups in seen for group, count in groups)
    assert seen[-1] == []
    assert left(ledger) == [last]


def test_a_group_of_which_a_run_is_run_again_at_that_moment_stays_whole(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.add_job()
    group = end_group(ledger, "g", ["succeeded"] * 3)
    last = end_one(ledger)
    ledger.clock.advance(days=2)
    leave = retention._leave_newest

    def leave_and_wait(*args: Any) -> Any:
        found = leave(*args)
        rerun = threading.Thread(target=rerun_run, args=(ledger.connect(), group[1]), kwargs={"actor": "ann"})
        rerun.start()
        rerun.join(60)
        return found

    monkeypatch.setattr(retention, "_leave_newest", leave_and_wait)

    assert remove_runs(ledger.database, FOR_A_DAY).runs == 0
    assert left(ledger) == [*group, last]


def test_the_run_that_a_breaker_lets_through_stays(ledger: Ledger) -> None:
    ledger.add_job(breaker_failures=3)
    let_through, last = end_one(ledger), end_one(ledger)
    ledger.set_job(breaker_run_id=let_through, breaker_until=ledger.clock.now)
    ledger.clock.advance(days=2)

    assert remove_all(ledger) == 0
    assert left(ledger) == [let_through, last]


def test_it_goes_in_batches_and_each_goes_on_where_the_last_one_ended(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "READ_NEXT", retention.READ_NEXT.limit(4))
    monkeypatch.setattr(retention, "READ_MAX", 4)
    ledger.add_job("kept", keep=json.dumps({"succeeded": None}))
    ledger.add_job()
    ledger.enqueue_many([NewRun("kept" if number < 6 else "job") for number in range(12)])
    ledger.end_all(ledger.claim(limit=12))
    ledger.clock.advance(days=2)
    batches, after = list[tuple[int, int]](), 0

    while not batches or after:
        removed = remove_runs(ledger.database, FOR_A_DAY, after=after, limit=2)
        after = removed.after
        batches.append((removed.runs, after))

    # Four that are kept, two of four, those two, two of the last four, one but the newest; and nothing is left.
    assert batches[0] == (0, 4)
    assert [count for count, _ in batches if count] == [2, 2, 1]
    assert left(ledger) == [1, 2, 3, 4, 5, 6, 12]


def test_a_run_with_many_attempts_goes_by_itself(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "ATTEMPTS_MAX", 1)
    ledger.add_job()
    for _ in range(3):
        end_one(ledger)
    ledger.clock.advance(days=2)

    assert [remove_runs(ledger.database, FOR_A_DAY, after=after).runs for after in (0, 1)] == [1, 1]


def test_an_end_that_comes_after_its_run_is_gone_is_acknowledged_and_changes_nothing(ledger: Ledger) -> None:
    ledger.add_job()
    ledger.enqueue()
    claim = ledger.claim_one()
    ledger.end(claim)
    end_one(ledger)
    ledger.clock.advance(days=2)
    assert remove_all(ledger) == 1
    before = count_all(ledger)

    delivered = ledger.end(claim)

    assert delivered.applied | delivered.orphaned == {claim.claim_id}
    assert count_all(ledger) == before


def test_living_nodes_that_keep_runs_for_different_times_are_a_warning(ledger: Ledger) -> None:
    start_node(ledger, "left", keep_runs="failed=forever")
    assert leave_node(ledger.database, identity_of("left"))
    start_node(ledger, "a", keep_runs="failed=9d")
    start_node(ledger, "b", keep_runs="failed=9d")
    start_node(ledger, "c")  # does not say

    def found() -> list[str]:
        every = check_health(ledger.database).findings
        return [one.text for one in every if one.code is FindingCode.KEEPING_DIFFERS]

    assert found() == []
    pools = ["default"]
    node = {"state": NodeState.ALIVE, "pools": pools, "slots": 4}
    describe_node(ledger.database, identity_of("b"), **node, keep_runs="failed=1d")
    (text,) = found()
    assert "different times: failed=9d on a; failed=1d on b. " in text
    assert read_node(ledger.database, "b")["keep_runs"] == "failed=1d"


def test_a_run_that_is_run_again_at_that_moment_stays(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.add_job()
    first, _ = end_one(ledger), end_one(ledger)
    ledger.clock.advance(days=2)
    choose = retention._choose

    def choose_and_wait(*args: Any) -> Any:
        chosen = choose(*args)
        rerun = threading.Thread(target=rerun_run, args=(ledger.connect(), first), kwargs={"actor": "ann"})
        rerun.start()
        rerun.join(60)
        return chosen

    monkeypatch.setattr(retention, "_choose", choose_and_wait)

    assert remove_runs(ledger.database, FOR_A_DAY).runs == 0
    assert ledger.run(first).state == RunState.READY


def test_events_that_concern_no_run_go_after_half_a_year(ledger: Ledger) -> None:
    def tell(kind: str) -> None:
        ledger.database.write(lambda connection: tell_change(connection, kind, "edited", "so"), repeatable=False)

    kinds = ("job", "schedule", "node")
    for kind in kinds:
        tell(kind)
    ledger.add_job()
    run_id = end_one(ledger)
    ledger.clock.advance(days=181)
    for kind in kinds:
        tell(kind)

    assert (remove_events(ledger.database), remove_events(ledger.database)) == (3, 0)
    assert ledger.value("select count(*) from rota_event where kind <> 'run'") == 3
    assert len(ledger.events(run_id)) > 0


def test_for_a_day_after_the_clock_stepped_it_is_not_to_be_believed(ledger: Ledger) -> None:
    assert not is_clock_fresh(ledger.database)
    tell_clock_step(ledger.database, 400 * DAY, 60.0, node="a")
    ledger.clock.advance(seconds=1)

    assert is_clock_fresh(ledger.database)
    ledger.clock.advance(days=1)
    assert not is_clock_fresh(ledger.database)


def test_why_says_of_a_slot_without_a_row_that_it_may_have_been_removed(ledger: Ledger) -> None:
    ledger.add_job()
    first = ledger.clock.now
    made = {"created_at": first - timedelta(days=1), "next_slot_at": first}
    ledger.add_schedule(**made)
    end_slots(ledger, 3)
    ledger.clock.advance(days=2)
    assert remove_all(ledger) == 2

    answer = why_schedule(ledger.database, "each", first)

    assert "no row of it is left: it was removed" in answer["because"][0]


def ask(ledger: Ledger, count: int = 1) -> None:
    for _ in range(count):
        ledger.execute(command.insert().values(verb="status", created_at=ledger.clock.now, requested_by="ann"))


def answer(ledger: Ledger) -> None:
    is_pending = command.c.state == "pending"
    ledger.execute(command.update().where(is_pending).values(state="done", outcome="{}", answered_at=ledger.clock.now))


def test_a_command_goes_a_month_after_its_answer_and_stays_without_one(ledger: Ledger) -> None:
    ask(ledger, 2)
    answer(ledger)
    ask(ledger)
    ledger.clock.advance(days=2)
    ask(ledger)
    answer(ledger)
    ask(ledger)
    ledger.clock.advance(days=28, seconds=1)

    assert [remove_commands(ledger.database), remove_commands(ledger.database)] == [2, 0]

    left = [(row.id, row.state) for row in ledger.rows("select id, state from rota_command order by id")]
    assert [state for _, state in left] == ["done", "done", "pending"]
    ledger.clock.advance(days=400)
    assert remove_commands(ledger.database) == 2
    assert ledger.value("select state from rota_command") == "pending"


def test_commands_go_in_batches(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "FIND_OLD_COMMANDS", retention.FIND_OLD_COMMANDS.limit(2))
    ask(ledger, 3)
    answer(ledger)
    ledger.clock.advance(days=31)

    assert [remove_commands(ledger.database) for _ in range(3)] == [2, 1, 0]


def test_the_tidier_removes_commands(ledger: Ledger) -> None:
    ask(ledger)
    answer(ledger)
    ledger.clock.advance(days=31)
    tidier = Tidier(ledger.database, ledger.clock.uptime)
    tidier.keep_runs = FOR_A_DAY

    tidier.begin()

    assert ledger.rows("select id from rota_command") == []
