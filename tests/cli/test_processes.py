"""Real ``rota`` processes: a worker, runs that are waited for, signals, one pass, the demo."""

from __future__ import annotations

import json
import re
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.conftest import read

Start = Callable[..., "subprocess.Popen[str]"]

SECONDS_MAX = 30.0


def wait_until(happened: Callable[[], object], what: str) -> None:
    """Wait for an event, with a limit that only a hang reaches."""
    ends = time.monotonic() + SECONDS_MAX
    while not happened():
        assert time.monotonic() < ends, f"it did not happen: {what}"
        time.sleep(0.05)


@pytest.fixture
def worker(start_rota: Start, tmp_path: Path) -> subprocess.Popen[str]:
    log = tmp_path / "worker.log"
    process = start_rota("worker", "--log-file", str(log), "--config", str(tmp_path / "rota.toml"))
    wait_until(lambda: process.poll() is not None or said(tmp_path, "3 slots")(), "the worker is ready")
    assert process.poll() is None, process.communicate()
    return process


@pytest.fixture(autouse=True)
def settings(tmp_path: Path) -> Path:
    file = tmp_path / "rota.toml"
    file.write_text("slots = 3\n")
    return file


def said(tmp_path: Path, text: str) -> Callable[[], bool]:
    log = tmp_path / "worker.log"
    return lambda: log.exists() and text in log.read_text()


def test_waiting_for_a_run_tells_by_the_exit_code_whether_it_succeeded(rota, worker):
    rota("job", "add", "good", "--shell", "echo out; echo err >&2")
    rota("job", "add", "bad", "--shell", "exit 3")

    good = rota("job", "run", "good", "--wait")
    bad = rota("job", "run", "bad", "--wait", "--json")
    followed = rota("job", "run", "good", "--follow")

    assert good.exit_code == 0
    assert good.stdout.startswith("run 1 succeeded")
    assert bad.exit_code == 1
    assert json.loads(bad.stdout)["reason"]["code"] == "exit_code"
    assert (followed.exit_code, followed.stdout) == (0, "out\nerr\n")
    assert rota("run", "wait", "2").exit_code == 1


def test_a_command_can_leave_a_json_result(rota, worker):
    import sys

    program = f"{sys.executable} -m rota current"
    rota("job", "add", "report", "--shell", f"""{program} result '{{"rows": 12}}' && {program} show --json""")

    run = json.loads(rota("job", "run", "report", "--args", '{"day": 1}', "--wait", "--json").stdout)

    assert run["result"] == {"rows": 12}
    shown = json.loads(rota("run", "logs", "1").stdout)
    assert (shown["id"], shown["job"], shown["args"]) == (1, "report", {"day": 1})


def test_a_result_that_is_no_json_fails_the_command_and_says_why(rota, worker):
    import sys

    rota("job", "add", "report", "--shell", f"{sys.executable} -m rota current result '{{rows'")

    assert rota("job", "run", "report", "--wait").exit_code == 1
    assert rota("run", "logs", "1").stdout.startswith("error: result '{rows' is refused")


def test_a_callable_that_cannot_be_imported_fails_its_run_and_the_worker_lives(rota, worker):
    rota("job", "add", "broken", "--call", "no_such_module:f")
    rota("job", "add", "good", "--shell", "true")

    broken = json.loads(rota("job", "run", "broken", "--wait", "--json").stdout)

    assert broken["state"] == "failed"
    assert "no_such_module" in broken["error"]["message"]
    assert rota("job", "run", "good", "--wait").exit_code == 0


def test_int_lets_running_jobs_end_and_the_worker_leaves_with_0(rota, worker, tmp_path):
    rota(
        "job",
        "add",
        "slow",
        "--shell",
        f"echo started > {tmp_path}/started; until test -e {tmp_path}/go; do sleep 0.1; done",
    )
    rota("job", "run", "slow")
    wait_until((tmp_path / "started").exists, "the job starts")

    worker.send_signal(signal.SIGINT)
    wait_until(said(tmp_path, "draining"), "the worker drains")
    (tmp_path / "go").touch()

    assert worker.wait(SECONDS_MAX) == 0
    assert read(rota("run", "show", "1", "--json"))["state"] == "succeeded"


