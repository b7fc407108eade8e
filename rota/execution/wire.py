"""Frames: how worker, nursery, guardian and job talk over unix stream sockets.

A frame is a length of JSON, a length of bytes (a blob), the JSON object and the blob. A stream, because a message of
SOCK_SEQPACKET is limited by the send buffer and arguments reach 1 MiB.

Invariants: nothing here blocks, a frame is given out whole or not at all, a descriptor that arrives is never
inheritable, and every error of sending means the same: the other side is not there now. Used by the crew (worker's
side), the nursery, the guardians and, from inside a job, by ``context``. Imports stay few: each fork of a guardian pays
for them.
"""

from __future__ import annotations

import json
import os
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeGuard

    Message = dict[str, Any]
    Frame = tuple[Message, bytes]

# Said in a guardian's first frame. A worker may meet guardians of the version before it, which outlived an upgrade.
PROTOCOL_VERSION = 1

FRAME_BYTES_MAX = 48 * 1024 * 1024  # between our own processes: an order with its arguments, or an end with its output
RESULT_BYTES_MAX = 1024 * 1024  # what a job may report, as JSON in UTF-8
CONTROL_BYTES_MAX = RESULT_BYTES_MAX + 256 * 1024  # a frame from a job: its result, or its error with a traceback
SOCKET_PATH_BYTES_MAX = 107
# Begins the error type of an attempt that is to end otherwise than well or badly; no exception has it.
WISH_MARK = "rota:"
SKIP_BYTES_MAX = 64 * 1024 * 1024  # a frame above the limit is read and thrown away up to here, to answer it

_HEADER = struct.Struct("!II")
_CHARACTER_MIN = ord("\t")  # a frame whose first byte is that has 150 MB
_DESCRIPTOR = struct.Struct("i")
_READ_BYTES = 65536
_READS_PER_ROUND = 16  # so that a chatty peer does not keep timers waiting
_ANCILLARY_BYTES = socket.CMSG_SPACE(8 * _DESCRIPTOR.size)


class WireError(ValueError):
    """What arrived is no frame; the connection cannot be used any further."""


def pack_frame(message: Message, blob: bytes = b"") -> bytes:
    """Encode a frame. ASCII JSON, so that names with lone surrogates (bytes that are no UTF-8) pass."""
    text = json.dumps(message, separators=(",", ":")).encode("ascii")
    return b"".join((_HEADER.pack(len(text), len(blob)), text, blob))


def pack_line(message: Message, blob: bytes = b"") -> bytes:
    """Encode a frame as a line of JSON, its blob, which is JSON itself, as ``value``."""
    return json.dumps(message | ({"value": json.loads(blob)} if blob else {})).encode("ascii") + b"\n"


def is_object(value: object) -> TypeGuard[Message]:
    """Tell whether decoded JSON is an object."""
    return isinstance(value, dict)


class Decoder:
    """Cuts a stream of bytes into frames. A frame above the limit comes out as ``{"op": "too_large", "bytes": n}``.

    With ``lines_ok`` whoever begins with a character, as ``{`` is one, speaks lines of JSON instead, each a frame whose
    blob is its ``value``. No frame begins so, since none is that large. A line that is no JSON object comes out as
    ``{"op": "nonsense", "error": sentence}``.
    """

    def __init__(self, bytes_max: int = FRAME_BYTES_MAX, *, lines_ok: bool = False) -> None:
        self.speaks_lines = False
        self._lines_ok = lines_ok
        self._bytes_max = bytes_max
        self._buffer = bytearray()
        self._skip = 0
        self._skipped = 0

    def feed(self, data: bytes) -> list[Frame]:
        """Take in bytes and give out the frames they complete.

        Raises:
            WireError: this is no frame.
        """
        buffer = self._buffer
        buffer += data
        frames: list[Frame] = []
        if self._lines_ok and buffer:  # the first byte decides: later ones may be the middle of what is passed over
            self._lines_ok = False
            self.speaks_lines = buffer[0] >= _CHARACTER_MIN
        if self.speaks_lines:
            return self._cut_lines()
        while True:
            if self._skip:
                dropped = min(self._skip, len(buffer))
                del buffer[:dropped]
                self._skip -= dropped
                if self._skip:
                    return frames
                frames.append(({"op": "too_large", "bytes": self._skipped}, b""))
            if len(buffer) < _HEADER.size:
                return frames
            text_bytes, blob_bytes = _HEADER.unpack_from(buffer)
            end = _HEADER.size + text_bytes + blob_bytes
            if end > self._bytes_max:
                if end > SKIP_BYTES_MAX:
                    raise WireError(f"a frame of {end} bytes is beyond {SKIP_BYTES_MAX}")
                self._skip, self._skipped = end, text_bytes + blob_bytes
                continue
            if len(buffer) < end:
                return frames
            middle = _HEADER.size + text_bytes
            frames.append((_read_object(buffer[_HEADER.size : middle]), bytes(buffer[middle:end])))
            del buffer[:end]

    def _cut_lines(self) -> list[Frame]:
        *lines, rest = bytes(self._buffer).split(b"\n")
        frames: list[Frame] = []
        for line in lines:
            if self._skipped:
                frames.append(({"op": "too_large", "bytes": self._skipped + len(line)}, b""))
                self._skipped = 0
            elif line.strip():
                frames.append(_read_line(line))
        if self._skipped or len(rest) > self._bytes_max:
            self._skipped += len(rest)
            rest = b""
        self._buffer[:] = rest
        if self._skipped > SKIP_BYTES_MAX:
            raise WireError(f"a line is longer than {SKIP_BYTES_MAX} bytes")
        return frames


