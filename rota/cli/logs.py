"""Where words go that are no answer: a worker's own to standard error, or to a file that may be rotated under it; and
what the client warns of, under any other command.

Called when a worker starts, and by its USR2: whoever has moved the file away wants a new one of the old name.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from rota.cli.screen import clean
from rota.errors import ConfigError

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Warnings(logging.Handler):
    """What the client warns of, a line each on standard error, until it is closed."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        logging.getLogger("rota.client").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Show one."""
        click.echo(clean(f"warning: {record.getMessage()}"), err=True)

    def close(self) -> None:
        """Show no more."""
        logging.getLogger("rota.client").removeHandler(self)
        super().close()


class LogFile(logging.FileHandler):
    """A file that can be opened anew without losing a line."""

    def reopen(self) -> None:
        """Go on in a new file of the same name; where that cannot be made, in the old one."""
        self.acquire()
        try:
            before = self.stream
            self.stream = self._open()
            if before is not None:  # pyright: ignore[reportUnnecessaryComparison] - after close() it is None
                before.close()
        finally:
            self.release()


class Logs:
    """The logging of this process."""

    def __init__(self, log_file: Path | None, *, level: int = logging.INFO) -> None:
        self._log_file = log_file
        self._handler: logging.Handler
        if log_file is None:
            self._handler = logging.StreamHandler(sys.stderr)
        else:
            try:
                self._handler = LogFile(log_file, encoding="utf-8")
            except OSError as error:
                raise ConfigError(f"the log file {str(log_file)!r} cannot be opened: {error.strerror}") from error
        self._handler.setFormatter(logging.Formatter(FORMAT))
        root = logging.getLogger("rota")
        root.addHandler(self._handler)
        root.setLevel(level)
        root.propagate = False

    def warn_of_another(self, log_file: Path | None) -> None:
        """Say so when the configuration names another file now: a process keeps the one it began with."""
        if log_file != self._log_file:
            logging.getLogger("rota.worker").warning("a new log_file needs a restart; the old one stays in force")

    def reopen(self) -> None:
        """Open the log file anew."""
        if isinstance(self._handler, LogFile):
            try:
                self._handler.reopen()
            except OSError as error:
                logging.getLogger("rota.worker").error("the log file stays the old one: %s", error)
