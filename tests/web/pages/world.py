"""What pages are shown of: runs as a node and its jobs would have left them, hostile where that is free."""

from __future__ import annotations

from typing import Any

from rota import Rota
from rota.model.run import Claim, End, NodeIdentity, Piece, Report, Written
from rota.store.endings import end_runs
from rota.store.leases import claim_runs, mark_started
from rota.store.nodes import register_node
from rota.store.reports import keep_reports

NODE = NodeIdentity("alpha", "h", "b")
HOSTILE = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "x{{7*7}}x${7*7}x<%= 7*7 %>x",
    "' onfocus='owned=1' autofocus x='",
    "</script><script>owned=1</script>",
    "javascript:alert(1)",
    "</pre></title><svg onload=alert(1)>",
    "=cmd|' /C calc'!A0",
    "\u202egnp.exe",
]
ALL_HOSTILE = " ".join(HOSTILE)
OUTPUT = (
    ALL_HOSTILE + "\n\x1b[31mred\x1b[0m \x1b]0;untold\x07\x1b]8;;javascript:alert(1)\x1b\\link\x1b]8;;\x1b\\ \0end"
).encode()


def claim_all(rota: Rota, limit: int = 10) -> list[Claim]:
    """Let a node take what is ready, and start it."""
    register_node(
        rota.database, NODE, host="alpha", pid=1, pid_started=1, pools=["default"], slots=8, version="0.1",
        lease_seconds=60.0, wanted="alpha",
    )  # fmt: skip
    claims = claim_runs(rota.database, NODE, ["default"], limit, 60.0)
    mark_started(rota.database, [claim.claim_id for claim in claims if not claim.marked])
    return claims


def end(rota: Rota, claim: Claim, kind: str = "succeeded", output: bytes = b"", **facts: Any) -> None:
    """Let an attempt end."""
    stdout = Written(head=output, bytes_total=len(output))
    end_runs(rota.database, [End(claim.claim_id, claim.run_id, kind, stdout=stdout, **facts)])


def report(rota: Rota, claim: Claim, *pieces: tuple[str, int, bytes], **facts: Any) -> None:
    """Let a job that runs tell something."""
    told = tuple(Piece(stream, position, data) for stream, position, data in pieces)
    keep_reports(rota.database, {claim.claim_id: Report(claim.claim_id, told, **facts)})


def fail_with_everything(rota: Rota) -> int:
    """Make a run of which everything that is free is hostile, and that has failed."""
    rota.jobs.add("load", shell="true", if_exists="skip")
    run_id = rota.enqueue("load", {"text": ALL_HOSTILE, ALL_HOSTILE: 1}, key="a-key").id
    (claim,) = claim_all(rota)
    report(rota, claim, has_progress=True, progress=0.5, progress_message=ALL_HOSTILE)
    end(
        rota,
        claim,
        "exception",
        OUTPUT,
        error_type="<b>Error",
        error_message=ALL_HOSTILE,
        traceback=ALL_HOSTILE,
        exit_code=1,
        checkpoint='{"at": "<script>alert(1)</script>"}',
        stderr=Written(head=OUTPUT, bytes_total=len(OUTPUT)),
    )
    return run_id
