"""Secrets taken out of what a job says, before it is kept, told or written anywhere.

Invariant: what leaves a ``Mask`` or a ``MaskedCapture`` holds no secret as it is, nor as JSON, Python, URLs, base64 and
hexadecimal digits write it, also where it came in pieces. That guards against accidents: a job that wants to tell one
can, by writing it backwards. Used by the guardian, for jobs that have secrets; imports stay few.

Output is masked when somebody asks for it, or when there is no more room for what waits. So of a flood, whose middle is
kept nowhere, only what is kept is looked through.
"""

from __future__ import annotations

import binascii
import json
import re

from rota.execution.output import READ_BYTES, Capture

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

MASK = "***"
SHORTEST = 4  # characters: what is shorter is found everywhere
_ENCODED_SHORTEST = 8  # of the middle of a secret in base64: less may be anything
_LINE_BYTES = 76  # where base64 breaks its lines
_MASK = MASK.encode()
_CUT = b"..."
_CUTS_MAX = 1000
_UNRESERVED = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")


class Mask:
    """What stands for some secrets, in all that is said."""

    def __init__(self, secrets: Iterable[str]) -> None:
        """Look for these, none of them shorter than ``SHORTEST``."""
        found = {form for secret in secrets for form in _forms_of(secret) if len(form) >= SHORTEST}
        # The longest first, so that none of a secret is left over when a part of it is one too.
        self._forms = sorted(found, key=lambda form: (-len(form), form))
        self.longest = len(self._forms[0])
        # Looked for by their beginnings: compiling long texts would keep the job waiting.
        self._by_start: dict[bytes, list[bytes]] = {}
        for form in self._forms:
            self._by_start.setdefault(form[:SHORTEST], []).append(form)
        rests: dict[bytes, list[bytes]] = {}
        for start in self._by_start:
            rests.setdefault(start[:1], []).append(re.escape(start[1:]))
        groups = (re.escape(first) + b"(?:" + b"|".join(rest) + b")" for first, rest in rests.items())
        self._starts = re.compile(b"|".join(groups))

    def find(self, data: bytes) -> list[tuple[int, int]]:
        """Give where the secrets stand in ``data``: the first byte of each, and the one after it, in order."""
        spans: list[tuple[int, int]] = []
        at = 0
        while (begun := self._starts.search(data, at)) is not None:
            first = begun.start()
            at = first + 1
            for form in self._by_start[begun[0]]:
                if data.startswith(form, first):
                    at = first + len(form)
                    spans.append((first, at))
                    break
        return spans

    def clean(self, data: bytes) -> bytes:
        """Give ``data`` without the secrets."""
        parts: list[bytes] = []
        at = 0
        for first, end in self.find(data):
            parts += (data[at:first], _MASK)
            at = end
        return b"".join((*parts, data[at:])) if parts else data

    def clean_sentence(self, text: str) -> str:
        """Give ``text`` without the secrets, and without the beginning of one that somebody cut with three dots."""
        *cut, last = self.clean(_encode(text)).split(_CUT, _CUTS_MAX)
        return _decode(_CUT.join((*map(self._clean_end, cut), last)))

    def _clean_end(self, data: bytes) -> bytes:
        begun = self.count_begun(data)
        return data if begun < SHORTEST else data[:-begun] + _MASK

    def clean_document(self, data: bytes) -> bytes:
        """Give JSON without the secrets in its strings, names and numbers; what is no JSON is masked as it stands."""
        if b"\\" not in data and not self.find(data):
            return data
        try:
            value = json.loads(data)
            masked = self._clean_value(value)
            if masked == value and not self.find(data):
                return data
            found = json.dumps(masked, ensure_ascii=False, separators=(",", ":")).encode()
        except (ValueError, RecursionError):
            return self.clean(data)
        return json.dumps(MASK).encode() if self.find(found) else found

    def _clean_value(self, value: Any) -> Any:
        kind: object = type(value)  # pyright: ignore[reportUnknownVariableType] - of any JSON
        if kind is str:
            return _decode(self.clean(_encode(value)))
        if kind is dict:
            return {self._clean_value(name): self._clean_value(one) for name, one in value.items()}
        if kind is list:
            return [self._clean_value(one) for one in value]
        if kind in (int, float) and self.find(json.dumps(value).encode()):
            return MASK
        return value

    def count_begun(self, data: bytes) -> int:
        """Tell how many of the last bytes may be the beginning of a secret, of which the rest is to come."""
        most = 0
        for form in self._forms:
            window = data[max(0, len(data) - len(form) + 1) :]
            at = window.find(form[:SHORTEST])
            while at >= 0 and not form.startswith(window[at:]):
                at = window.find(form[:SHORTEST], at + 1)
            if at >= 0:
                most = max(most, len(window) - at)
            else:
                most = max(most, *(count for count in range(SHORTEST) if window.endswith(form[:count])))
        return most


