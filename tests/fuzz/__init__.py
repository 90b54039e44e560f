"""Damaged and hostile files: a fuzzer, and every case that ever failed.

``python -m tests.fuzz.campaign --count 20000 --seed 7`` runs a campaign and prints
what it found; see `tests.fuzz.campaign`.
"""
