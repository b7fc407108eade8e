"""What a terminal would obey is a colour or nothing; everything else is there as it was written."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.web.pages.ansi import PLAIN, Style, Writer, apply, read_style
from tests.web.pages.markup import parse


def written(*pieces: bytes) -> str:
    writer = Writer()
    return "".join(writer.write(piece, is_last=number == len(pieces) - 1) for number, piece in enumerate(pieces))


# fmt: off
CASES = [
    (b"plain",                                       "plain"),
    (b"<b>&\"'",                                     "&lt;b&gt;&amp;&#34;&#39;"),
    (b"\x1b[31mred\x1b[0m not",                      '<span class="f1">red</span> not'),
    (b"\x1b[1;31mboth\x1b[m",                        '<span class="bold f1">both</span>'),
    (b"\x1b[91;104mbright",                          '<span class="f9 b12">bright</span>'),
    (b"\x1b[31ma\x1b[39mb",                          '<span class="f1">a</span>b'),
    (b"\x1b[1;4ma\x1b[22mb\x1b[24mc",  '<span class="bold underline">a</span><span class="underline">b</span>c'),
    (b"\x1b[38;5;9mx",                               '<span class="f9">x</span>'),
    (b"\x1b[38;5;196mx",                             '<span class="f9">x</span>'),
    (b"\x1b[48;2;0;0;255mx",                         '<span class="b12">x</span>'),
    (b"\x1b[38;2;0:200:0mx",                         '<span class="f2">x</span>'),
    (b"\x1b[38;5;244mx",                             '<span class="f7">x</span>'),
    (b"\x1b[38;5mx\x1b[38;9;1my\x1b[999999999999mz", "xyz"),
    (b"\x1b[2J\x1b[10;10Hx\x1b[?25l\x1b[6n",         "x"),
    (b"\x1b]0;title\x07x",                           "x"),
    (b"\x1b]8;;javascript:alert(1)\x1b\\link\x1b]8;;\x1b\\", "link"),
    (b"\x1b]52;c;aGFjaw==\x07x",                     "x"),
    (b"\x1bP1$qm\x1b\\x\x1b_apc\x1b\\y\x1b^pm\x1b\\z", "xyz"),
    (b"\x1b(Bx\x1b=y\x1bcz",                         "xyz"),
    (b"\x9bx",                                       "\ufffdx"),
    ("\x9b31mx\x9d0;t\x9cy".encode(),                '<span class="f1">x</span><span class="f1">y</span>'),
    ("\x9d0;a\x9d0;title\x9cx".encode(),             "\\x9d0;ax"),
    ("\x1b]0;a\x90b\x9f".encode() * 2,               "\u241b]0;a\\x90b\\x9f" * 2),
    (b"a\0b\x07c\x08d\x7fe\x0bf",                    "a\u2400b\u2407c\u2408d\u2421e\u240bf"),
    (b"10%\r20%\r\nend",                             "10%\n20%\nend"),
    (b"\xff\xfe\xc3",                                "\ufffd\ufffd\ufffd"),
    (b"\x1b",                                        "\u241b"),
    (b"\x1b]never ends",                             "\u241b]never ends"),
    (b"\x1b[31;<script>m",                           "cript&gt;m"),
    (b"\x1b]" + b"x" * 5000 + b"\x07y",              "\u241b]" + "x" * 5000 + "\u2407y"),
]
# fmt: on


@pytest.mark.parametrize(("data", "markup"), CASES)
def test_a_sequence_is_a_colour_or_nothing(data, markup):
    assert written(data) == markup


@pytest.mark.parametrize(
    "pieces",
    [
        (b"\x1b", b"[31", b"mred"),
        (b"\xc3", b"\xbc"),
        (b"a\r", b"\nb"),
        (b"\x1b]0;ti", b"tle\x1b", b"\\x"),
        (b"\xf0\x9f", b"\x98", b"\x80\x1b[1mb"),
    ],
)
def test_what_is_cut_in_two_is_put_together(pieces):
    assert written(*pieces) == written(b"".join(pieces))


def test_what_may_become_something_is_held_back_and_counted():
    writer = Writer()

    assert writer.write(b"x\x1b[3") == "x"
    assert writer.held == 3
    assert writer.write(b"1my\xe2\x82") == '<span class="f1">y</span>'
    assert writer.held == 2
    assert writer.write(b"\xac", is_last=True) == '<span class="f1">\u20ac</span>'
    assert writer.held == 0


SEQUENCES = st.sampled_from(
    "\x1b[31m \x1b[0m \x1b[1;38;5;200m \x1b[2K \x1b]0;<b>t\x07 \x1b]8;;x\x1b\\ \x1bP+q\x1b\\ \x1b(0 \x1bM".split(" ")
)
TEXTS = st.text(st.characters(blacklist_categories=("Cc", "Cs")) | st.sampled_from("\n\t<>&\"'"), max_size=20)


@given(st.lists(st.tuples(TEXTS, SEQUENCES), max_size=10))
def test_the_text_is_the_text_without_the_sequences(pairs):
    markup = written("".join(text + sequence for text, sequence in pairs).encode())

    page = parse(markup)
    assert page.text == "".join(text for text, _ in pairs)
    assert {one.tag for one in page.walk()} <= {"", "span"}
    for one in page.find("span"):
        assert re.fullmatch(r"[a-z]+|[fb]\d+", one.attributes["class"].split()[0])


BITS = [b"\x1b", b"[", b"]", b"3", b"m", b"<", b"\x07", b"\\", b"\xc2\x9b"]


@given(st.binary(max_size=200) | st.lists(st.sampled_from(BITS)).map(b"".join))
def test_whatever_is_written_is_text_in_spans(data):
    page = parse(written(data))

    assert {one.tag for one in page.walk()} <= {"", "span"}
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", page.text)


@given(st.lists(st.integers(0, 110), min_size=1, max_size=6))
def test_a_style_is_read_as_it_was_written(numbers):
    style = apply(PLAIN, ";".join(map(str, numbers)))

    assert read_style(style.numbers) == style


@pytest.mark.parametrize("text", ["", "x", "1m", "\x1b[31m", "9" * 100])
def test_what_is_no_style_is_plain(text):
    assert read_style(text) == Style()
