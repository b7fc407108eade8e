"""Each verb through each door: the command line, SQL, Python and HTTP have the same effect, show and refuse the same.

Worlds are made alike; in one it is typed, in the others it is asked for through the other doors. The table is held
against the tree of commands, so that a verb that is missing here fails. What the Python door is for a verb is found
by its name, but for those whose words Python has otherwise.
"""

from __future__ import annotations

import getpass
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote

import pytest
from click.testing import CliRunner
from sqlalchemy import NullPool, create_engine, insert, literal, select, text

from rota import Rota
from rota.cli.main import main
from rota.errors import RotaError, describe_error
from rota.model.run import End, NodeIdentity
from rota.store.database import Database
from rota.store.endings import end_runs
from rota.store.leases import claim_runs, mark_started
from rota.store.nodes import register_node
from rota.store.periods import look_at_periods
from rota.store.tables import audit, metadata, session
from rota.store.types import Number, db_now, db_now_plus
from rota.verbs.answering import answer_commands
from rota.verbs.table import NOT_BY_SQL, NOT_HERE, VERBS
from rota.web.app import make_app
from rota.web.resources import derive_resources
from tests.cli.test_words import commands
from tests.servers import Server
from tests.web.conftest import BASE, TestClient


@dataclass
class Case:
    """A verb that is typed, and asked for with SQL; with a target that there is none of it is refused."""

    typed: str
    target: str | None = None
    params: dict[str, Any] = field(default_factory=dict[str, Any])
    first: str | None = None  # what makes that there is something to do, where it is to be seen that it was done


PASSWORD = "correct horse battery"

