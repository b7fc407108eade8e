"""The verbs about what goes on: runs, periods, backfills, nodes; and looking at it."""

from __future__ import annotations

from typing import Any

from rota.client import Rota
from rota.model.board import ROWS_DEFAULT
from rota.verbs.verb import Role, View, verb

# -- runs


@verb("run.list", Role.VIEWER)
def run_list(
    rota: Rota,
    *,
    job: str | None = None,
    schedule: str | None = None,
    group: str | None = None,
    state: Any = None,
    since: str | None = None,
    until: str | None = None,
    limit: int = 50,
    before: int | None = None,
    within: int | None = None,
    from_: str | None = None,
    to: str | None = None,
    brief: bool = False,
) -> View:
    return rota.runs.list(
        job, schedule, state, since, limit, before, group, within, until=until, first=from_, end=to, brief=brief
    )


@verb("run.show", Role.VIEWER)
def run_show(rota: Rota, run: str) -> View:
    return rota.runs[run].show()


@verb("run.logs", Role.VIEWER)
def run_logs(rota: Rota, run: str, *, attempt: int | None = None, stream: str | None = None) -> View:
    handle = rota.runs[run]
    return {"id": handle.id, "attempt": attempt, "output": handle.logs(attempt, stream).decode("utf-8", "replace")}


@verb("run.cancel", Role.OPERATOR)
def run_cancel(rota: Rota, run: str) -> View:
    handle = rota.runs[run]
    handle.cancel()
    return handle.show()


@verb("run.freeze", Role.OPERATOR)
def run_freeze(rota: Rota, run: str) -> View:
    handle = rota.runs[run]
    handle.freeze()
    return handle.show()


@verb("run.thaw", Role.OPERATOR)
def run_thaw(rota: Rota, run: str) -> View:
    handle = rota.runs[run]
    handle.thaw()
    return handle.show()


@verb("run.rerun", Role.OPERATOR)
def run_rerun(rota: Rota, run: str, *, force: bool = False, downstream: bool = False, dry_run: bool = False) -> View:
    handle = rota.runs[run]
    built = handle.downstream() if downstream or dry_run else []
    if dry_run:
        return built
    handle.rerun(force=force, downstream=downstream)
    return handle.show() | ({"downstream": built} if built else {})


@verb("run.skip", Role.OPERATOR)
def run_skip(rota: Rota, run: str) -> View:
    handle = rota.runs[run]
    handle.skip()
    return handle.show()


@verb("run.mark-succeeded", Role.OPERATOR)
def run_mark_succeeded(rota: Rota, run: str) -> View:
    handle = rota.runs[run]
    handle.mark_succeeded()
    return handle.show()


# -- periods


@verb("period.list", Role.VIEWER)
def period_list(
    rota: Rota,
    job: str,
    *,
    state: Any = (),
    from_: str | None = None,
    to: str | None = None,
    limit: int = 50,
    before: str | None = None,
) -> View:
    return rota.periods.list(job, state=state, first=from_, last=to, limit=limit, before=before)


@verb("period.tree", Role.VIEWER)
def period_tree(rota: Rota, job: str) -> View:
    return rota.periods.tree(job)


@verb("period.reprocess", Role.OPERATOR)
def period_reprocess(
    rota: Rota, job: str, *, period: str, to: str | None = None, failed_only: bool = False, dry_run: bool = False
) -> View:
    return rota.periods.reprocess(job, period, to, failed_only=failed_only, dry_run=dry_run)


@verb("period.skip", Role.OPERATOR)
def period_skip(rota: Rota, job: str, *, period: str, to: str | None = None, dry_run: bool = False) -> View:
    return rota.periods.skip(job, period, to, dry_run=dry_run)


# -- backfills


@verb("backfill.start", Role.OPERATOR)
def backfill_start(
    rota: Rota,
    name: str,
    *,
    from_: str,
    to: str,
    order: str = "oldest",
    max_active: Any = 1,
    downstream: bool = False,
    again: bool = False,
    failed_only: bool = False,
    dry_run: bool = False,
    yes: bool = False,
) -> View:
    options: dict[str, Any] = {
        "order": order,
        "max_active": max_active,
        "downstream": downstream,
        "again": again,
        "failed_only": failed_only,
    }
    if dry_run:
        return rota.backfills.preview(name, from_, to, **options)
    return rota.backfills.start(name, from_, to, yes=yes, **options).show()


