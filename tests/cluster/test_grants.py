"""The script that `rota db grants` prints, run for real users: each can do what it is for, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from rota import Rota
from rota.client import schema
from rota.errors import Invalid
from rota.store.database import Database
from rota.store.grants import RIGHTS, Rights, Users, grants_sql
from rota.store.migrate import SCHEMA_VERSION
from rota.store.tables import metadata
from rota.store.views import VIEWS
from tests.cluster.conftest import open_cluster
from tests.servers import Server
from tests.store.test_migrate import split_statements, upgrade_to

pytestmark = [pytest.mark.only_on("postgresql", "mariadb"), pytest.mark.every_database]

KINDS = ("owner", "node", "submit", "read")
OTHER_KEY = {
    "rota_lock": "name", "rota_dependency": "job_id", "rota_output": "attempt_id", "rota_job_rollup": "job_id",
    "rota_node_rollup": "node", "rota_alert": "job_id",
}  # fmt: skip


@dataclass
class Users4:
    """A database and a user of each kind, to whom nothing is granted yet."""

    admin: str
    urls: dict[str, str]

    def name(self, kind: str) -> str:
        return str(make_url(self.urls[kind]).username)

    def grant(self, *kinds: str) -> None:
        """Run the script for these, as somebody who may grant."""
        script = schema.grants(self.admin, *([self.name(kind)] if kind in kinds else [] for kind in KINDS))
        with create_engine(self.admin, poolclass=NullPool).connect() as connection:
            for statement in split_statements(script):
                lines = [line for line in statement.splitlines() if line.strip() and not line.startswith("--")]
                if bare := "\n".join(lines).strip().removesuffix(";"):
                    connection.exec_driver_sql(bare.replace("%", "%%"))
            connection.commit()

    def send(self, kind: str, statement: str) -> list[Any]:
        """Send a statement as that user, and commit.

        Raises:
            DBAPIError: the database does not want it.
        """
        with create_engine(self.urls[kind], poolclass=NullPool).begin() as connection:
            result = connection.execute(text(statement))
            return list(result) if result.returns_rows else []

    def refuses(self, kind: str, statement: str) -> bool:
        """Tell whether the database refuses it, and for want of a right."""
        try:
            self.send(kind, statement)
        except DBAPIError as error:
            said = {str(getattr(error.orig, "sqlstate", None)), *map(str, getattr(error.orig, "args", ())[:1])}
            if not said & {"42501", "1044", "1142", "1143"}:  # that the user has no right to it
                raise
            return True
        return False


@pytest.fixture
def users(database_server: Server) -> Iterator[Users4]:
    url = database_server.create_empty_database()
    admin = make_url(url)
    names = {kind: f"{kind} of {admin.database}" for kind in KINDS}  # with what has to be quoted
    is_mysql = admin.get_backend_name() == "mysql"
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        for name in names.values():
            connection.exec_driver_sql(f"create user '{name}'@'%%'" if is_mysql else f'create role "{name}" login')
    urls = {kind: admin.set(username=name) for kind, name in names.items()}
    yield Users4(url, {kind: one.render_as_string(hide_password=False) for kind, one in urls.items()})
    database_server.drop_database(url)
    drop = create_engine(database_server.admin_url, poolclass=NullPool)
    with drop.begin() as connection:
        for name in names.values():
            connection.exec_driver_sql(f"drop user '{name}'@'%%'" if is_mysql else f'drop role "{name}"')


@pytest.fixture
def granted(users: Users4) -> Users4:
    """All of them, with what the script gives them; the schema was made by the owner."""
    users.grant("owner")
    schema.upgrade(users.urls["owner"])
    users.grant("node", "submit", "read")
    return users


def test_every_table_says_who_may_do_what_with_it() -> None:
    assert list(RIGHTS) == list(metadata.tables)


def test_the_owner_upgrades_a_schema_that_somebody_else_has_made(users: Users4) -> None:
    admin = Database(users.admin)
    upgrade_to(admin, f"{SCHEMA_VERSION - 1:04}")
    admin.close()
    users.grant("owner")

    assert schema.upgrade(users.urls["owner"]) == (SCHEMA_VERSION - 1, SCHEMA_VERSION)

    users.grant("node", "submit", "read")
    assert users.send("read", "select * from rota_violations") == []


def test_a_worker_does_all_its_work_as_a_node(granted: Users4, folder: Path) -> None:
    with open_cluster(granted.urls["node"], folder) as cluster:
        worker = cluster.start("a")
        with Rota(granted.urls["node"]) as rota:
            rota.jobs.add("report", shell="echo done", retries=1)
            rota.jobs.add("after", shell="true", after=["report"])
            rota.schedules.add("each", "report", every="1s", first_run="2020-01-01")
            rota.enqueue("report", key="k", unique_for="1h")
            granted.send("submit", "insert into rota_command (verb, target) values ('job.run', 'report')")
            granted.send("submit", "insert into rota_command (verb, target) values ('schedule.delete', 'each')")
            cluster.wait(lambda: not answers(granted, "pending"), "the commands have been answered")
            cluster.wait(lambda: not states(granted) & {"waiting", "ready", "running"}, "all has ended")
            rota.nodes.drain("a")
            rota.check()
            rota.status()
        worker.stop()

        assert worker.trouble() == []
    assert [row.state for row in answers(granted, "done")] == ["done", "done"]
    assert "succeeded" in states(granted)
    assert not states(granted) & {"failed", "lost"}
    assert granted.send("read", "select * from rota_violations") == []
    assert granted.refuses("node", "drop table rota_run")
    assert granted.refuses("node", "delete from rota_schema")


def states(granted: Users4) -> set[str]:
    return {row.state for row in granted.send("read", "select state from rota_run")}


def answers(granted: Users4, state: str) -> list[Any]:
    return granted.send("submit", f"select * from rota_command where state = '{state}'")


def test_one_who_submits_asks_and_reads_the_answer_under_its_own_name(granted: Users4, folder: Path) -> None:
    granted.send("submit", "insert into rota_command (verb, target, params) values ('status', null, null)")
    with open_cluster(granted.urls["node"], folder) as cluster:
        cluster.start("a")
        cluster.wait(lambda: not answers(granted, "pending"), "it is answered")

    (row,) = granted.send("submit", "select * from rota_command")
    assert row.error is None
    assert row.requested_by.partition("@")[0] == granted.name("submit")
    assert json.loads(row.outcome)["nodes"][0]["name"] == "a"


def test_one_who_submits_cannot_write_what_the_database_says(granted: Users4) -> None:
    forged = {"id": "99", "created_at": "'2020-01-01 00:00:00.000000'", "state": "'done'"}
    forged |= dict.fromkeys(("requested_by", "outcome", "error", "answered_by"), "'{}'")
    forged["answered_at"] = forged["created_at"]
    granted.send("submit", "insert into rota_command (verb) values ('status')")
    inserts = [f"insert into rota_command (verb, {name}) values ('status', {forged[name]})" for name in forged]
    updates = [f"update rota_command set {name} = {forged[name]}" for name in forged]

    assert [one for one in (*inserts, *updates) if not granted.refuses("submit", one)] == []
    assert len(granted.send("submit", "select * from rota_command")) == 1


def test_one_who_submits_can_do_nothing_else(granted: Users4) -> None:
    may = {("rota_command", "select")}
    allowed = {(name, what) for name, what, statement in attempts() if not granted.refuses("submit", statement)}

    assert allowed == may


def test_one_who_reads_reads_all_but_secrets_and_writes_nothing(granted: Users4) -> None:
    may = {(name, "select") for name, rights in RIGHTS.items() if rights.is_readable}
    may |= {(view.name, "select") for view in VIEWS} | {("rota_violations", "select")}
    allowed = {(name, what) for name, what, statement in attempts() if not granted.refuses("read", statement)}

    assert allowed == may


def attempts() -> Iterator[tuple[str, str, str]]:
    """Each table and view, and each thing that may be done with it; none would change a row if it were let."""
    for table in metadata.tables.values():
        key = OTHER_KEY.get(table.name, "id")
        yield table.name, "select", f"select * from {table.name}"
        yield table.name, "update", f"update {table.name} set {key} = {key} where 1 = 0"
        yield table.name, "delete", f"delete from {table.name} where 1 = 0"
        yield table.name, "insert", f"insert into {table.name} ({key}) select {key} from {table.name} where 1 = 0"
        yield table.name, "drop", f"drop table {table.name}"
    for name in [*(view.name for view in VIEWS), "rota_violations"]:
        yield name, "select", f"select * from {name}"
        yield name, "drop", f"drop view {name}"
    yield "rota_migration", "select", "select * from rota_migration"
    yield "another", "create", "create table another (id integer)"


@pytest.mark.only_on("postgresql")
def test_one_who_submits_makes_a_run_whatever_names_it_has_made_itself(granted: Users4) -> None:
    with Rota(granted.urls["node"]) as rota:
        rota.jobs.add("report", shell="true")
    name = granted.name("submit")
    in_the_way = (
        "create temp table rota_job (id bigint, name text)",
        "create temp table rota_run (id bigint)",
        "create function pg_temp.clock_timestamp() returns timestamptz language sql as 'select null::timestamptz'",
        "create function pg_temp.length(text) returns integer language sql as 'select 1/0'",
        "set search_path = pg_temp, public",
    )
    engine = create_engine(granted.urls["submit"], poolclass=NullPool)
    with engine.begin() as connection:
        for statement in in_the_way:
            connection.exec_driver_sql(statement)
        run_id = connection.exec_driver_sql("select rota_enqueue('report', key => 'k')").scalar_one()
        assert connection.exec_driver_sql("select rota_ask('job.pause', 'report')").scalar_one() == 1

    (row,) = granted.send("read", f"select * from public.rota_run where id = {run_id}")
    assert (row.job, row.requested_by) == ("report", name)
    (asked,) = granted.send("read", "select * from rota_command")
    assert asked.requested_by == name
    for kind in ("read", "node"):
        assert granted.refuses(kind, "select rota_enqueue('report')") == (kind == "read")
        assert granted.refuses(kind, "select rota_ask('status')") == (kind == "read")
    assert granted.refuses("submit", f'set role "{granted.name("owner")}"')


def test_a_script_that_is_run_again_takes_nothing_away_that_it_gives(granted: Users4) -> None:
    granted.grant("owner", "node", "submit", "read")

    granted.send("node", "update rota_run set id = id where 1 = 0")
    granted.send("submit", "insert into rota_command (verb) values ('status')")
    granted.send("read", "select * from rota_late")


def test_what_holds_secrets_is_read_by_nobody_who_only_looks(users: Users4, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rota.store.grants.RIGHTS", RIGHTS | {"rota_calendar": Rights("select", is_readable=False)})
    database = Database(users.admin)

    script = grants_sql(database, Users(readers=["ann"]))

    granting = [line for line in script.splitlines() if line.startswith("grant")]
    assert any("rota_run" in line for line in granting)
    assert not any("rota_calendar" in line for line in granting)


@pytest.mark.parametrize("name", ["", "a\nb", "a$do$b", "n" * 64])
def test_a_name_that_would_break_the_script_is_refused(users: Users4, name: str) -> None:
    with pytest.raises(Invalid, match="the name of a user has"):
        schema.grants(users.admin, owners=[name])


def test_one_user_is_one_kind_of_user(users: Users4) -> None:
    with pytest.raises(Invalid, match="named twice"):
        schema.grants(users.admin, owners=["ann"], readers=["ann"])
    with pytest.raises(Invalid, match="at least one user"):
        schema.grants(users.admin)


def test_the_script_for_sqlite_speaks_of_files() -> None:
    assert "whoever may write the file" in schema.grants("sqlite:////nowhere/rota.db", nodes=["ann"])
