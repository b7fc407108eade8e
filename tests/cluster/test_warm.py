"""Python jobs of whole workers that are forked by warm parents: they outlive their worker, and say when they cannot."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

from rota.execution.linux import children_of
from rota.store.history import why_run
from tests.cluster.cluster import PATH, ROOT, Cluster, Worker, parent_of
from tests.cluster.test_upgrade import install
from tests.execution.harness import is_alive

JOBS = """
import os, time

def by_whom(): return os.getppid()

def wait(folder):
    with open(f"{folder}/new", "w") as file:
        print(os.getpid(), file=file)
    os.rename(f"{folder}/new", f"{folder}/pid")
    while not os.path.exists(f"{folder}/go"):
        time.sleep(0.01)
    return "done"
"""


def start(cluster: Cluster, name: str = "a", **values: str) -> Worker:
    folder = cluster.folder / "modules"
    folder.mkdir(exist_ok=True)
    (folder / "warm_jobs.py").write_text(JOBS)
    (folder / "threaded.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n" + JOBS
    )
    values = {"import_dirs": [str(folder), str(ROOT)], "environment": {"PATH": PATH}, "lease_seconds": 60.0} | values
    return cluster.start(name, **values)


def add_callable(cluster: Cluster, name: str, target: str, **columns: object) -> None:
    cluster.add_job(name, "call", target, **{"variables": json.dumps({"COLOUR": "red"}), **columns})


def await_parent(cluster: Cluster, job: str = "who") -> int:
    """Run the job until two runs in a row have the same parent, which is no guardian but a warm one; give its pid."""

    def seen() -> int | None:
        results: list[str] = []
        for _ in range(2):
            (run_id,) = cluster.enqueue(job)
            assert cluster.wait_for_end(run_id) == {"succeeded"}
            results.append(cluster.run(run_id).result)
        pid = int(results[0])
        name = Path(f"/proc/{pid}/comm")
        return pid if name.exists() and name.read_text() == "rota-warm\n" else None

    return cluster.wait(seen, "a warm parent has forked a job")


def test_a_warm_job_goes_on_while_its_worker_is_killed_and_started_again(cluster: Cluster) -> None:
    worker = start(cluster)
    add_callable(cluster, "who", "warm_jobs:by_whom")
    add_callable(cluster, "long", "warm_jobs:wait")
    parent = await_parent(cluster)
    await_module = cluster.enqueue("long", args={"folder": str(cluster.folder)})[0]
    cluster.wait((cluster.folder / "pid").exists, "it runs")
    job_pid = int((cluster.folder / "pid").read_text())
    assert parent_of(job_pid) == parent

    worker.kill()
    again = start(cluster)

    cluster.wait(lambda: "goes on" in again.log(), "it is adopted")
    assert is_alive(parent)
    assert is_alive(job_pid)
    (cluster.folder / "go").touch()
    assert cluster.wait_for_end(await_module) == {"succeeded"}
    assert cluster.run(await_module).result == '"done"'
    assert [(attempt.attempt, attempt.state) for attempt in cluster.attempts(await_module)] == [(1, "succeeded")]
    cluster.wait(lambda: not is_alive(parent), "the parent leaves after its last job")
    assert await_parent(cluster) != parent
    assert again.trouble() == []


def test_why_says_that_a_job_started_cold_and_what_of(cluster: Cluster) -> None:
    worker = start(cluster)
    add_callable(cluster, "threads", "threaded:by_whom")
    add_callable(cluster, "chosen", "threaded:by_whom", startup="cold")

    def said() -> list[str]:
        (run_id,) = cluster.enqueue("threads")
        assert cluster.wait_for_end(run_id) == {"succeeded"}
        return [line for line in why_run(cluster.database, run_id)["because"] if "started cold" in line]

    (line,) = cluster.wait(said, "a run says it")
    (chosen,) = cluster.enqueue("chosen")
    cluster.wait_for_end(chosen)

    assert "its import leaves 2 threads running" in line
    assert "its import leaves 2 threads running" in worker.log()
    assert cluster.attempts(chosen)[0].cold_because is None


def test_a_way_to_start_written_by_hand_fails_that_run_only(cluster: Cluster) -> None:
    worker = start(cluster)
    add_callable(cluster, "who", "warm_jobs:by_whom")
    add_callable(cluster, "hot", "warm_jobs:by_whom", startup="hot")

    (bad,) = cluster.enqueue("hot")
    (good,) = cluster.enqueue("who")

    assert cluster.wait_for_end(bad) == {"failed"}
    assert cluster.wait_for_end(good) == {"succeeded"}
    assert "one of warm, cold" in cluster.attempts(bad)[0].error_message
    assert worker.trouble() == []


def test_no_parent_holds_the_database_s_address_and_all_leave_with_the_worker(cluster: Cluster) -> None:
    worker = start(cluster)
    add_callable(cluster, "who", "warm_jobs:by_whom")
    parent = await_parent(cluster)

    block = Path(f"/proc/{parent}/environ").read_bytes()
    assert os.fsencode(cluster.url) not in block
    assert {name.partition(b"=")[0] for name in block.split(b"\0") if name} <= {
        b"PATH", b"PYTHONPATH", b"COLOUR", b"ROTA_CONTROL",
    }  # fmt: skip
    assert parent in children_of(worker.pid)

    assert worker.stop() == 0
    cluster.wait(lambda: not is_alive(parent), "it leaves")


def test_a_job_whose_parent_is_dead_and_whose_installation_is_gone_still_has_its_end_told(cluster: Cluster) -> None:
    library = cluster.folder / "lib"
    install(library)
    worker = start(cluster, library=str(library))
    add_callable(cluster, "who", "warm_jobs:by_whom")
    add_callable(cluster, "long", "warm_jobs:wait")
    parent = await_parent(cluster)
    (run_id,) = cluster.enqueue("long", args={"folder": str(cluster.folder)})
    cluster.wait((cluster.folder / "pid").exists, "it runs")
    job_pid = int((cluster.folder / "pid").read_text())
    worker.kill()
    shutil.rmtree(library)  # as a deploy does that puts each version into a folder of its own

    os.kill(parent, signal.SIGKILL)
    os.kill(job_pid, signal.SIGKILL)
    cluster.wait_for_death(parent, job_pid)
    again = start(cluster)

    assert cluster.wait_for_end(run_id) == {"failed"}
    (attempt,) = cluster.attempts(run_id)
    assert (attempt.state, attempt.error_type) == ("failed", "StatusLost")
    assert again.trouble() == []
