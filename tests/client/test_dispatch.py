"""Handlers chosen by the name of the job: one bad run stops nobody."""

from __future__ import annotations

import re
import threading
from typing import Any

import pytest

from rota import Claim, DatabaseUnavailable, Dispatch, Invalid, Release, Retry, Rota, Skip
from rota.client.dispatch import Heart
from tests.clock import Clock
from tests.store.ledger import Ledger


@pytest.fixture
def job(rota: Rota) -> str:
    rota.jobs.add("mail", shell="true")
    return "mail"


def raising(error: BaseException) -> Any:
    def handler(_claim: Claim) -> None:
        raise error

    return handler


def test_the_first_route_that_matches_the_whole_name_wins() -> None:
    handlers = [lambda claim, number=number: number for number in range(4)]
    dispatch = Dispatch(
        {"mail": handlers[0], re.compile(r"import-.*"): handlers[1], re.compile(r"import-x"): handlers[2]}
    )

    found = {name: dispatch.find(name) for name in ("mail", "mail2", "import-x", "an import-x", "import-")}

    assert found == {
        "mail": handlers[0],
        "mail2": None,
        "import-x": handlers[1],
        "an import-x": None,
        "import-": handlers[1],
    }


def test_what_a_handler_returns_is_the_result(rota: Rota, job: str) -> None:
    handle = rota.enqueue(job, {"to": "ann"})
    dispatch = Dispatch({"mail": lambda claim: {"sent": claim.args["to"]}})

    assert dispatch.run_once(rota)
    assert not dispatch.run_once(rota)
    assert handle.result == {"sent": "ann"}


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (Skip("nothing to send"), "skipped", "no_op"),
        (Release(), "ready", "released"),
        (ValueError("bad address"), "failed", "exception"),
        (Retry("later", after="5m"), "failed", "exception"),  # the job has no retries
    ],
)
def test_what_a_handler_raises_is_the_end_of_its_run_only(
    rota: Rota, job: str, error: Exception, state: str, reason: str
) -> None:
    handle = rota.enqueue(job)

    assert Dispatch({"mail": raising(error)}).run_once(rota)

    view = handle.show()
    assert (view["state"], view["reason"]["code"]) == (state, reason)


def test_a_retry_with_retries_left_waits_as_long_as_asked(rota: Rota) -> None:
    rota.jobs.add("mail", shell="true", retries=1)
    handle = rota.enqueue("mail")

    Dispatch({"mail": raising(Retry("later", after="5m"))}).run_once(rota)

    assert (handle.state, handle.show()["run_at"]) == ("waiting", "2026-11-02T12:05:00.000000Z")


def test_a_job_that_nobody_handles_fails_with_what_is_handled(rota: Rota, job: str) -> None:
    handle = rota.enqueue(job)

    Dispatch({"post": print, re.compile("x-.*"): print}).run_once(rota)

    reason = handle.show()["reason"]
    assert reason["code"] == "start_error"
    assert "no handler for job 'mail': this worker routes 'post', /x-.*/" in reason["text"]


def test_a_result_that_is_not_json_fails_the_run(rota: Rota, job: str) -> None:
    handle = rota.enqueue(job)

    Dispatch({"mail": lambda claim: object()}).run_once(rota)

    assert handle.state == "failed"
    assert "result" in handle.show()["error"]["message"]


def test_a_hook_before_may_refuse_and_the_hook_after_always_runs(rota: Rota, job: str) -> None:
    handle = rota.enqueue(job)
    called: list[Any] = []

    def refuse(_claim: Claim) -> bool:
        return False

    dispatch = Dispatch(
        {"mail": called.append}, before=[refuse], after=[lambda claim, error: called.append((claim.run_id, str(error)))]
    )
    dispatch.run_once(rota)

    view = handle.show()
    assert (view["state"], view["reason"]["code"]) == ("skipped", "no_op")
    assert "refuse" in view["reason"]["text"]
    assert called == [(handle.id, view["reason"]["text"])]


