"""The guardian's ear towards its job: results, errors and questions, on a unix socket made for one attempt.

The path is in the job's ``ROTA_CONTROL``. One socket per attempt: what a process of an earlier attempt may still have
sent cannot reach the next one. The path is also the mark by which the sweep knows processes whose guardian died.
Requests are frames: ``result`` and ``checkpoint`` (the JSON text as blob), ``progress`` (fraction, message), ``error``
(type, message, traceback, bases), ``args``, ``saved`` and ``database`` (answered with the JSON of the arguments, of the
last checkpoint, or of what a transactional job needs to connect, as blob), ``stopping`` (answered with why the attempt
is being stopped, or null), ``retry`` (after so many seconds), ``release`` and ``skip`` (message): how the attempt is to
end when its process has ended, whatever its exit status. The answer is ``{"ok": true}`` or ``{"ok": false, "error":
sentence}``, with ``"preempted": true`` once the lease goes. The last result wins, and the last end.

Whoever begins with a character, as ``{`` is one, speaks lines of JSON instead of frames, with what is a blob there as
``value``. A line that is none is refused, and those beside it count.
"""

from __future__ import annotations

import json
import os
import select

from rota.execution.wire import CONTROL_BYTES_MAX, RESULT_BYTES_MAX, WISH_MARK, Channel, listen_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from rota.execution.masking import Mask
    from rota.execution.wire import Frame, Message

CONTROL_FOLDER = "c"
CLIENTS_MAX = 32  # connections a job may hold open at once
UNREAD_BYTES_MAX = 4 * 1024 * 1024  # of answers that a job asked for and does not read
ERROR_TEXT_MAX = 65536
PROGRESS_TEXT_MAX = 1000
ERROR_BASES_MAX = 100
AFTER_SECONDS_MAX = 3650 * 86400.0  # as any duration


class Ear:
    """Answers what a job says and asks, and keeps what it said."""

    def __init__(
        self,
        arguments: bytes,
        *,
        checkpoint: bytes = b"null",
        database: bytes = b"",
        is_preempted: Callable[[], bool] = lambda: False,
        why_stopping: Callable[[], str | None] = lambda: None,
        mask: Mask | None = None,  # what nothing that is kept may hold
    ) -> None:
        self.result: bytes | None = None
        self.error: tuple[str, str, str] | None = None
        self.progress: tuple[float | None, str | None] | None = None  # as told last
        self.checkpoint: bytes | None = None  # of this attempt
        self.has_news = False  # about the two
        self.has_heard_stop = False  # it has asked whether it is being stopped, and it was
        self.error_bases: list[str] = []
        self._saved = checkpoint
        self._database = database
        self._arguments = arguments
        self._is_preempted = is_preempted
        self._why_stopping = why_stopping
        self._mask = mask

    def answer(self, frame: Frame) -> tuple[Message, bytes]:
        """Take one frame and answer it."""
        message, blob = frame
        if message.get("op") in ("progress", "checkpoint") and self._is_preempted():
            sentence = "the lease of this attempt goes, and another one may follow: stop, and report nothing"
            return _refusal(sentence) | {"preempted": True}, b""
        match message.get("op"):
            case "progress":
                return self._note_progress(message), b""
            case "checkpoint" if len(blob) <= RESULT_BYTES_MAX:
                return self._note_checkpoint(blob), b""
            case "saved":
                return {"ok": True}, self._saved
            case "stopping":
                why = self._why_stopping()
                self.has_heard_stop = self.has_heard_stop or why is not None
                return {"ok": True, "why": why}, b""
            case "result" if not blob:
                return _refusal("a result has a value: JSON, null if there is none"), b""
            case "result" if len(blob) <= RESULT_BYTES_MAX:
                try:
                    blob.decode("utf-8")
                except UnicodeDecodeError:
                    return _refusal("the result is not UTF-8"), b""
                self.result = blob if self._mask is None else self._mask.clean_document(blob)
                return {"ok": True}, b""
            case "result" | "checkpoint" | "too_large" as what:
                size = message.get("bytes", len(blob))
                rule = f"{RESULT_BYTES_MAX} are the most; store it elsewhere and report where"
                return _refusal(f"the {what if what == 'checkpoint' else 'result'} has {size} bytes, and {rule}"), b""
            case "error":
                texts = [self._clean(str(message.get(key, ""))) for key in ("type", "message", "traceback")]
                # Of a long traceback the end tells most.
                self.error = (texts[0][:200], texts[1][:ERROR_TEXT_MAX], texts[2][-ERROR_TEXT_MAX:])
                bases: list[object] = message["bases"] if isinstance(message.get("bases"), list) else []
                self.error_bases = [self._clean(str(name))[:200] for name in bases[:ERROR_BASES_MAX]]
                return {"ok": True}, b""
            case "retry" | "release" | "skip" as wish:
                return self._note_wish(wish, message), b""
            case "args":
                return {"ok": True}, self._arguments
            case "database" if self._database:
                return {"ok": True}, self._database
            case "database":
                return _refusal("this job is not transactional: declare it with delivery='transactional'"), b""
            case "nonsense":
                return _refusal(str(message.get("error"))), b""
            case other:
                return _refusal(f"the guardian does not know {other!r}; it knows {', '.join(_KNOWN)}"), b""

    def _note_progress(self, message: Message) -> Message:
        fraction, text = message.get("fraction"), message.get("message")
        if fraction is not None:
            if isinstance(fraction, bool) or not isinstance(fraction, int | float):
                return _refusal(f"progress {fraction!r} is no number from 0 to 1")
            if not 0 <= fraction <= 1:  # and what is no number is not either
                return _refusal(f"progress {str(fraction)[:40]} is not from 0 to 1")
        if text is not None and not isinstance(text, str):
            return _refusal("the message of a progress is text")
        self.progress = (fraction, self._clean(text)[:PROGRESS_TEXT_MAX] if text else text)
        self.has_news = True
        return {"ok": True}

    def _note_wish(self, wish: str, message: Message) -> Message:
        after, text = message.get("after"), message.get("message")
        if after is not None and (wish != "retry" or isinstance(after, bool) or not isinstance(after, int | float)):
            return _refusal(f"after {str(after)[:40]!r} is no number of seconds, for a retry")
        if after is not None and not 0 <= after <= AFTER_SECONDS_MAX:
            return _refusal(f"after {after} is not from 0 to {AFTER_SECONDS_MAX:.0f} seconds")
        if text is not None and not isinstance(text, str):
            return _refusal(f"the message of a {wish} is text")
        told = f"{WISH_MARK}{wish}" if after is None else f"{WISH_MARK}{wish} {float(after)!r}"
        self.error = (told, self._clean(text or "")[:ERROR_TEXT_MAX], "")
        self.error_bases = []
        return {"ok": True}

    def _note_checkpoint(self, blob: bytes) -> Message:
        try:
            json.loads(blob.decode("utf-8"), parse_constant=_refuse_constant)  # of bytes it would read UTF-16 too
        except (ValueError, RecursionError) as error:
            return _refusal(f"the checkpoint is no JSON: {error}")
        self._saved = self.checkpoint = blob if self._mask is None else self._mask.clean_document(blob)
        self.has_news = True
        return {"ok": True}

    def _clean(self, text: str) -> str:
        return text if self._mask is None else self._mask.clean_sentence(text)