def test_a_second_signal_stops_jobs_and_gives_their_runs_back(rota, worker, tmp_path):
    rota("job", "add", "slow", "--shell", f"echo started > {tmp_path}/started; sleep 1000")
    rota("job", "run", "slow")
    wait_until((tmp_path / "started").exists, "the job starts")

    worker.send_signal(signal.SIGINT)
    wait_until(said(tmp_path, "draining"), "the worker drains")
    worker.send_signal(signal.SIGQUIT)

    assert worker.wait(SECONDS_MAX) == 0
    run = read(rota("run", "show", "1", "--json"))
    assert (run["state"], run["reason"]["code"]) == ("ready", "released")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_broken_file_of_settings_leaves_the_old_ones_in_force_and_says_so(worker, settings, tmp_path, number):
    settings.write_text("slots = many")
    worker.send_signal(number)
    wait_until(said(tmp_path, "the old one stays in force"), "it refuses the broken file")
    settings.write_text("slots = 5\n")
    worker.send_signal(number)
    wait_until(said(tmp_path, "read the configuration again: pools default, 5 slots"), "it takes the new one")

    assert worker.poll() is None


def test_a_new_log_file_needs_a_restart(start_rota, settings, tmp_path):
    settings.write_text(f"slots = 3\nlog_file = '{tmp_path / 'worker.log'}'\n")
    worker = start_rota("worker", "--config", str(settings))
    wait_until(said(tmp_path, "3 slots"), "the worker is ready")
    settings.write_text(f"log_file = '{tmp_path / 'other.log'}'\n")
    worker.send_signal(signal.SIGHUP)
    wait_until(said(tmp_path, "a new log_file needs a restart"), "it says so")
    assert not (tmp_path / "other.log").exists()


def test_usr2_opens_the_log_file_anew(worker, tmp_path):
    (tmp_path / "worker.log").rename(tmp_path / "worker.log.1")
    worker.send_signal(signal.SIGUSR2)

    wait_until(said(tmp_path, "open anew"), "the new file is written")


def test_a_pass_runs_what_is_due_to_its_end_and_leaves(rota, start_rota):
    rota("job", "add", "hello", "--shell", "echo hello")
    rota("job", "run", "hello")

    one_pass = start_rota("tick")

    assert one_pass.wait(SECONDS_MAX) == 0
    assert read(rota("run", "show", "1", "--json"))["state"] == "succeeded"


def test_a_pass_that_is_the_first_to_name_a_pool_says_so_once(start_rota):
    passes = [start_rota("tick", "--pool", "typo", "--pool", "default").communicate(timeout=SECONDS_MAX) for _ in "ab"]

    assert [errors.partition(": ")[2] for _, errors in passes] == ["pool typo was not known before: made\n", ""]


def test_declared_jobs_come_into_force_with_the_worker_and_what_was_edited_since_is_reported(
    rota, start_rota, url, tmp_path
):
    (tmp_path / "reports.py").write_text(
        f"from rota import Rota\nrota = Rota({url!r})\n"
        "@rota.job(name='sales', timeout='5m')\ndef sales(day: str = 'today') -> dict:\n    return {'day': day}\n"
    )

    def pass_once() -> str:
        process = start_rota("tick", "-I", str(tmp_path), "-m", "reports")
        _, errors = process.communicate(timeout=SECONDS_MAX)
        assert process.returncode == 0, errors
        return errors

    assert "job sales: added" in pass_once()
    rota("job", "run", "sales")
    rota("job", "edit", "sales", "--timeout", "1m")
    assert "job sales was edited elsewhere" in pass_once()

    assert read(rota("job", "show", "sales", "--json"))["timeout"] == 60
    assert read(rota("run", "show", "1", "--json"))["result"] == {"day": "today"}


def test_a_module_that_cannot_be_imported_is_named_and_no_worker_starts(start_rota):
    process = start_rota("worker", "-m", "no_such_module")

    _, errors = process.communicate(timeout=SECONDS_MAX)

    assert process.returncode == 2
    assert "module 'no_such_module' cannot be imported" in errors


def test_a_folder_of_dash_i_that_is_not_there_is_named_where_its_module_is_missing(start_rota, tmp_path):
    process = start_rota("worker", "-I", str(tmp_path / "nope"), "-m", "no_such_module")

    _, errors = process.communicate(timeout=SECONDS_MAX)

    assert process.returncode == 2
    assert f"there is no folder {tmp_path / 'nope'}, named with -I" in errors
    assert "name the folder" not in errors


