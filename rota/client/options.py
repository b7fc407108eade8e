"""The keyword options of jobs and schedules, as Python's callers give them: known, or refused with the nearest one.

What their values may be is ``rota.model``'s. Imported by every process of a decorated job, so it stays light.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from rota.errors import Invalid
from rota.model.job import JobKind, JobSpec
from rota.model.schedule import ScheduleSpec

_KINDS = tuple(kind.value for kind in JobKind)
JOB_OPTIONS = sorted(set(inspect.signature(JobSpec.checked).parameters) - {"name", "kind", "target"} | set(_KINDS))
SCHEDULE_OPTIONS = sorted(set(inspect.signature(ScheduleSpec.checked).parameters) - {"name"})


def check_job_options(options: Mapping[str, Any], *, new: bool) -> dict[str, Any]:
    """Turn options into what a definition takes: ``call``, ``command``, ``shell`` or ``sql`` into kind and target.

    For a new job None is an option that is not given; for an edited one it gives an option back its default.

    Raises:
        Invalid: none of the four where there must be one, more than one, or an option that no job has.
    """
    check_names("job", options, JOB_OPTIONS)
    given = [kind for kind in _KINDS if options.get(kind) is not None]
    if len(given) > 1 or (new and not given):
        raise Invalid("job", " and ".join(given) if given else [], "it has exactly one of call, command, shell and sql")
    found = {name: value for name, value in options.items() if name not in _KINDS and not (new and value is None)}
    return found | ({"kind": given[0], "target": options[given[0]]} if given else {})


def check_schedule_options(options: Mapping[str, Any], *, new: bool) -> dict[str, Any]:
    """Return ``options`` if each is one that schedules have.

    Raises:
        Invalid: one is not.
    """
    check_names("schedule", options, SCHEDULE_OPTIONS)
    return {name: value for name, value in options.items() if not (new and value is None)}


def check_names(what: str, options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Check that each option is one of those that are known.

    Raises:
        Invalid: one is not.
    """
    for name, value in options.items():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(known)}"
            raise Invalid(name, value, f"a {what} has no such option{hint}")
