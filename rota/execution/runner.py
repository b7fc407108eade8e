"""The process of a Python callable in an environment of its own: lends it Rota's part, then is ``python_job``.

Run by path under the environment's interpreter: ``INTERPRETER .../runner.py TARGET ENVIRONMENT``; or
``INTERPRETER .../runner.py --warm ...`` to be the warm parent of such jobs. Invariant: of the
worker's installation the package ``rota`` becomes importable, and nothing else; it is this one whatever is installed
there, since job and guardian must speak the same way. Written so that old Pythons, 2.7 among them, can read it and say
that they are too old.

``multiprocessing`` reads it again, as ``__mp_main__``, in each process that it spawns: those are lent it too.
"""

# pyright: reportTypeCommentUsage=false

import os
import sys

PYTHON_MIN = (3, 9)
PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def lend_rota():
    # type: () -> None
    """Put the package ``rota`` where imports look first; its folder never gets onto the import path."""
    from importlib.util import module_from_spec, spec_from_file_location

    here = os.path.join(PACKAGE, "execution")
    if sys.path and os.path.abspath(sys.path[0]) == here:  # a script's folder, full of common names
        del sys.path[0]
    # One that is installed there may have been imported by a .pth file.
    for name in [name for name in sys.modules if name.partition(".")[0] == "rota"]:
        del sys.modules[name]
    spec = spec_from_file_location("rota", os.path.join(PACKAGE, "__init__.py"), submodule_search_locations=[PACKAGE])
    assert spec is not None
    assert spec.loader is not None
    package = module_from_spec(spec)
    sys.modules["rota"] = package
    spec.loader.exec_module(package)


def refuse(sentence):
    # type: (str) -> None
    """Tell the guardian that the job cannot be started. Without our modules, which this Python perhaps cannot read."""
    import json
    import socket
    import struct

    message = {"op": "error", "type": "rota:not_started", "message": sentence, "traceback": ""}
    text = json.dumps(message).encode("ascii")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(30.0)
    connection.connect(os.environ["ROTA_CONTROL"])
    connection.sendall(struct.pack("!II", len(text), 0) + text)
    connection.recv(65536)  # it has been taken
    connection.close()


def refuse_old_python(environment):
    # type: (str) -> None
    """Say that no Python job can run under this interpreter."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    wanted = ".".join(str(part) for part in PYTHON_MIN)
    has = "the interpreter " + sys.executable + " of environment " + environment + " is Python " + version
    advice = "correct the environment where it is registered, or run it as a command"
    refuse(has + ", and Python jobs need " + wanted + " or later: " + advice)


def main(target, environment):
    # type: (str, str) -> int
    """Be the process of ``target``, and give its exit status."""
    if sys.version_info < PYTHON_MIN:
        refuse_old_python(environment)
        return 1
    from rota.execution import python_job

    sys.argv[:] = [python_job.__file__, target]  # as in a job in no environment
    return python_job.main(target)


def be_warm_parent(numbers):
    # type: (list[str]) -> None
    """Be a warm parent, of what the worker has passed to it."""
    from rota.execution import warm_parent

    listener, worker, log, worker_pid = [int(number) for number in numbers]
    warm_parent.main(listener, worker, log, worker_pid)


if __name__ in ("__main__", "__mp_main__") and sys.version_info >= PYTHON_MIN:
    lend_rota()
if __name__ == "__main__" and sys.argv[1] == "--warm":
    be_warm_parent(sys.argv[2:])
elif __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
