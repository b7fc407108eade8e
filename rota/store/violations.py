"""The invariants, as queries that must find nothing.

Together they are the view ``rota_violations`` (rule_broken, run_id, schedule_id), which is empty after every test and
may be read in production at any time. What a constraint of the schema already refuses is not repeated here. Each
query is plain SQL that all the databases understand, and each is shown by a test to find a row that was broken by
hand.
"""

from __future__ import annotations

# rule: (what is wrong with the rows it finds, the query of run_id and schedule_id)
VIOLATIONS: dict[str, tuple[str, str]] = {
    "running_unclaimed": (
        "a running run without a claim, a node or an attempt number",
        "select id as run_id, schedule_id from rota_run"
        " where state = 'running' and (claim_id is null or node is null or holder is null or attempt < 1)",
    ),
    "running_without_attempt": (
        "a running run whose current claim has no open attempt of the same fence and number",
        "select r.id as run_id, r.schedule_id from rota_run r where r.state = 'running' and not exists"
        " (select 1 from rota_attempt a where a.claim_id = r.claim_id and a.run_id = r.id and a.fence = r.fence"
        " and a.attempt = r.attempt and a.state in ('claimed', 'running'))",
    ),
    "attempt_left_open": (
        "an open attempt whose run is not running under its claim",
        "select a.run_id, r.schedule_id from rota_attempt a join rota_run r on r.id = a.run_id"
        " where a.state in ('claimed', 'running') and (r.state <> 'running' or r.claim_id <> a.claim_id)",
    ),
    "attempts_uncounted": (
        "a run whose attempt number is not the number of its attempts",
        "select r.id as run_id, r.schedule_id from rota_run r"
        " where r.attempt <> (select count(*) from rota_attempt a where a.run_id = r.id)",
    ),
    "fence_falls": (
        "a later attempt with a fence that is not higher",
        "select b.run_id, cast(null as decimal(20)) as schedule_id from rota_attempt b join rota_attempt a"
        " on a.run_id = b.run_id and a.attempt < b.attempt and a.fence >= b.fence",
    ),
    "finish_unset": (
        "a finished run without the moment, or an unfinished one with it",
        "select id as run_id, schedule_id from rota_run"
        " where (state in ('waiting', 'ready', 'running') and finished_at is not null)"
        " or (state not in ('waiting', 'ready', 'running') and finished_at is null)",
    ),
    "key_held": (
        "a finished run that still holds its key, which it had until its end",
        "select id as run_id, schedule_id from rota_run"
        " where state not in ('waiting', 'ready', 'running') and active_key is not null and unique_seconds is null",
    ),
    "forgotten": (
        "a waiting run at which nobody will look",
        "select id as run_id, schedule_id from rota_run where state = 'waiting' and due_at is null"
        " and upstreams_due_at is null",
    ),
    "awaiting_half": (
        "a run that waits for upstreams and for nothing else too, or is not known to wait for those of its own job",
        "select id as run_id, schedule_id from rota_run"
        " where (upstreams_due_at is not null or awaiting_job_id is not null)"
        " and (upstreams_due_at is null or awaiting_job_id is null or awaiting_job_id <> job_id or due_at is not null"
        " or state <> 'waiting')",
    ),
    "success_unproved": (
        "a succeeded run without an attempt that succeeded, which no operator marked so",
        "select r.id as run_id, r.schedule_id from rota_run r where r.state = 'succeeded' and r.reason <> 'marked'"
        " and not exists (select 1 from rota_attempt a where a.run_id = r.id and a.state = 'succeeded')",
    ),
    "event_missing": (
        "a run whose last event does not tell its state",
        "select r.id as run_id, r.schedule_id from rota_run r where r.state <> coalesce((select e.to_state"
        " from rota_event e where e.id = (select max(l.id) from rota_event l where l.run_id = r.id)), '')",
    ),
    "permit_stray": (
        "a permit that is taken by no claim that goes on",
        "select nullif(0, 0) as run_id, cast(null as decimal(20)) as schedule_id from rota_permit p"
        " where p.claim_id is not null and p.scope <> 'rate' and not exists"
        " (select 1 from rota_run r where r.claim_id = p.claim_id and r.state = 'running')",
    ),
    "cursor_behind": (
        "a schedule that has decided a slot which its cursor has not passed",
        "select r.id as run_id, r.schedule_id from rota_run r join rota_schedule s on s.id = r.schedule_id"
        " where s.next_slot_at is not null and s.problem is null"
        " and coalesce(r.slot_last_at, r.slot_at) >= s.next_slot_at",
    ),
    # In one pass: asked row by row, MariaDB and PostgreSQL read all slots of the schedule each time.
    "slot_decided_twice": (
        "a row that stands for several slots, of which one has another row too",
        "select f.id as run_id, f.schedule_id from (select id, schedule_id, slot_last_at, lead(slot_at) over"
        " (partition by schedule_id, target_node order by slot_at) as following_at from rota_run"
        " where schedule_id is not null) f where f.following_at <= f.slot_last_at",
    ),
}

VIEW = "rota_violations"
DROP_VIEW = f"drop view if exists {VIEW}"
CREATE_VIEW = f"create view {VIEW} as " + " union all ".join(
    f"select '{rule}' as rule_broken, found.run_id, found.schedule_id from ({query}) found"
    for rule, (_, query) in VIOLATIONS.items()
)
