"""A callable in a process that a warm parent has forked: called, and ended as an interpreter would end it.

Called by the warm parent, in the child.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import os
import sys
import threading
import traceback
from typing import TYPE_CHECKING

from rota.execution import python_job

if TYPE_CHECKING:
    from typing import NoReturn


# The plain class below every file, also those written in Python: asking the abstract io.IOBase copies far more memory.
_ANY_FILE = io.IOBase.__mro__[1]


def run_callable(target: str) -> int:
    """Call the job as ``python_job`` does when it is executed, and give the status."""
    try:
        return python_job.main(target)
    except SystemExit as error:
        if error.code is None:
            return 0
        if isinstance(error.code, int):
            return error.code & 0xFF
        print(error.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - as an interpreter does with what nobody caught
        traceback.print_exc()
    return 1


def end_process(status: int) -> NoReturn:
    """End as an interpreter does: threads, exit hooks (those of the imports too), garbage, files, streams.

    What is left out is taking every module apart: that would copy most of what is shared with the parent.
    """
    try:
        for step in (_join_threads, _run_exit_hooks, gc.collect, _close_files):
            try:
                step()
            except BaseException:  # noqa: BLE001 - told, and no reason to leave out the rest
                traceback.print_exc()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()
    except BaseException:  # noqa: BLE001 - the top of this process
        status = status or 120  # what an interpreter gives when it cannot write its output
    finally:
        os._exit(status)


# Both are what the interpreter itself calls when it ends; there are no public names for them.
def _join_threads() -> None:
    threading._shutdown()  # noqa: SLF001 # pyright: ignore


def _run_exit_hooks() -> None:
    atexit._run_exitfuncs()  # noqa: SLF001 # pyright: ignore


def _close_files() -> None:
    """Close the files that the job has left open, the outermost layer first: what they hold back is written then."""
    # The imports have left none open, and what they made is frozen: these are the job's own.
    found: list[io.IOBase] = [one for one in gc.get_objects() if issubclass(type(one), _ANY_FILE)]
    found.sort(key=_layer)
    for file in found:
        with contextlib.suppress(Exception):
            if not file.closed:
                file.flush() if _is_standard(file) else file.close()


def _is_standard(file: io.IOBase) -> bool:
    try:
        return file.fileno() <= 2
    except OSError:
        return False  # nothing of the system is behind it


def _layer(file: object) -> int:
    if isinstance(file, io.TextIOBase):
        return 0
    if isinstance(file, io.BufferedIOBase):
        return 2 if type(file) in (io.BufferedWriter, io.BufferedRandom, io.BufferedReader) else 1
    return 3
