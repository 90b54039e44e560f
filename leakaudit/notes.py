"""Beginnings of an attack's notes that other rooms look for; without torch, which a report need not load."""

PLANNED = "time budget: "
"""Begins the note of a run whose time budget did not allow for all the iterations of its settings."""
