"""Measurements: ``python -m bench NAME``. Each ends its output with one line of JSON (docs/benchmarks.md)."""
