"""Matches what was due with what the database says and with what the jobs themselves have written.

Invariant: nothing of Rota is imported. Which slots were due is computed by plain arithmetic, the tables are read as any
user may read them, and what really happened is in the ledger that the jobs wrote outside of the database.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FINISHED = {"succeeded", "failed", "skipped", "missed", "cancelled", "lost"}
RECOVERY_SECONDS = 5.0  # beyond the lease
KILL_SECONDS = 1.0  # that a guardian gets when it may run again, to kill what should have been killed
LOSS_DELAY_SECONDS = 5.0  # before the second loss of a run is made good, doubling from then on: as documented
CLOCK_SECONDS = 0.05  # that the clocks of the database and of a job are read apart
# Each of these must be 0.
PROMISES = {
    "lost": "due, or asked for, and not finished with a reason by exactly one row",
    "doubled": "an at-most-once run executed twice, one claim executed twice, or one slot or key with two rows",
    "overlapping": "two executions of one run, or of a schedule that allows none at once, at the same time",
    "false_success": "said to have succeeded, and no execution of it ended well",
    "zombie": "executed without a claim, or begun after its claim had ended",
    "violation": "rows in rota_violations",
}


@dataclass(slots=True)
class Execution:
    """What a job wrote of one attempt."""

    run: int
    fence: int
    node: str
    delivery: str
    started: float  # CLOCK_BOOTTIME
    started_wall: float
    last: float  # the last sign of life
    ended: float | None = None
    ok: bool = False
    starts: int = 1
    clash_with: int | None = None  # the fence of whoever was alive when it started


@dataclass(slots=True)
class Report:
    """What was found."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)
    latenesses: list[float] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)
    recovery_limit: float = 0.0

    def add(self, count: str, text: str, run: int | None = None) -> None:
        self.counts[count] += 1
        self.findings.append({"what": count, "run": run, "text": text})

    @property
    def recovery_max(self) -> float:
        return max(self.recoveries, default=0.0)

    @property
    def late_max(self) -> float:
        return max(self.latenesses, default=0.0)

    @property
    def holds(self) -> bool:
        return self.recovery_max <= self.recovery_limit and not any(self.counts[promise] for promise in PROMISES)

    def as_dict(self) -> dict[str, Any]:
        return {
            "holds": self.holds,
            "counts": {name: self.counts[name] for name in [*PROMISES, *sorted(set(self.counts) - set(PROMISES))]},
            "states": dict(sorted(self.states.items())),
            "recoveries": len(self.recoveries),
            "recovery_seconds_max": round(self.recovery_max, 2),
            "late_seconds_max": round(self.late_max, 2),
            "recovery_seconds_limit": self.recovery_limit,
            "findings": self.findings,
        }


def check(
    expected: Mapping[str, Any],
    lines: Iterable[Mapping[str, Any]],
    runs: Sequence[Mapping[str, Any]],
    attempts: Sequence[Mapping[str, Any]],
    violations: Sequence[Sequence[Any]] = (),
) -> Report:
    """Match them all. ``expected`` is what the suite wrote down of its schedules, requests and faults."""
    report = Report(recovery_limit=expected["lease"] + RECOVERY_SECONDS)
    faults: list[Mapping[str, Any]] = expected["faults"]
    executions = read_executions(lines, report)
    check_slots(expected, runs, report)
    check_requests(expected, runs, report)
    for row in runs:
        report.states[f"{row['delivery']} {row['state']}"] += 1
        check_run(row, executions.get(row["id"], []), report)
    check_claims(executions, attempts, faults, report)
    check_overlaps(expected, runs, executions, faults, report)
    measure_recovery(expected, executions, attempts, faults, report)
    measure_lateness(expected, runs, executions, faults, report)
    for violation in violations:
        report.add("violation", f"rota_violations has {tuple(violation)}")
    report.counts["runs"] = len(runs)
    report.counts["executions"] = sum(map(len, executions.values()))
    return report


