"""``rota_enqueue`` in PostgreSQL makes what Python makes, refuses what it refuses, in its caller's transaction.

Two worlds are made alike. In one a run is asked for with Python, in the other with SQL; then all that stands there must
be the same, but for who asked, moments to the minute, and random ids.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import NullPool, create_engine, select, text

from rota import Rota
from rota.errors import RotaError, describe_error
from rota.model.documents import encode_document, read_document
from rota.store.database import Database
from rota.store.outlook import look
from rota.store.tables import event as events
from rota.store.tables import run
from rota.store.wakeup import Pulse
from tests.servers import Server
from tests.store.ledger import identity_of

pytestmark = pytest.mark.only_on("postgresql")

SOON = datetime.now(UTC).replace(microsecond=0) + timedelta(days=400)
LONG_NAME = "n" * 201


@dataclass
class Case:
    """What is asked for, by the names of Python; ``said`` where SQL has another word for a value."""

    job: Any = "plain"
    args: str | None = "{}"
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    said: dict[str, Any] = field(default_factory=dict[str, Any])
    before: Sequence[str] = ()  # statements, in both worlds
    words_differ: bool = False  # the refusal has the same code and field, and other words


def _ended(key: str, age: str, seconds: str = "null") -> list[str]:
    """A run that has ended, and still has its key."""
    return [
        f"select rota_enqueue('plain', key => '{key}')",
        f"update rota_run set state = 'cancelled', finished_at = clock_timestamp(), unique_seconds = {seconds},"
        f" enqueued_at = clock_timestamp() - interval '{age}'",
        "insert into rota_event (at, run_id, kind, from_state, to_state)"
        " values (clock_timestamp(), 1, 'run', 'ready', 'cancelled')",
    ]


KEYED = '{"customer": "ann"}'
# Far enough from each other that it does not matter in which second a world was made.
AHEAD = [
    *(f"select rota_enqueue('keyed', '{{\"customer\": \"{one}\"}}')" for one in ("bob", "ann", "ann", "bob", "bob")),
    "update rota_run set behind_seconds = 3600 * (id - 3)",
]

MADE: dict[str, Case] = {
    "nothing but a name": Case(),
    "arguments": Case(args='{ "b": [1, 2.50, -0, 1e3, true, null], "a": {"é": "\\u00e9\\n\\"x"} }'),
    "no arguments": Case(args=None),
    "a paused job": Case(job="paused"),
    "what the job says": Case(job="own"),
    "after others": Case(job="after"),
    "after others, forced": Case(job="after", options={"force": True}),
    "after others, later": Case(job="after", options={"delay": "1h", "start_within": "5m"}),
    "at a moment": Case(options={"at": SOON}),
    "at a moment that has passed": Case(options={"at": datetime(2020, 1, 1, tzinfo=UTC), "start_within": "2h"}),
    "after a delay": Case(options={"delay": "1h30m"}),
    "after no delay": Case(options={"delay": 0}, said={"delay": "0"}),
    "within a window": Case(options={"start_within": "2m"}),
    "within a window, later": Case(job="own", options={"delay": "2d", "start_within": "1.5h"}),
    "the job's window, later": Case(job="own", options={"delay": "2d"}),
    "a priority": Case(options={"priority": -7}),
    "retries": Case(options={"retries": 3, "retry_delay": "2m"}),
    "retries for ever": Case(options={"retries": "forever", "retry_delay": "1h"}, said={"retries": -1}),
    "no retry delay": Case(options={"retry_delay": 0}, said={"retry_delay": "0"}),
    "a key": Case(options={"key": "a/b:c-1.2_ß"}),
    "a key for a while": Case(options={"key": "k", "unique_for": "1h30m"}),
    "a key for ever": Case(options={"key": "k", "unique_for": "forever"}),
    "a key that is held": Case(options={"key": "k"}, before=["select rota_enqueue('plain', key => 'k')"]),
    "another job's key": Case(options={"key": "k"}, before=["select rota_enqueue('own', key => 'k')"]),
    "a key that an ended run holds": Case(options={"key": "k"}, before=_ended("k", "1 hour", "7200")),
    "a key that it holds for ever": Case(options={"key": "k"}, before=_ended("k", "1 year", "-1")),
    "a key that it holds no more": Case(options={"key": "k", "unique_for": "5m"}, before=_ended("k", "3h", "7200")),
    "a concurrency key": Case(options={"concurrency_key": "ann lee  "}),
    "a concurrency key of its arguments": Case(job="keyed", args=KEYED),
    "that is a number": Case(job="keyed", args='{"customer": 1.50}'),
    "that is a list": Case(job="keyed", args='{"customer": [1, {"b": "x", "a": null}]}'),
    "that is null": Case(job="keyed", args='{"customer": null}'),
    "that is missing": Case(job="keyed"),
    "given beside the arguments": Case(job="keyed", args=KEYED, options={"concurrency_key": "bob"}),
    "a key with runs before it": Case(job="keyed", args=KEYED, before=AHEAD),
    "a new key with runs before it": Case(job="keyed", args='{"customer": "eve"}', before=AHEAD),
    "another priority of a key": Case(job="keyed", args=KEYED, options={"priority": 2}, before=AHEAD),
    "a key, later": Case(job="keyed", args=KEYED, options={"delay": "1h"}, before=AHEAD),
    "a key long ago": Case(job="keyed", args=KEYED, options={"at": datetime(2020, 1, 1, tzinfo=UTC)}, before=AHEAD),
    "64 levels": Case(args='{"a":' * 63 + "[1]" + "}" * 63),
    "a number of 4096 bits": Case(args=f'{{"n": {2**4096 - 1}}}'),
}  # fmt: skip

REFUSED: dict[str, Case] = {
    "no name": Case(job=None),
    "an empty name": Case(job=""),
    "a name with a space": Case(job="a b"),
    "a name with a mark": Case(job="a!b"),
    "a name with a circled digit": Case(job="n①", words_differ=True),
    "a long name": Case(job=LONG_NAME),
    "an unknown job": Case(job="nobody"),
    "a job with periods": Case(job="periodic"),
    "no JSON": Case(args="{", words_differ=True),
    "no object": Case(args="[1]"),
    "half of a surrogate pair": Case(args='{"a": "\\ud800"}', words_differ=True),
    "a NUL": Case(args='{"a": "x\\u0000"}', words_differ=True),
    "a NUL in a key": Case(args='{"\\u0000": 1}', words_differ=True),
    "a key twice": Case(args='{"a": 1, "a": 2}', words_differ=True),
    "a key twice below": Case(args='{"b": [{"a": 1, "\\u0061": 2}]}', words_differ=True),
    "NaN": Case(args='{"a": NaN}', words_differ=True),
    "a number that is too large": Case(args='{"a": 1e400}'),
    "65 levels": Case(args='{"a":' * 64 + "[1]" + "}" * 64),
    "100,000 levels": Case(args="[" * 100_000 + "]" * 100_000),
    "a number of 4097 bits": Case(args=f'{{"n": {2**4096}}}'),
    "more than a mebibyte": Case(args=f'{{"a": "{"x" * 1_048_576}"}}', words_differ=True),
    "more than a mebibyte of UTF-8": Case(args=f'{{"a": "{"é" * 600_000}"}}', words_differ=True),
    "an empty key": Case(options={"key": ""}),
    "a key with a tab": Case(options={"key": "a\tb"}, words_differ=True),
    "a long key": Case(options={"key": LONG_NAME}),
    "unique without a key": Case(options={"unique_for": "1h"}),
    "unique for nothing": Case(options={"key": "k", "unique_for": 0}, said={"unique_for": "0"}),
    "unique for no time": Case(options={"key": "k", "unique_for": "long"}),
    "unique for longer than ten years": Case(options={"key": "k", "unique_for": "3651d"}),
    "a moment and a delay": Case(options={"at": SOON, "delay": "1h"}),
    "a moment in 1970": Case(options={"at": datetime(1970, 5, 1, tzinfo=UTC)}),
    "a moment in 2999": Case(options={"at": datetime(2999, 5, 1, tzinfo=UTC)}),
    "a negative delay": Case(options={"delay": timedelta(seconds=-1)}),
    "a delay of more than ten years": Case(options={"delay": "3651d"}),
    "no window": Case(options={"start_within": 0}, said={"start_within": "0"}),
    "a window below a second": Case(options={"start_within": "0.5s"}),
    "a priority beyond all": Case(options={"priority": 1_000_001}),
    "negative retries": Case(options={"retries": -2}, words_differ=True),
    "too many retries": Case(options={"retries": 1_000_001}, words_differ=True),
    "a negative retry delay": Case(options={"retry_delay": timedelta(seconds=-1)}),
    "an empty concurrency key": Case(options={"concurrency_key": "  "}),
    "a concurrency key with a line end": Case(options={"concurrency_key": "a\nb"}),
    "a concurrency key with what no screen shows": Case(options={"concurrency_key": "a\u2028b"}),
    "a long concurrency key": Case(options={"concurrency_key": "k" * 201}),
    "an empty one in the arguments": Case(job="keyed", args='{"customer": ""}'),
    "a long one in the arguments": Case(job="keyed", args=f'{{"customer": ["{"k" * 200}"]}}'),
}  # fmt: skip


class World:
    """A database with the same jobs each time."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.database = Database(url)
        self.engine = create_engine(url, poolclass=NullPool)
        self.rota = Rota(url)
        add = self.rota.jobs.add
        add("plain", shell="true")
        add("own", shell="true", priority=5, pool="elsewhere", lease="30s", start_within="10m", delivery="at_most_once")
        add("paused", shell="true")
        self.rota.jobs.pause("paused")
        add("after", shell="true", after=["plain"])
        add("keyed", shell="true", concurrency_key="customer", max_per_key=1)
        add("periodic", shell="true", period="year", period_start="2020")
        add("everywhere", shell="true", on="all")

    def prepare(self, statements: Sequence[str]) -> None:
        with self.engine.begin() as connection:
            connection.exec_driver_sql("truncate rota_run, rota_event restart identity cascade")
            for statement in statements:
                connection.exec_driver_sql(statement)

    def ask_python(self, case: Case) -> tuple[Any, dict[str, Any] | None]:
        with self.engine.begin() as connection:
            try:
                args = None if case.args is None else read_document("args", case.args)
                return self.rota.using(connection).enqueue(case.job, args, **case.options).id, None
            except RotaError as error:
                return None, describe_error(error)

    def ask_sql(self, case: Case) -> tuple[Any, psycopg.Error | None]:
        statement, given = call_of(case)
        with psycopg.connect(self.url.replace("+psycopg", "")) as connection:
            try:
                return connection.execute(statement, given).fetchall()[0][0], None
            except psycopg.Error as error:
                return None, error

    def rows(self) -> dict[str, list[Any]]:
        """All runs and their events, each column of them."""
        found: dict[str, list[Any]] = {}
        for table in (run, events):
            rows = self.database.read(lambda c, of=table: c.execute(select(of).order_by(of.c.id)).all())
            found[table.name] = [plain(dict(row._mapping)) for row in rows]
        return found

    def close(self) -> None:
        self.rota.close()
        self.database.close()


