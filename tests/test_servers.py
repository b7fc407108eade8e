"""The throwaway databases themselves: each test has a database of its own, and what it leaves behind is looked at."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, inspect, text
from sqlalchemy.exc import OperationalError

from tests.conftest import assert_no_violations, migrate
from tests.servers import Server
from tests.servers.process import FOLDER_PREFIX

pytestmark = pytest.mark.every_database


def execute(url: str, statement: str) -> None:
    with create_engine(url, poolclass=NullPool).begin() as connection:
        connection.execute(text(statement))


def tables(url: str) -> set[str]:
    with create_engine(url, poolclass=NullPool).connect() as connection:
        return set(inspect(connection).get_table_names())


def described(url: str) -> dict[str, str]:
    """Tell all that a database was prepared with."""
    told: dict[str, str] = {}
    with create_engine(url, poolclass=NullPool).connect() as connection:
        looked = inspect(connection)
        for name in looked.get_table_names():
            looks = (
                looked.get_columns, looked.get_unique_constraints, looked.get_check_constraints, looked.get_indexes,
                looked.get_foreign_keys,
            )  # fmt: skip
            facts = [sorted(map(str, look(name))) for look in looks]
            facts += [looked.get_pk_constraint(name), looked.get_table_options(name)]
            rows = (
                [] if name == "rota_schema" else [str(row) for row in connection.execute(text(f"select * from {name}"))]
            )
            told[name] = re.sub(" at 0x[0-9a-f]+", "", f"{facts} {rows}")  # conditions of indexes are objects
        told |= {name: looked.get_view_definition(name) for name in looked.get_view_names()}
    return told


def test_an_empty_database_holds_nothing(empty_database_url: str) -> None:
    assert tables(empty_database_url) == set()


def test_a_prepared_database_holds_the_schema_and_no_violation(database_url: str) -> None:
    assert "rota_run" in tables(database_url)
    assert_no_violations(database_url)


def test_a_prepared_database_is_what_the_migrations_make(database_url: str, empty_database_url: str) -> None:
    migrate(empty_database_url)

    assert described(database_url) == described(empty_database_url)


def test_two_databases_of_one_server_do_not_share_rows(database_server: Server, database_url: str) -> None:
    other = database_server.create_database()
    execute(database_url, "create table mark (id integer)")

    assert "mark" not in tables(other)

    database_server.drop_database(other)


@pytest.mark.breaks_invariants
def test_a_violation_fails_the_test_that_leaves_it(database_url: str) -> None:
    execute(database_url, "drop view rota_violations")
    execute(database_url, "create view rota_violations as select 'broken_by_hand' as rule_broken, 7 as run_id")

    with pytest.raises(AssertionError, match=r"broken_by_hand.*7"):
        assert_no_violations(database_url)


def test_a_database_in_use_can_be_dropped(database_server: Server, database_kind: str) -> None:
    url = database_server.create_empty_database()
    connection = create_engine(url, poolclass=NullPool).connect()
    connection.execute(text("select 1"))

    database_server.drop_database(url)

    if database_kind == "sqlite":
        assert not Path(url.removeprefix("sqlite:///")).exists()
    else:
        with pytest.raises(OperationalError):
            create_engine(url, poolclass=NullPool).connect()
    connection.invalidate()


@pytest.mark.parametrize("starter", ["postgresql_server", "mariadb_server", "mysql_server"])
def test_a_server_dies_with_the_process_that_started_it(starter: str, request: pytest.FixtureRequest) -> None:
    program = textwrap.dedent(
        f"""
        import sys, time
        from tests.servers import Unavailable, {starter}
        try:
            with {starter}() as server:
                print(server.process.pid, flush=True)
                time.sleep(60)
        except Unavailable as reason:
            print("unavailable:", reason)
        """
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], cwd=request.config.rootpath, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        said = child.stdout.readline().strip()
        if said.startswith("unavailable:"):
            pytest.skip(said)
        assert said.isdigit(), "the server did not start: see above"
        server = os.pidfd_open(int(said))
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert child.stdout is not None
        child.stdout.close()

    poll = select.poll()
    poll.register(server)

    assert poll.poll(20_000), "the server is still there"
    os.close(server)
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}{child.pid}-*"):
        shutil.rmtree(folder)
