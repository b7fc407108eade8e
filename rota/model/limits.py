"""What a job's processes may use, and with which rights: memory, CPU time, files, processes, urgency, umask, groups.

Every door reads what a user typed through ``Limits.checked``. A row of the store goes through it again before it is
acted on, since anything may have been written there by hand. What each one means to Linux is in
``rota.execution.limits``, which applies them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from rota.errors import Invalid
from rota.model.durations import DURATION_SECONDS_MAX, parse_duration

MEMORY_BYTES_MIN = 4 * 1024 * 1024  # below that not even `true` is loaded
MEMORY_BYTES_MAX = 1 << 50
OPEN_FILES_MIN = 3  # standard input and both outputs
OPEN_FILES_MAX = 1 << 30
PROCESSES_MAX = 4_194_304  # the kernel's own end of process ids
NICE_MIN, NICE_MAX = -20, 19
GROUPS_MAX = 100

# The columns whose numbers are held within a range, by the names of `JobSpec`'s fields.
RANGES: dict[str, tuple[float, float]] = {
    "memory_max_bytes": (0, MEMORY_BYTES_MAX),
    "cpu_max_seconds": (0, DURATION_SECONDS_MAX),
    "open_files_max": (0, OPEN_FILES_MAX),
    "processes_max": (0, PROCESSES_MAX),
    "nice": (NICE_MIN, NICE_MAX),
}
IONICE_CLASSES = {"realtime": 1, "best-effort": 2, "idle": 3}  # as Linux numbers them

_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([KMGTkmgt]?)(?:i?[Bb])?", re.ASCII)
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_SIZE_RULE = "a size looks like 512M, 2G or 1.5G (units of 1024), or is a number of bytes"
_IONICE = re.compile(r"(idle)|(best-effort)(?::([0-7]))?|(realtime):([0-7])", re.ASCII)
_UMASK = re.compile(r"0{0,2}[0-7]{1,3}", re.ASCII)
_GROUP = re.compile(r"[^\s:,/\x00-\x1f]{1,64}")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one attempt may use. None: as its worker, or as its user."""

    memory_max_bytes: int | None = None
    cpu_max_seconds: float | None = None
    open_files_max: int | None = None
    processes_max: int | None = None
    nice: int | None = None
    ionice: str | None = None  # idle, best-effort:N, realtime:N
    umask: str | None = None  # octal, three digits
    run_as_groups: tuple[str, ...] | None = None  # the first is its own; None: those of its user

    @classmethod
    def checked(
        cls,
        *,
        memory_max: object = None,
        cpu_max: object = None,
        open_files_max: object = None,
        processes_max: object = None,
        nice: object = None,
        ionice: object = None,
        umask: object = None,
        run_as_groups: object = None,
    ) -> Limits:
        """Read what a user gave.

        Raises:
            Invalid: a value breaks its rule; ``field`` is the name of the parameter.
        """
        return cls(
            memory_max_bytes=None if memory_max is None else parse_size("memory_max", memory_max),
            cpu_max_seconds=None if cpu_max is None else _check_cpu(cpu_max),
            open_files_max=_check_count("open_files_max", open_files_max, OPEN_FILES_MIN, OPEN_FILES_MAX),
            processes_max=_check_count("processes_max", processes_max, 1, PROCESSES_MAX),
            nice=_check_count("nice", nice, NICE_MIN, NICE_MAX),
            ionice=None if ionice is None else _check_ionice(ionice),
            umask=None if umask is None else _check_umask(umask),
            run_as_groups=None if run_as_groups is None else _check_groups(run_as_groups),
        )

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any]) -> Limits:
        """Read what stands in a job's row.

        Raises:
            Invalid: somebody wrote there what no door would have accepted.
        """
        return cls.checked(**{_PARAMETERS[name]: value for name, value in columns.items()})


_PARAMETERS = {
    "memory_max_bytes": "memory_max",
    "cpu_max_seconds": "cpu_max",
    "open_files_max": "open_files_max",
    "processes_max": "processes_max",
    "nice": "nice",
    "ionice": "ionice",
    "umask": "umask",
    "run_as_groups": "run_as_groups",
}
LIMIT_COLUMNS = tuple(_PARAMETERS)


def parse_size(field: str, value: object) -> int:
    """Return the bytes that ``value`` (text or a whole number) means.

    Raises:
        Invalid: it cannot be read, or is out of bounds.
    """
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise Invalid(field, value, _SIZE_RULE)
        size = round(float(match[1]) * (1 << _UNITS[match[2].upper()]))
    elif isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        raise Invalid(field, value, _SIZE_RULE)
    if not MEMORY_BYTES_MIN <= size <= MEMORY_BYTES_MAX:
        raise Invalid(field, value, f"it is from {format_size(MEMORY_BYTES_MIN)} to {format_size(MEMORY_BYTES_MAX)}")
    return size


def format_size(size: float) -> str:
    """Write a number of bytes for people: ``61.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.1f}".removesuffix(".0") + f" {unit}"
        size /= 1024
    return f"{size:.1f}".removesuffix(".0") + " TiB"


def ionice_numbers(ionice: str) -> tuple[int, int]:
    """Return the class and the level of a checked ``ionice``, as Linux numbers them."""
    word, _, level = ionice.partition(":")
    return IONICE_CLASSES[word], int(level or "0")


def _check_cpu(value: object) -> float:
    # Linux counts whole seconds here, and a limit of none is one that kills at once.
    return float(math.ceil(parse_duration("cpu_max", value, minimum=1.0)))


def _check_count(field: str, value: object, minimum: int, maximum: int) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,12}", value.strip(), re.ASCII):
        value = int(value)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        raise Invalid(field, value, f"it is a whole number from {minimum} to {maximum}")
    return value


def _check_ionice(value: object) -> str:
    match = _IONICE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise Invalid("ionice", value, "it is idle, best-effort:0 to best-effort:7, or realtime:0 to realtime:7")
    if match[1]:
        return "idle"
    return f"best-effort:{match[3] or 4}" if match[2] else f"realtime:{match[5]}"


def _check_umask(value: object) -> str:
    # A number is refused: nobody could tell whether 27 is meant as it is written.
    if not isinstance(value, str) or not _UMASK.fullmatch(value.strip()):
        raise Invalid("umask", value, "it is text of one to three octal digits, such as '027'")
    return f"{int(value.strip(), 8):03o}"


def _check_groups(value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise Invalid("run_as_groups", value, "it is a list of names of groups; the first is the job's own")
    given = cast("Sequence[object]", value)
    names = tuple(name for number, name in enumerate(given) if name not in given[:number])
    if not 1 <= len(names) <= GROUPS_MAX:
        rule = f"there are from 1 to {GROUPS_MAX} of them; leave it out for those of its user"
        raise Invalid("run_as_groups", given, rule)
    for name in names:
        if not isinstance(name, str) or not _GROUP.fullmatch(name):
            raise Invalid("run_as_groups", name, "it is the name of a group on the nodes")
    return cast("tuple[str, ...]", names)
