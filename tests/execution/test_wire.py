"""Frames: whole or not at all, bounded, whatever the pieces they come in."""

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.execution.wire import SKIP_BYTES_MAX, Channel, Decoder, WireError, pack_frame

MESSAGES = st.dictionaries(st.text(max_size=5), st.one_of(st.integers(), st.text(max_size=20), st.none()), max_size=4)


@given(st.lists(st.tuples(MESSAGES, st.binary(max_size=200)), max_size=6), st.integers(1, 64))
def test_frames_come_out_as_they_went_in_whatever_the_pieces(frames: list[tuple[dict, bytes]], piece: int) -> None:
    stream = b"".join(pack_frame(message, blob) for message, blob in frames)
    decoder = Decoder()

    out = [frame for at in range(0, len(stream), piece) for frame in decoder.feed(stream[at : at + piece])]

    assert out == frames


@given(st.integers(1, 64))
def test_a_frame_above_the_limit_is_passed_over_and_told(piece: int) -> None:
    stream = pack_frame({"op": "a"}, b"{" * 5000) + pack_frame({"op": "b"}, b"y")
    decoder = Decoder(1000, lines_ok=True)  # which the first byte decides, and none that is passed over

    out = [frame for at in range(0, len(stream), piece) for frame in decoder.feed(stream[at : at + piece])]

    assert [message["op"] for message, _ in out] == ["too_large", "b"]
    assert out[0][0]["bytes"] == 5000 + len('{"op":"a"}')


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\2\0\0\0\0[]",
        b"\0\0\0\2\0\0\0\0{x",
        b"\xff" * 8,
        (SKIP_BYTES_MAX + 1).to_bytes(4) + b"\0\0\0\0",
        (100_000).to_bytes(4) + b"\0\0\0\0" + b"[" * 100_000,
    ],
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        Decoder().feed(data)


def test_names_that_are_no_utf8_pass() -> None:
    name = os.fsdecode(b"\xff")

    ((message, _),) = Decoder().feed(pack_frame({"name": name}))

    assert message == {"name": name}


def _channels() -> tuple[Channel, Channel]:
    one, other = socket.socketpair()
    return Channel(one), Channel(other)


def test_a_large_frame_is_sent_as_room_comes() -> None:
    sender, receiver = _channels()
    blob = os.urandom(3_000_000)
    frames = []

    sender.send({"op": "x"}, blob)
    assert sender.wants_write
    while not frames:
        frames = receiver.receive()
        sender.flush()

    assert frames == [({"op": "x"}, blob)]
    assert not sender.wants_write
    sender.close()
    receiver.close()


def test_a_descriptor_arrives_beside_its_frame_and_is_not_inheritable() -> None:
    sender, receiver = _channels()
    read, write = os.pipe()
    sender.send({"op": "first"})
    sender.send({"op": "second"}, descriptor=write)

    frames = receiver.receive() + receiver.receive()

    assert [message["op"] for message, _ in frames] == ["first", "second"]
    (arrived,) = receiver.descriptors
    assert not os.get_inheritable(arrived)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(write) if arrived != write else os.fstat(10**6)
    os.write(arrived, b"hi")
    assert os.read(read, 2) == b"hi"
    os.close(read)
    sender.close()
    receiver.close()


def test_a_peer_that_left_makes_the_connection_lost_and_raises_nothing() -> None:
    sender, receiver = _channels()
    receiver.send({"op": "last words"})
    receiver.close()

    sender.send({"op": "x"})
    frames = sender.receive()

    assert sender.lost
    assert frames == [({"op": "last words"}, b"")]
    sender.send({"op": "y"})
    sender.close()
