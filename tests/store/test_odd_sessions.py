"""Servers, databases and accounts whose sessions begin with other settings: Rota's own are what counts."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import NullPool, create_engine, make_url

from rota.model.run import End, NewRun
from rota.store.advancing import advance_runs
from rota.store.database import Database
from rota.store.endings import end_runs
from rota.store.firing import fire_schedules
from rota.store.leases import claim_runs
from rota.store.runs import read_run
from tests.clock import BEGINNING, Clock
from tests.store.ledger import LEASE_SECONDS, Ledger, identity_of

RUNS = 40
NODES = 3
ODD_NAME = "µ-✓-\\-'"
ISOLATIONS = ("serializable", "repeatable read")
# What an administrator may have set for a database or an account of PostgreSQL.
ODD = {
    "client_encoding": "LATIN1",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "datestyle": "German, DMY",
    "intervalstyle": "sql_standard",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "lock_timeout": "1",
    "timezone": "Asia/Kathmandu",
    "synchronous_commit": "on",
}
# What init_connect, or the server's own default, may have set on MySQL and MariaDB.
ODD_MODE = "ANSI_QUOTES,PIPES_AS_CONCAT,NO_BACKSLASH_ESCAPES,NO_ZERO_DATE,HIGH_NOT_PRECEDENCE,REAL_AS_FLOAT"


@pytest.fixture(params=ISOLATIONS)
def odd_url(request: pytest.FixtureRequest, database_url: str, database_kind: str) -> Iterator[str]:
    """The database of a test, on which sessions begin with odd settings."""
    url = make_url(database_url)
    if database_kind == "sqlite":
        pytest.skip("a file has no settings for sessions")
    if database_kind != "postgresql":
        settings = ", ".join(
            [
                f"session transaction_isolation = '{request.param.replace(' ', '-')}'" if database_kind == "mysql"
                else f"session tx_isolation = '{request.param.replace(' ', '-')}'",
                f"session sql_mode = '{ODD_MODE}'", "session time_zone = '+05:45'",
                "session innodb_lock_wait_timeout = 1", "session lock_wait_timeout = 1",
                "session character_set_results = latin1",
            ]
        )  # fmt: skip
        yield url.update_query_dict({"init_command": f"set {settings}"}).render_as_string(hide_password=False)
        return
    change = f"alter database {url.database}"
    with create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT").connect() as connection:
        for name, value in (ODD | {"default_transaction_isolation": request.param}).items():
            connection.exec_driver_sql(f"{change} set {name} = '{value}'")
        try:
            yield database_url
        finally:
            connection.exec_driver_sql(f"{change} reset all")


def test_whatever_a_session_begins_with_slots_are_fired_and_runs_claimed_and_ended_once(
    odd_url: str, clock: Clock
) -> None:
    ledger = Ledger(odd_url, clock)
    ledger.add_job("job", max_running=10, variables='{"A": "µ-✓"}')
    for number in range(10):
        ledger.add_schedule(f"s{number}", next_slot_at=BEGINNING, overlap="allow")
    run_ids = ledger.enqueue_many(
        [NewRun("job", args='{"tenant": "µ-✓"}', run_key=f"{n} {ODD_NAME}") for n in range(RUNS)]
    )
    together = threading.Barrier(NODES)
    ended: list[int] = []
    failures: list[BaseException] = []

    def work(name: str) -> None:
        own = ledger.connect()
        try:
            together.wait(30)
            fire_schedules(own, fired_by=name)
            idle = 0
            while idle < 5:
                advance_runs(own)
                claims = claim_runs(own, identity_of(name), ["default"], 4, LEASE_SECONDS)
                idle = 0 if claims else idle + 1
                end_runs(own, [End(claim.claim_id, claim.run_id, "succeeded", result='"µ-✓"') for claim in claims])
                ended.extend(claim.run_id for claim in claims)
        except BaseException as error:  # noqa: BLE001 - raised in the test itself
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if failures:
        raise failures[0]
    while claims := ledger.claim():  # a node may have given up while another one held the last permits
        ended.extend(claim.run_id for claim in claims)
        ledger.end_all(claims)

    assert len(ended) == len(set(ended)) == RUNS + 10
    assert set(ledger.states()) == {"succeeded"}
    view = read_run(ledger.database, run_ids[0])
    assert (view["key"], view["args"], view["result"]) == (f"0 {ODD_NAME}", {"tenant": "µ-✓"}, "µ-✓")
    assert {row.slot_at for row in ledger.runs() if row.slot_at is not None} == {BEGINNING}
    assert all(row.finished_at == clock.now for row in ledger.runs())
    ledger.close()


def test_reads_and_writes_have_the_isolation_that_rota_counts_on(odd_url: str, database_kind: str) -> None:
    asked = {
        "postgresql": "select current_setting('transaction_isolation')",
        "mariadb": "select @@session.tx_isolation",
        "mysql": "select @@session.transaction_isolation",
    }[database_kind]
    database = Database(odd_url)

    found = [
        database.read(lambda connection: connection.exec_driver_sql(asked).scalar_one()),
        database.write(lambda connection: connection.exec_driver_sql(asked).scalar_one(), repeatable=True),
    ]

    assert [isolation.replace("-", " ").lower() for isolation in found] == ["read committed"] * 2
    database.close()
