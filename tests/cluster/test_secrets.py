"""A run's secrets appear in no table, log, file or process list, whatever its job says and whoever dies meanwhile."""

from __future__ import annotations

import base64
import contextlib
import json
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import select

from rota.store.history import why_run
from rota.store.nodes import read_node
from rota.store.tables import metadata
from tests.cluster.cluster import PATH, ROOT, Cluster, Worker, descendants_of
from tests.cluster.test_stand_in import LEASE_SECONDS, stand_ins

PASSWORD = "c0rrect/horse \"b\\ttery'+st\u00e4ple"
TOKEN = "tok-4711-of-the-warehouse"
KEY = "-----BEGIN A KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nBKcwggSjAgEAAoIBAQDIsecond+line/\n-----END A KEY-----"
SECRETS = {"DB_PASSWORD": PASSWORD, "TOKEN": TOKEN, "SIGNING_KEY": KEY}

JOBS = """
import base64, json, logging, os, sys, time
from urllib.parse import quote
from rota import current_run

log = logging.getLogger("shop")

def by_whom():
    os.environ["TOKEN"]
    return os.getppid()

def read_at_import():
    return [TOKEN, os.environ["TOKEN"]]

def tell(folder, fails):
    run = current_run()
    secrets = [os.environ[name] for name in ("DB_PASSWORD", "TOKEN", "SIGNING_KEY")]
    for secret in secrets:
        data = secret.encode()
        for text in (secret, json.dumps(secret), repr(secret), repr(data), quote(secret), quote(secret, safe=""),
                     data.hex(), base64.b64encode(data).decode(), base64.urlsafe_b64encode(b"user:" + data).decode(),
                     base64.encodebytes(data).decode()):
            print(f"[{text}]")
            print(text, file=sys.stderr)
        log.warning("with %s", secret)
        run.progress(0.5, f"with {secret}")
    os.write(1, secrets[1][:9].encode())
    run.set_checkpoint({"seen": secrets, secrets[0]: {"deep": [secrets[2]]}})
    with open(f"{folder}/new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"{folder}/new", f"{folder}/told")
    while not os.path.exists(f"{folder}/go"):
        time.sleep(0.01)
    os.write(1, secrets[1][9:].encode() + b"\\nthe end\\n")
    if fails:
        raise ValueError("cannot log in with " + " ".join(secrets))
    return give()

def give():
    secrets = [os.environ.pop(name) for name in ("DB_PASSWORD", "TOKEN", "SIGNING_KEY")]
    return {"password": secrets[0], secrets[1]: [secrets[2], base64.b64encode(secrets[0].encode()).decode()]}
"""


def forms() -> Iterator[bytes]:
    """What must be nowhere."""
    for secret in SECRETS.values():
        data = secret.encode()
        yield from (line for line in data.splitlines() if line)
        yield from (json.dumps(secret)[1:-1].encode(), repr(secret)[1:-1].encode(), quote(secret).encode())
        yield from (data.hex().encode(), base64.b64encode(data).rstrip(b"="), base64.b64encode(data)[:76])
        yield base64.urlsafe_b64encode(b"user:" + data)[8:-4]
    yield TOKEN[:9].encode()  # which is written before the rest of it


def found_in(told: bytes) -> list[bytes]:
    return [form for form in forms() if form in told]


def dump(cluster: Cluster) -> bytes:
    """Every value of every table."""
    parts: list[bytes] = []
    for table in metadata.sorted_tables:
        rows = cluster.database.read(lambda connection, table=table: connection.execute(select(table)).all())
        values = [value for row in rows for value in row]
        parts += [bytes(v) if isinstance(v, bytes | memoryview) else str(v).encode() for v in values]
    return b"\n".join(parts)


def read_files(folder: Path) -> bytes:
    """Every file of a node: its log, its settings, and all that it, its nursery and its guardians have written."""
    parts: list[bytes] = []
    for path in folder.rglob("*"):
        if path.is_file():
            parts += [str(path).encode(), path.read_bytes()]
    return b"\n".join(parts)


