"""How long the key of a run keeps another run of it from being made."""

from __future__ import annotations

from rota.errors import Invalid
from rota.model.durations import parse_duration

FOR_EVER = "forever"
FOR_EVER_SECONDS = -1.0  # as the column keeps it


def check_unique_for(value: object, key: str | None) -> float | None:
    """Return for how many seconds after it was asked for a run holds its key: -1 for ever, None until its end.

    Raises:
        Invalid: it is no duration and not ``forever``, or there is no key.
    """
    if value is None:
        return None
    if key is None:
        raise Invalid("unique_for", value, "it says how long a key holds: give the key too")
    if value == FOR_EVER:
        return FOR_EVER_SECONDS
    return parse_duration("unique_for", value)


def show_unique_for(seconds: float | None) -> str | float | None:
    """Return it as the doors show it."""
    return FOR_EVER if seconds is not None and seconds < 0 else seconds
