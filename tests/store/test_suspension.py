"""Pools that are paused and nodes that drain: what is claimed, what goes on, and what every answer says of it."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, select, update

from rota.errors import NotFound
from rota.model.environment import NO_ENVIRONMENTS
from rota.model.findings import FindingCode, Severity
from rota.model.run import Claim, NewRun, NodeIdentity
from rota.model.states import NodeState, RunState
from rota.store.advancing import advance_runs
from rota.store.firing import fire_schedules
from rota.store.health import check_health
from rota.store.history import why_job, why_run
from rota.store.interventions import freeze_run
from rota.store.jobs import pause_job, resume_job
from rota.store.leases import FIND_CLAIMABLE_LOCKED, renew_claims
from rota.store.nodes import describe_node, list_nodes, read_node
from rota.store.outlook import look
from rota.store.schedules import pause_schedule
from rota.store.slot_history import why_schedule
from rota.store.status import read_status
from rota.store.suspension import drain_node, list_pools, pause_pool, resume_node, resume_pool
from rota.store.tables import event, node
from tests.clock import Clock
from tests.store.ledger import LEASE_SECONDS, Ledger, identity_of, statements_of
from tests.store.living import start_node, stop_node

ANN = "ann@desk"
BOB = "bob@desk"


def pause(ledger: Ledger, name: str = "default") -> None:
    pause_pool(ledger.database, name, actor=ANN)


def drain(ledger: Ledger, name: str = "a") -> None:
    drain_node(ledger.database, name, actor=ANN)


def state_of(ledger: Ledger, name: str = "a") -> str:
    """As it stands in the row, for those who read with SQL."""
    return ledger.value(select(node.c.state).where(node.c.name == name))


def told(ledger: Ledger, kind: str) -> list[tuple[str, str | None]]:
    rows = ledger.rows(select(event).where(event.c.kind == kind, event.c.actor.is_not(None)).order_by(event.c.id))
    return [(row.to_state, row.actor) for row in rows]


# Pools


def test_of_a_paused_pool_nothing_is_claimed_and_the_others_go_on(ledger: Ledger) -> None:
    start_node(ledger, pools=("default", "reports"))
    ledger.add_job()
    ledger.add_job("report", pool="reports")
    held = ledger.enqueue_many([NewRun("job")] * 2)
    (free,) = ledger.enqueue_many([NewRun("report")])
    pause(ledger)

    claims = ledger.claim(pools=("default", "reports"))

    assert [claim.run_id for claim in claims] == [free]
    assert not look(ledger.database, identity_of("a"), ["default"]).has_ready
    resume_pool(ledger.database, "default", actor=BOB)
    assert look(ledger.database, identity_of("a"), ["default"]).has_ready
    assert [claim.run_id for claim in ledger.claim()] == held
    assert told(ledger, "pool") == [("paused", ANN), ("resumed", BOB)]


def test_what_runs_in_a_pool_that_is_paused_goes_on_to_its_end(ledger: Ledger) -> None:
    start_node(ledger)
    claim = ledger.start_one()
    pause(ledger)

    renewal = renew_claims(ledger.database, identity_of("a"), [claim.claim_id], LEASE_SECONDS)
    ledger.end(claim)

    assert renewal.kept == {claim.claim_id}
    assert not renewal.cancelled
    assert ledger.run(claim.run_id).state == RunState.SUCCEEDED


def test_a_retry_of_a_paused_pool_waits_for_it(ledger: Ledger, clock: Clock) -> None:
    start_node(ledger)
    claim = ledger.start_one(retries=1)
    pause(ledger)
    ledger.end(claim, "exited", exit_code=1)
    clock.advance(seconds=20)
    advance_runs(ledger.database)

    assert ledger.run(claim.run_id).state == RunState.READY
    assert ledger.claim() == []
    resume_pool(ledger.database, "default", actor=ANN)
    assert ledger.claim_one().attempt == 2


def test_schedules_of_a_paused_pool_fire_and_start_windows_bind(ledger: Ledger, clock: Clock) -> None:
    start_node(ledger)
    ledger.add_job(start_within_seconds=30.0)
    ledger.add_schedule(next_slot_at=clock.now)
    pause(ledger)

    fire_schedules(ledger.database, fired_by="a")
    fired = ledger.states()
    clock.advance(seconds=31)
    advance_runs(ledger.database)

    (missed,) = ledger.runs()
    assert fired == [RunState.READY]
    assert missed.state == RunState.MISSED
    assert missed.reason_text.endswith("its pool is paused")


def test_pausing_twice_keeps_who_did_it_first_and_tells_it_once(ledger: Ledger, clock: Clock) -> None:
    start_node(ledger)
    pause(ledger)
    clock.advance(seconds=5)

    view = pause_pool(ledger.database, "default", actor=BOB)

    assert (view["state"], view["paused_at"], view["paused_by"]) == ("paused", "2026-11-02T12:00:00.000000Z", ANN)
    assert told(ledger, "pool") == [("paused", ANN)]
    active = resume_pool(ledger.database, "default", actor=BOB)
    resume_pool(ledger.database, "default", actor=BOB)
    assert (active["state"], active["paused_at"], active["paused_by"]) == ("active", None, None)
    assert told(ledger, "pool") == [("paused", ANN), ("resumed", BOB)]


def test_a_pool_stays_paused_when_a_node_of_it_comes(ledger: Ledger) -> None:
    start_node(ledger)
    pause(ledger)

    start_node(ledger, "b")

    assert [(view["name"], view["state"]) for view in list_pools(ledger.database)] == [("default", "paused")]


def test_a_pool_that_no_node_has_worked_for_is_not_found_and_says_how_it_would_be(ledger: Ledger) -> None:
    for change in (pause_pool, resume_pool):
        with pytest.raises(NotFound, match=r"no pool 'reports'; a pool is known once a node works for it"):
            change(ledger.database, "reports", actor=ANN)

    assert told(ledger, "pool") == []


def test_pools_are_listed_with_the_nodes_that_claim_for_them_and_what_is_ready(ledger: Ledger) -> None:
    start_node(ledger, "a", pools=("default", "reports"))
    start_node(ledger, "b", pools=("reports",))
    start_node(ledger, "c", pools=("reports",))
    ledger.add_job(pool="reports")
    ledger.enqueue_many([NewRun("job")] * 3)
    drain(ledger, "b")

    views = list_pools(ledger.database)

    assert [(view["name"], view["nodes"], view["slots"], view["ready"]) for view in views] == [
        ("default", ["a"], 4, 0),
        ("reports", ["a", "c"], 8, 3),
    ]
    assert [view["name"] for view in list_pools(ledger.database, after="default", limit=1)] == ["reports"]


# Nodes


def test_a_node_that_drains_claims_nothing_and_keeps_what_it_runs(ledger: Ledger) -> None:
    start_node(ledger)
    start_node(ledger, "b")
    claim = ledger.start_one()
    run_id = ledger.enqueue()
    drain(ledger)

    seen = look(ledger.database, identity_of("a"), ["default"])
    mine = ledger.claim("a")
    renewal = renew_claims(ledger.database, identity_of("a"), [claim.claim_id], LEASE_SECONDS)

    assert (seen.is_drained, seen.has_ready, mine) == (True, False, [])
    assert renewal.kept == {claim.claim_id}
    assert renewal.node_state is NodeState.DRAINING
    assert look(ledger.database, identity_of("b"), ["default"]).has_ready
    assert ledger.claim_one("b").run_id == run_id
    assert told(ledger, "node") == [("draining", ANN)]


def test_a_node_that_is_resumed_claims_again(ledger: Ledger) -> None:
    start_node(ledger)
    ledger.add_job()
    ledger.enqueue()
    drain(ledger)
    drain_node(ledger.database, "a", actor=BOB)
    drained = read_node(ledger.database, "a")

    view = resume_node(ledger.database, "a", actor=BOB)
    resume_node(ledger.database, "a", actor=BOB)

    assert (drained["state"], drained["drain_asked_by"]) == ("draining", ANN)
    assert drained["drain_asked_at"] == "2026-11-02T12:00:00.000000Z"
    assert (view["state"], view["drain_asked_at"], view["drain_asked_by"]) == ("alive", None, None)
    assert ledger.claim_one("a")
    assert told(ledger, "node") == [("draining", ANN), ("resumed", BOB)]


def test_a_drain_outlasts_what_the_node_says_of_itself(ledger: Ledger) -> None:
    start_node(ledger)
    drain(ledger)

    describe_node(ledger.database, identity_of("a"), state=NodeState.ALIVE, pools=["default", "new"], slots=9)

    assert state_of(ledger) == "draining"
    assert read_node(ledger.database, "a")["slots"] == 9


def test_a_drain_outlasts_the_process_whoever_goes_by_the_name_next(ledger: Ledger) -> None:
    start_node(ledger)
    drain(ledger)
    stop_node(ledger)
    gone = state_of(ledger)

    start_node(ledger)

    assert (gone, state_of(ledger)) == ("gone", "draining")
    last = read_node(ledger.database, "a")["events"][-1]
    assert last["to"] == "gone"  # the same process came back, which is no news
    ledger.execute(update(node).values(holder="of another process", lease_ends_at=None))
    start_node(ledger)
    last = read_node(ledger.database, "a")["events"][-1]
    assert (state_of(ledger), last["to"]) == ("draining", "draining")
    assert last["text"].endswith(f"and claims nothing: {ANN} asked it to drain")


def test_a_node_that_is_gone_can_be_drained_before_it_comes_back_and_resumed(ledger: Ledger) -> None:
    for name in ("a", "b"):
        start_node(ledger, name)
        stop_node(ledger, name)
        drain(ledger, name)
    resume_node(ledger.database, "b", actor=BOB)
    states = [view["state"] for view in list_nodes(ledger.database)]

    for name in ("a", "b"):
        start_node(ledger, name)

    assert states == ["gone", "gone"]
    assert [view["state"] for view in list_nodes(ledger.database)] == ["draining", "alive"]


def test_a_worker_that_was_told_to_leave_says_that_it_drains_as_before(ledger: Ledger) -> None:
    start_node(ledger)

    describe_node(ledger.database, identity_of("a"), state=NodeState.DRAINING, pools=["default"], slots=4)

    assert state_of(ledger) == "draining"
    assert read_node(ledger.database, "a")["drain_asked_at"] is None
    start_node(ledger)
    assert state_of(ledger) == "alive"


def test_a_node_that_nobody_knows_is_neither_drained_nor_resumed(ledger: Ledger) -> None:
    for change in (drain_node, resume_node):
        with pytest.raises(NotFound, match="node 'beta'"):
            change(ledger.database, "beta", actor=ANN)


def test_a_drain_is_seen_by_a_claim_while_the_node_is_renewing(ledger: Ledger) -> None:
    if ledger.database.dialect.name == "sqlite":
        pytest.skip("one writer at a time there")
    start_node(ledger)
    ledger.add_job()
    ledger.enqueue()
    drain(ledger)
    other = ledger.connect()

    def renewing(connection: Connection) -> list[Claim]:
        # Its row is locked by this transaction, as by a renewal that has not committed.
        connection.execute(update(node).where(node.c.name == "a").values(slots=5))
        return ledger.claim("a", database=other)

    assert ledger.database.write(renewing, repeatable=False) == []


def test_a_claim_under_way_holds_up_neither_a_renewal_nor_a_pause(ledger: Ledger) -> None:
    if ledger.database.dialect.name == "sqlite":
        pytest.skip("one writer at a time there")
    start_node(ledger)
    ledger.add_job()
    ledger.enqueue()
    other = ledger.connect()

    def claiming(connection: Connection) -> list[int]:
        wanted = {"in_pool": "default", "for_node": "a", "limit": 1, "without_jobs": [0]}
        wanted["environments"] = NO_ENVIRONMENTS.wanted
        found = connection.execute(FIND_CLAIMABLE_LOCKED, wanted).scalars().all()
        renew_claims(other, identity_of("a"), [], LEASE_SECONDS)
        pause_pool(other, "default", actor=ANN)
        drain_node(other, "a", actor=ANN)
        return list(found)

    assert len(ledger.database.write(claiming, repeatable=False)) == 1


def test_asking_for_what_is_suspended_takes_no_statement_of_its_own(ledger: Ledger) -> None:
    start_node(ledger)
    ledger.add_job()
    ledger.enqueue()
    drain(ledger)

    with statements_of(ledger.database) as sent:
        look(ledger.database, identity_of("a"), ["default"])
        ledger.claim("a")

    assert len(sent) == 2


def test_another_process_that_is_no_node_is_not_drained(ledger: Ledger) -> None:
    start_node(ledger)
    drain(ledger)
    ledger.add_job()
    ledger.enqueue()

    assert not look(ledger.database, NodeIdentity("client:alpha:1", "holder", "boot"), ["default"]).is_drained
    assert ledger.claim_one("client:alpha:1")


# What is said of it


def test_why_a_ready_run_has_not_started_names_who_paused_its_pool(ledger: Ledger) -> None:
    start_node(ledger)
    ledger.add_job()
    run_id = ledger.enqueue()
    waiting = ledger.enqueue(in_seconds=60.0)
    pause(ledger)
    said = f"pool default is paused since 2026-11-02T12:00:00Z, by {ANN}: `rota pool resume default`"

    because = why_run(ledger.database, run_id)["because"]

    assert because[0] == said
    assert not any("offered" in sentence for sentence in because)
    assert said in why_run(ledger.database, waiting)["because"]
    assert said in why_job(ledger.database, "job")["because"]


def test_why_a_ready_run_has_not_started_names_who_drains_its_nodes(ledger: Ledger) -> None:
    start_node(ledger, "a")
    start_node(ledger, "b")
    ledger.add_job()
    run_id = ledger.enqueue()
    drain(ledger, "a")
    one_left = why_run(ledger.database, run_id)["because"]
    describe_node(ledger.database, identity_of("b"), state=NodeState.DRAINING, pools=["default"], slots=4)

    because = why_run(ledger.database, run_id)["because"]

    assert "it is offered to b (4 of 4 slots free)" in one_left
    # The one that was seen last comes first; both were seen at the same moment.
    assert because[0].startswith("no node of pool default claims anything: ")
    assert f"a drains since 2026-11-02T12:00:00Z, as {ANN} asked: `rota node resume a`" in because[0]
    assert "b drains, and will leave" in because[0]


def test_runs_that_are_late_in_a_paused_pool_are_a_warning_however_late(ledger: Ledger, clock: Clock) -> None:
    start_node(ledger)
    ledger.add_job()
    run_id = ledger.enqueue()
    pause(ledger)
    soon = check_health(ledger.database).findings
    clock.advance(hours=2)
    start_node(ledger)

    (found,) = check_health(ledger.database).findings

    assert soon == ()
    assert (found.severity, found.code, found.subject) == (Severity.WARNING, FindingCode.POOL_PAUSED, "default")
    assert found.text == (
        f"1 run is ready in pool default, for up to 2h: run {run_id} of job; "
        f"pool default is paused since 2026-11-02T12:00:00Z, by {ANN}: `rota pool resume default`"
    )


def test_a_paused_pool_that_nobody_serves_is_not_called_empty(ledger: Ledger, clock: Clock) -> None:
    start_node(ledger, pools=("reports",))
    ledger.add_job(pool="reports")
    ledger.enqueue()
    pause(ledger, "reports")
    stop_node(ledger)
    clock.advance(hours=1)
    start_node(ledger, "b")

    codes = {found.code for found in check_health(ledger.database).findings}

    assert codes == {FindingCode.POOL_PAUSED}


def test_runs_that_are_late_while_all_nodes_of_their_pool_drain_are_a_warning(ledger: Ledger, clock: Clock) -> None:
    start_node(ledger, "a")
    start_node(ledger, "b", pools=("reports",))
    ledger.add_job()
    ledger.enqueue()
    drain(ledger)
    clock.advance(hours=2)
    start_node(ledger, "a")
    start_node(ledger, "b", pools=("reports",))

    (found,) = check_health(ledger.database).findings

    assert (found.severity, found.code, found.subject) == (Severity.WARNING, FindingCode.POOL_DRAINED, "default")
    assert found.text.endswith(
        "no node of pool default claims anything: "
        f"a drains since 2026-11-02T12:00:00Z, as {ANN} asked: `rota node resume a`"
    )


def test_status_names_what_is_paused_and_which_node_drains(ledger: Ledger) -> None:
    start_node(ledger)
    pause(ledger)
    drain(ledger)

    status = read_status(ledger.database)

    assert status["paused_pools"] == ["default"]
    assert [view["state"] for view in status["nodes"]] == ["draining"]


def test_status_and_why_say_since_when_and_by_whom_a_job_a_schedule_and_a_run_are_held(
    ledger: Ledger, clock: Clock
) -> None:
    start_node(ledger)
    claim = ledger.start_one()
    ledger.add_schedule(next_slot_at=clock.now)
    ledger.add_job("other", state="paused")  # by hand: no event tells of it
    pause_job(ledger.database, "job", actor=BOB)
    resume_job(ledger.database, "job", actor=BOB)
    pause_job(ledger.database, "job", actor=ANN)
    clock.advance(seconds=1)
    pause_schedule(ledger.database, "each", actor=BOB)
    clock.advance(seconds=1)
    freeze_run(ledger.database, claim.run_id, actor=ANN)

    job_since, schedule_since = f"since 2026-11-02T12:00:00Z, by {ANN}", f"since 2026-11-02T12:00:01Z, by {BOB}"
    status = read_status(ledger.database)
    assert [one["text"] for one in status["suspended"]] == [
        f"job job is paused {job_since}: `rota job resume job`",
        "job other is paused: `rota job resume other`",
        f"schedule each is paused {schedule_since}: `rota schedule resume each`",
        f"run {claim.run_id} is frozen since 2026-11-02T12:00:02Z, by {ANN}: `rota run thaw {claim.run_id}`",
    ]
    assert (status["paused_jobs"], status["paused_schedules"]) == (["job", "other"], ["each"])
    assert why_job(ledger.database, "job")["because"][0].startswith(f"it is paused {job_since}: none of its runs")
    assert (
        f"it is paused {schedule_since}: `rota schedule resume each`"
        in why_schedule(ledger.database, "each")["because"]
    )


def test_a_moment_that_was_broken_by_hand_stops_no_answer(ledger: Ledger) -> None:
    start_node(ledger)
    ledger.add_job()
    run_id = ledger.enqueue()
    ledger.execute("update rota_pool set state = 'paused'")  # nobody says since when, or who

    because = why_run(ledger.database, run_id)["because"]

    assert because[0] == "pool default is paused: `rota pool resume default`"
    assert ledger.claim() == []
    assert resume_pool(ledger.database, "default", actor=ANN)["state"] == "active"