# Run 1 is ready, run 2 has failed, run 3 has succeeded, run 4 is running on node n1.
CASES = {
    "job.add": Case("job add new --shell true --retries 3", "new", {"shell": "true", "retries": 3}),
    "job.list": Case("job list"),
    "job.show": Case("job show load", "load"),
    "job.edit": Case("job edit load --timeout 5m --pool none", "load", {"timeout": "5m", "pool": None}),
    "job.pause": Case("job pause load", "load"),
    "job.resume": Case("job resume load", "load", first="job pause load"),
    "job.reset": Case("job reset idle", "idle"),
    "job.delete": Case("job delete idle", "idle"),
    "job.run": Case(
        'job run load --args {"a":1} --in 5m --priority 3', "load", {"args": {"a": 1}, "in": "5m", "priority": 3}
    ),
    "schedule.add": Case("schedule add new load --cron 5@*@*@*@*", "new", {"job": "load", "cron": "5 * * * *"}),
    "schedule.list": Case("schedule list"),
    "schedule.show": Case("schedule show nightly", "nightly"),
    "schedule.next": Case(
        "schedule next nightly -n 3 --from 2026-01-01T00:00Z", "nightly", {"n": 3, "from": "2026-01-01T00:00Z"}
    ),
    "schedule.edit": Case("schedule edit nightly --delay 5m", "nightly", {"delay": "5m"}),
    "schedule.pause": Case("schedule pause nightly", "nightly"),
    "schedule.resume": Case("schedule resume nightly", "nightly", first="schedule pause nightly"),
    "schedule.delete": Case("schedule delete nightly", "nightly"),
    "schedule.mark-succeeded": Case(
        "schedule mark-succeeded nightly 2026-01-01T02:00Z", "nightly", {"slot": "2026-01-01T02:00Z"}
    ),
    "calendar.add": Case("calendar add new --weekday sat", "new", {"weekdays": ["sat"]}),
    "calendar.list": Case("calendar list"),
    "calendar.show": Case("calendar show weekends", "weekends"),
    "calendar.delete": Case("calendar delete weekends", "weekends"),
    "pool.list": Case("pool list"),
    "pool.show": Case("pool show spare", "spare"),
    "pool.create": Case("pool create new --member n1", "new", {"members": ["n1"]}),
    "pool.edit": Case("pool edit spare --nodes web*", "spare", {"nodes": ["web*"]}),
    "pool.add": Case("pool add spare n1", "spare", {"node": "n1"}),
    "pool.remove": Case("pool remove spare n2", "spare", {"node": "n2"}),
    "pool.delete": Case("pool delete spare", "spare"),
    "pool.pause": Case("pool pause default", "default"),
    "pool.resume": Case("pool resume default", "default", first="pool pause default"),
    "run.list": Case(
        "run list --job load --state failed --from 2020-01-01 --brief",
        None,
        {"job": "load", "state": "failed", "from": "2020-01-01", "brief": True},
    ),
    "run.show": Case("run show 2", "2"),
    "run.logs": Case("run logs 3", "3"),
    "run.cancel": Case("run cancel 4", "4"),
    "run.freeze": Case("run freeze 4", "4"),
    "run.thaw": Case("run thaw 4", "4", first="run freeze 4"),
    "run.rerun": Case("run rerun 2 --force", "2", {"force": True}),
    "run.skip": Case("run skip 1", "1"),
    "run.mark-succeeded": Case("run mark-succeeded 2", "2"),
    "period.list": Case("period list sales --to 2021", "sales", {"to": "2021"}),
    "period.tree": Case("period tree sales", "sales"),
    "period.reprocess": Case("period reprocess sales 2020 --dry-run", "sales", {"period": "2020", "dry_run": True}),
    "period.skip": Case("period skip sales 2020", "sales", {"period": "2020"}),
    "backfill.start": Case(
        "backfill start load --from 2026-01-01 --to 2026-01-03", "load", {"from": "2026-01-01", "to": "2026-01-03"}
    ),
    "backfill.list": Case("backfill list"),
    "backfill.show": Case("backfill show 1", "1"),
    "backfill.pause": Case("backfill pause 1", "1"),
    "backfill.resume": Case("backfill resume 1", "1", first="backfill pause 1"),
    "backfill.cancel": Case("backfill cancel 1", "1"),
    "node.list": Case("node list"),
    "node.show": Case("node show n1", "n1"),
    "node.drain": Case("node drain n1", "n1"),
    "node.resume": Case("node resume n1", "n1", first="node drain n1"),
    "node.forget": Case("node forget n2", "n2"),
    "status": Case("status"),
    "board.jobs": Case("board jobs --zoom week --search lo", None, {"zoom": "week", "search": "lo"}),
    "board.nodes": Case("board nodes --limit 1", None, {"limit": 1}),
    "board.hours": Case("board hours --hours 2", None, {"hours": 2}),
    "check": Case("check --warning-late 2m", None, {"warning_late": "2m"}),
    "forecast": Case("forecast --days 2 --job load", None, {"days": 2, "job": "load"}),
    "why.run": Case("why run 1", "1"),
    "why.job": Case("why job load", "load"),
    "why.schedule": Case("why schedule nightly", "nightly"),
    "why.period": Case("why period sales 2020", "sales", {"period": "2020"}),
    "audit": Case("audit --kind job --limit 3", None, {"kind": "job", "limit": 3}),
    "user.add": Case(
        "user add new --role viewer --password-file FILE", "new", {"role": "viewer", "password": PASSWORD}
    ),
    "user.list": Case("user list"),
    "user.edit": Case("user edit ann --role viewer", "ann", {"role": "viewer"}),
    "user.passwd": Case("user passwd ann --password-file FILE", "ann", {"password": PASSWORD}),
    "user.delete": Case("user delete ann", "ann"),
    "user.sessions": Case("user sessions --user ann", None, {"user": "ann"}),
    "user.end-sessions": Case("user end-sessions ann", "ann"),
    "token.add": Case("token add new --role operator --scope job.*", "new", {"role": "operator", "scopes": ["job.*"]}),
    "token.list": Case("token list"),
    "token.revoke": Case("token revoke ci", "ci"),
    "token.delete": Case("token delete ci", "ci"),
    "command.list": Case("command list --state done --verb pool.show", None, {"state": "done", "verb": "pool.show"}),
    "command.show": Case("command show 1", "1"),
}


