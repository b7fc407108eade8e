"""Pools by rule: which nodes serve them, changing that, and deleting pools."""

from __future__ import annotations

import json
import re

import pytest
from sqlalchemy import insert, select, update

from rota.errors import AlreadyExists, Conflict, Invalid, NotFound
from rota.model.findings import FindingCode, Severity
from rota.model.placement import PoolRule
from rota.model.run import NewRun, NodeIdentity
from rota.model.states import NodeState
from rota.store.health import check_health
from rota.store.membership import (
    NODES_MAX,
    add_member,
    correct_absent_nodes,
    create_pool,
    delete_pool,
    edit_pool,
    is_known,
    read_pool,
    remove_member,
)
from rota.store.nodes import describe_node, read_node, register_node
from rota.store.outlook import look
from rota.store.pool_rules import read_served
from rota.store.requests import request_runs
from rota.store.suspension import list_pools
from rota.store.tables import node, pool
from tests.clock import Clock
from tests.store.ledger import LEASE_SECONDS, Ledger, identity_of, statements_of
from tests.store.living import start_node, stop_node

pytestmark = pytest.mark.cases_take_turns

ANN = "ann@desk"


def start(ledger: Ledger, name: str, *pools: str, **labels: str) -> None:
    register_node(
        ledger.database,
        NodeIdentity("", f"holder-of-{name}", "boot"),
        host=name,
        pid=1,
        pid_started=1,
        pools=pools or ("default",),
        slots=4,
        version="0.1.0",
        lease_seconds=LEASE_SECONDS,
        labels=labels,
    )


def create(ledger: Ledger, name: str, **parts: object) -> None:
    create_pool(ledger.database, PoolRule.checked(name, **parts), actor=ANN)


def pools_of(ledger: Ledger, name: str) -> list[str]:
    return json.loads(ledger.value(select(node.c.pools).where(node.c.name == name)))


def test_a_node_serves_its_own_pools_and_those_whose_rule_names_it(ledger: Ledger) -> None:
    create(ledger, "by-member", members=["web1", "x"])
    create(ledger, "by-pattern", patterns=["db*", "web?"])
    create(ledger, "by-labels", labels={"gpu": "yes", "zone": "eu"})
    create(ledger, "not-all-labels", labels={"gpu": "yes", "zone": "us"})
    create(ledger, "other-case", patterns=["WEB*"], members=["Web1"])
    create(ledger, "nobody")

    start(ledger, "web1", "own", "by-member", gpu="yes", zone="eu", rack="4")

    assert pools_of(ledger, "web1") == ["own", "by-member", "by-labels", "by-pattern"]
    shown = read_node(ledger.database, "web1")
    assert shown["labels"] == {"gpu": "yes", "rack": "4", "zone": "eu"}


def test_a_node_that_describes_itself_anew_serves_what_its_new_labels_give_it(ledger: Ledger) -> None:
    create(ledger, "gpus", labels={"gpu": "yes"})
    start(ledger, "a")
    described = {"state": NodeState.ALIVE, "pools": ["default"], "slots": 4}

    served = describe_node(ledger.database, identity_of("a"), **described, labels={"gpu": "yes"})  # type: ignore[arg-type]

    assert served == ("default", "gpus")
    assert pools_of(ledger, "a") == ["default", "gpus"]
    assert describe_node(ledger.database, identity_of("a"), **described) == ("default",)  # type: ignore[arg-type]
    assert pools_of(ledger, "a") == ["default"]


def test_asking_which_pools_are_served_is_one_statement_however_many_rules_there_are(ledger: Ledger) -> None:
    for number in range(5):
        create(ledger, f"p{number}", patterns=["a*"])
    start(ledger, "a")

    with statements_of(ledger.database) as sent:
        served = read_served(ledger.database, ("default",), "a", {})

    assert served == ("default", "p0", "p1", "p2", "p3", "p4")
    assert len(sent) == 1
    assert look(ledger.database, identity_of("a"), ["default"]).has_rules