def read_executions(lines: Iterable[Mapping[str, Any]], report: Report) -> dict[int, list[Execution]]:
    """Put the lines together: the executions of each run, in the order in which they began."""
    found: dict[tuple[int, int], Execution] = {}
    for line in lines:
        at, key = line["at"], (line["run"], line["fence"])
        execution = found.get(key)
        if line["what"] == "start":
            if execution is not None:
                execution.starts += 1
                report.add("doubled", f"fence {line['fence']} was executed twice", line["run"])
                continue
            found[key] = Execution(
                line["run"], line["fence"], line["node"], line["delivery"], at, line["wall"], at,
                clash_with=line.get("clash_with"),
            )  # fmt: skip
        elif execution is not None:
            execution.last = max(execution.last, at)
            if line["what"] == "end":
                execution.ended, execution.ok = at, line["ok"]
    by_run: dict[int, list[Execution]] = defaultdict(list)
    for execution in sorted(found.values(), key=lambda each: each.started):
        by_run[execution.run].append(execution)
    return by_run


def slots_of(schedule: Mapping[str, Any]) -> list[float]:
    """Return when a schedule was due: every so often after its anchor, from its start to its end."""
    every, anchor = schedule["every"], schedule["anchor"]
    count = int((schedule["until"] - anchor) // every)
    return [anchor + every * number for number in range(1, count + 1)]


def check_slots(expected: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], report: Report) -> None:
    """Each slot that was due has exactly one row."""
    rows: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in runs:
        if row["schedule"] is not None:
            rows[row["schedule"]].append(row)
    for schedule in expected["schedules"]:
        due = slots_of(schedule)
        report.counts["slots"] += len(due)
        covered: Counter[int] = Counter()
        for row in rows[schedule["name"]]:
            first = round(row["slot_at"] * 1000)
            last = round((row["slot_last_at"] or row["slot_at"]) * 1000)
            standing_for = [slot for slot in due if first <= round(slot * 1000) <= last]
            covered.update(round(slot * 1000) for slot in standing_for)
            if len(standing_for) != row["slot_count"]:
                text = (
                    f"{schedule['name']}: a row stands for {row['slot_count']} slots, and {len(standing_for)} were due"
                )
                report.add("doubled", text, row["id"])
        for slot in due:
            match covered[round(slot * 1000)]:
                case 0:
                    report.add("lost", f"{schedule['name']}: the slot {shown(slot)} has no row")
                case 1:
                    pass
                case many:
                    report.add("doubled", f"{schedule['name']}: the slot {shown(slot)} has {many} rows")


def check_requests(expected: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], report: Report) -> None:
    """Each run that was asked for has one row: two are right only where the key's first run had already ended."""
    keys = Counter(row["run_key"] for row in runs if row["schedule"] is None)
    for request in expected["requests"]:
        report.counts["requests"] += 1
        if request["acknowledged"] and keys[request["key"]] == 0:
            report.add("lost", f"the key {request['key']} was acknowledged and has no row")
        if keys[request["key"]] > 1:
            report.add("doubled", f"the key {request['key']} has {keys[request['key']]} rows")


def check_run(row: Mapping[str, Any], executions: Sequence[Execution], report: Report) -> None:
    """A run has finished, says why, and says what is true."""
    run, state = row["id"], row["state"]
    if state not in FINISHED:
        report.add("lost", f"{row['job']} is still {state}: {row['reason_text']}", run)
    elif not row["reason"] or not row["reason_text"]:
        report.add("lost", f"{row['job']} is {state} and does not say why", run)
    ended_well = sum(each.ok for each in executions)
    if state == "succeeded" and not ended_well:
        report.add("false_success", f"{row['job']} succeeded, and no execution of it ended well", run)
    if row["delivery"] == "at_most_once" and len(executions) > 1:
        report.add("doubled", f"{row['job']} runs at most once, and was executed {len(executions)} times", run)
    if row["delivery"] == "at_least_once" and state == "lost":
        report.add("lost", f"{row['job']} runs at least once, and ended lost: {row['reason_text']}", run)
    if row["delivery"] == "at_most_once" and state == "lost":
        report.counts["lost_by_choice"] += 1  # at most once: nobody knows whether it ended, and a person decides
    # The right of at-least-once: its node died after the job had ended and before that was told.
    report.counts["ended_well_twice"] += ended_well > 1
    report.counts["executed_again"] += sum(each.ended is None or each.ok for each in executions[:-1])
    report.counts["missed_by_rule"] += state == "missed"
    report.counts["skipped_by_rule"] += state == "skipped"