Python = Callable[[Rota, str, dict[str, Any]], Any]
# Verbs whose words the Python door has otherwise: by default it is `rota.THINGs.word(target, **params)` for jobs,
# calendars, pools, nodes and periods, and `rota.THINGs[target].word(**params)` for schedules, runs and backfills.
IN_PYTHON: dict[str, Python] = {
    "job.run": lambda rota, name, params: rota.enqueue(
        name, params.get("args"), delay=params["in"], priority=params["priority"]
    ).show(),
    "job.delete": lambda rota, name, _: {"name": name, "deleted": rota.jobs.delete(name) is None},
    "calendar.delete": lambda rota, name, _: {"name": name, "deleted": rota.calendars.delete(name) is None},
    "pool.delete": lambda rota, name, _: {"name": name, "deleted": rota.pools.delete(name) is None},
    "user.delete": lambda rota, name, _: {"name": name, "deleted": rota.users.delete(name) is None},
    "token.delete": lambda rota, name, _: {"name": name, "deleted": rota.tokens.delete(name) is None},
    "schedule.delete": lambda rota, key, _: {"key": key, "deleted": rota.schedules[key].delete() is None},
    "node.forget": lambda rota, name, _: {"name": name, "forgotten": True, "missed": rota.nodes.forget(name)},
    "schedule.add": lambda rota, key, params: rota.schedules.add(key, **params),
    "schedule.next": lambda rota, key, params: rota.schedules[key].preview(params["n"], params["from"]),
    "schedule.mark-succeeded": lambda rota, key, params: {
        "key": key,
        "runs": rota.schedules[key].mark_succeeded(params["slot"]),
    },
    "run.logs": lambda rota, run, _: {
        "id": int(run),
        "attempt": None,
        "output": rota.runs[run].logs().decode(),
    },
    "run.list": lambda rota, _, params: rota.runs.list(
        params["job"], state=params["state"], first=params["from"], brief=params["brief"]
    ),
    "period.list": lambda rota, job, params: rota.periods.list(job, last=params["to"]),
    "backfill.start": lambda rota, name, params: rota.backfills.start(name, params["from"], params["to"]).show(),
}
ACTS_ON_RUNS = {"cancel", "freeze", "thaw", "rerun", "skip", "mark-succeeded"}


def in_python(verb: str) -> Python:
    """Find what a verb is in Python."""
    if verb in IN_PYTHON:
        return IN_PYTHON[verb]
    thing, _, word = verb.partition(".")
    method = word.replace("-", "_")

    def call(rota: Rota, target: str | None, params: dict[str, Any]) -> Any:
        given = dict(params)
        if not word:
            return getattr(rota, thing)(**given)
        if thing == "why":
            return getattr(rota.why, method)(target, **given)
        if thing == "board":
            return getattr(rota.board, method)(**given)
        things = getattr(rota, f"{thing}s")
        if target is None:
            return getattr(things, method)(**given)
        if thing in {"schedule", "run", "backfill"}:
            handle = things[target]
            answer = getattr(handle, method)(**given)
            return handle.show() if thing == "run" and word in ACTS_ON_RUNS else answer
        return getattr(things, method)(target, **given)

    return call