def test_up_makes_the_schema_and_works(start_rota, tmp_path):
    process = start_rota("up", "--log-file", str(tmp_path / "worker.log"), "--db", f"sqlite:///{tmp_path / 'new.db'}")

    wait_until(said(tmp_path, "slots"), "the node works")
    process.send_signal(signal.SIGTERM)

    assert process.wait(SECONDS_MAX) == 0


def test_the_demo_shows_its_point_and_ends_clean(start_rota, tmp_path):
    process = start_rota("up", "--demo", "--seconds", "22")
    output, errors = process.communicate(timeout=90)

    assert process.returncode == 0, errors
    shown = re.sub(r"run \d+ slot [-0-9: ]+: ", "", output)
    assert "too-late missed: its start window of 1s" in shown
    assert "overlapping skipped: an earlier run" in shown
    assert "often succeeded" in shown
    assert "flaky waiting: attempt 1" in shown
    assert "flaky succeeded: attempt 3" in shown
    assert "report succeeded: attempt 1 ended well" in shown
    assert '"processors":' in shown
    assert "long running" in shown
    file = Path(output.split("sqlite:///")[1].split()[0])
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("select count(*) from rota_run where state = 'running'").fetchone() == (0,)
        connection.create_function("rota_now", 1, lambda _: "2026-01-01 00:00:00.000000")
        assert connection.execute("select * from rota_violations").fetchall() == []


def test_the_demo_never_touches_the_database_in_force(rota, start_rota):
    process = start_rota("up", "--demo", "--seconds", "0")
    process.communicate(timeout=60)

    assert read(rota("job", "list", "--json")) == []


def test_the_demo_serves_its_pages_at_another_port_where_one_is_taken(start_rota):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start_rota("up", "--demo", "--port", str(port))
        told = [process.stdout.readline() for _ in range(4)]
        pages = told[-1].removeprefix("pages ").strip()

        with urllib.request.urlopen(f"{pages}/schedules", timeout=SECONDS_MAX) as answer:
            page = answer.read().decode()
        with urllib.request.urlopen(f"{pages}/api/v1/jobs", timeout=SECONDS_MAX) as answer:
            jobs = json.load(answer)["items"]
        while "often succeeded" not in re.sub(r"run \d+ slot [-0-9: ]+: ", "", process.stdout.readline()):
            assert process.poll() is None, process.communicate()
        process.terminate()
        output, errors = process.communicate(timeout=60)

    assert told[2].startswith(f"no pages: http://127.0.0.1:{port} cannot be had: ")
    assert 'href="/schedules/overlapping"' in page
    assert [one["name"] for one in jobs] == ["flaky", "long", "often", "overlapping", "report", "too-late"]
    assert (process.returncode, "stopping: jobs that run" in output) == (0, True), errors


def test_a_worker_has_the_environments_of_its_file_and_reads_them_again(rota, start_rota, tmp_path, settings):
    (tmp_path / "shop.py").write_text("def go():\n    return 'shop'\n")
    section = f'[environments.shop]\nversion = "{{}}"\npython_path = ["{tmp_path}"]\n'
    settings.write_text("slots = 3\n" + section.format("1"))
    log = tmp_path / "worker.log"
    process = start_rota("worker", "--name", "a", "--log-file", str(log), "--config", str(settings))
    wait_until(said(tmp_path, "3 slots"), "the worker is ready")
    rota("job", "add", "pinned", "--call", "shop:go", "--env", "shop==2")
    rota("job", "run", "pinned")

    why = rota("why", "run", "1").stdout
    before = read(rota("node", "show", "a", "--json"))["environments"]
    settings.write_text("slots = 3\n" + section.format("2"))
    process.send_signal(signal.SIGHUP)
    rota("run", "wait", "1")

    assert before == ["shop==1"]
    assert "no node alive in pool default has environment shop==2; a has shop==1" in why
    run = read(rota("run", "show", "1", "--json"))
    assert (run["state"], run["environment"], run["result"]) == ("succeeded", "shop==2", "shop")
    assert "shop==2" in rota("node", "list").stdout
    assert read(rota("job", "show", "pinned", "--json"))["env"] == "shop==2"
    assert read(rota("job", "edit", "pinned", "--env", "none", "--json"))["env"] is None
    process.terminate()
    assert process.wait(SECONDS_MAX) == 0
