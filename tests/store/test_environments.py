"""Runs whose job asks for an environment: taken by nodes that have it, noted with what they got, explained before."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text

from rota.model.environment import Environment, Environments
from rota.model.job import JobSpec
from rota.model.states import NodeState
from rota.store.advancing import advance_runs
from rota.store.findings import watch_health
from rota.store.health import check_health
from rota.store.history import why_job, why_run
from rota.store.jobs import declare_job
from rota.store.nodes import describe_node, list_nodes, read_node
from rota.store.outlook import look
from rota.store.runs import read_run
from rota.store.slot_history import why_schedule
from tests.clock import Clock
from tests.store.ledger import Ledger, identity_of, statements_of
from tests.store.living import start_node, stop_node

pytestmark = pytest.mark.cases_take_turns


def having(*spelled: str) -> Environments:
    pairs = (one.split("==") for one in spelled)
    return Environments(Environment.checked(name, version=version) for name, version in pairs)


def taken(ledger: Ledger, *spelled: str) -> list[str]:
    """Claim for a node that has these, and return the jobs of what it got."""
    return sorted(claim.job for claim in ledger.claim(environments=having(*spelled)))


@pytest.mark.parametrize(
    ("spelled", "jobs"),
    [
        ((), ["plain"]),
        (("tools==1",), ["plain"]),
        (("shop==1.1",), ["any", "plain"]),
        (("shop==1.2",), ["any", "exact", "plain"]),
        (("shop==1.1", "shop==1.2"), ["any", "exact", "plain"]),
    ],
)
def test_a_node_takes_what_it_has_the_environment_for(
    ledger: Ledger, spelled: tuple[str, ...], jobs: list[str]
) -> None:
    for name, env in (("plain", None), ("any", "shop"), ("exact", "shop==1.2")):
        ledger.add_job(name, env=env)
        ledger.enqueue(name)

    assert taken(ledger, *spelled) == jobs


def test_a_look_tells_of_no_run_that_the_node_cannot_take(ledger: Ledger) -> None:
    ledger.add_job(env="shop==1.2")
    ledger.enqueue()

    def has_ready(*spelled: str) -> bool:
        return look(ledger.database, identity_of("a"), ["default"], having(*spelled)).has_ready

    assert [has_ready(), has_ready("shop==1.1"), has_ready("shop==1.2")] == [False, False, True]


def test_names_are_compared_exactly(ledger: Ledger) -> None:
    ledger.add_job(env="Shop")
    ledger.enqueue()

    assert taken(ledger, "shop==1", "Shöp==1") == []
    assert taken(ledger, "Shop==1") == ["job"]


def test_an_edited_job_counts_for_the_runs_that_wait(ledger: Ledger) -> None:
    ledger.add_job(env="shop==1.1")
    ledger.enqueue()
    before = taken(ledger, "shop==1.2")

    ledger.set_job(env="shop==1.2")

    assert (before, taken(ledger, "shop==1.2")) == ([], ["job"])


def test_a_run_and_each_of_its_attempts_keep_what_they_were_claimed_for(ledger: Ledger, clock: Clock) -> None:
    ledger.add_job(env="shop", retries=2, retry_delay_seconds=0.0)
    run_id = ledger.enqueue()
    waiting = read_run(ledger.database, run_id)["environment"]

    def attempt(*spelled: str) -> Any:
        (claim,) = ledger.claim(environments=having(*spelled))
        seen = read_run(ledger.database, run_id)["environment"]
        ledger.end(claim, "exited", exit_code=1)
        advance_runs(ledger.database)
        return claim.environment and claim.environment.spelled, seen

    first = attempt("shop==1.9", "shop==1.10")
    second = attempt("shop==1.9")
    ledger.set_job(env=None)
    third = attempt("shop==1.9")

    assert waiting is None
    assert (first, second, third) == (("shop==1.10",) * 2, ("shop==1.9",) * 2, (None, None))
    assert [one["environment"] for one in read_run(ledger.database, run_id)["attempts"]] == [
        "shop==1.10", "shop==1.9", None,
    ]  # fmt: skip
    assert [(one.environment, one.environment_version) for one in ledger.attempts(run_id)] == [
        ("shop", "1.10"), ("shop", "1.9"), (None, None),
    ]  # fmt: skip


def test_claiming_what_asks_for_no_environment_takes_no_statement_more(ledger: Ledger) -> None:
    ledger.add_job("plain")
    ledger.add_job("pinned", env="shop")

    def count(job: str) -> int:
        ledger.enqueue(job)
        with statements_of(ledger.database) as sent:
            (claim,) = ledger.claim(environments=having("shop==1"))
        assert claim.job == job
        return len(sent)

    plain, pinned = count("plain"), count("pinned")

    assert pinned == plain + 2


def test_an_empty_text_written_by_hand_asks_for_none(ledger: Ledger) -> None:
    ledger.add_job(env="")
    ledger.enqueue()

    (claim,) = ledger.claim(environments=having("shop==1"))

    assert (claim.env, claim.environment) == (None, None)


def test_a_node_tells_what_it_has_and_what_it_has_from_now_on(ledger: Ledger) -> None:
    start_node(ledger, environments=("shop==1.1", "tools==3"))
    before = read_node(ledger.database, "a")["environments"]

    facts: dict[str, Any] = {"state": NodeState.ALIVE, "pools": ("default",), "slots": 4}
    describe_node(ledger.database, identity_of("a"), environments=("shop==1.2",), **facts)

    assert before == ["shop==1.1", "tools==3"]
    (shown,) = list_nodes(ledger.database)
    assert shown["environments"] == ["shop==1.2"]
    assert read_node(ledger.database, "a")["events"][-1]["text"].endswith("with 4 slots and has shop==1.2")


def test_a_node_of_an_older_program_has_none(ledger: Ledger) -> None:
    start_node(ledger)
    ledger.execute("update rota_node set environments = null")

    assert read_node(ledger.database, "a")["environments"] == []


# Why it waits


def because(ledger: Ledger, env: str = "shop==1.2") -> str:
    """Say what decides that a run of a job with this environment waits."""
    if not ledger.rows(text("select 1 from rota_job")):
        ledger.add_job(env=env)
        ledger.enqueue()
    return why_run(ledger.database, 1)["because"][0]


def test_a_run_that_waits_for_an_environment_names_the_versions_that_are_there(ledger: Ledger) -> None:
    for name, has in (("a", "shop==1.1"), ("b", "shop==1.1"), ("c", "tools==1.2"), ("d", "shop==1.3")):
        start_node(ledger, name, environments=(has,))
        ledger.clock.advance(seconds=1)

    answer = because(ledger)

    assert answer == ("no node alive in pool default has environment shop==1.2; d has shop==1.3; b, a have shop==1.1")
    assert why_job(ledger.database, "job")["because"][0] == answer
    ledger.add_schedule(next_slot_at=ledger.clock.after(60))
    assert answer in why_schedule(ledger.database, "each")["because"]


def test_a_run_that_waits_for_an_environment_names_a_node_elsewhere_that_has_it(ledger: Ledger, clock: Clock) -> None:
    start_node(ledger, "b", environments=("shop==1.2",))
    clock.advance(minutes=2)
    start_node(ledger, "a")
    gone = because(ledger)
    start_node(ledger, "c", pools=("other",), environments=("shop==1.2",))

    assert gone == (
        "no node alive in pool default has environment shop==1.2; b has it, and is not alive, seen 2026-11-02T12:00:00Z"
    )
    assert because(ledger).endswith("; c has it, and serves other")


def test_a_run_whose_environment_nobody_knows_says_what_to_do(ledger: Ledger) -> None:
    start_node(ledger)

    assert because(ledger, "shop") == (
        "no node alive in pool default has environment shop: register it on one, in its configuration or by "
        "installing what registers it"
    )


def test_a_run_whose_environment_was_written_wrong_by_hand_says_how_to_correct_it(ledger: Ledger) -> None:
    start_node(ledger, environments=("shop==1.2",))

    assert because(ledger, "shop==").startswith("env 'shop==' is refused: a version is text")
    assert because(ledger).endswith("correct it with `rota job edit`")
    assert taken(ledger, "shop==1.2") == []


def test_a_run_is_offered_to_the_nodes_that_have_its_environment(ledger: Ledger) -> None:
    start_node(ledger, "a", slots=1)
    start_node(ledger, "b", environments=("shop==1.2",))
    ledger.add_job(env="shop")
    run_id = ledger.enqueue()

    assert "it is offered to b (4 of 4 slots free)" in why_run(ledger.database, run_id)["because"]


# It is noticed


def missing(ledger: Ledger) -> dict[str, tuple[str, str]]:
    found = check_health(ledger.database).findings
    return {one.subject: (one.severity.value, one.text) for one in found if one.code.value == "environment_missing"}


def test_work_for_an_environment_that_no_node_has_is_found(ledger: Ledger, clock: Clock) -> None:
    start_node(ledger, "a", pools=("default", "other"), environments=("here==1",))
    for name, env in (("now", "now==1"), ("later", "later"), ("idle", "idle"), ("here", "here"), ("paused", "paused")):
        ledger.add_job(name, env=env, state="paused" if name == "paused" else "active")
    for name in ("later", "here", "paused"):
        ledger.add_schedule(name, name, next_slot_at=clock.after(60))
    ledger.enqueue("now")
    ledger.enqueue("here")

    assert missing(ledger) == {
        "now==1": (
            "critical",
            "runs are ready, and no node alive in pool default has environment now==1: register it on one, in its "
            "configuration or by installing what registers it",
        ),
        "later": (
            "warning",
            "schedules of its jobs come due, and no node alive in pool default has environment later: register it on "
            "one, in its configuration or by installing what registers it",
        ),
    }


def test_an_environment_that_two_pools_lack_is_told_once(ledger: Ledger) -> None:
    start_node(ledger, "a", pools=("default", "other"))
    for pool in ("default", "other"):
        ledger.add_job(pool, pool=pool, env="shop")
        ledger.enqueue(pool)

    told = watch_health(ledger.database, node="a")

    assert told is not None
    assert told.begun == 1
    assert list(missing(ledger)) == ["shop"]
    assert missing(ledger)["shop"][1].count("no node alive in pool") == 2


def test_a_node_that_said_goodbye_may_come_back_before_its_environment_is_missed(ledger: Ledger, clock: Clock) -> None:
    ledger.add_job(env="shop")
    ledger.enqueue()
    start_node(ledger, "b", environments=("shop==1",))
    stop_node(ledger, "b")
    start_node(ledger, "a")
    soon = missing(ledger)
    clock.advance(minutes=6)
    start_node(ledger, "a")

    assert soon == {}
    assert missing(ledger)["shop"][0] == "critical"


def test_runs_that_are_late_for_want_of_an_environment_say_so(ledger: Ledger, clock: Clock) -> None:
    ledger.add_job(env="shop")
    ledger.enqueue()
    clock.advance(minutes=2)
    start_node(ledger, "a")

    (late,) = [one for one in check_health(ledger.database).findings if one.code.value == "run_late"]

    assert "no node alive in pool default has environment shop" in late.text


# Upgrades


def test_what_an_older_program_declared_is_not_taken_for_edited_elsewhere(ledger: Ledger) -> None:
    old = JobSpec.checked("mine", kind="shell", target="true")
    declare_job(ledger.database, old, module="app", actor="t")
    ledger.execute("update rota_job set declared = replace(declared, :new, '')", new='"env":null,')

    outcome, difference = declare_job(ledger.database, old.edited(env="shop"), module="app", actor="t")

    assert (outcome, difference) == ("changed", 'env null -> "shop"')
