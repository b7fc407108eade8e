"""Each verb through each door: the command line and SQL have the same effect, show the same, and refuse the same.

Two worlds are made alike; in one it is typed, in the other it is asked for with SQL. The table is held against the tree
of commands, so that a verb that is missing here fails.
"""

from __future__ import annotations

import getpass
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import NullPool, create_engine, select, text

from rota import Rota
from rota.cli.main import main
from rota.model.run import End, NodeIdentity
from rota.store.database import Database
from rota.store.endings import end_runs
from rota.store.leases import claim_runs, mark_started
from rota.store.nodes import register_node
from rota.store.periods import look_at_periods
from rota.store.tables import metadata
from rota.verbs.answering import answer_commands
from rota.verbs.table import VERBS
from tests.servers import Server


@dataclass
class Case:
    """A verb that is typed, and asked for with SQL; with a target that there is none of it is refused."""

    typed: str
    target: str | None = None
    params: dict[str, Any] = field(default_factory=dict[str, Any])


# Run 1 is ready, run 2 has failed, run 3 has succeeded, run 4 is running on node n1.
CASES = {
    "job.add": Case("job add new --shell true --retries 3", "new", {"shell": "true", "retries": 3}),
    "job.list": Case("job list"),
    "job.show": Case("job show load", "load"),
    "job.edit": Case("job edit load --timeout 5m --pool none", "load", {"timeout": "5m", "pool": None}),
    "job.pause": Case("job pause load", "load"),
    "job.resume": Case("job resume load", "load"),
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
    "schedule.resume": Case("schedule resume nightly", "nightly"),
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
    "pool.resume": Case("pool resume default", "default"),
    "run.list": Case("run list --job load --state failed", None, {"job": "load", "state": "failed"}),
    "run.show": Case("run show 2", "2"),
    "run.logs": Case("run logs 3", "3"),
    "run.cancel": Case("run cancel 4", "4"),
    "run.freeze": Case("run freeze 4", "4"),
    "run.thaw": Case("run thaw 4", "4"),
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
    "backfill.resume": Case("backfill resume 1", "1"),
    "backfill.cancel": Case("backfill cancel 1", "1"),
    "node.list": Case("node list"),
    "node.show": Case("node show n1", "n1"),
    "node.drain": Case("node drain n1", "n1"),
    "node.resume": Case("node resume n1", "n1"),
    "node.forget": Case("node forget n2", "n2"),
    "status": Case("status"),
    "board.jobs": Case("board jobs --zoom week --search lo", None, {"zoom": "week", "search": "lo"}),
    "board.nodes": Case("board nodes --limit 1", None, {"limit": 1}),
    "check": Case("check --warning-late 2m", None, {"warning_late": "2m"}),
    "forecast": Case("forecast --days 2 --job load", None, {"days": 2, "job": "load"}),
    "why.run": Case("why run 1", "1"),
    "why.job": Case("why job load", "load"),
    "why.schedule": Case("why schedule nightly", "nightly"),
    "why.period": Case("why period sales 2020", "sales", {"period": "2020"}),
}


class World:
    """A database with one of everything, made by the same steps each time."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.database = Database(url)
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
        self._work(rota)
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
        argv = [word.replace("@", " ") for word in words.split()]
        result = CliRunner().invoke(main, [*argv, "--json", "--db", self.url], catch_exceptions=False)
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
            row = connection.execute(text("select state, outcome, error from rota_command")).one()
        if row.state == "done":
            return json.loads(row.outcome), None
        return None, json.loads(row.error)

    def rows(self) -> dict[str, list[Any]]:
        """All that stands there now, of that which a verb may change."""
        found: dict[str, list[Any]] = {}
        for table in metadata.sorted_tables:
            if table.name not in {"rota_command", "rota_schema"}:
                read = self.database.read(lambda c, of=table: c.execute(select(of).order_by(*of.primary_key)).all())
                found[table.name] = [plain(dict(row._mapping)) for row in read]
        return found


# Of whoever acts, and of the moment.
OF_ITS_OWN = {"actor", "request_id", "claim_id", "urgency", "due"}
MOMENT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?Z?")
SPAN = re.compile(r"\d+(\.\d+)? ?(ms|s|m|h|d)\b")
SOMEBODY = re.compile(rf"\b(sql|postgres|root@localhost|{re.escape(getpass.getuser())}@\S+)(?=\W|$)")


def plain(view: Any) -> Any:
    """What a door shows, without moments and what follows from them, and without who acts."""
    if isinstance(view, dict):
        return {
            name: plain(value)
            for name, value in view.items()
            if name not in OF_ITS_OWN and not str(name).endswith(("_by", "_at"))
        }
    if isinstance(view, list | tuple):
        return [plain(value) for value in view]
    if isinstance(view, str):
        return SOMEBODY.sub("SOMEBODY", SPAN.sub("SPAN", MOMENT.sub("MOMENT", view)))
    return "MOMENT" if isinstance(view, float | datetime | bytes) else view


@pytest.fixture
def worlds(database_server: Server) -> Iterator[tuple[World, World]]:
    urls = [database_server.create_database() for _ in range(2)]
    made = World(urls[0]), World(urls[1])
    yield made
    for world, url in zip(made, urls, strict=True):
        world.database.close()
        database_server.drop_database(url)


def test_every_verb_is_in_the_table() -> None:
    assert set(CASES) == set(VERBS)


@pytest.mark.parametrize("verb", CASES)
def test_it_has_the_same_effect_and_shows_the_same_through_every_door(verb: str, worlds: tuple[World, World]) -> None:
    case, (typed, asked) = CASES[verb], worlds

    shown, error = typed.type(case.typed)
    answered, refused = asked.ask(verb, case.target, case.params)

    assert (error, refused) == (None, None)
    assert plain(answered) == plain(shown)
    assert asked.rows() == typed.rows()


@pytest.mark.parametrize("verb", [verb for verb, case in CASES.items() if case.target is not None])
def test_it_refuses_the_same_through_every_door(verb: str, worlds: tuple[World, World]) -> None:
    case, (typed, asked) = CASES[verb], worlds
    nothing = "987654321" if case.target is not None and case.target.isdigit() else "no such name"
    words = case.typed.split()
    at = words.index(str(case.target))
    words[at] = nothing.replace(" ", "@")

    shown, error = typed.type(" ".join(words))
    answered, refused = asked.ask(verb, nothing, case.params)

    assert shown is None
    assert answered is None
    assert error == refused
    assert asked.rows() == typed.rows()
