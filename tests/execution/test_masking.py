"""What stands for a secret, in whatever way it is written and in however many pieces it comes."""

from __future__ import annotations

import base64
import json
import random
from urllib.parse import quote, quote_plus

import pytest

from rota.execution.control import Control
from rota.execution.masking import Mask, MaskedCapture
from rota.execution.output import Capture

PASSWORD = "c0rrect/horse \"b\\ttery'+st\u00e4ple"
KEY = "-----BEGIN A KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nx\n-----END A KEY-----"
MASK = Mask([PASSWORD, KEY, "tok-4711"])
DATA = PASSWORD.encode()


@pytest.mark.parametrize(
    "written",
    [
        DATA,
        json.dumps(PASSWORD).encode()[1:-1],
        json.dumps(PASSWORD, ensure_ascii=False).encode()[1:-1],
        json.dumps(PASSWORD).replace("/", "\\/").encode()[1:-1],
        PASSWORD.replace("'", "'\\''").encode(),
        PASSWORD.replace("'", "'\"'\"'").encode(),
        repr(PASSWORD).encode()[1:-1],
        repr(DATA).encode()[2:-1],
        quote(PASSWORD).encode(),
        quote(PASSWORD, safe="").encode(),
        quote_plus(PASSWORD).encode(),
        DATA.hex().encode(),
        DATA.hex().upper().encode(),
        base64.b64encode(DATA).rstrip(b"="),
    ],
)
def test_a_secret_is_masked_however_it_is_written(written: bytes) -> None:
    assert MASK.clean(b"<" + written + b">") == b"<***>"


@pytest.mark.parametrize("before", [b"", b"u", b"us", b"use", b"user:"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_in_base64_it_is_masked_wherever_it_stands_in_something_longer(before: bytes, encode: object) -> None:
    assert callable(encode)
    text: bytes = encode(before + DATA + b"@host")

    cleaned = MASK.clean(text)

    assert b"***" in cleaned
    assert len(cleaned) <= len(text) - len(DATA) * 4 // 3 + 8


def test_of_one_with_several_lines_each_is_masked_in_base64_too() -> None:
    told = MASK.clean(b"| " + KEY.replace("\n", "\n| ").encode() + b"\n" + base64.encodebytes(KEY.encode() * 3))

    assert told.splitlines()[:4] == [b"| ***", b"| ***", b"| x", b"| ***"]
    assert base64.b64encode(KEY.encode())[:40] not in told


@pytest.mark.parametrize("text", ["", "tok-471", "***", "correct horse", "\ud800", "tok-47 11", "wait..."])
def test_what_is_no_secret_stays(text: str) -> None:
    assert MASK.clean_sentence(text) == text


def test_of_one_that_was_cut_in_a_sentence_the_beginning_is_masked() -> None:
    assert MASK.clean_sentence(f"ab {PASSWORD[:12]}... and {PASSWORD[:20]}...") == "ab ***... and ***..."


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        (
            {"a": ["tok-4711", 1, None, True], "tok-4711": {"b": "x tok-4711 y"}},
            {"a": ["***", 1, None, True], "***": {"b": "x *** y"}},
        ),
        (PASSWORD, "***"),
        ([KEY], ["***\n***\nx\n***"]),
    ],
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_document_is_masked_inside(told: object, kept: object, ascii_only: bool) -> None:
    assert json.loads(MASK.clean_document(json.dumps(told, ensure_ascii=ascii_only).encode())) == kept


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        (b'{"a":  1.50}', b'{"a":  1.50}'),  # nothing in it: byte by byte the same
        (b'"\\u0074ok-4711"', b'"***"'),
        (b"[1234567, 1.25]", b'["***",1.25]'),
        (b'{"a": "tok-4711", "a": 1}', b'{"a":1}'),
        (b"[12,34567]", b"[12,34567]"),
        (b"no JSON tok-4711", b"no JSON ***"),
        (b"[" * 100_000 + b"tok-4711", b"[" * 100_000 + b"***"),
        (b'["tok-4711", "\\ud800"]', b'["***", "\\ud800"]'),
        (b'["ab","cd"]', b'"***"'),  # a secret of quotes and commas
    ],
)
def test_odd_documents_hold_no_secret_either(told: bytes, kept: bytes) -> None:
    mask = Mask(["tok-4711", "1234567", 'ab","cd'])

    assert mask.clean_document(told) == kept


def capture(bytes_max: int, chunks: list[bytes], rng: random.Random | None = None) -> tuple[MaskedCapture, bytes]:
    """Feed a capture; with ``rng`` somebody looks on now and then. Give it, and what they were told."""
    made, told = MaskedCapture(bytes_max, 0.0, MASK), bytearray()
    for chunk in chunks:
        made._mark(is_other=False)
        made._keep(chunk)
        if rng is not None and rng.random() < 0.3:
            told += made.news()[1]
    made.end()
    told += made.news()[1]
    return made, bytes(told)


