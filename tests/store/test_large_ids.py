"""A ledger whose numbers begin beyond 32 bits, and beyond what a double tells apart: all that a run may live through.

JSON has one kind of number, and whatever reads it as a double takes two neighbours above 2 to the power of 53 for one.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from rota import Rota
from rota.model.accounts import Identity, Refusal, Source
from rota.model.backfill import Wish
from rota.model.job import JobSpec
from rota.model.keeping import KEEP_DEFAULT
from rota.model.roles import Role
from rota.model.run import Claim, NewRun, Piece, Report, Written
from rota.model.schedule import ScheduleSpec
from rota.store import jobs, schedules
from rota.store.advancing import advance_runs
from rota.store.audit import list_audit
from rota.store.backfills import start_backfill
from rota.store.breakers import let_runs_through
from rota.store.endings import rescue_runs
from rota.store.firing import fire_schedules
from rota.store.groups import read_group
from rota.store.history import why_run
from rota.store.interventions import cancel_run, freeze_run, mark_succeeded, rerun_run, skip_run, thaw_run
from rota.store.leases import renew_claims
from rota.store.log_ins import log_in, open_session
from rota.store.outlook import look
from rota.store.periods import look_at_periods
from rota.store.permits import tidy_permits
from rota.store.reports import keep_reports
from rota.store.retention import remove_events, remove_runs
from rota.store.runs import list_runs, read_run
from rota.store.slot_history import why_schedule
from rota.store.status import read_status
from rota.store.tables import attempt, event, job, permit, run, schedule
from rota.store.tokens import identify_token
from rota.verbs.answering import answer_commands
from tests.clock import BEGINNING
from tests.store.large_ids import NUMBERED, begin_ids_at
from tests.store.ledger import LEASE_SECONDS, Ledger, identity_of, output_of
from tests.store.living import start_node

FIRST_IDS = {"above 2^31": 2**31 + 1, "above 2^53": 2**53 + 1}
ANN = "ann@desk"
LIMITS: dict[str, Any] = {
    "max_running": 3,
    "mutexes": ["disk", "tape"],
    "concurrency_key": "tenant",
    "max_per_key": 1,
    "rate": "9/1h",
}


@pytest.fixture(params=FIRST_IDS.values(), ids=list(FIRST_IDS))
def firsts(request: pytest.FixtureRequest, database_url: str) -> dict[str, int]:
    """Which number the first row of each table has."""
    return begin_ids_at(database_url, request.param)


def add_job(ledger: Ledger, name: str = "job", **options: Any) -> None:
    jobs.add_job(ledger.database, JobSpec.checked(name, kind="shell", target="true", **options), actor=ANN)


def outlive_lease(ledger: Ledger) -> None:
    ledger.clock.advance(seconds=LEASE_SECONDS + 1)


def shown(ledger: Ledger, run_id: int) -> dict[str, Any]:
    """How a run is shown, through JSON and back."""
    return json.loads(json.dumps(read_run(ledger.database, run_id)))


def numbers(ledger: Ledger, table: Any) -> list[int]:
    return [row.id for row in ledger.rows(select(table.c.id).order_by(table.c.id))]


def told_of(ledger: Ledger) -> set[int]:
    """The runs whose history there is."""
    return {row.run_id for row in ledger.rows(select(event.c.run_id).where(event.c.run_id.is_not(None)))}


def test_every_table_that_counts_its_rows_counts_on_from_there(ledger: Ledger, firsts: dict[str, int]) -> None:
    start_node(ledger)
    add_job(ledger, **LIMITS)
    schedules.add_schedule(ledger.database, ScheduleSpec.checked("each", job="job", cron="* * * * *"), actor=ANN)
    ledger.enqueue(args='{"tenant": "x"}')
    ledger.started(ledger.claim_one())
    hours = JobSpec.checked("hours", kind="shell", target="true", period="hour")
    jobs.add_job(ledger.database, hours, actor=ANN)
    look_at_periods(ledger.database)
    ledger.clock.advance(hours=1)
    fire_schedules(ledger.database, fired_by="a")
    ledger.execute("insert into rota_command (verb) values ('status')")
    answer_commands(ledger.database, node="a")
    start_backfill(ledger.database, "each", BEGINNING, BEGINNING + timedelta(minutes=5), Wish.checked(), actor=ANN)

    with_users = Rota.over(ledger.database, actor=ANN, door="cli")
    with_users.users.add("ann", role="viewer")
    identity = identify_token(ledger.database, with_users.tokens.add("ci", user="ann")["secret"])
    assert isinstance(identity, Identity)
    assert identity.name == "ann"
    open_session(ledger.database, "eve", role=Role.VIEWER, source=Source.OIDC)
    assert log_in(ledger.database, "ann", "no password of hers") == Refusal(
        "wrong", "the name or the password is wrong"
    )
    pages = [view["id"] for view in list_audit(ledger.database, limit=2)]
    assert [view["id"] for view in list_audit(ledger.database, before=pages[-1])][-1] == firsts["rota_audit"]

    found = {
        table: ledger.value(f"select min(id) from {table}") for table in NUMBERED if table not in
        {"rota_calendar", "rota_finding", "rota_pool"}
    }  # fmt: skip

    assert found == {table: firsts[table] for table in found}
    assert ledger.value("select job_id from rota_schedule") == firsts["rota_job"]


def test_slots_are_fired_once_each_and_their_runs_end(ledger: Ledger, firsts: dict[str, int]) -> None:
    add_job(ledger)
    for number in range(3):  # neighbours, which a double takes for one
        spec = ScheduleSpec.checked(f"s{number}", job="job", cron="* * * * *", overlap="skip")
        schedules.add_schedule(ledger.database, spec, actor=ANN)
    schedule_ids = [firsts["rota_schedule"] + number for number in range(3)]
    ledger.clock.advance(minutes=1)

    assert [fire_schedules(ledger.database, fired_by="a").runs for _ in range(2)] == [3, 0]
    ledger.clock.advance(minutes=1)  # overlap: each is skipped for its own schedule's run
    assert fire_schedules(ledger.database, fired_by="a").runs == 3
    ledger.end(ledger.claim_one())
    ledger.clock.advance(minutes=1)
    fire_schedules(ledger.database, fired_by="a")

    assert numbers(ledger, schedule) == schedule_ids
    made = ledger.rows(select(run.c.id, run.c.schedule_id, run.c.job_id, run.c.state, run.c.slot_at).order_by(run.c.id))
    assert [row.id for row in made] == [firsts["rota_run"] + number for number in range(9)]
    assert {row.job_id for row in made} == {firsts["rota_job"]}
    slots = [
        [(row.state, row.slot_at) for row in made if row.schedule_id == schedule_id] for schedule_id in schedule_ids
    ]
    first, second, third = (BEGINNING + timedelta(minutes=number) for number in (1, 2, 3))
    assert slots[0] == [("succeeded", first), ("skipped", second), ("ready", third)]
    assert slots[1] == slots[2] == [("ready", first), ("skipped", second), ("skipped", third)]
    assert why_schedule(ledger.database, "s0", first)
    schedules.delete_schedule(ledger.database, "s1", actor=ANN)
    assert numbers(ledger, schedule) == [schedule_ids[0], schedule_ids[2]]


def test_a_run_under_limits_is_lost_and_rescued_and_fails_and_succeeds(ledger: Ledger, firsts: dict[str, int]) -> None:
    add_job(ledger, retries=1, retry_delay="0s", **LIMITS)
    run_ids = ledger.enqueue_many([NewRun("job", args=f'{{"tenant": "{name}"}}', run_key=name) for name in "xy"])
    assert run_ids == [firsts["rota_run"], firsts["rota_run"] + 1]
    assert ledger.enqueue(args='{"tenant": "x"}', run_key="x") == run_ids[0]
    taken = select(permit.c.scope, permit.c.job_id, permit.c.name).where(permit.c.claim_id.is_not(None))

    lost = ledger.started(ledger.claim_one("a"))
    assert lost.run_id == run_ids[0]
    assert lost.claim_id.endswith(f"-{run_ids[0]}")
    assert ledger.claim("b") == []  # a mutex is held
    job_id = firsts["rota_job"]
    assert sorted(map(tuple, ledger.rows(taken))) == [
        ("job", job_id, ""), ("key", job_id, "x"), ("mutex", 0, "disk"), ("mutex", 0, "tape"), ("rate", job_id, ""),
    ]  # fmt: skip
    assert min(numbers(ledger, permit)) == firsts["rota_permit"]
    outlive_lease(ledger)
    assert rescue_runs(ledger.database, rescuer="b") == 1
    assert {row.scope for row in ledger.rows(taken)} <= {"rate"}

    (failed,) = ledger.claim("b", 1)
    assert failed.run_id == run_ids[0]
    ledger.end(failed, "exited", exit_code=3)
    ledger.clock.advance(seconds=1)
    advance_runs(ledger.database)
    other = ledger.claim_one("c")  # which has waited longer
    ledger.end(other)
    last = ledger.claim_one("c")
    assert (other.run_id, last.run_id) == (run_ids[1], run_ids[0])
    assert ledger.end(last, result='{"rows": 1}', memory_bytes_max=2**53 + 1, stdout=Written(b"out", b"", 2**53 + 1))

    view = shown(ledger, run_ids[0])
    assert (view["id"], view["state"], view["result"]) == (run_ids[0], "succeeded", {"rows": 1})
    assert [tried["state"] for tried in view["attempts"]] == ["lost", "failed", "succeeded"]
    assert numbers(ledger, attempt) == [firsts["rota_attempt"] + number for number in range(4)]
    assert ledger.attempts(run_ids[0])[-1].memory_bytes_max == ledger.attempts(run_ids[0])[-1].stdout_bytes == 2**53 + 1
    assert output_of(ledger.database, run_ids[0]) == b"out"
    assert told_of(ledger) == set(run_ids)
    ledger.clock.advance(days=2)
    tidy_permits(ledger.database)


def test_neighbours_are_reported_renewed_frozen_and_cancelled_each_by_itself(
    ledger: Ledger, firsts: dict[str, int]
) -> None:
    add_job(ledger)
    run_ids = ledger.enqueue_many([NewRun("job")] * 4)
    claims = {claim.run_id: ledger.started(claim) for claim in ledger.claim("a")}
    one, two, three, four = run_ids
    assert sorted(claims) == run_ids

    report = Report(claims[two].claim_id, (Piece("stdout", 0, b"two"),), True, 0.5, "half", "[2]")
    keep_reports(ledger.database, {report.claim_id: report})
    freeze_run(ledger.database, three, actor=ANN)
    cancel_run(ledger.database, four, actor=ANN)

    assert [shown(ledger, run_id)["checkpoint"] for run_id in run_ids] == [None, [2], None, None]
    assert [output_of(ledger.database, run_id) for run_id in run_ids] == [b"", b"two", b"", b""]
    renewal = renew_claims(ledger.database, identity_of("a"), [claim.claim_id for claim in claims.values()], 60.0)
    assert renewal.kept == {claim.claim_id for claim in claims.values()}
    assert (renewal.frozen, set(renewal.cancelled)) == ({claims[three].claim_id}, {claims[four].claim_id})
    outlook = look(ledger.database, identity_of("a"), ("default",))
    assert (outlook.frozen_count, outlook.frozen_sum) == (1, three)
    freeze_run(ledger.database, two, actor=ANN)
    assert look(ledger.database, identity_of("a"), ("default",)).frozen_sum == two + three
    thaw_run(ledger.database, two, actor=ANN)
    assert look(ledger.database, identity_of("a"), ("default",)).frozen_sum == three

    ledger.end(claims[four], "cancelled")
    ledger.end_all([claims[one], claims[two], claims[three]])
    assert ledger.states() == ["succeeded", "succeeded", "succeeded", "cancelled"]
    rerun_run(ledger.database, two, actor=ANN)
    assert ledger.states() == ["succeeded", "ready", "succeeded", "cancelled"]
    skip_run(ledger.database, two, actor=ANN)
    mark_succeeded(ledger.database, four, actor=ANN)
    assert ledger.states() == ["succeeded", "skipped", "succeeded", "succeeded"]
    assert why_run(ledger.database, two)


def test_runs_are_listed_page_by_page_and_go_with_all_that_is_theirs(ledger: Ledger, firsts: dict[str, int]) -> None:
    add_job(ledger)
    run_ids = ledger.enqueue_many([NewRun("job")] * 5)
    for claim in ledger.claim("a"):
        ledger.end(claim, stdout=Written(b"out", b"", 3))

    pages: list[int] = []
    while page := list_runs(ledger.database, before=pages[-1] if pages else None, limit=2):
        pages += [view["id"] for view in page]
    assert pages == run_ids[::-1]
    assert read_status(ledger.database)

    ledger.clock.advance(days=2)
    after, gone = 0, 0
    while not (removed := remove_runs(ledger.database, dict.fromkeys(KEEP_DEFAULT, 86400.0), after=after)).is_over:
        gone, after = gone + removed.runs, removed.after
    assert gone + removed.runs == 4
    while remove_events(ledger.database):
        pass
    assert numbers(ledger, run) == run_ids[-1:]
    assert [row.run_id for row in ledger.rows(select(attempt.c.run_id))] == run_ids[-1:]
    assert {row.run_id for row in ledger.rows(select(event.c.run_id).where(event.c.run_id.is_not(None)))} == {
        run_ids[-1]
    }
    assert ledger.value("select count(*) from rota_output") == 1


def test_runs_on_all_nodes_make_one_group_and_a_breaker_holds_its_own_job(
    ledger: Ledger, firsts: dict[str, int]
) -> None:
    for name in "ab":
        start_node(ledger, name)
    add_job(ledger, on="all")
    add_job(ledger, "fragile", breaker_failures=1, breaker_pause="5m")
    schedules.add_schedule(ledger.database, ScheduleSpec.checked("each", job="job", cron="* * * * *"), actor=ANN)
    fragile = ledger.enqueue_many([NewRun("fragile")] * 2)
    ledger.end(ledger.claim_one(), "exited", exit_code=1)
    ledger.clock.advance(minutes=1)

    assert fire_schedules(ledger.database, fired_by="a").runs == 2
    claims: list[Claim] = [*ledger.claim("a"), *ledger.claim("b")]
    assert {claim.job for claim in claims} == {"job"}  # the other one is held
    ledger.end_all(claims)

    (group_id,) = {ledger.run(claim.run_id).group_id for claim in claims}
    assert group_id.startswith(f"slot-{firsts['rota_schedule']}-")
    assert {view["id"] for view in read_group(ledger.database, group_id)["runs"]} == {c.run_id for c in claims}
    ledger.clock.advance(minutes=6)
    let_runs_through(ledger.database)
    assert [claim.run_id for claim in ledger.claim("a") if claim.job == "fragile"] == fragile[1:]
    assert numbers(ledger, job) == [firsts["rota_job"], firsts["rota_job"] + 1]