def check_claims(
    executions: Mapping[int, Sequence[Execution]],
    attempts: Sequence[Mapping[str, Any]],
    faults: Sequence[Mapping[str, Any]],
    report: Report,
) -> None:
    """What was executed had a claim that was valid then; what is told as a success of an attempt is one."""
    claims = {(row["run_id"], row["fence"]): row for row in attempts}
    for execution in (each for of_run in executions.values() for each in of_run):
        claim = claims.pop((execution.run, execution.fence), None)
        if claim is None:
            report.add(
                "zombie", f"fence {execution.fence} was executed on {execution.node} without a claim", execution.run
            )
            continue
        if claim["finished_at"] is not None and execution.started_wall > claim["finished_at"] + CLOCK_SECONDS:
            late = execution.started_wall - claim["finished_at"]
            text = f"fence {execution.fence} began on {execution.node} {late:.2f} s after its claim had ended"
            report.add(
                "zombie" if not could_not_kill(execution, execution.started, faults) else "excused", text, execution.run
            )
        if claim["state"] == "succeeded" and not execution.ok:
            report.add(
                "false_success", f"fence {execution.fence} is said to have succeeded, and did not end", execution.run
            )
    for (run, fence), claim in claims.items():
        if claim["state"] == "succeeded":
            report.add("false_success", f"fence {fence} is said to have succeeded, and was not executed", run)


def check_overlaps(
    expected: Mapping[str, Any],
    runs: Sequence[Mapping[str, Any]],
    executions: Mapping[int, Sequence[Execution]],
    faults: Sequence[Mapping[str, Any]],
    report: Report,
) -> None:
    """No two executions of a run live at the same time, nor two of a schedule that skips or queues."""
    alone = {schedule["name"] for schedule in expected["schedules"] if schedule["overlap"] in ("skip", "queue")}
    groups: dict[object, list[Execution]] = {run: list(found) for run, found in executions.items()}
    for row in runs:
        if row["schedule"] in alone:
            groups.setdefault(row["schedule"], []).extend(executions.get(row["id"], ()))
    for group, members in groups.items():
        members.sort(key=lambda each: each.started)
        for number, later in enumerate(members):
            for earlier in members[:number]:
                same_run = earlier.run == later.run
                if group in alone and same_run:
                    continue  # told with the run
                clashed = same_run and later.clash_with == earlier.fence
                if not clashed and earlier.last <= later.started:
                    continue
                seconds = max(0.0, earlier.last - later.started)
                excused = could_not_kill(earlier, later.started, faults)
                text = (
                    f"fence {later.fence} began on {later.node} while run {earlier.run}, fence {earlier.fence}, lived"
                    f" on {earlier.node}, for {seconds:.2f} s more at least"
                )
                report.add("excused" if excused else "overlapping", text, later.run)


