"""Output put in order: by the moments of its marks, each byte once, gaps told."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rota.model.run import Piece
from rota.model.transcript import arrange, join, lines


def test_streams_are_in_the_order_in_which_they_came() -> None:
    parts = arrange(
        [
            Piece("stderr", 0, b"oh\nah\n", ((0, 200), (3, 400))),
            Piece("stdout", 0, b"one\ntwo\nthree\n", ((0, 100), (4, 300), (8, 500))),
        ]
    )

    assert join(parts) == b"one\noh\ntwo\nah\nthree\n"
    assert [part.microseconds for part in parts] == [100, 200, 300, 400, 500]


def test_without_marks_standard_output_goes_first() -> None:
    assert join(arrange([Piece("stderr", 0, b"2\n"), Piece("stdout", 0, b"1\n")])) == b"1\n2\n"


def test_what_is_between_head_and_tail_gets_a_line_that_says_how_much() -> None:
    pieces = [Piece("stdout", 0, b"first", ((0, 1),)), Piece("stdout", 995, b"last\n", ((995, 9),))]

    assert join(arrange(pieces)) == b"first\n[... 990 bytes of stdout left out ...]\nlast\n"


def test_what_was_seen_is_not_shown_again() -> None:
    seen: dict[str, int] = {}
    first = arrange([Piece("stdout", 0, b"one\n", ((0, 1),))], seen)
    again = arrange([Piece("stdout", 0, b"one\ntwo\n", ((0, 1), (4, 2)))], seen)

    assert (join(first), join(again), seen) == (b"one\n", b"two\n", {"stdout": 8})
    assert arrange([Piece("stdout", 0, b"one\ntwo\n")], seen) == []


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(min_size=1, max_size=5)), max_size=20))
def test_no_byte_is_lost_or_doubled_however_it_was_cut(writes: list[tuple[str, bytes]]) -> None:
    pieces: list[Piece] = []
    position = {"stdout": 0, "stderr": 0}
    for at, (stream, data) in enumerate(writes):
        pieces.append(Piece(stream, position[stream], data, ((position[stream], at),)))
        position[stream] += len(data)

    parts = arrange(pieces)

    assert [(part.stream, part.data) for part in parts] == writes
    whole = list(lines(parts))
    for stream in position:
        assert b"".join(line.data for line in whole if line.stream == stream) == b"".join(
            data for name, data in writes if name == stream
        )


def test_a_line_that_came_in_parts_is_one_and_has_the_moment_of_its_beginning() -> None:
    parts = arrange([Piece("stdout", 0, b"wait... done\n", ((0, 1), (8, 5)))])

    (line,) = lines(parts)

    assert (line.data, line.microseconds) == (b"wait... done\n", 1)
