"""The schema: made by migrations as ``tables.py`` says, on every database, and refused when it does not fit."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, NullPool, create_engine, event, insert, inspect, select, text

from rota.errors import DatabaseRefused, DatabaseUnavailable, DatabaseVersion
from rota.store import migrate
from rota.store.database import Database
from rota.store.migrate import SCHEMA_VERSION, VERSION_TABLE, check_schema, schema_version, upgrade, upgrade_sql
from rota.store.rollups import fold_tallies
from rota.store.tables import attempt, job_rollup, metadata, run
from rota.store.types import by_default
from rota.store.violations import VIEW
from tests.servers import Server
from tests.store.counted import miscounted

# Alembic says so of every generated column that it compares.
pytestmark = pytest.mark.filterwarnings("ignore:Computed default")


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[Database]:
    database = Database(empty_database_url)
    yield database
    database.close()


def is_written_otherwise(change: Any, dialect: Any) -> bool:
    """Tell whether a change is of a default only, and that is the same call as the server writes it."""
    if not isinstance(change, list) or change[0][0] != "modify_default":
        return False
    _, _, table, column, _, there, _ = change[0]
    ours = metadata.tables[table].c[column].server_default.arg
    if not isinstance(ours, by_default) or there is None:
        return False
    texts = (str(there.arg), str(ours.compile(dialect=dialect)))
    return len({re.sub(r"[()\s]", "", one).lower() for one in texts}) == 1


def difference(database: Database) -> list[Any]:
    """What Alembic would change to bring the schema from the database to the one in ``tables.py``."""

    def ours(_thing: Any, name: str | None, kind: str, reflected: bool, _compared: Any) -> bool:
        return not (kind == "table" and reflected and name == VERSION_TABLE)

    def compare(connection: Any) -> list[Any]:
        options = {"include_object": ours, "version_table": VERSION_TABLE, "compare_server_default": True}
        found = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
        return [change for change in found if not is_written_otherwise(change, connection.dialect)]

    return database.read(compare)


def test_the_migrated_schema_is_the_one_in_tables(empty: Database) -> None:
    upgrade(empty)

    assert difference(empty) == []


def test_the_comparison_sees_a_column_that_is_missing_and_one_too_many(empty: Database) -> None:
    upgrade(empty)
    with empty.engine.connect() as connection:
        connection.execute(text("alter table rota_pool add column colour integer"))
        connection.execute(text("drop index rota_run_job" + (" on rota_run" if empty.dialect.name == "mysql" else "")))
        connection.commit()

    assert {change[0] for change in difference(empty)} == {"remove_column", "add_index"}


def test_constraints_are_there_on_every_database(empty: Database) -> None:
    upgrade(empty)

    def look(connection: Any) -> dict[str, set[str | None]]:
        inspector = inspect(connection)
        return {
            "unique": {found["name"] for found in inspector.get_unique_constraints("rota_run")},
            "check": {found["name"] for found in inspector.get_check_constraints("rota_run")},
        }

    found = empty.read(look)
    assert {"rota_run_slot", "rota_run_active_key"} <= found["unique"]
    assert {"rota_run_lease_while_running", "rota_run_state_known", "rota_run_delivery_known"} <= found["check"]
    if empty.dialect.name != "sqlite":  # it adds no constraint to a table that is there: triggers refuse the same
        assert all(
            constraint.name in found["check"]
            for constraint in metadata.tables["rota_run"].constraints
            if isinstance(constraint, CheckConstraint)
        )


def test_an_upgrade_says_from_where_to_where(empty: Database) -> None:
    assert upgrade(empty) == (None, SCHEMA_VERSION)
    assert upgrade(empty) == (SCHEMA_VERSION, SCHEMA_VERSION)
    assert check_schema(empty) == SCHEMA_VERSION


def test_upgrading_again_keeps_what_is_there(empty: Database) -> None:
    upgrade(empty)
    with empty.engine.connect() as connection:
        connection.execute(
            text("insert into rota_pool (name, created_at) values ('kept', '2026-11-02 12:00:00.000000')")
        )
        connection.commit()

    upgrade(empty)

    count = empty.read(lambda connection: connection.execute(text("select count(*) from rota_pool")).scalar())
    assert count == 1
    assert empty.read(lambda connection: connection.execute(text("select * from rota_violations")).all()) == []


def test_an_upgrade_that_the_database_refuses_says_what_it_said_and_what_is_needed(empty: Database) -> None:
    with empty.engine.connect() as connection:
        connection.execute(text("create table rota_pool (mine integer)"))
        connection.commit()

    with pytest.raises(DatabaseRefused, match=r"rota_pool.* exists.*needs the right to create"):
        upgrade(empty)


def test_two_upgrades_at_once_make_one_schema(empty_database_url: str) -> None:
    together, answers, failures = threading.Barrier(2), [], []

    def take_part() -> None:
        database = Database(empty_database_url)
        try:
            together.wait(30)
            answers.append(upgrade(database))
        except Exception as error:  # noqa: BLE001 - raised in the test itself
            failures.append(error)
        finally:
            database.close()

    threads = [threading.Thread(target=take_part) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    if failures:
        raise failures[0]

    assert sorted(answers, key=str) == [(SCHEMA_VERSION, SCHEMA_VERSION), (None, SCHEMA_VERSION)]


class Killed(BaseException):
    """Stands for the death of a process: nothing is said to the server but what its end says."""


MADE_ANEW = ("urgency", "rota_violations")  # where a later version makes another of the same name


def upgrade_with_deaths(database: Database, every: int) -> int:
    """Upgrade, and die before each statement that no upgrade before has sent, or before every so many of them and
    those that are told by ``MADE_ANEW``; return how often."""
    sent: set[tuple[str, str]] = set()
    deaths = 0

    def count(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        known = len(sent)
        sent.add((statement, repr(parameters)))
        if len(sent) > known and (len(sent) % every == 0 or any(word in statement for word in MADE_ANEW)):
            raise Killed

    event.listen(database.engine, "before_cursor_execute", count)
    try:
        while True:
            try:
                upgrade(database)
                return deaths
            except Killed:
                deaths += 1
    finally:
        event.remove(database.engine, "before_cursor_execute", count)


def described(database: Database) -> dict[str, str]:
    """Return what the server says of all that is there, by name."""
    if database.dialect.name == "sqlite":
        statement = "select type || ' ' || name, coalesce(sql, '') from sqlite_schema"
    elif database.dialect.name == "postgresql":
        statement = (
            "select concat('column ', table_name, '.', column_name), concat_ws(' ', data_type, is_nullable, "
            "character_maximum_length, column_default, generation_expression) from information_schema.columns "
            "where table_schema = 'public' union all select concat('index ', indexname), indexdef from pg_indexes "
            "where schemaname = 'public' union all select concat('constraint ', conrelid::regclass, ' ', conname), "
            "pg_get_constraintdef(oid) from pg_constraint where connamespace = 'public'::regnamespace "
            "union all select concat('view ', viewname), definition from pg_views where schemaname = 'public'"
        )
    else:
        return database.read(_shown_create)
    return {row[0]: row[1] for row in database.read(lambda connection: connection.execute(text(statement)).all())}


def _shown_create(connection: Any) -> dict[str, str]:
    shown: dict[str, str] = {}
    (database,) = connection.execute(text("select database()")).one()
    for name, kind in connection.execute(text("show full tables")).all():
        what = "view" if kind == "VIEW" else "table"
        made: str = connection.execute(text(f"show create {what} {name}")).one()[1]
        shown[f"{what} {name}"] = re.sub(r" AUTO_INCREMENT=\d+", "", made).replace(f"`{database}`.", "")
    return shown


@pytest.mark.parametrize("every", [47, pytest.param(1, marks=pytest.mark.long)])
def test_an_upgrade_that_is_killed_between_two_statements_is_done_by_the_next_one(
    empty: Database, database_server: Server, every: int
) -> None:
    assert upgrade_with_deaths(empty, every) >= 100 // every

    assert check_schema(empty) == SCHEMA_VERSION
    assert difference(empty) == []
    assert upgrade(empty) == (SCHEMA_VERSION, SCHEMA_VERSION)
    at_once = Database(database_server.create_empty_database())
    upgrade(at_once)
    assert described(empty) == described(at_once)
    at_once.close()
    database_server.drop_database(at_once.url.render_as_string(hide_password=False))


LOCKS = {
    # As DDL or a backup keeps a table, and as a transaction keeps one that has written to it.
    "table": {
        "postgresql": ("begin", "lock table rota_run in access exclusive mode"),
        "mysql": ("lock tables rota_run write",),
        "sqlite": ("begin immediate",),
    },
    "row": {
        "postgresql": ("begin", "update rota_run set priority = 1 where id = 0"),
        "mysql": ("start transaction", "update rota_run set priority = 1 where id = 0"),
        "sqlite": ("begin immediate", "update rota_run set priority = 1 where id = 0"),
    },
}


def upgrade_to(database: Database, revision: str) -> None:
    """Make the schema of an older program."""
    config = migrate._config()
    with database.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.commit()


def columns_of(database: Database) -> dict[str, list[str]]:
    def look(connection: Any) -> dict[str, list[str]]:
        inspector = inspect(connection)
        return {name: [c["name"] for c in inspector.get_columns(name)] for name in inspector.get_table_names()}

    return database.read(look)


def test_what_has_ended_before_there_were_roll_ups_is_counted(empty: Database) -> None:
    upgrade_to(empty, "0009")
    slot, later = datetime(2026, 11, 2, 23, 30, tzinfo=UTC), datetime(2026, 11, 3, 4, 15, tzinfo=UTC)
    values: dict[str, Any] = {
        "job_id": 1, "job": "load", "slot_count": 1, "target_node": "", "state": "succeeded", "reason": "done",
        "reason_text": "", "args": "{}", "pool": "default", "priority": 0, "delivery": "at_least_once",
        "requested_by": "ann@desk", "enqueued_at": later, "run_at": later, "queued": False, "finished_at": later,
        "attempt": 1, "retries_used": 0, "losses": 0, "fence": 1,
    }  # fmt: skip
    rows: list[dict[str, Any]] = [
        {"slot_at": slot},
        {"state": "failed"},
        {"job_id": 2, "slot_at": slot, "slot_last_at": later, "slot_count": 6, "state": "missed"},
        {"state": "ready", "finished_at": None},
    ]
    tried = {
        "run_id": 1, "attempt": 1, "state": "succeeded", "claim_id": "c", "fence": 1, "node": "a", "claimed_at": slot,
        "finished_at": later, "seconds": 5.0,
    }  # fmt: skip

    def fill(connection: Any) -> None:
        for row in rows:
            connection.execute(insert(run).values(values | row))
        connection.execute(insert(attempt).values(tried))

    empty.write(fill, repeatable=False)

    upgrade(empty)

    assert empty.read(miscounted) == []
    assert [moment for (moment,) in empty.read(lambda c: c.execute(select(run.c.moment_at).order_by(run.c.id)))] == [
        slot, later, slot, later,
    ]  # fmt: skip
    while fold_tallies(empty):
        pass
    assert empty.read(miscounted) == []
    of_hours = select(job_rollup.c.job_id, job_rollup.c.start_at, job_rollup.c.ended_count).where(
        job_rollup.c.unit == "hour", job_rollup.c.job_id > 0
    )
    hours = [slot.replace(minute=0) + timedelta(hours=number) for number in range(6)]
    assert {tuple(row) for row in empty.read(lambda c: c.execute(of_hours).all())} == {
        (1, hours[0], 1), (1, hours[5], 1), *((2, hour, 1) for hour in (*hours[:3], hours[4])), (2, hours[3], 2),
    }  # fmt: skip
    busy = text("select node, busy_seconds from rota_node_rollup where unit = 'day'")
    assert [tuple(row) for row in empty.read(lambda c: c.execute(busy).all())] == [("a", 5.0)]


@pytest.mark.parametrize("number", ["decimal(20)", "bigint"])
def test_a_view_of_an_older_program_with_other_columns_is_made_anew(empty: Database, number: str) -> None:
    upgrade_to(empty, "0004")
    number = {"bigint": "signed", "decimal(20)": "decimal(20)"}[number] if empty.dialect.name == "mysql" else number
    older = f"create view {VIEW} as select 'x' as rule_broken, cast(1 as {number}) as run_id, id as schedule_id"
    empty.write(lambda c: c.execute(text(f"{older} from rota_schedule")), repeatable=True)

    upgrade(empty)

    assert empty.read(lambda connection: connection.execute(text(f"select * from {VIEW}")).all()) == []


@pytest.mark.only_on("postgresql")
@pytest.mark.parametrize("number", ["decimal(20)", "bigint"])
def test_who_could_read_the_view_can_read_it_after_an_upgrade(empty: Database, number: str) -> None:
    upgrade_to(empty, "0004")
    older = f"create view {VIEW} as select 'x'::text as rule_broken, 1::{number} as run_id, 1::decimal as schedule_id"
    name = f"Reads it, {empty.url.database}"

    def read(connection: Any) -> list[bool]:
        who = {"name": name, "view": VIEW}
        statement = text("select has_table_privilege(:name, :view, p) from unnest('{select,update}'::text[]) p")
        return list(connection.execute(statement, who).scalars())

    try:
        for statement in (older, f'create role "{name}"', f'grant select on {VIEW} to "{name}"'):
            empty.write(lambda c, statement=statement: c.execute(text(statement)), repeatable=True)
        upgrade(empty)
        assert empty.read(read) == [True, False]
    finally:
        for statement in (f'drop owned by "{name}"', f'drop role "{name}"'):
            empty.write(lambda c, statement=statement: c.execute(text(statement)), repeatable=True)


@pytest.mark.parametrize("lock", LOCKS.values(), ids=list(LOCKS))
@pytest.mark.parametrize("older", [pytest.param("0003", marks=pytest.mark.long), "0004"])
def test_an_upgrade_behind_somebodys_lock_says_so_leaves_nothing_half_done_and_goes_through_later(
    empty_database_url: str, lock: dict[str, tuple[str, ...]], older: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "TABLE_LOCK_SECONDS", 1)
    patience = "?timeout=0.1" if empty_database_url.startswith("sqlite") else ""
    database = Database(empty_database_url + patience)
    upgrade_to(database, older)
    before = columns_of(database)
    holder = create_engine(database.url, poolclass=NullPool, isolation_level="AUTOCOMMIT").connect()
    for statement in lock[database.dialect.name]:
        holder.exec_driver_sql(statement)

    with pytest.raises(DatabaseUnavailable, match=r"try again: .*[Ll]ock.*; somebody may keep a table locked"):
        upgrade(database)
    holder.exec_driver_sql("rollback")
    if database.dialect.name == "mysql":
        holder.exec_driver_sql("unlock tables")
    holder.close()

    assert columns_of(database) == before
    assert upgrade(database) == (int(older), SCHEMA_VERSION)
    assert difference(database) == []
    database.close()


def test_the_version_table_does_not_meet_the_one_of_an_application(empty: Database) -> None:
    with empty.engine.connect() as connection:
        connection.execute(text("create table alembic_version (version_num varchar(32) not null)"))
        connection.execute(text("insert into alembic_version values ('theirs')"))
        connection.commit()

    upgrade(empty)

    theirs = empty.read(lambda connection: connection.execute(text("select version_num from alembic_version")).scalar())
    assert theirs == "theirs"


def set_version(database: Database, version: int, compatible_from: int) -> None:
    database.write(
        lambda connection: connection.execute(
            text(f"update rota_schema set version = {version}, compatible_from = {compatible_from}")
        ),
        repeatable=True,
    )


def test_a_schema_table_that_lost_its_row_is_refused_with_the_statement_that_helps(empty: Database) -> None:
    upgrade(empty)
    empty.write(lambda connection: connection.execute(text("delete from rota_schema")), repeatable=True)

    with pytest.raises(
        DatabaseVersion, match=rf"insert into rota_schema .* values \(1, {SCHEMA_VERSION}, {SCHEMA_VERSION}\)"
    ):
        upgrade(empty)


def test_a_database_without_a_schema_is_refused_with_the_command_that_makes_it(empty: Database) -> None:
    assert empty.read(schema_version) is None
    with pytest.raises(DatabaseVersion, match="no Rota schema yet: run `rota db upgrade`"):
        check_schema(empty)


def test_an_older_schema_is_refused_until_it_is_upgraded(empty: Database) -> None:
    upgrade(empty)
    set_version(empty, SCHEMA_VERSION - 1, 1)

    with pytest.raises(DatabaseVersion, match=rf"has schema {SCHEMA_VERSION - 1}, this program needs {SCHEMA_VERSION}"):
        check_schema(empty)


def test_a_newer_schema_that_still_fits_is_worked_with(empty: Database) -> None:
    upgrade(empty)
    set_version(empty, SCHEMA_VERSION + 1, SCHEMA_VERSION)

    assert check_schema(empty) == SCHEMA_VERSION + 1


def test_a_newer_schema_that_does_not_fit_is_refused(empty: Database) -> None:
    upgrade(empty)
    set_version(empty, SCHEMA_VERSION + 2, SCHEMA_VERSION + 1)

    with pytest.raises(
        DatabaseVersion, match=rf"needs a program that knows schema {SCHEMA_VERSION + 1}; .*: upgrade the program"
    ):
        check_schema(empty)


def test_a_newer_schema_is_not_taken_back_by_an_upgrade(empty: Database) -> None:
    upgrade(empty)
    set_version(empty, SCHEMA_VERSION + 1, SCHEMA_VERSION)

    with pytest.raises(DatabaseVersion, match="upgrade the program instead"):
        upgrade(empty)

    assert empty.read(schema_version) == (SCHEMA_VERSION + 1, SCHEMA_VERSION)


def test_an_upgrade_that_was_refused_lets_the_next_one_in(empty: Database, empty_database_url: str) -> None:
    upgrade(empty)
    set_version(empty, SCHEMA_VERSION + 1, SCHEMA_VERSION)
    with pytest.raises(DatabaseVersion):
        upgrade(empty)
    set_version(empty, SCHEMA_VERSION, 1)

    other = Database(empty_database_url)
    assert upgrade(other) == (SCHEMA_VERSION, SCHEMA_VERSION)
    other.close()


def split_statements(script: str) -> Iterator[str]:
    """Give the statements of a script; within dollars, PostgreSQL's quotes, none ends."""
    begun = ""
    for part in script.split(";\n"):
        begun += part
        if begun.count("$do$") % 2 == 0:
            yield begun
            begun = ""
        else:
            begun += ";\n"