class MaskedCapture(Capture):
    """Output without its secrets. What came last is held as it is until somebody asks for it."""

    def __init__(self, bytes_max: int, born_at: float, mask: Mask) -> None:
        super().__init__(bytes_max, born_at)
        self._mask_of = mask
        self._raw = bytearray()  # the end of what ``total`` counts, not looked through yet
        self._begun = 0  # how much of it was, and may be the beginning of a secret

    @property
    def has_news(self) -> bool:
        return self.told < self.total - self._begun

    def _keep(self, data: bytes) -> None:
        self.total += len(data)
        self._raw += data
        self._begun = 0
        if len(self._raw) > 2 * self._tail_max + self._mask_of.longest + READ_BYTES:
            if len(self.head) < self._head_max:
                self._settle()
            else:
                self._forget_middle()

    def _forget_middle(self) -> None:
        """Leave out what is neither head nor tail, without having looked through it: all but a tail's worth.

        The cut is where no secret stands: of one that is cut in two nobody would recognize the rest.
        """
        margin = self._mask_of.longest
        cut = len(self._raw) - self._tail_max - margin
        start = max(0, cut - margin)
        for first, end in self._mask_of.find(bytes(self._raw[start : cut + margin])):
            if start + first < cut < start + end:
                cut = start + end
        del self._raw[:cut]
        self._tail.clear()

    def _settle(self, *, is_last: bool = False) -> None:
        """Mask what has come, all but what may be the beginning of a secret; of the ``is_last`` that too."""
        if not self._raw or (self._begun and not is_last):
            return
        raw = bytes(self._raw)
        base = self.total - len(raw)
        stop = len(raw) if is_last else len(raw) - self._mask_of.count_begun(raw)
        spans: list[tuple[int, int]] = []
        used = 0
        for first, end in self._mask_of.find(raw):
            if first >= stop:
                break
            spans.append((first, end))
            used = end
            if used > stop:
                stop = len(raw) - self._mask_of.count_begun(raw[used:])
        if is_last and (begun := self._mask_of.count_begun(raw[used:])) >= SHORTEST:
            spans.append((len(raw) - begun, len(raw)))  # it was killed while it wrote one
        masked, marks = self._replace(raw[:stop], spans, base)
        self.marks = [mark for mark in self.marks if mark[0] < base] + marks
        self._raw = bytearray(raw[stop:])
        self._begun = len(self._raw)
        self.total = base
        super()._keep(masked)
        self.total += self._begun

    def _replace(self, raw: bytes, spans: list[tuple[int, int]], base: int) -> tuple[bytes, list[tuple[int, int]]]:
        """Put the mask in the place of ``spans``; give the marks from ``base`` on, moved accordingly."""
        parts: list[bytes] = []
        marks: list[tuple[int, int]] = []
        waiting = [mark for mark in self.marks if mark[0] >= base]
        at = shrunk = 0
        for first, end in (*spans, (len(raw), len(raw))):
            while waiting and waiting[0][0] - base < end:
                position, moment = waiting.pop(0)
                marks.append((min(position, base + first) - shrunk, moment))
            parts.append(raw[at:first])
            if first < end:
                parts.append(_MASK)
                shrunk += end - first - len(_MASK)
            at = end
        return b"".join(parts), marks + [(position - shrunk, moment) for position, moment in waiting]

    def end(self) -> None:
        self._settle(is_last=True)

    def tail(self) -> bytes:
        self._settle()
        return super().tail()

    def news(self) -> tuple[int, bytes]:
        self._settle()
        self.total -= self._begun
        found = super().news()
        self.total += self._begun
        return found


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _forms_of(secret: str) -> Iterator[bytes]:
    """Give the ways in which a secret may be written."""
    data = secret.encode()
    lines = [line for line in (line.strip() for line in data.split(b"\n")) if len(line) >= SHORTEST]
    for line in lines or [data]:  # each by itself, since programs write line by line
        yield line
        for quote in (b"'\\''", b"'\"'\"'"):  # of shells that say what they do
            yield line.replace(b"'", quote)
    for text in (json.dumps(secret), json.dumps(secret, ensure_ascii=False)):
        yield text[1:-1].encode()
        yield text[1:-1].replace("/", "\\/").encode()
    yield repr(secret)[1:-1].encode()
    yield repr(data)[2:-1].encode()
    for kept in (b"", b"/"):
        quoted = "".join(chr(byte) if byte in _UNRESERVED or byte in kept else f"%{byte:02X}" for byte in data)
        yield from (quoted.encode(), quoted.replace("%20", "+").encode())
        yield "".join(chr(byte) if byte in _UNRESERVED or byte in kept else f"%{byte:02x}" for byte in data).encode()
    yield from (data.hex().encode(), data.hex().upper().encode())
    for text in _base64_forms(data):
        yield text
        yield text.translate(bytes.maketrans(b"+/", b"-_"))


def _base64_forms(data: bytes) -> Iterator[bytes]:
    """Give a secret in base64: alone, over several lines, and wherever it stands within something longer."""
    whole = binascii.b2a_base64(data, newline=False).rstrip(b"=")
    yield whole
    for start in range(0, len(whole), _LINE_BYTES):
        if len(line := whole[start : start + _LINE_BYTES]) >= _ENCODED_SHORTEST:
            yield line
    for before, first in (
        (0, 0),
        (1, 2),
        (2, 3),
    ):  # bytes of something else, and the characters that they have a part in
        text = binascii.b2a_base64(bytes(before) + data, newline=False)[first : (before + len(data)) * 8 // 6]
        if len(text) >= _ENCODED_SHORTEST:
            yield text
