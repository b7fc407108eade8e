"""The words by which a job chooses what is retried."""

from __future__ import annotations

import pytest

from rota.errors import Invalid
from rota.model.bad_ends import check_words, words_of
from rota.model.run import End


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, ()),
        ([], ()),
        ("OSError", ("OSError",)),
        (["exit:075", "OSError", "exit:75"], ("OSError", "exit:75")),
        (["signal:9", "signal:kill", "signal:SIGKILL"], ("signal:SIGKILL",)),
        (["requests.exceptions.Timeout", "app.jobs.load.<locals>.Broken"], None),
        (["exit", "signal", "exception", "timeout", "start_error", "bad_result", "no_result"], None),
    ],
)
def test_words_are_kept_sorted_each_once_and_in_one_spelling(given, kept):
    assert check_words("retry_on", given) == (tuple(sorted(given)) if kept is None else kept)


@pytest.mark.parametrize(
    "given",
    [
        "timout", "oserror", "", " ", "exit:", "exit:0", "exit:256", "exit:x", "exit:-1", "signal:99", "signal:NO",
        "signal:", "signal:0", "a b", "1.2", ".OSError", "OSError.", 75, True, [["OSError"]], {"OSError": 1},
        ["X" * 201], [f"E{number}" for number in range(101)], "exit:²", "os:Error",
    ],
)  # fmt: skip
def test_a_word_that_names_no_end_is_refused(given):
    with pytest.raises(Invalid) as caught:
        check_words("retry_on", given)

    assert caught.value.field == "retry_on"


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (End("c", 1, "exited", exit_code=75), {"exit", "exit:75"}),
        (End("c", 1, "signalled", signal=9), {"signal", "signal:SIGKILL"}),
        (End("c", 1, "signalled", signal=35), {"signal", "signal:35"}),
        (
            End("c", 1, "exception", error_type="ConnectionError", error_bases=("OSError", "Exception")),
            {"exception", "ConnectionError", "OSError", "Exception"},
        ),
        (End("c", 1, "exited", exit_code=1, error_type="app.Error"), {"exception", "app.Error"}),
        (End("c", 1, "exception", error_message="told by hand"), {"exception"}),
        (End("c", 1, "not_started", error_type="FileNotFoundError"), {"start_error"}),
        (End("c", 1, "timeout"), {"timeout"}),
        (End("c", 1, "bad_result"), {"bad_result"}),
        (End("c", 1, "no_result"), {"no_result"}),
    ],
)
def test_an_end_is_named_by_its_kind_and_by_what_is_exact(end, words):
    assert words_of(end) == words
