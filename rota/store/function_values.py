"""Values in PostgreSQL's own functions: checked, and written, as ``rota.model`` does it.

Invariant: what is refused here is refused there, by the same rule. Bounds, sentences and sets of characters are taken
from there, so that they are written once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache

from rota.model import names
from rota.model.concurrency import KEY_LENGTH_MAX
from rota.model.documents import DOCUMENT_BYTES_MAX, DOCUMENT_DEPTH_MAX, INTEGER_BITS_MAX
from rota.model.durations import DURATION_SECONDS_MAX, format_duration
from rota.model.instants import YEAR_FIRST, YEAR_LAST
from rota.model.job import PRIORITY_MAX, RETRIES_MAX, START_WITHIN_SECONDS_MIN
from rota.store.sharing import BEHIND_SECONDS_MAX, SHARE_SECONDS_MAX
from rota.store.tables import PRIORITY_SECONDS

# An error says what Python's would: its code and field are the detail.
_REFUSE = """
function @schema@.rota_refuse(code text, field text, shown text, rule text) returns void language plpgsql as $body$
begin
    raise exception using
        message = field || case when shown = '' then ' is not given: ' else ' ' || shown || ' is refused: ' end || rule,
        detail = code || ' ' || field,
        errcode = case code when 'not-found' then 'P0002' when 'conflict' then '55000' when 'not-supported' then '0A000'
            else '22023' end;
end $body$"""

# Each character is looked up: which are letters depends on a collation here, and on Unicode's table in Python.
_CHECK_NAME = """
function @schema@.rota_check_name(field text, value text) returns void language plpgsql as $body$
declare
    wrong text;
begin
    if value is null then
        @refuse@('invalid', field, '', 'a name is text of @name_rule@');
    elsif value = '' then
        @refuse@('invalid', field, quote_literal(value), 'a name has @name_rule@; it is empty');
    elsif length(value) > @name_length_max@ then
        @refuse@('invalid', field, quote_literal(left(value, 100) || '...'),
            'a name has @name_rule@; this one has ' || length(value));
    elsif value !~ '^[A-Za-z0-9._:/-]+$' then
        select c into wrong from unnest(string_to_array(value, null)) c
            where not '@name_ranges@'::int4multirange @> ascii(c) limit 1;
        if wrong is not null then
            @refuse@('invalid', field, quote_literal(value), 'a name has @name_rule@; not ' || case
                when wrong = ' ' then 'a space' when wrong ~ '^[!-~]$' then '''' || wrong || ''''
                else 'the character U+' || lpad(upper(to_hex(ascii(wrong))), 4, '0') end);
        end if;
    end if;
end $body$"""

_CHECK_KEY = """
function @schema@.rota_check_key(value text) returns text language plpgsql as $body$
begin
    if value !~ '[^ ]' or length(value) > @key_length_max@ or (value !~ '^[ -~]+$' and exists (
        select from unnest(string_to_array(value, null)) c where not '@printable_ranges@'::int4multirange @> ascii(c)
    )) then
        @refuse@('invalid', 'concurrency_key', quote_literal(left(value, 100)),
            'a concurrency key is text of 1 to @key_length_max@ printable characters');
    end if;
    return rtrim(value, ' ');
end $body$"""

_SECONDS = """
function @schema@.rota_seconds(field text, given interval, minimum double precision, zero_ok boolean)
returns double precision language plpgsql as $body$
declare
    seconds double precision := round(extract(epoch from given), 6);
    rule text := case
        when extract(year from given) <> 0 or extract(month from given) <> 0
            then 'a month has no length of its own: give days'
        when seconds < 0 then 'a duration must not be negative'
        when seconds = 0 and not zero_ok then 'it must be longer than zero'
        when seconds < minimum then 'it must be at least ' || minimum || 's'
        when seconds > @duration_seconds_max@ then 'it must be at most @duration_max@' end;
begin
    if rule is not null then
        @refuse@('invalid', field, quote_literal(given), rule);
    end if;
    return seconds;
end $body$"""

# JSON as Python writes it, with keys in order: equal values have equal text. It is given `json`, which keeps a number
# as it was written: with a fraction or an exponent it is one of floating point.
_JSON = """
function @schema@.rota_json(value json, space text default '', depth integer default 1)
returns text language plpgsql immutable as $body$
declare
    kind text := json_typeof(value);
    written text;
    total bigint;
    different bigint;