def read_processes(pids: Iterable[int], what: str) -> bytes:
    parts: list[bytes] = []
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            parts.append(Path(f"/proc/{pid}/{what}").read_bytes())
    return b"\n".join(parts)


def all_processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def start(cluster: Cluster, name: str = "a", **values: Any) -> Worker:
    modules, vault = cluster.folder / "modules", cluster.folder / "vault"
    modules.mkdir(exist_ok=True)
    vault.mkdir(exist_ok=True)
    (modules / "secret_jobs.py").write_text(JOBS)
    (modules / "early_jobs.py").write_text('import os\nTOKEN = os.environ.get("TOKEN", "none yet")\n' + JOBS)
    for secret in ("DB_PASSWORD", "SIGNING_KEY"):
        (vault / secret).write_text(f"{SECRETS[secret]}\n")
        (vault / secret).chmod(0o600)
    secrets = [{"name": name, "file": str(vault / name)} for name in ("DB_PASSWORD", "SIGNING_KEY")]
    values = {"secrets": [*secrets, {"name": "TOKEN", "env": "SHOP_TOKEN"}], "log_level": "DEBUG"} | values
    return cluster.start(
        name, import_dirs=[str(modules), str(ROOT)], environ={"SHOP_TOKEN": TOKEN, "PATH": PATH}, **values
    )


def add_callable(cluster: Cluster, name: str, target: str, **columns: Any) -> None:
    columns = {"secrets": json.dumps(sorted(SECRETS)), "variables": json.dumps({"COLOUR": "red"})} | columns
    cluster.add_job(name, "call", target, **columns)


def await_parent(cluster: Cluster) -> int:
    """Run a job until a warm parent has forked it, and give the parent's pid."""

    def seen() -> int | None:
        (run_id,) = cluster.enqueue("who")
        assert cluster.wait_for_end(run_id) == {"succeeded"}
        pid = int(cluster.run(run_id).result)
        name = Path(f"/proc/{pid}/comm")
        return pid if name.exists() and name.read_text() == "rota-warm\n" else None

    return cluster.wait(seen, "a warm parent has forked a job")


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("startup", ["warm", "cold"])
def test_what_a_job_says_of_its_secrets_is_nowhere(cluster: Cluster, startup: str, fails: bool) -> None:
    worker = start(cluster)
    nursery_pid = worker.nursery_pid
    add_callable(cluster, "who", "secret_jobs:by_whom", startup=startup)
    add_callable(cluster, "tells", "secret_jobs:tell", startup=startup)
    if startup == "warm":
        await_parent(cluster)
    (run_id,) = cluster.enqueue("tells", args={"folder": str(cluster.folder), "fails": fails})
    cluster.wait((cluster.folder / "told").exists, "it has told everything")
    cluster.wait(lambda: cluster.run(run_id).checkpoint, "it is in the database")
    job_pid = int((cluster.folder / "told").read_text())
    others = [worker.pid, *(pid for pid in descendants_of(worker.pid) if pid != job_pid)]
    assert job_pid in descendants_of(worker.pid)

    assert found_in(read_processes(all_processes(), "cmdline")) == []
    environments = read_processes(others, "environ")
    assert TOKEN.encode() in environments
    assert found_in(environments.replace(f"SHOP_TOKEN={TOKEN}".encode(), b"")) == []
    assert found_in(dump(cluster)) == []
    assert found_in(read_files(worker.folder)) == []

    # Nobody is there to take the end, which is written to disk.
    worker.kill(nursery_pid)
    (cluster.folder / "go").touch()
    journal = worker.guardians / "journal"
    cluster.wait(lambda: [path for path in journal.iterdir() if path.suffix == ".end"], "its end is on disk")
    kept = read_files(worker.folder)
    assert b"the end" in kept
    assert found_in(kept) == []

    again = start(cluster)
    assert cluster.wait_for_end(run_id) == {"failed" if fails else "succeeded"}
    told = dump(cluster)
    assert b"the end" in told
    assert found_in(told) == []
    assert found_in(read_files(again.folder)) == []
    (tried,) = cluster.attempts(run_id)
    assert "***" in (tried.error_message if fails else cluster.run(run_id).result)
    assert "***" in cluster.run(run_id).progress_message
    assert "***" in cluster.run(run_id).checkpoint
    assert cluster.run(run_id).progress_message == "with ***\n***\n***\n***"
    assert again.stop() == 0