def could_not_kill(execution: Execution, at: float, faults: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether all that could have killed an execution was stopped then, by the suite."""
    return any(
        fault["cannot_kill"]
        and execution.node in fault["hosts"]
        and fault["at"] <= at <= (fault["until"] or at) + KILL_SECONDS
        for fault in faults
    )


def measure_recovery(
    expected: Mapping[str, Any],
    executions: Mapping[int, Sequence[Execution]],
    attempts: Sequence[Mapping[str, Any]],
    faults: Sequence[Mapping[str, Any]],
    report: Report,
) -> None:
    """How long after an execution had died the next one of its run began, not counting while nobody could begin one."""
    # When the attempts of a run that were lost had been claimed, by their fences, executed or not.
    lost: dict[int, dict[int, float]] = defaultdict(dict)
    for row in attempts:
        if row["state"] == "lost":
            lost[row["run_id"]][row["fence"]] = row["claimed_at"] - expected["boottime_offset"]
    for run, found in executions.items():
        for earlier, later in itertools.pairwise(found):
            if earlier.ended is not None:
                continue
            losses = sum(fence < later.fence for fence in lost[run])
            # One that was claimed in between, and lost before it began, had been a recovery as well.
            between = [at for fence, at in lost[run].items() if earlier.fence < fence < later.fence]
            died = min(max([earlier.last, *between]), later.started)
            delay = 0.0 if losses < 2 else LOSS_DELAY_SECONDS * 2 ** (losses - 2)
            seconds = seconds_after(died, later.started, faults) - delay
            report.recoveries.append(max(0.0, seconds))
            if seconds > report.recovery_limit:
                text = f"fence {later.fence} began {seconds:.2f} s after the one before had died"
                report.findings.append({"what": "slow", "run": run, "text": text})


def measure_lateness(
    expected: Mapping[str, Any],
    runs: Sequence[Mapping[str, Any]],
    executions: Mapping[int, Sequence[Execution]],
    faults: Sequence[Mapping[str, Any]],
    report: Report,
) -> None:
    """How long after its time a run first began, of those that wait for no other, not counting while nobody could.

    No promise: with three of five hosts down, slots may be what it waits for.
    """
    offset = expected["boottime_offset"]  # the wall clock less CLOCK_BOOTTIME
    queued = {schedule["name"] for schedule in expected["schedules"] if schedule["overlap"] == "queue"}
    for row in runs:
        found = executions.get(row["id"])
        if not found or row["schedule"] in queued or row["attempt"] > len(found):
            continue
        wanted = row["run_at"] if row["retries_used"] == 0 else row["enqueued_at"]
        report.latenesses.append(seconds_after(wanted - offset, found[0].started, faults))


def seconds_after(begin: float, end: float, faults: Sequence[Mapping[str, Any]]) -> float:
    """Return how long it was from ``begin``, or the end of the last fault that everybody had in between, to ``end``."""
    for fault in sorted(faults, key=lambda each: each["at"]):
        if fault["everyone"] and fault["at"] < end and (fault["until"] or end) > begin:
            begin = min(fault["until"] or end, end)
    return end - begin


def shown(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat()


# -- reading

RUN_COLUMNS = (
    "id", "job", "schedule", "slot_at", "slot_count", "slot_last_at", "run_key", "state", "reason", "reason_text",
    "delivery", "attempt", "retries_used", "enqueued_at", "run_at", "started_at", "finished_at",
)  # fmt: skip
ATTEMPT_COLUMNS = ("run_id", "attempt", "state", "fence", "node", "claimed_at", "started_at", "finished_at")


def connect(url: str) -> Any:
    """Connect to a database as any program may, by its driver: ``sqlite:///``, ``postgresql://`` or ``mysql://``."""
    scheme, _, place = url.partition("://")
    if scheme.startswith("sqlite"):
        import sqlite3

        return sqlite3.connect(place.removeprefix("/"), timeout=30)
    if scheme.startswith("postgresql"):
        import psycopg

        return psycopg.connect(f"postgresql://{place}", connect_timeout=5)
    import pymysql

    user, _, rest = place.partition("@")
    address, _, name = rest.partition("?")[0].partition("/")
    host, _, port = address.partition(":")
    return pymysql.connect(
        host=host, port=int(port), user=user, database=name, ssl_disabled=True, connect_timeout=5, read_timeout=60
    )


def read_table(connection: Any, table: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    cursor = connection.cursor()
    cursor.execute(f"select {', '.join(columns)} from {table} order by id")
    return [
        {name: moment(value) if name.endswith("_at") else value for name, value in zip(columns, row, strict=True)}
        for row in cursor.fetchall()
    ]


def moment(value: Any) -> float | None:
    """Return a moment as the databases give it, text or not, in seconds since 1970."""
    if value is None:
        return None
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_database(url: str, expected: Mapping[str, Any], ledger: Path, kept: Path | None = None) -> Report:
    """Read the tables and the ledger, and match them. ``kept`` is where the tables go as JSON."""
    connection = connect(url)
    try:
        runs = read_table(connection, "rota_run", RUN_COLUMNS)
        attempts = read_table(connection, "rota_attempt", ATTEMPT_COLUMNS)
        cursor = connection.cursor()
        cursor.execute("select rule_broken, run_id, schedule_id from rota_violations")
        violations = list(cursor.fetchall())
    finally:
        connection.close()
    if kept is not None:
        kept.write_text(json.dumps({"runs": runs, "attempts": attempts}))
    return check(expected, read_lines(ledger), runs, attempts, violations)