begin
    if kind in ('object', 'array') and depth > @depth_max@ then
        @refuse@('invalid', 'args', 'too deep', 'it must not be nested deeper than @depth_max@ levels');
    end if;
    case kind
    when 'object' then
        select count(*), count(distinct o.key collate "C"),
            string_agg(to_json(o.key)::text || ':' || space || @schema@.rota_json(o.value, space, depth + 1),
                ',' || space order by o.key collate "C")
            into total, different, written from json_each(value) o;
        if different < total then
            @refuse@('invalid', 'args', 'with a key twice', 'each key is there once');
        end if;
        return '{' || coalesce(written, '') || '}';
    when 'array' then
        select string_agg(@schema@.rota_json(a.item, space, depth + 1), ',' || space order by a.place)
            into written from json_array_elements(value) with ordinality a (item, place);
        return '[' || coalesce(written, '') || ']';
    when 'string' then
        return to_json(value #>> '{}')::text;
    when 'number' then
        written := value #>> '{}';
        if written ~ '[.eE]' then
            return @schema@.rota_json_float(written);
        elsif abs(written::numeric) >= @integer_end@ then
            @refuse@('invalid', 'args', 'a huge number',
                'a whole number in it must be at most @integer_bits_max@ bits long');
        end if;
        return written::numeric;
    when 'boolean' then
        return value #>> '{}';
    else
        return 'null';
    end case;
end $body$"""

_JSON_FLOAT = """
function @schema@.rota_json_float(written text) returns text language plpgsql immutable as $body$
declare
    sign text := case when written like '-%' then '-' else '' end;
    shortest text;
    digits text;
    fewer text;
    point integer;
begin
    if written ~ '^-?0[.]?0*([eE].*)?$' then
        return sign || '0.0';
    end if;
    begin
        shortest := abs(written::double precision);
    exception when numeric_value_out_of_range then
        if abs(written::numeric) < 1 then
            return sign || '0.0';
        end if;
        @refuse@('invalid', 'args', 'a huge number', 'it must be JSON, which has no inf');
    end;
    -- The digits, and how many of them stand before the point.
    digits := split_part(shortest, 'e', 1);
    point := length(split_part(digits, '.', 1)) + coalesce(nullif(split_part(shortest, 'e', 2), ''), '0')::integer;
    digits := replace(digits, '.', '');
    point := point - (length(digits) - length(ltrim(digits, '0')));
    digits := rtrim(ltrim(digits, '0'), '0');
    -- A digit less may mean the same number, where it stands right between two: Python reads that as the even one.
    if length(digits) > 15 then
        begin
            fewer := round((left(digits, -1) || '.' || right(digits, 1))::numeric);
            if (fewer || 'e' || point - length(digits) + 1)::double precision = shortest::double precision then
                point := point + length(fewer) - length(digits) + 1;
                digits := rtrim(fewer, '0');
            end if;
        exception when numeric_value_out_of_range then null;
        end;
    end if;
    return sign || case
        when point > 16 or point <= -4 then
            left(digits, 1) || case when length(digits) > 1 then '.' || substr(digits, 2) else '' end
            || 'e' || case when point > 0 then '+' else '-' end
            || case when abs(point - 1) < 10 then '0' else '' end || abs(point - 1)
        when point <= 0 then '0.' || repeat('0', -point) || digits
        when point >= length(digits) then digits || repeat('0', point - length(digits)) || '.0'
        else left(digits, point) || '.' || substr(digits, point + 1) end;
end $body$"""

VALUE_FUNCTIONS = (_REFUSE, _CHECK_NAME, _CHECK_KEY, _SECONDS, _JSON_FLOAT, _JSON)


@cache
def _ranges(belongs: Callable[[str], bool]) -> str:
    """Write which characters these are as what PostgreSQL calls a multirange."""
    found: list[str] = []
    start: int | None = None
    for point in range(sys.maxunicode + 2):
        is_in = point <= sys.maxunicode and belongs(chr(point))
        if is_in and start is None:
            start = point
        elif not is_in and start is not None:
            found.append(f"[{start},{point})")
            start = None
    return f"{{{','.join(found)}}}"


def fill(body: str) -> str:
    """Return the text of a function with what it takes from elsewhere; its schema is left to be named."""
    values: dict[str, object] = {
        "refuse": "perform @schema@.rota_refuse",
        "name_rule": names.NAME_RULE,
        "name_length_max": names.NAME_LENGTH_MAX,
        "name_ranges": _ranges(names.belongs_to_a_name),
        "printable_ranges": _ranges(str.isprintable),
        "key_length_max": KEY_LENGTH_MAX,
        "duration_seconds_max": DURATION_SECONDS_MAX,
        "duration_max": format_duration(DURATION_SECONDS_MAX),
        "depth_max": DOCUMENT_DEPTH_MAX,
        "document_bytes_max": DOCUMENT_BYTES_MAX,
        "integer_bits_max": INTEGER_BITS_MAX,
        "integer_end": 2**INTEGER_BITS_MAX,
        "year_first": YEAR_FIRST,
        "year_last": YEAR_LAST,
        "year_end": YEAR_LAST + 1,
        "start_within_seconds_min": START_WITHIN_SECONDS_MIN,
        "priority_max": PRIORITY_MAX,
        "retries_max": RETRIES_MAX,
        "priority_seconds": PRIORITY_SECONDS,
        "share_seconds_max": SHARE_SECONDS_MAX,
        "behind_seconds_max": BEHIND_SECONDS_MAX,
    }
    for name, value in values.items():
        body = body.replace(f"@{name}@", str(value))
    return body
