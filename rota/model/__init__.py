"""The rules, as pure functions over plain values: no database, no process, no clock."""