def _read_line(line: bytes) -> Frame:
    # One that is nonsense is answered: what the same program has said well, before and after it, shall count.
    try:
        message = _read_object(line)
        blob = json.dumps(message.pop("value")).encode("ascii") if "value" in message else b""
        return message, blob
    except WireError as error:
        return {"op": "nonsense", "error": str(error).replace("a frame", "the line", 1)}, b""
    except RecursionError:
        return {"op": "nonsense", "error": "the line is JSON nested too deeply"}, b""


def _read_object(text: bytes | bytearray) -> Message:
    try:
        message = json.loads(text)
    except ValueError as error:
        raise WireError(f"a frame is no JSON: {error}") from None
    except RecursionError:
        raise WireError("a frame is JSON nested too deeply") from None
    if not is_object(message):
        raise WireError("a frame is no JSON object")
    return message


def listen_at(path: str, backlog: int, owner: int | None = None) -> socket.socket:
    """Begin to listen on a unix socket of this path; a user of number ``owner`` may connect too.

    It is bound under a hidden name until it listens: who is refused under its own knows that nobody is there any more.

    Raises:
        OSError: there is no such folder, no room, or no descriptor left.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    folder, _, name = path.rpartition("/")
    hidden = f"{folder}/.{name}"
    try:
        try:
            os.unlink(hidden)  # left by one that was killed right here
        except FileNotFoundError:
            pass
        listener.bind(hidden)
        os.chmod(hidden, 0o600)
        if owner is not None:
            os.chown(hidden, owner, -1)
        listener.listen(backlog)
        os.rename(hidden, path)
    except BaseException:
        listener.close()
        raise
    return listener


class Channel:
    """A non-blocking connection that carries frames, and descriptors beside them.

    ``lost`` turns true when the other side is gone, whatever the way it was noticed; nothing is raised. Frames that
    arrived before are still given out. Descriptors that arrived wait in ``descriptors``, in the order of the frames
    that brought them; whoever takes one closes it. ``unsent_bytes`` waits until the other side reads.
    """

    def __init__(self, connection: socket.socket, bytes_max: int = FRAME_BYTES_MAX, *, lines_ok: bool = False) -> None:
        connection.setblocking(False)
        self.lost = False
        self.unsent_bytes = 0
        self.descriptors: list[int] = []
        self._socket = connection
        self._decoder = Decoder(bytes_max, lines_ok=lines_ok)
        self._queue: list[tuple[bytes | memoryview, tuple[int, ...]]] = []

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether frames wait for room in the socket."""
        return bool(self._queue) and not self.lost

    def send(
        self, message: Message, blob: bytes = b"", descriptor: int = -1, *, descriptors: tuple[int, ...] = ()
    ) -> None:
        """Send a frame now, or as soon as there is room. Takes the descriptors over and closes them once sent."""
        pack = pack_line if self._decoder.speaks_lines else pack_frame
        self.send_packed(pack(message, blob), (descriptor,) if descriptor >= 0 else descriptors)

    def send_packed(self, data: bytes, descriptors: tuple[int, ...] = ()) -> None:
        """Send what has been encoded already."""
        self._queue.append((data, descriptors))
        self.unsent_bytes += len(data)
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as there is room."""
        while self._queue and not self.lost:
            data, descriptors = self._queue[0]
            try:
                if descriptors:
                    packed = b"".join(_DESCRIPTOR.pack(number) for number in descriptors)
                    sent = self._socket.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)])
                    for number in descriptors:
                        os.close(number)
                else:
                    sent = self._socket.send(data)
            except BlockingIOError:
                return
            except OSError:
                self.lost = True
                return
            self.unsent_bytes -= sent
            if sent == len(data):
                del self._queue[0]
            else:
                self._queue[0] = (memoryview(data)[sent:], ())

    def receive(self) -> list[Frame]:
        """Give out the frames that have arrived, perhaps none. Never waits."""
        frames: list[Frame] = []
        for _ in range(_READS_PER_ROUND):
            try:
                # MSG_CMSG_CLOEXEC, since socket.recv_fds of Python 3.11 makes descriptors that every job would inherit.
                data, rights, _, _ = self._socket.recvmsg(_READ_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                break
            except OSError:
                self.lost = True
                break
            for level, kind, payload in rights:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    usable = len(payload) - len(payload) % _DESCRIPTOR.size
                    self.descriptors += [number for (number,) in _DESCRIPTOR.iter_unpack(payload[:usable])]
            if not data:
                self.lost = True
                break
            try:
                frames += self._decoder.feed(data)
            except WireError:
                self.lost = True
                break
            if len(data) < _READ_BYTES:
                break
        return frames

    def close(self) -> None:
        """Close the connection and every descriptor that nobody took."""
        self.lost = True
        for descriptor in [*self.descriptors, *(number for _, numbers in self._queue for number in numbers)]:
            os.close(descriptor)
        self.descriptors.clear()
        self._queue.clear()
        self._socket.close()
