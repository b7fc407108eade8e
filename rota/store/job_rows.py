"""What is written of a job: its definition as the columns of a row.

Called by ``jobs`` for what people define, and by ``alerts`` for the jobs that Rota makes itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row

from rota.model.dependencies import UpstreamFailure
from rota.model.job import JobSpec
from rota.model.placement import RunsOn
from rota.store.breakers import CLOSED

WORD_LISTS = ("retry_on", "no_retry_on", "secrets", "prefer", "exclude", "mutexes", "after", "alert", "alert_on")


def encode_definition(definition: Mapping[str, Any]) -> str:
    """Write a definition so that equal ones are equal texts."""
    return json.dumps(definition, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def columns_of(spec: JobSpec, row: Row[Any] | None = None) -> dict[str, Any]:
    """Return what is written of a job, or into its ``row``."""
    was_for_any = row is None or row.runs_on is None
    return spec.definition() | {
        "upstream_failure": None if spec.upstream_failure is UpstreamFailure.WAIT else spec.upstream_failure.value,
        # Groups may hold the keys of a job that was for all nodes once; only there are they looked for.
        "runs_on": None if was_for_any and spec.runs_on is RunsOn.ANY else spec.runs_on.value,
        "target": spec.target if isinstance(spec.target, str) else json.dumps(spec.target, ensure_ascii=False),
        "variables": encode_definition(spec.variables),
        "run_as_groups": None if spec.run_as_groups is None else json.dumps(spec.run_as_groups, ensure_ascii=False),
        **{name: _encode_words(getattr(spec, name)) for name in WORD_LISTS},
        "keep": json.dumps(dict(spec.keep)) if spec.keep else None,
        "timeline": None if spec.timeline is None else spec.timeline.text,
        # Else one that is given later would begin where the one before it stood.
        **(CLOSED if spec.breaker_failures is None else {}),
    }


def _encode_words(words: Sequence[str]) -> str | None:
    return json.dumps(words, ensure_ascii=False) if words else None
