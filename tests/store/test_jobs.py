"""Adding, changing, pausing and deleting jobs."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from rota.errors import AlreadyExists, Conflict, Invalid, NotFound
from rota.model.job import JobSpec
from rota.store import jobs
from tests.store.ledger import Ledger, statements_of

pytestmark = pytest.mark.cases_take_turns


def spec(name: str = "job", **options: object) -> JobSpec:
    return JobSpec.checked(name, **({"kind": "shell", "target": "true"} | options))


def add(ledger: Ledger, name: str = "job", **options: object) -> dict[str, object]:
    return jobs.add_job(ledger.database, spec(name, **options), actor="ann@desk")


def told(ledger: Ledger) -> list[tuple[str, str]]:
    rows = ledger.rows("select to_state, actor from rota_event where kind = 'job' order by id")
    return [(row.to_state, row.actor) for row in rows]


def test_a_job_is_shown_as_it_was_added_and_reads_back_as_the_same_definition(ledger: Ledger) -> None:
    wanted = spec(
        kind="command",
        target=["echo", "a b", "ü"],
        timeout="5m",
        start_within="1h",
        retries="forever",
        lease=30,
        priority=-3,
        stdin="hello\n",
        cwd="/tmp",
        run_as="nobody",
        run_as_groups=["nogroup", "adm"],
        memory_max="1T",
        cpu_max="1h",
        open_files_max=64,
        processes_max=20,
        nice=-5,
        ionice="best-effort:6",
        umask="077",
        variables={"A": "1"},
        secrets=["TOKEN", "DB_PASSWORD"],
        startup="cold",
        pool="reports",
        delivery="at_most_once",
        backoff="exponential",
    )

    view = jobs.add_job(ledger.database, wanted, actor="ann@desk")

    assert (view["command"], view["shell"], view["call"]) == (["echo", "a b", "ü"], None, None)
    assert (view["timeout"], view["retries"], view["variables"]) == (300, "forever", {"A": "1"})
    assert (view["memory_max"], view["cpu_max"], view["umask"]) == (1 << 40, 3600, "077")
    assert view["run_as_groups"] == ["nogroup", "adm"]
    assert view["secrets"] == ["DB_PASSWORD", "TOKEN"]
    row = ledger.database.read(lambda connection: connection.execute(jobs.READ_JOB, {"name": "job"}).one())
    assert jobs.spec_of(row) == wanted


def test_each_change_is_told_with_who_asked_for_it(ledger: Ledger) -> None:
    add(ledger)

    jobs.edit_job(ledger.database, "job", lambda old: old.edited(retries=3), actor="bob@desk")
    jobs.pause_job(ledger.database, "job", actor="ann@desk")
    jobs.resume_job(ledger.database, "job", actor="ann@desk")
    jobs.delete_job(ledger.database, "job", actor="eve@desk")

    assert told(ledger) == [
        ("added", "ann@desk"),
        ("edited", "bob@desk"),
        ("paused", "ann@desk"),
        ("resumed", "ann@desk"),
        ("deleted", "eve@desk"),
    ]


def test_a_change_that_changes_nothing_is_not_written(ledger: Ledger) -> None:
    add(ledger)

    view = jobs.edit_job(ledger.database, "job", lambda old: old.edited(retries=0), actor="ann@desk")
    jobs.resume_job(ledger.database, "job", actor="ann@desk")

    assert view["revision"] == 1
    assert told(ledger) == [("added", "ann@desk")]


@pytest.mark.parametrize(("if_exists", "kept"), [("skip", "true"), ("update", "false")])
def test_a_taken_name_is_kept_or_replaced_as_told(ledger: Ledger, if_exists: jobs.IfExists, kept: str) -> None:
    add(ledger)

    view = jobs.add_job(ledger.database, spec(target="false"), actor="ann@desk", if_exists=if_exists)

    assert view["shell"] == kept


def test_of_two_that_add_the_same_name_at_once_one_is_refused(ledger: Ledger) -> None:
    outcomes: list[str] = []

    def race(number: int) -> None:
        try:
            jobs.add_job(databases[number], spec(target=f"echo {number}"), actor="ann@desk")
            outcomes.append("added")
        except AlreadyExists:
            outcomes.append("refused")

    databases = [ledger.connect() for _ in range(2)]
    threads = [threading.Thread(target=race, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["added", "refused"]


def test_two_edits_at_once_are_both_kept(ledger: Ledger) -> None:
    add(ledger)
    other = ledger.connect()
    interfered: list[bool] = []

    def change(old: JobSpec) -> JobSpec:
        if not interfered:
            interfered.append(True)
            if ledger.database.dialect.name != "sqlite":  # SQLite's writers wait for each other
                jobs.edit_job(other, "job", lambda theirs: theirs.edited(priority=7), actor="bob@desk")
        return old.edited(retries=3)

    view = jobs.edit_job(ledger.database, "job", change, actor="ann@desk")

    assert view["retries"] == 3
    assert view["priority"] == (0 if ledger.database.dialect.name == "sqlite" else 7)


def test_a_job_with_a_schedule_is_not_deleted(ledger: Ledger) -> None:
    add(ledger)
    ledger.add_schedule("nightly")

    with pytest.raises(Conflict, match=r"nightly.*schedule delete"):
        jobs.delete_job(ledger.database, "job", actor="ann@desk")


def test_a_job_with_an_unfinished_run_is_not_deleted_and_its_finished_runs_outlive_it(ledger: Ledger) -> None:
    add(ledger)
    run_id = ledger.enqueue()
    with pytest.raises(Conflict, match=f"run {run_id}.*run cancel"):
        jobs.delete_job(ledger.database, "job", actor="ann@desk")

    ledger.end(ledger.claim_one())
    jobs.delete_job(ledger.database, "job", actor="ann@desk")

    assert ledger.run(run_id).job == "job"
    with pytest.raises(NotFound):
        jobs.read_job(ledger.database, "job")


def test_the_runs_of_a_paused_job_are_not_claimed_until_it_is_resumed(ledger: Ledger) -> None:
    add(ledger)
    ledger.enqueue()
    jobs.pause_job(ledger.database, "job", actor="ann@desk")
    paused = ledger.claim()

    jobs.resume_job(ledger.database, "job", actor="ann@desk")

    assert paused == []
    assert len(ledger.claim()) == 1


def test_declaring_again_what_is_in_force_writes_nothing(ledger: Ledger) -> None:
    first = jobs.declare_job(ledger.database, spec(), module="app", actor="ann@desk")

    with statements_of(ledger.database) as sent:
        second = jobs.declare_job(ledger.database, spec(), module="app", actor="ann@desk")

    assert (first[0], second[0]) == ("added", "unchanged")
    assert not [statement for statement in sent if statement.lower().startswith(("insert", "update"))]


def test_a_new_declaration_replaces_the_old_one(ledger: Ledger) -> None:
    jobs.declare_job(ledger.database, spec(), module="app", actor="ann@desk")

    outcome, difference = jobs.declare_job(ledger.database, spec(retries=3), module="app", actor="ann@desk")

    assert outcome == "changed"
    assert "retries 0 -> 3" in difference
    assert jobs.read_job(ledger.database, "job")["retries"] == 3


def test_a_declaration_does_not_overwrite_what_was_edited_elsewhere_and_says_so_each_time(ledger: Ledger) -> None:
    jobs.declare_job(ledger.database, spec(), module="app", actor="ann@desk")
    jobs.edit_job(ledger.database, "job", lambda old: old.edited(retries=9), actor="bob@desk")

    outcomes = [
        jobs.declare_job(ledger.database, spec(retries=retries), module="app", actor="ann@desk")[0]
        for retries in (0, 3, 3)
    ]

    assert outcomes == ["edited elsewhere"] * 3
    assert jobs.read_job(ledger.database, "job")["retries"] == 9


def test_a_declaration_noted_by_an_earlier_program_is_no_edit_elsewhere(ledger: Ledger) -> None:
    jobs.declare_job(ledger.database, spec(), module="app", actor="ann@desk")
    known_then = {name: value for name, value in spec().definition().items() if name != "startup"}
    ledger.set_job(declared=jobs.encode_definition(known_then))

    outcome, _ = jobs.declare_job(ledger.database, spec(retries=3), module="app", actor="ann@desk")

    assert outcome == "changed"
    assert jobs.read_job(ledger.database, "job")["retries"] == 3


def test_a_declaration_does_not_take_over_a_job_that_was_added_elsewhere(ledger: Ledger) -> None:
    add(ledger, target="echo mine")

    outcome, _ = jobs.declare_job(ledger.database, spec(), module="app", actor="ann@desk")

    assert outcome == "edited elsewhere"
    assert jobs.read_job(ledger.database, "job")["shell"] == "echo mine"


def test_what_a_program_that_knew_fewer_fields_has_declared_follows_the_code_too(ledger: Ledger) -> None:
    jobs.declare_job(ledger.database, spec(), module="app", actor="ann@desk")
    (row,) = ledger.rows("select declared from rota_job")
    fewer = {name: value for name, value in json.loads(row.declared).items() if not name.startswith("memory")}
    ledger.set_job(declared=json.dumps(fewer))

    outcome, difference = jobs.declare_job(ledger.database, spec(memory_max="1G"), module="app", actor="ann@desk")

    assert (outcome, difference) == ("changed", "memory_max_bytes null -> 1073741824")


def test_a_broken_row_is_shown_in_the_list_and_can_be_replaced(ledger: Ledger) -> None:
    add(ledger)
    ledger.set_job(target="[not json", kind="command", variables="nor this", backoff="sudden", run_as_groups="nor")

    (view,) = jobs.list_jobs(ledger.database)
    with pytest.raises(Invalid):
        jobs.edit_job(ledger.database, "job", lambda old: old.edited(retries=1), actor="ann@desk")
    declared = jobs.declare_job(ledger.database, spec(), module="app", actor="ann@desk")
    repaired = jobs.add_job(ledger.database, spec(), actor="ann@desk", if_exists="update")

    assert (view["command"], view["variables"], view["run_as_groups"]) == ("[not json", "nor this", "nor")
    assert declared[0] == "edited elsewhere"
    assert repaired["shell"] == "true"


def test_the_list_is_paged_by_name(ledger: Ledger) -> None:
    for name in ("c", "a", "B", "b"):
        add(ledger, name)

    first = jobs.list_jobs(ledger.database, limit=3)
    rest = jobs.list_jobs(ledger.database, after=str(first[-1]["name"]), limit=3)

    assert sorted(str(view["name"]) for view in first + rest) == ["B", "a", "b", "c"]


def test_what_an_earlier_program_noted_as_declared_is_no_edit_elsewhere(ledger: Ledger) -> None:
    jobs.declare_job(ledger.database, spec(), module="app", actor="ann@desk")
    definition = json.loads(ledger.value("select declared from rota_job"))
    then = {name: value for name, value in definition.items() if name not in {"retry_on", "deadline_seconds"}}
    ledger.set_job(declared=json.dumps(then))

    outcome, _ = jobs.declare_job(ledger.database, spec(retries=3), module="app", actor="ann@desk")

    assert outcome == "changed"


@pytest.mark.parametrize("noted", [None, "{", "[]", '{"kind": 7}', "null"])
def test_a_note_of_what_was_declared_that_cannot_be_read_is_an_edit_elsewhere(
    ledger: Ledger, noted: str | None
) -> None:
    jobs.declare_job(ledger.database, spec(), module="app", actor="ann@desk")
    ledger.set_job(declared=noted)

    outcome, _ = jobs.declare_job(ledger.database, spec(retries=3), module="app", actor="ann@desk")

    assert outcome == "edited elsewhere"


def test_a_transaction_that_would_outlast_a_third_of_the_lease_is_refused_where_it_stops_all_writing(
    ledger: Ledger,
) -> None:
    def refused(**options: Any) -> bool:
        try:
            jobs.add_job(ledger.database, transactional(**options), actor="ann@desk", if_exists="update")
        except Invalid as error:
            return error.field == "timeout" and "a third of its lease" in error.rule
        return False

    found = [refused(), refused(timeout="21s"), refused(timeout="21s", lease="63s"), refused(timeout="20s")]

    assert found == ([True, True, False, False] if ledger.database.dialect.one_writer else [False] * 4)
    if found[0]:
        with pytest.raises(Invalid, match="a third of its lease"):
            jobs.edit_job(ledger.database, "t", lambda old: old.edited(timeout=None), actor="ann@desk")
        with pytest.raises(Invalid, match="a third of its lease"):
            jobs.declare_job(ledger.database, transactional(), module="app", actor="ann@desk")


def transactional(**options: Any) -> JobSpec:
    return JobSpec.checked("t", kind="call", target="app:t", delivery="transactional", **options)
