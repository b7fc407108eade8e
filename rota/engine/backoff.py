"""How a loop waits after trouble: longer each time, never in step with the others, a few log lines only."""

from __future__ import annotations

import random

SECONDS_FIRST = 0.1
SECONDS_MAX = 5.0


class Backoff:
    """Counts the failures in a row of one loop."""

    def __init__(self) -> None:
        self.failures = 0

    def succeeded(self) -> bool:
        """Note a good round; tell whether trouble has just ended."""
        recovered = self.failures > 0
        self.failures = 0
        return recovered

    def failed(self) -> float:
        """Note a bad round and return how many seconds to wait."""
        self.failures += 1
        return min(SECONDS_MAX, SECONDS_FIRST * 2.0 ** min(self.failures - 1, 10)) * random.uniform(0.5, 1.0)

    def is_worth_a_line(self) -> bool:
        """Tell whether this failure in a row is logged: the 1st, 2nd, 4th, 8th and so on."""
        return self.failures & (self.failures - 1) == 0
