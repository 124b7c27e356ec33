"""Measurements: ``python -m bench NAME``. Each ends its output with one line of JSON (docs/benchmarks.md)."""

import airdraft  # noqa: F401  # before any bench imports grpc, whose environment it sets