def call_of(case: Case) -> tuple[bytes, list[Any]]:
    """Return the statement that asks for it with SQL, and its parameters."""
    given = [case.job, case.args]
    named = ""
    for name, value in (case.options | case.said).items():
        cast = "::interval" if name in {"delay", "start_within", "retry_delay"} else ""
        cast = {"unique_for": "::text", "key": "::text", "concurrency_key": "::text"}.get(name, cast)
        named += f", {name} => %s{cast}"
        given.append(value)
    return f"select rota_enqueue(%s::text, %s::text{named})".encode(), given


# Whoever asks, and the random id of the request.
OF_ITS_OWN = {"requested_by", "actor", "request_id"}


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its moments counted from the one at which it was made, in minutes, and its place in line in tens."""
    made = row.get("enqueued_at") or row.get("at")

    def of(name: str, value: Any) -> Any:
        if isinstance(value, datetime):
            return round((value - made).total_seconds() / 60)
        if name == "urgency":
            return round((value - made.timestamp()) / 600)
        if name == "behind_seconds" and value is not None:
            return round(value / 600)
        return value

    return {name: of(name, value) for name, value in row.items() if name not in OF_ITS_OWN}


@pytest.fixture(scope="module")
def made_worlds(request: pytest.FixtureRequest) -> Iterator[tuple[World, World] | None]:
    from tests.conftest import SERVERS

    servers = request.config.stash[SERVERS]
    if "postgresql" not in servers.kinds or "postgresql" in servers.missing:
        yield None
        return
    server = servers.get("postgresql")
    urls = [server.create_database() for _ in range(2)]
    made = World(urls[0]), World(urls[1])
    yield made
    for world, url in zip(made, urls, strict=True):
        world.close()
        server.drop_database(url)


@pytest.fixture
def worlds(made_worlds: tuple[World, World], database_server: Server) -> tuple[World, World]:
    return made_worlds


@pytest.mark.parametrize("name", MADE)
def test_sql_makes_the_run_that_python_makes(name: str, worlds: tuple[World, World]) -> None:
    case, (python, sql) = MADE[name], worlds
    for world in worlds:
        world.prepare(case.before)

    wanted, error = python.ask_python(case)
    made, refused = sql.ask_sql(case)

    assert (error, refused) == (None, None)
    assert made == wanted
    assert sql.rows() == python.rows()
    assert sql.database.read(lambda c: c.execute(text("select * from rota_violations")).all()) == []


@pytest.mark.parametrize("name", REFUSED)
def test_sql_refuses_what_python_refuses(name: str, worlds: tuple[World, World]) -> None:
    case, (python, sql) = REFUSED[name], worlds
    for world in worlds:
        world.prepare(case.before)

    made, error = python.ask_python(case)
    nothing, refused = sql.ask_sql(case)

    assert (made, nothing) == (None, None)
    assert error is not None
    assert refused is not None
    code, _, where = (refused.diag.message_detail or str(refused)).partition(" ")
    assert code == error["code"]
    assert where == error.get("field", "job")
    if "rule" in error and not case.words_differ:
        assert str(refused.diag.message_primary).endswith(error["rule"])
    assert sql.rows() == python.rows() == {"rota_run": [], "rota_event": []}


NUMBERS = ["0", "-0", "1", "-17", "0.0", "-0.0", "0e9", "1e0", "1E+2", "1e22", "1e23", "123456789012345678", "1e15",
           "1e16", "9007199254740993.0", "12345678901234567.0", "0.0001", "0.00001", "0.00012345", "1.5e-7", "1e-400",
           "4.9e-324", "1.7976931348623157e308", "0.1", "0.30000000000000004", "100.50"]  # fmt: skip


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_is_written_as_python_writes_it(number: str, worlds: tuple[World, World]) -> None:
    assert written_by_sql(worlds[1], [number]) == [encode_document("args", json.loads(number))]


_leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
_keys = st.text()
DOCUMENTS = st.recursive(_leaves, lambda inner: st.lists(inner) | st.dictionaries(_keys, inner), max_leaves=20)


def test_any_document_is_written_as_python_writes_it(worlds: tuple[World, World]) -> None:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(DOCUMENTS, max_size=10))
    def check(documents: list[Any]) -> None:
        kept = [one for one in documents if "\\u0000" not in json.dumps(one)]
        given_texts = [json.dumps(one, ensure_ascii=bool(number % 2)) for number, one in enumerate(kept)]
        assert written_by_sql(worlds[1], given_texts) == [encode_document("args", one) for one in kept]

    check()


def written_by_sql(world: World, documents: list[str]) -> list[str]:
    with world.engine.connect() as connection:
        given = "unnest(cast(:given as text[])) with ordinality as g (d, n)"
        asked = text(f"select rota_json(d::json) from {given} order by n")
        return list(connection.execute(asked, {"given": documents}).scalars())


def test_an_argument_of_json_or_jsonb_is_taken_as_it_is(worlds: tuple[World, World]) -> None:
    world = worlds[1]
    world.prepare([])
    with world.engine.begin() as connection:
        for given in (
            """'{"a": 1e2, "b": 1}'::json""",
            """'{"b": 1, "a": 1e2}'::jsonb""",
            "jsonb_build_object('a', 1.0)",
        ):
            connection.exec_driver_sql(f"select rota_enqueue('plain', {given}, priority => 3)")

    found = world.database.read(lambda c: c.execute(select(run.c.args, run.c.priority).order_by(run.c.id)).all())
    assert [tuple(row) for row in found] == [('{"a":100.0,"b":1}', 3), ('{"a":100,"b":1}', 3), ('{"a":1.0}', 3)]


def test_a_run_on_all_nodes_is_refused_and_the_refusal_says_how_to_ask_for_it(worlds: tuple[World, World]) -> None:
    world = worlds[1]
    world.prepare([])

    made, refused = world.ask_sql(Case(job="everywhere"))

    assert made is None
    assert refused is not None
    assert (refused.sqlstate, refused.diag.message_detail) == ("0A000", "not-supported job")
    assert "insert into rota_command (verb, target, params) values ('job.run'" in str(refused.diag.message_primary)
    assert world.rows()["rota_run"] == []


def test_it_acts_in_the_callers_transaction_and_its_commit_wakes_a_node(worlds: tuple[World, World]) -> None:
    world = worlds[1]
    world.prepare([])
    pulse, (nothing, other_end) = Pulse(world.database), os.pipe()
    assert pulse.wait(0, nothing)  # whatever was before counts as heard
    with psycopg.connect(world.url.replace("+psycopg", "")) as caller:
        caller.execute("select rota_enqueue('plain')")
        caller.rollback()
        assert world.rows() == {"rota_run": [], "rota_event": []}
        caller.execute("select rota_enqueue('plain')")
        assert not look(world.database, identity_of("a"), ("default",)).has_ready
        assert not pulse.wait(0, nothing)

        caller.commit()

    assert pulse.wait(60, nothing)
    assert look(world.database, identity_of("a"), ("default",)).has_ready
    pulse.close()
    os.close(nothing)
    os.close(other_end)


@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_of_two_who_ask_for_the_same_key_at_once_one_makes_it(worlds: tuple[World, World], ends: str) -> None:
    world = worlds[1]
    world.prepare([])
    url = world.url.replace("+psycopg", "")
    statement = "select rota_enqueue('plain', key => 'k')"
    with psycopg.connect(url) as first, psycopg.connect(url) as second:
        of_first = first.execute(statement).fetchall()[0][0]
        of_second: list[int] = []
        waiting = threading.Thread(target=lambda: of_second.extend(second.execute(statement).fetchall()[0]))
        waiting.start()
        is_waiting = f"select wait_event_type = 'Lock' from pg_stat_activity where pid = {second.info.backend_pid}"
        with psycopg.connect(url, autocommit=True) as looking:
            while not looking.execute(is_waiting.encode()).fetchall()[0][0]:
                assert waiting.is_alive()
        getattr(first, ends)()
        waiting.join()
        second.commit()

    assert (of_second == [of_first]) == (ends == "commit")
    assert [row["id"] for row in world.rows()["rota_run"]] == of_second


def test_a_command_may_be_asked_for_by_a_function(worlds: tuple[World, World]) -> None:
    world = worlds[1]
    world.prepare([])
    with world.engine.begin() as connection:
        number = connection.exec_driver_sql("select rota_ask('job.run', 'plain', '{\"priority\": 3}')").scalar_one()
        row = connection.execute(text("select * from rota_command where id = :id"), {"id": number}).one()

    assert (row.verb, row.target, json.loads(row.params)) == ("job.run", "plain", {"priority": 3})
    assert (row.state, row.requested_by) == ("pending", world.database.url.username)
