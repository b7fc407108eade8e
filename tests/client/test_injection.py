"""SQL in names, keys, arguments, filters and whatever else people give: it is a value, or it is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import text

from rota import Rota, RotaError
from tests.store.ledger import statements_of

CORPUS = (
    "' or '1'='1",
    "' or 1=1 -- ",
    '" or ""="',
    "'; drop table rota_run; --",
    "x'); delete from rota_job; --",
    "') union select name, target from rota_job -- ",
    "1; update rota_job set target = '[\"true\"]'",
    "1 or sleep(5)",
    "'||pg_sleep(5)||'",
    "' and (select count(*) from rota_run) > 0 and 'a' = 'a",
    "\\'; drop table rota_run; -- ",
    "\\",
    "%' or name like '%",
    "%s %(id)s :id ? {0} $1",
    "`rota_run`",
    "/* */ or 1=1 #",
    "select/**/1",
    "\u02bc or 1=1",  # a letter that some servers fold into a quote
    "\uff07 or 1=1",
    "$$; drop table rota_run; $$",
    "E'\\x27'",
    "0x27",
    "name",
    "*",
)
Give = Callable[[Rota, str], object]


def pause_as(rota: Rota, given: str) -> None:
    before, rota._actor = rota._actor, given
    rota.jobs.pause("job")
    rota._actor = before


GIVEN: dict[str, Give] = {
    "a job's name": lambda rota, given: rota.jobs.add(given, shell="true"),
    "a job's line": lambda rota, given: rota.jobs.add("other", shell=given),
    "a job's words": lambda rota, given: rota.jobs.add("other", command=["echo", given]),
    "a call": lambda rota, given: rota.jobs.add("other", call=given),
    "a pool": lambda rota, given: rota.jobs.add("other", shell="true", pool=given),
    "mutexes": lambda rota, given: rota.jobs.add("other", shell="true", mutexes=[given]),
    "what is excluded": lambda rota, given: rota.jobs.add("other", shell="true", exclude=[given]),
    "an environment": lambda rota, given: rota.jobs.add("other", shell="true", environment=given),
    "a variable": lambda rota, given: rota.jobs.add("other", shell="true", variables={"A": given}),
    "retries on": lambda rota, given: rota.jobs.add("other", shell="true", retries=1, retry_on=[given]),
    "an edit": lambda rota, given: rota.jobs.edit("job", shell=given),
    "a schedule's key": lambda rota, given: rota.schedules.add(given, "job", every="1h"),
    "a schedule's job": lambda rota, given: rota.schedules.add("other", given, every="1h"),
    "cron": lambda rota, given: rota.schedules.add("other", "job", cron=given),
    "a zone": lambda rota, given: rota.schedules.add("other", "job", cron="0 0 * * *", tz=given),
    "a schedule's arguments": lambda rota, given: rota.schedules.add("other", "job", every="1h", args={given: given}),
    "a calendar": lambda rota, given: rota.calendars.add(given, country="DE"),
    "the job of a request": lambda rota, given: rota.enqueue(given),
    "a key": lambda rota, given: rota.enqueue("job", key=given),
    "a concurrency key": lambda rota, given: rota.enqueue("job", concurrency_key=given),
    "arguments": lambda rota, given: rota.enqueue("job", {given: given}),
    "runs of a job": lambda rota, given: rota.runs.list(job=given),
    "runs of a schedule": lambda rota, given: rota.runs.list(schedule=given),
    "runs of a group": lambda rota, given: rota.runs.list(group=given),
    "runs in a state": lambda rota, given: rota.runs.list(state=given),
    "runs since": lambda rota, given: rota.runs.list(since=given),
    "a page of runs": lambda rota, given: rota.runs.list(before=given),  # type: ignore[arg-type]
    "a run": lambda rota, given: rota.runs[given].show(),
    "why a job": lambda rota, given: rota.why.job(given),
    "why a slot": lambda rota, given: rota.why.schedule("schedule", given),
    "a forecast": lambda rota, given: rota.forecast(job=given),
    "a job to show": lambda rota, given: rota.jobs.show(given),
    "a job to delete": lambda rota, given: rota.jobs.delete(given),
    "a schedule to delete": lambda rota, given: rota.schedules[given].delete(),
    "a calendar to delete": lambda rota, given: rota.calendars.delete(given),
    "a node to drain": lambda rota, given: rota.nodes.drain(given),
    "a node to forget": lambda rota, given: rota.nodes.forget(given),
    "a pool to create": lambda rota, given: rota.pools.create(given, members=["a"]),
    "a node of a pool": lambda rota, given: rota.pools.add("pool", given),
    "a pool's label": lambda rota, given: rota.pools.create("other", labels={"zone": given}),
    "a pool's pattern": lambda rota, given: rota.pools.create("other", nodes=[given]),
    "a pool to delete": lambda rota, given: rota.pools.delete(given),
    "who asks": pause_as,
}


def _rows(rota: Rota) -> dict[str, Any]:
    def read(connection: Any) -> dict[str, Any]:
        untouched = text("select name, target, pool from rota_job where name in ('witness', 'schedule')")
        return {
            "witness": connection.execute(untouched).all(),
            "runs": connection.execute(text("select id, state, run_key from rota_run where job = 'witness'")).all(),
            "events": connection.execute(text("select count(*) from rota_event where job = 'witness'")).scalar(),
        }

    return rota.database.read(read)


def test_what_is_given_is_never_a_part_of_a_statement(rota: Rota) -> None:
    for name in ("witness", "job"):
        rota.jobs.add(name, shell="true")
    rota.schedules.add("schedule", "job", every="1h")
    rota.pools.create("pool", members=["a"])
    rota.enqueue("witness", key="mine")
    before = _rows(rota)
    in_statements: list[tuple[str, str]] = []
    silent: list[tuple[str, str]] = []

    for what, give in GIVEN.items():
        for given in CORPUS:
            refused = False
            with statements_of(rota.database) as sent:
                try:
                    give(rota, given)
                except RotaError:
                    refused = True
            if len(given) > 1 and given != "name" and any(given in one for one in sent):
                in_statements.append((what, given))
            if not (sent or refused):
                silent.append((what, given))
            if not refused and any(one["name"] == "other" for one in rota.jobs.list()):
                rota.jobs.delete("other")

    assert (in_statements, silent) == ([], [])
    assert _rows(rota) == before


def test_what_is_taken_is_given_back_as_it_was(rota: Rota) -> None:
    for number, given in enumerate(CORPUS):
        rota.jobs.add(f"job-{number}", shell=given, variables={"A": given})
        handle = rota.enqueue(f"job-{number}", {"a": given}, concurrency_key=given)

        shown = handle.show()

        assert shown["args"] == {"a": given}
        assert shown["concurrency_key"] == given.rstrip()  # MySQL and MariaDB compare without the spaces at the end
        job = rota.jobs.show(f"job-{number}")
        assert (job["shell"], job["variables"]) == (given, {"A": given})
        assert [one["id"] for one in rota.runs.list(job=f"job-{number}")] == [handle.id]
