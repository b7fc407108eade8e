"""Which process goes by which name."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import insert, select

from rota.errors import Conflict, Invalid, NotFound
from rota.model.run import NodeIdentity
from rota.model.states import NodeState
from rota.store.database import Database
from rota.store.leases import renew_claims
from rota.store.nodes import NODES_MAX, describe_node, leave_node, list_nodes, read_node, register_node
from rota.store.status import read_status
from rota.store.tables import node
from tests.store.ledger import Ledger
from tests.store.living import start_node


def register(ledger: Ledger, holder: str, database: Database | None = None, **options: Any) -> str:
    facts: dict[str, Any] = {
        "host": "alpha",
        "pid": 100,
        "pid_started": 5000,
        "pools": ["default"],
        "slots": 4,
        "version": "0.1.0",
        "lease_seconds": 60.0,
    }
    identity = NodeIdentity("", holder, options.pop("boot_id", "boot"))
    return register_node(database or ledger.database, identity, **(facts | options))


def leave(ledger: Ledger, name: str, holder: str) -> bool:
    return leave_node(ledger.database, NodeIdentity(name, holder, "boot"))


def test_processes_of_one_host_get_its_name_then_the_lowest_number_that_is_free(ledger: Ledger) -> None:
    names = [register(ledger, holder) for holder in "abc"]
    leave(ledger, "alpha:2", "b")

    again = [register(ledger, holder) for holder in "de"]

    assert names == ["alpha", "alpha:2", "alpha:3"]
    assert again == ["alpha:2", "alpha:4"]


def test_a_name_is_free_again_once_its_lease_is_over(ledger: Ledger) -> None:
    register(ledger, "a")
    ledger.clock.advance(seconds=61)

    assert register(ledger, "b") == "alpha"


def test_a_name_is_free_at_once_when_its_process_is_known_to_be_dead_on_this_boot_only(ledger: Ledger) -> None:
    register(ledger, "a", pid=100)
    asked: list[tuple[str, int, int]] = []

    def is_dead(boot_id: str, pid: int, pid_started: int) -> bool:
        asked.append((boot_id, pid, pid_started))
        return True

    elsewhere = register(ledger, "b", boot_id="another boot", is_dead=is_dead)
    here = register(ledger, "c", is_dead=is_dead)

    assert (elsewhere, here) == ("alpha:2", "alpha")
    assert asked == [("boot", 100, 5000)]


def test_a_process_of_this_boot_that_lives_holds_its_name_past_its_lease(ledger: Ledger) -> None:
    register(ledger, "a", wanted="w", pid=100)
    ledger.clock.advance(seconds=61)

    with pytest.raises(Conflict, match="process 100, which is alive"):
        register(ledger, "b", wanted="w", is_dead=lambda *_: False)

    assert register(ledger, "b", wanted="w", is_dead=lambda *_: True) == "w"
    leave(ledger, "w", "b")
    assert register(ledger, "c", wanted="w", is_dead=lambda *_: False) == "w"


def test_a_chosen_name_is_refused_while_it_is_held(ledger: Ledger) -> None:
    register(ledger, "a", wanted="worker-1", pid=77)

    with pytest.raises(Conflict, match=r"worker-1.*process 77"):
        register(ledger, "b", wanted="worker-1")
    assert [view["name"] for view in list_nodes(ledger.database)] == ["worker-1"]

    leave(ledger, "worker-1", "a")
    assert register(ledger, "b", wanted="worker-1") == "worker-1"


def test_a_chosen_name_is_checked(ledger: Ledger) -> None:
    with pytest.raises(Invalid, match="name"):
        register(ledger, "a", wanted="two words")

    assert list_nodes(ledger.database) == []


def test_registering_again_gives_the_same_name(ledger: Ledger) -> None:
    assert [register(ledger, "a"), register(ledger, "a")] == ["alpha", "alpha"]


def test_only_the_process_that_has_a_name_can_give_it_up(ledger: Ledger) -> None:
    register(ledger, "a")

    assert not leave(ledger, "alpha", "somebody else")
    assert leave(ledger, "alpha", "a")
    assert read_node(ledger.database, "alpha")["state"] == "gone"


def test_a_renewal_that_comes_after_the_goodbye_does_not_take_the_name_again(ledger: Ledger) -> None:
    register(ledger, "a", wanted="w")
    leave(ledger, "w", "a")

    renewal = renew_claims(ledger.database, NodeIdentity("w", "a", "boot"), [], 60.0)

    assert renewal.node_state is NodeState.GONE
    assert read_node(ledger.database, "w")["lease_ends_at"] is None
    assert register(ledger, "b", wanted="w", boot_id="another boot") == "w"


def test_processes_that_start_at_the_same_moment_get_names_of_their_own(ledger: Ledger) -> None:
    names: list[str] = []
    databases = [ledger.connect() for _ in range(4)]

    def race(number: int) -> None:
        names.append(register(ledger, f"holder {number}", databases[number]))

    threads = [threading.Thread(target=race, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(names) == ["alpha", "alpha:2", "alpha:3", "alpha:4"]


def test_nodes_that_name_new_pools_at_the_same_moment_do_not_refuse_each_other(ledger: Ledger) -> None:
    databases = {holder: ledger.connect() for holder in "abcd"}
    names = {holder: register(ledger, holder) for holder in databases}
    pools = [f"p{number}" for number in range(20)]
    together, failures = threading.Barrier(len(databases)), list[Exception]()

    def race(holder: str) -> None:
        identity = NodeIdentity(names[holder], holder, "boot")
        try:
            together.wait(30)
            describe_node(databases[holder], identity, state=NodeState.ALIVE, pools=pools, slots=4)
        except Exception as error:  # noqa: BLE001 - told by the test itself
            failures.append(error)

    threads = [threading.Thread(target=race, args=(holder,)) for holder in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert {row.name for row in ledger.rows("select name from rota_pool")} == {"default", *pools}


def test_a_node_is_shown_with_what_it_runs_and_a_silent_one_as_gone(ledger: Ledger) -> None:
    register(ledger, "a", wanted="a", pools=["default", "reports"])
    claim = ledger.start_one("a")

    alive = read_node(ledger.database, "a")
    ledger.clock.advance(seconds=61)
    silent = read_node(ledger.database, "a")

    assert (alive["state"], alive["silent"], alive["running"]) == ("alive", False, [claim.run_id])
    assert alive["pools"] == ["default", "reports"]
    assert (silent["state"], silent["silent"]) == ("gone", True)
    assert [event["to"] for event in silent["events"]] == ["alive"]


def test_a_node_that_nobody_knows_is_not_found(ledger: Ledger) -> None:
    with pytest.raises(NotFound, match="node 'beta'"):
        read_node(ledger.database, "beta")


def test_a_node_tells_what_it_does_from_now_on(ledger: Ledger) -> None:
    register(ledger, "a")

    describe_node(
        ledger.database, NodeIdentity("alpha", "a", "boot"), state=NodeState.DRAINING, pools=["default", "new"], slots=9
    )
    describe_node(ledger.database, NodeIdentity("alpha", "b", "boot"), state=NodeState.ALIVE, pools=["x"], slots=1)

    view = read_node(ledger.database, "alpha")
    assert (view["state"], view["pools"], view["slots"]) == ("draining", ["default", "new"], 9)
    assert view["events"][-1]["text"] == "alpha drains"
    assert ledger.value("select count(*) from rota_pool where name = 'new'") == 1


def test_the_status_has_a_node_that_lives_however_many_have_gone(ledger: Ledger) -> None:
    register(ledger, "a", wanted="gone")
    leave(ledger, "gone", "a")
    like_a = ledger.row(select(node))._asdict()
    del like_a["id"]
    rows = [like_a | {"name": f"gone{number}"} for number in range(NODES_MAX)]
    ledger.database.write(lambda connection: connection.execute(insert(node), rows), repeatable=True)
    ledger.clock.advance(seconds=1)
    register(ledger, "b", wanted="there")

    names = [one["name"] for one in read_status(ledger.database)["nodes"]]

    assert "there" in names
    assert names == sorted(names)
    assert len(names) == NODES_MAX


def test_whoever_is_the_first_to_name_a_pool_is_told_so_once(ledger: Ledger) -> None:
    new: list[str] = []
    identity = NodeIdentity("a", "holder-of-a", "boot")
    start_node(ledger, "a", pools=("p", "default"), on_new_pool=new.append)
    start_node(ledger, "b", pools=("p", "q"), on_new_pool=new.append)
    for _ in range(2):
        describe_node(
            ledger.database, identity, state=NodeState.ALIVE, pools=["p", "r"], slots=1, on_new_pool=new.append
        )

    assert new == ["p", "default", "q", "r"]
