"""Functions of PostgreSQL by which other programs ask for something inside their own transaction.

``rota_enqueue`` makes a run as ``Rota.enqueue`` does: it is there exactly if the caller commits, and that commit wakes
the nodes. ``rota_ask`` writes a command, which a node carries out after the commit.

Invariant: what ``rota_enqueue`` makes and refuses is what Python makes and refuses. Bounds, sentences and the
characters of names are taken from ``rota.model`` when the text is made; what had to be written a second time is held
equal by a test that sends the same through both doors. What cannot be decided in SQL without writing much more twice, a
run on each of all nodes, is refused, and the refusal says how to ask for it.

``rota_enqueue`` acts with the rights of the schema's owner, so that whoever may call it needs none on a table. Names
are therefore looked up in ``pg_catalog`` alone, and everything else is named with its schema; who asked is the
session's user. Made anew by each upgrade, as views are.
"""

from __future__ import annotations

from collections.abc import Iterator

from rota.store.function_values import VALUE_FUNCTIONS, fill

# Those that others call, with the types of their parameters. Nobody else may, unless it is granted.
_OPTIONS = "text, text, timestamptz, interval, interval, integer, integer, interval, text, boolean"  # from `key` on
CALLED = (
    f"rota_enqueue(text, text, {_OPTIONS})",
    f"rota_enqueue(text, json, {_OPTIONS})",
    f"rota_enqueue(text, jsonb, {_OPTIONS})",
    "rota_ask(text, text, json)",
)

