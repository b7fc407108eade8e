"""Alerts: runs that tell somebody, made in the transaction of what they tell of.

Invariant: whoever sees that a run has failed sees the run that tells it, or that it was counted for the next one; if
the transaction is rolled back, neither is there. How often is decided by ``rota.model.alerts`` from the rows kept here,
by the database's clock. A batch takes the same few statements whatever its size, and none where no job of it has
alerts. Called by ``endings`` for how runs end, by ``missed`` for those that never began, by ``findings`` for what is
looked for once a minute. A little long, since what is read of a batch, decided and written is one step.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, bindparam, literal, or_, select, update

from rota import crash
from rota.model.alerts import (
    ALERT_CALL,
    AlertKind,
    AlertRule,
    Standing,
    cut,
    due_at_seconds,
    job_of_channel,
    note,
    read_rule,
    release,
    variable_of_channel,
)
from rota.model.findings import Finding, FindingCode
from rota.model.instants import format_instant
from rota.model.job import JobSpec
from rota.model.reasons import Reason
from rota.model.run import NewRun
from rota.model.states import JobState, RunState
from rota.store.creation import make_runs, request_ids
from rota.store.job_rows import columns_of
from rota.store.moves import Move
from rota.store.tables import alert, job
from rota.store.types import AnyRow, db_now, encode_rows, given_rows, insert_if_new
from rota.store.wakeup import announce

RELEASED_MAX = 100
GONE_AFTER_SECONDS = 90.0  # what comes and goes from one look to the next is told once
ACTOR = "rota"

# What a job says of alerts; columns for other statements, and what ``rule_of`` reads.
RULE_COLUMNS = (job.c.name, job.c.alert, job.c.alert_on, job.c.alert_quiet_seconds)
_KINDS_OF_ENDS = {
    RunState.FAILED: AlertKind.FAILURE,
    RunState.LOST: AlertKind.LOST,
    RunState.MISSED: AlertKind.MISSED,
}
_KINDS_OF_FINDINGS = {
    FindingCode.RUN_LATE: AlertKind.LATE,
    FindingCode.SLOT_ABSENT: AlertKind.ABSENT,
    FindingCode.RUN_LONG: AlertKind.LONG,
}
_STANDING = (
    alert.c.told_at,
    alert.c.held_count,
    alert.c.held_last,
    alert.c.open_since,
    alert.c.is_told,
    alert.c.seen_at,
)
# How things stand with jobs that have failed, and with those that have succeeded and were told to fail: most jobs that
# succeed lock nothing here. Served by the primary key.
READ_STANDINGS = (
    select(alert.c.job_id, alert.c.kind, *_STANDING)
    .where(
        or_(
            alert.c.job_id.in_(bindparam("bad_ids", expanding=True)),
            and_(alert.c.job_id.in_(bindparam("good_ids", expanding=True)), alert.c.open_since.is_not(None)),
        )
    )
    .order_by(alert.c.job_id, alert.c.kind)
    .with_for_update()
)
_new = given_rows("new", job_id="id", kind="word")
ADD_STANDINGS = insert_if_new(alert).from_select(
    ["job_id", "kind", "held_count"], select(_new.c.job_id, _new.c.kind, literal(0)).where(literal(1) == 1)
)
_noted = given_rows(
    "noted",
    job_id="id",
    kind="word",
    told_at="instant",
    held_count="id",
    held_last="text",
    due_at="instant",
    open_since="instant",
    is_told="flag",
    seen_at="instant",
)
_NOTED = ("told_at", "held_count", "held_last", "due_at", "open_since", "is_told", "seen_at")
NOTE_STANDINGS = (
    update(alert)
    .where(alert.c.job_id == _noted.c.job_id, alert.c.kind == _noted.c.kind)
    .values({name: _noted.c[name] for name in _NOTED})
)
# The jobs of these names of which somebody is told. Served by the unique name.
READ_JOBS_TOLD = select(job.c.id, *RULE_COLUMNS).where(
    job.c.name.in_(bindparam("names", expanding=True)), job.c.alert.is_not(None)
)
# What was looked for and there at an earlier look. A row for each kind and job of which somebody was told, at most.
READ_OPEN = (
    select(alert.c.job_id, alert.c.kind, *_STANDING, *RULE_COLUMNS)
    .join(job, job.c.id == alert.c.job_id)
    .where(alert.c.kind.in_([kind.value for kind in _KINDS_OF_FINDINGS.values()]), alert.c.open_since.is_not(None))
    .order_by(alert.c.job_id, alert.c.kind)
)
# What was held back and is told now. Served by rota_alert_due.
FIND_HELD = (
    select(alert.c.job_id, alert.c.kind, *_STANDING, *RULE_COLUMNS)
    .join(job, job.c.id == alert.c.job_id)
    .where(alert.c.due_at <= db_now())
    .order_by(alert.c.due_at)
    .limit(RELEASED_MAX)
    .with_for_update(of=alert, skip_locked=True)
)
FIND_ALERT_JOBS = select(job.c.name).where(job.c.name.in_(bindparam("names", expanding=True)))
# Two nodes make one of each between them. Inline: what is there already has no new id to be returned.
ADD_ALERT_JOBS = (
    insert_if_new(job)
    .values(state=JobState.ACTIVE.value, revision=1, created_at=db_now(), updated_at=db_now())
    .inline()
)

Key = tuple[int, str]  # of a job, and a kind


@dataclass(frozen=True, slots=True)
class Happened:
    """What has become of a run, which ``row`` shows."""

    row: AnyRow
    state: RunState
    reason: Reason
    text: str


@dataclass(frozen=True, slots=True)
class _Alert:
    """One alert that is to be made."""

    channels: tuple[str, ...]
    facts: Mapping[str, Any]


def rule_of(row: AnyRow) -> AlertRule:
    """Read what the row of a job, which has ``RULE_COLUMNS``, says of alerts."""
    return read_rule(row.name, row.alert, row.alert_on, row.alert_quiet_seconds)


def tell_ends(
    connection: Connection, moves: Sequence[Move], rows: Iterable[AnyRow], known: Mapping[int, AnyRow]
) -> None:
    """Tell how runs ended, in the transaction that ends them. ``known`` are their jobs, with ``RULE_COLUMNS``.

    Raises:
        Stale: the transaction is to start over.
    """
    if not any(of_job.alert is not None for of_job in known.values()):
        return
    by_run = {row.id: row for row in rows}
    tell(connection, [Happened(by_run[move.run_id], move.target, move.reason, move.text) for move in moves], known)


def tell(connection: Connection, happened: Sequence[Happened], known: Mapping[int, AnyRow]) -> None:
    """Tell what has become of runs, in that order. ``known`` are their jobs, with ``RULE_COLUMNS``.

    Raises:
        Stale: the transaction is to start over.
    """
    rules = {job_id: rule for job_id, of_job in known.items() if (rule := rule_of(of_job)).channels}
    bad: dict[Key, list[dict[str, Any]]] = {}
    good: dict[int, dict[str, Any]] = {}
    for one in happened:
        job_id = one.row.job_id
        if (rule := rules.get(job_id)) is None:
            continue
        if one.state is RunState.SUCCEEDED:
            good[job_id] = _facts_of(one)
        elif (kind := _KINDS_OF_ENDS.get(one.state)) is not None:
            good.pop(job_id, None)  # it was well again for a moment only
            if kind in rule.kinds:
                bad.setdefault((job_id, kind.value), []).append({"kind": kind.value} | _facts_of(one))
    if not bad and not good:
        return
    now: datetime = happened[0].row.now
    ids = {"bad_ids": sorted({job_id for job_id, _ in bad}) or [0], "good_ids": sorted(good) or [0]}
    standings = _read_standings(connection, ids, bad)
    told: list[_Alert] = []
    changed: dict[Key, Standing] = {}
    for key, facts in bad.items():
        rule = rules[key[0]]
        noted = note(standings[key], facts, now, rule.quiet_seconds)
        changed[key] = noted.standing
        told += [_Alert(rule.channels, one | {"held": held}) for one, held in noted.told]
    for key, standing in (standings | changed).items():
        facts_of_good = good.get(key[0])
        if facts_of_good is not None and key[1] in tuple(_KINDS_OF_ENDS.values()) and standing.open_since is not None:
            told += _recovered(rules[key[0]], key, standing, facts_of_good)
            changed[key] = _closed(standing)
    _write(connection, changed, rules, told)


def _facts_of(happened: Happened) -> dict[str, Any]:
    row = happened.row
    return {
        "id": f"{row.id}-{row.attempt}-{happened.state.value}-{_micros(row.now)}",
        "job": row.job,
        "schedule": row.schedule,
        "run": row.id,
        "slot": None if row.slot_at is None else format_instant(row.slot_at),
        "state": happened.state.value,
        "reason": {"code": happened.reason.value, "text": cut(happened.text)},
        "attempt": row.attempt,
        "node": row.node,
        "at": format_instant(row.now),
        "held": 0,
    }


def _micros(moment: datetime) -> int:
    """Number a moment: two clusters, and one that was begun anew, are to have different ids for one receiver."""
    return int(moment.timestamp() * 1_000_000)


def _read_standings(connection: Connection, ids: Mapping[str, Any], wanted: Iterable[Key]) -> dict[Key, Standing]:
    """Read and lock how things stand; what is not there yet is made."""
    found = {(row.job_id, row.kind): _standing_of(row) for row in connection.execute(READ_STANDINGS, ids)}
    missing = sorted(set(wanted) - found.keys())
    if missing:
        rows = encode_rows({"job_id": job_id, "kind": kind} for job_id, kind in missing)
        connection.execute(ADD_STANDINGS, {"new": rows})
        found = {(row.job_id, row.kind): _standing_of(row) for row in connection.execute(READ_STANDINGS, ids)}
    return found


def _standing_of(row: AnyRow) -> Standing:
    return Standing(row.told_at, row.held_count, row.held_last, row.open_since, bool(row.is_told), row.seen_at)


def _closed(standing: Standing) -> Standing:
    return Standing(standing.told_at, standing.held_count, standing.held_last, None, is_told=False)


def _recovered(rule: AlertRule, key: Key, standing: Standing, facts: Mapping[str, Any]) -> list[_Alert]:
    if not standing.is_told or AlertKind.RECOVERED not in rule.kinds:
        return []
    kind = {"kind": AlertKind.RECOVERED.value, "recovered_from": key[1], "id": f"{facts['id']}-{key[1]}"}
    return [_Alert(rule.channels, {**facts, **kind})]


def tell_findings(connection: Connection, found: Sequence[Finding], now: datetime) -> None:
    """Tell what was found of jobs and is new, what is there no more, and what was held back until now.

    Raises:
        Stale: the transaction is to start over.
    """
    there: dict[tuple[str, str], str] = {}
    for one in found:
        if (kind := _KINDS_OF_FINDINGS.get(one.code)) is not None:
            there |= {(name, kind.value): one.text for name in one.jobs}
    names = sorted({name for name, _ in there})
    jobs_told = {row.name: row for row in connection.execute(READ_JOBS_TOLD, {"names": names})} if names else {}
    rules = {row.id: rule_of(row) for row in jobs_told.values()}
    keys = {
        (jobs_told[name].id, kind): (name, text)
        for (name, kind), text in there.items()
        if name in jobs_told and kind in rules[jobs_told[name].id].kinds
    }
    was_open = connection.execute(READ_OPEN).all()
    rules |= {row.job_id: rule_of(row) for row in was_open}
    names_of = {row.job_id: row.name for row in was_open}
    told: list[_Alert] = []
    changed: dict[Key, Standing] = {}
    if keys or was_open:
        ids = {"bad_ids": sorted({key[0] for key in keys} | {row.job_id for row in was_open}), "good_ids": [0]}
        standings = _read_standings(connection, ids, keys)
        for key, (name, text) in keys.items():
            standing, rule = standings[key], rules[key[0]]
            if standing.open_since is not None:
                changed[key] = _seen(standing, now)
                continue
            noted = note(standing, [_facts_found(key, name, text, now)], now, rule.quiet_seconds)
            changed[key] = noted.standing
            told += [_Alert(rule.channels, one | {"held": held}) for one, held in noted.told]
        for row in was_open:
            key = (row.job_id, row.kind)
            standing = standings.get(key)
            if key in keys or standing is None or not _is_gone(standing, now):
                continue
            facts = _facts_found(key, names_of[row.job_id], f"{row.name}: {row.kind} no more", now)
            told += _recovered(rules[row.job_id], key, standing, facts)
            changed[key] = _closed(standing)
    _write(connection, changed, rules, told)
    _tell_held(connection, now)


def _seen(standing: Standing, now: datetime) -> Standing:
    held = (standing.held_count, standing.held_last)
    return Standing(standing.told_at, *held, standing.open_since, standing.is_told, now)


def _is_gone(standing: Standing, now: datetime) -> bool:
    return standing.seen_at is None or (now - standing.seen_at).total_seconds() >= GONE_AFTER_SECONDS


def _facts_found(key: Key, name: str, text: str, now: datetime) -> dict[str, Any]:
    at = format_instant(now)
    facts = {"id": f"job-{key[0]}-{key[1]}-{_micros(now)}", "kind": key[1], "job": name}
    nothing = dict.fromkeys(("schedule", "run", "slot", "state", "attempt", "node"))
    return facts | nothing | {"reason": {"code": key[1], "text": cut(text)}, "at": at, "held": 0}


def _tell_held(connection: Connection, now: datetime) -> None:
    """Tell what was held back where the quiet time is over."""
    rows = connection.execute(FIND_HELD).all()
    told: list[_Alert] = []
    changed: dict[Key, Standing] = {}
    rules: dict[int, AlertRule] = {}
    for row in rows:
        key = (row.job_id, row.kind)
        rule = rules[row.job_id] = rule_of(row)
        released = release(_standing_of(row), now)
        changed[key] = released.standing
        for facts, held in released.told:
            if rule.channels and facts:  # else nobody is to be told any more
                told.append(_Alert(rule.channels, facts | {"held": held}))
    _write(connection, changed, rules, told)


def _write(
    connection: Connection, changed: Mapping[Key, Standing], rules: Mapping[int, AlertRule], told: Sequence[_Alert]
) -> None:
    if changed:
        rows = [_standing_row(key, changed[key], rules[key[0]].quiet_seconds) for key in sorted(changed)]
        connection.execute(NOTE_STANDINGS, {"noted": encode_rows(rows)})
    if told:
        _make_runs(connection, told)


def _standing_row(key: Key, standing: Standing, quiet_seconds: float) -> dict[str, Any]:
    seconds = due_at_seconds(standing, quiet_seconds)
    due_at = None
    if seconds is not None and standing.told_at is not None:
        due_at = standing.told_at + timedelta(seconds=seconds)
    return {
        "job_id": key[0],
        "kind": key[1],
        "told_at": standing.told_at,
        "held_count": standing.held_count,
        "held_last": standing.held_last,
        "due_at": due_at,
        "open_since": standing.open_since,
        "is_told": standing.is_told,
        "seen_at": standing.seen_at,
    }


def _make_runs(connection: Connection, told: Sequence[_Alert]) -> None:
    channels = sorted({channel for one in told for channel in one.channels})
    _ensure_jobs(connection, channels)
    wanted = [
        NewRun(
            job_of_channel(channel),
            args=json.dumps({"channel": channel, "alert": dict(one.facts)}, ensure_ascii=False),
            run_key=str(one.facts["id"]),
            requested_by=ACTOR,
        )
        for one in told
        for channel in one.channels
    ]
    make_runs(connection, wanted, request_ids(len(wanted)))
    crash.at("alert.made")
    announce(connection)


def _ensure_jobs(connection: Connection, channels: Sequence[str]) -> None:
    """Make the jobs that send to these channels, where somebody has deleted them or nobody was told before."""
    names = {job_of_channel(channel): channel for channel in channels}
    there = set(connection.execute(FIND_ALERT_JOBS, {"names": sorted(names)}).scalars())
    for name in sorted(names.keys() - there):
        connection.execute(ADD_ALERT_JOBS, columns_of(alert_job(names[name])))


def alert_job(channel: str) -> JobSpec:
    """Define the job whose runs send what goes to a channel. Somebody may edit it, as to give it another pool."""
    return JobSpec.checked(
        job_of_channel(channel),
        kind="call",
        target=ALERT_CALL,
        secrets=[variable_of_channel(channel)],
        timeout="60s",
        start_within="1d",
        deadline="1d",
        retries="forever",
        retry_delay="10s",
        backoff="exponential",
        retry_delay_max="15m",
        no_retry_on=["rota.alerts.refused.Refused"],
        lost_max=100,
        priority=10,  # few and small: not behind what they tell of
        keep="7d",
    )
