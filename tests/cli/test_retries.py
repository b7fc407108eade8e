"""The words for retries, deadline and breaker: given, taken away, shown."""

from __future__ import annotations

from tests.cli.conftest import read


def test_what_a_job_retries_is_given_changed_and_taken_away(rota):
    words = ["--retry-on", "OSError", "--retry-on", "exit:75", "--no-retry-on", "timeout", "--backoff", "jitter"]
    words += ["--deadline", "2h", "--no-op-exit-code", "99", "--cancel-exit-code", "98", "--breaker-failures", "5"]

    added = read(rota("job", "add", "j", "--shell", "true", *words, "--breaker-pause", "10m", "--json"))
    edited = read(rota("job", "edit", "j", "--retry-on", "exit", "--no-op-exit-code", "none", "--json"))
    bare = read(rota("job", "edit", "j", "--retry-on", "none", "--deadline", "none", "--breaker-failures", "none",
                     "--breaker-pause", "none", "--json"))  # fmt: skip

    assert (added["retry_on"], added["no_retry_on"], added["backoff"]) == (
        ["OSError", "exit:75"],
        ["timeout"],
        "jitter",
    )
    assert (added["deadline"], added["no_op_exit_code"], added["cancel_exit_code"]) == (7200, 99, 98)
    assert (added["breaker_failures"], added["breaker_pause"]) == (5, 600)
    assert added["breaker"] == {"state": "closed", "failures_in_row": 0, "until": None, "run": None}
    assert (edited["retry_on"], edited["no_op_exit_code"], edited["no_retry_on"]) == (["exit"], None, ["timeout"])
    assert (bare["retry_on"], bare["deadline"], bare["breaker_failures"], bare["breaker"]) == ([], None, None, None)
    assert bare["breaker_pause"] == 300


def test_a_run_is_asked_for_with_retries_of_its_own(rota):
    rota("job", "add", "j", "--shell", "true", "--retries", "3")

    own = read(rota("job", "run", "j", "--retries", "forever", "--retry-delay", "5m", "--json"))
    plain = read(rota("job", "run", "j", "--json"))
    refused = rota("job", "run", "j", "--retries", "often", "--json")

    assert (own["retries"], own["retry_delay"], own["max_attempts"]) == ("forever", 300, None)
    assert (plain["retries"], plain["retry_delay"], plain["max_attempts"]) == (None, None, 4)
    assert refused.exit_code == 2


def test_a_breaker_is_shown_to_people_too(rota):
    rota("job", "add", "j", "--shell", "true", "--breaker-failures", "5")

    assert "closed" in rota("job", "show", "j").stdout
