"""One run: where it stands and why, what it did, what it wrote, and what can be done about it."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from rota.client.runs import STREAMS
from rota.model.states import FINISHED, RunState
from rota.model.transcript import join
from rota.web.pages.asked import Asked
from rota.web.pages.deeds import CONFIRMED, DEEDS, check_deed
from rota.web.pages.output import FOUND_MAX, Shown, find_lines, read_output, show_all, show_ends, show_new
from rota.web.pages.registry import Context, Done, act, page
from rota.web.pages.writing import address
from rota.web.problems import Refusal

EVENTS_MAX = 200
ATTEMPTS_MAX = 50
OTHERS = 10
_FINISHED = {state.value for state in FINISHED}


@page("/runs/{run}", "run.html", live=2)
def show_run(asked: Asked) -> Context:
    number = asked.piece("run")
    run = asked.look("run.show", number)
    others: list[Any] = []
    if not asked.word("live"):  # what does not change while somebody looks on
        others = asked.look("run.list", None, {"job": run["job"], "limit": OTHERS + 1, "brief": True, "within": 50_000})
    return {
        "run": run,
        "now": asked.now(),
        "why": asked.look("why.run", number),
        "deeds": _deeds_for(asked, run),
        "deed_of": DEEDS,
        "confirmed": CONFIRMED,
        "is_finished": run["state"] in _FINISHED,
        "events": run["events"][-EVENTS_MAX:],
        "attempts": run["attempts"][-ATTEMPTS_MAX:][::-1],
        "others": [one for one in others if one["id"] != run["id"]][:OTHERS],
    } | _show_output(asked, run, is_all=False)


@page("/runs/{run}/output", "output.html")
def show_output(asked: Asked) -> Context:
    run = asked.look("run.show", asked.piece("run"))
    return {"run": run} | _show_output(asked, run, is_all=True)


@page("/runs/{run}/output/new", "output_new.html")
def show_new_output(asked: Asked) -> Context:
    """What came since: a piece of a page, which is put at the end of what is there."""
    number, attempt, stream = asked.piece("run"), _attempt_of(asked), _stream_of(asked)
    # Before the output is read, so that nothing comes after the last of it.
    run = asked.look("run.show", number)
    is_live = _is_live(run, attempt)
    found = read_output(asked, number, attempt, {name: _count_of(asked, name) for name in STREAMS})
    shown = show_new(found, stream, {name: asked.word(f"{name}_style") for name in STREAMS}, is_live=is_live)
    return {
        "run": run,
        "output": shown,
        "tail": _tail_of(run, shown, stream) if is_live else None,
        "later": run["attempt"] if attempt is not None and run["attempt"] > attempt else None,
    }


@page("/runs/{run}/output/download")
def download_output(asked: Asked) -> Response:
    """The bytes as they are: as a file, and as text, whatever they look like."""
    number, stream = asked.piece("run"), _stream_of(asked)
    found = read_output(asked, number, _attempt_of(asked))
    data = join([part for part in found.parts if stream in (None, part.stream)])
    name = f"run-{int(number)}-attempt-{found.attempt}{f'-{stream}' if stream else ''}.txt"
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(data, 200, headers, "text/plain; charset=utf-8")


@act("/runs/{run}/{deed}")
def act_on_run(asked: Asked) -> Done:
    number, deed = asked.piece("run"), check_deed(asked.piece("deed"))
    asked.do(deed.verb, number, {"force": True} if asked.word("force") and deed.verb == "run.rerun" else {})
    return Done(f"run {number}: {deed.done}")


def _deeds_for(asked: Asked, run: Any) -> list[str]:
    """Return what can be done about a run as it stands, by whoever asks."""
    return [
        name for name, deed in DEEDS.items() if asked.may(deed.verb) and run["state"] in deed.states and deed.fits(run)
    ]


def _show_output(asked: Asked, run: Any, *, is_all: bool) -> Context:
    attempt, stream, search = _attempt_of(asked), _stream_of(asked), asked.word("search")
    if asked.word("live"):  # which is looked at by itself
        return {"output": Shown(0, []), "tail": None, "stream": stream, "search": "", "found": []}
    is_live = _is_live(run, attempt)
    found = read_output(asked, str(run["id"]), attempt)
    shown = (show_all if is_all else show_ends)(found, stream, is_live=is_live)
    return {
        "output": shown,
        "tail": _tail_of(run, shown, stream) if is_live else None,
        "stream": stream,
        "search": search,
        "found": find_lines(found, stream, search) if search else [],
        "found_max": FOUND_MAX,
    }


def _is_live(run: Any, attempt: int | None) -> bool:
    """Tell whether more may come of an attempt."""
    return run["state"] == RunState.RUNNING.value and attempt in (None, run["attempt"])


def _tail_of(run: Any, shown: Shown, stream: str | None) -> str:
    """Return where what comes next is found."""
    words = {f"{name}_style": style for name, style in shown.styles.items()}
    return address(f"/runs/{run['id']}/output/new", attempt=shown.attempt, stream=stream, **shown.seen, **words)


def _stream_of(asked: Asked) -> str | None:
    word = asked.word("stream")
    if word and word not in STREAMS:
        raise Refusal(422, "invalid", f"stream {word!r} is refused: choose from {', '.join(STREAMS)}", field="stream")
    return word or None


def _attempt_of(asked: Asked) -> int | None:
    word = asked.word("attempt")
    if not word:
        return None
    if not (word.isascii() and word.isdigit() and len(word) < 10 and int(word) > 0):
        raise Refusal(422, "invalid", f"attempt {word!r} is refused: attempts are counted from 1", field="attempt")
    return int(word)


def _count_of(asked: Asked, name: str) -> int:
    word = asked.word(name)
    return int(word) if word.isascii() and word.isdigit() and len(word) < 19 else 0
