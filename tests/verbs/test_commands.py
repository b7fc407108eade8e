"""Commands that are asked for with nothing but SQL: each is carried out once, in order, and answered in its row."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal

import pytest
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import DataError, DBAPIError

from rota import Rota, crash
from rota.store.outlook import look
from rota.verbs.answering import answer_commands
from tests.store.ledger import Ledger, identity_of
from tests.store.trouble import commit_breaks

ASK = "insert into rota_command (verb, target, params) values (:verb, :target, :params)"


class Prompt:
    """A SQL prompt: a connection on which nothing of Rota is known."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.engine = create_engine(ledger.database.url, poolclass=NullPool)

    def ask(self, verb: str, target: str | None = None, params: Any = None) -> int:
        given = json.dumps(params) if params is not None and not isinstance(params, str) else params
        with self.engine.begin() as connection:
            connection.execute(text(ASK), {"verb": verb, "target": target, "params": given})
            return connection.execute(text("select max(id) from rota_command")).scalar_one()

    def answer(self, command_id: int) -> Any:
        row = self.ledger.row("select * from rota_command where id = :id", id=command_id)
        assert (row.outcome is None) == (row.state != "done")
        assert (row.error is None) == (row.state != "refused")
        return row

    def done(self, verb: str, target: str | None = None, params: Any = None) -> Any:
        """Ask, have it answered, and return the outcome."""
        command_id = self.ask(verb, target, params)
        assert answer_commands(self.ledger.database, node="a") == 1
        row = self.answer(command_id)
        assert row.state == "done", row.error
        return json.loads(row.outcome)

    def refused(self, verb: Any, target: Any = None, params: Any = None) -> dict[str, Any]:
        command_id = self.ask(verb, target, params)
        assert answer_commands(self.ledger.database, node="a") == 1
        row = self.answer(command_id)
        assert row.state == "refused", row.outcome
        return json.loads(row.error)


@pytest.fixture
def prompt(ledger: Ledger) -> Prompt:
    return Prompt(ledger)


def test_a_job_is_added_run_and_paused_from_a_prompt(prompt: Prompt, ledger: Ledger) -> None:
    added = prompt.done("job.add", "report", {"shell": "echo done", "pool": "reports"})
    run = prompt.done("job.run", "report", {"args": {"day": "2026-11-19"}, "key": "k"})
    prompt.done("job.pause", "report")

    assert (added["name"], added["shell"], added["pool"]) == ("report", "echo done", "reports")
    assert ledger.run(run["id"]).state == "ready"
    assert json.loads(ledger.value("select args from rota_run where id = :id", id=run["id"])) == {"day": "2026-11-19"}
    assert ledger.value("select state from rota_job where name = 'report'") == "paused"
    row = prompt.answer(1)
    assert row.answered_by == "a"
    assert row.answered_at is not None
    assert row.created_at is not None
    assert row.requested_by


def test_commands_are_carried_out_in_the_order_of_their_numbers(prompt: Prompt, ledger: Ledger) -> None:
    asked = [
        prompt.ask("job.add", "report", {"shell": "true"}),
        prompt.ask("job.run", "report"),
        prompt.ask("run.cancel", "1"),
        prompt.ask("job.delete", "report"),
    ]

    assert answer_commands(ledger.database, node="a") == 4

    assert [prompt.answer(one).state for one in asked] == ["done"] * 4
    assert ledger.run(1).state == "cancelled"