@pytest.mark.every_database
def test_what_a_transactional_job_returns_of_its_secrets_is_nowhere(cluster: Cluster) -> None:
    """It writes its result itself, before its guardian has seen it."""
    worker = start(cluster)
    columns = {"delivery": "transactional", "timeout_seconds": 20.0, "lease_seconds": 60.0}
    add_callable(cluster, "gives", "secret_jobs:give", **columns)
    (run_id,) = cluster.enqueue("gives")

    assert cluster.wait_for_end(run_id) == {"succeeded"}
    cluster.wait(lambda: cluster.attempts(run_id)[0].seconds is not None, "its process has ended")

    assert list(json.loads(cluster.run(run_id).result)) == ["password", "***"]
    assert found_in(dump(cluster)) == []
    assert found_in(read_files(worker.folder)) == []
    assert worker.trouble() == []


def test_a_stand_in_goes_on_with_neither_the_secrets_nor_the_variable_of_one(cluster: Cluster) -> None:
    worker = start(cluster, lease_seconds=LEASE_SECONDS)
    nursery_pid = worker.nursery_pid
    add_callable(cluster, "tells", "secret_jobs:tell", startup="cold")
    (run_id,) = cluster.enqueue("tells", args={"folder": str(cluster.folder), "fails": False})
    cluster.wait((cluster.folder / "told").exists, "it has told everything")

    worker.kill()
    pid = cluster.wait(lambda: stand_ins(nursery_pid), "a stand-in is there")[0]
    seen = read_processes([pid, nursery_pid], "environ") + read_processes([pid, nursery_pid], "cmdline")
    (cluster.folder / "go").touch()

    assert cluster.wait_for_end(run_id) == {"succeeded"}
    assert b"PATH=" in seen
    assert found_in(seen) == []
    assert found_in(dump(cluster)) == []
    assert found_in(read_files(worker.folder)) == []
    cluster.wait_for_death(pid, nursery_pid)


def test_a_module_that_looks_for_a_secret_when_it_is_imported_starts_cold_and_has_it(cluster: Cluster) -> None:
    worker = start(cluster)
    add_callable(cluster, "early", "early_jobs:read_at_import")

    def said() -> list[str]:
        (run_id,) = cluster.enqueue("early")
        assert cluster.wait_for_end(run_id) == {"succeeded"}
        assert cluster.run(run_id).result == '["***","***"]'
        return [line for line in why_run(cluster.database, run_id)["because"] if "started cold" in line]

    (line,) = cluster.wait(said, "a run says why it is not forked")
    assert "its import looks for TOKEN, a secret that only a job has" in line
    assert found_in(read_files(worker.folder)) == []


