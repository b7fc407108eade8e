"""Callables: in a process of their own, with arguments, results and errors over the guardian's socket."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rota.engine.watch import end_of
from rota.errors import StateError
from rota.execution.command import argv_for_call, job_environment
from rota.execution.context import current_run
from rota.execution.order import Outcome, read_outcome
from rota.execution.report import report_result
from tests.execution.harness import ROOT, Harness, is_alive, wait_until

MIB = 1024 * 1024

JOBS = '''
import os, sys, time
from rota.execution.context import current_run
from rota.execution.report import report_result

import logging
def log(is_set_up):
    if is_set_up: logging.basicConfig(format="mine: %(message)s")
    logging.getLogger("shop").debug("d")
    logging.getLogger("shop").info("i")
    logging.getLogger("shop").warning("w")
def add(a, b=0): return {"sum": a + b}
async def later(a):
    import asyncio
    await asyncio.sleep(0)
    return [a]
def nothing(): print("said")
def fail(): raise ValueError("no good")
class Own(Exception): pass
def wish(kind, after=None):
    from rota.model.outcomes import Release, Retry, Skip
    raise {"skip": Skip, "release": Release, "retry": lambda text: Retry(text, after=after)}[kind]("for a reason")
class Deep(Own, ConnectionError): pass
def fail_own(): raise Own("mine")
def fail_deep(): raise Deep("deep")
def leave(code): sys.exit(code)
def vanish(): os._exit(0)
def no_json(): return object()
def nan(): return float("nan")
def deep():
    value = []
    for _ in range(100_000): value = [value]
    return value
class Mute(Exception):
    def __str__(self): raise RuntimeError("no words")
def mute(): raise Mute
def stop(): raise GeneratorExit
async def give_up():
    import asyncio
    raise asyncio.CancelledError("by itself")
def large(size): return "x" * size
def echo(**args): return len(args["text"])
def ask():
    run = current_run()
    run.result("first")
    return [run.run_id, run.job, run.schedule, run.attempt, str(run.slot), run.node, run.fence, run.key, run.args]
def interim():
    report_result('"kept"')
    os._exit(0)
class Decorated:
    def __rota_function__(self): return "inner"
decorated = Decorated()
number = 3
'''  # fmt: skip

FACTS = {
    "ROTA_RUN_ID": "7", "ROTA_JOB": "j", "ROTA_SCHEDULE": "s", "ROTA_ATTEMPT": "2", "ROTA_NODE": "n", "ROTA_FENCE": "5",
    "ROTA_SLOT": "2026-11-20T07:00:00.000000Z", "ROTA_RUN_AT": "2026-11-20T07:00:30.000000Z", "ROTA_KEY": "s/1",
}  # fmt: skip


@pytest.fixture
def call(harness: Harness, folder: Path) -> Callable[..., Outcome]:
    (folder / "jobs_here.py").write_text(JOBS)

    def run_callable(target: str, arguments: Any = None, **facts: str | None) -> Outcome:
        text = json.dumps(arguments if arguments is not None else {})
        environment = job_environment(
            os.environ, {"PYTHONPATH": f"{folder}:{ROOT}"}, {**FACTS, "ROTA_ARGS": text, **facts}
        )
        return harness.run(
            *argv_for_call(target), environment=environment, arguments=text, expects_result=True, cwd="/"
        )

    return run_callable


def test_a_callable_gets_its_arguments_and_its_value_is_the_result(call: Callable[..., Outcome]) -> None:
    outcome = call("jobs_here:add", {"a": 1, "b": 2})
    assert (outcome.ended, outcome.exit_code, outcome.error_type) == ("exited", 0, None)
    assert json.loads(outcome.result or "") == {"sum": 3}

    assert json.loads(call("jobs_here:add", [4, 5]).result or "") == {"sum": 9}
    assert json.loads(call("jobs_here:later", {"a": "ü"}).result or "") == ["ü"]
    assert call("jobs_here:decorated").result == '"inner"'
    outcome = call("jobs_here:nothing")
    assert (outcome.result, outcome.stdout.head) == ("null", b"said\n")


def test_what_is_logged_is_written_with_its_level(call: Callable[..., Outcome]) -> None:
    assert call("jobs_here:log", [False]).stderr.head == b"INFO shop: i\nWARNING shop: w\n"
    assert call("jobs_here:log", [True]).stderr.head == b"mine: i\nmine: w\n"  # as the job set it up


@pytest.mark.parametrize("is_set_up", [False, True])
def test_so_is_what_is_logged_by_what_is_imported_only_while_it_runs(
    call: Callable[..., Outcome], folder: Path, is_set_up: bool
) -> None:
    (folder / "late.py").write_text(
        "def log(is_set_up):\n"
        "    import sys\n"
        "    assert 'logging' not in sys.modules\n"
        "    import logging\n"
        "    if is_set_up: logging.basicConfig(format='mine: %(message)s')\n"
        "    logging.getLogger('shop').info('i')\n"
        "    logging.getLogger('shop').warning('w')\n"
    )

    outcome = call("late:log", [is_set_up])

    said = b"mine: i\nmine: w\n" if is_set_up else b"INFO shop: i\nWARNING shop: w\n"
    assert (outcome.exit_code, outcome.stderr.head) == (0, said)


def test_arguments_too_long_for_the_environment_come_over_the_socket(call: Callable[..., Outcome]) -> None:
    assert call("jobs_here:echo", {"text": "x" * 1_000_000}).result == "1000000"


def test_an_exception_is_told_with_its_traceback(call: Callable[..., Outcome]) -> None:
    outcome = call("jobs_here:fail")

    assert (outcome.ended, outcome.exit_code) == ("exited", 1)
    assert (outcome.error_type, outcome.error_message) == ("ValueError", "no good")
    assert (outcome.traceback or "").startswith("Traceback")
    assert "python_job" not in (outcome.traceback or "")
    assert "in fail\n" in (outcome.traceback or "")
    assert call("jobs_here:fail_own").error_type == "jobs_here.Own"


def test_an_exception_is_told_with_the_names_of_its_base_classes(call: Callable[..., Outcome]) -> None:
    assert call("jobs_here:fail_deep").error_bases == (
        "jobs_here.Own", "ConnectionError", "OSError", "Exception", "BaseException",
    )  # fmt: skip
    end = end_of(call("jobs_here:fail"))
    assert (end.kind, end.error_type, end.error_bases) == ("exception", "ValueError", ("Exception", "BaseException"))


def test_an_end_that_an_earlier_programs_guardian_told_is_read() -> None:
    now: dict[str, Any] = {"claim_id": "c", "run_id": 1, "attempt": 1, "fence": 1, "ended": "exited", "exit_code": 1}
    now |= {"signal": None, "error_type": "ValueError", "error_message": "no", "traceback": "", "seconds": 1.0}
    now |= {"cpu_seconds": 0.1, "memory_bytes_max": 1, "leftovers": 0, "sizes": [0, 0, 0, 0], "totals": [0, 0]}

    assert read_outcome(now | {"has_result": False}, b"").error_bases == ()


@pytest.mark.parametrize(
    ("target", "kind", "words"),
    [
        ("no_such_module:f", "ModuleNotFoundError", "no_such_module"),
        ("jobs_here:missing", "rota.errors.Invalid", "has no 'missing'"),
        ("jobs_here:number", "rota.errors.Invalid", "cannot be called"),
        ("jobs_here", "rota.errors.Invalid", "package.module:function"),
        ("jobs_here:add", "TypeError", "missing 1 required"),
    ],
)
def test_what_cannot_be_imported_or_called_says_so(
    call: Callable[..., Outcome], target: str, kind: str, words: str
) -> None:
    outcome = call(target)

    assert (outcome.exit_code, outcome.error_type) == (1, kind)
    assert words in (outcome.error_message or "")


@pytest.mark.parametrize("target", ["no_json", "nan"])
def test_a_result_that_is_not_json_fails(call: Callable[..., Outcome], target: str) -> None:
    outcome = call(f"jobs_here:{target}")

    assert (outcome.exit_code, outcome.error_type, outcome.result) == (1, "BadResult", None)
    assert "JSON" in (outcome.error_message or "")


def test_a_result_that_is_nested_too_deep_even_to_be_shown_fails_with_that_rule(call: Callable[..., Outcome]) -> None:
    outcome = call("jobs_here:deep")

    assert outcome.error_type == "BadResult"
    assert "result of type list is refused: it must not be nested deeper than 64 levels" in (
        outcome.error_message or ""
    )


@pytest.mark.parametrize(
    ("target", "kind", "message"),
    [
        ("mute", "jobs_here.Mute", "<exception str() failed>"),
        ("give_up", "asyncio.exceptions.CancelledError", "by itself"),
        ("stop", "GeneratorExit", ""),
    ],
)
def test_whatever_is_raised_is_told(call: Callable[..., Outcome], target: str, kind: str, message: str) -> None:
    outcome = call(f"jobs_here:{target}")

    assert (outcome.exit_code, outcome.error_type, outcome.error_message) == (1, kind, message)
    assert outcome.stderr.head == b""


def test_a_result_above_one_mebibyte_fails(call: Callable[..., Outcome]) -> None:
    assert len(call("jobs_here:large", {"size": MIB - 2}).result or "") == MIB

    outcome = call("jobs_here:large", {"size": MIB})
    assert (outcome.exit_code, outcome.error_type, outcome.result) == (1, "BadResult", None)
    assert "1048576" in (outcome.error_message or "")


def test_a_process_that_ends_well_without_a_result_has_failed(call: Callable[..., Outcome]) -> None:
    outcome = call("jobs_here:vanish")
    assert (outcome.exit_code, outcome.error_type) == (0, "NoResult")
    assert call("jobs_here:leave", {"code": 0}).error_type == "NoResult"

    outcome = call("jobs_here:leave", {"code": 4})
    assert (outcome.exit_code, outcome.error_type) == (4, None)
    assert call("jobs_here:interim").result == '"kept"'


def test_the_code_of_a_job_can_ask_about_its_run(call: Callable[..., Outcome]) -> None:
    outcome = call("jobs_here:ask", {})
    assert json.loads(outcome.result or "") == [7, "j", "s", 2, "2026-11-20 07:00:00+00:00", "n", 5, "s/1", {}]

    outcome = call("jobs_here:ask", {}, ROTA_SCHEDULE=None, ROTA_SLOT=None, ROTA_KEY=None)
    assert json.loads(outcome.result or "") == [7, "j", None, 2, "None", "n", 5, None, {}]


def test_the_working_directory_is_not_on_the_path(harness: Harness, folder: Path) -> None:
    (folder / "only_here.py").write_text("def f(): pass")
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "ROTA_ARGS": "{}"}

    outcome = harness.run(*argv_for_call("only_here:f"), environment=environment, cwd=str(folder))

    assert outcome.error_type == "ModuleNotFoundError"


def test_outside_a_job_there_is_no_current_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROTA_CONTROL", raising=False)

    with pytest.raises(StateError, match="not a job of Rota"):
        current_run()
    with pytest.raises(StateError, match="not a job of Rota"):
        report_result("1")


def test_a_guardian_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("ROTA_CONTROL", str(folder / "gone"))

    with pytest.raises(StateError, match="does not answer"):
        report_result("1")


RAW = """
import os, socket, struct, sys, json
s = socket.socket(socket.AF_UNIX); s.connect(os.environ["ROTA_CONTROL"])
def send(message, blob):
    text = json.dumps(message).encode()
    s.sendall(struct.pack("!II", len(text), len(blob)) + text + blob)
    text_bytes, _ = struct.unpack("!II", s.recv(8))
    print(s.recv(text_bytes).decode())
