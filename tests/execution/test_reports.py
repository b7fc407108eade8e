"""What a running job tells its guardian, and what its worker hears of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from rota.engine.watch import end_of
from rota.execution.command import argv_for_call
from rota.execution.order import Told
from tests.execution.harness import ROOT, Harness, wait_until
from tests.execution.test_adoption import doors

JOBS = """
import json, os, signal, socket, time
from rota.errors import Conflict, Invalid, Preempted
from rota.execution.context import current_run

def wait(path):
    while not os.path.exists(path): time.sleep(0.01)
def report(go):
    run = current_run()
    run.progress(0.25, "loading")
    run.set_checkpoint({"page": 3})
    wait(go)
    return run.checkpoint
def resume():
    return current_run().checkpoint
def bad():
    seen = []
    for value in (1.7, -0.1, float("nan"), "0.5", True, 10**400, {}):
        try: current_run().progress(value)
        except Invalid as error: seen.append(error.field)
    try: current_run().progress(0.5, 7)
    except Invalid as error: seen.append(error.field)
    try: current_run().set_checkpoint(object())
    except Invalid as error: seen.append(error.field)
    return seen
def convert():
    from decimal import Decimal
    current_run().progress(Decimal("0.5"))
def lines(*requests):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.environ["ROTA_CONTROL"])
    connection.sendall("".join(request + chr(10) for request in requests).encode())
    file = connection.makefile()
    return [json.loads(file.readline()) for request in requests if request.strip()]
def nonsense():
    begin = '{"op": "checkpoint", "value": '
    return lines(
        "garbage", '{"op": "progress", "fraction": 0.5}', begin + "{page: 4}}", "[1]", begin + "[" * 100000,
        begin + '"' + "x" * 2000000 + '"}', "  ", begin + "5}",
    )
def busy():
    from rota.execution import context
    run, told, send = current_run(), [], context.report_progress
    def report(*what):
        told.append(what)
        send(*what)
    context.report_progress = report
    began = time.monotonic()
    for n in range(20000): run.progress(n / 20000, "half" if n < 10000 else "more")
    seconds = time.monotonic() - began
    run.progress(1.0, "more")
    return [len(told), seconds, told[-1][0], len({message for _, message in told})]
def track(go):
    for item in current_run().track([1, 2, 3, 4], message="items"):
        if item == 4: wait(go)
def track_all():
    for item in current_run().track([1, 2, 3, 4], message="items"): pass
def until_cancelled(ready):
    run = current_run()
    assert not run.cancelled
    open(ready, "w").close()
    while not run.cancelled: time.sleep(0.01)
    return "left by itself"
def until_preempted(ready):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(ready, "w").close()
    while True:
        try: current_run().progress(0.5, str(time.monotonic()))
        except Preempted as error: return [error.code, error.run_id, error.fence]
        time.sleep(0.01)