def test_a_run_waits_for_a_node_that_has_its_secrets_and_spends_no_attempt(cluster: Cluster) -> None:
    worker = start(cluster)
    cluster.add_job("needs", "shell", 'test "$NEW" = s3cr3t-value', secrets='["NEW"]')
    (run_id,) = cluster.enqueue("needs")
    path = cluster.folder / "vault" / "NEW"

    def said() -> list[str]:
        return [line for line in why_run(cluster.database, run_id)["because"] if "has no NEW" in line]

    assert cluster.wait(said, "why says it")
    worker.write_settings(secrets=[*worker.values["secrets"], {"name": "NEW", "file": str(path)}])
    worker.signal(signal.SIGHUP)
    cluster.wait_for_log(worker, f"secret NEW cannot be read from file {path}: No such file or directory")
    assert cluster.run(run_id).attempt == 0
    path.write_text("s3cr3t-value\n")
    path.chmod(0o604)
    worker.signal(signal.SIGHUP)  # it looks again by itself, later

    assert cluster.wait_for_end(run_id) == {"succeeded"}
    assert cluster.run(run_id).attempt == 1
    assert read_node(cluster.database, "a")["secrets"] == ["DB_PASSWORD", "NEW", "SIGNING_KEY", "TOKEN"]
    assert worker.log().count(f"others than its owner may read file {path}") == 1
    assert "s3cr3t-value" not in worker.log()


def test_what_cannot_be_read_any_more_gives_the_run_back_once_and_it_waits(cluster: Cluster) -> None:
    worker = start(cluster)
    path = cluster.folder / "vault" / "DB_PASSWORD"
    cluster.add_job("needs", "shell", "true", secrets='["DB_PASSWORD"]', retries=0)
    path.unlink()
    (run_id,) = cluster.enqueue("needs")

    cluster.wait_for_log(worker, f"run {run_id} is given back: secret DB_PASSWORD cannot be read")

    def said() -> list[str]:
        return [line for line in why_run(cluster.database, run_id)["because"] if "a has no DB_PASSWORD" in line]

    assert cluster.wait(said, "why says it")
    assert (cluster.run(run_id).state, cluster.run(run_id).attempt) == ("ready", 1)
    (tried,) = cluster.attempts(run_id)
    assert f"a cannot start it: secret DB_PASSWORD cannot be read from file {path}" in tried.reason_text
    path.write_text(PASSWORD)
    worker.signal(signal.SIGHUP)
    assert cluster.wait_for_end(run_id) == {"succeeded"}
    assert cluster.run(run_id).retries_used == 0


def test_a_file_is_read_for_each_attempt(cluster: Cluster) -> None:
    start(cluster)
    cluster.add_shell("needs", 'note "$(printf %s "$DB_PASSWORD" | wc -c)"', secrets='["DB_PASSWORD"]')
    counts: list[str] = []
    for value in ("four", "eight888"):
        (cluster.folder / "vault" / "DB_PASSWORD").write_text(f"{value}\n")
        (run_id,) = cluster.enqueue("needs")
        assert cluster.wait_for_end(run_id) == {"succeeded"}
        counts += [entry.what for entry in cluster.ledger.entries() if entry.run_id == run_id]

    assert counts == ["4", "8"]


@pytest.mark.parametrize(
    ("text", "waits"),
    # What holds anything in quotes looks as if it named something that no node has.
    [("not JSON", False), ("{}", False), ('["TOKEN", 7]', False), ('["two words"]', True), ('"TOKEN', True)],
)
def test_names_written_by_hand_that_are_none_stop_that_run_only(cluster: Cluster, text: str, waits: bool) -> None:
    worker = start(cluster)
    cluster.add_job("broken", "shell", "true", secrets=text)
    cluster.add_job("good", "shell", "true", secrets='[ "TOKEN" ]')
    (bad,) = cluster.enqueue("broken")
    (good,) = cluster.enqueue("good")

    assert cluster.wait_for_end(good) == {"succeeded"}
    if waits:
        assert cluster.run(bad).state == "ready"
        assert any("correct it with `rota job edit`" in line for line in why_run(cluster.database, bad)["because"])
    else:
        assert cluster.wait_for_end(bad) == {"failed"}
        assert "correct it with `rota job edit`" in cluster.attempts(bad)[0].error_message
    # That nobody can take it is found and told, as it should be.
    assert [line for line in worker.trouble() if "rota.health" not in line] == []
