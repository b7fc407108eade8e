"""The Python door: what applications import to define jobs, ask for runs and bring their own workers."""
