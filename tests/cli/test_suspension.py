"""``rota node drain`` and ``rota pool``: what somebody at any machine types, and what the other commands say then."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from rota.model.run import NodeIdentity
from rota.store.database import Database
from rota.store.leases import claim_runs
from rota.store.nodes import leave_node, register_node


@pytest.fixture
def node(url: str) -> Iterator[str]:
    """A node that is registered, and alive for an hour without a process."""
    database = Database(url)
    yield register_node(
        database,
        NodeIdentity("", "holder", "boot"),
        host="alpha",
        pid=1,
        pid_started=1,
        pools=["default"],
        slots=4,
        version="0.1.0",
        lease_seconds=3600.0,
    )
    database.close()


def test_a_node_is_drained_and_resumed_and_shown_so(rota, node):
    drained = rota("node", "drain", node)
    listed = json.loads(rota("node", "list", "--json").stdout)
    status = rota("status").stdout
    resumed = rota("node", "resume", node, "--json")

    assert drained.stdout == "node alpha claims nothing more; nothing of it runs\n"
    assert listed[0]["state"] == "draining"
    assert "@" in listed[0]["drain_asked_by"]
    assert "draining" in status
    assert json.loads(resumed.stdout)["state"] == "alive"
    shown = json.loads(rota("node", "show", node, "--json").stdout)
    assert [event["to"] for event in shown["events"]] == ["alive", "draining", "resumed"]
    assert shown["events"][1]["actor"] == listed[0]["drain_asked_by"]


def test_a_pool_is_paused_and_resumed_and_shown_so(rota, node):
    rota("job", "add", "x", "--shell", "true")
    rota("job", "run", "x")

    paused = rota("pool", "pause", "default")
    (listed,) = json.loads(rota("pool", "list", "--json").stdout)
    table = rota("pool", "list").stdout
    status = rota("status").stdout
    why = rota("why", "run", "1").stdout
    resumed = rota("pool", "resume", "default")

    assert (paused.stdout, resumed.stdout) == ("pool default is paused\n", "pool default is active\n")
    assert (listed["state"], listed["nodes"], listed["slots"], listed["ready"]) == ("paused", [node], 4, 1)
    assert "paused" in table
    assert "pool default is paused" in status
    assert "rota pool resume default" in why
    (listed,) = json.loads(rota("pool", "list", "--json").stdout)
    assert (listed["state"], listed["paused_at"], listed["paused_by"]) == ("active", None, None)


def test_a_pool_is_created_changed_shown_and_deleted(rota, node):
    created = rota("pool", "create", "web", "--nodes", "al*", "--label", "gpu=yes")
    member = rota("pool", "add", "web", "beta")
    shown = json.loads(rota("pool", "show", "web", "--json").stdout)
    (_, listed) = json.loads(rota("pool", "list", "--json").stdout)
    removed = rota("pool", "remove", "web", "beta")
    edited = json.loads(rota("pool", "edit", "web", "--nodes", "none", "--label", "zone=eu", "--json").stdout)
    deleted = rota("pool", "delete", "web")

    assert created.stdout == "pool web: 1 node serves it: alpha\n"
    assert member.stdout == "node beta is a member of pool web\n"
    assert (shown["members"], shown["patterns"], shown["labels"]) == (["beta"], ["al*"], {"gpu": "yes"})
    assert shown["served_by"] == [{"name": node, "state": "alive", "by": "nodes al*"}]
    assert listed["members"] == ["beta"]
    assert removed.stdout == "node beta is no member of pool web any more\n"
    assert (edited["patterns"], edited["labels"]) == ([], {"zone": "eu"})
    assert deleted.stdout == "pool web is deleted\n"
    assert "no pool 'web'" in rota("pool", "show", "web").stderr


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["pool", "create", "p", "--label", "gpu"], "labels"),
        (["pool", "create", "p", "--label", "gpu=yes", "--label", "gpu=no"], "labels"),
        (["pool", "create", "p", "--nodes", "web["], "nodes"),
        (["pool", "create", "p", "--member", "a b"], "members"),
        (["pool", "create", "a b"], "pool"),
        (["pool", "edit", "default"], "pool"),
        (["worker", "--label", "gpu"], "--label"),
        (["tick", "--label", "=yes"], "--label"),
    ],
)
def test_what_is_no_label_or_pattern_is_refused_with_the_rule(rota, node, words, field):
    result = rota(*words, "--json")

    assert result.exit_code == 2
    assert json.loads(result.stderr)["error"]["field"] == field


@pytest.mark.parametrize(
    "words", [["add", "p", "a"], ["remove", "p", "a"], ["delete", "p"], ["edit", "p", "--nodes", "x"]]
)
def test_a_pool_that_does_not_exist_is_not_found(rota, words):
    result = rota("pool", *words)

    assert result.exit_code == 1
    assert "no pool 'p'" in result.stderr


def test_a_job_of_a_pool_that_does_not_exist_is_taken_with_a_warning(rota, node):
    added = rota("job", "add", "x", "--shell", "true", "--pool", "nowhere")
    edited = rota("job", "edit", "x", "--timeout", "5m")
    moved = rota("job", "edit", "x", "--pool", "elsewhere")
    check = rota("check")
    sound = rota("job", "add", "y", "--shell", "true", "--pool", "default")

    for pool, result in (("nowhere", added), ("elsewhere", moved)):
        assert result.exit_code == 0
        assert result.stderr == (
            f"warning: there is no pool {pool} yet, and no node serves pool {pool}: start one with "
            f"`rota worker --pool {pool}`\n"
        )
    assert (edited.exit_code, edited.stderr) == (0, "")
    assert check.exit_code == 1
    assert "there is no pool elsewhere yet" in check.stdout
    assert sound.stderr == ""


@pytest.mark.parametrize(
    "words",
    [
        ["job", "add", "new", "--shell", "true", "--pool", "empty"],
        ["job", "edit", "y", "--pool", "empty"],
        ["job", "run", "x"],
        ["schedule", "add", "key", "x", "--every", "1h"],
    ],
)
def test_whoever_counts_on_a_pool_that_no_node_serves_is_warned_and_it_is_done(rota, node, words):
    rota("pool", "create", "empty")
    rota("job", "add", "x", "--shell", "true", "--pool", "empty")
    rota("job", "add", "y", "--shell", "true")

    result = rota(*words, "--json")

    assert result.exit_code == 0
    assert json.loads(result.stdout)
    assert result.stderr == ("warning: no node serves pool empty: start one with `rota worker --pool empty`\n")


def test_before_the_first_node_of_all_only_runs_of_the_usual_pool_are_remarked_on(rota):
    added = rota("job", "add", "x", "--shell", "true")
    scheduled = rota("schedule", "add", "key", "x", "--every", "1h")
    asked = rota("job", "run", "x")

    assert (added.stderr, scheduled.stderr) == ("", "")
    assert asked.stdout == "run 1\n"
    assert asked.stderr == "warning: no node serves pool default: start one with `rota worker --pool default`\n"


def test_a_node_that_is_alive_is_not_forgotten_and_one_that_is_gone_is(rota, node, url):
    refused = rota("node", "forget", node)
    database = Database(url)
    leave_node(database, NodeIdentity(node, "holder", "boot"))
    database.close()
    forgotten = rota("node", "forget", node)

    assert (refused.exit_code, forgotten.exit_code) == (1, 0)
    assert "is alive" in refused.stderr
    assert forgotten.stdout == f"node {node} is forgotten\n"
    assert json.loads(rota("node", "list", "--json").stdout) == []


def test_before_a_node_has_worked_there_is_no_pool_to_list_or_pause(rota):
    assert rota("pool", "list").stdout.startswith("no node has worked for a pool yet")
    assert "a pool is known once a node works for it" in rota("pool", "pause", "default").stderr


def test_a_frozen_run_is_named_by_status_and_shown_so(rota, url, node):
    rota("job", "add", "x", "--shell", "true")
    rota("job", "run", "x")
    database = Database(url)
    claim_runs(database, NodeIdentity(node, "holder", "boot"), ["default"], 1, 60.0)
    database.close()

    frozen = rota("run", "freeze", "1")
    by = json.loads(rota("run", "show", "1", "--json").stdout)["freeze_asked_by"]
    status = rota("status").stdout

    assert frozen.stdout == "run 1 is to be frozen: its node was asked to\n"
    assert rota("run", "freeze", "1").stdout == "run 1 is frozen already\n"
    assert "run 1 is frozen since " in status
    assert f", by {by}: `rota run thaw 1`" in status
    assert "running (frozen)" in rota("run", "list").stdout
    assert "running (frozen since " in rota("run", "show", "1").stdout
    assert rota("run", "thaw", "1").stdout == "run 1 is to go on: its node was asked to let it\n"
    assert rota("run", "thaw", "1").stdout == "run 1 is not frozen\n"
    assert "run 1 has 1 attempt\n" in rota("run", "logs", "1", "--attempt", "2").stderr
    wrong = rota("status", environ={"ROTA_DB": "postgres://me@host/rota"})
    assert "database 'postgres' is not supported" in wrong.stderr
    assert "did you mean postgresql://?" in wrong.stderr
