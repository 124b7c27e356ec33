"""Fuzzers: hostile frames, sequences and files for everything that reads what strangers wrote.

``python -m fuzz HARNESS`` searches by coverage (atheris), ``python -m fuzz HARNESS FILE`` runs one input again,
``make fuzz`` takes every harness in turn. ``fuzz.harnesses`` has the table of harnesses, ``bench fuzz`` the figures.
"""
