"""Every kind of trouble that a database can be in, below whole workers: no loop dies of it, none spins, few lines tell.

A database that is stopped or locked for a while is in ``test_away``, a full disk below the worker in
``test_full_disk``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import NullPool, create_engine, make_url

from rota.store.nodes import list_nodes
from tests.cluster.cluster import Cluster
from tests.cluster.conftest import open_cluster
from tests.cluster.proxy import Place, TroubledProxy, troubled_proxy
from tests.cluster.test_away import UNTIL
from tests.conftest import SERVERS, assert_no_violations, migrate
from tests.servers import STARTERS, MariaDB, PostgreSQL, Unavailable
from tests.servers.mariadb import look_up
from tests.servers.postgresql import standby_of
from tests.servers.process import ServerProcess, choose_user, free_port, server_folder

RUNS = 24
ROUNDS = 4  # so many failed in a row before the trouble is over
CONNECTS_MAX = 60  # until then: two loops, a few tries each time, longer pauses each time
AGE_SECONDS = 6.0  # twice the lease: longer than a renewal of a worker that is well lets it grow
LINES_MAX = 30  # of the log, whatever happens to the database meanwhile
UNTIL_TOLD = 'note start; while [ ! -e "$FOLDER/go" ]; do sleep 0.05; done; note end'
SPARED = pytest.StashKey[set[int]]()
PLACES: list[Place] = ["before", "inside", "answer", "after"]


def through(cluster: Cluster, proxy: TroubledProxy) -> str:
    return cluster.database.url.set(port=proxy.port).render_as_string(hide_password=False)


@pytest.mark.only_on("postgresql", "mariadb", "mysql")
@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
def test_connections_cut_around_their_commits_lose_no_run_and_double_none(cluster: Cluster, delivery: str) -> None:
    url = cluster.database.url
    assert url.host is not None
    assert url.port is not None
    cluster.add_shell("short", "note start; note end", delivery=delivery)
    with troubled_proxy(url.get_backend_name(), url.host, url.port) as proxy:
        worker = cluster.start("a", slots=3, database_url=through(cluster, proxy))
        proxy.spares, proxy.places = 1, PLACES * 5

        run_ids = cluster.enqueue("short", RUNS)
        assert cluster.wait_for_end(*run_ids, seconds=60) == {"succeeded"}
        cuts = proxy.cuts.total()
        proxy.places = []

        started = [entry.run_id for entry in cluster.ledger.entries("start")]
        assert sorted(started) == run_ids
        assert set(proxy.cuts) == set(PLACES)
        # Each cut takes a connection, and may take the other one's next try; whoever spins takes hundreds.
        assert proxy.connections <= 2 + 3 * cuts
        assert len(worker.log().splitlines()) <= LINES_MAX + cuts
        assert worker.trouble() == []
        assert worker.stop() == 0


@pytest.mark.only_on("postgresql", "mariadb", "mysql")
def test_connections_that_nobody_answers_on_are_given_up_before_a_lease_ends(cluster: Cluster) -> None:
    url = cluster.database.url
    assert url.host is not None
    assert url.port is not None
    cluster.add_shell("waits", UNTIL_TOLD)
    cluster.add_shell("quick", "note quick")
    with troubled_proxy(url.get_backend_name(), url.host, url.port) as proxy:
        worker = cluster.start("a", lease_seconds=45.0, database_url=through(cluster, proxy))
        (run_id,) = cluster.enqueue("waits")
        cluster.wait_for_note("start", run_id)

        assert proxy.fall_silent() == 2
        (other,) = cluster.enqueue("quick")

        assert cluster.wait_for_end(other, seconds=60) == {"succeeded"}
        (cluster.folder / "go").touch()
        assert cluster.wait_for_end(run_id, seconds=60) == {"succeeded"}
        assert [a.state for a in cluster.attempts(run_id)] == ["succeeded"]
        assert len(worker.log().splitlines()) <= LINES_MAX
        assert worker.trouble() == []
        assert worker.stop() == 0


class OwnServer:
    """A server of one test's, a database on it, and an account that may do no more than a worker needs."""

    def __init__(self, server: PostgreSQL | MariaDB) -> None:
        self.server = server
        self.admin = make_url(server.create_database())
        self.is_postgresql = self.admin.get_backend_name() == "postgresql"
        self.url = self.admin.set(username="worker", password="secret")
        name = self.admin.database
        if self.is_postgresql:
            self.execute(
                "create role worker login password 'secret'",
                "grant select, insert, update, delete on all tables in schema public to worker",
                "grant usage on all sequences in schema public to worker",
            )
            ((path,),) = self.execute("show hba_file")
            rules = Path(path)
            rules.write_text(f"host all worker 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
            self.execute("select pg_reload_conf()")
        else:
            self.execute(
                "create user worker@'%' identified by 'secret'",
                f"grant select, insert, update, delete on {name}.* to worker@'%'",
            )

    def execute(self, *statements: str) -> list[Any]:
        """Execute these as the server's owner; return the rows of the last."""
        with create_engine(self.admin, poolclass=NullPool, isolation_level="AUTOCOMMIT").connect() as connection:
            answers = [connection.exec_driver_sql(statement.replace("%", "%%")) for statement in statements]
            return list(answers[-1]) if answers[-1].returns_rows else []

    def end_connections(self) -> None:
        """End what is connected by the account."""
        if self.is_postgresql:
            self.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'worker'")
            return
        for (number,) in self.execute("select id from information_schema.processlist where user = 'worker'"):
            with contextlib.suppress(Exception):  # it may have ended by itself
                self.execute(f"kill {number}")


Harm = Callable[[OwnServer], AbstractContextManager[None]]


@contextlib.contextmanager
def restarted(own: OwnServer) -> Generator[None]:
    own.server.process.stop()
    yield
    own.server.process.start()


@contextlib.contextmanager
def killed(own: OwnServer) -> Generator[None]:
    own.server.process.stop(signal.SIGKILL)
    yield
    own.server.process.start()


@contextlib.contextmanager
def out_of_connections(own: OwnServer) -> Generator[None]:
    if own.is_postgresql:
        own.execute("alter role worker connection limit 0")
    else:  # 0 is no limit there, and 1 is taken by somebody else
        own.execute("alter user worker@'%' with max_user_connections 1")
    own.end_connections()
    other = None
    if not own.is_postgresql:
        other = create_engine(own.url, poolclass=NullPool).connect()
    yield
    if other is not None:
        other.close()
    own.execute(
        "alter role worker connection limit -1"
        if own.is_postgresql
        else "alter user worker@'%' with max_user_connections 0"
    )


@contextlib.contextmanager
def password_changed(own: OwnServer) -> Generator[None]:
    change = (
        "alter role worker password '{}'" if own.is_postgresql else "alter user worker@'%' identified by '{}'"
    ).format
    own.execute(change("another"))
    own.end_connections()
    yield
    own.execute(change("secret"))


@contextlib.contextmanager
def read_only(own: OwnServer) -> Generator[None]:
    own.execute("set global read_only = 1")
    yield
    own.execute("set global read_only = 0")


HARMS: dict[str, Harm] = {
    "restart": restarted,
    "kill -9": killed,
    "too many connections": out_of_connections,
    "another password": password_changed,
    "read-only": read_only,
}


@pytest.fixture(scope="module", params=["postgresql", "mariadb", "mysql"])
def shared_server(request: pytest.FixtureRequest) -> Iterator[PostgreSQL | MariaDB]:
    """A server that is harmed by one test after the other, and by nobody else."""
    servers = request.config.stash[SERVERS]
    if request.param not in servers.kinds:
        pytest.skip(f"{request.param} is left out on request")
    if request.param in servers.missing:
        pytest.skip(servers.missing[request.param])
    with STARTERS[request.param](prepare=migrate) as server:
        assert isinstance(server, PostgreSQL | MariaDB)
        yield server


@pytest.fixture
def own(shared_server: PostgreSQL | MariaDB) -> Iterator[OwnServer]:
    made = OwnServer(shared_server)
    yield made
    if made.is_postgresql:
        made.end_connections()
        made.execute("drop owned by worker", "drop role worker")
    else:
        made.execute("drop user worker@'%'")
    assert_no_violations(made.admin.render_as_string(hide_password=False))
    shared_server.drop_database(made.admin.render_as_string(hide_password=False))


# Where both servers take a harm alike, one of them is enough for each run of all tests.
LONG = {"postgresql": {"another password"}, "mariadb": {"restart", "too many connections"}, "mysql": {"restart"}}


@pytest.mark.parametrize(
    ("shared_server", "harm"),
    [
        pytest.param(kind, harm, id=f"{kind}-{name}", marks=[pytest.mark.long] if name in LONG[kind] else [])
        for kind in LONG
        for name, harm in HARMS.items()
        if (kind, name) != ("postgresql", "read-only")  # a session may write all the same; a standby is tested below
    ],
    indirect=["shared_server"],
)
def test_a_worker_outlasts_it_pauses_between_its_tries_and_goes_on(own: OwnServer, harm: Harm, folder: Path) -> None:
    assert_a_worker_outlasts(own, harm, folder)


@pytest.fixture
def certified(own: OwnServer) -> Iterator[OwnServer]:
    """A server that shows a certificate, which the worker looks at."""
    if not own.is_postgresql:
        pytest.skip("there the certificate is named when the server starts")
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("no openssl to make certificates with")
    folder = Path(own.execute("show data_directory")[0][0])

    def make(*words: str) -> None:
        subprocess.run([openssl, *words], cwd=folder, check=True, capture_output=True)

    make("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca")
    make("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "own.key", "-out", "own.csr", "-subj", "/CN=127.0.0.1")
    for days, name in (("0", "ended"), ("2", "valid")):
        signed = ("x509", "-req", "-in", "own.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
        make(*signed, "-days", days, "-out", f"{name}.pem")
    owner = (folder / "PG_VERSION").stat()
    os.chown(folder / "own.key", owner.st_uid, owner.st_gid)
    (folder / "own.key").chmod(0o600)
    show_certificate(own, "valid")
    own.execute("alter system set ssl_key_file = 'own.key'", "alter system set ssl = on", "select pg_reload_conf()")
    own.url = own.url.update_query_dict({"sslmode": "verify-ca", "sslrootcert": str(folder / "ca.pem")})
    yield own
    own.execute(*(f"alter system reset {name}" for name in ("ssl", "ssl_key_file", "ssl_cert_file")))
    own.execute("select pg_reload_conf()")


def show_certificate(own: OwnServer, name: str) -> None:
    own.execute(f"alter system set ssl_cert_file = '{name}.pem'", "select pg_reload_conf()")


@contextlib.contextmanager
def certificate_ended(own: OwnServer) -> Generator[None]:
    show_certificate(own, "ended")
    own.end_connections()
    yield
    show_certificate(own, "valid")


def test_a_worker_outlasts_a_certificate_that_has_ended_and_says_what_it_is(certified: OwnServer, folder: Path) -> None:
    log = assert_a_worker_outlasts(certified, certificate_ended, folder)

    assert "certificate has expired" in log or "certificate verify failed" in log


def assert_a_worker_outlasts(own: OwnServer, harm: Harm, folder: Path) -> str:
    """Have a worker and a job meet with trouble, and go on when it is over; return the worker's log."""
    spared = {own.server.process.pid}
    admin = own.admin.render_as_string(hide_password=False)
    with (
        open_cluster(admin, folder, spared=lambda: spared) as cluster,
        troubled_proxy(own.url.get_backend_name(), "127.0.0.1", own.url.port or 0) as proxy,
    ):
        cluster.add_shell("waits", UNTIL_TOLD)
        cluster.add_shell("quick", "note quick")
        worker = cluster.start("a", database_url=own.url.set(port=proxy.port).render_as_string(hide_password=False))
        (run_id,) = cluster.enqueue("waits")
        cluster.wait_for_note("start", run_id)
        cluster.database.close()
        before = proxy.connections

        with harm(own):
            (cluster.folder / "go").touch()
            cluster.wait_for_note("end", run_id)
            cluster.wait_for_log(worker, f"round {ROUNDS} in a row failed")
            tried = proxy.connections - before
            own.server.close()
        spared.add(own.server.process.pid)

        assert cluster.wait_for_end(run_id) == {"succeeded"}
        assert [a.state for a in cluster.attempts(run_id)] == ["succeeded"]
        assert cluster.wait_for_end(*cluster.enqueue("quick")) == {"succeeded"}
        assert tried <= CONNECTS_MAX
        assert "the database answers again" in worker.log()
        assert len(worker.log().splitlines()) <= LINES_MAX
        assert worker.trouble() == []
        assert worker.stop() == 0
        return worker.log()


def test_a_worker_that_does_no_good_round_says_so_in_the_status_though_its_leases_go_on(
    own: OwnServer, folder: Path
) -> None:
    if not own.is_postgresql:
        pytest.skip("there rights are given for a whole database, and are not taken back for one table")
    admin = own.admin.render_as_string(hide_password=False)
    with open_cluster(admin, folder, spared=lambda: {own.server.process.pid}) as cluster:
        cluster.add_shell("quick", "note quick")
        worker = cluster.start("a", lease_seconds=3.0, database_url=own.url.render_as_string(hide_password=False))

        def age() -> float:
            (view,) = list_nodes(cluster.database)
            assert view["state"] == "alive"
            return view["seen_seconds"]

        own.execute("revoke insert on rota_attempt from worker")  # nothing can be claimed
        (run_id,) = cluster.enqueue("quick")
        cluster.wait(lambda: age() > AGE_SECONDS, "the last good round is long ago")
        own.execute("grant insert on rota_attempt to worker")

        assert cluster.wait_for_end(run_id) == {"succeeded"}
        cluster.wait(lambda: age() < AGE_SECONDS, "there was a good round")
        assert worker.stop() == 0


def test_pointed_at_a_standby_a_worker_waits_and_works_once_that_is_promoted(
    request: pytest.FixtureRequest, folder: Path
) -> None:
    servers = request.config.stash[SERVERS]
    if "postgresql" not in servers.kinds or "postgresql" in servers.missing:
        pytest.skip("takes PostgreSQL")
    spared: set[int] = set()
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(STARTERS["postgresql"](prepare=migrate))
        assert isinstance(primary, PostgreSQL)
        url = make_url(primary.create_database())
        try:
            standby = stack.enter_context(standby_of(primary))
        except Unavailable as reason:
            pytest.skip(str(reason))
        spared.update({primary.process.pid, standby.process.pid})
        cluster = stack.enter_context(
            open_cluster(url.render_as_string(hide_password=False), folder, spared=lambda: spared)
        )
        proxy = stack.enter_context(troubled_proxy("postgresql", "127.0.0.1", url.port or 0))
        cluster.add_shell("waits", UNTIL_TOLD)
        worker = cluster.start("a", database_url=through(cluster, proxy))
        (run_id,) = cluster.enqueue("waits")
        cluster.wait_for_note("start", run_id)
        after = make_url(standby.admin_url).set(database=url.database)
        with create_engine(after, poolclass=NullPool, isolation_level="AUTOCOMMIT").connect() as connection:
            ask = "select state from rota_run"
            cluster.wait(lambda: connection.exec_driver_sql(ask).scalar() == "running", "the standby has caught up")

            proxy.lead_to("127.0.0.1", after.port or 0)
            primary.process.stop()
            (cluster.folder / "go").touch()
            cluster.wait_for_log(worker, f"round {ROUNDS} in a row failed")
            assert connection.exec_driver_sql(ask).scalar() == "running"
            connection.exec_driver_sql("select pg_promote()")

            cluster.wait(lambda: connection.exec_driver_sql(ask).scalar() == "succeeded", "its end is there")
        assert len(cluster.ledger.entries("start")) == 1
        assert proxy.connections <= 2 + CONNECTS_MAX
        assert len(worker.log().splitlines()) <= LINES_MAX
        assert worker.trouble() == []
        assert worker.stop() == 0


@pytest.mark.only_on("postgresql", "mariadb", "mysql")
def test_a_row_that_somebody_keeps_locked_costs_its_own_run_the_lease_and_no_other(cluster: Cluster) -> None:
    cluster.add_shell("waits", UNTIL_TOLD)
    worker = cluster.start("a", lease_seconds=9.0)
    locked, free = cluster.enqueue("waits", 2)
    first = cluster.wait_for_note("start", locked)
    cluster.wait_for_note("start", free)

    holder = create_engine(cluster.url, poolclass=NullPool).connect()
    holder.exec_driver_sql(f"select id from rota_run where id = {locked} for update")
    cluster.wait_for_death(first.pid)
    (cluster.folder / "go").touch()
    holder.rollback()
    holder.close()

    assert cluster.wait_for_end(locked, free, seconds=60) == {"succeeded"}
    assert [attempt.state for attempt in cluster.attempts(free)] == ["succeeded"]
    assert [attempt.state for attempt in cluster.attempts(locked)] == ["lost", "succeeded"]
    assert len(worker.log().splitlines()) <= LINES_MAX
    assert worker.trouble() == []


# As ALTER TABLE, VACUUM FULL and backups do.
TABLE_LOCKS = {
    "postgresql": ("begin", "lock table rota_run in access exclusive mode"),
    "mysql": ("lock tables rota_run write",),
}


@pytest.mark.only_on("postgresql", "mariadb", "mysql")
def test_a_table_that_somebody_locks_for_longer_than_statements_wait_costs_no_job_anything(cluster: Cluster) -> None:
    for name in ("within", "through"):
        cluster.add_shell(name, UNTIL.format(name))
    cluster.add_shell("quick", "note start")
    worker = cluster.start("a", lease_seconds=60.0, log_level="DEBUG")
    within, through_it = (cluster.enqueue(name)[0] for name in ("within", "through"))
    for run_id in (within, through_it):
        cluster.wait_for_note("start", run_id)

    holder = create_engine(cluster.url, poolclass=NullPool, isolation_level="AUTOCOMMIT").connect()
    for statement in TABLE_LOCKS[cluster.database.dialect.name]:
        holder.exec_driver_sql(statement)
    (cluster.folder / "within").touch()
    cluster.wait_for_note("end", within)
    cluster.wait_for_log(worker, "transaction tried again after again")
    holder.close()  # which ends what it has locked
    (cluster.folder / "through").touch()

    assert cluster.wait_for_end(within, through_it) == {"succeeded"}
    assert cluster.wait_for_end(*cluster.enqueue("quick", 3)) == {"succeeded"}
    for run_id in (within, through_it):
        assert [attempt.state for attempt in cluster.attempts(run_id)] == ["succeeded"]
    assert len(cluster.ledger.entries("start")) == 2 + 3
    told = [line for line in worker.log().splitlines() if " DEBUG " not in line]
    assert len(told) <= LINES_MAX
    assert worker.trouble() == []
    assert worker.stop() == 0


@pytest.fixture
def pooler(request: pytest.FixtureRequest) -> Iterator[Callable[[int], int]]:
    """Start pgbouncer in transaction mode before a server's port, and return its own port."""
    program = look_up("pgbouncer")
    servers = request.config.stash[SERVERS]
    if "postgresql" not in servers.kinds or "postgresql" in servers.missing:
        pytest.skip("takes PostgreSQL")
    if program is None:
        why = "NOT TESTED behind a pooler: apt-get install -y --no-install-recommends pgbouncer"
        warnings.warn(why, stacklevel=1)
        pytest.skip(why)
    user = choose_user("postgres", "nobody")
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(server_folder(user))

        def start(of_server: int) -> int:
            port = free_port()
            (folder / "ini").write_text(
                f"""[databases]
* = host=127.0.0.1 port={of_server} user=rota
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
ignore_startup_parameters = extra_float_digits,options
"""
            )

            def answers() -> bool:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    return True
                return False

            process = ServerProcess(
                [program, folder / "ini"],
                user=user, log=folder / "log", is_ready=answers, stop_with=signal.SIGINT,
            )  # fmt: skip
            process.start()
            stack.callback(process.stop, signal.SIGKILL)
            spared.add(process.pid)
            return port

        spared = request.node.stash.setdefault(SPARED, set())
        yield start


def test_behind_a_pooler_in_transaction_mode_everything_works_and_connections_are_shared(
    request: pytest.FixtureRequest, pooler: Callable[[int], int], folder: Path
) -> None:
    spared = request.node.stash[SPARED]
    server = request.config.stash[SERVERS].get("postgresql")
    url = make_url(server.create_database())
    through_it = url.set(port=pooler(url.port or 0))
    with open_cluster(url.render_as_string(hide_password=False), folder, spared=lambda: spared) as cluster:
        cluster.add_shell("short", "note start; note end")
        cluster.add_shell("waits", UNTIL_TOLD)
        workers = [
            cluster.start(name, database_url=through_it.render_as_string(hide_password=False), poll_seconds=1.0)
            for name in "abc"
        ]
        (long,) = cluster.enqueue("waits")
        run_ids = cluster.enqueue("short", RUNS)

        assert cluster.wait_for_end(*run_ids, seconds=60) == {"succeeded"}
        assert sorted(entry.run_id for entry in cluster.ledger.entries("start")) == sorted([long, *run_ids])
        (cluster.folder / "go").touch()
        assert cluster.wait_for_end(long) == {"succeeded"}

        cluster.database.close()
        with create_engine(url, poolclass=NullPool).connect() as connection:
            ask = "select count(*) from pg_stat_activity where datname = current_database()"
            assert connection.exec_driver_sql(ask).scalar() <= 3 + 1
        for worker in workers:
            assert worker.trouble() == []
            assert len(worker.log().splitlines()) <= LINES_MAX
            assert worker.stop() == 0
    assert_no_violations(url.render_as_string(hide_password=False))
    server.drop_database(url.render_as_string(hide_password=False))
