"""The moving parts of a node: what turns slots into runs, and runs into processes and records."""
