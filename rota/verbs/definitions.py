"""The verbs about what is defined: jobs, schedules, calendars, pools."""

from __future__ import annotations

from typing import Any

from rota.client import Rota
from rota.verbs.verb import Role, View, verb

# -- jobs


@verb("job.add", Role.ADMIN)
def job_add(rota: Rota, name: str, *, if_exists: str = "error", **options: Any) -> View:
    return rota.jobs.add(name, if_exists=if_exists, **options)


@verb("job.list", Role.VIEWER)
def job_list(
    rota: Rota,
    *,
    search: str | None = None,
    state: str | None = None,
    pool: str | None = None,
    ghosts: bool = False,
    limit: int | None = None,
    after: str | None = None,
) -> View:
    return rota.jobs.list(search=search, state=state, pool=pool, ghosts=ghosts, limit=limit, after=after)


@verb("job.show", Role.VIEWER)
def job_show(rota: Rota, name: str) -> View:
    return rota.jobs.show(name)


@verb("job.edit", Role.ADMIN)
def job_edit(rota: Rota, name: str, **options: Any) -> View:
    return rota.jobs.edit(name, **options)


@verb("job.pause", Role.OPERATOR)
def job_pause(rota: Rota, name: str) -> View:
    return rota.jobs.pause(name)


@verb("job.resume", Role.OPERATOR)
def job_resume(rota: Rota, name: str) -> View:
    return rota.jobs.resume(name)


@verb("job.reset", Role.OPERATOR)
def job_reset(rota: Rota, name: str) -> View:
    return rota.jobs.reset(name)


@verb("job.delete", Role.ADMIN)
def job_delete(rota: Rota, name: str) -> View:
    rota.jobs.delete(name)
    return {"name": name, "deleted": True}


@verb("job.run", Role.OPERATOR)
def job_run(
    rota: Rota,
    name: str,
    *,
    args: Any = None,
    at: str | None = None,
    in_: Any = None,
    start_within: Any = None,
    key: str | None = None,
    unique_for: Any = None,
    priority: Any = None,
    retries: Any = None,
    retry_delay: Any = None,
    concurrency_key: str | None = None,
    force: bool = False,
    request: str | None = None,
) -> View:
    handle = rota.enqueue(
        name,
        args,
        key=key,
        unique_for=unique_for,
        at=at,
        delay=in_,
        start_within=start_within,
        priority=priority,
        retries=retries,
        retry_delay=retry_delay,
        concurrency_key=concurrency_key,
        force=force,
        request=request,
    )
    return handle.show()


# -- schedules


@verb("schedule.add", Role.ADMIN)
def schedule_add(rota: Rota, key: str, *, job: str, if_exists: str = "error", **options: Any) -> View:
    return rota.schedules.add(key, job, if_exists=if_exists, **options)


@verb("schedule.list", Role.VIEWER)
def schedule_list(
    rota: Rota,
    *,
    search: str | None = None,
    state: str | None = None,
    job: str | None = None,
    ghosts: bool = False,
    limit: int | None = None,
    after: str | None = None,
) -> View:
    return rota.schedules.list(search=search, state=state, job=job, ghosts=ghosts, limit=limit, after=after)


@verb("schedule.show", Role.VIEWER)
def schedule_show(rota: Rota, key: str) -> View:
    return rota.schedules[key].show()


@verb("schedule.next", Role.VIEWER)
def schedule_next(rota: Rota, key: str, *, n: int = 1, from_: str | None = None) -> View:
    return rota.schedules[key].preview(n, after=from_)


@verb("schedule.edit", Role.ADMIN)
def schedule_edit(rota: Rota, key: str, **options: Any) -> View:
    return rota.schedules[key].edit(**options)


@verb("schedule.pause", Role.OPERATOR)
def schedule_pause(rota: Rota, key: str) -> View:
    return rota.schedules[key].pause()


@verb("schedule.resume", Role.OPERATOR)
def schedule_resume(rota: Rota, key: str, *, latest: bool = False) -> View:
    return rota.schedules[key].resume(latest=latest)


@verb("schedule.delete", Role.ADMIN)
def schedule_delete(rota: Rota, key: str) -> View:
    rota.schedules[key].delete()
    return {"key": key, "deleted": True}


@verb("schedule.mark-succeeded", Role.OPERATOR)
def schedule_mark_succeeded(rota: Rota, key: str, *, slot: str) -> View:
    return {"key": key, "runs": rota.schedules[key].mark_succeeded(slot)}


# -- calendars


@verb("calendar.add", Role.ADMIN)
def calendar_add(rota: Rota, name: str, *, if_exists: str = "error", **options: Any) -> View:
    return rota.calendars.add(name, if_exists=if_exists, **options)


@verb("calendar.list", Role.VIEWER)
def calendar_list(rota: Rota, *, search: str | None = None, limit: int | None = None, after: str | None = None) -> View:
    return rota.calendars.list(search=search, limit=limit, after=after)


@verb("calendar.show", Role.VIEWER)
def calendar_show(rota: Rota, name: str) -> View:
    return rota.calendars.show(name)


@verb("calendar.delete", Role.ADMIN)
def calendar_delete(rota: Rota, name: str) -> View:
    rota.calendars.delete(name)
    return {"name": name, "deleted": True}


# -- pools


@verb("pool.list", Role.VIEWER)
def pool_list(rota: Rota, *, search: str | None = None, limit: int | None = None, after: str | None = None) -> View:
    return rota.pools.list(search=search, limit=limit, after=after)


@verb("pool.show", Role.VIEWER)
def pool_show(rota: Rota, name: str) -> View:
    return rota.pools.show(name)


@verb("pool.create", Role.ADMIN)
def pool_create(
    rota: Rota, name: str, *, members: Any = None, nodes: Any = None, labels: Any = None, if_exists: str = "error"
) -> View:
    return rota.pools.create(name, members=members, nodes=nodes, labels=labels, if_exists=if_exists)


@verb("pool.edit", Role.ADMIN)
def pool_edit(rota: Rota, name: str, **changes: Any) -> View:
    return rota.pools.edit(name, **changes)


@verb("pool.add", Role.ADMIN)
def pool_add(rota: Rota, name: str, *, node: str) -> View:
    return rota.pools.add(name, node)


@verb("pool.remove", Role.ADMIN)
def pool_remove(rota: Rota, name: str, *, node: str) -> View:
    return rota.pools.remove(name, node)


@verb("pool.delete", Role.ADMIN)
def pool_delete(rota: Rota, name: str) -> View:
    rota.pools.delete(name)
    return {"name": name, "deleted": True}


@verb("pool.pause", Role.OPERATOR)
def pool_pause(rota: Rota, name: str) -> View:
    return rota.pools.pause(name)


@verb("pool.resume", Role.OPERATOR)
def pool_resume(rota: Rota, name: str) -> View:
    return rota.pools.resume(name)