@pytest.mark.parametrize(
    ("verb", "target", "params", "code", "says"),
    [
        ("job.pause", "nobody", None, "not-found", "nobody"),
        ("job.pause", None, None, "invalid", "job.pause is about a name: name it"),
        ("job.puase", "report", None, "invalid", "did you mean job.pause?"),
        ("worker", None, None, "invalid", "a process on this machine"),
        ("status", "report", None, "invalid", "status has no target"),
        ("job.run", "report", "{", "invalid", "it is a JSON object"),
        ("job.run", "report", "[1]", "invalid", "it is a JSON object"),
        ("job.run", "report", {"argz": {}}, "invalid", "did you mean args?"),
        ("job.run", "report", {"at": "soon"}, "invalid", "ISO 8601"),
        ("job.add", "report", {"shell": "true"}, "already-exists", "report"),
        ("job.add", "other", {"shell": "true", "pol": "x"}, "invalid", "did you mean pool?"),
        ("run.cancel", "99999999999999999999999", None, "invalid", ""),
        ("run.cancel", "seven", None, "invalid", ""),
        ("schedule.add", "each", {"cron": "* * * * *"}, "invalid", "schedule.add wants it"),
        ("period.reprocess", "report", {"period": "2026"}, "invalid", "it has no periods"),
        ("", None, None, "invalid", "a verb is a command"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason_and_stops_nobody_else(
    prompt: Prompt, ledger: Ledger, verb: str, target: str | None, params: Any, code: str, says: str
) -> None:
    prompt.done("job.add", "report", {"shell": "true"})
    before = ledger.rows("select name, state, revision from rota_job")
    wrong = prompt.ask(verb, target, params)
    right = prompt.ask("job.show", "report")

    assert answer_commands(ledger.database, node="a") == 2

    error = json.loads(prompt.answer(wrong).error)
    assert error["code"] == code
    assert says in error["message"]
    assert prompt.answer(right).state == "done"
    assert ledger.rows("select name, state, revision from rota_job") == before


def test_a_command_that_fails_for_an_unforeseen_reason_is_refused_and_stops_nobody_else(
    prompt: Prompt, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt.done("job.add", "report", {"shell": "true"})

    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("the password is 42")

    monkeypatch.setattr("rota.store.jobs.pause_job", fail)
    error = prompt.refused("job.pause", "report")

    assert error == {"code": "internal", "message": "ZeroDivisionError: see the log of the node that answered"}
    assert prompt.done("job.show", "report")["state"] == "active"


def test_what_is_too_much_for_a_row_is_refused_and_nothing_is_done(
    prompt: Prompt, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rota.verbs.answering.ANSWER_LENGTH_MAX", 200)

    error = prompt.refused("job.add", "report", {"shell": "true"})
    assert error["code"] == "conflict"
    assert "job.add was not done: its outcome has" in error["message"]
    assert ledger.rows("select * from rota_job") == []
    error = prompt.refused("job.run", "report", "[" * 1000)
    assert set(error) == {"code", "message"}


@pytest.mark.parametrize("at", ["commands.answered", "enqueue.inserted"])
def test_a_command_is_carried_out_once_though_its_node_dies_within(
    prompt: Prompt, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    class Died(BaseException):
        pass

    def die(name: str) -> None:
        if name == at:
            raise Died

    prompt.done("job.add", "report", {"shell": "true"})
    asked = prompt.ask("job.run", "report")
    monkeypatch.setattr(crash, "at", die)
    with pytest.raises(Died):
        answer_commands(ledger.database, node="a")
    monkeypatch.undo()
    assert prompt.answer(asked).state == "pending"
    assert ledger.runs() == []

    assert answer_commands(ledger.connect(), node="b") == 1
    assert answer_commands(ledger.database, node="a") == 0

    assert prompt.answer(asked).answered_by == "b"
    assert len(ledger.runs()) == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_command_is_carried_out_once_when_the_answer_to_its_commit_is_lost(
    prompt: Prompt, ledger: Ledger, when: Literal["before", "after"]
) -> None:
    prompt.done("job.add", "report", {"shell": "true"})
    asked = prompt.ask("job.run", "report")

    with commit_breaks(ledger.database, when):
        answer_commands(ledger.database, node="a")

    assert prompt.answer(asked).state == "done"
    assert len(ledger.runs()) == 1


def test_half_of_a_surrogate_pair_hurts_nobody(prompt: Prompt) -> None:
    error = prompt.refused("job.show", "report", '{"x\\ud800": 1}')

    assert error["field"] == "x\ud800"


def test_a_node_is_told_that_somebody_asks_for_something(prompt: Prompt, ledger: Ledger) -> None:
    def is_told() -> bool:
        return look(ledger.database, identity_of("a"), ("default",)).has_commands

    assert not is_told()
    prompt.ask("status")
    assert is_told()
    answer_commands(ledger.database, node="a")
    assert not is_told()


def test_who_asks_is_kept_as_the_one_who_acts(prompt: Prompt, ledger: Ledger) -> None:
    prompt.done("job.add", "report", {"shell": "true"})

    who = prompt.answer(1).requested_by
    assert ledger.value("select actor from rota_event where kind = 'job' and job = 'report'") == who
    assert {"sqlite": "sql", "postgresql": ledger.database.url.username}.get(ledger.database.dialect.name, who) == who


def test_what_is_asked_for_with_sql_is_what_python_asks_for(prompt: Prompt, ledger: Ledger) -> None:
    with Rota.over(ledger.database, actor="ann") as rota:
        prompt.done("job.add", "one", {"call": "a.b:c", "retries": "forever", "retry_on": ["OSError"], "keep": "7d"})
        rota.jobs.add("two", call="a.b:c", retries="forever", retry_on=["OSError"], keep="7d")
        one, two = (dict(rota.jobs.show(name)) for name in ("one", "two"))
    for view in (one, two):
        for name in ("name", "created_at", "updated_at", "id"):
            view.pop(name, None)

    assert one == two


HOSTILE: dict[str, tuple[str, str | None, str | None]] = {
    "deeply nested": ("job.add", "x", "[" * 100_000 + "]" * 100_000),
    "a deeply nested value": ("job.run", "report", '{"args": ' + '{"a":' * 5_000 + "1" + "}" * 5_000 + "}"),
    "8 MB of parameters": ("job.run", "report", '{"args": {"a": "' + "x" * 8_000_000 + '"}}'),
    "a number that Python refuses to read": ("job.run", "report", '{"args": {"a": ' + "9" * 10_000 + "}}"),
    "not a number": ("job.run", "report", '{"args": {"a": NaN}}'),
    "NUL in a value": ("job.run", "report", '{"args": {"a": "\\u0000"}}'),
    "NUL in a name": ("job.run", "report", '{"key": "a\\u0000"}'),
    "a list for a word": ("job.edit", "report", '{"pool": ["a"]}'),
    "a parameter of the function below": ("job.run", "report", '{"self": 1}'),
    "its own target as a parameter": ("job.pause", "report", '{"name": "other"}'),
    "the object behind it": ("job.pause", "report", '{"rota": 1}'),
    "an attribute for a verb": ("__class__", None, None),
    "a long target": ("job.pause", "n" * 200, None),
    "a verb with spaces": (" job.pause ", "report", None),
    "no parameters at all": ("job.run", "report", ""),
    "a number for parameters": ("job.run", "report", "5"),
}


@pytest.mark.every_database
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_row_is_set_aside_with_a_reason_and_stops_nobody_else(
    prompt: Prompt, ledger: Ledger, name: str
) -> None:
    prompt.done("job.add", "report", {"shell": "true"})
    asked = [prompt.ask(*HOSTILE[name]), prompt.ask("job.pause", "report")]

    assert answer_commands(ledger.database, node="a") == 2

    wrong, right = map(prompt.answer, asked)
    assert (wrong.state, right.state) == ("refused", "done")
    error = json.loads(wrong.error)
    assert error["code"] in {"invalid", "not-found"}
    assert error["message"]
    assert ledger.runs() == []


@pytest.mark.every_database
@pytest.mark.parametrize("column", ["verb", "target", "params"])
def test_a_nul_in_a_row_is_refused_by_the_database_or_in_the_row(prompt: Prompt, ledger: Ledger, column: str) -> None:
    given = {"verb": "job.show", "target": "report", "params": "{}"}
    given[column] += "\0"
    try:
        error = prompt.refused(**given)
    except (DataError, ValueError):  # PostgreSQL's own, whose text has no such character
        assert ledger.database.dialect.name == "postgresql"
        return

    assert error["code"] in {"invalid", "not-found"}


NO_COMMANDS = [
    {"state": "'asked'"},
    {"state": "null"},
    {"verb": "null"},
    {"requested_by": "null"},
    {"created_at": "null"},
]


@pytest.mark.every_database
@pytest.mark.parametrize("columns", NO_COMMANDS, ids=str)
def test_a_row_that_can_be_no_command_is_refused_by_the_database(prompt: Prompt, columns: dict[str, str]) -> None:
    given = {"verb": "'status'"} | columns
    statement = f"insert into rota_command ({', '.join(given)}) values ({', '.join(given.values())})"

    with pytest.raises(DBAPIError), prompt.engine.begin() as connection:
        connection.exec_driver_sql(statement)


@pytest.mark.every_database
def test_a_row_that_says_it_was_done_is_not_carried_out(prompt: Prompt, ledger: Ledger) -> None:
    prompt.done("job.add", "report", {"shell": "true"})
    ledger.execute("insert into rota_command (verb, target, state) values ('job.pause', 'report', 'done')")

    assert answer_commands(ledger.database, node="a") == 0
    assert ledger.value("select state from rota_job") == "active"


@pytest.mark.every_database
def test_what_a_node_may_not_see_is_left_out_of_an_answer(
    prompt: Prompt, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    unseen = dataclasses.replace(ledger.database.dialect, find_transactions="select nothing from nowhere")
    monkeypatch.setattr(ledger.database, "dialect", unseen)

    assert prompt.done("status")["nodes"] == []


@pytest.mark.parametrize("verb", ["command.list", "command.show"])
def test_commands_are_not_looked_at_by_commands(prompt: Prompt, verb: str) -> None:
    refused = prompt.refused(verb, "1" if verb == "command.show" else None)

    assert refused["field"] == "verb"
    assert "reads rota_command itself" in refused["message"]
