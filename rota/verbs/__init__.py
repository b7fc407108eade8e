"""The verbs of the command line, for the doors that are given a word and parameters: SQL, and HTTP."""
