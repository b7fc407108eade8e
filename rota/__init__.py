"""Rota: highly available cron and long-running tasks on the SQL database you already have.

The public names are loaded when they are first used: a job that only asks ``current_run()``, and the small processes
that guard jobs, must not pay for importing SQLAlchemy.
"""

from __future__ import annotations

__version__ = "0.1.0"
