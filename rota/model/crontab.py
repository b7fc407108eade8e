"""Crontab files as jobs and schedules: a plan in which every line of the file is accounted for.

``read_crontab`` only reads; ``rota import crontab`` shows the plan or stores it. What a line means is what Debian's
cron makes of it:

- Variables hold for the lines below them. PATH is ``/usr/bin:/bin`` and SHELL ``/bin/sh`` unless set; HOME is where the
  command starts; LOGNAME cannot be set. CRON_TZ is the zone of the schedules below it, as in cronie.
- An unescaped ``%`` ends the command. What follows is its standard input, in which each further ``%`` ends a line.
  ``\\%`` is a ``%``. In the command ``\\\\`` is one backslash, as in Debian's cron; cronie keeps both: a note says so.
- MAILTO is noted: output is kept with the run. ``@reboot`` is refused: a schedule knows no machine that boots.

Schedules overlap as cron lets them (``allow``), and are caught up after an outage (``latest``), which cron does not do.
A name is the file's and the program's, with ``:2``, ``:3`` for its next lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from rota.errors import Invalid
from rota.model.instants import check_zone
from rota.model.job import JobKind, JobSpec
from rota.model.names import NAME_LENGTH_MAX, check_name
from rota.model.schedule import ZONE_DEFAULT, ScheduleSpec
from rota.model.slot_rule import Overlap

PATH_DEFAULT = "/usr/bin:/bin"
SHELL_DEFAULT = "/bin/sh"

_VARIABLE = re.compile(r"""\s*(?:"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<plain>[^\s="']+))\s*=\s*(?P<value>.*)""")
_FIELDS = re.compile(r"(?P<when>@\S+|-?\S+(?:[ \t]+\S+){4})(?:[ \t]+(?P<rest>.*))?")
_WORD = re.compile(r"[^\s;&|()<>!{}'\"`]+")
# What a shell line checks or prepares before it comes to the point.
_GUARD = re.compile(r"\s*(?:if\s+|!\s*)*(?:test|\[{1,2}|command|cd|which|export)\s[^&|;]*(?:&&|\|\||;)\s*")
# Words at the head of a shell line that say nothing about what it is for.
_SMALL_WORDS = frozenset(
    {"[", "]", "cd", "command", "env", "exec", "flock", "if", "ionice", "nice", "nohup", "set", "sleep", "sudo", "test"}
    | {"then", "timeout", "true"}
)
_VARIABLE_NOTES = {
    "MAILTO": "Rota sends no mail: output is kept with the run",
    "MAILFROM": "Rota sends no mail: output is kept with the run",
    "CRON_TZ": "the zone of the schedules below",
    "HOME": "where the commands below start",
    "SHELL": "what runs the commands below",
    "RANDOM_DELAY": "not known to Debian's cron; given to the commands below, and delays nothing",
}


class LineKind(StrEnum):
    """What a line of a crontab is."""

    BLANK = "blank"
    COMMENT = "comment"
    VARIABLE = "variable"
    ENTRY = "entry"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class CrontabEntry:
    """What one line becomes."""

    job: JobSpec
    schedule: ScheduleSpec
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CrontabLine:
    """One line of the file, and what it was taken for; ``note`` is the rule that refused it, or worth knowing."""

    number: int
    text: str
    kind: LineKind
    note: str = ""
    entry: CrontabEntry | None = None


@dataclass(frozen=True, slots=True)
class CrontabPlan:
    """All lines of a crontab, in their order."""

    source: str
    prefix: str  # what the names begin with, up to a slash
    lines: tuple[CrontabLine, ...]

    @property
    def entries(self) -> tuple[CrontabEntry, ...]:
        """The jobs and schedules to store."""
        return tuple(line.entry for line in self.lines if line.entry is not None)

    @property
    def refused(self) -> tuple[CrontabLine, ...]:
        """The lines that cannot be used, each with the rule it breaks."""
        return tuple(line for line in self.lines if line.kind is LineKind.REFUSED)

    def counts(self) -> dict[LineKind, int]:
        """How many lines there are of each kind; together, all of them."""
        return {kind: sum(1 for line in self.lines if line.kind is kind) for kind in LineKind}


def read_crontab(
    text: str,
    *,
    system: bool,
    source: str,
    zone: str = ZONE_DEFAULT,
    prefix: str | None = None,
    user: str | None = None,
    home_of: Callable[[str], str | None] | None = None,
) -> CrontabPlan:
    """Plan what a crontab becomes; nothing is refused as a whole because of one line.

    ``system`` files name a user in each entry; others belong to ``user``, or run as whoever the worker is. ``source``
    is the file's name, ``prefix`` what the names begin with instead of it, ``zone`` the machine's, where CRON_TZ names
    no other, and ``home_of`` looks up a user's home.

    Raises:
        Invalid: ``prefix`` cannot begin a name.
    """
    base = check_name("prefix", prefix) if prefix else _slug(source.rstrip("/").rpartition("/")[2]) or "crontab"
    reader = _Reader(system, source, zone, base, user, home_of or (lambda _: None))
    return CrontabPlan(source, reader.prefix, tuple(reader.read_lines(text)))


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry, taken apart."""

    when: str
    user: str | None
    command: str
    stdin: str | None
    notes: tuple[str, ...]


class _Reader:
    """Reads the lines of one file in their order, with the variables in force."""

    def __init__(
        self,
        system: bool,
        source: str,
        zone: str,
        base: str,
        user: str | None,
        home_of: Callable[[str], str | None],
    ) -> None:
        self._system = system
        self._source = source
        self._zone = zone
        self._base = base
        self.prefix = f"{base[: NAME_LENGTH_MAX - 60]}/"
        self._user = user
        self._home_of = home_of
        self._variables: dict[str, str] = {}
        self._names: dict[str, int] = {}

    def read_lines(self, text: str) -> Iterator[CrontabLine]:
        lines = text.split("\n")
        if lines[-1] == "":
            lines.pop()
        for number, raw in enumerate(lines, 1):
            line = raw.rstrip("\r")  # files that were edited on Windows; cron would hand it to the command
            try:
                yield self._read_line(number, line)
            except Invalid as error:
                yield CrontabLine(number, line, LineKind.REFUSED, str(error))

    def _read_line(self, number: int, line: str) -> CrontabLine:
        stripped = line.lstrip(" \t")
        if not stripped.rstrip():
            return CrontabLine(number, line, LineKind.BLANK)
        if stripped.startswith("#"):
            return CrontabLine(number, line, LineKind.COMMENT)
        variable = _VARIABLE.fullmatch(stripped)
        if variable is not None:
            return CrontabLine(number, line, LineKind.VARIABLE, self._set_variable(variable))
        entry = self._make_entry(_split_entry(stripped, system=self._system, user=self._user))
        return CrontabLine(number, line, LineKind.ENTRY, "; ".join(entry.notes), entry)

    def _set_variable(self, match: re.Match[str]) -> str:
        name = match["double"] or match["single"] or match["plain"] or ""
        value = match["value"].rstrip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        if name in {"LOGNAME", "USER"}:
            return f"{name} cannot be set in a crontab; left out"
        # Checked as the variables of a job would be, so that the line itself is refused and not those below.
        JobSpec.checked("check", kind=JobKind.SHELL, target="true", variables={name: value})
        self._variables[name] = value
        if name == "CRON_TZ":
            check_zone(name, value)  # and what is below is refused with it
        return _VARIABLE_NOTES.get(name, "")

    def _make_entry(self, parts: _Entry) -> CrontabEntry:
        home = self._variables.get("HOME") or (self._home_of(parts.user) if parts.user else None)
        shell = self._variables.get("SHELL") or SHELL_DEFAULT
        if not shell.startswith("/"):
            raise Invalid("SHELL", shell, "a shell is an absolute path")
        known = {"PATH": PATH_DEFAULT, "SHELL": shell, "HOME": home, "LOGNAME": parts.user}
        variables = {name: value for name, value in known.items() if value is not None} | self._variables
        is_plain = shell == SHELL_DEFAULT
        job = JobSpec.checked(
            self._base,
            kind=JobKind.SHELL if is_plain else JobKind.COMMAND,
            target=parts.command if is_plain else [shell, "-c", parts.command],
            stdin=parts.stdin,
            cwd=home,
            run_as=parts.user,
            variables=variables,
        )
        schedule = ScheduleSpec.checked(
            self._base,
            job=self._base,
            cron=parts.when,
            tz=self._variables.get("CRON_TZ") or self._zone,
            overlap=Overlap.ALLOW,
        )
        # The name comes last, so that a refused line takes none.
        name = self._choose_name(parts.command)
        return CrontabEntry(job.edited(name=name), schedule.edited(name=name, job=name), parts.notes)

    def _choose_name(self, command: str) -> str:
        name = self.prefix + _name_command(command)
        self._names[name] = self._names.get(name, 0) + 1
        return name if self._names[name] == 1 else f"{name}:{self._names[name]}"


def _split_entry(line: str, *, system: bool, user: str | None) -> _Entry:
    match = _FIELDS.fullmatch(line)
    if match is None:
        raise Invalid("line", line, "an entry has five fields, or an @ name, and a command")
    when, rest = match["when"], (match["rest"] or "").strip()
    notes: list[str] = []
    if when.startswith("-"):
        when = when[1:]
        notes.append("the - before the minute, which keeps cron from logging, has no meaning here")
    if system:
        if not rest:
            raise Invalid("line", line, "an entry of a system crontab names a user after the fields")
        user, *remaining = rest.split(None, 1)
        rest = remaining[0] if remaining else ""
    command, stdin = split_percent(rest)
    if not command.strip():
        where = "after the user" if system else "after the fields"
        raise Invalid("line", line, f"an entry has a command {where}")
    if "\\\\" in _read_command(rest):
        notes.append("Debian's cron makes one backslash of two in a command, and so does this")
    return _Entry(when, user, command.strip(), stdin, tuple(notes))


def split_percent(text: str) -> tuple[str, str | None]:
    """Split what follows the fields into the command and its standard input, which is None when there is none."""
    raw = _read_command(text)
    command = re.sub(r"\\([%\\])", r"\1", raw)
    given = text[len(raw) + 1 :]
    if not given:
        return command, None
    stdin = re.sub(r"\\%|%", lambda found: "%" if found[0] == "\\%" else "\n", given)
    return command, stdin if stdin.endswith("\n") else stdin + "\n"


def _read_command(text: str) -> str:
    """Return what comes before the first ``%`` that no backslash escapes, as it stands."""
    match = re.match(r"(?:\\.|[^%\\])*\\?", text)
    assert match is not None, "it matches the empty text too"
    return match[0]


def _name_command(command: str) -> str:
    """Find the words that say what a shell line is for: a script's or a program's name, or the folder of run-parts."""
    shown = command
    while (guard := _GUARD.match(shown)) and guard.end() < len(shown):
        shown = shown[guard.end() :]
    words = [word for word in _WORD.findall(shown) if not word.startswith("-")]
    if "run-parts" in words[:-1]:
        folder = words[words.index("run-parts") + 1]
        return (_slug(f"run-parts-{folder.rstrip('/').rpartition('/')[2]}") or "run-parts")[:40]
    for word in words:
        program = _slug(word.rstrip("/").rpartition("/")[2])
        if program and program not in _SMALL_WORDS and "=" not in word and "$" not in word and not program.isdigit():
            return program[:40]
    return "command"


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-._")
