"""Names, durations, instants, zones and documents: what is read, and what is refused with field, value and rule."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.errors import Invalid
from rota.model.documents import (
    DOCUMENT_BYTES_MAX,
    check_arguments_text,
    check_document_text,
    decode_document,
    encode_arguments,
    encode_document,
)
from rota.model.durations import DURATION_SECONDS_MAX, format_duration, parse_duration
from rota.model.instants import check_zone, format_instant, parse_instant
from rota.model.keeping import KEEP_DEFAULT, check_keep_setting, format_keep
from rota.model.names import check_name, check_pool
from rota.model.placement import read_label

AMSTERDAM = ZoneInfo("Europe/Amsterdam")


@pytest.mark.parametrize(
    "name", ["a", "sales_report", "host:2", "etl/2026-11.daily", "../a", "...", "отчёт", "日報", "x" * 200]
)
def test_a_name_of_letters_digits_and_a_few_marks_is_taken(name: str) -> None:
    assert check_name("name", name) == name
    assert check_pool(name) == name


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("", "empty"),
        ("x" * 201, "201"),
        (".", "path"),
        ("..", "path"),
        ("a b", "a space"),
        ("a\n", "U+000A"),
        ("\x00", "U+0000"),
        ("a\x7f", "U+007F"),
        ("½", "'½'"),
        ("a\u202e", "U+202E"),
        ("\ud800", "U+D800"),
        ("a'; drop table", '"\'"'),
        (None, "text"),
        (7, "text"),
    ],
)
def test_other_names_are_refused_with_what_is_wrong(name: Any, rule: str) -> None:
    with pytest.raises(Invalid) as refused:
        check_name("key", name)

    assert refused.value.field == "key"
    assert refused.value.value == name
    assert rule in refused.value.rule


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("6h", 21600),
        ("2d", 172800),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("1m0.25s", 60.25),
        (" 7 ", 7),
        ("1.5", 1.5),
        (0.25, 0.25),
        (3, 3),
        (timedelta(minutes=2), 120),
    ],
)
def test_a_duration_is_read(text: Any, seconds: float) -> None:
    assert parse_duration("delay", text) == seconds


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("1.5x", "looks like"),
        ("", "looks like"),
        ("s", "looks like"),
        ("1h 30m", "looks like"),
        ("1m1h", "looks like"),
        ("1.5h30m", "looks like"),
        ("1e3", "looks like"),
        ("٣s", "looks like"),
        ("9" * 50, "looks like"),
        ("-1d", "negative"),
        (-1, "negative"),
        (timedelta(days=-1), "negative"),
        ("0s", "longer than zero"),
        (0, "longer than zero"),
        ("0.0000001s", "longer than zero"),
        (float("nan"), "looks like"),
        (float("inf"), "looks like"),
        (10**400, "at most 3650d"),
        ("3651d", "at most 3650d"),
        (True, "looks like"),
        (None, "looks like"),
        ([], "looks like"),
    ],
)
def test_what_is_no_duration_is_refused(value: Any, rule: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_duration("timeout", value)

    assert refused.value.field == "timeout"
    assert rule in refused.value.rule


def test_a_duration_keeps_to_its_bounds_and_may_be_zero_where_that_makes_sense() -> None:
    assert parse_duration("delay", "0s", zero_ok=True) == 0
    with pytest.raises(Invalid, match="at least 5s"):
        parse_duration("lease", 4.9, minimum=5)
    with pytest.raises(Invalid, match="at most 1h"):
        parse_duration("lease", "61m", maximum=3600)


@given(st.integers(1, int(DURATION_SECONDS_MAX) * 1_000_000))
def test_a_duration_that_is_written_is_read_back_to_the_microsecond(micros: int) -> None:
    seconds = round(micros / 1_000_000, 6)

    assert parse_duration("delay", format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-11-20T07:00:00Z", "2026-11-20T07:00:00.000000Z"),
        ("2026-11-20t07:00:00.25z", "2026-11-20T07:00:00.250000Z"),
        ("2026-11-20 07:00+01:00", "2026-11-20T06:00:00.000000Z"),
        ("2026-11-20T07:00-0330", "2026-11-20T10:30:00.000000Z"),
        ("2026-11-20T07:00", "2026-11-20T06:00:00.000000Z"),
        ("2026-11-20", "2026-11-19T23:00:00.000000Z"),
        ("2026-03-29T02:30", "2026-03-29T01:00:00.000000Z"),  # in a gap: its end
        ("2026-10-25T02:30", "2026-10-25T00:30:00.000000Z"),  # in a fold: the first
        (datetime(2026, 11, 20, 7, tzinfo=UTC), "2026-11-20T07:00:00.000000Z"),
    ],
)
def test_a_time_is_read_in_the_zone_of_its_schedule_and_shown_in_utc(text: Any, shown: str) -> None:
    moment = parse_instant("at", text, AMSTERDAM)

    assert moment.tzinfo is UTC
    assert format_instant(moment) == shown
    assert parse_instant("at", shown) == moment


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tomorrow",
        "2026-13-01",
        "2026-02-30",
        "20261120",
        "2026-11-20T25:00",
        "2026-11-20X07:00",
        "1900-01-01",
        "9999-12-31T23:59-12:00",
        "2026-11-20T07:00+99:00",
        "2026-W47-5",
        1763622000,
        None,
    ],
)
def test_what_is_no_time_is_refused(text: Any) -> None:
    with pytest.raises(Invalid) as refused:
        parse_instant("from", text, AMSTERDAM)

    assert (refused.value.field, refused.value.value) == ("from", text)


@pytest.mark.parametrize(
    "name",
    [
        "JST-9",
        "",
        "Europe",
        "europe/nowhere",
        "../UTC",
        "/usr/share/zoneinfo/UTC",
        "right/UTC",
        "posix/UTC",
        "localtime",
        "Factory",
        "UTC\0",
        "+01:00",
        "x" * 200,
        None,
        1,
    ],
)
def test_what_is_no_zone_is_refused(name: Any) -> None:
    with pytest.raises(Invalid) as refused:
        check_zone("tz", name)

    assert (refused.value.field, refused.value.value) == ("tz", name)
    assert "Europe/Amsterdam" in refused.value.rule


def test_a_zone_that_is_nearly_right_is_suggested() -> None:
    assert check_zone("tz", "Asia/Tokyo").key == "Asia/Tokyo"
    with pytest.raises(Invalid, match=r"did you mean Europe/Amsterdam\?"):
        check_zone("tz", "Europe/Amstredam")


plain = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
documents = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**4096) + 1, 2**4096 - 1), plain)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(plain, inner, max_size=4)),
    max_leaves=20,
)


@given(documents)
def test_a_document_comes_back_as_it_went_and_equal_ones_have_equal_text(value: Any) -> None:
    text = encode_document("result", value)

    assert decode_document(text) == value
    assert check_document_text("result", json.dumps(value, indent=1)) == text


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_64_levels_are_taken_and_65_are_not() -> None:
    assert encode_document("args", nested(64)) == "[" * 64 + "]" * 64
    with pytest.raises(Invalid, match="64 levels"):
        encode_document("args", nested(65))
    for text in ("[" * 65 + "]" * 65, "[" * 100_000 + "]" * 100_000):
        with pytest.raises(Invalid, match="64 levels"):
            check_document_text("args", text)


def test_one_mebibyte_is_taken_and_a_byte_more_is_not() -> None:
    assert len(encode_document("result", "x" * (DOCUMENT_BYTES_MAX - 2))) == DOCUMENT_BYTES_MAX
    for value in ("x" * (DOCUMENT_BYTES_MAX - 1), "é" * (DOCUMENT_BYTES_MAX // 2)):
        with pytest.raises(Invalid, match="at most 1048576 bytes"):
            encode_document("result", value)
        with pytest.raises(Invalid, match="at most 1048576 bytes"):
            check_document_text("result", json.dumps(value, ensure_ascii=False))


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("-inf"),
        {1: 2},
        {None: 2},
        {"a": object()},
        {1, 2},
        b"x",
        datetime(2026, 1, 1, tzinfo=UTC),
        "\ud800",
        {"\ud800": 1},
        "a\0b",
        {"a\0": 1},
        [10**5000],
        [2**4096],
        lambda: None,
    ],
)
def test_a_value_without_a_json_form_that_every_database_keeps_is_refused(value: Any) -> None:
    with pytest.raises(Invalid) as refused:
        encode_document("result", value)

    assert refused.value.field == "result"
    assert str(refused.value)


def test_a_value_that_holds_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)

    with pytest.raises(Invalid, match="64 levels"):
        encode_document("result", value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1,]",
        "NaN",
        '{"a": Infinity}',
        '{"a": 1, "a": 2}',
        '"\\ud800"',
        '"\\u0000"',
        "1e999",
        "9" * 5000,
        "'a'",
        None,
        b"{}",
        {},
    ],
)
def test_text_that_is_no_json_is_refused(text: Any) -> None:
    with pytest.raises(Invalid) as refused:
        check_document_text("args", text)

    assert refused.value.field == "args"


def test_arguments_are_a_json_object() -> None:
    assert encode_arguments("args", None) == "{}"
    assert encode_arguments("args", {"b": 1, "a": (1, 2)}) == '{"a":[1,2],"b":1}'
    assert check_arguments_text("args", ' {"day": "2026-11-20"} ') == '{"day":"2026-11-20"}'
    for text in ("[]", "1", '"x"'):
        with pytest.raises(Invalid, match="JSON object"):
            check_arguments_text("args", text)


def test_how_long_runs_are_kept_is_read_back_as_it_is_written():
    wanted = check_keep_setting("keep_runs", "failed=90d,lost=forever")

    assert wanted == {**KEEP_DEFAULT, "failed": 90 * 86400.0, "lost": None}
    assert check_keep_setting("keep_runs", format_keep(wanted)) == wanted
    assert check_keep_setting("keep_runs", {"failed": "90d", "lost": "forever"}) == wanted
    assert set(check_keep_setting("keep_runs", "7d").values()) == {7 * 86400.0}
    assert set(check_keep_setting("keep_runs", "forever").values()) == {None}


@pytest.mark.parametrize("value", ["soon", "eaten=5d", "failed=", "30s", [], {"failed": "soon"}, "failed=90d,lost"])
def test_how_long_runs_are_kept_is_refused_where_it_cannot_be_read(value: object):
    with pytest.raises(Invalid, match="keep_runs"):
        check_keep_setting("keep_runs", value)


@pytest.mark.parametrize("label", ["gpu", "a=", "=1", "-a=1", f"{'n' * 64}=1", f"a={'v' * 101}", "a=b c"])
def test_a_label_that_is_refused_breaks_the_rule_that_is_told(label: str) -> None:
    with pytest.raises(Invalid) as refused:
        read_label("labels", label)

    assert refused.value.rule == (
        "a label is K=V: a name of 1 to 63 letters, digits and . _ / -, the first a letter or digit, and a value of 1 "
        "to 100 letters, digits and . _ / - : +; such as gpu=yes"
    )


@pytest.mark.parametrize("label", ["gpu=yes", "é=1", f"{'n' * 63}=1", f"a={'v' * 100}", "a-1._/=_./-:+"])
def test_a_label_that_obeys_the_rule_is_taken(label: str) -> None:
    assert "=".join(read_label("labels", label)) == label
