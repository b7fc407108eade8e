"""One row that somebody wrote by hand stops nobody else: not in firing, moving on, claiming, ending or rescuing."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import timedelta

import pytest

from rota.errors import DatabaseRefused
from rota.model.calendars import Calendar
from rota.model.run import Claim, End, NewRun, Written
from rota.store.advancing import advance_runs
from rota.store.calendars import add_calendar, load_calendars
from rota.store.endings import end_runs, rescue_runs
from rota.store.firing import fire_schedules
from rota.store.health import check_health
from rota.store.history import why_job, why_run
from rota.store.jobs import list_jobs
from rota.store.outlook import look
from rota.store.pools import read_servers
from rota.store.requests import request_runs
from rota.store.status import read_status
from rota.store.suspension import list_pools
from rota.store.tables import metadata
from tests.store.ledger import LEASE_SECONDS, Ledger, identity_of
from tests.store.living import start_node


def without_foreign_keys(ledger: Ledger, statement: str) -> None:
    """Do what the sqlite3 shell lets everybody do, since it does not look at foreign keys unless told."""
    ledger.database.read(lambda connection: connection.exec_driver_sql("pragma foreign_keys = off"))
    ledger.execute(statement)
    ledger.database.read(lambda connection: connection.exec_driver_sql("pragma foreign_keys = on"))


def only(ledger: Ledger, kind: str, why: str) -> None:
    if ledger.database.dialect.name != kind:
        pytest.skip(why)


NO_INFINITY = "only PostgreSQL has moments that never come"


def test_a_schedule_whose_job_was_deleted_by_hand_is_set_aside(ledger: Ledger) -> None:
    only(ledger, "sqlite", "the other databases refuse it")
    ledger.add_job("gone")
    ledger.add_job("job")
    broken = ledger.add_schedule("broken", "gone", next_slot_at=ledger.clock.now)
    ledger.add_schedule("sound", "job", next_slot_at=ledger.clock.now)
    without_foreign_keys(ledger, "delete from rota_job where name = 'gone'")

    fire_schedules(ledger.database, fired_by="a")

    assert "cannot be fired" in (ledger.schedule(broken).problem or "")
    assert {run.schedule for run in ledger.runs()} == {"sound"}


def test_a_moment_that_never_comes_stops_nobody_else(ledger: Ledger) -> None:
    only(ledger, "postgresql", NO_INFINITY)
    ledger.add_job()
    now = ledger.clock.now
    first, second, third = ledger.enqueue_many(
        [NewRun("job", run_at=now + timedelta(seconds=seconds)) for seconds in (1, 1, 1)]
    )
    ledger.execute("update rota_run set start_by = 'infinity' where id = :id", id=first)
    with pytest.raises(DatabaseRefused, match="infinity"):  # its place in the order of claims could not be told
        ledger.execute("update rota_run set run_at = '-infinity' where id = :id", id=second)
    ledger.clock.advance(seconds=2)

    assert advance_runs(ledger.database).ready == 3
    assert {claim.run_id for claim in ledger.claim()} == {first, second, third}


def test_a_schedule_that_was_set_to_never_by_hand_stops_nobody_else(ledger: Ledger) -> None:
    only(ledger, "postgresql", NO_INFINITY)
    ledger.add_job()
    never = ledger.add_schedule("never", next_slot_at=ledger.clock.now)
    ledger.execute("update rota_schedule set next_slot_at = 'infinity' where id = :id", id=never)

    outlook = look(ledger.database, identity_of("a"), ("default",))

    assert not outlook.slot_has_come


@pytest.mark.writes_runs_by_hand
def test_a_waiting_run_that_was_cancelled_by_hand_is_not_looked_at_again(ledger: Ledger) -> None:
    ledger.add_job()
    later = ledger.clock.now + timedelta(seconds=1)
    by_hand, sound = ledger.enqueue_many([NewRun("job", run_at=later, start_within_seconds=5)] * 2)
    ledger.set_run(by_hand, state="cancelled", finished_at=ledger.clock.now)
    ledger.clock.advance(seconds=10)

    advanced = advance_runs(ledger.database)

    assert advanced.missed == 1
    assert (ledger.run(by_hand).state, ledger.run(by_hand).due_at) == ("cancelled", None)
    assert ledger.run(sound).state == "missed"
    ledger.execute("update rota_event set to_state = 'cancelled' where run_id = :id", id=by_hand)


def test_a_window_that_was_taken_away_by_hand_is_not_looked_at_again(ledger: Ledger) -> None:
    ledger.add_job()
    run_id = ledger.enqueue(start_within_seconds=5)
    ledger.set_run(run_id, start_by=None)
    ledger.clock.advance(seconds=10)

    advance_runs(ledger.database)

    assert (ledger.run(run_id).state, ledger.run(run_id).due_at) == ("ready", None)


@pytest.mark.writes_runs_by_hand
def test_an_attempt_number_that_was_reset_by_hand_keeps_nobody_from_claiming(ledger: Ledger) -> None:
    claim = ledger.start_one()
    ledger.end(claim, "exited", exit_code=1)
    ledger.set_run(claim.run_id, state="ready", attempt=0, finished_at=None)
    other = ledger.enqueue()

    claimed = {claim.run_id for claim in ledger.claim()}

    assert claimed == {claim.run_id, other}


def test_an_attempt_that_was_deleted_by_hand_keeps_no_other_end_from_being_recorded(ledger: Ledger) -> None:
    ledger.add_job()
    ledger.enqueue_many([NewRun("job"), NewRun("job")])
    claims = ledger.claim()
    ledger.execute("delete from rota_attempt where run_id = :id", id=claims[0].run_id)

    end_runs(ledger.database, [End(c.claim_id, c.run_id, "succeeded", stdout=Written(b"x", b"", 1)) for c in claims])

    assert [run.state for run in ledger.runs()] == ["succeeded", "succeeded"]
    ledger.execute("delete from rota_run where id = :id", id=claims[0].run_id)


def test_a_run_whose_job_is_gone_is_claimed_and_says_so(ledger: Ledger) -> None:
    ledger.add_job()
    run_id = ledger.enqueue()
    ledger.execute("delete from rota_job where name = 'job'")

    (claim,) = ledger.claim()

    assert claim.run_id == run_id
    assert "deleted" in (claim.problem or "")


# What would make a statement fail that moves others too: the type of the column refuses it, a constraint, or, on
# SQLite, a trigger. The moments come from a function of each database, and are none.
NUMBERS = "'many'", "1e300", "-2147483648", "2147483647"
BROKEN = [
    *(
        (f"rota_job.{column}", value)
        for column in ("priority", "lease_seconds", "timeout_seconds")
        for value in NUMBERS
    ),
    *((f"rota_job.{column}", "'many'") for column in ("retries", "lost_max")),
    *(
        (f"rota_job.{column}", value)
        for column in ("retry_delay_seconds", "retry_delay_max_seconds")
        for value in NUMBERS
    ),
    *(
        (f"rota_run.{column}", value)
        for column in ("priority", "lease_seconds", "attempt", "losses")
        for value in NUMBERS
    ),
    *((f"rota_run.{column}", value) for column in ("retries_used", "slot_count") for value in NUMBERS),
    *((f"rota_run.{column}", "9223372036854775807") for column in ("fence", "attempt", "losses")),
    *(("rota_schedule.skips_in_row", value) for value in NUMBERS),
    ("rota_schedule.cursor_version", "9223372036854775807"),
    ("rota_schedule.next_slot_at", "'soon'"),
    ("rota_run.lease_ends_at", "'1795251600'"),
    ("rota_run.due_at", "''"),
    ("rota_run.queued", "'perhaps'"),
    ("rota_job.pool", f"'{'x' * 201}'"),
    ("rota_attempt.attempt", "2147483647"),
]


@pytest.mark.takes_turns
@pytest.mark.parametrize(("column", "value"), BROKEN)
def test_a_value_that_would_stop_others_is_refused(ledger: Ledger, column: str, value: str) -> None:
    ledger.add_job()
    ledger.add_schedule("each")
    ledger.enqueue()
    (claim,) = ledger.claim()
    table, name = column.split(".")

    with pytest.raises(DatabaseRefused):
        ledger.execute(f"update {table} set {name} = {value}")

    assert ledger.run(claim.run_id).state == "running"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("rota_job.pool", "x'ff'"),
        ("rota_job.lease_seconds", "9e999"),
        ("rota_schedule.args", "x'ff'"),
        ("rota_schedule.next_slot_at", "'2026-11-20T07:00:00.000000'"),
        ("rota_schedule.next_slot_at", "1795251600"),
    ],
)
def test_sqlite_refuses_what_has_not_the_type_of_its_column_and_says_which(
    ledger: Ledger, column: str, value: str
) -> None:
    only(ledger, "sqlite", "the other databases have types")
    ledger.add_job()
    ledger.add_schedule("each")
    table, name = column.split(".")

    with pytest.raises(DatabaseRefused, match=f"{column} must be "):
        ledger.execute(f"update {table} set {name} = {value}")
    given = {"name": "'new'", "id": "null"} | {name: value}
    columns = [item.name for item in metadata.tables[table].columns]
    copied = ", ".join(given.get(item, item) for item in columns)
    with pytest.raises(DatabaseRefused, match=f"{column} must be "):
        ledger.execute(f"insert into {table} ({', '.join(columns)}) select {copied} from {table}")


def test_text_that_is_no_utf8_stops_nobody_else(ledger: Ledger) -> None:
    only(ledger, "sqlite", "the other databases refuse it")
    ledger.add_job("odd")
    ledger.add_job()
    ledger.add_schedule("broken", "odd", next_slot_at=ledger.clock.now)
    ledger.add_schedule("sound", next_slot_at=ledger.clock.now)
    ledger.execute("update rota_job set pool = cast(x'ff' as text), variables = cast(x'ff' as text) where name = 'odd'")

    assert fire_schedules(ledger.database, fired_by="a").schedules == 2
    assert [claim.schedule for claim in ledger.claim(limit=5)] == ["sound"]
    assert [view["pool"] for view in list_jobs(ledger.database)] == ["default", "\ufffd"]


@pytest.mark.parametrize("value", ["'NaN'", "'Infinity'", "'-Infinity'"])
def test_postgresql_refuses_a_number_that_is_none(ledger: Ledger, value: str) -> None:
    only(ledger, "postgresql", "the other databases have no such numbers")
    ledger.add_job()

    with pytest.raises(DatabaseRefused, match="lease_seconds_within"):
        ledger.execute(f"update rota_job set lease_seconds = {value}")


def test_what_the_database_does_not_take_of_one_schedule_stops_no_other(ledger: Ledger) -> None:
    ledger.add_job()
    for name in ("first", "broken", "last"):
        ledger.add_schedule(name, next_slot_at=ledger.clock.now)
    with refusing(ledger, "broken"):
        with pytest.raises(DatabaseRefused, match=r"schedule broken cannot be fired: .*refused by hand"):
            fire_schedules(ledger.database, fired_by="a")
        assert {run.schedule for run in ledger.runs()} == {"first", "last"}
        with pytest.raises(DatabaseRefused, match="refused by hand"):
            fire_schedules(ledger.database, fired_by="a")

    assert fire_schedules(ledger.database, fired_by="a").runs == 1
    assert {run.schedule for run in ledger.runs()} == {"first", "broken", "last"}


@contextlib.contextmanager
def refusing(ledger: Ledger, schedule: str) -> Iterator[None]:
    """Let the database refuse the runs of one schedule, as a trigger of its owner may."""
    make, drop = {
        "sqlite": (
            f"create trigger by_hand before insert on rota_run when new.schedule = '{schedule}'"
            " begin select raise(abort, 'refused by hand'); end",
            "drop trigger by_hand",
        ),
        "postgresql": (
            "create function by_hand() returns trigger language plpgsql as"
            f" $$ begin if new.schedule = '{schedule}' then raise exception 'refused by hand'; end if; return new; end"
            " $$;"
            " create trigger by_hand before insert on rota_run for each row execute function by_hand()",
            "drop function by_hand cascade",
        ),
        "mysql": (
            f"create trigger by_hand before insert on rota_run for each row begin if new.schedule = '{schedule}'"
            " then signal sqlstate '45000' set message_text = 'refused by hand'; end if; end",
            "drop trigger by_hand",
        ),
    }[ledger.database.dialect.name]
    ledger.execute(make)
    try:
        yield
    finally:
        ledger.execute(drop)


def test_arguments_that_are_large_together_are_more_than_one_statement(ledger: Ledger) -> None:
    ledger.add_job()
    large = json.dumps({"text": "x" * (1024 * 1024 - 20)})
    for number in range(20):  # more together than MariaDB takes in one statement
        ledger.add_schedule(f"s{number}", next_slot_at=ledger.clock.now, args=large)

    assert fire_schedules(ledger.database, fired_by="a").runs == 20
    assert len(ledger.enqueue_many([NewRun("job", args=large)] * 20)) == 20


# Valid JSON for those who do not read it: deeper than Python follows.
DEEP = "[" * 5000 + "]" * 5000


def test_variables_nested_beyond_measure_keep_nobody_from_claiming(ledger: Ledger) -> None:
    ledger.add_job("deep", variables=DEEP)
    ledger.add_job()
    deep, sound = ledger.enqueue("deep"), ledger.enqueue()

    problems = {claim.run_id: claim.problem for claim in ledger.claim()}

    assert problems[sound] is None
    assert "is not a JSON object: correct it with `rota job edit`" in (problems[deep] or "")


def test_what_a_node_has_nested_beyond_measure_hides_no_node(ledger: Ledger) -> None:
    start_node(ledger, "a")
    start_node(ledger, "b")
    ledger.execute("update rota_node set environments = :deep, pools = :deep where name = 'a'", deep=DEEP)

    servers = {server.name: server for server in ledger.database.read(read_servers)}

    assert (servers["a"].environments, servers["a"].pools) == (frozenset(), frozenset())
    assert servers["b"].pools == {"default"}


@pytest.mark.parametrize("definition", [DEEP, "[not json", "5", "null", '{"weekdays": 5}'])
def test_a_calendar_that_was_broken_by_hand_is_as_if_it_were_not_there(ledger: Ledger, definition: str) -> None:
    add_calendar(ledger.database, Calendar.checked("rest", weekdays=["sat", "sun"]), actor="ann")
    ledger.execute("update rota_calendar set definition = :definition", definition=definition)

    assert ledger.database.read(lambda connection: load_calendars(connection, ["rest"])) == {}


FAR = "'9999-12-31 23:59:59.000000'"
LONG_AGO = "'1000-01-01 00:00:00.000000'"
NONSENSE = [
    *((f"rota_job.{name}", value) for name in ("retry_on", "no_retry_on") for value in ("'x'", "'[1]'", "'{}'", "''")),
    *((f"rota_job.{name}", value) for name in ("no_op_exit_code", "cancel_exit_code") for value in ("-5", "0", "1")),
    *(("rota_job.deadline_seconds", value) for value in ("0", "1e-300")),
    *(("rota_job.breaker_failures", value) for value in ("-1", "0")),
    *(("rota_job.breaker_until", value) for value in (FAR, LONG_AGO)),
    ("rota_job.breaker_pause_seconds", "0"),
    ("rota_job.breaker_run_id", "-1"),
    *((f"rota_job.{name}", "'x'") for name in ("env", "run_as_groups", "ionice", "umask", "startup")),
    *(("rota_run.deadline_from_at", value) for value in (FAR, LONG_AGO)),
    *(("rota_run.freeze_asked_at", value) for value in (FAR, LONG_AGO)),
    *(("rota_run.checkpoint", value) for value in ("'x'", "''", f"'{DEEP}'")),
    ("rota_run.retries", "-1"),
    ("rota_run.retry_delay_seconds", "0"),
    ("rota_run.environment", "''"),
]


@pytest.mark.writes_runs_by_hand
def test_nonsense_about_long_runs_stops_neither_ends_nor_rescues(ledger: Ledger) -> None:
    claims: dict[str, list[Claim]] = {"ends": [], "rescues": []}
    for what, found in claims.items():
        for number, (column, value) in enumerate(NONSENSE):
            name = f"{what}{number}"
            ledger.add_job(name, deadline_seconds=60.0, breaker_failures=1)
            ledger.enqueue(name)
            (claim,) = ledger.claim()
            found.append(claim)
            table, column_name = column.split(".")
            where = f"name = '{name}'" if table == "rota_job" else f"id = {claim.run_id}"
            ledger.execute(f"update {table} set {column_name} = {value} where {where}")

    end_runs(ledger.database, [End(c.claim_id, c.run_id, "exited", exit_code=1) for c in claims["ends"]])
    ledger.clock.advance(seconds=LEASE_SECONDS + 1)
    rescued = rescue_runs(ledger.database, rescuer="b", limit=1000)

    assert rescued == len(NONSENSE)
    assert "running" not in {run.state for run in ledger.runs()}
    ledger.execute("delete from rota_event")
    ledger.execute("delete from rota_run")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("update rota_job set pool = '' where name = 'odd'", "no node can serve pool '': give its jobs another with"),
        ("update rota_job set pool = 'x y' where name = 'odd'", "no node can serve pool 'x y': give its jobs another"),
        ("update rota_node set slots = 0", "no node alive in pool default has a slot: a"),
        ("update rota_node set slots = -3", "no node alive in pool default has a slot: a"),
        ("insert into rota_pool (name, created_at) select 'x y', created_at from rota_job where name = 'odd'", ""),
    ],
)
def test_a_pool_or_a_number_of_slots_that_no_door_takes_stops_nobody_and_is_told_as_it_is(
    ledger: Ledger, broken: str, said: str
) -> None:
    start_node(ledger)
    ledger.add_job("odd")
    ledger.add_job("sound")
    ledger.execute(broken)

    requests = [NewRun("odd"), NewRun("sound")]
    odd, _ = (made.run_id for made in request_runs(ledger.database, requests))
    claimed = ledger.claim()

    assert "sound" in {claim.job for claim in claimed}
    assert ledger.database.read(lambda connection: read_servers(connection)[0].slots) >= 0
    assert list_pools(ledger.database)
    assert read_status(ledger.database)
    assert check_health(ledger.database)
    assert why_run(ledger.database, odd)["because"]
    assert said in " ".join(why_job(ledger.database, "odd")["because"])
