"""Processes: starting, watching and stopping jobs. Knows no database."""
