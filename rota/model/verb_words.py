"""The words of all verbs, for whoever names them without being able to use them: the scopes of tokens.

``rota.verbs`` says what each does, and refuses to be imported with a verb that is missing here.
"""

from __future__ import annotations

VERB_WORDS = frozenset(
    """
    job.add job.list job.show job.edit job.pause job.resume job.reset job.delete job.run
    schedule.add schedule.list schedule.show schedule.next schedule.edit schedule.pause schedule.resume
    schedule.delete schedule.mark-succeeded
    calendar.add calendar.list calendar.show calendar.delete
    pool.list pool.show pool.create pool.edit pool.add pool.remove pool.delete pool.pause pool.resume
    run.list run.show run.logs run.cancel run.freeze run.thaw run.rerun run.skip run.mark-succeeded
    period.list period.tree period.reprocess period.skip
    board.jobs board.nodes board.hours
    backfill.start backfill.list backfill.show backfill.pause backfill.resume backfill.cancel
    node.list node.show node.drain node.resume node.forget
    status
    check
    forecast
    why.run why.job why.schedule why.period
    user.add user.list user.edit user.passwd user.delete user.sessions user.end-sessions
    token.add token.list token.revoke token.delete
    audit
    command.list command.show
    """.split()
)
