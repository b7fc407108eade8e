"""What a job wrote, as markup: colours by classes, and nothing else that a terminal would obey.

Invariant: the only place that makes markup from text. Every piece of text is escaped before it is put between tags that
stand here as they are, with classes out of a fixed list. Of escape sequences only those that choose colours and the
like do something; all others (titles, links, cursors, answers) are left out, and other control characters are shown.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, replace

from markupsafe import Markup, escape

SEQUENCE_LENGTH_MAX = 4096  # of what an escape sequence may hold; a longer one is none, and is shown
STYLE_LENGTH_MAX = 60
_ESC = "\x1b"
# What begins a string ends the one before it, as in a terminal. It also keeps the search linear: else each of many
# beginnings would look through the thousands of characters that follow.
_SEQUENCE = re.compile(
    r"""
    (?:\x1b\[|\x9b)(?P<numbers>[0-9;:]{0,200})m         # colours and the like
    | (?:\x1b\[|\x9b)[0-?]{0,200}[\x20-/]{0,20}[@-~]    # anything else with parameters: cursors, modes
    | (?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x90\x98\x9c-\x9f]{0,4096}(?:\x07|\x1b\\|\x9c)  # strings: links
    | \x1b[\x20-/]{1,20}[0-~]                           # character sets
    | \x1b[0-OQ-WYZ\\`-~]                               # all that is two characters long
    """,
    re.VERBOSE,
)
# What could become a sequence when more comes.
_BEGUN = re.compile(
    r"""
    (?: \x1b
      | (?:\x1b\[|\x9b)[0-?]{0,200}[\x20-/]{0,20}
      | (?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x90\x98\x9c-\x9f]{0,4096}\x1b?
      | \x1b[\x20-/]{1,20}
    )\Z
    """,
    re.VERBOSE,
)
# Control characters but for tab and line feed. Those below a space have pictures of their own.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_STYLE = re.compile(rf"[0-9;]{{0,{STYLE_LENGTH_MAX}}}")
_LEVELS = (0, 95, 135, 175, 215, 255)


@dataclass(frozen=True, slots=True)
class Style:
    """How text is shown. Colours are numbers from 0 to 15; None is the page's own."""

    front: int | None = None
    back: int | None = None
    flags: frozenset[str] = frozenset()

    @property
    def classes(self) -> str:
        """The classes of the style sheet."""
        names = sorted(self.flags)
        if self.front is not None:
            names.append(f"f{self.front}")
        if self.back is not None:
            names.append(f"b{self.back}")
        return " ".join(names)

    @property
    def numbers(self) -> str:
        """The sequence that chooses it, without its ends."""
        codes = [str(_CODES[flag]) for flag in sorted(self.flags)]
        for colour, base in ((self.front, 30), (self.back, 40)):
            if colour is not None:
                codes.append(str(base + colour if colour < 8 else base + 52 + colour))
        return ";".join(codes)


_CODES = {"bold": 1, "faint": 2, "italic": 3, "underline": 4, "inverse": 7, "strike": 9}
_FLAGS = {number: flag for flag, number in _CODES.items()}
_ENDS = {21: {"bold"}, 22: {"bold", "faint"}, 23: {"italic"}, 24: {"underline"}, 27: {"inverse"}, 29: {"strike"}}
PLAIN = Style()


def read_style(text: str) -> Style:
    """Return the style that ``Style.numbers`` has written; what nobody could have is plain."""
    return apply(PLAIN, text) if _STYLE.fullmatch(text) and text else PLAIN


def apply(style: Style, numbers: str) -> Style:
    """Return what becomes of a style by a sequence with these numbers. What is unknown changes nothing."""
    codes = [int(code[:6] or "0") for code in re.split("[;:]", numbers)]
    while codes:
        code = codes.pop(0)
        if code == 0:
            style = PLAIN
        elif code in _FLAGS:
            style = replace(style, flags=style.flags | {_FLAGS[code]})
        elif code in _ENDS:
            style = replace(style, flags=style.flags - _ENDS[code])
        elif 30 <= code <= 37 or 90 <= code <= 97:
            style = replace(style, front=code - 30 if code < 90 else code - 82)
        elif 40 <= code <= 47 or 100 <= code <= 107:
            style = replace(style, back=code - 40 if code < 100 else code - 92)
        elif code == 39:
            style = replace(style, front=None)
        elif code == 49:
            style = replace(style, back=None)
        elif code in (38, 48):
            colour = _take_colour(codes)
            if colour is not None:
                style = replace(style, front=colour) if code == 38 else replace(style, back=colour)
    return style


def _take_colour(codes: list[int]) -> int | None:
    """Take one of 256, or of millions of colours, and return the one of 16 that comes near."""
    match codes[:1]:
        case [5] if len(codes) > 1:
            number = codes[1]
            del codes[:2]
            if number < 16:
                return number
            if number < 232:
                number -= 16
                return _near(_LEVELS[number // 36], _LEVELS[number // 6 % 6], _LEVELS[number % 6])
            return _near(*((number - 232) * 10 + 8,) * 3) if number < 256 else None
        case [2] if len(codes) > 3:
            red, green, blue = codes[1:4]
            del codes[:4]
            return _near(red, green, blue) if max(red, green, blue) < 256 else None
        case _:
            codes.clear()
            return None


def _near(red: int, green: int, blue: int) -> int:
    most, least = max(red, green, blue), min(red, green, blue)
    if most - least < 40:  # grey
        return (0, 8, 7, 15)[min(most // 64, 3)]
    half = (most + least) // 2
    hue = (red > half) + 2 * (green > half) + 4 * (blue > half)
    return hue + (8 if most > 200 else 0)


class Writer:
    """Writes one stream, piece by piece: a character or a sequence may be cut in two."""

    def __init__(self, style: Style = PLAIN) -> None:
        self.style = style
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    @property
    def held(self) -> int:
        """How many bytes at the end are not written yet: what they mean is seen when more comes."""
        return len(self._rest.encode()) + len(self._decoder.getstate()[0])

    def write(self, data: bytes, *, is_last: bool = False) -> Markup:
        """Return the markup of what came next."""
        text = self._rest + self._decoder.decode(data, is_last)
        self._rest = ""
        if not is_last:
            begun = _BEGUN.search(text, max(0, len(text) - SEQUENCE_LENGTH_MAX - 10))
            # What was no UTF-8 is no longer as long as it was, and `held` counts what was written: not held back.
            at = begun.start() if begun and "\ufffd" not in begun[0] else len(text)
            if begun is None and text.endswith("\r"):
                at -= 1
            text, self._rest = text[:at], text[at:]
        pieces: list[Markup] = []
        place = 0
        for found in _SEQUENCE.finditer(text):
            pieces.append(self._span(text[place : found.start()]))
            if (numbers := found["numbers"]) is not None:
                self.style = apply(self.style, numbers)
            place = found.end()
        pieces.append(self._span(text[place:]))
        return Markup("").join(pieces)

    def _span(self, text: str) -> Markup:
        if not text:
            return Markup("")
        shown = escape(show_controls(text))
        classes = self.style.classes
        return Markup('<span class="{}">{}</span>').format(classes, shown) if classes else shown


def show_controls(text: str) -> str:
    """Make control characters visible; a carriage return begins a line."""
    return _CONTROL.sub(_picture, text.replace("\r\n", "\n").replace("\r", "\n"))


def _picture(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"\\x{code:02x}"