def test_members_come_and_go_and_each_change_is_told_once(ledger: Ledger) -> None:
    start(ledger, "a")
    create(ledger, "p")

    add_member(ledger.database, "p", "a", actor=ANN)
    twice = add_member(ledger.database, "p", "a", actor=ANN)
    removed = remove_member(ledger.database, "p", "a", actor=ANN)

    assert (twice["members"], removed["members"]) == (["a"], [])
    told = ledger.rows("select to_state, actor from rota_event where kind = 'pool' order by id")
    assert [tuple(row) for row in told] == [("added", ANN), ("edited", ANN), ("edited", ANN)]
    with pytest.raises(NotFound, match="member 'a'"):
        remove_member(ledger.database, "p", "a", actor=ANN)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"patterns": ["a*"]},
            "there is no member 'a'; it serves pool p by nodes a*, which `rota pool edit p` changes",
        ),
        ({}, "there is no member 'a'; it names pool p itself, with --pool p or in its settings"),
    ],
)
def test_who_is_no_member_and_serves_the_pool_all_the_same_is_told_why(
    ledger: Ledger, parts: dict[str, object], said: str
) -> None:
    create(ledger, "p", **parts)
    start(ledger, "a", *(("p",) if not parts else ()))

    with pytest.raises(NotFound, match=f"^{re.escape(said)}$"):
        remove_member(ledger.database, "p", "a", actor=ANN)


def test_who_is_no_member_and_does_not_serve_the_pool_is_told_where_its_members_are(ledger: Ledger) -> None:
    create(ledger, "p", members=["a"])

    with pytest.raises(NotFound, match=r"^there is no member 'b'; `rota pool show p` has the members of pool p$"):
        remove_member(ledger.database, "p", "b", actor=ANN)


def test_a_pool_is_shown_with_all_its_nodes_and_what_names_each(ledger: Ledger) -> None:
    create(ledger, "p", members=["m"], patterns=["web*"], labels={"gpu": "yes"})
    for name in ("m", "web1", "x"):
        start(ledger, name)
    start(ledger, "g", gpu="yes")
    start(ledger, "own", "p")
    stop_node(ledger, "web1")

    view = read_pool(ledger.database, "p")

    assert (view["members"], view["patterns"], view["labels"]) == (["m"], ["web*"], {"gpu": "yes"})
    assert [(one["name"], one["state"], one["by"]) for one in view["served_by"]] == [
        ("g", "alive", "label gpu=yes"),
        ("m", "alive", "member"),
        ("own", "alive", "itself"),
        ("web1", "gone", "nodes web*"),
    ]


def test_the_rows_of_nodes_that_are_not_there_follow_a_changed_rule(ledger: Ledger, clock: Clock) -> None:
    create(ledger, "p", members=["silent"])
    for name in ("silent", "left"):
        start(ledger, name)
    stop_node(ledger, "left")
    clock.advance(seconds=LEASE_SECONDS + 1)
    start(ledger, "there")

    everybody = ["silent", "left", "there"]
    edit_pool(ledger.database, "p", lambda _: PoolRule.checked("p", everybody), actor=ANN)
    added = [pools_of(ledger, name) for name in everybody]
    edit_pool(ledger.database, "p", lambda _: PoolRule("p"), actor=ANN)

    assert added == [["default", "p"], ["default", "p"], ["default"]]  # one that is there says so itself
    assert [pools_of(ledger, name) for name in everybody] == [["default"]] * 3


def test_a_node_that_was_dead_under_its_lease_when_the_rule_changed_is_corrected_later(
    ledger: Ledger, clock: Clock
) -> None:
    create(ledger, "p", members=["out", "stays"])
    create(ledger, "q", patterns=["in*"])
    for name in ("out", "in1", "stays", "there"):
        start(ledger, name)
    edit_pool(ledger.database, "p", lambda _: PoolRule.checked("p", ["in1", "stays", "there"]), actor=ANN)
    under_lease = correct_absent_nodes(ledger.database)

    clock.advance(seconds=LEASE_SECONDS + 1)
    start(ledger, "there")
    corrected = [correct_absent_nodes(ledger.database) for _ in range(2)]

    assert (under_lease, corrected) == (0, [2, 0])
    assert {name: pools_of(ledger, name) for name in ("out", "in1", "stays", "there")} == {
        "out": ["default"],
        "in1": ["default", "p", "q"],
        "stays": ["default", "p"],
        "there": ["default", "p"],
    }


