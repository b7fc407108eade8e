"""The hot statements are served by their index, also when the ledger is long.

What is explained is what the program sends, word for word and with its parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert

from rota.store.advancing import FIND_WAITED
from rota.store.backfill_ends import COUNT_STATES, FIND_OURS, READ_UNFINISHED
from rota.store.backfill_slots import READ_COVERING, READ_SLOTS, READ_TAKERS
from rota.store.backfill_steps import FIND_BACKFILLS
from rota.store.creation import AUDIT_ASKED, INSERT_RUNS, TALLY_SLOTS, TELL_ASKED, TELL_SLOTS
from rota.store.dependants import FIND_DEPENDANTS, READ_DECIDED
from rota.store.dialects import ClaimForm
from rota.store.endings import FIND_ENDING, FIND_EXPIRED, KEEP_ORPHANS
from rota.store.fanout import FIND_FIRST_OF_GROUPS
from rota.store.firing import FIND_DUE, FIND_OPEN, MOVE_CURSORS, TELL_PROBLEMS, TELL_SKIPPING
from rota.store.groups import READ_STATES
from rota.store.keys import FIND_KEYED, LET_GO
from rota.store.leases import (
    FIND_CLAIMABLE,
    FIND_CLAIMABLE_LOCKED,
    FIND_RENEWABLE,
    NOTE_ENVIRONMENT,
    RENEW_CLAIMS,
    claim_at_once,
    find_claimable,
    find_waiting,
    secret_parameters,
)
from rota.store.missed import READ_JOBS_OF_RUNS, READ_MISSED, READ_MISSED_SLOTS
from rota.store.moves import APPLY_MOVES, CLOSE_ATTEMPTS, TELL_MOVES
from rota.store.outlook import look_statement
from rota.store.placing import selector_parameters
from rota.store.retention import FIND_NEWEST, LOCK_REMOVABLE, READ_GROUPS, READ_NEXT
from rota.store.runs import _list_statement
from rota.store.sharing import FIND_FIRST, PLACE_RUNS
from rota.store.tables import backfill, dependency, job, permit, run, schedule
from rota.store.tables import event as events
from rota.store.tallies import TALLY_ATTEMPTS, TALLY_CHANGES
from rota.store.types import encode_rows
from rota.store.upstreams import FIND_AWAITING, READ_BEFORE, READ_LAST, READ_LATEST
from tests.clock import BEGINNING, Clock
from tests.servers import Server
from tests.store.ledger import _JOB, _SCHEDULE, Ledger

FINISHED, READY, RUNNING, WAITING, SCHEDULES, PERMITS = 20_000, 1_000, 50, 50, 2_000, 5_000
AWAITING, JOBS_AFTER = 200, 5
BACKFILLS, BACKFILLED = 2_000, 500
TABLES = ("run", "schedule", "job", "event", "permit", "dependency", "backfill")

# Rows are put there in bulk, without attempts and events.
pytestmark = pytest.mark.breaks_invariants

CLAIMS = [f"claim-{number}" for number in range(10)]

JOBS = {"job": None, "other": None, "pinned": "shop==1.1"}
WANTED = ["", "shop", "shop==1.2"]
LOOK = {"for_node": "a", "holder": "h", "environments": WANTED}
CLAIMING = {"in_pool": "default", "for_node": "a", "environments": WANTED, "without_jobs": [0], "limit": 10}
PLACED = selector_parameters("a", {"gpu": "yes", "zone": "x"})
LOOKED_INTO = {"rota_backfill_due", "rota_schedule_due", "rota_run_due", "rota_run_lease", "rota_run_claim"}

# statement: its parameters, and the index that is named above it in the store
HOT: dict[str, tuple[Any, dict[str, Any], set[str]]] = {
    "FIND_CLAIMABLE": (
        FIND_CLAIMABLE,
        CLAIMING,
        {"rota_run_claim"},
    ),
    "LOOK": (look_statement(1), LOOK | {"pool_0": "default"}, LOOKED_INTO),
    "LOOK of a node with secrets": (
        look_statement(1, 2),
        LOOK | {"pool_0": "default"} | secret_parameters(["A", "B"]),
        LOOKED_INTO,
    ),
    "find_waiting": (
        find_waiting(),
        CLAIMING | {"of_jobs": [1, 2]},
        {"rota_run_claim"},
    ),
    "find_claimable with secrets": (
        find_claimable(2),
        CLAIMING | secret_parameters(["A", "B"]),
        {"rota_run_claim"},
    ),
    "find_claimable with labels": (
        find_claimable(1, 3),
        CLAIMING | secret_parameters(["A"]) | PLACED,
        {"rota_run_claim"},
    ),
    "LOOK of a node with labels": (
        look_statement(1, 0, 3),
        LOOK | {"pool_0": "default"} | PLACED,
        LOOKED_INTO,
    ),
    "LOOK at two pools": (
        look_statement(2),
        LOOK | {"pool_0": "empty", "pool_1": "default"},
        LOOKED_INTO,
    ),
    "LOOK at an empty pool": (look_statement(1), LOOK | {"pool_0": "empty"}, LOOKED_INTO),
    "FIND_DUE": (FIND_DUE, {"limit": 100}, {"rota_schedule_due"}),
    "FIND_OPEN": (FIND_OPEN, {"schedule_ids": [1, 2, 3]}, {"rota_run_open_schedule"}),
    "FIND_FIRST_OF_GROUPS": (FIND_FIRST_OF_GROUPS, {"group_ids": ["g1", "g2"]}, {"rota_run_group"}),
    "READ_STATES": (READ_STATES, {"group_ids": ["g1", "g2"]}, {"rota_run_group"}),
    "FIND_WAITED": (FIND_WAITED, {"limit": 100}, {"rota_run_due"}),
    "FIND_EXPIRED": (FIND_EXPIRED, {"limit": 100}, {"rota_run_lease"}),
    "FIND_ENDING": (FIND_ENDING, {"claim_ids": CLAIMS}, {"rota_run_claim_id_key"}),
    "NOTE_ENVIRONMENT": (
        NOTE_ENVIRONMENT,
        {"claim_ids": CLAIMS, "in_name": "shop", "in_version": "1.2"},
        {"rota_run_claim_id_key"},
    ),
    "FIND_RENEWABLE": (FIND_RENEWABLE, {"claim_ids": CLAIMS}, {"rota_run_claim_id_key"}),
    "RENEW_CLAIMS": (RENEW_CLAIMS, {"claim_ids": CLAIMS, "lease": 60.0}, {"rota_run_claim_id_key"}),
    "READ_NEXT": (READ_NEXT, {"after": 5000}, set()),
    "READ_GROUPS": (READ_GROUPS, {"group_ids": ["g1", "g2"]}, {"rota_run_group"}),
    # Of a job with few runs any index that begins with it will do, and what it finds may be sorted.
    "FIND_NEWEST": (FIND_NEWEST, {"job_id": 2, "group_id": ""}, set()),
    "LOCK_REMOVABLE": (LOCK_REMOVABLE, {"ids": list(range(101, 201))}, set()),
}

_slots = encode_rows([{"schedule_id": number, "moment": BEGINNING} for number in (1, 2, 3)])
_decided = encode_rows([{"job_id": 11, "low": BEGINNING, "high": None}])
HOT |= {
    "FIND_AWAITING": (FIND_AWAITING, {"limit": 100}, {"rota_run_upstreams_due"}),
    "READ_DECIDED": (READ_DECIDED, {"ended": [5, 6, 7]}, {"rota_run_slot"}),
    "FIND_DEPENDANTS": (FIND_DEPENDANTS, {"decided": _decided}, {"rota_run_awaiting"}),
    "READ_LATEST": (READ_LATEST, {"asked": _slots}, {"rota_run_slot"}),
    "READ_BEFORE": (READ_BEFORE, {"asked": _slots}, {"rota_run_slot"}),
    "READ_LAST": (READ_LAST, {"job_ids": [1, 2]}, {"rota_run_job"}),
}
_range = {"schedule_id": 1, "low": BEGINNING, "high": BEGINNING}
HOT |= {
    "FIND_BACKFILLS": (FIND_BACKFILLS, {"limit": 20}, {"rota_backfill_due"}),
    "READ_SLOTS of a backfill": (READ_SLOTS, _range, {"rota_run_slot"}),
    "READ_COVERING": (READ_COVERING, {"schedule_id": 1, "low": BEGINNING}, {"rota_run_slot"}),
    "READ_TAKERS": (READ_TAKERS, {"asked": _slots}, {"rota_run_slot"}),
    "READ_UNFINISHED": (
        READ_UNFINISHED,
        {"schedule_ids": [1, 2, 3], "backfill_id": 1},
        {"rota_run_open_schedule"},
    ),
    "FIND_OURS": (FIND_OURS, {"schedule_ids": [1, 2, 3], "backfill_id": 1}, {"rota_run_open_schedule"}),
    "COUNT_STATES": (COUNT_STATES, {"backfill_id": 1}, {"rota_run_backfill"}),
    "READ_MISSED": (READ_MISSED, {"run_ids": [7, 8]}, set()),
    "READ_JOBS_OF_RUNS": (READ_JOBS_OF_RUNS, {"run_ids": [7, 8]}, set()),
    "READ_MISSED_SLOTS": (
        READ_MISSED_SLOTS,
        {"slots": encode_rows([{"schedule_id": 1, "slot_at": BEGINNING, "target_node": ""}])},
        {"rota_run_slot"},
    ),
}
HOT["PLACE_RUNS"] = (PLACE_RUNS, {"placed": encode_rows([{"run_id": 1, "behind_seconds": 0}])}, set())
# Of another job than those whose runs are many.
HOT["FIND_FIRST"] = (
    FIND_FIRST,
    {"jobs": encode_rows([{"job_id": 2, "pool": "default", "priority": 0}])},
    {"rota_run_ready_key"},
)

# They lock what they found by key in one order; there is no more to sort than was asked for. The claim of a run with a
# mutex looks for what waits for several among all that is ready, where a job names several.
SORT_FEW = {
    "find_waiting",
    "FIND_ENDING",
    "FIND_RENEWABLE",
    "NOTE_ENVIRONMENT",
    "RENEW_CLAIMS",
    "LOCK_REMOVABLE",
    "FIND_NEWEST",
    "READ_GROUPS",
    "FIND_OURS",
    "COUNT_STATES",
    "READ_MISSED",
    "READ_MISSED_SLOTS",
}


SCANS = ("SCANS rota_run", "SCANS rota_schedule", "SCANS rota_permit", "SCANS rota_backfill")
# All places of a kind, where few are taken.
BY_NUMBER = {"rota_permit_number", "sqlite_autoindex_rota_permit_1"}

# They say that the run is running, so that the database may rather look through those that have a lease.
RUNNING_ONLY = {"FIND_RENEWABLE", "NOTE_ENVIRONMENT", "RENEW_CLAIMS"}


def _rows(ledger: Ledger) -> Iterator[dict[str, Any]]:
    common = {
        "job_id": 1,
        "job": "job",
        "slot_count": 1,
        "target_node": "",
        "reason": "asked",
        "reason_text": "",
        "args": "{}",
        "pool": "default",
        "priority": 0,
        "delivery": "at_least_once",
        "requested_by": "",
        "queued": False,
        "attempt": 0,
        "retries_used": 0,
        "losses": 0,
        "fence": 0,
        "schedule_id": None,
        "claim_id": None,
        "finished_at": None,
        "due_at": None,
        "lease_ends_at": None,
    }
    for number in range(FINISHED + READY + RUNNING + WAITING):
        moment = ledger.clock.after(number - FINISHED - READY)
        row = common | {"run_at": moment, "enqueued_at": moment, "slot_at": moment, "moment_at": moment}
        if number < FINISHED:
            row |= {"state": "succeeded", "finished_at": moment, "claim_id": f"claim-{number}"}
            row["schedule_id"] = 1 + number % SCHEDULES
        elif number < FINISHED + READY:
            row |= {"state": "ready", "priority": number % 3}
        elif number < FINISHED + READY + RUNNING:
            row |= {"state": "running", "lease_ends_at": moment, "claim_id": f"claim-{number}"}
        else:
            row |= {"state": "waiting", "due_at": moment, "schedule_id": number % SCHEDULES}
        row["backfill_id"] = 1 + number // BACKFILLED if number < 3 * BACKFILLED else None
        yield row | {"upstreams_due_at": None, "awaiting_job_id": None}
    for number in range(AWAITING):
        moment = ledger.clock.after(number)
        row = common | {
            "run_at": moment,
            "enqueued_at": moment,
            "slot_at": moment,
            "moment_at": moment,
            "state": "waiting",
        }
        job_id = 10 + number % JOBS_AFTER
        row |= {"job_id": job_id, "upstreams_due_at": moment, "awaiting_job_id": job_id, "backfill_id": None}
        yield row | {"schedule_id": SCHEDULES + 1 + number % JOBS_AFTER}


def _permits(ledger: Ledger) -> Iterator[dict[str, Any]]:
    """Keys of which few have a run: what nobody has taken for less than an hour is still there."""
    for number in range(PERMITS):
        claim_id = f"claim-{FINISHED + READY + number}" if number < RUNNING else None
        free_at = ledger.clock.after(60) if number < RUNNING else None
        yield {"scope": "key", "job_id": 1, "name": f"t{number}", "number": 1, "claim_id": claim_id, "free_at": None}
        yield {"scope": "rate", "job_id": 1, "name": "", "number": number + 1, "claim_id": None, "free_at": free_at}


def _backfills(ledger: Ledger) -> Iterator[dict[str, Any]]:
    """Of which most have ended."""
    for number in range(BACKFILLS):
        is_going = number % 500 == 0
        yield {
            "name": "s1", "state": "active" if is_going else "ended", "from_at": BEGINNING, "to_at": BEGINNING,
            "max_active": 1, "again": False, "failed_only": False, "downstream": False, "requested_by": "ann",
            "created_at": BEGINNING, "due_at": ledger.clock.after(number) if is_going else None, "version": 1,
        }  # fmt: skip


ANALYZE = {
    "sqlite": ("analyze",),
    "postgresql": ("analyze",),
    "mysql": tuple(f"analyze table rota_{name}" for name in TABLES),
}


def make_long(url: str) -> None:
    """Fill the ledger of a database."""
    ledger = Ledger(url, Clock())
    made = {"created_at": ledger.clock.now, "updated_at": ledger.clock.now}

    def fill(connection: Connection) -> None:
        connection.execute(insert(job), [_JOB | made | {"name": name, "env": env} for name, env in JOBS.items()])
        connection.execute(
            insert(schedule),
            [
                _SCHEDULE | made | {"name": f"s{n}", "job_id": 1, "next_slot_at": ledger.clock.after(n * 60)}
                for n in range(SCHEDULES)
            ],
        )
        jobs_after = [_JOB | made | {"name": f"after{n}", "id": 10 + n} for n in range(JOBS_AFTER)]
        connection.execute(insert(job), jobs_after)
        schedules_after = [
            _SCHEDULE | made | {"name": f"after{n}", "job_id": 10 + n, "id": SCHEDULES + 1 + n}
            for n in range(JOBS_AFTER)
        ]
        connection.execute(insert(schedule), schedules_after)
        pairs = [{"job_id": 10 + number, "upstream_id": 1} for number in range(JOBS_AFTER)]
        connection.execute(insert(dependency), pairs)
        connection.execute(insert(backfill), list(_backfills(ledger)))
        connection.execute(insert(run), list(_rows(ledger)))
        connection.execute(insert(permit), list(_permits(ledger)))
        told = {"kind": "run"}
        numbers = range(FINISHED - 2000, FINISHED + READY)
        moments = [(number + 1, ledger.clock.after(number - FINISHED - READY)) for number in numbers]
        connection.execute(insert(events), [told | {"run_id": run_id, "at": moment} for run_id, moment in moments])

    ledger.database.write(fill, repeatable=False)
    ledger.close()


@pytest.fixture
def long_ledger(database_server: Server, clock: Clock) -> Iterator[Ledger]:
    url = database_server.create_database(make_long)
    ledger = Ledger(url, clock)
    for statement in ANALYZE[ledger.database.dialect.name]:
        ledger.execute(statement)
    yield ledger
    ledger.close()
    database_server.drop_database(url)


def explain(ledger: Ledger, statement: Any, parameters: dict[str, Any]) -> tuple[set[str], list[str]]:
    """Return the indexes that the database uses for a statement, and the whole plan for people.

    Sorting the few permits that are taken, to count them, is told apart from sorting runs.
    """
    # MySQL draws a tree otherwise.
    prefixes = {"sqlite": "explain query plan ", "postgresql": "explain ", "mysql": "explain format=traditional "}
    prefix = prefixes[ledger.database.dialect.name]

    def ask(given: Any, _c: Any, text: str, values: Any, _context: Any, _many: bool) -> tuple[str, Any]:
        return prefix + text, values

    def plan(connection: Connection) -> list[Any]:
        rows: list[Any] = []
        event.listen(connection, "before_cursor_execute", ask, retval=True)
        # From the driver itself: of an update, SQLAlchemy would not expect rows.
        event.listen(connection, "after_cursor_execute", lambda _c, cursor, *_: rows.extend(cursor.fetchall()))
        connection.execute(statement, parameters)
        return rows

    return READERS[ledger.database.dialect.name](ledger.database.read(plan))


def _read_sqlite(rows: list[Any]) -> tuple[set[str], list[str]]:
    lines = [row[3] for row in rows]
    used: set[str] = set()
    for line in lines:
        words = line.split()
        if "USE TEMP B-TREE" in line:
            used.add("GROUPS" if line.endswith("FOR GROUP BY") else "SORTS")
        elif "INDEX" in words:
            name = words[words.index("INDEX") + 1]
            name = "rota_run_slot" if name == "sqlite_autoindex_rota_run_4" else name
            used.add("rota_run_claim_id_key" if "sqlite_autoindex" in name and "claim_id=?" in line else name)
        elif words[0] == "SCAN":
            used.add(f"SCANS {words[1]}")
    return used, lines


def _read_postgresql(rows: list[Any]) -> tuple[set[str], list[str]]:
    lines = [row[0].strip() for row in rows]
    used: set[str] = set()
    for line in lines:
        words = line.removeprefix("->").split()
        if "Index" in words[:4] and "Scan" in words[:5]:
            used.add(words[words.index("using" if "using" in words else "on") + 1])
        if words[0] == "Seq" and "rota_job" not in words:  # a table of two rows
            used.add("SCANS " + words[3])
        if line.startswith("Sort Key:"):
            # Taken permits, or the jobs that have a limit, are grouped.
            used.add("GROUPS" if words[2].startswith(("rota_permit", "rota_job")) else "SORTS")
    return used, lines


MYSQL_COLUMNS = "id select_type table partitions type possible_keys key key_len ref rows filtered extra".split()
MYSQL_ONLY = {"partitions", "filtered"}


def _read_mysql(rows: list[Any]) -> tuple[set[str], list[str]]:
    used: set[str] = set()
    for row in rows:
        if len(row) == len(MYSQL_COLUMNS):  # MariaDB lacks two of them
            row = [value for name, value in zip(MYSQL_COLUMNS, row, strict=True) if name not in MYSQL_ONLY]
        table, kind, key, extra = row[2], row[3], row[5], row[-1] or ""
        if table is None or "job" in table:  # a table of two rows
            continue
        used.add({"claim_id": "rota_run_claim_id_key"}.get(key, key) if key else f"SCANS {table}")
        if kind == "ALL":
            used.add(f"SCANS {table}")
        if "filesort" in extra:
            used.add("GROUPS" if (row[1], table) == ("DERIVED", "rota_permit") else "SORTS")
    return used, [str(row) for row in rows]


READERS: dict[str, Callable[[list[Any]], tuple[set[str], list[str]]]] = {
    "sqlite": _read_sqlite,
    "postgresql": _read_postgresql,
    "mysql": _read_mysql,
}


def test_the_hot_statements_are_served_by_their_index_and_none_scans_or_sorts(long_ledger: Ledger) -> None:
    wrong: dict[str, list[str]] = {}
    hot = dict(HOT)
    if long_ledger.database.dialect.claim_form is ClaimForm.AT_ONCE:
        by = {"batch": "b", "by_node": "a", "by_holder": "h", "node_lease": 60.0, "why": "a has it"}
        hot["claim_at_once"] = (claim_at_once(), HOT["FIND_CLAIMABLE"][1] | by, {"rota_run_claim", "rota_run_pkey"})

    for name, (statement, parameters, expected) in hot.items():
        if name == "FIND_CLAIMABLE" and long_ledger.database.dialect.claim_form is not ClaimForm.COMPARE_ALONE:
            statement = FIND_CLAIMABLE_LOCKED
        used, plan = explain(long_ledger, statement, parameters)
        bad = {found for found in used if found.startswith(SCANS)}
        bad |= used & BY_NUMBER
        if name not in SORT_FEW:
            bad |= used & {"SORTS"}
        # MariaDB reads the least of an indexed column while it plans, and names no index then.
        optimized = sum("optimized away" in line for line in plan)
        # Where few runs have a lease, the database may rather look through those than up the claims.
        missing = expected - used if name not in RUNNING_ONLY or "rota_run_lease" not in used else set()
        if len(missing) > optimized or bad:
            wrong[name] = [f"uses {sorted(used)}, expected {sorted(expected)}", *plan]

    assert not wrong, "\n".join(f"{name}: {line}" for name, lines in wrong.items() for line in lines)


@pytest.mark.parametrize("more", [(), ("last_moment",), ("states",)])
def test_runs_of_a_job_by_time_come_from_the_index_on_their_moments(long_ledger: Ledger, more: tuple[str, ...]) -> None:
    clock = long_ledger.clock
    parameters = {"job_id": 1, "first": clock.after(-9000), "end": clock.after(-8940), "limit": 51}
    parameters |= {"last_moment": clock.after(-8950), "last_id": 9000} if "last_moment" in more else {}
    parameters |= {"states": ["succeeded"]} if "states" in more else {}  # what hardly any run has is looked up

    used, plan = explain(long_ledger, _list_statement(("job_id", "first", "end", *more)), parameters)

    assert "rota_run_moment" in used, "\n".join(plan)
    assert not {found for found in used if found.startswith(SCANS)}, "\n".join(plan)


# Statements that are given rows as JSON, and find ours by them. On a fresh SQLite, which has no statistics, another
# index than the key's would read all schedules for each of the given ones.
GIVEN: dict[str, tuple[Any, str]] = {
    "MOVE_CURSORS": (MOVE_CURSORS, "cursors"),
    "TELL_PROBLEMS": (TELL_PROBLEMS, "cursors"),
    "TELL_SKIPPING": (TELL_SKIPPING, "skipping"),
    "INSERT_RUNS": (INSERT_RUNS, "new"),
    "TELL_SLOTS": (TELL_SLOTS, "told"),
    "TELL_ASKED": (TELL_ASKED, "asked"),
    "AUDIT_ASKED": (AUDIT_ASKED, "audited"),
    "FIND_KEYED": (FIND_KEYED, "wanted"),
    "LET_GO": (LET_GO, "wanted"),
    "APPLY_MOVES": (APPLY_MOVES, "moves"),
    "TELL_MOVES": (TELL_MOVES, "moves"),
    "TALLY_CHANGES": (TALLY_CHANGES, "changes"),
    "TALLY_ATTEMPTS": (TALLY_ATTEMPTS, "claims"),
    "TALLY_SLOTS": (TALLY_SLOTS, "told"),
    "CLOSE_ATTEMPTS": (CLOSE_ATTEMPTS, "ends"),
    "KEEP_ORPHANS": (KEEP_ORPHANS, "orphans"),
    "READ_MISSED_SLOTS": (READ_MISSED_SLOTS, "slots"),
}
BY_KEY = ("USING INTEGER PRIMARY KEY", "sqlite_autoindex", "USING INDEX rota_event_run")


def test_what_is_given_rows_finds_ours_by_key_without_statistics(ledger: Ledger) -> None:
    if ledger.database.dialect.name != "sqlite":
        pytest.skip("the other databases keep statistics by themselves")
    wrong: dict[str, list[str]] = {}

    for name, (statement, parameter) in GIVEN.items():
        _, plan = explain(ledger, statement, {parameter: "[]", "told_by": "a"})
        ours = [line for line in plan if " rota_" in line]
        if not ours or not all(any(key in line for key in BY_KEY) for line in ours):
            wrong[name] = plan

    assert not wrong, wrong


def test_explaining_sees_a_scan_and_a_sort(long_ledger: Ledger) -> None:
    used, _ = explain(long_ledger, run.select().order_by(run.c.requested_by), {})

    assert {"SCANS rota_run", "SORTS"} <= used
