"""The HTTP door: every verb as a resource, events as they happen, and what monitoring asks."""