def test_a_hook_before_that_raises_fails_the_run_and_the_handler_is_not_called(rota: Rota, job: str) -> None:
    handle = rota.enqueue(job)
    called: list[Any] = []

    Dispatch({"mail": called.append}, before=[raising(OSError("disk full"))]).run_once(rota)

    assert called == []
    assert handle.show()["error"]["type"] == "OSError"


def test_a_hook_after_that_raises_changes_nothing(rota: Rota, job: str, caplog: pytest.LogCaptureFixture) -> None:
    handle = rota.enqueue(job)
    seen: list[BaseException | None] = []

    def broken(_claim: Claim, _error: BaseException | None) -> None:
        raise RuntimeError("hook broke")

    Dispatch({"mail": lambda claim: 1}, after=[broken, lambda claim, error: seen.append(error)]).run_once(rota)

    assert handle.result == 1
    assert seen == [None]
    assert "hook broke" in caplog.text


def test_a_handler_may_end_its_claim_by_itself(rota: Rota, job: str) -> None:
    handle = rota.enqueue(job)

    Dispatch({"mail": lambda claim: claim.finish("mine")}).run_once(rota)

    assert handle.result == "mine"


def test_a_worker_that_is_interrupted_gives_its_run_back(rota: Rota, job: str) -> None:
    handle = rota.enqueue(job)
    after: list[Any] = []

    dispatch = Dispatch({"mail": raising(KeyboardInterrupt())}, after=[lambda claim, error: after.append(claim.run_id)])
    with pytest.raises(KeyboardInterrupt):
        dispatch.run_once(rota)

    assert handle.state == "ready"
    assert after == [handle.id]


def test_a_run_that_was_taken_away_meanwhile_is_left_to_its_new_owner(
    rota: Rota, job: str, ledger: Ledger, clock: Clock
) -> None:
    from rota.store.endings import rescue_runs

    handle = rota.enqueue(job)

    def slow(_claim: Claim) -> str:
        clock.advance(seconds=61)
        rescue_runs(ledger.database, rescuer="b")
        ledger.claim_one("b")
        return "too late"

    assert Dispatch({"mail": slow}).run_once(rota)
    assert (handle.state, handle.show()["node"]) == ("running", "b")


def test_the_lease_is_renewed_while_the_handler_works(rota: Rota, job: str, ledger: Ledger, clock: Clock) -> None:
    handle = rota.enqueue(job)
    claim = rota.poll(lease=60)
    assert claim is not None
    renewed = threading.Event()
    beat = claim.heartbeat

    def heartbeat() -> bool:
        answer = beat()
        renewed.set()
        return answer

    claim.heartbeat = heartbeat
    clock.advance(seconds=30)
    with Heart(claim, every_seconds=0.01):
        assert renewed.wait(timeout=30)

    assert ledger.run(handle.id).lease_ends_at == clock.after(60)
    claim.finish()


def test_the_loop_ends_when_told_and_outlives_a_database_that_is_away(
    rota: Rota, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rota.enqueue_many([(job, None)] * 2)
    stop = threading.Event()
    waits: list[float | None] = []
    monkeypatch.setattr(stop, "wait", lambda seconds=None: waits.append(seconds))
    poll, trouble = rota.poll, [DatabaseUnavailable("nobody answers")]

    def unreliable(*args: Any, **options: Any) -> Claim | None:
        if trouble:
            raise trouble.pop()
        return poll(*args, **options)

    monkeypatch.setattr(rota, "poll", unreliable)

    def handler(claim: Claim) -> None:
        if claim.run_id == 2:
            stop.set()

    assert Dispatch({"mail": handler}).run(rota, stop=stop) == 2
    assert len(waits) == 1


@pytest.mark.parametrize("routes", [{1: print}, {"mail": "not callable"}])
def test_routes_that_cannot_work_are_refused_at_once(routes: Any) -> None:
    with pytest.raises(Invalid, match=r"route|handler"):
        Dispatch(routes)