_ENQUEUE = """
function @schema@.rota_enqueue(
    job text,
    args text default '{}',
    key text default null,
    unique_for text default null,
    at timestamptz default null,
    delay interval default null,
    start_within interval default null,
    priority integer default null,
    retries integer default null,
    retry_delay interval default null,
    concurrency_key text default null,
    force boolean default false
) returns bigint language plpgsql security definer
set search_path = pg_catalog, pg_temp set extra_float_digits = 1 as $body$
#variable_conflict use_variable
declare
    known @schema@.rota_job;
    moment timestamptz := clock_timestamp();
    who text := left(session_user, 200);
    document text;
    unique_seconds double precision;
    within_seconds double precision;
    retry_seconds double precision;
    run_at timestamptz := at;
    start_by timestamptz;
    is_ahead boolean;
    awaits boolean;
    state text;
    behind bigint;
    own bigint;
    place bigint;
    made bigint;
begin
    if at is not null and delay is not null then
        @refuse@('invalid', 'delay', quote_literal(delay), 'give either a moment (at) or a delay, not both');
    end if;
    perform @schema@.rota_check_name('job', job);
    if length(args) > @document_bytes_max@ then
        @refuse@('invalid', 'args', 'of ' || length(args) || ' characters',
            'it must be at most @document_bytes_max@ bytes of JSON');
    end if;
    begin
        if json_typeof(coalesce(args, '{}')::json) <> 'object' then
            @refuse@('invalid', 'args', quote_literal(left(args, 100)),
                'arguments are a JSON object, such as {"day": "2026-11-20"}');
        end if;
        document := @schema@.rota_json(coalesce(args, '{}')::json);
    exception
        when statement_too_complex then
            @refuse@('invalid', 'args', 'too deep', 'it must not be nested deeper than @depth_max@ levels');
        when untranslatable_character then
            @refuse@('invalid', 'args', quote_literal(left(args, 100)),
                'text in it must not hold the character NUL, or half of a surrogate pair');
        when invalid_text_representation or numeric_value_out_of_range then
            @refuse@('invalid', 'args', quote_literal(left(args, 100)), 'it must be JSON; ' || sqlerrm);
    end;
    if octet_length(document) > @document_bytes_max@ then
        @refuse@('invalid', 'args', 'of ' || octet_length(document) || ' bytes',
            'it must be at most @document_bytes_max@ bytes of JSON');
    end if;
    if key is not null then
        perform @schema@.rota_check_name('key', key);
    end if;
    if unique_for is not null and key is null then
        @refuse@('invalid', 'unique_for', quote_literal(unique_for),
            'it says how long a key holds: give the key too');
    elsif unique_for = 'forever' then
        unique_seconds := -1;
    elsif unique_for is not null then
        begin
            unique_seconds := @schema@.rota_seconds('unique_for', unique_for::interval, 0, false);
        exception when invalid_datetime_format or datetime_field_overflow or interval_field_overflow then
            @refuse@('invalid', 'unique_for', quote_literal(unique_for),
                'a duration looks like 90s, 15m, 6h, 2d or 1h30m, or is a number of seconds');
        end;
    end if;
    if at < '@year_first@-01-01 00:00Z' or at >= '@year_end@-01-01 00:00Z' then
        @refuse@('invalid', 'at', quote_literal(at), 'a time lies in the years @year_first@ to @year_last@');
    end if;
    if @schema@.rota_seconds('delay', delay, 0, true) > 0 then
        run_at := moment + extract(epoch from delay) * interval '1 second';
    end if;
    within_seconds := @schema@.rota_seconds('start_within', start_within, @start_within_seconds_min@, false);
    if abs(priority::bigint) > @priority_max@ then
        @refuse@('invalid', 'priority', priority::text,
            'it is a whole number from -@priority_max@ to @priority_max@');
    end if;
    if retries < -1 or retries > @retries_max@ then
        @refuse@('invalid', 'retries', retries::text,
            'it is a whole number from 0 to @retries_max@, or -1 for ever');
    end if;
    retry_seconds := @schema@.rota_seconds('retry_delay', retry_delay, 0, true);
    concurrency_key := @schema@.rota_check_key(concurrency_key);

    select j.* into known from @schema@.rota_job j where j.name = job;
    if known.id is null then
        @refuse@('not-found', 'job', quote_literal(job), 'there is no such job; see `rota job list`');
    elsif known.timeline is not null then
        @refuse@('conflict', 'job', quote_literal(job), 'it has periods, for which its runs are made by '
            || 'themselves: `rota period reprocess ' || job || ' PERIOD` does one again');
    elsif known.runs_on <> 'any' then
        @refuse@('not-supported', 'job', quote_literal(job), 'it runs on all nodes of its pool, which SQL does not '
            || 'choose: insert into rota_command (verb, target, params) values (''job.run'', ...)');
    end if;
    within_seconds := coalesce(within_seconds, known.start_within_seconds);
    priority := coalesce(priority, known.priority);
    if concurrency_key is null and document::json -> known.concurrency_key is not null then
        concurrency_key := case json_typeof(document::json -> known.concurrency_key)
            when 'null' then null
            when 'string' then document::json ->> known.concurrency_key
            else @schema@.rota_json(document::json -> known.concurrency_key, ' ') end;
        concurrency_key := @schema@.rota_check_key(concurrency_key);
    end if;
    is_ahead := coalesce(run_at > moment, false);
    awaits := known.after is not null and not coalesce(force, false);
    state := case when is_ahead or awaits then 'waiting' else 'ready' end;
    start_by := case when is_ahead then run_at else moment end + within_seconds * interval '1 second';
    if state = 'ready' and concurrency_key is not null then
        -- The keys of a job take turns: see sharing.py.
        own := trunc(extract(epoch from coalesce(run_at, moment)))::bigint - @priority_seconds@ * priority;
        select r.urgency into place from @schema@.rota_run r where r.ready_key_job_id = known.id
            and r.priority = priority and r.pool = known.pool order by r.urgency limit 1;
        place := least(own, greatest(coalesce(place, own), own - @share_seconds_max@));
        select r.urgency into behind from @schema@.rota_run r where r.state = 'ready' and r.job_id = known.id
            and r.open_concurrency_key = concurrency_key and r.priority = priority order by r.urgency desc limit 1;
        if behind is not null then
            place := least(greatest(place, behind + 1), own + @behind_seconds_max@);
        end if;
        behind := place - own;
    end if;

    for attempt in 1 .. 2 loop
        insert into @schema@.rota_run (
            job_id, job, slot_count, target_node, request_id, run_key, active_key, unique_seconds, state, reason,
            reason_text, args, pool, priority, delivery, requested_by, enqueued_at, run_at, start_by, upstreams_due_at,
            awaiting_job_id, due_at, queued, attempt, retries_used, losses, fence, lease_seconds, retries,
            retry_delay_seconds, concurrency_key, behind_seconds, moment_at
        )
        select
            known.id, known.name, 1, '', replace(gen_random_uuid()::text, '-', '') || '.0', key, key, unique_seconds,
            state, case when awaits then 'upstream' when is_ahead then 'not_before' else 'asked' end,
            case when not is_ahead then 'asked to run now'
                else 'asked for at ' || to_char(run_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC' end
                || case when awaits then ', after what it builds on' else '' end
                || case when known.state = 'paused' then '; its job is paused' else '' end,
            document, known.pool, priority, known.delivery, who, moment, coalesce(run_at, moment), start_by,
            case when awaits then coalesce(run_at, moment) end, case when awaits then known.id end,
            case when awaits then null when state = 'waiting' then run_at else start_by end, false, 0, 0, 0, 0,
            known.lease_seconds, retries, retry_seconds, concurrency_key, behind, coalesce(run_at, moment)
        where key is null or not exists (
            select from @schema@.rota_run r where r.job_id = known.id and r.active_key = key
        )
        on conflict do nothing returning id into made;
        if made is not null then
            insert into @schema@.rota_event (at, run_id, job, kind, to_state, reason, text, actor)
                select clock_timestamp(), r.id, r.job, 'run', r.state, r.reason, r.reason_text, r.requested_by
                from @schema@.rota_run r where r.id = made;
            insert into @schema@.rota_audit (at, actor, door, kind, subject, did, text)
                values (clock_timestamp(), who, 'sql', 'job', known.name, 'run', 'asked for run ' || made);
            notify rota;
            return made;
        end if;
        -- Its key is held, by a run that is unfinished or was asked for too lately, or until somebody takes it away.
        update @schema@.rota_run r set active_key = null where r.job_id = known.id and r.active_key = key
            and r.finished_at is not null and coalesce(r.unique_seconds, 0) >= 0
            and r.enqueued_at <= clock_timestamp() - coalesce(r.unique_seconds, 0) * interval '1 second';
        if not found then
            select r.id into made from @schema@.rota_run r where r.job_id = known.id and r.active_key = key;
            exit when made is null;
            return made;
        end if;
    end loop;
    @refuse@('conflict', 'key', quote_literal(key), 'another transaction asks for a run of the same job and key, '
        || 'or ends it, at this moment: roll back and try again');
end $body$"""

