"""Which run the code that asks belongs to: the one of its process, or, in an executor process, that of its context.

An executor process serves many runs at once, so that the environment of the process says nothing about any of them.
What a thread or task of a run asks goes through ``current`` there; everywhere else that is None. Imports stay few: this
is loaded in every Python job.
"""

from __future__ import annotations

import os
from contextvars import ContextVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Protocol

    from rota.execution.wire import Frame, Message

    class InlineRun(Protocol):
        """A run of an executor process, as its code reaches it."""

        @property
        def facts(self) -> Mapping[str, str]:
            """Return what a job's process has as ``ROTA_*`` variables."""
            ...

        @property
        def told(self) -> LastTold:
            """Return what was told of its progress last."""
            ...

        def ask(self, message: Message, blob: bytes) -> Frame:
            """Answer as a guardian does."""
            ...


EXECUTOR_VARIABLE = "ROTA_EXECUTOR"  # in an executor process: its kind

current: ContextVar[InlineRun | None] = ContextVar("rota_inline_run", default=None)


class LastTold:
    """The progress that left this process last, so that a loop does not send a thousand of them."""

    def __init__(self) -> None:
        self.at = 0.0
        self.message: str | None = None


def fact(name: str) -> str | None:
    """Give a ``ROTA_*`` fact about the run that asks."""
    run = current.get()
    return os.environ.get(name) if run is None else run.facts.get(name)
