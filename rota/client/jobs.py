"""Jobs, as applications see them: ``rota.jobs``. Checks are ``rota.model.job``'s; rows are ``rota.store.jobs``'s."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rota.client.listing import check_search, gather
from rota.client.options import check_job_options
from rota.model.job import JobSpec
from rota.model.names import check_name, check_pool
from rota.model.pages import Page
from rota.model.states import JobState
from rota.model.values import check_word
from rota.store import jobs, resetting

if TYPE_CHECKING:
    from rota.client.rota import Rota


class Jobs:
    """All jobs."""

    def __init__(self, rota: Rota) -> None:
        self._rota = rota

    def add(self, name: str, *, if_exists: str = "error", **options: Any) -> dict[str, Any]:
        """Add a job and return how it is shown.

        One of ``call`` (``"package.module:function"``), ``command`` (a list) and ``shell`` (a line) says what to run.
        The other options are those of ``rota job add``, with underscores: ``pool``, ``env``, ``timeout``,
        ``start_within``, ``delivery``, ``retries``, ``lost_max``, ``retry_delay``, ``backoff``, ``retry_delay_max``,
        ``retry_on`` and ``no_retry_on`` (lists of words), ``deadline``, ``no_op_exit_code``, ``cancel_exit_code``,
        ``breaker_failures``, ``breaker_pause``, ``lease``, ``priority``, ``stdin``, ``cwd``, ``run_as``,
        ``run_as_groups``, ``memory_max``, ``cpu_max``, ``open_files_max``, ``processes_max``, ``nice``, ``ionice``,
        ``umask``, ``variables``, ``secrets`` (a list of names), ``startup``, ``executor``, ``on``, ``max_parallel``,
        ``prefer`` and ``exclude`` (lists of names of nodes and labels ``K=V``), ``retry_node``, ``max_running``,
        ``mutexes`` (a list of names), ``after`` (a list of jobs), ``upstream_failure``, ``period``, ``period_tz``,
        ``period_start``, ``period_mode``, ``settle``, ``refresh``, ``rolls_up`` (a list of jobs), ``blocking``,
        ``periods_at_once``, ``give_up_failures``, ``give_up_age``, ``concurrency_key`` (the name of an argument),
        ``max_per_key``, ``rate``, ``keep`` (how long, by how a run ended), ``alert`` (a list of channels), ``alert_on``
        (a list of kinds), ``alert_quiet``.

        Raises:
            Invalid: a value breaks its rule; nothing was stored.
            AlreadyExists: the name is taken, and ``if_exists`` is ``"error"``.
        """
        decision = jobs.check_if_exists(if_exists)
        spec = JobSpec.checked(name, **check_job_options(options, new=True))
        view = jobs.add_job(self._rota.database, spec, actor=self._rota.actor, if_exists=decision)
        self._rota.warner.look_at_pool(view["pool"])
        return view

    def edit(self, name: str, **options: Any) -> dict[str, Any]:
        """Change the options that are given, as ``add`` takes them; None gives one back its default.

        Raises:
            NotFound: there is no such job.
            Invalid: a value breaks its rule; nothing was changed.
        """
        check_name("name", name)
        changes = check_job_options(options, new=False)
        view = jobs.edit_job(self._rota.database, name, lambda spec: spec.edited(**changes), actor=self._rota.actor)
        if "pool" in changes:
            self._rota.warner.look_at_pool(view["pool"])
        return view

    def list(
        self,
        *,
        search: str | None = None,
        state: str | None = None,
        pool: str | None = None,
        ghosts: bool = False,
        after: str | None = None,
        limit: int | None = None,
    ) -> Page[dict[str, Any]]:
        """Return jobs in the order of their names: all of them, or up to ``limit`` after the name ``after``.

        Those whose name holds ``search``, in a ``state``, of a ``pool``, and with ``ghosts`` only what code declares no
        more. ``next`` of what is returned is the ``after`` of the next page.

        Raises:
            Invalid: a value breaks its rule.
        """
        filters: dict[str, Any] = {
            "search": check_search(search),
            "state": None if state is None else check_word("state", state, JobState).value,
            "pool": None if pool is None else check_pool(pool),
            "ghosts": ghosts,
        }
        database = self._rota.database
        return gather(
            lambda place, most: jobs.list_jobs(database, after=place, limit=most, **filters),
            "name",
            after=None if after is None else check_name("after", after),
            limit=limit,
        )

    def show(self, name: str) -> dict[str, Any]:
        """Return how a job is shown, with its schedules, its last run and how long it usually takes.

        Raises:
            NotFound: there is no such job.
        """
        return jobs.read_job(self._rota.database, name)

    def pause(self, name: str) -> dict[str, Any]:
        """Start no more runs of the job; those that run go on, and slots that come are skipped."""
        return jobs.pause_job(self._rota.database, name, actor=self._rota.actor)

    def resume(self, name: str) -> dict[str, Any]:
        """Let the job's runs start again; an open breaker closes."""
        return jobs.resume_job(self._rota.database, name, actor=self._rota.actor)

    def reset(self, name: str) -> dict[str, Any]:
        """Forget what the job has not done, so that it begins anew: its history stays. Return what was forgotten.

        Its periods are worked on from the first one on again. Slots that wait are skipped, and those to come wait for
        none before. Its breaker is closed.

        Raises:
            NotFound: there is no such job.
            Conflict: it is running; nothing was changed.
        """
        return resetting.reset_job(self._rota.database, check_name("name", name), actor=self._rota.actor)

    def delete(self, name: str) -> None:
        """Delete a job; its finished runs stay.

        Raises:
            Conflict: it has schedules or unfinished runs.
        """
        jobs.delete_job(self._rota.database, name, actor=self._rota.actor)
