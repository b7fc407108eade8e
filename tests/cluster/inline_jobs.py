"""What the jobs of executor processes call in these tests. Their run is that of their thread or task."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from rota import current_run
from rota.execution.linux import boottime


def note(what: str) -> None:
    run = current_run()
    fd = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND)
    os.write(fd, f"{what} {run.run_id} {run.attempt} {run.fence} {os.getpid()} {boottime():.2f}\n".encode())
    os.close(fd)


def _may_go() -> bool:
    return (Path(os.environ["FOLDER"]) / "go").exists()


def quick() -> int:
    note("start")
    return current_run().run_id


async def quick_async() -> int:
    await asyncio.sleep(0)
    return quick()


def stay() -> str:
    """Stay in the first attempt until it is killed, or told to go; end at once in any later one."""
    note("start")
    while current_run().attempt == 1 and not _may_go():
        time.sleep(0.01)
    note("end")
    return "done"


async def stay_async() -> str:
    note("start")
    while current_run().attempt == 1 and not _may_go():
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            if "obedient" in current_run().job:
                raise
    note("end")
    return "done"
