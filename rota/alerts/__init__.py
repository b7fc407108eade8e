"""Sending alerts: what a channel is, and how each kind of it is reached. It knows no database."""