def test_the_statements_of_an_upgrade_can_be_applied_by_hand(empty: Database) -> None:
    script = upgrade_sql(empty)

    with empty.engine.connect() as connection:
        for statement in split_statements(script):
            lines = [line for line in statement.splitlines() if line.strip() and not line.startswith("--")]
            bare = "\n".join(lines).strip()
            if bare and bare.upper() not in {"BEGIN", "COMMIT"}:
                connection.exec_driver_sql(bare.replace("%", "%%") if empty.dialect.name != "sqlite" else bare)
        connection.commit()

    assert check_schema(empty) == SCHEMA_VERSION
    assert difference(empty) == []
    assert upgrade(empty) == (SCHEMA_VERSION, SCHEMA_VERSION)


@pytest.mark.parametrize(
    ("url", "telling"),
    [
        ("sqlite:////nowhere/rota.db", "AUTOINCREMENT"),
        ("postgresql://nobody@nowhere/rota", "BIGSERIAL"),
        ("mysql://nobody@nowhere/rota", "ENGINE=InnoDB"),
        ("mariadb://nobody@nowhere/rota", "ENGINE=InnoDB"),
    ],
)
def test_the_statements_can_be_printed_without_reaching_the_database(url: str, telling: str) -> None:
    database = Database(url)

    script = upgrade_sql(database)

    assert telling in script
    for table in metadata.tables:
        assert f"CREATE TABLE {table} " in script
    assert "create view rota_violations" in script
