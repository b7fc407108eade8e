"""What a worker costs: memory under floods of output, connections and transactions, queries when idle."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import NullPool, create_engine, func, select

from rota.engine.bookkeeper import POLL_SPREAD
from rota.store.tables import output
from tests.cluster.cluster import Cluster, Worker
from tests.cluster.proxy import counting_proxy
from tests.store.ledger import output_of

MB = 1_000_000
# A bound on a rate: it takes time to measure, and looks at nothing that a busy machine makes worse. It is as long as a
# worker waits between two renewals of its own lease.
IDLE_SECONDS = 20.0
RENEWAL = 5  # statements
SETTLE_SECONDS = 1.0  # for what a new connection is told first


def memory_peak(worker: Worker) -> int:
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{worker.pid}/status").read_text())
    return int(kilobytes) * 1024


def test_a_flood_on_both_streams_ends_is_kept_within_the_cap_and_costs_the_worker_little_memory(
    cluster: Cluster,
) -> None:
    flood = "head -c 100000000 /dev/zero | tr '\\0'"
    cluster.add_shell("floods", f"echo first; ({flood} x) & {flood} y >&2; wait; echo last; note end")
    cluster.add_shell("quick", "note quick")
    worker = cluster.start("a")
    assert cluster.wait_for_end(*cluster.enqueue("quick")) == {"succeeded"}
    before = memory_peak(worker)

    (run_id,) = cluster.enqueue("floods")
    assert cluster.wait_for_end(run_id) == {"succeeded"}

    assert memory_peak(worker) - before < 50 * MB
    (tried,) = cluster.attempts(run_id)
    assert (tried.stdout_bytes, tried.stderr_bytes) == (100 * MB + len("first\nlast\n"), 100 * MB)
    kept = select(output.c.stream, func.sum(func.length(output.c.data))).group_by(output.c.stream)
    sizes = cluster.database.read(lambda c: {stream: int(size) for stream, size in c.execute(kept)})
    assert sizes == {"stdout": 1 << 20, "stderr": 1 << 20}
    shown = output_of(cluster.database, run_id, stream="stdout")
    assert shown.startswith(b"first\nxxx")
    assert shown.endswith(b"xxx" + b"last\n")
    assert re.search(rb"\n\[\.\.\. \d+ bytes of stdout left out \.\.\.\]\n", shown)
    assert worker.trouble() == []


def test_a_worker_with_twenty_jobs_has_two_connections_and_no_transaction_open(cluster: Cluster) -> None:
    cluster.add_shell("waits", 'note start; while [ ! -e "$FOLDER/go" ]; do sleep 0.05; done')
    worker = cluster.start("a", slots=20)
    run_ids = cluster.enqueue("waits", 20)
    cluster.wait(lambda: len(cluster.ledger.entries("start")) == 20, "all have started")

    connections, idle = look_at_connections(cluster, worker)
    assert connections <= 2
    # A transaction of some milliseconds may be caught; one that stays would be there in each of many looks.
    cluster.wait(lambda: look_at_connections(cluster, worker)[1] == connections, "no transaction is open")
    assert idle <= connections

    (cluster.folder / "go").touch()
    assert cluster.wait_for_end(*run_ids) == {"succeeded"}
    assert worker.trouble() == []


def look_at_connections(cluster: Cluster, worker: Worker) -> tuple[int, int]:
    """Count the worker's connections, and those of them that are in no transaction."""
    url = cluster.database.url
    cluster.database.close()  # ours would count
    if url.get_backend_name() == "sqlite":
        opened = [link for link in links_of(worker) if link == url.database]
        # Whoever writes, or reads, holds a lock on the index of the write-ahead log.
        inode = Path(f"{url.database}-shm").stat().st_ino
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        held = [lock for lock in locks if lock[-3].endswith(f":{inode}") and 120 <= int(lock[-2]) < 128]
        return len(opened), len(opened) - len(held)
    ask = {
        "postgresql": "select count(*), count(*) filter (where state = 'idle') from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'",
        "mysql": "select count(*), sum(command = 'Sleep' and not exists (select 1 from information_schema.innodb_trx t"
        " where t.trx_mysql_thread_id = p.id)) from information_schema.processlist p"
        " where db = database() and id <> connection_id()",
    }
    with create_engine(url, poolclass=NullPool).connect() as connection:
        count, idle = connection.exec_driver_sql(ask[url.get_backend_name()].replace("%", "%%")).one()
    return int(count), int(idle)


def links_of(worker: Worker) -> list[str]:
    return [str(entry.readlink()) for entry in Path(f"/proc/{worker.pid}/fd").iterdir() if entry.is_symlink()]


def test_an_idle_worker_sends_no_more_than_it_looks_and_renews(cluster: Cluster) -> None:
    url = cluster.database.url
    if url.get_backend_name() == "sqlite":
        trace = cluster.folder / "statements"
        cluster.start("a", statements=str(trace))
        sent = count_while_idle(lambda: len(trace.read_text().splitlines()))
    else:
        assert url.host is not None
        assert url.port is not None
        with counting_proxy(url.get_backend_name(), url.host, url.port) as proxy:
            through = url.set(port=proxy.port).render_as_string(hide_password=False)
            worker = cluster.start("a", database_url=through)
            cluster.wait(lambda: proxy.connections == 2, "both connections have been made")
            sent = count_while_idle(lambda: proxy.statements)
            assert proxy.connections == 2
            worker.stop()

    looks = IDLE_SECONDS / (cluster.database.dialect.poll_seconds * (1 - POLL_SPREAD))
    assert 0 < sent <= looks + 1 + RENEWAL


def count_while_idle(count: Callable[[], int]) -> int:
    time.sleep(SETTLE_SECONDS)
    before = count()
    time.sleep(IDLE_SECONDS)
    return count() - before