def test_what_a_hand_broke_of_a_node_that_is_gone_is_left(ledger: Ledger) -> None:
    create(ledger, "p", members=["a", "b"])
    for name in "ab":
        start(ledger, name)
        stop_node(ledger, name)
    ledger.execute(update(node).where(node.c.name == "a").values(own_pools="default", pools="[]"))
    ledger.execute(update(node).where(node.c.name == "b").values(pools="p"))

    assert correct_absent_nodes(ledger.database) == 1
    assert pools_of(ledger, "a") == []
    assert pools_of(ledger, "b") == ["default", "p"]


def test_a_node_that_lives_is_seen_however_many_have_gone(ledger: Ledger) -> None:
    start(ledger, "a")
    stop_node(ledger, "a")
    like_a = ledger.row(select(node))._asdict()
    del like_a["id"]
    rows = [like_a | {"name": f"gone{number}"} for number in range(NODES_MAX)]
    ledger.database.write(lambda connection: connection.execute(insert(node), rows), repeatable=True)
    ledger.clock.advance(seconds=1)
    start(ledger, "z", "p")

    assert [one["name"] for one in read_pool(ledger.database, "p")["served_by"]] == ["z"]
    with pytest.raises(Conflict, match="served by node z"):
        delete_pool(ledger.database, "p", actor=ANN)


@pytest.mark.parametrize("says", ["itself", "not"])
def test_a_changed_rule_leaves_what_an_absent_node_names_itself(ledger: Ledger, clock: Clock, says: str) -> None:
    create(ledger, "p", members=["a", "b"])
    start(ledger, "a", "p", "own")
    start(ledger, "b", "own")
    if says == "not":  # a program from before there were rules
        ledger.execute(update(node).values(own_pools=None))
        ledger.execute(update(node).where(node.c.name == "b").values(pools='["own"]'))
    clock.advance(seconds=LEASE_SECONDS + 1)

    remove_member(ledger.database, "p", "a", actor=ANN)
    remove_member(ledger.database, "p", "b", actor=ANN)
    removed = [pools_of(ledger, name) for name in "ab"]
    for name in "ab":
        add_member(ledger.database, "p", name, actor=ANN)
    added = [pools_of(ledger, name) for name in "ab"]
    remove_member(ledger.database, "p", "b", actor=ANN)
    removed += [pools_of(ledger, "b")]
    add_member(ledger.database, "p", "b", actor=ANN)
    ledger.add_job(runs_on="all", pool="p")
    request_runs(ledger.database, [NewRun("job")])

    assert removed == [["p", "own"], ["own"], ["own"]]
    assert added == [["p", "own"], ["own", "p"]]
    assert [run.target_node for run in ledger.runs()] == ["a", "b"]

    ledger.execute("delete from rota_run")
    ledger.execute("delete from rota_job")
    delete_pool(ledger.database, "p", actor=ANN)
    assert [pools_of(ledger, name) for name in "ab"] == [["p", "own"], ["own"]]


def test_a_pool_that_exists_is_refused_updated_or_left(ledger: Ledger) -> None:
    create(ledger, "p", members=["a"])
    other = PoolRule.checked("p", ["b"])

    with pytest.raises(AlreadyExists):
        create_pool(ledger.database, other, actor=ANN)
    left = create_pool(ledger.database, other, actor=ANN, if_exists="skip")
    updated = create_pool(ledger.database, other, actor=ANN, if_exists="update")

    assert (left["members"], updated["members"]) == (["a"], ["b"])


def test_what_nobody_knows_is_not_found(ledger: Ledger) -> None:
    for ask in (
        lambda: read_pool(ledger.database, "p"),
        lambda: add_member(ledger.database, "p", "a", actor=ANN),
        lambda: remove_member(ledger.database, "p", "a", actor=ANN),
        lambda: delete_pool(ledger.database, "p", actor=ANN),
    ):
        with pytest.raises(NotFound, match="pool 'p'"):
            ask()
    assert not is_known(ledger.database, "p")


