"""Faults on purpose: hosts that die, freeze and lose the network, a database that restarts, and an account of it all.

``make faults`` runs it, and ``docs/fault-injection.md`` says what it measures. Nothing in ``rota`` imports it.
"""