def test_output_is_masked_as_if_it_had_come_at_once() -> None:
    rng = random.Random(4711)
    pieces = [DATA, b"tok-4711", base64.b64encode(DATA), DATA[:7] + b"!", b"tok-471x", KEY.encode(), b"\n", b"words "]
    for _ in range(500):
        data = b"".join(rng.choice(pieces) for _ in range(rng.randint(1, 60))) + b"."
        chunks = [data[at : at + 7] for at in range(0, len(data), 7)] if rng.random() < 0.5 else [data]
        bytes_max = rng.choice([0, 1, 40, 100, 1000, 10_000])

        made, told = capture(bytes_max, chunks, rng)

        wanted = MASK.clean(data)
        head, tail = wanted[: bytes_max // 2], wanted[bytes_max // 2 :]
        assert (made.total, bytes(made.head)) == (len(wanted), head)
        assert made.tail() == tail[len(tail) - min(len(tail), bytes_max - bytes_max // 2) :]
        assert all(here[0] <= there[0] for here, there in zip(made.marks, made.marks[1:], strict=False))
        if bytes_max == 10_000:
            assert told == wanted


def test_what_may_be_the_beginning_of_a_secret_waits_for_the_rest() -> None:
    made = MaskedCapture(1000, 0.0, MASK)

    made._keep(b"open: tok-")
    first, has_news = made.news(), made.has_news
    made._keep(b"4711, tok-")
    second = made.news()
    made._keep(b"471!")
    third = made.news()

    assert (first, has_news, second, third) == ((0, b"open: "), False, (6, b"***, "), (11, b"tok-471!"))


def test_of_one_that_a_job_was_writing_when_it_ended_nothing_is_kept_but_three_characters() -> None:
    assert bytes(capture(1000, [b"a tok-47"])[0].head) == b"a ***"
    assert bytes(capture(1000, [b"a tok"])[0].head) == b"a tok"


def test_of_a_flood_no_half_of_a_secret_is_left_where_the_tail_begins() -> None:
    for shift in range(40):
        flood = [b"x" * shift, *[DATA + b"\n"] * 40_000]

        made, _ = capture(1000, [b"".join(flood[at : at + 2000]) for at in range(0, len(flood), 2000)])

        assert set(made.tail().split(b"\n")[1:]) == {b"***", b""}
        assert set(made.tail().split(b"\n")[0]) <= set(b"*")


def test_marks_point_at_the_same_lines_as_without_a_mask() -> None:
    masked, plain = MaskedCapture(1000, 0.0, MASK), Capture(1000)
    for made in (masked, plain):
        for line in (b"tok-4711 one\n", b"two tok-4711\n", b"three\n"):
            made._mark(is_other=True)
            made._keep(line)
        made.end()

    def marked(made: Capture) -> list[bytes]:
        return [bytes(made.head[position:]).partition(b"\n")[0] for position, _ in made.marks]

    assert [line.replace(b"tok-4711", b"***") for line in marked(plain)] == marked(masked)


def test_a_job_gets_its_arguments_as_they_are_and_its_checkpoint_masked(tmp_path: object) -> None:
    control = Control(f"{tmp_path}/c", b'["tok-4711"]', None, mask=MASK)

    def ask(message: dict[str, object], blob: bytes = b"") -> bytes:
        answer, found = control.answer((message, blob))
        assert answer["ok"]
        return found

    ask({"op": "progress", "fraction": 0.5, "message": "x" * 990 + " tok-4711"})
    ask({"op": "checkpoint"}, b'"tok-4711"')
    ask({"op": "error", "type": "tok-4711", "message": "tok-4711", "traceback": "tok-4711", "bases": ["tok-4711"]})
    told = (control.progress, control.checkpoint, control.error, control.error_bases)
    control.close()

    assert told == ((0.5, "x" * 990 + " ***"), b'"***"', ("***", "***", "***"), ["***"])
    assert ask({"op": "args"}) == b'["tok-4711"]'
    assert ask({"op": "saved"}) == b'"***"'


@pytest.mark.parametrize("made", [Capture(0), Capture(1), MaskedCapture(0, 0.0, MASK), MaskedCapture(1, 0.0, MASK)])
def test_where_next_to_nothing_is_to_be_kept_a_flood_is_not_held_either(made: Capture) -> None:
    for _ in range(100):
        made._keep(b"x" * 65536)

    held = sum(len(part) for part in vars(made).values() if isinstance(part, bytearray))

    assert made.total == 100 * 65536
    assert held < 3 * 65536
