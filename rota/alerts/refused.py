"""What ends the sending of an alert for good. Named by the jobs that send: see ``rota.store.alerts``."""

from __future__ import annotations


class Refused(Exception):
    """It would be refused again, however often it is tried. The sentence is for people, and holds no secret."""


class Unreachable(Exception):
    """It may be better later. The sentence is for people, and holds no secret."""

    def __init__(self, sentence: str, after_seconds: float | None = None) -> None:
        super().__init__(sentence)
        self.after_seconds = after_seconds  # when the other side asks to be tried again; None: it does not say
