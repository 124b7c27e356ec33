"""What all tests share: the flag that turns skips into failures, and that no test judges time."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import settings

import airdraft  # noqa: F401  # before any test imports grpc, whose environment it sets

# A busy machine is no bug; the rest stays as hypothesis chose it (in CI its examples are the same every time).
settings.register_profile("airdraft", settings.default, deadline=None)
settings.load_profile("airdraft")

NO_SKIPS = "AIRDRAFT_NO_SKIPS"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a skipped test where everything must be there, as in CI."""
    report = yield
    if report.skipped and os.environ.get(NO_SKIPS) and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and {NO_SKIPS} is set: {report.longrepr}"
    return report