"""


def test_the_socket_refuses_what_it_cannot_keep_and_the_last_result_counts(harness: Harness) -> None:
    program = RAW + (
        "send({'op': 'result'}, b'1'); send({'op': 'result'}, b'x' * 1048577); send({'op': 'result'}, b'x' * 5000000);"
        "send({'op': 'result'}, b'\\xff'); send({'op': 'sing'}, b''); send({'op': 'result'}, b'2')"
    )

    outcome = harness.run("python3", "-I", "-c", program)

    answers = [json.loads(line) for line in outcome.stdout.head.splitlines()]
    assert [answer["ok"] for answer in answers] == [True, False, False, False, False, True]
    assert "1048577 bytes" in answers[1]["error"]
    assert "UTF-8" in answers[3]["error"]
    assert "sing" in answers[4]["error"]
    assert outcome.result == "2"


@pytest.mark.parametrize(
    "mischief",
    [
        "s.sendall(b'\\xff' * 100); s.close()",
        "s.sendall(b'\\0\\0\\0\\x02\\0\\0\\0\\0[]')",
        "s.sendall(b'\\0\\0\\0\\x09')",
        'm = b\'{"op":"error","bases":{"a":1}}\'\ns.sendall(len(m).to_bytes(4) + b\'\\0\\0\\0\\0\' + m)\ns.recv(100)',
        "a = [socket.socket(socket.AF_UNIX) for _ in range(60)]\n"
        "for x in a: x.setblocking(False); x.connect_ex(os.environ['ROTA_CONTROL'])",
        "os.unlink(os.environ['ROTA_CONTROL'])",
        # What is kept of arguments and checkpoint was written by hand, and is no JSON.
        's.sendall(b\'{"op":"args"}\\n{"op":"saved"}\\n\'); s.recv(100)',
        # Lines of every depth at which reading or writing JSON gives up.
        "for depth in (*range(880, 1000), 5000):\n"
        "    s = socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect(os.environ['ROTA_CONTROL'])\n"
        "    deep = b'[' * depth + b']' * depth\n"
        '    s.sendall(b\'{"op":"checkpoint","value":\' + deep + b\'}\\n{"op":"saved"}\\n\')\n'
        "    s.recv(1000000)",
    ],
)
def test_a_job_cannot_upset_its_guardian(harness: Harness, mischief: str) -> None:
    kept = {"arguments": "no JSON", "checkpoint": "no JSON"}

    outcome = harness.run("python3", "-I", "-c", f"{RAW}\n{mischief}\nprint('done')", **kept)

    assert (outcome.ended, outcome.exit_code, outcome.stdout.head) == ("exited", 0, b"done\n"), outcome.stderr
    assert harness.run("true").exit_code == 0


def test_who_asks_and_never_reads_is_sent_away_before_the_answers_fill_the_memory(harness: Harness) -> None:
    asks = (
        'text = b\'{"op":"args"}\'\n'
        "s.setblocking(False)\n"
        "try:\n    while True: s.send((struct.pack('!II', len(text), 0) + text) * 3000)\nexcept OSError: pass"
    )
    order = harness.start("python3", "-I", "-c", f"{RAW}\n{asks}", arguments="x" * 100_000)
    guardian_pid = harness.started(order).guardian_pid

    assert harness.ended(order).exit_code == 0

    status = Path(f"/proc/{guardian_pid}/status").read_text()
    (peak,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
    assert peak < 64 * 1024, "KiB"


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("b'{\"op\":\"progress\",\"fraction\":1' + b'0' * 400 + b'}', b''", "is not from 0 to 1"),
        ('b\'{"op":"progress","fraction":1e999}\', b\'\'', "progress inf is not from 0 to 1"),
        ("b'{\"op\":\"checkpoint\"}', '[1]'.encode('utf-16')", "no JSON: 'utf-8' codec"),
        ('b\'{"op":"checkpoint"}\', b\'"\\xed\\xa0\\x80"\'', "no JSON: 'utf-8' codec"),
        ('b\'{"op":"checkpoint"}\', b\'{"at":NaN}\'', "no JSON: it has no NaN"),
        ("b'{\"op\":\"checkpoint\"}', b'{page: 3}'", "the checkpoint is no JSON"),
    ],
)
def test_what_no_database_keeps_is_refused_and_the_job_goes_on(harness: Harness, told: str, said: str) -> None:
    program = (
        f"{RAW}\ntext, blob = {told}\n"
        "s.sendall(struct.pack('!II', len(text), len(blob)) + text + blob); print(s.recv(1000)[8:].decode())"
    )

    outcome = harness.run("python3", "-I", "-c", program)

    answer = json.loads(outcome.stdout.head)
    assert not answer["ok"]
    assert said in answer["error"]
    assert (outcome.exit_code, outcome.checkpoint) == (0, None)


@pytest.mark.parametrize("after", ["soon", "nan", "inf", "-5", "1e300"])
def test_a_delay_that_is_none_is_that_of_the_job(harness: Harness, after: str) -> None:
    program = f"{RAW}\nsend({{'op': 'error', 'type': 'rota:retry {after}', 'message': 'later'}}, b'')"

    end = end_of(harness.run("python3", "-I", "-c", program))

    assert (end.kind, end.error_type, end.error_message, end.retry_after_seconds) == (
        "exception", "Retry", "later", None,
    )  # fmt: skip


def test_a_result_counts_although_the_job_was_gone_when_its_guardian_looked(harness: Harness, folder: Path) -> None:
    os.mkfifo(folder / "go")
    program = "\n".join(
        (
            "import os, socket, struct",
            f"open({str(folder / 'go')!r}).read()",
            "s = socket.socket(socket.AF_UNIX); s.connect(os.environ['ROTA_CONTROL'])",
            "s.sendall(struct.pack('!II', 15, 1) + b'{\"op\":\"result\"}' + b'5')",
        )
    )
    order = harness.start("python3", "-I", "-c", program)
    started = harness.started(order)
    os.kill(started.guardian_pid, signal.SIGSTOP)

    (folder / "go").write_text("now\n")
    wait_until(lambda: not is_alive(started.pid), "the job has ended")
    os.kill(started.guardian_pid, signal.SIGCONT)

    assert harness.ended(order).result == "5"


def test_a_callable_whose_installation_is_gone_when_it_has_run_still_tells_its_result(
    harness: Harness, folder: Path
) -> None:
    library = folder / "lib"
    shutil.copytree(ROOT / "rota", library / "rota", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "long.py").write_text(f"import shutil\ndef work(): shutil.rmtree({str(library)!r}); return 5\n")
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{library}:{folder}"}

    outcome = harness.run(*argv_for_call("long:work"), environment=environment, expects_result=True)

    assert not library.exists()
    assert (outcome.result, outcome.exit_code) == ("5", 0), outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "kind", "error_type", "after"),
    [
        ({"kind": "skip"}, "no_op", None, None),
        ({"kind": "release"}, "released", "Release", None),
        ({"kind": "retry"}, "exception", "Retry", None),
        ({"kind": "retry", "after": "90s"}, "exception", "Retry", 90.0),
    ],
)
def test_a_callable_may_ask_for_another_end(
    call: Callable[..., Outcome], arguments: Any, kind: str, error_type: str | None, after: float | None
) -> None:
    end = end_of(call("jobs_here:wish", arguments))

    assert (end.kind, end.error_type, end.error_message) == (kind, error_type, "for a reason")
    assert end.retry_after_seconds == after