class Control(Ear):
    """An ear at a socket."""

    def __init__(
        self,
        path: str,
        arguments: bytes,
        owner: int | None,
        *,
        checkpoint: bytes = b"null",
        database: bytes = b"",
        is_preempted: Callable[[], bool] = lambda: False,
        why_stopping: Callable[[], str | None] = lambda: None,
        mask: Mask | None = None,
    ) -> None:
        super().__init__(
            arguments,
            checkpoint=checkpoint,
            database=database,
            is_preempted=is_preempted,
            why_stopping=why_stopping,
            mask=mask,
        )
        self.path = path
        self._clients: dict[int, Channel] = {}
        self._listener = listen_at(path, CLIENTS_MAX, owner)

    def interests(self) -> list[tuple[int, int]]:
        """List the descriptors to wait for, with the events of ``poll``."""
        both = select.POLLIN | select.POLLOUT
        clients = [(number, both if c.wants_write else select.POLLIN) for number, c in self._clients.items()]
        # With every place taken, those who knock wait in the backlog.
        return clients if len(clients) == CLIENTS_MAX else [(self._listener.fileno(), select.POLLIN), *clients]

    def handle(self, fileno: int) -> None:
        """Take what has come on one of ``interests()``."""
        if fileno == self._listener.fileno():
            self._accept()
        elif fileno in self._clients:
            self._serve(self._clients[fileno])

    def drain(self) -> None:
        """Take what has come and was not looked at yet; for the end, when no writer is left."""
        self._accept()
        for client in list(self._clients.values()):
            self._serve(client)

    def _accept(self) -> None:
        while len(self._clients) < CLIENTS_MAX:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._clients[connection.fileno()] = Channel(connection, CONTROL_BYTES_MAX, lines_ok=True)

    def _serve(self, client: Channel) -> None:
        for frame in client.receive():
            answer, blob = self.answer(frame)
            try:
                client.send(answer, blob)
            except (ValueError, RecursionError):  # a line holds JSON only, and a row may have been written by hand
                client.send(_refusal("what is kept of that is no JSON"))
            if client.unsent_bytes > UNREAD_BYTES_MAX:
                client.lost = True
                break
        client.flush()
        if client.lost:
            self._clients = {number: other for number, other in self._clients.items() if other is not client}
            client.close()

    def close(self) -> None:
        """Stop listening and remove the socket."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        self._listener.close()
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass


_KNOWN = (
    "result", "error", "progress", "checkpoint", "args", "saved", "stopping", "retry", "release", "skip",
)  # fmt: skip


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it has no {name}")


def _refusal(sentence: str) -> Message:
    return {"ok": False, "error": sentence}