# What is no text is one that PostgreSQL has read and written again: `1e2` is the whole number 100 in `jsonb`.
_ENQUEUE_DOCUMENT = """
function @schema@.rota_enqueue(
    job text,
    args @kind@,
    key text default null,
    unique_for text default null,
    at timestamptz default null,
    delay interval default null,
    start_within interval default null,
    priority integer default null,
    retries integer default null,
    retry_delay interval default null,
    concurrency_key text default null,
    force boolean default false
) returns bigint language sql as $body$
    select @schema@.rota_enqueue($1, $2::text, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
$body$"""

_ASK = """
function @schema@.rota_ask(verb text, target text default null, params json default null)
returns bigint language sql as $body$
    insert into @schema@.rota_command (verb, target, params) values ($1, $2, $3::text) returning id
$body$"""


def create_functions() -> Iterator[str]:
    """Give the statements that make the functions, or replace them, in the schema that the connection works in.

    One that is new may be called by the owner alone: PostgreSQL would let everybody. What was granted since stays.
    """
    called = ", ".join(f"'{one}'" for one in CALLED)
    bodies = [
        *VALUE_FUNCTIONS,
        _ENQUEUE,
        *(_ENQUEUE_DOCUMENT.replace("@kind@", kind) for kind in ("json", "jsonb")),
        _ASK,
    ]
    created = "".join(
        f"execute replace($rota$create or replace{fill(body)}$rota$, '@schema@', quote_ident(current_schema()));\n"
        for body in bodies
    )
    yield f"""do $do$
declare
is_called text;
is_new text[] := array(select f from unnest(array[{called}]) f where to_regprocedure(f) is null);
begin
{created}foreach is_called in array is_new loop
execute 'revoke execute on function ' || is_called || ' from public';
end loop;
end $do$"""