"""


TELL_LINE = """
import os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(os.environ["ROTA_CONTROL"])
connection.sendall(sys.argv[1].encode() + b"\\n")
print(connection.makefile().readline())
"""


@pytest.fixture
def call(folder: Path, harness: Harness) -> Any:
    (folder / "jobs.py").write_text(JOBS)

    def start(function: str, *args: object, **values: Any) -> Any:
        environment = {
            "PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{folder}", "ROTA_ARGS": json.dumps(list(args)),
            "ROTA_RUN_ID": "7", "ROTA_JOB": "job", "ROTA_ATTEMPT": "1", "ROTA_NODE": "a", "ROTA_FENCE": "3",
        }  # fmt: skip
        argv = argv_for_call(f"jobs:{function}")
        return harness.start(*argv, environment=environment, expects_result=True, **values)

    return start


def hear(harness: Harness, what: str) -> list[Told]:
    """Wait until something is told, and give all that has been told."""

    def look() -> list[Told]:
        harness.seen += harness.crew.poll(0.05)
        return [event for event in harness.seen if isinstance(event, Told)]

    return wait_until(look, what)


def test_progress_and_checkpoint_are_told_while_it_runs_and_the_checkpoint_with_the_end(
    folder: Path, harness: Harness, call: Any
) -> None:
    order = call("report", str(folder / "go"))

    (told,) = hear(harness, "it tells")

    assert (told.claim_id, told.progress, json.loads(told.checkpoint or "")) == (
        (order.claim_id, (0.25, "loading"), {"page": 3})
    )
    (folder / "go").touch()
    outcome = harness.ended(order)
    assert json.loads(outcome.result or "") == json.loads(outcome.checkpoint or "") == {"page": 3}


def test_of_progress_that_is_told_in_a_loop_ten_a_second_leave_the_job_and_the_last(
    harness: Harness, call: Any
) -> None:
    outcome = harness.ended(call("busy"))

    count, seconds, last, messages = json.loads(outcome.result or "")
    assert (last, messages) == (1.0, 2)  # each message is told
    assert count <= seconds / 0.1 + 4


def test_an_attempt_begins_with_the_checkpoint_of_an_earlier_one(harness: Harness, call: Any) -> None:
    with_one = harness.ended(call("resume", checkpoint='{"page": 3}'))
    without = harness.ended(call("resume"))

    assert (with_one.result, without.result) == ('{"page":3}', "null")
    assert with_one.checkpoint is None  # of this attempt there is none


def test_what_is_no_progress_and_no_checkpoint_is_refused_in_the_job(harness: Harness, call: Any) -> None:
    outcome = harness.ended(call("bad"))

    assert json.loads(outcome.result or "") == [*["progress"] * 7, "message", "checkpoint"]
    assert outcome.checkpoint is None


def test_whatever_converts_itself_to_a_fraction_is_one(harness: Harness, call: Any) -> None:
    harness.ended(call("convert"))

    assert [event.progress for event in harness.seen if isinstance(event, Told)] == [(0.5, None)]


def test_any_language_may_write_lines_of_json_to_the_socket(harness: Harness, call: Any) -> None:
    requests = [
        '{"op": "progress", "fraction": 0.5, "message": "half"}',
        '{"op": "progress", "fraction": 1.7}',
        '{"op": "progress", "fraction": "x"}',
        '{"op": "progress", "fraction": NaN}',
        '{"op": "checkpoint", "value": {"page": 4}}',
        '{"op": "saved"}',
        '{"op": "args"}',
        '{"op": "stopping"}',
        '{"op": "dance"}',
    ]

    outcome = harness.ended(call("lines", *requests, arguments='{"day": 1}'))

    answers = json.loads(outcome.result or "")
    assert [answer["ok"] for answer in answers] == [True, False, False, False, True, True, True, True, False]
    assert answers[5]["value"] == {"page": 4}
    assert answers[6]["value"] == {"day": 1}
    assert answers[7]["why"] is None
    assert "it knows result, error, progress, checkpoint" in answers[8]["error"]
    assert json.loads(outcome.checkpoint or "") == {"page": 4}


def test_a_line_that_is_nonsense_is_answered_and_those_beside_it_count(harness: Harness, call: Any) -> None:
    outcome = harness.ended(call("nonsense"))

    answers = json.loads(outcome.result or "")
    assert [answer["ok"] for answer in answers] == [False, True, False, False, False, False, True]
    told = [answer.get("error") for answer in answers]
    assert told[0] == "the line is no JSON: Expecting value: line 1 column 1 (char 0)"
    assert told[2].startswith("the line is no JSON: Expecting property name")
    assert told[3:5] == ["the line is no JSON object", "the line is JSON nested too deeply"]
    assert "has 2000033 bytes, and 1048576 are the most" in told[5]
    assert outcome.checkpoint == "5"
    assert [event.progress for event in harness.seen if isinstance(event, Told)][-1] == (0.5, None)


def test_a_result_may_be_null_and_not_be_missing(folder: Path, harness: Harness) -> None:
    (folder / "tell.py").write_text(TELL_LINE)

    missing, null = (
        harness.run(sys.executable, str(folder / "tell.py"), line)
        for line in ('{"op": "result"}', '{"op": "result", "value": null}')
    )

    assert b"a result has a value" in missing.stdout.head
    assert (missing.result, null.result) == (None, "null")


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ({"op": "retry", "after": 300, "message": "not there"}, ("exception", "Retry", "not there", 300.0)),
        ({"op": "retry"}, ("exception", "Retry", "", None)),
        ({"op": "release", "message": "too busy"}, ("released", "Release", "too busy", None)),
        ({"op": "skip", "message": "nothing new"}, ("no_op", None, "nothing new", None)),
    ],
)
@pytest.mark.parametrize("status", [0, 3])
def test_any_language_chooses_the_end_of_its_attempt_whatever_its_exit_status(
    folder: Path, harness: Harness, request_: dict[str, Any], told: tuple[Any, ...], status: int
) -> None:
    (folder / "tell.py").write_text(TELL_LINE)

    outcome = harness.run("sh", "-c", f"{sys.executable} {folder}/tell.py '{json.dumps(request_)}'; exit {status}")

    end = end_of(outcome)
    assert (end.kind, end.error_type, end.error_message, end.retry_after_seconds) == told
    assert (end.exit_code, json.loads(outcome.stdout.head)) == (status, {"ok": True})


@pytest.mark.parametrize(
    "request_",
    [
        '{"op": "retry", "after": -1}', '{"op": "retry", "after": NaN}', '{"op": "retry", "after": "5m"}',
        '{"op": "retry", "after": true}', '{"op": "skip", "after": 1}', '{"op": "release", "message": 7}',
    ],
)  # fmt: skip
def test_an_end_that_is_none_is_refused_and_the_job_ends_as_it_does(
    folder: Path, harness: Harness, request_: str
) -> None:
    (folder / "tell.py").write_text(TELL_LINE)

    outcome = harness.run("sh", "-c", f"{sys.executable} {folder}/tell.py '{request_}'")

    assert json.loads(outcome.stdout.head)["ok"] is False
    assert (outcome.ended, outcome.exit_code, outcome.error_type) == ("exited", 0, None)


def test_a_stop_that_comes_before_the_end_that_was_chosen_goes_first(folder: Path, harness: Harness) -> None:
    (folder / "tell.py").write_text(TELL_LINE)
    tell = f'{sys.executable} {folder}/tell.py \'{{"op": "skip", "message": "nothing new"}}\''
    order = harness.start("sh", "-c", f"{tell}; touch {folder}/told; exec sleep 1000")
    harness.started(order)
    wait_until((folder / "told").exists, "it has told")

    harness.crew.stop(order.claim_id, "cancelled", 10.0)

    end = end_of(harness.ended(order))
    assert (end.kind, end.error_type, end.error_message) == ("cancelled", None, "nothing new")


def test_going_through_items_tells_how_many_are_done(folder: Path, harness: Harness, call: Any) -> None:
    order = call("track", str(folder / "go"))

    told = hear(harness, "it tells")

    fraction, message = told[-1].progress or (None, None)
    assert message == "items"
    assert fraction in (0.0, 0.25, 0.5, 0.75)  # some are too quick to be told
    (folder / "go").touch()
    assert harness.ended(order).exit_code == 0


@pytest.mark.parametrize("why", ["cancelled", "timeout", "released"])
def test_a_job_that_asks_whether_it_is_stopped_leaves_by_itself_and_was_stopped(
    folder: Path, harness: Harness, call: Any, why: Any
) -> None:
    order = call("until_cancelled", str(folder / "ready"))
    harness.started(order)
    wait_until((folder / "ready").exists, "it asks")

    harness.crew.stop(order.claim_id, why, 20.0)

    outcome = harness.ended(order)
    assert (outcome.ended, outcome.exit_code, outcome.result) == (why, 0, '"left by itself"')


def test_when_its_lease_goes_its_reports_are_refused(folder: Path, harness: Harness, call: Any) -> None:
    order = call("until_preempted", str(folder / "ready"), lease_seconds=600.0)
    harness.started(order)
    wait_until((folder / "ready").exists, "it reports")

    harness.crew.stop(order.claim_id, "lease_over", 20.0)  # as when another node has the run

    outcome = harness.ended(order)
    assert json.loads(outcome.result or "") == ["preempted", 7, 3]


def test_output_is_told_as_it_comes_and_whole_at_the_end(folder: Path, harness: Harness) -> None:
    go = folder / "go"
    order = harness.start("sh", "-c", f"echo one; echo oh >&2; until test -e {go}; do sleep 0.01; done; echo two")

    told = hear(harness, "it tells")

    pieces = {piece.stream: (piece.position, piece.data) for one in told for piece in one.pieces}
    assert pieces == {"stdout": (0, b"one\n"), "stderr": (0, b"oh\n")}
    go.touch()
    outcome = harness.ended(order)
    assert outcome.stdout.head == b"one\ntwo\n"
    (out_one, out_two), (err,) = outcome.stdout.marks, outcome.stderr.marks
    assert (out_one[0], out_two[0], err[0]) == (0, 4, 0)
    assert out_one[1] <= err[1] < out_two[1]


def test_of_a_flood_those_who_look_on_get_samples_and_the_end_has_head_and_tail(folder: Path) -> None:
    harness = Harness(folder / "w", output_bytes_max=1000)
    flood = "head -c 30000000 /dev/zero; printf 'the end'"
    order = harness.start("sh", "-c", f"{flood}; until test -e {folder}/go; do sleep 0.01; done")

    told = hear(harness, "it tells")

    assert sum(len(piece.data) for one in told for piece in one.pieces) < 1000000
    (folder / "go").touch()
    outcome = harness.ended(order)
    assert outcome.stdout.bytes_total == 30_000_007
    assert outcome.stdout.tail.endswith(b"the end")
    assert len(outcome.stdout.marks) < 5000
    harness.crew.close()


def test_a_job_that_is_done_within_a_second_tells_its_end_only(harness: Harness) -> None:
    order = harness.start("sh", "-c", "echo one")

    outcome = harness.ended(order)

    assert outcome.stdout.head == b"one\n"
    assert not [event for event in harness.seen if isinstance(event, Told)]


def test_what_it_told_last_before_its_end_is_told(harness: Harness, call: Any) -> None:
    order = call("track_all")

    harness.ended(order)

    assert [event.progress for event in harness.seen if isinstance(event, Told)][-1] == (1.0, "items")


def test_without_a_worker_it_waits_and_the_next_one_hears_everything(folder: Path, call: Any, harness: Harness) -> None:
    order = call("report", str(folder / "go"), lease_seconds=600.0)
    harness.started(order)
    hear(harness, "it tells")
    harness.crew.close()
    wait_until(lambda: doors(harness.folder), "its guardian has a door")
    again = Harness(harness.folder)
    again.crew.adopt()

    (told,) = hear(again, "it tells again")

    assert (told.progress, json.loads(told.checkpoint or "")) == ((0.25, "loading"), {"page": 3})
    (folder / "go").touch()
    outcome = again.ended(order)
    assert json.loads(outcome.result or "") == {"page": 3}
    again.crew.close()


def test_a_progress_that_a_command_may_not_tell_is_refused_as_it_was_written(harness: Harness) -> None:
    facts = {"ROTA_RUN_ID": "7", "ROTA_JOB": "job", "ROTA_ATTEMPT": "1", "ROTA_NODE": "a", "ROTA_FENCE": "3"}
    argv = (sys.executable, "-P", "-m", "rota", "current", "progress", "400%")

    outcome = harness.run(*argv, environment={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)} | facts)

    assert outcome.exit_code == 2
    assert b"progress '400%' is refused: it is a fraction from 0 to 1, or a percentage" in outcome.stderr.head
