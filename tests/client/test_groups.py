"""Jobs on all nodes of their pool through the doors: the handle of a group, how complete it is, and why."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from rota import AlreadyFinished, Conflict, GroupHandle, NotFound, NotSupported, Rota, RunFailed
from rota.cli.door import Door
from rota.cli.main import main
from rota.model.run import Written
from rota.store.advancing import advance_runs
from rota.store.firing import fire_schedules
from tests.clock import Clock
from tests.store.ledger import Ledger
from tests.store.living import start_node


@pytest.fixture
def job(rota: Rota, ledger: Ledger) -> str:
    """A job for all nodes of the pool, which are web1, web2 and web3."""
    for number in (1, 2, 3):
        start_node(ledger, f"web{number}")
    rota.jobs.add("sweep", shell="true", on="all")
    return "sweep"


def end_on(ledger: Ledger, *names: str, kind: str = "succeeded", **facts: object) -> None:
    for name in names:
        (claim,) = ledger.claim(name)
        ledger.end(claim, kind, **({"result": json.dumps(name)} | facts if kind == "succeeded" else facts))


def call(monkeypatch: pytest.MonkeyPatch, rota: Rota, *words: str) -> tuple[int, str]:
    monkeypatch.setattr(Door, "rota", rota)
    found = CliRunner().invoke(main, list(words))
    return found.exit_code, found.stdout


def test_what_was_asked_for_on_all_nodes_is_waited_for_as_one(rota: Rota, job: str, ledger: Ledger) -> None:
    handle = rota.enqueue(job, {"n": 1})
    assert isinstance(handle, GroupHandle)
    first = handle.state
    with pytest.raises(Conflict, match="0 of 3 succeeded, web1, web2 and web3 have not started"):
        _ = handle.result
    end_on(ledger, "web1", "web2")
    between = handle.state
    end_on(ledger, "web3")

    assert (first, between, handle.wait(timeout=1).state) == ("ready", "running", "succeeded")
    assert handle.result == {"web1": "web1", "web2": "web2", "web3": "web3"}
    assert {node: run.state for node, run in handle.runs.items()} == dict.fromkeys(handle.result, "succeeded")
    assert handle.id == handle.runs["web1"].id
    view = handle.show()
    assert (view["summary"], view["counts"], view["total"]) == ("all 3 succeeded", {"succeeded": 3}, 3)
    assert json.loads(json.dumps(view)) == view


def test_a_group_succeeds_only_if_each_of_its_runs_does(rota: Rota, job: str, ledger: Ledger) -> None:
    handle = rota.enqueue(job)
    end_on(ledger, "web1", "web3")
    end_on(ledger, "web2", kind="exited", exit_code=1)

    assert handle.wait(1).state == "failed"
    with pytest.raises(RunFailed, match="2 of 3 succeeded, web2 failed"):
        _ = handle.result

    handle.rerun()
    end_on(ledger, "web2")
    assert handle.state == "succeeded"
    with pytest.raises(Conflict, match="nothing to do again"):
        handle.rerun()


def test_a_group_is_cancelled_as_a_whole(rota: Rota, job: str, ledger: Ledger) -> None:
    handle = rota.enqueue(job)
    end_on(ledger, "web1")
    ledger.claim("web2")

    assert handle.cancel() == "running"
    view = handle.show()
    assert [one["state"] for one in view["runs"]] == ["succeeded", "running", "cancelled"]
    assert handle.runs["web2"].show()["cancel_asked_by"] == "ann@desk"


def test_a_group_that_has_ended_is_not_cancelled_and_refuses_what_is_of_one_run(
    rota: Rota, job: str, ledger: Ledger
) -> None:
    handle = rota.enqueue(job)
    end_on(ledger, "web1", "web2", "web3")

    with pytest.raises(AlreadyFinished):
        handle.cancel()
    for ask in (handle.logs, handle.transcript, handle.freeze, handle.thaw, handle.skip, handle.mark_succeeded):
        with pytest.raises(NotSupported, match=r"see \.runs"):
            ask()


def test_a_group_is_found_by_its_name(rota: Rota, job: str) -> None:
    handle = rota.enqueue(job)
    assert isinstance(handle, GroupHandle)

    found = rota.runs.group(handle.group)

    assert (found.id, found.group) == (handle.id, handle.group)
    assert [view["target_node"] for view in rota.runs.list(group=handle.group)] == ["web3", "web2", "web1"]
    assert {view["on"] for view in rota.runs.list(group=handle.group)} == {"all"}
    for ask in (lambda: rota.runs.group("none"), lambda: rota.runs.list(group="none")):
        with pytest.raises(NotFound, match="no group 'none'"):
            ask()


def test_many_requests_and_those_of_a_transaction_give_groups_too(rota: Rota, job: str) -> None:
    rota.jobs.add("one", shell="true")

    many = rota.enqueue_many([("one", None), (job, None)])
    with rota.database.engine.begin() as tx:  # whose clock is the one of the test
        within = rota.using(tx).enqueue(job)

    assert [isinstance(handle, GroupHandle) for handle in (*many, within)] == [False, True, True]
    assert within.show()["total"] == 3


def test_a_slot_tells_how_complete_it_is_everywhere(
    rota: Rota, job: str, ledger: Ledger, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rota.schedules.add("hourly", job, cron="0 * * * *", start_within="50s")
    clock.advance(hours=1)
    for number in (1, 2):
        start_node(ledger, f"web{number}")
    fire_schedules(ledger.database, fired_by="web1")
    end_on(ledger, "web1", "web2")
    waiting = rota.why.schedule("hourly", "2026-11-02T13:00")["because"]
    clock.advance(seconds=51)
    advance_runs(ledger.database)

    sentence = "2 of 3 succeeded, web3 missed it"
    last = rota.schedules["hourly"].show()["last_group"]
    run = rota.runs.list(group=last["group"])[0]
    view = rota.runs[run["id"]].show()
    why = rota.why.schedule("hourly", "2026-11-02T13:00")
    of_run = rota.why.run(run["id"])["because"]

    assert (last["summary"], last["state"], last["counts"]) == (sentence, "missed", {"missed": 1, "succeeded": 2})
    assert view["completeness"]["summary"] == sentence
    assert why["state"] == "missed"
    assert why["because"][0].startswith(f"slot 2026-11-02T13:00:00Z for all 3 nodes registered then: {sentence}")
    assert [said.split(":")[0] for said in why["because"][1:]] == ["web3", "web1", "web2"]
    assert "which is silent since 2026-11-02T12:00:00Z (window_passed)" in why["because"][1]
    assert "only node web3 may take it" in waiting[1]
    assert sentence in of_run[-1]
    assert sentence in rota.why.schedule("hourly")["because"][-1]
    assert call(monkeypatch, rota, "run", "list", "--group", last["group"])[1].endswith(f"{sentence}\n")
    assert f"completeness      {sentence}" in call(monkeypatch, rota, "run", "show", str(run["id"]))[1]
    assert (
        f"{sentence}; `rota run list --group {last['group']}`"
        in call(monkeypatch, rota, "schedule", "show", "hourly")[1]
    )


def test_asking_at_the_command_line_tells_the_runs_and_their_group(
    rota: Rota, job: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = call(monkeypatch, rota, "job", "run", job)
    (group,) = {run.group_id for run in ledger.runs()}
    as_json = json.loads(call(monkeypatch, rota, "job", "run", job, "--json")[1])

    assert said == (0, f"runs 1, 2, 3 of group {group}\n")
    assert (as_json["total"], [one["node"] for one in as_json["runs"]]) == (3, ["web1", "web2", "web3"])


@pytest.mark.parametrize(
    ("of_web3", "status", "last"),
    [("succeeded", 0, "all 3 succeeded"), ("exited", 1, "2 of 3 succeeded, web3 failed")],
)
def test_waiting_at_the_command_line_succeeds_only_if_all_nodes_do(
    rota: Rota, job: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, of_web3: str, status: int, last: str
) -> None:
    def end_all(_seconds: float) -> None:
        end_on(ledger, "web1", "web2")
        end_on(ledger, "web3", kind=of_web3, exit_code=0 if of_web3 == "succeeded" else 1)

    monkeypatch.setattr(GroupHandle.__init__, "__kwdefaults__", {"sleep": end_all})

    found = call(monkeypatch, rota, "job", "run", job, "--wait")

    assert (found[0], found[1].splitlines()[-1]) == (status, last)
    assert [line.split(":")[0] for line in found[1].splitlines()[:-1]] == ["web1", "web2", "web3"]


def test_following_at_the_command_line_shows_the_output_of_one_node_after_the_other(
    rota: Rota, job: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end_all(_seconds: float) -> None:
        for name in ("web2", "web1", "web3"):
            end_on(ledger, name, stdout=Written(f"from {name}\n".encode(), b"", 10))

    monkeypatch.setattr(GroupHandle.__init__, "__kwdefaults__", {"sleep": end_all})

    assert call(monkeypatch, rota, "job", "run", job, "--follow") == (0, "from web1\nfrom web2\nfrom web3\n")


def test_a_job_nobody_would_run_is_refused_at_the_command_line(rota: Rota, monkeypatch: pytest.MonkeyPatch) -> None:
    rota.jobs.add("sweep", shell="true", on="all", pool="empty")
    monkeypatch.setattr(Door, "rota", rota)

    found = CliRunner().invoke(main, ["job", "run", "sweep"])

    assert found.exit_code == 1
    assert "on all nodes of pool empty, and none is registered there" in found.output


def test_a_run_that_waits_for_its_node_is_no_alarm(rota: Rota, job: str, ledger: Ledger, clock: Clock) -> None:
    rota.enqueue(job)
    end_on(ledger, "web1", "web2")
    clock.advance(minutes=30)
    for number in (1, 2):
        start_node(ledger, f"web{number}")

    (late,) = [one for one in rota.check()["findings"] if one["code"] == "run_late"]

    assert late["severity"] == "warning"
    assert "only node web3 may take it, and it is not alive" in late["text"]