class World:
    """A database with one of everything, made by ``make_world``."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.database = Database(url)

    def fill(self) -> None:
        """Make one of everything."""
        rota = Rota.over(self.database, actor="maker")
        rota.jobs.add("load", shell="true", retries=0)
        for name in ("idle", "sales"):
            periods = {"period": "year", "period_start": "2020"} if name == "sales" else {}
            rota.jobs.add(name, shell="true", pool="elsewhere", **periods)
        rota.schedules.add("nightly", "load", cron="0 2 * * *")
        rota.calendars.add("weekends", weekdays=["sat", "sun"])
        rota.pools.create("spare", members=["n2"])
        for name in ("n1", "n2"):
            register_node(
                self.database, NodeIdentity("", f"holder-{name}", "boot"), host=name, pid=1, pid_started=1,
                pools=["default"], slots=4, version="0.1", lease_seconds=3600.0 if name == "n1" else 0.001, wanted=name,
            )  # fmt: skip
        rota.users.add("ann", role="operator")
        rota.tokens.add("ci", user="ann")
        logged_in = insert(session).values(
            key_hash="key", csrf="csrf", user_name="ann", role="operator", source="oidc", created_at=db_now(),
            seen_at=db_now(), expires_at=db_now_plus(literal(3600.0, Number)),
        )  # fmt: skip
        self.database.write(lambda connection: connection.execute(logged_in), repeatable=False)
        self._work(rota)
        self.ask("pool.show", "spare", None)
        self.ask("pool.shwo", "spare", {"a": 1})
        rota.backfills.start("load", "2026-02-01", "2026-02-03")
        look_at_periods(self.database)

    def _work(self, rota: Rota) -> None:
        """Run 1 is ready, run 2 has failed, run 3 has succeeded, run 4 is running on n1."""
        for number in range(4):
            rota.enqueue("load", priority=number)
        node = NodeIdentity("n1", "holder-n1", "boot")
        for run_id in (4, 3, 2):
            (claim,) = claim_runs(self.database, node, ["default"], 1, 3600.0)
            assert claim.run_id == run_id
            mark_started(self.database, [claim.claim_id])
            if run_id != 4:
                kind = "succeeded" if run_id == 3 else "failed"
                end_runs(self.database, [End(claim.claim_id, claim.run_id, kind)])

    def type(self, words: str) -> tuple[Any, dict[str, Any] | None]:
        """Return what the command line shows, or how it refuses."""
        argv = ["-" if word == "FILE" else word.replace("@", " ") for word in words.split()]
        result = CliRunner().invoke(
            main, [*argv, "--json", "--db", self.url], input=f"{PASSWORD}\n", catch_exceptions=False
        )
        if result.exit_code and result.stderr:
            return None, json.loads(result.stderr.splitlines()[-1])["error"]
        return json.loads(result.stdout), None

    def ask(self, verb: str, target: str | None, params: Any) -> tuple[Any, dict[str, Any] | None]:
        """Return what is answered to somebody at a SQL prompt."""
        engine = create_engine(self.database.url, poolclass=NullPool)
        given = {"verb": verb, "target": target, "params": json.dumps(params) if params else None}
        with engine.begin() as connection:
            insert = text("insert into rota_command (verb, target, params) values (:verb, :target, :params)")
            connection.execute(insert, given)
        assert answer_commands(self.database, node="n1") == 1
        with engine.connect() as connection:
            row = connection.execute(
                text("select state, outcome, error from rota_command order by id desc limit 1")
            ).one()
        if row.state == "done":
            return json.loads(row.outcome), None
        return None, json.loads(row.error)

    def call(self, verb: str, target: str | None, params: dict[str, Any]) -> tuple[Any, dict[str, Any] | None]:
        """Return what Python answers, as JSON would have it."""
        rota = Rota.over(self.database, actor="python")
        try:
            view = in_python(verb)(rota, target, params)
        except RotaError as error:
            return None, json.loads(json.dumps(describe_error(error), default=str))
        return json.loads(json.dumps(view, default=str)), None

    def request(self, verb: str, target: str | None, params: dict[str, Any]) -> tuple[Any, dict[str, Any] | None]:
        """Return what HTTP answers, or how it refuses."""
        resource = next(one for one in derive_resources(VERBS.values()) if one.verb.name == verb)
        if resource.names_target is not None:
            params = {**params, resource.names_target: target}
        path = resource.path.replace(f"{{{resource.verb.target}}}", quote(str(target), safe=""))
        looks = resource.method == "GET"
        with TestClient(make_app(Rota(self.url)), base_url=BASE) as http:
            answer = http.request(
                resource.method, path, params=params if looks else None, json=None if looks else params
            )
        view = answer.json()
        if answer.is_success:
            return (view["items"] if resource.lists else view), None
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.status_code == view["status"]
        return None, {"message": view.pop("detail")} | {
            name: value for name, value in view.items() if name not in {"type", "title", "status"}
        }

    def audit(self) -> list[Any]:
        """All acts, oldest first."""
        read = select(audit).order_by(audit.c.id)
        return self.database.read(lambda connection: list(connection.execute(read)))

    def rows(self) -> dict[str, list[Any]]:
        """All that stands there now, of that which a verb may change."""
        found: dict[str, list[Any]] = {}
        for table in metadata.sorted_tables:
            if table.name not in {"rota_command", "rota_schema"}:
                read = self.database.read(lambda c, of=table: c.execute(select(of).order_by(*of.primary_key)).all())
                found[table.name] = [plain(dict(row._mapping)) for row in read]
        return found


def make_world(url: str) -> None:
    """Make one of everything in a database."""
    world = World(url)
    world.fill()
    world.database.close()


# Of whoever acts, and of the moment.
OF_ITS_OWN = {"actor", "door", "address", "password_hash", "quarter", "request_id", "claim_id", "urgency", "due"}
OF_TOKENS = {"public_id", "secret_hash", "begins", "secret"}
MOMENT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?Z?")
SPAN = re.compile(r"\d+(\.\d+)? ?(ms|s|m|h|d)\b")
SOMEBODY = re.compile(rf"\b(sql|python|postgres|local@host|root@localhost|{re.escape(getpass.getuser())}@\S+)(?=\W|$)")


def plain(view: Any) -> Any:
    """What a door shows, without moments and what follows from them, and without who acts."""
    if isinstance(view, dict):
        return {
            name: plain(value)
            for name, value in view.items()
            if name not in OF_ITS_OWN | OF_TOKENS and not str(name).endswith(("_by", "_at"))
        }
    if isinstance(view, list | tuple):
        return [plain(value) for value in view]
    if isinstance(view, str):
        return SOMEBODY.sub("SOMEBODY", SPAN.sub("SPAN", MOMENT.sub("MOMENT", view)))
    return "MOMENT" if isinstance(view, float | datetime | bytes) else view


DOORS = ("sql", "python", "http")


@pytest.fixture
def worlds(database_server: Server) -> Iterator[tuple[World, World]]:
    urls = [database_server.create_database(make_world) for _ in range(2)]
    made = World(urls[0]), World(urls[1])
    yield made
    for world, url in zip(made, urls, strict=True):
        world.database.close()
        database_server.drop_database(url)


def through(door: str, world: World, verb: str, target: str | None, params: dict[str, Any]) -> tuple[Any, Any]:
    """Ask for a verb through one of the doors."""
    ask = {"sql": world.ask, "python": world.call, "http": world.request}[door]
    return ask(verb, target, params)


def test_every_verb_is_in_the_table() -> None:
    assert set(CASES) == set(VERBS)


# Each verb through each door but the command line, with which it is compared.
THROUGH = [(verb, door) for verb in CASES for door in DOORS if door != "sql" or verb not in NOT_BY_SQL]


def test_every_command_that_is_a_verb_has_its_case_and_every_case_is_a_command() -> None:
    typed = {words.replace(" ", ".") for words in commands()}

    assert set(CASES) == typed - set(NOT_HERE)
    for verb, case in CASES.items():
        assert case.typed.startswith(verb.replace(".", " "))


@pytest.mark.parametrize(("verb", "door"), THROUGH)
def test_it_has_the_same_effect_and_shows_the_same_through_every_door(
    verb: str, door: str, worlds: tuple[World, World]
) -> None:
    case, (typed, asked) = CASES[verb], worlds

    shown, error = typed.type(case.typed)
    answered, refused = through(door, asked, verb, case.target, case.params)

    assert (error, refused) == (None, None)
    assert plain(answered) == plain(shown)
    left_out = {"rota_audit"} if (verb, door) == ("job.run", "python") else set[str]()  # programs ask all the time
    there = asked.rows()
    for name, rows in typed.rows().items():
        assert name in left_out or there[name] == rows


@pytest.mark.parametrize(("verb", "door"), [one for one in THROUGH if CASES[one[0]].target is not None])
def test_it_refuses_the_same_through_every_door(verb: str, door: str, worlds: tuple[World, World]) -> None:
    case, (typed, asked) = CASES[verb], worlds
    nothing = "987654321" if case.target is not None and case.target.isdigit() else "no such name"
    words = case.typed.split()
    at = words.index(str(case.target))
    words[at] = nothing.replace(" ", "@")

    shown, error = typed.type(" ".join(words))
    answered, refused = through(door, asked, verb, nothing, case.params)

    assert shown is None
    assert answered is None
    assert error == refused
    assert asked.rows() == typed.rows()


@pytest.mark.parametrize("verb", NOT_BY_SQL)
def test_what_holds_a_secret_is_refused_to_sql_and_does_not_stay_in_the_row(
    verb: str, worlds: tuple[World, World]
) -> None:
    case, (_, asked) = CASES[verb], worlds
    before = asked.rows()

    answered, refused = asked.ask(verb, case.target, case.params)

    assert answered is None
    assert refused is not None
    assert (refused["code"], NOT_BY_SQL[verb] in refused["message"]) == ("invalid", True)
    assert asked.rows() == before
    newest = text("select * from rota_command order by id desc limit 1")
    kept = asked.database.read(lambda connection: connection.execute(newest).one())
    assert kept.params is None
    assert PASSWORD not in str(kept)


# A dry run does nothing.
CASES_OF_ACTS = {verb: CASES[verb] for verb in CASES if VERBS[verb].acts} | {
    "period.reprocess": Case(
        "period reprocess sales 2020", "sales", {"period": "2020"}, first="period skip sales 2020"
    ),
}  # fmt: skip


@pytest.mark.parametrize("verb", CASES_OF_ACTS)
def test_each_act_leaves_who_did_it_to_what_and_through_which_door(verb: str, worlds: tuple[World, World]) -> None:
    case, (typed, asked) = CASES_OF_ACTS[verb], worlds
    about = (verb.partition(".")[0], "2" if verb == "backfill.start" else case.target)
    for world in worlds:
        assert case.first is None or world.type(case.first)[1] is None
    before = [len(world.audit()) for world in worlds]

    assert typed.type(case.typed)[1] is None
    by_door = {"cli": typed.audit()[before[0] :]}
    if verb not in NOT_BY_SQL:
        assert asked.ask(verb, case.target, case.params)[1] is None
        by_door["sql"] = asked.audit()[before[1] :]

    for door, rows in by_door.items():
        assert about in {(row.kind, row.subject) for row in rows}
        assert {row.door for row in rows} == {door}
        assert len({row.actor for row in rows}) == 1
        assert all(row.actor and row.text and row.did and row.at for row in rows)
        assert PASSWORD not in str(rows)