@verb("backfill.list", Role.VIEWER)
def backfill_list(
    rota: Rota, *, name: str | None = None, state: str | None = None, limit: int = 50, before: int | None = None
) -> View:
    return rota.backfills.list(limit, name=name, state=state, before=before)


@verb("backfill.show", Role.VIEWER)
def backfill_show(rota: Rota, backfill: str) -> View:
    return rota.backfills[backfill].show()


@verb("backfill.pause", Role.OPERATOR)
def backfill_pause(rota: Rota, backfill: str) -> View:
    return rota.backfills[backfill].pause()


@verb("backfill.resume", Role.OPERATOR)
def backfill_resume(rota: Rota, backfill: str) -> View:
    return rota.backfills[backfill].resume()


@verb("backfill.cancel", Role.OPERATOR)
def backfill_cancel(rota: Rota, backfill: str) -> View:
    return rota.backfills[backfill].cancel()


# -- nodes


@verb("node.list", Role.VIEWER)
def node_list(rota: Rota, *, search: str | None = None, limit: int | None = None, after: str | None = None) -> View:
    return rota.nodes.list(search=search, limit=limit, after=after)


@verb("node.show", Role.VIEWER)
def node_show(rota: Rota, name: str) -> View:
    return rota.nodes.show(name)


@verb("node.drain", Role.OPERATOR)
def node_drain(rota: Rota, name: str) -> View:
    return rota.nodes.drain(name)


@verb("node.resume", Role.OPERATOR)
def node_resume(rota: Rota, name: str) -> View:
    return rota.nodes.resume(name)


@verb("node.forget", Role.OPERATOR)
def node_forget(rota: Rota, name: str) -> View:
    return {"name": name, "forgotten": True, "missed": rota.nodes.forget(name)}


# -- looking


@verb("status", Role.VIEWER)
def status(rota: Rota) -> View:
    return rota.status()


@verb("check", Role.VIEWER)
def check(rota: Rota, *, warning_late: Any = None, critical_late: Any = None) -> View:
    return rota.check(warning_late=warning_late, critical_late=critical_late)


@verb("forecast", Role.VIEWER)
def forecast(rota: Rota, *, days: int = 1, job: str | None = None, schedules: int | None = None) -> View:
    return rota.forecast(days, job, schedules)


@verb("board.jobs", Role.VIEWER)
def board_jobs(
    rota: Rota,
    *,
    zoom: str = "day",
    start: str | None = None,
    search: str = "",
    troubled: bool = False,
    after: str = "",
    limit: int = ROWS_DEFAULT,
) -> View:
    return rota.board.jobs(zoom, start=start, search=search, troubled=troubled, after=after, limit=limit)


@verb("board.nodes", Role.VIEWER)
def board_nodes(
    rota: Rota, *, zoom: str = "day", start: str | None = None, after: str = "", limit: int = ROWS_DEFAULT
) -> View:
    return rota.board.nodes(zoom, start=start, after=after, limit=limit)


@verb("audit", Role.ADMIN, acts=False)
def audit(
    rota: Rota,
    *,
    actor: str | None = None,
    door: str | None = None,
    kind: str | None = None,
    subject: str | None = None,
    did: str | None = None,
    since: str | None = None,
    until: str | None = None,
    before: int | None = None,
    limit: int = 50,
) -> View:
    return rota.audit(
        actor=actor, door=door, kind=kind, subject=subject, did=did, since=since, until=until, before=before,
        limit=limit,
    )  # fmt: skip


@verb("board.hours", Role.VIEWER)
def board_hours(rota: Rota, *, hours: int = 24) -> View:
    return rota.board.hours(hours)


@verb("why.run", Role.VIEWER)
def why_run(rota: Rota, run: str) -> View:
    return rota.why.run(run)


@verb("why.job", Role.VIEWER)
def why_job(rota: Rota, name: str) -> View:
    return rota.why.job(name)


@verb("why.schedule", Role.VIEWER)
def why_schedule(rota: Rota, key: str, *, slot: str | None = None) -> View:
    return rota.why.schedule(key, slot)


@verb("why.period", Role.VIEWER)
def why_period(rota: Rota, job: str, *, period: str) -> View:
    return rota.why.period(job, period)