@pytest.mark.parametrize(
    "parts",
    [{"members": ["a b"]}, {"members": "a,b"}, {"patterns": ["web["]}, {"labels": ["gpu"]}, {"labels": {"gpu": ""}}],
)
def test_a_rule_that_breaks_a_rule_is_refused(parts: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        PoolRule.checked("p", **parts)


# Deleting


def test_a_pool_that_a_job_names_is_not_deleted(ledger: Ledger) -> None:
    create(ledger, "p")
    ledger.add_job(pool="p")

    with pytest.raises(Conflict, match="that of job job"):
        delete_pool(ledger.database, "p", actor=ANN)


@pytest.mark.parametrize("state", ["ready", "waiting", "running"])
def test_a_pool_with_an_unfinished_run_is_not_deleted(ledger: Ledger, state: str) -> None:
    create(ledger, "p")
    ledger.add_job(pool="p")
    run_id = ledger.enqueue(in_seconds=60.0 if state == "waiting" else None)
    if state == "running":
        ledger.claim_one(pools=("p",))
    ledger.set_job(pool="other")

    with pytest.raises(Conflict, match=f"run {run_id} is one"):
        delete_pool(ledger.database, "p", actor=ANN)


def test_a_pool_that_a_living_node_names_itself_is_not_deleted_and_else_it_is(ledger: Ledger) -> None:
    create(ledger, "p", patterns=["by-*"])
    start(ledger, "by-rule")
    start(ledger, "own", "p")

    with pytest.raises(Conflict, match="served by node own, which names it with --pool"):
        delete_pool(ledger.database, "p", actor=ANN)
    stop_node(ledger, "own")
    delete_pool(ledger.database, "p", actor=ANN)

    # The node that served it by its rule says what it serves, and does not make it anew.
    assert describe_node(
        ledger.database, identity_of("by-rule"), state=NodeState.ALIVE, pools=["default"], slots=4
    ) == ("default",)
    assert not is_known(ledger.database, "p")


# What a hand wrote


@pytest.mark.parametrize("broken", ['{"a": 1}', "[1]", "a", '["a", "b c"]'])
def test_a_rule_that_a_hand_broke_names_nobody_and_is_found_and_the_others_hold(ledger: Ledger, broken: str) -> None:
    create(ledger, "p", members=["a"])
    create(ledger, "q", members=["a"])
    ledger.execute(update(pool).where(pool.c.name == "p").values(members=broken))

    start(ledger, "a")

    assert pools_of(ledger, "a") == ["default", "q"]
    (found,) = [one for one in check_health(ledger.database).findings if one.code is FindingCode.POOL_BROKEN]
    assert (found.severity, found.subject) == (Severity.WARNING, "p")
    assert "`rota pool edit p`" in found.text
    assert read_pool(ledger.database, "p")["problem"]
    list_pools(ledger.database)
    edit_pool(ledger.database, "p", lambda rule: PoolRule.checked("p", [*rule.members, "b"]), actor=ANN)
    assert read_pool(ledger.database, "p")["members"] == ["b"]


def test_labels_of_a_node_that_a_hand_broke_are_none(ledger: Ledger) -> None:
    create(ledger, "p", labels={"gpu": "yes"})
    start(ledger, "a", gpu="yes")
    ledger.execute(update(node).values(labels="gpu=yes"))

    assert [one["by"] for one in read_pool(ledger.database, "p")["served_by"]] == ["itself"]
    assert read_node(ledger.database, "a")["labels"] == "gpu=yes"
    check_health(ledger.database)


# An empty pool


def test_a_job_of_a_pool_that_does_not_exist_is_a_finding_that_says_so(ledger: Ledger) -> None:
    start_node(ledger)
    ledger.add_job(pool="nowhere")

    (found,) = check_health(ledger.database).findings

    assert (found.severity, found.code, found.subject) == (Severity.WARNING, FindingCode.POOL_EMPTY, "nowhere")
    assert found.text.startswith("there is no pool nowhere yet, and its jobs have nowhere to run: no node serves pool")


def test_a_job_of_a_pool_without_a_node_is_a_finding(ledger: Ledger) -> None:
    start_node(ledger)
    create(ledger, "empty")
    ledger.add_job(pool="empty")

    (found,) = check_health(ledger.database).findings

    assert found.text.startswith("jobs of pool empty have nowhere to run: no node serves pool empty")
