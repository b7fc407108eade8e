"""The process of a Python callable: import it, call it, report what it returned or raised.

Run as ``python -P -m rota.execution.python_job package.module:function``. Arguments come from ``ROTA_ARGS``, or from
the guardian where they are long: an object for keyword arguments, a list for positional ones. The callable is what a
``@rota.job`` decorates, if it is one. Whatever goes wrong is told to the guardian and ends the process with status 1;
a process that ends with 0 has reported a result.

Error types, and the names of their bases, are qualified, but for builtins and ``BadResult``: the callable returned what
is not JSON.
"""

from __future__ import annotations

import importlib
import json
import sys

from rota.errors import Invalid, StateError
from rota.execution.report import read_arguments, report_error, report_outcome, report_result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

BAD_RESULT = "BadResult"
OURS = {__file__, importlib.__file__}  # whose frames at the top of a traceback tell the job's author nothing


class BadResult(Exception):
    """The callable returned what cannot be kept."""


def main(target: str) -> int:
    """Call ``target``, and give the process's exit status."""
    return carry_out(target, lambda: encode_result(target, call(find_callable(target), read_values())))


def carry_out(target: str, work: Callable[[], str]) -> int:
    """Do ``work``, which gives the result of ``target`` as JSON text; tell how it went, and give the exit status."""
    stdout: Any = sys.stdout
    if hasattr(stdout, "reconfigure"):
        stdout.reconfigure(line_buffering=True)  # what was printed shall not be lost when the process is killed
    try:
        try:
            # For the result, now: a deploy may have taken the installation away when the job has run.
            importlib.import_module("rota.model.documents")
            text = work()
        except SystemExit:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever the job raises is its end, to be told
            return tell_raised(error)
        report_result(text)
        return 0
    except StateError as error:
        print(f"rota: {error}", file=sys.stderr)
        return 1


def tell_raised(error: BaseException) -> int:
    """Tell what the callable raised, and give the exit status."""
    wish = getattr(error, "__rota_outcome__", None)
    if isinstance(error, BadResult):
        report_error(BAD_RESULT, str(error), "")
    elif wish is None:
        report_error(name_type(type(error)), _say(error), _format_traceback(error), name_bases(error))
    else:
        report_outcome(wish, _say(error), getattr(error, "after_seconds", None))
    return 1


def tell_returned(target: str, value: object) -> int:
    """Tell what the callable returned, and give the exit status."""
    try:
        text = encode_result(target, value)
    except BadResult as error:
        return tell_raised(error)
    report_result(text)
    return 0


def read_values() -> Any:
    """Give the arguments of the run: an object for keyword arguments, a list for positional ones."""
    name_levels()
    return json.loads(read_arguments())


def name_levels() -> None:
    """Have what an application logs without having set up logging written with its level, from INFO on.

    Without this Python writes warnings bare, and nothing below. What the application sets up replaces it.
    """
    logging: Any = sys.modules.get("logging")
    if logging is None:  # importing it for those who do not log would cost each job some 20 ms
        if not any(isinstance(finder, _LoggingToCome) for finder in sys.meta_path):
            sys.meta_path.insert(0, _LoggingToCome())
    elif not logging.getLogger().handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        logging.lastResort = handler
        if logging.getLogger().level == logging.WARNING:
            logging.getLogger().setLevel(logging.INFO)


class _LoggingToCome:
    """Names the levels when something imports ``logging`` while the job runs."""

    def find_spec(self, name: str, path: object = None, target: object = None, /) -> Any:
        """Find what would be found without this, and have it followed by ``name_levels``."""
        if name != "logging":
            return None
        import importlib.util

        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]
        spec: Any = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_name(module: object) -> None:
            execute(module)
            name_levels()

        spec.loader.exec_module = execute_and_name
        return spec


def find_callable(target: str) -> Callable[..., Any]:
    """Import ``package.module:function``, and give the function behind a decorated job.

    Raises:
        Invalid: that is no callable.
        Exception: whatever the import raises.
    """
    module_name, colon, path = target.partition(":")
    if not (module_name and colon and path):
        raise Invalid("call", target, "it has the form package.module:function")
    found: object = importlib.import_module(module_name)
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise Invalid("call", target, f"the module {module_name!r} has no {path!r}") from None
    found = getattr(found, "__rota_function__", found)
    if not callable(found):
        raise Invalid("call", target, f"{path!r} is a {type(found).__name__}, which cannot be called")
    return found


def call(function: Callable[..., Any], arguments: Any) -> object:
    """Call with keyword arguments from an object, positional ones from a list; run what is asynchronous to its end."""
    value = function(*arguments) if isinstance(arguments, list) else function(**arguments)
    if hasattr(value, "__await__"):
        import asyncio

        async def wait() -> object:
            return await value

        return asyncio.run(wait())
    return value


def encode_result(target: str, value: object) -> str:
    """Write what ``target`` returned as JSON text.

    Raises:
        BadResult: it cannot be kept.
    """
    from rota.model.documents import encode_document  # seldom needed before a job has begun

    try:
        return encode_document("result", value)
    except Invalid as error:
        raise BadResult(f"{target} returned something that cannot be kept: {error}") from None


def name_type(kind: type) -> str:
    """Name a class as the ledger shows it: with its module, but for Python's own."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def name_bases(error: BaseException) -> tuple[str, ...]:
    """Name the classes above the one of ``error``, the nearest first: a job's retries may be chosen by one of them."""
    return tuple(name_type(kind) for kind in type(error).__mro__[1:] if kind is not object)


def _say(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - its author's
        return "<exception str() failed>"  # as tracebacks say it


def _format_traceback(error: BaseException) -> str:
    """Format the traceback from the job's code on, without the frames of this module at its top."""
    import traceback

    def is_ours(step: TracebackType) -> bool:
        name = step.tb_frame.f_code.co_filename
        return name in OURS or name.startswith("<frozen importlib")

    start = error.__traceback__
    while start is not None and is_ours(start):
        start = start.tb_next
    return "".join(traceback.format_exception(type(error), error, start))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
